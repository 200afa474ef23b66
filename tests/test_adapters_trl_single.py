"""Stock trainers of TRL on single turns and on one seat of a game; the page of the documentation."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from _bpe import tokenizer as bpe
from _families import NAMES
from _tiny import same, weights
from test_adapters_trl import ROOT, config
from transformers import LlamaConfig, LlamaForCausalLM
from trl import GRPOTrainer

from dream_envs import cli, registry
from dream_envs.adapters import trl as ours
from dream_envs.agents.engines.models import load
from dream_envs.core import DreamEnvsError, decode_task
from dream_envs.play import read_episodes
from dream_envs.tasks.composition import Composition


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("notation", ["compact", "english"])
def test_a_data_set_of_any_family(name: str, notation: str) -> None:
    family = registry.create("tasks", name, notation=notation)
    rows = ours.dataset(name, count=60, seed="s", notation=notation, system="Be brief.")
    assert rows.column_names == ["prompt", "task", "answer", "level"]
    assert len({row["prompt"][-1]["content"] for row in rows}) == 60
    levels = list(family.levels)
    for i, row in enumerate(rows):
        task = decode_task(row["task"])
        assert row["level"] == task.level == levels[i % len(levels)] and row["answer"] == task.answer
        assert row["prompt"] == [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": task.prompt}
        ]  # fmt: skip
        assert family.verify(task, family.gold(task)).value == 1.0
    fewer = ours.dataset(name, count=25, seed="s", notation=notation, system="Be brief.")
    assert list(fewer) == list(rows)[:25]
    other = ours.dataset(name, count=25, seed="t", notation=notation, system="Be brief.")
    assert sum(a == b for a, b in zip(other, fewer, strict=True)) < 13


def test_a_data_set_that_cannot_be(monkeypatch: Any) -> None:
    family = Composition(max_level=3)
    for words, said in (
        ({"family": family, "levels": [4]}, r"levels=\[4\]: some of the levels of composition, 1 to 3"),
        ({"family": family, "levels": []}, r"levels=\[\]"),
        ({"family": family, "count": 0}, "count=0"),
        ({"family": family, "notation": "english"}, "notation= goes with a family's name"),
        ({"family": "compositon"}, "'composition'"),
        ({"family": "composition", "notation": "latin"}, "'latin'"),
        ({"family": family, "levels": [1], "count": 129}, "level 1 of composition seems to have 128 different"),
    ):
        with pytest.raises(DreamEnvsError, match=said):
            ours.dataset(**{"count": 5, **words})
    assert len(ours.dataset(family, levels=[1], count=128)) == 128
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DreamEnvsError, match=r"needs datasets: pip install 'dream-envs\[train\]'"):
        ours.dataset(family, count=1)


def test_single_turns_learn_and_are_paid_what_the_family_says(tmp_path: Path) -> None:
    rows = ours.dataset("composition", levels=[2, 3], count=32, seed="s")
    (reward,) = ours.reward_funcs("0.9*correctness+0.1*format", "composition")
    seen: list[Any] = []

    def watched(**given: Any) -> list[float | None]:
        seen.append((given, reward(**given)))
        return seen[-1][1]

    model, tokenizer = load("nano/compose", "cpu")
    before = weights(model)
    args = config(tmp_path, max_completion_length=8, per_device_train_batch_size=32)
    GRPOTrainer(model, watched, args, rows, processing_class=tokenizer).train()
    assert not same(before, weights(model)) and len(seen) == 2
    family, found = Composition(), []
    for given, paid in seen:
        for task, completion, earned in zip(given["task"], given["completions"], paid, strict=True):
            right = family.verify(decode_task(task), completion[0]["content"]).value
            found.append(right)
            assert earned == pytest.approx(0.9 * right + 0.1) or (not right and earned == pytest.approx(0.0))
    assert 0 < sum(found) < len(found)


# ---- one seat, by tool calls


def test_a_seat_as_trl_drives_it() -> None:
    made = ours.environment_factory("dream_envs/ChallengerSolver-v0", "solver", solvers=2, seed="s")
    public = {n for n in dir(made) if not n.startswith("_")}
    assert public == {"reset", "answer", "get_reward", "episode"} and made.__name__ == "challenger_solver_solver"
    envs, row = [made() for _ in range(3)], {"prompt": [{"role": "user", "content": ""}], "index": 3}
    asked = [env.reset(**row) for env in envs]
    family, others = Composition(), {made().reset(**{**row, "index": i}) for i in range(20)}
    assert len(set(asked)) == 1 and len(others) > 10
    task = family.parse(asked[0])
    envs[0].answer(reply=task.answer)  # type: ignore[union-attr]
    assert envs[1].answer("wrong") == "The game is over."
    with pytest.raises(DreamEnvsError, match="over"):
        envs[1].answer("again")
    # the third has never called its tool: an empty reply
    assert [env.get_reward() for env in envs] == [1.0, 0.0, 0.0]
    for env in envs:
        assert env.episode is not None and env.episode.tasks[-1].prompt == asked[0]
    assert envs[0].episode.seed == envs[2].episode.seed  # so do the others, whatever is said


def test_a_seat_from_a_task_and_scores_that_are_none(monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "debate"))
    family = Composition()
    rows = ours.dataset(family, levels=[3], count=2, seed=0)
    made = ours.environment_factory("debate_env:Debate", "opener", {"judge": lambda text: "1"}, level=3)
    for row in rows:
        env = made()
        assert env.reset(**row) == row["prompt"][-1]["content"]
        env.answer(row["answer"])
        assert env.get_reward() == 1.0
    absent = ours.environment_factory("debate_env:Debate", "opener", reward=lambda episode: {})()
    absent.reset(**rows[0])
    assert absent.get_reward() is None
    with pytest.raises(DreamEnvsError, match="levl"):
        ours.environment_factory("debate_env:Debate", "opener", levl=3)
    with pytest.raises(DreamEnvsError, match="role="):
        ours.environment_factory("dream_envs/Kuhn-v0")


def test_a_seat_that_moves_twice_and_one_that_is_silent() -> None:
    made = ours.environment_factory("dream_envs/Kuhn-v0", "first", {"second": lambda text: "b"})
    env = made()
    seen = env.reset(index=1)
    assert env.answer("p") == seen + "pb" and env.episode is None
    env.answer("b")
    assert abs(env.get_reward()) == 2.0
    env.reset(index=1)
    assert env.get_reward() == -1.0 and env.episode.outcome.facts["forfeit"] == "first_0"


CALL = '<tool_call>\n{{"name": "answer", "arguments": {{"reply": "{}"}}}}\n</tool_call><|im_end|>'


def test_a_step_of_trl_with_a_tool_call(tmp_path: Path, monkeypatch: Any) -> None:
    """TRL parses the call, asks our object and trains on the whole; what the random model says is put in its mouth."""
    from trl.chat_template_utils import qwen3_chat_template

    tokenizer = bpe(qwen3_chat_template)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, **shape))
    before, spoken = weights(model), list[str]()
    made = ours.environment_factory("dream_envs/Kuhn-v0", "first", {"second": lambda text: "p"})
    args = config(
        tmp_path, max_steps=1, per_device_train_batch_size=4, max_completion_length=400, num_generations=4,
        chat_template_kwargs={"enable_thinking": False},
    )  # fmt: skip
    trainer = GRPOTrainer(
        model, args=args, train_dataset=ours.places(4), processing_class=tokenizer, environment_factory=made
    )
    moves = iter([CALL.format("b"), CALL.format("p"), CALL.format("?"), "I pass.<|im_end|>", *["Done.<|im_end|>"] * 9])

    def say(prompt_ids: Any, *_: Any, **__: Any) -> Any:
        spoken.extend(tokenizer.batch_decode(prompt_ids))
        return [tokenizer(next(moves), add_special_tokens=False)["input_ids"] for _ in prompt_ids], None

    monkeypatch.setattr(trainer, "_generate_single_turn", say)
    trainer.train()
    games = [env.episode for env in trainer.environments]
    assert len({game.outcome.facts["cards"]["first_0"] for game in games}) == 1
    won = games[1].scores["first_0"].value  # both passed: the higher card wins an ante
    # a bet that is folded to wins; a move that is none forfeits, and so does one that was never made
    assert list(trainer._logs["rewards"]["kuhn_first"]) == [1.0, won, -1.0, -1.0] and abs(won) == 1.0
    assert "The game is over." in spoken[4] and not same(before, weights(model))


def test_the_page(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    page = (ROOT / "docs" / "adapters_trl.md").read_text("utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for kind, block in blocks:
        if kind == "python":
            exec(block, space)
        else:
            assert [cli.main(shlex.split(line)[1:]) for line in block.splitlines()] == [0, 0]
    assert [kind for kind, _ in blocks] == ["python"] * 4 + ["sh", "python"]
    told = capsys.readouterr().out
    first, last = map(float, re.findall(r"(\d\.\d\d) at first, (\d\.\d\d) in the end", told)[0])
    assert 0.1 < first < 0.4 and last > first + 0.1  # exactly 0.22 before training
    assert len(space["sft"]) == sum(
        e.scores[t.agent].value
        for e in read_episodes("runs/both/episodes.jsonl")
        for t in e.turns
        if t.role == "solver"
    )
