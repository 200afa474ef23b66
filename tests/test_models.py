"""Real tokenizers, templates and folders: what is unusual is mended or told in one line, at load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import _bpe
import pytest
import torch

from dream_envs.agents.engines import models
from dream_envs.agents.engines.chat import Chat
from dream_envs.agents.engines.decode import CachedForward, left_padded
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training import memory
from dream_envs.agents.training.adapters import adapted, take_over
from dream_envs.agents.training.learner import PolicyLearner
from dream_envs.agents.training.settings import LearnerSettings
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.baselines.loop import conduct
from dream_envs.baselines.loops.nights import METHODS
from dream_envs.baselines.recipe import Options, preset_of
from dream_envs.core import DreamEnvsError, Limits, Request
from dream_envs.registry import rows
from dream_envs.schema import Summary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _bpe.save(tmp_path_factory.mktemp("bpe"))


def request(text: str, seed: int = 0, tokens: int = 12) -> Request:
    messages: Any = [{"role": "user", "content": text}]
    return Request(messages=messages, agent="solver_0", role="solver", seed=seed, limits=Limits(tokens))


def test_the_turn_ends_where_the_template_says(folder: Path) -> None:
    agent = LocalAgent(str(folder))
    assert agent.ends == [0, 1] and agent.end == 1 and agent.completion("7")[-1] == 1
    assert len(agent.completion("Compute")) < len("Compute")  # it merges letters
    first, second = agent.act([request("a", 1, 2), request("a", 1, 40)])
    assert first.finish_reason == "length" and len(first.token_ids or ()) == 2
    assert second.finish_reason in ("stop", "length")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"template": None}, "has no chat template.*plain"),
        ({"template": "{{ raise_exception('no') }}"}, "the chat template fails on messages of user: no"),
        ({"ends": 99_999}, "eos_token_id=99999: one id or several, from 0 to"),
        ({"vocab_size": 300}, "the tokenizer writes id|one id or several"),
    ],
)
def test_what_cannot_be_used_is_told_at_load(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(DreamEnvsError, match=told) as caught:
        LocalAgent(str(_bpe.save(tmp_path, **more)))
    assert "\n" not in str(caught.value)


def test_what_can_be_mended_is(tmp_path: Path) -> None:
    no_system = _bpe.TEMPLATE.replace(
        "{% for", "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{% for", 1
    )
    agent = LocalAgent(str(_bpe.save(tmp_path / "a", template=no_system, ends=None)), system="Be brief.")
    assert agent.ends == [0, 1]  # the tokenizer's, and what the template writes
    assert "Be brief.\n\nhello" in agent.tokenizer.decode(agent.encode([{"role": "user", "content": "hello"}]))
    plain = LocalAgent(str(_bpe.save(tmp_path / "b", template=None)), template={"chat_template": "plain"})
    assert plain.tokenizer.decode(plain.encode([{"role": "user", "content": "hi"}])) == "User: hi\n\nAssistant:"
    thinks = _bpe.TEMPLATE.replace(
        "<|assistant|>{% endif %}", "<|assistant|>{% if thinking %}<think>\n{% endif %}{% endif %}"
    )
    folder = str(_bpe.save(tmp_path / "c", template=thinks))
    (open_,) = LocalAgent(folder, template={"thinking": True}).act([request("x")])
    (shut,) = LocalAgent(folder).act([request("x")])
    assert open_.text.startswith("<think>") and not shut.text.startswith("<think>")


def test_sampling_settings(folder: Path) -> None:
    agent = LocalAgent(str(folder), top_k=1)
    greedy = agent.decoding(temperature=0.0, top_k=0)
    asked = [request("Compute 3 + 4", i) for i in range(4)]
    assert [a.text for a in agent.act(asked)] == [a.text for a in greedy.act(asked)]
    agent.model.generation_config.temperature, agent.model.generation_config.top_k = 0.6, 20
    own = LocalAgent(agent.model, tokenizer=agent.tokenizer, sampling="model")
    assert (own.how.temperature, own.how.top_k) == (0.6, 20)
    with pytest.raises(DreamEnvsError, match="top_k=-1"):
        agent.decoding(top_k=-1)


def test_a_batch_that_does_not_fit_is_halved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = LocalAgent(str(folder))
    asked = [request("Compute", i) for i in range(7)]
    whole = [a.token_ids for a in agent.act(asked)]
    prefill = type(agent.engine()).prefill

    def tight(self: Any, ids: Any, mask: Any, repeats: Any, room: int) -> Any:
        if int(repeats.sum()) > 2:
            raise torch.OutOfMemoryError
        return prefill(self, ids, mask, repeats, room)

    monkeypatch.setattr(type(agent.engine()), "prefill", tight)
    assert [a.token_ids for a in agent.act(asked)] == whole and agent.batch == 1


def test_a_cpu_is_asked_before_a_batch_is_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the process instead of raising: no more rows at once than there is memory for, the same replies."""
    from dream_envs.agents.engines import memory as room

    agent = LocalAgent(str(folder))
    asked = [request("Compute", i) for i in range(7)]
    whole = [a.token_ids for a in agent.act(asked)]
    prefill, sizes = type(agent.engine()).prefill, list[int]()

    def counted(self: Any, ids: Any, mask: Any, repeats: Any, room: int) -> Any:
        sizes.append(int(repeats.sum()))
        return prefill(self, ids, mask, repeats, room)

    monkeypatch.setattr(type(agent.engine()), "prefill", counted)
    width = len(agent.encode(asked[0].messages))
    monkeypatch.setattr(room, "free", lambda device: 1e6)
    narrow, wide = (room.rows_that_fit(agent.model, width, n) or 0 for n in (1000, 10))
    assert 0 < narrow < wide
    monkeypatch.setattr(room, "free", lambda device: 3.5 * 1e6 / wide)
    assert [a.token_ids for a in agent.act(asked)] == whole and len(sizes) > 1 and max(sizes) < 7
    sizes.clear()
    monkeypatch.setattr(room, "free", lambda device: 1.0)
    assert [a.token_ids for a in agent.act(asked)] == whole and sizes == [1] * 7, "one row is tried in any case"


