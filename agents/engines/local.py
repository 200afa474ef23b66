"""A local language model as an agent: batched, seedable, with exact log-probabilities (extra: train)."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import torch

from dream_envs.agents.engines.chat import Chat
from dream_envs.agents.engines.decode import Allowed, Decoding, Forward, Sample, forward_for, sample
from dream_envs.agents.engines.memory import rows_that_fit
from dream_envs.agents.engines.models import ADAPTERS, ROLES, load, resolve, save_adapter, wearing, with_adapters
from dream_envs.core import Action, DreamEnvsError, Message, Request, Usage
from dream_envs.runs import read_json, write_json

#: For a request, the texts that may stand at each position of its reply.
Form = Callable[[Request], Sequence[Sequence[str]]]


class LocalAgent:
    """A Hugging Face causal language model that acts.

    Args:
        model: ``nano/compose``, ``smollm2``, a folder with safetensors (sharded or not, or an adapter's), a hub id,
            or a loaded model (then ``tokenizer`` is needed).
        tokenizer: the loaded tokenizer, with a chat template.
        temperature: 0 to 10; 0 is greedy.
        top_p: above 0, up to 1; nucleus sampling, 1 is off.
        min_p: 0 to 1; tokens less likely than ``min_p`` times the most likely one are left out, 0 is off.
        top_k: only so many most likely tokens are left, 0 is off.
        sampling: ``model`` takes the four from the model's generation_config.json, where it has them.
        system: stands before every conversation that has no system message.
        template: arguments of the chat template (``{"enable_thinking": False}``); with ``chat_template`` among them
            that text, or ``plain``, in place of the model's own.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``auto`` ...; a loaded model stays where it is.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto`` (the file's on an accelerator, float32 on a CPU).
        batch: rows that are generated together; 0: all, halved for good where the device's memory does not hold them.
        adapters: LoRA folders by role, over this model's weights; who has none speaks as the model itself.
    """

    def __init__(
        self,
        model: Any = "nano/compose",
        *,
        tokenizer: Any = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        top_k: int = 0,
        sampling: str = "",
        system: str = "",
        template: Mapping[str, Any] | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        batch: int = 0,
        adapters: Mapping[str, str] | None = None,
    ) -> None:
        if sampling not in ("", "model"):
            raise DreamEnvsError(f"sampling={sampling!r}: 'model', or leave it out")
        if batch < 0:
            raise DreamEnvsError(f"batch={batch}: 1 or more, or 0 for all that fits")
        self.how = Decoding(temperature, top_p, min_p, top_k)
        self.name = model if isinstance(model, str) else ""
        if isinstance(model, str):
            model, tokenizer = load(model, device, dtype)
        if tokenizer is None:
            raise DreamEnvsError("a loaded model needs its tokenizer: LocalAgent(model, tokenizer=...)")
        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        if sampling:
            own = {n: getattr(model.generation_config, n, None) for n in Decoding.__struct_fields__}
            self.how = msgspec.structs.replace(self.how, **{n: v for n, v in own.items() if v is not None})
        #: The adapter of the model that each role speaks with.
        self.adapters: dict[str, str] = {}
        if adapters:
            self.adapters = {role: role for role in adapters}
            self.model = with_adapters(self.model, {role: Path(resolve(name)) for role, name in adapters.items()})
        self.form: Form | None = None
        self.accepted: Callable[[Request], str] | None = None
        self.chat = Chat(tokenizer, model, system, dict(template or {}))
        self.ends, self.end = self.chat.ends, self.chat.end
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.ends[0]

    @property
    def temperature(self) -> float:
        """Of the decoding."""
        return self.how.temperature

    @property
    def encode(self) -> Callable[..., tuple[int, ...]]:
        """Ids of the templated messages, the generation prompt included; see ``Chat.encode``."""
        return self.chat.encode

    def decoding(self, **changed: Any) -> Self:
        """An agent over the same weights with another ``temperature``, ``top_p``, ``min_p`` or ``top_k``."""
        twin = copy.copy(self)
        twin.how = Decoding(**{**msgspec.structs.asdict(self.how), **changed})
        return twin

    def constrained(self, form: Form) -> Self:
        """An agent over the same weights whose replies are forced into a form, probabilities renormalised within it.

        ``form(request)``: the texts that may stand at each position of the reply, each of one token; behind the last
        position stands the end.  With the grammar of a family with one accepted reply this samples what
        ``frontier.exact`` calls ``forced``.
        """
        twin = copy.copy(self)
        twin.form = form
        return twin

    def stopping(self, accepted: Callable[[Request], str]) -> Self:
        """An agent over the same weights that stops a reply at the first token that leaves the only accepted one.

        For drawing until something is right, where most draws are wrong early: whether a draw is right does not change,
        what is said behind a wrong token is not sampled, and the tokens counted are those that were.
        """
        twin = copy.copy(self)
        twin.accepted = accepted
        return twin

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Sample a reply to every request in one batch; row i depends on request i alone.

        Users' turns and replies end in different tokens: each kind is a batch of its own.
        """
        if not requests:  # the tokenizer decodes no rows into one
            return []
        if self.adapters:
            return self._by_role(requests)
        if len({r.writes for r in requests}) > 1:
            return _apart(requests, [r.writes for r in requests], lambda _, some: self.act(some))
        ends, prompts = self.chat.stops(requests[0]), [self.encode(r.messages, r.writes) for r in requests]
        self.need_room(max(map(len, prompts)))
        mine = requests[0].writes == "assistant"
        seeds = np.array([r.seed for r in requests], dtype=np.uint64)
        limits = np.array([r.limits.max_tokens for r in requests])
        allowed = None if self.form is None else self._allowed([self.form(r) for r in requests], ends)
        samples = self.sample(prompts, seeds, limits, allowed, self.expected(requests), ends)
        texts = self.decode([s.ids for s in samples])
        return [
            Action(
                self.chat.opening(p) * mine + text, s.ids, s.logprobs, Usage(len(p), len(s.ids)),
                finish_reason="length" if len(s.ids) >= limit and not s.ended else "stop",
            )
            for text, s, p, limit in zip(texts, samples, prompts, limits, strict=True)
        ]  # fmt: skip

    def need_room(self, longest: int) -> None:
        """Refuse a prompt that leaves no room for a reply in what the model was made to read."""
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and longest >= most:
            raise DreamEnvsError(
                f"a prompt of {longest} tokens: this model reads {most}, its reply included; shorten the context, or "
                f"let a sleeping learner read it in pieces (--set nights.piece={max(1, most // 2)})"
            )

    def _by_role(self, requests: Sequence[Request]) -> list[Action]:
        plain = copy.copy(self)
        plain.adapters = {}

        def worn(name: str, some: Sequence[Request]) -> list[Action]:
            with wearing(self.model, name):
                return plain.act(some)

        return _apart(requests, [self.adapters.get(r.role, "") for r in requests], worn)

    def expected(self, requests: Sequence[Request]) -> list[list[int]] | None:
        """Ids of the one accepted reply to each request, for an agent that stops where it is left; else None."""
        if self.accepted is None:
            return None
        texts = [self.accepted(r) for r in requests]
        known = {text: self.completion(text) for text in set(texts)}
        return [known[text] for text in texts]

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: np.ndarray,
        max_tokens: np.ndarray,
        allowed: Allowed | None = None,
        expected: Sequence[Sequence[int]] | None = None,
        ends: Sequence[int] | None = None,
    ) -> list[Sample]:
        """Token ids in, samples out; see ``decode.sample``.  ``ends``: other ids than those that end a reply.

        A row depends on itself alone, so that memory may split the batch: on a device that runs out of it ``batch`` is
        halved, for good, and the rows are drawn again; a CPU is asked beforehand.
        """
        most, found = self.batch or len(prompts), list[Sample]()
        if most > 1 and (fit := rows_that_fit(self.model, max(map(len, prompts)), int(max(max_tokens)))):
            most = min(most, fit)
        engine = self.engine()
        while len(found) < len(prompts):
            part = slice(len(found), len(found) + most)
            try:
                found += sample(
                    engine, prompts[part], seeds[part], max_tokens[part], pad=self.pad,
                    end=self.ends if ends is None else ends,
                    allowed=None if allowed is None else allowed[part],
                    expected=None if expected is None else expected[part], device=self.device,
                    **msgspec.structs.asdict(self.how),
                )  # fmt: skip
            except torch.OutOfMemoryError as error:
                rows = len(prompts[part])
                if rows == 1:
                    raise DreamEnvsError(
                        f"out of memory on {self.device} with one row of {len(prompts[part.start])} prompt tokens and "
                        f"{max_tokens[part.start]} new ones: lower the budget (reply_tokens) or dtype"
                    ) from error
                self.batch = most = rows // 2
                torch.cuda.empty_cache()
        return found

    def engine(self) -> Forward:
        """What gives ``sample`` its logits, made from the weights as they are now."""
        return forward_for(self.model)

    def token(self, text: str) -> int:
        """The id of a text that is one token; an error if it is none or several."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise DreamEnvsError(f"{text!r} is {len(ids)} tokens of this model: a form names texts of one token each")
        return int(ids[0])

    def _allowed(self, forms: Sequence[Sequence[Sequence[str]]], ends: list[int]) -> list[list[list[int]]]:
        keys = [tuple(tuple(texts) for texts in form) for form in forms]
        ids = {texts: [self.token(text) for text in texts] for texts in {texts for key in keys for texts in key}}
        rows = {key: [*(ids[texts] for texts in key), ends] for key in set(keys)}
        return [rows[key] for key in keys]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts of completions, without special tokens."""
        return [str(t) for t in self.tokenizer.batch_decode(list(ids), skip_special_tokens=True)]

    @torch.inference_mode()
    def completion_logits(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[str], batch: int = 256
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Teacher-forced ``float32[T, V]`` logits and ``int64[T]`` ids of each reply, its end included.

        Row t of the logits predicted id t.
        """
        logits, targets = list[np.ndarray](), list[np.ndarray]()
        for at in range(0, len(prompts), batch):
            heads = [self.encode(p) for p in prompts[at : at + batch]]
            tails = [self.completion(c) for c in completions[at : at + batch]]
            values = self.read(heads, tails).logits.float().cpu().numpy()
            for i, (h, t) in enumerate(zip(heads, tails, strict=True)):
                logits.append(values[i, len(h) - 1 : len(h) + len(t) - 1].copy())
                targets.append(np.array(t))
        return logits, targets

    def probabilities(self, requests: Sequence[Request], texts: Sequence[str]) -> np.ndarray | None:
        """``float64[len(requests), len(texts)]``: how likely a completion is this text, token by token, and then ends.

        None where that is not known from the logits alone: greedy, truncated (``top_p``, ``min_p``, ``top_k``),
        ``constrained`` or ``stopping`` decoding; and for a user's turn.
        """
        how = self.how
        if not how.temperature or how.top_p < 1 or how.min_p > 0 or how.top_k or self.form or self.accepted:
            return None
        if any(request.writes != "assistant" for request in requests):
            return None
        pairs = [(request.messages, text) for request in requests for text in texts]
        logits, ids = self.completion_logits([m for m, _ in pairs], [text for _, text in pairs])
        found = []
        for row, tokens in zip(logits, ids, strict=True):
            logp = torch.log_softmax(torch.from_numpy(row).double() / self.temperature, -1)
            ended = torch.logsumexp(logp[-1, self.ends], -1)  # by any of the ends
            found.append(float((logp[:-1].gather(-1, torch.from_numpy(tokens[:-1, None])).sum() + ended).exp()))
        return np.array(found).reshape(len(requests), len(texts))

    def completion(self, text: str) -> list[int]:
        """Ids of a reply, the end token included."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end]

    def read(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], **more: Any) -> Any:
        """The model's output on ids with given completions behind, padded on the right; ``more`` goes to its forward.

        Position ``len(prompt) - 1 + t`` of a row is the one that predicts the completion's id t.
        """
        rows = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [self.pad] * (width - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        with self.reading([len(p) - 1 for p in prompts]):
            return self.model(input_ids=ids, attention_mask=mask, **more)

    def reading(self, starts: Sequence[int]) -> AbstractContextManager[Any]:
        """Around every teacher-forced forward; ``starts[B]`` are the prompts' last positions.  Here: nothing."""
        return nullcontext()

    def snapshot(self) -> Self:
        """A frozen copy of the weights as they are now, decoding alike; an adapter for all roles is merged in."""
        twin = self.copied()
        twin.model = copy.deepcopy(self.model)
        # A trainer puts a forward of its own on the model (TRL's fused head): a closure over the original, which the
        # copy would go on running.
        vars(twin.model).pop("forward", None)
        if hasattr(twin.model, "peft_config"):
            vars(twin.model.get_base_model()).pop("forward", None)
            if not self.adapters:
                twin.model = twin.model.merge_and_unload()
        twin.model.requires_grad_(False).eval()
        return twin

    def copied(self) -> Self:
        """Another agent over the same weights."""
        return copy.copy(self)

    def reloaded(self, folder: str | Path) -> Self:
        """An agent over the weights in a folder, on the same device, in everything else like this one."""
        twin = self.copied()
        kind = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        if (by_role := Path(folder) / ADAPTERS).is_dir():  # over this agent's own weights
            twin.adapters = read_json(by_role / ROLES) or {}
            places = {name: by_role / role for role, name in twin.adapters.items()}
            twin.model = with_adapters(copy.deepcopy(self.model), places)
            return twin
        twin.model, _ = load(str(folder), str(self.device), kind)
        return twin

    def save(self, folder: str | Path) -> None:
        """Write weights, adapters merged in, and tokenizer as a plain Hugging Face folder.

        Of several roles' adapters the main one is merged in; each lies in ``adapters/ROLE`` besides.
        """
        whole = self.model
        if hasattr(self.model, "peft_config"):
            whole = self.snapshot().model
            whole = whole.merge_and_unload() if self.adapters else whole
        whole.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))
        for role, name in self.adapters.items():
            save_adapter(self.model, name, Path(folder) / ADAPTERS / role)
        if self.adapters:
            write_json(Path(folder) / ADAPTERS / ROLES, self.adapters)


def _apart(
    requests: Sequence[Request], keys: Sequence[str], act: Callable[[str, Sequence[Request]], Sequence[Action]]
) -> list[Action]:
    """The answers of ``act(key, requests)``, called once for the requests of each key."""
    found = dict[int, Action]()
    for key in dict.fromkeys(keys):
        places = [i for i, own in enumerate(keys) if own == key]
        found |= dict(zip(places, act(key, [requests[i] for i in places]), strict=True))
    return [found[i] for i in range(len(requests))]


@contextlib.contextmanager
def without_deprecations() -> Iterator[None]:
    """Around a trainer: silent about settings that TRL and transformers deprecate in each other's code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        yield


def keep_memory() -> bool:
    """Ask glibc to keep freed blocks instead of handing them back to the kernel; False where there is no glibc.

    A small model's step frees and takes the same megabytes thousands of times; the page faults of doing so were 40 % of
    the flagship's time on two cores.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(mmap_threshold, 1 << 30) and libc.mallopt(trim_threshold, (1 << 31) - 1))
    except (OSError, AttributeError):
        return False
