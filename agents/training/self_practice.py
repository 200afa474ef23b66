"""Practice of ``SelfJudge``: prompts from a list, rows from the game's own groups, and what a round says of the judges.

Groups are those of ``facts["groups"]`` (the actors of a prompt; the judgements of one pair), so that no group holds two
roles.  There is no review: nothing in this game is verified.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dream_envs.agents.elicitation.rlvr import FixedTasks
from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.rows import RowConfig, RowMaker
from dream_envs.agents.training.trl_adapter import TrainingRow
from dream_envs.agents.training.wake import Group, Row
from dream_envs.core import AgentLike, DreamEnvsError, Episode, RewardModel, Start, Task
from dream_envs.curriculum.deck import PromptDeck
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.metrics.health import Health, entropy, label_agreement, shape
from dream_envs.rewards.self_judge_groups import groups, role_weights
from dream_envs.runs import Run

if TYPE_CHECKING:
    from dream_envs.agents.engines.local import LocalAgent


class FixedPrompts(FixedTasks):
    """A fixed list of problems that are put to the actors as they are."""

    def start(self, index: int, task: Task) -> Start:
        """The episode about this problem."""
        return Start(index, task)


class SelfJudgeRows(RowMaker):
    """Turns a round of ``SelfJudge`` into the rows of one step.

    The loss is a sum over tokens; each role's rows are scaled so that its share of the whole is its weight, however
    many tokens it wrote (SERL: ``total = actor * L_actor + judge * L_judge``, either a mean over its own tokens).

    Args:
        weights: the two roles' weights now; the other arguments are ``RowMaker``'s.
    """

    def __init__(self, *args: Any, weights: Callable[[], Mapping[str, float]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weights = weights

    def rows(self, episodes: Sequence[Episode], rng: np.random.Generator) -> list[TrainingRow]:
        """The rows of a step: ``groups`` actor groups at most, then judge groups while whole ones fit."""
        config, found = self.config, judged_groups(episodes)
        weights = {role: value for role, value in self.weights().items() if role in self.roles and value > 0}
        whole = sum(weights.values())
        made: list[TrainingRow] = []
        self.used = 0
        for role in weights:
            own = [g for g in found if g.role == role and (g.informative or self.baseline == "critic")]
            rows, count = list[TrainingRow](), 0
            for at in rng.permutation(len(own)).tolist():
                fresh = [row for row in self._attempts(own[at]) if row.advantage]
                if len(made) + len(rows) + len(fresh) <= config.rows and (role != "actor" or count < config.groups):
                    rows, count = rows + fresh, count + 1
            made += [msgspec.structs.replace(row, advantage=row.advantage * weights[role] / whole) for row in rows]
            self.used += count if role == "actor" else 0
        tokens = Counter[str]()
        for row in made:
            tokens[row.role] += len(row.completion)
        total = sum(tokens.values())
        return [msgspec.structs.replace(row, advantage=row.advantage * total / tokens[row.role]) for row in made]


class SelfPractice(Practice):
    """``SelfJudge`` as a learner practises it.

    Args:
        game: the game; its tasks come from ``syllabus``.
        syllabus: what is asked in each round.
        reward: scores the episodes.
        run: where episodes and metrics go.
        schedule: of the two roles' weights, see ``self_judge_groups.role_weights``.
        steps: rounds of the whole run, which the schedule's progress is a share of.
        seats: agents for roles that the learner does not play; the other arguments are ``Practice``'s.

    Raises:
        DreamEnvsError: for a game without a family, or steps below 1.
    """

    def __init__(
        self,
        game: SelfJudge,
        syllabus: FixedPrompts | PromptDeck,
        reward: RewardModel,
        run: Run,
        *,
        steps: int,
        schedule: str = "equal",
        seats: Mapping[str, AgentLike] | None = None,
        **more: Any,
    ) -> None:
        if game.family is None:
            raise DreamEnvsError("prompts=... has no truth to practise against: give SelfJudge a family")
        if steps < 1:
            raise DreamEnvsError(f"steps={steps}: 1 or more")
        source: Any = syllabus  # Practice names a Syllabus and asks for plan, absorb, state and store
        super().__init__(game, source, reward, run, seats=seats, **more)
        self.steps, self.schedule = steps, schedule
        self.found: dict[str, Any] = {}
        role_weights(0.0, schedule)

    def maker(self, engine: LocalAgent, config: RowConfig, baseline: str) -> SelfJudgeRows:
        """Rows of both roles, in groups of one role each."""
        return SelfJudgeRows(
            config,
            self.game.family,
            engine.encode,
            engine.completion,
            [],
            self.learns(),
            baseline,
            weights=lambda: role_weights(min(1.0, max(0, len(self.history) - 1) / self.steps), self.schedule),
        )

    def health(self, episodes: Sequence[Episode]) -> Health:
        """A round in numbers: what the rewards believe (``solved``, ``band``) beside what is true (``label_accuracy``).

        ``solved``: mean reward of the actors; ``band``: share of prompts whose actors' rewards differ.
        ``label_accuracy``: pairwise, of all pairs of a right and a wrong answer to one prompt, how often the right one
        is rewarded more (equal counts a half); else the share of rewards on the right side of 1/2.
        """
        self.found = judge_round(episodes)
        found = [g for g in judged_groups(episodes) if g.role == "actor"]
        replies = [[t.text for t in e.turns if t.role == "actor"] for e in episodes]
        levels = [e.tasks[-1].level for e in episodes]
        rewards = [v for g in found for v in g.values]
        return Health(
            valid=None,
            duplicates=None,
            unique=None,
            band=sum(g.informative for g in found) / len(found) if found else None,
            depth=sum(levels) / len(levels) if levels else None,
            solved=sum(rewards) / len(rewards) if rewards else None,
            label_accuracy=label_accuracy(episodes),
            features=0,
            format_entropy=entropy(shape(t) for group in replies for t in group),
            answer_entropy=sum(entropy(group) for group in replies) / len(replies) if replies else 0.0,
        )

    def report(self, round: int, extra: Mapping[str, Any]) -> None:
        """The newest round's health, the judges' figures and ``extra``."""
        super().report(round, {**self.found, **extra})


def judged_groups(episodes: Sequence[Episode]) -> list[Group]:
    """The game's groups of agents with an ``ok`` score and token ids, as rows."""
    found = []
    for episode in episodes:
        turns, task = {t.agent: t for t in episode.turns}, episode.tasks[-1]
        for members in groups(episode).values():
            rows = [
                Row(turn.messages, turn.token_ids, episode.scores[turn.agent].value)
                for a in members
                if (turn := turns.get(a)) is not None and turn.token_ids
            ]
            if rows:
                found.append(Group(turns[members[0]].role, task.id, task.level, "", rows))
    return found


