"""``Discovery-v0``: what experiments tell, what practice may ask, what exams ask, and what everybody is paid."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from dream_envs.core import Action, DreamEnvsError, Episode, Reject, content_hash
from dream_envs.envs.discovery import PHASES, Discovery, State
from dream_envs.play import as_agent, play, rollout
from dream_envs.rewards.base import as_reward
from dream_envs.rewards.discovery import discovery, own_verdicts
from dream_envs.seeds import stream
from dream_envs.tasks.new_operations import NewOperations
from dream_envs.testing import check

NOTATIONS = ("compact", "english")
GUESSERS = dict.fromkeys(("scientist", "challenger", "learner", "judge", "dreamer"), "guesser")


def played(kind: str | dict[str, str], game: Discovery | None = None, seed: str = "t", reward: Any = None) -> Episode:
    game = game or Discovery()
    seats = {r.name: as_agent(kind if isinstance(kind, str) else kind[r.name], game) for r in game.roles}
    (episode,) = rollout(game, seats, 1, seed=seed, reward=reward or discovery())
    return episode


def facts(kind: str | dict[str, str], **how: Any) -> dict[str, Any]:
    return played(kind, **how).outcome.facts


# ---- tasks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_proposal_is_read_as_it_is_written_and_days_do_not_mix(notation: str) -> None:
    """Every list of one to three operations: accepted with at least one new one, all of one day, none of tomorrow."""
    tasks = NewOperations(notation, days=3, operations=1, n_operations=2, n_states=3, max_level=3)
    tables = tasks.drawn(stream("t"))
    assert tasks.names == ("C", "D", "E") and set(tables) == set("ABCDE")
    for level in (1, 2, 3, 4):
        for ops in itertools.product("ABCDE", repeat=level):
            asked = tasks._proposal("a", "".join(ops))
            found, new = tasks.parse(asked, 1, tables), set(ops) - set("AB")
            sound = level <= 3 and len(new) == 1 and "E" not in new
            assert isinstance(found, Reject) is not sound, (asked, found)
            if not isinstance(found, Reject):
                assert tasks.as_proposal(found) == asked and tasks.accepts(found, tasks.gold(found))
                state = "a"
                for op, (entry, image) in zip(ops, tasks.looked_up(found, found.answer) or (), strict=True):
                    assert entry == op + state
                    state = image
                    assert image == tables[op][entry[1]]


@pytest.mark.parametrize("notation", NOTATIONS)
def test_chance_is_what_a_guesser_gets(notation: str) -> None:
    """Within four deviations of 4,000 guesses, alone and as the share of all permutations."""
    tasks, rng = NewOperations(notation, days=2, operations=1, n_states=4), stream("chance", notation)
    tables = tasks.drawn(rng)
    for task in (tasks.fact(rng, 0, tables), tasks.within(rng, 0, 3, tables), tasks.across(rng, 1, 3, tables)):
        p = tasks.chance(task)
        hits = np.mean([tasks.accepts(task, tasks.guess(task, rng, tables)) for _ in range(4000)])
        assert abs(hits - p) <= 4 * math.sqrt(p * (1 - p) / 4000), (task.prompt, p, hits)
        assert tasks.accepts(task, tasks.guess(task, rng, tables, [n + s for n in tasks.day_of for s in tasks.states]))


def test_what_is_decided_is_never_wrong_and_grows_with_what_is_found() -> None:
    """Against the truth: every verdict that experiments allow is right; with all entries found none is open."""
    tasks, rng = NewOperations(days=2, operations=2), stream("decided")
    every = [n + s for n in tasks.day_of for s in tasks.states]
    seen = Counter[Any]()
    for number in range(600):
        tables = tasks.drawn(rng)
        found = [e for e in every if rng.random() < number / 600]
        task = tasks.within(rng, int(rng.integers(2)), int(rng.integers(1, 5)), tables)
        answer = tasks.guess(task, rng, tables, found if rng.random() < 0.7 else ())
        right = tasks.accepts(task, answer)
        told = tasks.decided(task, answer, tables, found)
        assert told in (right, None) and tasks.decided(task, answer, tables, every) == right
        more = tasks.decided(task, answer, tables, [*found, *every[::2]])
        assert told is None or more == told
        seen[told] += 1
    assert min(seen[True], seen[False], seen[None]) > 30
    for odd in ("", task.answer[:-1], task.answer + "a", "Z" + task.answer[1:], task.answer[:-1] + "?"):
        assert tasks.decided(task, odd, tables, every) is False


def test_notes_say_what_was_found_and_nothing_else() -> None:
    tasks = NewOperations(days=2)
    tables = tasks.drawn(stream("n"))
    i, j = tables["I"], tables["J"]
    assert tasks.notes(0, tables, ["Jb", "Ic", "Ia", "Kc"]) == f"I=a>{i['a']}c>{i['c']};J=b>{j['b']}"
    assert tasks.notes(1, tables, ["Ia"]) == "" and tasks.notes(0, tables, []) == ""
    english = NewOperations("english", days=2).notes(0, tables, ["Ic"])
    assert f"I takes c to {i['c']}." in english and "J" not in english
    assert tasks.experiment(0, "Ic") == "Ic" and tasks.experiment(0, "Kc") == tasks.experiment(0, "I c") == ""
    assert NewOperations("english").experiment(0, "I wonder.\n**I c**") == "Ic"


@pytest.mark.parametrize("notation", NOTATIONS)
def test_notes_retold_have_the_same_entries_and_other_images(notation: str) -> None:
    tasks = NewOperations(notation, days=2)
    one, two = (tasks.drawn(stream("n", i)) for i in range(2))
    found = ["Ka", "Kd", "Lp", "Ia"]
    assert tasks.retold(tasks.notes(1, one, found), two) == tasks.notes(1, two, found) != tasks.notes(1, one, found)
    assert tasks.retold("", two) == ""


@pytest.mark.parametrize("notation", NOTATIONS)
def test_what_notes_show_is_the_answer_or_nothing(notation: str) -> None:
    """Against the truth, for notes of some entries: an answer exactly where each step is known or noted."""
    tasks, rng = NewOperations(notation, days=2, operations=2), stream("shown", notation)
    every, seen = [n + s for n in tasks.names[1] for s in tasks.states], Counter[bool]()
    for _ in range(300):
        tables = tasks.drawn(rng)
        found = [e for e in every if rng.random() < 0.7]
        task = tasks.within(rng, 1, int(rng.integers(1, 5)), tables)
        shown = tasks.shown(tasks.notes(1, tables, found), task.prompt)
        needed = {e for e, _ in tasks.looked_up(task, task.answer) or () if e[0] in tasks.day_of}
        assert (shown is not None) == (needed <= set(found))
        assert shown is None or (shown.prompt, shown.answer) == (task.prompt, task.answer)
        seen[shown is None] += 1
    assert min(seen.values()) > 30 and tasks.shown("", "what?") is None


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"days": 30}, "days=30"),
        ({"days": 10, "operations": 2}, "20 new operations, and 18 letters"),
        ({"experiments": 33}, "experiments=33"),
        ({"experiments": 20}, "a multiple of scientists=8"),
        ({"levels": ()}, "levels"),
        ({"levels": (1,)}, "levels=1"),
        ({"deep": 6}, "deep=6"),
        ({"attempts": 0}, "attempts=0"),
        ({"notation": "prose"}, "notation='prose'"),
        ({"task_args": {"n_states": 1}}, "n_states=1"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(DreamEnvsError, match=why):
        Discovery(**wrong)


# ---- the game --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"notation": "english", "scientists": 12},
        {"days": 3, "operations": 1, "experiments": 1, "scientists": 1, "dreams": 0},
    ],
    ids=["english", "three days"],
)
def test_other_arrangements_pass_the_kit(how: dict[str, Any]) -> None:
    slow = (
        "random_episodes",
        "seed_determinism",
        "snapshot",
        "reward_range",
        "hostile_replies",
    )  # the default has them
    check("dream_envs/Discovery-v0", skip=slow, raise_on_failure=True, **how)


@pytest.mark.parametrize("notation", NOTATIONS)
def test_golden_prompts(notation: str) -> None:
    episode = played("scientist", Discovery(notation), seed="golden")
    asked = [m["content"] for turn in episode.turns for m in turn.messages]
    golden = {"compact": "a0139953a8293165", "english": "9fface0fa6d64c70"}[notation]
    assert content_hash(*asked) == golden, "another prompt is another version"


def test_notes_are_gone_when_the_day_is_over() -> None:
    """By day the system message has exactly what was found until then; asleep and in exams there is none."""
    game = Discovery(days=3)
    state, rng, seen = game.start(None, stream("g")), stream("a"), Counter[str]()
    while seats := game.turns(state):
        step, views = state.plan[state.at], [game.view(state, s.agent) for s in seats]
        notes = game.tasks.notes(step.day, state.tables, state.found)
        for view in views:
            told = [m["content"] for m in view if m["role"] == "system"]
            assert told == ([notes] if PHASES[step.phase][1] and notes else [])
            assert len(view) == len(told) + 1
        for idle in set(game.agents) - {s.agent for s in seats}:
            assert game.view(state, idle) == []
        seen[step.phase] += 1
        actions = {s.agent: Action(said(game, state, s.agent, rng)) for s in seats}
        state = game.apply(state, actions)
    assert set(seen) == set(PHASES)
    assert {r["day"] for k, r in state.rows if k == "experiments"} == {0, 1, 2}


def said(game: Discovery, state: State, agent: str, rng: np.random.Generator, kind: str = "scientist") -> str:
    class Asked:
        role = agent.partition("_")[0]

    Asked.state, Asked.agent = state, agent  # type: ignore[attr-defined]
    return game.scripted(kind, Asked, rng) or ""


def test_across_is_never_practised_and_deep_is_deeper() -> None:
    """Of the exams only ``across`` has operations of two days; nothing made awake or asleep has."""
    episode = played("oracle", Discovery(days=3, practices=4))
    made = [t for t in episode.tasks if t.origin == "proposal"]
    exams = [t for t in episode.tasks if t.origin == "generator"]
    assert made and all(len(t.meta["days"]) == 1 and t.level <= 6 for t in made)
    rows = episode.outcome.facts["questions"]
    assert len(rows) == len(exams)
    for row, task in zip(rows, exams, strict=True):
        assert len(task.meta["days"]) == (2 if row["kind"] == "across" else 1) and row["level"] == task.level
        assert task.level == (1 if row["kind"] == "fact" else 8 if row["kind"] == "deep" else task.level)
        assert row["kind"] == "across" or task.meta["days"] == [row["lesson"]]
    assert Counter(r["kind"] for r in rows) == {"fact": 24, "within": 24, "across": 8, "deep": 12}


def test_scripted_agents_stand_where_they_should() -> None:
    """The ends of the scale, and who forgets at night: means over eight worlds."""
    ends = {
        kind: [facts(kind, seed=f"s{i}", game=Discovery(days=3)) for i in range(8)]
        for kind in ("oracle", "scientist", "amnesiac", "guesser", "fool", "floor")
    }
    area = {kind: float(np.mean([f["area"] for f in its])) for kind, its in ends.items()}
    share = {kind: float(np.mean([f["share"] for f in its])) for kind, its in ends.items()}
    across = {kind: float(np.mean([f["across"][-1] for f in its])) for kind, its in ends.items()}
    assert area["oracle"] == 1.0 and across["oracle"] == 1.0 and area["floor"] == 0.0
    assert 0.7 < area["scientist"] < 0.9 and 0.4 < across["scientist"] < 0.9  # three quarters of the entries were found
    assert max(area[k] for k in ("amnesiac", "guesser", "fool")) < 0.2
    assert share["scientist"] == share["oracle"] == 0.75 and share["fool"] == 1 / 32 and 0.4 < share["guesser"] < 0.65
    judging = {kind: its[0]["judging"] for kind, its in ends.items()}
    assert judging["oracle"]["accuracy"] == 1.0
    assert judging["fool"]["false"] == 1.0 and judging["fool"]["paid_for_wrong"] > 0.5
    assert ends["scientist"][0]["forgetting"] <= 0.5 and ends["oracle"][0]["forgetting"] == 0.0


def test_repeated_and_bad_experiments_are_spent() -> None:
    """One entry a name for ever: the first asker of a step finds it, everybody else has wasted an experiment."""
    game = Discovery(days=1, experiments=16, scientists=4)
    seats: Any = {r.name: "oracle" for r in game.roles}
    seats["scientist"] = lambda text: "Ia"
    episode = play(game, {**seats, "scientist_3": lambda text: "Kb"}, reward=discovery())
    assert episode.outcome.facts["fate"] == {"new": 1, "known": 11, "invalid": 4}
    assert [episode.scores[f"scientist_{i}"].value for i in range(4)] == [0.25, 0.0, 0.0, 0.0]


def test_who_has_nothing_to_do_is_not_asked() -> None:
    """Without a valid problem nobody solves or judges; they abstain, and the exams are sat all the same."""
    game = Discovery(days=2)
    episode = played({**{r.name: "oracle" for r in game.roles}, "challenger": "floor"}, game)
    assert not [t for t in episode.turns if t.role == "judge"]
    assert episode.scores["judge_0"].status == "abstain" and episode.scores["learner_0"].value == 1.0
    assert episode.scores["challenger_0"].value == 0.0
    mixed = play(game, {**{r.name: "oracle" for r in game.roles}, "challenger_0": "floor"}, reward=discovery())
    assert {t.agent for t in mixed.turns if t.role == "judge"} == {"judge_2", "judge_3"}
    assert (mixed.scores["judge_0"].status, mixed.scores["judge_3"].value) == ("abstain", 1.0)


# ---- rewards ---------------------------------------------------------------------------------------------------


def by_hand(episode: Episode) -> dict[str, float]:
    """The default rewards again, from the transcript and the game's own rules alone."""
    game = Discovery()
    state, found = game.start(None, stream("episode", episode.seed)), dict[str, list[float]]()
    turns = iter(episode.turns)
    while seats := game.turns(state):
        step = state.plan[state.at]
        said_now = {s.agent: next(turns) for s in seats}
        actions = {a: Action(t.text, status=t.status) for a, t in said_now.items()}
        if step.phase == "experiment":
            known = set(state.found)
            for agent, action in actions.items():
                entry = game.tasks.experiment(step.day, action.text)
                found.setdefault(agent, []).append(float(bool(entry) and entry not in known))
                known |= {entry}
        if step.phase == "exam":
            for (agent, action), task in zip(actions.items(), step.tasks, strict=True):
                found.setdefault(agent, []).append(float(action.text == task.answer))
        before, state = state, game.apply(state, actions)
        if step.phase == "judge":
            for c, problem in enumerate(before.open):
                marks = [int(actions[f"judge_{2 * c + k}"].text == "1") for k in (0, 1) if problem is not None]
                p = sum(marks) / 2 if marks else 0.0
                found.setdefault(f"challenger_{c}", []).append(1 - p if 0 < p < 1 else 0.0)
    return {agent: math.fsum(its) / len(its) for agent, its in found.items()}


