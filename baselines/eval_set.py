"""One way to measure: what a policy can do on what it is never trained on, before and after.

*Exact*: every problem has one accepted completion whose symbols are single tokens, so its success probability is
computed under every decoder (``frontier.exact``); checked against the model's tokenizer before training.  *Sampled*: a
fixed number of completions of fixed problems a level, with an interval over problems.  *Play*: for games that are no
problem families: the policy in each role against the frozen base in the other seats, and the game's own measures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.recipe import EvalSettings
from dream_envs.core import Agent, AgentLike, DreamEnvsError, Limits, Measure, Message, Request, Start, Task, hook
from dream_envs.frontier import exact as ex
from dream_envs.metrics.diversity import entropy
from dream_envs.metrics.rounds import shape
from dream_envs.play import as_agent, rollout
from dream_envs.play import score as score_all
from dream_envs.schema import Beyond, Compared, Evaluation, Level, Stat
from dream_envs.seeds import digest, stream
from dream_envs.tasks import answers
from dream_envs.tasks.answers import answer_limits

HELD_OUT_LEVELS = (2, 3, 4, 6, 8)
PASS_K = tuple(4**i for i in range(11))
PLAIN = "T=1"


class EvalSet(Protocol):
    """A way to measure a policy, the same for every run of a recipe."""

    kind: str
    #: Problems by split and level, and the family that they are of; empty and None where there are none.
    tasks: dict[tuple[str, int], list[Task]]
    family: Any
    levels: tuple[int, ...]

    def reserved(self) -> list[Task]:
        """Problems that must not be trained on."""

    def curve(self, agent: LocalAgent) -> dict[str, float]:
        """A few numbers for learning curves, cheap enough for every twentieth step."""

    def measure(self, agent: LocalAgent) -> Any:
        """Everything, for ``compare``."""

    def compare(self, base: Any, trained: Any, samples: int) -> Evaluation:
        """Two measurements, and how many completions the run drew, as the summary's evaluation."""


def prompts(tasks: Sequence[Task]) -> list[list[Message]]:
    """What a solver sees of each problem."""
    return [[{"role": "user", "content": t.prompt}] for t in tasks]


def requests(tasks: Sequence[Task], limits: Limits, attempts: int, *labels: str) -> list[Request]:
    """``attempts`` requests a problem, problem by problem."""
    return [
        Request(messages=m, agent="solver_0", role="solver", seed=digest(*labels, t.id, i), limits=limits)
        for t, m in zip(tasks, prompts(tasks), strict=True)
        for i in range(attempts)
    ]


class Problems:
    """Fixed problems of a family by split and level, drawn from its world alone.

    Args:
        family: the family; ``splits``, if it has them, are arguments ``pairs`` of its generator.
        levels: of the problems.
        count: problems a level.
    """

    def __init__(self, family: Any, levels: Sequence[int], count: int) -> None:
        if count < 1:
            raise DreamEnvsError(f"eval.problems={count}: 1 or more")
        self.family, self.levels, self.count = family, tuple(levels), count
        self.splits = [("any", level) for level in self.levels]
        if "held_out" in getattr(family, "splits", ()):
            self.splits += [("held_out", level) for level in HELD_OUT_LEVELS if level in self.levels]
        self.tasks = {key: self._draw(*key) for key in self.splits}

    def _draw(self, split: str, level: int) -> list[Task]:
        rng = stream("yardstick", getattr(self.family, "world", self.family.name), split, level)
        more = {"pairs": split} if getattr(self.family, "splits", ()) else {}
        return [self.family.generate(rng, level, **more) for _ in range(self.count)]

    def reserved(self) -> list[Task]:
        """Problems that must not be trained on: those of levels with more than some 4,000 problems.

        The others are too few to reserve.  How many there are is read off from the repeats among 512 draws.
        """
        large = set()
        for level in self.levels:
            rng = stream("eval-size", self.family.name, level)
            repeats = 512 - len({self.family.generate(rng, level).id for _ in range(512)})
            if repeats * 4096 <= 512 * 511 / 2:
                large.add(level)
        return [t for (_, level), tasks in self.tasks.items() for t in tasks if level in large]


