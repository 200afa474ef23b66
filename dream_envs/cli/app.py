"""``dream-envs <verb>``: the command line.

Every verb takes ``--json`` (JSON on stdout and nothing else there; ``play`` and ``view`` write one object a line).
A user's mistake is one line on stderr and exit status 2; a check that fails is 1; Ctrl-C is 130.  Verbs live in
the files beside this one and are imported when they are called, so that ``--help`` is quick.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dream_envs import registry
from dream_envs.cli import common
from dream_envs.cli import frontier as _frontier
from dream_envs.cli import train as _train
from dream_envs.core import DreamEnvsError

app = typer.Typer(
    name="dream-envs",
    help="Environments in which language models write, escalate, reward and consolidate their own practice.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else there.")]
Seed = Annotated[str, typer.Option("--seed", help="Label that all randomness is made from.")]
Texts = list[str] | None
Set = Annotated[Texts, typer.Option("--set", metavar="KEY=VALUE", help="Arguments of the game.")]
LoopSet = Annotated[
    Texts,
    typer.Option("--set", metavar="KEY=VALUE", help="The loop's settings; game., mixture., learner., nights., eval."),
]
Seats = Annotated[
    Texts,
    typer.Option("--seats", metavar="ROLE=AGENT", help="Who plays: solver=oracle, 'solver_0=local(temperature=0)'."),
]
Frozen = Annotated[Texts, typer.Option("--seats", metavar="ROLE=AGENT", help="Who does not learn: judge=base.")]
Rewards = Annotated[
    Texts,
    typer.Option(
        "--reward", metavar="ROLE=EXPRESSION", help="Such as 'solver=0.9*correctness+0.1*format', or a TOML file."
    ),
]
Env = Annotated[str | None, typer.Option(help="The game: an id or module:Class; default: the loop's.")]
Family = Annotated[str | None, typer.Option(help="Where its problems come from: composition, arithmetic ...")]
Notation = Annotated[str | None, typer.Option(help="The family's: compact or english.")]
Levels = Annotated[str | None, typer.Option(help="Of generated problems: 3, or 2,3, or 1-4.")]
Learner = Annotated[str | None, typer.Option(help="grpo, ppo, rloo, rae, expert, or module:object.")]
Model = Annotated[str | None, typer.Option(help="The base: nano/NAME, a folder; default: the loop's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps; default: the loop's.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="An id, or module:Class.")]


def _version(wanted: bool) -> None:
    if wanted:
        import dream_envs

        print(dream_envs.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    return None


@app.command("list")
def list_verb(
    kind: Annotated[str, typer.Argument(metavar="KIND")] = "",
    as_json: Json = False,
) -> None:
    """List environments, tasks, rewards and agents, and their origin."""
    from dream_envs.cli import info as _info

    common.emit(rows := _info.listing(kind), lambda: _info.listing_text(rows), as_json)


@app.command()
def info(
    name: Annotated[str, typer.Argument(metavar="ID|RUN", help="A name that list shows, or a run's folder.")],
    as_json: Json = False,
) -> None:
    """Show a manual page, or a run and its curriculum."""
    from dream_envs.cli import info as _info
    from dream_envs.cli import runs as _runs

    if _runs.is_run(Path(name)):
        common.emit(state := _runs.state(Path(name)), lambda: _runs.state_text(state), as_json)
    else:
        common.emit(pages := _info.pages(name), lambda: _info.pages_text(pages), as_json)


@app.command()
def play(
    name: Id,
    seats: Seats = None,
    settings: Set = None,
    family: Family = None,
    notation: Notation = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes.")] = 1,
    human: Annotated[str, typer.Option(metavar="ROLE", help="A role or seat that you play.")] = "",
    reward: Rewards = None,
    seed: Seed = "0",
    as_json: Json = False,
) -> None:
    """Play in the terminal; seats that nobody takes are scripted."""
    from dream_envs.cli import play as _play

    given = _play.Given(name, seats or [], settings or [], reward or [], seed, family or "", notation or "")
    _play.play(given, episodes, human, as_json)


@app.command()
def rollout(
    name: Id,
    out: Annotated[Path, typer.Option(help="The run's folder; the same command goes on where it stopped.")],
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes in all.")] = 256,
    seats: Seats = None,
    settings: Set = None,
    family: Family = None,
    notation: Notation = None,
    reward: Rewards = None,
    width: Annotated[int, typer.Option(min=1, help="Games in play at once.")] = 256,
    deadline: Annotated[float | None, typer.Option(help="Seconds that one batched call may take.")] = None,
    seed: Seed = "0",
    as_json: Json = False,
) -> None:
    """Play many episodes at once into OUT/episodes.jsonl."""
    from dream_envs.cli import play as _play

    given = _play.Given(name, seats or [], settings or [], reward or [], seed, family or "", notation or "")
    summary = _play.rollout(given, out, episodes, width, deadline, quiet=as_json)
    common.emit(summary, lambda: _play.rollout_text(summary), as_json)


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="ID|module:Class", help="Environment, task family, reward or agent.")],
    settings: Set = None,
    only: Annotated[list[str] | None, typer.Option(help="Run only this check (repeatable).")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave this check out (repeatable).")] = None,
    as_json: Json = False,
) -> None:
    """Run the conformance kit; exit status 1 if a check fails."""
    from dream_envs.cli import check as _check

    report = _check.check(name, common.values_of(settings or [], "--set"), only, skip or [])
    common.emit(_check.as_data(report), str(report), as_json)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(metavar="env|task|reward|agent|loop")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="CamelCase or snake_case.")],
    out: Annotated[Path | None, typer.Option(help="The folder to make; default: ./NAME.")] = None,
    as_json: Json = False,
) -> None:
    """Write a small working package with entry point and test."""
    from dream_envs.cli import new as _new

    common.emit(made := _new.new(kind, name, out), lambda: _new.new_text(made), as_json)


@app.command()
def view(
    run: Run,
    role: Annotated[str, typer.Option(help="Only turns of this role or seat.")] = "",
    status: Annotated[str, typer.Option(help="Only episodes with a turn, score or outcome of this status.")] = "",
    index: Annotated[str, typer.Option(help="Only these episodes: 7 or 10-19 or 3,5,8.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many episodes; 0: all.")] = 0,
    as_json: Json = False,
) -> None:
    """Read a run's transcripts, a page at a time in a terminal."""
    from dream_envs.cli import runs as _runs

    _runs.view(run, role, status, index, limit, as_json)


