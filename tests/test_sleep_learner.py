"""``SleepConsolidation`` around any Learner: one contract for all of them, and kills that change nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from _sleep import DREAMS, LEARNING, SMALL, bits, same, with_
from _tiny import named, practice, texts
from dream_envs.agents.sleep.reader import Reader

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.consolidation import SleepConsolidation
from dream_envs.agents.sleep.dreams import FamilyImagination
from dream_envs.agents.sleep.experience import Buffer, solved
from dream_envs.core import Action, AgentLike, Learner, Limits, Progress, Request
from dream_envs.runs import read_json

#: Nobody reads anything in the flagship's practice: dreams without a context, and what was solved is learnt hard.
SETTINGS = with_(
    SMALL,
    dreaming=with_(DREAMS, dreams=1, memory=1, fiction=0, proposals=0.2),
    learning=with_(LEARNING, lam=0.3, hard=1.0),
)


class Own:
    """A user's learner: a plain torch loop over a Hugging Face folder; of this project it uses what acts."""

    name = "own"

    def __init__(self, path: str = "nano/compose") -> None:
        self.load(path)

    def act(self, requests: Sequence[Request]) -> list[Action]:
        return self.agent.act(requests)

    def improve(self, env: Any, seats: Mapping[str, AgentLike], budget: int, run: Any) -> Progress:
        optimizer = torch.optim.SGD(self.agent.model.parameters(), lr=1e-3)
        for step in range(budget):
            right = solved(env.play(step, self))
            self.agent.model.requires_grad_(True).train()
            ids = [list(self.agent.encode(e.messages)) + self.agent.completion(e.reply) for e in right]
            for row in ids:
                batch = torch.tensor([row])
                optimizer.zero_grad()
                self.agent.model(input_ids=batch, labels=batch).loss.backward()
                optimizer.step()
            self.agent.model.requires_grad_(False).eval()
        return Progress(budget, sum(env.samples.values()))

    def save(self, path: str) -> None:
        self.agent.model.save_pretrained(path)
        self.agent.tokenizer.save_pretrained(path)

    def load(self, path: str) -> None:
        self.agent = LocalAgent(path)

    def snapshot(self) -> LocalAgent:
        return self.agent.snapshot()


def inner(name: str) -> Any:
    return Own() if name == "own" else named(name)


def agent_of(learner: Any) -> LocalAgent:
    found: LocalAgent = learner.agent if isinstance(learner, (Own, Reader)) else learner.engine
    return found


def sleeper(name: str, env: Any) -> SleepConsolidation:
    return SleepConsolidation(inner(name), FamilyImagination(env.game.family), settings=SETTINGS, seed="contract")


def requests() -> list[Request]:
    return [
        Request(messages=[{"role": "user", "content": text}], agent="solver_0", role="solver", seed=i, limits=Limits(9))
        for i, text in enumerate(["c:BDA", "a:B", "p:HH", "new"])
    ]


def said(agent: Any) -> list[tuple[str, list[float] | None]]:
    return [(a.text, a.logprobs) for a in agent.act(requests())]


@pytest.mark.parametrize("name", ["grpo", "ppo", "expert", "own"])
def test_a_learner_that_sleeps_is_a_learner(name: str, tmp_path: Path) -> None:
    """Two days of two steps: it acts, improves, sleeps twice, is saved, loaded and copied as any other."""
    torch.set_num_threads(1)
    env = practice(tmp_path / "run", memory=Buffer())
    one = sleeper(name, env)
    for part in ("act", "improve", "save", "load", "snapshot"):
        assert callable(getattr(one, part)) and hasattr(Learner, part)
    begins, frozen = said(one), one.snapshot()
    progress = one.improve(env, {}, 4, env.run)
    assert progress.steps == 4 and progress.samples > 0
    assert [night.number for night in one.nights] == [0, 1] and all(night.lived > 0 for night in one.nights)
    for night, recorded in enumerate(one.nights):
        days, nights = (tmp_path / "run" / part / f"{night:02d}" for part in ("days", "nights"))
        evening, dawn = (bits(LocalAgent(str(folder))) for folder in (days / "evening", nights / "dawn"))
        morning = bits(LocalAgent(str(days / "morning")))
        assert not same(morning, evening) and not same(evening, dawn)  # it learnt by day, and at night
        assert read_json(nights / "night.json")["tokens"] == recorded.tokens > 0
        if night:
            assert same(morning, last)  # noqa: F821
        last = dawn  # noqa: F841
    assert same(bits(agent_of(one.learner)), dawn)
    now = said(one)
    assert len(now) == 4 and said(one) == now and said(frozen) == begins != now  # the copy slept through nothing
    assert said(one.snapshot()) == now
    one.save(str(tmp_path / "saved"))
    other = sleeper(name, env)
    assert said(other) == begins
    other.load(str(tmp_path / "saved"))
    assert said(other) == now and other.nights == one.nights and other.buffer.all() == one.buffer.all()
    assert len(env.memory) == 0  # what the day left was slept on


