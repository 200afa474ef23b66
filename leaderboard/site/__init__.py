"""The leaderboard's site: static pages of entries/, results/ and rounds/, with no script and no request off the page.

The same files give the same bytes.  Whatever comes from an entry or a line is capped, made visible and escaped.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard.site import data, downloads, pages
from dream_envs.runs import write_json

#: Marks a folder as made here, so that it may be replaced.
MARK = "board-site.json"


def build(root: Path, out: Path) -> dict[str, Any]:
    """Write the site of the board in ``root`` to ``out``, whole or not at all; what was built.

    Raises:
        DreamEnvsError: if a file of the board cannot be read, or ``out`` holds something else than a site.
    """
    if out.is_symlink() or (out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir()))):
        raise DreamEnvsError(f"{out} holds something else than a site of the board: choose another --out")
    board = data.load(root)
    made = {name: text.encode() for name, text in (pages.render(board, root) | downloads.files(board)).items()}
    told = {"pages": sum(name.endswith(".html") for name in made), "files": len(made), "groups": len(board.groups)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".site-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        for name, content in made.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        write_json(new / MARK, told)
        if out.exists():
            os.rename(out, old)
        try:
            os.rename(new, out)
        except OSError:
            if old.exists():
                os.rename(old, out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    return {"out": str(out), **told, "broken": board.broken, "odd": board.odd}


def told(made: dict[str, Any]) -> str:
    """Lines for a terminal."""
    lines = [f"wrote {made['out']}: {made['pages']} pages, {made['groups']} tables; look: dream-envs board serve"]
    lines += [f"entry left out: {why}" for why in made["broken"].values()]
    lines += [
        f"{number} lines in results/{name}.jsonl are of no round or class here" for name, number in made["odd"].items()
    ]
    return "\n".join(json.dumps(line)[1:-1] if not line.isprintable() else line for line in lines)
