"""``SleepConsolidation`` around any Learner: one contract for all, days that wait, kills that change nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from _children import child, ended
from _sleep import DREAMS, LEARNING, SMALL, bits, same, with_
from _tiny import close, collector, learner, metrics, texts

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.consolidation import SleepConsolidation
from dream_envs.agents.sleep.dreams import FamilyQuestions
from dream_envs.agents.sleep.experience import Buffer, solved
from dream_envs.core import Action, Learner, Limits, Progress, Request
from dream_envs.rewards.controls import random_reward
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

    def __init__(self) -> None:
        self.load("nano/compose")

    def act(self, requests: Sequence[Request]) -> list[Action]:
        return self.agent.act(requests)

    def improve(self, collector: Any, budget: int, run: Any) -> Progress:
        optimizer = torch.optim.SGD(self.agent.model.parameters(), lr=1e-3)
        for step in range(budget):
            right = solved(collector.round(step, self))
            self.agent.model.requires_grad_(True).train()
            for row in [list(self.agent.encode(e.messages)) + self.agent.completion(e.reply) for e in right]:
                batch = torch.tensor([row])
                optimizer.zero_grad()
                self.agent.model(input_ids=batch, labels=batch).loss.backward()
                optimizer.step()
            self.agent.model.requires_grad_(False).eval()
        return Progress(budget, sum(collector.samples.values()))

    def save(self, path: str) -> None:
        self.agent.model.save_pretrained(path)
        self.agent.tokenizer.save_pretrained(path)

    def load(self, path: str) -> None:
        self.agent = LocalAgent(path)

    def snapshot(self) -> LocalAgent:
        return self.agent.snapshot()


def sleeper(name: str, env: Any, settings: Any = SETTINGS) -> SleepConsolidation:
    inner: Any = Own() if name == "own" else learner(name)
    return SleepConsolidation(inner, FamilyQuestions(env.game.family), settings=settings, seed="contract")


def answers(agent: Any) -> list[tuple[str, list[float] | None]]:
    asked = [
        Request(messages=[{"role": "user", "content": text}], agent="solver_0", role="solver", seed=i, limits=Limits(9))
        for i, text in enumerate(["c:BDA", "a:B", "p:HH", "new"])
    ]
    return [(a.text, a.logprobs) for a in agent.act(asked)]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return bits(LocalAgent(str(folder)))


@pytest.mark.parametrize("name", ["grpo", "ppo", "expert", "own"])
def test_a_learner_that_sleeps_is_a_learner(name: str, tmp_path: Path) -> None:
    """Two days of two steps: it acts, improves, sleeps twice, is saved, loaded and copied as any other."""
    env = collector(tmp_path / "run", memory=Buffer())
    one = sleeper(name, env)
    for part in ("act", "improve", "save", "load", "snapshot"):
        assert callable(getattr(one, part)) and hasattr(Learner, part)
    begins, frozen = answers(one), one.snapshot()
    progress = one.improve(env, 4, env.run)
    assert progress.steps == 4 and progress.samples > 0
    assert [night.number for night in one.nights] == [0, 1] and all(night.lived > 0 for night in one.nights)
    after = LocalAgent("nano/compose")
    for number, recorded in enumerate(one.nights):
        day, night = (tmp_path / "run" / part / f"{number:02d}" for part in ("days", "nights"))
        assert not same(bits(after), weights_of(day))  # it learnt by day,
        after = LocalAgent(str(night))
        assert not same(weights_of(day), bits(after))  # and at night
        assert read_json(night / "night.json")["nights"][number]["tokens"] == recorded.tokens > 0
    now = answers(one)
    assert same(bits(one.snapshot()), bits(after))
    assert answers(one) == now == answers(one.snapshot()) and answers(frozen) == begins != now
    one.save(str(tmp_path / "saved"))
    other = sleeper(name, env)
    assert answers(other) == begins
    other.load(str(tmp_path / "saved"))
    assert answers(other) == now and other.nights == one.nights and other.buffer.all() == one.buffer.all()
    assert len(env.memory or ()) == 0  # what the day left was slept on


def ran(path: Path, settings: Any = SETTINGS) -> tuple[Any, ...]:
    """Two days of two steps in this folder: the weights, and everything else that came of it."""
    env = collector(path, memory=Buffer())
    one = sleeper("grpo", env, settings)
    progress = one.improve(env, 4, env.run)
    rows = [{k: v for k, v in row.items() if "seconds" not in k and "runtime" not in k and "per_second" not in k}
            for row in metrics(path)]  # fmt: skip
    found = (bits(one.snapshot()), one.nights, texts(path), progress, env.samples, env.history, rows)
    close(env)
    return found


@pytest.mark.parametrize("cut", [(), ("nights/01",), ("nights/01", "days/01/sleep.json"), ("nights/01", "days/01")])
def test_a_folder_that_was_left_anywhere_ends_the_same(cut: tuple[str, ...], tmp_path: Path) -> None:
    """Finished; in the second night; after the second day's last checkpoint; before its first."""
    expected = ran(tmp_path)
    for name in cut:
        shutil.rmtree(tmp_path / name) if (tmp_path / name).is_dir() else (tmp_path / name).unlink()
    again = ran(tmp_path)
    assert same(expected[0], again[0]) and expected[1:6] == again[1:6]
    assert expected[6] == again[6]


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_day_that_is_stopped_is_no_whole_day(rounds: int, tmp_path: Path) -> None:
    """Ctrl-C behind the first round of a day: no night before it is over, and the same end from where it stopped."""
    expected = ran(tmp_path / "whole")
    env = collector(tmp_path / "cut", memory=Buffer())
    one = sleeper("grpo", env)
    one.learner.stop = lambda: env.played >= rounds
    assert one.improve(env, 4, env.run).steps == rounds
    close(env)
    assert not (tmp_path / "cut" / "nights" / f"{rounds // 2:02d}").exists() and len(one.nights) == rounds // 2
    again = ran(tmp_path / "cut")
    assert same(expected[0], again[0]) and expected[1] == again[1] and expected[6] == again[6]


