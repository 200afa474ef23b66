"""What the board lists beside entries: environments of other packages, and objections."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from pathlib import Path

import _board as made
import msgspec
import pytest

from dream_envs import sandbox
from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard import board, environments, objections, scores
from dream_envs.leaderboard.site import build

DEBATE = (Path(__file__).parent / "debate" / "debate_env.py").read_bytes()
POINTS = b"[dream_envs.envs]\ndebate/Debate-v0 = debate_env:Debate [opener, replier, judge]\n"
ABOUT = b"Metadata-Version: 2.1\nName: debate-env\nVersion: 0.1.0\n"


def wheel(folder: Path, files: dict[str, bytes] | None = None, *, mode: int = 0) -> Path:
    """A package in a wheel, and its listing."""
    files = {"debate_env.py": DEBATE, "d.dist-info/METADATA": ABOUT, "d.dist-info/entry_points.txt": POINTS} | (
        files or {}
    )
    packed = folder / "debate_env-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            item = zipfile.ZipInfo(name)
            item.external_attr = (mode if name.startswith("odd") else 0) << 16
            out.writestr(item, data, zipfile.ZIP_DEFLATED)
    listed = folder / "environments" / "debate.toml"
    listed.parent.mkdir(exist_ok=True)
    own = hashlib.sha256(packed.read_bytes()).hexdigest()
    listed.write_text(f'says = "Three roles"\nauthors = ["A"]\nsha256 = "{own}"\nids = ["debate/Debate-v0"]\n')
    return packed


def tried(folder: Path, packed: Path) -> environments.Listed:
    return environments.conform(folder / "environments" / "debate.toml", packed, by="x", seconds=120)


@pytest.mark.skipif(sandbox.available() is not None, reason="no sandbox here")
def test_a_package_is_tried_in_the_sandbox_alone(tmp_path: Path) -> None:
    """A sound one has its record; a cheat at import, and one that differs between processes, are named."""
    line = tried(tmp_path, wheel(tmp_path))
    (one,) = line.records
    failed = {c.name for c in one.checks if c.status == "failed"}
    assert failed == {"oracle_top", "floor_bottom"}, "what the kit says of it outside of the sandbox too"
    assert line.again == {"debate/Debate-v0": True} and one.rewards["oracle"]["opener"] == 1.0 and not line.sound
    seen = tmp_path / "seen"
    bad = f"import pathlib, socket\npathlib.Path({str(seen)!r}).write_text('x')\n".encode() + DEBATE
    (one,) = tried(tmp_path, wheel(tmp_path, {"debate_env.py": bad})).records
    assert [c.status for c in one.checks] == ["failed"] and not seen.exists()
    (one,) = tried(tmp_path, wheel(tmp_path, {"debate_env.py": b"import socket\nsocket.socket()\n" + DEBATE})).records
    assert [c.status for c in one.checks] == ["failed"]
    with pytest.raises(DreamEnvsError, match="ended without a record: error"):
        tried(tmp_path, wheel(tmp_path, {"debate_env.py": b"import os\nos._exit(3)\n"}))
    (one,) = tried(tmp_path, wheel(tmp_path, {"debate_env.py": b"x = bytearray(2**32)\n"})).records
    assert one.checks[0].reason.startswith("MemoryError")
    drawn = b"self.family.generate(rng, self.level)"
    assert DEBATE.count(drawn) == 1
    by_hash = DEBATE.replace(drawn, b"self.family.generate(np.random.default_rng(hash('x') % 2**32), self.level)")
    line = tried(tmp_path, wheel(tmp_path, {"debate_env.py": by_hash}))
    assert line.again == {"debate/Debate-v0": False} and "another process" in environments.told(line)


@pytest.mark.parametrize(
    ("files", "mode", "why"),
    [
        ({"../escape.py": b""}, 0, "no name of a file"),
        ({"/etc/x.py": b""}, 0, "no name of a file"),
        ({"a//b.py": b""}, 0, "no name of a file"),
        ({"a\\b.py": b""}, 0, "no name of a file"),
        ({"a/" * 20 + "b.py": b""}, 0, "no name of a file"),
        ({"odd.py": b"/etc/passwd"}, stat.S_IFLNK | 0o777, "no regular file"),
        ({"odd.py": b""}, stat.S_IFIFO | 0o600, "no regular file"),
        ({f"f{i}.py": b"" for i in range(2100)}, 0, "2103 files, at most 2000"),
        ({"bomb.bin": bytes(70 * 2**20)}, 0, "when unpacked"),
    ],
)  # fmt: skip
def test_a_wheel_that_is_not_what_it_seems_is_not_unpacked(
    tmp_path: Path, files: dict[str, bytes], mode: int, why: str
) -> None:
    packed = wheel(tmp_path, files, mode=mode)
    with pytest.raises(DreamEnvsError, match=why):
        environments.unpack(packed, tmp_path / "out")
    assert not (tmp_path / "escape.py").exists()


def test_another_wheel_or_none_is_refused(tmp_path: Path) -> None:
    packed = wheel(tmp_path)
    packed.write_bytes(packed.read_bytes() + b"x")
    for other in (packed, tmp_path / "none.whl"):
        with pytest.raises(DreamEnvsError, match="is not the wheel that debate"):
            tried(tmp_path, other)
    (tmp_path / "cut.whl").write_bytes(packed.read_bytes()[:300])
    with pytest.raises(DreamEnvsError, match="cannot be unpacked"):
        environments.unpack(tmp_path / "cut.whl", tmp_path / "out")
    for text in ('says = ""', "x = [", 'says = "a"\nauthors = ["A"]\nids = []\nsha256 = ""', "a = 1"):
        (tmp_path / "environments" / "debate.toml").write_text(text)
        with pytest.raises(DreamEnvsError, match=r"^debate\.toml: "):
            environments.read(tmp_path / "environments" / "debate.toml")


def test_the_site_shows_environments_and_objections(tmp_path: Path) -> None:
    """Texts are escaped; an upheld objection costs the rank in its round alone; a changed wheel has no record."""
    root = tmp_path / "leaderboard"
    made.whole(root)
    made.closed_round(root)
    (root / "objections").mkdir()
    text = 'entry = "replay"\nround = "practice"\nby = "<b>me</b>"\ndate = "2026-11-28"\nsays = "It <i>knew</i>."\n'
    (root / "objections" / "a.toml").write_text(text + 'answer = "So it did."\nupheld = true\n')
    (root / "objections" / "b.toml").write_text(text.replace("replay", "sleep"))
    packed = wheel(root)
    own = hashlib.sha256(packed.read_bytes()).hexdigest()
    checks = [environments.Finding("plays", "passed"), environments.Finding("pickling", "failed", "<script>")]
    line = environments.Listed(
        "debate", own, [environments.Record("debate/Debate-v0", "game", checks, {"oracle": {"a": 0.5}})],
        {"debate/Debate-v0": True},
    )  # fmt: skip
    scores.append(root / "results" / "environments.jsonl", [line])
    build(root, tmp_path / "site")
    index, page, entry = (
        (tmp_path / "site" / n).read_text() for n in ("index.html", "environments.html", "entry-replay.html")
    )
    ranked, unranked = index.partition("Without a rank")[::2]
    assert "entry-replay.html" in unranked and "objection was upheld: So it did." in index
    assert "entry-replay.html" in index.partition('id="practice-class1"')[0] + ranked, "ranked in the other round"
    assert "&lt;b&gt;me&lt;/b&gt;" in entry and "<i>knew" not in entry and "Upheld." in entry
    assert "Not answered yet." in (tmp_path / "site" / "entry-sleep.html").read_text()
    assert "1 passed" in page and "&lt;script&gt;" in page and "oracle: a 0.5" in page
    scores.append(root / "results" / "environments.jsonl", [msgspec.structs.replace(line, sha256="0" * 64)])
    build(root, tmp_path / "site")
    assert "Not tried yet" in (tmp_path / "site" / "environments.html").read_text()
    for wrong, why in (('entry = "A"', "name of an entry"), ('date = "now"', "YYYY"), ("upheld = true", "answer")):
        key = wrong.partition(" ")[0]
        lines = [row for row in text.splitlines() if not row.startswith(key)]
        (root / "objections" / "a.toml").write_text("\n".join([*lines, wrong]))
        with pytest.raises(DreamEnvsError, match=why):
            objections.read(root)


def test_a_share_of_the_runs_is_drawn_by_its_label(tmp_path: Path) -> None:
    root = tmp_path / "leaderboard"
    made.whole(root)
    place = board.Place(root, tmp_path)
    asked = [r for name in place.names() for r in board.runs_of(place.entry(name), "practice", "practice", 1, 6)]
    known = board.drawn(asked, place, 1.0, "")
    assert len(known) == 5 * len(made.ENTRIES), "what failed, and a sixth world, have nothing to be compared with"
    tenths = [[(r.entry.name, r.world) for r in board.drawn(asked, place, 0.1, f"2026-11-{d}")] for d in range(10, 30)]
    assert {len(t) for t in tenths} == {-(-len(known) // 10)} and len({tuple(t) for t in tenths}) == 20
    assert len({pair for t in tenths for pair in t}) > 0.7 * len(known)
    assert [(r.entry.name, r.world) for r in board.drawn(asked[::-1], place, 0.1, "2026-11-10")] == tenths[0]
