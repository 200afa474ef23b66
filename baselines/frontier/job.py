"""The Frontier Report of two models: loads them, elicits the base, carries out the protocol and writes the report.

``dream-envs frontier --base nano/compose --trained runs/dream`` measures how far the run went past its base.  A report
goes on where it was killed, and every report on the same base shares the base's draws (``--cache``).
"""

from __future__ import annotations

import hashlib
import inspect
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec.structs import replace

from dream_envs import registry
from dream_envs.agents.elicitation import cot_decoding, scaffolds
from dream_envs.agents.elicitation.elicit import MECHANISMS
from dream_envs.agents.engines import decode, local
from dream_envs.agents.engines.local import LocalAgent, keep_memory
from dream_envs.baselines.frontier import elicited as el
from dream_envs.baselines.frontier.elicited import Elicited, Model, load_model
from dream_envs.baselines.frontier.spread import spread
from dream_envs.core import DreamEnvsError
from dream_envs.frontier import methods, schema
from dream_envs.frontier.draws import ROWS, Method, SampleCache, cache_path
from dream_envs.frontier.methods import ATOMS, GREEDY, METHODS, MethodSpec
from dream_envs.frontier.protocol import EvaluatedModel, Measured, Plan, Tick, measure
from dream_envs.frontier.sections import Sources, recipe, report
from dream_envs.frontier.suite import Suite, suite
from dream_envs.metrics.curriculum_card import curriculum_card
from dream_envs.metrics.replies import compare, replies
from dream_envs.metrics.retention import retention
from dream_envs.progress import Progress
from dream_envs.report.page import write_report
from dream_envs.runs import provenance, write_json
from dream_envs.schema import SUMMARY, read_summary
from dream_envs.seeds import digest, stream

#: Problems a stratum and samples of each for the section on diversity.
DIVERSE, REPLIES = 4, 16
#: Models of fewer parameters are given thousands of rows at once, others so many.
SMALL, LARGE_BATCH = 20_000_000, 64
#: The protocol's version, a part of the cache's key: another way to draw must not find these draws.
DRAWS = "frontier-draws-1"
#: Share of the declared support that a base has to solve: below it something is wrong with how it is run.
KNOWN = 0.5
#: The seed whose problems everybody can see.
PUBLIC_SEED = "0"
#: Times the suite's problems a stratum, and K, samples of the base.
SIZES = {"mini": (1, 1024), "standard": (5, 8192)}


class Options(msgspec.Struct, frozen=True):
    """What a user may choose of a report; empty ``methods`` are the suite's own, 0 rows the model's.

    ``seed``: label of the problems; "" is one that hangs on the trained weights (``seed_after``).
    """

    suite: str = "nano"
    seed: str = ""
    size: str = "mini"
    methods: tuple[str, ...] = ()
    envelopes: tuple[str, ...] = ("decoding", "scaffolds")
    batch: int = 0


def plan_of(options: Options) -> tuple[Plan, list[MethodSpec]]:
    """The plan and the methods of these options."""
    if options.size not in SIZES:
        raise DreamEnvsError(f"size={options.size!r}: one of {', '.join(SIZES)}")
    if unknown := set(options.envelopes) - set(methods.ENVELOPES):
        raise DreamEnvsError(f"envelopes: no {min(unknown)!r}; some of {', '.join(methods.ENVELOPES)}")
    chosen = suite(options.suite)
    times, budget = SIZES[options.size]
    plan = Plan(chosen, options.seed, chosen.mini * times, budget=budget, follow=chosen.followed)
    if not chosen.followed:  # samples are cheap
        plan = replace(plan, reach=budget)
    found = methods.chosen(options.methods or chosen.methods)
    return plan, [m for m in found if m.envelope in ("decoding", *options.envelopes)]


