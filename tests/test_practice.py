"""GRPO on a practice of its own: what a kill leaves, what a resume ends in, what is trained on, what a snapshot is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

pytest.importorskip("trl")

from _tiny import SETTINGS, learner, practice, same, texts, weights

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.core import DreamEnvsError, Score
from dream_envs.curriculum.store import read_challenges
from dream_envs.curriculum.syllabus import Share
from dream_envs.play import read_episodes
from dream_envs.rewards.presets import challenger_solver


class Killed(Exception):
    """Stands for the kill: nothing is saved or closed on the way."""


def run(path: Path, steps: int = 4, kill_at: int | None = None, **more: Any) -> Any:
    """Improve in ``path`` from wherever it stands; the learner."""

    def evaluate(step: int, agent: LocalAgent) -> dict[str, Any]:
        if step == kill_at:
            raise Killed
        return {"asked": step}

    env, made = practice(path, **more), learner(evaluate=evaluate)
    try:
        made.improve(env, {}, steps, env.run)
    except Killed:
        env.run.episodes._file.write(b'{"env_id": "half a li')  # and a line that was being written
        env.run.episodes._file.flush()
    finally:
        env.run.close()
        env.syllabus.store.close()
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("whole")
    return path, weights(run(path).engine.model)


def metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kills", [(1,), (3,), (2, 3), (0, 1, 3)])
def test_a_killed_run_ends_as_if_it_had_not_been(kills: tuple[int, ...], whole: Any, tmp_path: Path) -> None:
    """Checkpoints are after steps 2 and 4: a kill at 1 is before the first, one at 3 loses a step."""
    for step in kills:
        run(tmp_path, kill_at=step)
    made = run(tmp_path)
    path, expected = whole
    assert same(weights(made.engine.model), expected)
    assert texts(tmp_path) == texts(path)
    assert (tmp_path / "challenges.jsonl").read_bytes() == (path / "challenges.jsonl").read_bytes()
    assert metrics(tmp_path) == metrics(path)


def test_a_finished_run_is_not_run_again(whole: Any) -> None:
    path, expected = whole
    before = {p.name: p.read_bytes() for p in path.glob("*.jsonl")}
    assert same(weights(run(path).engine.model), expected)
    assert before == {p.name: p.read_bytes() for p in path.glob("*.jsonl")}


def test_the_files_agree_with_each_other(whole: Any) -> None:
    path, _ = whole
    episodes, rows = list(read_episodes(path / "episodes.jsonl")), metrics(path)
    total = Share(8, 3, 3).total
    assert [e.index for e in episodes] == list(range(4 * total))
    assert [r["step"] for r in rows] == [0, 1, 2, 3] == [r["asked"] for r in rows]
    sampled = sum(1 for e in episodes for t in e.turns if t.usage.completion_tokens)
    assert rows[-1]["samples"] == sampled
    ids = [c.id for c in read_challenges(path / "challenges.jsonl")]
    accepted = [t.id for e in episodes for t in e.tasks[1:]]
    assert len(ids) == len(set(ids)) and set(ids) == set(accepted)


def test_a_checkpoint_that_was_not_finished_is_not_used(whole: Any, tmp_path: Path) -> None:
    """A kill between TRL's files and ours: the folder is there, its last file is not."""
    _, expected = whole
    run(tmp_path, kill_at=3)
    torn = tmp_path / "checkpoints" / "checkpoint-3"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    assert same(weights(run(tmp_path).engine.model), expected)
    (tmp_path / "checkpoints" / "checkpoint-mine").mkdir()
    with pytest.raises(DreamEnvsError) as caught:
        run(tmp_path, steps=5)
    assert "checkpoint-mine" in str(caught.value) and "\n" not in str(caught.value)


def test_another_seed_ends_elsewhere(whole: Any, tmp_path: Path) -> None:
    path, expected = whole
    made = run(tmp_path, seed="other")
    assert not same(weights(made.engine.model), expected) and texts(tmp_path) != texts(path)


def test_a_snapshot_is_frozen_although_the_trainer_patched_the_model(tmp_path: Path) -> None:
    made = run(tmp_path, steps=1)
    prompt, reply = [[{"role": "user", "content": "c:BDA"}]], ["BfDkAa"]
    snapshot = made.snapshot()
    (before,), _ = snapshot.completion_logits(prompt, reply)  # type: ignore[arg-type]
    (live,), _ = made.engine.completion_logits(prompt, reply)  # type: ignore[arg-type]
    np.testing.assert_allclose(before, live, atol=1e-4)
    with torch.no_grad():
        for parameter in made.engine.model.parameters():
            parameter.mul_(0.5)
    (after,), _ = snapshot.completion_logits(prompt, reply)  # type: ignore[arg-type]
    (moved,), _ = made.engine.completion_logits(prompt, reply)  # type: ignore[arg-type]
    np.testing.assert_array_equal(after, before)
    assert np.abs(moved - before).max() > 0.1
    made.save(str(tmp_path / "saved"))
    again = learner()
    again.load(str(tmp_path / "saved"))
    assert same(weights(again.engine.model), weights(made.engine.model))


