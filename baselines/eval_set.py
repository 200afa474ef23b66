"""What a model can do, exactly: fixed held-out problems, every decoder of the envelope, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.core import Limits, Request, Task
from dream_envs.frontier import exact as ex
from dream_envs.metrics.health import entropy, shape
from dream_envs.seeds import digest, stream
from dream_envs.tasks.composition import Composition

DEPTHS = tuple(range(1, 11))
HELD_OUT_DEPTHS = (2, 3, 4, 6, 8)
PASS_K = tuple(4**i for i in range(11))


class Yardstick:
    """The problems that everything is measured on: never trained on (their ids are a gate), the same for every run.

    Args:
        family: composition in the notation of the model.
        per_depth: problems a depth.
        support: the depths that the base was pre-trained on.
    """

    def __init__(self, family: Composition, per_depth: int = 128, support: Sequence[int] = (1, 2, 3)) -> None:
        self.family, self.per_depth, self.support = family, per_depth, tuple(support)
        self.splits = [("any", d) for d in DEPTHS] + [("held_out", d) for d in HELD_OUT_DEPTHS]
        self.tasks = {key: self._draw(*key) for key in self.splits}

    def _draw(self, split: str, depth: int) -> list[Task]:
        rng = stream("yardstick", self.family.world, split, depth)
        return [self.family.generate(rng, depth, pairs=split) for _ in range(self.per_depth)]

    def reserved(self) -> list[Task]:
        """Problems that must not be trained on: all beyond depth 2 (the shallower ones are too few to reserve)."""
        return [t for (_, depth), tasks in self.tasks.items() for t in tasks if depth > 2]

    def grammars(self, agent: LocalAgent, depth: int) -> list[ex.Grammar]:
        """The reply's form for every problem of a depth."""

        def token(character: str) -> int:
            return int(agent.tokenizer(character, add_special_tokens=False)["input_ids"][0])

        one = ex.composition_grammar(token, agent.ends[0], self.family.states, self.family.operations, depth)
        return [one] * self.per_depth

    def exact(self, agent: LocalAgent) -> dict[tuple[str, int], dict[str, np.ndarray]]:
        """Log-probabilities by split and depth, then by decoder."""
        return {key: ex.exact(agent, tasks, self.grammars(agent, key[1])) for key, tasks in self.tasks.items()}

    def means(self, agent: LocalAgent) -> dict[str, float]:
        """Mean exact success at T = 1 by depth, for learning curves (the first 64 problems of each)."""
        found = {}
        for depth in DEPTHS:
            tasks = self.tasks["any", depth][:64]
            prompts = [[{"role": "user", "content": t.prompt}] for t in tasks]
            logits, ids = agent.completion_logits(prompts, [t.answer for t in tasks])  # type: ignore[arg-type]
            found[str(depth)] = float(np.mean([np.exp(_plain(x, y)) for x, y in zip(logits, ids, strict=True)]))
        return found


def _plain(logits: np.ndarray, ids: np.ndarray) -> float:
    raw = logits.astype(np.float64)
    top = raw.max(-1, keepdims=True)
    return float((raw - top)[np.arange(len(ids)), ids].sum() - np.log(np.exp(raw - top).sum(-1)).sum())


def drift(base: LocalAgent, tasks: Sequence[Task]) -> float | None:
    """Mean -log10 of the frozen base's success probability on these problems: how far the syllabus has moved."""
    if not tasks:
        return None
    prompts = [[{"role": "user", "content": t.prompt}] for t in tasks]
    logits, ids = base.completion_logits(prompts, [t.answer for t in tasks])  # type: ignore[arg-type]
    return float(np.mean([-_plain(x, y) for x, y in zip(logits, ids, strict=True)]) / np.log(10))


