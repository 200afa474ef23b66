"""Runs of the echo study in miniature: the order of problems, exams against exact figures, kills and resumes."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("trl")

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.studies import echo as study
from dream_envs.baselines.studies import grid
from dream_envs.baselines.studies.echo import EchoSettings, Exam, log_likelihood, marks, passes, problems, rounds
from dream_envs.baselines.studies.echo_family import LABELS, CompositionFormats, format_of
from dream_envs.core import DreamEnvsError
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import read_episodes
from dream_envs.runs import read_json

SMALL = {"steps": 4, "prompts": 4, "attempts": 4, "train": 8, "test": 4, "draws": 32}
ECHO = "nano/echo"


def family_of(base: str, depth: int) -> CompositionFormats:
    return CompositionFormats(**study.world_of(base, depth))


@pytest.fixture(scope="module")
def base() -> LocalAgent:
    torch.set_num_threads(1)
    return LocalAgent(ECHO)


# ---- problems and passes ---------------------------------------------------------------------------------------


def test_problems_are_distinct_fixed_and_never_shared() -> None:
    family = family_of(ECHO, 3)
    train, test = problems(family, 3, 768, 256)
    assert len({t.id for t in train} | {t.id for t in test}) == 1024 == 16 * 4**3
    assert {t.level for t in train + test} == {3}
    again = problems(family, 3, 100, 256)
    assert again[1] == test and again[0] == train[:100]  # more to learn from changes nothing else
    with pytest.raises(DreamEnvsError, match="1024"):
        problems(family, 3, 800, 256)
    with pytest.raises(DreamEnvsError, match="depth=1"):
        problems(family, 1, 1, 1)


def test_a_pass_is_every_problem_once_and_no_two_are_in_the_same_order() -> None:
    family = family_of(ECHO, 3)
    tasks, _ = problems(family, 3, 48, 4)
    game = ChallengerSolver(family, solvers=2)
    curriculum = passes(game, tasks, 8, "p")
    plans = [[str(s.given["challenger_0"].text) for s in curriculum.plan(r)] for r in range(18)]
    found = [[t for plan in plans[6 * e : 6 * e + 6] for t in plan] for e in range(3)]
    assert all(sorted(p) == sorted(t.prompt for t in tasks) for p in found)
    assert len({tuple(p) for p in found}) == 3
    fresh = passes(game, tasks, 8, "p")  # a resumed run asks for round 11 first
    assert [s.given["challenger_0"].text for s in fresh.plan(11)] == plans[11]
    assert [s.index for s in fresh.plan(11)] == list(range(88, 96))
    assert [s.given["challenger_0"].text for s in passes(game, tasks, 8, "q").plan(0)] != plans[0]


def test_marks_are_log_spaced_and_end_where_the_run_ends() -> None:
    assert marks(20) == [0, 1, 2, 3, 4, 6, 8, 11, 16, 20]
    assert [marks(n) for n in (1, 2, 3, 16)] == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4, 6, 8, 11, 16]]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"train": 10}, "train=10"), ({"draws": 48}, "draws=48"), ({"kl": -1.0}, "kl=-1"), ({"prompts": 0}, "prompts=0")],
)
def test_settings_that_cannot_be_run(change: dict[str, Any], named: str) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        EchoSettings(**{**{k: v for k, v in SMALL.items() if k != "steps"}, **change})
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_base_that_says_nothing_of_its_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DreamEnvsError, match=r"nano\.json"):
        family_of(str(tmp_path), 3)


# ---- exams -----------------------------------------------------------------------------------------------------


class Parrot(LocalAgent):
    """Says what ``reply`` gives for the problem and the number of the draw, whatever its weights would say."""

    def __init__(self, base: LocalAgent, tasks: Any, reply: Any, draws: int) -> None:
        super().__init__(base.model, tokenizer=base.tokenizer)
        self.replies = [reply(t, i) for t in tasks for i in range(draws)]

    def sample(self, prompts: Any, seeds: Any, max_tokens: Any) -> Any:
        from dream_envs.agents.engines.decode import Sample

        ids = [[*self.tokenizer(t, add_special_tokens=False)["input_ids"], self.ends[0]] for t in self.replies]
        return [Sample(x, [-0.5] * len(x), True) for x in ids]


def test_an_exam_of_replies_that_are_known(base: LocalAgent) -> None:
    """Of 32 draws 16 are right traces, 8 wrong finals, 4 right states, 4 no format: hand-worked figures."""
    family = family_of(ECHO, 3)
    _, tasks = problems(family, 3, 1, 6)

    def reply(task: Any, i: int) -> str:
        wrong = next(s for s in family.states if s != task.answer[-1])
        return [task.answer, wrong, task.answer, wrong if i % 8 == 1 else ["?", task.answer[1::2]][i % 8 // 4]][i % 4]

    exam = Exam(family, tasks, base, seed="x", draws=32)
    found = exam(Parrot(base, tasks, reply, 32))
    kinds = Counter(format_of(reply(tasks[0], i)) for i in range(32))
    assert kinds == {"trace": 16, "final": 8, "states": 4, "other": 4}
    assert found["share"] == {k: kinds[k] / 32 for k in LABELS}
    assert found["accuracy"] == 20 / 32 and found["accuracy_in"] == {"final": 0.0, "states": 1.0, "trace": 1.0}
    blind = 1 - math.comb(12, 8) / math.comb(32, 8)  # eight of the 32 draws, picked blindly, are all wrong
    assert found["pass@k"] == pytest.approx({"1": 20 / 32, "8": blind, "32": 1.0})
    # each group of eight holds five right ones, a vote of 5 to 2; alone, a draw is right in 20 of 32
    assert found["majority@k"] == {"1": 20 / 32, "8": 1.0, "32": 1.0}
    plug_in = 0.5 + 0.5 + 2 * 0.125 * 3
    assert found["entropy"] == pytest.approx(plug_in + 3 / (2 * 192 * math.log(2)))
    assert found["effective"] == pytest.approx(2 ** found["entropy"])
    asked = [[{"role": "user", "content": t.prompt}] for t in tasks for i in range(8)]
    said = [reply(t, i) for t in tasks for i in range(8)]
    logits, ids = base.completion_logits(asked, said)  # type: ignore[arg-type]
    exact = [
        float(torch.log_softmax(torch.from_numpy(x).double(), -1)[range(len(y)), y].sum())
        for x, y in zip(logits, ids, strict=True)
    ]
    own = [-0.5 * len(y) for y in ids]
    assert found["kl"] == pytest.approx(np.mean(np.array(own) - exact), rel=1e-5)


def test_the_base_is_no_distance_from_itself_and_draws_the_same_twice(base: LocalAgent) -> None:
    family = family_of(ECHO, 3)
    _, tasks = problems(family, 3, 1, 12)
    exam = Exam(family, tasks, base, seed="x")
    found = exam(base)
    assert abs(found["kl"]) < 1e-4 and found["js"] == 0 and exam(base.snapshot()) == found
    assert Exam(family, tasks, base, seed="y")(base)["share"] != found["share"]
    assert found["pass@k"]["1"] == pytest.approx(found["accuracy"]) == found["majority@k"]["1"]


def test_likelihoods_do_not_depend_on_the_batch(base: LocalAgent) -> None:
    prompts = [base.encode([{"role": "user", "content": p}]) for p in ("c:BDA", "a:AB", "p:DCB")]
    replies = [[*base.tokenizer(t, add_special_tokens=False)["input_ids"], 1] for t in ("a", "fk", "DaCbBc")]
    together = log_likelihood(base, prompts, replies)
    alone = [log_likelihood(base, [p], [r], batch=1)[0] for p, r in zip(prompts, replies, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4) and (together < 0).all()


# ---- runs ------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for the kill: nothing is saved or closed on the way."""