def test_a_day_on_which_nothing_was_solved_has_no_night(tmp_path: Path) -> None:
    """A run of many days does not end there: the next day goes on."""
    env = collector(tmp_path, memory=Buffer(), reward=random_reward(rate=0.0))
    one = sleeper("own", env)
    one.improve(env, 4, env.run)
    assert one.nights == [] and not (tmp_path / "nights").exists() and (tmp_path / "days" / "01").is_dir()


@pytest.mark.parametrize(("capacity", "nights"), [(10_000, []), (1, ["00", "01"])])
def test_days_that_wait_sleep_when_it_is_due(capacity: int, nights: list[str], tmp_path: Path) -> None:
    """Twice in the same folder: as it was, and taken over from what is finished there."""
    rule = with_(SETTINGS, waits=True, capacity=capacity, block=2)
    one, again = ran(tmp_path, rule), ran(tmp_path, rule)
    assert sorted(p.name for p in (tmp_path / "nights").glob("*")) == nights
    assert [n.slow for n in one[1]] == [False, True][: len(nights)]
    assert same(one[0], again[0]) and one[1:] == again[1:]


def kill_when(out: Path, there: str, missing: str) -> bool:
    """Start the command, kill it once one file stands and before the other does; whether that was in time."""
    process = child(ran, out, out=out.with_name("told"))
    while process.is_alive() and not (out / there).exists():
        time.sleep(0.005)
    process.kill()
    process.join()
    return (out / there).exists() and not (out / missing).exists()


@pytest.mark.slow
def test_sigkill_by_day_and_by_night_changes_nothing(tmp_path: Path) -> None:
    """In the first night, in the second day, in the second night."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ran(whole)
    for there, missing in (
        ("days/00/sleep.json", "nights/00/night.json"),
        ("nights/00/night.json", "days/01/sleep.json"),
        ("days/01/sleep.json", "nights/01/night.json"),
    ):
        assert kill_when(killed, there, missing), f"{there}: too late"
    ended(ran, killed, out=tmp_path / "told")
    for number in ("00", "01"):
        for file in ("days/{}/model.safetensors", "nights/{}/model.safetensors"):
            path = file.format(number)
            assert (killed / path).read_bytes() == (whole / path).read_bytes(), path
        nights = [json.loads((p / "nights" / number / "night.json").read_text()) for p in (killed, whole)]
        assert nights[0].pop("files").keys() == nights[1].pop("files").keys() and nights[0] == nights[1]
        states = [json.loads((p / "days" / number / "sleep.json").read_text()) for p in (killed, whole)]
        assert states[0]["buffer"] == states[1]["buffer"] and states[0]["progress"] == states[1]["progress"]
        assert {**states[0]["collector"], "run": 0} == {**states[1]["collector"], "run": 0}
    assert texts(killed) == texts(whole)
    assert (killed / "challenges.jsonl").read_bytes() == (whole / "challenges.jsonl").read_bytes()
