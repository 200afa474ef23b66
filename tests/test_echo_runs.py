"""Runs of the echo study in miniature: the order of problems, exams against exact figures, kills and resumes."""

from __future__ import annotations

import json
import math
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

pytest.importorskip("trl")

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.studies import echo as study
from dream_envs.baselines.studies.echo_measure import Exam, log_likelihood, rounds
from dream_envs.baselines.studies.echo_run import EchoSettings, Passes, family_of, marks, problems, run
from dream_envs.baselines.studies.echo_task import LABELS, format_of
from dream_envs.core import DreamEnvsError
from dream_envs.play import read_episodes

SMALL = {"steps": 4, "prompts": 4, "attempts": 4, "train": 8, "test": 4, "draws": 32}
ECHO = "nano/echo"


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
    syllabus = Passes(family, tasks, 8, seed="p")
    plans = [[str(s.given["challenger_0"].text) for s in syllabus.plan(r)] for r in range(18)]
    passes = [[t for plan in plans[6 * e : 6 * e + 6] for t in plan] for e in range(3)]
    assert all(sorted(p) == sorted(t.prompt for t in tasks) for p in passes)
    assert len({tuple(p) for p in passes}) == 3
    fresh = Passes(family, tasks, 8, seed="p")  # a resumed run asks for round 11 first
    assert [s.given["challenger_0"].text for s in fresh.plan(11)] == plans[11]
    assert [s.index for s in fresh.plan(11)] == list(range(88, 96))
    assert [s.given["challenger_0"].text for s in Passes(family, tasks, 8, seed="q").plan(0)] != plans[0]


def test_marks_are_log_spaced_and_end_where_the_run_ends() -> None:
    assert marks(20) == [0, 1, 2, 3, 4, 6, 8, 11, 16, 20]
    assert [marks(n) for n in (1, 2, 3, 16)] == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4, 6, 8, 11, 16]]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"train": 10}, "train=10"), ({"draws": 48}, "draws=48"), ({"kl": -1.0}, "kl=-1"), ({"steps": 0}, "steps=0")],
)
def test_settings_that_cannot_be_run(change: dict[str, Any], named: str) -> None:
    with pytest.raises(DreamEnvsError) as caught:
        EchoSettings(**{**SMALL, **change})
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

    exam = Exam(family, tasks, base, seed="x", draws=32, group=8)
    found = exam(Parrot(base, tasks, reply, 32))
    kinds = Counter(format_of(reply(tasks[0], i)) for i in range(32))
    assert kinds == {"trace": 16, "final": 8, "states": 4, "other": 4}
    assert found["share"] == {k: kinds[k] / 32 for k in LABELS}
    assert found["accuracy"] == 20 / 32 and found["accuracy_in"] == {"final": 0.0, "states": 1.0, "trace": 1.0}
    blind = 1 - math.comb(12, 8) / math.comb(32, 8)  # eight of the 32 draws, picked blindly, are all wrong
    assert found["incomplete"] == 4 / 32 and found["pass@k"] == pytest.approx({"1": 20 / 32, "8": blind, "32": 1.0})
    # each group of eight holds five right ones, a vote of 5 to 2; alone, a draw is right in 20 of 32
    assert found["majority@k"] == {"1": 20 / 32, "8": 1.0, "32": 1.0}
    assert found["group_std"] == pytest.approx(math.sqrt(5 / 8 * 3 / 8))
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("whole")
    return path, run(EchoSettings(**SMALL, kl=0.01), path, save_every=2)


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(whole: Any, tmp_path: Path) -> None:
    """With a coefficient above zero: the reference after a resume is the base, not the weights that were saved."""

    def kill(step: int) -> None:
        if step == 3:
            raise Killed

    changed = EchoSettings(**SMALL, kl=0.01)
    with pytest.raises(Killed):
        run(changed, tmp_path, save_every=2, tick=kill)
    again = run(changed, tmp_path, save_every=2)
    assert {**again, "seconds": 0} == {**whole[1], "seconds": 0}
    assert [e["step"] for e in again["exams"]] == marks(4)
    assert not (tmp_path / "checkpoints").exists() and (tmp_path / "final" / "model.safetensors").exists()


def test_a_finished_run_is_read_and_another_is_refused(whole: Any) -> None:
    path, result = whole

    def never(step: int) -> None:
        raise AssertionError("it runs again")

    assert run(EchoSettings(**SMALL, kl=0.01), path, tick=never) == json.loads((path / "echo.json").read_text())
    with pytest.raises(DreamEnvsError, match="seed"):
        run(EchoSettings(**SMALL, kl=0.01, seed="1"), path)
    assert result["trained_hash"] != result["weights_hash"]


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


