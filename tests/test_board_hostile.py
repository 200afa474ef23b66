"""Entries and checkpoints that are not what they seem: refused for the right reason, in seconds and little memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _children import child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard import checkpoint, entry

ENTRIES = Path(__file__).parent.parent / "leaderboard" / "entries"
GOOD = (ENTRIES / "reinforce" / "entry.toml").read_text()
CODE = (ENTRIES / "reinforce" / "loop.py").read_text()
Hostile = Callable[[Path], object]


def made(folder: Path, toml: str | bytes = GOOD, code: str | bytes | None = CODE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "entry.toml").write_bytes(toml.encode() if isinstance(toml, str) else toml)
    if code is not None:
        (folder / "loop.py").write_bytes(code.encode() if isinstance(code, str) else code)
    return folder


def linked(folder: Path) -> None:
    made(folder)
    (folder / "loop.py").unlink()
    (folder / "loop.py").symlink_to("/etc/passwd")


def fifo(folder: Path) -> None:
    made(folder)
    (folder / "loop.py").unlink()
    os.mkfifo(folder / "loop.py")


def hard(folder: Path) -> None:
    made(folder)
    os.link(folder / "entry.toml", folder.parent / "second-name")


def folder_inside(folder: Path) -> None:
    made(folder, code=None)
    (folder / "loop.py").mkdir()


def sparse(folder: Path) -> None:
    made(folder)
    with open(folder / "loop.py", "wb") as file:
        file.truncate(2**40)


def crowd(folder: Path) -> None:
    made(folder)
    for number in range(500):
        (folder / f"x{number}").touch()


def more(name: str, data: bytes = b"x") -> Hostile:
    return lambda folder: (made(folder).joinpath(name).write_bytes(data),)


def toml(change: Callable[[str], str]) -> Hostile:
    return lambda folder: made(folder, change(GOOD))


def code(text: str | bytes) -> Hostile:
    return lambda folder: made(folder, code=text)


ENTRY: dict[str, tuple[Hostile, str]] = {
    "no toml": (lambda f: (made(f), (f / "entry.toml").unlink()), "no entry.toml"),
    "no folder": (lambda f: f.write_text("x"), "no folder"),
    "link to a folder": (lambda f: (made(f.parent / "other"), f.symlink_to(f.parent / "other")), "no folder"),
    "a link to a file": (linked, "no link"),
    "a pipe": (fifo, "no link, pipe"),
    "a second name": (hard, "one name"),
    "a folder for a file": (folder_inside, "regular file"),
    "a terabyte": (sparse, "at most 65536"),
    "hundreds of files": (crowd, "no file of an entry|too many files"),
    "weights": (more("model.safetensors"), "no file of an entry"),
    "a pickle": (more("weights.pkl", b"\x80\x04."), "no file of an entry"),
    "bytecode": (more("loop.pyc"), "no file of an entry"),
    "a hidden file": (more(".env"), "no file of an entry"),
    "conftest": (more("conftest.py"), "no file of an entry"),
    "a path file": (more("x.pth", b"import os"), "no file of an entry"),
    "results of its own": (more("results.jsonl"), "no file of an entry"),
    "upper case": (more("LOOP.PY"), "no file of an entry"),
    "a long line": (code("x = 1" + " " * 200), "160 characters"),
    "many lines": (code("x = 1\n" * 401), "at most 400"),
    "no Python": (code("def"), "loop.py"),
    "deep brackets": (code("x = " + "(" * 150 + ")" * 150), "loop.py"),
    "NUL": (code(b"x = 1\0"), "U\\+0000"),
    "no UTF-8": (code(b"# \xff\xfe"), "no UTF-8"),
    "turned text": (code("# \u202e txet"), "U\\+202E"),
    "zero width": (code("a\u200bb = 1"), "U\\+200B"),
    "an escape sequence": (code("# \x1b[2J"), "U\\+001B"),
    "imports os": (code("import os"), "imports 'os'"),
    "imports torch": (code("def train(p):\n    from torch import nn"), "imports 'torch'"),
    "imports ctypes": (code("import numpy, ctypes"), "imports 'ctypes'"),
    "a relative import": (code("from . import x"), r"imports '\.'"),
    "no toml syntax": (toml(lambda t: t + "]["), "entry.toml"),
    "toml twice": (toml(lambda t: t.replace("class = 1", "class = 1\nclass = 3")), "entry.toml"),
    "an unknown key": (toml(lambda t: "score = 1\n" + t), "score"),
    "a class that is none": (toml(lambda t: t.replace("class = 1", "class = 2")), "class 2"),
    "a module for a loop": (toml(lambda t: t.replace('"loop.py"', '"os:system"')), "a name of the suite's"),
    "a path for a loop": (toml(lambda t: t.replace('"loop.py"', '"../../x.py"')), "a name of the suite's"),
    "a module for a learner": (toml(lambda t: 'learner = "a:b"\n' + t), "a name of the suite's"),
    "steps": (toml(lambda t: "steps = 10_000_000\n" + t), "steps=10000000"),
    "two lines": (toml(lambda t: t.replace("REINFORCE in", "x\\nx")), "one line"),
    "no authors": (toml(lambda t: t.replace('["Dream Envs"]', "[]")), "authors"),
    "a long author": (toml(lambda t: t.replace("Dream Envs", "x" * 81)), "authors"),
    "its own parent": (toml(lambda t: 'parent = "bad"\n' + t), "its own parent"),
    "a path for a parent": (toml(lambda t: 'parent = "../x"\n' + t), "parent"),
    "no lock": (toml(lambda t: t.partition("[lock]")[0] + "[lock]\n"), "lock"),
    "a lock of more": (toml(lambda t: t + 'left-pad = "1"\n'), "left-pad"),
    "code without a file": (lambda f: made(f, code=None), "go together"),
    "a file without code": (toml(lambda t: t.replace('"loop.py"', '"dream"')), "go together"),
    "a bomb of tables": (lambda f: made(f, "a" + ".a" * 7000 + " = 1\n"), "entry.toml"),
    "settings": (
        toml(lambda t: t + ("[set]\n" + "".join(f'k{i} = "{"y" * 99}"\n' for i in range(60)))),
        "at most 4096",
    ),
    "a setting with a module": (toml(lambda t: t.replace("[lock]", '[set]\nx = "os:system"\n\n[lock]')), "'os:system'"),
    "a bad name": (lambda f: (made(f.with_name("Bad Name")), made(f)), "'Bad Name'"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRY)
def test_an_entry_is_refused(tmp_path: Path, name: str) -> None:
    make, said = ENTRY[name]
    folder = tmp_path / "bad"
    make(folder)
    if name == "a bad name":
        folder = tmp_path / "Bad Name"
    began = time.perf_counter()
    with pytest.raises(DreamEnvsError, match=said) as told:
        entry.read(folder)
    assert time.perf_counter() - began < 5 and "\n" not in str(told.value) and len(str(told.value)) < 500


def limited(root: Path) -> None:
    """In a process of its own: everything in the two lists, with 512 MiB more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + 512 * 2**20,) * 2)
    place = base(root / "base")
    for kind, (number, (make, said)) in [("e", x) for x in enumerate(ENTRY.values())] + [
        ("c", x) for x in enumerate(BUNDLES.values())
    ]:
        folder = root / f"{kind}{number}" / "bad"
        folder.parent.mkdir()
        make(folder)
        try:
            entry.read(folder) if kind == "e" else checkpoint.taken(folder, place, folder.parent / "out")
        except DreamEnvsError:
            continue
        assert said == "'Bad Name'", said  # beside a sound one


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_all_are_refused_in_half_a_gibibyte(tmp_path: Path) -> None:
    process = child(limited, tmp_path, out=tmp_path / "told")
    process.join(60)
    assert process.exitcode == 0, (tmp_path / "told.err").read_text()[-2000:]