def test_the_default_reward_against_the_transcript() -> None:
    for seed in range(6):
        episode = played({**GUESSERS, "judge": "oracle"}, seed=f"h{seed}")
        hand = by_hand(episode)
        assert len(hand) == 8 + 2 + 4
        for agent, value in hand.items():
            assert episode.scores[agent].value == pytest.approx(value), agent


def test_own_verdicts_pay_by_the_turn_what_the_judge_said() -> None:
    """A judge who takes everything pays everything; with trust 0 only what experiments decide is paid."""
    blind = played({**GUESSERS, "judge": "fool"}, reward=own_verdicts())
    for learner in (a for a in blind.scores if a.startswith("learner")):
        score, turns = blind.scores[learner], [t for t in blind.turns if t.agent == learner]
        assert score.value == 1.0 and score.turns is not None and len(score.turns) == len(turns)
        paid = [t.messages[0]["role"] == "system" for t in turns]
        assert [x > 0 for x in score.turns] == paid and sum(paid) == 4
    strict = as_reward("own_verdicts", trust=0.0)(msgspec.structs.replace(blind, scores={}))
    rows = blind.outcome.facts["verdicts"]
    for learner, score in strict.items():
        if learner.startswith("learner"):
            own = [r["decided"] is True for r in rows if r["learner"] == learner]
            assert score.value == pytest.approx(sum(own) / len(own))
    half = as_reward("own_verdicts", trust=0.5)(blind)
    assert half["learner_1"].value == pytest.approx((1.0 + strict["learner_1"].value) / 2)
    assert own_verdicts()(played("floor"))["learner_0"].status == "abstain"


