"""Verbs about runs (``info RUN``, ``view``, ``rescore``, ``report``), and those that make one (``dream``, ``nano``)."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dream_envs import registry
from dream_envs.cli import common
from dream_envs.core import DreamEnvsError, Episode, encode

FILES = ("run.json", "episodes.jsonl", "challenges.jsonl", "metrics.jsonl")


def is_run(path: Path) -> bool:
    """Whether this is a folder that a run has written to."""
    return path.is_dir() and any((path / name).is_file() for name in FILES)


def state(path: Path) -> dict[str, Any]:
    """What was run, how much there is of it, and how its curriculum stands; every file is read line by line."""
    from dream_envs.runs import read_json

    levels, authors, truths = Counter[int](), Counter[str](), Counter[str]()
    cells = Counter[tuple[int, str]]()
    last_round = None
    for challenge in _challenges(path / "challenges.jsonl"):
        author = challenge.author or challenge.origin
        levels[challenge.level] += 1
        authors[author] += 1
        truths[challenge.truth] += 1
        cells[challenge.level, author] += 1
        last_round = challenge.round if last_round is None else max(last_round, challenge.round)
    last: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    for row in _rows(path / "metrics.jsonl"):
        last = row
        exact = {"step": row.get("step"), **row["exact"]} if row.get("exact") else exact
    by_level = {
        level: {"challenges": n, "by_author": {a: c for (lv, a), c in sorted(cells.items()) if lv == level}}
        for level, n in sorted(levels.items())
    }
    return {
        "run": read_json(path / "run.json") or {},
        "episodes": _count(path / "episodes.jsonl"),
        "curriculum": {
            "challenges": levels.total(),
            "levels": by_level,
            "authors": dict(authors.most_common()),
            "truth": dict(truths.most_common()),
            "last_round": last_round,
        },
        "metrics": last,
        "exact": exact,
        "alarms": last.get("alarms") or [],
        "verdict": _verdict(path),
        "files": sorted(p.name for p in path.iterdir()),
    }


def _verdict(run: Path) -> str:
    """What a run's measurement said of it; empty before there is one."""
    from dream_envs.runs import read_json

    found = [(read_json(run / name) or {}).get("verdict", "") for name in ("frontier.json", "sleeping.json")]
    return next((verdict for verdict in found if verdict), "")


def state_text(found: dict[str, Any]) -> str:
    """The state for a terminal."""
    run = found["run"]
    plain = [[k, _short(v)] for k, v in run.items() if k not in ("config", "versions") and v not in ("", None, [], {})]
    parts = [common.table(plain)] if plain else []
    curriculum = found["curriculum"]
    parts.append(f"{found['episodes']} episodes, {curriculum['challenges']} challenges")
    if curriculum["challenges"]:
        authors = list(curriculum["authors"])
        rows = [
            [level, row["challenges"], *[row["by_author"].get(a, 0) for a in authors]]
            for level, row in curriculum["levels"].items()
        ]
        parts.append(common.table(rows, ("level", "challenges", *[f"by {a}" for a in authors])))
        parts.append("answers: " + ", ".join(f"{n} {truth}" for truth, n in curriculum["truth"].items()))
    metrics = {k: v for k, v in found["metrics"].items() if k not in ("exact", "alarms")}
    if metrics:
        parts.append("last step\n" + common.table([[f"  {k}", common.number(v)] for k, v in metrics.items()]))
    if found["exact"]:
        exact = {k: v for k, v in found["exact"].items() if k != "step"}
        line = "  ".join(f"{level}: {common.number(p)}" for level, p in exact.items())
        parts.append(f"exact success by level at step {found['exact']['step']}\n  {line}")
    parts += [common.style(f"alarm: {alarm}", common.YELLOW) for alarm in found["alarms"]]
    return "\n\n".join([*parts, *([found["verdict"]] if found["verdict"] else [])])


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _challenges(path: Path) -> Iterator[Any]:
    import msgspec

    from dream_envs.curriculum.store import read_challenges

    if path.is_file():
        try:
            yield from read_challenges(path)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise DreamEnvsError(f"{path}: a line is not a challenge ({error})") from error


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # cut short by a kill
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DreamEnvsError(f"{path}, line {number}: not JSON ({error})") from error
            if isinstance(row, dict):
                yield row


