"""The night of ``ctx2skill``: a skill's text becomes weights; teacher, student, placebo, resume, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")

import _bpe
import torch

from dream_envs import cli
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.experience import Experience, seen
from dream_envs.agents.sleep.seeding import SeedingSettings, seed_knowledge
from dream_envs.baselines import loop
from dream_envs.baselines.recipe import Options
from dream_envs.baselines.skill_night import experiences
from dream_envs.baselines.skill_rounds import Track
from dream_envs.baselines.studies.skills import ROLES
from dream_envs.envs.skill_evolution import SkillEvolution
from dream_envs.runs import read_json
from dream_envs.tasks.skills import SkillSet

SEATS = {role: "skilled" for role in ROLES if role != "reasoner"}
SETTINGS = {
    "contexts": "bundled:ferry,gauges", "tests": 4, "repeats": 1, "tasks": 2, "one_shot": False, "base": False,
    "consolidate": True, "game.reply_tokens": 12, "nights.learning.steps": 20, "nights.learning.batch": 6,
    "nights.experience": 12, "nights.learning.lr": 0.005,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return _bpe.save(
        tmp_path_factory.mktemp("skill_night") / "model", max_position_embeddings=8192, initializer_range=0.15
    )


def options(model: Path, **more: Any) -> Options:
    return Options("ctx2skill", steps=1, model=str(model), seats=SEATS, set={**SETTINGS, **more})


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("skill_night") / "run"
    loop.train(options(model), out)
    return out


def test_the_student_keeps_the_context_and_loses_the_skill(model: Path) -> None:
    """Practice questions alone; the teacher's messages have each context's skill, the student's have none."""
    game = SkillEvolution("bundled:ferry,gauges", tasks=2, reply_tokens=8)
    learner: Any = SimpleNamespace(game=game, seed="x")
    skills = {c.id: SkillSet.of({"note": f"secret of {c.id}"}) for c in game.contexts}
    rows = experiences(learner, LocalAgent(str(model)), {name: Track() for name in skills}, skills, 12)
    tests = {e.question for c in game.contexts for e in c.tests()}
    assert len(rows) == 12 and not tests & {r.messages[-1]["content"] for r in rows}
    for i, row in enumerate(rows):
        context = game.contexts[i // 6]
        assert f"secret of {context.id}" in row.messages[0]["content"] and row.reply
        (system, user) = seen(row)
        assert context.text in system["content"] and "secret" not in system["content"]
        assert user == row.messages[1] and "(none yet)" in system["content"]


def test_the_divergence_from_the_teacher_falls_on_what_was_learnt(model: Path) -> None:
    """One question until it is learnt: the student without the text says what the teacher says with it."""
    agent = LocalAgent(str(model))
    ask: Any = {"role": "user", "content": "How much?"}
    seen_: Any = [{"role": "system", "content": "It is twelve. Always say twelve crowns."}, ask]
    left: Any = [{"role": "system", "content": "It is."}, ask]
    row = Experience(seen_, "twelve crowns", "skill", left)
    rule = SeedingSettings(steps=60, batch=2, lr=2e-2, lam=0.0, warmup=0)
    found = seed_knowledge(agent, agent, [row], rule, "divergence")
    assert found.divergence[1] < found.divergence[0] / 3
    want, _ = agent.completion_logits([seen_], ["twelve crowns"])
    got, _ = found.agent.completion_logits([left], ["twelve crowns"])
    one, two = (torch.log_softmax(torch.from_numpy(x[0]), -1) for x in (want, got))
    assert float((one.exp() * (one - two)).sum(-1).mean()) < found.divergence[0] / 2


def test_what_a_night_leaves(run: Path, model: Path) -> None:
    """Four arms; weights that differ from the base and from the placebo's; teacher's text in no test of the night."""
    report, summary = read_json(run / "skills.json"), read_json(run / "summary.json")
    found = report["consolidated"]
    assert sorted(found["taught"]) == ["ferry", "gauges"] and set(found["arms"]) == {"base", "text", "night", "placebo"}
    assert all(0 <= value <= 1 for value in found["arms"].values())
    for arm, its in (("base", "none"), ("text", "replay")):
        assert found["arms"][arm] == pytest.approx(report["controls"][its]["test_counted"])
    for arm in ("night", "placebo"):
        assert found[arm]["divergence"][1] < found[arm]["divergence"][0] and found[arm]["lived"] == 12
        asked = (run / f"tests_{arm}.jsonl").read_text("utf-8")
        assert asked.count('"role":"reasoner"') == 2 * 4 and "(none yet)" in asked
        taught = [(run / "skills" / name / "selected.md").read_text("utf-8") for name in found["taught"]]
        assert not [line for text in taught for line in text.split("\n") if line.startswith("- ") and line in asked]
    final, *others = (
        (path / "model.safetensors").read_bytes()
        for path in (
            run / "checkpoints" / "final",
            run / "consolidated" / "night",
            run / "consolidated" / "placebo",
            model,
        )
    )
    assert final == others[0] and len({*others}) == 3
    assert "A night put the skills of ferry, gauges into weights" in summary["verdict"]
    assert summary["training"]["steps"] == 20 and len(summary["nights"]) == 1
    assert summary["run"]["trained_hash"] != summary["run"]["weights_hash"]


def test_after_a_kill_it_ends_the_same(run: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed behind the night, before its placebo's weights are whole; nothing finished is done again."""
    from dream_envs.baselines import skill_night

    real, calls = skill_night.seed_knowledge, []

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return real(*args, **kwargs)

    monkeypatch.setattr(skill_night, "seed_knowledge", dies)
    with pytest.raises(RuntimeError):
        loop.train(options(model), tmp_path / "run")
    again = loop.train(options(model), tmp_path / "run")
    assert len(calls) == 3
    for name in ("skills.json", "checkpoints/final/model.safetensors", "consolidated/placebo/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name
    assert json.loads((run / "summary.json").read_text())["nights"] == again.nights


def test_without_a_skill_there_is_no_night(model: Path, tmp_path: Path) -> None:
    seats = {**SEATS, "reasoner_editor": "floor"}
    made = Options("ctx2skill", steps=1, model=str(model), seats=seats, set={**SETTINGS, "base": True})
    summary = loop.train(made, tmp_path)
    assert read_json(tmp_path / "skills.json")["consolidated"]["taught"] == [] and summary.nights == []
    assert summary.run.trained_hash == summary.run.weights_hash and "no context" in summary.verdict


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--seats reasoner=http://127.0.0.1:9/v1", "local --model"),
        ("--seats reasoner=skilled", "local --model"),
        ("--model http://127.0.0.1:9/v1", "http"),
        ("--set nights.dreamt=0.5", "dreamt"),
        ("--set nights.learning.step=5", "steps"),
    ],
)
def test_what_cannot_sleep_is_refused_in_one_line(
    words: str, says: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "ctx2skill", "--set", "consolidate=true", *words.split(), "--out", str(tmp_path / "run")]
    line += [] if "--model" in words else ["--model", str(model)]
    assert cli.main([*line, "--quiet", "--no-frontier"]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and not (tmp_path / "run").exists()
