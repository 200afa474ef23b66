"""A local language model as an agent: batched, seedable, with exact log-probabilities (extra: train)."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

import dream_envs
from dream_envs.agents.engines.decode import Allowed, Forward, Sample, forward_for, sample
from dream_envs.core import Action, DreamEnvsError, Message, Request, Usage

#: For a request, the texts that may stand at each position of its reply.
Form = Callable[[Request], Sequence[Sequence[str]]]


def resolve(name: str) -> str:
    """The folder of a model's name: ``nano/compose`` is shipped with the package, anything else is left as it is."""
    if not name.startswith("nano/"):
        return name
    home = Path(dream_envs.__file__).parent / "baselines" / "nano"
    folder = home / name.removeprefix("nano/")
    if ".." in folder.parts or not (folder / "config.json").exists():
        there = ", ".join(f"nano/{p.parent.name}" for p in sorted(home.glob("*/config.json"))) or "none"
        raise DreamEnvsError(f"model {name!r}: shipped bases are {there}; dream-envs nano builds one")
    return str(folder)


class LocalAgent:
    """A Hugging Face causal language model that acts.

    Args:
        model: ``nano/compose``, a folder with safetensors, a hub id, or a loaded model (then ``tokenizer`` is needed).
        tokenizer: the loaded tokenizer, with a chat template.
        temperature: 0 to 10; 0 is greedy.
        top_p: above 0, up to 1; nucleus sampling, 1 is off.
        min_p: 0 to 1; tokens less likely than ``min_p`` times the most likely one are left out, 0 is off.
        device: ``cpu``, ``cuda``, ``cuda:1`` ...; a loaded model stays where it is.
    """

    def __init__(
        self,
        model: Any = "nano/compose",
        *,
        tokenizer: Any = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        device: str = "cpu",
    ) -> None:
        self._set_decoding(temperature, top_p, min_p)
        if isinstance(model, str):
            model, tokenizer = load(model, device)
        if tokenizer is None:
            raise DreamEnvsError("a loaded model needs its tokenizer: LocalAgent(model, tokenizer=...)")
        self.model, self.tokenizer = model, tokenizer
        self.form: Form | None = None
        self.accepted: Callable[[Request], str] | None = None
        ends = model.generation_config.eos_token_id
        self.ends = list(ends) if isinstance(ends, (list, tuple)) else [ends]
        size = model.config.get_text_config().vocab_size
        if not self.ends or not all(isinstance(i, int) and 0 <= i < size for i in self.ends):
            raise DreamEnvsError(
                f"eos_token_id={ends}: one id or several, from 0 to {size - 1}: see generation_config.json"
            )
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.ends[0]
        self._encode = functools.lru_cache(maxsize=65536)(self._encode_now)

    def _set_decoding(self, temperature: float, top_p: float, min_p: float) -> None:
        if not 0 <= temperature <= 10:
            raise DreamEnvsError(f"temperature={temperature}: 0 (greedy) to 10")
        if not 0 < top_p <= 1:
            raise DreamEnvsError(f"top_p={top_p}: above 0, up to 1 (off)")
        if not 0 <= min_p <= 1:
            raise DreamEnvsError(f"min_p={min_p}: 0 (off) to 1")
        self.temperature, self.top_p, self.min_p = temperature, top_p, min_p

    def decoding(self, **changed: float) -> Self:
        """An agent over the same weights with another ``temperature``, ``top_p`` or ``min_p``."""
        twin = copy.copy(self)
        twin._set_decoding(**{"temperature": self.temperature, "top_p": self.top_p, "min_p": self.min_p, **changed})
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
        """Sample a reply to every request in one batch; row i depends on request i alone."""
        if not requests:  # the tokenizer decodes no rows into one
            return []
        prompts = [self.encode(r.messages) for r in requests]
        seeds = np.array([r.seed for r in requests], dtype=np.uint64)
        limits = np.array([r.limits.max_tokens for r in requests])
        allowed = None if self.form is None else self._allowed([self.form(r) for r in requests])
        samples = self.sample(prompts, seeds, limits, allowed, self.expected(requests))
        texts = self.decode([s.ids for s in samples])
        return [
            Action(text, s.ids, s.logprobs, Usage(len(p), len(s.ids)))
            for text, s, p in zip(texts, samples, prompts, strict=True)
        ]

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
    ) -> list[Sample]:
        """Token ids in, samples out; see ``decode.sample``."""
        return sample(
            self.engine(), prompts, seeds, max_tokens, end=self.ends, pad=self.pad, temperature=self.temperature,
            top_p=self.top_p, min_p=self.min_p, allowed=allowed, expected=expected, device=self.device,
        )  # fmt: skip

    def engine(self) -> Forward:
        """What gives ``sample`` its logits, made from the weights as they are now."""
        return forward_for(self.model)

    def token(self, text: str) -> int:
        """The id of a text that is one token; an error if it is none or several."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise DreamEnvsError(f"{text!r} is {len(ids)} tokens of this model: a form names texts of one token each")
        return int(ids[0])

    def _allowed(self, forms: Sequence[Sequence[Sequence[str]]]) -> list[list[list[int]]]:
        keys = [tuple(tuple(texts) for texts in form) for form in forms]
        ids = {texts: [self.token(text) for text in texts] for texts in {texts for key in keys for texts in key}}
        rows = {key: [*(ids[texts] for texts in key), self.ends] for key in set(keys)}
        return [rows[key] for key in keys]

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of the templated messages, the generation prompt included."""
        return self._encode(tuple((m["role"], m["content"]) for m in messages))

    def _encode_now(self, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        chat = [{"role": role, "content": content} for role, content in messages]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

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

        None where that is not known from the logits alone: greedy, truncated (``top_p``, ``min_p``), ``constrained`` or
        ``stopping`` decoding.
        """
        if not self.temperature or self.top_p < 1 or self.min_p > 0 or self.form or self.accepted:
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
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.ends[0]]

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
        """A frozen copy of the weights as they are now, decoding alike."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model).requires_grad_(False).eval()
        # A trainer puts a forward of its own on the model (TRL's fused head): a closure over the original, which the
        # copy would go on running.
        vars(twin.model).pop("forward", None)
        return twin


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


def load(name: str, device: str = "cpu") -> tuple[Any, Any]:
    """A model and its tokenizer, in float32, safetensors only, never with remote code."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for every load, where a job loads a dozen models
    path = resolve(name)
    try:
        how: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        made: Any = AutoModelForCausalLM.from_pretrained(path, **how)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # whatever a damaged or strange folder makes of the libraries that read it
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if not Path(path).exists():
            first = f"there is no such folder, and as a hub id: {first}"
        raise DreamEnvsError(f"model {name!r} cannot be loaded: {first}; give nano/compose or a folder") from error
    model, told = made
    for what in ("missing_keys", "mismatched_keys"):  # what is not in the file would be drawn at random
        if wrong := sorted(map(str, told.get(what, ()))):
            named = f"{len(wrong)} {what.replace('_', ' ')} ({wrong[0]})"
            raise DreamEnvsError(f"model {name!r}: {named}; save it again, whole")
    return model.to(device).eval(), tokenizer
