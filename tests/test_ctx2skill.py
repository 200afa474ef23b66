"""The loop ``ctx2skill`` with agents whose competence is known: probes, replay, ties, controls, resume, collapses."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from _endpoint import Server

from dream_envs import cli
from dream_envs.agents.engines.models import weights_hash
from dream_envs.agents.engines.skilled import Skilled
from dream_envs.baselines import loop
from dream_envs.baselines.recipe import Options
from dream_envs.baselines.skill_rounds import SkillLearner, probes_of, select, smoothed
from dream_envs.baselines.studies import skills as study
from dream_envs.core import DreamEnvsError
from dream_envs.envs.skill_evolution import SkillEvolution, question_key
from dream_envs.envs.skill_prompts import write_tasks
from dream_envs.play import play, read_episodes
from dream_envs.runs import read_json
from dream_envs.tasks.contexts import contexts_of
from dream_envs.tasks.skills import SkillSet, read_markdown

ROLES = study.ROLES
SMALL = {"contexts": "bundled:ferry,gauges", "tests": 8, "repeats": 5, "tasks": 3}


def options(rounds: int = 2, seats: dict[str, str] | None = None, **changes: Any) -> Options:
    return Options(
        "ctx2skill", steps=rounds, seats={**dict.fromkeys(ROLES, "skilled"), **(seats or {})}, set={**SMALL, **changes}
    )


def found(out: Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
    loop.train(options(*args, **kwargs), out)
    return read_json(out / "skills.json")


# ------------------------------------------------------------------------------------------------------------ the rules


@pytest.mark.parametrize(("solved", "rho"), [([], 1.0), ([0, 0, 0], 0.25), ([1, 1, 1], 1.0), ([0.2, 0.6], 0.6)])
def test_the_papers_smoothing(solved: list[float], rho: float) -> None:
    assert smoothed(solved) == pytest.approx(rho)


def test_ties_are_broken_as_asked_and_told() -> None:
    rows = [{"round": i, "product": p, "words": w} for i, (p, w) in enumerate([(0.2, 0), (0.5, 9), (0.5, 3), (0.5, 7)])]
    assert {tie: select(rows, tie)[0]["round"] for tie in ("earliest", "latest", "shortest")} == {
        "earliest": 1, "latest": 3, "shortest": 2
    }  # fmt: skip
    assert select(rows, "latest")[1] == [1, 2, 3] and select(rows[:1], "latest")[1] == [0]


def test_probes_are_the_hardest_failure_and_the_easiest_success() -> None:
    rows = [
        {"question": q, "rubrics": ["r"] * n, "solved": solved, "share": share}
        for q, n, solved, share in [
            ("a", 3, 0, 0.5),
            ("b", 2, 0, 0.0),
            ("c", 2, 0, 0.0),
            ("d", 3, 1, 1),
            ("e", 2, 1, 1),
        ]
    ]
    rows += [{"question": "f", "rubrics": [], "solved": None, "share": None}, {"question": "g", "rubrics": []}]
    assert [(p.kind, p.question, p.round) for p in probes_of({"tasks": rows, "round": 4})] == [
        ("hard", "b", 4), ("easy", "e", 4)
    ]  # fmt: skip
    assert probes_of({"tasks": rows[-2:], "round": 0}) == []


def test_known_competence_is_what_it_says() -> None:
    """Shares of rubrics passed, against the formula: unknown, held, forbidden, memorised, too much to read."""
    game = SkillEvolution("bundled:ferry", tasks=3, mode="key")
    exams = contexts_of("bundled:ferry")[0].practice(3)
    text = write_tasks([(e.question, [r.text for r in e.rubrics]) for e in exams], "english")
    base, held = 0.4, 0.9

    def share(skill: str, rule: str | None = None, **how: Any) -> float:
        agent = Skilled(game, base=base, held=held, **how)
        skills, passed = SkillSet.of({"a": skill} if skill else {}), Counter[bool]()
        for i in range(150):
            task = game.begin("ferry", reasoner=skills)
            for row in play(
                game, {"challenger": lambda t: text, "reasoner": agent}, task=task, seed=str(i)
            ).outcome.facts["tasks"]:
                passed.update(
                    bool(v) for r, v in zip(exams[0].rubrics, row["verdicts"], strict=True) if rule in (None, r.rule)
                )
        return passed[True] / passed.total()

    keys = "\n".join(f"- answer {question_key(e.question)}" for e in exams)
    for expected, *how in (
        (base, "", "night"), (held, "- use night", "night"), (base, "- use night", "bags"),
        (base / 10, "- never night", "night"),
        (held, "- never night\n- use night", "night"), (held, keys, None),
    ):  # fmt: skip
        assert share(*how) == pytest.approx(expected, abs=0.08), how
    long = "- use night\n" + "x " * 97
    assert share(long, "night", span=50) == pytest.approx(base + (held - base) * 0.5, abs=0.08)


# -------------------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ctx2skill") / "run"
    loop.train(options(3, {"reasoner_editor": "skilled(learn=2)"}), out)
    return out


def test_what_a_run_leaves(run: Path) -> None:
    """Files say what the table says; every set is answered as often as asked; no weight has changed."""
    report, summary = read_json(run / "skills.json"), read_json(run / "summary.json")
    assert set(report["contexts"]) == {"ferry", "gauges"}
    replayed = Counter(
        (e.outcome.facts["context"], e.outcome.facts["skills"]["reasoner"]["before"]["hash"])
        for e in read_episodes(run / "replay.jsonl")
    )
    for name, its in report["contexts"].items():
        sets = [read_markdown((run / "skills" / name / f"round-{k}.md").read_text()) for k in range(4)]
        assert [s.hash for s in sets] == [row["hash"] for row in its["replay"]] and sets[0] == SkillSet()
        assert all(replayed[name, s.hash] == 5 for s in sets)
        for k in range(1, 4):
            diff = (run / "skills" / name / f"round-{k}.diff").read_text()
            assert diff == its["rounds"][k - 1]["edits"].get("reasoner", {"diff": ""})["diff"]
        best = max(row["product"] for row in its["replay"])
        chosen = its["replay"][its["selected"]["round"]]
        assert chosen["product"] == pytest.approx(best) and chosen["round"] == min(its["selected"]["tie"])
        assert (run / "skills" / name / "selected.md").read_text() == sets[chosen["round"]].markdown()
        assert its["controls"]["replay"]["hash"] == chosen["hash"] and its["controls"]["last"]["round"] == 3
        for row in its["replay"]:
            assert row["rho_hard"] == pytest.approx((sum(row["solved_hard"]) + 1) / (len(row["solved_hard"]) + 1))
        lengths = [row["words"] for row in its["replay"]]
        assert lengths == sorted(lengths) and lengths[-1] > 0
    assert summary["verdict"] == report["verdict"] and "No weights were trained" in summary["verdict"]
    assert summary["training"] == {"steps": 0, "tokens": 0} and summary["evaluation"]["measures"] == []
    assert summary["run"]["weights_hash"] == weights_hash(run / "checkpoints" / "final").partition("-")[0]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [0, 1, 2] and metrics[-1]["skills/words"] > 0
    assert (run / "skills.md").read_text().count("| ferry |") == 4


def test_private_tests_are_met_nowhere_else_and_nothing_is_asked_twice(run: Path) -> None:
    tests = {e.question for c in contexts_of("bundled:ferry,gauges") for e in c.tests()}
    asked = Counter(t.prompt for e in read_episodes(run / "episodes.jsonl") for t in e.tasks[1:])
    probed = {row["question"] for e in read_episodes(run / "replay.jsonl") for row in e.outcome.facts["tasks"]}
    assert not tests & (set(asked) | probed) and max(asked.values()) == 1 and probed <= set(asked)
    tested = list(read_episodes(run / "tests.jsonl"))
    assert {row["question"] for e in tested for row in e.outcome.facts["tasks"]} <= tests
    assert all(set(e.outcome.facts["costs"]) == {"challenger", "reasoner"} for e in tested), "no judge on tests"


def test_rounds_are_chained(run: Path) -> None:
    """What a round's edit left is what the next one starts from, on both sides."""
    rounds = sorted(read_episodes(run / "episodes.jsonl"), key=lambda e: e.index)
    for context in ("ferry", "gauges"):
        own = [e.outcome.facts for e in rounds if e.outcome.facts["context"] == context]
        assert [f["round"] for f in own] == [0, 1, 2]
        for one, two in itertools.pairwise(own):
            for side in ("reasoner", "challenger"):
                assert one["texts"][side]["after"] == two["texts"][side]["before"]


