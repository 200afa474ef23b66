"""The verb on real weights: a small suite, arms against exact truth, resume, controls, users' mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from _children import child
from _frontier_small import copied, report, small
from safetensors.torch import load_file, save_file

from dream_envs import registry
from dream_envs.agents.elicitation.scaffolds import Pieces, TwoTurns
from dream_envs.agents.training.sft import fine_tune
from dream_envs.baselines.frontier import controls, job
from dream_envs.baselines.frontier.elicited import Elicited, Model, by_method, identity_of, load_model, same_weights
from dream_envs.core import Action, DreamEnvsError, Limits, Request, Usage
from dream_envs.frontier import suite as suites
from dream_envs.frontier.draws import SampleCache
from dream_envs.frontier.methods import METHODS
from dream_envs.frontier.schema import read_report
from dream_envs.seeds import digest
from dream_envs.tasks.composition import Composition


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


def whole_report(trained: str, out, cache) -> None:
    """A report in a process of its own."""
    job.run("nano/compose", trained, out, cache, job.Options("small"), quiet=True)


def test_sigkill_and_the_same_command_end_in_the_same_file(base, tmp_path):
    tuned = fine_tune(base.engine, [(small().messages(p.task), p.task.answer) for p in small().problems("gold", 20)],
                      steps=30, lr=2e-3, seed="k", out=tmp_path / "model")  # fmt: skip
    tuned.tokenizer.save_pretrained(tmp_path / "model")
    given = (str(tmp_path / "model"), tmp_path / "out", tmp_path / "cache")
    process = child(whole_report, *given, out=tmp_path / "said", path=str(Path(__file__).parent))
    begun = time.monotonic()
    while sum(p.stat().st_size for p in tmp_path.glob("cache/*.jsonl")) < 20_000 and process.is_alive():
        assert time.monotonic() - begun < 120
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (tmp_path / "out" / "frontier.json").exists()
    whole_report(*given)
    whole_report(given[0], tmp_path / "fresh", tmp_path / "other cache")
    found = [json.loads((tmp_path / name / "frontier.json").read_text()) for name in ("out", "fresh")]
    for data in found:
        data["cost"].update(drawn_now=0, seconds=0, envelope_seconds={})
    assert found[0] == found[1]


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
    """End tokens, weights that are cut, incomplete or not finite, a template that fails, an empty tokenizer."""

    def half(weights):
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])

    def without(weights):
        tensors = load_file(weights)
        del tensors[next(k for k in tensors if k.endswith("down_proj.weight"))]
        save_file(tensors, weights, metadata={"format": "pt"})

    def infinite(weights):
        tensors = load_file(weights)
        next(iter(tensors.values()))[0] = float("nan")
        save_file(tensors, weights, metadata={"format": "pt"})

    for i, (name, change, says) in enumerate((
        ("generation_config.json", lambda f: f.write_text('{"eos_token_id": []}'), "eos_token_id=[]"),
        ("generation_config.json", lambda f: f.write_text('{"eos_token_id": [99999]}'), "eos_token_id=[99999]"),
        ("model.safetensors", half, "cannot be loaded"),
        ("model.safetensors", without, "1 missing keys (model.layers"),
        ("model.safetensors", infinite, "not finite"),
        ("chat_template.jinja", lambda f: f.write_text("{{ 1 / 0 }}"), "template fails"),
        ("tokenizer.json", lambda f: f.write_text("{}"), "cannot be loaded"),
    )):  # fmt: skip
        folder = copied(tmp_path / str(i))
        change(folder / name)
        with pytest.raises(DreamEnvsError) as told:
            load_model(str(folder))
        assert says in str(told.value) and "\n" not in str(told.value)


def test_the_guesser_always_answers_in_form(base, tmp_path):
    chosen = small()
    guesser = Elicited(chosen, controls.guesser(base, chosen, "0", tmp_path)).method(METHODS["plain"]).agent
    tasks = [p.task for p in chosen.problems("guess", 3) if p.task.level > 4]
    one = Request(messages=[], agent="s", role="s", seed=0, limits=Limits(max_tokens=40))
    requests = [msgspec.structs.replace(one, messages=chosen.messages(t), seed=digest(t.id)) for t in tasks]
    for task, action in zip(tasks, guesser.act(requests), strict=True):
        assert action.text[::2] == task.meta["ops"] and set(action.text[1::2]) <= set("abcdefghijklmnop")


def test_two_turns_show_the_first_reply_and_count_both():
    class Echo:
        def act(self, requests):
            return [Action(str(len(r.messages)), usage=Usage(1, 2), status="ok") for r in requests]

    request = Request(messages=[{"role": "user", "content": "q"}], agent="s", role="s", seed=3)
    (action,) = TwoTurns(Echo(), "again").act([request])
    assert action.text == "3" and action.usage.completion_tokens == 4


def test_practised_problems_are_left_out(base, tmp_path):
    met = tuple(p.task for p in small().problems("test", 3))
    data = report(tmp_path, msgspec.structs.replace(base, met=met), base)
    drawn = {p.id for p in data.problems if p.level > 3}
    assert drawn and not drawn & {t.id for t in met}
    assert all(f.practised for f in data.suite.families)
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
        (["frontier", "--trained", "nano/compose", "--device", "cuda:99"], "device='cuda:99'"),
        (["frontier", "--trained", "nano/compose", "--device", "banana"], "device='banana'"),
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


def test_a_call_has_at_most_so_many_rows(base, tmp_path):
    seen: list[int] = []

    class Counting:
        def __init__(self, agent):
            self.agent = agent

        def act(self, requests):
            seen.append(len(requests))
            return self.agent.act(requests)

    trained = msgspec.structs.replace(base, identity="counted", wrap=Counting)
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
        "suite 'small' is not of this project (_frontier_small)",
        'the problems are those of the public seed "0"',
        "the trained model came without a record of its training",
    ]


def test_arms_without_an_exact_probability_leave_it_out(base, tmp_path):
    data = report(tmp_path, base, base, methods=("zero_shot", "plain"))
    assert data.exact is None and data.headline.g[0] == 0


def test_the_cache_knows_what_decides_a_draw():
    whole = small()
    changes = ({}, {"final_field": True}, {"strata": whole.strata[:-1]}, {"instruction": " now"})
    assert len({job.what_decides_a_draw(msgspec.structs.replace(whole, **change)) for change in changes}) == 4


def test_a_changed_template_is_another_model(tmp_path):
    before = identity_of(folder := copied(tmp_path / "model"))
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
    assert rate["new-d8"] == rate["new-d12"] == 0


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
    family = Composition("english", n_states=4, n_operations=3)
    task = family.generate(np.random.default_rng(1), 5)
    said: list[str] = []
    while (piece := family.piece(task.prompt, said, 2)) is not None:
        start, ops = piece.partition("Start in state ")[2][0], task.meta["ops"][2 * len(said) :][:2]
        assert piece == family.make(start, ops).prompt
        said.append(family.make(start, ops).answer)
    assert len(said) == 3 and family.joined(said) == task.answer


def test_other_stop_tokens_do_not_make_an_expansion(base, tmp_path):
    """Equal weights, a base whose configuration stops at every state: the alarm rings, and the difference is told."""
    ends = [*base.engine.ends, *(base.engine.token(c) for c in "bcdefghijklmnop")]
    crippled = load_model(str(copied(tmp_path / "model", generation_config={"eos_token_id": ends})))
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
        pairs = [(small().messages(p.task), p.task.answer) for p in small().problems(f"gold-{i}", 12)]
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
    data = job.frontier(base, [again], tmp_path / "out", tmp_path / "cache", options)
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
