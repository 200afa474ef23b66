"""The learners: one class, ``PolicyLearner``, whose settings make it GRPO, PPO, RLOO, RAE or expert iteration.

Sources: GRPO arXiv 2402.03300, RLOO 2402.14740, RAE (SPIRAL) 2506.24119, expert iteration (ReST-EM) 2312.06585.
Departures: PPO's minibatches are the same in each pass (TRL splits a round once); the reference of the KL penalty is
the base model, and the penalty is off by default.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dream_envs.agents.engines.local import LocalAgent, without_deprecations
from dream_envs.agents.engines.meter import METER
from dream_envs.agents.engines.models import ADAPTERS, ROLES, load
from dream_envs.agents.training import memory
from dream_envs.agents.training.adapters import Merged, Published, adapted, add_roles, load_roles, take_over
from dream_envs.agents.training.critic import FILE as HEAD
from dream_envs.agents.training.critic import Critic
from dream_envs.agents.training.pool import AdapterPool
from dream_envs.agents.training.rows import RowBuilder, RowSource, restore, states
from dream_envs.agents.training.settings import (
    LearnerSettings,
    spec,
)
from dream_envs.agents.training.sources import ReviewedTraces
from dream_envs.agents.training.trl_adapter import RowTrainer, TrainCallback, TrainingRow
from dream_envs.core import Action, DreamEnvsError, Progress, Request
from dream_envs.runs import read_json, seal, unseal
from dream_envs.seeds import digest, stream

if TYPE_CHECKING:
    from dream_envs.agents.training.collector import Collector

COMPLETE = "state.json"
Evaluate = Callable[[int, LocalAgent], dict[str, Any]]


class PolicyLearner:
    """A local model that learns from its episodes.

    Args:
        model: ``nano/compose``, a folder, a hub id, a ``LocalAgent``, or a loaded model with ``tokenizer``.
        tokenizer: only with a loaded model.
        settings: see ``LearnerSettings``; a learner's name stands for its own.
        sources: rows beside what the policy sampled, see ``agents.training.sources``; ``settings.review`` comes last.
        seed: the label of everything random in learning (which groups, which reviews).
        evaluate: called with (step, agent) before each step, steps of earlier days counted; what it returns is written
            into the step's metrics.
        device: of a model that is loaded here.
    """

    name = "policy"

    def __init__(
        self,
        model: Any = "nano/compose",
        *,
        tokenizer: Any = None,
        settings: LearnerSettings | str = "grpo",
        sources: Sequence[RowSource] = (),
        seed: str = "0",
        evaluate: Evaluate | None = None,
        device: str = "cpu",
    ) -> None:
        if isinstance(model, str):
            model, tokenizer = load(model, device)
        self.settings = spec(settings).settings if isinstance(settings, str) else settings
        # an agent's decoding, system prompt and template arguments are the policy's
        self.engine = model.copied() if isinstance(model, LocalAgent) else LocalAgent(model, tokenizer=tokenizer)
        if self.settings.lora_rank:
            self.engine.model = adapted(self.engine.model, self.settings.lora_rank, digest("lora", seed, bits=24))
        self.sampler: Any = None
        if self.settings.engine == "vllm":
            several = self.settings.per_role or self.settings.pool is not None
            self.sampler = Published(self.engine, self.settings.lora_rank) if several else Merged(self.engine)
        self.sources, self.seed, self.evaluate = tuple(sources), seed, evaluate
        if self.settings.review is not None:
            self.sources += (ReviewedTraces(self.settings.review),)
        self.critic: Critic | None = None
        if self.settings.critic is not None:
            width = self.engine.model.config.get_text_config().hidden_size
            made = Critic(width, self.settings.critic, digest("critic", seed, bits=24))
            self.critic = made.to(self.engine.device)
        self.pool: AdapterPool | None = None  # made when the roles are known
        #: Asked after each step: true ends ``improve`` there, after a checkpoint (Ctrl-C); the same on every rank.
        self.stop: Callable[[], bool] = lambda: False
        self._extra: dict[str, Any] = {}
        self._tokens = 0  # trained on since the last line of metrics
        self._forecast = False  # whether a step is known to fit into memory

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Sample completions from the weights as they are now; in a seat of a past self, from that one's."""
        player: Any = self.pool or self.sampler or self.engine
        return player.act(requests)

    def snapshot(self) -> LocalAgent:
        """A frozen copy, with adapters merged in."""
        return self.engine.snapshot()

    def adopt(self, agent: LocalAgent) -> None:
        """Take over the weights of an agent, which is left as it is; adapters begin anew, at nothing.

        Raises:
            DreamEnvsError: where each role has its own adapter: what is one model cannot be taken apart again.
        """
        if self.settings.per_role:
            raise DreamEnvsError("per_role: a night gives back one model, not an adapter a role; leave one out")
        take_over(self.engine.model, agent.model)

    def save(self, path: str) -> None:
        """Write the weights, adapters merged in, and the tokenizer as a plain Hugging Face folder.

        A critic's head lies beside them.
        """
        self.engine.save(path)
        if self.critic is not None:
            self.critic.save(Path(path))

    def load(self, path: str) -> None:
        """Take over the weights of a folder, and its value head where it has one and this learner a critic."""
        if self.settings.per_role:
            self._split(read_json(Path(path) / ADAPTERS / ROLES) or {})
            load_roles(self.engine.model, self.engine.adapters, Path(path))
        else:
            model, _ = load(path, str(self.engine.device))
            take_over(self.engine.model, model)
        if self.critic is not None and (Path(path) / HEAD).is_file():
            self.critic.restore(Path(path))

    def _split(self, roles: Iterable[str]) -> None:
        """An adapter for each of these roles, where there is one for all yet."""
        if self.settings.per_role and not self.engine.adapters:
            self.engine.adapters = add_roles(self.engine.model, self.settings.per_role, roles, self.seed)

    def state(self) -> dict[str, Any]:
        """What the next rows depend on beside the weights, JSON-ready: the traces of the review, say."""
        return {"sources": states(self.sources)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from this state."""
        restore(self.sources, state["sources"])

    @without_deprecations()
    def improve(self, collector: Collector, budget: int, run: Any) -> Progress:
        """Train until ``budget`` steps are done in all; goes on from the newest complete checkpoint of the run.

        A step is one round's rows, used in as many updates as ``settings.updates`` says.  Several processes: start the
        script with ``torchrun`` and build the collector with ``collector.processes()``; each plays and trains on its
        share of every round, gradients are averaged, weights stay equal.

        ``run``: its ``path`` is the folder of ``checkpoints/``; its ``report_to``, if it has one, goes to TRL.
        """
        folder, chosen, engine = Path(run.path) / "checkpoints", self.settings, self.engine
        roles, rank = collector.learns(), collector.rank
        if chosen.per_role and collector.world > 1:
            raise DreamEnvsError("per_role: in one process; several would wait for each other's roles")
        self._split(roles)
        builder = RowBuilder(
            collector.game, chosen.rows, chosen.baseline, roles, engine.encode, engine.completion, self.sources
        )
        if chosen.pool is not None and self.pool is None:
            self.pool = AdapterPool(engine, chosen.pool, roles, self.seed, self.sampler)
        resume = newest_checkpoint(folder, remove=rank == 0)
        if resume is not None:
            self._restore(resume, collector, builder)
        elif not collector.played:
            collector.begin()
        callback = TrainCallback(
            lambda path: self._complete(path, collector, builder),
            lambda step, logs: self._log(step, logs, collector),
            lambda step: self.stop() and step % chosen.updates.steps == 0,  # between two rounds
        )
        trainer = RowTrainer(
            engine.model,
            engine.tokenizer,
            lambda step: self._rows(step, budget, collector, builder),
            callback,
            self.critic,
            out=folder,
            rows=chosen.rows.rows,
            steps=budget,
            lr=chosen.lr,
            seed=digest("trl", self.seed, bits=24),
            save_every=chosen.save_every,
            updates=chosen.updates,
            kl=chosen.kl,
            warmup=min(chosen.warmup, budget // 2),  # its first step has rate 0
            clip=chosen.clip,
            micro_batch=chosen.micro_batch,
            checkpointing=chosen.checkpointing,
            adapters=engine.adapters,
            report_to=list(getattr(run, "report_to", ()) if rank == 0 else ()) or "none",
        )
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        done = trainer.state.global_step // chosen.updates.steps  # less than the budget where it was stopped
        return Progress(done, sum(collector.samples.values()), collector.means())

    def _rows(self, step: int, budget: int, collector: Collector, builder: RowBuilder) -> list[TrainingRow]:
        self._extra = dict(self.evaluate(collector.offset + step, self.engine)) if self.evaluate else {}
        every = self.settings.rows.play_every
        if self.sampler is not None and step % every == 0:
            self.sampler.publish()
        episodes = collector.round(step // every, self) if step % every == 0 else ()
        if self.pool is not None and episodes:
            self.pool.absorb(collector.newest)
            self._extra |= self.pool.metrics()
        rng = stream(self.seed, "rows", collector.offset + step, collector.rank)
        rows = builder.rows(episodes, rng, step / budget)
        if not self._forecast:
            memory.check(self.engine.model, rows, self.settings.micro_batch, self.settings.checkpointing)
            self._forecast = bool(rows)
        self._extra |= {f"groups/{role}": count for role, count in builder.used.items()}
        trained = sum(len(r.completion) for r in rows if r.advantage)
        self._tokens += trained * self.settings.updates.epochs
        METER.trained += trained * self.settings.updates.epochs
        return rows

    def _log(self, step: int, logs: dict[str, float], collector: Collector) -> None:
        done = step // self.settings.updates.steps - 1
        if done % self.settings.rows.play_every == 0:
            told = {f"train/{k}": v for k, v in {**logs, "tokens": self._tokens}.items()}
            collector.log(done, {**told, **self._extra})
            self._tokens = 0

    def _complete(self, path: Path, collector: Collector, builder: RowBuilder) -> None:
        """The last file of a checkpoint: where it is, the checkpoint is whole."""
        builders = collector.gather([builder.state()])  # each process reviews what it played itself
        if collector.rank == 0:
            if self.critic is not None:
                self.critic.save(path)
            state = {"collector": collector.state(), "rows": builders}
            if self.pool is not None:
                self.pool.save(path)
                state["pool"] = self.pool.state()
            seal(path / COMPLETE, state)

    def _restore(self, path: Path, collector: Collector, builder: RowBuilder) -> None:
        state = unseal(path / COMPLETE)
        if (saved := len(state["rows"])) != collector.world:
            raise DreamEnvsError(
                f"{path}: written by {saved} processes, these are {collector.world}: start {saved} again"
            )
        if self.critic is not None:
            self.critic.restore(path)
        if self.pool is not None:
            self.pool.restore(state["pool"], path)
        collector.restore(state["collector"])
        builder.restore(state["rows"][collector.rank])


def newest_checkpoint(folder: Path, remove: bool = True) -> Path | None:
    """The newest checkpoint that is whole; those that were not written to their end are removed if ``remove``.

    One that was damaged since is told, and gives way to the one before it.

    Raises:
        DreamEnvsError: there are finished checkpoints, and none of them is whole any more.
    """
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if not number.isdigit():
            raise DreamEnvsError(f"{path} is not a checkpoint of this run: move it away")
        if (path / COMPLETE).exists():
            found.append((int(number), path))
        elif remove:
            shutil.rmtree(path)
    damaged: list[tuple[Path, DreamEnvsError]] = []
    for _, path in sorted(found, reverse=True):
        try:
            unseal(path / COMPLETE)
        except DreamEnvsError as error:
            damaged.append((path, error))
            continue
        for lost, why in damaged if remove else ():
            warnings.warn(f"{why}; going on from {path.name}", stacklevel=2)
            shutil.rmtree(lost)
        return path
    if damaged:
        raise damaged[0][1]
    return None
