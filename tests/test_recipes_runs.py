"""Recipes as they are run: SIGKILL and resume, every learner, no truth in any reward, and the whole verb."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("trl")

from _recipes import SMALL, job_of, walked
from _tiny import texts
from dream_envs.agents.training.updates import Updates
from dream_envs.curriculum.deck import PromptDeck

from dream_envs import cli, registry
from dream_envs.agents.engines.local import LocalAgent, resolve
from dream_envs.baselines import loop, recipes
from dream_envs.baselines.eval_set import Yardstick
from dream_envs.baselines.frontier import job as frontier
from dream_envs.baselines.loops import prompts, self_rewarding, serl_limited
from dream_envs.baselines.nano.recipe import weights_hash
from dream_envs.core import Action, Episode, Score, Start
from dream_envs.curriculum.store import ChallengeStore, read_challenges
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.frontier import suite as suites
from dream_envs.play import read_episodes, rollout
from dream_envs.rewards.self_judge_points import self_rubric
from dream_envs.rewards.solver import majority
from dream_envs.runs import Run
from dream_envs.tasks.composition import Composition

FAMILY = Composition(max_level=6)
TASK = FAMILY.make("c", "BD")

CHILD = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from _recipes import job_of, walked
given = json.loads(sys.argv[3])
walked(job_of(**given), Path(sys.argv[2]), lambda step, _: print(step, flush=True), save_every=1)
"""


def hashes(stand: loop.Stand) -> dict[str, str]:
    """Every name's final weights."""
    return {name: weights_hash(Path(folder)) for name, folder in stand.folders.items()}


# ------------------------------------------------------------------------------------------------------ kill and resume


def killed(out: Path, given: dict[str, Any], at: int) -> int:
    """Run in a process of its own and SIGKILL it inside step ``at``; its exit status."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(out), json.dumps(given)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.strip() == str(at):
                time.sleep(0.05)
                process.send_signal(signal.SIGKILL)
                break
    return process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "at"),
    [
        ({"name": "r_zero", "steps": 5, "challenger_steps": 2, "solver_steps": 2}, 3),  # its second stage's second step
        ({"name": "serl", "steps": 4}, 2),
    ],
    ids=lambda v: v["name"] if isinstance(v, dict) else "",
)
def test_sigkill_in_the_middle_of_a_stage_changes_nothing(given: dict[str, Any], at: int, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = walked(job_of(**given), whole, save_every=1)
    assert killed(broken, given, at) == -signal.SIGKILL
    met: list[int] = []
    found = walked(job_of(**given), broken, lambda step, _: met.append(step), save_every=1)
    assert met and met[0] in (at, at + 1) and met[-1] == given["steps"] - 1  # gone on from there, not begun anew
    assert hashes(found) == hashes(expected) and texts(broken) == texts(whole)
    for name in ("challenges.jsonl", "episodes.jsonl"):
        assert len((broken / name).read_bytes().splitlines()) == len((whole / name).read_bytes().splitlines()) > 0
    assert (broken / "challenges.jsonl").read_bytes() == (whole / "challenges.jsonl").read_bytes()


# ------------------------------------------------------------------------------------------------------------ learners

#: Learners in recipes of every kind: one stage and several, two roles, judges, problems of a list.
PAIRS = (
    ("azr", "ppo"), ("r_zero", "ppo"), ("r_zero", "expert"), ("ttrl", "rloo"), ("serl", "ppo"), ("serl", "rloo"),
    ("serl_limited", "expert"), ("self_rewarding", "rloo"),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "agent"), PAIRS)
def test_every_learner_that_is_not_refused_moves_the_weights(name: str, agent: str, tmp_path: Path) -> None:
    job = job_of(name, agent, steps=3)
    assert job.about["learner"] == agent
    base = weights_hash(Path(resolve(job.base)))
    assert all(found != base for found in hashes(walked(job, tmp_path / "run")).values())
    logged = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    if agent == "ppo":
        assert any(row.get("value_loss") for row in logged)


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("agent", ["ppo", "grpo4"])
def test_rows_fill_whole_minibatches_and_lose_none(name: str, agent: str) -> None:
    plain, found = job_of(name, "grpo").rule.rows.rows, job_of(name, agent).rule
    parts = 2 * getattr(found, "updates", Updates()).minibatches
    assert found.rows.rows % parts == 0 and plain <= found.rows.rows < plain + parts


@pytest.mark.parametrize("name", ["serl", "self_rewarding"])
def test_imitation_of_what_nobody_verified_is_refused_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", name, "--agent", "expert", "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "expert" in told and "rloo" in told and told.count("\n") == 1 and not (tmp_path / "run").exists()


def test_nano_is_the_base_that_fits_and_any_other_stays_what_it_was() -> None:
    loops = [name for name in recipes.ROWS if isinstance(recipes.recipe(name), recipes.Recipe)]
    bases = {name: recipes.job_of(recipes.Settings(name, model="nano")).base for name in loops}
    assert bases["serl"] == bases["self_rewarding"] == "nano/judge"
    assert {bases[name] for name in ("azr", "r_zero", "ttrl", "serl_limited")} == {"nano/compose"}
    assert recipes.job_of(recipes.Settings("azr", model="nano/judge")).base == "nano/judge"


# --------------------------------------------------------------------------------------------------------------- truth


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ttrl", "serl", "serl_limited", "self_rewarding", "r_zero"])
def test_a_verifier_that_lies_changes_no_reward(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These recipes may not know the truth: with every verdict turned round the same weights come out."""
    honest = hashes(walked(job_of(name), tmp_path / "honest"))
    before = {e.index: e.scores for e in read_episodes(tmp_path / "honest" / "episodes.jsonl")}
    plain = Composition.verify
    monkeypatch.setattr(Composition, "verify", lambda *a: Score(1.0 - plain(*a).value, grader="liar"))
    assert hashes(walked(job_of(name), tmp_path / "lied")) == honest
    for episode in read_episodes(tmp_path / "lied" / "episodes.jsonl"):
        expected = {a: (s.status, s.value) for a, s in before[episode.index].items()}
        assert {a: (s.status, s.value) for a, s in episode.scores.items()} == expected


