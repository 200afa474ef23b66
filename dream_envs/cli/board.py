"""``dream-envs board``: run entries of the leaderboard, and build its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dream_envs.cli import common
from dream_envs.cli.common import Json
from dream_envs.core import DreamEnvsError

board_app = typer.Typer(help="The leaderboard: run entries, rounds, the site.", add_completion=False)

Root = Annotated[Path, typer.Option("--board", help="The board's folder: entries/, results/, rounds/.")]
Cache = Annotated[Path, typer.Option(help="Where hidden worlds are kept.")]
Class = Annotated[int, typer.Option("--class", help="Budget: 1, 3 or 10 processor minutes.")]
Round = Annotated[str, typer.Option("--round", help="An open round; practice has public worlds and no end.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes side by side.")]
Secret = Annotated[Path | None, typer.Option(help="The organiser's file, in a round that is not closed.")]
By = Annotated[str, typer.Option(help="Who runs this; default: a name made of the machine's.")]
Name = Annotated[str, typer.Argument(metavar="NAME")]
ROOT, CACHE = Path("leaderboard"), Path("runs/board")
SITE = CACHE / "site"  # not in the board's folder: what is built is not tracked


@board_app.command()
def run(
    names: Annotated[list[str], typer.Argument(metavar="ENTRY...", help="Names, or folders; 'all' for every entry.")],
    budget: Class = 1,
    seeds: Annotated[int, typer.Option(min=1, max=25, help="Worlds, each with its own seed.")] = 2,
    round: Round = "practice",
    by: By = "",
    gain: Annotated[bool, typer.Option("--gain", help="Measure the Frontier Report's headline as well.")] = False,
    any_version: Annotated[bool, typer.Option("--any-version", help="Whatever the entry's lock says.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep what the runs leave in this folder.")] = None,
    jobs: Jobs = 2, secret: Secret = None, root: Root = ROOT, cache: Cache = CACHE, as_json: Json = False,
) -> None:  # fmt: skip
    """Train entries in hidden worlds, measure them, and add their lines to the round; the same command goes on."""
    board = common.needs("dream_envs.leaderboard.board")
    rounds = common.needs("dream_envs.leaderboard.commit_reveal")
    place = board.Place(root, cache.absolute())
    found = [place.entry(name) for name in (place.names() if names == ["all"] else names)]
    beacon = rounds.beacon_of(place.root, round, {e.name: e.hash for e in found}, secret)
    asked = [run for entry in found for run in board.runs_of(entry, round, beacon, budget, seeds)]
    asked.sort(key=lambda run: run.world)  # an early stop leaves whole worlds
    how = {"by": by or board.name_of_this_machine(), "jobs": jobs, "keep": keep, "gain": gain}
    lines = board.run_all(asked, place, any_version=any_version, tell=common.say, **how)
    common.emit(lines, lambda its: "\n".join(map(board.told, its)), as_json)


@board_app.command()
def reproduce(
    names: Annotated[list[str], typer.Argument(metavar="ENTRY...", help="Names; 'all' for every entry.")],
    round: Round = "practice",
    budget: Class = 1,
    worlds: Annotated[str, typer.Option(help="Which: 0 or 0-4 or 0,3; default: the first.")] = "0",
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the runs, drawn by --label.")] = 1.0,
    label: Annotated[str, typer.Option(help="What draws the share: a date, say.")] = "",
    by: By = "", secret: Secret = None, jobs: Jobs = 2, root: Root = ROOT, cache: Cache = CACHE, as_json: Json = False,
) -> None:  # fmt: skip
    """Run entries again in worlds that have a line, and add lines that say whether the hashes are equal."""
    board = common.needs("dream_envs.leaderboard.board")
    rounds = common.needs("dream_envs.leaderboard.commit_reveal")
    place = board.Place(root, cache.absolute())
    found = [place.entry(name) for name in (place.names() if names == ["all"] else names)]
    beacon = rounds.beacon_of(place.root, round, {e.name: e.hash for e in found}, secret)
    chosen = sorted({i for span in common.ranges_of(worlds, "--worlds", 1000) for i in span})
    asked = [
        run for e in found for run in board.runs_of(e, round, beacon, budget, max(chosen) + 1) if run.world in chosen
    ]
    if names == ["all"] or share < 1:
        asked = board.drawn(asked, place, share, label)
    pairs = board.reproduce(asked, place, by=by or board.name_of_this_machine(), jobs=jobs, tell=common.say)
    common.emit(pairs, board.reproduced_text, as_json)
    if not all(pair["equal"] for pair in pairs):
        raise typer.Exit(1)


@board_app.command("check")
def check_verb(
    names: Annotated[list[str], typer.Argument(metavar="ENTRY...", help="Names, or folders.")],
    root: Root = ROOT, as_json: Json = False,
) -> None:  # fmt: skip
    """Read entries and checkpoints as the board would, and run nothing of them."""
    entries, checkpoint = (common.needs(f"dream_envs.leaderboard.{name}") for name in ("entry", "checkpoint"))
    found = []
    for name in names:
        folder = Path(name) if len(Path(name).parts) > 1 else root / "entries" / name
        if (folder / checkpoint.FILE).exists():
            checkpoint.read(folder)
            found.append({"name": folder.name, "kind": "checkpoint"})
        else:
            read = entries.read(folder)
            kind = "entry with code" if read.coded else "entry"
            found.append({"name": read.name, "kind": kind, "hash": read.hash, "versions": read.unlocked()})
    common.emit(found, lambda its: "\n".join(f"{i['name']}: a sound {i['kind']}" for i in its), as_json)


@board_app.command()
def judge(
    bundle: Annotated[Path, typer.Argument(metavar="FOLDER", help="A checkpoint's bundle.")],
    base: Annotated[str, typer.Option(help="Where its base lies; default: where its name leads.")] = "",
    round: Round = "practice",
    suite: Annotated[str, typer.Option(help="nano, english, or module:function.")] = "nano",
    size: Annotated[str, typer.Option(help="mini or standard.")] = "mini",
    by: By = "", secret: Secret = None, root: Root = ROOT, cache: Cache = CACHE, as_json: Json = False,
) -> None:  # fmt: skip
    """Judge a checkpoint by what is sampled from its weights, and add its line to the round."""
    import tempfile

    board = common.needs("dream_envs.leaderboard.board")
    parts = ("checkpoint", "commit_reveal", "scores")
    checkpoint, rounds, scores = (common.needs(f"dream_envs.leaderboard.{name}") for name in parts)
    beacon = "" if round == rounds.PRACTICE else rounds.beacon_of(root, round, {}, secret)
    cache.mkdir(parents=True, exist_ok=True)
    how = {"round": round, "beacon": beacon, "suite": suite, "size": size, "by": by or board.name_of_this_machine()}
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        line = checkpoint.judge(bundle, base, Path(scratch), **how)
    scores.append(root / "results" / f"{round}-checkpoints.jsonl", [line])
    common.emit(
        line,
        lambda it: f"{it.checkpoint}: {it.word}, {it.gain[0]:+.1f} [{it.gain[1]:+.1f}, {it.gain[2]:+.1f}]",
        as_json,
    )


@board_app.command()
def environment(
    name: Name,
    wheel: Annotated[Path, typer.Argument(metavar="WHEEL", help="The package that environments/NAME.toml names.")],
    by: By = "", root: Root = ROOT, as_json: Json = False,
) -> None:  # fmt: skip
    """Try a package's environments in the sandbox, and add its line: the conformance kit and scripted rewards."""
    board, made, scores = (
        common.needs(f"dream_envs.leaderboard.{part}") for part in ("board", "environments", "scores")
    )
    line = made.conform(root / "environments" / f"{name}.toml", wheel, by=by or board.name_of_this_machine())
    scores.append(root / "results" / "environments.jsonl", [line])
    common.emit(line, made.told, as_json)
    if not line.sound:
        raise typer.Exit(1)


