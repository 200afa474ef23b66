"""The pool of past selves, on Kuhn poker: who is drawn, whose turns are trained on, ratings, resuming."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training import rows
from dream_envs.agents.training.pool import AdapterPool
from dream_envs.agents.training.settings import PoolSettings
from dream_envs.baselines.loop import conduct
from dream_envs.baselines.recipe import Options
from dream_envs.core import DreamEnvsError, Episode, Limits, Outcome, Request, Score, Turn
from dream_envs.envs.kuhn import Kuhn
from dream_envs.play import read_episodes

STEPS = 20
SET: dict[str, Any] = {
    "learner.pool.share": 0.6, "learner.pool.every": 5, "learner.pool.size": 3, "learner.save_every": 7,
    "mixture.challenger": 16, "eval.games": 8, "eval.every": 100,
}  # fmt: skip


def run(folder: Path, steps: int = STEPS, **more: Any) -> list[Episode]:
    options = Options("spiral", steps=steps, seed="pool", set={**SET, **more})
    conduct(options, folder, quiet=True, resume=True)
    return sorted(read_episodes(folder / "episodes.jsonl"), key=lambda e: e.index)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Episode]]:
    folder = tmp_path_factory.mktemp("pool") / "run"
    return folder, run(folder)


def test_three_past_selves_play_in_twenty_steps(played: tuple[Path, list[Episode]]) -> None:
    _, episodes = played
    by_round: dict[int, Counter[str]] = {}
    for episode in episodes:
        roles = {(t.role, t.author) for t in episode.turns if t.author}
        assert len(roles) <= 1  # one role at most, the same one throughout
        assert all({t.author for t in episode.turns if t.role == r} == {a} for r, a in roles)
        by_round.setdefault(episode.round, Counter())[next((a for _, a in roles), "")] += 1
    assert all(set(by_round[r]) == {""} for r in range(5))
    assert {a for r in range(15, 20) for a in by_round[r]} == {"", "policy@1", "policy@2", "policy@3"}
    met = sum(n for r in range(5, 20) for a, n in by_round[r].items() if a)
    assert 0.45 < met / (15 * 16) < 0.75


def test_their_turns_are_not_trained_on(played: tuple[Path, list[Episode]]) -> None:
    _, episodes = played
    episode = next(e for e in episodes if any(t.author for t in e.turns))
    turns = [t if t.token_ids else _with_ids(t) for t in episode.turns]
    groups = rows.groups_of(Kuhn(), [_replaced(episode, turns)], frozenset({"first", "second"}))
    assert sum(len(g.rows) for g in groups) == sum(not t.author for t in turns)


def _with_ids(turn: Turn) -> Turn:
    import msgspec

    return msgspec.structs.replace(turn, token_ids=[1], logprobs=[-1.0])


def _replaced(episode: Episode, turns: list[Turn]) -> Episode:
    import msgspec

    return msgspec.structs.replace(episode, turns=turns)


def test_a_run_that_goes_on_ends_in_the_same_weights(played: tuple[Path, list[Episode]], tmp_path: Path) -> None:
    """From the checkpoint of step 14, in whose middle the pool has two past selves."""
    folder, episodes = played
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for name in ("summary.json", "report.html"):
        (copy / name).unlink(missing_ok=True)
    shutil.rmtree(copy / "checkpoints" / "final")
    for path in copy.glob("checkpoints/checkpoint-*"):
        if int(path.name.rpartition("-")[2]) > 14:
            shutil.rmtree(path)
    said = [[(e.index, t.agent, t.text, t.author) for e in part for t in e.turns] for part in (run(copy), episodes)]
    assert said[0] == said[1]
    one, other = (LocalAgent(str(f / "checkpoints" / "final")).model.state_dict() for f in (folder, copy))
    assert all(torch.equal(one[k], other[k]) for k in one)


def pool(**settings: Any) -> AdapterPool:
    agent = LocalAgent("nano/kuhn")
    agent.model.requires_grad_(True)
    return AdapterPool(agent, PoolSettings(**settings), ("first", "second"), "0")


def test_who_is_drawn_hangs_on_share_and_rating() -> None:
    made = pool(share=0.5)
    for _ in range(3):
        made.keep()
    names = [f"e/{i}" for i in range(4000)]
    drawn = Counter(made.opponent(n) for n in names)
    assert 0.45 < 1 - drawn["", ""] / 4000 < 0.55
    by_name = Counter(name for name, _ in map(made.opponent, names) if name)
    assert all(abs(n / by_name.total() - 1 / 3) < 0.05 for n in by_name.values())
    made.ratings["policy@2"] += 800
    after = Counter(name for name, _ in map(made.opponent, names) if name)
    assert after["policy@2"] > 3 * after["policy@1"]
    before = [made.opponent(n) for n in names]
    made.remove("policy@2")
    gone = [made.opponent(n) for n in names]
    assert gone != before and {name for name, _ in gone} == {"", "policy@1", "policy@3"}
    assert made.opponent("") == ("", "")
    with pytest.raises(DreamEnvsError, match="policy@2"):
        made.remove("policy@2")
    with pytest.raises(DreamEnvsError, match="share is 0 to 1"):
        PoolSettings(share=2)


def test_a_past_self_says_what_it_would_have_said_then() -> None:
    made = pool(share=1.0)
    limits, text = Limits(4), Kuhn().view(Kuhn().start(None, torch_rng()), "first_0")
    asked = [
        Request(messages=text, agent=f"{r}_0", role=r, seed=i, limits=limits, episode=f"e/{i}")
        for i in range(24)
        for r in ("first", "second")
    ]
    then = [a.text for a in made.engine.act(asked)]
    made.keep()
    with torch.no_grad():
        for value in made.engine.model.parameters():
            value.mul_(3.0)
    now = [a.text for a in made.engine.act(asked)]
    said = made.act(asked)
    assert {a.author for a in said} == {"", "policy@1"} and now != then
    assert all(a.text == (old if a.author else new) for a, old, new in zip(said, then, now, strict=True))
    assert [a.text for a in made.engine.act(asked)] == now  # the policy is as it was


def torch_rng() -> Any:
    from dream_envs.seeds import stream

    return stream("kuhn")


def test_ratings_follow_who_earns_more() -> None:
    made = pool(every=100)
    made.keep()

    def met(index: int, mine: float, theirs: float) -> Episode:
        turns = [
            Turn(agent="first_0", role="first", messages=[], text="c"),
            Turn(agent="second_0", role="second", messages=[], text="c", author="policy@1"),
        ]
        scores = {"first_0": Score(mine), "second_0": Score(theirs)}
        outcome = Outcome("ok")
        return Episode(
            env_id="x",
            version=0,
            seed="",
            index=index,
            tasks=[],
            turns=turns,
            events=[],
            outcome=outcome,
            scores=scores,
        )

    made.absorb([met(i, 1.0, -1.0) for i in range(10)])
    assert made.now["policy"] > 1040 and made.ratings["policy@1"] < 960
    assert made.now["policy"] + made.ratings["policy@1"] == pytest.approx(2000)
    before = made.now["policy"]
    made.absorb([met(0, 0.0, 0.0)])
    assert made.now["policy"] < before  # the stronger one loses by a draw
