"""Fixtures of several files: verbs of the command line, called in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dream_envs import cli


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def verb(capsys, monkeypatch, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """A verb, in an empty folder: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def verb_text(verb) -> Callable[..., str]:
    """What a verb that succeeds writes to stdout."""

    def call(*argv: object) -> str:
        status, out, err = verb(*argv)
        assert status == 0, err
        return out

    return call


@pytest.fixture
def verb_json(verb_text) -> Callable[..., Any]:
    """The JSON of a verb, of which there has to be one line and nothing else on stdout."""

    def call(*argv: object) -> Any:
        out = verb_text(*argv, "--json")
        assert out.count("\n") == 1
        return json.loads(out)

    return call


@pytest.fixture
def played_run(verb_text, tmp_path) -> Path:
    """A run folder with 20 episodes; beside it ``bad`` with 10 whose proposals were all turned away."""
    game = "ChallengerSolver-v0"
    seats = "challenger=impossible,solver=oracle"
    verb_text("rollout", game, "--seats", seats, "--episodes", 10, "--out", "bad")
    seats, settings = "solver_0=oracle", "level=2"
    verb_text("rollout", game, "--seats", seats, "--set", settings, "--episodes", 20, "--out", "run", "--seed", "s")
    return tmp_path / "run"