def test_a_study_in_miniature_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """One of its two runs is there already, and stays as it is; the other is made by the command that a user types."""
    jobs = study.jobs((ECHO,), (0.0, 0.01), ("0",))
    torch.set_num_threads(1)
    study.one(tmp_path, jobs[1], SMALL)
    kept = tmp_path / jobs[1].name / study.RESULT
    before = (kept.stat().st_mtime_ns, kept.read_bytes())
    given = {"seeds": 1, "bases": (ECHO,), "coefficients": (0.0, 0.01), "changes": SMALL}
    found = study.echo(tmp_path, **given)
    assert (kept.stat().st_mtime_ns, kept.read_bytes()) == before
    assert [(c["base"], c["kl"], c["seeds"]) for c in found["cells"]] == [(ECHO, 0.0, ["0"]), (ECHO, 0.01, ["0"])]
    assert {p.name for p in tmp_path.iterdir()} >= {"table.md", "echo.svg", "echo.png", "echo_study.json"}
    text = (tmp_path / "table.md").read_text()
    assert "steps=4" in text and not re.search(r"\bnan\b", text)
    with pytest.raises(DreamEnvsError, match="other settings"):
        study.echo(tmp_path, **{**given, "changes": {**SMALL, "lr": 1e-3}})


def test_plans_of_a_study() -> None:
    plan = study.jobs(study.BASES, study.COEFFICIENTS, [str(s) for s in range(5)])
    assert len(plan) == 30 == len({j.name for j in plan}) and [j.seed for j in plan] == sorted(j.seed for j in plan)
    for wrong in (((), (0.0,), ("0",)), ((ECHO,), (0.1, 0.1), ("0",)), ((ECHO, "x/echo"), (0.0,), ("0",))):
        with pytest.raises(DreamEnvsError):
            study.jobs(*wrong)


def test_the_command_line_carries_every_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a child is told is what the study was told: read back by the parser that the child uses."""
    caught: list[tuple[Any, ...]] = []
    monkeypatch.setattr(study, "one", lambda *given: caught.append(given))
    job = study.Job(ECHO, 1e-3, "3")
    study.main(study.command(tmp_path, job, {"steps": 7, "lr": 2.5e-4})[3:])
    ((out, told, changes),) = caught
    assert out == tmp_path and told == job and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert msgspec.structs.replace(EchoSettings(kl=1e-3, seed="3"), steps=7, lr=2.5e-4) == study.settings_of(
        told, changes
    )
    with pytest.raises(DreamEnvsError, match="'stepps'"):
        study.settings_of(job, {"stepps": 1})
    with pytest.raises(DreamEnvsError, match="train=7"):
        study.settings_of(job, {"train": 7})


def stub(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """In place of a run: a child that does what ``body`` says with its folder ``out`` and its coefficient ``kl``."""
    code = "import sys, time, pathlib; out, kl = pathlib.Path(sys.argv[1]), sys.argv[2]; out.mkdir(exist_ok=True)"
    monkeypatch.setattr(
        study,
        "command",
        lambda out, job, _: [sys.executable, "-c", f"{code}; {body}", str(out / job.name), f"{job.kl:g}"],
    )


def test_a_run_that_fails_is_named_and_leaves_nobody_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub(monkeypatch, "time.sleep(3 if kl == '0' else 0); open(out / 'late', 'w'); sys.exit(1)")
    with pytest.raises(DreamEnvsError) as caught:
        study.run_all(tmp_path, study.jobs((ECHO,), (0.0, 0.5), ("0",)), 2, {})
    assert "echo-kl0.5-0" in str(caught.value) and ".log" in str(caught.value) and "\n" not in str(caught.value)
    time.sleep(3.5)
    assert not (tmp_path / "echo-kl0-0" / "late").exists()


def test_finished_runs_are_not_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub(monkeypatch, "(out / 'echo.json').write_text('{}'); open(out / 'ran', 'a').write('x')")
    plan = study.jobs((ECHO,), (0.0, 0.5, 1.0), ("0", "1"))
    study.run_all(tmp_path, plan[:2], 2, {})
    study.run_all(tmp_path, plan, 3, {})
    assert [(tmp_path / j.name / "ran").read_text() for j in plan] == ["x"] * 6


def test_two_processes_never_work_in_one_folder(tmp_path: Path) -> None:
    """A child that outlived its killed study holds the folder; the one that a new study starts waits for it."""
    pytest.importorskip("fcntl")
    order: list[str] = []

    def second() -> None:
        with study.alone(tmp_path):
            order.append("second")

    with study.alone(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        order.append("first")
    waiting.join(5)
    assert order == ["first", "second"]
