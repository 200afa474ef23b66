"""The near-duplicate index: against brute force, across processes, after a restore; its gate and its reward."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from _episodes import play
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError, Reject, Stateful
from dream_envs.curriculum import gates
from dream_envs.curriculum.novelty import NoveltyIndex, grams
from dream_envs.rewards.algebra import weighted
from dream_envs.rewards.diversity import Reference, novelty
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

LETTERS = np.array(list("abcdefgh"))


def texts(rng, count, length=40):
    return ["".join(row) for row in rng.choice(LETTERS, size=(count, length))]


def edited(rng, text, edits):
    """The text with ``edits`` letters changed to something that occurs nowhere else."""
    letters = list(text)
    for at in rng.choice(len(letters), size=edits, replace=False):
        letters[at] = "xyz"[int(rng.integers(3))]
    return "".join(letters)


def brute(reference, text, n=3):
    """Jaccard by Python's own sets, nothing shared with the index."""

    def of(s):
        return {s[i : i + n] for i in range(len(s) - n + 1)}

    return max(len(of(text) & of(r)) / len(of(text) | of(r)) for r in reference)


def test_near_duplicates_are_found_and_their_similarity_is_exact():
    rng = stream("test-novelty", "recall")
    reference = texts(rng, 800)
    index = NoveltyIndex(0.5)
    assert index.extend(reference) == len(index) == 800
    truth, found = [], []
    for k in range(240):
        query = edited(rng, reference[int(rng.integers(800))], edits=k % 6)
        truth.append(brute(reference, query))
        found.append(index.similarity(query))
    truth, found = np.array(truth), np.array(found)
    assert (found <= truth + 1e-12).all(), "an exact similarity cannot exceed the largest there is"
    near = truth >= 0.6
    assert near.sum() > 100
    assert (np.abs(found - truth)[near] < 1e-12).mean() > 0.95
    assert (found[truth == 1.0] == 1.0).all()
    assert max(index.similarity(text.upper()) for text in texts(rng, 100)) == 0.0


words = st.text(alphabet="ab \U0001f600é\ud800", max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(words, max_size=12), words, st.integers(1, 4))
def test_what_it_says_is_what_the_plain_reference_says_or_less(items, query, n):
    """Any text, odd ones too; equal sets are always found, the empty one included."""
    index = NoveltyIndex(n=n)
    index.extend(items)
    if any(grams(query, n) == grams(item, n) for item in items):
        assert index.similarity(query) == 1.0
    else:
        assert 0.0 <= index.similarity(query) <= Reference(items, n, None).similarity(query) + 1e-12
    again, known = NoveltyIndex(n=n), [grams(item, n) for item in items]
    assert [again.add(item) for item in items] == [its not in known[:i] for i, its in enumerate(known)]


def test_restored_is_the_same_index():
    rng = stream("test-novelty", "restore")
    items = texts(rng, 300, 24)
    index, twin = NoveltyIndex(0.4), NoveltyIndex(0.4)
    assert isinstance(index, Stateful) and index.similarity("abc") == 0.0
    index.extend(items[:200])
    twin.add("to be forgotten")
    twin.restore(json.loads(json.dumps(index.state())))
    for both in (index, twin):
        both.extend(items[200:])
    assert twin.state() == index.state() and len(twin) == 300
    queries = [edited(rng, items[k], 2) for k in range(0, 300, 10)]
    assert [twin.similarity(q) for q in queries] == [index.similarity(q) for q in queries]
    with pytest.raises(DreamEnvsError, match=r"'threshold': 0.4.*'threshold': 0.5"):
        NoveltyIndex(0.5).restore(index.state())


CHILD = """
import json
from dream_envs.curriculum.novelty import NoveltyIndex
index = NoveltyIndex(0.3)
index.extend(["the quick brown fox", "abcabdabe", "é☃", "the quick brown cow jumps"])
sketch = index._sketch(next(iter(index._sets))).hashvalues.tolist()
print(json.dumps([index.state(), sketch, index.similarity("the quick brown fox jumps")]))
"""


def test_the_same_in_every_process():
    answers = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", CHILD]
        answers.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(answers) == 1
    # {the quick brown, quick brown fox, brown fox jumps} shares two of three with "the quick brown fox"
    assert json.loads(answers.pop())[2] == 2 / 3


def test_without_datasketch_it_is_off_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(DreamEnvsError, match=r"pip install 'dream-envs\[train\]'"):
        NoveltyIndex()


def test_features_of_a_family_see_through_another_start():
    family = Composition()
    index = NoveltyIndex(0.3, features=family.features)
    assert index.add(family.make("a", "ABC"))
    assert not index.add(family.make("b", "ABC")), "same depth, same pairs"
    # depth=4, AB, BC, CD against depth=3, AB, BC: two shared of five
    assert index.similarity(family.make("a", "ABCD")) == pytest.approx(2 / 5)
    with pytest.raises(DreamEnvsError, match="is a text"):
        index.add("c:ABC")


def test_the_gate_turns_away_what_is_like_something_known():
    family, index = Composition(), NoveltyIndex(0.3)
    gate = gates.novel(index, 0.5)
    problem, near, far = family.make("c", "BDA"), family.make("c", "BDC"), family.make("f", "HGE")
    assert gate(problem) is None and len(index) == 0, "it only asks"
    index.add(problem)
    assert gate(problem) == Reject("similar", "similarity 1.00, allowed below 0.5")
    assert gate(near).code == "similar" and gate(far) is None  # c:B and :BD of c:B, :BD, BDA, BDC: 2 / 4
    assert gates.novel(index, 0.6)(near) is None and gates.novel(index)(near) is not None
    with pytest.raises(DreamEnvsError, match=r"threshold=0\.2: 0\.3 to 1"):
        gates.novel(index, 0.2)


def challengers(found):
    return [scores["challenger_0"].value for scores in found]


def test_novelty_against_an_index_and_against_earlier_rounds():
    index = NoveltyIndex(0.3)
    given, own = novelty(index), novelty("earlier")
    first = [play(["x"], p) for p in ("c:BDA", "c:BDA", "c:BDC", "?")]
    second = [play(["x"], p) for p in ("c:BDA", "c:BDE", "f:HGE")]
    for model in (given, own):
        found = model.score(first)
        assert challengers(found) == [1, 1, 1, 0] and found[3]["challenger_0"].status == "abstain"
    index.extend(["c:BDA", "c:BDC"])
    saved = json.loads(json.dumps(weighted({own: 1.0}).state()))
    for model in (given, own):
        assert challengers(model.score(second)) == [0, 0.5, 1]
    assert challengers(given.score(second)) == [0, 0.5, 1], "a given index is only asked"
    assert challengers(own.score(second)) == [0, 0, 0]
    fresh = novelty("earlier")
    weighted({fresh: 1.0}).restore(saved)
    assert challengers(fresh.score(second)) == [0, 0.5, 1] and fresh.grader == "novelty-1(reference=earlier)"


@pytest.mark.parametrize("settings", [{"n": 0}, {"n": 17}, {"n": True}, {"threshold": 0}, {"threshold": float("nan")}])
def test_settings_that_cannot_be_are_told(settings):
    with pytest.raises(DreamEnvsError, match=rf"{next(iter(settings))}=.* to "):
        NoveltyIndex(**settings)
