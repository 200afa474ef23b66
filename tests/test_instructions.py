"""Open-ended instructions: no reply is ever verified, judges alone pay, and forms alone turn a proposal away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs import registry
from dream_envs.core import DreamEnvsError, Reject
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.play import as_agent, rollout
from dream_envs.rewards.base import as_reward
from dream_envs.seeds import stream
from dream_envs.tasks.instructions import Instructions
from dream_envs.testing import check
from dream_envs.testing.parts import check_family


class Graded(Instructions):
    """One that says it is judged and verifies all the same."""

    def verify(self, task: Any, reply: str) -> Any:
        return registry.create("tasks", "arithmetic")._right


def test_the_kit_for_families_and_for_games(tmp_path: Path) -> None:
    check_family(Instructions()).raise_if_failed()
    assert {c.name for c in check_family(Graded()).failed} == {"gold", "strict", "chance"}
    slow = ("random_episodes", "reward_range", "seed_determinism", "snapshot")
    check(ChallengerSolver, family=Instructions(), judge="rubric", solvers=2, skip=slow, raise_on_failure=True)
    (tmp_path / "own.txt").write_text("\n".join(f"Tell me about the number {n}, please." for n in range(40)))
    check_family(Instructions(str(tmp_path / "own.txt"))).raise_if_failed()


def test_drawn_ones_have_their_level_and_are_many() -> None:
    family, seen = Instructions(), set()
    for level in family.levels:
        for i in range(200):
            task = family.generate(stream("i", level, i), level)
            found = family.parse(family.as_proposal(task))
            assert not isinstance(found, Reject) and found.level == task.level == level and found.id == task.id
            seen.add(task.prompt)
    assert len(seen) > 590


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("<think>Write a poem", "empty"),
        ("Write a poem. " * 60, "too_long"),
        ("Write a\x07 poem about it.", "charset"),
        ("Write a poem.<|im_end|>", "charset"),
        ("[INST] Write a poem [/INST]", "charset"),
        ("\u202eWrite a poem about it.", "charset"),
        ("1234 5678 !!! ???", "grammar"),
        ("x", "grammar"),
        ("\u5199\u4e00\u9996\u5173\u4e8e\u706b\u8f66\u7684\u8bd7", "grammar"),
        ("Write it.\n" * 30, "limits"),
    ],
)
def test_what_is_no_instruction(text: str, code: str) -> None:
    found = Instructions().parse(text)
    assert isinstance(found, Reject) and found.code == code, found


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=700))
def test_a_proposal_can_be_anything(text: str) -> None:
    family = Instructions()
    found = family.parse(text)
    if not isinstance(found, Reject):
        assert found.level in family.levels and family.parse(family.as_proposal(found)) == found
        assert family.verify(found, text).status == "abstain"


def test_judges_alone_pay() -> None:
    """Without a judge nobody has a score; with a panel the solvers' is its verdict; the truth stays unknown."""
    family = Instructions()
    for judge, status in ((False, "abstain"), ("rubric", "ok")):
        game = ChallengerSolver(family, solvers=3, judge=judge)
        seats = {r.name: as_agent("constant_judge" if r.name == "judge" else "guesser", game) for r in game.roles}
        seats["challenger"] = as_agent("generator", game)
        for episode in rollout(game, seats, 6, reward=as_reward("correctness"), seed=f"j{judge}"):
            assert episode.outcome.facts["valid"]
            assert {episode.scores[f"solver_{i}"].status for i in range(3)} == {status}
            if judge:
                assert set(episode.outcome.facts["truth"].values()) == {None}
                assert episode.scores["solver_0"].value == episode.outcome.facts["correct"]["solver_0"]
    pair = SelfJudge(family, actors=2, judgements=2)
    for episode in rollout(pair, {"actor": "guesser", "judge": "random_judge"}, 4, seed="s"):
        assert set(episode.outcome.facts["truth"].values()) == {None}
        assert episode.outcome.facts["judge_accuracy"]["of"] == 0


def test_files_are_read_and_what_is_none_is_named(tmp_path: Path) -> None:
    dreams = tmp_path / "kept.jsonl"
    rows = [{"instruction": "Name a bird.", "reply": "x"}, {"prompt": "Name a fish."}, {"instruction": "Name a bird."}]
    dreams.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert Instructions(str(dreams)).own == ("Name a bird.", "Name a fish.")
    bad = {"a.jsonl": '{"x": 1}', "b.jsonl": "[1]", "c.jsonl": "{", "d.txt": "\n \n", "e.txt": "x" * 700}
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DreamEnvsError, match=name):
            Instructions(str(tmp_path / name))
    with pytest.raises(DreamEnvsError, match="no such file"):
        Instructions(str(tmp_path / "none"))
