"""The words, one by one: what a fair reviewer would say of each case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dream_envs.frontier import gain
from dream_envs.frontier.schema import Headline, Kept, Retention
from dream_envs.frontier.verdict import claims, losses, verdict
from dream_envs.seeds import stream

KINDS = ("practised range", "longer", "held-out combinations", "new facts")
EACH = 60


def word(
    solved: tuple[float, ...], base: tuple[float, ...] = (0.0,) * 4, scaffolds: tuple[float, ...] | None = None,
    lost: float = 0.0, kept: float = 0.0, pass1: float = 0.1,
) -> Any:  # fmt: skip
    """A verdict on 60 problems of each kind.

    ``solved``: shares that the trained model solves; ``base``: shares of those that decoding reaches, ``scaffolds`` of
    what is left; ``lost``: share of problems that the base solved; ``kept``: change on the declared support.
    """
    n = EACH * len(KINDS)
    place, kind = np.tile(np.arange(EACH), len(KINDS)) / EACH, np.repeat(np.arange(len(KINDS)), EACH)
    reliable = place < np.array(solved)[kind]
    by = stream("words").random(n)
    first = np.where(by < np.array(base)[kind], 5, 0) * reliable
    gone = ~reliable & (place > 1 - lost)
    reached = np.zeros(n)
    facts = {"decoding": gain.Evidence(reliable, first, 1024, reached, gone, np.zeros(n), kind)}
    if scaffolds is not None:
        reached = reliable & (first == 0) & (stream("later").random(n) < np.array(scaffolds)[kind])
        facts["scaffolds"] = replace(facts["decoding"], reached=reached)
    head = gain.headline([facts["decoding"]], stream("h"), draws=50)
    found = claims({name: [some] for name, some in facts.items()}, [KINDS[i] for i in kind])
    d1 = Kept(name="d1", before=0.9, after=0.9 + kept, gain=(kept, kept - 0.03, kept + 0.03), flag=kept < 0, lost=False)
    support = Retention(suites=[d1], mean=d1.gain, flag=False)
    count = {"decompose": int(reached.sum())} if reached.any() else {}
    return verdict(head, found, (pass1, pass1 - 0.02, pass1 + 0.02), support, count, ["a public seed"])


def test_the_flagship() -> None:
    """Beyond decoding, and the scaffold reaches all of it: said in the phrase and in the first sentence."""
    found = word((1.0, 0.7, 0.8, 0.0), (0.3, 0, 0, 0), (1.0, 1.0, 1.0, 0))
    assert found.word == "Expansion"
    assert found.phrase == (
        "Expansion beyond decoding (practised range, longer, held-out combinations); within scaffolds; training not "
        "tried"
    )
    assert "of these" in found.sentence and "most by `decompose`" in found.sentence
    by = {(c.kind, c.envelope): c.word for c in found.claims}
    assert by["longer", "decoding"] == "beyond" and by["longer", "scaffolds"] == "within"
    assert by["new facts", "decoding"] == by["new facts", "scaffolds"] == "not shown"
    assert found.qualified == ["a public seed"] and not found.lost


def test_a_gain_with_nothing_held_out_is_an_expansion() -> None:
    """30 points within the practised range and nothing elsewhere."""
    found = word((1.0, 0.0, 0.0, 0.0))
    assert found.phrase == ("Expansion beyond decoding (practised range); scaffolds not tried; training not tried")


def test_what_scaffolds_do_not_reach_is_beyond_them() -> None:
    found = word((1.0, 1.0, 0.0, 1.0), scaffolds=(1.0, 0.5, 0.0, 0.0))
    assert "beyond scaffolds (longer, new facts), within scaffolds (practised range)" in found.phrase


def test_a_gain_that_cost_the_declared_support_is_a_trade() -> None:
    found = word((1.0, 1.0, 1.0, 0.0), kept=-0.9)
    assert found.word == "Trade" and found.phrase.endswith("lost: d1 (-90 points of success)")
    assert word((1.0, 1.0, 1.0, 0.0), kept=-0.04).word == "Expansion"  # no loss of 2.5 points is shown
    assert word((1.0, 1.0, 1.0, 0.0), kept=-0.06).lost == ["declared support as a whole (-6 points of success)"]
    mixed = word((0.9, 0.0, 0.0, 0.0), lost=0.3)
    assert mixed.word == "Trade" and "points of problems that the base solved reliably" in mixed.lost[0]


def test_a_loss_alone_is_a_contraction() -> None:
    assert word((0.0,) * 4, lost=0.4, pass1=-0.2).word == "Contraction"
    assert word((0.0,) * 4, kept=-0.5).word == "Contraction"


def test_sharpening_needs_the_absence_of_a_gain_to_be_shown() -> None:
    found = word((0.9, 0.9, 0.5, 0.0), (1.0, 1.0, 1.0, 0))
    assert found.word == "Sharpening" and "at most 1.5 points" in found.sentence
    assert {c.word for c in found.claims if c.kind in KINDS[:2]} == {"within"}
    unsure = word((0.9, 0.9, 0.5, 0.0), (0.97, 0.97, 1.0, 0))
    assert unsure.word in ("Not shown", "Expansion")


def test_nothing_happened() -> None:
    found = word((0.0,) * 4, pass1=0.0)
    assert found.word == "Not shown" and {c.word for c in found.claims} == {"not shown"}
    assert "none is excluded" in found.sentence and "between 0.0 and 1.5 points" in found.sentence


def test_no_word_from_want_of_significance() -> None:
    """A true gain of 5 points that the interval cannot tell from 0.5: not *Sharpening*, whatever pass@1 did."""
    rng, words = stream("weak"), []
    for i in range(100):
        reliable = rng.random(400) < 0.02
        none = np.zeros(400)
        facts = gain.Evidence(reliable, none, 1024, none, none, none, np.arange(400) // 20)
        head, found = (
            gain.headline([facts], stream("weak", i), draws=5),
            claims({"decoding": [facts]}, ["harder"] * 400),
        )
        words.append(verdict(head, found, (0.1, 0.05, 0.2), None, {}, []).word)
    assert words.count("Sharpening") <= 5 and words.count("Expansion") >= 30


def test_a_loss_that_is_spread_over_the_declared_support_is_in_the_word() -> None:
    """An eighth of each stratum is gone: no stratum of 20 shows it alone, all of them together do."""
    suites = [Kept(f"d{i}", before=1.0, after=0.87, gain=(-0.13, -0.3, -0.02), flag=True, lost=True) for i in range(5)]
    head = Headline(k=1024, g=(50, 45, 55), e=(50, 45, 55), s=(0, 0, 0.4), family_interval=None, n=400)
    assert losses(head, Retention(suites=suites, mean=(-0.13, -0.2, -0.06), flag=True)) == [
        "declared support as a whole (-13 points of success)"
    ]
    assert losses(head, Retention(suites=suites, mean=(-0.03, -0.06, 0.0), flag=True)) == []


def test_a_gain_is_not_cancelled_by_a_loss_of_the_same_kind() -> None:
    """Depth 8 is learnt, depths 4 and 5 are lost, all "longer": a trade, of which the gain is shown."""
    n, place = 120, np.arange(120) / 120
    reliable, gone = place < 0.3, place > 0.7
    facts = gain.Evidence(reliable, np.zeros(n), 1024, np.zeros(n), gone, np.zeros(n), np.zeros(n, int))
    head = gain.headline([facts], stream("trade"), draws=5)
    found = claims({"decoding": [facts]}, ["longer"] * n)
    assert head.g[1] < 0.5 and found[0].word == "beyond"
    assert verdict(head, found, (0.0, -0.1, 0.1), None, {}, []).word == "Trade"


def test_what_is_solved_at_times_and_never_by_the_base_is_no_sharpening() -> None:
    """pass@1 rose, nothing is reliable, but a tenth of the problems are solved now and then, and never by the base."""
    head = Headline(k=1024, g=(0, -0.4, 0.4), e=(0, 0, 0.4), s=(0, 0, 0.4), family_interval=None, n=400)
    rise = (0.02, 0.01, 0.03)
    assert verdict(head, [], rise, None, {}, []).word == "Sharpening"
    assert verdict(head, [], rise, None, {}, [], thin=10.0).word == "Not shown"
