"""The Frontier Report of two models: loads them, elicits the base, carries out the protocol and writes the report.

``dream-envs frontier --base nano/compose --trained runs/dream`` measures how far the run went past its base.  A report
goes on where it was killed, and every report on the same base shares the base's draws (``--cache``).
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import msgspec
import numpy as np

from dream_envs.agents.local import LocalAgent, resolve
from dream_envs.baselines.nano.recipe import weights_hash
from dream_envs.core import Agent, DreamEnvsError, Message, Task, TaskFamily
from dream_envs.curriculum.store import read_challenges
from dream_envs.frontier import arms as arm_table
from dream_envs.frontier import exact as ex
from dream_envs.frontier.arms import Arm
from dream_envs.frontier.draws import Asker, Book, book_path
from dream_envs.frontier.panels import Sources, report_data
from dream_envs.frontier.protocol import Plan, Side, Tick, measure
from dream_envs.frontier.suite import Problem, Suite, suite
from dream_envs.runs import write_json
from dream_envs.seeds import stream

SHOTS = 4


class Model(msgspec.Struct):
    """A model under report: its name, the hash that its draws are kept under, the agent, and the run it came from."""

    name: str
    identity: str
    agent: Agent
    run: Path | None = None

    @property
    def engine(self) -> LocalAgent:
        """The agent as a local engine.

        Raises:
            DreamEnvsError: if it is another kind of agent.
        """
        if not isinstance(self.agent, LocalAgent):
            raise DreamEnvsError(f"{self.name!r} is no local model: only plain arms can be asked of it")
        return self.agent


def load_model(name: str, device: str = "cpu") -> Model:
    """A model by its name, its folder, or the folder of a run that trained it.

    Raises:
        DreamEnvsError: if there is none, or the run has not ended.
    """
    run = Path(name)
    if (run / "run.json").is_file():
        folder = run / "checkpoints" / "final"
        if not (folder / "model.safetensors").is_file():
            raise DreamEnvsError(
                f"{name} is a run without checkpoints/final: let it end first (dream-envs dream --resume)"
            )
        return Model(name, weights_hash(folder), LocalAgent(str(folder), device=device), run)
    folder = Path(resolve(name))
    agent = LocalAgent(name, device=device)
    identity = weights_hash(folder) if (folder / "model.safetensors").is_file() else _fingerprint(agent)
    return Model(name, identity, agent)


def _fingerprint(agent: LocalAgent) -> str:
    """16 hex digits of the loaded weights, for models that are several files or come from a hub's cache."""
    import hashlib

    total = hashlib.sha256()
    for key, value in sorted(agent.model.state_dict().items()):
        total.update(key.encode() + value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return total.hexdigest()[:16]


def practised(run: Path | None) -> set[str]:
    """Ids of the problems that a run met; none for a model without a run."""
    path = run / "challenges.jsonl" if run is not None else None
    if path is None or not path.exists():
        return set()
    return {challenge.id for challenge in read_challenges(path)}


class TwoTurns:
    """Asks twice: the first reply is shown back with ``followup`` behind it, and the second reply counts."""

    def __init__(self, agent: Agent, followup: str) -> None:
        self.agent, self.followup = agent, followup

    def act(self, requests: Sequence[Any]) -> list[Any]:
        """Two batched calls; tokens of both are counted."""
        from dream_envs.acting import ask

        opened = ask(self.agent, requests)
        again = [
            msgspec.structs.replace(
                r,
                messages=[
                    *r.messages,
                    {"role": "assistant", "content": a.text},
                    {"role": "user", "content": self.followup},
                ],
                seed=(r.seed * 0x9E3779B97F4A7C15 + 1) % 2**64,
            )
            for r, a in zip(requests, opened, strict=True)
        ]
        return [_both(a, b) for a, b in zip(opened, ask(self.agent, again), strict=True)]


def _both(first: Any, second: Any) -> Any:
    tokens = first.usage.completion_tokens + second.usage.completion_tokens
    status = first.status if first.status != "ok" else second.status
    return msgspec.structs.replace(
        second, usage=msgspec.structs.replace(second.usage, completion_tokens=tokens), status=status
    )


class Elicited:
    """The base of a suite, as askers: one a pre-registered arm.

    Args:
        suite: the suite.
        model: the base.
        seed: label of what the mechanisms draw; the arms of a base do not depend on the report.
    """

    def __init__(self, suite: Suite, model: Model) -> None:
        self.suite, self.model = suite, model
        self.dev = suite.problems("elicitation", 8)
        self.answers: dict[str, str] = {}  # by prompt, of the problems that are drawn
        self._form = functools.lru_cache(maxsize=4096)(suite.form) if suite.form else None

    def examples(self, family: TaskFamily) -> list[Task]:
        """Solved development problems of a family, easiest first, for the arms that show some."""
        mine = [p.task for p in self.dev if self.suite.strata[p.stratum].family.name == family.name]
        mine = sorted(mine, key=lambda t: t.level)[: 4 * SHOTS]
        order = stream("frontier-shots", self.suite.name, family.name).permutation(len(mine))
        return [mine[i] for i in order[:SHOTS]]

    def asker(self, arm: Arm) -> Asker:
        """This arm, ready to ask."""
        shots = {s.family.name: self.examples(s.family) for s in self.suite.strata} if arm.shots else {}

        def messages(problem: Problem) -> list[Message]:
            family = self.suite.strata[problem.stratum].family.name
            return arm.messages(self.suite, problem.task, shots.get(family, ()))

        agent = self._agent(arm)
        return Asker(
            arm.name, agent, messages, self._right, lambda p: self.suite.limit(p.stratum), self._quick(agent, arm)
        )

    def vetoes(self, arms: Sequence[Arm], tick: Tick | None = None) -> list[Asker]:
        """The expensive arms, made now."""
        made = []
        for arm in arms:
            if tick:
                tick(f"making arm {arm.name}", 0, 1)
            made.append(self.asker(arm))
        return made

    def plain(self) -> Asker:
        """The trained model's one configuration: the suite's first arm."""
        return self.asker(arm_table.ARMS[self.suite.arms[0]])

    def _right(self, problem: Problem, text: str) -> bool:
        return self.suite.strata[problem.stratum].family.verify(problem.task, self.suite.reply(text)).value == 1.0

    def _agent(self, arm: Arm) -> Agent:
        if not isinstance(self.model.agent, LocalAgent):
            return self.model.agent
        engine = self.model.engine.decoding(temperature=arm.temperature, top_p=arm.top_p, min_p=arm.min_p)
        if arm.how == "forced":
            if self._form is None:
                raise DreamEnvsError(f"arm {arm.name!r}: suite {self.suite.name!r} has no form to force; leave it out")
            form = self._form
            return engine.constrained(lambda request: form(request.messages[-1]["content"]))
        if arm.how == "two_turns":
            return TwoTurns(engine, arm.followup)
        if arm.how == "cot_decoding":
            from dream_envs.agents.cot_decoding import CotDecoding

            return CotDecoding(engine, k=ex.BRANCHES)
        if arm.how == "mechanism":
            from dream_envs.agents import elicit

            return elicit.make(arm.name, self.model.engine, self._solvable(), self.suite.strata[0].family, "elicit")
        return engine

    def _quick(self, agent: Agent, arm: Arm) -> Agent | None:
        if not self.suite.one_reply or not isinstance(agent, LocalAgent):
            return None
        return agent.stopping(lambda request: self.answers[request.messages[-1]["content"].removesuffix(arm.suffix)])

    def _solvable(self) -> list[Task]:
        """Development problems of the first family from its easiest strata: no new task information."""
        family = self.suite.strata[0].family.name
        mine = [p.task for p in self.dev if self.suite.strata[p.stratum].family.name == family]
        return sorted(mine, key=lambda t: t.level)[:32]


def exact_sources(suite: Suite, problems: Sequence[Problem], base: Model, trained: Model, arms: Sequence[Arm]) -> Any:
    """Exact log-probabilities where each problem has one accepted reply (compact Composition World); None elsewhere."""
    families = [suite.strata[p.stratum].family for p in problems]
    local = isinstance(base.agent, LocalAgent) and isinstance(trained.agent, LocalAgent)
    if not local or any(f.name != "composition" or f.notation != "compact" for f in families):
        return None
    before, after = ({d: np.zeros(len(problems)) for d in ex.DECODERS} for _ in range(2))
    for depth in sorted({p.task.level for p in problems}):
        at = [i for i, p in enumerate(problems) if p.task.level == depth]
        for model, table in ((base, before), (trained, after)):
            grammars = [_grammar(suite, problems[i], model.engine) for i in at]
            found = ex.exact(model.engine, [problems[i].task for i in at], grammars)
            for d in ex.DECODERS:
                table[d][at] = found[d]
    return before, after, _by_arm(suite, problems, base, arms)


def _grammar(suite: Suite, problem: Problem, engine: LocalAgent) -> ex.Grammar:
    assert suite.form is not None
    form = suite.form(problem.task.prompt)
    allowed = [[engine.token(text) for text in texts] for texts in form]
    return ex.Grammar([*allowed, [engine.ends[0]]], [i % 2 == 1 for i in range(len(form))] + [False])


def _by_arm(suite: Suite, problems: Sequence[Problem], base: Model, arms: Sequence[Arm]) -> np.ndarray:
    """``float64[A, N]``: log-probability of one draw of each arm."""
    elicited = Elicited(suite, base)
    engine = base.engine
    grammars = [_grammar(suite, p, engine) for p in problems]
    rows = []
    for arm in arms:
        asker = elicited.asker(arm)
        logits, ids = engine.completion_logits([asker.messages(p) for p in problems], [p.task.answer for p in problems])
        rows.append([ex.arm_log_probability(arm, x, y, g) for x, y, g in zip(logits, ids, grammars, strict=True)])
    return np.array(rows)


class Options(msgspec.Struct, frozen=True):
    """What a user may choose of a report."""

    suite: str = "nano"
    seed: str = "0"
    size: str = "mini"
    arms: tuple[str, ...] = ()
    vetoes: tuple[str, ...] | None = None
    exact: bool = True
    panels: bool = True


SIZES = {"mini": (1, 1024), "standard": (5, 8192)}


def plan_of(options: Options) -> tuple[Plan, list[Arm], list[Arm]]:
    """The plan, the arms and the expensive arms of these options.

    Raises:
        DreamEnvsError: for a size, suite or arm that there is not.
    """
    if options.size not in SIZES:
        raise DreamEnvsError(f"size={options.size!r}: one of {', '.join(SIZES)}")
    chosen = suite(options.suite)
    times, budget = SIZES[options.size]
    plan = Plan(chosen, options.seed, chosen.mini * times, budget=budget)
    vetoes = chosen.vetoes if options.vetoes is None else options.vetoes
    return plan, arm_table.chosen(options.arms or chosen.arms, False), arm_table.chosen(vetoes, True)


def frontier(
    base: Model, trained: Model, out: Path, cache: Path, options: Options | None = None, tick: Tick | None = None
) -> dict[str, Any]:
    """Measure, and write ``frontier.json`` and ``report.html`` into ``out``.

    Args:
        base: the base.
        trained: the trained model.
        out: the report's folder.
        cache: where draws are kept, for this and every other report.
        options: see ``Options``.
        tick: called with (what, done, of).

    Returns:
        The report's data (``frontier.json``, schema 2).
    """
    options = options or Options()
    began = time.perf_counter()
    plan, arms, vetoes = plan_of(options)
    met = practised(trained.run)
    elicited, asked = Elicited(plan.suite, base), Elicited(plan.suite, trained)
    protocol = msgspec.json.encode(
        [plan.suite.name, plan.suite.instruction, plan.suite.max_tokens, arms, vetoes]
    ).decode()
    books = [
        Book(book_path(cache, m.identity, protocol, side), side) for m, side in ((base, "base"), (trained, "trained"))
    ]
    try:
        drawn = plan.suite.problems(plan.seed, plan.per_stratum, met)
        elicited.answers = asked.answers = {plan.suite.messages(p.task)[0]["content"]: p.task.answer for p in drawn}
        sides = (
            Side(books[0], elicited.plain(), [elicited.asker(a) for a in arms], lambda: elicited.vetoes(vetoes, tick)),
            Side(books[1], asked.plain()),
        )
        found = measure(plan, *sides, avoid=met, tick=tick)
        exact = exact_sources(plan.suite, found.problems, base, trained, arms) if options.exact else None
        sources = Sources(
            base={"name": base.name, "weights_hash": base.identity},
            trained={
                "name": trained.name,
                "weights_hash": trained.identity,
                "run": str(trained.run) if trained.run else None,
            },
            arms=[*arms, *vetoes],
            exact=exact,
            drawn=sum(b.drawn for b in books),
        )
        extra: dict[str, Any] = {}
        data = report_data(plan, found, sources, extra, time.perf_counter() - began)
    finally:
        for book in books:
            book.close()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "frontier.json", data)
    return data


