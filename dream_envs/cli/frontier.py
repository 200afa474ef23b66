"""``dream-envs frontier``: the report of two models, its controls, and the simulation behind its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dream_envs.cli import common
from dream_envs.cli.common import Cache, Json, Quiet
from dream_envs.core import DreamEnvsError
from dream_envs.seeds import stream

frontier_app = typer.Typer(help="How far a trained model went past its base, with intervals.", add_completion=False)

Seed = Annotated[str, typer.Option("--seed", help="Label that the simulated reports are drawn from.")]
Fresh = Annotated[str, typer.Option("--seed", help="Label of the problems; default: one made of the trained weights.")]
Threads = Annotated[int, typer.Option(min=0, help="Torch threads; 0: torch's choice.")]
Base = Annotated[str, typer.Option("--model", "--base", help="The base: nano/NAME, a folder or a hub id.")]
Suite = Annotated[str, typer.Option(help="nano, english, or module:function.")]
Size = Annotated[str, typer.Option(help="mini (20 problems a stratum, 1,024 draws) or standard (100; 8,192).")]


@frontier_app.callback(invoke_without_command=True)
def frontier(
    context: typer.Context,
    base: Annotated[
        str, typer.Option("--model", "--base", help="nano/NAME, a folder or hub id; default: what the run began from.")
    ] = "",
    trained: Annotated[
        list[str] | None, typer.Option(help="The trained model, or its run's folder; again for runs of one recipe.")
    ] = None,
    suite: Suite = "nano",
    size: Size = "mini",
    out: Annotated[
        Path | None, typer.Option(help="The report's folder; default: RUN/frontier or runs/frontier.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Elicitation methods, with commas; default: the suite's.")] = "",
    envelopes: Annotated[str, typer.Option(help="How the base is elicited: decoding, scaffolds, training.")] = (
        "decoding,scaffolds"
    ),
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    batch: Annotated[int, typer.Option(min=0, help="Replies sampled at once; 0: by the model's size.")] = 0,
    threads: Threads = 1, workers: common.Workers = "", cache: Cache = None, seed: Fresh = "", quiet: Quiet = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Write the Frontier Report of a trained model against its base; the same command goes on where it stopped."""
    if context.invoked_subcommand is not None:
        return
    if methods == "none":
        raise DreamEnvsError("--methods none: the base has to be asked somehow; leave it out for the suite's")
    if not trained:
        raise DreamEnvsError("--trained is missing: the folder of a run (runs/dream) or of a model")
    single = len(trained) == 1 and (Path(trained[0]) / "run.json").is_file()
    folder = _own(out or (Path(trained[0]) / "frontier" if single else Path("runs/frontier")))
    job = common.needs("dream_envs.baselines.frontier.job")
    options = job.Options(suite, seed, size, _names(methods), _names(envelopes), batch)
    how = {"device": device, "threads": threads, "quiet": quiet or as_json, "workers": workers}
    with common.writing(folder):
        data = job.run(base, trained, folder, cache, options, **how)
    show(data, folder, "report", as_json)


@frontier_app.command()
def plan(
    trained: Annotated[str, typer.Option(help="The trained model, or the folder of the run that trained it.")],
    base: Annotated[str, typer.Option("--model", "--base", help="The base; default: what the run began from.")] = "",
    suite: Suite = "nano",
    size: Size = "mini",
    envelopes: Annotated[str, typer.Option(help="As for the report.")] = "decoding,scaffolds",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    batch: Annotated[int, typer.Option(min=0, help="Replies sampled at once; 0: by the model's size.")] = 0,
    as_json: Json = False,
) -> None:
    """What a report would cost at most, from a pilot of 64 completions of each model."""
    job, cost = (common.needs(f"dream_envs.baselines.frontier.{name}") for name in ("job", "cost"))
    found = cost.plan(base, trained, job.Options(suite, "", size, (), _names(envelopes), batch), device)
    common.emit(found, lambda made: _planned(made, cost.total(made)), as_json)


