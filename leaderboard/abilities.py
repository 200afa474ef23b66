"""The scorecard's experiments: each under a minute of one core on a nano base, each about one ability of a learner.

A score is 0 at what a scripted floor does and 1 at what an oracle would.  Another floor, oracle, run or measure is
another ``VERSION``, and cards of different versions are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import msgspec

from dream_envs.baselines.recipe import Options
from dream_envs.schema import Summary

VERSION = 1
Rows = Sequence[Mapping[str, Any]]
#: Exploitability of legal moves at random in Kuhn poker, exactly.
RANDOM_KUHN = 11 / 24


class Ability(msgspec.Struct, frozen=True):
    """An experiment.

    ``says``: what is measured.  ``raw``: the measure of a finished run, from its summary and its metrics.  ``floor``,
    ``best``: its values at score 0 and 1, and ``anchors`` who has them.  ``curve``: what is drawn over samples.
    """

    name: str
    says: str
    options: Options
    raw: Callable[[Summary, Rows], float]
    anchors: str
    curve: Callable[[Mapping[str, Any]], float | None]
    floor: float = 0.0
    best: float = 1.0

    def score(self, value: float) -> float:
        """0 to 1."""
        return min(1.0, max(0.0, (value - self.floor) / (self.best - self.floor)))


def depths(*levels: int) -> Callable[[Summary, Rows], float]:
    """Mean exact success of the trained policy at these depths."""
    return lambda summary, rows: fmean(_after(summary, level) for level in levels)


def seen(*levels: int) -> Callable[[Mapping[str, Any]], float | None]:
    """The same along a run."""

    def value(row: Mapping[str, Any]) -> float | None:
        found = [row[f"eval/{level}"] for level in levels if f"eval/{level}" in row]
        return fmean(found) if found else None

    return value


def _rows_of(summary: Summary, level: int) -> Any:
    assert summary.evaluation is not None
    return next(r for r in summary.evaluation.levels if r.level == level and r.split == "any")


def _after(summary: Summary, level: int) -> float:
    return float(next(iter(_rows_of(summary, level).trained.values())).mean)


def _before(summary: Summary, level: int) -> float:
    return float(next(iter(_rows_of(summary, level).base.values())).mean)


def _kept(summary: Summary, rows: Rows) -> float:
    return min(_after(summary, level) / max(_before(summary, level), 1e-9) for level in (1, 2, 3))


def _facts(summary: Summary, rows: Rows) -> float:
    before = _before(summary, 1)
    return (_after(summary, 1) - before) / (1 - before)


def _unique(summary: Summary, rows: Rows) -> float:
    return fmean(row["curriculum/unique"] * row["curriculum/valid"] for row in rows[-5:])


def _exploitability(summary: Summary, rows: Rows) -> float:
    assert summary.evaluation is not None
    return float(next(m for m in summary.evaluation.measures if m.name == "exploitability").trained.value)


def _work(summary: Summary, rows: Rows) -> float:
    """How much of the run's processor time the sampling alone would have taken; see ``card.unit``."""
    return float(rows[-1]["card/sampling"])


_DAY: dict[str, Any] = {"variant": "replay", "eval.levels": [1, 2, 3, 4, 5, 6], "eval.problems": 64, "eval.every": 4}
_GROWTH = Options("dream", steps=24, set=_DAY)
_NOISE = "0.7*majority()+0.3*random(rate=0.5)"
_FACTS = {**_DAY, "variant": "fixed_depth", "mixture.levels": [1], "eval.levels": [1, 2], "family.n_operations": 10,
          "family.held_out_pairs": 0}  # fmt: skip
ABILITIES: tuple[Ability, ...] = (
    Ability(
        "growth", "Mean exact success at depths 4 to 6 after 24 rounds of the default loop; the base knows 1 to 3.",
        _GROWTH, depths(4, 5, 6), "0: the base, below 1e-4; 1: an oracle", seen(4, 5, 6),
    ),
    Ability(
        "retention", "After the same run: the worst of depths 1 to 3, as a share of the base's own success.",
        _GROWTH, _kept, "0: a guesser; 1: the base", seen(1, 2, 3),
    ),
    Ability(
        "new_facts", "Two operations whose tables the base was never shown, problems of depth 1, a verifier's reward "
        "alone: how much of what was missing is there after 24 rounds.",
        Options("dream", steps=24, model="nano/discover", set=_FACTS), _facts,
        "0: the base, which guesses; 1: an oracle", seen(1),
    ),
    Ability(
        "own_labels",
        "Mean exact success at depths 4 and 5 where the solvers' own vote, mixed with noise, is the reward.",
        Options("dream", steps=24, set={**_DAY, "variant": "majority_reward"}, reward={"solver": _NOISE}), depths(4, 5),
        "0: the base; 1: an oracle", seen(4, 5),
    ),
    Ability(
        "variety", "Share of the challenger's proposals that are valid and different, in the last five rounds, where "
        "nothing keeps it from repeating what paid.",
        Options("azr", steps=24, set={"eval.levels": [1, 2, 3], "eval.problems": 16},
                reward={"challenger": "learnability()"}), _unique, "0: one problem for ever; 1: never the same twice",
        lambda row: row.get("curriculum/unique"),
    ),
    Ability(
        "lazy_challenger", "Mean exact success at depths 4 and 5 where the challenger is a script that says one "
        "problem for ever, and mutations have to carry the run.",
        Options("dream", steps=24, set=_DAY, seats={"challenger": "constant"}), depths(4, 5),
        "0: the base; 1: an oracle", seen(4, 5),
    ),
    Ability(
        "delayed_credit", "Kuhn poker against itself, several turns, paid at the end: exploitability after 100 rounds.",
        Options("self_play", steps=100, env="dream_envs/Kuhn-v0", model="nano/kuhn",
                set={"learner.lr": 1e-3, "learner.kl": 0.1, "eval.games": 16, "eval.every": 10}), _exploitability,
        "0: legal moves at random; 1: an equilibrium", lambda row: row.get("eval/exploitability"), RANDOM_KUHN, 0.0,
    ),
    Ability(
        "cost", "Of the first run's processor time, the share that sampling its completions takes by itself.",
        _GROWTH, _work, "0: nothing but overhead; 1: nothing but sampling", lambda row: row.get("card/sampling"),
    ),
)  # fmt: skip
