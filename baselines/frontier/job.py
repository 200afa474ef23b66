"""The Frontier Report of two models: loads them, elicits the base, carries out the protocol and writes the report.

``dream-envs frontier --base nano/compose --trained runs/dream`` measures how far the run went past its base.  A report
goes on where it was killed, and every report on the same base shares the base's draws (``--cache``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import msgspec
import numpy as np
import torch

from dream_envs.agents.elicitation.elicit import MECHANISMS
from dream_envs.agents.engines.local import LocalAgent, keep_memory
from dream_envs.baselines.frontier.elicited import DEVELOPMENT, SHOTS, Elicited, Model, exact_sources, load_model
from dream_envs.core import DreamEnvsError
from dream_envs.frontier import methods, schema
from dream_envs.frontier.draws import SampleCache, cache_path
from dream_envs.frontier.methods import METHODS, MethodSpec
from dream_envs.frontier.protocol import EvaluatedModel, Measured, Plan, Tick, measure
from dream_envs.frontier.sections import Sources, report
from dream_envs.frontier.suite import Suite, suite
from dream_envs.metrics.curriculum_card import curriculum_card
from dream_envs.metrics.replies import compare, replies
from dream_envs.metrics.retention import retention
from dream_envs.progress import Progress
from dream_envs.report.page import write_report
from dream_envs.runs import provenance, write_json
from dream_envs.schema import SUMMARY
from dream_envs.seeds import stream

#: Problems a stratum and samples of each for the section on diversity.
DIVERSE, REPLIES = 4, 16
#: Models of fewer parameters are given thousands of rows at once, others so many.
SMALL, LARGE_BATCH = 20_000_000, 64
#: The protocol's version, a part of the cache's key: another way to draw must not find these draws.
DRAWS = "frontier-draws-1"
#: Times the suite's problems a stratum, draws of the base, and problems that are followed to the last of them.
SIZES = {"mini": (1, 1024, 120), "standard": (5, 8192, 64)}


class Options(msgspec.Struct, frozen=True):
    """What a user may choose of a report; empty ``methods`` and None are the suite's own, 0 rows the model's."""

    suite: str = "nano"
    seed: str = "0"
    size: str = "mini"
    methods: tuple[str, ...] = ()
    second_stage: tuple[str, ...] | None = None
    batch: int = 0


def plan_of(options: Options) -> tuple[Plan, list[MethodSpec], list[MethodSpec]]:
    """The plan, the methods and the second-stage methods of these options.

    Raises:
        DreamEnvsError: for a size, suite or method that there is not.
    """
    if options.size not in SIZES:
        raise DreamEnvsError(f"size={options.size!r}: one of {', '.join(SIZES)}")
    chosen = suite(options.suite)
    times, budget, follow = SIZES[options.size]
    plan = Plan(chosen, options.seed, chosen.mini * times, budget=budget, follow=follow)
    late = chosen.second_stage if options.second_stage is None else options.second_stage
    return plan, methods.chosen(options.methods or chosen.methods, False), methods.chosen(late, True)


def frontier(
    base: Model, trained: Model, out: Path, cache: Path, options: Options | None = None, tick: Tick | None = None
) -> schema.Report:
    """Measure, and write ``frontier.json`` into ``out``.

    Args:
        base: the base.
        trained: the trained model.
        out: the report's folder.
        cache: where draws are kept, for this and every other report.
        options: see ``Options``.
        tick: called with (what, done, of).
    """
    options = options or Options()
    began = time.perf_counter()
    plan, specs, late = plan_of(options)
    elicited, other = Elicited(plan.suite, base, tick), Elicited(plan.suite, trained)
    protocol = what_decides_a_draw(plan.suite)
    out.mkdir(parents=True, exist_ok=True)
    caches = [
        SampleCache(cache_path(cache, m.identity, DRAWS, protocol, side), side, _rows(m, options))
        for m, side in ((base, "base"), (trained, "trained"))
    ]
    try:
        drawn = plan.suite.problems(plan.seed, plan.per_stratum, trained.met)
        elicited.answers = other.answers = {plan.suite.messages(p.task)[0]["content"]: p.task.answer for p in drawn}
        sides = (
            EvaluatedModel(caches[0], [elicited.method(s) for s in specs], [elicited.method(s) for s in late]),
            EvaluatedModel(caches[1], [other.method(s) for s in specs]),
        )
        found = measure(plan, *sides, avoid=trained.met, tick=tick)
        exact = exact_sources(plan.suite, found, base, trained, specs)
        diversity, made = _diversity(plan, found, sides, trained.run), provenance()
        sources = Sources(
            base=schema.ModelInfo(name=base.name, weights_hash=base.identity),
            trained=schema.ModelInfo(
                name=trained.name, weights_hash=trained.identity, run=str(trained.run) if trained.run else None
            ),
            methods=[schema.MethodInfo(name=s.name, text=s.text, second_stage=s.second_stage) for s in (*specs, *late)],
            exact=exact,
            drawn=sum(c.drawn for c in caches),
            departures=departures(plan.suite, specs, late, found),
        )
        card, about = _curriculum(trained.run), {key: made[key] for key in ("commit", "versions")}
        data = report(
            plan, found, sources, retention=_retention(plan, found), diversity=diversity, curriculum=card, **about
        )
    finally:
        for kept in caches:
            kept.close()
    cost = msgspec.structs.replace(data.cost, seconds=time.perf_counter() - began)
    data = msgspec.structs.replace(data, cost=cost)
    write_json(out / "frontier.json", data)
    return data


def what_decides_a_draw(chosen: Suite) -> str:
    """The part of the cache's key that is not the model: suite, methods, mechanisms and their development problems."""
    strata = [[s.name, s.level, s.held_out, s.family.name, s.family.version, s.family.notation] for s in chosen.strata]
    shown = [p.task.id for p in chosen.problems("elicitation", DEVELOPMENT)]
    mechanisms = {name: msgspec.structs.asdict(m) for name, m in MECHANISMS.items()}  # type: ignore[arg-type]
    suite_ = [chosen.name, chosen.instruction, chosen.max_tokens, chosen.final_field, chosen.one_reply, strata]
    return msgspec.json.encode([suite_, list(METHODS.values()), mechanisms, SHOTS, shown]).decode()


