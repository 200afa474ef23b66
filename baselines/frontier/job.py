"""The Frontier Report of two models: loads them, elicits the base, carries out the protocol and writes the report.

``dream-envs frontier --base nano/compose --trained runs/dream`` measures how far the run went past its base.  A report
goes on where it was killed, and every report on the same base shares the base's draws (``--cache``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import msgspec
import numpy as np
import torch

from dream_envs.agents.elicitation import elicit
from dream_envs.agents.engines.local import LocalAgent, keep_memory
from dream_envs.baselines.frontier.elicited import DEVELOPMENT, SHOTS, Elicited, Model, exact_sources, load_model
from dream_envs.core import DreamEnvsError
from dream_envs.frontier import arms as arm_table
from dream_envs.frontier.arms import Arm
from dream_envs.frontier.draws import Asker, Book, book_path
from dream_envs.frontier.panels import Sources, report_data
from dream_envs.frontier.protocol import Measured, Plan, Side, Tick, measure
from dream_envs.frontier.suite import Problem, Suite, suite
from dream_envs.metrics.curriculum_card import curriculum_card
from dream_envs.metrics.replies import compare, replies
from dream_envs.metrics.retention import retention
from dream_envs.report.frontier_page import write_frontier
from dream_envs.runs import provenance, read_json, write_json
from dream_envs.seeds import stream

#: Problems a stratum and draws of each for the diversity panel.
DIVERSE, REPLIES = 4, 16
#: Models of fewer parameters are asked thousands of rows at once, others so many.
SMALL, LARGE_BATCH = 20_000_000, 64
#: The protocol's version, a part of the cache's key: another way to draw must not find these draws.
DRAWS = "frontier-draws-1"


class Options(msgspec.Struct, frozen=True):
    """What a user may choose of a report."""

    suite: str = "nano"
    seed: str = "0"
    size: str = "mini"
    arms: tuple[str, ...] = ()
    vetoes: tuple[str, ...] | None = None
    exact: bool = True
    batch: int = 0
    panels: bool = True


#: Times the suite's problems a stratum, draws of the base, and problems that are followed to the last of them.
SIZES = {"mini": (1, 1024, 120), "standard": (5, 8192, 64)}


def plan_of(options: Options) -> tuple[Plan, list[Arm], list[Arm]]:
    """The plan, the arms and the expensive arms of these options.

    Raises:
        DreamEnvsError: for a size, suite or arm that there is not.
    """
    if options.size not in SIZES:
        raise DreamEnvsError(f"size={options.size!r}: one of {', '.join(SIZES)}")
    chosen = suite(options.suite)
    times, budget, follow = SIZES[options.size]
    plan = Plan(chosen, options.seed, chosen.mini * times, budget=budget, follow=follow)
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
    elicited, asked = Elicited(plan.suite, base, tick), Elicited(plan.suite, trained)
    protocol = what_decides_a_draw(plan.suite)
    out.mkdir(parents=True, exist_ok=True)
    books = [
        Book(book_path(cache, m.identity, DRAWS, protocol, side), side, rows=_rows(m, options))
        for m, side in ((base, "base"), (trained, "trained"))
    ]
    try:
        drawn = plan.suite.problems(plan.seed, plan.per_stratum, trained.met)
        elicited.answers = asked.answers = {plan.suite.messages(p.task)[0]["content"]: p.task.answer for p in drawn}
        sides = (
            Side(books[0], [elicited.asker(a) for a in arms], [elicited.asker(a) for a in vetoes]),
            Side(books[1], [asked.asker(a) for a in arms]),
        )
        found = measure(plan, *sides, avoid=trained.met, tick=tick)
        exact = exact_sources(plan.suite, found, base, trained, arms) if options.exact else None
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
        sources.departures = departures(plan.suite, arms, vetoes, found)
        extra = panels(plan, found, sides, trained.run) if options.panels else {}
        data = report_data(plan, found, sources, extra, time.perf_counter() - began)
    finally:
        for book in books:
            book.close()
    made = provenance()
    data |= {key: made[key] for key in ("commit", "versions")}
    write_json(out / "frontier.json", data)
    return data


def what_decides_a_draw(chosen: Suite) -> str:
    """The part of the cache's key that is not the model: suite, arms, mechanisms and their development problems."""
    strata = [[s.name, s.level, s.held_out, s.family.name, s.family.version, s.family.notation] for s in chosen.strata]
    shown = [p.task.id for p in chosen.problems("elicitation", DEVELOPMENT)]
    mechanisms = {name: msgspec.structs.asdict(arm) for name, arm in elicit.ARMS.items()}  # type: ignore[arg-type]
    suite_ = [chosen.name, chosen.instruction, chosen.max_tokens, chosen.final_field, chosen.one_reply, strata]
    return msgspec.json.encode([suite_, list(arm_table.ARMS.values()), mechanisms, SHOTS, shown]).decode()