def test_a_kill_changes_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped behind the first round, then in the middle of the replay with half a line written."""
    chosen = options(3, {"reasoner_editor": "skilled(learn=2)"})
    played = SkillLearner._played
    real_round, calls = loop.Collector.round, []

    def dies(self: Any, number: int, policy: Any) -> Any:
        calls.append(number)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return real_round(self, number, policy)

    monkeypatch.setattr(loop.Collector, "round", dies)
    with pytest.raises(RuntimeError):
        loop.train(chosen, tmp_path / "run")

    def half(self: Any, game: Any, starts: Any, seats: Any, file: str) -> Any:
        if file == "replay.jsonl":
            played(self, game, starts[:7], seats, file)
            path = self.folder / file
            path.write_bytes(path.read_bytes()[:-40])
            raise RuntimeError("power cut")
        return played(self, game, starts, seats, file)

    monkeypatch.setattr(SkillLearner, "_played", half)
    with pytest.raises(RuntimeError):
        loop.train(chosen, tmp_path / "run")
    monkeypatch.setattr(SkillLearner, "_played", played)
    loop.train(chosen, tmp_path / "run")
    assert calls == [0, 1, 1, 2], "a finished round is not played again"
    assert (tmp_path / "run" / "skills.json").read_bytes() == (run / "skills.json").read_bytes()
    for file in ("episodes.jsonl", "replay.jsonl"):
        both = [{e.index: e.outcome for e in read_episodes(where / file)} for where in (run, tmp_path / "run")]
        assert both[0] == both[1]
    assert loop.train(chosen, tmp_path / "run").verdict == read_json(run / "skills.json")["verdict"]


# ----------------------------------------------------------------------------------------------------------- collapses


def test_replay_undoes_what_drift_spoilt(tmp_path: Path) -> None:
    report = found(tmp_path, 5, study.DRIFT, contexts="bundled:rules", tests=24, tasks=5)
    controls = {name: its["test_counted"] for name, its in report["controls"].items()}
    assert controls["replay"] > controls["last"] and report["replay_less"]["last"][0] > 0.05
    own = [t.prompt for e in read_episodes(tmp_path / "episodes.jsonl") for t in e.tasks[1:] if t.meta["own"]]
    assert len(own) < 6 * 5 * 5, "some tasks were impossible"


@pytest.mark.parametrize(("verdict", "failures"), [("high", 0), ("low", 3)])
def test_a_judge_of_one_verdict_levels_all_products(tmp_path: Path, verdict: str, failures: int) -> None:
    """Every candidate ties, the rule decides: no skills by default, all of them with ``latest``."""
    seats = {"judge": f"constant_judge(verdict={verdict})"}
    for tie, chosen in (("earliest", 0), ("latest", 2)):
        report = found(tmp_path / tie, 2, seats, tie=tie, contexts="bundled:ferry")
        own = report["contexts"]["ferry"]
        assert own["selected"] == {**own["selected"], "round": chosen, "tie": [0, 1, 2], "rule": tie}
        assert [len(r["failed"]) for r in own["rounds"]] == [failures] * 2 and report["ties"] == 1.0
        changed = own["replay"][0]["hash"] != own["replay"][2]["hash"]
        assert changed == bool(failures)


def test_one_side_alone_and_no_base(tmp_path: Path) -> None:
    report = found(tmp_path, 2, evolve="reasoner", base=False, one_shot=False, contexts="bundled:ferry", repeats=1)
    own = report["contexts"]["ferry"]
    assert all("challenger" not in r["edits"] for r in own["rounds"]) and own["selected"]["round"] > 0
    assert "one_shot" not in own["controls"] and not (tmp_path / "one_shot.jsonl").exists()


def test_contexts_without_programs_are_replayed_and_not_tested(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "own.md").write_text("Tuesdays are free.\nMondays are not.\n" * 3, "utf-8")
    seats = dict.fromkeys(ROLES, "oracle")
    report = found(tmp_path / "run", 2, seats, contexts=str(tmp_path / "texts"))
    assert report["oracle_taken"] is None and "nothing is tested" in report["verdict"]
    assert (
        report["contexts"]["own"]["controls"]["last"]["test"] is None
        and not (tmp_path / "run" / "tests.jsonl").exists()
    )


# ------------------------------------------------------------------------------------------- seats, settings, the study


def test_a_reasoner_behind_a_url(tmp_path: Path) -> None:
    """An OpenAI-compatible endpoint in one seat; its tokens are counted, the skills are in what it is sent."""
    asked: list[str] = []

    def reply(messages: Any) -> str:
        asked.append(messages[0]["content"])
        return "Base: 12\nBags: 0\nNight: 0\nTotal: 12\nCapped: no"

    server = Server(reply)
    words = f"train ctx2skill --steps 2 --quiet --no-frontier --out {tmp_path / 'run'} --seats "
    seats = ",".join(f"{role}={server.url if role == 'reasoner' else 'skilled'}" for role in ROLES)
    more = ["--set", "contexts=bundled:ferry,tasks=2,repeats=1,tests=2,one_shot=false"]
    assert cli.main([*words.split(), seats, *more]) == 0
    server.shutdown()
    report = read_json(tmp_path / "run" / "skills.json")
    costs = report["costs"]["episodes.jsonl"]["reasoner"]
    assert costs == {"calls": 4, "failed": 0, "read": 28, "written": 12, "uncounted": 0}
    learnt = (tmp_path / "run" / "skills" / "ferry" / "round-1.md").read_text().strip()
    assert learnt and any(learnt in text for text in asked) and "(none yet)" in asked[0]


def test_the_model_itself_in_a_seat_is_counted_and_frozen(tmp_path: Path) -> None:
    """What the run's own model says in rounds, replay and tests is in the samples; its weights stay."""
    seats = {role: "skilled" for role in ROLES if role != "reasoner"}
    more = {"learner.lora_rank": 2, "game.reply_tokens": 128, "contexts": "bundled:ferry", "repeats": 1, "tests": 2}
    summary = loop.train(Options("ctx2skill", steps=1, seats=seats, set={**SMALL, **more}), tmp_path)
    costs = read_json(tmp_path / "skills.json")["costs"]
    asked = sum(part.get("reasoner", {"calls": 0})["calls"] for part in costs.values())
    assert (
        summary.samples["reasoner"] == summary.samples["total"] == asked > costs["episodes.jsonl"]["reasoner"]["calls"]
    )
    assert summary.run.trained_hash == summary.run.weights_hash


