"""Verbs about runs: ``train`` and ``dream``, ``info RUN``, ``view``, ``rescore``, ``report``; ``nano`` makes a base."""

from __future__ import annotations

import contextlib
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

import msgspec

from dream_envs import registry
from dream_envs.checks import one_of
from dream_envs.cli import common
from dream_envs.cli.frontier import show
from dream_envs.cli.play import Means, episode_text, roles_text
from dream_envs.core import DreamEnvsError, Episode
from dream_envs.curriculum.store import read_challenges
from dream_envs.metrics.rounds import read_rows
from dream_envs.play import EpisodeWriter
from dream_envs.play import score as score_all
from dream_envs.rewards.base import STATUS_ORDER, as_reward, role_of
from dream_envs.rewards.expressions import by_role
from dream_envs.runs import read_json, read_object
from dream_envs.schema import SUMMARY, read_summary

FILES = ("run.json", "episodes.jsonl", "challenges.jsonl", "metrics.jsonl")
#: Episodes of a round that are scored in one call, at most.
_AT_ONCE = 8192
#: Options of ``train`` that a recipe takes as they are.
_PLAIN = ("env", "family", "notation", "learner", "model", "steps", "seed", "preset", "dtype", "max_tokens")
#: Options of ``train`` that are short for a setting of the learner.
_LEARNER = {n: n for n in ("lr", "lora_rank", "micro_batch", "engine")} | {"gradient_checkpointing": "checkpointing"}


def _options(loop: str, words: dict[str, Any]) -> Any:
    """``recipe.Options`` from the options of the command line; None leaves what the loop has."""
    spans = common.ranges_of(words["levels"] or "", "--levels", 1000)
    recipe = common.needs("dream_envs.baselines.recipe")
    short = {f"learner.{name}": words[option] for option, name in _LEARNER.items() if words[option] is not None}
    return recipe.Options(
        loop=loop,
        set={**short, **registry.values_of(words["settings"] or [], "--set")},
        reward=by_role(words["reward"] or []),
        seats=registry.pairs_of(words["seats"] or [], "--seats"),
        levels=None if words["levels"] is None else tuple(n for span in spans for n in span),
        **{name: words[name] for name in _PLAIN},
    )


def train(loop: str, words: dict[str, Any]) -> None:
    """Run a loop and show what came of it; ``words`` are the verb's options.

    Raises:
        Interrupted: at Ctrl-C, with the way to go on.
    """
    registry.load("loops", loop)  # a wrong name is told before anything heavy is imported
    options, as_json = _options(loop, words), words["as_json"]
    common.needs("dream_envs.baselines.recipe").settled(options)  # a wrong setting as well
    runner = common.needs("dream_envs.baselines.loop")
    folder = words["out"] or Path("runs") / loop.rpartition(":")[2].lower()
    how = {name: words[name] for name in ("resume", "threads", "device")}
    how |= {"quiet": words["quiet"] or as_json, "report_to": tuple(words["report_to"] or ())}
    try:
        with common.writing(folder):
            summary = runner.conduct(options, folder, **how)
            if not runner.leads():
                return
            if not as_json:
                common.say(f"{report_text({'run': str(folder), 'out': str(folder / 'report.html')})}\n")
            wanted = words["frontier"]
            report = runner.frontier_report(options, summary, folder, words["cache"], how) if wanted else None
    except KeyboardInterrupt:
        way = "the same command with --resume goes on from the last checkpoint"
        raise common.Interrupted(f"interrupted, {folder} is kept; {way}") from None
    if as_json:
        common.emit({"run": summary, "frontier": report}, str, True)
    elif report is not None:
        show(report, folder / "frontier", "Frontier Report")


def is_run(path: Path) -> bool:
    """Whether this is a folder that a run has written to."""
    return path.is_dir() and any((path / name).is_file() for name in FILES)


