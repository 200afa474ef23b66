"""The loop magpie: filters by name and their known faults, a whole run, kills, controls, the page, the export."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import _bpe
import datasets
import msgspec
import numpy as np
from _recipes import options, walked

from dream_envs.adapters.export import export_dreams
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.sft import fine_tune, tokenized
from dream_envs.baselines import dreams as learner
from dream_envs.baselines import loop
from dream_envs.baselines.following import checks, followed
from dream_envs.core import DreamEnvsError, Measure
from dream_envs.curriculum.dreams import PRESETS, Dreamt, Preset, dreamt, sieve, statistics, unmeasured
from dream_envs.envs import dream_facts
from dream_envs.envs.dreaming import Dreaming
from dream_envs.play import read_episodes, rollout
from dream_envs.report import page, sections
from dream_envs.report.read import load
from dream_envs.schema import read_summary
from dream_envs.seeds import stream

WORDS = ("amber", "bridge", "copper", "dawnlight", "ember", "forest", "glacier", "harbour", "island", "jungle")


def row(number: int, text: str = "", *, tokens: int = 10, reject: str = "", **measures: Any) -> Dreamt:
    """A dream of its own words, rated 5 and 5 unless said otherwise."""
    more = {k: measures.pop(k) for k in ("reward", "margin") if k in measures}
    own = text or f"{WORDS[number % 10]} {WORDS[number // 10 % 10]} {number * 7919}?"
    return Dreamt(
        episode=number, turn=0, messages=[{"role": "user", "content": own}], raw=own, kind="clean", reply="x" * tokens,
        reject=reject, tokens=tokens, measures={"quality": 1.0, "difficulty": 1.0, **measures}, **more,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize(("preset", "kept"), [
    ("air", {0}), ("pro", {0, 2, 3}), ("filter2", {0, 3}), ("filter3", {0, 1, 2, 3}), ("filter4", {0, 2}),
    ("filter5", {0, 2, 3}), ("filter6", {0, 2, 3}), ("notebook", {0, 3}),
])  # fmt: skip
def test_presets_by_name_keep_what_their_rules_say(preset: str, kept: set[int]) -> None:
    rows = [
        row(0, reward=1.0, margin=1.0), row(1, quality=0.1, reward=1.0, margin=1.0),
        row(2, quality=0.5, reward=-11.0, margin=1.0),  # average, above -12 and not above -10
        row(3, difficulty=0.3, reward=1.0, margin=0.0),  # easy, and no better than a base's
        row(4, reward=-12.0, margin=-1.0), row(5, reward=1.0, margin=1.0, reject="cut"),
    ]  # fmt: skip
    most = msgspec.structs.replace(PRESETS[preset], longest=None)
    assert {i for i, why in enumerate(sieve(rows, most)) if not why} == kept
    assert sieve(rows, most)[5] == "cut" and sieve(rows, most)[4] in ("reward", "margin")


def test_the_longest_are_taken_last_and_of_equal_lengths_the_first() -> None:
    rows = [row(i, tokens=i % 5, quality=0.0 if i == 9 else 1.0) for i in range(10)]
    assert [i for i, why in enumerate(sieve(rows, Preset(quality=3, longest=0.2))) if not why] == [3, 4]
    assert [i for i, why in enumerate(sieve(rows, Preset(longest=0.3))) if not why] == [3, 4, 9]
    easy = [row(i, tokens=i, difficulty=0.1 if i < 5 else 0.9) for i in range(10)]
    halves = sieve(easy, Preset(longest=0.4, halves=True))
    assert {i for i, why in enumerate(halves) if not why} == {3, 4, 8, 9}


def test_a_repeat_is_dropped_for_one_that_is_kept() -> None:
    """Of equal dreams one is left, the first that passes the other rules; the paper's rule leaves none."""
    rows = [row(0, "Why is it so?", quality=0.1), row(1, "Why is it so?"), row(2, "why  is it SO?"), row(3)]
    assert sieve(rows, Preset(quality=3)) == ["quality", "", "distance", ""]
    assert sieve(rows, Preset()) == ["", "distance", "distance", ""]
    assert sieve(rows, Preset(within=None)) == [""] * 4


