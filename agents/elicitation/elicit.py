"""The mechanisms of the elicited base: a base model in, an agent that is an elicited copy of it out.

No mechanism tells the base anything new about the problems that a report is made on.  What each may use is the base's
own completions of the dev problems and, to choose among a handful of settings, the verifier's verdict on them.
Every mechanism is deterministic in (base, dev, seed) and leaves the base's weights as they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from dream_envs.agents.elicitation.attempts import Kinds, attempts, kinds, messages_of, own_replies, pass_rates
from dream_envs.agents.elicitation.critique import critiques
from dream_envs.agents.elicitation.sae import SaeSettings, SparseAutoencoder, by_activation, by_attribution, train
from dream_envs.agents.elicitation.steering import Steered, contrast_vector, gradient_vector, layers, residuals
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.collector import Collector
from dream_envs.agents.training.learner import PolicyLearner
from dream_envs.agents.training.settings import LearnerSettings, RoleSettings, RowSettings
from dream_envs.agents.training.sft import fine_tune, quietly
from dream_envs.core import Agent, DreamEnvsError, Message, Task, TaskFamily
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.challenger_solver import ChallengerSolver
from dream_envs.rewards.presets import challenger_solver
from dream_envs.runs import Run
from dream_envs.seeds import stream


class Mechanism(Protocol):
    """A way to make an elicited copy, with its settings.

    One with ``matched(steps, tokens)`` trains as much as the run that is measured, on problems of all levels.
    """

    def make(self, base: LocalAgent, dev: Sequence[Task], family: TaskFamily, seed: str) -> Agent:
        """The elicited copy; an error if there is nothing to work with on this base (no two kinds of replies, say).

        ``dev``: problems with verdicts that may be used up, none of the report's.
        """


class Steering(msgspec.Struct, frozen=True):
    """Add a direction of the residual stream, taken from the contrast of the base's own kinds of replies.

    ``problems``: dev problems used.  ``draws``: replies to each, to find the kinds (``attempts.by_length`` and
    ``by_first_token``).  ``pairs``: at most so many replies of a kind are contrasted.  ``depths``: layers, as shares of
    the model's depth.  ``scales``: of the gradient's direction (first step only) and of the difference of means (every
    step).  ``check``: draws on each dev problem for each of the candidates, of which the one most often right is taken.
    """

    problems: int = 32
    draws: int = 64
    pairs: int = 128
    depths: tuple[float, ...] = (0.25, 0.5, 0.75)
    scales: tuple[float, ...] = (1.0, 0.5, 2.0, -1.0)
    check: int = 4

    def make(self, base: LocalAgent, dev: Sequence[Task], family: TaskFamily, seed: str) -> Agent:
        """See ``Mechanism``."""
        tasks = some(dev, self.problems, seed)
        candidates = []
        for every in kinds(base, tasks, family, self.draws, f"{seed}/kinds"):
            pair = every.fewer(self.pairs)
            for layer in depths(base, self.depths):
                slope = gradient_vector(base, pair.positive, pair.negative, layer)
                mean = contrast_vector(base, pair.positive, pair.negative, layer)
                candidates += [Steered(base, layer, slope, scale, 1) for scale in self.scales]
                candidates += [Steered(base, layer, mean, scale) for scale in self.scales]
        return best(candidates, tasks, family, self.check, f"{seed}/choose")


class Sae(msgspec.Struct, frozen=True):
    """Add one feature of a sparse autoencoder of the base's own residual stream at the first step only.

    ``problems``, ``draws``, ``pairs``, ``depths``, ``check``: as in ``Steering``.  ``read``: replies to each problem
    that the autoencoder is trained on.  ``features``: candidates of each ranking (by activation and by attribution, for
    each way to tell kinds apart).  ``scales``: lengths of the step, as shares of the residual's length.
    """

    problems: int = 32
    draws: int = 64
    pairs: int = 128
    read: int = 16
    depths: tuple[float, ...] = (0.5, 0.75)
    features: int = 3
    scales: tuple[float, ...] = (1.0, 2.0)
    check: int = 4
    sae: SaeSettings = SaeSettings()

    def make(self, base: LocalAgent, dev: Sequence[Task], family: TaskFamily, seed: str) -> Agent:
        """See ``Mechanism``."""
        tasks = some(dev, self.problems, seed)
        pairs = [pair.fewer(self.pairs) for pair in kinds(base, tasks, family, self.draws, f"{seed}/kinds")]
        own = own_replies(base, tasks, family, self.read, f"{seed}/read")
        own += [reply for pair in pairs for reply in (*pair.positive, *pair.negative)]
        candidates = []
        for layer in depths(base, self.depths):
            read = residuals(base, own, layer)
            model = train(np.concatenate(read), self.sae, f"{seed}/sae/{layer}")
            chosen = list(dict.fromkeys(f for pair in pairs for f in self._ranked(base, model, pair, layer)))
            length = float(np.mean([np.linalg.norm(x[0]) for x in read]))
            for feature in chosen:
                direction = model.decoder[feature].numpy() * length
                candidates += [Steered(base, layer, direction, scale, 1) for scale in self.scales]
        return best(candidates, tasks, family, self.check, f"{seed}/choose")

    def _ranked(self, base: LocalAgent, model: SparseAutoencoder, pair: Kinds, layer: int) -> list[int]:
        """The first features of both rankings."""
        slope = gradient_vector(base, pair.positive, pair.negative, layer)
        said = [[x[1:] for x in residuals(base, kind, layer)] for kind in (pair.positive, pair.negative)]
        rankings = by_attribution(model, slope), by_activation(model, *map(np.concatenate, said))
        return [int(f) for ranking in rankings for f in ranking[: self.features]]


class Critique(msgspec.Struct, frozen=True):
    """Fine-tune a copy on critiques of its own attempts at one dev problem.

    ``problems``: dev problems among which that one is looked for, with ``candidates`` samples.  ``kept``: candidates
    that are critiqued, right and wrong ones alike where there are enough.  ``batch``: of fine-tuning.  ``tries``:
    (steps, learning rate) of which the one most often right on the dev problems is taken, with ``check`` draws on each.
    """

    problems: int = 32
    candidates: int = 256
    kept: int = 96
    batch: int = 32
    tries: tuple[tuple[int, float], ...] = ((20, 1e-4), (20, 3e-4), (40, 1e-4))
    check: int = 8

    def make(self, base: LocalAgent, dev: Sequence[Task], family: TaskFamily, seed: str) -> Agent:
        """See ``Mechanism``."""
        tasks = some(dev, self.problems, seed)
        pairs = critiques(base, tasks, family, self.candidates, self.kept, seed)
        how: Any = {"seed": f"{seed}/critique", "batch": self.batch}
        tuned = [fine_tune(base, pairs, steps=steps, lr=lr, **how) for steps, lr in self.tries]
        return best(tuned, tasks, family, self.check, f"{seed}/choose")


class Rlvr(msgspec.Struct, frozen=True):
    """A short GRPO run on dev problems that the base solves already, with nothing new to learn from.

    It sharpens: what the base does most of the time it then does nearly always.  Whatever it solves, reinforcement with
    a verifier brings out of the base without a curriculum, so a claim to have gone past the base has to go past it too.

    ``low``, ``high``: the base pass rates of the problems that are practised, measured with ``draws``; what is always
    right gives GRPO nothing to tell apart.  ``steps``, ``lr``: of GRPO.  ``problems``: a step; ``attempts``: at each.
    """

    low: float = 0.25
    high: float = 0.98
    draws: int = 32
    steps: int = 40
    lr: float = 5e-4
    problems: int = 32
    attempts: int = 8

    def make(self, base: LocalAgent, dev: Sequence[Task], family: TaskFamily, seed: str) -> Agent:
        """See ``Mechanism``."""
        rates = pass_rates(base, dev, family, self.draws, f"{seed}/support")
        chosen = [t for t, rate in zip(dev, rates, strict=True) if self.low <= rate <= self.high]
        if not chosen:
            what = f"none of {len(dev)} problems has a base pass rate from {self.low} to {self.high}"
            highest = f"(the highest is {rates.max():.3f})"
            raise DreamEnvsError(f"{what} {highest}: there is nothing solved to practise on")
        twin = base.snapshot()
        twin.model.requires_grad_(True)
        roles = RowSettings(roles={"solver": RoleSettings(self.problems)})
        rule = LearnerSettings(lr=self.lr, warmup=min(5, self.steps), save_every=self.steps + 1, rows=roles)
        game, mixture = ChallengerSolver(family, solvers=self.attempts), Mixture(0, 0, 0, dataset=self.problems)
        how: Any = {"store": ChallengeStore(None), "dataset": chosen, "label": "fixed", "anew": True}
        curriculum = Curriculum(game, mixture, seed=f"{seed}/tasks", **how)
        seats = {"challenger": lambda text: ""}  # every proposal is given
        with tempfile.TemporaryDirectory() as folder, quietly():
            run = Run(Path(folder) / "run", {"command": "rlvr"})
            collector = Collector(game, curriculum, challenger_solver(), run, seats=seats)
            PolicyLearner(twin, settings=rule, seed=f"{seed}/grpo").improve(collector, self.steps, run)
            run.close()
        twin.model = twin.model.requires_grad_(False).eval()
        vars(twin.model).pop("forward", None)  # TRL's fused head
        return twin


class SelfTuning(msgspec.Struct, frozen=True):
    """Fine-tune a copy on the base's own samples that the verifier calls right, each level alike (one round of STaR).

    ``draws``: samples of each problem, at T = 1 and at each of ``cool``.  ``steps``, ``batch``, ``lr``: of fine-tuning;
    where the run that is measured has a record, ``matched`` takes its optimiser steps and trained tokens.
    """

    draws: int = 64
    cool: tuple[float, ...] = (0.5,)
    steps: int = 400
    batch: int = 128
    lr: float = 5e-4
    tokens: int = 0

    def matched(self, steps: int, tokens: int) -> SelfTuning:
        """The same, at so many optimiser steps and trained tokens."""
        return msgspec.structs.replace(self, steps=steps, tokens=tokens)

    def make(self, base: LocalAgent, dev: Sequence[Task], family: TaskFamily, seed: str) -> Agent:
        """See ``Mechanism``."""
        by_level: dict[int, dict[tuple[str, str], list[Message]]] = {}
        for heat in (1.0, *self.cool):
            rows = attempts(base.decoding(temperature=heat), dev, family, self.draws, f"{seed}/{heat}")
            for task, said in zip(dev, rows, strict=True):
                for a in said:
                    if a.value == 1.0:
                        by_level.setdefault(task.level, {})[task.id, a.text] = messages_of(task)
        if not by_level:
            raise DreamEnvsError(f"none of its samples of {len(dev)} problems is right: there is nothing to tune on")
        most = max(map(len, by_level.values()))
        pairs = []
        for right in by_level.values():  # each level alike, so that rare successes count
            own = [(messages, text) for (_, text), messages in right.items()]
            pairs += [own[i % len(own)] for i in range(most)]
        length = float(np.mean([len(base.completion(text)) for _, text in pairs]))
        batch = max(1, round(self.tokens / self.steps / length)) if self.tokens else self.batch
        return fine_tune(base, pairs, steps=self.steps, lr=self.lr, seed=f"{seed}/tune", batch=batch)


MECHANISMS: dict[str, Mechanism] = {
    "steering": Steering(), "critique": Critique(), "sae": Sae(), "rlvr": Rlvr(), "self_tuning": SelfTuning(),
}  # fmt: skip


def some(dev: Sequence[Task], count: int, seed: str) -> list[Task]:
    """``count`` of the dev problems, all alike likely, in their order."""
    if not dev:
        raise DreamEnvsError("dev is empty: an elicitation mechanism needs problems to look at")
    return [dev[i] for i in sorted(stream(seed, "dev").permutation(len(dev))[:count].tolist())]


def depths(base: LocalAgent, shares: Sequence[float]) -> list[int]:
    """Layer numbers at these shares of the model's depth, each once."""
    count = len(layers(base.model))
    return sorted({min(int(share * count), count - 1) for share in shares})


def best(candidates: Sequence[LocalAgent], tasks: Sequence[Task], family: TaskFamily, draws: int, seed: str) -> Agent:
    """The candidate that is right most often; of several the first.  All are given the same seeds."""
    rates = [pass_rates(c, tasks, family, draws, seed).mean() for c in candidates]
    return candidates[int(np.argmax(rates))]
