"""Track C: a checkpoint is judged by what is sampled from its weights, on problems drawn behind the freeze.

A bundle is a folder with ``checkpoint.toml`` and safetensors.  Of all that is in it, the numbers of the base's own
tensors alone are taken over: configuration, tokenizer and template are the base's.  Files are checked by their bytes
before any library opens them: no pickle, no link, no header that says what the file does not hold.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
import struct
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard.entry import NAME, text_of

FILE = "checkpoint.toml"
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
#: Files that a bundle may have beside its weights, and their largest size in bytes; none of the last two is used.
_OTHERS = {FILE: 16_384, "config.json": 65_536, "model.safetensors.index.json": 4 * 2**20}
SHARDS, HEADER = 64, 8 * 2**20
_CHUNK = 4 * 2**20
#: Bytes of a number, the type that its bits are read as, and the bits that are all set in what is not finite.
_TYPES = {"F32": (4, "<u4", 0x7F800000), "F16": (2, "<u2", 0x7C00), "BF16": (2, "<u2", 0x7F80)}


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``checkpoint.toml`` says.

    ``base``: the model that training began from.  ``data``: everything that was trained on, in words; ``environments``:
    their ids.  ``code``: where the training code is.
    """

    says: str
    authors: list[str]
    base: str
    data: str
    environments: list[str] = []
    code: str = ""

    def __post_init__(self) -> None:
        for name, most in (("says", 200), ("data", 4000), ("base", 100), ("code", 200)):
            value = getattr(self, name)
            if len(value) > most or (name != "code" and not value.strip()):
                raise ValueError(f"{name}: 1 to {most} characters")
        if not 1 <= len(self.authors) <= 20 or any(not 1 <= len(a) <= 80 for a in self.authors):
            raise ValueError("authors: 1 to 20 names of at most 80 characters")


