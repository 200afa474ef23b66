"""Kuhn poker: exact truths against a brute-force oracle, the rules deal by deal, secrets, measures, the nano base."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dream_envs.agents.engines.models import weights_hash
from dream_envs.core import Action, DreamEnvsError, Measure, Task, content_hash
from dream_envs.envs.kuhn import INFORMATION_SETS, PLAYERS, Kuhn, State
from dream_envs.envs.kuhn_exact import equilibrium, estimates, exploitability, strategy_value
from dream_envs.play import as_agent, play
from dream_envs.seeds import stream
from dream_envs.testing import check

DEALS = ["".join(pair) for pair in itertools.permutations("JQK", 2)]
UNIFORM = {info: [0.5, 0.5, 0.0] for info in INFORMATION_SETS}
#: Every way to the end, ``x`` an unreadable reply: the first player's sign (None: who has the higher card), the stake.
ENDS: dict[str, tuple[int | None, int]] = {
    "pp": (None, 1), "bp": (1, 1), "bb": (None, 2), "pbp": (-1, 1), "pbb": (None, 2),
    "x": (-1, 1), "px": (1, 1), "bx": (1, 1), "pbx": (-1, 1),
}  # fmt: skip
WORDS = {"p": "[pass]", "b": "[bet]", "x": "[raise]"}


def won(deal: str, moves: str) -> int:
    """What the first player wins, from the table above."""
    sign, stake = ENDS[moves]
    return stake * ((1 if "JQK".index(deal[0]) > "JQK".index(deal[1]) else -1) if sign is None else sign)


def oracle_value(first: Any, second: Any) -> float:
    """The first player's mean winnings, by going through every deal and every way to the end."""
    total = 0.0
    for deal, (moves, _) in itertools.product(DEALS, ENDS.items()):
        chance = 1 / 6
        for i, move in enumerate(moves):
            chance *= (first, second)[i % 2][deal[i % 2] + moves[:i]]["pbx".index(move)]
        total += chance * won(deal, moves)
    return total


def oracle_exploitability(policy: Any) -> float:
    """By trying all 729 deterministic responses of each seat, forfeits included."""
    best = []
    for seat in (0, 1):
        own = [info for info in INFORMATION_SETS if (len(info) - 1) % 2 == seat]
        found = []
        for moves in itertools.product(np.eye(3).tolist(), repeat=6):
            response = dict(zip(own, moves, strict=True))
            found.append(oracle_value(response, policy) if seat == 0 else -oracle_value(policy, response))
        best.append(max(found))
    return sum(best) / 2


def drawn(label: str) -> dict[str, list[float]]:
    rng = stream("test-kuhn", label)
    return {info: rng.dirichlet([0.4, 0.4, 0.2]).tolist() for info in INFORMATION_SETS}


def played(game: Kuhn, deal: str, replies: list[Any]) -> Any:
    """The episode of a deal with these replies (Actions or texts), by turns, scored by the game's own reward."""
    left: Iterator[Any] = iter(replies)
    task = Task(family="kuhn", level=1, prompt="kuhn", answer=deal)
    return play(game, dict.fromkeys(PLAYERS, lambda text: next(left)), task=task, reward=game.default_reward, seed="0")


class Plays:
    """An agent that plays a policy."""

    def __init__(self, policy: Any, game: Kuhn) -> None:
        self.policy, self.game = policy, game

    def act(self, requests: Any) -> list[Action]:
        texts = "pbx" if self.game.notation == "compact" else ["[pass]", "[BET ]", "hm"]
        found = []
        for request in requests:
            p = self.policy[self.game._sets[request.messages[-1]["content"]]]
            found.append(Action(texts[int(np.searchsorted(np.cumsum(p), stream("plays", request.seed).random()))]))
        return found


# ---- exact truths ----------------------------------------------------------------------------------------------


def test_uniform_play_has_its_known_exploitability() -> None:
    assert exploitability(UNIFORM) == pytest.approx(11 / 24) == oracle_exploitability(UNIFORM)
    assert strategy_value(UNIFORM, UNIFORM) == pytest.approx(1 / 8)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.2, 1 / 3])
