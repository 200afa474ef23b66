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


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe, a device, an array for an object: one line from each reader, at once."""
    pytest.importorskip("torch")
    from dream_envs.agents.engines.models import adapter_base, weights_hash
    from dream_envs.play import read_episodes
    from dream_envs.runs import read_json, read_object

    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "x.safetensors")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "list").write_text("[1]")
    (tmp_path / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{tmp_path}"}}')
    for call, told in (
        (lambda: read_json(tmp_path / "pipe"), "no regular file"),
        (lambda: read_json(tmp_path / "zero"), "no regular file"),
        (lambda: list(read_episodes(tmp_path / "pipe")), "no regular file"),
        (lambda: weights_hash(tmp_path), "no regular file"),
        (lambda: read_object(tmp_path / "list"), "holds list"),
        (lambda: adapter_base(tmp_path), "leads back"),
    ):
        with pytest.raises(DreamEnvsError, match=told) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_weights_are_checked_wherever_they_are_loaded(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from dream_envs.agents.engines.local import LocalAgent

    base = LocalAgent("nano/kuhn")
    for value, told in ((float("nan"), "not finite"), (float("inf"), "not finite"), (0.0, "all embeddings are zero")):
        weight = base.model.get_input_embeddings().weight.data
        before = weight.clone()
        weight[:] = value
        base.save(tmp_path / told)
        weight[:] = before
        with pytest.raises(DreamEnvsError, match=told):
            LocalAgent(str(tmp_path / told))


def test_a_record_is_data_and_is_read_again() -> None:
    """Arrays become lists, half characters U+FFFD; an object is refused by its name, not written as its text."""
    import msgspec
    import numpy as np

    from dream_envs.core import Score, encode

    assert encode({"a": np.arange(3), "b": np.float32(0.5), "p": Path("x")}) == b'{"a":[0,1,2],"b":0.5,"p":"x"}'
    half = msgspec.json.decode(encode({"k\ud800": ["\ud800", Score(1.0, detail={"d": "x\udfff"})]}))
    assert half == {"k\ufffd": ["\ufffd", msgspec.to_builtins(Score(1.0, detail={"d": "x\ufffd"}))]}
    with pytest.raises(DreamEnvsError, match="not object: convert it"):
        encode({"a": object()})


def test_an_episode_that_no_reader_would_take_is_not_written(tmp_path: Path) -> None:
    import msgspec

    from dream_envs.core import Usage
    from dream_envs.envs.kuhn import Kuhn
    from dream_envs.play import EpisodeWriter, read_episodes, rollout

    (episode,) = rollout(Kuhn(), {"first": "random", "second": "random"}, 1)
    with EpisodeWriter(tmp_path / "e.jsonl", tokens=True) as out:
        out.write(episode)
        for wrong in ({"finish_reason": 7}, {"usage": Usage("x", 1)}, {"token_ids": ["a"]}, {"author": 3}):  # type: ignore[arg-type]
            turns = [msgspec.structs.replace(episode.turns[0], **wrong), *episode.turns[1:]]
            with pytest.raises(DreamEnvsError, match="episode 0 of dream_envs/Kuhn-v0 cannot be recorded"):
                out.write(msgspec.structs.replace(episode, turns=turns))
    assert len(list(read_episodes(tmp_path / "e.jsonl"))) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_asynchronous_agent_that_exits_has_failed() -> None:
    """Without a deadline nobody would ever have been woken; in a task of its own it takes the event loop with it."""
    from dream_envs.envs.kuhn import Kuhn
    from dream_envs.play import rollout

    async def leaves(prompt: str) -> str:
        sys.exit(3)

    class Leaves:
        async def act(self, requests: Any) -> Any:
            import asyncio

            return await asyncio.gather(*[leaves("") for _ in requests])

    def played(agent: Any) -> set[str]:
        (episode,) = rollout(Kuhn(), {"first": agent, "second": "random"}, 1)
        return {t.status for t in episode.turns if t.role == "first"}

    with pytest.warns(UserWarning, match="SystemExit: 3"):
        assert played(leaves) == {"error"}
    with pytest.raises(DreamEnvsError, match=r"called sys\.exit"):
        played(Leaves())
    assert played("random") == {"ok"}, "the next one has a loop of its own"