def state(path: Path) -> dict[str, Any]:
    """What was run, its summary if it is finished, how much there is of it, and how its curriculum stands."""
    cells, truths, file = Counter[tuple[int, str]](), Counter[str](), path / "challenges.jsonl"
    try:
        for challenge in read_challenges(file) if file.is_file() else ():
            cells[challenge.level, challenge.author or challenge.origin] += 1
            truths[challenge.truth] += 1
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise DreamEnvsError(f"{file}: a line is not a challenge ({error})") from error
    authors = sorted({author for _, author in cells})
    levels = {level: {a: cells[level, a] for a in authors} for level in sorted({level for level, _ in cells})}
    rows = read_rows(path)
    return {
        "run": read_json(path / "run.json") or {},
        "summary": read_summary(path),
        "episodes": _count(path / "episodes.jsonl"),
        "curriculum": {"challenges": cells.total(), "levels": levels, "truth": dict(truths.most_common())},
        "metrics": rows[-1] if rows else {},
        "files": sorted(p.name for p in path.iterdir()),
    }


def state_text(found: dict[str, Any]) -> str:
    """The state for a terminal."""
    run, summary, curriculum, last = found["run"], found["summary"], found["curriculum"], found["metrics"]
    skipped = ("config", "versions", "argv", "schema")
    plain = [[k, v if isinstance(v, str) else json.dumps(v)] for k, v in run.items() if k not in skipped and v]
    parts = [common.table(plain)] if plain else []
    parts.append(f"{found['episodes']} episodes, {curriculum['challenges']} challenges")
    if levels := curriculum["levels"]:
        authors = list(next(iter(levels.values())))
        rows = [[level, *(row[a] for a in authors)] for level, row in levels.items()]
        parts.append(common.table(rows, ("level", *(f"by {a}" for a in authors))))
        parts.append("answers: " + ", ".join(f"{n} {truth}" for truth, n in curriculum["truth"].items()))
    if summary is not None:
        rows = [[r.name, common.number(r.first), common.number(r.last), r.learns] for r in summary.roles]
        parts.append(common.table(rows, ("role", "first reward", "last reward", "learns")))
        if summary.dreams is not None:
            copies = summary.dreams["copies"]
            rows = [[name, *(common.number(m["value"]) for m in own.values())] for name, own in copies.items()]
            parts.append("dreams\n" + common.table(rows, ("  copy", *next(iter(copies.values())))))
    elif last:
        parts.append("last step\n" + common.table([[f"  {k}", common.number(v)] for k, v in last.items()]))
    parts += [common.style(f"alarm: {alarm}", common.YELLOW) for alarm in last.get("alarms") or ()]
    return "\n\n".join([*parts, *([summary.verdict] if summary is not None else [])])


def _count(path: Path) -> int:
    if not path.is_file():
        return 0
    with open(path, "rb") as file:
        return sum(line.endswith(b"\n") for line in file)


class Wanted:
    """Which episodes of a run are asked for; called with each in turn, it also notes the roles and seats there are.

    Raises:
        DreamEnvsError: for a status that there is not, or an ``index`` that is none.
    """

    def __init__(self, path: Path, role: str, status: str, index: str) -> None:
        if status and status not in STATUS_ORDER:
            raise DreamEnvsError(registry.unknown("statuses", status, list(STATUS_ORDER)))
        self.path, self.role, self.status, self.spans = path, role, status, common.ranges_of(index, "--index")
        filters = {"--role": role, "--status": status, "--index": index}
        self.words = " ".join(f"{k} {v}" for k, v in filters.items() if v)
        self._seen: set[str] = set()

    def __call__(self, episode: Episode) -> bool:
        """Whether this one is."""
        names = {name for t in episode.turns for name in (t.role, t.agent)}
        self._seen.update(names)
        return (not self.spans or any(episode.index in span for span in self.spans)) and (
            (not self.role or self.role in names) and (not self.status or _has_status(episode, self.status, self.role))
        )

    def nothing(self) -> DreamEnvsError:
        """Why no episode passed."""
        if self.role and self.role not in self._seen:
            return DreamEnvsError(registry.unknown(f"roles of {self.path}", self.role, sorted(self._seen)))
        return DreamEnvsError(f"{self.path}: no episode{' with ' + self.words if self.words else ' in it'}")


