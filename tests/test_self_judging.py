"""Self-judging on weights: what is trained on, the study's runner, its resume, and how its answers are read off."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("trl")

from dream_envs.agents.training.grpo import GRPO, GRPOSettings
from dream_envs.agents.training.self_practice import FixedPrompts, SelfPractice, judged_groups, label_accuracy

from dream_envs.agents.engines import judges
from dream_envs.agents.training.rows import RowConfig
from dream_envs.baselines.studies import self_judging as study
from dream_envs.baselines.studies import self_judging_report as report
from dream_envs.core import DreamEnvsError, Episode
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.play import rollout
from dream_envs.rewards.self_judge import serl
from dream_envs.runs import Run
from dream_envs.seeds import stream

LEVELS = (2, 3)


def practice(path: Path, *, judge: str = "noisy", schedule: str = "equal", steps: int = 3, **more: Any) -> SelfPractice:
    game = SelfJudge("composition", actors=4, judgements=2, level=list(LEVELS))
    rng = stream("test-self-judging")
    tasks = [game.family.generate(rng, LEVELS[i % 2]) for i in range(12)]
    source = FixedPrompts(game.family, tasks, 6, "tiny")
    seats = {"judge": judges.Noisy(game, tpr=0.9, fpr=0.1)} if judge == "noisy" else {}
    run = Run(path, {"test": "self-judging"})
    reward = serl(length_control="off")
    return SelfPractice(game, source, reward, run, steps=steps, schedule=schedule, seats=seats, **more)


def learner(**more: Any) -> GRPO:
    rule = GRPOSettings(lr=1e-3, warmup=1, save_every=2, rows=RowConfig(rows=160, groups=6, review=0))
    return GRPO("nano/judge", settings=rule, seed="tiny", **more)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[SelfPractice, GRPO, list[Episode]]:
    """One round in which the same weights answer and judge."""
    env, made = practice(tmp_path_factory.mktemp("played"), judge="self"), learner()
    return env, made, env.play(0, made)


def test_groups_hold_one_role_one_prompt_and_one_pair(played: Any) -> None:
    _, _, episodes = played
    found = judged_groups(episodes)
    actors, pairs = [g for g in found if g.role == "actor"], [g for g in found if g.role == "judge"]
    assert len(actors) == 6 and len(pairs) == 6 * 6 and len(found) == 42
    assert all(len({m["content"] for r in g.rows for m in r.messages}) == 1 and len(g.rows) == 4 for g in actors)
    for group in pairs:  # both orders of one pair: the same two answers
        texts = [r.messages[0]["content"].split("|") for r in group.rows]
        assert len(texts) == 2 and texts[0][:2] == texts[1][:2] and texts[0][2:] == texts[1][2:][::-1]


def test_the_roles_share_the_loss_as_weighted_and_each_group_sums_to_nothing(played: Any) -> None:
    """With actor 1/4 and judge 3/4, the mean over all tokens is the weighted sum of the roles' own means."""
    env, made, episodes = played
    maker = env.maker(made.engine, RowConfig(rows=400, groups=6, review=0), "group")
    maker.weights = lambda: {"actor": 0.25, "judge": 0.75}
    rows = maker.rows(episodes, stream("rows"))
    total = sum(len(r.completion) for r in rows)
    for role, weight in (("actor", 0.25), ("judge", 0.75)):
        own = [r for r in rows if r.role == role]
        tokens = sum(len(r.completion) for r in own)
        plain = maker.weights()[role] * total / tokens
        groups = [g for g in judged_groups(episodes) if g.role == role and g.informative]
        expected = sorted(
            plain * (v - np.mean(g.values)) / (np.std(g.values) + 1e-4)
            for g in groups
            for v in g.values
            if v != np.mean(g.values)
        )
        assert own and sorted(r.advantage for r in own) == pytest.approx(expected)
        assert abs(sum(r.advantage for r in own)) < 1e-6
        assert weight * total == pytest.approx(plain * tokens)


