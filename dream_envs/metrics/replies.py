"""What two models output for the same prompts: every measure of ``diversity`` and ``formats``, compared with intervals.

A measure *within* a prompt falls when a model learns the only right answer; ``answer_entropy_wrong`` and
``vendi_across`` do not, and tell collapse from learning.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import DreamEnvsError, Task, TaskFamily
from dream_envs.frontier.intervals import bootstrap_means
from dream_envs.frontier.schema import Diversity, Estimate, Formats
from dream_envs.metrics import diversity as dv
from dream_envs.metrics.formats import Labeller, formats_of
from dream_envs.metrics.health import entropy_of_counts

_ACROSS = 4
#: Measures that have an interval in ``compare``.
RATIOS = ("format_entropy", "effective_formats", "answer_entropy", "answer_entropy_wrong", "vendi")


class Replies(msgspec.Struct, frozen=True):
    """N prompts with their completions; every list is ``[N][draws]`` and has the same shape.

    ``formats``: structural labels.  ``answers``: what is compared when answers are counted, without the blanks around.
    ``right``: None where nobody knows.
    """

    texts: list[list[str]]
    formats: list[list[str]]
    answers: list[list[str]]
    right: list[list[bool]] | None = None


def replies(
    texts: Sequence[Sequence[str]],
    *,
    tasks: Sequence[Task] | None = None,
    families: Sequence[TaskFamily] | None = None,
    right: Sequence[Sequence[bool]] | None = None,
) -> Replies:
    """Label the completions of one model.

    Args:
        texts: for each prompt its draws, at least one.
        tasks: the problems, for families whose formats look at them, and for ``verify``.
        families: one a prompt; they name the formats and, with ``tasks``, say which completions are right.  None:
            general formats, and nobody knows what is right.
        right: which completions are right, if ``verify`` is not to be called.

    Raises:
        DreamEnvsError: for no prompts, a prompt without draws, or lists whose lengths do not agree.
    """
    n = len(texts)
    if not n or not all(len(row) for row in texts):
        raise DreamEnvsError(f"replies to {n} prompts: at least one prompt, and at least one reply to each")
    each: list[TaskFamily | None] = [None] * n if families is None else list(families)
    chores: list[Task | None] = [None] * n if tasks is None else list(tasks)
    for name, there in (("tasks", chores), ("families", each), ("right", texts if right is None else right)):
        if len(there) != n:
            raise DreamEnvsError(f"{name} has {len(there)} entries for {n} prompts: one each")
    labellers = {id(f): formats_of(f) for f in each}
    formats, verified = [], []
    for row, task, family in zip(texts, chores, each, strict=True):
        formats.append(_once(row, functools.partial(_label, labellers[id(family)], task)))
        if right is None and task is not None and family is not None:
            verified.append(_once(row, functools.partial(_right, family, task)))
    known = [[bool(x) for x in row] for row in right] if right is not None else verified if len(verified) == n else None
    if known is not None and [len(r) for r in known] != [len(r) for r in texts]:
        raise DreamEnvsError("right does not have one entry a reply: give it in the shape of texts")
    return Replies([list(row) for row in texts], formats, [[t.strip() for t in row] for row in texts], known)


def _once(row: Sequence[str], f: Callable[[str], Any]) -> list[Any]:
    found = {text: f(text) for text in dict.fromkeys(row)}
    return [found[text] for text in row]


def _label(labeller: Labeller, task: Task | None, text: str) -> str:
    return labeller(text, task)


def _right(family: TaskFamily, task: Task, text: str) -> bool:
    score = family.verify(task, text)
    return score.status == "ok" and score.value >= 1.0


def measure(said: Replies) -> dict[str, float]:
    """Every measure of one model's completions; nan where one is not defined.

    Returns:
        ``format_entropy`` (over all completions, bits), ``format_entropy_plug_in``, ``effective_formats``, ``simpson``
        (two share a format), ``top_share``; means over prompts of ``answer_entropy``, ``answer_entropy_plug_in``,
        ``answer_entropy_wrong`` (prompts with two wrong draws or more), ``duplicates`` (share of draws that repeat an
        earlier answer) and ``vendi``; ``vendi_across``: of one completion a prompt; ``accuracy``.
    """
    units = dv.units_of(t for row in said.texts for t in row)
    return _measured(said, *_rows(said, units), units)


def _measured(said: Replies, rows: np.ndarray, names: Sequence[str], units: dv.Units) -> dict[str, float]:
    kinds = [f for row in said.formats for f in row]
    return {
        **_means(rows, names),
        "format_entropy": dv.entropy(kinds),
        "format_entropy_plug_in": dv.entropy(kinds, corrected=False),
        "effective_formats": dv.effective_number(kinds),
        "simpson": dv.simpson(kinds),
        "top_share": next(iter(dv.histogram(kinds).values())),
        "vendi_across": vendi_across(said.texts, units),
    }


def vendi_across(texts: Sequence[Sequence[str]], units: dv.Units) -> float:
    """Mean Vendi score of the first completions, of the second ones ... (at most four) of all prompts.

    A model that learns right answers keeps it, since different prompts have different answers; one that outputs the
    same for everything has 1.
    """
    draws = min(_ACROSS, min(len(row) for row in texts))
    step = max(1, math.ceil(len(texts) / dv.MAX_TEXTS))
    return float(np.mean([dv.vendi([row[j] for row in texts[::step]], units) for j in range(draws)]))


_WRONG = "answer_entropy_wrong"


def _rows(said: Replies, units: dv.Units) -> tuple[np.ndarray, list[str]]:
    """A row a prompt: its measures; that of wrong draws as value and 1, or 0 and 0 where there are too few."""
    table: list[dict[str, float]] = []
    for i, texts in enumerate(said.texts):
        answers = said.answers[i]
        row = {
            "answer_entropy": dv.entropy(answers),
            "answer_entropy_plug_in": dv.entropy(answers, corrected=False),
            "duplicates": 1 - len(set(answers)) / len(answers),
            "vendi": dv.vendi(texts, units),
        }
        if said.right is not None:
            wrong = [a for a, ok in zip(answers, said.right[i], strict=True) if not ok]
            row["accuracy"] = 1 - len(wrong) / len(answers)
            row[_WRONG], row["n"] = (dv.entropy(wrong), 1.0) if len(wrong) > 1 else (0.0, 0.0)
        table.append(row)
    return np.array([list(row.values()) for row in table]), list(table[0])


def _means(rows: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    means = dict(zip(names, rows.mean(0).tolist(), strict=True))
    if (share := means.pop("n", None)) is not None:
        means[_WRONG] = means[_WRONG] / share if share else math.nan
    return means


def compare(base: Replies, trained: Replies, rng: np.random.Generator, strata: ArrayLike | None = None) -> Diversity:
    """Both models' measures and their ratios, trained over base, without ``series`` and ``alarm`` (see ``collapse``).

    The 95 % intervals of ratios are of paired resampling of prompts within ``strata`` (N labels).

    Raises:
        DreamEnvsError: if the completions are not of the same prompts and draws.
    """
    if [len(r) for r in base.texts] != [len(r) for r in trained.texts]:
        raise DreamEnvsError("base and trained have other numbers of prompts or draws: diversity grows with draws")
    if (base.right is None) != (trained.right is None):
        raise DreamEnvsError("right is known for one model only: give it for both or for neither")
    sides = (base, trained)
    units = dv.units_of(t for said in sides for row in said.texts for t in row)
    rows = [_rows(s, units) for s in sides]
    labels = sorted({f for s in sides for row in s.formats for f in row})
    counts = [np.array([[row.count(label) for label in labels] for row in s.formats], dtype=float) for s in sides]
    table = np.concatenate([rows[0][0], rows[1][0], *counts], axis=1)
    resampled = bootstrap_means(table, rng, strata, 2000)
    names = rows[0][1]
    found = [_derived(m, names, len(labels), len(table)) for m in (table.mean(0)[None], resampled)]
    ratio = {n: _ratio(found[0][n], found[1][n]) for n in RATIOS if n in found[0] and found[0][n][0, 0] > 0}
    measured = [_measured(said, *r, units) for said, r in zip(sides, rows, strict=True)]
    shares = [dv.histogram(f for row in s.formats for f in row) for s in sides]
    measured[1] |= {"js_to_base": dv.js_distance(*shares), "tv_to_base": dv.total_variation(*shares)}
    return Diversity(
        base=dv.rounded(measured[0]),
        trained=dv.rounded(measured[1]),
        ratio={n: r for n, r in ratio.items() if r is not None},
        formats=Formats(base=dv.rounded(shares[0]), trained=dv.rounded(shares[1])),
    )


def _derived(means: np.ndarray, names: Sequence[str], labels: int, n: int) -> dict[str, np.ndarray]:
    """``float64[resamples, 2]`` (base, trained) of every measure in ``RATIOS`` from the means of all columns."""
    found: dict[str, np.ndarray] = {}
    width = len(names)
    sides = np.stack([means[:, :width], means[:, width : 2 * width]], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        for i, name in enumerate(names):
            if name in RATIOS:
                found[name] = sides[:, i] / (sides[:, names.index("n")] if name == _WRONG else 1.0)
    kinds = np.stack([means[:, 2 * width : 2 * width + labels], means[:, 2 * width + labels :]], axis=1) * n
    found["format_entropy"] = entropy_of_counts(np.round(kinds))
    found["effective_formats"] = 2.0 ** found["format_entropy"]
    return found


def _ratio(value: np.ndarray, resampled: np.ndarray) -> Estimate | None:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = resampled[:, 1] / resampled[:, 0]
    ratios = ratios[~np.isnan(ratios)]
    ends = np.quantile(ratios, (0.025, 0.975), method="nearest") if len(ratios) else (math.nan, math.nan)
    ratio, low, high = (round(float(x), 6) if math.isfinite(x) else None for x in (value[0, 1] / value[0, 0], *ends))
    return None if ratio is None else (ratio, low, high)


def series(steps: Iterable[int], measured: Iterable[Mapping[str, float | None]]) -> dict[str, list[Any]]:
    """``Diversity.series``: a list a measure and the steps, None where a step does not have it."""
    points = list(measured)
    keys = dict.fromkeys(k for m in points for k in m)
    return {"step": list(steps), **{k: [dv.rounded({k: m.get(k)})[k] for m in points] for k in keys}}
