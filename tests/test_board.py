"""The leaderboard: budgets, worlds, runs that repeat to the bit, scores, ranks, rounds."""

from __future__ import annotations

import itertools
import json
import math
import resource
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("trl")

from scipy.stats import mannwhitneyu

from dream_envs import sandbox
from dream_envs.agents.engines import meter
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.sft import fine_tune
from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard import board, budget, commit_reveal, entry, measure, scores, worlds
from dream_envs.leaderboard.budget import Budget, Used
from dream_envs.leaderboard.goal import Point, outcome
from dream_envs.leaderboard.scores import Result

ROOT = Path(__file__).parent.parent / "leaderboard"
needs_sandbox = pytest.mark.skipif(sandbox.available() is not None, reason=str(sandbox.available()))
#: A class that ends within seconds.
TINY = Budget(samples=700, tokens=10**9, steps=10**9, seconds=300, points=3)


def point(samples: int, deep: float, kept: float = 0.95, tokens: int = 0, steps: int = 0) -> Point:
    return Point(Used(samples, 0, tokens, steps), {"1": 0.99, "2": kept, "3": 0.97, "8": deep})


def test_the_score_is_the_first_reading_within_the_budget_that_reaches_both_halves() -> None:
    small = Budget(samples=100, tokens=1000, steps=10, seconds=1)
    curve = [point(0, 0.0), point(40, 0.6, kept=0.89), point(60, 0.5), point(80, 0.9)]
    assert outcome(curve, small).samples == 60 and outcome(curve, small).best == 0.9
    assert outcome(curve[:2], small).samples is None and "never with depths 1 to 3" in outcome(curve[:2], small).miss
    assert "stayed below 0.5 (best 0.499)" in outcome([point(10, 0.499)], small).miss
    for late in (point(101, 0.9), point(50, 0.9, tokens=1001), point(50, 0.9, steps=11)):
        assert outcome([point(0, 0.0), late], small).samples is None, "what lies past the budget does not count"


def test_the_rank_test_is_the_exact_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.normal(size=5).tolist(), (rng.normal(size=5) + rng.normal()).tolist()
        assert scores.p_value(a, b) == pytest.approx(mannwhitneyu(a, b, method="exact").pvalue)
    inf = math.inf
    assert scores.p_value([inf] * 5, [inf] * 5) == 1.0
    assert scores.p_value([1, 2, 3, 4, 5], [inf] * 5) == pytest.approx(2 / 252)
    assert scores.p_value([1, inf, inf, inf, inf], [inf] * 5) == 1.0


def line(name: str, world: int, samples: int | None, **more: object) -> Result:
    told = {"hash": f"{name}{world}", "by": "us", "status": "ok", "best": 0.5, **more}
    return Result(name, "h1", "r", 1, world, "b", samples=samples, **told)  # type: ignore[arg-type]


def test_standings_rank_bands_and_reproductions() -> None:
    fast = [line("fast", w, 100 + w) for w in range(5)]
    slow = [line("slow", w, 200 + w) for w in range(5)]
    near = [line("near", w, 98 + 2 * w) for w in range(5)]
    miss = [line("miss", w, None) for w in range(5)]
    mixed = [line("mixed", w, 150 if w < 2 else None) for w in range(5)]
    again = [line("fast", 0, 100, by="others"), line("slow", 0, 200, by="others", hash="another")]
    found = scores.standings([*miss, *slow, *fast, *near, *mixed, *again], 1)
    assert [s.entry for s in found] == ["fast", "near", "slow", "mixed", "miss"]
    by = {s.entry: s for s in found}
    assert by["fast"].rank == by["near"].rank == (1, 2) and by["slow"].rank == (3, 4)
    assert by["mixed"].median == by["miss"].median == math.inf and by["mixed"].hits == 2 and by["miss"].rank == (4, 5)
    assert (by["fast"].reproduced, by["fast"].differs) == (1, 0) and (by["slow"].reproduced, by["slow"].differs) == (
        0,
        1,
    )
    assert scores.record(by["fast"], by["slow"]) and not scores.record(by["near"], by["fast"])
    assert not scores.standings([*fast], 3)


def test_an_error_is_done_again_and_old_files_do_not_count() -> None:
    old = msgspec.structs.replace(line("a", 0, 10), entry_hash="h0")
    broken = line("a", 0, None, status="error", detail="x")
    (one,) = scores.standings([old, broken, line("a", 0, 50)], 1)
    assert one.median == 50 and one.hits == 1
    (one,) = scores.standings([old, broken], 1)
    assert one.median == math.inf, "an error is no number, and an older entry's is not this one's"


