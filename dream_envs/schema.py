"""What a run leaves in ``summary.json``: one typed record that the runner writes and every reader decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dream_envs.core import DreamEnvsError, Measure

SUMMARY = "summary.json"


class Stat(msgspec.Struct, frozen=True):
    """Success probabilities of one model on the problems of a level: mean with its 95 % interval over problems.

    ``solved``: share of problems with more than 1/2; ``median_log10``: only where probabilities are exact.
    ``cut``, ``unread``: shares of the completions that their budget cut off and that no answer could be read from,
    where they were sampled.
    """

    mean: float
    ci: tuple[float, float]
    solved: float
    max: float
    median_log10: float | None = None
    cut: float | None = None
    unread: float | None = None


class Level(msgspec.Struct, frozen=True):
    """Problems of one level, before and after, by decoder (``T=1`` is plain sampling).

    ``split``: ``any``, or ``held_out`` for compositions that no training may have met.  ``tiers``: how many problems
    the base's best decoder puts in reach (T0), at the edge (T1) and beyond the run's samples (T2); ``moved``: the share
    of each that is now solved.
    """

    level: int
    n: int
    base: dict[str, Stat]
    trained: dict[str, Stat]
    chance: float | None = None
    split: str = "any"
    tiers: dict[str, int] = {}
    moved: dict[str, float | None] = {}


class Beyond(msgspec.Struct, frozen=True):
    """Problems that the base's best decoder puts below 1 in all samples of the run and that are now solved."""

    count: int
    of: int
    structural: int
    examples: list[dict[str, Any]] = []


class Compared(msgspec.Struct, frozen=True):
    """One measure of the base and of the trained model; ``says``: what it is, and which way is better."""

    name: str
    base: Measure
    trained: Measure
    says: str = ""
    role: str = ""


class Evaluation(msgspec.Struct, frozen=True):
    """What the policy can do, before and after, on what was never trained on.

    ``kind``: ``exact``, ``sampled`` or ``play``.  ``pass_at_k``: by level and model, at each of ``k``.
    """

    kind: str
    says: str
    levels: list[Level] = []
    decoders: list[str] = []
    measures: list[Compared] = []
    beyond: Beyond | None = None
    k: list[int] = []
    pass_at_k: dict[str, dict[str, list[float]]] = {}


class Role(msgspec.Struct, frozen=True):
    """A role of the game in the run: mean reward in the first and last rounds, shares of statuses and reply faults."""

    name: str
    reply: str
    low: float
    high: float
    learns: bool
    first: float | None = None
    last: float | None = None
    statuses: dict[str, float] = {}
    replies: dict[str, float] = {}


class About(msgspec.Struct, frozen=True):
    """What was run.  ``support``: the levels that the base was pre-trained on, where it says so."""

    loop: str
    env: str
    learner: str
    seed: str
    steps: int
    base: str
    weights_hash: str
    trained_hash: str
    seconds: float
    family: str = ""
    support: list[int] = []


class Summary(msgspec.Struct, frozen=True):
    """A finished run.  Sections without data are None or empty, and no page shows them.

    ``samples``: completions drawn, by role, and ``total``.  ``entropy``: bits, by model.  ``diversity``: see
    ``metrics.replies``.  ``nights``: see ``agents.sleep``.  ``retention``: what is left of each lesson.  ``training``:
    optimiser ``steps`` and completion ``tokens`` of the steps that led to the weights, nights included, and where there
    are any the right answers ``given``: trained on, but not found by the run.  ``dreams``: what was dreamt, what was
    kept of it, and what became of copies trained on it and on controls; see ``baselines.dreams``.
    """

    run: About
    verdict: str
    roles: list[Role]
    samples: dict[str, int]
    evaluation: Evaluation | None = None
    entropy: dict[str, dict[str, float]] = {}
    diversity: dict[str, Any] | None = None
    label_accuracy: float | None = None
    nights: list[dict[str, Any]] = []
    retention: dict[str, Any] | None = None
    training: dict[str, int] = {}
    dreams: dict[str, Any] | None = None
    schema: int = 2
    kind: str = "run"


def read_summary(run: Path) -> Summary | None:
    """The summary of a run's folder; None if the run is not finished."""
    path = Path(run) / SUMMARY
    if not path.is_file():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Summary)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DreamEnvsError(f"{path} is no run's summary ({error}): restore it from a copy or remove it") from error
    if found.schema != 2:
        raise DreamEnvsError(f"{path} has schema {found.schema!r}: this version reads schema 2")
    return found
