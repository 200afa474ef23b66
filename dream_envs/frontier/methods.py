"""The pre-registered methods that elicit the base, in three envelopes, fixed before anything is sampled.

``decoding``: how one completion is prompted and sampled.  ``scaffolds``: several calls an attempt (the problem cut into
pieces, a plan first, a second look).  ``training``: a copy of the base, changed without new task information.  A later
envelope is tried only on what the earlier ones left unsolved, so that ``beyond`` one means beyond those before it too.

The base is sampled in turn over the methods of an envelope, so that none is picked after the fact (a maximum over
methods is biased upward); each of A methods gets 1/A of the samples.  A method that solves no development problem gets
none.  Methods are plain data here; ``baselines.frontier`` turns them into agents.

Sources: eval protocol after Yue et al. (arXiv 2504.13837), CoT-decoding (2402.10200), min-p (2407.01082), least-to-most
(2205.10625), budget forcing (s1, 2501.19393), self-consistency (2203.11171), power sampling (2510.14901; by importance
resampling instead of Metropolis-Hastings), tuning on own right samples (STaR, 2203.14465).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from dream_envs import registry
from dream_envs.core import DreamEnvsError, Message, Task
from dream_envs.frontier.suite import Suite

How = Literal[
    "sample", "forced", "given", "cot_decoding", "power", "majority", "two_turns", "pieces", "mechanism"
]  # fmt: skip
Envelope = Literal["decoding", "scaffolds", "training"]
ENVELOPES: tuple[Envelope, ...] = ("decoding", "scaffolds", "training")


class MethodSpec(msgspec.Struct, frozen=True):
    """One way to elicit the base."""

    name: str  # unique
    text: str  # the method in words, for the report
    # ``sample``; ``forced`` (only tokens that the completion's form allows); ``given`` (and of those only what the
    # prompt itself names); ``cot_decoding`` (branch on the likeliest first tokens); ``power`` (one of ``size`` samples,
    # with a chance that grows with its likelihood); ``majority`` (what most of ``size`` samples answer); ``two_turns``
    # (``followup`` is put after the first completion, and the second one is graded); ``pieces`` (the family cuts the
    # problem, see ``core.TaskFamily``); ``mechanism`` (a steered or trained copy, made by ``agents.elicitation``)
    how: How = "sample"
    temperature: float = 1.0  # of sampling; 0 takes the likeliest token
    top_p: float = 1.0  # nucleus, 1 is off
    min_p: float = 0.0  # least share of the likeliest token's probability, 0 is off
    shots: int = 0  # solved problems of the development set put in front, as earlier turns
    suffix: str = ""  # put after the prompt
    followup: str = ""  # the second user turn of ``two_turns``
    size: int = 0  # the largest level of a piece; samples of ``power`` and ``majority``
    envelope: Envelope = "decoding"

    def messages(self, suite: Suite, task: Task, examples: Sequence[tuple[Task, str]]) -> list[Message]:
        """The base's prompt; ``examples`` are development problems with right replies, of which ``shots`` are shown."""
        seen: list[Message] = []
        for example, reply in examples[: self.shots]:
            seen += [*suite.messages(example), {"role": "assistant", "content": reply}]
        (last,) = suite.messages(task)
        return [*seen, {"role": "user", "content": last["content"] + self.suffix}]