def test_a_seat_that_is_taken_is_not_trained_and_rows_are_whole_groups(tmp_path: Path, played: Any) -> None:
    _, made, _ = played
    env = practice(tmp_path)
    assert env.learns() == {"actor"}
    maker = env.maker(made.engine, RowConfig(rows=10, groups=6, review=0), "group")
    rows = maker.rows(env.play(0, made), stream("rows"))
    assert {r.role for r in rows} == {"actor"} and len(rows) <= 10
    prompts = [tuple(r.prompt) for r in rows]
    assert abs(sum(r.advantage for r in rows)) < 1e-6 and len(set(prompts)) == maker.used
    env.run.close()


def test_label_accuracy_is_the_share_of_contests_that_the_right_answer_wins(played: Any) -> None:
    _, _, episodes = played
    won = of = 0.0
    for episode in episodes:
        truth = episode.outcome.facts["truth"]
        for a, b in ((a, b) for a in truth for b in truth if truth[a] == 1 and truth[b] == 0):
            of += 1
            lead = episode.scores[a].value - episode.scores[b].value
            won += 1.0 if lead > 0 else 0.5 if lead == 0 else 0.0
    assert of > 5 and label_accuracy(episodes) == pytest.approx(won / of)


def test_two_rounds_leave_a_record_of_truth_and_judges(tmp_path: Path) -> None:
    env, made = practice(tmp_path, judge="self", steps=2), learner()
    before = {k: v.clone() for k, v in made.engine.model.state_dict().items()}
    made.improve(env, {}, 2, env.run)
    env.run.close()
    rows = [msgspec.json.decode(x) for x in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    assert [row["step"] for row in rows] == [0, 1]
    for row in rows:
        assert 0 <= row["truth"] <= 1 and 0 <= row["judge_accuracy"] <= 1 and row["readable"] > 0.9
        assert row["length"] > 2 and row["label_accuracy"] is not None and row["groups"] >= 1
    assert any(not (before[k] == v).all() for k, v in made.engine.model.state_dict().items())


def test_what_cannot_be_practised_is_refused_in_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    open_game: Any = SelfJudge(prompts=["why?"])
    for game, more in (
        (open_game, {"steps": 1}),
        (SelfJudge(), {"steps": 0}),
        (SelfJudge(), {"steps": 1, "schedule": "x"}),
    ):
        with pytest.raises(DreamEnvsError) as caught:
            SelfPractice(game, None, serl(), run, **more)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    run.close()
    with pytest.raises(DreamEnvsError, match="arm='hones'"):
        study.Settings(arm="hones")


# ---- the study -------------------------------------------------------------------------------------------------


def test_a_run_is_whole_resumes_and_is_bound_to_its_settings(tmp_path: Path) -> None:
    chosen = study.Settings(arm="dial_+0.8", steps=2, prompts=4, train=16, test=8)
    result = study.run(chosen, tmp_path / "a")
    assert [e["step"] for e in result["exams"]] == [0, 1, 2] and len(result["rounds"]) == 2
    assert result["card"]["kind"] == "pairwise" and result["card"]["accuracy"][0] > 0.6
    assert study.run(chosen, tmp_path / "a") == result
    with pytest.raises(DreamEnvsError, match="other settings"):
        study.run(msgspec.structs.replace(chosen, lr=1e-3), tmp_path / "a")
    assert {s.arm for s, _ in study.jobs(tmp_path, [0], ["honest", "cyclic"])} == {"honest", "cyclic"}


def test_every_arm_has_a_game_a_reward_and_its_judge() -> None:
    for name, arm in study.ARMS.items():
        game = study._game(arm)
        seats = study._judge(arm, game)
        assert bool(seats) == (arm.judge not in ("self", "")), name
        rest = {"actor": "random", **({"judge": "random"} if arm.judge == "self" else {})}
        episode = next(iter(rollout(game, {**rest, **seats}, 1, reward=study._reward(arm))))
        assert {a for a in game.agents if a.startswith("actor")} <= set(episode.scores), name


def test_the_cyclic_judge_is_flagged_and_an_honest_one_is_not() -> None:
    from dream_envs.metrics.cards import judge_card, records

    arm = study.ARMS["cyclic"]
    game = study._game(arm)
    for seats, flagged in ((study._judge(arm, game), True), ({"judge": judges.Noisy(game, tpr=0.9, fpr=0.1)}, False)):
        episodes = list(rollout(game, {"actor": "random", **seats}, 40, reward=study._reward(arm)))
        flags = judge_card(records(episodes), stream("card"), draws=50)["flags"]
        assert any("circle" in flag for flag in flags) == flagged


def made_run(
    arm: str, seed: int, accuracy: tuple[float, float], length: tuple[float, float], **more: Any
) -> dict[str, Any]:
    judge = {"accuracy": 0.8, "flip": 0.3, "calibration": 0.05, "overconfidence": -0.1}
    exams = [
        {"accuracy": a, "by_depth": {"3": a, "10": a / 2}, "length": n, "traces": 0.5, "judge": judge}
        for a, n in zip(accuracy, length, strict=True)
    ]
    rounds = [
        {"solved": 0.5, "label_accuracy": 0.4, "answer_entropy": 1.0, "alarms": ["0.40 of the labels agree with"]}
    ]
    card = {"flags": [], "kappa": [0.6, 0.5, 0.7], "cyclic_triads": [0.1, 0.0, 0.2]}
    return {
        "settings": {"arm": arm, "seed": seed},
        "exams": exams,
        "rounds": rounds,
        "card": card,
        "seconds": 1.0,
        **more,
    }


def test_answers_follow_from_intervals_and_not_from_means() -> None:
    """Gains 0.1, 0.2, 0.3: mean 0.2, t(2) = 4.303, half-width 4.303 * 0.1 / sqrt 3 = 0.248, so nothing is shown."""
    wide = [made_run("honest", i, (0.5, 0.6 + i / 10), (5, 5)) for i in range(3)]
    gain = report.cell(wide)["accuracy"]["gain"]
    assert gain == pytest.approx([0.2, 0.2 - 0.2484, 0.2 + 0.2484], abs=1e-3)
    clear = [made_run("dial_+0.8", i, (0.5, 0.69 + i / 100), (5, 5)) for i in range(3)]
    shorter = [made_run("first_fixed_serl", i, (0.5, 0.5), (5, 4 + i / 100)) for i in range(3)]
    longer = [made_run("first_swapped_off", i, (0.5, 0.5), (5, 5.5 + i / 100)) for i in range(3)]
    vote = [made_run("majority", i, (0.5, 0.3 + i / 100), (5, 5), card=None) for i in range(2)]
    vote.append(made_run("majority", 2, (0.5, 0.049), (5, 5), card=None))  # below a tenth of 0.5
    found = report.summary([*wide, *clear, *shorter, *longer, *vote])["answers"]
    assert found == {
        "honest self-judging raises the actor's accuracy": "no change shown",
        "its judge is calibrated (error at most 0.1)": "yes",
        "its judge is overconfident by 0.1 at most": "yes",
        "its judge loses accuracy": "no change shown",
        "always-first, fixed order, length control serl: shorter": "yes",
        "always-first, swapped order, length control off: shorter": "no, the reverse",
        "noise dial +0.8: accuracy rises": "yes",
        "majority: its reward rises": "no change shown",
        "majority: accuracy at the deepest depth falls": "no change shown",
        "majority: accuracy falls below a tenth of what it was": "in 1 of 3",
        "majority: the label alarm rings in every run": "yes",
    }
    assert "0.50 [0.50, 0.50]" in report.table(report.summary(clear))


def test_below_wants_the_whole_interval() -> None:
    found = [report.below(i, 0.1) for i in ([0.08, 0.07, 0.09], [0.08, 0.05, 0.11], [0.2, 0.15, 0.25], None)]
    assert found == ["yes", "not shown", "no", "not measured"]


def test_one_seed_is_a_mean_without_an_interval() -> None:
    found = report.cell([made_run("cyclic", 0, (0.5, 0.7), (5, 5))])
    assert found["accuracy"]["gain"][0] == pytest.approx(0.2) and math.isnan(found["accuracy"]["gain"][1])
    assert report.sign(found["accuracy"]["gain"], 1) == "yes (one seed)"
    assert report.show(found["accuracy"]["gain"]) == "0.20"