@pytest.mark.slow
def test_the_lie_would_be_seen_where_the_truth_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = hashes(walked(job_of("azr"), tmp_path / "honest"))
    plain = Composition.verify
    monkeypatch.setattr(Composition, "verify", lambda *a: Score(1.0 - plain(*a).value, grader="liar"))
    assert hashes(walked(job_of("azr"), tmp_path / "lied")) != honest


# -------------------------------------------------------------------------------------------------- pairs, band, filter


class Says:
    """Replies in the order of the seats."""

    def __init__(self, *replies: str) -> None:
        self.replies = replies

    def act(self, requests: Any) -> list[Action]:
        return [Action(self.replies[int(r.agent.rpartition("_")[2]) % len(self.replies)]) for r in requests]


def judged(*verdicts: str, actors: int = 4) -> Episode:
    """One prompt, an answer each, judged twice: judges 0 and 1 look at answer 0, and so on."""
    game = SelfJudge(FAMILY, actors=actors, judgements=2, judging="rubric")
    seats = {"actor": Says("BaDa", "BbDb", "BcDc", "BdDd"), "judge": Says(*verdicts)}
    return next(iter(rollout(game, seats, [Start(0, TASK)], seed="pairs", reward=self_rubric())))


@pytest.mark.parametrize(
    ("verdicts", "left"),
    [
        ("01 11 00 10", {"actor_1": 1.0, "actor_2": 0.0}),  # 1/2, 1, 0, 1/2
        ("11 11 00 00", {"actor_0": 1.0, "actor_2": 0.0}),  # the first of those alike
        ("11 11 11 11", {}), ("01 10 01 10", {}),
        ("?? 01 11 ??", {"actor_2": 1.0, "actor_1": 0.5}),  # without a readable verdict there is no score
        ("?? ?? 11 ??", {}),
    ],
)  # fmt: skip
def test_the_best_is_set_against_the_worst_and_nothing_else_is(verdicts: str, left: dict[str, float]) -> None:
    (episode,) = self_rewarding.best_and_worst([judged(*verdicts.replace(" ", ""))])
    scores = {a: s for a, s in episode.scores.items() if a.startswith("actor_")}
    assert {a: s.value for a, s in scores.items() if s.status == "ok"} == left
    assert {s.status for s in scores.values()} <= {"ok", "abstain"}