def frontier(
    base: Model, runs: Sequence[Model], out: Path, cache: Path, options: Options, tick: Tick | None = None
) -> schema.Report:
    """Measure, and write ``frontier.json`` into ``out``; of several runs also ``run-N/frontier.json`` of each.

    ``runs``: the trained model, or several of one recipe: one report, with intervals across runs.  ``cache``: where
    draws are kept, for this and every other report.
    """
    own = seed_after(base, *runs)
    options = replace(options, seed=options.seed or own)
    plan, specs = plan_of(options)
    chosen = [] if options.seed in (own, PUBLIC_SEED) else [f"the problems' seed was chosen by hand ({options.seed!r})"]
    met = {task.id for model in runs for task in model.met or ()}
    found, protocol = [], what_decides_a_draw(plan.suite)

    def kept(model: Model, side: str) -> closing[SampleCache]:
        path = cache_path(cache, model.identity, DRAWS, protocol, side)
        return closing(SampleCache(path, side, (rows_of(model, options) or ROWS) * model.shares))

    for i, model in enumerate(runs):
        say = tick if len(runs) == 1 or tick is None else _numbered(tick, i, len(runs))
        with kept(base, "base") as mine, kept(model, "trained") as theirs:
            found.append(_measured(plan, specs, base, model, (mine, theirs), met, chosen, say))
        folder = out if len(runs) == 1 else out / f"run-{i}"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "frontier.json", found[-1][2])
    data = found[0][2]
    if len(runs) > 1:
        measured, sources, reports = zip(*found, strict=True)
        data = recipe(plan, measured, sources, reports, _retention(plan, measured))
        write_json(out / "frontier.json", data)
    return data


def _numbered(tick: Tick, i: int, of: int) -> Tick:
    return lambda what, done, total: tick(f"run {i + 1} of {of}: {what}", done, total)


def _measured(
    plan: Plan, specs: Sequence[MethodSpec], base: Model, trained: Model, caches: Sequence[SampleCache],
    avoid: Collection[str], limits: Sequence[str], tick: Tick | None,
) -> tuple[Measured, Sources, schema.Report]:  # fmt: skip
    """Everything of one trained model, on problems that no run has met."""
    began = time.perf_counter()
    elicited, other = Elicited(plan.suite, base, tick), Elicited(plan.suite, trained)
    elicited.spent = trained.spent
    drawn = plan.suite.problems(plan.seed, plan.per_stratum, avoid)
    elicited.answers = other.answers = {plan.suite.messages(p.task)[0]["content"]: p.task.answer for p in drawn}
    unapplied = {s.name: why for s in specs for m in (elicited, other) if (why := m.unapplied(s))}
    specs = [s for s in specs if s.name not in unapplied]
    sides = _sides(plan, specs, (elicited, other), caches)
    found = measure(plan, sides[0], sides[1], avoid=avoid, tick=tick)
    found.unavailable |= unapplied
    run, made, met = trained.run, provenance(), trained.met
    told = el.differences(plan.suite, drawn, base, trained)
    sources = Sources(
        base=schema.ModelInfo(name=base.name, weights_hash=base.identity),
        trained=schema.ModelInfo(name=trained.name, weights_hash=trained.identity, run=str(run) if run else None),
        methods=[schema.MethodInfo(name=s.name, text=s.text, envelope=s.envelope) for s in specs],
        exact=el.exact_sources(plan.suite, found, base, trained),
        drawn=sum(c.drawn for c in caches),
        qualified=[*limits, *qualified(plan, specs, found, base, trained), *told],
        contradicted=el.contradicted(plan.suite, found, base, trained),
        practised=None if met is None else [s.practised(met) for s in plan.suite.strata],
    )
    data = report(
        plan, found, sources, retention=_retention(plan, [found]), diversity=_diversity(plan, found, sides, run),
        curriculum=curriculum_card(run) if run is not None and (run / "episodes.jsonl").is_file() else None,
        commit=made["commit"], versions=made["versions"],
    )  # fmt: skip
    cost = replace(data.cost, seconds=time.perf_counter() - began)
    return found, sources, replace(data, cost=cost)