@board_app.command()
def card(
    learners: Annotated[list[str], typer.Argument(metavar="LEARNER...", help="grpo, ppo ... or module:object.")],
    seeds: Annotated[int, typer.Option(min=1, max=25, help="Seeds of every experiment.")] = 3,
    out: Annotated[Path, typer.Option(help="Runs and pages; the same command goes on.")] = Path("runs/cards"),
    jobs: Jobs = 2, as_json: Json = False,
) -> None:  # fmt: skip
    """Score learners ability by ability, on experiments of at most a minute of one core each."""
    if (out / "index.html").exists() and not (out / "cards.md").is_file():
        raise DreamEnvsError(f"--out {out}: its index.html is not of these cards; choose another folder")
    made, site = (common.needs(f"dream_envs.leaderboard.{name}") for name in ("card", "site.cards"))
    found = made.cards(learners, seeds, out, jobs, common.say)
    told = {**site.write(found, out), "scores": found}
    common.emit(told, lambda it: f"{site.markdown(site.table_of(found))}\n\nwrote {it['out']}", as_json)


round_app = typer.Typer(help="Open, freeze and close a round.", add_completion=False)
board_app.add_typer(round_app, name="round")


def _said(found: Any) -> str:
    state = "closed" if found.closed else f"frozen, {len(found.frozen)} entries" if found.frozen else "open"
    return f"round {found.name}: {state}; commitment {found.commitment[:16]}"


