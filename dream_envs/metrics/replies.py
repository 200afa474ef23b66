"""What two models said to the same prompts: every measure of ``diversity`` and ``formats``, compared with intervals.

``compare`` makes the ``diversity`` block of ``frontier.json``.  A measure *within* a prompt falls when a model learns
the only right answer; ``answer_entropy_wrong`` and ``vendi_across`` do not, and tell collapse from learning.
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
from dream_envs.metrics import diversity as dv
from dream_envs.metrics.formats import formats_of
from dream_envs.metrics.health import entropy_of_counts

_ACROSS = 4
#: Measures that have an interval in ``compare``.
RATIOS = (
    "format_entropy", "effective_formats", "answer_entropy", "answer_entropy_wrong", "vendi", "distinct_2", "self_bleu",
)  # fmt: skip


class Replies(msgspec.Struct, frozen=True):
    """N prompts with the replies drawn for each; every list is ``[N][draws]`` and has the same shape.

    ``formats``: structural labels.  ``answers``: what is compared when answers are counted, in a normal form.
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
    family: TaskFamily | Sequence[TaskFamily] | None = None,
    answer: Callable[[str], str] | None = None,
    right: Sequence[Sequence[bool]] | None = None,
) -> Replies:
    """Label the replies of one model.

    Args:
        texts: for each prompt its draws, at least one.
        tasks: the problems, for families whose formats look at them, and for ``verify``.
        family: one for all, or one a prompt; names the formats and, with ``tasks``, says which replies are right.
            None: general formats, and nobody knows what is right.
        answer: reply to answer; None compares whole replies without the blanks around them.
        right: which replies are right, if ``verify`` is not to be asked.

    Raises:
        DreamEnvsError: for no prompts, a prompt without draws, or lists whose lengths do not agree.
    """
    n = len(texts)
    if not n or not all(len(row) for row in texts):
        raise DreamEnvsError(f"replies to {n} prompts: at least one prompt, and at least one reply to each")
    each = list(family) if isinstance(family, Sequence) else [family] * n
    chores: list[Task | None] = list(tasks) if tasks is not None else [None] * n
    for name, there in (("tasks", chores), ("family", each), ("right", right if right is not None else texts)):
        if len(there) != n:
            raise DreamEnvsError(f"{name} has {len(there)} entries for {n} prompts: one each")
    labellers = {id(f): formats_of(f) for f in each}
    said = [[str(t) for t in row] for row in texts]
    formats, known = [], [[bool(x) for x in row] for row in right] if right is not None else None
    verified: list[list[bool]] = []
    for row, task, one in zip(said, chores, each, strict=True):
        formats.append(_once(row, functools.partial(_label, labellers[id(one)], task)))
        if task is not None and one is not None:
            verified.append(_once(row, functools.partial(_right, one, task)))
    if known is None and len(verified) == n:
        known = verified
    if known is not None and [len(r) for r in known] != [len(r) for r in said]:
        raise DreamEnvsError("right does not have one entry a reply: give it in the shape of texts")
    return Replies(said, formats, [[(answer or str.strip)(t) for t in row] for row in said], known)


def _once(row: Sequence[str], f: Callable[[str], Any]) -> list[Any]:
    found = {text: f(text) for text in dict.fromkeys(row)}
    return [found[text] for text in row]


def _label(labeller: Callable[[str, Task | None], str], task: Task | None, text: str) -> str:
    return labeller(text, task)


def _right(family: TaskFamily, task: Task, text: str) -> bool:
    score = family.verify(task, text)
    return score.status == "ok" and score.value >= 1.0


def measure(
    said: Replies, *, units: dv.Units = "auto", similarity: dv.Similarity | None = None, bleu: bool = False
) -> dict[str, float]:
    """Every measure of one model's replies.

    Args:
        said: the replies.
        units: how texts are cut for similarities; give the same for models that are compared.
        similarity: see ``diversity.vendi``; None: ``gram_kernel``.
        bleu: also ``self_bleu`` (slow: all pairs within a prompt).

    Returns:
        ``format_entropy`` (over all replies, bits), ``format_entropy_plug_in``, ``effective_formats``, ``simpson`` (two
        replies share a format), ``top_share``; means over prompts of ``answer_entropy``, ``answer_entropy_plug_in``,
        ``answer_entropy_wrong`` (prompts with two wrong draws or more), ``duplicates`` (share of draws that repeat an
        earlier answer) and ``vendi``; ``vendi_across``: of one reply a prompt; ``accuracy``.  nan where a measure is
        not defined.
    """
    units = dv.units_of((t for row in said.texts for t in row), units)
    return _measured(said, *_rows(said, units, similarity, bleu, None), units, similarity)