def test_sharded_folders_and_adapters_load(folder: Path, tmp_path: Path) -> None:
    agent = LocalAgent(str(folder))
    agent.model.save_pretrained(str(tmp_path / "shards"), max_shard_size="100KB")
    agent.tokenizer.save_pretrained(str(tmp_path / "shards"))
    shards = LocalAgent(str(tmp_path / "shards"))
    assert len(models.weight_files(tmp_path / "shards")) > 1
    asked = [request("Compute 3 + 4", i) for i in range(3)]
    said = [a.text for a in agent.act(asked)]
    assert [a.text for a in shards.act(asked)] == said
    tuned = adapted(LocalAgent(str(folder)).model, 4, 0)
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.linspace(-0.3, 0.3, value.numel()).view_as(value))
    tuned.peft_config["default"].base_model_name_or_path = str(folder)
    tuned.save_pretrained(str(tmp_path / "adapter"))
    live = LocalAgent(tuned, tokenizer=agent.tokenizer)
    loaded = LocalAgent(str(tmp_path / "adapter"))
    assert [a.text for a in loaded.act(asked)] == [a.text for a in live.act(asked)] != said
    hashes = {models.weights_hash(p) for p in (folder, tmp_path / "shards", tmp_path / "adapter")}
    assert len(hashes) == 3
    prompts = [agent.encode(r.messages) for r in asked]
    ids, mask = left_padded(prompts, agent.pad, "cpu")
    forwards: list[Any] = [live.engine(), CachedForward(tuned)]
    logits = [f.prefill(ids, mask, torch.ones(3, dtype=torch.long), 1) for f in forwards]
    assert torch.allclose(logits[0], logits[1], atol=1e-4)  # adapters are in the fast path as in the slow one


def test_weights_pass_under_adapters(folder: Path) -> None:
    plain, other = LocalAgent(str(folder)), LocalAgent(str(folder))
    with torch.no_grad():
        for value in other.model.parameters():
            value.mul_(1.5)
    learner = PolicyLearner(plain, settings=LearnerSettings(lora_rank=2))
    learner.adopt(other)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(learner.engine.model(ids).logits, other.model(ids).logits, atol=1e-5)
    assert torch.allclose(learner.snapshot().model(ids).logits, other.model(ids).logits, atol=1e-5)
    take_over(learner.engine.model, learner.engine.model)


def test_names() -> None:
    assert preset_of("", "nano/compose") == "nano" and preset_of("", "smollm2") == "lm" == preset_of(
        "lm", "nano/compose"
    )
    with pytest.raises(DreamEnvsError, match="presets"):
        preset_of("huge", "x")
    for name, told in (("/no/such/folder", "no such folder"), ("nowhere", "no such folder")):
        with pytest.raises(DreamEnvsError, match=told):
            models.resolve(name)
    with pytest.raises(DreamEnvsError, match="dtype='float8'"):
        LocalAgent("nano/compose", dtype="float8")


