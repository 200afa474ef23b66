"""A fixed list of problems as a syllabus: unlabelled prompts (TTRL, SERL) or what a challenger wrote (R-Zero)."""

from __future__ import annotations

from collections.abc import Sequence

from dream_envs.core import Action, DreamEnvsError, Episode, Start, Task, TaskFamily
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.curriculum.syllabus import CHALLENGER, Share, Syllabus, replay_brief
from dream_envs.seeds import stream

#: The author of a deck's problems in the store and the episodes.
AUTHOR = "prompt"


class Deck(Syllabus):
    """Plays problems of a list, each once before any comes again, in an order drawn anew for each pass.

    Args:
        family: the family of the problems.
        tasks: the list, at least one.
        count: problems a round, 1 or more.
        seed: the run's seed label.
        store: records them as problems that the run met.

    Raises:
        DreamEnvsError: for an empty list.
    """

    def __init__(
        self, family: TaskFamily, tasks: Sequence[Task], count: int, *, seed: str, store: ChallengeStore
    ) -> None:
        if not tasks:
            raise DreamEnvsError("a deck without problems: nothing passed its filter; widen the band or ask for more")
        super().__init__(family, Share(0, 0, count), seed=seed, store=store)
        self.tasks = list(tasks)

    def plan(self, round: int) -> list[Start]:
        """The next ``count`` problems of the list."""
        count, size = self.share.total, len(self.tasks)
        orders: dict[int, list[int]] = {}
        starts = []
        for i in range(round * count, (round + 1) * count):
            turn, at = divmod(i, size)
            if turn not in orders:
                orders[turn] = stream(self.seed, "deck", turn).permutation(size).tolist()
            starts.append(self.start(i, self.tasks[orders[turn][at]]))
        return starts

    def start(self, index: int, task: Task) -> Start:
        """The episode about this problem: its proposal is given."""
        return Start(index, replay_brief(task), {CHALLENGER: Action(self.family.as_proposal(task))}, AUTHOR)


class PromptDeck(Deck):
    """A deck for games without a challenger (``SelfJudge``): each problem is put to the actors as it is."""

    def start(self, index: int, task: Task) -> Start:
        """The episode about this problem."""
        return Start(index, task)

    def absorb(self, round: int, episodes: Sequence[Episode]) -> None:
        """Keep the problems that were met and what the actors earned, as the run's own rewards believe it."""
        for episode in sorted(episodes, key=lambda e: e.index):
            task = episode.tasks[-1]
            self.store.add(task, round=round, author=AUTHOR)
            scores = [s.value for a, s in episode.scores.items() if a.startswith("actor_") and s.status == "ok"]
            if scores:
                believed = sum(min(1.0, max(0.0, value)) for value in scores)
                self.store.record(task.id, believed, len(scores), round=round)
