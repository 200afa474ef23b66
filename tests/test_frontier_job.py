"""The verb on real weights: a small suite, arms against exact truth, resume, controls, users' mistakes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dream_envs import registry
from dream_envs.agents.elicitation.scaffolds import Pieces, TwoTurns
from dream_envs.agents.engines.local import resolve
from dream_envs.agents.training.sft import fine_tune
from dream_envs.baselines.frontier import controls, job
from dream_envs.baselines.frontier.elicited import Elicited, Model, by_method, load_model, same_weights
from dream_envs.baselines.nano.recipe import weights_hash
from dream_envs.core import Action, Challenge, DreamEnvsError, Limits, Request, Usage, encode
from dream_envs.frontier import suite as suites
from dream_envs.frontier.draws import SampleCache
from dream_envs.frontier.methods import METHODS
from dream_envs.frontier.schema import read_report
from dream_envs.schema import About, Summary
from dream_envs.seeds import digest


def small() -> suites.Suite:
    """Six strata of the nano suite, two problems each in a mini report."""
    whole = suites.nano()
    names = ("d2", "d3", "d4", "d5", "pairs-d4", "d11")
    return msgspec.structs.replace(
        whole, name="small", strata=tuple(s for s in whole.strata if s.name in names), mini=3
    )


@pytest.fixture(scope="module", autouse=True)
def _small_suite():
    torch.set_num_threads(1)
    if "small" not in registry.rows("suites"):
        registry.register("suites", "small", small)


@pytest.fixture(scope="module")
def base() -> Model:
    return load_model("nano/compose")


@pytest.mark.parametrize("name", ["plain", "hot_min_p", "few_shot", "cot_decoding", "forced", "forced_hot", "given"])
def test_an_arms_exact_probability_is_how_often_it_is_right(base, name):
    """2,000 draws of each of five problems at the edge of the base's reach, against the teacher-forced product."""
    chosen = small()
    problems = [p for p in chosen.problems("arms", 5) if chosen.strata[p.stratum].name == "d4"]
    p = np.exp(by_method(chosen, problems, base, [METHODS[name]])[0])
    counts = SampleCache(None, "base").count(Elicited(chosen, base).method(METHODS[name]), problems, 2000)
    found = np.array([np.mean(c.right) for c in counts])
    assert (np.abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / 2000) + 1e-9).all(), (found, p)


@pytest.mark.parametrize("name", ["plain", "forced", "cot_decoding"])
def test_quick_draws_are_right_where_whole_ones_are(base, name):
    chosen = small()
    problems = chosen.problems("quick", 4)
    elicited = Elicited(chosen, base)
    elicited.answers = {chosen.messages(p.task)[0]["content"]: p.task.answer for p in problems}
    method = elicited.method(METHODS[name])
    assert method.quick is not None
    whole = msgspec.structs.replace(method, quick=None)
    one, two = (SampleCache(None, "base").first([a], problems, 40) for a in (method, whole))
    assert [s.first for s in one] == [s.first for s in two]
    assert sum(s.tokens for s in one) < sum(s.tokens for s in two)


def report(tmp_path, trained: Model, base: Model, **more):
    options = job.Options(**{"suite": "small", "seed": "test", **more})
    return job.frontier(base, trained, tmp_path / "out", tmp_path / "cache", options)


def test_a_report_goes_on_where_it_was_killed(base, tmp_path):
    """Cut the draws' files anywhere: the report comes out the same, but for what was drawn by whom and when."""
    whole = report(tmp_path, base, base)
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    again = report(tmp_path, base, base)
    assert 0 < again.cost.drawn_now < whole.cost.drawn_now
    assert msgspec.structs.replace(again, cost=whole.cost) == whole
    assert again.cost.tokens == whole.cost.tokens and report(tmp_path, base, base).cost.drawn_now == 0
    assert read_report(tmp_path / "out").headline == whole.headline


def test_the_base_against_itself(base, tmp_path):
    data = report(tmp_path, controls.aa(base, small(), "0", tmp_path), base)
    assert data.headline.g[0] == 0 and data.headline.g[1] < 0 < data.headline.g[2]
    assert data.verdict.word == "Not shown" and data.certified == []
    assert data.retention.suites and data.diversity.ratio["answer_entropy"]
    assert data.exact.e < 1 and data.exact.tiers


