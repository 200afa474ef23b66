"""What is shipped: one top-level name, everything that runs needs, and nothing heavy on import."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import dream_envs

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = ("torch", "transformers", "trl", "accelerate", "datasets", "matplotlib", "jinja2", "scipy", "pandas")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """The names in the wheel that this checkout builds, without an index."""
    pytest.importorskip("setuptools")
    out, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    # from a copy: building leaves a build/ behind, and a stale one would ship what is no longer there
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (path := ROOT / name).is_file() and not path.is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(path.read_bytes())
    # without the links, as on a machine where git wrote none: the wheel must not depend on them
    options = ("-q", "--no-deps", "--no-build-isolation", "--no-index", "-w")
    command = [sys.executable, "-m", "pip", "wheel", *options, str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl"))).namelist()


def test_one_top_level_name(wheel):
    tops = {name.split("/")[0] for name in wheel}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"dream_envs"}


#: Studies, benchmarks and the board's entries are run from a clone.
FROM_A_CLONE = ("dream_envs/baselines/studies/", "dream_envs/baselines/benchmarks/", "dream_envs/leaderboard/entries/")


def test_every_module_is_in_it(wheel):
    """Every Python file of the rooms, under its import name; a package that pyproject forgot would be missing."""
    wanted = {str(p.relative_to(ROOT)) for p in (ROOT / "dream_envs").glob("**/*.py")}
    for room in ("agents", "baselines", "leaderboard"):
        wanted |= {f"dream_envs/{p.relative_to(ROOT)}" for p in (ROOT / room).glob("**/*.py")}
    assert {name for name in wanted if not name.startswith(FROM_A_CLONE)} <= set(wheel)


def test_every_data_file_is_in_it(wheel):
    data = [p for kind in ("cli/templates/**/*.txt", "report/*.html") for p in (ROOT / "dream_envs").glob(kind)]
    bases = [p.parent for p in (ROOT / "baselines" / "nano").glob("*/config.json")]
    assert data and bases
    wanted = {"dream_envs/py.typed", *(str(p.relative_to(ROOT)) for p in data)}
    site = ROOT / "leaderboard" / "site" / "templates"
    wanted |= {f"dream_envs/{p.relative_to(ROOT)}" for folder in (*bases, site) for p in folder.iterdir()}
    assert wanted <= set(wheel)
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_the_version_is_said_once_more_and_the_same():
    assert PROJECT["project"]["version"] == dream_envs.__version__
    assert f"## {dream_envs.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def modules_after(code: str) -> set[str]:
    """The top-level names that a fresh interpreter has loaded after this code."""
    tail = "\nimport sys\nprint('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.rpartition("LOADED ")[2].split())
    assert "json" in found
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import dream_envs",
        "from dream_envs.cli import main\nassert main(['--help']) == 0",
        "from dream_envs.cli import main\nassert main(['list']) == 0",
        "from dream_envs.cli import main\nassert main(['play', 'ChallengerSolver-v0']) == 0",
        "import gymnasium, dream_envs\ngymnasium.make('dream_envs/ChallengerSolver-Solver-v0').reset(seed=1)",
    ],
)
def test_nothing_heavy_is_loaded(code):
    assert not modules_after(code) & set(HEAVY)


def test_constraints_pin_every_requirement_within_its_range():
    """make test installs what pyproject allows: every direct requirement is pinned, and in its own range."""
    rows = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(row.split("==") for row in rows if row and row[0] != "#")
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in [*PROJECT["project"]["dependencies"], *extras["train"], *extras["dev"]]:
        name, operator, bound = re.fullmatch(r"([\w.-]+)(>=|==)([\w.*]+)", requirement).groups()
        assert name in pinned, f"{name} has no row in constraints.txt"
        have, least = (tuple(int(n) for n in re.findall(r"\d+", v)) for v in (pinned[name], bound))
        assert have[: len(least)] == least if operator == "==" else have >= least
    assert "+" not in pinned["torch"], "a local version would tie the file to one index"
