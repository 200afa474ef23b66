"""The verbs ``new``, a small package of one's own, and ``check``, the conformance kit on what a name stands for."""

from __future__ import annotations

import inspect
import keyword
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dream_envs import registry
from dream_envs.cli import common
from dream_envs.cli.info import kind_of
from dream_envs.core import DreamEnvsError
from dream_envs.envs._adapter import NAMESPACE
from dream_envs.play import as_agent
from dream_envs.rewards.base import as_reward
from dream_envs.testing import Report
from dream_envs.testing import check as check_env
from dream_envs.testing.parts import check_agent, check_family, check_reward

GAME = "dream_envs/ChallengerSolver-v0"
KINDS = {"env": "envs", "task": "tasks", "reward": "rewards", "agent": "agents", "loop": "loops"}
WHAT = {"env": "An environment", "task": "A task family", "reward": "A reward", "agent": "An agent", "loop": "A loop"}


def new(kind: str, name: str, out: Path | None) -> dict[str, Any]:
    """Write the package into ``out`` (None: ``./NAME`` in snake case); nothing is overwritten.

    ``kind``: a key of ``KINDS``.  ``name``: CamelCase or snake_case; it becomes the class, module and registered name.
    """
    if kind == "entry":
        return _entry(name, out or Path("leaderboard/entries") / name)
    if kind not in KINDS:
        raise DreamEnvsError(registry.unknown("kinds", kind, [*KINDS, "entry"]))
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,59}", name) or not words:
        raise DreamEnvsError(f"name {name!r}: a letter, then letters, digits and _, as in HigherLower or higher_lower")
    snake, camel = "_".join(words).lower(), "".join(w[:1].upper() + w[1:] for w in words)
    # a reward's function has the registered name, so that its module needs another one, or it would hide it
    module, env_id = f"{snake}_{kind}", f"{snake}/{camel}-v0"
    row = env_id if kind == "env" else snake
    if keyword.iskeyword(snake) or module in sys.stdlib_module_names:
        raise DreamEnvsError(f"name {name!r}: {snake} is a word of Python's: choose another")
    if row in (taken := registry.rows(KINDS[kind])):
        raise DreamEnvsError(f"name {name!r}: the registry has {row!r} already ({taken[row]}): choose another")
    folder = out or Path(snake)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DreamEnvsError(f"{folder} is there already: choose another --out, nothing is overwritten")
    thing = {"reward": snake, "loop": "LOOP"}.get(kind, camel)
    target = f"{module}:{thing}"
    fields = {
        "dist": module.replace("_", "-"), "group": KINDS[kind], "row": row,
        "target": target + (" [guesser]" if kind == "env" else ""), "module": module, "snake": snake, "Class": camel,
        "id": env_id, "what": WHAT[kind], "try": _try(kind, row),
    }  # fmt: skip
    files = {"pyproject.toml.txt": "pyproject.toml", "README.md.txt": "README.md"}
    files |= {f"{kind}/module.py.txt": f"{module}.py", f"{kind}/test.py.txt": f"tests/test_{module}.py"}
    for source, name_there in files.items():
        path, text = folder / name_there, (Path(__file__).parent / "templates" / source).read_text("utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], text), "utf-8")
    return {"kind": kind, "name": row, "out": str(folder), "files": list(files.values()), "target": target}


def _entry(name: str, folder: Path) -> dict[str, Any]:
    """An entry of the leaderboard: settings of a loop of the suite."""
    entries = common.needs("dream_envs.leaderboard.entry")
    if not entries.NAME.fullmatch(name) or folder.name != name:
        raise DreamEnvsError(f"entry {name!r}: lower-case letters, digits, - and _, at most 40; --out ends in it")
    if folder.exists():
        raise DreamEnvsError(f"{folder} is there already: choose another name, nothing is overwritten")
    lock = "".join(f'{package} = "{entries.installed(package)}"\n' for package in entries.LOCKED)
    text = (Path(__file__).parent / "templates" / "entry" / "entry.toml.txt").read_text("utf-8")
    folder.mkdir(parents=True)
    (folder / entries.FILE).write_text(text.replace("{{lock}}", lock.rstrip()), "utf-8")
    return {"kind": "entry", "name": name, "out": str(folder), "files": [entries.FILE], "target": ""}


def _try(kind: str, row: str) -> str:
    return f"train {row} --steps 1" if kind == "loop" else f"check {row}"


def new_text(made: dict[str, Any]) -> str:
    """What was written, and what to do next."""
    wrote = "\n".join(f"  {made['out']}/{name}" for name in made["files"])
    if made["kind"] == "entry":
        return f"wrote entry {made['name']}\n{wrote}\nnext: dream-envs board run {made['name']} --class 1"
    way = f"pip install -e {made['out']} && dream-envs {_try(made['kind'], made['name'])}"
    return f"wrote {made['kind']} {made['name']}\n{wrote}\nnext: {way}"


def check(name: str, settings: Mapping[str, Any], only: Sequence[str] | None, skip: Sequence[str]) -> Report:
    """Test an environment, or a family (by itself and in ``ChallengerSolver``), a reward or an agent.

    ``name``: an id, a registered name, or ``module:attribute``; ``settings``: its arguments.  ``only``, ``skip``: names
    of checks, for environments alone.
    """
    kinds = [kind for kind in registry.KINDS if name in registry.rows(kind)]
    if not kinds and ":" in name:
        kinds = [kind_of(registry.load("envs", name))]
    games = {game := common.game_id(name), NAMESPACE + game}
    if not kinds and ":" not in name and games.isdisjoint(registry.rows("envs")):
        known = [n for kind in ("envs", "tasks", "rewards", "agents") for n in registry.rows(kind)]
        what = registry.unknown("environments, families, rewards and agents", name, known)
        raise DreamEnvsError(f"{what}; of a package that is not installed: module:attribute")
    if not kinds or "envs" in kinds:
        return check_env(name, only=only or None, skip=skip, **settings)
    if only or skip:
        raise DreamEnvsError(f"--only and --skip are for environments; {name} is among the {kinds[0]}: leave them out")
    if untested := {"loops", "learners", "suites"} & set(kinds):
        tested = "environments, families, rewards and agents"
        raise DreamEnvsError(f"check tests {tested}; {name} is among the {min(untested)}")
    return Report(name, tuple(check for kind in kinds for check in _part(kind, name, settings)))


def _part(kind: str, name: str, settings: Mapping[str, Any]) -> Sequence[Any]:
    if kind == "rewards":
        return check_reward(as_reward(name, **settings), name).checks
    if kind == "agents":
        return check_agent(lambda game: as_agent(name, game, **settings), name).checks
    found = registry.load("tasks", name)
    family = registry.create("tasks", name, **settings) if inspect.isclass(found) else found
    return (*check_family(family).checks, *check_env(GAME, family=family).checks)


def serve(
    model: str, port: int, adapters: dict[str, str], rank: int, most: int, dtype: str, python: str, as_json: bool
) -> None:
    """Start ``vllm serve``, say where it listens, and wait for Ctrl-C or its end."""
    server_of = common.needs("dream_envs.agents.engines.server").Server
    folder = common.needs("dream_envs.agents.engines.models").resolve(model)
    how = {"adapters": adapters, "lora_rank": rank, "max_model_len": most, "dtype": dtype, "python": python}
    with server_of(folder, name=model, port=port, **how) as server:
        found = {"model": model, "url": server.wait()}
        common.emit(found, lambda at: f"{at['model']} at {at['url']} (Ctrl-C stops it)", as_json)
        if status := server.process.wait():
            raise DreamEnvsError(f"vllm serve ended with status {status}")