class Exact(Problems):
    """Exact success under every decoder.

    Args:
        family: a family whose problems have one accepted completion (``completion_form``).
        agent: the base; its tokenizer has to write each symbol as one token.
        levels: of the problems.
        count: problems a level.
        support: the levels that the base was pre-trained on.

    Raises:
        DreamEnvsError: for another family or tokenizer, with the first symbol that does not fit.
    """

    kind = "exact"

    def __init__(
        self, family: Any, agent: LocalAgent, levels: Sequence[int], count: int = 128, support: Sequence[int] = ()
    ) -> None:
        if why := inexact(family, agent):
            raise DreamEnvsError(f"eval='exact': {why}; use eval='sampled'")
        super().__init__(family, levels, count)
        self.support = tuple(support)

    def _grammar(self, agent: LocalAgent, level: int) -> ex.Grammar:
        form = self.family.completion_form(level)
        allowed = [[agent.token(symbol) for symbol in symbols] for symbols, _ in form]
        return ex.Grammar([*allowed, [agent.end]], [*(asked for _, asked in form), False])

    def measure(self, agent: LocalAgent) -> dict[tuple[str, int], dict[str, np.ndarray]]:
        """Log-probabilities by split and level, then by decoder."""
        return {
            key: ex.exact(agent, tasks, [self._grammar(agent, key[1])] * len(tasks))
            for key, tasks in self.tasks.items()
        }

    def curve(self, agent: LocalAgent) -> dict[str, float]:
        """Mean exact success at T = 1 by level (the first 64 problems of each)."""
        return {
            str(level): float(np.mean([np.exp(p) for p in log_success(agent, self.tasks["any", level][:64])]))
            for level in self.levels
        }

    def compare(self, base: Any, trained: Any, samples: int) -> Evaluation:
        """Levels with tiers, what lies beyond the run's samples, pass@k."""
        rows, beyond, examples, structural = list[Level](), 0, list[dict[str, Any]](), 0
        total = max(1, samples)
        for split, level in self.splits:
            before, after = base[split, level], trained[split, level]
            tier, solved = ex.tiers(before, total), np.exp(after[PLAIN]) > 0.5
            rows.append(
                Level(
                    level,
                    self.count,
                    {d: _exact_stat(before[d], split, level) for d in ex.DECODERS},
                    {d: _exact_stat(after[d], split, level) for d in ex.DECODERS},
                    self.family.chance(self.tasks[split, level][0]),
                    split,
                    {name: int((tier == i).sum()) for i, name in enumerate(ex.TIERS)},
                    {n: float(solved[tier == i].mean()) if (tier == i).any() else None for i, n in enumerate(ex.TIERS)},
                )
            )
            new = np.flatnonzero((tier == 2) & solved)
            beyond += len(new)
            structural += len(new) if level > max(self.support, default=0) or split == "held_out" else 0
            best = ex.best_decoder(before) / np.log(10)
            examples += [
                {
                    "prompt": self.tasks[split, level][i].prompt,
                    "level": level,
                    "held_out": split == "held_out",
                    "base_best_log10": float(best[i]),
                    "trained": float(np.exp(after[PLAIN][i])),
                }
                for i in new[:3]
            ]
        curves = {
            str(level): {
                name: [float(ex.pass_at_k(m["any", level][PLAIN], k).mean()) for k in PASS_K]
                for name, m in (("base", base), ("trained", trained))
            }
            for level in (4, 6, 8)
            if level in self.levels
        }
        return Evaluation(
            "exact",
            f"exact success probability on {self.count} held-out problems a level, computed, not sampled",
            rows,
            list(ex.DECODERS),
            beyond=Beyond(beyond, len(self.splits) * self.count, structural, examples),
            k=list(PASS_K),
            pass_at_k=curves,
        )