def _planned(found: Any, whole: Any) -> str:
    """The steps and their sum, and what the pilot saw."""
    head = ("step", "model", "completions", "tokens", "hours")
    rows = [[s.name, s.side, f"{s.completions:,}", f"{s.tokens:,}", f"{s.hours:.2f}"] for s in [*found.steps, whole]]
    saw = "; ".join(
        f"{side}: {found.right[side]:.0%} right, {found.tokens[side]:.0f} tokens and {found.seconds[side]:.3f} s each"
        for side in found.right
    )
    remark = "Upper bounds: sequences stop at their first success, and draws of earlier reports on this base are kept."
    return f"{common.table(rows, head)}\n{remark}\nPilot on {found.problems} problems, {saw}."


@frontier_app.command()
def simulate(
    problems: Annotated[int, typer.Option(min=20, help="N, in 20 strata.")] = 2000,
    draws: Annotated[int, typer.Option(min=8, help="K, samples of the base.")] = 8192,
    gained: Annotated[float | None, typer.Option(help="Points truly gained; default: the protocol's tables.")] = None,
    lost: Annotated[float, typer.Option(help="Points truly lost.")] = 0.0,
    sharpen: Annotated[float, typer.Option(help="Logits added to every success rate above zero.")] = 0.0,
    follow: Annotated[int, typer.Option(min=0, help="Survivors followed to the last sample; 0: all.")] = 0,
    repetitions: Annotated[int, typer.Option(min=2, help="Simulated reports.")] = 400,
    seed: Seed = "0",
    as_json: Json = False,
) -> None:
    """What the report would say of a change that is known, and how often: power, before a token is spent."""
    from dream_envs.frontier import simulate as simulation

    try:
        import scipy  # noqa: F401
    except ModuleNotFoundError as error:
        raise DreamEnvsError("no module 'scipy': pip install 'dream-envs[frontier]'") from error
    changes: Sequence[simulation.Change] = (*simulation.COVERAGE, *simulation.POWER)
    if gained is not None or lost or sharpen:
        changes = [simulation.Change("asked for", gained=gained or 0.0, lost=lost, sharpen=sharpen)]
    if problems % simulation.STRATA:
        raise DreamEnvsError(f"problems={problems}: a multiple of {simulation.STRATA}, the strata of the simulation")
    each, rng = problems // simulation.STRATA, stream("frontier-simulate", seed)
    rows = [simulation.simulate(change, rng, each, draws, repetitions, follow) for change in changes]
    common.emit(rows, _simulated, as_json)


@frontier_app.command()
def control(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="aa, sharpened, random_reward, format_only, guesser, ...")
    ],
    out: Annotated[Path | None, typer.Option(help="The report's folder; default: runs/frontier-NAME.")] = None,
    base: Base = "nano/compose", suite: Suite = "nano", size: Size = "mini", threads: Threads = 1, cache: Cache = None,
    seed: Fresh = "", quiet: Quiet = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Make a control (a model that must not show an expansion) and report on it."""
    folder = _own(out or Path(f"runs/frontier-{name}"))
    controls = common.needs("dream_envs.baselines.frontier.controls")
    with common.writing(folder):
        data = controls.run(name, folder, base, suite, size, seed, cache, threads=threads, quiet=quiet or as_json)
    show(data, folder, "report", as_json)


def _own(folder: Path) -> Path:
    """``folder``, if a Frontier Report may be written into it: a run's page would be lost."""
    if (folder / "run.json").is_file():
        raise DreamEnvsError(f"--out {folder} holds a run, and its report would be lost: choose another folder")
    return folder


def _names(text: str) -> tuple[str, ...]:
    """Words between commas; ``none`` is no word."""
    return () if text == "none" else tuple(word.strip() for word in text.split(",") if word.strip())


def _simulated(rows: list[dict[str, Any]]) -> str:
    """What a reader of the simulation wants first; ``--json`` has the rest."""
    head = ("change", "truth", "mean", "width", "covered", "beyond", "bounds")
    return common.table([[common.number(row[k]) for k in head] for row in rows], head)


def show(data: Any, folder: Path, title: str, as_json: bool = False) -> None:
    """Print a Frontier Report and where its page is."""
    if as_json:
        common.emit(data, str, True)
        return
    from dream_envs.report.terminal import show_frontier

    shown = common.console_text(lambda console: show_frontier(data, console))
    common.say(f"{shown}\n{title}: {folder / 'report.html'}")
