"""What several game cores share."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from dream_envs import registry
from dream_envs.core import Action, Challenge, DreamEnvsError, Limits, Task, TaskFamily
from dream_envs.tasks.answers import CHAT_TOKENS, answer_limits

SILENT = Action("")


def check_whole(name: str, value: Any, low: int, high: int, why: str = "") -> None:
    """An error unless ``value`` is a whole number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DreamEnvsError(f"{name}={value!r}: a whole number from {low} to {high}{why}")


def family_of(family: str | TaskFamily, notation: str, args: Mapping[str, Any] | None) -> TaskFamily:
    """The family of a name, made with ``notation``, if it has several, and ``args``, or the object itself."""
    if isinstance(family, str):
        takes = inspect.signature(registry.load("tasks", family)).parameters
        words = {"notation": notation} if "notation" in takes else {}
        return registry.create("tasks", family, **{**words, **dict(args or {})})
    if args:
        raise DreamEnvsError("family_args goes with a family's name; give them to the family object itself")
    return family


def minted(task: Task, author: str, parent: str = "") -> Challenge:
    """A proposal that was accepted, as a Challenge."""
    truth = task.meta.get("truth", "executed")
    return Challenge(
        family=task.family, level=task.level, prompt=task.prompt, answer=task.answer, meta=task.meta,
        origin=task.origin, id=task.id, author=author, parent=parent, truth=truth,
    )  # fmt: skip


def reply_limits(family: Any, tokens: int | None = None) -> Limits:
    """The bounds on an answer to a problem of this family; ``tokens``: another budget than its own."""
    if tokens is not None:
        check_whole("reply_tokens", tokens, 1, 2**20)
    return answer_limits(tokens or family.max_reply_tokens)


def proposal_limits(family: Any, tokens: int | None = None) -> Limits:
    """The bounds on a proposal to this family: in the chat protocol as for any reply, else its longest text."""
    if tokens is not None:
        check_whole("proposal_tokens", tokens, 1, 2**20)
    chat = getattr(family, "protocol", "strict") == "chat"
    own = getattr(family, "max_proposal_tokens", CHAT_TOKENS if chat else family.max_chars)
    return answer_limits(tokens or own) if chat else Limits(tokens or own, family.max_chars)
