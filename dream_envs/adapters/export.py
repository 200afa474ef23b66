"""The episodes of a run as a Hugging Face dataset: one row a turn, typed, in parquet or JSONL.

``prompt`` and ``completion`` are lists of messages, as TRL's trainers read them; a ``value`` whose status is not ok is
null.  ``load_dataset("parquet", data_files="RUN/export/turns.parquet")`` reads it back with the same types.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.checks import one_of
from dream_envs.core import DreamEnvsError, Episode, Score, Turn, challenge_of, encode
from dream_envs.curriculum.dreams import Dreamt
from dream_envs.runs import read_json

FORMATS = ("parquet", "jsonl")
#: Rows, and characters and tokens in them, that are held at once.
_ROWS, _SIZE = 1024, 2**24

Row = dict[str, Any]


def framework(name: str, extra: str = "train") -> Any:
    """A module of somebody else's; one line where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise DreamEnvsError(f"this needs {error.name}: pip install 'dream-envs[{extra}]'") from error


def features() -> Any:
    """The ``datasets.Features`` of the rows."""
    datasets = framework("datasets")
    text, whole, number = (datasets.Value(kind) for kind in ("string", "int64", "float64"))
    messages = [{"role": text, "content": text}]
    return datasets.Features(
        {
            "env_id": text, "version": whole, "seed": text, "episode": whole, "round": whole, "outcome": text,
            "turn": whole, "agent": text, "role": text, "author": text, "prompt": messages, "completion": messages,
            "status": text, "finish_reason": text, "extracted": text, "task_id": text, "family": text, "level": whole,
            "task_prompt": text, "task_answer": text, "value": number, "score_status": text, "score_detail": text,
            "components": [{"name": text, "value": number}], "grader": text, "prompt_tokens": whole,
            "completion_tokens": whole, "token_ids": datasets.List(whole), "logprobs": datasets.List(number),
        }
    )  # fmt: skip


def rows(episode: Episode) -> Iterator[Row]:
    """One row a turn.

    The task is the problem that was made in the episode, else its last one; null without any.  ``score_status`` is null
    where the episode has no score for the agent.  Token ids and log-probabilities are null where they were not stored.
    """
    task = challenge_of(episode) or (episode.tasks[-1] if episode.tasks else None)
    about: Row = {
        "env_id": episode.env_id, "version": episode.version, "seed": episode.seed, "episode": episode.index,
        "round": episode.round, "outcome": episode.outcome.status, "task_id": task and task.id,
        "family": task and task.family, "level": task and task.level, "task_prompt": task and task.prompt,
        "task_answer": task and task.answer,
    }  # fmt: skip
    for place, turn in enumerate(episode.turns):
        yield {**about, **_turn(place, turn), **_score(episode.scores.get(turn.agent), episode.grader)}


def _turn(place: int, turn: Turn) -> Row:
    return {
        "turn": place, "agent": turn.agent, "role": turn.role, "author": turn.author, "prompt": turn.messages,
        "completion": [{"role": turn.writes, "content": turn.text}], "status": turn.status,
        "finish_reason": turn.finish_reason, "extracted": turn.extracted, "prompt_tokens": turn.usage.prompt_tokens,
        "completion_tokens": turn.usage.completion_tokens, "token_ids": turn.token_ids, "logprobs": turn.logprobs,
    }  # fmt: skip


def _score(score: Score | None, grader: str) -> Row:
    if score is None:
        return {"value": None, "score_status": None, "score_detail": None, "components": [], "grader": grader}
    parts = [{"name": name, "value": number} for name, number in score.components.items()]
    return {
        "value": score.value if score.status == "ok" else None, "score_status": score.status,
        "score_detail": score.detail, "components": parts, "grader": score.grader or grader,
    }  # fmt: skip