def view(run: Path, role: str, status: str, index: str, limit: int, as_json: bool) -> None:
    """Print the chosen episodes of a run, through a pager if this is a terminal.

    Raises:
        DreamEnvsError: for a wrong filter, or one that lets nothing through.
    """
    wanted = Wanted(path := common.run_file(run, "episodes.jsonl"), role, status, index)
    episodes = itertools.islice(filter(wanted, common.episodes_of(path)), min(limit, sys.maxsize) or None)
    texts = (common.to_json(e) if as_json else episode_text(e, role) for e in episodes)
    first = next(texts, None)
    if first is None:
        raise wanted.nothing()
    _show(itertools.chain([first], texts), paged=not as_json and sys.stdout.isatty())


def view_page(run: Path, role: str, status: str, index: str, limit: int, out: Path | None) -> dict[str, Any]:
    """Write the chosen episodes as a page of their own, by default ``transcripts.html`` beside them.

    Returns:
        ``out``, and how many episodes are ``shown``, were ``matched``, are there (``episodes``), were not read
        (``unread``).

    Raises:
        DreamEnvsError: as ``view``, and for an ``out`` that does not end in ``.html`` or is no regular file.
    """
    from dream_envs.report.transcripts import write_transcripts

    wanted = Wanted(path := common.run_file(run, "episodes.jsonl"), role, status, index)
    page = common.page_at(out or path.with_name("transcripts.html"))
    with common.writing(page):
        found = write_transcripts(path, page, wanted=wanted, role=role, limit=limit, asked=wanted.words)
    if not found.shown:
        raise wanted.nothing()
    counts = {name: getattr(found, name) for name in ("matched", "episodes", "unread")}
    return {"out": str(page), "shown": len(found.shown), **counts}


def view_page_text(made: dict[str, Any]) -> str:
    """Where the page is and what is on it, for a terminal."""
    unread = f"; {made['unread']} lines could not be read" if made["unread"] else ""
    asked = f"{made['shown']} of {made['matched']} episodes asked for, {made['episodes']} in all"
    return f"wrote {made['out']}: {asked}{unread}"


def _show(texts: Iterator[str], paged: bool) -> None:
    pager = shlex.split(os.environ.get("PAGER") or "less -RFX") if paged else []
    if not pager or not shutil.which(pager[0]):
        for text in texts:
            common.say(text)
        return
    # a broken pipe: the reader has seen enough
    how: dict[str, Any] = {"stdin": subprocess.PIPE, "text": True, "errors": "backslashreplace"}
    with contextlib.suppress(BrokenPipeError), subprocess.Popen(pager, **how) as reader:
        reader.stdin.writelines(f"{common.clean(text)}\n" for text in texts)  # type: ignore[union-attr]


def _has_status(episode: Episode, status: str, role: str) -> bool:
    """Whether the outcome, or a turn or score (of this role or seat), has this status."""
    turns = [t.status for t in episode.turns if role in ("", t.role, t.agent)]
    scores = [s.status for a, s in episode.scores.items() if role in ("", a, role_of(a))]
    return status in [*turns, *scores, *([] if role else [episode.outcome.status])]