def _measured(
    said: Replies, rows: np.ndarray, names: Sequence[str], units: dv.Units, similarity: dv.Similarity | None
) -> dict[str, float]:
    kinds = [f for row in said.formats for f in row]
    return {
        **_means(rows, names),
        "format_entropy": dv.entropy(kinds),
        "format_entropy_plug_in": dv.entropy(kinds, corrected=False),
        "effective_formats": dv.effective_number(kinds),
        "simpson": dv.simpson(kinds),
        "top_share": next(iter(dv.histogram(kinds).values())),
        "vendi_across": vendi_across(said.texts, units, similarity),
    }


def vendi_across(texts: Sequence[Sequence[str]], units: dv.Units, similarity: dv.Similarity | None = None) -> float:
    """Mean Vendi score of the first replies, of the second ones ... (at most four) to all prompts.

    A model that learns right answers keeps it, since different prompts have different answers; one that says the same
    to everything has 1.
    """
    draws = min(_ACROSS, min(len(row) for row in texts))
    kernel = similarity or (lambda t: dv.gram_kernel(t, units))
    step = max(1, math.ceil(len(texts) / dv.MAX_TEXTS))
    return float(np.mean([dv.vendi([row[j] for row in texts[::step]], kernel) for j in range(draws)]))


#: Columns that come as (sum, how many) because not every prompt has them.
_PARTIAL = ("answer_entropy_wrong", "self_bleu", "distinct_2")


def _rows(
    said: Replies, units: dv.Units, similarity: dv.Similarity | None, bleu: bool, budget: tuple[int, Any] | None
) -> tuple[np.ndarray, list[str]]:
    """A row a prompt: its measures; those of ``_PARTIAL`` as value and 1, or 0 and 0 where there is none."""
    kernel = similarity or (lambda t: dv.gram_kernel(t, units))
    table: list[dict[str, float]] = []
    for i, texts in enumerate(said.texts):
        answers = said.answers[i]
        row = {
            "answer_entropy": dv.entropy(answers),
            "answer_entropy_plug_in": dv.entropy(answers, corrected=False),
            "duplicates": 1 - len(set(answers)) / len(answers),
            "vendi": dv.vendi(texts, kernel),
        }
        if said.right is not None:
            wrong = [a for a, ok in zip(answers, said.right[i], strict=True) if not ok]
            row["accuracy"] = 1 - len(wrong) / len(answers)
            row["answer_entropy_wrong"] = dv.entropy(wrong) if len(wrong) > 1 else math.nan
        if bleu:
            row["self_bleu"] = dv.self_bleu(texts)
        if budget is not None:
            row["distinct_2"] = dv.distinct(texts, 2, budget[0], budget[1], units)
        table.append(row)
    for row in table:
        for name in [n for n in _PARTIAL if n in row]:
            there = math.isfinite(row[name])
            row[name], row["n:" + name] = (row[name], 1.0) if there else (0.0, 0.0)
    return np.array([list(row.values()) for row in table]), list(table[0])


