"""The syllabus of a self-play run: what is played in the next round, and what the last one taught us.

A round is a list of episodes of ``ChallengerSolver``: problems that the challenger proposes, mutations of solved
problems, and replays of known ones (each level alike, so that what is mastered stays under review).
Everything is drawn from ``stream(seed, "syllabus", round)`` and from the store, so a syllabus that is restored from its
state goes on exactly as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import Action, DreamEnvsError, Episode, Start, Task, TaskFamily
from dream_envs.core import author_of as author_of
from dream_envs.core import challenge_of as challenge_of
from dream_envs.curriculum import sampler
from dream_envs.curriculum.store import ChallengeStore, Entry
from dream_envs.seeds import stream

CHALLENGER = "challenger_0"
#: A problem that is given, its author, and the brief that it answers (None: the game's own).
Given = tuple[Task, str, Task | None]


class Share(msgspec.Struct, frozen=True):
    """What a round is made of, in episodes.

    ``proposals``: the challenger writes the problem.  ``mutations``: one step harder than a problem that was solved at
    least once.  ``replays``: known problems, solved or not, up to the highest level that was ever solved.  Parents and
    replays are drawn by the samplers ``parents`` and ``replay``; by default every level alike, so that a level which
    the loop skipped is not lost: what nobody solves gives no signal and would never come back (``LOG.md``).  ``fixed``:
    problems from the family's own generator at ``fixed_level`` (the arms without self-made data).
    """

    proposals: int = 64
    mutations: int = 24
    replays: int = 24
    fixed: int = 0
    fixed_level: int = 0
    parents: str = "by_level"
    replay: str = "by_level"

    def __post_init__(self) -> None:
        if min(self.proposals, self.mutations, self.replays, self.fixed) < 0 or self.total < 1:
            raise DreamEnvsError(f"{self}: counts are 0 or more and at least one is positive")
        sampler.sampler(self.replay)
        sampler.sampler(self.parents)

    @property
    def total(self) -> int:
        """Episodes a round."""
        return self.proposals + self.mutations + self.replays + self.fixed


class Syllabus:
    """Plans rounds and absorbs what came of them.

    Args:
        family: the task family that is practised.
        share: what a round is made of.
        seed: the run's seed label.
        store: the challenges so far.
    """

    def __init__(self, family: TaskFamily, share: Share, *, seed: str, store: ChallengeStore) -> None:
        self.family, self.share, self.seed, self.store = family, share, seed, store

    def plan(self, round: int) -> list[Start]:
        """The episodes of a round.

        Where there is nothing yet to mutate or replay, the challenger proposes instead; where it does not propose at
        all (``proposals=0``), the generator does.
        """
        rng = stream(self.seed, "syllabus", round)
        given = [*self._mutations(rng), *self._replays(rng)]
        fixed = self.share.fixed if self.share.proposals else self.share.total - len(given)
        given += self._fixed(fixed, rng)
        free = self.share.total - len(given)
        first = round * self.share.total
        starts = [Start(first + i) for i in range(free)]
        for i, (task, author, brief) in enumerate(given):
            action = Action(self.family.as_proposal(task))
            starts.append(Start(first + free + i, brief, {CHALLENGER: action}, author))
        return starts

    def absorb(self, round: int, episodes: Sequence[Episode]) -> None:
        """Add the accepted problems and count their attempts, as the run's own reward model believed them."""
        for episode in sorted(episodes, key=lambda e: e.index):
            challenge = challenge_of(episode)
            if challenge is None:
                continue
            author = author_of(episode)
            if author != "replay":
                self.store.add(challenge, round=round, author=author, parent=challenge.parent)
            values = believed(episode)
            if values and challenge.id in self.store:
                self.store.record(challenge.id, sum(values), len(values), round=round)

    def state(self) -> dict[str, Any]:
        """JSON-ready; see ``restore``."""
        return {"seed": self.seed, "share": msgspec.to_builtins(self.share), "store": self.store.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state.

        Raises:
            DreamEnvsError: if it belongs to another seed or another mixture.
        """
        if state["seed"] != self.seed or msgspec.convert(state["share"], Share) != self.share:
            raise DreamEnvsError(
                f"this checkpoint is of seed {state['seed']!r} and {state['share']}: resume with those"
            )
        self.store.restore(state["store"])

    def _mutations(self, rng: np.random.Generator) -> list[Given]:
        parents = self.store.select(sampler.solved)
        draw = sampler.sampler(self.share.parents)
        made: dict[str, Given] = {}
        for _ in range(self.share.mutations if parents else 0):
            parent = draw(parents, rng).challenge
            task = self.family.mutate(parent, rng)
            if task is not None and task.id not in self.store:
                made[task.id] = (task, "mutation", _brief(self.family.brief(), "brief", self.family.name, 0, parent.id))
        return list(made.values())

    def _replays(self, rng: np.random.Generator) -> list[Given]:
        top = max((e.challenge.level for e in self.store if sampler.solved(e)), default=0)
        known = self.store.select(lambda e: e.challenge.level <= top)
        draw = sampler.sampler(self.share.replay)
        chosen: dict[str, Entry] = {}
        for _ in range(self.share.replays if known else 0):
            entry = draw(known, rng)
            chosen[entry.challenge.id] = entry
        return [(e.challenge, "replay", replay_brief(e.challenge)) for e in chosen.values()]

    def _fixed(self, count: int, rng: np.random.Generator) -> list[Given]:
        # Drawn again, a problem is a fair draw and no duplicate: an arm that lives on the few problems of a shallow
        # level would have most of them turned away in the end.
        drawn = [self.family.generate(rng, self.share.fixed_level) for _ in range(count)]
        return [(t, "generator", replay_brief(t) if t.id in self.store else None) for t in drawn]


def replay_brief(task: Task) -> Task:
    """A brief that names what is replayed; its origin tells the game that the archive's gate does not apply."""
    return _brief("replay", "replay", task.family, task.level, task.id)


def _brief(prompt: str, origin: str, family: str, level: int, reference: str) -> Task:
    return Task(family=family, level=level, prompt=prompt, origin=origin, meta={"reference": reference})


def believed(episode: Episode) -> list[float]:
    """The solvers' scores that are ``ok``: what the run believes, which a vote may have got wrong.

    Limited to 0 to 1: a reward that punishes (AZR's -0.5 and -1) still says right or wrong here.
    """
    found = [s.value for a, s in episode.scores.items() if a.startswith("solver_") and s.status == "ok"]
    return [min(1.0, max(0.0, value)) for value in found]