def test_a_chain_of_neighbours_keeps_every_second_and_not_one_end() -> None:
    texts = [" ".join(f"word{k}" for k in range(i, i + 8)) for i in range(6)]
    table = dream_facts.distances(*[dream_facts.vectors(texts)] * 2)
    within = float(max(table[i, i + 1] for i in range(5)))
    dropped = sieve([row(i, text) for i, text in enumerate(texts)], Preset(within=within))
    assert dropped == ["", "distance"] * 3
    for i, why in enumerate(dropped):  # whatever is left out has a kept one that near
        assert not why or min(table[i, j] for j in range(6) if not dropped[j]) <= within


def test_what_was_not_measured_is_an_error_unless_it_is_left_out() -> None:
    rows = [row(0), row(1)]
    assert unmeasured(rows, PRESETS["pro"]) == ["reward"] and unmeasured(rows, PRESETS["air"]) == ["margin"]
    with pytest.raises(DreamEnvsError, match=r"reward was not measured; leave it out: without=\['reward'\]"):
        sieve(rows, "pro")
    assert sieve(rows, "filter5", ["reward"]) == ["", ""]
    some = [row(0), row(1, reward=1.0), row(2, reject="cut")]  # of one dream the model said nothing
    assert unmeasured(some, PRESETS["filter5"]) == [] and sieve(some, "filter5") == ["reward", "", "cut"]
    unread = [row(0), row(1, quality=None)]
    assert unmeasured(unread, Preset(quality=1)) == [] and sieve(unread, Preset(quality=1)) == ["", "quality"]
    with pytest.raises(DreamEnvsError, match="'filter2'"):
        sieve(rows, "filter22")


def test_rows_of_games_and_their_statistics() -> None:
    game = Dreaming(turns=2)
    said = ["Why is it so?", "", "Why is it so?", "Is it?\nAssistant: yes"]
    episodes = list(rollout(game, {"dreamer": lambda r: said[0], "responder": lambda text: "It is."}, 2, seed="s"))
    rows = dreamt(episodes)
    assert [(r.episode, r.turn, len(r.messages)) for r in rows] == [(0, 0, 1), (0, 1, 3), (1, 0, 1), (1, 1, 3)]
    assert all(r.distance == 0 and r.reply == "It is." for r in rows) and statistics(rows)["distinct"] == 0.25
    given = iter(said)
    mixed = dreamt(list(rollout(Dreaming(), {"dreamer": lambda text: next(given), "responder": "oracle"}, 4, seed="s")))
    told = statistics(mixed)
    assert told["dreams"] == 4 and told["valid"] == 2 and told["rejects"] == {"empty": 0.25, "markup": 0.25}
    assert told["classes"]["clean"] == 0.5 and told["languages"] == {"en": 1.0}
    assert statistics([]) == {"dreams": 0, "valid": 0, "classes": {}, "rejects": {}}


# --------------------------------------------------------------------------------------------------------- measuring

RIGHT = {
    "at most": "Short.", "at least": "word " * 60, "word": "water time people small always begin together reason",
    "no word": "Nothing of it.", "bullets": "- a\n- b\n- c\n- d\n- e", "lower case": "all small", "capitals": "ALL BIG",
    "no comma": "None here.", "closing": "Yes. That is all. I hope this helps. Good luck.", "one paragraph": "One.",
}  # fmt: skip
WRONG = {
    "at most": "word " * 60, "at least": "Short.", "word": "Nothing of it.", "bullets": "a, b",
    "no word": RIGHT["word"], "lower case": "Not small", "capitals": "NOT big", "no comma": "a, b",
    "closing": "That is all, but no.", "one paragraph": "One.\n\nTwo.",
}  # fmt: skip


def test_checks_are_of_all_kinds_repeat_and_tell_right_from_wrong() -> None:
    found = checks(60, "0")
    assert [c.prompt for c in found] == [c.prompt for c in checks(60, "0")] != [c.prompt for c in checks(60, "1")]
    assert {c.kind for c in found} == set(RIGHT) and len({c.prompt for c in found}) > 50
    passed: dict[str, list[bool]] = {kind: [] for kind in RIGHT}
    for c in found:
        passed[c.kind].append(followed(c, RIGHT[c.kind]))
        assert not followed(c, WRONG[c.kind]), c.prompt
        assert not followed(c, "") and not followed(c, " \n-.!") and not followed(c, "<think>" + RIGHT[c.kind])
    assert all(all(own) for kind, own in passed.items() if kind not in ("bullets", "closing"))
    assert any(passed["closing"]) and not all(followed(c, "- a\n- b\n- c") for c in found if c.kind == "bullets")
    assert all(followed(c, "- x\n" * int(c.prompt.split("exactly ")[1][0])) for c in found if c.kind == "bullets")


