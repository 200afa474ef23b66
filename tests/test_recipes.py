"""Recipes: rewards against the papers' edge cases, names, knobs, and that a stop at any step changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl")

import msgspec
from _recipes import SMALL, job_of, walked
from _tiny import texts
from dream_envs.agents.training.regrade import less_repetition
from dream_envs.curriculum.deck import Deck
from dream_envs.rewards.labels import pseudo_label

from dream_envs import cli
from dream_envs.agents.training.rows import RowConfig, RowMaker
from dream_envs.baselines import loop, recipes
from dream_envs.baselines.loops import azr, ttrl
from dream_envs.baselines.nano.recipe import weights_hash
from dream_envs.core import Action, DreamEnvsError, Episode, Start
from dream_envs.curriculum import gates
from dream_envs.curriculum.store import ChallengeStore, read_challenges
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import read_episodes, rollout
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

FAMILY = Composition(max_level=6)
TASK = FAMILY.make("c", "BD")
RIGHT, WRONG = TASK.answer, TASK.answer[:-1] + ("a" if TASK.answer[-1] != "a" else "b")


class Says:
    """Replies in the order of the seats."""

    def __init__(self, *replies: str) -> None:
        self.replies = replies

    def act(self, requests: Any) -> list[Action]:
        return [Action(self.replies[int(r.agent.rpartition("_")[2]) % len(self.replies)]) for r in requests]


def played(proposal: str, *replies: str, reward: Any, index: int = 0, gate: Any = None) -> Episode:
    """One episode with these replies, scored."""
    game = ChallengerSolver(FAMILY, solvers=max(1, len(replies)), gate=gate)
    seats = {"challenger": Says(proposal), "solver": Says(*(replies or ("",)))}
    return next(iter(rollout(game, seats, [Start(index)], seed="recipes", reward=reward)))


def value(episode: Episode, agent: str = "challenger_0") -> float:
    assert episode.scores[agent].status == "ok"
    return episode.scores[agent].value


# ------------------------------------------------------------------------------------------------------------ rewards


@pytest.mark.parametrize(
    ("proposal", "replies", "expected"),
    [
        ("c:BD", [RIGHT, WRONG, WRONG, WRONG], 0.75), ("c:BD", [RIGHT, RIGHT, RIGHT, WRONG], 0.25),
        ("c:BD", [RIGHT] * 4, -0.5), ("c:BD", [WRONG] * 4, -0.5),  # the code's, not the text's: issue 37
        ("c:BDABDABD", [], -1.0),  # longer than any problem
        ("", [], -1.0), ("c;BD", [], -1.0), ("c:", [], -1.0), ("hello", [], -1.0),
    ],
)  # fmt: skip
def test_absolute_zero_pays_the_proposer_as_its_code_does(proposal: str, replies: list[str], expected: float) -> None:
    assert value(played(proposal, *replies, reward=azr.rewards(azr.Knobs()))) == pytest.approx(expected)


def test_absolute_zero_holds_a_reserved_problem_for_wrong_and_not_for_malformed() -> None:
    episode = played("c:BD", reward=azr.rewards(azr.Knobs()), gate=gates.held_out([TASK]))
    assert value(episode) == -0.5


def test_absolute_zero_in_the_papers_text_pays_nothing_at_the_ends() -> None:
    reward = azr.rewards(azr.Knobs(zero_ends=0.0))
    assert value(played("c:BD", RIGHT, RIGHT, reward=reward)) == 0.0


def test_absolute_zero_tells_a_wrong_answer_from_a_malformed_one() -> None:
    episode = played("c:BD", RIGHT, WRONG, "no idea", "", reward=azr.rewards(azr.Knobs()))
    assert [value(episode, f"solver_{i}") for i in range(4)] == [1.0, -0.5, -1.0, -1.0]


def test_the_role_baseline_is_one_for_all_problems_and_never_for_both_roles() -> None:
    """TRR++: a group that all got right still learns, since it is above the role's mean."""
    episodes = [
        msgspec.structs.replace(e, turns=[msgspec.structs.replace(t, token_ids=[i, 7]) for i, t in enumerate(e.turns)])
        for e in (
            played("c:BD", RIGHT, RIGHT, reward=azr.rewards(azr.Knobs())),
            played("a:BD", RIGHT, "x", reward=azr.rewards(azr.Knobs()), index=1),
        )
    ]
    config = RowConfig(rows=16, groups=4, review=0, challenger_weight=0.0)
    maker = RowMaker(config, FAMILY, lambda m: (1,), lambda t: [2], [], baseline="role")
    rows = maker.rows(episodes, stream("rows"))
    solver = np.array([s.value for e in episodes for a, s in e.scores.items() if a.startswith("solver")])
    expected = (solver - solver.mean()) / (solver.std() + 1e-4)
    assert sorted(r.advantage for r in rows) == pytest.approx(sorted(expected)) and len(rows) == 4