def test_the_equilibria_cannot_be_exploited_and_give_the_value_of_the_game(alpha: float) -> None:
    policy = equilibrium(alpha)
    with pytest.raises(DreamEnvsError, match="0 to 1/3"):
        equilibrium(alpha + 0.35)
    assert exploitability(policy) == pytest.approx(0, abs=1e-12) == oracle_exploitability(policy)
    assert strategy_value(policy, equilibrium(0.05)) == pytest.approx(-1 / 18)
    for info in ("J", "Jp", "Qb", "Qpb"):  # and nothing beside them is one
        p = policy[info][1] - 0.1 if policy[info][1] > 0.1 else policy[info][1] + 0.1
        assert exploitability({**policy, info: [1 - p, p, 0]}) > 1e-3


def test_values_and_best_responses_are_the_oracles() -> None:
    policies = [drawn(f"{i}") for i in range(6)]
    for one, other in itertools.pairwise(policies):
        assert strategy_value(one, other) == pytest.approx(oracle_value(one, other))
        assert exploitability(one) == pytest.approx(oracle_exploitability(one))
    many = {info: np.array([p[info] for p in policies]).T for info in INFORMATION_SETS}
    np.testing.assert_allclose(exploitability(many), [exploitability(p) for p in policies])
    np.testing.assert_allclose(strategy_value(many, policies[0]), [strategy_value(p, policies[0]) for p in policies])


def test_forfeits_only_hurt() -> None:
    """More of them, more exploitable, from an equilibrium and from uniform play; never better than to fold at once."""
    for policy in (equilibrium(0.2), UNIFORM):
        found = [
            exploitability({i: [(1 - u) * p[0], (1 - u) * p[1], u] for i, p in policy.items()})
            for u in (0, 0.1, 0.4, 0.9, 1)
        ]
        assert found == sorted(set(found)) and found[-1] == pytest.approx(1)
    for i in range(20):
        policy, other = drawn(f"forfeits/{i}"), drawn(f"other/{i}")
        folds = {info: [p[0] + p[2], p[1], 0.0] if "b" in info else p for info, p in policy.items()}
        assert strategy_value(folds, other) == pytest.approx(strategy_value(policy, other))
        safe = {**folds, **{c: [p[0] + p[2], p[1], 0.0] for c, p in policy.items() if len(c) == 1}}
        timid = {**safe, **{c + "pb": [1.0, 0.0, 0.0] for c in "JQK"}}  # passes and folds instead of forfeiting
        unsafe = {**timid, **{c: policy[c] for c in "JQK"}}
        assert strategy_value(timid, other) >= strategy_value(unsafe, other) - 1e-12


@pytest.mark.parametrize(
    "bad", [{}, {"J": [0.5, 0.5]}, {"J": [0.7, 0.7, 0]}, {"J": [1.5, -0.5, 0]}, {"J": [np.nan] * 3}]
)
def test_what_is_no_policy_is_refused(bad: Any) -> None:
    with pytest.raises(DreamEnvsError, match=r"policy\['J'\]: P\(pass\)"):
        exploitability({**UNIFORM, **bad} if bad else {})


# ---- the game --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notation", ["compact", "english"])
def test_every_deal_and_every_way_to_the_end(notation: str) -> None:
    game = Kuhn(notation)
    for deal, moves in itertools.product(DEALS, ENDS):
        episode = played(game, deal, [m if notation == "compact" else WORDS[m] for m in moves])
        value = won(deal, moves)
        assert [episode.scores[a].value for a in PLAYERS] == [value, -value], (deal, moves)
        assert {s.status for s in episode.scores.values()} == {"ok"} == {episode.outcome.status}
        assert [t.agent for t in episode.turns] == [PLAYERS[i % 2] for i in range(len(moves))]
        loser = PLAYERS[(len(moves) - 1) % 2] if "x" in moves else ""
        assert [(e.kind, e.agent) for e in episode.events] == ([("forfeit", loser)] if loser else [])
        assert episode.outcome.facts["forfeit"] == loser
        assert episode.outcome.facts["cards"] == dict(zip(PLAYERS, deal, strict=True))


