"""Loops as data: rewards against the papers' edge cases, names and settings, and runs that learn and repeat."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import msgspec
import numpy as np
from _recipes import NIGHTS, PAPERS, SMALL, Says, base_hash, hashes, options, walked
from _tiny import metrics, texts

from dream_envs import cli, registry
from dream_envs.agents.training.rows import RowBuilder
from dream_envs.agents.training.settings import RowSettings
from dream_envs.baselines import loop
from dream_envs.baselines.loops import azr, prompts, serl_limited, ttrl
from dream_envs.baselines.recipe import Options, Recipe, rule_of, settled
from dream_envs.core import Action, DreamEnvsError, Episode, Score, Start
from dream_envs.curriculum import gates
from dream_envs.curriculum.store import read_challenges
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.play import read_episodes, rollout, score
from dream_envs.rewards.algebra import per_role
from dream_envs.rewards.learnability import learnability
from dream_envs.rewards.rounds import less_repetition
from dream_envs.rewards.solver import pseudo_label
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

FAMILY = Composition(max_level=6)
TASK = FAMILY.make("c", "BD")
RIGHT, WRONG = TASK.answer, TASK.answer[:-1] + ("a" if TASK.answer[-1] != "a" else "b")


def played(proposal: str, *replies: str, reward: Any, index: int = 0, gate: Any = None) -> Episode:
    """One episode with these replies, scored."""
    game = ChallengerSolver(FAMILY, solvers=max(1, len(replies)), gate=gate)
    seats = {"challenger": Says(proposal), "solver": Says(*(replies or ("",)))}
    return next(iter(rollout(game, seats, [Start(index)], seed="recipes", reward=reward)))


def paid(**settings: Any) -> Any:
    """Absolute Zero's rewards."""
    return per_role(dict(azr.recipe(azr.Settings(**settings), 1).reward))


def value(episode: Episode, agent: str = "challenger_0") -> float:
    assert episode.scores[agent].status == "ok"
    return episode.scores[agent].value


# ------------------------------------------------------------------------------------------------------------ rewards


@pytest.mark.parametrize(("proposal", "replies", "expected"), [
    ("c:BD", [RIGHT, WRONG, WRONG, WRONG], 0.75), ("c:BD", [RIGHT, RIGHT, RIGHT, WRONG], 0.25),
    ("c:BD", [RIGHT] * 4, -0.5), ("c:BD", [WRONG] * 4, -0.5),  # the code's, not the text's: issue 37
    ("c:BDABDABD", [], -1.0),  # longer than any problem
    ("", [], -1.0), ("c;BD", [], -1.0), ("c:", [], -1.0), ("hello", [], -1.0),
])  # fmt: skip
def test_absolute_zero_pays_the_proposer_as_its_code_does(proposal: str, replies: list[str], expected: float) -> None:
    assert value(played(proposal, *replies, reward=paid())) == pytest.approx(expected)


def test_absolute_zero_at_its_other_edges() -> None:
    """A reserved problem is wrong and not malformed; the text's ends; a wrong completion is not a malformed one."""
    assert value(played("c:BD", reward=paid(), gate=gates.held_out([TASK]))) == -0.5
    assert value(played("c:BD", RIGHT, RIGHT, reward=paid(zero_ends=0.0))) == 0.0
    episode = played("c:BD", RIGHT, WRONG, "no idea", "", reward=paid())
    assert [value(episode, f"solver_{i}") for i in range(4)] == [1.0, -0.5, -1.0, -1.0]


def test_the_role_baseline_is_one_for_all_problems_and_never_for_both_roles() -> None:
    """TRR++: a group that all got right still learns, since it is above the role's mean."""
    change, plain = msgspec.structs.replace, [played("c:BD", RIGHT, RIGHT, reward=paid())]
    plain.append(played("a:BD", RIGHT, "x", reward=paid(), index=1))
    episodes = [change(e, turns=[change(t, token_ids=[i, 7]) for i, t in enumerate(e.turns)]) for e in plain]
    game, solver = ChallengerSolver(FAMILY, solvers=2), frozenset({"solver"})
    rows = RowBuilder(game, RowSettings(), "role", solver, lambda m: (1,), lambda t: [2]).rows(episodes, stream("rows"))
    earned = np.array([s.value for e in episodes for a, s in e.scores.items() if a.startswith("solver")])
    expected = (earned - earned.mean()) / (earned.std() + 1e-4)
    assert sorted(r.advantage for r in rows) == pytest.approx(sorted(expected), rel=1e-3) and len(rows) == 4