def test_only_the_trained_half_of_the_votes_is_scored_but_all_of_them_vote() -> None:
    episode = played("c:BD", RIGHT, WRONG, WRONG, WRONG, RIGHT, RIGHT, RIGHT, "", reward=ttrl.vote(trained=2))
    assert [value(episode, f"solver_{i}") for i in range(2)] == [1.0, 0.0]  # 4 to 3; of the trained alone it were a tie
    assert {episode.scores[f"solver_{i}"].status for i in range(2, 8)} == {"abstain"}


def test_a_vote_that_agrees_on_a_wrong_answer_pays_it() -> None:
    episode = played("c:BD", WRONG, WRONG, RIGHT, reward=ttrl.vote(trained=3))
    assert [value(episode, f"solver_{i}") for i in range(3)] == [1.0, 1.0, 0.0]


def r_zero_reward() -> Any:
    from dream_envs.rewards.algebra import per_role
    from dream_envs.rewards.learnability import learnability

    return per_role({"challenger": learnability(form="r_zero", rate="majority", invalid=0.0)})


def test_r_zero_takes_off_the_share_of_the_cluster_and_stops_at_the_floor() -> None:
    """Four proposals, two of them equal: 1 - 2|p - 1/2| of the agreement, less 2/4 or 1/4 of the round."""
    reward, half = r_zero_reward(), [RIGHT, RIGHT, "x", "y"]
    proposals = [("c:BD", half), ("c:BD", half), ("a:HHHHHH", half), ("no problem", [])]
    episodes = [played(p, *r, reward=reward, index=i) for i, (p, r) in enumerate(proposals)]
    assert [value(e) for e in episodes] == [1.0, 1.0, 1.0, 0.0]
    assert [value(e) for e in less_repetition(episodes)] == pytest.approx([0.5, 0.5, 0.75, 0.0])
    assert [value(e) for e in less_repetition(episodes, floor=-2.0)] == pytest.approx([0.5, 0.5, 0.75, -0.25])
    assert [e.index for e in less_repetition(episodes[::-1])] == [3, 2, 1, 0]


def test_a_pseudo_label_is_believed_even_where_it_is_wrong() -> None:
    episode = played("c:BD", RIGHT, WRONG, reward=pseudo_label({TASK.id: WRONG}))
    assert [value(episode, f"solver_{i}") for i in range(2)] == [0.0, 1.0]
    other = played("a:BD", RIGHT, reward=pseudo_label({TASK.id: WRONG}))
    assert other.scores["solver_0"].status == "abstain"
    assert len(pseudo_label({str(i): "x" for i in range(500)}).grader) < 60


# --------------------------------------------------------------------------------------------------------------- deck


