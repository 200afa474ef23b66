"""GRPO and its kin through TRL, for seats of a self-play game.

``GRPO`` is a Learner: it acts with the local engine and improves on the rows that ``agents.rows`` makes of each round.
Expert iteration is the same learner with another rule: plain likelihood on right attempts and learnable proposals
(``ReST-EM``), several passes over what the run has verified so far.  PPO and RLOO are the same learner with another
baseline (``PolicySettings``; ``agents.ppo`` has their defaults).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.agents.engines.local import LocalAgent, load, without_deprecations
from dream_envs.agents.training.collector import Practice
from dream_envs.agents.training.critic import FILE as HEAD
from dream_envs.agents.training.critic import Critic, CriticSettings
from dream_envs.agents.training.rows import BASELINES, RowConfig, RowMaker
from dream_envs.agents.training.stopping import StoppingCallback
from dream_envs.agents.training.trl_adapter import TrainingRow, TrainSettings, make_trainer
from dream_envs.agents.training.updates import Updates
from dream_envs.core import Action, AgentLike, DreamEnvsError, Progress, Request
from dream_envs.runs import read_json, write_json
from dream_envs.seeds import digest, stream

COMPLETE = "practice.json"
Evaluate = Callable[[int, LocalAgent], dict[str, Any]]


class GRPOSettings(msgspec.Struct, frozen=True):
    """The optimiser's knobs and the rows of a step."""

    lr: float = 5e-4
    kl: float = 0.0
    warmup: int = 10
    clip: float = 1.0
    save_every: int = 20
    rows: RowConfig = RowConfig()


class PolicySettings(GRPOSettings, frozen=True):
    """GRPO's knobs, and those that GRPO itself leaves at one update a round and its group's baseline.

    A class of its own, so that the configuration of a GRPO run stays what it was.

    ``baseline``: ``group`` (GRPO), ``leave_one_out`` (RLOO), ``critic`` (PPO) or ``role`` (TRR++).  ``updates``:
    passes, minibatches and clipping.  ``critic``: the value head, with ``baseline="critic"`` alone.  ``kl`` goes where
    ``updates.kl_in`` says.
    """

    baseline: str = "group"
    updates: Updates = Updates()
    critic: CriticSettings | None = None

    def __post_init__(self) -> None:
        if self.baseline not in BASELINES:
            raise DreamEnvsError(f"baseline={self.baseline!r}: one of {', '.join(BASELINES)}")
        if (self.critic is not None) != (self.baseline == "critic"):
            raise DreamEnvsError(f"baseline={self.baseline!r}: critic=CriticSettings() with 'critic', None with others")
        if self.critic is not None and (self.rows.proposals != "fresh" or self.rows.play_every > 1):
            raise DreamEnvsError("a critic learns from what was sampled in the round: proposals='fresh', play_every=1")


def expert_settings() -> GRPOSettings:
    """Expert iteration: likelihood of verified traces and learnable proposals, no advantages, ten steps a round."""
    return GRPOSettings(lr=5e-4, rows=RowConfig(rows=192, groups=0, review=144, play_every=10, proposals="review"))