def test_votes_pay_what_they_agree_on() -> None:
    """All votes count and the trained ones are paid; a wrong majority pays what is wrong, a false label too."""
    episode = played("c:BD", RIGHT, WRONG, WRONG, WRONG, RIGHT, RIGHT, RIGHT, "", reward=ttrl.vote(trained=2))
    assert [value(episode, f"solver_{i}") for i in range(2)] == [1.0, 0.0]  # 4 to 3; of the trained alone it were a tie
    assert {episode.scores[f"solver_{i}"].status for i in range(2, 8)} == {"abstain"}
    episode = played("c:BD", WRONG, WRONG, RIGHT, reward=ttrl.vote(trained=3))
    assert [value(episode, f"solver_{i}") for i in range(3)] == [1.0, 1.0, 0.0]
    episode = played("c:BD", RIGHT, WRONG, reward=pseudo_label({TASK.id: WRONG}))
    assert [value(episode, f"solver_{i}") for i in range(2)] == [0.0, 1.0]
    other = played("a:BD", RIGHT, reward=pseudo_label({TASK.id: WRONG}))
    assert other.scores["solver_0"].status == "abstain"


def test_r_zero_takes_off_the_share_of_the_cluster_and_stops_at_the_floor() -> None:
    """Four proposals, two of them equal: 1 - 2|p - 1/2| of the agreement, less 2/4 or 1/4 of the round."""
    inner = learnability(form="r_zero", rate="majority", invalid=0.0)
    half = [RIGHT, RIGHT, "x", "y"]
    proposals = [("c:BD", half), ("c:BD", half), ("a:HHHHHH", half), ("no problem", [])]
    agents = ["challenger_0", *(f"solver_{i}" for i in range(4))]
    episodes = [played(p, *r, reward=inner, index=i) for i, (p, r) in enumerate(proposals)]
    for floor, last in ((0.0, 0.0), (-2.0, -0.25)):
        found = [value(e) for e in score(episodes, less_repetition(inner, floor=floor), agents)]
        assert found == pytest.approx([0.5, 0.5, 0.75, last])
    assert [e.index for e in score(episodes[::-1], less_repetition(inner), agents)] == [3, 2, 1, 0]


@pytest.mark.parametrize(("a", "b", "expected"), [
    ("c:BDA", "c:BDA", 1.0), ("c:BDA", "d:BDA", 0.8), ("c:B", "c:BDA", 0.75), ("abc", "xyz", 0.0), ("", "", 1.0),
    ("", "a", 0.0), ("the cat sat", "the cat ran", 2 / 3), ("abcd", "badc", 0.5),
])  # fmt: skip
def test_rouge_l_by_hand(a: str, b: str, expected: float) -> None:
    assert prompts.rouge_l(a, b) == prompts.rouge_l(b, a) == pytest.approx(expected)


def test_what_is_written_is_new_unlike_the_known_and_not_reserved(tmp_path: Path) -> None:
    """The writer repeats itself, the seeds and the exam, and babbles."""
    ctx = loop.Context(options("serl_limited"), tmp_path)
    exam, seed = ctx.eval.tasks["any", 3][0], FAMILY.make("c", "BDA")
    outputs = ["c:BDA", "c:BDAH", exam.prompt, "p:GGG", "p:GGG", "p:GGGG", "hello", "", "x" * 99, "a:EFEF"]

    class Writer:
        def act(self, requests: Any) -> list[Action]:
            assert len({r.seed for r in requests}) == len(requests)
            assert all(r.messages == [{"role": "user", "content": "new"}] for r in requests)
            return [Action(text) for text in outputs]

    def write(rouge: float) -> tuple[list[str], dict[str, int]]:
        tasks, why = prompts.written(ctx, Writer(), len(outputs), "w", [seed], rouge)
        return [t.prompt for t in tasks], why

    assert write(0.7)[0] == ["p:GGG", "a:EFEF"] and write(1.0)[0] == ["c:BDAH", "p:GGG", "p:GGGG", "a:EFEF"]
    why = write(0.7)[1]
    assert sum(why.values()) == len(outputs)
    assert (why["accepted"], why["duplicate"], why["similar"], why["held_out"], why["empty"]) == (2, 2, 2, 1, 1)
    ctx.run.close()