def test_a_step_that_does_not_fit_is_told_before_it_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = LocalAgent(str(folder))
    agent.model.requires_grad_(True)
    rows = [TrainingRow([5] * 100, [6] * 50, 1.0)] * 64
    memory.check(agent.model, rows, 0, False)
    few, all_ = (memory.needed(agent.model, rows, n, False) for n in (4, 0))
    assert memory.needed(agent.model, rows, 4, True) < few < all_
    for there, told in ((few / 0.95, "--micro-batch 4"), (1.0, "--lora-rank 16"), (few / 0.9, None)):
        monkeypatch.setattr(memory, "free", lambda device, there=there: there)
        if told is None:
            memory.check(agent.model, rows, 4, False)
            continue
        with pytest.raises(DreamEnvsError, match=f"micro_batch=64: a step needs about .* GiB on cpu.*{told}"):
            memory.check(agent.model, rows, 0, False)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_arrays_that_are_freed_leave_the_process() -> None:
    """Of 200 MiB in arrays of 4 MiB with something small between them: all stay in the heap, or none."""
    program = """
import ctypes, re, sys
from dream_envs.agents.engines.memory import give_back
def held(): return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
if sys.argv[1] == "back": give_back()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.free(libc.malloc(30 << 20))  # from now on the allocator keeps what is smaller than this
before, made = held(), []
for _ in range(50):
    made.append(libc.malloc(4 << 20)); ctypes.memset(made[-1], 1, 4 << 20); libc.malloc(4096)
for one in made: libc.free(one)
print(held() - before)
"""
    command = [sys.executable, "-c", program]
    kept, left = (int(subprocess.check_output([*command, how], text=True)) for how in ("keep", "back"))
    assert kept > 150 and left < 20


LOOPS = list(rows("loops"))
NIGHT = {"nights": 1, "probes": 2, "wakes": 1, "game.dreams": 1, "nights.learning.steps": 2, "nights.learning.batch": 2}
SMALL: dict[str, dict[str, Any]] = {
    "dream": {"mixture.challenger": 2, "mixture.mutation": 0, "mixture.replay": 0, "mixture.generator": 4},
    "r_zero": {"challenger_steps": 1, "solver_steps": 1, "candidates": 8, "round": 4, "attempts": 4},
    "magpie": {"dreams": 8, "checks": 10},
    **{name: NIGHT for name in LOOPS if name in METHODS},
    "discovery": {"days": 1, "practices": 1, "challengers": 2, "nights.learning.steps": 2, "nights.learning.batch": 2},
    "ctx2skill": {"sample": 1, "tasks": 2, "repeats": 1, "tests": 2, "game.rubrics": 2},
    "in_context": {k: v for k, v in NIGHT.items() if not k.startswith("nights.")},
}  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_takes_a_step_on_a_tokenizer_that_merges_letters(loop: str, folder: Path, tmp_path: Path) -> None:
    """English notation, LoRA, bfloat16, two rows at once; to its summary, with sampled evaluation."""
    settings: dict[str, Any] = {"eval.problems": 4, "eval.attempts": 2, "eval.games": 4, **SMALL.get(loop, {})}
    options = Options(
        loop, steps=2 if loop == "r_zero" else 1, model=str(folder), notation="english", preset="lm", dtype="bfloat16",
        max_tokens=8,
        set={"learner.lora_rank": 2, "learner.micro_batch": 4, **settings},
    )  # fmt: skip
    try:
        summary = conduct(options, tmp_path / "run", quiet=True)
    except DreamEnvsError as error:  # a random model writes no problem that could be learnt from
        told = {"preference": "was answered rightly and wrongly", "magpie": "keeps 0 of 8 dreams (0 valid)"}
        assert loop in ("self_rewarding", "r_zero", *told), error
        assert told.get(loop, "the dataset is empty") in str(error), error
        return
    assert isinstance(summary, Summary) and summary.evaluation is not None
    assert summary.evaluation.kind == ("play" if loop in ("spiral", "ctx2skill") else "sampled")
    assert (tmp_path / "run" / "checkpoints" / "final" / "model.safetensors").is_file()


def test_chat_is_checked_once(folder: Path) -> None:
    agent = LocalAgent(str(folder))
    again = Chat(agent.tokenizer, agent.model)
    messages: Any = [{"role": "user", "content": "x"}]
    assert again.encode(messages) is again.encode(messages)


def test_open_ended_requests_are_trained_on_a_panels_verdicts(folder: Path, tmp_path: Path) -> None:
    """Judged alone: no evaluation by truth, and asking for one is refused in one line."""
    options = Options(
        "self_play", steps=1, env="dream_envs/ChallengerSolver-v0", family="instructions", model=str(folder),
        preset="lm", dtype="float32", max_tokens=8, seats={"challenger": "generator"},
        set={"game.judge": "rubric", "learner.lora_rank": 2, "learner.micro_batch": 4, "episodes": 4, "copies": 2,
             "eval.games": 2},
    )  # fmt: skip
    summary = conduct(options, tmp_path / "run", quiet=True)
    assert summary.evaluation is not None and summary.evaluation.kind == "play"
    options.set["eval.kind"] = "sampled"
    with pytest.raises(DreamEnvsError, match="nobody can verify replies to instructions"):
        conduct(options, tmp_path / "b", quiet=True)
