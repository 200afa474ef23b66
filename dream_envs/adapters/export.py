"""The episodes of a run as a Hugging Face dataset: one row a turn, typed, in parquet or JSONL.

``prompt`` and ``completion`` are lists of messages, as TRL's trainers read them; a ``value`` whose status is not ok is
null.  ``load_dataset("parquet", data_files="RUN/export/turns.parquet")`` reads it back with the same types.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from dream_envs.checks import one_of
from dream_envs.core import DreamEnvsError, Episode, Score, Turn, challenge_of, encode

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