def rescore(run: Path, rewards: list[str], out: Path | None, verify: bool = False) -> dict[str, Any]:
    """Score every episode again, a round at a time: rewards may compare the episodes of a round.

    Without ``rewards`` those that the run recorded count, or the game's own.  Rewards take the facts that the file
    states; with ``verify`` the recorded moves are made again first, and what comes out otherwise is told.

    Returns:
        ``stored`` and ``reproduced`` count the scores that were there and those that came out the same in value and
        status; ``roles`` sums up the new ones.
    """
    path = common.run_file(run, "episodes.jsonl")
    if out is not None and os.path.lexists(out):
        raise DreamEnvsError(f"--out {out} is there already: choose another file, nothing is overwritten")
    model: Any = None
    replayed = _replayed(path) if verify else None
    means, graders, counts, first = Means(), Counter[str](), Counter[str](), None
    with contextlib.ExitStack() as stack:
        if out is not None:
            stack.enter_context(_whole(out))
        writer = stack.enter_context(contextlib.closing(EpisodeWriter(out, tokens=True))) if out is not None else None
        for batch in _rounds(common.episodes_of(path)):
            model = model or _reward(path.parent, rewards, batch[0].env_id)
            for old, new in zip(batch, score_all(batch, model), strict=True):
                graders[old.grader or "(none)"] += 1
                for agent, score in new.scores.items():
                    means.add(role_of(agent), score)
                    if (was := old.scores.get(agent)) is not None:
                        equal = (was.value, was.status) == (score.value, score.status)
                        counts.update(stored=1, reproduced=int(equal))
                        if not equal and first is None:
                            first = {"index": old.index, "agent": agent, "stored": was, "now": score}
                if writer is not None:
                    writer.write(new)
        if model is None:
            raise DreamEnvsError(f"{path}: no episode in it")
    return {
        "episodes": graders.total(), "reward": model.grader, "stored_graders": graders, "stored": counts["stored"],
        "reproduced": counts["reproduced"], "first_difference": first, "roles": means.result(),
        "out": str(out) if out is not None else None, "replayed": replayed,
    }  # fmt: skip


def _replayed(path: Path) -> dict[str, Any]:
    """How many of a rollout's episodes come out of their moves again, and the first that does not."""
    from dream_envs.replay import difference

    config = read_object(path.parent / "run.json").get("config", {})
    if config.get("command") != "rollout":
        raise DreamEnvsError("--verify: a training's games begin from its curriculum; rollouts alone are played again")
    seats, (family, notation) = dict(config["seats"]), config.get("family", ("", ""))
    game = common.game_of(config["env"], dict(config["settings"]), seats, family, notation)
    found: dict[str, Any] = {"episodes": 0, "same": 0, "first_difference": None}
    for episode in common.episodes_of(path):
        label = f"{config['seed']}/{episode.index}"
        what = difference(game, episode) if episode.seed == label else f"seed {episode.seed!r}: of this run {label!r}"
        found["episodes"] += 1
        found["same"] += not what
        if what and found["first_difference"] is None:
            found["first_difference"] = {"index": episode.index, "what": what}
    return found


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[None]:
    """A file that is written in here: the half of it goes, if something goes wrong."""
    try:
        with common.writing(out):
            yield
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def _rounds(episodes: Iterator[Episode]) -> Iterator[list[Episode]]:
    """The episodes by round, ``_AT_ONCE`` at most: a rollout has one round."""
    for _, group in itertools.groupby(episodes, lambda e: e.round):
        while batch := list(itertools.islice(group, _AT_ONCE)):
            yield batch


def _reward(run: Path, asked: list[str], env_id: str) -> Any:
    """The reward that is asked for, else the one that the run was trained with, else the game's own."""
    config = (read_json(run / "run.json") or {}).get("config") or {}
    if not asked and config.get("command") == "train":
        return _trained_with(config, env_id)
    if "" in by_role(asked):  # for all roles, whatever the game
        return common.reward_of(asked)
    try:
        game = common.game_of(env_id, {})
    except DreamEnvsError as error:
        raise DreamEnvsError(f"{error}; {env_id} cannot be made here: say --reward for all roles") from error
    return common.reward_of(asked, game)


def _trained_with(config: dict[str, Any], env_id: str) -> Any:
    """The reward of a loop's run, made again from the settings in its folder."""
    recipe, per_role = common.needs("dream_envs.baselines.recipe"), common.needs("dream_envs.rewards.algebra").per_role
    known = {name: config[name] for name in recipe.Options.__struct_fields__ if name in config}
    made = recipe.settled(msgspec.convert({**known, "reward": {}}, recipe.Options))[1]
    if any(phase.reward is not None or phase.prepare is not None for phase in made.phases):
        raise DreamEnvsError(f"the phases of {config['loop']!r} have rewards of their own: say --reward")
    texts = config.get("reward") or {}
    if not made.reward:  # roles that nothing was asked for keep the game's own
        given = [f"{role}={text}" if role else text for role, text in texts.items()]
        return common.reward_of(given, common.game_of(env_id, {}))
    models = {
        role: as_reward(made.reward[role] if str(made.reward.get(role)) == text else text)
        for role, text in texts.items()
    }
    return models[""] if "" in models else per_role(models)


