"""The pre-registered methods that elicit the base: how it is prompted and sampled, fixed before anything is drawn.

The base is drawn from in turn over the methods of a suite, so that none is picked after the fact (a maximum over
methods is biased upward and invites cherry-picking); each of A methods gets 1/A of the draws.  Second-stage methods,
which cost more, are applied only where every other draw failed, and can only lower the headline.

Methods are plain data here; ``baselines.frontier`` turns them into agents.  Sources: eval protocol after Yue et al.
(arXiv 2504.13837), CoT-decoding (2402.10200), budget forcing (s1, 2501.19393), min-p (2407.01082).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from dream_envs import registry
from dream_envs.core import DreamEnvsError, Message, Task
from dream_envs.frontier.suite import Suite

How = Literal["sample", "forced", "cot_decoding", "two_turns", "mechanism"]


class MethodSpec(msgspec.Struct, frozen=True):
    """One way to elicit the base."""

    name: str  # unique
    text: str  # the method in words, for the report
    # ``sample``; ``forced`` (only tokens that the completion's form allows); ``cot_decoding`` (branch on the likeliest
    # first tokens); ``two_turns`` (``followup`` is put after the first completion, and the second one is graded);
    # ``mechanism`` (a steered or trained copy of the base, made by ``agents.elicitation``)
    how: How = "sample"
    temperature: float = 1.0  # of sampling, above 0
    top_p: float = 1.0  # nucleus, 1 is off
    min_p: float = 0.0  # least share of the likeliest token's probability, 0 is off
    shots: int = 0  # solved problems of the development set put in front, as earlier turns
    suffix: str = ""  # put after the prompt
    followup: str = ""  # the second user turn of ``two_turns``
    second_stage: bool = False  # applied only to survivors, at most ``protocol.SECOND_STAGE_DRAWS`` times each

    def messages(self, suite: Suite, task: Task, examples: Sequence[Task]) -> list[Message]:
        """The base's prompt; ``examples`` are solved development problems, the first ``shots`` are shown."""
        seen: list[Message] = []
        for example in examples[: self.shots]:
            seen += [*suite.messages(example), {"role": "assistant", "content": suite.written(example.answer)}]
        (last,) = suite.messages(task)
        return [*seen, {"role": "user", "content": last["content"] + self.suffix}]


_STEPS = "\nLet's think step by step."
_CODE = "\nReason by writing a short program."
_PLAN = "\nFirst write only a short plan."
_SOLVE = "Now follow the plan and finish with the line 'Answer: '."
_AGAIN = "Wait. Check every step again, then finish with the line 'Answer: '."
_FORM = "only tokens that the reply's form allows"
_SPECS = (
    MethodSpec("plain", "sampling at T = 1"),
    MethodSpec("cool", "sampling at T = 0.7", temperature=0.7),
    MethodSpec("hot_min_p", "T = 1.3 with min-p 0.05", temperature=1.3, min_p=0.05),
    MethodSpec("zero_shot", "zero-shot, T = 0.7, top-p 0.95", temperature=0.7, top_p=0.95),
    MethodSpec("step_by_step", "asked to think step by step, T = 1", suffix=_STEPS),
    MethodSpec("few_shot", "four solved problems in front, T = 1", shots=4),
    MethodSpec("few_shot_cool", "four solved problems in front, T = 0.7", shots=4, temperature=0.7),
    MethodSpec("code", "asked to reason as a program, T = 0.8", temperature=0.8, suffix=_CODE),
    MethodSpec("cot_decoding", "one of the 16 likeliest first tokens, then T = 1", "cot_decoding"),
    MethodSpec("forced", f"{_FORM}, T = 1", "forced"),
    MethodSpec("forced_cool", f"{_FORM}, T = 0.5", "forced", 0.5),
    MethodSpec("forced_hot", f"{_FORM}, T = 1.5", "forced", 1.5),
    MethodSpec("plan", "plan first, then solve in a second turn", "two_turns", 0.8, suffix=_PLAN, followup=_SOLVE),
)
_LATE = (
    MethodSpec("budget_forcing", "made to look again after its answer", "two_turns", 0.8, followup=_AGAIN),
    MethodSpec("steering", "steered along the base's own contrast of two ways to reply", "mechanism"),
    MethodSpec("critique", "fine-tuned on critiques of its own replies to one problem", "mechanism"),
    MethodSpec("sae", "one feature of a sparse autoencoder raised at the first token", "mechanism"),
    MethodSpec("rlvr", "GRPO on problems that the base already solves", "mechanism"),
)
METHODS = {m.name: m for m in (*_SPECS, *(msgspec.structs.replace(m, second_stage=True) for m in _LATE))}


def chosen(names: Sequence[str], second_stage: bool) -> list[MethodSpec]:
    """The methods of these names, each once, all of the second stage or none.

    Raises:
        DreamEnvsError: for an unknown name, one that is there twice, or one of the other stage.
    """
    for i, name in enumerate(names):
        if name not in METHODS:
            raise DreamEnvsError(registry.unknown("elicitation methods", name, list(METHODS)))
        if name in names[:i]:
            raise DreamEnvsError(f"method {name!r} is there twice: each method has the same share of the draws")
        if METHODS[name].second_stage != second_stage:
            raise DreamEnvsError(
                f"method {name!r} belongs to {'--second-stage' if METHODS[name].second_stage else '--methods'}"
            )
    return [METHODS[name] for name in names]