class Tensor(msgspec.Struct, frozen=True):
    """A tensor as a header tells it; ``begin`` and ``end`` are bytes of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read(folder: Path) -> Checkpoint:
    """What a bundle says, if its files are what they may be; no weights are read.

    Raises:
        DreamEnvsError: for the first thing that is not as it has to be.
    """
    if not NAME.fullmatch(folder.name):
        raise DreamEnvsError(f"checkpoint {folder.name!r:.60}: lower-case letters, digits, - and _, at most 40")
    if folder.is_symlink() or not folder.is_dir():
        raise DreamEnvsError(f"{folder.name}: no folder")
    names = list[str]()
    for number, path in enumerate(folder.iterdir()):
        if number >= SHARDS + len(_OTHERS):
            raise DreamEnvsError(f"{folder.name}: more than {SHARDS} files of weights")
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise DreamEnvsError(
                f"{folder.name}/{path.name!r:.60}: a regular file with one name, no link, pipe or folder"
            )
        if path.name not in _OTHERS and not _WEIGHTS.fullmatch(path.name):
            taken = f"{', '.join(_OTHERS)} and model*.safetensors"
            raise DreamEnvsError(f"{folder.name}: {path.name!r:.60} is no file of a checkpoint: {taken}")
        if info.st_size > _OTHERS.get(path.name, 2**40):
            raise DreamEnvsError(f"{folder.name}/{path.name}: {info.st_size} bytes, at most {_OTHERS[path.name]}")
        names.append(path.name)
    if FILE not in names:
        raise DreamEnvsError(f"{folder.name}: no {FILE}")
    text = text_of(f"{folder.name}/{FILE}", (folder / FILE).read_bytes())
    try:
        return msgspec.convert(tomllib.loads(text), Checkpoint)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise DreamEnvsError(f"{folder.name}/{FILE}: {str(error).splitlines()[0]:.200}") from None


def taken(folder: Path, base: Path, out: Path) -> Path:
    """A folder that holds the base's files with the bundle's weights; ``out`` must not be there.

    Raises:
        DreamEnvsError: for weights that are not the base's in names and shapes, or not finite.
    """
    read(folder)
    files = sorted(path for path in folder.iterdir() if _WEIGHTS.fullmatch(path.name))
    if not files:
        raise DreamEnvsError(f"{folder.name}: no model.safetensors")
    wanted = {name: t.shape for path in base.glob("*.safetensors") for name, t in header(path).items()}
    found = dict[str, tuple[int, ...]]()
    for path in files:
        tensors = header(path)
        for name, tensor in tensors.items():
            if name in found:
                raise DreamEnvsError(f"{folder.name}: tensor {name!r:.80} is there twice")
            if name not in wanted:
                raise DreamEnvsError(f"{folder.name}: tensor {name!r:.80} is none of the base's")
            if tensor.shape != wanted[name]:
                raise DreamEnvsError(f"{folder.name}: {name} is {tensor.shape}, the base's is {wanted[name]}")
            found[name] = tensor.shape
        _finite(path, tensors)
    if missing := sorted(set(wanted) - set(found)):
        raise DreamEnvsError(f"{folder.name}: {len(missing)} of the base's tensors are missing, {missing[0]} first")
    out.mkdir(parents=True)
    for path in base.iterdir():
        if path.is_file() and not path.name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copyfile(path, out / path.name)
    for path in files:
        shutil.copyfile(path, out / path.name)
    if len(files) > 1:
        weight_map = {name: path.name for path in files for name in header(path)}
        (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return out


class Judged(msgspec.Struct, frozen=True):
    """A line of the board's: the Frontier Report's headline of a checkpoint, in percent of problems, and its words.

    ``weights``: hash of its files; ``seed``: label of the problems.
    """

    checkpoint: str
    base: str
    weights: str
    round: str
    seed: str
    suite: str
    gain: tuple[float, float, float]
    word: str
    phrase: str
    says: str
    data: str
    authors: list[str]
    by: str = ""
    date: str = ""


def judge(folder: Path, base: str, scratch: Path, *, round: str, beacon: str, suite: str, size: str, by: str) -> Judged:
    """Sample from a bundle's weights and from its base, and report; everything lies in ``scratch``.

    ``base``: where the declared base lies; "": where its name leads.
    """
    from dream_envs.agents.engines.models import resolve, weights_hash
    from dream_envs.baselines.frontier import job

    about = read(folder)
    place = Path(resolve(base or about.base))
    copy = taken(folder, place, scratch / "model")
    seed = f"{beacon}/{weights_hash(copy)}" if beacon else ""
    found = job.run(str(place), str(copy), scratch / "report", scratch / "draws", job.Options(suite, seed, size))
    return Judged(
        folder.name, about.base, weights_hash(copy), round, seed, suite, found.headline.g, found.verdict.word,
        found.verdict.phrase, about.says, about.data, about.authors, by,
        datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which fill it without a gap.

    Raises:
        DreamEnvsError: for anything else.
    """
    name, size = f"{path.parent.name}/{path.name}", path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(HEADER, size - 8):
            raise DreamEnvsError(f"{name}: no safetensors file (a header of {length} bytes in a file of {size})")
        raw = file.read(length)
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise DreamEnvsError(f"{name}: its header is no JSON of its own ({str(error).splitlines()[0]:.80})") from None
    if not isinstance(data, dict):
        raise DreamEnvsError(f"{name}: its header is no table of tensors")
    data.pop("__metadata__", None)
    found, at = dict[str, Tensor](), 8 + length
    spans = sorted(((_tensor(name, key, value, 8 + length), key) for key, value in data.items()), key=_begin)
    for tensor, key in spans:
        if tensor.begin != at:
            raise DreamEnvsError(f"{name}: tensor {key!r:.80} begins at byte {tensor.begin}, not {at}")
        found[key], at = tensor, tensor.end
    if at != size:
        raise DreamEnvsError(f"{name}: {size - at} bytes behind the last tensor")
    if not found:
        raise DreamEnvsError(f"{name}: no tensors in it")
    return found


def _begin(pair: tuple[Tensor, str]) -> tuple[int, int]:
    return pair[0].begin, pair[0].end


def _tensor(file: str, name: str, value: Any, start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        sizes = [n for n in (*shape, begin, end) if type(n) is int and 0 <= n < 2**48]
        if set(value) != {"dtype", "shape", "data_offsets"} or len(sizes) != len(shape) + 2 or len(shape) > 8:
            raise ValueError
        width = _TYPES[dtype][0]
    except (TypeError, ValueError, KeyError):
        told = f"{', '.join(_TYPES)}, up to 8 sizes, two offsets"
        raise DreamEnvsError(f"{file}: tensor {name!r:.80} is not told as {told}") from None
    count = 1
    for n in shape:
        count *= n
    if end - begin != count * width:
        raise DreamEnvsError(f"{file}: tensor {name!r:.80} has {end - begin} bytes for {count} numbers of {width}")
    return Tensor(dtype, tuple(shape), start + begin, start + end)


def _finite(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise for a number that is infinite or none, reading a few megabytes at a time."""
    with open(path, "rb") as file:
        for name, tensor in tensors.items():
            _, kind, bits = _TYPES[tensor.dtype]
            for block in _blocks(file, tensor.begin, tensor.end):
                if ((np.frombuffer(block, kind) & bits) == bits).any():
                    raise DreamEnvsError(f"{path.parent.name}: tensor {name} has a value that is not finite")


def _blocks(file: Any, begin: int, end: int) -> Iterator[bytes]:
    file.seek(begin)
    while begin < end:
        block = file.read(min(_CHUNK, end - begin))
        if not block:
            raise DreamEnvsError("a file of weights became shorter while it was read")
        begin += len(block)
        yield block


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no number here")