@pytest.mark.parametrize("notation", ["compact", "english"])
def test_a_view_depends_on_the_own_card_and_the_moves_alone(notation: str) -> None:
    game, asked = Kuhn(notation), set()
    for history in ("", "p", "b", "pb", "pp", "bp", "bb", "pbp", "pbb"):
        for seat, card in itertools.product((0, 1), "JQK"):
            deals = [deal for deal in DEALS if deal[seat] == card]
            views = {json.dumps(game.view(State(deal, history), PLAYERS[seat])) for deal in deals}
            assert len(views) == 1
            facts = {json.dumps(game.public_facts(State(deal, history))) for deal in deals}
            assert history in ("pp", "bb", "pbb") or len(facts) == 1  # at a showdown who won is public
            now = game.turns(State(deals[0], history))
            if now and now[0].agent == PLAYERS[seat]:
                asked |= views
    assert len(asked) == 12
    golden = {"compact": "88d45ec122ddf07a", "english": "0342fb7537174407"}[notation]
    assert content_hash(*sorted(asked)) == golden, "another prompt is another version"


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("[pass]", "p"), ("[ Bet ]", "b"), ("I could [pass], but I [BET].", "b"), ("[bet] or [pass]", "p"),
        ("<think>[bet]?</think>\n[pass]", "p"), ("<think>[bet]</think>", ""), ("<think>I [bet]", ""),
        ("</think><think>[bet]", ""), ("bet", ""), ("[p]", ""), ("[bet", ""), ("", ""), ("[bet]" + "x" * 5000, ""),
        ("[" * 4000, ""), ("[ѕet] [bеt]", ""),
    ],
)  # fmt: skip
def test_how_english_is_read(text: str, move: str) -> None:
    assert Kuhn("english")._read(text) == move
    assert Kuhn()._read(text) == ""