def test_failed_calls_are_nobodys_mistake() -> None:
    """A role whose calls all fail has their status, and the others' rewards are of what was there."""
    game = Discovery()
    for role, status in (("scientist", "timeout"), ("judge", "error"), ("learner", "error"), ("dreamer", "timeout")):
        seats: Any = {r.name: "oracle" for r in game.roles}
        seats[role] = lambda text, status=status: Action("", status=status)
        episode = play(game, seats, reward=discovery())
        assert episode.scores[f"{role}_0"].status == status, role
        assert episode.scores["challenger_0"].status == "ok"
        if role == "learner":
            assert episode.outcome.facts["area"] is None
            assert episode.scores["judge_0"].status == "abstain", "a call that failed is no answer to be judged"


# ---- the base --------------------------------------------------------------------------------------------------


def test_what_the_base_was_shown_is_told_by_its_notes() -> None:
    """Of 2,000 examples every reply follows from the notes, and experiments ask for every entry alike."""
    pytest.importorskip("torch")
    from dream_envs.baselines.nano.contexts import noted
    from dream_envs.baselines.nano.recipe import BASES
    from dream_envs.tasks.composition import Composition

    tasks, reading, rng = NewOperations(days=8, operations=2), BASES["explore"].support.reading, stream("shown")
    asked, both = Counter[bool](), 0
    for _ in range(2000):
        context, prompt, reply = noted(Composition(), reading, rng)
        told = tasks.noted(context)
        both += len(told) == 2
        assert set(told) <= set(reading.names)
        if prompt[0] == "?":
            assert len(reply) == 2 and reply[0] in prompt[1:] and reply[1] in tasks.states
            asked[reply[1] in told.get(reply[0], {})] += 1
        elif prompt[1:2] == "?":
            assert reply == "".join(s + told[prompt[0]][s] for s in prompt[2:])
        else:
            shown = tasks.shown(context, reply if prompt == "new" else prompt)
            assert shown is not None and prompt in ("new", shown.prompt) and reply in (shown.answer, shown.prompt)
    assert sum(asked.values()) / 2000 == pytest.approx(0.1, abs=0.03)
    assert asked[True] / sum(asked.values()) == pytest.approx(0.5, abs=0.12), "0 to 16 of 16 are noted"
    assert both / 2000 == pytest.approx(0.5, abs=0.06)


