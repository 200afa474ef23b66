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
    width = max(len(f["name"]) for f in found["findings"])
    return "\n".join(
        [
            f"{common.style(f['status'].ljust(7), colours[f['status']])}  {f['name'].ljust(width)}  {f['detail']}"
            for f in found["findings"]
        ]
    )


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
        name = f"dream_envs.{room}"
        folder = Path(dream_envs.__file__).parent / room
        try:
            spec = importlib.util.find_spec(f"{name}.{module}")
        except ModuleNotFoundError:
            spec = None
        if spec is not None:
            how = f"link to {os.readlink(folder)}" if folder.is_symlink() else "in the package"
            found.append(_row(name, "ok", how))
        elif folder.is_file():  # git without link rights writes the link as a text file
            detail = f"{folder} is a text file, not a link: git config core.symlinks true, then check out again"
            found.append(_row(name, "broken", detail))
        else:
            found.append(_row(name, "broken", f"cannot be imported: {folder} is missing; install dream-envs again"))
    return found


def _plugins() -> list[dict[str, str]]:
    """Whether every row that another distribution brings can be loaded."""
    found = []
    for kind in registry.KINDS:
        for point in importlib.metadata.entry_points(group=f"dream_envs.{kind}"):
            try:
                registry.load(kind, point.name)
            except Exception as error:  # somebody's package: whatever it raises is the finding
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                found.append(_row(f"{kind} {point.name}", "broken", reason))
            else:
                found.append(_row(f"{kind} {point.name}", "ok", point.value))
    return found


def _torch() -> list[dict[str, str]]:
    if importlib.util.find_spec("torch") is None:
        return []
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        return [_row("torch", "broken", " ".join(f"{type(error).__name__}: {error}".split())[:200])]
    rows = [_row("torch threads", "ok", f"{torch.get_num_threads()} of {os.cpu_count()} cores")]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return [*rows, _row("GPU", "ok", ", ".join(names))]
    return [*rows, _row("GPU", "ok", "none; everything runs on the CPU")]


def _disk() -> dict[str, str]:
    free = shutil.disk_usage(".").free / 2**30
    return _row("disk", "ok", f"{free:.1f} GiB free here")