def test_all_of_ours_are_sound() -> None:
    names = [folder.name for folder in ENTRIES.iterdir() if folder.is_dir()]
    assert len(names) >= 12
    for name in names:
        found = entry.read(ENTRIES / name)
        assert len(found.hash) == 16 and (not found.about.parent or found.about.parent in names)


def test_the_hash_is_of_every_byte(tmp_path: Path) -> None:
    one = entry.read(made(tmp_path / "a" / "same")).hash
    assert one == entry.read(made(tmp_path / "b" / "same")).hash
    assert one != entry.read(made(tmp_path / "c" / "same", code=CODE + "# x\n")).hash
    assert one != entry.read(made(tmp_path / "d" / "same", GOOD + "# x\n")).hash


TENSORS = {"a": ("F32", (2, 3)), "b": ("F16", (4,)), "c": ("BF16", (2, 2))}
ABOUT = 'says = "x"\nauthors = ["y"]\nbase = "nano/compose"\ndata = "its own"\n'
_WIDTH = {"F32": 4, "F16": 2, "BF16": 2}


def weights(path: Path, change: Callable[[dict], object] = lambda head: None, tail: bytes = b"", fill: int = 0) -> Path:
    """A safetensors file by hand, with its header changed."""
    head, at = {}, 0
    for name, (dtype, shape) in TENSORS.items():
        size = int(np.prod(shape)) * _WIDTH[dtype]
        head[name], at = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}, at + size
    change(head)
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes([fill]) * at + tail)
    return path