def test_the_same_command_in_a_finished_folder_changes_nothing(tmp_path: Path) -> None:
    """Nor does it in one that was left behind the second day's last checkpoint, before anything else was written."""
    torch.set_num_threads(1)
    found = []
    for turn in range(3):
        if turn == 2:
            assert (tmp_path / "days" / "01" / "checkpoints" / "checkpoint-2" / "practice.json").exists()
            for folder in ("days/01/evening", "nights/01"):
                shutil.rmtree(tmp_path / folder)
            (tmp_path / "days" / "01" / "day.json").unlink()
        env = practice(tmp_path, memory=Buffer())
        one = sleeper("grpo", env)
        progress = one.improve(env, {}, 4, env.run)
        found.append((bits(agent_of(one.learner)), one.nights, texts(tmp_path), progress, env.samples, env.history))
        env.run.close()
        env.syllabus.store.close()
    for again in found[1:]:
        assert same(found[0][0], again[0]) and found[0][1:] == again[1:]


def test_a_day_on_which_nothing_was_solved_has_no_night(tmp_path: Path) -> None:
    """A run of many days does not end there: the next day goes on."""
    torch.set_num_threads(1)
    env = practice(tmp_path, memory=Buffer())
    one = sleeper("own", env)
    env.play = lambda step, policy, play=env.play: play(step, policy) if env.first + step >= 2 else []  # type: ignore
    one.improve(env, {}, 4, env.run)
    assert [night.number for night in one.nights] == [0]
    assert sorted(p.name for p in (tmp_path / "nights").iterdir()) == ["01"]


CHILD = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from _tiny import practice
from test_sleep_learner import Buffer, sleeper
torch.set_num_threads(1)
env = practice(Path(sys.argv[1]), memory=Buffer())
sleeper("grpo", env).improve(env, {}, 4, env.run)
"""


def child(out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(out), str(Path(__file__).parent)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def kill_when(out: Path, there: str, missing: str) -> bool:
    """Start the command, kill it once one file stands and before the other does; whether that was in time."""
    process = child(out)
    while process.poll() is None and not (out / there).exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return (out / there).exists() and not (out / missing).exists()


@pytest.mark.slow
def test_sigkill_by_day_and_by_night_changes_nothing(tmp_path: Path) -> None:
    """In the first night, in the second day, in the second night."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = child(whole)
    assert first.wait(600) == 0, first.stderr and first.stderr.read()[-2000:]
    for there, missing in (
        ("nights/00/evening/evening.json", "nights/00/night.json"),
        ("days/01/morning/day.json", "days/01/day.json"),
        ("nights/01/evening/evening.json", "nights/01/night.json"),
    ):
        assert kill_when(killed, there, missing), f"{there}: too late"
    last = child(killed)
    assert last.wait(600) == 0, last.stderr and last.stderr.read()[-2000:]
    for number in ("00", "01"):
        for file in ("dawn/model.safetensors", "evening/model.safetensors", "night.json"):
            path = Path("nights") / number / file
            assert (killed / path).read_bytes() == (whole / path).read_bytes(), path
    assert texts(killed) == texts(whole)
    assert (killed / "challenges.jsonl").read_bytes() == (whole / "challenges.jsonl").read_bytes()
    for number in ("00", "01"):
        states = [json.loads((p / "days" / number / "day.json").read_text()) for p in (killed, whole)]
        assert states[0]["buffer"] == states[1]["buffer"] and states[0]["progress"] == states[1]["progress"]
        assert {**states[0]["env"], "run": 0} == {**states[1]["env"], "run": 0}
