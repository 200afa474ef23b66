"""The shape of the repository: which room may import which, where randomness is born, how long things may be."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Rooms from left to right; those of one row do not import each other.
ROWS: list[set[str]] = [
    {"core"},
    {"seeds", "spaces", "checks", "schema", "progress"},
    {"registry", "sandbox"},
    {"tasks"},
    {"envs"},
    {"curriculum"},
    {"rewards"},
    {"play"},
    {"pace", "replay"},
    {"api", "frontier"},
    {"metrics"},
    {"runs", "workers"},
    {"testing", "report"},
    {"agents"},
    {"adapters"},
    {"baselines"},
    {"leaderboard"},
    {"cli"},
]
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}
#: The API adapters in envs/: they stand to the right of the rewards that they build.
API = {"pettingzoo", "gym", "vector", "_adapter"}
#: Imports to the right that happen inside a function, when they are needed.
LATE = {("api", "agents"), ("play", "pace")}  # scripted agents fill the seats that nobody was named for
#: The package's own front door may name anything, late.
FRONT = "__init__"

#: Where torch's global generator may be seeded: inside fork_rng, or in a process that the file owns.
TORCH_SEEDERS = {
    "baselines/nano/recipe.py",
    "agents/training/adapters.py",
    "agents/training/preference.py",
    "agents/sleep/dreams.py",
    "agents/sleep/grow.py",
}


def python_files(*folders: str) -> list[Path]:
    """Every file of ours, each once (the links inside dream_envs are not followed)."""
    found = []
    for folder in folders:
        for where, names, files in os.walk(ROOT / folder):
            names[:] = sorted(n for n in names if not (Path(where) / n).is_symlink() and n != "__pycache__")
            found += [Path(where) / f for f in sorted(files) if f.endswith(".py")]
    return found


#: Entries are written as anybody's: what holds for them is tested in test_board_hostile.py.
SOURCE = [p for p in python_files("dream_envs", "agents", "baselines", "leaderboard") if "entries" not in p.parts]
EVERYTHING = [*SOURCE, *python_files("tests")]


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[:2] == ("dream_envs", "envs") and parts[2] in API:
        return "api"
    return parts[0] if parts[0] != "dream_envs" else parts[1]


def imports(tree: ast.Module, package: str) -> Iterator[tuple[str, bool, int]]:
    """(module, whether at import time, line) of every import; TYPE_CHECKING blocks are left out."""
    late = {
        id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)
    }
    typing = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for n in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in late, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *([base] if base else [])])
            yield base, id(node) not in late, node.lineno
            for alias in node.names:
                yield f"{base}.{alias.name}", id(node) not in late, node.lineno


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts[:-1]
    return ".".join(parts if parts[0] == "dream_envs" else ("dream_envs", *parts))


def rooms_imported(path: Path) -> Iterator[tuple[str, bool, int]]:
    for module, early, line in imports(tree_of(path), package_of(path)):
        parts = module.split(".")
        if parts[0] == "dream_envs" and len(parts) > 1:
            room = "api" if parts[1] == "envs" and len(parts) > 2 and parts[2] in API else parts[1]
            if room in RANK:
                yield room, early, line


@pytest.mark.parametrize("path", SOURCE, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_left(path):
    mine = room_of(path)
    if mine == FRONT:
        early = [room for room, at_import, _ in rooms_imported(path) if at_import]
        assert set(early) <= {"registry"}, "import dream_envs has to stay quick"
        return
    assert mine in RANK, f"{mine} is a new room: give it its place in ROWS"
    wrong = []
    for room, early, line in rooms_imported(path):
        if room == mine or RANK[room] < RANK[mine]:
            continue
        if not early and (mine, room) in LATE:
            continue
        wrong.append(f"line {line}: {mine} imports {room}")
    assert not wrong


def test_the_walk_sees_what_it_should(tmp_path):
    """The reader of imports, on a file in which everything that it has to tell apart occurs."""
    text = (
        "from __future__ import annotations\nimport dream_envs.envs.x\nfrom dream_envs import play as r\n"
        "from . import gates\nfrom ..envs import gym\nif TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from dream_envs.agents import scripted\n"
    )
    found = list(imports(ast.parse(text), "dream_envs.curriculum"))
    early = {module for module, at_import, _ in found if at_import}
    late = {module for module, at_import, _ in found if not at_import}
    assert {"dream_envs.envs.x", "dream_envs.play", "dream_envs.curriculum.gates", "dream_envs.envs.gym"} <= early
    assert late == {"dream_envs.agents", "dream_envs.agents.scripted"}
    assert "torch" not in early | late


def test_core_imports_nothing_of_ours():
    for name in ("core.py", "seeds.py"):
        found = {m for m, _, _ in imports(tree_of(ROOT / "dream_envs" / name), "dream_envs")}
        assert not [m for m in found if m.split(".")[0] == "dream_envs"]


HEAVY = {"torch", "transformers", "trl", "accelerate", "peft", "datasets"}


def test_the_environments_do_not_know_torch():
    for path in python_files("dream_envs"):
        if room_of(path) in ("adapters", "cli"):
            continue
        for module, _, line in imports(tree_of(path), package_of(path)):
            assert module.split(".")[0] not in HEAVY, f"{path.name}:{line} imports {module}"


def test_always_by_the_full_name():
    """``import agents`` would find another project's package of that name."""
    bare = {"agents", "baselines", "leaderboard"}
    for path in EVERYTHING:
        for module, _, line in imports(tree_of(path), package_of(path) if path in SOURCE else "tests"):
            assert module.split(".")[0] not in bare, f"{path}:{line} imports {module}: say dream_envs.{module}"


