"""A round of experience: one scoring call, what is recorded and absorbed, shares of several processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("trl")

from _tiny import MIXTURE, close, collector, metrics, texts

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.collector import Collector
from dream_envs.core import Action, Episode, Request, Score
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.kuhn import Kuhn
from dream_envs.play import read_episodes, reward_model
from dream_envs.runs import Run

AGENT = LocalAgent("nano/compose")


class Later:
    """An asynchronous reward model that counts its calls: right answers by their share of the round."""

    name = "later"

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def score(self, episodes: Sequence[Episode]) -> list[dict[str, Score]]:
        self.calls.append(len(episodes))
        return [{"solver_0": Score(1 / len(episodes)), "solver_1": Score(0.0, "abstain")} for _ in episodes]


def test_a_round_is_scored_in_one_call_and_what_is_not_ok_is_counted_beside_the_mean(tmp_path: Path) -> None:
    reward = Later()
    env = collector(tmp_path, reward=reward, mixture=Mixture(6, 0, 0))
    mine = env.round(0, AGENT)
    assert reward.calls == [6] and [e.index for e in mine] == list(range(6)) and env.newest == mine
    assert all(e.scores["solver_0"] == Score(1 / 6, grader="later") and e.round == 0 for e in mine)
    assert all(e.scores["solver_3"].status == "abstain" for e in mine)  # whom it left out
    env.round(1, AGENT)
    env.log(1, {"train/loss": 0.5, "alarms": ["look here"]})
    close(env)
    (row,) = metrics(tmp_path)
    assert row["step"] == 1 and row["train/loss"] == 0.5 and row["alarms"][0] == "look here"
    assert row["reward/solver/mean"] == pytest.approx(1 / 6) and row["reward/solver/std"] == 0.0
    assert row["status/solver/ok"] == 0.25 and row["status/challenger/abstain"] == 1.0
    assert env.means() == {"reward/solver/mean": row["reward/solver/mean"]} and "reward/challenger/mean" not in row
    written = list(read_episodes(tmp_path / "episodes.jsonl"))[6:]
    assert [(e.index, e.scores, e.round) for e in written] == [(e.index, e.scores, 1) for e in env.newest]


def test_a_reward_that_fails_ends_no_round(tmp_path: Path) -> None:
    class Broken:
        name = "broken"

        def score(self, episodes: Sequence[Episode]) -> list[dict[str, Score]]:
            raise RuntimeError("no server")

    env = collector(tmp_path, reward=Broken(), mixture=Mixture(3, 0, 0))
    with pytest.warns(UserWarning, match="no server"):
        found = env.round(0, AGENT)
    assert {s.status for e in found for s in e.scores.values()} == {"error"}
    store = env.curriculum.store  # type: ignore[attr-defined]
    assert env.history[-1].solved is None and all(e.attempts == 0 for e in store)
    close(env)


def test_samples_are_counted_by_role_and_seats_that_others_have_do_not_learn(tmp_path: Path) -> None:
    class Said:
        def act(self, requests: Sequence[Request]) -> list[Action]:
            return [Action("c:BDA" if r.role == "challenger" else "1") for r in requests]

    env = collector(tmp_path, mixture=Mixture(4, 0, 0), seats={"challenger": Said()})
    played = env.round(0, AGENT)
    solvers = 4 * sum(e.outcome.facts["valid"] for e in played)
    assert env.samples == {"solver": solvers} and env.learns() == {"solver", "judge"} & {r.name for r in env.game.roles}
    assert {e.turns[0].text for e in played} == {"c:BDA"}
    env.game = type(env.game)(env.game.family, solvers=2, judge=True)
    played = env.round(1, AGENT)
    assert env.samples["judge"] == sum(e.outcome.facts["valid"] for e in played) > 0
    close(env)


def test_a_collector_that_follows_another_goes_on_counting(tmp_path: Path) -> None:
    env = collector(tmp_path, first=5)
    env.offset = 2
    found = env.round(1, AGENT)
    env.log(1, {})
    assert [e.index for e in found] == list(range(8 * MIXTURE.total, 9 * MIXTURE.total))
    assert metrics(tmp_path)[0]["step"] == 8 == found[0].round
    close(env)
    other = collector(tmp_path / "other", first=5, seed="other").round(3, AGENT)
    assert [e.index for e in other] == [e.index for e in found]
    assert [[t.text for t in e.turns] for e in other] != [[t.text for t in e.turns] for e in found]


def test_the_state_holds_every_part_that_has_one(tmp_path: Path) -> None:
    """Seats and rewards of somebody's own too; restored, the next round is the same."""

    class Drifting:
        """Counts what it was asked, and acts by it."""

        name = "drifting"

        def __init__(self) -> None:
            self.count = 0

        def act(self, requests: Sequence[Request]) -> list[Action]:
            self.count += len(requests)
            return [Action(f"{'abcd'[(self.count + i) % 4]}:{'AB'[i % 2]}") for i in range(len(requests))]

        def score(self, episodes: Sequence[Episode]) -> list[dict[str, Score]]:
            self.count += 1
            return [{"solver_0": Score(1 / self.count)} for _ in episodes]

        def state(self) -> int:
            return self.count

        def restore(self, state: int) -> None:
            self.count = state

    def made() -> Any:
        return collector(tmp_path, reward=Drifting(), seats={"challenger": Drifting()})

    one = made()
    one.round(0, AGENT)
    one.log(0, {})
    state = msgspec.json.decode(msgspec.json.encode(one.state()))
    assert state["seats"] == {"challenger": MIXTURE.total} and state["reward"] == 1
    expected = [(e.scores, [t.text for t in e.turns]) for e in one.round(1, AGENT)]
    close(one)
    again = made()
    again.restore(state)
    assert texts(tmp_path)[-1][0] == MIXTURE.total - 1  # the files are cut back to it
    assert [(e.scores, [t.text for t in e.turns]) for e in again.round(1, AGENT)] == expected
    assert (again.samples, again.history, again.played) == (one.samples, one.history, one.played)
    close(again)