def _means(rows: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    means = dict(zip(names, rows.mean(0).tolist(), strict=True))
    return {n: _over(m, means.get("n:" + n, 1.0)) for n, m in means.items() if not n.startswith("n:")}


def _over(a: float, b: float) -> float:
    return a / b if b else math.nan


def compare(
    base: Replies,
    trained: Replies,
    rng: np.random.Generator,
    *,
    units: dv.Units = "auto",
    similarity: dv.Similarity | None = None,
    strata: ArrayLike | None = None,
    budget: int | None = None,
    bleu: bool = False,
    draws: int = 2000,
) -> dict[str, Any]:
    """The ``diversity`` block of ``frontier.json``, without ``series`` and ``alarm`` (see ``collapse``).

    Ratios are trained over base; their 95 % intervals are of paired resampling of prompts within ``strata``.

    Args:
        base: the base's replies.
        trained: the trained model's, to the same prompts in the same order and with as many draws.
        rng: resampling, and the order of texts for distinct-n.
        units: see ``diversity.units_of``; ``auto`` decides on all texts of both.
        similarity: see ``diversity.vendi``.
        strata: N labels (families); None is one.
        budget: tokens a prompt for ``distinct_2``; every prompt of both models must have them.  None: not measured.
        bleu: also measure ``self_bleu``.
        draws: resamples.

    Returns:
        ``base``, ``trained`` (measures; the trained one also ``js_to_base``, ``tv_to_base`` of formats), ``ratio``
        (value, low, high) where the base's measure is positive, ``formats``, ``series``: None, ``alarm``: None.

    Raises:
        DreamEnvsError: if the replies are not of the same prompts and draws.
    """
    if [len(r) for r in base.texts] != [len(r) for r in trained.texts]:
        raise DreamEnvsError("base and trained have other numbers of prompts or draws: diversity grows with draws")
    if (base.right is None) != (trained.right is None):
        raise DreamEnvsError("right is known for one model only: give it for both or for neither")
    units = dv.units_of((t for said in (base, trained) for row in said.texts for t in row), units)
    sides = (base, trained)
    rows = [_rows(s, units, similarity, bleu, None if budget is None else (budget, rng)) for s in sides]
    labels = sorted({f for s in sides for row in s.formats for f in row})
    counts = [_label_counts(s.formats, labels) for s in sides]
    table = np.concatenate([rows[0][0], rows[1][0], *counts], axis=1)
    resampled = bootstrap_means(table, rng, strata, draws)
    names, width = rows[0][1], len(rows[0][1])
    found = [_derived(m, names, width, len(labels), len(table)) for m in (table.mean(0)[None], resampled)]
    ratio = {n: _ratio(found[0][n], found[1][n]) for n in RATIOS if n in found[0] and found[0][n][0, 0] > 0}
    measured = [_measured(said, *r, units, similarity) for said, r in zip(sides, rows, strict=True)]
    shares = [dv.histogram(f for row in s.formats for f in row) for s in sides]
    measured[1] |= {"js_to_base": dv.js_distance(*shares), "tv_to_base": dv.total_variation(*shares)}
    return {
        "base": dv.rounded(measured[0]),
        "trained": dv.rounded(measured[1]),
        "ratio": {n: r for n, r in ratio.items() if r[0] is not None},
        "formats": {"base": dv.rounded(shares[0]), "trained": dv.rounded(shares[1])},
        "series": None,
        "alarm": None,
    }


def _label_counts(formats: Sequence[Sequence[str]], labels: Sequence[str]) -> np.ndarray:
    place = {label: i for i, label in enumerate(labels)}
    out = np.zeros((len(formats), len(labels)))
    for i, row in enumerate(formats):
        for label in row:
            out[i, place[label]] += 1
    return out


def _derived(means: np.ndarray, names: Sequence[str], width: int, labels: int, n: int) -> dict[str, np.ndarray]:
    """``float64[resamples, 2]`` (base, trained) of every measure in ``RATIOS`` from the means of all columns."""
    found: dict[str, np.ndarray] = {}
    sides = np.stack([means[:, :width], means[:, width : 2 * width]], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        for i, name in enumerate(names):
            if name in RATIOS:
                found[name] = sides[:, i] / (sides[:, names.index("n:" + name)] if name in _PARTIAL else 1.0)
    kinds = np.stack([means[:, 2 * width : 2 * width + labels], means[:, 2 * width + labels :]], axis=1) * n
    found["format_entropy"] = entropy_of_counts(np.round(kinds))
    found["effective_formats"] = 2.0 ** found["format_entropy"]
    return found


def _ratio(value: np.ndarray, resampled: np.ndarray) -> list[float | None]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = resampled[:, 1] / resampled[:, 0]
    ratios = ratios[~np.isnan(ratios)]
    ends = np.quantile(ratios, (0.025, 0.975), method="nearest") if len(ratios) else (math.nan, math.nan)
    return [round(float(x), 6) if math.isfinite(x) else None for x in (value[0, 1] / value[0, 0], *ends)]


def series(steps: Iterable[int], measured: Iterable[Mapping[str, float | None]]) -> dict[str, list[Any]]:
    """The ``series`` of the ``diversity`` block: a list a measure, None where a step does not have it."""
    points = list(measured)
    keys = dict.fromkeys(k for m in points for k in m)
    return {"step": list(steps), **{k: [dv.rounded({k: m.get(k)})[k] for m in points] for k in keys}}
