"""``train`` under torchrun: two processes over gloo, one run folder, one set of weights."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from _children import child
from _recipes import SMALL
from _tiny import metrics, same, texts, weights
from safetensors.torch import load_file, save_file

from dream_envs import cli
from dream_envs.baselines import loop
from dream_envs.curriculum.store import read_challenges
from dream_envs.schema import read_summary

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo"),
]


def one_rank(rank: int, port: int, out: str, words: list[str]) -> None:
    """The verb with what ``torchrun`` would have put into its environment; leaves the weights that it ended with."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    walk = loop.walk

    def walked(ctx: loop.Context, *given: Any) -> Any:
        found = walk(ctx, *given)
        save_file(weights(ctx.agent(ctx.recipe.final).model), f"{out}/weights-{rank}.safetensors")
        return found

    loop.walk = walked
    sys.exit(cli.main(["train", *words, "--out", f"{out}/run", "--no-frontier"]))


def two(out: Path, *words: str) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of both ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out.mkdir(exist_ok=True)
    ranks = [child(one_rank, r, port, str(out), list(words), out=out / f"said-{r}") for r in range(2)]
    for process in ranks:
        process.join(240)
    said = [((out / f"said-{r}").read_text(), (out / f"said-{r}.err").read_text()) for r in range(2)]
    return [(p.exitcode or 0, *s) for p, s in zip(ranks, said, strict=True)]


def words_of(name: str, steps: int) -> list[str]:
    given = {**SMALL[name], "eval.problems": 4}
    return [name, "--steps", str(steps), *[w for k, v in given.items() for w in ("--set", f"{k}={json.dumps(v)}")]]


#: Without nights: a run in one phase.
DREAM = ["dream", "--steps", "3", "--set", "attempts=4", "--set", "eval.problems=4", "--set", "learner.save_every=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two")
    told = two(out, *DREAM)
    assert [status for status, *_ in told] == [0, 0], told[0][2][-2000:] + told[1][2][-2000:]
    assert "report.html" in told[0][1] and told[1][1:] == ("", ""), told[1]  # one of them speaks
    return out


def test_both_end_in_the_weights_that_were_written(trained: Path) -> None:
    a, b = (load_file(trained / f"weights-{r}.safetensors") for r in (0, 1))
    saved = load_file(trained / "run" / "checkpoints" / "final" / "model.safetensors")
    assert same(a, b) and all(torch.equal(saved[k], a[k]) for k in saved)
    (base,) = (Path(cli.__file__).parents[1] / "baselines" / "nano" / "compose").glob("*.safetensors")
    assert not all(torch.equal(saved[k], v) for k, v in load_file(base).items())


def test_there_is_one_run_with_every_episode_once(trained: Path) -> None:
    run = trained / "run"
    indices = [i for i, _ in texts(run)]
    assert indices == sorted(set(indices)) and len(indices) > 60
    assert [row["step"] for row in metrics(run)] == [0, 1, 2]
    ids = [c.id for c in read_challenges(run / "challenges.jsonl")]
    assert len(ids) == len(set(ids)) > 0
    found = read_summary(run)
    assert found is not None and found.samples["total"] == sum(len(t) for _, t in texts(run)) - _given(run)


def _given(run: Path) -> int:
    """First moves that nobody sampled."""
    from dream_envs.play import read_episodes

    return sum(e.kind == "given" for episode in read_episodes(run / "episodes.jsonl") for e in episode.events)


def test_going_on_ends_in_the_same_weights(trained: Path, tmp_path: Path) -> None:
    """Cut back to a checkpoint of both: refused without --resume, and gone on with."""
    cut = tmp_path / "cut"
    shutil.copytree(trained, cut)
    for name in ("checkpoints/final", "summary.json", "report.html"):
        path = cut / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    whole = sorted((cut / "run" / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    assert len(whole) >= 2
    shutil.rmtree(whole[-1])
    assert {(s, "--resume" in err) for s, _, err in two(cut, *DREAM)} == {(2, True)}
    assert [s for s, *_ in two(cut, *DREAM, "--resume")] == [0, 0]
    for rank in (0, 1):
        assert same(*[load_file(f / f"weights-{rank}.safetensors") for f in (trained, cut)])
    assert texts(cut / "run") == texts(trained / "run")


@pytest.mark.parametrize("name", ["r_zero", "serl"])
def test_loops_of_every_kind_train_as_one(name: str, tmp_path: Path) -> None:
    """Several phases; problems of a list with judges."""
    told = two(tmp_path, *words_of(name, 2))
    assert [status for status, *_ in told] == [0, 0], told[0][2][-2000:] + told[1][2][-2000:]
    assert same(*[load_file(tmp_path / f"weights-{r}.safetensors") for r in (0, 1)])
    assert read_summary(tmp_path / "run") is not None


def test_what_sleeps_is_refused_by_both(tmp_path: Path) -> None:
    told = two(tmp_path, *words_of("dream", 2))
    assert all(s == 2 and "in one process" in err and err.count("\n") == 1 for s, _, err in told)
    assert not (tmp_path / "run" / "run.json").exists()
