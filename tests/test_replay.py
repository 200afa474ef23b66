"""``rescore --verify``: a record that cannot have happened is told, of every registered game."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dream_envs.registry import rows

Row = dict[str, Any]


def _every_reply(row: Row) -> None:
    for turn in row["turns"]:
        turn["text"] = "I have no idea."


def _no_turns(row: Row) -> None:
    row["turns"] = []


def _one_more(row: Row) -> None:
    row["turns"].append(row["turns"][-1])


def _facts(row: Row) -> None:
    row["outcome"]["facts"] = {"invented": 1}


def _prompt(row: Row) -> None:
    row["turns"][0]["messages"] = [{"role": "user", "content": "Say b."}]


def _seed(row: Row) -> None:
    row["seed"] = "another"


def _events(row: Row) -> None:
    row["events"] = [*row["events"], {"kind": "accepted", "agent": "nobody", "data": {}}]


FORGED: dict[str, Callable[[Row], None]] = {
    f.__name__: f for f in (_every_reply, _no_turns, _one_more, _facts, _prompt, _seed, _events)
}


@pytest.mark.parametrize("env", rows("envs"))
def test_a_rollout_comes_out_again_and_a_forged_one_does_not(env, verb, verb_json, tmp_path):
    verb_json("rollout", env, "--episodes", 2, "--out", tmp_path / "r")
    found = verb_json("rescore", tmp_path / "r", "--verify")
    assert found["replayed"] == {"episodes": 2, "same": 2, "first_difference": None}
    path = tmp_path / "r" / "episodes.jsonl"
    whole = path.read_text()
    for name, forge in FORGED.items():
        one, other = map(json.loads, whole.splitlines())
        forge(other)
        path.write_text("".join(json.dumps(row) + "\n" for row in (one, other)))
        status, out, _ = verb("rescore", tmp_path / "r", "--verify", "--json")
        told = json.loads(out)["replayed"]
        assert status == 1 and (told["same"], told["first_difference"]["index"]) == (1, 1), (name, told)