def test_intervals_of_variety_are_centred_and_shrink_with_more_dreams() -> None:
    def measured(count: int, kinds: int) -> learner.Measured:
        rng = stream("variety", count)
        texts = [f"{WORDS[rng.integers(kinds)]} {WORDS[rng.integers(10)]} again" for _ in range(count)]
        return learner.Measured([1.0], [True], texts, [True] * count)

    few, many = (learner._value(measured(n, 10), "openings") for n in (20, 320))
    for m in (few, many):
        assert m.low is not None and m.high is not None and m.low < m.value < m.high
    assert (few.high - few.low) > 1.5 * (many.high - many.low)  # type: ignore[operator]
    poor = learner._gain(measured(100, 2), measured(100, 10), "openings")
    assert poor.high is not None and poor.high < 0


def test_an_unfinished_reply_is_learnt_without_an_end(tmp_path: Path) -> None:
    agent = LocalAgent("nano/compose")
    pairs: Any = [([{"role": "user", "content": "c:BD"}], "Bf"), ([{"role": "user", "content": "c:BD"}], "BfD")]
    (_, whole), (_, cut) = tokenized(agent, pairs, [1])
    assert whole[-1] == agent.end and agent.end not in cut and len(cut) == 3
    how: Any = {"steps": 2, "lr": 1e-2, "seed": "x", "batch": 2}
    one, two = (fine_tune(agent, pairs, unfinished=cut, **how).model.state_dict() for cut in ([], [1]))
    assert any((one[k] != two[k]).any() for k in one)


# -------------------------------------------------------------------------------------------------------------- runs


def small(**more: Any) -> Any:
    return options("magpie", steps=2, set={"dreams": 72, **more})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("magpie") / "run"
    loop.conduct(small(), out, quiet=True)
    return out


def files(run: Path) -> dict[str, bytes]:
    """What decides a result, by name; the dreams' own timing is none of it."""
    names = ["dreams.jsonl", "dreams.json", *(f"copies/{n}.json" for n in ("base", *learner.COPIES))]
    found = {name: (run / name).read_bytes() for name in names}
    return found | {"weights": (run / "checkpoints" / "final" / "model.safetensors").read_bytes()}


def test_a_run_says_what_it_dreamt_and_what_the_copies_can_do(run: Path) -> None:
    summary, told = read_summary(run), json.loads((run / "dreams.json").read_text())
    rows = [msgspec.json.decode(line, type=Dreamt) for line in (run / "dreams.jsonl").read_bytes().splitlines()]
    assert summary is not None and summary.dreams is not None and summary.evaluation is not None
    assert len(rows) == told["dreams"] == 72 and told["template"] == "<|user|>" and told["unmeasured"] == ["reward"]
    kept = [r for r in rows if not (r.dropped or r.reject or r.held_out)]
    assert told["kept"] == len(kept) > 2 and sum(r.held_out for r in rows) >= 1
    assert not {r.text for r in kept} & {r.text for r in rows if r.held_out}
    assert summary.samples["dreamer"] == 72 and summary.samples["responder"] == sum(
        r.reject not in ("cut", "empty", "noise", "markup") for r in rows
    )
    assert (
        set(summary.dreams["copies"]) == {"base", *learner.COPIES}
        and summary.run.trained_hash != summary.run.weights_hash
    )
    assert {m.name for m in summary.evaluation.measures} == {name for name, _, _ in learner.MEASURES.values()}
    assert summary.verdict.startswith("72 dreams, ") and summary.training["steps"] == 2
    tokens = {k: v["tokens"] for k, v in summary.dreams["trained"].items()}
    assert summary.training["tokens"] == tokens["kept"] and all(v > 0 for v in tokens.values())
    turns = [t for e in read_episodes(run / "episodes.jsonl") for t in e.turns]
    assert {(t.role, t.writes) for t in turns} == {("dreamer", "user"), ("responder", "assistant")}


