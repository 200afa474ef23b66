"""UnicodeText holds any text, and nothing else."""

from __future__ import annotations

import json
import pickle

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError
from dream_envs.spaces import UnicodeText

ODD = "≤ é 🙂 \u202e \x00"


@given(st.text(alphabet=st.characters(), max_size=60))  # surrogates included
def test_any_text_up_to_the_length_is_a_member(text):
    assert UnicodeText(60).contains(text) and text in UnicodeText(60)
    assert UnicodeText(max(1, len(text))).contains(text)
    assert not UnicodeText(60).contains(text + "x" * 61)


def test_unicode_text_is_a_space():
    space = UnicodeText(7, seed=3)
    samples = [space.sample() for _ in range(300)]
    assert all(s in space and s.isascii() and s.isprintable() for s in samples)
    assert {len(s) for s in samples} == set(range(8))
    assert [UnicodeText(7, seed=3).sample() for _ in range(2)] == [samples[0]] * 2
    assert space == UnicodeText(7) and hash(space) == hash(UnicodeText(7)) and space != UnicodeText(8)
    assert space != gymnasium.spaces.Text(7) and not isinstance(space, gymnasium.spaces.Text)
    assert eval(repr(space)) == space == pickle.loads(pickle.dumps(space))
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable([ODD, "\ud800"])))) == [ODD, "\ud800"]
    assert np.str_("ab") in space and b"ab" not in space and None not in space and ["a"] not in space
    for wrong in (0, -1, 2.0, True, "9"):
        with pytest.raises(DreamEnvsError, match="max_length"):
            UnicodeText(wrong)
    with pytest.raises(DreamEnvsError, match="mask"):
        space.sample(mask=(3, None))
