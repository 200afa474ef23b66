"""The draws of a Frontier Report on workers: each has the models, and answers a share of every call's requests.

A draw hangs on its request's seed alone, so that the report is that of one process.  What is asked for, graded, counted
and kept stays with the caller, and so do exact probabilities, the replies that few-shot prompts show, and copies of the
base that are trained (the envelope ``training``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from msgspec.structs import replace

from dream_envs.agents.engines.local import keep_memory
from dream_envs.baselines.frontier.elicited import Elicited, Model, load_model
from dream_envs.core import Action, Agent, DreamEnvsError, Request
from dream_envs.frontier.methods import MethodSpec
from dream_envs.frontier.suite import suite
from dream_envs.play import ask
from dream_envs.workers import Pool

#: Requests of one call to a worker at least: fewer are not worth a batch of their own.
LEAST = 32


class _Share:
    """In a worker: the models by place, and their methods as they come up."""

    def __init__(self, names: Sequence[str], identities: Sequence[str], chosen: str, device: str, threads: int) -> None:
        if threads:
            torch.set_num_threads(threads)
        keep_memory()
        models = [load_model(name, device) for name in names]
        for name, model, identity in zip(names, models, identities, strict=True):
            if model.identity != identity:
                raise DreamEnvsError(f"{name!r} is another model on a worker's machine: give a folder that all share")
        self._models = [Elicited(suite(chosen), model) for model in models]
        self._agents: dict[tuple[int, MethodSpec, bool], Agent] = {}

    def act(
        self, place: int, spec: MethodSpec, quick: bool, answers: Mapping[str, str], requests: Sequence[Request]
    ) -> list[Action]:
        """Answer requests as this model by this method; ``answers`` by prompt, for a ``quick`` one."""
        self._models[place].answers.update(answers)
        key = place, spec, quick
        if key not in self._agents:
            method = self._models[place].method(spec)
            self._agents[key] = method.quick if quick and method.quick is not None else method.agent
        return ask(self._agents[key], requests)


class _Remote:
    """A method's agent whose requests the workers answer."""

    def __init__(
        self, pool: Pool, place: int, spec: MethodSpec, answers: Callable[[], Mapping[str, str]] | None
    ) -> None:
        self.pool, self.place, self.spec, self.answers = pool, place, spec, answers

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Two shares a worker, so that nobody waits long for the slowest."""
        size = max(LEAST, -(-len(requests) // (2 * self.pool.size)))
        shares = [requests[at : at + size] for at in range(0, len(requests), size)]
        work = [(self.place, self.spec, self.answers is not None, self._known(s), s) for s in shares]
        return [action for actions in self.pool.map("act", work) for action in actions]

    def _known(self, requests: Sequence[Request]) -> dict[str, str]:
        if self.answers is None:
            return {}
        known = self.answers()
        prompts = {r.messages[-1]["content"].removesuffix(self.spec.suffix) for r in requests}
        return {prompt: known[prompt] for prompt in prompts}


@contextmanager
def spread(
    workers: str, names: Sequence[str], models: Sequence[Model], chosen: str, device: str, threads: int
) -> Iterator[list[Model]]:
    """The models, answering on workers for so long; as they are where ``workers`` is empty.

    ``names``: what each is loaded by, here and there.  ``chosen``: the suite's name.
    """
    if not workers:
        yield list(models)
        return
    make = functools.partial(_Share, list(names), [m.identity for m in models], chosen, device, threads)
    with Pool(workers, make) as pool:
        yield [
            replace(model, remote=functools.partial(_Remote, pool, place), shares=pool.size)
            for place, model in enumerate(models)
        ]
