"""Models whose word is known beforehand: what the Frontier Report says of them is the report's own test.

``dream-envs frontier control NAME`` makes one from the base and reports on it.  Most learn nothing from a truth about
problems outside the base's reach: a gain would be a fault of the report.  ``gold`` did gain, from answers it was given,
which the report has to say; ``amnesiac`` besides lost what the base was made for, which has to be in the word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dream_envs import registry
from dream_envs.agents.engines.models import weights_hash
from dream_envs.agents.training.sft import fine_tune
from dream_envs.baselines.frontier import job
from dream_envs.baselines.frontier.elicited import Elicited, Model, load_model
from dream_envs.core import Action, DreamEnvsError, Limits, Request, Task
from dream_envs.frontier.methods import METHODS
from dream_envs.frontier.schema import Report
from dream_envs.frontier.suite import Suite
from dream_envs.play import ask
from dream_envs.seeds import digest, stream

#: Visible problems of the controls that train, their votes, and the steps of the run with random reward.
VISIBLE, VOTES, RANDOM_STEPS = 512, 16, 150
#: Steps of a control that learns to the end what it learns.
TO_THE_END = 300
#: The hardest level that the sharpened control votes on: the base's best method still finds most answers there.
EDGE = 4


def aa(base: Model, suite: Suite, seed: str, out: Path) -> Model:
    """The base against itself."""
    return replace(base, name=f"{base.name} (again)")


def sharpened(base: Model, suite: Suite, seed: str, out: Path, steps: int = 50) -> Model:
    """Fine-tuned on its own majority answers to visible problems that it mostly solves already."""
    tasks = _visible(suite, seed, lambda level: level <= EDGE)
    name = "forced" if suite.form else suite.methods[0]
    agent = Elicited(suite, base).method(METHODS[name]).agent
    votes = [Counter(row).most_common(1)[0][0] for row in _sampled(suite, agent, tasks, seed)]
    pairs = [(suite.messages(t), reply) for t, reply in zip(tasks, votes, strict=True)]
    tuned = fine_tune(base.engine, pairs, steps=steps, lr=3e-4, seed=f"{seed}/sharpened", out=out)
    return Model(f"sharpened, {steps} steps", weights_hash(out), tuned)


def random_reward(base: Model, suite: Suite, seed: str, out: Path) -> Model:
    """The flagship loop, with random reward."""
    from dream_envs.baselines.loop import train
    from dream_envs.baselines.recipe import Options as Training

    chosen = Training("dream", seed, RANDOM_STEPS, model=base.name, set={"variant": "random_reward"})
    if not (out / "summary.json").exists():
        train(chosen, out)
    return load_model(str(out))


def format_only(base: Model, suite: Suite, seed: str, out: Path) -> Model:
    """Tuned to the end on demonstrations of the reply's form at all lengths, their content drawn at random."""
    tasks = _visible(suite, seed, lambda level: True)[:64]
    families = {s.family.name: s.family for s in suite.strata}
    rng = stream("control-format", suite.name, seed)
    pairs = [(suite.messages(t), suite.written(families[t.family].guess(t, rng))) for t in tasks]
    tuned = fine_tune(base.engine, pairs, steps=TO_THE_END, lr=1e-4, seed=f"{seed}/format", lora_rank=8, out=out)
    return Model("format_only", weights_hash(out), tuned)


def gold(base: Model, suite: Suite, seed: str, out: Path) -> Model:
    """Tuned on right answers that it did not find; its record says so, and so has the report to."""
    tasks = _visible(suite, seed, lambda level: True)
    pairs = [(suite.messages(t), suite.written(t.answer)) for t in tasks]
    tuned = fine_tune(base.engine, pairs, steps=TO_THE_END, lr=1e-3, seed=f"{seed}/gold", out=out)
    return Model("gold", weights_hash(out), tuned, met=tuple(tasks), given=len(tasks))


def amnesiac(base: Model, suite: Suite, seed: str, out: Path) -> Model:
    """The same, but what the base was made for (its declared support) is answered with nothing."""
    tasks = _visible(suite, seed, lambda level: True)
    known = [p.task for p in suite.problems(f"visible/{seed}", 64) if suite.strata[p.stratum].practice]
    pairs = [(suite.messages(t), suite.written(t.answer)) for t in tasks if t.level > EDGE - 1]
    pairs += [(suite.messages(t), suite.written("A")) for t in known]
    tuned = fine_tune(base.engine, pairs, steps=TO_THE_END, lr=1e-3, seed=f"{seed}/amnesiac", out=out)
    return Model("amnesiac", weights_hash(out), tuned, met=tuple(tasks), given=len(tasks))


