"""Self-judging on weights: what is trained on, a run of the study in miniature, and how its answers are read off."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl")

from dream_envs.agents.engines import judges
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.rows import groups_of
from dream_envs.baselines.recipe import changed
from dream_envs.baselines.studies import grid
from dream_envs.baselines.studies import self_judging as study
from dream_envs.core import DreamEnvsError, Episode, Start
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.metrics.cards import judge_card, records
from dream_envs.metrics.rounds import label_accuracy
from dream_envs.play import rollout, score
from dream_envs.rewards.self_judge import serl
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition


@pytest.fixture(scope="module")
def played() -> tuple[SelfJudge, list[Episode]]:
    """One round in which the same weights answer and judge."""
    game, agent = SelfJudge("composition", actors=4, judgements=2, level=[2, 3]), LocalAgent("nano/judge")
    family, rng = Composition(), stream("test-self-judging")
    starts = [Start(i, family.generate(rng, 2 + i % 2)) for i in range(6)]
    episodes = list(rollout(game, {"actor": agent, "judge": agent}, starts, seed="tiny"))
    return game, score(episodes, serl(length_control="off"), game.agents)


def test_groups_hold_one_role_one_prompt_and_one_pair(played: Any) -> None:
    game, episodes = played
    found = groups_of(game, episodes, frozenset({"actor", "judge"}))
    actors, pairs = [g for g in found if g.role == "actor"], [g for g in found if g.role == "judge"]
    assert len(actors) == 6 and len(pairs) == 6 * 6 and len(found) == 42
    assert all(len({m["content"] for r in g.rows for m in r.messages}) == 1 and len(g.rows) == 4 for g in actors)
    for group in pairs:  # both orders of one pair: the same two answers
        texts = [r.messages[0]["content"].split("|") for r in group.rows]
        assert len(texts) == 2 and texts[0][:2] == texts[1][:2] and texts[0][2:] == texts[1][2:][::-1]


def test_label_accuracy_is_the_share_of_contests_that_the_right_answer_wins(played: Any) -> None:
    leads = []
    for episode in played[1]:
        truth, scores = episode.outcome.facts["truth"], episode.scores
        leads += [scores[a].value - scores[b].value for a in truth for b in truth if truth[a] == 1 and truth[b] == 0]
    assert len(leads) > 5 and label_accuracy(played[1]) == pytest.approx(np.mean((np.sign(leads) + 1) / 2))


# ---- the study -------------------------------------------------------------------------------------------------

TINY: dict[str, Any] = {"steps": 2, "prompts": 4, "train": 16, "test": 8, "eval.problems": 4}


def test_a_run_in_miniature_has_exams_a_card_and_a_record_of_truth(tmp_path: Path) -> None:
    (job,) = grid.plan(study, ("dial_+0.8",), 1, tmp_path, TINY)
    study.run(job.settings, job.seed, job.out)
    found = study.score(job.out)
    assert found["gain/accuracy"] == pytest.approx(found["last/accuracy"] - found["first/accuracy"])
    assert 0 < found["first/accuracy"] < 1 and found["first/judge/accuracy"] > 0.6 and found["labels"] is not None
    card = study.card(job.out)
    assert card is not None and card["kind"] == "pairwise" and card["accuracy"][0] > 0.6
    with pytest.raises(DreamEnvsError, match="prompts"):
        changed(study.Variant(), {"prompts": 0}, "variant")


def chosen(name: str) -> study.Variant:
    return changed(study.Variant(), study.SETTINGS[name].set, name)


def test_every_variant_has_a_game_a_reward_and_its_judge() -> None:
    for name in study.SETTINGS:
        variant = chosen(name)
        made = study.recipe(variant, 1)
        assert bool(made.seats) == (variant.judge not in ("self", "")), name
        game = SelfJudge("composition", **made.args)
        rest = {"actor": "random", **({"judge": "random"} if variant.judge == "self" else {})}
        episode = next(iter(rollout(game, {**rest, **made.seats}, 1, reward=made.reward[""])))
        assert {a for a in game.agents if a.startswith("actor")} <= set(episode.scores), name


def test_the_cyclic_judge_is_flagged_and_an_honest_one_is_not() -> None:
    made = study.recipe(chosen("cyclic"), 1)
    game = SelfJudge("composition", **made.args)
    for seats, flagged in ((made.seats, True), ({"judge": judges.Noisy(game, tpr=0.9, fpr=0.1)}, False)):
        episodes = list(rollout(game, {"actor": "random", **seats}, 40, reward=made.reward[""]))
        flags = judge_card(records(episodes), stream("card"), draws=50)["flags"]
        assert any("circle" in flag for flag in flags) == flagged


def made_row(name: str, seed: int, accuracy: tuple[float, float], length: tuple[float, float] = (5, 5)) -> grid.Row:
    first, last = accuracy
    return {
        "name": name, "seed": str(seed), "first/accuracy": first, "last/accuracy": last, "gain/accuracy": last - first,
        "gain/deepest": (last - first) / 2, "gain/length": length[1] - length[0], "gain/judge/accuracy": 0.0,
        "last/judge/calibration": 0.05, "last/judge/overconfidence": -0.1, "gain/rewarded": 0.0,
        "collapsed": last < first / 10, "alarm": True, "flags": ["of the triples go in a circle"] * (seed > 0),
    }  # fmt: skip


def test_answers_follow_from_intervals_and_not_from_means() -> None:
    """Gains 0.1, 0.2, 0.3: mean 0.2, t(2) = 4.303, half-width 4.303 * 0.1 / sqrt 3 = 0.248, so nothing is shown."""
    rows = [made_row("honest", i, (0.5, 0.6 + i / 10)) for i in range(3)]
    rows += [made_row("dial_+0.8", i, (0.5, 0.69 + i / 100)) for i in range(3)]
    rows += [made_row("first_fixed_serl", i, (0.5, 0.5), (5, 4 + i / 100)) for i in range(3)]
    rows += [made_row("first_swapped_off", i, (0.5, 0.5), (5, 5.5 + i / 100)) for i in range(3)]
    rows += [made_row("cyclic", i, (0.5, 0.5)) for i in range(3)]
    rows += [made_row("majority", i, (0.5, 0.3 + i / 100)) for i in range(2)]
    rows.append(made_row("majority", 2, (0.5, 0.049)))  # below a tenth of 0.5
    assert study.answers(rows) == {
        "honest self-judging raises the actor's accuracy": "no change shown",
        "its judge is calibrated (error at most 0.1)": "yes",
        "its judge is overconfident by 0.1 at most": "yes",
        "its judge loses accuracy": "no change shown",
        "always-first, fixed order, length control serl: shorter": "yes",
        "always-first, swapped order, length control off: shorter": "no, the reverse",
        "the cyclic judge is flagged in every run": "no",
        "noise dial +0.8: accuracy rises": "yes",
        "majority: its reward rises": "no change shown",
        "majority: accuracy at the deepest depth falls": "no change shown",
        "majority: accuracy falls below a tenth of what it was": "in 1 of 3",
        "majority: the label alarm rings in every run": "yes",
    }
    assert "| dial\\_+0.8 | 3 | 0.50 [0.50, 0.50] |" in study.table(rows, Path())


def test_below_wants_the_whole_interval() -> None:
    found = [study.below(i, 0.1) for i in ([0.08, 0.07, 0.09], [0.08, 0.05, 0.11], [0.2, 0.15, 0.25], None)]
    assert found == ["yes", "not shown", "no", "not measured"]


def test_one_seed_is_a_mean_without_an_interval() -> None:
    found = grid.over([0.2, None])
    assert found is not None and math.isnan(found[1]) and grid.show(found) == "0.20"
    assert grid.sign(found, 1) == "yes (one seed)"