_STEPS = "\nLet's think step by step."
_CODE = "\nReason by writing a short program."
_PLAN = "\nFirst write only a short plan."
_LEAST = "\nFirst name the simpler problems that it is made of, and solve those, simplest first."
_ON = "Now use them to solve the whole, and finish with the line 'Answer: '."
_SOLVE = "Now follow the plan and finish with the line 'Answer: '."
_AGAIN = "Wait. Check every step again, then finish with the line 'Answer: '."
_FORM = "only tokens that the reply's form allows"
_DECODING = (
    MethodSpec("plain", "sampling at T = 1"),
    MethodSpec("cool", "sampling at T = 0.7", temperature=0.7),
    MethodSpec("hot_min_p", "T = 1.3 with min-p 0.05", temperature=1.3, min_p=0.05),
    MethodSpec("zero_shot", "zero-shot, T = 0.7, top-p 0.95", temperature=0.7, top_p=0.95),
    MethodSpec("step_by_step", "asked to think step by step, T = 1", suffix=_STEPS),
    MethodSpec("few_shot", "four solved problems in front, T = 1", shots=4),
    MethodSpec("few_shot_cool", "four solved problems in front, T = 0.7", shots=4, temperature=0.7),
    MethodSpec("code", "asked to reason as a program, T = 0.8", temperature=0.8, suffix=_CODE),
    MethodSpec("cot_decoding", "one of the 16 likeliest first tokens, then T = 1", "cot_decoding"),
    MethodSpec("power", "one of 8 samples, by the third power of its likelihood", "power", size=8),
    MethodSpec("majority", "what most of 16 samples answer, T = 0.7", "majority", 0.7, size=16),
    MethodSpec("forced", f"{_FORM}, T = 1", "forced"),
    MethodSpec("forced_cool", f"{_FORM}, T = 0.5", "forced", 0.5),
    MethodSpec("forced_hot", f"{_FORM}, T = 1.5", "forced", 1.5),
    MethodSpec("given", f"{_FORM}, those that the prompt names fixed, T = 1", "given"),
    MethodSpec("given_cool", f"{_FORM}, those that the prompt names fixed, T = 0.5", "given", 0.5),
)
_SCAFFOLDS = (
    MethodSpec("decompose", "cut into pieces of at most 3 steps, each asked by itself, T = 0.3", "pieces", 0.3, size=3),
    MethodSpec("decompose_1", "cut into single steps, each asked by itself, T = 0.3", "pieces", 0.3, size=1),
    MethodSpec(
        "least_to_most", "simpler problems first, then the whole", "two_turns", 0.8, suffix=_LEAST, followup=_ON
    ),
    MethodSpec("plan", "plan first, then solve in a second turn", "two_turns", 0.8, suffix=_PLAN, followup=_SOLVE),
    MethodSpec("verify", "made to check and mend its answer", "two_turns", 0.8, followup=_AGAIN),
)
_TRAINING = (
    MethodSpec("steering", "steered along the base's own contrast of two ways to reply", "mechanism"),
    MethodSpec("critique", "fine-tuned on critiques of its own replies to one problem", "mechanism"),
    MethodSpec("sae", "one feature of a sparse autoencoder raised at the first token", "mechanism"),
    MethodSpec("rlvr", "GRPO on problems that the base already solves", "mechanism"),
    MethodSpec("self_tuning", "fine-tuned on its own right samples, as many steps and tokens as the run", "mechanism"),
)
#: Not methods of an envelope: what the panel beside the headline asks of both models.
GREEDY = MethodSpec("greedy", "the likeliest token at each step", temperature=0.0)
ATOMS = MethodSpec("atoms", "each step by itself, T = 1", "pieces", 1.0, size=1)
METHODS = {
    m.name: msgspec.structs.replace(m, envelope=envelope)
    for envelope, rows in zip(ENVELOPES, (_DECODING, _SCAFFOLDS, _TRAINING), strict=True)
    for m in rows
}


def chosen(names: Sequence[str]) -> list[MethodSpec]:
    """The methods of these names, each once."""
    for i, name in enumerate(names):
        if name not in METHODS:
            raise DreamEnvsError(registry.unknown("elicitation methods", name, list(METHODS)))
        if name in names[:i]:
            raise DreamEnvsError(f"method {name!r} is there twice: each method has the same share of the samples")
    found = [METHODS[name] for name in names]
    if not any(m.envelope == "decoding" for m in found):
        raise DreamEnvsError(f"methods={', '.join(names) or 'none'}: one or more that decode, such as plain")
    return found
