"""``dream-envs <verb>``: the command line.

Every verb takes ``--json`` (JSON on stdout and nothing else there; ``play`` and ``view`` write one object a line).
A user's mistake is one line on stderr and exit status 2; a check that fails is 1; Ctrl-C is 130.  What is heavy
is imported when a verb is called, so that ``--help`` is quick.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import dream_envs
from dream_envs import registry
from dream_envs.cli import board as _board
from dream_envs.cli import common
from dream_envs.cli import doctor as _doctor
from dream_envs.cli import frontier as _frontier
from dream_envs.cli import info as _info
from dream_envs.cli.common import Cache, Json, Quiet
from dream_envs.core import DreamEnvsError

app = typer.Typer(
    name="dream-envs",
    help="Environments in which language models write, escalate, reward and consolidate their own practice.",
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
app.add_typer(_frontier.frontier_app, name="frontier")
app.add_typer(_board.board_app, name="board")

Texts = list[str] | None
Seed = Annotated[str, typer.Option("--seed", help="Label that all randomness is made from.")]
Set = Annotated[Texts, typer.Option("--set", metavar="KEY=VALUE", help="Arguments of the game.")]
LoopSet = Annotated[
    Texts,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="The loop's settings, and parts: mixture.replay, family.digits ...",
    ),
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
Model = Annotated[str | None, typer.Option(help="nano/NAME, smollm2, a folder, a hub id; default: the loop's base.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps; default: the loop's.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, auto.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="An id, or module:Class.")]


def _version(wanted: bool) -> None:
    if wanted:
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
def list_verb(kind: Annotated[str, typer.Argument(metavar="KIND")] = "", as_json: Json = False) -> None:
    """List environments, tasks, rewards, agents, learners, loops and suites, and their origin."""
    common.emit(_info.listing(kind), _info.listing_text, as_json)


@app.command()
def info(
    name: Annotated[str, typer.Argument(metavar="ID|RUN", help="A name that list shows, or a run's folder.")],
    as_json: Json = False,
) -> None:
    """Show a manual page, or a run and its curriculum."""
    from dream_envs.cli import runs

    if runs.is_run(Path(name)):
        common.emit(runs.state(Path(name)), runs.state_text, as_json)
    else:
        common.emit(_info.pages(name), _info.pages_text, as_json)


@app.command()
def play(
    name: Id, seats: Seats = None, settings: Set = None, family: Family = None, notation: Notation = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes.")] = 1,
    human: Annotated[str, typer.Option(metavar="ROLE", help="A role or seat that you play.")] = "",
    reward: Rewards = None, seed: Seed = "0", as_json: Json = False,
) -> None:  # fmt: skip
    """Play in the terminal; seats that nobody takes are scripted."""
    from dream_envs.cli import play as _play

    asked = _play.Asked(name, seats or [], settings or [], reward or [], family or "", notation or "", seed)
    _play.play(asked, episodes, human, as_json)


@app.command()
def rollout(
    name: Id,
    out: Annotated[Path, typer.Option(help="The run's folder; the same command goes on where it stopped.")],
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes in all.")] = 256,
    seats: Seats = None, settings: Set = None, family: Family = None, notation: Notation = None, reward: Rewards = None,
    width: Annotated[int, typer.Option(min=1, help="Games in play at once.")] = 256,
    deadline: Annotated[float | None, typer.Option(help="Seconds that one batched call may take.")] = None,
    retry: Annotated[str, typer.Option(metavar="error,timeout", help="Play episodes with such a turn again.")] = "",
    workers: common.Workers = "", seed: Seed = "0", as_json: Json = False,
) -> None:  # fmt: skip
    """Play many episodes at once into OUT/episodes.jsonl."""
    from dream_envs.cli import play as _play

    asked = _play.Asked(name, seats or [], settings or [], reward or [], family or "", notation or "", seed)
    found = _play.rollout(asked, out, episodes, width, deadline, retry, workers, quiet=as_json)
    common.emit(found, _play.rollout_text, as_json)


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="ID|module:Class", help="Environment, task family, reward or agent.")],
    settings: Set = None,
    only: Annotated[Texts, typer.Option(help="Run only this check (repeatable).")] = None,
    skip: Annotated[Texts, typer.Option(help="Leave this check out (repeatable).")] = None,
    as_json: Json = False,
) -> None:
    """Run the conformance kit; exit status 1 if a check fails."""
    from dream_envs.cli import plugins

    report = plugins.check(name, registry.values_of(settings or [], "--set"), only, skip or [])
    data = {"subject": report.subject, "ok": report.ok, "checks": report.checks}
    common.emit(data, lambda _: str(report), as_json)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(metavar="env|task|reward|agent|loop|entry")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="CamelCase or snake_case.")],
    out: Annotated[Path | None, typer.Option(help="The folder to make; default: ./NAME.")] = None,
    as_json: Json = False,
) -> None:
    """Write a small working package with entry point and test."""
    from dream_envs.cli import plugins

    common.emit(plugins.new(kind, name, out), plugins.new_text, as_json)


@app.command()
def view(
    run: Run,
    role: Annotated[str, typer.Option(help="Only turns of this role or seat.")] = "",
    status: Annotated[str, typer.Option(help="Only episodes with a turn, score or outcome of this status.")] = "",
    index: Annotated[str, typer.Option(help="Only these episodes: 7 or 10-19 or 3,5,8.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many episodes, a sample with --html; 0: all.")] = 0,
    html: Annotated[bool, typer.Option("--html", help="Write a page to read them in a browser.")] = False,
    out: Annotated[Path | None, typer.Option(help="Of --html; default: RUN/transcripts.html.")] = None,
    as_json: Json = False,
) -> None:
    """Read a run's transcripts, a page at a time in a terminal, or in a browser."""
    from dream_envs.cli import runs

    if html:
        common.emit(runs.view_page(run, role, status, index, limit, out), runs.view_page_text, as_json)
        return
    if out is not None:
        raise DreamEnvsError(f"--out {out} goes with --html; in a terminal: dream-envs view RUN > FILE")
    runs.view(run, role, status, index, limit, as_json)


