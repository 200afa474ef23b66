"""A pool of past selves: what a policy plays against, beside itself, so that it does not forget how to beat them.

Every ``every`` rounds the trainable weights (LoRA adapters, or all of a small model) are kept under a new name,
``policy@N``; where each role has an adapter of its own, ``ROLE@N`` for each, rated apart.  In a share of the episodes
one learning role is played by a past self, chosen by rating; its turns carry its name and are not trained on.  Ratings
are Elo's, from who earned more in an episode.

Sources: league training (AlphaStar, Nature 575, 2019: prioritised fictitious self-play); fictitious self-play
(Heinrich et al., 2015).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from dream_envs.agents.training.settings import PoolSettings
from dream_envs.core import Action, DreamEnvsError, Episode, Request
from dream_envs.seeds import stream

FILE = "pool.safetensors"
_START = 1000.0
_SCALE = 400.0  # Elo points at which the stronger one is ten times as likely to win


class AdapterPool:
    """The past selves of one policy.

    Args:
        engine: the policy's ``LocalAgent``; what is trainable of its model is what a version holds.
        settings: see ``PoolSettings``.
        roles: the roles that the policy learns; one of them at most is given to a past self in an episode.
        seed: the label of who plays.
        sampler: a ``Published`` engine that samples in place of ``engine``; None: the engine, one version a call.
    """

    def __init__(
        self, engine: Any, settings: PoolSettings, roles: Iterable[str], seed: str, sampler: Any = None
    ) -> None:
        self.engine, self.settings, self.roles, self.seed = engine, settings, tuple(sorted(roles)), seed
        self.sampler = sampler
        self.ratings: dict[str, float] = {}
        self.rounds = self.made = 0
        #: What the policy is rated as it is now, by the names that its versions have; and whose versions a role plays.
        self.kind = {role: role if role in engine.adapters else "policy" for role in self.roles}
        self.now = dict.fromkeys(sorted(set(self.kind.values())), _START)
        self._weights: dict[str, dict[str, torch.Tensor]] = {}

    def opponent(self, episode: str) -> tuple[str, str]:
        """The past self of this episode and the role that it plays; ("", "") where the policy plays all."""
        rng = stream("pool", self.seed, self.rounds, episode)
        if not episode or not self.ratings or rng.random() >= self.settings.share:
            return "", ""
        role = self.roles[int(rng.integers(len(self.roles)))]
        names = [n for n in self.ratings if n.rpartition("@")[0] == self.kind[role]]
        strength = self.settings.strength * np.array([self.ratings[n] - _START for n in names]) / _SCALE
        weights = np.exp(strength - strength.max())
        return names[int(rng.choice(len(names), p=weights / weights.sum()))], role

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Answer as the policy, or as the past self whose seat it is."""
        chosen = [self.opponent(r.episode) for r in requests]
        names = [name if role == r.role else "" for (name, role), r in zip(chosen, requests, strict=True)]
        found: dict[int, Action] = {}
        if self.sampler is not None:
            worn = [self.sampler.worn(r.role, name) for name, r in zip(names, requests, strict=True)]
            found = dict(enumerate(self.sampler.engine.act_as(worn, requests)))
        else:
            for name in dict.fromkeys(names):
                places = [i for i, own in enumerate(names) if own == name]
                with self._as(name):
                    found |= dict(zip(places, self.engine.act([requests[i] for i in places]), strict=True))
        return [msgspec.structs.replace(found[i], author=names[i]) for i in range(len(requests))]

    def absorb(self, episodes: Sequence[Episode]) -> None:
        """Rate who met whom in a round; keep the policy as it is now where it is time."""
        for episode in sorted(episodes, key=lambda e: e.index):
            authors = {t.agent: t.author for t in episode.turns}
            earned: dict[bool, list[float]] = {False: [], True: []}
            for agent, score in episode.scores.items():
                if agent in authors and score.status == "ok":
                    earned[bool(authors[agent])].append(score.value)
            name = next((a for a in authors.values() if a in self.ratings), "")
            if name and earned[False] and earned[True]:
                mine, theirs = np.mean(earned[False]), np.mean(earned[True])
                own = {self.kind[t.role] for t in episode.turns if not t.author and t.role in self.kind}
                self._rate(name, sorted(own), 0.5 * float(mine >= theirs) + 0.5 * float(mine > theirs))
        self.rounds += 1
        if self.rounds % self.settings.every == 0:
            self.keep()

    def _rate(self, name: str, own: Sequence[str], won: float) -> None:
        """A past self met the policy as it is now, in roles of these kinds; ``won``: by the policy, 0 to 1."""
        if not own:
            return
        mine = float(np.mean([self.now[kind] for kind in own]))
        change = self.settings.step * (won - 1 / (1 + 10 ** ((self.ratings[name] - mine) / _SCALE)))
        for kind in own:
            self.now[kind] += change
        self.ratings[name] -= change

    def keep(self) -> None:
        """Keep the policy as it is now under a new name (one for each role's adapter); the oldest go."""
        self.made += 1
        for kind, rating in self.now.items():
            name = f"{kind}@{self.made}"
            self._weights[name] = {n: p.detach().clone() for n, p in self._trainable(kind)}
            self.ratings[name] = rating
            if self.sampler is not None:
                self.sampler.keep(kind, name)
            same = [n for n in self.ratings if n.rpartition("@")[0] == kind]
            if len(same) > self.settings.size:
                self.remove(same[0])

    def remove(self, name: str) -> None:
        """Take a past self out of the pool."""
        if name not in self.ratings:
            raise DreamEnvsError(f"{name!r} is not in the pool: {', '.join(self.ratings) or 'it is empty'}")
        del self.ratings[name], self._weights[name]

    def _trainable(self, kind: str) -> list[tuple[str, torch.nn.Parameter]]:
        """What a version of this kind holds: one role's adapter, or all that is trainable."""
        own = self.engine.adapters.get(kind)
        named = self.engine.model.named_parameters()
        return [(n, p) for n, p in named if (p.requires_grad if own is None else "lora_" in n and f".{own}." in n)]

    @contextmanager
    def _as(self, name: str) -> Iterator[None]:
        """The engine's weights are those of a past self for so long."""
        if not name:
            yield
            return
        places = dict(self._trainable(name.rpartition("@")[0]))
        now = {n: p.detach().clone() for n, p in places.items()}
        try:
            self._put(places, self._weights[name])
            yield
        finally:
            self._put(places, now)

    @torch.no_grad()
    def _put(self, places: dict[str, torch.nn.Parameter], weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in places.items():
            parameter.copy_(weights[name])

    def state(self) -> dict[str, Any]:
        """JSON-ready, without the weights."""
        return {"ratings": dict(self.ratings), "now": dict(self.now), "rounds": self.rounds, "made": self.made}

    def save(self, folder: Path) -> None:
        """Write the weights of all versions."""
        from safetensors.torch import save_file

        if self._weights:
            flat = {f"{v}/{n}": t.contiguous() for v, own in self._weights.items() for n, t in own.items()}
            save_file(flat, folder / FILE)

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """Go on from a saved state and the weights beside it."""
        from safetensors.torch import load_file

        self.ratings = dict(state["ratings"])
        self.now, self.rounds, self.made = dict(state["now"]), state["rounds"], state["made"]
        flat = load_file(folder / FILE) if self.ratings else {}
        self._weights = {v: {} for v in self.ratings}
        for key, tensor in flat.items():
            version, _, name = key.partition("/")
            if version in self._weights:
                self._weights[version][name] = tensor
        if self.sampler is not None:
            for name in self.ratings:
                with self._as(name):
                    self.sampler.keep(name.rpartition("@")[0], name)

    def metrics(self) -> dict[str, float]:
        """Ratings of the policy and of its past selves, for the log."""
        return {f"pool/{name}": value for name, value in {**self.now, **self.ratings}.items()}