def entropies(agent: LocalAgent, tasks: Sequence[Task], attempts: int = 8) -> dict[str, float]:
    """Format and answer entropy in bits of ``attempts`` sampled replies a problem."""
    requests = [
        Request(
            messages=[{"role": "user", "content": t.prompt}],
            agent="solver_0",
            role="solver",
            seed=digest("entropies", t.id, i),
            limits=Limits(max_tokens=4 * t.level + 8),
        )
        for t in tasks
        for i in range(attempts)
    ]
    texts = [a.text for a in agent.act(requests)]
    groups = [texts[i : i + attempts] for i in range(0, len(texts), attempts)]
    return {"format": entropy(shape(t) for t in texts), "answer": float(np.mean([entropy(g) for g in groups]))}


def frontier(
    yardstick: Yardstick,
    base: dict[tuple[str, int], dict[str, np.ndarray]],
    trained: dict[tuple[str, int], dict[str, np.ndarray]],
    samples: dict[str, int],
) -> dict[str, Any]:
    """The tables of ``frontier.json`` from two exact measurements and the number of samples the run drew."""
    total = max(1, sum(samples.values()))
    rows, beyond, examples = [], 0, []
    structural = 0
    for split, depth in yardstick.splits:
        before, after = base[split, depth], trained[split, depth]
        tier, solved = ex.tiers(before, total), np.exp(after["T=1"]) > 0.5
        rows.append(
            {
                "depth": depth,
                "split": split,
                "n": yardstick.per_depth,
                "chance": float(len(yardstick.family.states)) ** -depth,
                "base": {d: _summary(before[d], split, depth) for d in ex.DECODERS},
                "trained": {d: _summary(after[d], split, depth) for d in ex.DECODERS},
                "tiers": {name: int((tier == i).sum()) for i, name in enumerate(ex.TIERS)},
                "moved": {
                    n: float(solved[tier == i].mean()) if (tier == i).any() else None for i, n in enumerate(ex.TIERS)
                },
            }
        )
        new = np.flatnonzero((tier == 2) & solved)
        beyond += len(new)
        structural += len(new) if depth > max(yardstick.support) or split == "held_out" else 0
        best = ex.best_decoder(before) / np.log(10)
        examples += [
            {
                "prompt": yardstick.tasks[split, depth][i].prompt,
                "depth": depth,
                "held_out": split == "held_out",
                "base_best_log10": float(best[i]),
                "trained": float(np.exp(after["T=1"][i])),
            }
            for i in new[:3]
        ]
    curves = {
        str(d): {
            name: [float(ex.pass_at_k(m["any", d]["T=1"], k).mean()) for k in PASS_K]
            for name, m in (("base", base), ("trained", trained))
        }
        for d in (4, 6, 8)
    }
    count = len(yardstick.splits) * yardstick.per_depth
    return {
        "problems_per_depth": yardstick.per_depth,
        "decoders": list(ex.DECODERS),
        "samples": {**samples, "total": total},
        "depths": rows,
        "beyond": {"count": beyond, "of": count, "structural": structural, "examples": examples},
        "pass_at_k": {"k": list(PASS_K), "depths": curves},
        "verdict": verdict(rows, beyond, total),
    }


def _summary(log_p: np.ndarray, split: str, depth: int) -> dict[str, Any]:
    rng = stream("frontier-bootstrap", split, depth)
    return {**ex.summary(log_p), "ci": ex.bootstrap(np.exp(log_p), rng)}


def verdict(rows: Sequence[dict[str, Any]], beyond: int, total: int) -> str:
    """One sentence by fixed rules; it claims longer composition of known facts, never new facts."""
    deepest = max((r["depth"] for r in rows if r["split"] == "any" and r["trained"]["T=1"]["mean"] >= 0.5), default=0)
    before = max((r["depth"] for r in rows if r["split"] == "any" and r["base"]["T=1"]["mean"] >= 0.5), default=0)
    if beyond:
        return (
            f"Past the base: {beyond} problems that the base's best exact decoder puts below 1 in {total:,} (all "
            f"samples the run drew) are now solved with P > 0.5; reliable depth went from {before} to {deepest}. "
            "This is longer composition of known facts, not new facts."
        )
    if deepest > before:
        return (
            f"Edge only: reliable depth went from {before} to {deepest}, within reach of {total:,} samples of the base."
        )
    return (
        f"Rehearsal: nothing that {total:,} samples of the base would not have found; reliable depth stays at {before}."
    )