def global_randomness(tree: ast.Module) -> Iterator[str]:
    """Every use of a global generator: the module random, numpy's old functions, torch's global seed, seed + i.

    Keeping a generator's state for its owner (``from random import getstate, setstate``) draws nothing.
    """
    kept = {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "random"
        and {alias.name for alias in node.names} <= {"getstate", "setstate"}
    }
    for module, _, line in imports(tree, "x"):
        if line in kept:
            continue
        if module.split(".")[0] in ("random", "secrets") or module.startswith("uuid.uuid"):
            yield f"line {line}: import {module}"
    old = {"seed", "rand", "randn", "randint", "random", "choice", "shuffle", "permutation", "normal", "uniform"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            for prefix in ("np.random.", "numpy.random."):
                if text.startswith(prefix) and text.removeprefix(prefix).split(".")[0] in {*old, "RandomState"}:
                    yield f"line {node.lineno}: {text}"
            if text in ("torch.manual_seed", "torch.seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all"):
                yield f"line {node.lineno}: {text}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("default_rng"):
            yield f"line {node.lineno}: default_rng; use seeds.stream"
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Add)
            and ast.unparse(node.left) in ("seed", "self.seed")
        ):
            yield f"line {node.lineno}: {ast.unparse(node)}; use a label"


@pytest.mark.parametrize("path", SOURCE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_global_randomness(path):
    if path.is_relative_to(ROOT / "dream_envs" / "testing"):  # it watches the global generators
        return
    name = str(path.relative_to(ROOT))
    found = [f for f in global_randomness(tree_of(path)) if not (name in TORCH_SEEDERS and "torch.manual_seed" in f)]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "import random",
        "from random import choice",
        "from random import getstate, choice",
        "x = np.random.randint(3)",
        "np.random.seed(0)",
        "numpy.random.RandomState(1)",
        "torch.manual_seed(3)",
        "rng = np.random.default_rng(0)",
        "f(seed + 1)",
    ],
)
def test_global_randomness_is_found(line):
    assert list(global_randomness(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "rng.random()",
        "np.random.Generator(np.random.PCG64(3))",
        "torch.random.fork_rng()",
        "from random import getstate, setstate",
    ],
)
def test_randomness_as_an_argument_is_not(line):
    assert not list(global_randomness(ast.parse(line)))


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path):
    assert len(path.read_text("utf-8").splitlines()) <= 600, "split the file"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *[d.lineno for d in node.decorator_list]])
            assert (node.end_lineno or first) - first < 60, f"{node.name} is longer than 60 lines"


@pytest.mark.parametrize("name", ["agents", "baselines", "leaderboard"])
def test_the_three_folders_never_shadow_a_package(name):
    assert not (ROOT / name / "__init__.py").exists()
    link = ROOT / "dream_envs" / name
    assert os.readlink(link) == os.path.join("..", name)


def tracked() -> list[str]:
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("not a git checkout")
    return [name for name in found.stdout.split("\0") if name]


def test_links_are_relative_and_inside():
    for name in tracked():
        path = ROOT / name
        if path.is_symlink():
            target = os.readlink(path)
            assert not os.path.isabs(target)
            assert (path.parent / target).resolve().is_relative_to(ROOT)


def test_nothing_built_is_tracked():
    for name in tracked():
        parts = Path(name).parts
        assert not {"__pycache__", ".venv", "build", "dist", "runs"} & set(parts), name
        path = ROOT / name
        assert path.is_symlink() or not path.exists() or path.stat().st_size <= 4 * 2**20, f"{name} is over 4 MiB"


#: The rooms that a newcomer reads.
READING_PATH = (
    "dream_envs/core.py", "dream_envs/play.py", "dream_envs/envs/", "dream_envs/tasks/", "dream_envs/rewards/",
    "dream_envs/curriculum/", "agents/training/", "baselines/recipe.py", "baselines/loop.py", "baselines/loops/",
)  # fmt: skip


def test_no_more_lines_than_allowed():
    """``limits.toml`` holds the ceilings."""
    limits = tomllib.loads((ROOT / "tests" / "limits.toml").read_text("utf-8"))
    counts = dict.fromkeys(limits, 0)
    for name in tracked():
        if not name.endswith(".py") or (ROOT / name).is_symlink() or not (ROOT / name).exists():
            continue
        lines = (ROOT / name).read_bytes().count(b"\n")
        counts["tests" if name.startswith("tests/") else "product"] += lines
        counts["reading_path"] += lines if name.startswith(READING_PATH) else 0
    assert all(counts[room] <= limits[room]["most"] for room in limits), counts


def test_training_and_sleep_know_no_game_and_no_family():
    for path in [*python_files("agents/training", "agents/sleep"), ROOT / "baselines" / "loop.py"]:
        for module, _, line in imports(tree_of(path), package_of(path)):
            parts = module.split(".")
            game = parts[:2] == ["dream_envs", "envs"] and len(parts) > 2 and parts[2] not in API
            assert not game and parts[:2] != ["dream_envs", "tasks"], f"{path.name}:{line} imports {module}"


def test_every_mutation_still_has_its_place():
    """``mutate.py`` would otherwise change nothing, and say that nobody noticed."""
    for row in json.loads((ROOT / "tests" / "mutations.json").read_text()):
        assert (ROOT / row["file"]).read_text().count(row["before"]) == 1 and (ROOT / row["test"]).is_file(), row["id"]
