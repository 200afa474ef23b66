"""Families and games as tasks of Inspect, and runs as its logs: real evaluations with a model that says what we say."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai")

import inspect_ai
from acme.acme_dreams.auction import Auction
from acme.acme_dreams.parity import Parity
from inspect_ai import model as im
from inspect_ai.log import EvalLog, read_eval_log, read_eval_log_sample_summaries

from dream_envs import core
from dream_envs.adapters import inspect as adapter
from dream_envs.core import Action, DreamEnvsError, Event, Outcome, Score, Task, Turn, Usage
from dream_envs.envs._adapter import assign_others, build_game, build_reward
from dream_envs.play import EpisodeWriter, read_episodes, rollout
from dream_envs.runs import Run
from dream_envs.tasks.arithmetic import Arithmetic

ARITHMETIC = {"notation": "english", "operators": "+-"}
USED = im.ModelUsage(input_tokens=7, output_tokens=3, total_tokens=10)  # mockllm would fetch a tokenizer to count
Said = Callable[[list[dict[str, str]]], Action]


def number(messages: list[dict[str, str]]) -> int:
    text = repr([(m["role"], m["content"]) for m in messages])
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def solves(messages: list[dict[str, str]]) -> Action:
    """Right, wrong, cut off behind the answer and before it, unclosed reasoning, nothing, or what nobody expects."""
    value = eval(re.search(r"Compute (.*)", messages[-1]["content"])[1])  # type: ignore[index]
    long = f"It is\nAnswer: {value}\nsince"
    return (
        Action(f"Answer: {value}"), Action(f"Answer: {value + 1}"), Action(long, finish_reason="length"),
        Action(f"Answer: {value}", finish_reason="length"), Action(f"<think>{value}"), Action(""),
        Action(f"\x00\u202eAnswer: {value}𝔸"), Action("", status="error"),
    )[number(messages) % 8]  # fmt: skip


def says(said: Said) -> im.Model:
    """A model that answers what ``said`` says to the messages; a failed call is an output without a choice."""

    def output(asked: Any, tools: Any, choice: Any, config: Any) -> im.ModelOutput:
        action = said([{"role": m.role, "content": m.text} for m in asked])
        if action.status != "ok":
            return im.ModelOutput(model="mockllm/model", choices=[], usage=USED)
        reason: Any = "max_tokens" if action.finish_reason == "length" else "stop"
        found = im.ModelOutput.from_content("mockllm/model", action.text, stop_reason=reason)
        found.usage = USED
        return found

    return im.get_model("mockllm/model", custom_outputs=output, memoize=False)


def evaluated(task: inspect_ai.Task, said: Said, where: Path, **more: Any) -> EvalLog:
    (found,) = inspect_ai.eval(task, model=says(said), log_dir=str(where), display="none", **more)
    return read_eval_log(found.location)


def same(found: Any, ours: Score) -> None:
    """Inspect's score is ours: the value where there is one, and otherwise none."""
    assert found.metadata["status"] == ours.status and found.metadata["components"] == ours.components
    if ours.status == "ok":
        assert found.value == ours.value and found.reason is None
    else:
        assert math.isnan(found.value) and found.reason == ours.status


def test_a_familys_verdicts_one_by_one(tmp_path: Path) -> None:
    """The family's, in two epochs; a sample whose call failed is an error of Inspect's own, without a score."""
    task = adapter.task("arithmetic", levels=[1, 3], samples=32, epochs=2, seed="s", **ARITHMETIC)
    log = evaluated(task, solves, tmp_path, fail_on_error=False)
    family = Arithmetic(**ARITHMETIC)
    ids = [sample.id for sample in task.dataset]
    assert len(set(ids)) == 32 and log.status == "success" and len(log.samples) == 64
    values, failed = [], 0
    for sample in log.samples:
        problem = core.decode_task(json.dumps(sample.metadata["task"]))
        action = solves([{"role": "user", "content": problem.prompt}])
        assert (sample.id, sample.input, sample.target) == (problem.id, problem.prompt, problem.answer)
        assert problem.level in (1, 3)
        if action.status != "ok":
            failed += 1
            assert sample.error is not None and not sample.scores
            continue
        score = sample.scores["verified"]
        read = family.read(problem, action.text)
        right = action.finish_reason != "length" or "\nsince" in action.text
        assert score.value == (float(read == problem.answer) if right else 0.0)
        assert score.answer == ((read or "") if right else "")
        values.append(score.value)
    (result,) = log.results.scores
    assert 0 < failed < 32 and 0 < sum(values) < len(values)
    by_problem = {s.id: s.scores["verified"].value for s in log.samples if s.scores}
    assert result.metrics["mean"].value == pytest.approx(sum(by_problem.values()) / len(by_problem))