def export(episodes: Iterable[Episode], path: str | Path, format: str = "parquet") -> dict[str, int]:
    """Write the turns of episodes into a new file, a thousand rows in memory at most.

    Args:
        episodes: read once, in order.
        path: the file to make; its folder is made if it is not there.
        format: ``parquet`` (needs the extra ``train``) or ``jsonl``.

    Returns:
        How many ``episodes`` and ``rows``.

    Raises:
        DreamEnvsError: if the file is there already, if there is no turn to write, and for a number that the types
            cannot hold.  Nothing is left behind then.
    """
    path = Path(path)
    one_of("format", format, FORMATS)
    if path.exists():
        raise DreamEnvsError(f"{path} is there already: choose another folder, nothing is overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    part, counts = path.with_name(path.name + ".part"), {"episodes": 0, "rows": 0}

    def counted() -> Iterator[Row]:
        for episode in episodes:
            counts["episodes"] += 1
            for row in rows(episode):
                counts["rows"] += 1
                yield row

    try:
        write: Callable[[Iterator[Row], Path], None] = _parquet if format == "parquet" else _jsonl
        write(counted(), part)
        if not counts["rows"]:
            raise DreamEnvsError(f"no turn in {counts['episodes']} episodes: there is nothing to write into {path}")
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return counts


def _parquet(found: Iterator[Row], path: Path) -> None:
    arrow, parquet = framework("pyarrow"), framework("pyarrow.parquet")
    schema = features().arrow_schema
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in _batches(found):
            try:
                # by way of builtins: arrow knows no struct of ours
                table = arrow.Table.from_pylist(msgspec.to_builtins(batch), schema=schema)
            except (arrow.ArrowInvalid, arrow.ArrowTypeError, OverflowError) as error:
                span = f"episodes {batch[0]['episode']} to {batch[-1]['episode']}"
                raise DreamEnvsError(f"{span}: a value does not fit the columns ({error}): --format jsonl") from error
            writer.write_table(table)


def _jsonl(found: Iterator[Row], path: Path) -> None:
    with open(path, "wb") as file:
        file.writelines(encode(row) + b"\n" for row in found)


def _batches(found: Iterator[Row]) -> Iterator[list[Row]]:
    batch, size = list[Row](), 0
    for row in found:
        batch.append(row)
        size += len(row["completion"][0]["content"]) + 2 * len(row["token_ids"] or ())
        size += sum(len(message["content"]) for message in row["prompt"])
        if len(batch) == _ROWS or size > _SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_CARD = """---
license: other
pretty_name: Dreams of {model}
configs:
- config_name: default
  data_files: data/*.parquet
---

# Dreams of {model}

Instructions that the model wrote itself behind its bare chat template, with its own replies (MAGPIE, arXiv 2406.08464);
made by the loop `magpie` of Dream Envs. Nobody has read them: they may be wrong, unfit or recited from training data.

- License: inherits the model's licence.
- Dreamt behind: `{template}`
- Decoding: dreams {dreams}; replies {replies}
- Seed: {seed}
- Filter: `{preset}`, with the rules {rules}{without}
- Counts: {total} dreams, {valid} valid pairs, {held_out} of these held out, {kept} kept (these rows)
- Not in the filter: replies cut off by their budget stay, with `finished` false
"""


def export_dreams(run: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the dreams that a run of ``magpie`` kept as a folder that ``datasets.load_dataset`` reads: data and card.

    Rows: ``messages`` (the conversation, the reply last), ``instruction``, ``response``, the measures, ``reward`` (null
    where none was measured), ``episode`` and ``turn``.

    Args:
        run: the run's folder; its dreams have to be finished, its copies need not.
        out: the folder to make.

    Returns:
        ``out``, and how many ``rows``.

    Raises:
        DreamEnvsError: for a folder without finished dreams, or if ``out`` is there already.
    """
    run, out = Path(run), Path(out)
    told = read_json(run / "dreams.json")
    if told is None:
        raise DreamEnvsError(f"{run} has no finished dreams: give the folder of a run of the loop magpie")
    if out.exists():
        raise DreamEnvsError(f"{out} is there already: choose another folder, nothing is overwritten")
    datasets, part = framework("datasets"), out.with_name(out.name + ".part")
    found = [msgspec.json.decode(line, type=Dreamt) for line in (run / "dreams.jsonl").read_bytes().splitlines()]
    kept = [row for row in found if not (row.reject or row.dropped or row.held_out)]
    table = [_dream(row) for row in kept]
    shutil.rmtree(part, ignore_errors=True)
    (part / "data").mkdir(parents=True)
    arrow, schema = framework("pyarrow"), _dream_features(datasets, kept).arrow_schema
    data = arrow.Table.from_pylist(table, schema=schema)
    framework("pyarrow.parquet").write_table(data, part / "data" / "train-00000-of-00001.parquet")
    rules = {name: value for name, value in told["rules"].items() if value not in (0, None, False) or name == "within"}
    left = told["unmeasured"]
    (part / "README.md").write_text(_CARD.format(
        model=told["model"], template=told["template"].replace("\n", "\\n"), preset=told["preset"], rules=rules,
        dreams=told["decoding"]["dreams"], replies=told["decoding"]["replies"], total=told["dreams"],
        seed=(read_json(run / "run.json") or {}).get("seed", "?"), valid=told["valid"], held_out=told["held_out"],
        kept=told["kept"], without=f"; left out, since nothing measured them: {', '.join(left)}" if left else "",
    ), encoding="utf-8")  # fmt: skip
    part.rename(out)
    return {"out": str(out), "rows": len(table)}


def _dream(row: Dreamt) -> Row:
    return {
        "messages": [*row.messages, {"role": "assistant", "content": row.reply}], "instruction": row.text,
        "response": row.reply, "finished": row.finished, "reply_tokens": row.tokens, "distance": row.distance,
        "reward": row.reward, "episode": row.episode, "turn": row.turn, **row.measures,
    }  # fmt: skip


def _dream_features(datasets: Any, kept: list[Dreamt]) -> Any:
    text, whole, number = (datasets.Value(kind) for kind in ("string", "int64", "float64"))
    kinds = {str: text, int: whole, float: number}
    measures = {name: kinds[type(value)] for row in kept[:1] for name, value in row.measures.items()}
    return datasets.Features({
        "messages": [{"role": text, "content": text}], "instruction": text, "response": text,
        "finished": datasets.Value("bool"), "reply_tokens": whole, "distance": number, "reward": number,
        "episode": whole, "turn": whole, **measures,
    })  # fmt: skip