def _sides(
    plan: Plan, specs: Sequence[MethodSpec], both: Sequence[Elicited], caches: Sequence[SampleCache]
) -> list[EvaluatedModel]:
    """Base and trained model by the same methods; those of later envelopes are the base's alone."""
    by_envelope = {e: [s for s in specs if s.envelope == e] for e in methods.ENVELOPES}
    if not by_envelope["decoding"]:
        raise DreamEnvsError("no decoding method can be asked of these engines: add --methods plain")
    later: dict[str, list[Method]] = {
        e: [both[0].method(s) for s in some] for e, some in by_envelope.items() if some and e != "decoding"
    }
    cuts = any(hasattr(s.family, "piece") for s in plan.suite.strata)
    return [
        EvaluatedModel(
            kept, [model.method(s) for s in by_envelope["decoding"]], beyond, model.method(GREEDY),
            model.method(ATOMS) if cuts else None, model.method(METHODS["plain"]) if plan.suite.one_reply else None,
        )
        for kept, model, beyond in zip(caches, both, (later, {}), strict=True)
    ]  # fmt: skip


def seed_after(base: Model, *trained: Model) -> str:
    """A label of problems that did not exist before the training had ended: it hangs on the trained weights.

    It hangs on the record of what was met as well, which could otherwise choose the problems by what it excludes.
    """
    met = [sorted(task.id for task in m.met or ()) for m in trained]
    label = digest("frontier-seed", *(el.weights_of(m) for m in (base, *trained)), *(i for ids in met for i in ids))
    return f"after-{label:016x}"


def what_decides_a_draw(chosen: Suite) -> str:
    """The part of the cache's key that is not the model: suite, methods, mechanisms, and the code behind them."""
    strata = [[s.name, s.level, s.family.name, s.family.version, s.family.notation] for s in chosen.strata]
    shown = [p.task.id for p in chosen.problems("elicitation", el.DEVELOPMENT)]
    mechanisms = {name: msgspec.structs.asdict(m) for name, m in MECHANISMS.items()}  # type: ignore[arg-type]
    suite_ = [chosen.name, chosen.instruction, chosen.max_tokens, chosen.final_field, chosen.one_reply, strata]
    made_by: list[Any] = [cot_decoding, scaffolds, decode, local, chosen.form, chosen.fixed]
    made_by += [part for s in chosen.strata for part in (type(s.family), s.draw)]
    code = [_code(part) for part in made_by if part is not None]
    facts = [suite_, [*METHODS.values(), GREEDY, ATOMS], mechanisms, el.SHOTS, shown, sorted(set(code))]
    return msgspec.json.encode(facts).decode()


def _code(part: Any) -> str:
    """A hash of the file that this module, class or function stands in; its name where there is no file."""
    path = inspect.getsourcefile(part) if not isinstance(part, str) else None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else repr(part)


def rows_of(model: Model, options: Options) -> int:
    """Rows of one call: the user's, or few for a model whose activations fill memory."""
    if options.batch or not isinstance(model.agent, LocalAgent):
        return options.batch
    return 0 if sum(p.numel() for p in model.engine.model.parameters()) < SMALL else LARGE_BATCH


def qualified(plan: Plan, specs: Sequence[MethodSpec], found: Measured, base: Model, trained: Model) -> list[str]:
    """What limits the word: other methods than the suite's, a public seed, no record of the training, another base."""
    wanted = [m for m in plan.suite.methods if methods.METHODS[m].envelope in found.envelopes]
    names = {s.name for s in specs}
    missing = [m for m in wanted if m not in names and m not in found.unavailable]
    added = sorted(names - set(wanted))
    lines = [f"methods left out: {', '.join(missing)}"] if missing else []
    lines += [f"methods that the suite does not have, with a share of the samples: {', '.join(added)}"] if added else []
    lines += [f"method {name} could not be made ({why})" for name, why in found.unavailable.items()]
    if weak := _failing(plan, found):
        lines.append(f"the base fails on its own declared support ({', '.join(weak)})")
    maker = registry.load("suites", plan.suite.name).__module__
    if not maker.startswith("dream_envs."):
        lines.append(f"suite {plan.suite.name!r} is not of this project ({maker})")
    if plan.seed == PUBLIC_SEED:
        lines.append(f'the problems are those of the public seed "{PUBLIC_SEED}"')
    if trained.met is None:
        why = f" ({trained.unrecorded})" if trained.unrecorded else ""
        lines.append(f"the trained model came without a record of its training{why}")
    if trained.given:
        lines.append(f"it was trained on {trained.given:,} right answers that it did not find itself")
    if trained.began is not None and trained.began[1] != base.identity.partition("-")[0]:
        name, weights = trained.began
        lines.append(f"the run began from another base than this ({name}, weights {weights})")
    return lines