def test_the_game_gives_a_solver_the_same_verdicts(tmp_path: Path) -> None:
    """One role of a game, the others ours: score by score what a rollout gives."""
    settings = {"family": "arithmetic", "solvers": 1, "notation": "english", "family_args": {"operators": "+-"}}
    task = adapter.task("ChallengerSolver-v0", role="solver", samples=40, seed="s", **settings)
    log = evaluated(task, solves, tmp_path)
    game = build_game("ChallengerSolver-v0", settings)
    others = assign_others(game, "solver", "solver_0", None, None)
    seats = {**others, "solver": ACTS(solves)}
    ours = {e.index: e for e in rollout(game, seats, 40, seed="s", reward=build_reward(None, game))}
    statuses = set()
    for sample in log.samples:
        episode = ours[sample.id]
        same(sample.scores["rewarded"], episode.scores["solver_0"])
        statuses.add(episode.scores["solver_0"].status)
        stored = core.decode_episode(json.dumps(sample.store["episode"]))
        assert (stored.seed, stored.tasks, stored.outcome) == (episode.seed, episode.tasks, episode.outcome)
        said = [(t.agent, t.messages, t.text, t.status, t.extracted) for t in episode.turns]
        assert [(t.agent, t.messages, t.text, t.status, t.extracted) for t in stored.turns] == said
        assert sample.messages[0].text == episode.turns[-1].messages[0]["content"]
    (result,) = log.results.scores
    assert statuses == {"ok", "error"} and 0 < result.unscored_samples < 40
    known = [s.value for e in ours.values() if (s := e.scores["solver_0"]).status == "ok"]
    assert result.scored_samples == len(known) and result.metrics["mean"].value == sum(known) / len(known)


class ACTS:
    """A function of messages that may fail, as an agent."""

    def __init__(self, said: Said) -> None:
        self.said = said

    def act(self, requests: Any) -> list[Action]:
        return [self.said(r.messages) for r in requests]


def plays(messages: list[dict[str, str]]) -> Action:
    move = ("[bet]", "[pass]", "[bet]", "none")[number(messages) % 4]
    return Action(move, usage=Usage(7, 3))


def test_a_game_of_several_turns_and_a_reward_of_ones_own(tmp_path: Path) -> None:
    """Negative rewards, an agent of ours in the other seat, every move asked anew."""
    others = {"second": lambda text: "[bet]"}
    given: dict[str, Any] = {"notation": "english"}
    task = adapter.task("Kuhn-v0", role="first", others=others, samples=30, **given)
    log = evaluated(task, plays, tmp_path)
    game = build_game("Kuhn-v0", given)
    ours = {e.index: e for e in rollout(game, {"first": ACTS(plays), **others}, 30, reward=build_reward(None, game))}
    for sample in log.samples:
        same(sample.scores["rewarded"], ours[sample.id].scores["first_0"])
        shown = [m for turn in ours[sample.id].turns if turn.agent == "first_0" for m in (*turn.messages, turn.text)]
        assert [m.text for m in sample.messages] == [m if isinstance(m, str) else m["content"] for m in shown]
    assert {s.scores["rewarded"].value for s in log.samples} == {-2.0, 2.0}
    assert max(len(s.messages) for s in log.samples) == 4
    scorer = adapter.rewarded("Kuhn-v0", role="first", reward=flat, **given)
    again = inspect_ai.score(log, scorer, action="overwrite", display="none")
    assert {s.scores["rewarded"].value for s in again.samples} == {0.25}  # from the episodes alone, without a model


def flat(episode: core.Episode) -> dict[str, Score]:
    return {turn.agent: Score(0.25) for turn in episode.turns}


def test_a_seat_that_is_never_asked_has_no_score(tmp_path: Path) -> None:
    """A proposal that is turned away: unscored, in mean and count, and no zero."""
    settings: dict[str, Any] = {"solvers": 1}
    task = adapter.task("ChallengerSolver-v0", role="solver", others={"challenger": "floor"}, samples=3, **settings)
    log = evaluated(task, solves, tmp_path)
    (result,) = log.results.scores
    assert (result.scored_samples, result.unscored_samples) == (0, 3) and math.isnan(result.metrics["mean"].value)
    assert {s.scores["rewarded"].reason for s in log.samples} == {"abstain"}


