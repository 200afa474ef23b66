"""The variety of a learner's replies on fixed problems, at log-spaced steps of its training.

Looking changes nothing: every reply's randomness is its request's own seed, no generator is shared with training, and
the problems are the evaluation set's, which are never trained on beyond depth 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.metrics.collapse import collapse, log_spaced
from dream_envs.metrics.diversity import histogram, js_distance, rounded
from dream_envs.metrics.replies import ProbeSet, Replies, compare, measure, series
from dream_envs.seeds import stream

LEVELS = (2, 3, 4, 6)
PER_LEVEL = 12
DRAWS = 4
#: In ``metrics.jsonl`` the measures are called so: the round's own entropies have names without it.
PREFIX = "diversity/"
KEPT = (
    "format_entropy", "effective_formats", "top_share", "answer_entropy", "answer_entropy_wrong", "vendi",
    "vendi_across", "accuracy",
)  # fmt: skip


class DiversityMonitor:
    """What is looked at, and what was seen so far.

    Args:
        evaluation: its first problems of a few levels are asked.
        base: the model before training.
        metrics: the run's ``metrics.jsonl``: a resumed run finds in it what was seen before.
        steps: training steps in all.
        every: only every so many steps have a row in ``metrics.jsonl``.
    """

    def __init__(self, evaluation: Any, base: LocalAgent, metrics: Path, steps: int, every: int = 1) -> None:
        levels = [d for d in LEVELS if d in evaluation.levels] or evaluation.levels[:3]
        tasks = [t for d in levels for t in evaluation.tasks["any", d][:PER_LEVEL]]
        self.probes = ProbeSet(tuple(tasks), evaluation.family, "dream-probe")
        self._metrics, self._steps, self._every = metrics, steps, every
        self._base = self.probes.draw(base, DRAWS)
        self._first = self._measured(self._base)
        self._points: list[tuple[int, dict[str, Any]]] | None = None

    @classmethod
    def of(cls, evaluation: Any, *given: Any) -> DiversityMonitor | None:
        """A monitor on this evaluation set's problems; None where it has none."""
        return cls(evaluation, *given) if evaluation.tasks else None

    def due(self, step: int) -> bool:
        """Whether this step is one of 0, 1, 2, 4, 8 ... (times ``every``) or the last with a row."""
        return log_spaced(step, (self._steps - 1) // self._every * self._every, self._every)

    def look(self, step: int, agent: LocalAgent) -> dict[str, Any]:
        """Measures of the agent as it is before this step, for the step's row; ``alarms`` if any ring."""
        point = self._measured(self.probes.draw(agent, DRAWS))
        seen = self._seen()
        seen.append((step, point))
        alarms = self._alarms()
        return {PREFIX + k: v for k, v in point.items()} | ({"alarms": alarms} if alarms else {})

    def block(self, trained: LocalAgent) -> dict[str, Any]:
        """The ``diversity`` block of the summary: base and trained, and the whole series."""
        said = self.probes.draw(trained, DRAWS)
        points = [*self._seen(), (self._steps, self._measured(said))]
        found = msgspec.to_builtins(compare(self._base, said, stream("diversity", self.probes.hash)))
        self._points = points
        return {
            **found,
            "series": series([s for s, _ in points], [p for _, p in points]),
            "alarm": "; ".join(self._alarms()) or None,
            "probes": {"hash": self.probes.hash, "problems": len(self.probes.tasks), "draws": DRAWS},
        }

    def _measured(self, said: Replies) -> dict[str, Any]:
        found = measure(said)
        shares = [histogram(f for row in r.formats for f in row) for r in (self._base, said)]
        return rounded({**{k: found[k] for k in KEPT}, "js_to_base": js_distance(*shares)})

    def _alarms(self) -> list[str]:
        return collapse([self._first, *[p for _, p in self._seen()]])

    def _seen(self) -> list[tuple[int, dict[str, Any]]]:
        """All points so far; after a resume those that the run's file has kept."""
        if self._points is None:
            self._points = []
            for line in self._metrics.read_bytes().splitlines() if self._metrics.exists() else []:
                row = msgspec.json.decode(line)
                point = {k.removeprefix(PREFIX): v for k, v in row.items() if k.startswith(PREFIX)}
                if point:
                    self._points.append((row["step"], point))
        return self._points