def _failing(plan: Plan, found: Measured) -> list[str]:
    """Strata of the declared support of which the base solves less than ``KNOWN``, with its share."""
    names = []
    for i, stratum in enumerate(plan.suite.strata):
        pairs = zip(found.problems, found.base, strict=True)
        rates = [sum(c.right) / plan.trained_draws for p, c in pairs if p.stratum == i]
        if stratum.practice and rates and (share := float(np.mean(rates))) < KNOWN:
            names.append(f"{stratum.name}: {share:.0%}")
    return names


def _retention(plan: Plan, found: Sequence[Measured]) -> schema.Retention | None:
    """Success on the strata that do not count, which the base knows or luck can find; the mean over runs."""
    before, after = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for i, problem in enumerate(found[0].problems):
        if not found[0].eligible[i]:
            name = plan.suite.strata[problem.stratum].name
            for rates, counts in ((before, [f.base for f in found]), (after, [f.trained for f in found])):
                rates[name].append(float(np.mean([sum(each[i].right) for each in counts])) / plan.trained_draws)
    return retention(before, after, stream("frontier-panel", plan.seed, "retention")) if before else None


class _Watched(msgspec.Struct):
    """What a run's own ``summary.json`` tells of its diversity, on its own probes."""

    series: dict[str, list[schema.Number | None]] | None = None
    alarm: str | None = None


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
    if run is None or (summary := read_summary(run)) is None:
        return block
    try:
        watched = msgspec.convert(summary.diversity or {}, _Watched)
    except msgspec.ValidationError as error:
        raise DreamEnvsError(f"{run / SUMMARY} is no run's summary ({error}): restore it from a copy") from error
    return replace(block, series=watched.series, alarm=watched.alarm)


def cache_folder(cache: Path | None) -> Path:
    """Where draws are kept: ``cache``, or ``$DREAM_ENVS_CACHE``, or the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dream-envs")
    return cache or Path(os.environ.get("DREAM_ENVS_CACHE") or user, "frontier")


def run(
    base: str, trained: str | Sequence[str] | Callable[[Model], Model], out: Path, cache: Path | None = None,
    options: Options | None = None, *, device: str = "cpu", threads: int = 1, quiet: bool = False, workers: str = "",
) -> schema.Report:  # fmt: skip
    """Load both models, measure, write the page; what the verb does.

    Args:
        base: name or folder of the base; "": what the trained model's run began from, else nano/compose.
        trained: name or folder of the trained model, or of its run; several runs of one recipe; or what makes it of
            the base.
        out: the report's folder.
        cache: see ``cache_folder``.
        options: see ``Options``.
        device: where the models run.
        threads: torch threads; 0 leaves torch's choice.
        quiet: no progress on the terminal.
        workers: who draws, see ``dream_envs.workers``; "": this process.
    """
    options = options or Options()
    plan_of(options)  # a wrong name is told before anything is loaded
    if workers and callable(trained):
        raise DreamEnvsError(f"workers={workers!r}: they load models by name; leave it out where one is made here")
    if threads:
        torch.set_num_threads(threads)
    keep_memory()
    named = [trained] if isinstance(trained, str) else [] if callable(trained) else list(trained)
    after = [load_model(name, device) for name in named]
    base = base or next((m.began[0] for m in after if m.began is not None), "nano/compose")
    before = load_model(base, device)
    if callable(trained):
        after = [trained(before)]
    for name, model in zip(named, after, strict=False):
        if el.same_weights(before, model):
            raise DreamEnvsError(
                f"{name} has the weights of {base}: nothing was trained; `dream-envs frontier control aa` measures a "
                "base against itself"
            )
    for (one, model), (other, again) in combinations(zip(named, after, strict=False), 2):
        if el.same_weights(model, again):
            raise DreamEnvsError(f"{one} and {other} have the same weights: give each run once")
    with (
        spread(workers, [base, *named], [before, *after], options.suite, device, threads) as (before, *after),
        Progress(quiet) as tick,
    ):
        data = frontier(before, after, out, cache_folder(cache), options, tick)
    for folder in (out, *(out / row.folder for row in data.runs)):
        write_report(folder)
    return data
