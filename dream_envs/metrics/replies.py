"""What two models output for the same prompts: every measure of ``diversity`` and ``formats``, compared with intervals.

A measure *within* a prompt falls when a model learns the only right answer; ``answer_entropy_wrong`` and
``vendi_across`` do not, and tell collapse from learning.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from dream_envs.core import AgentLike, DreamEnvsError, Limits, Message, Request, Task, TaskFamily, content_hash
from dream_envs.frontier.intervals import bootstrap_means
from dream_envs.frontier.schema import Diversity, Estimate, Formats
from dream_envs.metrics import diversity as dv
from dream_envs.metrics.formats import formats_of
from dream_envs.play import as_agent, ask
from dream_envs.seeds import digest

#: Requests of one call of an agent.
ROWS = 4096
_ACROSS = 4
#: A Vendi score of more different texts takes minutes.
_MAX_TEXTS = 4096
_WRONG = "answer_entropy_wrong"
#: What is measured of each prompt; that of wrong draws counts where ``n`` is 1, not 0: where there are two or more.
_COLUMNS = ("answer_entropy", "answer_entropy_plug_in", "duplicates", "vendi", "accuracy", _WRONG, "n")
#: Measures that have an interval in ``compare``.
RATIOS = ("format_entropy", "effective_formats", "answer_entropy", _WRONG, "vendi")


class Replies(msgspec.Struct, frozen=True):
    """N prompts with their completions, structural labels and verdicts; every list is ``[N][draws]``."""

    texts: list[list[str]]
    formats: list[list[str]]
    right: list[list[bool]]


def replies(
    texts: Sequence[Sequence[str]],
    tasks: Sequence[Task],
    families: Sequence[TaskFamily],
    right: Sequence[Sequence[bool]] | None = None,
) -> Replies:
    """Label the completions of one model: for each problem of ``tasks`` and ``families`` its draws, at least one.

    ``right``: which of them are right; None: what the families' ``verify`` says.
    """
    formats, verified = [], []
    for row, task, family in zip(texts, tasks, families, strict=True):
        label, different = formats_of(family), set(row)
        labels = {text: label(text) for text in different}
        formats.append([labels[text] for text in row])
        if right is None:
            scores = {text: family.verify(task, text) for text in different}
            verified.append([scores[text].status == "ok" and scores[text].value >= 1.0 for text in row])
    return Replies([list(row) for row in texts], formats, verified if right is None else [list(row) for row in right])


class ProbeSet(msgspec.Struct, frozen=True):
    """Frozen problems that models are queried on again and again, named by one hash; ``seed`` labels the samples."""

    tasks: tuple[Task, ...]
    family: TaskFamily
    seed: str

    @property
    def hash(self) -> str:
        """16 hex digits that name the problems, their order and the seed of the samples."""
        source = ("probe", self.family.name, str(self.family.version))
        return content_hash(self.seed, *[part for task in self.tasks for part in (*source, task.id)])

    def draw(self, agent: AgentLike, draws: int) -> Replies:
        """``draws`` completions of every problem; sample i of a problem has the same seed for every agent.

        One that does not come is an error: a failed engine is no wrong answer.
        """
        queried, limits = as_agent(agent), Limits(max_tokens=self.family.max_reply_tokens)
        requests = []
        for task, i in itertools.product(self.tasks, range(draws)):
            asked, seed = Message(role="user", content=task.prompt), digest("probe", self.seed, task.id, i)
            requests.append(Request(messages=[asked], agent="solver_0", role="solver", seed=seed, limits=limits))
        actions = [a for at in range(0, len(requests), ROWS) for a in ask(queried, requests[at : at + ROWS])]
        if failed := sum(a.status != "ok" for a in actions):
            raise DreamEnvsError(f"{failed} of {len(actions)} probes have no reply: see to the engine and ask again")
        texts = [[a.text for a in actions[i : i + draws]] for i in range(0, len(actions), draws)]
        return replies(texts, self.tasks, [self.family] * len(texts))


def measure(said: Replies) -> dict[str, float]:
    """Every measure of one model's completions; nan where one is not defined.

    Returns:
        ``format_entropy`` (over all completions, bits), ``format_entropy_plug_in``, ``effective_formats``, ``simpson``
        (two share a format), ``top_share``; means over prompts of ``answer_entropy``, ``answer_entropy_plug_in``,
        ``answer_entropy_wrong`` (prompts with two wrong draws or more), ``duplicates`` (share of draws that repeat an
        earlier answer) and ``vendi``; ``vendi_across``: of one completion a prompt; ``accuracy``.
    """
    units = dv.units_of(t for row in said.texts for t in row)
    return _measured(said, _rows(said, units), units)


def _measured(said: Replies, rows: np.ndarray, units: dv.Units) -> dict[str, float]:
    kinds = [f for row in said.formats for f in row]
    means = dict(zip(_COLUMNS, rows.mean(0).tolist(), strict=True))
    share = means.pop("n")
    means[_WRONG] = means[_WRONG] / share if share else math.nan
    return {
        **means,
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
    step = max(1, math.ceil(len(texts) / _MAX_TEXTS))
    return float(np.mean([dv.vendi([row[j] for row in texts[::step]], units) for j in range(draws)]))


def _rows(said: Replies, units: dv.Units) -> np.ndarray:
    """``float64[N, 7]``: the ``_COLUMNS`` of each prompt; answers are compared without the blanks around."""
    rows = []
    for texts, right in zip(said.texts, said.right, strict=True):
        answers = [t.strip() for t in texts]
        wrong = [a for a, ok in zip(answers, right, strict=True) if not ok]
        of_wrong = (dv.entropy(wrong), 1.0) if len(wrong) > 1 else (0.0, 0.0)
        entropies = dv.entropy(answers), dv.entropy(answers, corrected=False)
        repeated, accuracy = 1 - len(set(answers)) / len(answers), 1 - len(wrong) / len(answers)
        rows.append((*entropies, repeated, dv.vendi(texts, units), accuracy, *of_wrong))
    return np.array(rows)


def compare(base: Replies, trained: Replies, rng: np.random.Generator, strata: ArrayLike | None = None) -> Diversity:
    """Both models' measures and their ratios, trained over base, without ``series`` and ``alarm`` (see ``collapse``).

    The prompts and the numbers of draws are the same: diversity grows with draws.  The 95 % intervals of ratios are of
    paired resampling of prompts within ``strata`` (N labels).
    """
    sides = (base, trained)
    units = dv.units_of(t for said in sides for row in said.texts for t in row)
    rows = [_rows(said, units) for said in sides]
    labels = sorted({f for said in sides for row in said.formats for f in row})
    counts = [np.array([[row.count(label) for label in labels] for row in s.formats], dtype=float) for s in sides]
    table = np.concatenate([*rows, *counts], axis=1)
    value, resampled = (
        _derived(means, len(table)) for means in (table.mean(0)[None], bootstrap_means(table, rng, strata, 2000))
    )
    ratio = {name: _ratio(value[name][0], resampled[name]) for name in RATIOS if value[name][0, 0] > 0}
    measured = [_measured(said, row, units) for said, row in zip(sides, rows, strict=True)]
    shares = [dv.histogram(f for row in s.formats for f in row) for s in sides]
    measured[1] |= {"js_to_base": dv.js_distance(*shares), "tv_to_base": dv.total_variation(*shares)}
    return Diversity(
        base=dv.rounded(measured[0]),
        trained=dv.rounded(measured[1]),
        ratio={name: r for name, r in ratio.items() if r[0] is not None},
        formats=Formats(base=dv.rounded(shares[0]), trained=dv.rounded(shares[1])),
    )


def _derived(means: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """``float64[resamples, 2]`` (base, trained) of every measure in ``RATIOS`` from the means of all columns."""
    width = len(_COLUMNS)
    pairs = means[:, : 2 * width].reshape(len(means), 2, width)
    found = {name: pairs[:, :, i] for i, name in enumerate(_COLUMNS)}
    with np.errstate(divide="ignore", invalid="ignore"):
        found[_WRONG] = found[_WRONG] / found["n"]
    kinds = means[:, 2 * width :].reshape(len(means), 2, -1) * n
    found["format_entropy"] = dv.entropy_of_counts(np.round(kinds))
    found["effective_formats"] = 2.0 ** found["format_entropy"]
    return found


def _ratio(value: np.ndarray, resampled: np.ndarray) -> Estimate:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = resampled[:, 1] / resampled[:, 0]
    ratios = ratios[~np.isnan(ratios)]
    ends = np.quantile(ratios, (0.025, 0.975), method="nearest") if len(ratios) else (math.nan, math.nan)
    return dv.rounded((value[1] / value[0], *ends))


def series(steps: Iterable[int], measured: Iterable[Mapping[str, float | None]]) -> dict[str, list[Any]]:
    """``Diversity.series``: a list a measure and the steps, None where a step does not have it."""
    points = list(measured)
    keys = dict.fromkeys(k for m in points for k in m)
    return {"step": list(steps), **{k: [dv.rounded(m.get(k)) for m in points] for k in keys}}