@pytest.mark.parametrize("name", ["guesser", "memoriser"])
def test_wrapped_controls_gain_nothing(base, tmp_path, name):
    made = controls.CONTROLS[name](base, small(), "0", tmp_path)
    data = report(tmp_path, made, base)
    assert abs(data.headline.g[0]) < 0.3 and made.identity != base.identity
    assert made.met is None


def test_a_table_of_the_public_seed_is_caught_by_a_fresh_one_and_told_on_its_own(base, tmp_path):
    made = controls.memoriser(base, small(), "x", tmp_path)
    public = report(tmp_path, made, base, seed="0")
    assert public.headline.g[0] > 20 and any('public seed "0"' in q for q in public.verdict.qualified)
    fresh = report(tmp_path, made, base, seed="")
    assert abs(fresh.headline.g[0]) < 0.3 and not any("seed" in q for q in fresh.verdict.qualified)
    assert any("chosen by hand ('mine')" in q for q in report(tmp_path, base, base, seed="mine").verdict.qualified)


def test_what_was_given_answers_is_named_so(base, tmp_path, monkeypatch):
    monkeypatch.setattr(controls, "TO_THE_END", 5)
    for name in ("gold", "amnesiac"):
        made = controls.CONTROLS[name](base, small(), "x", tmp_path / name)
        told = report(tmp_path, made, base).verdict.qualified
        assert any("right answers that it did not find itself" in q for q in told)


def test_damaged_models_are_told_in_a_line(tmp_path):
    """No end token, one outside of the vocabulary, half of the weights, a template that fails, an empty tokenizer."""

    def broken(name: str, change) -> str:
        folder = tmp_path / name
        shutil.copytree(resolve("nano/compose"), folder)
        change(folder)
        with pytest.raises(DreamEnvsError) as told:
            load_model(str(folder))
        assert "\n" not in str(told.value)
        return str(told.value)

    def ends(value):
        def change(folder):
            path = folder / "generation_config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": value}))

        return change

    def half(folder):
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])

    assert "eos_token_id=[]" in broken("none", ends([]))
    assert "eos_token_id=[99999]" in broken("far", ends([99999]))
    assert "cannot be loaded" in broken("half", half)

    def without(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        del tensors[next(k for k in tensors if k.endswith("down_proj.weight"))]
        save_file(tensors, path, metadata={"format": "pt"})

    assert "1 missing keys (model.layers" in broken("missing", without)
    assert "template fails" in broken("template", lambda f: (f / "chat_template.jinja").write_text("{{ 1 / 0 }}"))
    assert "cannot be loaded" in broken("empty", lambda f: (f / "tokenizer.json").write_text("{}"))


def test_the_guesser_always_answers_in_form(base, tmp_path):
    chosen = small()
    guesser = Elicited(chosen, controls.guesser(base, chosen, "0", tmp_path)).method(METHODS["plain"]).agent
    tasks = [p.task for p in chosen.problems("guess", 3) if p.task.level > 4]
    requests = [
        Request(messages=chosen.messages(t), agent="s", role="s", seed=digest(t.id), limits=Limits(max_tokens=40))
        for t in tasks
    ]
    for task, action in zip(tasks, guesser.act(requests), strict=True):
        assert action.text[::2] == task.meta["ops"] and set(action.text[1::2]) <= set("abcdefghijklmnop")


class Echo:
    """Says how many messages it saw."""

    def act(self, requests):
        return [Action(str(len(r.messages)), usage=Usage(1, 2), status="ok") for r in requests]


def test_two_turns_show_the_first_reply_and_count_both():
    request = Request(messages=[{"role": "user", "content": "q"}], agent="s", role="s", seed=3)
    (action,) = TwoTurns(Echo(), "again").act([request])
    assert action.text == "3" and action.usage.completion_tokens == 4


def test_practised_problems_are_left_out(base, tmp_path):
    met = tuple(p.task for p in small().problems("test", 3))
    data = report(tmp_path, msgspec.structs.replace(base, met=met), base)
    drawn = {p.id for p in data.problems if p.level > 3}
    assert drawn and not drawn & {t.id for t in met}
    assert {f.name: f.practised for f in data.suite.families} == dict.fromkeys(
        [f.name for f in data.suite.families], True
    )
    assert {c.kind for c in data.verdict.claims} == {"practised range"}


def test_from_the_command_line(verb, tmp_path):
    argv = ["frontier", "control", "aa", "--suite", "small", "--cache", tmp_path / "c", "--quiet"]
    status, out, err = verb(*argv, "--out", tmp_path / "r", "--json")
    assert status == 0, err
    data = json.loads(out)
    assert data["kind"] == "frontier" and (tmp_path / "r" / "report.html").stat().st_size > 10_000
    status, out, err = verb(*argv, "--out", tmp_path / "r")
    assert status == 0 and "G@1024" in out, err
    again = json.loads((tmp_path / "r" / "frontier.json").read_text())
    assert again["suite"]["seed"] == data["suite"]["seed"] and data["suite"]["seed"].startswith("after-")
    assert again["problems"] == data["problems"]
    status, out, err = verb("frontier", "--trained", "nano/compose", "--suite", "small", "--out", tmp_path / "same")
    assert status == 2 and "nothing was trained" in err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["frontier"], "--trained is missing"),
        (["frontier", "--trained", "x", "--suite", "nan"], "did you mean 'nano'"),
        (["frontier", "--trained", "x", "--size", "big"], "mini, standard"),
        (["frontier", "--trained", "x", "--methods", "plian"], "did you mean 'plan' or 'plain'"),
        (["frontier", "--trained", "x", "--methods", "plain,plain"], "twice"),
        (["frontier", "--trained", "x", "--methods", "sae"], "one or more that decode"),
        (["frontier", "--trained", "x", "--envelopes", "scafolds"], "decoding, scaffolds, training"),
        (["frontier", "--trained", "nano/none"], "shipped bases are"),
        (["frontier", "control", "sharp"], "did you mean 'sharpened'"),
        (["frontier", "simulate", "--problems", "50"], "problems=50: a multiple of 20"),
    ],
)
def test_a_users_mistake_is_one_line(verb, argv, says):
    status, out, err = verb(*argv)
    assert status == 2 and out == "" and err.count("\n") == 1 and says in err, err


