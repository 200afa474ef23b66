"""The study of nights: tiny runs, what methods differ in, answers from paired intervals; upward seeding."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

pytest.importorskip("trl")

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.experience import Experience, context_of
from dream_envs.baselines.loop import Context, PhaseRun
from dream_envs.baselines.loops.nights import lesson_questions, sleeper
from dream_envs.baselines.studies import grid, nights, upward
from dream_envs.seeds import stream
from dream_envs.tasks.lessons import OperationLessons

TINY: dict[str, Any] = {
    "nights": 2, "probes": 4, "wakes": 2, "eval.problems": 4,
    "nights.learning.steps": 2, "nights.learning.batch": 8, "nights.experience": 16,
    "nights.dreaming.dreams": 2, "nights.dreaming.size": 8, "nights.dreaming.top": 1, "nights.dreaming.random": 0,
    "nights.dreaming.memory": 1, "nights.dreaming.fiction": 0, "nights.dreaming.probe": 6,
    "nights.dreaming.inner_steps": 1, "nights.dreaming.draft": 1,
}  # fmt: skip


def test_a_run_in_miniature_and_its_figures(tmp_path: Path) -> None:
    (job,) = grid.plan(nights, ("sleep",), 1, tmp_path, TINY)
    nights.run(job.settings, job.seed, job.out)
    found = nights.score(job.out)
    assert 0 <= found["open"] <= 1 and 0 <= found["closed"] <= 1 and found["tokens"] > 0 and found["known"] > 0.5
    assert nights.table([{"name": "sleep", "seed": "0", **found}], tmp_path).startswith("| method")


def test_a_static_expert_changes_no_matrix_by_more_than_its_rank(tmp_path: Path) -> None:
    changes = {**TINY, "nights.learning.rank": 2, "nights.learning.lr": 1e-2}
    (job,) = grid.plan(nights, ("static_expert",), 1, tmp_path, changes)
    nights.run(job.settings, job.seed, job.out)
    before = LocalAgent("nano/context").model.state_dict()
    after = LocalAgent(str(job.out / "checkpoints" / "final")).model.state_dict()
    name = "model.layers.4.mlp.down_proj.weight"
    singular = torch.linalg.svdvals(after[name] - before[name])
    assert singular[0] > 1e-4 and singular[2] < 1e-4 * singular[0]


def test_the_placebo_is_shown_another_table(tmp_path: Path) -> None:
    (job,) = grid.plan(nights, ("placebo",), 1, tmp_path, TINY)
    ctx = Context(msgspec.structs.replace(job.settings, seed="0"), job.out)
    agent = sleeper(ctx, ctx.base, "0", PhaseRun(job.out), "placebo")
    lesson = agent.lessons.lesson(stream("test-sleeping"), 0)
    task = agent.lessons.question(lesson, stream("test-sleeping"))
    messages: Any = [{"role": "system", "content": lesson.context}, {"role": "user", "content": task.prompt}]
    (misled,) = agent._misled([Experience(messages, task.answer, "day")], 0)
    shown = context_of(misled.messages)[0]["content"]
    assert shown != lesson.context and shown[:2] == lesson.context[:2] and misled.messages[-1] == messages[-1]
    ctx.run.close()


def test_nothing_is_made_up_that_is_kept_for_probes() -> None:
    lessons = OperationLessons(levels=[1, 2])
    questions, asked = lesson_questions(lessons), dict.fromkeys(("wake", "probe"), 0)
    for start in lessons.states:
        for other in lessons.operations:
            half = lessons.half(start, f"I{other}")
            asked[half] += 1
            assert (questions.question(f"{start}:I{other}") is None) == (half == "probe")
        assert questions.question(f"{start}:I") == [{"role": "user", "content": f"{start}:I"}]
    assert min(asked.values()) > 30
    assert questions.question("a:AB") is not None and questions.question("nonsense") is None


def test_figures_of_a_matrix_worked_by_hand() -> None:
    """Own nights 0.8, 0.6 and 0.4; after the last 0.2, 0.3 and 0.4 are left of them: 0.6 and 0.3 are gone."""
    found = nights.matrix([[0.8, 0, 0], [0.5, 0.6, 0], [0.2, 0.3, 0.4]], [1.0, 0.9, 0.8])
    assert found == pytest.approx(
        {"open": 0.9, "closed": 0.6, "ratio": 2 / 3, "forgetting": 0.45, "forgotten": 0.45 / 0.7, "reading": 0.8}
    )
    assert nights.matrix([[0.05, 0], [0, 0.5]], [1.0, 1.0])["forgotten"] is None  # too little was learnt


def made(method: str, seed: int, own: float, last: float) -> grid.Row:
    figures = nights.matrix([[own, 0.0], [last, own]], [0.9, 0.9])
    return {"name": method, "seed": str(seed), **figures, "last": (own + last) / 2, "known": 1.0, "tokens": 0.0}


def test_answers_follow_from_paired_intervals() -> None:
    """Forgetting: ours 0.1, theirs 0.6, so half of theirs is 0.3; every seed alike, so intervals are points."""
    runs = [made("sleep", s, 0.8, 0.7) for s in range(3)]
    runs += [made("replay_sft", s, 0.7, 0.1) for s in range(3)]
    runs += [made("in_context", s, 0.05, 0.05) for s in range(3)]
    runs += [made("placebo", s, 0.05 + 0.1 * (s - 1), 0.05) for s in range(3)]
    found = nights.answers(runs)
    assert found["closed book after sleep is at least 0.8 of in context (ratio - 0.8)"].startswith("yes")
    assert found["sleep - in_context, closed book, is above 0.3 (difference - 0.3)"].startswith("yes, 0.45")
    assert found["sleep forgets at most half of what replay_sft does (sleep - half)"].startswith("yes, -0.20")
    assert found["placebo gains over in_context"].startswith("no change shown")
    assert nights.answers(runs[3:]) == {}


def test_upward_gives_every_student_the_same_rows(tmp_path: Path) -> None:
    settings = upward.Settings(problems=6, draws=2, depths=(1, 2), steps=2, batch=8)
    upward.run(settings, "0", tmp_path)
    found = upward.score(tmp_path)
    assert found["parameters"]["upward"] == found["parameters"]["alone"] > 3 * found["parameters"]["teacher"]
    assert found["exact"]["upward"]["2"] > 0.8 > found["exact"]["alone"]["2"]
    assert "upward above alone" in upward.table([{"name": "upward", "seed": "0", **found}], tmp_path)