def _count(path: Path) -> int:
    if not path.is_file():
        return 0
    with open(path, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def view(run: Path, role: str, status: str, index: str, limit: int, as_json: bool) -> None:
    """Print the chosen episodes of a run, through a pager if this is a terminal.

    Raises:
        DreamEnvsError: for a wrong filter, or one that lets nothing through.
    """
    from dream_envs.cli import play as _play
    from dream_envs.rewards.base import STATUS_ORDER

    if status and status not in STATUS_ORDER:
        raise DreamEnvsError(registry.unknown("statuses", status, list(STATUS_ORDER)))
    path, wanted = run_episodes(run), indices(index)
    seen: set[str] = set()

    def chosen() -> Iterator[Episode]:
        count = 0
        for episode in common.episodes_of(path):
            names = {name for t in episode.turns for name in (t.role, t.agent)}
            seen.update(names)
            if (wanted is None or any(episode.index in span for span in wanted)) and (
                (not role or role in names) and (not status or has_status(episode, status, role))
            ):
                yield episode
                count += 1
                if count == limit:
                    return

    if as_json:
        texts = (encode(episode).decode() for episode in chosen())
    else:
        texts = (_play.episode_text(episode, role) for episode in chosen())
    first = next(texts, None)
    if first is None:
        if role and role not in seen:
            raise DreamEnvsError(registry.unknown(f"roles of {path}", role, sorted(seen)))
        filters = {"--role": role, "--status": status, "--index": index}
        asked = " ".join(f"{k} {v}" for k, v in filters.items() if v)
        raise DreamEnvsError(f"{path}: no episode{' with ' + asked if asked else ' in it'}")
    _show(first, texts, paged=not as_json and sys.stdout.isatty())


def _show(first: str, rest: Iterator[str], paged: bool) -> None:
    pager = shlex.split(os.environ.get("PAGER") or "less -RFX") if paged else []
    if pager and shutil.which(pager[0]):
        with subprocess.Popen(pager, stdin=subprocess.PIPE, text=True) as reader:
            assert reader.stdin is not None
            try:
                for text in itertools.chain([first], rest):
                    reader.stdin.write(text + "\n")
            except BrokenPipeError:  # the reader has seen enough
                return
        return
    for text in itertools.chain([first], rest):
        common.say(text)


def run_episodes(run: Path) -> Path:
    """The file of a run's episodes."""
    return common.run_file(run, "episodes.jsonl")


def indices(text: str) -> list[range] | None:
    """``3,5,10-19`` as ranges, None for an empty text.

    Raises:
        DreamEnvsError: for anything else.
    """
    spans = []
    for part in text.split(",") if text else []:
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise DreamEnvsError(f"--index {text!r}: numbers and ranges such as 7 or 10-19 or 3,5,8")
        spans.append(range(int(low), int(high if dash else low) + 1))
    return spans or None


def has_status(episode: Episode, status: str, role: str = "") -> bool:
    """Whether the outcome, or a turn or score (of this role or seat), has this status."""
    from dream_envs.rewards.base import role_of

    turns = [t.status for t in episode.turns if role in ("", t.role, t.agent)]
    scores = [s.status for a, s in episode.scores.items() if role in ("", a, role_of(a))]
    return status in [*turns, *scores, *([] if role else [episode.outcome.status])]


def rescore(run: Path, reward: str, out: Path | None) -> dict[str, Any]:
    """Score every episode again.

    Returns:
        ``stored`` and ``reproduced`` count the scores that were there and those that came out the same in value and
        status; ``roles`` sums up the new ones.
    """
    from dream_envs.cli import play as _play
    from dream_envs.envs._adapter import snake_name
    from dream_envs.play import EpisodeWriter
    from dream_envs.play import score as score_all
    from dream_envs.rewards.base import role_of

    path = run_episodes(run)
    if out is not None and out.exists():
        raise DreamEnvsError(f"--out {out} is there already: choose another file, nothing is overwritten")
    model = common.reward_of(reward) if reward else None
    means, graders = _play.Means(), Counter[str]()
    count = stored = same = 0
    first: dict[str, Any] | None = None
    writer = EpisodeWriter(out, tokens=True) if out is not None else None
    try:
        source = common.episodes_of(path)
        while batch := list(itertools.islice(source, 256)):
            if model is None:
                name = snake_name(batch[0].env_id)
                if name not in registry.rows("rewards"):
                    raise DreamEnvsError(f"{batch[0].env_id} has no reward of its own in the registry: say --reward")
                model = common.reward_of(name)
            for old, new in zip(batch, score_all(batch, model), strict=True):
                count += 1
                graders[old.grader or "(none)"] += 1
                for agent, score in new.scores.items():
                    means.add(role_of(agent), score)
                    if (was := old.scores.get(agent)) is None:
                        continue
                    stored += 1
                    equal = (was.value, was.status) == (score.value, score.status)
                    same += equal
                    if not equal and first is None:
                        first = {"index": old.index, "agent": agent, "stored": was, "now": score}
                if writer is not None:
                    writer.write(new)
    finally:
        if writer is not None:
            writer.close()
    if model is None:
        raise DreamEnvsError(f"{path}: no episode in it")
    return {
        "episodes": count,
        "reward": model.grader,
        "stored_graders": dict(graders),
        "stored": stored,
        "reproduced": same,
        "first_difference": first,
        "roles": means.result(),
        "out": str(out) if out is not None else None,
    }


def rescore_text(found: dict[str, Any]) -> str:
    """The result for a terminal."""
    from dream_envs.cli import play as _play

    graders = ", ".join(f"{n} by {name}" for name, n in found["stored_graders"].items())
    parts = [f"{found['episodes']} episodes scored by {found['reward']} (stored: {graders})"]
    if found["stored"]:
        parts.append(f"{found['reproduced']} of {found['stored']} stored scores reproduce")
    if found["first_difference"]:
        d = found["first_difference"]
        texts = [f"{s.value:g} ({s.status})" for s in (d["stored"], d["now"])]
        parts.append(f"first difference: episode {d['index']}, {d['agent']}: {texts[0]} stored, {texts[1]} now")
    parts.append(_play.roles_text(found["roles"]))
    return "\n".join([*parts, *([f"wrote {found['out']}"] if found["out"] else [])])


def nano(name: str, out: Path | None, steps: int | None) -> dict[str, Any]:
    """Pre-train a nano base; what its card says.

    Raises:
        DreamEnvsError: for an unknown base, or without the extra ``train``.
    """
    recipe = needs("dream_envs.baselines.nano.recipe")
    if name not in recipe.BASES:
        raise DreamEnvsError(registry.unknown("nano bases", name, sorted(recipe.BASES)))
    folder = recipe.build(
        name, out or Path("runs/nano") / name, steps=steps, log=lambda line: print(line, file=sys.stderr)
    )
    return {"out": str(folder), **json.loads((folder / "nano.json").read_text())}


def dream(out: Path, **given: Any) -> dict[str, Any]:
    """``baselines.dream.dream``.

    Raises:
        Interrupted: at Ctrl-C, with the way to go on.
    """
    run = needs("dream_envs.baselines.loops.dream").dream
    try:
        found: dict[str, Any] = run(out, **given)
    except KeyboardInterrupt:
        way = "the same command with --resume goes on from the last checkpoint"
        raise common.Interrupted(f"interrupted, {out} is kept; {way}") from None
    return found


def report(run: Path, out: Path | None) -> dict[str, Any]:
    """Write the page; where it is, and the verdict.

    Raises:
        DreamEnvsError: if there is no run, or without the extra ``train``.
    """
    if not is_run(run) and not (run / "frontier.json").is_file():
        what = "holds no run" if run.is_dir() else "is not there"
        raise DreamEnvsError(f"{run} {what}: give a run's folder, such as runs/demo")
    page = needs("dream_envs.report.page")
    if out is None:
        out = page.write_report(run)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page.render(run), encoding="utf-8")

    return {"run": str(run), "out": str(out), "verdict": _verdict(run)}


def report_text(made: dict[str, Any]) -> str:
    """The report's numbers for a terminal, and where the page is."""
    import io

    from rich.console import Console

    from dream_envs.report.terminal import show

    width = shutil.get_terminal_size((100, 24)).columns
    console = Console(file=io.StringIO(), force_terminal=common.style("x", common.BOLD) != "x", width=width)
    show(Path(made["run"]), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue().rstrip()
    return text if made["out"] in text else f"{text}\nwrote {made['out']}"


def needs(module: str) -> Any:
    """A module of ours that needs an extra.

    Raises:
        DreamEnvsError: where a package that it imports is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("dream_envs"):
            raise
        raise DreamEnvsError(f"{module} needs {error.name}: pip install 'dream-envs[train]'") from error