def test_a_run_that_has_not_ended_is_told(verb, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    status, _, err = verb("frontier", "--trained", tmp_path / "run")
    assert status == 2 and "let it end first" in err


def test_simulate(verb_json):
    rows = verb_json("frontier", "simulate", "--problems", 200, "--gained", 5, "--repetitions", 8, "--draws", 1024)
    assert len(rows) == 1 and rows[0]["truth"] == pytest.approx(5, abs=1)


def test_without_torch_the_extra_is_named(tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom dream_envs import cli\n"
        "sys.exit(cli.main(['frontier', '--trained', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "dream-envs[train]" in done.stderr and "Traceback" not in done.stderr


class Counting:
    """Passes requests on and notes how many there were at once."""

    def __init__(self, agent, seen):
        self.agent, self.seen = agent, seen

    def act(self, requests):
        self.seen.append(len(requests))
        return self.agent.act(requests)


def test_a_call_has_at_most_so_many_rows(base, tmp_path):
    seen: list[int] = []
    trained = msgspec.structs.replace(base, identity="counted", wrap=lambda agent: Counting(agent, seen))
    few = report(tmp_path, trained, base, batch=8, methods=("plain", "forced"))
    assert max(seen) == 8
    seen.clear()
    (tmp_path / "again").mkdir()
    many = report(tmp_path / "again", trained, base, methods=("plain", "forced"))
    assert max(seen) > 8
    assert few.headline == many.headline and few.problems == many.problems


def test_fewer_ways_of_asking_than_registered_are_told(base, tmp_path):
    said = report(tmp_path, base, base, methods=("plain",)).verdict.qualified
    assert said[1].startswith("methods left out: cool, hot_min_p")
    whole = report(tmp_path, base, base, seed="0").verdict.qualified
    assert whole == [
        "suite 'small' is not of this project (test_frontier_job)",
        'the problems are those of the public seed "0"',
        "the trained model came without a record of its training",
    ]


def test_arms_without_an_exact_probability_leave_it_out(base, tmp_path):
    data = report(tmp_path, base, base, methods=("zero_shot", "plain"))
    assert data.exact is None and data.headline.g[0] == 0


def test_the_cache_knows_what_decides_a_draw():
    whole = small()
    changed = [
        msgspec.structs.replace(whole, final_field=True),
        msgspec.structs.replace(whole, strata=whole.strata[:-1]),
        msgspec.structs.replace(whole, instruction=" now"),
    ]
    assert len({job.what_decides_a_draw(s) for s in [whole, *changed]}) == 4


@pytest.mark.parametrize("device", ["cuda:99", "banana"])
def test_a_device_that_is_not_there_is_one_line(verb, device):
    status, _, err = verb("frontier", "--trained", "nano/compose", "--device", device)
    assert status == 2 and err.count("\n") == 1 and f"device='{device}'" in err


def test_a_changed_template_is_another_model(tmp_path):
    import shutil

    from dream_envs.agents.engines.local import resolve
    from dream_envs.baselines.frontier.elicited import identity_of

    folder = tmp_path / "model"
    shutil.copytree(resolve("nano/compose"), folder)
    before = identity_of(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert identity_of(folder) != before


@pytest.mark.parametrize("name", ["decompose", "decompose_1"])
def test_cut_into_pieces_the_base_solves_what_it_cannot_whole(base, name):
    """The unchanged base, its own replies and the prompt: right on depths that it never saw; not on unknown tables."""
    chosen = suites.nano()
    pool = chosen.problems("pieces", 2)
    names = [chosen.strata[p.stratum].name for p in pool]
    counts = SampleCache(None, "base").count(Elicited(chosen, base).method(METHODS[name]), pool, 8)
    rate = {n: np.mean([c.right for c, m in zip(counts, names, strict=True) if m == n]) for n in set(names)}
    assert all(rate[n] >= 0.9 for n in ("d3", "d5", "d8", "d12", "pairs-d10")), rate
    assert rate["new-d4"] == rate["new-d6"] == 0


def test_pieces_are_cut_from_the_prompt_alone():
    """What is asked, in order; a reply that ends in no state ends the attempt; what nobody can cut is asked whole."""
    family = suites.nano().strata[0].family
    asked: list[str] = []

    class Teller:
        def act(self, requests):
            asked.extend(r.messages[-1]["content"] for r in requests)
            return [Action({"c:BDA": "BaDbAf", "f:E": "Ec"}.get(r.messages[-1]["content"], "??")) for r in requests]

    def said(prompt: str, families=(family,)) -> str:
        asked.clear()
        request = Request(messages=[{"role": "user", "content": prompt}], agent="s", role="s", seed=1)
        return Pieces(Teller(), families, 3, "", lambda t: t, lambda t: t).act([request])[0].text

    assert said("c:BDAE") == "BaDbAfEc" and asked == ["c:BDA", "f:E"]
    assert said("a:BDAE") == "??" and asked == ["a:BDA"]
    assert said("what?") == "??" and asked == ["what?"]
    assert said("c:BDAE", ()) == "??" and asked == ["c:BDAE"]


def test_an_english_problem_is_cut_with_its_tables():
    from dream_envs.tasks.composition import Composition

    family = Composition("english", n_states=4, n_operations=3)
    task = family.generate(np.random.default_rng(1), 5)
    said: list[str] = []
    while (piece := family.piece(task.prompt, said, 2)) is not None:
        start, ops = piece.partition("Start in state ")[2][0], task.meta["ops"][2 * len(said) :][:2]
        assert piece == family.make(start, ops).prompt
        said.append(family.make(start, ops).answer)
    assert len(said) == 3 and family.joined(said) == task.answer


def test_weights_that_are_not_finite_are_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(resolve("nano/compose"), folder)
    agent = load_model(str(folder)).engine
    next(iter(agent.model.parameters())).data[0] = float("nan")
    agent.model.save_pretrained(folder)
    with pytest.raises(DreamEnvsError, match="not finite"):
        load_model(str(folder))


def test_other_stop_tokens_do_not_make_an_expansion(base, tmp_path):
    """Equal weights, a base whose configuration stops at every state: the alarm rings, and the difference is told."""
    folder = tmp_path / "model"
    shutil.copytree(resolve("nano/compose"), folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    states = [base.engine.token(c) for c in "bcdefghijklmnop"]
    path.write_text(json.dumps({**config, "eos_token_id": [*base.engine.ends, *states]}))
    crippled = load_model(str(folder))
    assert same_weights(crippled, base)
    try:
        data = report(tmp_path, base, crippled)
    except DreamEnvsError as error:
        assert "no development problem" in str(error)
    else:
        assert data.verdict.word == "Alarm" or data.headline.g[1] < 0.5
        assert any("stop tokens differ" in line for line in data.verdict.qualified)


def test_several_runs_are_one_report(base, tmp_path):
    """Two tuned copies: the recipe's gain is the runs' mean, its interval no narrower; each run has its own page."""
    runs = []
    for i in range(2):
        gold = [t for p in small().problems(f"gold-{i}", 12) for t in [p.task]]
        pairs = [(small().messages(t), t.answer) for t in gold]
        tuned = fine_tune(base.engine, pairs, steps=40, lr=2e-3, seed=str(i), out=tmp_path / f"model-{i}")
        tuned.tokenizer.save_pretrained(tmp_path / f"model-{i}")
        runs.append(str(tmp_path / f"model-{i}"))
    options = job.Options(suite="small", seed="test")
    data = job.run("nano/compose", runs, tmp_path / "out", tmp_path / "cache", options, quiet=True)
    alone = [read_report(tmp_path / "out" / row.folder) for row in data.runs]
    assert data.headline.runs == 2 and [row.g for row in data.runs] == [r.headline.g for r in alone]
    assert data.headline.g[0] == pytest.approx(np.mean([r.headline.g[0] for r in alone]))
    widths = [r.headline.g[2] - r.headline.g[1] for r in alone]
    assert data.headline.g[2] - data.headline.g[1] >= np.mean(widths) - 1e-9
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "run-1/report.html" in page and (tmp_path / "out" / "run-1" / "report.html").is_file()
    one = job.run("nano/compose", runs[:1], tmp_path / "one", tmp_path / "cache", options, quiet=True)
    assert one.headline == alone[0].headline and not one.runs
    with pytest.raises(DreamEnvsError, match="same weights: give each run once"):
        job.run("nano/compose", [runs[0], runs[0]], tmp_path / "twice", tmp_path / "cache", options, quiet=True)


def test_the_panel_is_what_exact_probabilities_say(base, tmp_path):
    """pass@k at matched k in turn over methods is the teacher-forced product; isolated steps predict far more."""
    if "panel" not in registry.rows("suites"):
        registry.register("suites", "panel", lambda: msgspec.structs.replace(small(), name="panel", mini=25))
    again, names = msgspec.structs.replace(base, name="again"), ("plain", "given")
    options = job.Options("panel", "panel", methods=names)
    data = job.frontier(base, again, tmp_path / "out", tmp_path / "cache", options)
    chosen = registry.create("suites", "panel")
    eligible = {f.name for f in data.suite.families if f.eligible}
    problems = [p for p in chosen.problems("panel", 25) if chosen.strata[p.stratum].name in eligible]
    one, other = np.exp(by_method(chosen, problems, base, [METHODS[n] for n in names]))
    for k, mean in zip(data.pass_at_k.base.k, data.pass_at_k.base.mean, strict=True):
        hit = 1 - (1 - one) ** -(-k // 2) * (1 - other) ** (k // 2)  # in turn, the first of them first
        sd = np.sqrt((hit * (1 - hit)).sum()) / len(hit)
        assert abs(mean - hit.mean()) < 4.5 * sd + 1e-9, (k, mean, hit.mean())
    known = {f.name: f for f in data.suite.families}
    assert data.pass_at_k.base.k[-1] == 1024 and data.cost.panel_draws > 0
    assert known["d5"].base.atoms > 0.4 > 0.1 > known["d5"].base.greedy  # steps of 0.9 each, wholes of 8e-6
    assert data.pass_at_k.zero >= 1 and data.pass_at_k.opened <= data.pass_at_k.zero


# -------------------------------------------------------------------------------------------------- what was tried


def copied(base: Model, folder, **files):
    """A model folder with the base's weights and other files: JSON by name, or what makes it of the old JSON."""
    shutil.copytree(resolve("nano/compose"), folder)
    for name, change in files.items():
        path = folder / f"{name}.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(change(old)))
    return load_model(str(folder))


def noisy(base: Model, folder) -> Model:
    """The base with weights that differ by 1e-6."""
    shutil.copytree(resolve("nano/compose"), folder)
    agent = load_model(str(folder)).engine
    for parameter in agent.model.parameters():
        parameter.data += 1e-6
    agent.model.save_pretrained(folder)
    return load_model(str(folder))


def test_a_base_of_another_configuration_is_told(base, tmp_path):
    """A sliding window blinds the base to long prompts; weights and class are the same."""
    window = {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"] * 4}
    layers = len(base.engine.model.config.layer_types)
    window["layer_types"] = ["sliding_attention"] * layers
    blind = copied(base, tmp_path / "blind", config=lambda old: {**old, **window})
    data = report(tmp_path, noisy(base, tmp_path / "noisy"), blind)
    assert any("configuration differs: sliding_window (base 8, trained None)" in q for q in data.verdict.qualified)


def test_a_tokenizer_that_reads_otherwise_is_told(base, tmp_path):
    """Same vocabulary and template; a normalizer garbles the start state of long prompts."""
    rule = {"type": "Replace", "pattern": {"Regex": "^([a-p]):(?=.{4})"}, "content": "a:"}
    garbled = copied(base, tmp_path / "garbled", tokenizer=lambda old: {**old, "normalizer": rule})
    data = report(tmp_path, noisy(base, tmp_path / "noisy"), garbled)
    assert any("problems are other tokens" in q for q in data.verdict.qualified), data.verdict.qualified


def test_answers_in_a_tokenizer_ring_the_alarm_whatever_the_methods(base, tmp_path):
    """The decoder writes another text than was sampled; a method without a closed form does not switch it off."""
    swap = [{"type": "Replace", "pattern": {"String": f"A{s}"}, "content": "A?"} for s in "abcdefghijklmnop"]

    def writes(old):
        return {**old, "decoder": {"type": "Sequence", "decoders": [*([old["decoder"]] if old.get("decoder") else []),
                                                                    {"type": "Fuse"}, *swap]}}  # fmt: skip

    odd = copied(base, tmp_path / "odd", tokenizer=writes)
    odd = msgspec.structs.replace(odd, identity="odd")
    chosen, names = small(), ("plain", "given", "zero_shot")
    if "pairs-easy" not in registry.rows("suites"):
        easy = msgspec.structs.replace(chosen, name="pairs-easy", mini=40)
        registry.register("suites", "pairs-easy", lambda: easy)
    data = report(tmp_path, odd, base, suite="pairs-easy", methods=names)
    assert data.verdict.word == "Alarm" and "of plain samples" in data.verdict.phrase
    assert any("zero_shot" in q and "does not have" in q for q in data.verdict.qualified)


def minted(task) -> Challenge:
    return Challenge(**msgspec.structs.asdict(task), author="challenger")


def run_folder(tmp_path, model: Model, tasks=(), **about):
    """A finished run's folder, as far as a report looks at it."""
    folder, final = tmp_path / "run", tmp_path / "run" / "checkpoints" / "final"
    shutil.copytree(model.name, final)
    facts = About("dream", "x", "grpo", "0", 1, "nano/compose", "0" * 16, weights_hash(final), 1.0)
    facts = msgspec.structs.replace(facts, **about)
    (folder / "run.json").write_text("{}")
    (folder / "challenges.jsonl").write_bytes(b"".join(encode(t) + b"\n" for t in tasks))
    (folder / "summary.json").write_bytes(encode(Summary(facts, "", [], {"total": 1})))
    return folder


def test_a_run_without_a_sound_record_has_none(base, tmp_path):
    model = noisy(base, tmp_path / "noisy")
    met = [minted(small().problems("met", 1)[0].task)]
    folder = run_folder(tmp_path, model, met)
    assert load_model(str(folder)).met and load_model(str(folder)).began == ("nano/compose", "0" * 16)
    (folder / "challenges.jsonl").write_bytes(b"")
    assert load_model(str(folder)).met is None and "names no problem" in load_model(str(folder)).unrecorded
    shutil.rmtree(folder)
    folder = run_folder(tmp_path, model, met, trained_hash="f" * 16)
    assert load_model(str(folder)).met is None and "other weights" in load_model(str(folder)).unrecorded
    lie = msgspec.structs.replace(met[0], id="0" * 16)
    shutil.rmtree(folder)
    folder = run_folder(tmp_path, model, [lie])
    assert load_model(str(folder)).met is None and "other ids" in load_model(str(folder)).unrecorded
    (folder / "summary.json").unlink()
    assert load_model(str(folder)).met is None and "no summary.json" in load_model(str(folder)).unrecorded


def test_a_run_is_measured_against_its_own_base_or_that_is_told(base, tmp_path):
    other = noisy(base, tmp_path / "other")
    folder = run_folder(tmp_path, other, [minted(small().problems("met", 1)[0].task)], weights_hash="e" * 16)
    data = job.run("nano/compose", str(folder), tmp_path / "out", tmp_path / "c", job.Options("small"), quiet=True)
    assert any("the run began from another base" in q for q in data.verdict.qualified)
    shutil.rmtree(folder)
    folder = run_folder(tmp_path, other, base=str(tmp_path / "other"))
    with pytest.raises(DreamEnvsError, match="nothing was trained"):  # its own base, which is what it is
        job.run("", str(folder), tmp_path / "out", tmp_path / "c", job.Options("small"), quiet=True)


def test_draws_that_were_edited_are_found(base, tmp_path):
    trained = noisy(base, tmp_path / "noisy")
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
    hot = noisy(base, tmp_path / "hot")
    hot.engine.model.model.norm.weight.data *= 0.1
    told = report(tmp_path, base, msgspec.structs.replace(hot, identity="hot")).verdict.qualified
    assert any(q.startswith("the base fails on its own declared support (d2:") for q in told), told


def test_the_seed_hangs_on_weights_and_record_alone(base, tmp_path):
    one = noisy(base, tmp_path / "one")
    other = copied(base, tmp_path / "other", config=lambda old: {**old, "nonce": 7})
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
    from dream_envs.agents.elicitation.elicit import SelfTuning

    chosen = suites.nano()
    dev = [p.task for p in chosen.problems("own", 24) if chosen.strata[p.stratum].level <= 5 and p.stratum < 9]
    family = chosen.strata[0].family
    asked = SelfTuning(draws=32).matched(60, 60 * 1000)
    made = asked.make(base.engine, dev, family, "x")
    problems = [p for p in small().problems("fresh", 25) if small().strata[p.stratum].name == "d4"]
    before, after = (np.exp(by_method(small(), problems, Model("m", "m", a), [METHODS["plain"]])[0]).mean()
                     for a in (base.engine, made))  # fmt: skip
    assert before < 0.3 and after > before + 0.3, (before, after)


def test_shots_of_a_reasoning_suite_are_the_models_own_right_replies():
    """Replies of a scripted chat model: what is shown reasons, where it was right once; else the bare answer."""

    class Chat:
        def act(self, requests):
            found = []
            for r in requests:
                question = r.messages[-1]["content"]
                task = known.get(question)
                right = task is not None and task.level <= 6
                text = f"Step by step.\nAnswer: {task.answer if right else 'nonsense'}" if task else "?"
                found.append(Action(text, usage=Usage(1, 4)))
            return found

    chosen = suites.english()
    dev = [p.task for p in chosen.problems("elicitation", 8)]
    known = {chosen.messages(t)[0]["content"]: t for t in dev}
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
    shutil.copytree(resolve("nano/compose"), folder)
    model.save_pretrained(folder)
    adapted = load_model(str(folder))
    problems = [p for p in small().problems("lora", 10) if small().strata[p.stratum].name == "d2"]
    counts = [
        SampleCache(None, "base").count(Elicited(small(), m).method(METHODS["plain"]), problems, 4)
        for m in (base, adapted)
    ]
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
    assert any(
        "method cool could not be made (Endpoint does not take its decoding)" in q for q in data.verdict.qualified
    )
    assert data.verdict.word != "Expansion"