@app.command()
def rescore(
    run: Run,
    reward: Rewards = None,
    out: Annotated[Path | None, typer.Option(help="Write the rescored episodes to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Compute a run's scores again from its episodes, round by round."""
    from dream_envs.cli import runs as _runs

    common.emit(found := _runs.rescore(run, reward or [], out), lambda: _runs.rescore_text(found), as_json)


app.add_typer(_frontier.frontier_app, name="frontier")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing and how to get it."""
    from dream_envs.cli import doctor as _doctor

    common.emit(found := _doctor.examine(), lambda: _doctor.text(found), as_json)
    if not found["ok"]:
        raise typer.Exit(1)


@app.command()
def nano(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A nano base, such as compose.")],
    out: Annotated[Path | None, typer.Option(help="Default: runs/nano/NAME.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: the recipe's.")] = None,
    as_json: Json = False,
) -> None:
    """Pre-train a nano base from its declared support."""
    from dream_envs.cli import runs as _runs

    made = _runs.nano(name, out, steps)
    common.emit(made, f"wrote {made['out']}: {made['parameters']} parameters, weights {made['weights_hash']}", as_json)


@app.command(epilog=_train.epilog())
def train(
    loop: Annotated[str, typer.Argument(metavar="LOOP", help="A name from the list below, or module:object.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: runs/LOOP.")] = None,
    env: Env = None,
    family: Family = None,
    notation: Notation = None,
    levels: Levels = None,
    reward: Rewards = None,
    seats: Frozen = None,
    learner: Learner = None,
    model: Model = None,
    steps: Steps = None,
    settings: LoopSet = None,
    resume: Resume = False,
    frontier: Annotated[bool, typer.Option(help="End in a Frontier Report (mini) in OUT/frontier.")] = True,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Torch threads; 0: torch's choice, many times slower here.")] = 1,
    report_to: Annotated[list[str] | None, typer.Option(help="Trackers beside TensorBoard: wandb ...")] = None,
    cache: _frontier.Cache = None,
    seed: Seed = "0",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Json = False,
) -> None:
    """Run a loop on any environment: train, measure, report."""
    words = dict(locals())
    _train.run(words.pop("loop"), words)


def _flagship() -> Callable[..., None]:
    """``train dream`` with the options of ``train``, as a verb of its own."""
    whole = inspect.signature(train, eval_str=True)

    def dream(**words: Any) -> None:
        _train.run("dream", words)

    dream.__signature__ = whole.replace(parameters=[p for n, p in whole.parameters.items() if n != "loop"])  # type: ignore[attr-defined]
    dream.__annotations__ = {name: p.annotation for name, p in dream.__signature__.parameters.items()}  # type: ignore[attr-defined]
    return dream


app.command(name="dream", help="Run the flagship loop: train dream.")(_flagship())


@app.command()
def report(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="Default: RUN/report.html.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's HTML report."""
    from dream_envs.cli import runs as _runs

    common.emit(made := _runs.report(run, out), lambda: _runs.report_text(made), as_json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit status.  ``argv``: the words behind ``dream-envs``, None: those of this process."""
    try:
        status = app(list(sys.argv[1:] if argv is None else argv), prog_name="dream-envs", standalone_mode=False)
        sys.stdout.flush()
    except common.Interrupted as stopped:
        return _fail(str(stopped), 130)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except DreamEnvsError as error:
        return _fail(str(error), 2)
    except (BrokenPipeError, common.ReaderGone):  # ``| head``: nothing is wrong, and nobody is left to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}", 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not a complaint of the parser: a fault of ours, shown in full
            raise
        return _fail(_usage(error), 2)
    if status == 130:  # typer's own answer to Ctrl-C
        return _fail("interrupted", 130)
    return status if isinstance(status, int) else 0


def _usage(error: Any) -> str:
    text = error.format_message()
    prefix = "No such command '"
    if text.startswith(prefix):
        verbs = [str(c.name or getattr(c.callback, "__name__", "")) for c in app.registered_commands]
        return registry.unknown("verbs", text.removeprefix(prefix).partition("'")[0], verbs)
    path = getattr(getattr(error, "ctx", None), "command_path", None) or "dream-envs"
    return f"{text.rstrip('.')}; see {path} --help"


def _fail(text: str, status: int) -> int:
    line = " ".join(text.split())
    print(f"{common.style('dream-envs:', common.RED, sys.stderr)} {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
