"""``dream-envs board``: run entries of the leaderboard, and build its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dream_envs.cli import common
from dream_envs.cli.common import Json

board_app = typer.Typer(help="The leaderboard: run entries, rounds, the site.", add_completion=False)

Root = Annotated[Path, typer.Option("--board", help="The board's folder: entries/, results/, rounds/.")]
Cache = Annotated[Path, typer.Option(help="Where hidden worlds are kept.")]
Class = Annotated[int, typer.Option("--class", help="Budget: 1, 3 or 10 processor minutes.")]
Round = Annotated[str, typer.Option("--round", help="An open round; practice has public worlds and no end.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes side by side.")]
ROOT, CACHE = Path("leaderboard"), Path("runs/board")
SITE = CACHE / "site"  # not in the board's folder: what is built is not tracked


@board_app.command()
def run(
    names: Annotated[list[str], typer.Argument(metavar="ENTRY...", help="Names, or folders; 'all' for every entry.")],
    budget: Class = 1,
    seeds: Annotated[int, typer.Option(min=1, max=25, help="Worlds, each with its own seed.")] = 2,
    round: Round = "practice",
    by: Annotated[str, typer.Option(help="Who runs this; default: a name made of the machine's.")] = "",
    gain: Annotated[bool, typer.Option("--gain", help="Measure the Frontier Report's headline as well.")] = False,
    any_version: Annotated[bool, typer.Option("--any-version", help="Whatever the entry's lock says.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep what the runs leave in this folder.")] = None,
    jobs: Jobs = 2, root: Root = ROOT, cache: Cache = CACHE, as_json: Json = False,
) -> None:  # fmt: skip
    """Train entries in hidden worlds, measure them, and add their lines to the round; the same command goes on."""
    board = common.needs("dream_envs.leaderboard.board")
    rounds = common.needs("dream_envs.leaderboard.rounds")
    place = board.Place(root, cache.absolute())
    found = [place.entry(name) for name in (place.names() if names == ["all"] else names)]
    beacon = rounds.beacon_of(place.root, round, {e.name: e.hash for e in found})
    asked = [run for entry in found for run in board.runs_of(entry, round, beacon, budget, seeds)]
    how = {"by": by or board.name_of_this_machine(), "jobs": jobs, "keep": keep, "gain": gain}
    lines = board.run_all(asked, place, any_version=any_version, tell=common.say, **how)
    common.emit(lines, lambda its: "\n".join(map(board.told, its)), as_json)


Out = Annotated[Path, typer.Option(help="The site's folder.")]


@board_app.command()
def build(root: Root = ROOT, out: Out = SITE, as_json: Json = False) -> None:
    """Build the board's pages, whole, from entries/, results/ and rounds/."""
    site = common.needs("dream_envs.leaderboard.site")
    common.emit(site.build(root, out), site.told, as_json)


@board_app.command()
def serve(out: Out = SITE, port: Annotated[int, typer.Option(help="Of 127.0.0.1.")] = 8000) -> None:
    """Show the pages that were built to this machine's browser, until Ctrl-C."""
    with common.needs("dream_envs.leaderboard.site.serve").server(out, port) as running:
        common.say(f"http://127.0.0.1:{running.server_port}/ shows {out}; Ctrl-C ends it")
        running.serve_forever()
