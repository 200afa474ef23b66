"""Health and alarms on hand-made rounds; the shape of replies and the entropy against known values."""

import msgspec
import pytest
from _episodes import GOLD, play, solved
from hypothesis import given
from hypothesis import strategies as st

from dream_envs.core import Episode, Event, Reject, Score
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.metrics.diversity import entropy
from dream_envs.metrics.rounds import Health, health, ring, round_metrics, shape
from dream_envs.rewards.presets import challenger_solver

GAME = ChallengerSolver()
GOOD = Health(
    valid=0.95, duplicates=0.2, unique=0.9, learnable=0.4, depth=3.0, solved=0.5, label_accuracy=1.0, features=40,
    format_entropy=1.0, answer_entropy=1.0,
)  # fmt: skip


NOTHING = Health(None, None, None, None, None, None, None, 0, 0.0, 0.0)


def but(**changed: float | None) -> Health:
    return msgspec.structs.replace(GOOD, **changed)


RINGS: list[tuple[dict[str, float], list[str]]] = [
    ({"valid": 0.74}, ["0.95 to 0.74"]), ({"unique": 0.49}, ["0.49 of the proposals are distinct"]),
    ({"duplicates": 0.81}, ["0.81 of the proposals are known"]), ({"label_accuracy": 0.89}, ["0.89 of the labels"]),
    ({"learnable": 0.04}, ["0.04 of the problems are partly solved"]),
    ({"label_accuracy": 0.5, "learnable": 0.0}, ["0.00 of the problems", "0.50 of the labels"]),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "words"), RINGS)
def test_each_alarm_rings_for_its_own_failure(changed: dict[str, float], words: list[str]) -> None:
    alarms = ring([GOOD, but(**changed)])
    assert len(alarms) == len(words) and all(map(str.__contains__, alarms, words))


def test_silence() -> None:
    assert ring([]) == ring([GOOD]) == ring([GOOD, but(valid=0.76, unique=0.5, duplicates=0.8, learnable=0.05)]) == []
    assert ring([NOTHING, NOTHING]) == ring([GOOD, NOTHING]) == ring([NOTHING, GOOD]) == []
    assert ring([but(valid=0.3), GOOD]) == []  # better than it began


def scored(episode: Episode, author: str = "") -> Episode:
    events = [*([Event("given", data={"author": author})] if author else []), *episode.events]
    return msgspec.structs.replace(episode, scores=challenger_solver()(episode), events=events)


def test_health_of_a_round_worked_by_hand() -> None:
    round_ = [
        scored(play(solved(2, 4), "c:BDA")),
        scored(play(solved(4, 4), "c:BDA")),  # the same text once more
        scored(play(["x"] * 4, "c:BD!A")),  # no problem
        scored(play(["x"] * 4, "d:A", gate=lambda t: Reject("duplicate"))),
        scored(play(["x"] * 4, "d:AB"), author="mutation"),  # nobody solved it; not the challenger's own
    ]
    found = health(round_, GAME)
    assert found.valid == pytest.approx(3 / 4) and found.duplicates == pytest.approx(1 / 4)
    assert found.unique == pytest.approx(3 / 4)
    assert found.learnable == pytest.approx(1 / 3) and found.solved == pytest.approx((0.5 + 1 + 0) / 3)
    assert found.depth == 3.0 and found.label_accuracy == 1.0
    assert found.features == 3  # depth=3, BD, DA
    assert health([], GAME) == NOTHING


def test_label_accuracy_is_against_the_truth_and_not_the_belief() -> None:
    episode = play(solved(1, 4))
    lies = {f"solver_{i}": Score(float(i > 0)) for i in range(4)}  # says the opposite of every verdict
    assert health([msgspec.structs.replace(episode, scores=lies)], GAME).label_accuracy == 0.0
    some = {**lies, "solver_0": Score(1.0), "solver_1": Score(0.0, "abstain")}
    assert health([msgspec.structs.replace(episode, scores=some)], GAME).label_accuracy == pytest.approx(1 / 3)
    judged = play(solved(2, 4), judge="1 1 1 1")
    believed = {f"solver_{i}": Score(1.0) for i in range(4)}
    assert health([msgspec.structs.replace(judged, scores=believed)], GAME).label_accuracy == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""), ("B", "A"), ("BfDk", "(Aa)+"), ("AaCcBdDd", "(Aa)+"), ("fka", "(a)+"), ("123", "(0)+"), ("Bf", "Aa"),
        ("c:BDA", "a:(A)+"), ("c:BDAAA", "a:(A)+"), ("fka!", "(a)+!"), ("1, 2, 3, 4", "(0, )+0"), (" ", " "),
    ],
)  # fmt: skip
def test_shapes(text: str, expected: str) -> None:
    assert shape(text) == expected


@given(st.text(alphabet="AaBb01 ,", max_size=30), st.integers(2, 5))
def test_a_repeated_unit_has_one_shape_whatever_its_number(text: str, n: int) -> None:
    unit = text[:3]
    if unit:
        assert shape(unit * (n + 4)) == shape(unit * (n + 5)) or len(unit * 10) > 512
    renamed = text.translate(str.maketrans("AaBb01", "QzRq79"))
    assert shape(text) == shape(renamed)  # which letter it is makes no difference


@given(st.lists(st.sampled_from(["a", "b", "c", GOLD, ""]), max_size=40), st.randoms())
def test_entropy_is_not_negative_and_knows_no_order(items: list[str], random: object) -> None:
    shuffled = [f"<{x}>" for x in items]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert entropy(items) == entropy(shuffled) >= 0.0


def test_a_rounds_means_are_over_what_has_a_value() -> None:
    """Rewards 1, an abstention and 0.5: the mean is 0.75, and a third of the scores is told to abstain."""
    scores = {"solver_0": Score(1.0), "solver_1": Score(0.0, "abstain"), "solver_2": Score(0.5)}
    found = round_metrics([msgspec.structs.replace(play(["xx", "", "xxxx"]), scores=scores)])
    assert found["reward/solver/mean"] == 0.75 and found["reward/solver/std"] == 0.25
    assert found["status/solver/abstain"] == pytest.approx(1 / 3) and found["status/solver/ok"] == pytest.approx(2 / 3)
    assert found["length/solver"] == 2.0 and "reward/challenger/mean" not in found
