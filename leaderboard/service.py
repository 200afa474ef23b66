"""The trainer as a service for an entry that trains the policy itself: sample, verify, step, and nothing else.

The calls are those of hosted training services (sample, forward and backward, optimiser step, save), over problems that
a verifier judges.  An entry names its samples by number, so that it cannot train on a text of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dream_envs.agents.engines.decode import Sample
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.meter import METER
from dream_envs.core import DreamEnvsError, Reject, Task
from dream_envs.leaderboard import wire
from dream_envs.leaderboard.budget import Budget, Used
from dream_envs.leaderboard.remote import Remote
from dream_envs.seeds import digest, stream
from dream_envs.tasks.composition import Composition

#: What one call may ask for, and samples and problems that are remembered.
MOST, REMEMBERED, KEPT, DEEPEST = 4096, 200_000, 8, 10


class Service:
    """Answers an entry's ``train(policy)``.

    Args:
        agent: the policy; its weights change.
        world: the label of the hidden world.
        reserved: ids of problems that are kept for measuring.
        budget: when it is over.
        used: the meter.
        look: called with (step, agent) behind every call, as a run's own would be.
        seed: the label of everything random.
    """

    def __init__(
        self,
        agent: LocalAgent,
        world: str,
        reserved: Sequence[str],
        budget: Budget,
        used: Callable[[], Used],
        look: Callable[[int, LocalAgent], Any],
        seed: str,
    ) -> None:
        self.agent, self.budget, self.used, self.look, self.seed = agent, budget, used, look, seed
        self.family = Composition(world=world, max_level=DEEPEST)
        self.reserved = frozenset(reserved)
        agent.model.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(agent.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
        self.tasks: list[Task] = []
        self.known: dict[str, int] = {}
        self.samples: list[tuple[list[int], list[int]]] = []
        self.kept = {"base": self._weights()}
        self.calls = self.steps = 0

    def serve(self, remote: Remote, patience: float) -> None:
        """Until the entry's ``train`` has returned, or the budget is spent and it was told so."""
        # The seed itself names the world.
        wire.send(remote.fds[1], {"call": "train", "with": {"seed": f"{digest('guest', self.seed):016x}"}})
        while True:
            said = wire.receive(remote.fds[0], patience)
            if not isinstance(said, dict) or ("ask" not in said and "ok" not in said):
                error = said.get("error") if isinstance(said, dict) else said
                raise DreamEnvsError(f"the entry's train: {error!s:.500}")
            if "ask" not in said:
                return
            wire.send(remote.fds[1], self._answer(said))

    def _answer(self, said: dict[str, Any]) -> dict[str, Any]:
        name, words = said["ask"], said.get("with", {})
        if name != "used" and not self.budget.left(self.used()):
            return {"spent": True}
        if name not in ("problems", "propose", "mutate", "solve", "step", "keep", "back", "used"):
            return {"error": f"no call {name!r:.40}"}
        self.calls += 1
        try:
            found = getattr(self, f"_{name}")(**words)
        except (DreamEnvsError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            return {"error": f"{name}: {error}"[:300]}
        self.look(self.steps, self.agent)
        return {"ok": found}

    def _rng(self) -> np.random.Generator:
        return stream(self.seed, "service", self.calls)

    def _problems(self, level: int, count: int) -> list[dict[str, Any]]:
        _whole("count", count, 1, MOST)
        _whole("level", level, 1, DEEPEST)
        rng, found = self._rng(), list[dict[str, Any]]()
        for _ in range(16 * count):
            task = self.family.generate(rng, level)
            if task.id not in self.reserved:
                found.append(self._told(task))
            if len(found) == count:
                return found
        raise DreamEnvsError(f"level {level} has too few problems that are not kept for measuring")

    def _propose(self, count: int) -> list[dict[str, Any]]:
        _whole("count", count, 1, MOST)
        return [self._proposed(number) for number in self._sampled([self.family.brief()] * count)]

    def _proposed(self, found: tuple[int, str, Sample]) -> dict[str, Any]:
        number, text, sample = found
        parsed = self.family.parse(text)
        if isinstance(parsed, Task) and parsed.id in self.reserved:
            parsed = Reject("held_out")
        rejected = isinstance(parsed, Reject)
        task = None if isinstance(parsed, Reject) else self._told(parsed)["id"]
        return {**_sample(number, text, sample), "task": task, "reject": parsed.code if rejected else ""}  # type: ignore[union-attr]

    def _mutate(self, task: int) -> dict[str, Any] | None:
        _whole("task", task, 0, len(self.tasks) - 1)
        made = self.family.mutate(self.tasks[task], self._rng())
        return None if made is None or made.id in self.reserved else self._told(made)

    def _solve(self, tasks: list[int], attempts: int) -> list[list[dict[str, Any]]]:
        _whole("attempts", attempts, 1, MOST)
        _whole("tasks times attempts", len(tasks) * attempts, 1, MOST)
        for task in tasks:
            _whole("task", task, 0, len(self.tasks) - 1)
        asked = [task for task in tasks for _ in range(attempts)]
        found = []
        for task, (number, text, sample) in zip(
            asked, self._sampled([self.tasks[t].prompt for t in asked]), strict=True
        ):
            value = self.family.verify(self.tasks[task], text).value
            found.append({**_sample(number, text, sample), "task": task, "reward": value})
        return [found[i : i + attempts] for i in range(0, len(found), attempts)]

    def _step(self, rows: list[list[float]], lr: float) -> float:
        _whole("rows", len(rows), 1, MOST)
        if not 0 < lr <= 1 or not all(np.isfinite(w) for _, w in rows):
            raise DreamEnvsError(f"lr={lr:g} and finite weights: lr above 0, up to 1")
        some = [(self.samples[_whole("sample", int(i), 0, len(self.samples) - 1)], w) for i, w in rows if w]
        if not some:
            return 0.0
        prompts, replies = [p for (p, _), _ in some], [r for (_, r), _ in some]
        logits = self.agent.read(prompts, replies).logits
        width = max(map(len, replies))
        at = torch.tensor(
            [[len(p) - 1 + min(t, len(r) - 1) for t in range(width)] for p, r in zip(prompts, replies, strict=True)]
        )
        ids = torch.tensor([[*r, *[0] * (width - len(r))] for r in replies])
        mask = torch.tensor([[t < len(r) for t in range(width)] for r in replies])
        logp = torch.log_softmax(logits.gather(1, at[..., None].expand(-1, -1, logits.size(-1))), -1)
        logp = logp.gather(-1, ids[..., None])[..., 0] * mask
        weights = torch.tensor([w for _, w in some], dtype=logp.dtype)
        loss = -(weights[:, None] * logp).sum() / mask.sum()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.agent.model.parameters(), 1.0)
        self.optimizer.step()
        METER.trained += int(mask.sum())
        self.steps += 1
        return float(loss.detach())

    def _keep(self, name: str) -> None:
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= 40
            or name == "base"
            or (name not in self.kept and len(self.kept) > KEPT)
        ):
            raise DreamEnvsError(f"name {str(name)!r:.60}: 1 to 40 characters, at most {KEPT} names")
        self.kept[name] = self._weights()

    def _back(self, name: str) -> None:
        if name not in self.kept:
            raise DreamEnvsError(f"no weights {str(name)!r:.60}: {', '.join(self.kept)}")
        self.agent.model.load_state_dict(self.kept[name])

    def _used(self) -> dict[str, int]:
        used, budget = self.used(), self.budget
        return {
            "samples": used.samples, "tokens": used.trained, "steps": used.steps,
            "samples_left": max(0, budget.samples - used.samples), "tokens_left": max(0, budget.tokens - used.trained),
            "steps_left": max(0, budget.steps - used.steps),
        }  # fmt: skip

    def _weights(self) -> dict[str, torch.Tensor]:
        return {k: v.detach().clone() for k, v in self.agent.model.state_dict().items()}

    def _told(self, task: Task) -> dict[str, Any]:
        """The problem by its number; the same problem has the same one."""
        if task.id not in self.known:
            if len(self.tasks) >= REMEMBERED:
                raise DreamEnvsError(f"{REMEMBERED} problems, no more")
            self.known[task.id] = len(self.tasks)
            self.tasks.append(task)
        return {"id": self.known[task.id], "level": task.level, "prompt": task.prompt}

    def _sampled(self, prompts: Sequence[str]) -> list[tuple[int, str, Sample]]:
        ids = [list(self.agent.encode([{"role": "user", "content": p}])) for p in prompts]
        seeds = np.array([digest(self.seed, "service", self.calls, i) for i in range(len(ids))], dtype=np.uint64)
        limits = np.full(len(ids), self.family.max_reply_tokens)
        self.agent.model.eval()
        with torch.inference_mode():
            found = self.agent.sample(ids, seeds, limits)
        first = len(self.samples)
        if first + len(ids) > 8 * REMEMBERED:
            raise DreamEnvsError(f"{8 * REMEMBERED} samples, no more")
        self.samples += [(p, list(s.ids)) for p, s in zip(ids, found, strict=True)]
        texts = self.agent.decode([s.ids for s in found])
        return [(first + i, text, s) for i, (text, s) in enumerate(zip(texts, found, strict=True))]


def _sample(number: int, text: str, sample: Sample) -> dict[str, Any]:
    return {"id": number, "text": text, "tokens": len(sample.ids), "logprob": float(sum(sample.logprobs))}


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DreamEnvsError(f"{name}={value!r:.40}: a whole number from {low} to {high}")
    return value