def test_a_game_without_problems_is_collected_too(tmp_path: Path) -> None:
    """Kuhn poker: no store, no health of problems; rewards, statuses and lengths by role all the same."""
    game, run = Kuhn(), Run(tmp_path, {})
    curriculum = Curriculum(game, Mixture(8, 0, 0, copies=4), seed="k", store=ChallengeStore())
    env = Collector(game, curriculum, reward_model(game.default_reward), run)
    played = env.round(0, LocalAgent("nano/kuhn"))
    deals = [e.tasks[0].answer for e in played]
    assert deals[:4] == deals[:1] * 4 and deals[4:] == deals[4:5] * 4  # four episodes share a deal
    assert len({tuple(t.text for t in e.turns) for e in played}) > 2  # but not what is played
    env.log(0, {})
    (row,) = metrics(tmp_path)
    assert row["reward/first/mean"] == -row["reward/second/mean"] and row["status/first/ok"] == 1.0
    told = {k.removeprefix("curriculum/") for k in row if k.startswith("curriculum/")}
    assert told == {"features", "format_entropy", "answer_entropy"}
    close(env)


def test_shares_of_two_processes_make_the_round_of_one(tmp_path: Path) -> None:
    """Two ranks in one process: each plays every other episode, both absorb all, the first writes."""
    sent = dict[int, list[Any]]()
    one = collector(tmp_path / "one")
    expected = one.round(0, AGENT)
    for rank in (0, 1):  # first collect what each would send, then hand everybody the whole
        gather = lambda x, rank=rank: sent.setdefault(rank, x)  # noqa: E731
        collector(tmp_path / "dry", rank=rank, world=2, gather=gather).round(0, AGENT)
    ranks = [collector(tmp_path / "two", rank=r, world=2, gather=lambda x: [*sent[0], *sent[1]]) for r in (0, 1)]
    mine = [env.round(0, AGENT) for env in ranks]
    assert sorted(e.index for part in mine for e in part) == [e.index for e in expected]
    assert Counter(e.index for part in mine for e in part).most_common(1)[0][1] == 1
    assert texts(tmp_path / "two") == texts(tmp_path / "one")
    states = [env.curriculum.store.state() | {"position": 0} for env in (one, *ranks)]  # type: ignore[attr-defined]
    assert states[0] == states[1] == states[2]
    assert one.history == ranks[0].history == ranks[1].history and one.samples == ranks[1].samples
    assert ranks[0].curriculum.plan(1) == ranks[1].curriculum.plan(1) == one.curriculum.plan(1)
