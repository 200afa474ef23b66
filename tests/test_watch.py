"""The watch on a training run: it sees what it should, when it should, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from dream_envs.agents.engines.local import LocalAgent  # noqa: E402
from dream_envs.baselines.eval_set import Yardstick  # noqa: E402
from dream_envs.baselines.loops.dream import Settings, train  # noqa: E402
from dream_envs.baselines.watch import KEPT, PREFIX, Watch  # noqa: E402
from dream_envs.tasks.composition import Composition  # noqa: E402

SMALL = Settings(steps=3, attempts=4, per_depth=4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The same run with and without looking."""
    torch.set_num_threads(1)
    where, found = tmp_path_factory.mktemp("watch"), {}
    with pytest.MonkeyPatch.context() as patch:
        found["looked"] = where / "looked", train(SMALL, where / "looked", tick=lambda *_: None)
        patch.setattr(Watch, "due", lambda self, step: False)
        found["blind"] = where / "blind", train(SMALL, where / "blind", tick=lambda *_: None)
    return found


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_looking_changes_nothing(runs: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    (one, looked), (two, blind) = runs["looked"], runs["blind"]
    assert looked["run"]["trained_hash"] == blind["run"]["trained_hash"]
    assert (one / "challenges.jsonl").read_bytes() == (two / "challenges.jsonl").read_bytes()
    bare = [{k: v for k, v in r.items() if not k.startswith(PREFIX) and k != "seconds"} for r in rows(one)]
    assert bare == [{k: v for k, v in r.items() if k != "seconds"} for r in rows(two)]
    assert all(PREFIX + k in r for r in rows(one) for k in (*KEPT, "js_to_base"))
    assert not any(k.startswith(PREFIX) for r in rows(two) for k in r)


def test_the_block_has_the_series(runs: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    path, found = runs["looked"]
    block = found["diversity"]
    assert block["series"]["step"] == [0, 1, 2, 3]
    assert block["series"]["format_entropy"][:3] == [r["probe_format_entropy"] for r in rows(path)]
    assert block["series"]["js_to_base"][0] == 0.0  # the learner begins as the base: same seeds, same replies
    assert block["series"]["accuracy"][-1] == block["trained"]["accuracy"]
    assert block["series"]["accuracy"][0] == block["base"]["accuracy"]
    assert block["alarm"] is None and block["probes"]["problems"] == 16
    assert runs["blind"][1]["diversity"]["series"]["step"] == [3]


def test_tensorboard_has_it_too(runs: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next((runs["looked"][0] / "metrics").rglob("events.*")).parent
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = {t.removeprefix("train/") for t in events.Tags()["scalars"]}
    assert {"probe/format_entropy", "probe/vendi_across", "probe/js_to_base"} <= tags


def test_a_resumed_run_remembers_what_was_seen(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    base = LocalAgent("nano/compose")
    yardstick = Yardstick(Composition(max_level=10), per_depth=4)
    first = Watch(yardstick, base, metrics, 8)
    assert [s for s in range(8) if first.due(s)] == [0, 1, 2, 4, 7]
    every = Watch(yardstick, base, metrics, 800, every=10)
    assert [s for s in range(800) if every.due(s)] == [0, 10, 20, 40, 80, 160, 320, 640, 790]
    point = first.look(0, base)
    gone = {**point, "probe_vendi_across": point["probe_vendi_across"] / 3}
    lines = [{"step": 0, **point}, {"step": 1, **gone}, {"step": 2, **gone}, {"step": 3, "loss": 0.0}]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    second = Watch(yardstick, base, metrics, 8)
    block = second.block(base)
    assert block["series"]["step"] == [0, 1, 2, 8]
    assert block["alarm"] is None  # it has recovered
    again = Watch(yardstick, base, metrics, 8)
    again._seen().pop(0)
    assert "alarms" not in again.look(4, base)
    assert any("Vendi" in text for text in Watch(yardstick, base, metrics, 8)._alarms())
