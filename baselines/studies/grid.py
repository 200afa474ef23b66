"""The one runner of studies: what is missing is run in several processes, and all of it becomes a table.

A study is a module of this folder with

- ``SETTINGS``: what can be run, by name: a ``recipe.Options``, or a struct of the study's own;
- ``GRIDS``: names of settings by the name of a grid; the first is the default;
- ``run(settings, seed, out)``: one run in a folder, from wherever it stands (``trained`` for ``Options``);
- ``score(folder)``: the figures of a finished run, flat;
- ``table(rows, out)``: Markdown of all runs; figures go into ``out``.
- ``MARKS``: by grid, the word of the page's marks, for ``--page``; studies without a place there have none.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs import registry
from dream_envs.baselines.recipe import Loop, Options, changed
from dream_envs.core import DreamEnvsError, encode
from dream_envs.runs import read_json, write_json

#: A finished run: its setting's ``name``, its ``seed``, and what the study's ``score`` says.
Row = dict[str, Any]
#: Mean, low and high; the ends are nan for one seed.
Interval = list[float]
STUDIES = (
    "flagship",
    "equal",
    "games",
    "nights",
    "self_judging",
    "echo",
    "upward",
    "verdicts",
    "validate",
    "overoptimise",
    "skills",
    "discovery",
)
RECORD = "study.json"


class Job(msgspec.Struct, frozen=True):
    """One run of a study; ``study``: the module's name."""

    study: str
    name: str
    seed: str
    settings: Any
    out: Path

    def record(self) -> dict[str, Any]:
        """The folder's record, empty if there is none; a DreamEnvsError if it holds a run with other settings."""
        found: dict[str, Any] = read_json(self.out / RECORD) or {}
        if found and found["settings"] != msgspec.json.decode(encode(self.settings)):
            raise DreamEnvsError(f"{self.out} holds a run with other settings: choose another --out")
        return found


def study(name: str) -> Any:
    """The study of this name; a DreamEnvsError has the nearest names."""
    known = registry.named("studies", name, dict.fromkeys(STUDIES, name))
    return importlib.import_module(f"dream_envs.baselines.studies.{known}")


def plan(
    chosen: Any, names: Sequence[str], seeds: int, out: Path, changes: Mapping[str, Any] | None = None, first: int = 0
) -> list[Job]:
    """Every run of these settings of a study, seed by seed from ``first`` on, so that an early stop leaves whole seeds.

    ``changes``: other values for every run: fields of its settings; for ``Options``, what its ``set`` takes too.
    """
    settings = {
        name: _changed(registry.named("settings", name, chosen.SETTINGS), changes or {}, name) for name in names
    }
    return [
        Job(chosen.__name__, name, str(seed), one, Path(out) / f"{name}-{seed}")
        for seed in range(first, first + seeds)
        for name, one in settings.items()
    ]


def _changed(settings: Any, changes: Mapping[str, Any], name: str) -> Any:
    if not changes or not isinstance(settings, Options):
        return changed(settings, changes, name)
    own = {k: v for k, v in changes.items() if k in Options.__struct_fields__}
    rest = {k: v for k, v in changes.items() if k not in own}
    return changed(msgspec.structs.replace(settings, set={**settings.set, **rest}), own, name)


def run_all(jobs: Sequence[Job], side_by_side: int = 2, tell: Callable[[str], None] = print) -> None:
    """Run what is missing, ``side_by_side`` processes of one thread at a time; ``tell`` one line a finished run.

    A folder of other settings is an error, and so is a run that fails: it says where the output is.
    """
    waiting = [job for job in jobs if "seconds" not in job.record()]
    if not waiting:
        return
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    began, before = time.monotonic(), set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(side_by_side, len(waiting)), mp_context=context)
    try:
        futures = {pool.submit(_work, job): job.out for job in waiting}
        for done, future in enumerate(as_completed(futures), 1):
            out = futures[future]
            if (error := future.exception()) is not None:
                told = f"{type(error).__name__}: {error}".splitlines()[0]
                raise DreamEnvsError(f"{out.name} failed ({told:.200}): see {_log(out)}; the same command goes on")
            spent = time.monotonic() - began
            left = spent / done * (len(waiting) - done)
            tell(f"{done}/{len(waiting)}  {out.name} {future.result():.0f} s  {spent:.0f} s, {left:.0f} s left")
    except BaseException:  # a run that went on would write into a folder that the same command resumes
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown()


def _work(job: Job) -> float:
    """One run in this process; its seconds."""
    began, busy = time.monotonic(), time.process_time()
    job.out.mkdir(parents=True, exist_ok=True)
    with alone(job.out), open(_log(job.out), "a") as log, redirect_stdout(log), redirect_stderr(log):
        if "seconds" in (record := job.record()):  # somebody else has finished it meanwhile
            return float(record["seconds"])
        record = {"name": job.name, "seed": job.seed, "settings": job.settings}
        write_json(job.out / RECORD, record)
        prepare()
        importlib.import_module(job.study).run(job.settings, job.seed, job.out)
        seconds = time.monotonic() - began
        busy = time.process_time() - busy  # of what this process did: a run that was resumed has spent more
        write_json(job.out / RECORD, {**record, "seconds": round(seconds, 1), "processor": round(busy, 1)})
    return seconds