def cache_folder(cache: Path | None) -> Path:
    """Where draws are kept: ``cache``, or ``$DREAM_ENVS_CACHE``, or the user's cache folder."""
    if cache is not None:
        return cache
    home = os.environ.get("DREAM_ENVS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "dream-envs"
    )
    return Path(home) / "frontier"


def run(
    base: str,
    trained: str,
    out: Path,
    cache: Path | None = None,
    options: Options | None = None,
    *,
    device: str = "cpu",
    threads: int = 2,
    quiet: bool = False,
) -> dict[str, Any]:
    """Load both models, measure, write the page; what the verb does.

    Args:
        base: name or folder of the base.
        trained: name or folder of the trained model, or of its run.
        out: the report's folder.
        cache: see ``cache_folder``.
        options: see ``Options``.
        device: where the models run.
        threads: torch threads; 0 leaves torch's choice.
        quiet: no progress on the terminal.
    """
    import torch

    from dream_envs.report.frontier_page import write_frontier

    options = options or Options()
    plan_of(options)  # a wrong name is told before anything is loaded
    if threads:
        torch.set_num_threads(threads)
    before, after = load_model(base, device), load_model(trained, device)
    with progress(quiet) as tick:
        data = frontier(before, after, out, cache_folder(cache), options, tick)
    write_frontier(out)
    return data


class progress:
    """A progress line a phase, with time left; nothing if ``quiet``."""

    def __init__(self, quiet: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, disable=quiet)

    def __enter__(self) -> Tick:
        self._bar.start()
        task = self._bar.add_task("loading", total=None)
        return lambda what, done, of: self._bar.update(task, description=what, completed=done, total=of)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
