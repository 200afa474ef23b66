"""Messages to token ids and where a turn ends: everything about a chat template, checked when the model is loaded."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from dream_envs.core import DreamEnvsError, Message, Request, Writes
from dream_envs.tasks.answers import visible

#: For a base model that has no template: ``local(model=..., template={"chat_template": "plain"})``.
PLAIN = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_PROBE = "XQZ"


class Chat:
    """A tokenizer's chat template with its arguments.

    ``ends``: the ids that end a reply.  ``end``: the one that the template writes behind an assistant's turn, which is
    what a trained reply ends in; a model may list others first.

    Args:
        tokenizer: the tokenizer.
        model: what it is for; its generation config lists ends, its embedding bounds ids.
        system: stands before every conversation that has no system message.
        template: the template's arguments; ``chat_template`` replaces the template itself.

    Raises:
        DreamEnvsError: for a model without a template, a template that fails, ids beyond the embedding, or no end.
    """

    def __init__(self, tokenizer: Any, model: Any, system: str = "", template: dict[str, Any] | None = None) -> None:
        self.tokenizer, self.system, self.template = tokenizer, "", dict(template or {})
        if self.template.get("chat_template") == "plain":
            self.template["chat_template"] = PLAIN
        if not (self.template.get("chat_template") or tokenizer.chat_template):
            raise DreamEnvsError(
                "the model has no chat template: take an instruct model, or give one: "
                "template={'chat_template': 'plain'} writes 'User: ...' and 'Assistant:'"
            )
        self._folds = False  # whether system messages have to go into the user's
        self._encode = functools.lru_cache(maxsize=65536)(self._encode_now)
        self._encode_user = functools.lru_cache(maxsize=65536)(self._encode_user_now)
        question: list[Message] = [{"role": "user", "content": _PROBE}]
        asked = self._render(question)
        try:
            self._render([{"role": "system", "content": _PROBE}, *question])
        except DreamEnvsError:
            self._folds = True
        self.system = system
        self._opens = visible(asked.rpartition(_PROBE)[2]) is None  # the prompt itself begins the reasoning
        self._opening = asked.rpartition(_PROBE)[2].rpartition("<")[1:] if self._opens else ()
        size = model.config.get_text_config().vocab_size
        self.ends, self.end = self._turn_ends(model, size)
        highest = max(tokenizer.get_vocab().values())
        if highest >= size:
            raise DreamEnvsError(f"the tokenizer writes id {highest}, the model has {size}: they do not fit")

    def encode(self, messages: Sequence[Message], writes: Writes = "assistant") -> tuple[int, ...]:
        """Ids of the templated messages, the generation prompt included; for ``user`` see ``encode_user``."""
        if writes == "user":
            return self.encode_user(messages)
        return self._encode(tuple((m["role"], m["content"]) for m in messages))

    def encode_user(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of the template up to just before the words of a user who speaks next; there may be no messages.

        Whatever the template itself puts in front, such as a system prompt of its own, stands in front here too.

        Raises:
            DreamEnvsError: for a template that does not show where a user's words begin and end.
        """
        _ = self.user_ends  # refuses
        return self._encode_user(tuple((m["role"], m["content"]) for m in messages))

    @functools.cached_property
    def user_ends(self) -> list[int]:
        """The ids that end a user's words: the first special one that the template writes behind them, and ``ends``.

        Raises:
            DreamEnvsError: for a template that writes none: nothing would tell where a user's turn is over.
        """
        behind = self._around_user([])[1]
        special = {*self.ends, *self.tokenizer.all_special_ids}
        found = next((i for i in self.tokenizer(behind, add_special_tokens=False)["input_ids"] if i in special), None)
        if found is None:
            raise DreamEnvsError(
                f"writes='user': the chat template ends a user's words in {behind[:20]!r}, which has no special token: "
                "nothing tells where the turn is over; take a model whose template has one"
            )
        return list(dict.fromkeys([int(found), *self.ends]))

    def stops(self, request: Request) -> list[int]:
        """The ids that end the reply to this request.

        Raises:
            DreamEnvsError: where nobody knows whose turn it is.
        """
        if request.writes not in ("assistant", "user"):
            raise DreamEnvsError(f"writes={request.writes!r}: 'assistant' or 'user'")
        return self.user_ends if request.writes == "user" else self.ends

    def _around_user(self, messages: list[Message]) -> tuple[str, str]:
        """What the template writes before and behind the words of a user who speaks next."""
        mark = _PROBE
        while any(mark in m["content"] for m in messages):
            mark += _PROBE[-1]
        text = self._render([*messages, {"role": "user", "content": mark}])
        before, _, behind = text.partition(mark)
        if not before or text.count(mark) != 1:
            what = "nothing in front of" if text.count(mark) == 1 else "something other than"
            raise DreamEnvsError(f"writes='user': the chat template writes {what} a user's words: take another model")
        return before, behind

    def _encode_user_now(self, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        before, _ = self._around_user([{"role": role, "content": content} for role, content in messages])
        return tuple(self.tokenizer(before, add_special_tokens=False)["input_ids"])

    def opening(self, prompt: Sequence[int]) -> str:
        """The reasoning tag that the prompt ends in: it belongs to the reply, whose reasoning it opens; mostly none."""
        return "".join(self._opening).strip() if self._opens else ""

    def _encode_now(self, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        text = self._render([{"role": role, "content": content} for role, content in messages])
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, messages: list[Message], asks: bool = True) -> str:
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        if self._folds and messages[0]["role"] == "system" and len(messages) > 1:
            first = f"{messages[0]['content']}\n\n{messages[1]['content']}"
            messages = [{"role": messages[1]["role"], "content": first}, *messages[2:]]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=asks, **self.template
                )
            )
        except Exception as error:  # whatever a stranger's template raises
            told = " ".join(str(error).split())[:200]
            roles = ", ".join(m["role"] for m in messages)
            raise DreamEnvsError(f"the chat template fails on messages of {roles}: {told}") from error

    def _turn_ends(self, model: Any, size: int) -> tuple[list[int], int]:
        listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        ends = list(listed) if isinstance(listed, (list, tuple)) else [] if listed is None else [listed]
        if (listed is not None and not ends) or not all(isinstance(i, int) and 0 <= i < size for i in ends):
            raise DreamEnvsError(
                f"eos_token_id={listed}: one id or several, from 0 to {size - 1}: see generation_config.json"
            )
        if not ends and self.tokenizer.eos_token_id is not None:
            ends = [int(self.tokenizer.eos_token_id)]
        turn: list[Message] = [{"role": "user", "content": "A"}, {"role": "assistant", "content": _PROBE}]
        behind = self._render(turn, asks=False).rpartition(_PROBE)[2]
        ids = self.tokenizer(behind, add_special_tokens=False)["input_ids"]
        special = {*ends, *self.tokenizer.all_special_ids}
        written = next((i for i in ids if i in special and i < size), None)
        if written is None and not ends:
            raise DreamEnvsError(
                "nothing ends a reply: the template writes no special token behind an assistant's turn, and neither "
                "generation_config.json nor the tokenizer has an eos token"
            )
        end = ends[0] if written is None else int(written)
        return (ends if end in ends else [*ends, end]), end


def of_folder(folder: str, system: str = "", template: dict[str, Any] | None = None) -> Chat:
    """The conversation of a model whose weights are elsewhere (on a server, in another engine)."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(folder)
    except OSError:
        generation = GenerationConfig()
    facts = SimpleNamespace(config=AutoConfig.from_pretrained(folder), generation_config=generation)
    return Chat(AutoTokenizer.from_pretrained(folder), facts, system, template)