def _log(out: Path) -> Path:
    return out.with_name(f"{out.name}.log")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process runs in this folder: a child may outlive a killed study, which is started again."""
    with open(folder / ".lock", "ab") as file:
        with contextlib.suppress(ImportError):  # no fcntl, no lock: Windows
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare() -> None:
    """Settings of the process that a run wants: one thread is fastest for models this small."""
    import torch

    from dream_envs.agents.engines.local import keep_memory

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_memory()


def trained(settings: Options, seed: str, out: Path) -> Any:
    """A run of a loop, with its page; its summary."""
    from dream_envs.baselines.loop import conduct

    return conduct(msgspec.structs.replace(settings, seed=seed), out, resume=True, quiet=True)


def own_settings(loop: Loop, options: Options) -> Any:
    """The loop's own settings, as they are asked for."""
    own = {k: v for k, v in options.set.items() if "." not in k}
    return changed(loop.settings(), own, loop.name)


def rows(chosen: Any, jobs: Sequence[Job]) -> list[Row]:
    """The finished runs among these, in order."""
    found = [(job, job.record()) for job in jobs]
    return [
        {"name": job.name, "seed": job.seed, "seconds": record["seconds"], **chosen.score(job.out)}
        for job, record in found
        if "seconds" in record
    ]


def named(found: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by name of their setting, in the order in which those come first."""
    return {name: [r for r in found if r["name"] == name] for name in dict.fromkeys(r["name"] for r in found)}


def over(values: Sequence[float | None]) -> Interval | None:
    """Mean and Student's 95 % t-interval over seeds of what is there; None of nothing."""
    from scipy.stats import t

    x = np.array([v for v in values if v is not None], dtype=np.float64)
    if not np.isfinite(x).all():
        raise DreamEnvsError(f"interval over {list(values)!r:.80}: finite values")
    if len(x) < 2:
        return [float(x[0]), math.nan, math.nan] if len(x) else None
    mean, half = float(x.mean()), float(t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return [mean, mean - half, mean + half]


def difference(found: Sequence[Row], a: str, b: str, key: str, share: float = 1.0) -> Interval | None:
    """Mean of (a - share * b) over the seeds for which both have the figure, paired; None if none has."""
    mine, other = ({r["seed"]: r.get(key) for r in found if r["name"] == name} for name in (a, b))
    return over([x - share * y for s, x in mine.items() if x is not None and (y := other.get(s)) is not None])


def ends(interval: Interval) -> tuple[float, float]:
    """Low and high; the mean twice for one seed."""
    mean, low, high = interval
    return (mean, mean) if math.isnan(low) else (low, high)


def sign(interval: Interval | None, direction: int = 1) -> str:
    """``yes`` if the interval lies on that side of 0, ``no, the reverse`` on the other, else ``no change shown``."""
    if interval is None:
        return "not measured"
    one = " (one seed)" if math.isnan(interval[1]) else ""
    low, high = sorted(end * direction for end in ends(interval))
    return ("yes" if low > 0 else "no, the reverse" if high < 0 else "no change shown") + one


def show(interval: Interval | None, digits: int = 2) -> str:
    """``0.52 [0.50, 0.54]``; the mean alone of one seed, or where it is too small (``2.8e-12``); a dash of nothing."""
    if interval is None:
        return "-"
    if digits and 0 < abs(interval[0]) < 0.5 * 10**-digits and max(map(abs, ends(interval))) < 10**-digits:
        return f"{interval[0]:.1e}"
    mean, low, high = (f"{x + 0.0:,.{digits}f}" for x in interval)
    return mean if math.isnan(interval[1]) else f"{mean} [{low}, {high}]"


def table_of(
    found: Sequence[Row],
    columns: Mapping[str, str | tuple[str, int]],
    extra: Mapping[str, Callable[[list[Row]], str]] | None = None,
    head: str = "setting",
) -> str:
    """Markdown, a line a setting: means with 95 % t-intervals over seeds, ``(n/m)`` where only n of m runs have it.

    ``columns``: key of the rows, and digits, by title; ``extra``: further cells, made of all rows of a setting.
    """
    lines = []
    for name, own in named(found).items():
        cells = [name.replace("_", "\\_"), str(len(own))]
        for key in columns.values():
            at, digits = (key, 2) if isinstance(key, str) else key
            known = [v for r in own if (v := r.get(at)) is not None]
            some = f" ({len(known)}/{len(own)})" if 0 < len(known) < len(own) else ""
            cells.append(show(over(known), digits) + some)
        lines.append([*cells, *(make(own) for make in (extra or {}).values())])
    return markdown([head, "runs", *columns, *(extra or {})], lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are set to the right."""
    ruled = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled) + "\n"


def into_page(text: str, page: Path, word: str) -> None:
    """Put the text between the marks ``<!-- word -->`` and ``<!-- /word -->``; a DreamEnvsError where they are not."""
    first, last = f"<!-- {word} -->", f"<!-- /{word} -->"
    before, mark, rest = page.read_text("utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not mark or not end:
        raise DreamEnvsError(f"{page} has no {first} ... {last}: put them where the table belongs")
    page.write_text(f"{before}{first}\n{text.strip()}\n{last}{after}", "utf-8")