@round_app.command("open")
def round_open(
    name: Name,
    secret: Annotated[Path, typer.Option(help="A new file outside of the board's folder, which nobody else reads.")],
    public: Annotated[str, typer.Option(help="A public value that nobody knows yet, in words.")] = "",
    root: Root = ROOT, as_json: Json = False,
) -> None:  # fmt: skip
    """Draw a secret, and publish its hash."""
    common.emit(
        common.needs("dream_envs.leaderboard.commit_reveal").open_round(root, name, secret, public), _said, as_json
    )


@round_app.command("freeze")
def round_freeze(
    name: Name,
    value: Annotated[str, typer.Option(help="What the public value turned out to be.")] = "",
    root: Root = ROOT, as_json: Json = False,
) -> None:  # fmt: skip
    """Fix the entries of a round as they are now."""
    board = common.needs("dream_envs.leaderboard.board")
    place = board.Place(root, root)
    hashes = {entry: place.entry(entry).hash for entry in place.names()}
    common.emit(common.needs("dream_envs.leaderboard.commit_reveal").freeze(root, name, hashes, value), _said, as_json)


@round_app.command("close")
def round_close(
    name: Name, secret: Annotated[Path, typer.Option(help="The file.")], root: Root = ROOT, as_json: Json = False
) -> None:
    """Publish the secret: anybody can make the round's worlds now."""
    common.emit(common.needs("dream_envs.leaderboard.commit_reveal").close(root, name, secret), _said, as_json)


Out = Annotated[Path, typer.Option(help="The site's folder.")]


@board_app.command()
def build(root: Root = ROOT, out: Out = SITE, as_json: Json = False) -> None:
    """Build the board's pages, whole, from entries/, results/ and rounds/."""
    site = common.needs("dream_envs.leaderboard.site")
    with common.writing(out):
        made = site.build(root, out)
    common.emit(made, site.told, as_json)


@board_app.command()
def serve(out: Out = SITE, port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1.")] = 8000) -> None:
    """Show the pages that were built to this machine's browser, until Ctrl-C."""
    with common.needs("dream_envs.leaderboard.site.serve").server(out, port) as running:
        common.say(f"http://127.0.0.1:{running.server_port}/ shows {out}; Ctrl-C ends it")
        running.serve_forever()
