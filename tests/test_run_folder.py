"""A run's folder in other hands: two processes, and files that were damaged, lost or cut since they were written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dream_envs.core import DreamEnvsError
from dream_envs.runs import Run, locked, seal, unseal

HOLD = "import sys; from dream_envs.runs import Run; r = Run(sys.argv[1], {}); print('held', flush=True); input()"


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_a_second_process_is_refused_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    out = tmp_path / "run"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], **pipes) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        before = {p: p.read_bytes() for p in out.iterdir()}
        with pytest.raises(DreamEnvsError, match=f"process {other.pid} writes into it now.*--out"):
            Run(out, {})
        for verb in (["rollout", "Kuhn-v0", "--episodes", "2"], ["train", "self_play", "--steps", "1", "--resume"]):
            line = [sys.executable, "-m", "dream_envs.cli", *verb, "--out", str(out)]
            said = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
            assert said.returncode == 2 and "writes into it now" in said.stderr and "Traceback" not in said.stderr
        assert {p: p.read_bytes() for p in out.iterdir()} == before
        other.kill()
    Run(out, {}).close()
    first = locked(tmp_path / "lock")  # what an exception left open in this process is taken over
    locked(tmp_path / "lock").close()
    assert first.closed


def test_a_log_that_lost_its_end_is_no_place_to_go_on_from(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    run.log({"step": 0})
    state = run.state()
    run.restore(state)
    for name in ("metrics", "episodes"):
        with pytest.raises(DreamEnvsError, match=f"{name}.jsonl has .* bytes of .* that the checkpoint knows"):
            run.restore({**state, name: state[name] + 5})
    run.close()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], None]] = {"missing": Path.unlink, "cut": _cut, "flipped": _flip}


@pytest.mark.parametrize("how", DAMAGE)
def test_every_file_of_a_sealed_folder_is_missed(how: str, tmp_path: Path) -> None:
    """Whatever happens to one of them is told by its name; what lies in checkpoints has a seal of its own."""
    (tmp_path / "adapters").mkdir()
    (tmp_path / "checkpoints").mkdir()
    names = ("weights", "adapters/a", "checkpoints/x")
    for name in names:
        (tmp_path / name).write_bytes(b"what was written")
    seal(tmp_path / "state.json", {"step": 3})
    assert unseal(tmp_path / "state.json")["step"] == 3 and unseal(tmp_path / "nothing.json") is None
    for name in names:
        before = (tmp_path / name).read_bytes()
        DAMAGE[how](tmp_path / name)
        if name == names[2]:
            assert unseal(tmp_path / "state.json")["step"] == 3
        else:
            with pytest.raises(DreamEnvsError, match=f"{name} is .*: restore it"):
                unseal(tmp_path / "state.json")
        (tmp_path / name).write_bytes(before)
    for text in ("{}", "[]", '{"files": 1}', "{"):
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(DreamEnvsError, match=r"state\.json is"):
            unseal(tmp_path / "state.json")


def test_training_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path: Path) -> None:
    """Each file of the newest checkpoint, damaged in each way: the weights of an undisturbed run; else one line."""
    pytest.importorskip("torch")
    import shutil

    from _recipes import options

    from dream_envs.baselines import loop

    class Stop(Exception):
        pass

    def go(out: Path, stop: int | None = None) -> str:
        def tick(what: str, done: int, total: int, note: str = "") -> None:
            if stop is not None and what == "training" and done >= stop:
                raise Stop

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TOKENIZERS_PARALLELISM", "false")
            return loop.train(options("self_play", 4), out, tick=tick, save_every=1).run.trained_hash

    whole = go(tmp_path / "whole")
    with pytest.raises(Stop):
        go(tmp_path / "stopped", 3)
    checkpoints = sorted((tmp_path / "stopped" / "checkpoints").glob("checkpoint-*"))
    assert len(checkpoints) >= 2
    files = sorted(p.name for p in checkpoints[-1].iterdir() if p.suffix in (".pt", ".pth", ".safetensors", ".json"))
    chosen = [name for name in files if name.split(".")[0] in ("optimizer", "rng_state", "model", "trainer_state")]
    assert len(chosen) == 4
    for number, (name, how) in enumerate(zip(chosen, ("missing", "flipped", "flipped", "missing"), strict=True)):
        out = tmp_path / f"damaged-{number}"
        shutil.copytree(tmp_path / "stopped", out)
        DAMAGE[how](out / "checkpoints" / checkpoints[-1].name / name)
        with pytest.warns(UserWarning, match=f"{name} is .*going on from {checkpoints[-2].name}"):
            assert go(out) == whole
    shutil.copytree(tmp_path / "stopped", tmp_path / "lost")
    for path in checkpoints:
        _flip(tmp_path / "lost" / "checkpoints" / path.name / "model.safetensors")
    with pytest.raises(DreamEnvsError, match=r"model\.safetensors is not what was written: restore it"):
        go(tmp_path / "lost")
