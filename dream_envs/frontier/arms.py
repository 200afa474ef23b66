"""The pre-registered arms that elicit the base: how it is asked and how it is sampled, fixed before anything is drawn.

The base is drawn from in round-robin over the arms of a suite, so that no arm is picked after the fact (a maximum over
arms is biased upward and invites cherry-picking); the mixture gives each of A arms 1/A of the draws.  Expensive arms
(``veto``) are asked only where every other draw failed, and can only lower the headline.

Arms are plain data here; ``baselines.frontier`` turns them into agents.  Sources: eval protocol after Yue et al. (arXiv
2504.13837), CoT-decoding (2402.10200), budget forcing (s1, 2501.19393), min-p (2407.01082).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from dream_envs import registry
from dream_envs.core import DreamEnvsError, Message, Task
from dream_envs.frontier.suite import Suite

How = Literal["sample", "forced", "cot_decoding", "two_turns", "mechanism"]


class Arm(msgspec.Struct, frozen=True):
    """One way to elicit the base.

    Attributes:
        name: unique.
        text: the arm in words, for the report.
        how: ``sample``; ``forced`` (only tokens that the reply's form allows); ``cot_decoding`` (branch on the
            likeliest first tokens); ``two_turns`` (``followup`` is put after the first reply, and the second one is
            graded); ``mechanism`` (a steered or trained copy of the base, made by ``agents.elicit``).
        temperature: of sampling, above 0.
        top_p: nucleus, 1 is off.
        min_p: least share of the likeliest token's probability, 0 is off.
        shots: solved problems of the development set put in front, as earlier turns.
        suffix: put behind the prompt.
        followup: the second user turn of ``two_turns``.
        veto: asked only about survivors, at most ``protocol.VETO_DRAWS`` times each.
    """

    name: str
    text: str
    how: How = "sample"
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    shots: int = 0
    suffix: str = ""
    followup: str = ""
    veto: bool = False

    def messages(self, suite: Suite, task: Task, examples: Sequence[Task]) -> list[Message]:
        """What the base is asked; ``examples`` are solved development problems, the first ``shots`` are shown."""
        seen: list[Message] = []
        for example in examples[: self.shots]:
            answer = f"Answer: {example.answer}" if suite.final_field else example.answer
            seen += [*suite.messages(example), {"role": "assistant", "content": answer}]
        asked = suite.messages(task)
        return [*seen, {"role": "user", "content": asked[0]["content"] + self.suffix}]


_STEPS = "\nLet's think step by step."
_ROWS = (
    Arm("plain", "sampling at T = 1"),
    Arm("cool", "sampling at T = 0.7", temperature=0.7),
    Arm("hot_min_p", "T = 1.3 with min-p 0.05", temperature=1.3, min_p=0.05),
    Arm("zero_shot", "zero-shot, T = 0.7, top-p 0.95", temperature=0.7, top_p=0.95),
    Arm("step_by_step", "asked to think step by step, T = 1", suffix=_STEPS),
    Arm("few_shot", "four solved problems in front, T = 1", shots=4),
    Arm("few_shot_cool", "four solved problems in front, T = 0.7", shots=4, temperature=0.7),
    Arm(
        "code", "asked to reason as a program, T = 0.8", temperature=0.8, suffix="\nReason by writing a short program."
    ),
    Arm("cot_decoding", "one of the 16 likeliest first tokens, then T = 1", how="cot_decoding"),
    Arm("forced", "only tokens that the reply's form allows, T = 1", how="forced"),
    Arm("forced_cool", "only tokens that the reply's form allows, T = 0.5", how="forced", temperature=0.5),
    Arm("forced_hot", "only tokens that the reply's form allows, T = 1.5", how="forced", temperature=1.5),
    Arm(
        "plan",
        "plan first, then solve in a second turn, T = 0.8",
        how="two_turns",
        temperature=0.8,
        suffix="\nFirst write only a short plan.",
        followup="Now follow the plan and finish with the line 'Answer: '.",
    ),
    Arm(
        "budget_forcing",
        "made to look again after its answer, T = 0.8",
        how="two_turns",
        temperature=0.8,
        followup="Wait. Check every step again, then finish with the line 'Answer: '.",
        veto=True,
    ),
    Arm("steering", "steered along the base's own contrast of two ways to reply", how="mechanism", veto=True),
    Arm("critique", "fine-tuned on critiques of its own replies to one problem", how="mechanism", veto=True),
    Arm("sae", "one feature of a sparse autoencoder raised at the first token", how="mechanism", veto=True),
    Arm("rlvr", "GRPO on problems that the base already solves", how="mechanism", veto=True),
)
ARMS: dict[str, Arm] = {a.name: a for a in _ROWS}


def chosen(names: Sequence[str], veto: bool) -> list[Arm]:
    """The arms of these names.

    Args:
        names: keys of ``ARMS``, each once.
        veto: whether they are to be the expensive ones.

    Raises:
        DreamEnvsError: for an unknown name, one that is there twice, or one of the other sort.
    """
    for i, name in enumerate(names):
        if name not in ARMS:
            raise DreamEnvsError(registry.unknown("arms", name, list(ARMS)))
        if name in names[:i]:
            raise DreamEnvsError(f"arm {name!r} is there twice: each arm has the same share of the draws")
        if ARMS[name].veto != veto:
            where = "--vetoes" if ARMS[name].veto else "--arms"
            raise DreamEnvsError(f"arm {name!r} belongs to {where}")
    return [ARMS[name] for name in names]
