"""Scorecards: the scale, the intervals, who is told apart, the jobs, the pages."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("trl")
pytest.importorskip("jinja2")

from scipy import stats

from dream_envs.baselines import recipe
from dream_envs.leaderboard import card
from dream_envs.leaderboard.abilities import ABILITIES, RANDOM_KUHN, VERSION
from dream_envs.leaderboard.card import Scored
from dream_envs.leaderboard.site import cards


def test_every_ability_has_a_scale_and_settings_that_exist() -> None:
    assert len({a.name for a in ABILITIES}) == len(ABILITIES) >= 8
    for ability in ABILITIES:
        assert ability.score(ability.floor) == 0.0 and ability.score(ability.best) == 1.0
        middle = (ability.floor + ability.best) / 2
        assert (
            ability.score(middle) == pytest.approx(0.5)
            and ability.score(ability.floor - (ability.best - ability.floor)) == 0
        )
        recipe.settled(ability.options)  # an unknown setting is an error


def test_the_floor_of_kuhn_is_the_exploitability_of_random_moves() -> None:
    from dream_envs.envs import kuhn_exact

    half = {info: [0.5, 0.5, 0.0] for info in kuhn_exact.INFORMATION_SETS}
    assert kuhn_exact.exploitability(half) == pytest.approx(RANDOM_KUHN)


def test_abilities_of_one_run_share_it() -> None:
    jobs = card.jobs_of(["grpo", "my.module:Learner"], 2, Path("x"))
    assert [j.seed for j in jobs] == sorted(j.seed for j in jobs)
    assert sum(len(j.abilities) for j in jobs) == 2 * 2 * len(ABILITIES)
    assert len({j.out for j in jobs}) == len(jobs) < 2 * 2 * len(ABILITIES)
    assert ["growth", "retention", "cost"] in [j.abilities for j in jobs]


def scores(learner: str, values: list[float | None], ability: str = "growth", version: int = VERSION) -> list[Scored]:
    curve = [[0.0, 0.0], [1000.0, 0.4], [2000.0, 0.5]]
    return [
        Scored(learner, ability, i, v, v, "" if v is not None else "no", curve, 10.0, version)
        for i, v in enumerate(values)
    ]


def test_intervals_are_students_and_pairs_apart_do_not_overlap() -> None:
    values = [0.2, 0.3, 0.35]
    mean, low, high = cards.interval(scores("a", values))
    wanted = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((np.mean(values), *wanted))
    assert cards.interval(scores("a", [None, None])) is None
    one = cards.interval(scores("a", [0.5]))
    assert one[0] == 0.5 and math.isnan(one[1])
    near = [*scores("low", [0.1, 0.11, 0.12]), *scores("high", [0.8, 0.81, 0.82]), *scores("wide", [0.1, 0.8, 0.9])]
    old = scores("old", [0.9, 0.9, 0.9], version=VERSION + 1)
    table = cards.table_of([*near, *scores("single", [1.0]), *old])
    assert cards.apart(table, "growth") == [("high", "low")] and "old" not in table


def test_a_learner_that_cannot_run_is_told_and_no_zero(tmp_path: Path, monkeypatch) -> None:
    from dream_envs.agents.engines import local  # noqa: F401
    from dream_envs.baselines import loop
    from dream_envs.core import DreamEnvsError

    def refused(*args: object, **more: object) -> None:
        raise DreamEnvsError("this learner needs a review")

    monkeypatch.setattr(loop, "train", refused)
    (found,) = card.run(card.Job("grpo", 0, ["variety"], str(tmp_path)))
    assert found.score is None and "needs a review" in found.detail


def test_pages_show_every_learner_and_hostile_names_are_text(tmp_path: Path) -> None:
    hostile = '<script>alert(1)</script>\u202e"'
    found = [
        s
        for a in ABILITIES
        for s in [*scores("grpo", [0.1, 0.2, 0.3], a.name), *scores(hostile, [0.9, None, 0.8], a.name)]
    ]
    told = cards.write(found, tmp_path)
    pages = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert len([n for n in pages if n.startswith("ability-")]) == len(ABILITIES)
    for text in pages.values():
        assert "<script" not in text and "\u202e" not in text and "onerror" not in text
    assert "0.20 [0.00, 0.45]" in pages["index.html"] and set(told["learners"]) == {"grpo", hostile}
    assert pages["cards.md"].count("\n") == 4
