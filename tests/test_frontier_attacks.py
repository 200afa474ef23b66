"""What was tried against the Frontier Report, attempt by attempt: refused, an alarm, or in the word (LOG.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from _frontier_small import copied, report, small

from dream_envs import registry
from dream_envs.agents.elicitation.elicit import SelfTuning
from dream_envs.agents.engines.models import resolve, weights_hash
from dream_envs.agents.training.sft import fine_tune
from dream_envs.baselines.frontier import job
from dream_envs.baselines.frontier.elicited import Elicited, Model, by_method, load_model
from dream_envs.core import Action, Challenge, DreamEnvsError, Usage, encode
from dream_envs.frontier import suite as suites
from dream_envs.frontier.draws import SampleCache
from dream_envs.frontier.methods import METHODS
from dream_envs.schema import About, Summary


@pytest.fixture(scope="module")
def base() -> Model:
    return load_model("nano/compose")


def noisy(folder) -> Model:
    """The base with weights that differ by 1e-6."""
    agent = load_model(str(copied(folder))).engine
    for parameter in agent.model.parameters():
        parameter.data += 1e-6
    agent.model.save_pretrained(folder)
    return load_model(str(folder))


def test_a_base_of_another_configuration_is_told(base, tmp_path):
    """A sliding window blinds the base to long prompts; weights and class are the same."""
    layers = ["sliding_attention"] * len(base.engine.model.config.layer_types)
    window = {"use_sliding_window": True, "sliding_window": 8, "layer_types": layers}
    blind = load_model(str(copied(tmp_path / "blind", config=window)))
    data = report(tmp_path, noisy(tmp_path / "noisy"), blind)
    assert any("configuration differs: sliding_window (base 8, trained None)" in q for q in data.verdict.qualified)


def test_a_tokenizer_that_reads_otherwise_is_told(base, tmp_path):
    """Same vocabulary and template; a normalizer garbles the start state of long prompts."""
    rule = {"type": "Replace", "pattern": {"Regex": "^([a-p]):(?=.{4})"}, "content": "a:"}
    garbled = load_model(str(copied(tmp_path / "garbled", tokenizer={"normalizer": rule})))
    data = report(tmp_path, noisy(tmp_path / "noisy"), garbled)
    assert any("problems are other tokens" in q for q in data.verdict.qualified), data.verdict.qualified


def test_answers_in_a_tokenizer_ring_the_alarm_whatever_the_methods(base, tmp_path):
    """The decoder writes another text than was sampled; a method without a closed form does not switch it off."""
    swap = [{"type": "Replace", "pattern": {"String": f"A{s}"}, "content": "A?"} for s in "abcdefghijklmnop"]
    old = json.loads((Path(resolve("nano/compose")) / "tokenizer.json").read_text()).get("decoder")
    decoder = {"type": "Sequence", "decoders": [*([old] if old else []), {"type": "Fuse"}, *swap]}
    odd = load_model(str(copied(tmp_path / "odd", tokenizer={"decoder": decoder})))
    odd = msgspec.structs.replace(odd, identity="odd")
    chosen, names = small(), ("plain", "given", "zero_shot")
    if "pairs-easy" not in registry.rows("suites"):
        easy = msgspec.structs.replace(chosen, name="pairs-easy", mini=40)
        registry.register("suites", "pairs-easy", lambda: easy)
    data = report(tmp_path, odd, base, suite="pairs-easy", methods=names)
    assert data.verdict.word == "Alarm" and "of plain samples of d2" in data.verdict.phrase
    assert any("zero_shot" in q and "does not have" in q for q in data.verdict.qualified)


def minted(task) -> Challenge:
    return Challenge(**msgspec.structs.asdict(task), author="challenger")


def run_folder(folder, model: Model, tasks=(), **about):
    """A finished run's folder, as far as a report looks at it."""
    final = folder / "checkpoints" / "final"
    shutil.copytree(model.name, final)
    facts = About("dream", "x", "grpo", "0", 1, "nano/compose", "0" * 16, weights_hash(final), 1.0)
    facts = msgspec.structs.replace(facts, **about)
    (folder / "run.json").write_text("{}")
    (folder / "challenges.jsonl").write_bytes(b"".join(encode(t) + b"\n" for t in tasks))
    (folder / "summary.json").write_bytes(encode(Summary(facts, "", [], {"total": 1})))
    return folder