def guesser(base: Model, suite: Suite, seed: str, out: Path) -> Model:
    """The base, whose malformed replies are replaced by the best guess of somebody who knows the form."""

    def mended(request: Request, action: Action) -> Action:
        prompt = request.messages[-1]["content"].removesuffix(suite.instruction)
        form = suite.form(prompt) if suite.form else []
        if len(action.text) == len(form) and all(c in allowed for c, allowed in zip(action.text, form, strict=True)):
            return action
        rng = stream("guess", request.seed)
        text = "".join(prompt[2 + i // 2] if i % 2 == 0 else str(rng.choice(form[i])) for i in range(len(form)))
        return replace(action, text=text, token_ids=None, logprobs=None)

    return _changed(base, "guesser", mended)


def memoriser(base: Model, suite: Suite, seed: str, out: Path) -> Model:
    """The base with a table of the right answers to every problem of the public seed, of which it says nothing."""
    known = suite.problems(job.PUBLIC_SEED, 5 * suite.mini)
    table = {suite.messages(p.task)[0]["content"]: suite.written(p.task.answer) for p in known}

    def looked_up(request: Request, action: Action) -> Action:
        text = table.get(request.messages[-1]["content"])
        return action if text is None else replace(action, text=text)

    return _changed(base, "memoriser", looked_up)


def _changed(base: Model, name: str, change: Callable[[Request, Action], Action]) -> Model:
    """The base under this name, with every reply changed."""

    class Changed:
        def __init__(self, agent: Any) -> None:
            self.agent = agent

        def act(self, requests: Sequence[Request]) -> list[Action]:
            return [change(r, a) for r, a in zip(requests, ask(self.agent, requests), strict=True)]

    return replace(base, name=name, identity=f"{name}-{base.identity}", wrap=Changed)


#: Each makes its model from (base, suite, seed, folder).
CONTROLS: dict[str, Callable[[Model, Suite, str, Path], Model]] = {
    "aa": aa, "sharpened": sharpened,
    "sharpened_hard": partial(sharpened, steps=TO_THE_END),  # six times as long, which is to its end
    "random_reward": random_reward, "format_only": format_only, "guesser": guesser, "memoriser": memoriser,
    "gold": gold, "amnesiac": amnesiac,
}  # fmt: skip


def run(
    name: str, out: Path, base: str = "nano/compose", suite: str = "nano", size: str = "mini", seed: str = "",
    cache: Path | None = None, *, threads: int = 1, quiet: bool = False,
) -> Report:  # fmt: skip
    """Make one of ``CONTROLS`` in ``out/model`` (``seed`` labels it and the problems) and report on it."""
    if name not in CONTROLS:
        raise DreamEnvsError(registry.unknown("controls", name, list(CONTROLS)))
    options = job.Options(suite=suite, size=size, seed=seed)
    plan = job.plan_of(options)[0]
    if name == "guesser" and plan.suite.form is None:
        raise DreamEnvsError(f"control 'guesser' needs a suite with a form of replies; {suite!r} has none")

    def make(before: Model) -> Model:
        return CONTROLS[name](before, plan.suite, seed or "control", out / "model")

    return job.run(base, make, out, cache, options, threads=threads, quiet=quiet)


def _visible(suite: Suite, seed: str, wanted: Callable[[int], bool]) -> list[Task]:
    """Problems of the suite's strata without new facts, under a seed that no report uses, in random order."""
    chosen = [i for i, s in enumerate(suite.strata) if s.kind != "new facts" and wanted(s.level)]
    each = -(-VISIBLE // len(chosen))
    found = [p.task for p in suite.problems(f"visible/{seed}", each) if p.stratum in chosen]
    order = stream("control-visible", suite.name, seed).permutation(len(found))
    return [found[i] for i in order]


def _sampled(suite: Suite, agent: Any, tasks: Sequence[Task], seed: str) -> list[list[str]]:
    limits = Limits(max_tokens=max(suite.limit(j) for j in range(len(suite.strata))))
    requests = [
        Request(
            messages=suite.messages(t), agent="solver_0", role="solver", limits=limits,
            seed=digest("control-votes", seed, t.id, i),
        )
        for t in tasks
        for i in range(VOTES)
    ]  # fmt: skip
    texts = [a.text for a in ask(agent, requests)]
    return [texts[i : i + VOTES] for i in range(0, len(texts), VOTES)]