class Sampled(Problems):
    """Success of sampled completions.

    Args:
        family: any task family.
        levels: of the problems.
        count: problems a level.
        attempts: completions of each.
    """

    kind = "sampled"

    def __init__(self, family: Any, levels: Sequence[int], count: int = 32, attempts: int = 8) -> None:
        super().__init__(family, levels, count)
        self.attempts, self.temperature = attempts, 1.0
        self.limits = answer_limits(family.max_reply_tokens)

    def reserved(self) -> list[Task]:
        """The problems of levels that have at least twice as many (of 2,048 draws): enough is left to train on."""
        found = list[Task]()
        for (_, level), tasks in self.tasks.items():
            rng = stream("eval-size", self.family.name, level)
            if len({self.family.generate(rng, level).id for _ in range(2048)}) >= 2 * self.count:
                found += tasks
        return found

    def _rates(self, agent: LocalAgent, tasks: Sequence[Task], attempts: int) -> Rates:
        actions = agent.act(requests(tasks, self.limits, attempts, "eval"))
        graded = [answers.graded(self.family, tasks[i // attempts], a) for i, a in enumerate(actions)]

        def by_problem(values: Iterable[float]) -> np.ndarray:
            return np.array(list(values), dtype=np.float64).reshape(len(tasks), attempts).mean(1)

        return Rates(
            by_problem(score.value for score, _ in graded),
            by_problem(a.finish_reason == "length" for a in actions),
            by_problem(answer == "" for _, answer in graded),
        )

    def measure(self, agent: LocalAgent) -> dict[tuple[str, int], Rates]:
        """Success rates of the problems by split and level."""
        self.temperature = agent.temperature
        return {key: self._rates(agent, tasks, self.attempts) for key, tasks in self.tasks.items()}

    def curve(self, agent: LocalAgent) -> dict[str, float]:
        """Mean success by level, of two completions of the first 16 problems."""
        return {
            str(level): float(self._rates(agent, self.tasks["any", level][:16], 2).right.mean())
            for level in self.levels
        }

    def compare(self, base: Any, trained: Any, samples: int) -> Evaluation:
        """Levels with intervals over problems; over all of them success, cut replies and replies without an answer."""
        rows = [
            Level(
                level,
                self.count,
                {PLAIN: _sampled_stat(base[split, level], split, level)},
                {PLAIN: _sampled_stat(trained[split, level], split, level)},
                float(np.mean([self.family.chance(t) for t in self.tasks[split, level]])),
                split,
            )
            for split, level in self.splits
        ]
        told = (
            f"{self.attempts} completions at T={self.temperature:g} of each of {self.count} held-out problems a level"
        )
        measures = []
        for name, says in MEASURED.items():
            before, after = (
                np.concatenate([getattr(found[key], name) for key in self.splits]) for found in (base, trained)
            )
            gain = interval(after - before, "gain", name, span=(-1.0, 1.0))
            said = f"change {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]; {says}"
            measures.append(Compared(LABELS[name], interval(before, "all", name), interval(after, "all", name), said))
        return Evaluation("sampled", told, rows, [PLAIN], measures)


class Rates(NamedTuple):
    """Shares of each problem's completions, ``float64[N]``: right, cut off by the budget, without an answer."""

    right: np.ndarray
    cut: np.ndarray
    unread: np.ndarray


#: What is told of sampled completions beside their success.
LABELS = {"right": "success", "cut": "replies cut off", "unread": "no answer read"}
MEASURED = {
    "right": "share that is right; higher is better",
    "cut": "share that the budget cut off; lower is better",
    "unread": "share without a readable answer; lower is better",
}


class Play:
    """The policy in each learning role against the frozen base, and the game's own measures.

    Args:
        game: the game.
        reward: what is counted.
        base: plays the other seats.
        seats: agents that the recipe puts into seats for good.
        roles: who learns.
        episodes: games a role.
    """

    kind = "play"

    def __init__(
        self,
        game: Any,
        reward: Any,
        base: LocalAgent,
        seats: Mapping[str, AgentLike],
        roles: Sequence[str],
        episodes: int = 256,
    ) -> None:
        self.game, self.reward, self.base = game, reward, base
        self.seats, self.roles, self.episodes = dict(seats), tuple(roles), episodes
        self.tasks: dict[tuple[str, int], list[Task]] = {}
        self.family: Any = None
        self.levels: tuple[int, ...] = ()

    def reserved(self) -> list[Task]:
        """None."""
        return []

    def curve(self, agent: LocalAgent) -> dict[str, float]:
        """The game's own measures, where they are exact."""
        return {name: m.value for name, m in hook(self.game, "evaluate")(agent, "eval").items() if m.n == 0}

    def measure(self, agent: LocalAgent) -> dict[str, Any]:
        """Rewards of each learning role, and the game's own measures."""
        rewards = {role: self._rewards(agent, role) for role in self.roles}
        return {"rewards": rewards, "own": hook(self.game, "evaluate")(agent, "eval")}

    def _rewards(self, agent: Agent, role: str) -> np.ndarray:
        """The role's mean reward in each game that has one."""
        seats = {r.name: self.base for r in self.game.roles} | self.seats | {role: agent}
        starts = [Start(i) for i in range(self.episodes)]
        played = sorted(rollout(self.game, seats, starts, seed=f"eval/{role}"), key=lambda e: e.index)
        found = []
        for episode in score_all(played, self.reward, self.game.agents):
            own = {t.agent for t in episode.turns if t.role == role}
            values = [s.value for a, s in episode.scores.items() if a in own and s.status == "ok"]
            if values:
                found.append(float(np.mean(values)))
        return np.array(found)

    def compare(self, base: Any, trained: Any, samples: int) -> Evaluation:
        """Mean reward and win rate by role, and the game's own measures."""
        rows = []
        ranges = {r.name: r.reward_range for r in self.game.roles}
        for role in self.roles:
            middle = sum(ranges[role]) / 2
            both = base["rewards"][role], trained["rewards"][role]
            if not all(len(v) for v in both):
                continue
            before, after = (interval(v, "reward", role, span=ranges[role]) for v in both)
            rows.append(Compared("reward", before, after, "mean reward against the base; higher is better", role))
            if not np.isfinite(middle):  # a range without ends has none
                continue
            before, after = (interval((v > middle) + 0.5 * (v == middle), "wins", role) for v in both)
            told = f"share of games above {middle:g}, the middle of its range (equal counts a half); higher is better"
            rows.append(Compared("win rate", before, after, told, role))
        own = trained["own"]
        rows += [Compared(name, m, own[name]) for name, m in base["own"].items() if name in own]
        told = f"{self.episodes} games a role, the trained policy in it and the frozen base in the other seats"
        return Evaluation("play", told, measures=rows)


def make(
    chosen: EvalSettings,
    game: Any,
    base: LocalAgent,
    *,
    family: Any,
    levels: Sequence[int],
    support: Sequence[int],
    reward: Any,
    seats: Mapping[str, AgentLike],
    roles: Sequence[str],
) -> EvalSet:
    """The evaluation set of this kind; ``auto`` takes the first of exact, sampled and play that the game allows.

    Raises:
        DreamEnvsError: for an unknown kind, or one that the game or the tokenizer does not allow.
    """
    kind = chosen.kind
    if kind not in ("auto", "exact", "sampled", "play", "none"):
        raise DreamEnvsError(f"eval={kind!r}: auto, exact, sampled, play or none")
    if kind == "none":
        return Play(game, reward, base, {}, (), chosen.games)
    if kind == "auto":
        solves = family is not None and not judged(family) and (chosen.family or hook(game, "solver_role"))
        kind = ("sampled" if inexact(family, base) else "exact") if solves else "play"
    if kind == "play":
        return Play(game, reward, base, {k: as_agent(v, game) for k, v in seats.items()}, roles, chosen.games)
    if family is None:
        raise DreamEnvsError(f"eval={kind!r}: {game.env_id} has no task family; use eval='play'")
    if judged(family):
        raise DreamEnvsError(f"eval={kind!r}: nobody can verify replies to {family.name}; use eval='play'")
    if kind == "exact":
        return Exact(family, base, levels, chosen.problems, support)
    return Sampled(family, levels, min(chosen.problems, 32), chosen.attempts)


def judged(family: Any) -> bool:
    """Whether replies to this family are judged alone (``core.TaskFamily``)."""
    return bool(getattr(family, "judged", False))


def inexact(family: Any, agent: LocalAgent) -> str:
    """Why success on this family's problems cannot be computed with this model; "" if it can."""
    form = getattr(family, "completion_form", None)
    if form is None or getattr(family, "notation", "compact") != "compact":
        return f"{family.name} in {getattr(family, 'notation', '?')} notation has more than one accepted completion"
    symbols = {s for level in family.levels for allowed, _ in form(level) for s in allowed}
    for symbol in sorted(symbols):
        ids = agent.tokenizer(symbol, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == agent.tokenizer.unk_token_id:
            return f"{symbol!r} is not one token of this model"
    special = set(agent.tokenizer.all_special_tokens)
    merged = [t for t in agent.tokenizer.get_vocab() if len(t) > 1 and t not in special and symbols.issuperset(t)]
    return f"this tokenizer merges symbols ({min(merged)!r} is one token)" if merged else ""


def _exact_stat(log_p: np.ndarray, split: str, level: int) -> Stat:
    low, high = ex.bootstrap(np.exp(log_p), stream("frontier-bootstrap", split, level))
    return Stat(ci=(low, high), **ex.summary(log_p))


def _sampled_stat(rates: Rates, *labels: str | int) -> Stat:
    found, right = interval(rates.right, *labels), rates.right
    assert found.low is not None and found.high is not None
    ci, cut, unread = (found.low, found.high), float(rates.cut.mean()), float(rates.unread.mean())
    return Stat(found.value, ci, float((right > 0.5).mean()), float(right.max()), cut=cut, unread=unread)


def interval(values: np.ndarray, *labels: str | int, span: tuple[float, float] = (0.0, 1.0)) -> Measure:
    """Mean and 95 % percentile interval over problems or games; where all are alike, Wilson's width within ``span``."""
    values = np.asarray(values, dtype=np.float64)
    mean, n = float(values.mean()), len(values)
    if values.min() == values.max():
        low, high = min(span[0], mean), max(span[1], mean)
        half = (high - low) * 3.84 / (n + 3.84)
        return (
            Measure(mean, max(low, mean - half), min(high, mean + half), n) if np.isfinite(half) else Measure(mean, n=n)
        )
    rng = stream("eval-interval", *labels)
    means = values[rng.integers(n, size=(2000, n))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Measure(mean, float(low), float(high), n)


def log_success(agent: LocalAgent, tasks: Sequence[Task]) -> list[float]:
    """Natural log of each problem's exact success probability at temperature 1."""
    logits, ids = agent.completion_logits(prompts(tasks), [t.answer for t in tasks])
    return [_plain(x, y) for x, y in zip(logits, ids, strict=True)]


def _plain(logits: np.ndarray, ids: np.ndarray) -> float:
    raw = logits.astype(np.float64)
    top = raw.max(-1, keepdims=True)
    return float((raw - top)[np.arange(len(ids)), ids].sum() - np.log(np.exp(raw - top).sum(-1)).sum())


def drift(base: LocalAgent, tasks: Sequence[Task]) -> float | None:
    """Mean -log10 of the frozen base's success probability on these problems: how far the curriculum has moved."""
    return float(-np.mean(log_success(base, tasks)) / np.log(10)) if tasks else None


def entropies(agent: LocalAgent, tasks: Sequence[Task], limits: Limits, attempts: int = 8) -> dict[str, float]:
    """Format and answer entropy in bits of ``attempts`` sampled completions a problem."""
    texts = [a.text for a in agent.act(requests(tasks, limits, attempts, "entropies"))]
    groups = [texts[i : i + attempts] for i in range(0, len(texts), attempts)]
    return {"format": entropy(shape(t) for t in texts), "answer": float(np.mean([entropy(g) for g in groups]))}


def verdict(found: Evaluation, samples: int) -> str:
    """One sentence by fixed rules; it claims longer composition of known facts, never new facts."""
    if found.kind == "play":
        told = [f"{c.role} {c.name} {c.base.value:.3f} to {c.trained.value:.3f}".strip() for c in found.measures]
        return f"Measured by play against the base: {'; '.join(told) or 'no game had a score'}; one run."

    def deepest(who: str) -> int:
        means = [(r.level, getattr(r, who)[PLAIN].mean) for r in found.levels if r.split == "any"]
        return max((level for level, mean in means if mean >= 0.5), default=0)

    before, after = deepest("base"), deepest("trained")
    if found.beyond is not None and found.beyond.count:
        return (
            f"Past the base: {found.beyond.count} problems that the base's best exact decoder puts below 1 in "
            f"{samples:,} (all samples the run drew) are now solved with P > 0.5; reliable depth went from {before} to "
            f"{after}. This is longer composition of known facts, not new facts."
        )
    if found.kind == "sampled":
        return (
            f"The highest level solved in at least half of the draws went from {before} to {after}; sampled, one run."
        )
    if after > before:
        return (
            f"Edge only: reliable depth went from {before} to {after}, within reach of {samples:,} samples of the base."
        )
    found_by = f"nothing that {samples:,} samples of the base would not have found"
    return f"Rehearsal: {found_by}; reliable depth stays at {before}."
