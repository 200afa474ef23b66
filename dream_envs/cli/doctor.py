"""The verb ``doctor``: what is installed, what is missing and how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import dream_envs
from dream_envs import registry
from dream_envs.cli import common

ROOMS = {"agents": "engines.scripted", "baselines": "nano.recipe"}


def examine() -> dict[str, Any]:
    """Findings, each ``ok``, ``missing`` (an extra) or ``broken``; ``ok`` as a whole if nothing is broken."""
    findings = [_python(), *_packages(), *_rooms(), *_plugins(), *_torch(), _disk()]
    return {"ok": all(f["status"] != "broken" for f in findings), "findings": findings}


def text(found: dict[str, Any]) -> str:
    """The findings as a table."""
    colours = {"ok": common.GREEN, "missing": common.YELLOW, "broken": common.RED}
    rows = [(f["status"], f["name"], f["detail"]) for f in found["findings"]]
    shown = common.table(rows).splitlines()
    return "\n".join(common.style(r[0], colours[r[0]]) + line[len(r[0]) :] for r, line in zip(rows, shown, strict=True))


def _row(name: str, status: str, detail: str) -> dict[str, str]:
    return {"name": name, "status": status, "detail": detail}


def _python() -> dict[str, str]:
    enough = sys.version_info >= (3, 11)
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return _row("python", "ok" if enough else "broken", detail + ("" if enough else "; 3.11 or newer is needed"))


def _packages() -> list[dict[str, str]]:
    """Every requirement of the distribution, by extra, against what is installed."""
    found = [_row("dream-envs", "ok", f"{dream_envs.__version__} in {Path(dream_envs.__file__).parent}")]
    try:
        wanted = importlib.metadata.requires("dream-envs") or []
    except importlib.metadata.PackageNotFoundError:
        return [*found, _row("metadata", "broken", "dream-envs is not installed: pip install -e .")]
    missing: dict[str, list[str]] = {}
    for line in wanted:
        requirement, _, marker = line.partition(";")
        name = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]
        extra = next(iter(re.findall(r"extra\s*==\s*['\"]([^'\"]+)", marker)), "")
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.setdefault(extra, []).append(name)
            continue
        if not extra or extra == "train":
            found.append(_row(name, "ok", f"{version}  ({requirement.strip()})"))
    for extra, names in missing.items():
        label, status = (f"extra {extra}", "missing") if extra else ("core", "broken")
        way = f"pip install 'dream-envs[{extra}]'" if extra else "pip install dream-envs"
        found.append(_row(label, status, f"{', '.join(names)}: {way}"))
    return found


def _rooms() -> list[dict[str, str]]:
    """Whether the folders that a checkout links to are there as packages."""
    found = []
    for room, module in ROOMS.items():
        name, folder = f"dream_envs.{room}", Path(dream_envs.__file__).parent / room
        try:
            there = importlib.util.find_spec(f"{name}.{module}") is not None
        except ModuleNotFoundError:
            there = False
        detail = f"link to {os.readlink(folder)}" if folder.is_symlink() else "in the package"
        if not there:  # git without link rights writes a link as a text file
            text = f"{folder} is a text file, not a link: git config core.symlinks true, then check out again"
            gone = f"cannot be imported: {folder} is missing; install dream-envs again"
            detail = text if folder.is_file() else gone
        found.append(_row(name, "ok" if there else "broken", detail))
    return found


def _plugins() -> list[dict[str, str]]:
    """Whether every row that another distribution brings can be loaded."""
    found = []
    for kind in registry.KINDS:
        for point in importlib.metadata.entry_points(group=f"dream_envs.{kind}"):
            try:
                registry.load(kind, point.name)
                found.append(_row(f"{kind} {point.name}", "ok", point.value))
            except Exception as error:  # somebody's package: whatever it raises is the finding
                found.append(_row(f"{kind} {point.name}", "broken", _one_line(error)))
    return found


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _torch() -> list[dict[str, str]]:
    if importlib.util.find_spec("torch") is None:
        return []
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        return [_row("torch", "broken", _one_line(error))]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    gpu = ", ".join(names) or "none; everything runs on the CPU"
    return [_row("torch threads", "ok", threads), _row("GPU", "ok", gpu)]


def _disk() -> dict[str, str]:
    free = shutil.disk_usage(".").free / 2**30
    return _row("disk", "ok", f"{free:.1f} GiB free here")