# ------------------------------------------------------------------------------------------------- names and settings


@pytest.mark.parametrize(("words", "says"), [
    ("arz", "azr"), ("azr --learner gpro", "grpo"), ("azr --set atempts=4", "attempts"),
    ("azr --set attempts=many", "attempts"), ("azr --model nano/compos", "nano/compose"),
    ("azr --model /no/such/model", "/no/such/model"), ("ttrl --set trained=99", "trained"), ("no.such:LOOP", "no.such"),
    ("json:dumps", "dumps"), ("dream --set variant=ful", "full"), ("dream --set lerner.lr=1", "learner"),
    ("dream --set learner.lrr=1", "lr"), ("dream --set learner.rows.rows=x", "rows"),
    ("dream --set nights.dreaming.sise=4", "size"), ("dream --set nights.waits=maybe", "waits"),
    ("dream --set variant=sleep --set nights.waits=true", "forget=True"),
    ("azr --set mixture.challenger=-1", "challenger"), ("azr --set eval.kind=guess", "guess"),
    ("azr --set eval.every=0", "every"), ("azr --set game.solverz=2", "solvers"), ("azr --levels x", "--levels"),
    ("azr --family compositon", "composition"), ("azr --reward solvr=correctness", "solver"),
    ("azr --reward solver=corectness", "correctness"), ("azr --seats challenger=nobody", "nobody"),
    ("azr --env Kuhn-v1", "Kuhn-v0"), ("dream --set variant=sleep --learner expert", "review"),
    ("serl --learner expert", "expert"), ("self_rewarding --learner expert", "expert"),
    ("sleep --learner ppo", "learns only at night"), ("sleep --set nigths=2", "nights"),
    ("sleep --set probes=0", "probes"), ("sleep --set levels=[0]", "level"),
    ("sleep --set nights.waits=true", "waits=True"), ("sleep --model nano/contxt", "nano/context"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_no_folder(
    words: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *words.split(), "--out", str(tmp_path / "run"), "--quiet", "--no-frontier"]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and not (tmp_path / "run").exists()


def test_every_loop_is_listed_and_makes_its_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert set(registry.rows("loops")) == set(SMALL)
    for name in SMALL:
        found, recipe = settled(Options(name, steps=47))
        assert found.name == name and name in shown and isinstance(recipe, Recipe)
        assert sum(phase.steps for phase in loop.phases_of(recipe)) == 47 and rule_of(recipe)
    modules = {
        registry.rows("loops")[name].partition(":")[0]
        for name in (*PAPERS, "spiral", "ctx2skill", "discovery", *NIGHTS)
    }
    assert all("Departures" in (__import__(name, fromlist=["x"]).__doc__ or "") for name in modules)


def test_settings_by_dotted_name_change_what_they_name_and_nothing_else() -> None:
    _, plain = settled(Options("dream", set={"variant": "sleep"}))
    wanted = {"variant": "sleep", "learner.rows.roles": {"solver": {"groups": 3}}, "learner.lr": 0.25,
              "nights.every": 3,
              "nights.learning.steps": 7, "mixture.challenger": 5, "game.solvers": 2, "eval.problems": 9}  # fmt: skip
    _, found = settled(Options("dream", levels=(4,), set=wanted, notation="english", learner="rloo"))
    made = found.nights.every, found.nights.learning.steps, found.mixture.challenger, found.eval.problems
    assert made == (3, 7, 5, 9)
    assert found.args == {"solvers": 2} and found.mixture.levels == (4,) and found.family_args["notation"] == "english"
    rule = rule_of(found)
    assert rule.lr == 0.25 and rule.baseline == "leave_one_out" and rule.rows.role("solver").groups == 3
    assert msgspec.structs.replace(found.nights, every=25, learning=plain.nights.learning) == plain.nights
    _, off = settled(Options("dream", set={"variant": "sleep", "nights.dreaming": None}))
    assert off.nights.dreaming is None
    _, on = settled(Options("azr", set={"nights.every": 5}))
    assert on.nights.every == 5 and settled(Options("azr"))[1].nights is None  # any loop can sleep


@pytest.mark.parametrize("name", [*PAPERS, "dream"])
@pytest.mark.parametrize("learner", ["ppo", "grpo4"])
def test_rows_fill_whole_minibatches_and_lose_none(name: str, learner: str) -> None:
    rule = rule_of(settled(options(name, learner=learner, set={"learner.rows.rows": 46}))[1])
    parts = 2 * rule.updates.minibatches
    assert rule.rows.rows is not None and rule.rows.rows % parts == 0 and 46 <= rule.rows.rows < 46 + parts


# --------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_a_stop_saves_and_the_same_weights_come_out(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the first step; and nothing that is measured with was practised."""
    whole, steps = walked(options(name), tmp_path / "whole"), list[int]()
    tick = lambda what, step, of, note: steps.append(step)  # noqa: E731
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_until_interrupted", lambda: contextlib.nullcontext(lambda: len(steps) > 0))
        walked(options(name), tmp_path / "broken", tick)
    again = walked(options(name), tmp_path / "broken")
    assert hashes(whole) == hashes(again) and base_hash(whole) not in hashes(whole).values()
    assert texts(tmp_path / "whole") == texts(tmp_path / "broken")
    assert [row["step"] for row in metrics(tmp_path / "broken")] == [0, 1]
    met = {c.id for c in read_challenges(tmp_path / "whole" / "challenges.jsonl")}
    episodes = list(read_episodes(tmp_path / "whole" / "episodes.jsonl"))
    assert met and {t.id for e in episodes for t in e.tasks if t.origin not in ("brief", "replay")} <= met
    assert not met & {t.id for t in whole.eval.reserved()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ttrl", "serl", "serl_limited", "self_rewarding", "r_zero", "azr"])
def test_a_verifier_that_lies_changes_no_reward(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the last may not know the truth: with every verdict turned round the same weights come out."""
    honest = hashes(walked(options(name), tmp_path / "honest"))
    before = {e.index: e.scores for e in read_episodes(tmp_path / "honest" / "episodes.jsonl")}
    plain = Composition.verify
    monkeypatch.setattr(Composition, "verify", lambda *a: Score(1.0 - plain(*a).value, grader="liar"))
    lied = hashes(walked(options(name), tmp_path / "lied"))
    if name == "azr":
        assert lied != honest
        return
    assert lied == honest
    for episode in read_episodes(tmp_path / "lied" / "episodes.jsonl"):
        expected = {a: (s.status, s.value) for a, s in before[episode.index].items()}
        assert {a: (s.status, s.value) for a, s in episode.scores.items()} == expected


def test_problems_written_for_a_round_are_kept_with_their_reasons(tmp_path: Path) -> None:
    assert serl_limited.LOOP.steps == 60
    walked(options("serl_limited", steps=2), tmp_path)
    for number in range(2):
        told = json.loads((tmp_path / f"instructions-{number}.json").read_text())
        assert sum(told["replies"].values()) == 12 and len(told["instructions"]) == told["replies"].get("accepted", 0)


def test_a_loop_of_ones_own_is_one_object(tmp_path: Path) -> None:
    with pytest.raises(DreamEnvsError, match="Loop"):
        settled(Options("test_recipes:FAMILY"))
    assert settled(Options("test_recipes:MINE", steps=3))[1].mixture.challenger == 3


MINE = msgspec.structs.replace(azr.LOOP, name="mine", settings=azr.Settings,
                               recipe=lambda chosen, steps: azr.recipe(azr.Settings(proposals=3), steps))  # fmt: skip


def test_wrong_settings_of_a_learner_are_told_before_torch_is_imported() -> None:
    code = """
import sys
from dream_envs.baselines.recipe import Options, settled
from dream_envs.core import DreamEnvsError

for name, value in {"foo": 1, "lr": -1, "engine": "vllm", "per_role": "solver"}.items():
    try:
        settled(Options("azr", set={f"learner.{name}": value}))
    except DreamEnvsError as error:
        print(error)
print("torch" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(told) == 5 and told[-1] == "False" and all(len(line) < 250 for line in told)