def test_replies_are_greedy_and_the_held_out_loss_is_the_models_own(run: Path) -> None:
    base = LocalAgent("nano/compose")
    rows = [msgspec.json.decode(line, type=Dreamt) for line in (run / "dreams.jsonl").read_bytes().splitlines()]
    for e in list(read_episodes(run / "episodes.jsonl"))[:20]:
        for t in [t for t in e.turns if t.role == "responder"]:
            from dream_envs.core import Limits, Request

            asked = Request(messages=t.messages, agent="x_0", role="x", seed=1, limits=Limits(32))
            assert base.decoding(temperature=0).act([asked])[0].text == t.text
    held = [r for r in rows if r.held_out]
    found = json.loads((run / "copies" / "base.json").read_text())["loss"]
    for r, loss in zip(held, found, strict=True):
        logits, ids = (x[0] for x in base.completion_logits([r.messages], [r.reply]))
        logp = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
        picked = logp[np.arange(len(ids)), ids][: None if r.finished else -1]
        assert loss == pytest.approx(-picked.mean(), rel=1e-4)


def test_controls_are_as_many_and_of_the_same_lengths(run: Path, tmp_path: Path) -> None:
    made = learner.Dreamer.__new__(learner.Dreamer)
    made.seed = "x"
    rows = [row(i, tokens=i % 7) for i in range(60)]
    rows = [
        msgspec.structs.replace(r, dropped="" if r.tokens >= 4 else "length", held_out=i >= 50)
        for i, r in enumerate(rows)
    ]
    sets = made._sets(rows)
    assert len({len(v) for v in sets.values()}) == 1 and all(not r.held_out for v in sets.values() for r in v)
    assert sorted(len(r.reply) for r in sets["length"]) == sorted(len(r.reply) for r in sets["kept"])
    assert all(len({r.episode for r in v}) == len(v) for v in sets.values())
    assert any(r.dropped for r in sets["random"])
    both = [row(i, tokens=5) for i in range(20)]
    both = [msgspec.structs.replace(r, dropped="quality" if i >= 10 else "") for i, r in enumerate(both)]
    assert all(r.dropped for r in made._sets(both)["length"])  # as near and not kept


@pytest.mark.parametrize("gone", [
    ["copies", "parts/round-01.json"], ["copies"], ["copies/random", "copies/random.json", "copies/length.json"],
    ["copies/kept.json"],
])  # fmt: skip
def test_a_run_that_was_killed_ends_in_the_same_files(run: Path, tmp_path: Path, gone: list[str]) -> None:
    """Whatever a kill had not yet finished is made again, the rest is only read."""
    again = tmp_path / "again"
    shutil.copytree(run, again)
    for name in [*gone, "summary.json", "checkpoints", "report.html"]:
        path = again / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if "parts/round-01.json" in gone:
        (again / "dreams.json").unlink()
        (again / "dreams.jsonl").write_text("half a line")
    else:
        (again / "copies").mkdir(exist_ok=True)
        (again / "copies" / "kept.part").mkdir(exist_ok=True)
        (again / "copies" / "kept.part" / "model.safetensors").write_text("half")
    summary = loop.conduct(small(), again, quiet=True, resume=True)
    assert files(again) == files(run)
    first = read_summary(run)
    assert first is not None and summary.dreams == first.dreams and summary.verdict == first.verdict


def test_an_interrupt_between_parts_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    seen = list[int]()
    plain = learner.Dreamer._copy
    monkeypatch.setattr(learner.Dreamer, "_copy", lambda self, *a: (seen.append(1), plain(self, *a))[1])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_until_interrupted", lambda: contextlib.nullcontext(lambda: len(seen) > 0))
        walked(small(), tmp_path)
    assert (
        len(seen) == 1 and (tmp_path / "copies" / "base.json").is_file() and not (tmp_path / "copies" / "kept").exists()
    )


def test_the_page_the_terminal_and_info_show_the_dreams(run: Path, verb_text: Any, verb_json: Any) -> None:
    found = load(run)
    made = {s.id: s for s in sections.sections(found)}
    assert "dreams" in made and {g.name for g in made["dreams"].grids} >= {"dreams: copies", "dreams: kept copy, less"}
    text = page.render(run)
    assert "left out, since nothing measured them: reward" in text and "length" in text
    shown = verb_text("report", run)
    assert "dreams: copies" in shown and "instructions followed" in shown
    assert verb_json("info", run)["summary"]["dreams"]["preset"] == "filter5"
    told = verb_text("info", run)
    assert all(f"\n{name} " in told for name in learner.COPIES) and "openings" in told
    assert found.summary is not None
    bare = found._replace(blocks=msgspec.structs.replace(found.blocks, dreams=None))
    assert "dreams" not in {s.id for s in sections.sections(bare)}
    hostile = msgspec.structs.replace(
        found.blocks.dreams, preset="<script>", copies={"<b>": {"loss": Measure(1.0)}}, gains={}, trained={}
    )  # type: ignore[type-var]
    assert sections._dreamt(found._replace(blocks=msgspec.structs.replace(found.blocks, dreams=hostile))) is not None