def test_lines_outlive_a_cut_and_a_strange_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    scores.append(file, [line("a", 0, 1)])
    with open(file, "ab") as out:
        out.write(b'{"entry": "b", "ent')
    assert [r.entry for r in scores.load(file)] == ["a"]
    scores.append(file, [line("c", 0, 1)])
    with pytest.raises(DreamEnvsError, match="line 2"):
        scores.load(file)


def test_a_round_is_bound_to_its_secret_and_to_what_was_frozen(tmp_path: Path) -> None:
    secret, root = tmp_path / "own" / "secret", tmp_path / "board"
    with pytest.raises(DreamEnvsError, match="published"):
        commit_reveal.open_round(root, "one", root / "secret")
    opened = commit_reveal.open_round(root, "one", secret, "a number drawn on Friday")
    assert secret.stat().st_mode & 0o77 == 0 and secret.read_text().strip() not in json.dumps(
        msgspec.to_builtins(opened)
    )
    own = {"a": "h1", "b": "h2"}
    with pytest.raises(DreamEnvsError, match="not frozen"):
        commit_reveal.beacon_of(root, "one", own, secret)
    commit_reveal.freeze(root, "one", own, "7 11 13")
    beacon = commit_reveal.beacon_of(root, "one", own, secret)
    assert beacon == commit_reveal.beacon_of(root, "one", {"a": "h1"}, secret)
    for wrong, said in (({"a": "h9"}, "changed since"), ({"c": "h1"}, "came after")):
        with pytest.raises(DreamEnvsError, match=said):
            commit_reveal.beacon_of(root, "one", wrong, secret)
    with pytest.raises(DreamEnvsError, match="not closed"):
        commit_reveal.beacon_of(root, "one", own)
    (tmp_path / "other").write_text("0" * 64)
    with pytest.raises(DreamEnvsError, match="committed to"):
        commit_reveal.beacon_of(root, "one", own, tmp_path / "other")
    with pytest.raises(DreamEnvsError, match="frozen already"):
        commit_reveal.freeze(root, "one", own)
    commit_reveal.close(root, "one", secret)
    assert commit_reveal.beacon_of(root, "one", own) == beacon, "anybody can make the worlds now"
    others = set()
    for name, frozen, value in (("two", own, ""), ("three", {"a": "h1"}, ""), ("four", own, "1")):
        commit_reveal.open_round(root, name, tmp_path / f"own{name}")
        commit_reveal.freeze(root, name, frozen, value)
        others.add(commit_reveal.beacon_of(root, name, frozen, tmp_path / f"own{name}"))
    assert len(others | {beacon}) == 4


def test_worlds_differ_in_tables_data_and_weights() -> None:
    labels = [worlds.label_of("x", i) for i in range(5)] + [worlds.label_of("y", 0)]
    assert len(set(labels)) == 6 and worlds.label_of("x", 1) == labels[1]
    one, other = (worlds.recipe_of(label) for label in labels[:2])
    assert one.seed != other.seed and one.support.family_args["world"] != other.support.family_args["world"]
    assert worlds.recipe_of(labels[0], 7).steps == 7


def test_the_meter_counts_what_is_sampled_trained_and_stepped() -> None:
    agent, read = LocalAgent(), meter.start()
    ids = [list(agent.encode([{"role": "user", "content": "c:BDA"}]))] * 7
    found = agent.sample(ids, np.arange(7, dtype=np.uint64), np.full(7, 12))
    assert (read.samples, read.sampled, read.steps) == (7, sum(len(s.ids) for s in found), 0)
    pairs = [([{"role": "user", "content": "c:B"}], "Bf"), ([{"role": "user", "content": "c:BD"}], "BfDk")]
    fine_tune(agent, pairs, steps=3, lr=1e-3, seed="0", batch=2)
    assert read.steps == 3 and read.trained == 3 * (3 + 5)
    assert meter.start().samples == 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[board.Place, str]:
    """A board in one world: the public one, whose base is shipped."""
    root, label = tmp_path_factory.mktemp("board"), "world-0"
    folder = root / "cache" / worlds.nano.recipe_hash(worlds.recipe_of(label))
    shutil.copytree(ROOT.parent / "baselines" / "nano" / "compose", folder)
    card = json.loads((folder / "nano.json").read_text())
    card |= {"recipe_hash": folder.name, "recipe": json.loads(msgspec.json.encode(worlds.recipe_of(label)))}
    (folder / "nano.json").write_text(json.dumps(card))
    return board.Place(ROOT, root / "cache"), label


