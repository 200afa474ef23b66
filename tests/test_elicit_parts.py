"""The sparse autoencoder on data whose dictionary is known; critiques, and the fixed list of problems, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dream_envs.agents.elicitation.critique import agreeing, critique, question
from dream_envs.agents.elicitation.elicit import Critique
from dream_envs.agents.elicitation.sae import SaeSettings, by_activation, by_attribution, train
from dream_envs.core import DreamEnvsError
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition


def _sparse(count: int = 4000, size: int = 16, atoms: int = 24, active: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Sums of a few of 24 unit directions in 16 dimensions, far from the origin: positions and directions."""
    rng = stream("sae-data")
    directions = rng.normal(size=(atoms, size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = np.zeros((count, atoms))
    for row in codes:
        row[rng.choice(atoms, size=active, replace=False)] = rng.uniform(1, 2, size=active)
    return (codes @ directions + 5).astype(np.float32), directions


@pytest.fixture(scope="module")
def trained() -> tuple:
    torch.set_num_threads(1)
    data, directions = _sparse()
    return train(data, SaeSettings(features=48, active=6, steps=1500), "a"), data, directions


def test_it_finds_the_dictionary(trained: tuple) -> None:
    sae, data, directions = trained
    alike = np.abs(directions @ sae.decoder.numpy().T).max(1)
    guessed = np.abs(directions @ _unit(stream("sae-guess").normal(size=(48, 16))).T).max(1)
    assert np.median(alike) > 0.9 > guessed.max()
    fresh = _sparse(500)[0]
    for x in (data, fresh):
        rebuilt = sae.mean.numpy() + sae.size * sae.codes(x) @ sae.decoder.numpy()
        assert ((x - rebuilt) ** 2).sum() < 0.1 * ((x - x.mean(0)) ** 2).sum()
    codes = sae.codes(fresh)
    assert ((codes > 0).sum(1) <= 6).all() and (codes >= 0).all()


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_rankings(trained: tuple) -> None:
    """Data with one direction added ranks a feature along it first; so does the gradient along it."""
    sae, data, directions = trained
    shifted = data[:500] + 2 * directions[3].astype(np.float32)
    first = int(by_activation(sae, shifted, data[:500])[0])
    assert sae.decoder[first].numpy() @ directions[3] > 0.8
    assert by_attribution(sae, directions[3])[0] == np.argmax(sae.decoder.numpy() @ directions[3])


def test_same_seed_same_autoencoder() -> None:
    data, _ = _sparse(300)
    one, two, other = (train(data, SaeSettings(steps=20), s) for s in ("a", "a", "b"))
    assert torch.equal(one.decoder, two.decoder) and not torch.equal(one.decoder, other.decoder)
    with pytest.raises(DreamEnvsError, match="active"):
        train(data, SaeSettings(features=4, active=5), "a")


def test_critiques_by_hand() -> None:
    family = Composition()
    task = family.make("a", "BDA")
    b, d, a = task.answer[1], task.answer[3], task.answer[5]
    other = "abc"["abc".index(d) - 1] if d in "abc" else "a"
    assert critique(family, task, task.answer) == f"B{b}D{d}A{a} right"
    assert critique(family, task, f"B{b}D{other}A{a}") == f"B{b}D wrong"
    assert critique(family, task, f"B{b}D{d}") == f"B{b}D{d} wrong"
    assert critique(family, task, task.answer + "x") == f"{task.answer} wrong"
    assert critique(family, task, "") == critique(family, task, "zzz") == "wrong"
    assert agreeing(family, task, f"B{b}x") == f"B{b}"
    assert question(task, "Bf") == [{"role": "user", "content": "a:BDA=Bf?"}]
    english = Composition("english").make("a", "BDA")
    assert english.prompt in question(english, "B -> f")[0]["content"]
    assert Critique().kept % 2 == 0  # right and wrong alike


def test_a_fixed_list_is_gone_through_evenly() -> None:
    """As ``rlvr`` practises it: each round a permutation of the list, then another."""
    family, rng = Composition(), stream("fixed-list")
    tasks = [family.generate(rng, 2) for _ in range(10)]

    def fixed(count: int = 10) -> Curriculum:
        how = {"dataset": tasks[:count], "label": "fixed", "anew": True}
        return Curriculum(
            ChallengerSolver(family), Mixture(0, 0, 0, dataset=25), seed="s", store=ChallengeStore(None), **how
        )

    source = fixed()
    starts = source.plan(3)
    given = [s.given["challenger_0"].text for s in starts]
    counts = [given.count(family.as_proposal(t)) for t in tasks]
    assert sum(counts) == 25 and set(counts) == {2, 3}
    assert [s.index for s in starts] == list(range(75, 100))
    assert source.plan(3) == starts and [s.given for s in source.plan(4)] != [s.given for s in starts]
    source.restore(source.state())
    with pytest.raises(DreamEnvsError, match="another dataset"):
        fixed(9).restore(source.state())