@pytest.mark.parametrize(
    ("replies", "kept"),
    [("xxab", True), ("xabc", True), ("xxxx", False), ("xxxa", True), ("xxxxxxxxxa", False), ("xxaa", False)],
)
def test_only_problems_in_the_band_are_learnt_from(replies: str, kept: bool) -> None:
    """Means of the vote 0.5, no label, 1, 0.75, 0.9 and a tie, for a band of 0.2 to 0.8."""
    if replies == "xabc":
        replies = "xxabcdefgh"  # 0.2: the band is closed
    game = ChallengerSolver(FAMILY, solvers=len(replies))
    seats = {"challenger": Says("c:BD"), "solver": Says(*replies)}
    episodes = list(rollout(game, seats, [Start(0)], seed="band", reward=majority()))
    (episode,) = serl_limited.in_band(episodes, low=0.2, high=0.8)
    status = {s.status for a, s in episode.scores.items() if a.startswith("solver_")}
    assert status == ({"ok"} if kept else {"abstain"})


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [("c:BDA", "c:BDA", 1.0), ("c:BDA", "d:BDA", 0.8), ("c:B", "c:BDA", 0.75), ("abc", "xyz", 0.0), ("", "", 1.0),
     ("", "a", 0.0), ("the cat sat", "the cat ran", 2 / 3), ("abcd", "badc", 0.5)],
)  # fmt: skip
def test_rouge_l_by_hand(a: str, b: str, expected: float) -> None:
    assert prompts.rouge_l(a, b) == prompts.rouge_l(b, a) == pytest.approx(expected)


def test_what_is_written_is_new_unlike_the_known_and_not_reserved(tmp_path: Path) -> None:
    """The writer repeats itself, the seeds and the exam, and babbles."""
    stand = loop.Stand(Run(tmp_path, {"test": 1}), Yardstick(Composition(max_level=10), 4), LocalAgent("nano/compose"))
    exam, seed = stand.yardstick.tasks["any", 3][0], FAMILY.make("c", "BDA")
    said = ["c:BDA", "c:BDAH", exam.prompt, "p:GGG", "p:GGG", "p:GGGG", "hello", "", "x" * 99, "a:EFEF"]

    class Writer:
        def act(self, requests: Any) -> list[Action]:
            assert len({r.seed for r in requests}) == len(requests)
            assert all(r.messages == [{"role": "user", "content": "new"}] for r in requests)
            return [Action(text) for text in said]

    def write(rouge: float) -> tuple[list[str], dict[str, int]]:
        tasks, why = prompts.written(stand, Writer(), len(said), "w", [seed], rouge)  # type: ignore[arg-type]
        return [t.prompt for t in tasks], why

    assert write(0.7)[0] == ["p:GGG", "a:EFEF"] and write(1.0)[0] == ["c:BDAH", "p:GGG", "p:GGGG", "a:EFEF"]
    why = write(0.7)[1]
    assert sum(why.values()) == len(said)
    assert (why["accepted"], why["duplicate"], why["similar"], why["held_out"], why["empty"]) == (2, 2, 2, 1, 1)
    stand.run.close()


def test_a_deck_of_prompts_keeps_what_was_met_and_what_was_earned() -> None:
    store = ChallengeStore(None)
    deck = PromptDeck(FAMILY, [TASK], 1, seed="d", store=store)
    (start,) = deck.plan(0)
    assert start.task == TASK and not start.given
    deck.absorb(0, [judged(*"11111100"), judged(*"????????")])
    entry = store.get(TASK.id)
    assert entry is not None and (entry.successes, entry.attempts) == (3.0, 4)


# ------------------------------------------------------------------------------------------------------------ the verb


def small_suite() -> suites.Suite:
    """Three strata of the nano suite, two problems each."""
    whole = suites.nano()
    chosen = tuple(s for s in whole.strata if s.name in ("d3", "d4", "d5"))
    return msgspec.structs.replace(whole, name="recipes-small", strata=chosen, mini=3, second_stage=())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serl", "self_rewarding", "serl_limited"])
def test_the_verb_ends_in_a_frontier_report_on_problems_that_were_not_practised(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "recipes-small" not in registry.rows("suites"):
        registry.register("suites", "recipes-small", small_suite)
    plain = frontier.Options
    monkeypatch.setattr(frontier, "Options", lambda **more: plain(**{**more, "suite": "recipes-small"}))
    monkeypatch.setenv("DREAM_ENVS_CACHE", str(tmp_path / "cache"))
    out, knobs = tmp_path / "run", [f"--set={k}={v}" for k, v in SMALL[name].items()]
    assert cli.main(["train", name, "--model", "nano", "--steps", "2", "--out", str(out), "--json", *knobs]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"]["run"]["recipe"] == name and told["frontier"]["verdict"]["word"]
    assert (out / "report.html").is_file() and (out / "frontier" / "report.html").is_file()
    counts = told["run"]["samples"]
    assert counts["total"] == sum(v for k, v in counts.items() if k != "total") > 0
    practised = {c.id for c in read_challenges(out / "challenges.jsonl")}
    asked: set[str] = {str(p["id"]) for p in told["frontier"]["problems"] if isinstance(p, dict) and "id" in p}
    assert practised and not practised & asked