def test_a_run_without_a_sound_record_has_none(base, tmp_path):
    model = noisy(tmp_path / "noisy")
    met = [minted(small().problems("met", 1)[0].task)]
    sound = load_model(str(run_folder(tmp_path / "sound", model, met)))
    assert sound.met and sound.began == ("nano/compose", "0" * 16)

    def unrecorded(folder) -> str:
        found = load_model(str(folder))
        assert found.met is None
        return found.unrecorded

    assert "names no problem" in unrecorded(run_folder(tmp_path / "empty", model))
    assert "other weights" in unrecorded(run_folder(tmp_path / "other", model, met, trained_hash="f" * 16))
    lies = run_folder(tmp_path / "lies", model, [msgspec.structs.replace(met[0], id="0" * 16)])
    assert "other ids" in unrecorded(lies)
    (lies / "summary.json").unlink()
    assert "no summary.json" in unrecorded(lies)


def test_a_run_is_measured_against_its_own_base_or_that_is_told(base, tmp_path):
    other = noisy(tmp_path / "other")
    met = [minted(small().problems("met", 1)[0].task)]
    folder = run_folder(tmp_path / "run", other, met, weights_hash="e" * 16)
    data = job.run("nano/compose", str(folder), tmp_path / "out", tmp_path / "c", job.Options("small"), quiet=True)
    assert any("the run began from another base" in q for q in data.verdict.qualified)
    folder = run_folder(tmp_path / "itself", other, base=str(tmp_path / "other"))
    with pytest.raises(DreamEnvsError, match="nothing was trained"):  # its own base, which is what it is
        job.run("", str(folder), tmp_path / "out", tmp_path / "c", job.Options("small"), quiet=True)


def test_draws_that_were_edited_are_found(base, tmp_path):
    trained = noisy(tmp_path / "noisy")
    report(tmp_path, trained, base)
    path = max((tmp_path / "cache").iterdir(), key=lambda p: p.stat().st_size)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    hits = [row for row in lines if row.get("first")]
    assert len(hits) > 3
    for row in hits:
        row["first"] = 0
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    with pytest.raises(DreamEnvsError, match="are not what the model draws"):
        report(tmp_path, trained, base)
    for wrong in ('{"arms":"plain","id":"x","made":"x","first":0}', '{"arms":"p","id":"x","made":1,"first":3}'):
        path.write_text(wrong + "\n")
        with pytest.raises(DreamEnvsError, match=f"{path}, line 1 is no line of draws"):
            report(tmp_path, trained, base)


