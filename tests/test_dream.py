"""The flagship from end to end: what it writes, that it repeats itself, that a kill changes nothing, every variant."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from _children import child, ended
from _recipes import options, walked
from _tiny import metrics, texts

from dream_envs.baselines import loop
from dream_envs.baselines.loops.dream import VARIANTS
from dream_envs.baselines.recipe import Options
from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.store import read_challenges
from dream_envs.play import read_episodes
from dream_envs.schema import Stat, Summary, read_summary
from dream_envs.seeds import stream

DECODERS = ["T=1", "best_T", "forced", "given"]
WHOLE = Options("dream", steps=3, set={"variant": "sleep", "eval.problems": 64})


def small(out: Path, variant: str = "full", set: dict[str, Any] | None = None, **more: Any) -> Summary:
    """A run of two steps and few problems, in this process, on one thread."""
    torch.set_num_threads(1)
    return loop.train(options("dream", set={"variant": variant, **(set or {})}, **more), out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """The command itself, for three steps."""
    out = tmp_path_factory.mktemp("dream") / "run"
    return out, loop.conduct(WHOLE, out, quiet=True)


@pytest.mark.slow
def test_a_run_leaves_everything_that_was_promised(whole: tuple[Path, Summary]) -> None:
    out, found = whole
    for name in ("run.json", "episodes.jsonl", "challenges.jsonl", "metrics.jsonl", "summary.json", "report.html"):
        assert (out / name).stat().st_size > 100, name
    assert list((out / "metrics").glob("events.*")) and (out / "checkpoints" / "final" / "model.safetensors").exists()
    assert found == read_summary(out)
    run = json.loads((out / "run.json").read_text())
    told = (run["command"], run["loop"], run["learner"], run["seed"], run["steps"])
    assert told == ("train", "dream", "grpo", "0", 3)
    assert run["versions"]["torch"] and run["weights_hash"] == found.run.weights_hash
    assert run["rule"]["lr"] > 0 and run["nights"]["every"] > 0  # what it learnt by can be read off the folder
    rows = [row for row in metrics(out) if "samples" in row]
    assert [r["step"] for r in rows] == [0, 1, 2] and rows[-1]["samples"] == found.samples["total"]
    assert {f"eval/{d}" for d in range(1, 11)} <= set(rows[0]) and found.label_accuracy == 1.0
    assert {"reward/solver/mean", "reward/challenger/mean", "groups/solver", "train/loss", "seconds"} <= set(rows[0])


@pytest.mark.slow
def test_steps_are_counted_over_nights(tmp_path: Path) -> None:
    """The learning curve and the progress know the run's step, not the day's."""
    steps = list[int]()
    tick = lambda what, step, of, note: steps.append(step) if what == "training" else None  # noqa: E731
    walked(options("dream", steps=4, set={"eval.every": 3}), tmp_path, tick)
    rows = [row for row in metrics(tmp_path) if "samples" in row]
    assert len(list((tmp_path / "nights").iterdir())) == 2 and steps == [0, 1, 2, 3]
    assert [row["step"] for row in rows if "eval/1" in row] == [0, 3]


def check_decoder(found: Stat) -> None:
    low, high = found.ci
    assert 0 <= low <= found.mean <= high <= 1 + 1e-9 and 0 <= found.solved <= 1
    assert found.mean <= found.max + 1e-12 and found.median_log10 is not None and found.median_log10 <= 1e-9


@pytest.mark.slow
def test_the_evaluation_agrees_with_itself(whole: tuple[Path, Summary]) -> None:
    """Ranges, order of decoders, tiers, pass@k at 1, and the base's support."""
    _, summary = whole
    found = summary.evaluation
    assert found is not None and found.kind == "exact" and found.decoders == DECODERS and found.beyond is not None
    assert summary.samples["total"] == summary.samples["solver"] + summary.samples["challenger"] > 0
    assert [r.level for r in found.levels if r.split == "any"] == list(range(1, 11))
    for row in found.levels:
        assert row.n == 64 == sum(row.tiers.values()) and row.chance == pytest.approx(16.0**-row.level)
        assert all((row.moved[t] is None) == (row.tiers[t] == 0) for t in ("T0", "T1", "T2"))
        for who in (row.base, row.trained):
            for decoder in DECODERS:
                check_decoder(who[decoder])
            means = [who[d].mean for d in DECODERS]
            assert means == sorted(means)  # every help helps
    base = {r.level: r.base["T=1"].mean for r in found.levels if r.split == "any"}
    assert base[1] > 0.8 and base[3] > 0.5 and base[8] < 0.01  # its support, and far outside of it
    for level, curve in found.pass_at_k.items():
        assert len(curve["base"]) == len(found.k) and curve["base"] == sorted(curve["base"])
        assert curve["base"][0] == pytest.approx(base[int(level)], rel=1e-6)
    assert 0 <= found.beyond.structural <= found.beyond.count <= sum(r.tiers["T2"] for r in found.levels)
    assert found.beyond.of == 64 * len(found.levels)