def test_the_card_of_the_base_holds() -> None:
    """Exact, 64 questions: it reads notes of two operations, knows none without, and asks for any entry."""
    pytest.importorskip("torch")
    from dream_envs.agents.engines.local import LocalAgent
    from dream_envs.baselines.nano.exams import asking_exam, notes_exam

    base = LocalAgent("nano/explore")
    read, asked = notes_exam(base, 1, 64), asking_exam(base, 16)
    assert read["open"] > 0.7 and read["closed"] < 0.2 and read["chance"] == pytest.approx(1 / 16)
    assert asked["valid"] > 0.95 and asked["entropy"] > 4.8 and asked["new"] == pytest.approx(0.5, abs=0.05)


# ---- the loop --------------------------------------------------------------------------------------------------


def said_by(role: str, asked: str, *texts: str) -> list[Any]:
    from dream_envs.core import Request

    notes: Any = [{"role": "system", "content": "I=a>b"}, {"role": "user", "content": asked}]
    return [(Request(messages=notes, agent=f"{role}_{i}", role=role, seed=i), Action(t)) for i, t in enumerate(texts)]


def test_a_night_is_about_what_most_attempts_agree_on() -> None:
    """Of learners alone; an answer that nobody shares is no agreement, and a tie is its first."""
    pytest.importorskip("torch")
    from dream_envs.baselines.loops.discovery import kept

    read = [
        *said_by("learner", "a:I", "Ib", "Ic", "Ib", "Ib"), *said_by("learner", "c:I", "Ia", "Ib", "Ic", "Id"),
        *said_by("learner", "d:I", "Ie", "If", "If", "Ie"), *said_by("challenger", "new", "a:I", "a:I"),
        *said_by("judge", "r|a:I|Ib", "1", "1"),
    ]  # fmt: skip

    def by(how: str) -> list[tuple[str, str]]:
        kind = kept(read, how, NewOperations(), stream("kept"))
        return [(e.messages[-1]["content"], e.reply) for e in kind]

    assert by("vote") == [("a:I", "Ib")] * 3 + [("d:I", "Ie")] * 2
    assert by("told") == [("a:I", "Ib")] * 3, "of d the notes say nothing"
    assert len(by("all")) == 12 and len(by("random")) == 5 and by("random") != by("vote")
