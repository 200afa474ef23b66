"""The watch on a training run: it sees what it should, when it should, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from _tiny import metrics  # noqa: E402

from dream_envs.agents.engines.local import LocalAgent  # noqa: E402
from dream_envs.baselines.eval_set import Exact, Play  # noqa: E402
from dream_envs.baselines.loop import train  # noqa: E402
from dream_envs.baselines.recipe import Options  # noqa: E402
from dream_envs.baselines.watch import KEPT, PREFIX, DiversityMonitor  # noqa: E402
from dream_envs.schema import Summary  # noqa: E402
from dream_envs.tasks.composition import Composition  # noqa: E402

SMALL = Options(
    "dream",
    steps=3,
    levels=(2, 3, 4, 6),
    set={"variant": "full", "attempts": 4, "eval.problems": 4, "mixture.challenger": 8, "mixture.mutation": 2},
)
CLOCKS = ("seconds", "processor_seconds")
Runs = dict[str, tuple[Path, Summary]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The same run with and without looking."""
    torch.set_num_threads(1)
    where, found = tmp_path_factory.mktemp("watch"), {}
    with pytest.MonkeyPatch.context() as patch:
        found["looked"] = where / "looked", train(SMALL, where / "looked")
        patch.setattr(DiversityMonitor, "due", lambda self, step: False)
        found["blind"] = where / "blind", train(SMALL, where / "blind")
    return found


def test_looking_changes_nothing(runs: Runs) -> None:
    (one, looked), (two, blind) = runs["looked"], runs["blind"]
    assert looked.run.trained_hash == blind.run.trained_hash
    assert (one / "challenges.jsonl").read_bytes() == (two / "challenges.jsonl").read_bytes()
    bare = [{k: v for k, v in r.items() if not k.startswith(PREFIX) and k not in CLOCKS} for r in metrics(one)]
    assert bare == [{k: v for k, v in r.items() if k not in CLOCKS} for r in metrics(two)]
    assert all(PREFIX + k in r for r in metrics(one) for k in (*KEPT, "js_to_base"))
    assert not any(k.startswith(PREFIX) for r in metrics(two) for k in r)


def test_the_block_has_the_series(runs: Runs) -> None:
    path, found = runs["looked"]
    block = found.diversity
    assert block is not None
    assert block["series"]["step"] == [0, 1, 2, 3]
    assert block["series"]["format_entropy"][:3] == [r["diversity/format_entropy"] for r in metrics(path)]
    assert block["series"]["js_to_base"][0] == 0.0  # the learner begins as the base: same seeds, same replies
    assert block["series"]["accuracy"][-1] == block["trained"]["accuracy"]
    assert block["series"]["accuracy"][0] == block["base"]["accuracy"]
    assert block["alarm"] is None and block["probes"]["problems"] == 16
    assert (runs["blind"][1].diversity or {})["series"]["step"] == [3]


def test_a_resumed_run_remembers_what_was_seen(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    base = LocalAgent("nano/compose")
    evaluation = Exact(Composition(max_level=10), base, range(1, 11), 4)
    first = DiversityMonitor(evaluation, base, metrics, 8)
    assert [s for s in range(8) if first.due(s)] == [0, 1, 2, 4, 7]
    every = DiversityMonitor(evaluation, base, metrics, 800, every=10)
    assert [s for s in range(800) if every.due(s)] == [0, 10, 20, 40, 80, 160, 320, 640, 790]
    point = first.look(0, base)
    gone = {**point, "diversity/vendi_across": point["diversity/vendi_across"] / 3}
    lines = [{"step": 0, **point}, {"step": 1, **gone}, {"step": 2, **gone}, {"step": 3, "loss": 0.0}]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    second = DiversityMonitor(evaluation, base, metrics, 8)
    block = second.block(base)
    assert block["series"]["step"] == [0, 1, 2, 8]
    assert block["alarm"] is None  # it has recovered
    again = DiversityMonitor(evaluation, base, metrics, 8)
    again._seen().pop(0)
    assert "alarms" not in again.look(4, base)
    assert any("Vendi" in text for text in DiversityMonitor(evaluation, base, metrics, 8)._alarms())
    assert DiversityMonitor.of(Play(None, None, base, {}, ()), base, metrics, 8) is None  # no problems to look at
