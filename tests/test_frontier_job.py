"""The verb on real weights: a small suite, arms against exact truth, resume, controls, users' mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch

from dream_envs import registry
from dream_envs.baselines.frontier import controls, job
from dream_envs.baselines.frontier.elicited import Elicited, Model, TwoTurns, by_method, load_model
from dream_envs.core import Action, Limits, Request, Usage
from dream_envs.frontier import suite as suites
from dream_envs.frontier.draws import SampleCache
from dream_envs.frontier.methods import METHODS
from dream_envs.frontier.schema import read_report
from dream_envs.seeds import digest


def small() -> suites.Suite:
    """Six strata of the nano suite, two problems each in a mini report."""
    whole = suites.nano()
    names = ("d2", "d3", "d4", "d5", "pairs-d4", "d11")
    return msgspec.structs.replace(
        whole, name="small", strata=tuple(s for s in whole.strata if s.name in names), mini=3, second_stage=()
    )


@pytest.fixture(scope="module", autouse=True)
def _small_suite():
    torch.set_num_threads(1)
    if "small" not in registry.rows("suites"):
        registry.register("suites", "small", small)


@pytest.fixture(scope="module")
def base() -> Model:
    return load_model("nano/compose")


@pytest.mark.parametrize("name", ["plain", "cool", "hot_min_p", "few_shot", "cot_decoding", "forced", "forced_hot"])
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
    return job.frontier(base, trained, tmp_path / "out", tmp_path / "cache", job.Options(suite="small", **more))


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
    assert data.headline.fg == 0 and data.headline.low < 0 < data.headline.high
    assert data.verdict.word == "Inconclusive" and data.certified == []
    assert data.retention.suites and data.diversity.ratio["answer_entropy"]
    assert data.exact.e < 1 and data.exact.tiers


@pytest.mark.parametrize("name", ["guesser", "memoriser"])
def test_wrapped_controls_gain_nothing(base, tmp_path, name):
    made = controls.CONTROLS[name](base, small(), "0", tmp_path)
    data = report(tmp_path, made, base)
    assert abs(data.headline.fg) < 0.3 and made.identity != base.identity
    if name == "memoriser":
        assert not made.met & {p.id for p in data.problems if p.eligible}


def test_the_memoriser_knows_what_was_published(base, tmp_path):
    chosen = small()
    made = controls.memoriser(base, chosen, "0", tmp_path)
    known = [p for p in chosen.problems("published", 5 * chosen.mini) if p.task.level == 11][:8]
    counts = SampleCache(None, "trained").count(Elicited(chosen, made).method(METHODS["plain"]), known, 2)
    assert all(sum(c.right) == 2 for c in counts)


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
    trained = msgspec.structs.replace(base, met=frozenset(p.task.id for p in small().problems("0", 3)))
    drawn = {p.id for p in report(tmp_path, trained, base).problems if p.level > 3}
    assert drawn and not drawn & trained.met


def test_from_the_command_line(verb, tmp_path):
    argv = ["frontier", "--trained", "nano/compose", "--suite", "small", "--cache", tmp_path / "c", "--quiet"]
    status, out, err = verb(*argv, "--out", tmp_path / "r", "--json")
    assert status == 0, err
    data = json.loads(out)
    assert data["kind"] == "frontier" and (tmp_path / "r" / "report.html").stat().st_size > 10_000
    status, out, err = verb(*argv, "--out", tmp_path / "r")
    assert status == 0 and "FG*" in out, err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["frontier"], "--trained is missing"),
        (["frontier", "--trained", "x", "--suite", "nan"], "did you mean 'nano'"),
        (["frontier", "--trained", "x", "--size", "big"], "mini, standard"),
        (["frontier", "--trained", "x", "--methods", "plian"], "did you mean 'plan' or 'plain'"),
        (["frontier", "--trained", "x", "--methods", "plain,plain"], "twice"),
        (["frontier", "--trained", "x", "--methods", "sae"], "--second-stage"),
        (["frontier", "--trained", "nano/none"], "shipped bases are"),
        (["frontier", "control", "sharp"], "did you mean 'sharpened'"),
        (["frontier", "simulate", "--draws", "100"], "k=100"),
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
    said = report(tmp_path, base, base, methods=("plain",)).verdict.sentence
    assert "Not the registered protocol: methods left out: cool, hot_min_p" in said
    assert "Not the registered" not in report(tmp_path, base, base).verdict.sentence


def test_arms_without_an_exact_probability_leave_it_out(base, tmp_path):
    data = report(tmp_path, base, base, methods=("zero_shot", "plain"))
    assert data.exact is None and data.headline.fg == 0


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