@pytest.mark.parametrize(("words", "says"), [
    ("--set tie=best", "earliest"), ("--set evolve=judge", "reasoner"), ("--set tests=99", "2 to 24"),
    ("--set repeats=0", "repeats"), ("--learner ppo", "trains no weights"), ("--set contexts=bundled:feryr", "ferry"),
    ("--seats reasoner=skilled(base=2)", "base"), ("--seats reasoner=skiled", "skilled"), ("--set task=2", "tasks"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_no_folder(
    words: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "ctx2skill", *words.split(), "--out", str(tmp_path / "run"), "--quiet", "--no-frontier"]
    assert cli.main(line) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and not (tmp_path / "run").exists()


def test_the_study_reads_its_runs_and_says_what_holds(run: Path, tmp_path: Path) -> None:
    row = study.score(run)
    report = read_json(run / "skills.json")
    assert row["replay"] == report["controls"]["replay"]["test_counted"] == pytest.approx(row["tie/earliest"])
    assert row["calls"] == sum(r["calls"] for part in report["costs"].values() for r in part.values())
    rows = [
        {**row, "name": name, "seed": str(seed), "seconds": 1.0, "replay": value + seed / 100, "last": seed / 100}
        for name, value in (("drift", 0.5), ("honest", 0.0), ("drift_once", 0.1))
        for seed in range(3)
    ]
    told = study.table(rows, tmp_path)
    assert "| 1 | drift replay | drift last | 0.500 [0.500, 0.500] | yes |" in told
    assert "| 2 | honest replay | honest last | 0.000 [0.000, 0.000] | no change shown |" in told
    assert "| 6 | drift replay | drift_once replay | 0.400 [0.400, 0.400] | yes |" in told
    assert "| 4 | bloat replay | bloat last | - | not measured |" in told


PAGE = Path(__file__).resolve().parent.parent / "docs" / "skills.md"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the page, one after the other, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    names: dict[str, Any] = {}
    assert {kind for kind, _ in blocks} == {"python", "sh"}
    for kind, text in blocks:
        if kind == "python":
            exec(text, names)
            continue
        for line in filter(None, text.replace("\\\n", " ").split("\n")):
            assert cli.main([*shlex.split(line)[1:], "--quiet", "--no-frontier"]) == 0, line
    assert names["episode"].scores["judge_0"].value == 1.0
    with pytest.raises(DreamEnvsError):
        contexts_of("bundled:nothing")
