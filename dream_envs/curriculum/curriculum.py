"""The curriculum of a run: what is played in the next round, and what the last one taught us.

All is drawn from ``stream(seed, "syllabus", round)`` and the store: a restored one goes on as if it had never stopped.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from dream_envs import registry
from dream_envs.core import Action, DreamEnvsError, Episode, Start, Task, author_of, challenge_of, hook
from dream_envs.curriculum.store import ChallengeStore, Entry
from dream_envs.seeds import stream

#: Which known challenge to come back to.
Sampler = Callable[[Sequence[Entry], np.random.Generator], Entry]
#: A problem that is given, its author, and the challenger prompt that it answers (None: the game's own).
Given = tuple[Task, str, Task | None]


def solved(entry: Entry) -> bool:
    """Whether it was ever solved.  Not the newest rate: what is being forgotten would drop out of the review."""
    return entry.successes > 0


def _uniform(entries: Sequence[Entry], rng: np.random.Generator) -> Entry:
    return entries[int(rng.integers(len(entries)))]


def _by_level(entries: Sequence[Entry], rng: np.random.Generator) -> Entry:
    """Every level alike, then every entry of the level: rare levels are rehearsed as often as common ones."""
    levels = sorted({entry.challenge.level for entry in entries})
    level = levels[int(rng.integers(len(levels)))]
    return _uniform([entry for entry in entries if entry.challenge.level == level], rng)


def _by_rate(weight: Callable[[float], float]) -> Sampler:
    """In proportion to a weight of the newest success rate, with one pseudo-observation of 1/2."""

    def draw(entries: Sequence[Entry], rng: np.random.Generator) -> Entry:
        weights = np.array([weight(((e.rate or 0.0) * e.n + 0.5) / (e.n + 1)) for e in entries])
        return entries[int(rng.choice(len(entries), p=weights / weights.sum()))]

    return draw


SAMPLERS: dict[str, Sampler] = {
    "uniform": _uniform,
    "by_level": _by_level,
    "learnable": _by_rate(lambda p: p * (1 - p)),
    "regret": _by_rate(lambda p: 1 - p),  # an upper bound on the regret against a perfect solver
}


class Mixture(msgspec.Struct, frozen=True):
    """What a round is made of, in episodes.

    ``challenger``: the game begins by itself, so that its challenger writes the problem or, where it has none, it draws
    one.  ``mutation``: one step harder than a problem that was solved at least once.  ``replay``: known ones, solved or
    not, up to the highest level that was ever solved.  ``generator``: problems of the family's own, of ``levels`` in
    turn.  ``dataset``: problems of a fixed list.  A family's streams are asked for and replayed in turn.  Where there
    is nothing yet to mutate or replay, the challenger takes the place or, without one (0), the generator.

    ``copies``: how many episodes in a row share the beginning that the game draws, so that they can be compared.

    ``parents`` and ``replays`` are samplers; by default every level alike, so that a level which the loop skipped is
    not lost: what nobody solves gives no signal and would never come back (``LOG.md``).
    """

    challenger: int = 64
    mutation: int = 24
    replay: int = 24
    generator: int = 0
    dataset: int = 0
    levels: tuple[int, ...] = ()
    copies: int = 1
    parents: str = "by_level"
    replays: str = "by_level"

    def __post_init__(self) -> None:
        if min(self.counts) < 0 or self.total < 1 or self.copies < 1:
            raise DreamEnvsError(f"{self}: counts are 0 or more, at least one is positive, copies 1 or more")
        for name in (self.replays, self.parents):
            registry.named("samplers", name, SAMPLERS)

    @property
    def counts(self) -> tuple[int, ...]:
        """Episodes of each source."""
        return (self.challenger, self.mutation, self.replay, self.generator, self.dataset)

    @property
    def total(self) -> int:
        """Episodes a round."""
        return sum(self.counts)


class Curriculum:
    """Plans rounds and absorbs what came of them.

    ``game``: its ``family`` writes and mutates problems, its hooks ``proposer`` and ``solver_role`` say how a problem
    is given and whose scores tell how hard it was.  ``dataset``: the fixed list, each problem once before any comes
    again, in an order drawn anew for each pass; ``label`` names its draws; ``anew``: a round's are drawn without regard
    to what came before.  ``index``: a ``NoveltyIndex`` that learns every accepted problem, for a gate of the game.
    """

    def __init__(
        self, game: Any, mixture: Mixture, *, seed: str, store: ChallengeStore, dataset: Sequence[Task] = (),
        label: str = "deck", anew: bool = False, index: Any = None,
    ) -> None:  # fmt: skip
        self.game, self.mixture, self.seed, self.store = game, mixture, seed, store
        self.family: Any = getattr(game, "family", None)
        self.dataset, self._label, self._anew, self.index = list(dataset), label, anew, index
        self.proposer, self.role = hook(game, "proposer"), hook(game, "solver_role")
        self._rejects = Counter[str]()  # proposals turned away in the newest round, by reason
        if mixture.dataset and not self.dataset:
            raise DreamEnvsError("the dataset is empty: nothing passed its filter; widen the range or ask for more")
        if self.family is None and (mixture.mutation or mixture.replay or mixture.generator):
            raise DreamEnvsError(f"{game.env_id} has no task family: its mixture has the game's own starts alone")
        known: range = getattr(self.family, "levels", range(0))
        self._levels = mixture.levels or known[:1]
        if mixture.generator and (bad := [level for level in self._levels if level not in known]):
            raise DreamEnvsError(f"levels={bad}: {game.family.name} has {known.start} to {known.stop - 1}")

    def plan(self, round: int) -> list[Start]:
        """The episodes of a round."""
        rng = stream(self.seed, "syllabus", round)
        mixture = self.mixture
        given = [*self._mutations(rng), *self._replays(rng), *self._dataset(round)]
        alone = not mixture.challenger and self.family is not None
        given += self._generated(mixture.total - len(given) if alone else mixture.generator, rng)
        free, first, copies = mixture.total - len(given), round * mixture.total, mixture.copies
        starts = [
            Start(first + i, self._asked(i), draw=first + i - i % copies if copies > 1 else None) for i in range(free)
        ]
        for i, (task, author, prompt) in enumerate(given, first + free):
            if self.proposer and self.family is not None:
                starts.append(Start(i, prompt, {self.proposer: Action(self.family.as_proposal(task))}, author))
            else:
                starts.append(Start(i, task, {}, author))
        return starts

    def absorb(self, round: int, episodes: Sequence[Episode]) -> None:
        """Add the accepted problems and count their attempts, as the run's own reward model believed them."""
        self._rejects = Counter(code for e in episodes if (code := str(e.outcome.facts.get("reject") or "")))
        if not self.role:
            return
        for episode in sorted(episodes, key=lambda e: e.index):
            challenge = challenge_of(episode) if self.proposer else episode.tasks[-1]
            if challenge is None:
                continue
            author = author_of(episode)
            if author != "replay":
                new = self.store.add(challenge, round=round, author=author, parent=getattr(challenge, "parent", ""))
                if new and self.index is not None:
                    self.index.add(challenge)
            values = rewarded(episode, self.role)
            if values and challenge.id in self.store:
                self.store.record(challenge.id, sum(values), len(values), round=round)

    def metrics(self) -> dict[str, float]:
        """The store's size, and how many proposals of the newest round were turned away, by reason."""
        found = {f"curriculum/reject/{code}": float(n) for code, n in sorted(self._rejects.items())}
        return found | ({"curriculum/store": float(len(self.store))} if self.role else {})

    def begin(self) -> None:
        """Start at the first round."""
        self.store.rewrite()

    def state(self) -> dict[str, Any]:
        """JSON-ready; see ``restore``."""
        return msgspec.to_builtins(self._settings()) | {"store": self.store.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state; that of another seed, mixture or dataset is an error."""
        there = {**state, "mixture": msgspec.convert(state["mixture"], Mixture)}
        if bad := [name for name, value in self._settings().items() if there[name] != value]:
            raise DreamEnvsError(f"this checkpoint has another {', '.join(bad)} ({state[bad[0]]}): resume with that")
        self.store.restore(state["store"])
        for entry in self.store if self.index is not None else ():
            self.index.add(entry.challenge)

    def _settings(self) -> dict[str, Any]:
        return {"seed": self.seed, "mixture": self.mixture, "dataset": [t.id for t in self.dataset]}

    def _mutations(self, rng: np.random.Generator) -> list[Given]:
        family, parents = self.family, self.store.select(solved) if self.mixture.mutation else []
        draw = SAMPLERS[self.mixture.parents]
        made: dict[str, Given] = {}
        for _ in range(self.mixture.mutation if parents else 0):
            parent = draw(parents, rng).challenge
            task = family.mutate(parent, rng)
            if task is not None and task.id not in self.store:
                made[task.id] = (task, "mutation", _prompt(family.brief(), "brief", family.name, 0, parent.id))
        return list(made.values())

    def _replays(self, rng: np.random.Generator) -> list[Given]:
        top = max((e.challenge.level for e in self.store if solved(e)), default=0)
        known = self.store.select(lambda e: e.challenge.level <= top)
        draw, buffers = SAMPLERS[self.mixture.replays], self._by_stream(known)
        drawn = [draw(buffers[i % len(buffers)], rng).challenge for i in range(self.mixture.replay if known else 0)]
        return [(c, "replay", _replay(c)) for c in {c.id: c for c in drawn}.values()]

    def _by_stream(self, entries: list[Entry]) -> list[list[Entry]]:
        """The entries of each of the family's streams that has some; all in one list where it has no streams."""
        names = getattr(self.family, "streams", ()) or ("",)
        found = [[e for e in entries if e.challenge.meta.get("stream", "") == name] for name in names]
        return [each for each in found if each] if len(names) > 1 else [entries]

    def _asked(self, number: int) -> Task | None:
        """A brief that asks the proposer for one of the family's streams in turn; None: the game's own brief."""
        streams = getattr(self.family, "streams", ()) if self.proposer else ()
        if not streams:
            return None
        stream, level = streams[number % len(streams)], getattr(self.game, "level", None)
        brief = self.family.brief(level, stream=stream)
        return Task(family=self.family.name, level=level or 0, prompt=brief, origin="brief", meta={"stream": stream})

    def _generated(self, count: int, rng: np.random.Generator) -> list[Given]:
        # Drawn again, a problem is a fair draw and no duplicate: a run that lives on the few problems of a shallow
        # level would have most of them turned away in the end.
        levels = self._levels
        drawn = [self.family.generate(rng, levels[i % len(levels)]) for i in range(count)]
        return [(t, "generator", _replay(t) if t.id in self.store else None) for t in drawn]

    def _dataset(self, round: int) -> list[Given]:
        count, size = self.mixture.dataset, len(self.dataset)

        @functools.cache
        def order(turn: int) -> np.ndarray:
            labels = (round, turn) if self._anew else (turn,)
            return stream(self.seed, self._label, *labels).permutation(size)

        first = 0 if self._anew else round * count
        chosen = [self.dataset[order(i // size)[i % size]] for i in range(first, first + count)]
        return [(t, "dataset", _replay(t)) for t in chosen]


def _replay(task: Task) -> Task:
    """A challenger prompt that names what is replayed; its origin tells the game not to ask its gate."""
    return _prompt("replay", "replay", task.family, task.level, task.id)


def _prompt(prompt: str, origin: str, family: str, level: int, reference: str) -> Task:
    return Task(family=family, level=level, prompt=prompt, origin=origin, meta={"reference": reference})


def rewarded(episode: Episode, role: str = "solver") -> list[float]:
    """The ``ok`` scores of a role's agents: what the run believes, which a vote may have got wrong.

    Limited to 0 to 1: a reward that punishes (AZR's -0.5 and -1) still says right or wrong here.
    """
    found = [s.value for a, s in episode.scores.items() if a.rpartition("_")[0] == role and s.status == "ok"]
    return [min(1.0, max(0.0, value)) for value in found]