def test_compact_is_one_letter_and_budgets_are_checked() -> None:
    assert [Kuhn()._read(t) for t in ("p", "b", "P", " p", "p\n", "pb", "", "ppp", "ｐ")] == ["p", "b", *[""] * 7]
    assert Kuhn().turns(State("JQ"))[0].limits.max_tokens == 2
    assert Kuhn("english", reply_tokens=9).turns(State("JQ"))[0].limits.max_tokens == 9
    for wrong in ({"notation": "latin"}, {"reply_tokens": 0}, {"reply_tokens": 1.5}):
        with pytest.raises(DreamEnvsError):
            Kuhn(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", ["timeout", "error", "invalid", "abstain"])
def test_a_failed_call_is_no_loss(status: Any) -> None:
    episode = played(Kuhn(), "JQ", ["p", Action("b", status=status)])
    assert episode.outcome.status == status and episode.events == [] and episode.outcome.facts["winnings"] == {}
    assert [episode.scores[a].status for a in PLAYERS] == ["abstain", status]


def test_deals_are_uniform_and_can_be_dealt_again() -> None:
    game = Kuhn()
    deals = [game.start(None, stream("deal", i)).deal for i in range(6000)]
    counts = np.array([deals.count(deal) for deal in DEALS])
    assert counts.sum() == 6000 and abs(counts - 1000).max() < 4.5 * np.sqrt(6000 * 5 / 36)
    (task,), _ = game.record(State("KJ"))
    assert game.start(task, stream("other")).deal == "KJ" and "J" not in task.prompt + task.origin
    for family, answer in (("kuhn", ""), ("kuhn", "JJ"), ("kuhn", "JA"), ("kuhn", "JQK"), ("composition", "JQ")):
        with pytest.raises(DreamEnvsError, match="starts from a deal"):
            game.start(Task(family=family, level=1, prompt="kuhn", answer=answer), stream("x"))


def test_turns_are_grouped_by_information_set() -> None:
    for game, words in ((Kuhn(), "pb"), (Kuhn("english"), ["[pass]", "[bet]"])):
        one, other = (played(game, deal, [words[0], words[1], words[1]]) for deal in ("JQ", "JK"))
        groups = [[game.group(e, t) for t in e.turns] for e in (one, other)]
        assert groups == [["first/J", "second/Qp", "first/Jpb"], ["first/J", "second/Kp", "first/Jpb"]]


def test_the_kit_passes_in_english_too() -> None:
    report = check("dream_envs/Kuhn-v0", notation="english")
    assert report.ok and all(c.status == "passed" for c in report.checks), str(report)


# ---- what is measured ------------------------------------------------------------------------------------------


def covers(measure: Measure, value: float) -> bool:
    assert measure.low is not None and measure.high is not None
    return measure.low - 1e-12 <= value <= measure.high + 1e-12


@pytest.mark.parametrize("notation", ["compact", "english"])
def test_scripted_agents_are_what_they_say(notation: str) -> None:
    game = Kuhn(notation)
    found = {name: game.evaluate(as_agent(name, game), "0") for name in ("oracle", "guesser", "floor")}
    for name, (value, first) in {"oracle": (0, -1 / 18), "guesser": (11 / 24, 1 / 8), "floor": (1, -1)}.items():
        assert covers(found[name]["exploitability"], value) and covers(found[name]["value_first"], first), name
        assert found[name]["exploitability"].n == 12 * 256
        assert found[name]["unreadable"].value == (name == "floor")
    assert found["oracle"]["unreadable"].high > 0 and found["floor"]["unreadable"].low < 1  # type: ignore[operator]


@pytest.mark.parametrize("name", ["equilibrium", "near", "drawn", "uniform"])
def test_intervals_cover(name: str) -> None:
    """60 times; a bootstrap's percentiles alone cover an equilibrium never."""
    near = {
        info: (0.97 * np.array(p) + 0.03 * np.array([0.5, 0.4, 0.1])).tolist() for info, p in equilibrium(0.2).items()
    }
    policy = {"equilibrium": equilibrium(0.2), "near": near, "drawn": drawn("cover"), "uniform": UNIFORM}[name]
    true = {"exploitability": exploitability(policy), "value_first": strategy_value(policy, policy)}
    true["unreadable"] = np.mean([p[2] for p in policy.values()])
    rng, hits = stream("test-kuhn", "cover", name), dict.fromkeys(true, 0)
    for i in range(60):
        found = estimates(np.stack([rng.multinomial(256, policy[info]) for info in INFORMATION_SETS]), f"{i}")
        for key, value in true.items():
            hits[key] += covers(found[key], value)
    assert min(hits.values()) >= 51, hits  # 57 are expected; 50 or fewer have a chance of 1 in 700
    assert found["exploitability"].high - found["exploitability"].low < 0.12  # type: ignore[operator]


class Exact(Plays):
    def probabilities(self, requests: Any, texts: Any) -> np.ndarray:
        assert texts == ["p", "b"]
        return np.array([self.policy[self.game._sets[r.messages[-1]["content"]]][:2] for r in requests])


def test_exact_probabilities_make_exact_measures() -> None:
    policy = drawn("exact")
    found = Kuhn().evaluate(Exact(policy, Kuhn()), "0")
    assert found["exploitability"] == Measure(pytest.approx(oracle_exploitability(policy)))
    assert found["value_first"].value == pytest.approx(oracle_value(policy, policy))
    sampled = Kuhn().evaluate(Plays(policy, Kuhn()), "0")
    for name, measure in found.items():
        assert abs(sampled[name].value - measure.value) < 0.1 and sampled[name].n == 3072
    english = Kuhn("english")  # where many replies are a bet, a single text's probability says nothing
    assert english.evaluate(Exact(policy, english), "0")["exploitability"].n == 3072


def test_agents_may_be_asynchronous_and_failed_calls_do_not_count() -> None:
    game = Kuhn()

    class Later(Plays):
        async def act(self, requests: Any) -> list[Action]:  # type: ignore[override]
            return [Action("", status="timeout") if i % 2 else a for i, a in enumerate(super().act(requests))]

    async def inside() -> dict[str, Measure]:
        return game.evaluate(Later(UNIFORM, game), "0")  # type: ignore[arg-type]

    import asyncio

    found = asyncio.run(inside())
    assert found["exploitability"].n == 1536 and found["unreadable"].value == 0

    class Never(Plays):
        def act(self, requests: Any) -> list[Action]:
            return [Action("", status="error" if r.messages[0]["content"] == "kQp" else "ok") for r in requests]

    with pytest.raises(DreamEnvsError, match="every call to the agent failed in information set 'Qp'"):
        game.evaluate(Never(UNIFORM, game), "0")


# ---- the nano base ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano() -> Any:
    local = pytest.importorskip("dream_envs.agents.engines.local", exc_type=ImportError)
    return local.LocalAgent("nano/kuhn")


def test_probabilities_are_those_of_sampling(nano: Any) -> None:
    game = Kuhn()
    requests = [game._request(info, i) for i, info in enumerate(INFORMATION_SETS)] * 200
    requests = [
        type(r)(**{f: getattr(r, f) for f in r.__struct_fields__} | {"seed": i}) for i, r in enumerate(requests)
    ]
    for agent in (nano, nano.decoding(temperature=4.0)):  # hot: other letters, and no end after the first
        texts = [action.text for action in agent.act(requests)]
        expected = agent.probabilities(requests[:12], ["p", "b", "pb"])
        assert expected.shape == (12, 3) and (expected.sum(1) < 1).all()
        for j, text in enumerate(("p", "b")):
            assert abs(texts.count(text) / 2400 - expected[:, j].mean()) < 4 * np.sqrt(0.25 / 2400)
    assert nano.probabilities([], ["p"]).shape == (0, 1)
    for other in (nano.decoding(top_p=0.9), nano.decoding(min_p=0.1), nano.decoding(temperature=0.0)):
        assert other.probabilities(requests[:1], ["p"]) is None
    assert nano.constrained(lambda request: [["p"]]).probabilities(requests[:1], ["p"]) is None
    assert nano.stopping(lambda request: "p").probabilities(requests[:1], ["p"]) is None
    twin = nano.decoding(temperature=4.0)
    ended = twin.probabilities(requests[:12], ["p"])
    twin.ends = [*twin.ends, twin.token("x")]  # a model may end its turn with any of several tokens
    assert (twin.probabilities(requests[:12], ["p"]) > ended + 1e-9).all()


def test_the_base_plays_legal_moves_at_random(nano: Any) -> None:
    found = Kuhn().evaluate(nano, "0")
    assert found["exploitability"].n == 0 and abs(found["exploitability"].value - 11 / 24) < 0.02
    assert 0 < found["unreadable"].value < 0.01 and abs(found["value_first"].value - 1 / 8) < 0.02
    sampled = Kuhn().evaluate(nano.decoding(top_p=1 - 1e-9), "0")
    assert covers(sampled["exploitability"], found["exploitability"].value) and sampled["exploitability"].n == 3072


def test_the_base_is_what_its_recipe_says() -> None:
    recipe = pytest.importorskip("dream_envs.baselines.nano.recipe", exc_type=ImportError)
    folder = Path(recipe.__file__).parent / "kuhn"
    card, readme = json.loads((folder / "nano.json").read_text()), (folder / "README.md").read_text()
    assert card["recipe_hash"] == recipe.recipe_hash(recipe.BASES["kuhn"])
    assert card["weights_hash"] == weights_hash(folder)
    assert (folder / "model.safetensors").stat().st_size < 300_000
    assert f"{card['parameters']:,} parameters" in readme
    shown = list(itertools.islice(recipe.examples(recipe.BASES["kuhn"], stream("test-kuhn", "corpus")), 12_000))
    assert {prompt[1:] for prompt, _ in shown} == set(INFORMATION_SETS) and {reply for _, reply in shown} == {"p", "b"}
    for info in INFORMATION_SETS:
        moves = [reply for prompt, reply in shown if prompt == f"k{info}"]
        assert abs(len(moves) - 1000) < 150 and abs(moves.count("b") / len(moves) - 0.5) < 0.075