def test_a_deck_plays_every_problem_once_before_any_again_and_knows_its_place() -> None:
    tasks = [FAMILY.generate(stream("deck", i), 3) for i in range(5)]
    deck = Deck(FAMILY, tasks, 2, seed="d", store=ChallengeStore(None))
    starts = [s for r in range(5) for s in deck.plan(r)]
    said = [FAMILY.parse(s.given["challenger_0"].text).id for s in starts]  # type: ignore[union-attr]
    assert [s.index for s in starts] == list(range(10))
    assert set(said[:5]) == set(said[5:]) == {t.id for t in tasks} and said[:5] != said[5:]
    again = Deck(FAMILY, tasks, 2, seed="d", store=ChallengeStore(None)).plan(3)
    assert [s.given["challenger_0"].text for s in again] == [s.given["challenger_0"].text for s in starts[6:8]]  # type: ignore[index]
    with pytest.raises(DreamEnvsError, match="without problems"):
        Deck(FAMILY, [], 2, seed="d", store=ChallengeStore(None))


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["arz"], "azr"), (["azr", "--agent", "gpro"], "grpo"), (["azr", "--set", "atempts=4"], "attempts"),
        (["azr", "--set", "attempts=many"], "attempts"), (["azr", "--model", "nano/compos"], "nano/compose"),
        (["ttrl", "--set", "trained=99"], "trained"), (["no.such:RECIPE"], "no.such"), (["json:dumps"], "dumps"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_no_folder(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *words, "--out", str(tmp_path / "run"), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and not (tmp_path / "run").exists()


def test_every_recipe_is_listed_loads_and_says_what_it_changes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for name, (target, text) in recipes.ROWS.items():
        found = recipes.recipe(name)
        module = __import__(target.partition(":")[0], fromlist=["x"])
        assert found.name == name and name in shown and text in shown
        assert "Departures from the paper:" in (module.__doc__ or "").split("\n\n", 3)[1] + (module.__doc__ or "")
        assert len(Path(module.__file__).read_text("utf-8").splitlines()) <= 150
        if isinstance(found, recipes.Recipe):
            assert sum(s.steps for s in found.stages(found.knobs(), 47, "x")) == 47


# --------------------------------------------------------------------------------------------------------------- runs


def run(name: str, out: Path, stop_at: int | None = None) -> loop.Stand:
    """Two steps without the measurement behind them; ``stop_at`` is a Ctrl-C seen in that step."""
    asked: list[int] = []
    if stop_at is None:
        return walked(job_of(name), out)
    patch = pytest.MonkeyPatch()
    patch.setattr(loop, "_until_interrupted", lambda: _stopping(lambda: len(asked) > stop_at))
    stand: list[loop.Stand] = []
    with patch.context(), pytest.raises(KeyboardInterrupt):
        walked(job_of(name), out, lambda step, found: asked.append(step), stand)
    patch.undo()
    return stand[0]


class _stopping:
    def __init__(self, stop: Any) -> None:
        self.stop = stop

    def __enter__(self) -> Any:
        return self.stop

    def __exit__(self, *_: object) -> None:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALL))
def test_a_stop_saves_and_the_same_weights_come_out(name: str, tmp_path: Path) -> None:
    whole, broken = run(name, tmp_path / "whole"), run(name, tmp_path / "broken", stop_at=0)
    assert not broken.folders or len(job_of(name).stages) > 1
    again = run(name, tmp_path / "broken")
    assert list(whole.folders) == list(again.folders)
    base = weights_hash(Path(loop.resolve(job_of(name).base)))
    for weights, folder in whole.folders.items():
        assert weights_hash(Path(folder)) == weights_hash(Path(again.folders[weights])) != base
    assert texts(tmp_path / "whole") == texts(tmp_path / "broken")
    steps = [json.loads(x)["step"] for x in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1]
    met = {c.id for c in read_challenges(tmp_path / "whole" / "challenges.jsonl")}
    episodes = list(read_episodes(tmp_path / "whole" / "episodes.jsonl"))
    assert met and {t.id for e in episodes for t in e.tasks if t.origin not in ("brief", "replay")} <= met
    reserved = {t.id for t in whole.yardstick.reserved()}
    assert not met & reserved