def label_accuracy(episodes: Sequence[Episode]) -> float | None:
    """How far the actors' rewards follow the truth, None where nothing can be compared; see ``SelfPractice.health``."""
    right = of = 0.0
    for episode in episodes:
        if episode.outcome.facts.get("judging") != "pairwise":
            agree, total = label_agreement(episode)
            right, of = right + agree, of + total
            continue
        truth = episode.outcome.facts["truth"]
        scored = [(t, episode.scores[a].value) for a, t in truth.items() if t is not None and a in episode.scores]
        contests = [(v > w) + 0.5 * (v == w) for t, v in scored for u, w in scored if t > u]
        right, of = right + sum(contests), of + len(contests)
    return right / of if of else None


def judge_round(episodes: Sequence[Episode]) -> dict[str, Any]:
    """What a round says of answers and judges; a share of nothing is None.

    ``truth``: share of right answers; ``length``: mean characters of an answer; ``judge_accuracy`` over verdicts on a
    right and a wrong answer, ``first_rate``, ``flip_rate``, ``cycles`` (share of triples) and ``readable``.
    """
    facts = [e.outcome.facts for e in episodes]
    truth = [t for f in facts for t in f["truth"].values() if t is not None]
    lengths = [its["chars"] for f in facts for its in f["lengths"].values()]
    found = {"truth": _share(sum(truth), len(truth)), "length": _share(sum(lengths), len(lengths))}
    told = [f for f in facts if "judgements" in f]
    if not told:
        return found
    scores = [f["judge_accuracy"] for f in told]
    found["judge_accuracy"] = _share(sum(s["right"] for s in scores), sum(s["of"] for s in scores))
    found["readable"] = _share(sum(f["readable"] for f in told), sum(f["asked"] for f in told))
    pairwise = [f for f in told if f["judging"] == "pairwise"]
    if pairwise:
        rows = [r for f in pairwise for r in f["judgements"] if r["verdict"] is not None]
        found["first_rate"] = _share(sum(r["verdict"] == r["first"] for r in rows), len(rows))
        flips = [(f["flip_rate"] or 0.0) * f["swapped_pairs"] for f in pairwise]
        found["flip_rate"] = _share(sum(flips), sum(f["swapped_pairs"] for f in pairwise))
        found["cycles"] = _share(sum(f["cycles"] for f in pairwise), sum(f["triples"] for f in pairwise))
    return found


def _share(count: float, of: int) -> float | None:
    return count / of if of else None