def tiny(path: Path) -> grid.Job:
    name, changes = "echo-kl0.01", {**SMALL, "learner.save_every": 2}
    (job,) = grid.plan(study, (name,), 1, path, changes)
    return job


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    torch.set_num_threads(1)
    job = tiny(tmp_path_factory.mktemp("whole"))
    study.run(job.settings, job.seed, job.out)
    return job.out, read_json(job.out / study.RESULT)


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a coefficient above zero: the reference after a resume is the base, not the weights that were saved."""
    job, asked, ask = tiny(tmp_path), [0], Exam.__call__

    def killed(self: Exam, agent: LocalAgent) -> dict[str, Any]:
        asked[0] += 1
        if asked[0] == 4:  # the exam of step 3, after the checkpoint of step 2
            raise Killed
        return ask(self, agent)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Exam, "__call__", killed)
        study.run(job.settings, job.seed, job.out)
    study.run(job.settings, job.seed, job.out)
    again = read_json(job.out / study.RESULT)
    assert again == whole[1] and [e["step"] for e in again["exams"]] == marks(4)
    found = study.score(job.out)
    assert found["winner"] in LABELS and study.table([{"name": job.name, "seed": "0", **found}], tmp_path)


def test_rounds_are_what_the_episodes_say(whole: Any) -> None:
    path, result = whole
    family, found = family_of(ECHO, 3), result["rounds"]
    episodes = sorted(read_episodes(path / "episodes.jsonl"), key=lambda e: e.index)
    assert found["step"] == [0, 1, 2, 3] and rounds(reversed(episodes), 4) == found
    for step in range(4):
        mine = episodes[4 * step : 4 * step + 4]
        said = [(e.tasks[-1], t.text) for e in mine for t in e.turns if t.role == "solver"]
        assert len(said) == 16
        assert found["accuracy"][step] == np.mean([family.verify(p, text).value for p, text in said])
        assert [found["share"][k][step] for k in LABELS] == [
            sum(format_of(text) == k for _, text in said) / 16 for k in LABELS
        ]
    first = {t.prompt for e in episodes[:8] for t in e.tasks[-1:]}
    assert first == {t.prompt for e in episodes[8:] for t in e.tasks[-1:]} and len(first) == 8  # two passes