class GRPO:
    """A local model that learns by GRPO.

    Args:
        model: ``nano/compose``, a folder, a hub id, or a loaded model with ``tokenizer``.
        tokenizer: only with a loaded model.
        settings: see ``GRPOSettings``.
        seed: the label of everything random in learning (which groups, which reviews).
        evaluate: called with (step, agent) before each step; what it returns is written into the step's metrics.
    """

    name = "grpo"

    def __init__(
        self,
        model: Any = "nano/compose",
        *,
        tokenizer: Any = None,
        settings: GRPOSettings | None = None,
        seed: str = "0",
        evaluate: Evaluate | None = None,
        device: str = "cpu",
    ) -> None:
        if isinstance(model, str):
            model, tokenizer = load(model, device)
        self.engine = LocalAgent(model, tokenizer=tokenizer)
        self.settings, self.seed, self.evaluate = settings or self.defaults(), seed, evaluate
        self.rule = self.settings if isinstance(self.settings, PolicySettings) else PolicySettings()
        self.critic = self._critic(self.rule.critic) if self.rule.critic else None
        #: Asked after each step: true ends ``improve`` there, behind a checkpoint (Ctrl-C); the same on every rank.
        self.stop: Callable[[], bool] = lambda: False
        self._pending: dict[str, Any] = {}

    @staticmethod
    def defaults() -> GRPOSettings:
        """The settings where none are given."""
        return GRPOSettings()

    def _critic(self, settings: CriticSettings) -> Critic:
        width = self.engine.model.config.get_text_config().hidden_size
        return Critic(width, settings, digest("critic", self.seed, bits=24), self.engine.device)

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Sample replies from the weights as they are now."""
        return self.engine.act(requests)

    def snapshot(self) -> LocalAgent:
        """A frozen copy."""
        return self.engine.snapshot()

    def save(self, path: str) -> None:
        """Write the weights and the tokenizer as a plain Hugging Face folder; a critic's head lies beside them."""
        self.engine.model.save_pretrained(path)
        self.engine.tokenizer.save_pretrained(path)
        if self.critic is not None:
            self.critic.head.save(Path(path))

    def load(self, path: str) -> None:
        """Take over the weights of a folder, and its value head where it has one and this learner a critic."""
        model, _ = load(path, str(self.engine.device))
        self.engine.model.load_state_dict(model.state_dict())
        if self.critic is not None and (Path(path) / HEAD).is_file():
            self.critic.head.restore(Path(path))

    @without_deprecations()
    def improve(self, env: Practice, seats: Mapping[str, AgentLike], budget: int, run: Any) -> Progress:
        """Train until ``budget`` steps are done in all; goes on from the newest complete checkpoint of the run.

        A step is one round's rows, used in one update or, as ``PolicySettings`` may have it, in several.

        Several processes: start the script with ``torchrun`` and build the practice with ``practice.processes()``; each
        plays and trains on its share of every round, gradients are averaged, weights stay equal.

        Args:
            env: the practice.
            seats: agents for seats that this learner does not play; merged over the practice's own.
            budget: steps in all.
            run: the practice's run; its folder holds ``checkpoints/``.
        """
        env.seats.update(seats)
        folder = Path(run.path) / "checkpoints"
        maker = env.maker(self.engine, self.settings.rows, self.rule.baseline)
        resume = newest_checkpoint(folder, remove=env.rank == 0)
        if resume is not None:
            self._restore(resume, env, maker)
        elif not env.history:
            env.begin()
        trainer = make_trainer(
            self.engine.model,
            self.engine.tokenizer,
            lambda step: self._step(step, env, maker),
            TrainSettings(
                out=str(folder),
                rows=maker.config.rows,
                steps=budget,
                lr=self.settings.lr,
                seed=digest("trl", self.seed, bits=24),
                save_every=self.settings.save_every,
                kl=self.settings.kl,
                warmup=self.settings.warmup,
                clip=self.settings.clip,
                tensorboard=str(Path(run.path) / "metrics") if env.rank == 0 else None,
                updates=self.rule.updates,
            ),
            StoppingCallback(
                lambda path: self._complete(path, env, maker),
                lambda step, logs: self._report(step, logs, env),
                lambda step: self.stop() and step % self.rule.updates.steps == 0,  # between two rounds
            ),
            lambda: self._board(env),
            self.critic,
        )
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        return Progress(budget, sum(env.samples.values()), {"solved": env.history[-1].solved or 0.0})

    def _step(self, step: int, env: Practice, maker: RowMaker) -> list[TrainingRow]:
        self._pending = dict(self.evaluate(step, self.engine)) if self.evaluate else {}
        rng = stream(self.seed, "rows", step, env.rank)
        every = maker.config.play_every
        if step % every:
            return maker.reviewed(rng)
        rows = maker.rows(env.play(step // every, self), rng)
        self._pending["groups"] = maker.used
        return rows

    def _board(self, env: Practice) -> dict[str, float]:
        """The newest round for TensorBoard: its health, and what ``evaluate`` measured, where it did.

        ``exact`` goes by depth to ``exact/``, numbers whose name begins with ``probe_`` to ``probe/``.
        """
        found = {f"selfplay/{k}": float(v) for k, v in msgspec.to_builtins(env.history[-1]).items() if v is not None}
        found |= {f"exact/depth_{d}": float(p) for d, p in self._pending.get("exact", {}).items()}
        probe = {k.removeprefix("probe_"): v for k, v in self._pending.items() if k.startswith("probe_")}
        return found | {f"probe/{k}": float(v) for k, v in probe.items() if v is not None}

    def _report(self, step: int, logs: Mapping[str, float], env: Practice) -> None:
        done = step // self.rule.updates.steps - 1
        if done % self.settings.rows.play_every:
            return
        extra = {"loss": logs["loss"], "lr": logs.get("learning_rate"), "grad_norm": logs.get("grad_norm")}
        if self.rule is self.settings:
            extra |= {k.replace("/", "_"): v for k, v in logs.items() if k.startswith(("value/", "policy/"))}
            extra["token_entropy"] = logs.get("entropy")
        env.report(done, {**extra, **self._pending})

    def _complete(self, path: Path, env: Practice, maker: RowMaker) -> None:
        """The last file of a checkpoint: where it is, the checkpoint is whole."""
        reviews = env.gather([maker.review.state()])  # each process reviews what it played itself
        if env.rank == 0:
            if self.critic is not None:
                self.critic.head.save(path)
            write_json(path / COMPLETE, {"practice": env.state(), "reviews": reviews})

    def _restore(self, path: Path, env: Practice, maker: RowMaker) -> None:
        state = read_json(path / COMPLETE)
        if (saved := len(state["reviews"])) != env.world:
            raise DreamEnvsError(f"{path} was written by {saved} processes, these are {env.world}: start {saved} again")
        if self.critic is not None:
            self.critic.head.restore(path)
        env.restore(state["practice"])
        maker.review.restore(state["reviews"][env.rank])


def newest_checkpoint(folder: Path, remove: bool = True) -> Path | None:
    """The newest checkpoint that was written to its end; unfinished ones are left out, and removed if ``remove``.

    Raises:
        DreamEnvsError: if the folder holds something that is no checkpoint of ours.
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
    return max(found)[1] if found else None