def test_another_suite_of_a_name_shares_no_draws_and_is_told(base, tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(
        "import msgspec\nfrom dream_envs.frontier import suite\n"
        "def nano(): return msgspec.structs.replace(suite.nano(), mini=1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs, ours = suites.suite("elsewhere:nano"), suites.suite("nano")
    assert theirs.name == "elsewhere:nano" and job.what_decides_a_draw(theirs) != job.what_decides_a_draw(ours)
    plan, specs = job.plan_of(job.Options("elsewhere:nano", "x"))
    nothing: Any = SimpleNamespace(envelopes=["decoding", "scaffolds"], unavailable={}, problems=[], base=[])
    assert any("is not of this project" in q for q in job.qualified(plan, specs, nothing, base, base))


def test_a_base_that_fails_on_what_it_was_made_for_is_told(base, tmp_path):
    """A final norm that is far too small makes it as hot as no registered decoding is cold."""
    hot = noisy(tmp_path / "hot")
    hot.engine.model.model.norm.weight.data *= 0.35
    told = report(tmp_path, base, msgspec.structs.replace(hot, identity="hot")).verdict.qualified
    assert any(q.startswith("the base fails on its own declared support (d2:") for q in told), told


def test_the_seed_hangs_on_weights_and_record_alone(base, tmp_path):
    one = noisy(tmp_path / "one")
    other = load_model(str(copied(tmp_path / "other", config={"nonce": 7})))
    assert one.identity != other.identity != base.identity
    assert job.seed_after(base, other) == job.seed_after(base, base) != job.seed_after(base, one)
    met = (minted(small().problems("met", 1)[0].task),)
    assert job.seed_after(base, msgspec.structs.replace(one, met=met)) != job.seed_after(base, one)


def test_a_model_that_answers_only_in_a_forced_form_has_lost_what_it_knew(base, tmp_path):
    """It is mute unless a grammar writes its first token: no gain, and the loss is in the word."""
    tasks = [p.task for p in small().problems("mute", 40)]
    tuned = fine_tune(base.engine, [(small().messages(t), "?") for t in tasks], steps=60, lr=1e-3, seed="mute")
    data = report(tmp_path, Model("mute", "mute", tuned), base)
    assert data.verdict.word == "Contraction" and data.verdict.lost, data.verdict.phrase
    assert data.protocol.configurations["trained"] not in ("forced", "given", "given_cool")


@pytest.mark.parametrize("name", ["power", "majority"])
def test_one_of_several_is_more_often_right(base, name):
    """At depth 2 and 3, where single replies are right most of the time; and it counts the tokens of all."""
    chosen = small()
    problems = [p for p in chosen.problems("several", 25) if chosen.strata[p.stratum].name in ("d2", "d3")]
    elicited, counts = Elicited(chosen, base), SampleCache(None, "base")
    single, many = (counts.count(elicited.method(METHODS[n]), problems, 4) for n in ("plain", name))
    rates = [np.mean([c.right for c in found]) for found in (single, many)]
    assert rates[1] > rates[0] + 0.03 and sum(c.tokens for c in many) > 6 * sum(c.tokens for c in single), rates


def test_a_copy_tuned_on_its_own_right_samples_reaches_further(base):
    """One round of STaR: depth 4 rises from nearly nothing; steps and tokens are those that were asked for."""
    chosen = suites.nano()
    dev = [p.task for p in chosen.problems("own", 24) if chosen.strata[p.stratum].level <= 5 and p.stratum < 9]
    family = chosen.strata[0].family
    made = SelfTuning(draws=32).matched(60, 60 * 1000).make(base.engine, dev, family, "x")
    problems = [p for p in small().problems("fresh", 25) if small().strata[p.stratum].name == "d4"]
    before, after = (np.exp(by_method(small(), problems, Model("m", "m", a), [METHODS["plain"]])[0]).mean()
                     for a in (base.engine, made))  # fmt: skip
    assert before < 0.3 and after > before + 0.3, (before, after)


def test_shots_of_a_reasoning_suite_are_the_models_own_right_replies():
    """Replies of a scripted chat model: what is shown reasons, where it was right once; else the bare answer."""

    class Chat:
        def act(self, requests):
            tasks = [known[r.messages[-1]["content"]] for r in requests]
            answers = [t.answer if t.level <= 6 else "nonsense" for t in tasks]
            return [Action(f"Step by step.\nAnswer: {answer}", usage=Usage(1, 4)) for answer in answers]

    chosen = suites.english()
    known = {chosen.messages(p.task)[0]["content"]: p.task for p in chosen.problems("elicitation", 8)}
    elicited = Elicited(chosen, Model("chat", "chat", Chat()))
    problem = chosen.problems("new", 1)[0]
    messages = elicited.method(METHODS["few_shot"]).messages(problem)
    replies = [m["content"] for m in messages if m["role"] == "assistant"]
    assert len(replies) == 4 and all(r.startswith("Step by step.") for r in replies)


def test_an_adapter_is_part_of_the_model(base, tmp_path):
    """A folder of weights with a LoRA adapter beside them: its replies are not those of the weights alone."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "lora"
    model = get_peft_model(load_model("nano/compose").engine.model, LoraConfig(r=4, target_modules=["q_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=3.0)
    copied(folder)
    model.save_pretrained(folder)
    adapted = load_model(str(folder))
    problems = [p for p in small().problems("lora", 10) if small().strata[p.stratum].name == "d2"]
    methods = [Elicited(small(), m).method(METHODS["plain"]) for m in (base, adapted)]
    counts = [SampleCache(None, "base").count(method, problems, 4) for method in methods]
    plain, changed = (sum(sum(c.right) for c in found) for found in counts)
    assert plain > 30 and changed < plain / 2


def test_an_engine_that_takes_no_decoding_is_asked_plainly_and_that_is_told(base, tmp_path):
    """Nothing is named that was not done: temperature, forms and branches are listed as not applied."""

    class Endpoint:
        def act(self, requests):
            return base.engine.act(requests)

    one, other = (Model(name, name, Endpoint()) for name in ("endpoint", "endpoint again"))
    data = report(tmp_path, one, other, methods=("plain", "cool", "given", "decompose"))
    assert set(data.protocol.unavailable) == {"cool", "given"}
    assert "method cool could not be made (Endpoint does not take its decoding)" in data.verdict.qualified
    assert data.verdict.word != "Expansion"


def test_a_base_that_knows_nothing_is_refused(base, tmp_path):
    """A final norm of zero: a lucky forced first step is no knowledge."""
    empty = noisy(tmp_path / "empty")
    empty.engine.model.model.norm.weight.data *= 0.0
    with pytest.raises(DreamEnvsError, match="the base solves no"):
        report(tmp_path, base, msgspec.structs.replace(empty, identity="empty"))


def test_a_shipped_base_is_no_path():
    with pytest.raises(DreamEnvsError, match="shipped bases are"):
        load_model("nano/../nano/compose")