def test_kept_dreams_are_a_dataset_with_a_card(run: Path, tmp_path: Path) -> None:
    told = export_dreams(run, tmp_path / "out")
    data = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    rows = [msgspec.json.decode(line, type=Dreamt) for line in (run / "dreams.jsonl").read_bytes().splitlines()]
    kept = [r for r in rows if not (r.reject or r.dropped or r.held_out)]
    assert told["rows"] == len(data) == len(kept)
    assert [(d["instruction"], d["response"]) for d in data] == [(r.text, r.reply) for r in kept]
    assert data[0]["messages"][-1] == {"role": "assistant", "content": kept[0].reply} and data[0]["reward"] is None
    card = (tmp_path / "out" / "README.md").read_text()
    for words in (
        "inherits the model's licence",
        "`<|user|>`",
        "'temperature': 1.0",
        "`filter5`",
        f"{len(kept)} kept",
        "left out",
    ):
        assert words in card
    with pytest.raises(DreamEnvsError, match="is there already"):
        export_dreams(run, tmp_path / "out")
    with pytest.raises(DreamEnvsError, match="no finished dreams"):
        export_dreams(tmp_path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_real_template_two_turns_a_judge_and_a_reward_model(tmp_path: Path) -> None:
    """A tokenizer that merges, LoRA, conversations of two instructions, and curators that are models."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder, said = _bpe.save(tmp_path / "bpe", max_position_embeddings=2048), [{"role": "user", "content": "Compute 3"}]
    pairs: Any = [(said, "It equals 9."), ([*said, {"role": "assistant", "content": "It"}, *said], "It equals 7.")]
    fine_tune(LocalAgent(str(folder)), pairs, steps=30, lr=1e-2, seed="0", batch=4, out=folder)  # else it says nothing
    tokens = _bpe.tokenizer()
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    scorer = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(tokens), num_labels=1, pad_token_id=2, **shape))
    scorer.save_pretrained(str(tmp_path / "scorer"))
    tokens.save_pretrained(str(tmp_path / "scorer"))
    more = {
        "dreams": 24, "game.turns": 2, "game.dream_tokens": 160, "game.reply_tokens": 8, "preset": "filter5",
        "learner.lora_rank": 2, "judge": "_magpie_judge:score", "reward_model": str(tmp_path / "scorer"),
    }  # fmt: skip
    import sys
    import types

    module = types.ModuleType("_magpie_judge")
    module.score = lambda text: "Verdict: 7" if len(text) % 3 else "Well."  # type: ignore[attr-defined]
    sys.modules["_magpie_judge"] = module
    summary = loop.conduct(options("magpie", steps=1, set=more, model=str(folder)), tmp_path / "run", quiet=True)
    assert summary.dreams is not None and summary.dreams["unmeasured"] == []
    lines = (tmp_path / "run" / "dreams.jsonl").read_bytes().splitlines()
    valid = [r for r in (msgspec.json.decode(line, type=Dreamt) for line in lines) if not r.reject]
    rated = [r.measures.get(name) for r in valid for name in ("quality", "difficulty")]
    assert set(rated) <= {None, 0.7} and rated.count(0.7) > 0 and rated.count(None) > 0
    assert all(r.dropped == "quality" for r in valid if "quality" not in r.measures and not r.held_out)
    assert all(r.reward is not None for r in valid)
    assert {r.turn for r in valid} <= {0, 1} and summary.dreams["template"] == "<|user|>"


def test_the_pages_python_runs_as_it_stands(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "dreaming.md").read_text("utf-8")
    shutil.copytree(run, tmp_path / "runs" / "magpie")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    for block in blocks:
        exec(compile(block, "docs/dreaming.md", "exec"), names)
    assert len(blocks) == 4 and (tmp_path / "my-dreams" / "README.md").is_file()
    assert max(map(len, text.splitlines())) < 260


def test_mistakes_are_told_before_anything_is_dreamt(tmp_path: Path) -> None:
    for given, told in (
        ({"preset": "filter7"}, "filter6"), ({"dreams": 2}, "dreams=2"), ({"checks": 3}, "checks=3"),
        ({"preset": "air", "dreams": 12}, "keeps"),
    ):  # fmt: skip
        with pytest.raises(DreamEnvsError, match=told):
            walked(options("magpie", set=given), tmp_path / str(told))
