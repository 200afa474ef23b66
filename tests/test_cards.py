"""Judge and curriculum cards: published tables, judges with known vices, a real run's files, mistakes."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from _episodes import GOLD, play, solved

from dream_envs.core import Challenge, DreamEnvsError, Event, Score, encode
from dream_envs.metrics import cards
from dream_envs.metrics import curriculum_card as cc
from dream_envs.metrics.cards import Judgement, judge_card
from dream_envs.metrics.curriculum_card import curriculum_card
from dream_envs.rewards.presets import challenger_solver
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

Verdict = Callable[[str, str, np.random.Generator], str]


def contingency(a: str, b: str) -> list[list[int]]:
    labels, pairs = sorted({*a, *b}), list(zip(a, b, strict=True))
    return [[pairs.count((x, y)) for y in labels] for x in labels]


def test_alpha_of_the_published_tables() -> None:
    """Krippendorff 2011, sections B and A: two coders with nominal data, two with binary data."""
    assert float(cards.alpha(contingency("aabbdcccedda", "babbbccceddd"))) == pytest.approx(0.692, abs=5e-4)
    assert float(cards.alpha(contingency("0100000010", "1110010000"))) == pytest.approx(0.095, abs=5e-4)


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        ([[20, 5], [10, 15]], 0.4),  # (0.7 - 0.5) / (1 - 0.5)
        ([[45, 15], [25, 15]], 0.1304),  # same agreement, other habits
        ([[25, 35], [5, 35]], 0.2593),
        (np.diag([3, 4]), 1.0),
        ([[0, 5], [5, 0]], -1.0),
        ([[7, 0], [0, 0]], math.nan),
    ],
)
def test_kappa_of_known_tables(table: list[list[int]], kappa: float) -> None:
    assert float(cards.kappa(table)) == pytest.approx(kappa, abs=1e-4, nan_ok=True)


def test_rogan_gladen_by_hand_and_by_simulation() -> None:
    """Observed 0.4, sensitivity 0.9, specificity 0.8: (0.4 + 0.8 - 1) / 0.7 = 0.2857."""
    found = cards.rogan_gladen(400, 1000, 90, 100, 80, 100)
    assert found is not None and found[0] == pytest.approx(0.2 / 0.7) and 0.15 < found[1] < found[0] < found[2] < 0.45
    assert cards.rogan_gladen(5, 10, 5, 10, 5, 10) is None and cards.rogan_gladen(5, 10, 0, 10, 10, 10) is None
    assert cards.rogan_gladen(0, 50, 99, 100, 90, 100)[0] == 0.0  # type: ignore[index]
    rng, missed = stream("rogan"), 0
    for _ in range(600):
        seen = int(rng.binomial(300, 0.3 * 0.9 + 0.7 * 0.15))
        low, high = cards.rogan_gladen(seen, 300, int(rng.binomial(80, 0.9)), 80, int(rng.binomial(80, 0.85)), 80)[1:]  # type: ignore[index]
        missed += not low <= 0.3 <= high
    assert missed <= 48  # 5 % of 600 is 30; P(more than 48) is 1e-3


def pairwise(verdict: Verdict, items: int = 60, trials: int = 1) -> list[Judgement]:
    """A judge of four candidates an item, a the best to d the worst; every pair in both orders."""
    rng = stream("judge")
    return [
        Judgement(item=f"i{i}", first=x, second=y, verdict=verdict(x, y, rng), truth=min(x, y), trial=t)
        for i in range(items)
        for a, b in itertools.combinations("abcd", 2)
        for x, y in ((a, b), (b, a))
        for t in range(trials)
    ]


def test_a_good_judge_has_a_clean_card() -> None:
    card = judge_card(pairwise(lambda x, y, rng: min(x, y), trials=2), stream("card"))
    assert card["accuracy"][0] == card["kappa"][0] == card["alpha"][0] == card["test_retest"][0] == 1.0
    assert card["swap_flip"][0] == card["cyclic_triads"][0] == 0.0 and card["first_position"][0] == 0.5
    assert card["triples"] == 60 * 4 and card["swapped_pairs"] == 60 * 6 * 2
    assert card["flags"] == [] and card["constant"] is False and card["null_accepted"] is None
    assert json.loads(json.dumps(card, allow_nan=False)) == card


def test_a_judge_that_takes_the_first() -> None:
    card = judge_card(pairwise(lambda x, y, rng: x), stream("card"))
    assert card["first_position"] == [1.0, pytest.approx(0.9947, abs=1e-3), 1.0] and card["swap_flip"][0] == 1.0
    assert card["accuracy"][0] == 0.5 and card["kappa"][0] == pytest.approx(0.0) and card["constant"] is True
    assert card["cyclic_triads"] is None  # every pair is tied over both orders: nothing was decided
    told = " / ".join(card["flags"])
    assert all(word in told for word in ("kappa 0.00", "change with the order", "the first of two", "one verdict"))


def test_a_judge_that_tosses_coins() -> None:
    card = judge_card(pairwise(lambda x, y, rng: x if rng.random() < 0.5 else y, items=200, trials=2), stream("card"))
    assert card["accuracy"][1] < 0.5 < card["accuracy"][2] and card["kappa"][1] < 0 < card["kappa"][2]
    assert card["swap_flip"][0] == pytest.approx(0.5, abs=0.05) == card["test_retest"][0]
    assert card["cyclic_triads"][0] == pytest.approx(0.25, abs=0.06)


def test_a_judge_that_goes_round_in_circles() -> None:
    beats = {"ab": "a", "bc": "b", "ac": "c", "ad": "a", "bd": "b", "cd": "c"}
    card = judge_card(pairwise(lambda x, y, rng: beats["".join(sorted(x + y))]), stream("card"))
    assert card["cyclic_triads"][0] == 0.25 and card["swap_flip"][0] == 0.0  # a > b > c > a, of four triples


def pointwise(sens: float, spec: float, right: float, labelled: int, rest: int) -> list[Judgement]:
    rng, found = stream("pointwise"), []
    for i in range(labelled + rest):
        true = rng.random() < right
        says = rng.random() < (sens if true else 1 - spec)
        truth = ("yes" if true else "no") if i < labelled else ""
        found.append(Judgement(item=f"p{i}", verdict="yes" if says else "no", truth=truth))
    return found


def test_a_lenient_judge_is_corrected() -> None:
    """Half are right; the judge accepts 95 % of these and 40 % of the wrong ones, 0.675 in all."""
    card = judge_card(pointwise(0.95, 0.6, 0.5, 600, 3000), stream("card"))
    assert card["sensitivity"][1] < 0.95 < card["sensitivity"][2]
    assert card["specificity"][1] < 0.6 < card["specificity"][2]
    assert card["observed_positive"][1] > 0.6
    assert card["corrected_positive"][1] < 0.5 < card["corrected_positive"][2]
    assert card["flags"] == [] and "swap_flip" not in card


def test_abstention_is_counted_and_never_a_no() -> None:
    rows = [*pointwise(1.0, 1.0, 0.5, 300, 0), *(Judgement(item=f"x{i}", verdict="", truth="no") for i in range(100))]
    card = judge_card(rows, stream("card"))
    assert card["abstained"] == 100 and card["accuracy"][0] == 1.0 and card["accuracy_of_all"][0] == 0.75
    assert card["specificity"][0] == 1.0


def test_null_outputs_must_not_pass() -> None:
    null = [Judgement(item=f"n{i}", verdict="yes" if i < 3 else "no", truth="no", control="empty") for i in range(20)]
    card = judge_card([*pointwise(1.0, 1.0, 0.5, 300, 0), *null], stream("card"))
    assert card["null_accepted"][0] == 0.15 and card["controls"] == 20
    assert card["accuracy"][0] == 1.0 and card["flags"] == ["0.15 of the null outputs pass"]
    pairs = [Judgement(item="q", first="a", second="null", verdict="null", control="null")]
    assert judge_card(pairs, stream("card"))["null_accepted"][0] == 1.0
    few = judge_card([Judgement(item="a", verdict="no")], stream("card"))
    assert few["accuracy"] is few["kappa"] is None and few["flags"] == ["0 known truths: 200 or more are needed"]


NAMELESS = {"item": "a", "verdict": "x", "first": "x"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no judgements"),
        ([{"item": "a", "verdict": "yes"}, {**NAMELESS, "second": "y"}], "make a card of each"),
        ([NAMELESS], "two different names"),
        ([{**NAMELESS, "second": "x"}], "two different names"),
        ([{**NAMELESS, "second": "y", "verdict": "first"}], "verdict='first'"),
        ([{**NAMELESS, "second": "y", "truth": "z"}], "truth='z'"),
    ],
)
def test_records_that_say_nothing_are_refused(rows: list[dict[str, str]], words: str) -> None:
    with pytest.raises(DreamEnvsError, match=words) as caught:
        judge_card([Judgement(**row) for row in rows], stream("card"))
    assert "\n" not in str(caught.value)


def test_learnability_has_no_bias() -> None:
    assert cc.learnability([4, 8], [8, 8]) == pytest.approx((16 / 56 + 0) / 2)
    assert math.isnan(cc.learnability([1], [1])) and cc.learnability([1, 1], [1, 2]) == pytest.approx(0.5)
    rng = stream("learnability")
    p = rng.random(200_000)
    assert cc.learnability(rng.binomial(4, p), 4) == pytest.approx(1 / 6, abs=1e-3)  # E p(1 - p), uniform; plug-in: 1/8


def test_linear_drift_on_a_line() -> None:
    assert cc.linear_drift([(0, 1.0), (20, -1.0), (40, -3.0), (60, -5.0)]) == pytest.approx((-0.1, -0.1, -0.1))
    noisy = cc.linear_drift([(0, 0.0), (1, 1.0), (2, 0.0)])
    half = 12.706 * math.sqrt(2 / 3 / 2)  # t with 1 degree of freedom
    assert noisy == pytest.approx((0.0, -half, half), rel=1e-3, abs=1e-12)
    assert cc.linear_drift([(0, 0.0), (1, 1.0)]) is cc.linear_drift([]) is None


def write_run(path: Path, right: list[int], own: int) -> Path:
    """A run's folder whose episode i was solved by right[i] of 8; the first ``own`` are the challenger's."""
    episodes, family = [], Composition()
    for i, k in enumerate(right):
        episode = play(solved(k))
        events = [*([] if i < own else [Event("given", data={"author": "mutation"})]), *episode.events]
        episodes.append(msgspec.structs.replace(episode, events=events, scores=challenger_solver()(episode)))
    (path / "episodes.jsonl").write_bytes(b"".join(encode(e) + b"\n" for e in episodes) + b'{"half')
    made = [family.generate(stream("made", i), 1 + i // 10) for i in range(100)]
    rows = [Challenge(**msgspec.structs.asdict(t), round=i // 5) for i, t in enumerate(made)]
    (path / "challenges.jsonl").write_bytes(b"".join(encode(c) + b"\n" for c in rows))
    metrics = [{"step": 20 * i, "curriculum/drift": drift} for i, drift in enumerate([1.0, 3.0, 5.0, 7.0, None])]
    (path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    return path


def test_a_run_read_by_hand(tmp_path: Path) -> None:
    card = curriculum_card(write_run(tmp_path, [0, 2, 4, 6, 8, 8, 1, 7, 4, 4], own=4))
    assert card.played == 10 and card.learnable[0] == 0.5
    assert card.learnability == pytest.approx((0 + 12 + 16 + 12 + 0 + 0 + 7 + 7 + 16 + 16) / 56 / 10, abs=1e-6)
    assert card.solved == pytest.approx(44 / 80) and card.solved_series[:3] == [0.0, 0.25, 0.5]
    assert card.proposed == 4 and card.unique[0] == 0.25  # one text, written four times
    assert card.label_accuracy[0] == 1.0 and card.problems == 100
    assert card.depth_series == [float(d) for d in range(1, 11)]
    # log-odds at -log10 P = 1, 3, 5, 7: close to -2.303 of each, a slope of about -4.6 in 20 steps
    assert card.drift_base[0] == pytest.approx(-0.2314, abs=2e-3) and len(card.drift_base_series) == 4


def test_a_folder_without_a_run_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DreamEnvsError, match=r"no episodes\.jsonl"):
        curriculum_card(tmp_path)
    write_run(tmp_path, [4], own=1)
    for name, words in (("metrics.jsonl", "not an object"), ("episodes.jsonl", "no episode")):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_text("[1\n")
        with pytest.raises(DreamEnvsError, match=words) as caught:
            curriculum_card(tmp_path)
        assert "\n" not in str(caught.value)
        (tmp_path / name).write_bytes(kept)
    for name in ("metrics.jsonl", "challenges.jsonl"):
        (tmp_path / name).unlink()
    (tmp_path / "episodes.jsonl").write_bytes(b"")
    card = curriculum_card(tmp_path)
    assert card.episodes == 0 and card.learnable is card.depth_series is card.drift_base is None


def test_a_vote_that_is_wrong_shows_in_the_labels(tmp_path: Path) -> None:
    """Scores that follow the crowd instead of the truth: two of five are right, three alike are wrong."""
    episode = play([GOLD, GOLD, "x", "x", "x"])
    voted = {f"solver_{i}": Score(float(i >= 2)) for i in range(5)}
    wrong = msgspec.structs.replace(episode, scores=voted)
    (tmp_path / "episodes.jsonl").write_bytes(encode(wrong) + b"\n")
    assert curriculum_card(tmp_path).label_accuracy[0] == 0.0