def test_families_and_games_of_other_packages(tmp_path: Path) -> None:
    log = evaluated(adapter.task(Parity(), levels=[3, 4], samples=8), lambda m: Action("even"), tmp_path)
    even = [s.input.count("1") % 2 == 0 for s in log.samples]
    assert [s.scores["verified"].value for s in log.samples] == list(map(float, even)) and 0 < sum(even) < 8
    with pytest.raises(DreamEnvsError, match="2 seats for 'bidder'"):
        adapter.task(Auction())
    path = "acme.acme_dreams.parity:Parity"
    assert [s.id for s in adapter.task(path, samples=5).dataset] == [
        s.id for s in adapter.task(Parity(), samples=5).dataset
    ]


def test_thoughts_that_the_server_cut_out_are_put_back() -> None:
    """As for every endpoint: a reply that ends inside its reasoning states no answer."""
    thought, text = im.ContentReasoning(reasoning="7"), im.ContentText(text="Answer: 8")
    outputs = [
        im.ModelOutput(choices=[im.ChatCompletionChoice(message=im.ChatMessageAssistant(content=list(parts)))])
        for parts in ((thought, text), (thought,), (text,))
    ]
    found = [adapter.action_of(output).text for output in outputs]
    assert found == ["<think>\n7\n</think>\n\nAnswer: 8", "<think>\n7", "Answer: 8"]
    family = Arithmetic("english")
    task = Task(family="arithmetic", level=1, prompt="Compute 3 + 5", answer="8")
    assert [family.verify(task, text).value for text in found] == [1.0, 0.0, 1.0]