def trained_rows(monkeypatch: pytest.MonkeyPatch, path: Path, steps: int, **more: Any) -> list[TrainingRow]:
    """All rows that reach the trainer in a short run."""
    from dream_envs.agents.training.trl_adapter import RowTrainer

    seen: list[TrainingRow] = []
    fetch = RowTrainer.fetch

    def watched(self: RowTrainer, count: int) -> list[TrainingRow]:
        rows = fetch(self, count)
        seen.extend(r for r in rows if r.advantage)
        return rows

    monkeypatch.setattr(RowTrainer, "fetch", watched)
    run(path, steps=steps, **more)
    return seen


def test_what_others_said_is_not_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = LocalAgent("nano/compose")
    brief = tuple(base.encode([{"role": "user", "content": "new"}]))
    for name, seats in (("own", {}), ("frozen", {"challenger": base})):
        rows = trained_rows(monkeypatch, tmp_path / name, 2, seats=seats, share=Share(12, 4, 0))
        prompts = Counter(tuple(r.prompt) == brief for r in rows)
        assert bool(prompts[True]) == (name == "own") and prompts[False]


def test_rows_are_what_was_sampled_in_this_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every trained completion was sampled in the run, or is a mutation of the round; no solution is copied."""
    rows = trained_rows(monkeypatch, tmp_path, 3)
    said = {t.text for e in read_episodes(tmp_path / "episodes.jsonl") for t in e.turns}
    agent = LocalAgent("nano/compose")
    assert rows and {agent.decode([list(r.completion)])[0] for r in rows} <= said
    assert all(r.completion[-1] in agent.ends or len(r.completion) >= 8 for r in rows)


def test_a_judge_in_the_game_is_counted(tmp_path: Path) -> None:
    env = practice(tmp_path, share=Share(4, 0, 0), seats={})
    agent = LocalAgent("nano/compose")
    env.game = type(env.game)(env.game.family, solvers=2, judge=True)
    env.seats = {"judge": agent}
    played = env.play(0, agent)
    assert env.samples["judge"] == sum(e.outcome.facts["valid"] for e in played) > 0
    assert env.samples["challenger"] == 4


def test_shares_of_two_processes_make_the_round_of_one(tmp_path: Path) -> None:
    """Two ranks in one process: each plays every other episode, both absorb all, the first writes."""
    agent, sent = LocalAgent("nano/compose"), dict[int, list[Any]]()
    one = practice(tmp_path / "one")
    expected = one.play(0, agent)
    for rank in (0, 1):  # first collect what each would send, then hand everybody the whole
        practice(tmp_path / "dry", rank=rank, world=2, gather=lambda x, rank=rank: sent.setdefault(rank, x)).play(
            0, agent
        )
    ranks = [
        practice(tmp_path / "two", rank=r, world=2, gather=lambda x: [*sent[0], *sent[1]]) for r in (0, 1)
    ]  # fmt: skip
    mine = [env.play(0, agent) for env in ranks]
    assert sorted(e.index for part in mine for e in part) == [e.index for e in expected]
    assert texts(tmp_path / "two") == texts(tmp_path / "one")
    states = [env.syllabus.store.state() | {"position": 0} for env in (one, *ranks)]
    assert states[0] == states[1] == states[2]
    assert one.history == ranks[0].history == ranks[1].history and one.samples == ranks[1].samples
    assert ranks[0].syllabus.plan(1) == ranks[1].syllabus.plan(1) == one.syllabus.plan(1)


def test_a_checkpoint_of_another_number_of_processes_is_one_line(whole: Any) -> None:
    path, _ = whole
    env = practice(path, rank=0, world=2, gather=lambda x: [*x, *x])
    with pytest.raises(DreamEnvsError) as caught:
        learner().improve(env, {}, 6, env.run)
    assert "1 processes" in str(caught.value) and "\n" not in str(caught.value)
    env.run.close()


def test_learning_learns(tmp_path: Path) -> None:
    """Depth 4, which the base has seen nothing of: thirty cheap steps raise its exact success well above the base's."""
    rule = msgspec.structs.replace(SETTINGS, save_every=100, lr=5e-4)
    env = practice(tmp_path, share=Share(8, 8, 8), solvers=8)
    made, base = learner(settings=rule), LocalAgent("nano/compose")
    rng = np.random.default_rng(0)
    tasks = [env.game.family.generate(rng, 4) for _ in range(64)]
    prompts = [[{"role": "user", "content": t.prompt}] for t in tasks]

    def success(agent: LocalAgent) -> float:
        logits, ids = agent.completion_logits(prompts, [t.answer for t in tasks])  # type: ignore[arg-type]
        logp = [
            torch.log_softmax(torch.tensor(x), -1)[range(len(y)), y].sum() for x, y in zip(logits, ids, strict=True)
        ]
        return float(torch.stack(logp).exp().mean())

    before = success(base)
    made.improve(env, {}, 30, env.run)
    env.run.close()
    assert success(made.engine) > before + 0.1, before
    assert success(base) == pytest.approx(before)


def test_scores_are_the_rewards(whole: Any) -> None:
    path, _ = whole
    model = challenger_solver()
    for episode in read_episodes(path / "episodes.jsonl"):
        assert model(episode) == episode.scores
        assert all(isinstance(s, Score) for s in episode.scores.values())
