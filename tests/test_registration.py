"""What a bare import of dream_envs gives, and what it costs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import warnings

import gymnasium
import pettingzoo
import pytest
from gymnasium.envs.registration import EnvSpec

import dream_envs
from dream_envs import registry

SOLVER = "dream_envs/ChallengerSolver-Solver-v0"


def run_python(code, **env):
    command, env = [sys.executable, "-c", textwrap.dedent(code)], {**os.environ, **env}
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_bare_import_registers_everything_and_imports_little():
    out = run_python(
        """
        import sys
        import dream_envs
        heavy = {"torch", "transformers", "trl"}
        rooms = tuple(f"dream_envs.{room}" for room in ("envs", "play", "tasks", "rewards", "agents", "testing"))
        loaded = [m for m in sys.modules if m.split(".")[0] in heavy or m.startswith(rooms)]
        assert not loaded, loaded
        import gymnasium, pettingzoo
        for role in ("Solver", "Challenger", "Judge"):
            assert gymnasium.make(f"dream_envs/ChallengerSolver-{role}-v0").reset(seed=0)[0]
        assert gymnasium.make_vec("dream_envs/ChallengerSolver-Solver-v0", num_envs=2).reset(seed=0)[0][0]
        for face in ("aec", "parallel"):
            env = pettingzoo.make(face, "dream_envs/ChallengerSolver-v0", solvers=2)
            env.reset(seed=0)
            assert env.agents == ["challenger_0", "solver_0", "solver_1"]
        assert "torch" not in sys.modules
        print(dream_envs.__version__, dream_envs.Task.__name__, dream_envs.check.__name__)
        """
    )
    assert out.split()[1:] == ["Task", "check"]


def test_importing_again_changes_nothing():
    before = len(gymnasium.registry), len(pettingzoo.aec_registry), len(registry.listeners)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(dream_envs)
    assert (len(gymnasium.registry), len(pettingzoo.aec_registry), len(registry.listeners)) == before


def test_specs_go_through_json():
    spec = EnvSpec.from_json(gymnasium.make(SOLVER, solvers=2, levels=[3]).spec.to_json())
    env = gymnasium.make(spec)
    assert len(env.reset(seed=0)[0]) == 5 and len(env.unwrapped.game.solver_names) == 2


def test_pairs_are_split_outside_brackets_and_read_as_json_where_they_are():
    assert registry.pairs_of(["a=b(c=1,d=2), e=f"], "--seats") == {"a": "b(c=1,d=2)", "e": "f"}
    assert registry.values_of(["a=[1,2],b=x", "c=true"], "--set") == {"a": [1, 2], "b": "x", "c": True}


def test_lazy_names():
    for name in dream_envs.__all__:
        assert getattr(dream_envs, name) is not None
        assert name in dir(dream_envs)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        dream_envs.nothing_like_it  # noqa: B018


def test_games_of_other_packages_are_registered_without_being_imported(tmp_path):
    tests = os.path.dirname(__file__)
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[dream_envs.envs]\nacme/Sums-v0 = broken_envs:Sums [player]\nacme/malformed id! = nowhere:Nothing [x]\n"
    )
    run_python(
        """
        import sys, warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import dream_envs
        assert any("malformed" in str(w.message) for w in caught)  # one bad row does not stop the rest
        assert "broken_envs" not in sys.modules
        import gymnasium, pettingzoo
        env = gymnasium.make("acme/Sums-Player-v0")
        assert env.reset(seed=0)[0].startswith("round 0")
        assert pettingzoo.make("aec", "acme/Sums-v0").possible_agents == ["player_0", "player_1"]
        """,
        PYTHONPATH=os.pathsep.join([str(tmp_path), tests]),
    )


def test_games_registered_at_run_time(monkeypatch):
    import broken_envs

    monkeypatch.setitem(registry._added, "envs", {})
    name = "acme/Later-v0"
    try:
        registry.register("envs", name, "broken_envs:Sums [player]")
        assert gymnasium.make("acme/Later-Player-v0").reset(seed=0)[0].startswith("round 0")
        assert isinstance(pettingzoo.make("parallel", name).game, broken_envs.Sums)
    finally:
        for ids in (gymnasium.registry, pettingzoo.aec_registry, pettingzoo.parallel_registry):
            ids.pop(name, None)
        gymnasium.registry.pop("acme/Later-Player-v0", None)