def _rows(model: Model, options: Options) -> int:
    """Rows of one call: the user's, or few for a model whose activations fill memory."""
    if options.batch or not isinstance(model.agent, LocalAgent):
        return options.batch
    return 0 if sum(p.numel() for p in model.engine.model.parameters()) < SMALL else LARGE_BATCH


def departures(chosen: Suite, specs: Sequence[MethodSpec], late: Sequence[MethodSpec], found: Measured) -> list[str]:
    """How the base was elicited less than the suite registers; a verdict says so."""
    lines = []
    for what, names, used in (("methods", chosen.methods, specs), ("second-stage methods", chosen.second_stage, late)):
        if missing := [n for n in names if n not in {s.name for s in used}]:
            lines.append(f"{what} left out: {', '.join(missing)}")
    return lines + [f"method {name} could not be made ({why})" for name, why in found.unavailable.items()]


def _retention(plan: Plan, found: Measured) -> schema.Retention | None:
    """Success on the strata that do not count, which the base knows or luck can find."""
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    for i, problem in enumerate(found.problems):
        if not found.eligible[i]:
            name = plan.suite.strata[problem.stratum].name
            for rates, counts in ((before, found.base), (after, found.trained)):
                rates.setdefault(name, []).append(sum(counts[i].right) / plan.trained_draws)
    return retention(before, after, stream("frontier-panel", plan.seed, "retention")) if before else None


class _Watched(msgspec.Struct):
    """What a run's own ``summary.json`` tells of its diversity, on its own probes."""

    series: dict[str, list[schema.Number | None]] | None = None
    alarm: str | None = None


class _RunFile(msgspec.Struct):
    diversity: _Watched | None = None


def _diversity(plan: Plan, found: Measured, sides: Sequence[EvaluatedModel], run: Path | None) -> schema.Diversity:
    """Completions of both models in the suite's first, plain configuration for a few problems of every stratum."""
    strata = [p.stratum for p in found.problems]
    chosen = [p for i, p in enumerate(found.problems) if strata[:i].count(p.stratum) < DIVERSE]
    families, said = [plan.suite.strata[p.stratum].family for p in chosen], []
    for side in sides:
        method = side.methods[0]
        requests = [side.cache.request(method, p, "diversity", i) for p in chosen for i in range(REPLIES)]
        flat = [a.text for a in side.cache.query(method.agent, requests)]
        texts = [flat[i : i + REPLIES] for i in range(0, len(flat), REPLIES)]
        right = [[method.right(p, t) for t in row] for p, row in zip(chosen, texts, strict=True)]
        said.append(replies(texts, tasks=[p.task for p in chosen], families=families, right=right))
    rng = stream("frontier-panel", plan.seed, "diversity")
    block = compare(said[0], said[1], rng, np.array([p.stratum for p in chosen]))
    path = None if run is None else run / SUMMARY
    if path is None or not path.is_file():
        return block
    try:
        watched = msgspec.json.decode(path.read_bytes(), type=_RunFile).diversity or _Watched()
    except msgspec.MsgspecError as error:
        raise DreamEnvsError(f"{path} is no run's summary ({error}): restore it from a copy") from error
    return msgspec.structs.replace(block, series=watched.series, alarm=watched.alarm)


def _curriculum(run: Path | None) -> schema.Curriculum | None:
    return None if run is None or not (run / "episodes.jsonl").is_file() else curriculum_card(run)


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
    trained: str | Callable[[Model], Model],
    out: Path,
    cache: Path | None = None,
    options: Options | None = None,
    *,
    device: str = "cpu",
    threads: int = 1,
    quiet: bool = False,
) -> schema.Report:
    """Load both models, measure, write the page; what the verb does.

    Args:
        base: name or folder of the base.
        trained: name or folder of the trained model, or of its run; or what makes it of the base.
        out: the report's folder.
        cache: see ``cache_folder``.
        options: see ``Options``.
        device: where the models run.
        threads: torch threads; 0 leaves torch's choice.
        quiet: no progress on the terminal.
    """
    options = options or Options()
    plan_of(options)  # a wrong name is told before anything is loaded
    if threads:
        torch.set_num_threads(threads)
    keep_memory()
    before = load_model(base, device)
    after = load_model(trained, device) if isinstance(trained, str) else trained(before)
    with Progress(quiet) as tick:
        data = frontier(before, after, out, cache_folder(cache), options, tick)
    write_report(out)
    return data