@app.command()
def rescore(
    run: Run,
    reward: Rewards = None,
    out: Annotated[Path | None, typer.Option(help="Write the rescored episodes to this file.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make a rollout's moves again first; exit 1 if any differs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute a run's scores again from its episodes, round by round."""
    from dream_envs.cli import runs

    common.emit(found := runs.rescore(run, reward or [], out, verify), runs.rescore_text, as_json)
    if verify and found["replayed"]["first_difference"] is not None:
        raise typer.Exit(1)


@app.command()
def export(
    run: Run,
    kind: Annotated[str, typer.Option("--format", help="parquet, jsonl, or inspect (a log).")] = "parquet",
    out: Annotated[Path | None, typer.Option(help="The folder; default: RUN/export.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's turns as a Hugging Face dataset, or the run as an Inspect log."""
    from dream_envs.cli import runs

    text = "wrote {out}: {rows} rows of {episodes} episodes"
    common.emit(runs.export(run, kind, out), lambda made: text.format(**made), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing and how to get it."""
    common.emit(found := _doctor.examine(), _doctor.text, as_json)
    if not found["ok"]:
        raise typer.Exit(1)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="nano/NAME, smollm2, a folder, a hub id.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1.")] = 8000,
    adapter: Annotated[Texts, typer.Option(metavar="NAME=FOLDER", help="A LoRA adapter, by name (repeatable).")] = None,
    lora_rank: Annotated[int, typer.Option(min=0, help="Of adapters that may be loaded later.")] = 0,
    max_model_len: Annotated[int, typer.Option(min=16, help="Tokens of prompt and reply together.")] = 4096,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    vllm_python: Annotated[str, typer.Option(help="A Python that can import vllm; default: this one.")] = "",
    as_json: Json = False,
) -> None:
    """Serve a model with vLLM until Ctrl-C; others play it by --seats ROLE=URL."""
    from dream_envs.cli import plugins

    plugins.serve(
        model,
        port,
        registry.pairs_of(adapter or [], "--adapter"),
        lora_rank,
        max_model_len,
        dtype,
        vllm_python,
        as_json,
    )


@app.command()
def nano(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A nano base, such as compose.")],
    out: Annotated[Path | None, typer.Option(help="Default: runs/nano/NAME.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: the recipe's.")] = None,
    as_json: Json = False,
) -> None:
    """Pre-train a nano base from its declared support."""
    from dream_envs.cli import runs

    text = "wrote {out}: {parameters} parameters, weights {weights_hash}"
    common.emit(runs.nano(name, out, steps), lambda made: text.format(**made), as_json)


@app.command(epilog=f"\b\nLoops (info LOOP tells more):\n  {', '.join(registry.rows('loops'))}")
def train(
    loop: Annotated[str, typer.Argument(metavar="LOOP", help="A name from the list below, or module:object.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: runs/LOOP.")] = None,
    env: Env = None, family: Family = None, notation: Notation = None, levels: Levels = None, reward: Rewards = None,
    seats: Frozen = None, learner: Learner = None, model: Model = None, steps: Steps = None, settings: LoopSet = None,
    resume: Resume = False,
    frontier: Annotated[bool, typer.Option(help="End in a Frontier Report (mini) in OUT/frontier.")] = True,
    device: Device = "cpu",
    preset: Annotated[str, typer.Option(help="nano or lm (LoRA); default: by the model's size.")] = "",
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    lr: Annotated[float | None, typer.Option(help="The learning rate.")] = None,
    lora_rank: Annotated[int | None, typer.Option(min=0, help="Train adapters of this rank; 0: all weights.")] = None,
    micro_batch: Annotated[int | None, typer.Option(min=0, help="Rows in one forward pass; 0: all.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="What samples: local, or vllm (with LoRA).")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of every reply; default: the game's.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Torch threads; 0: torch's choice, many times slower here.")] = 1,
    report_to: Annotated[Texts, typer.Option(help="Trackers beside TensorBoard: wandb ...")] = None,
    cache: Cache = None, seed: Seed = "0", quiet: Quiet = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Run a loop on any environment: train, measure, report."""
    dream(**locals())


def dream(loop: str = "dream", **words: Any) -> None:
    """``train dream``, as a verb of its own with the options of ``train``."""
    from dream_envs.cli import runs

    runs.train(loop, words)


_options = [p for name, p in inspect.signature(train, eval_str=True).parameters.items() if name != "loop"]
dream.__signature__ = inspect.Signature(_options)  # type: ignore[attr-defined]
dream.__annotations__ = {p.name: p.annotation for p in _options}
app.command(help="Run the flagship loop: train dream.")(dream)


@app.command()
def report(
    run: Run, out: Annotated[Path | None, typer.Option(help="Default: RUN/report.html.")] = None, as_json: Json = False
) -> None:
    """Write a run's HTML report."""
    from dream_envs.cli import runs

    common.emit(runs.report(run, out), runs.report_text, as_json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit status.  ``argv``: the words behind ``dream-envs``, None: those of this process."""
    words = list(sys.argv[1:] if argv is None else argv)
    _streams("--json" in words)
    if sys.stdout is None:
        return _fail("stdout is closed: send it to a file, or to /dev/null", 2)
    with contextlib.suppress(FileNotFoundError):  # somebody has removed the working directory
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)  # module:Class of a file in the working directory, behind whatever is installed
    try:
        status = app(words, prog_name="dream-envs", standalone_mode=False)
        common.say("", end="")
    except common.Interrupted as stopped:
        return _fail(str(stopped), 130)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except DreamEnvsError as error:
        return _fail(str(error), 2)
    except (BrokenPipeError, common.ReaderGone):  # ``| head``: nothing is wrong, and nobody is left to be told
        common.let_go()
        return 141
    except OSError as error:
        common.let_go()
        where = "" if error.filename is None else f"{error.filename}: "
        return _fail(f"{where}{error.strerror or error}", 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not a complaint of the parser: a fault of ours, shown in full
            sys.excepthook = _in_full
            raise
        return _fail(_usage(error), 2)
    if status == 130:  # typer's own answer to Ctrl-C
        return _fail("interrupted", 130)
    return status if isinstance(status, int) else 0


def _streams(as_json: bool) -> None:
    """Make the standard streams fit for whatever is said: no locale, closed stderr or hostile warning is in the way."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (to the end of the process)
    for stream, encoding in ((sys.stdout, "utf-8" if as_json else None), (sys.stderr, None)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
    warnings.formatwarning = _warning


_warning_as_ever = warnings.formatwarning


def _warning(*args: Any, **words: Any) -> str:
    return common.clean(_warning_as_ever(*args, **words))


def _in_full(*error: Any) -> None:
    """A traceback whose texts cannot steer the terminal."""
    common.say("".join(traceback.format_exception(*error)), sys.stderr, end="")


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
    with contextlib.suppress(OSError, common.ReaderGone):  # stderr cannot be written: the status says it
        common.say(f"{common.style('dream-envs:', common.RED, sys.stderr)} {line}", sys.stderr)
    return status
