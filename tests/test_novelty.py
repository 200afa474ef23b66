"""The near-duplicate index: against brute force, one by one against all at once, across processes, after a restore."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from _episodes import play
from hypothesis import given, settings
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.novelty import NoveltyIndex
from dream_envs.rewards.diversity import Reference, _grams, novelty
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
    reference = texts(rng, 2000)
    index = NoveltyIndex()
    assert index.extend(reference) == 2000
    truth, found = [], []
    for k in range(300):
        query = edited(rng, reference[int(rng.integers(2000))], edits=k % 6)
        truth.append(brute(reference, query))
        found.append(index.similarity(query))
    truth, found = np.array(truth), np.array(found)
    assert (found <= truth + 1e-12).all(), "an exact similarity cannot exceed the largest there is"
    near = truth >= 0.6
    assert near.sum() > 150
    assert (np.abs(found - truth)[near] < 1e-12).mean() > 0.98
    assert (found[truth == 1.0] == 1.0).all()
    assert (np.abs(found - truth)[(truth >= 0.4) & (truth < 0.6)] < 1e-12).mean() > 0.6


def test_unlike_texts_are_not_taken_for_near_ones():
    rng = stream("test-novelty", "unlike")
    index = NoveltyIndex()
    index.extend(texts(rng, 1000))
    assert max(index.similarity(t.upper()) for t in texts(rng, 200)) == 0.0


words = st.text(alphabet="ab \U0001f600é\ud800", max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(words, max_size=12), words, st.integers(1, 4))
def test_what_it_says_is_what_the_plain_reference_says_or_less(items, query, n):
    """Any text, odd ones too: the same sets as ``rewards.novelty``'s own reference; equal sets are always found."""
    index = NoveltyIndex(n=n)
    index.extend(items)
    plain = Reference(items, lambda item: _grams(item, n))
    theirs = plain.similarity(query)
    mine = index.similarity(query)
    if any(_grams(query, n) == _grams(item, n) for item in items):
        assert mine == 1.0
    else:
        assert 0.0 <= mine <= theirs + 1e-12


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(alphabet="abcd", min_size=1, max_size=8), max_size=40), st.integers(0, 40))
def test_one_by_one_is_all_at_once(items, cut):
    one, all_at_once = NoveltyIndex(), NoveltyIndex()
    added = [one.add(item) for item in items]
    assert all_at_once.extend(items[:cut]) + all_at_once.extend(items[cut:]) == sum(added) == len(one)
    assert one.state() == all_at_once.state()
    assert (one._table == all_at_once._table).all()


def test_growing_past_the_first_table_loses_nothing():
    """More problems than the first table has slots, added one by one: the same table, and every member is found."""
    items = texts(stream("test-novelty", "grow"), 2500, 20)
    one, all_at_once = NoveltyIndex(), NoveltyIndex()
    for item in items:
        assert one.add(item)
    all_at_once.extend(items)
    assert one._table.shape == all_at_once._table.shape
    assert (one._table == all_at_once._table).all()
    assert not any(one.add(item) for item in items[::50])
    assert len(one) == 2500


def test_restored_is_the_same_index():
    rng = stream("test-novelty", "restore")
    items = texts(rng, 1500, 24)
    index = NoveltyIndex(bands=8)
    index.extend(items[:1200])
    twin = NoveltyIndex(bands=8)
    twin.add("to be forgotten")
    twin.restore(json.loads(json.dumps(index.state())))
    for both in (index, twin):
        for item in items[1200:]:
            both.add(item)
    assert twin.state() == index.state()
    queries = [edited(rng, items[k], 2) for k in range(0, 1500, 10)]
    assert [twin.similarity(q) for q in queries] == [index.similarity(q) for q in queries]
    with pytest.raises(DreamEnvsError, match=r"'bands': 8.*'bands': 9"):
        NoveltyIndex(bands=9).restore(index.state())


def test_an_empty_index_and_an_empty_restore():
    index = NoveltyIndex()
    assert index.similarity("abc") == 0.0
    twin = NoveltyIndex()
    twin.add("abc")
    twin.restore(index.state())
    assert len(twin) == 0
    assert twin.similarity("abc") == 0.0


CHILD = """
import hashlib, json
from dream_envs.curriculum.novelty import NoveltyIndex
index = NoveltyIndex()
index.extend(["the quick brown fox", "abcabdabe", "é☃"])
index.add("the quick brown cow jumps")
table = hashlib.sha256(index._table.tobytes()).hexdigest()
print(json.dumps([index.state(), table, index.similarity("the quick brown fox jumps")]))
"""


def test_the_same_in_every_process():
    answers = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=True
        )
        answers.add(done.stdout)
    assert len(answers) == 1
    index = NoveltyIndex()
    index.extend(["the quick brown fox", "abcabdabe", "é☃", "the quick brown cow jumps"])
    table = hashlib.sha256(index._table.tobytes()).hexdigest()
    # {the quick brown, quick brown fox, brown fox jumps} shares two of three with "the quick brown fox"
    assert json.loads(answers.pop()) == [index.state(), table, 2 / 3]


def test_features_of_a_family_see_through_another_start():
    family = Composition()
    index = NoveltyIndex(family.features)
    assert index.add(family.make("a", "ABC"))
    assert not index.add(family.make("b", "ABC")), "same depth, same pairs"
    # depth=4, AB, BC, CD against depth=3, AB, BC: two shared of five
    assert index.similarity(family.make("a", "ABCD")) == pytest.approx(2 / 5)
    with pytest.raises(DreamEnvsError, match="is a text"):
        index.add("c:ABC")


def test_as_the_reference_of_the_novelty_reward():
    index = NoveltyIndex()
    played = play(["1", "0"])
    model = novelty(index)
    assert model(played)["challenger_0"].value == 1.0
    index.extend(task for task in played.tasks if task.origin != "brief")
    assert model(played)["challenger_0"].value == 0.0


@pytest.mark.parametrize("knobs", [{"n": 0}, {"n": 17}, {"bands": 0}, {"rows": True}, {"bands": 2.0}])
def test_settings_that_cannot_be_are_told(knobs):
    with pytest.raises(DreamEnvsError, match=rf"{next(iter(knobs))}=.*whole number from 1"):
        NoveltyIndex(**knobs)