def hostile(index: int) -> core.Episode:
    """An episode of statuses, odd text and several roles."""
    text = "</script>\x00\x1b[31m\u202e𝔸\ud800".encode("utf-8", "replace").decode()
    turns = [
        Turn(agent="a_0", role="a", messages=[{"role": "system", "content": text}], text=text, finish_reason="length"),
        Turn(agent="b_0", role="b", messages=[{"role": "user", "content": ""}], text="", status="timeout"),
    ]
    scores = {
        "a_0": Score(-1.5, components={"x": 0.5}, detail=text), "b_0": Score(0.0, "timeout"),
        "c_0": Score(0.0, "invalid", detail="no"),
    }  # fmt: skip
    return core.Episode(
        env_id="x/Odd-v0", version=3, seed=f"s/{index}", index=index, tasks=[], turns=turns,
        events=[Event("odd", "a_0", {"text": text})], outcome=Outcome("timeout", {"n": 1}), scores=scores, round=2,
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["eval", "json"])
def test_a_log_is_the_run(tmp_path: Path, ending: str) -> None:
    """Every message, status, score and fact is there; what has no value is left out of the means and counted."""
    run = Run(tmp_path / "run", {"seats": [["first", "oracle"]], "seed": "s"})
    game = build_game("Kuhn-v0", {})
    list(rollout(game, {"first": "oracle", "second": "guesser"}, 25, reward=build_reward(None, game), out=run.episodes))
    with EpisodeWriter(tmp_path / "odd" / "episodes.jsonl") as out:
        for index in (0, 1, 1):
            out.write(hostile(index))
    run.close()
    for name, model in (("run", "first=oracle"), ("odd", "scripted")):
        path = tmp_path / "logs" / f"{name}.{ending}"
        assert adapter.export_log(tmp_path / name, path) == path
        first = path.read_bytes()
        with pytest.raises(DreamEnvsError, match="is there already"):
            adapter.export_log(tmp_path / name, path)
        log, ours = read_eval_log(str(path)), list(read_episodes(tmp_path / name / "episodes.jsonl"))
        assert len(first) > 0 and (log.status, log.eval.model, len(log.samples)) == ("success", model, len(ours))
        written = {(s.metadata["label"], s.epoch): s for s in log.samples}
        epochs = [1, 1, 2] if name == "odd" else [1] * 25
        for episode, epoch in zip(ours, epochs, strict=True):
            sample = written[episode.seed, epoch]
            assert core.decode_episode(json.dumps(sample.store["episode"])) == episode
            texts = [text for turn in episode.turns for text in (*(m["content"] for m in turn.messages), turn.text)]
            assert [m.text for m in sample.messages] == texts
            calls = [event for event in sample.events if event.event == "model"]
            assert [(c.model, c.error) for c in calls] == [
                (t.agent, None if t.status == "ok" else t.status) for t in episode.turns
            ]
            assert [e.source for e in sample.events if e.event == "info"] == [e.kind for e in episode.events]
            for agent, score in episode.scores.items():
                same(sample.scores[agent], score)
        results = {s.name: s for s in log.results.scores}
        for agent in ours[0].scores:
            known = [e.scores[agent].value for e in ours if e.scores[agent].status == "ok"]
            counts = (results[agent].scored_samples, results[agent].unscored_samples)
            # Inspect counts problems, that is ids: the two epochs of one are one
            assert counts == (
                len({e.index for e in ours}) if known else 0,
                0 if known else len({e.index for e in ours}),
            )
            mean = results[agent].metrics["mean"].value
            assert mean == pytest.approx(sum(known) / len(known)) if known else math.isnan(mean)
        assert len(read_eval_log_sample_summaries(str(path))) == len(ours)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: adapter.task("arithmetik"), "did you mean 'arithmetic'"),
        (lambda: adapter.task("arithmetic", role="solver"), "role=, others= and reward= are for games"),
        (lambda: adapter.task("arithmetic", levels=[99]), "99 is none of arithmetic's 1 to"),
        (lambda: adapter.task("arithmetic", levels=2), r"levels=2: a list"),
        (lambda: adapter.task("arithmetic", samples=0), "samples=0: a whole number from 1"),
        (lambda: adapter.task(Parity(), levels=[1], samples=3), "some 2 problems of levels"),
        (lambda: adapter.task("Kuhn-v0"), "role= 'first', 'second'"),
        (lambda: adapter.task("Kuhn-v0", role="frist"), "did you mean 'first'"),
        (lambda: adapter.task("Kuhn-v0", role="first", levels=[1]), "levels= is for a task family"),
        (lambda: adapter.task("Kuhn-v0", role="first", others={"second": "orakle"}), "did you mean 'oracle'"),
        (lambda: adapter.task("ChallengerSolver-v0", role="solver"), r"4 seats for 'solver'.*\(solvers=1\)"),
        (lambda: adapter.task(3), "neither a task family nor a game"),
        (lambda: adapter.export_log(Path("nowhere"), Path("x.zip")), r"ends in .eval or .json"),
        (lambda: adapter.export_log(Path("nowhere"), Path("x.eval")), "nowhere has no episodes.jsonl"),
    ],
)
def test_mistakes_are_told_in_a_line(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(DreamEnvsError, match=told) as error:
        make()
    assert "\n" not in str(error.value)


def test_an_empty_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "episodes.jsonl").write_bytes(b'{"cut')
    with pytest.raises(DreamEnvsError, match="holds no episode"):
        adapter.export_log(tmp_path, tmp_path / "x.eval")


def test_it_can_be_exported_from_inside_an_event_loop(tmp_path: Path) -> None:
    """As in a notebook."""
    with EpisodeWriter(tmp_path / "episodes.jsonl") as out:
        out.write(hostile(0))

    async def inside() -> Path:
        return adapter.export_log(tmp_path, tmp_path / "x.eval")

    assert len(read_eval_log(str(asyncio.run(inside()))).samples) == 1


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name.partition(".")[0] in ("inspect_ai", "anyio"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args)

    monkeypatch.delitem(sys.modules, "dream_envs.adapters.inspect")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DreamEnvsError, match=re.escape("pip install 'dream-envs[inspect]'")):
        __import__("dream_envs.adapters.inspect")


def test_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tasks are evaluated, its export is run on the run that it names."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "adapters_inspect.md").read_text("utf-8")
    tasks, export = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {"__name__": "ours"}
    exec(tasks, made)
    log = evaluated(made["sums"](), lambda m: Action("Answer: 3"), tmp_path, limit=3)
    assert len(log.samples) == 12 and log.results.scores[0].unscored_samples == 0
    log = evaluated(made["poker"](), plays, tmp_path, limit=3)
    assert len(log.samples) == 3 and log.status == "success"
    run, game = Run("runs/poker", {}), build_game("Kuhn-v0", {})
    list(rollout(game, {"first": "oracle", "second": "guesser"}, 5, reward=build_reward(None, game), out=run.episodes))
    run.close()
    exec(export, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("first_0 ") and first.endswith(" 5 0") and second.startswith("second_0 ")