@pytest.mark.slow
def test_a_finished_folder_only_reports_and_refuses_other_settings(whole: tuple[Path, Summary]) -> None:
    out, found = whole
    before = (out / "episodes.jsonl").read_bytes()
    assert loop.conduct(WHOLE, out, quiet=True) == found
    for other in ({"seed": "9"}, {"set": {"variant": "no_mutation"}}, {"steps": 4}, {"learner": "rloo"}):
        with pytest.raises(DreamEnvsError, match=r"\A[^\n]*--out[^\n]*\Z"):
            loop.conduct(Options(**{"loop": "dream", "steps": 3, "set": WHOLE.set, **other}), out, quiet=True)
    assert (out / "episodes.jsonl").read_bytes() == before
    (out.parent / "begun").mkdir()
    (out.parent / "begun" / "run.json").write_text("{}")
    with pytest.raises(DreamEnvsError, match="--resume"):
        loop.conduct(WHOLE, out.parent / "begun", quiet=True)


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path: Path) -> None:
    one, again = (small(tmp_path / name) for name in ("one", "again"))
    assert one.run.trained_hash == again.run.trained_hash != one.run.weights_hash
    assert texts(tmp_path / "one") == texts(tmp_path / "again")
    assert one == again or (one.run != again.run and (one.evaluation, one.roles) == (again.evaluation, again.roles))
    files = [(tmp_path / name / "challenges.jsonl").read_bytes() for name in ("one", "again")]
    assert files[0] == files[1]
    other = small(tmp_path / "other", seed="1")
    assert other.run.trained_hash != one.run.trained_hash
    first, second = ([t for _, t in texts(tmp_path / name)] for name in ("one", "other"))
    assert sum(a == b for a, b in zip(first, second, strict=False)) < len(first) / 4
    assert one.evaluation is not None and other.evaluation is not None
    assert [r.base for r in one.evaluation.levels] == [r.base for r in other.evaluation.levels]  # the same problems


def train(out: Path) -> None:
    loop.train(options("dream", steps=6, set={"variant": "full"}), out, save_every=2)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_sigkill_at_any_moment_changes_nothing(tmp_path: Path) -> None:
    """Three kills, each a random while after a step was written: before, between and after checkpoints."""
    whole, killed, told = tmp_path / "whole", tmp_path / "killed", tmp_path / "told"
    ended(train, whole, out=told)
    rng, kills = stream("kills", time.time_ns()), 0
    for wanted in (1, 3, 5):
        process = child(train, killed, out=told)
        while lines(killed / "metrics.jsonl") < wanted and process.is_alive():
            time.sleep(0.02)
        time.sleep(float(rng.random()) * 0.7)
        if process.is_alive():
            kills += 1
            process.kill()
        process.join()
    ended(train, killed, out=told)
    found, expected = (read_summary(p) for p in (killed, whole))
    assert found is not None and expected is not None
    assert kills > 0 and found.run.trained_hash == expected.run.trained_hash
    assert texts(killed) == texts(whole) and found.samples == expected.samples
    assert lines(killed / "metrics.jsonl") == lines(whole / "metrics.jsonl")
    assert (killed / "challenges.jsonl").read_bytes() == (whole / "challenges.jsonl").read_bytes()
    assert found.evaluation == expected.evaluation and found.roles == expected.roles


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_runs(name: str, tmp_path: Path) -> None:
    """With its own mixture, and none of the problems that it is measured with."""
    small(tmp_path, name)
    mixture = VARIANTS[name].mixture
    episodes = list(read_episodes(tmp_path / "episodes.jsonl"))
    assert len(episodes) == 2 * mixture.total
    own = [e for e in episodes if not any(x.kind == "given" for x in e.events)]
    assert bool(own) == bool(mixture.challenger)
    challenges = list(read_challenges(tmp_path / "challenges.jsonl"))
    depths = {c.level for c in challenges if c.author == "generator"}
    assert depths == (set(mixture.levels) if mixture.generator else set())
    accuracy = read_summary(tmp_path)
    assert accuracy is not None and accuracy.label_accuracy is not None
    if name == "random_reward":
        assert 0.3 < accuracy.label_accuracy < 0.7
    elif name != "majority_reward":
        assert accuracy.label_accuracy == 1.0
    ctx = loop.Context(options("dream", set={"variant": name}), tmp_path)
    reserved = {t.id for t in ctx.eval.reserved()}
    asked = {t.id for e in episodes for t in e.tasks[1:]}
    assert len(reserved) > 20 and len(asked) > 20 and not asked & reserved
    ctx.run.close()


@pytest.mark.slow
def test_expert_iteration_runs(tmp_path: Path) -> None:
    """Two steps are one round of play and one of review alone."""
    found = small(tmp_path, learner="expert")
    assert len(list(read_episodes(tmp_path / "episodes.jsonl"))) == VARIANTS["full"].mixture.total
    assert found.run.trained_hash != found.run.weights_hash