def bundle(folder: Path, change: Callable[[dict], object] = lambda head: None, **more: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "checkpoint.toml").write_text(ABOUT)
    weights(folder / "model.safetensors", change, **more)  # type: ignore[arg-type]
    return folder


def base(folder: Path) -> Path:
    folder.mkdir()
    weights(folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def raw(data: bytes) -> Hostile:
    return lambda f: (bundle(f), (f / "model.safetensors").write_bytes(data))


def other(change: Callable[[dict], object], **more: object) -> Hostile:
    return lambda f: bundle(f, change, **more)


def extra(name: str, data: bytes = b"x") -> Hostile:
    return lambda f: (bundle(f) / name).write_bytes(data)


def replaced(name: str, key: str, value: object) -> Callable[[dict], object]:
    return lambda head: head[name].__setitem__(key, value)


BUNDLES: dict[str, tuple[Hostile, str]] = {
    "a pickle": (extra("pytorch_model.bin", b"\x80\x04."), "no file of a checkpoint"),
    "a pickle by another name": (raw(b"\x80\x04\x95" + b"x" * 100), "no safetensors file"),
    "code": (extra("modeling_x.py"), "no file of a checkpoint"),
    "a tokenizer": (extra("tokenizer.json"), "no file of a checkpoint"),
    "a template": (extra("chat_template.jinja"), "no file of a checkpoint"),
    "an archive": (extra("model.tar"), "no file of a checkpoint"),
    "a large configuration": (extra("config.json", b" " * 70_000), "at most 65536"),
    "no weights": (lambda f: (bundle(f), (f / "model.safetensors").unlink()), "no model.safetensors"),
    "empty": (raw(b""), "no safetensors file"),
    "short": (raw(b"\0" * 7), "no safetensors file"),
    "a header of a terabyte": (raw(struct.pack("<Q", 2**40) + b"x"), "no safetensors file"),
    "a header past the end": (raw(struct.pack("<Q", 100) + b"{}"), "no safetensors file"),
    "a header that is no JSON": (raw(struct.pack("<Q", 4) + b"\xff\xff\xff\xff"), "no JSON"),
    "a deep header": (raw(struct.pack("<Q", 200_000) + b"[" * 200_000), "no JSON"),
    "a list": (raw(struct.pack("<Q", 2) + b"[]"), "no table"),
    "nothing in it": (raw(struct.pack("<Q", 2) + b"{}"), "no tensors"),
    "a name twice": (raw(struct.pack("<Q", 17) + b'{"a": 1, "a": 2} '), "twice"),
    "not a number": (raw(struct.pack("<Q", 10) + b'{"a": NaN}'), "no number"),
    "a gap": (other(replaced("c", "data_offsets", [34, 42])), "begins at byte"),
    "an overlap": (other(replaced("b", "data_offsets", [20, 28])), "begins at byte"),
    "behind the end": (other(lambda h: None, tail=b"secret"), "6 bytes behind"),
    "a negative offset": (other(replaced("a", "data_offsets", [-24, 0])), "not told as"),
    "a huge shape": (other(replaced("a", "shape", [2**40, 2**40])), "bytes for"),
    "a shape of another size": (other(replaced("a", "shape", [2, 4])), "24 bytes for 8"),
    "a true shape": (other(replaced("a", "shape", [True, 6])), "not told as"),
    "a float shape": (other(replaced("a", "shape", [2.0, 3])), "not told as"),
    "nine dimensions": (other(replaced("a", "shape", [1] * 9)), "not told as"),
    "an unknown type": (other(replaced("a", "dtype", "I64")), "not told as"),
    "a key more": (other(replaced("a", "x", 1)), "not told as"),
    "another shape": (other(lambda h: h["a"].update(shape=[3, 2])), "the base's is"),
    "another name": (other(lambda h: h.__setitem__("z", h.pop("c"))), "none of the base's"),
    "one less": (
        other(lambda h: (h.pop("b"), h["c"].update(data_offsets=[24, 32])), tail=b""), "behind the last|missing"
    ),
    "infinities": (other(lambda h: None, fill=0x7F), "not finite|no safetensors|none"),
    "all bits": (other(lambda h: None, fill=0xFF), "not finite"),
    "shards with the same": (
        lambda f: (bundle(f), (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors"),
                   weights(f / "model-00002-of-00002.safetensors")), "twice",
    ),
    "a link": (lambda f: (bundle(f), (f / "config.json").symlink_to("/etc/passwd")), "no link"),
    "no statement": (lambda f: (bundle(f), (f / "checkpoint.toml").unlink()), "no checkpoint.toml"),
    "no data": (lambda f: (bundle(f), (f / "checkpoint.toml").write_text(ABOUT.replace("its own", ""))), "data"),
    "numbers of its own": (
        lambda f: (bundle(f), (f / "checkpoint.toml").write_text(ABOUT + "score = 1\n")), "score",
    ),
    "turned text": (
        lambda f: (bundle(f), (f / "checkpoint.toml").write_text(ABOUT.replace('"x"', '"\u202ex"'))), "U\\+202E",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
def test_a_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    make, said = BUNDLES[name]
    place = base(tmp_path / "base")
    make(tmp_path / "bad")
    began = time.perf_counter()
    with pytest.raises(DreamEnvsError, match=said) as told:
        checkpoint.taken(tmp_path / "bad", place, tmp_path / "out")
    assert time.perf_counter() - began < 5 and "\n" not in str(told.value) and len(str(told.value)) < 500
    assert not (tmp_path / "out").exists()


def test_a_sound_checkpoint_is_the_base_with_other_weights(tmp_path: Path) -> None:
    place = base(tmp_path / "base")
    found = checkpoint.taken(bundle(tmp_path / "good", fill=1), place, tmp_path / "out")
    assert sorted(p.name for p in found.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (found / "model.safetensors").read_bytes() == (tmp_path / "good" / "model.safetensors").read_bytes()


def test_the_shipped_base_is_a_sound_checkpoint(tmp_path: Path) -> None:
    place = ENTRIES.parent.parent / "baselines" / "nano" / "compose"
    (tmp_path / "same").mkdir()
    (tmp_path / "same" / "checkpoint.toml").write_text(ABOUT)
    shutil.copyfile(place / "model.safetensors", tmp_path / "same" / "model.safetensors")
    assert (checkpoint.taken(tmp_path / "same", place, tmp_path / "out") / "tokenizer.json").is_file()


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(place=st.integers(0, 10_000), bits=st.integers(1, 255), cut=st.integers(0, 3), more=st.binary(max_size=8))
def test_no_mutated_file_crashes_the_readers(tmp_path_factory, place: int, bits: int, cut: int, more: bytes) -> None:
    """Two files an example: whatever a byte is changed to, what is no bundle is refused, and nothing else happens."""
    root = tmp_path_factory.mktemp("mutated")
    target = base(root / "base")
    folder = bundle(root / "it")
    for path in ((folder / "model.safetensors"), made(root / "entry") / "entry.toml"):
        data = bytearray(path.read_bytes())
        data[place % len(data)] ^= bits
        path.write_bytes(bytes(data[: len(data) - cut]) + more)
    for call in (lambda: checkpoint.taken(folder, target, root / "out"), lambda: entry.read(root / "entry")):
        try:
            call()
        except DreamEnvsError as error:
            assert "\n" not in str(error)
    shutil.rmtree(root)