def rescore_text(found: dict[str, Any]) -> str:
    """The result for a terminal."""
    graders = ", ".join(f"{n} by {name}" for name, n in found["stored_graders"].items())
    parts = [f"{found['episodes']} episodes scored by {found['reward']} (stored: {graders})"]
    if found["stored"]:
        parts.append(f"{found['reproduced']} of {found['stored']} stored scores reproduce")
    if d := found["first_difference"]:
        was, now = (f"{s.value:g} ({s.status})" for s in (d["stored"], d["now"]))
        parts.append(f"first difference: episode {d['index']}, {d['agent']}: {was} stored, {now} now")
    if (again := found["replayed"]) is None:
        parts.append("what the file states was not checked: --verify makes its moves again")
    else:
        parts.append(f"{again['same']} of {again['episodes']} episodes come out of their moves again")
        if d := again["first_difference"]:
            parts.append(f"first that does not: episode {d['index']}, {d['what']}")
    parts.append(roles_text(found["roles"]))
    return "\n".join([*parts, *([f"wrote {found['out']}"] if found["out"] else [])])


def export(run: Path, kind: str, out: Path | None) -> dict[str, Any]:
    """Write a run's turns as a dataset, or the run as an Inspect log, into ``out`` (default: ``export`` beside it)."""
    if one_of("--format", kind, ("parquet", "jsonl", "inspect")) == "inspect":
        file = (out or run / "export") / "run.eval"
        with common.writing(file):
            log = common.needs("dream_envs.adapters.inspect").export_log(run, file)
        episodes = _count(common.run_file(run, "episodes.jsonl"))
        return {"out": str(log), "rows": episodes, "episodes": episodes}
    exported = common.needs("dream_envs.adapters.export")
    path = common.run_file(run, "episodes.jsonl")
    file = (out or path.parent / "export") / f"turns.{kind}"
    with common.writing(file):
        return {"out": str(file), **exported.export(common.episodes_of(path), file, kind)}


def nano(name: str, out: Path | None, steps: int | None) -> dict[str, Any]:
    """Pre-train a nano base; what its card says."""
    where = out or Path("runs/nano") / name
    if where.exists() and not (where / "nano.json").is_file() and (not where.is_dir() or any(where.iterdir())):
        raise DreamEnvsError(f"--out {where} holds something else than a nano base: choose another folder")
    recipe = common.needs("dream_envs.baselines.nano.recipe")
    registry.named("nano bases", name, recipe.BASES)
    with common.writing(where):
        folder = recipe.build(name, where, steps=steps, log=lambda line: common.say(line, sys.stderr))
    return {"out": str(folder), **read_json(folder / "nano.json")}


def report(run: Path, out: Path | None) -> dict[str, Any]:
    """Write the page; where it is, and the run's summary."""
    if not is_run(run) and not any((run / name).is_file() for name in (SUMMARY, "frontier.json")):
        what = "holds no run" if run.is_dir() else "is not there"
        raise DreamEnvsError(f"{run} {what}: give a run's folder, such as runs/demo")
    page = common.page_at(out or run / "report.html")
    with common.writing(page):
        made = common.needs("dream_envs.report.page").write_report(run, page)
    return {"run": str(run), "out": str(made), "summary": read_summary(run)}


def report_text(made: dict[str, Any]) -> str:
    """The report's numbers for a terminal, and where the page is."""
    from dream_envs.report.terminal import show

    return f"{common.console_text(lambda console: show(Path(made['run']), console))}\n\nreport: {made['out']}"