def _rows(model: Model, options: Options) -> int:
    """Rows of one call: what was asked for, or few for a model whose activations fill memory."""
    if options.batch or not isinstance(model.agent, LocalAgent):
        return options.batch
    return 0 if sum(p.numel() for p in model.engine.model.parameters()) < SMALL else LARGE_BATCH


def departures(chosen: Suite, arms: Sequence[Arm], vetoes: Sequence[Arm], found: Measured) -> list[str]:
    """How the base was asked less than the suite registers; a verdict says so."""
    lines = []
    for what, names, used in (("arms", chosen.arms, arms), ("vetoes", chosen.vetoes, vetoes)):
        if missing := [n for n in names if n not in {a.name for a in used}]:
            lines.append(f"{what} left out: {', '.join(missing)}")
    lines += [f"arm {name} could not be made ({why})" for name, why in found.unavailable.items()]
    return lines


def panels(plan: Plan, found: Measured, sides: Sequence[Side], run: Path | None) -> dict[str, Any]:
    """The blocks ``retention``, ``diversity`` and ``curriculum``."""
    return {
        "retention": _retention(plan, found),
        "diversity": _diversity(plan, found, sides, run),
        "curriculum": None if run is None or not (run / "episodes.jsonl").is_file() else curriculum_card(run),
    }


def _retention(plan: Plan, found: Measured) -> dict[str, Any] | None:
    """Success on the strata that do not count, which the base knows or luck can find."""
    strata = plan.suite.strata
    stages: dict[str, dict[str, list[float]]] = {"base": {}, "trained": {}}
    for i, problem in enumerate(found.problems):
        if not found.eligible[i]:
            for stage, counts in (("base", found.base), ("trained", found.trained)):
                rates = stages[stage].setdefault(strata[problem.stratum].name, [])
                rates.append(sum(counts[i].right) / plan.trained_draws)
    if not stages["base"]:
        return None
    return retention(stages, stream("frontier-panel", plan.seed, "retention"))


def _diversity(plan: Plan, found: Measured, sides: Sequence[Side], run: Path | None) -> dict[str, Any]:
    """Replies of both models in the suite's first, plain configuration to a few problems of every stratum."""
    chosen: list[Problem] = []
    for problem in found.problems:
        if sum(p.stratum == problem.stratum for p in chosen) < DIVERSE:
            chosen.append(problem)
    families = [plan.suite.strata[p.stratum].family for p in chosen]
    said = []
    for side in sides:
        texts = _texts(side, side.arms[0], chosen)
        right = [[side.arms[0].right(p, t) for t in row] for p, row in zip(chosen, texts, strict=True)]
        said.append(replies(texts, tasks=[p.task for p in chosen], family=families, right=right))
    strata = np.array([p.stratum for p in chosen])
    block = compare(said[0], said[1], stream("frontier-panel", plan.seed, "diversity"), strata=strata)
    watched = (read_json(run / "summary.json") or {}).get("diversity") if run is not None else None
    return {**block, **{k: (watched or {}).get(k) for k in ("series", "alarm")}}  # the run's own, on its own probes


def _texts(side: Side, asker: Asker, problems: Sequence[Problem]) -> list[list[str]]:
    requests = [side.book.request(asker, p, "diversity", i) for p in problems for i in range(REPLIES)]
    texts = [a.text for a in side.book.asked(asker.agent, requests)]
    return [texts[i : i + REPLIES] for i in range(0, len(texts), REPLIES)]


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
    threads: int = 1,
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
    options = options or Options()
    plan_of(options)  # a wrong name is told before anything is loaded
    if threads:
        torch.set_num_threads(threads)
    keep_memory()
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