def run_of(place: board.Place, name: str, label: str) -> board.Run:
    return board.Run(place.entry(name), "tests", 1, 0, label)


@needs_sandbox
def test_a_run_again_has_the_same_hash(tiny, monkeypatch) -> None:
    """Samples, tokens, steps, the whole curve and the weights, of an entry with code; the seconds are not in it."""
    place, label = tiny
    monkeypatch.setitem(budget.CLASSES, 1, TINY)
    base = worlds.base_of(label, place.cache)
    first, again = (board.run_one(run_of(place, "reinforce", label), base, by=who) for who in ("us", "others"))
    assert first.status == "ok", first.detail
    assert first.hash == again.hash and first.used.samples == again.used.samples >= TINY.samples
    assert first.used.steps > 0 and first.used.trained > 0 and first.used.sampled > first.used.samples
    samples = [row[0] for row in first.curve]
    assert samples[0] == 0 and sorted(samples) == samples
    other = msgspec.structs.replace(again, curve=[*again.curve[:-1], [*again.curve[-1][:-1], 0.123]])
    assert scores.reproducible(other) != first.hash


def test_measuring_refuses_weights_of_another_shape_or_not_finite(tiny, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    place, label = tiny
    base = worlds.base_of(label, place.cache)
    state = {k: v for k, v in load_file(base / "model.safetensors").items() if k != "lm_head.weight"}
    (tmp_path / "000.json").write_text(json.dumps(msgspec.to_builtins(Used())))
    save_file(state, tmp_path / "000.safetensors")
    (found,) = measure.curve_of(tmp_path, label, base)
    assert set(found.success) == {"1", "2", "3", "8"}
    name = "model.norm.weight"
    for broken, said in (
        ({**state, name: state[name][:-1].clone()}, "shape"),
        ({**state, name: state[name] * torch.nan}, "finite"),
    ):
        save_file(broken, tmp_path / "000.safetensors")
        with pytest.raises(DreamEnvsError, match=said):
            measure.curve_of(tmp_path, label, base)


def test_what_is_refused_before_anything_runs(tiny, tmp_path: Path, monkeypatch) -> None:
    place, label = tiny
    with pytest.raises(DreamEnvsError, match=r"no entry 'rplay'.*replay"):
        place.entry("rplay")
    with pytest.raises(DreamEnvsError, match="class 2: one of 1, 3, 10"):
        board.runs_of(place.entry("replay"), "practice", "practice", 2, 1)
    monkeypatch.setattr(entry, "installed", lambda package: "0.0")
    with pytest.raises(DreamEnvsError, match=r"torch 0\.0, the entry wants .*--any-version"):
        board.run_all([run_of(place, "replay", label)], place, by="us")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux alone")
def test_a_run_has_limits_of_processor_time_memory_and_patience(tmp_path: Path) -> None:
    def ended(code: str, seconds: float = 1.0, patience: float = 20.0) -> int:
        found = board.run_child([sys.executable, "-c", code], tmp_path, seconds, patience)
        return int(found.returncode)

    assert ended("pass") == 0
    assert ended("while True: pass") in (-9, -24)
    assert ended(f"x = bytearray({board.TRAINER_MB} * 2**20)") == 1
    with pytest.raises(DreamEnvsError, match="not done after 1 s"):
        ended("import time; time.sleep(60)", patience=1.0)


def test_exact_success_is_what_the_frontier_says(tiny) -> None:
    """The measured success at depth 1 is the product of the model's own probabilities, here by sampling it."""
    place, label = tiny
    base = worlds.base_of(label, place.cache)
    agent = LocalAgent(str(base))
    from dream_envs.baselines.eval_set import Exact, log_success
    from dream_envs.tasks.composition import Composition

    family = Composition(world=label)
    tasks = Exact(family, agent, (1,), 16, ()).tasks["any", 1]
    exact = float(np.exp(log_success(agent, tasks)).mean())
    ids = [list(agent.encode([{"role": "user", "content": t.prompt}])) for t in tasks for _ in range(64)]
    texts = agent.decode([s.ids for s in agent.sample(ids, np.arange(len(ids), dtype=np.uint64), np.full(len(ids), 8))])
    right = np.mean(
        [
            family.verify(t, text).value
            for t, text in zip(itertools.chain(*([t] * 64 for t in tasks)), texts, strict=True)
        ]
    )
    assert abs(right - exact) < 5 * math.sqrt(max(exact * (1 - exact), 1e-3) / len(ids))
