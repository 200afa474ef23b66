"""What the base ``nano/judge`` is shown besides problems: answers to judge, with slips and labels of declared noise.

The questions are written in the grammar of ``envs.judging`` by that grammar's own ``write``; see ``Judging`` for what
is drawn how often.
"""

from __future__ import annotations

import msgspec
import numpy as np

from dream_envs.core import Task
from dream_envs.envs.judging import Question, say, write
from dream_envs.tasks.composition import Composition

#: What a check and a repair begin with; no kind of question of ``envs.judging`` has these letters.
CHECK, REPAIR = "k", "y"
#: Share of wrong steps in both, and what an operation, a state and what stands behind it weigh in the loss.
WRONG_STEPS = 0.4
STEP_WEIGHTS = {CHECK: (1.0, 1.0, 3.0), REPAIR: (1.0, 0.5, 2.0)}


class Judging(msgspec.Struct, frozen=True):
    """How answers are judged in pre-training.

    ``pairwise``, ``rubric``, ``check``, ``repair``: shares of all examples. A check is a trace whose states are each
    followed by a mark, a repair one whose states are each followed by the right one (``stepwise``). To hold a state
    against the one that was foretold is what a judge is made of, and from verdicts alone a model this small does not
    find it: after 600 steps it still told answers apart by their form only.
    ``depths``: depths of the judged problems, drawn uniformly.
    ``noise``: by depth, the share of labels that are turned round, independently of everything else; it is what the
    judge cannot do better than at temperature 1 (``1 - noise``).  ``contrast``: share of pairs with a right and a wrong
    answer; the others are two right ones (which are the same text) or two wrong ones, labelled by a coin.  ``wrong``:
    shares of the kinds of wrong answer (``wrong_answer``).  Either order is equally likely everywhere.
    ``read``: weight in the loss of the answers within a question, which are learnt as text too: to foretell an answer
    is the half of judging it.  ``verdict``: weight of the verdict.
    """

    pairwise: float = 0.3
    rubric: float = 0.15
    check: float = 0.2
    repair: float = 0.15
    depths: tuple[int, ...] = (1, 2, 3)
    noise: dict[str, float] = msgspec.field(default_factory=lambda: {"1": 0.05, "2": 0.1, "3": 0.1})
    contrast: float = 0.7
    read: float = 0.5
    verdict: float = 2.0
    wrong: dict[str, float] = msgspec.field(default_factory=lambda: {"slip": 0.7, "states": 0.2, "short": 0.1})


def asked(rule: Judging, rng: np.random.Generator) -> str:
    """The kind of the next example, by its name in ``Judging``; empty for one that is not about judging."""
    at = rng.random()
    for kind in ("pairwise", "rubric", "check", "repair"):
        if at < (share := getattr(rule, kind)):
            return kind
        at -= share
    return ""


def question_mask(rule: Judging, prompt: str, mask: np.ndarray) -> None:
    """Weigh a question's answers and its verdict in the loss mask of its row, ``float[T]``; others stay as they are.

    Row: ``<|user|>``, the prompt's characters, ``<|assistant|>``, the reply.
    """
    if prompt[1:2] != "|":
        return
    if prompt[0] in STEP_WEIGHTS:
        at, steps = len(prompt) + 2, len(prompt) - 4  # k|c: and the operations
        mask[at : at + 3 * steps] = STEP_WEIGHTS[prompt[0]] * steps
    else:
        mask[prompt.index("|", 2) + 2 : len(prompt) + 1] = rule.read
        mask[len(prompt) + 2] = rule.verdict


def wrong_answer(family: Composition, task: Task, rng: np.random.Generator, kind: str) -> str:
    """An answer that is not accepted.

    ``slip``: one state is wrong and the rest follows from it, as from a model that slips once; ``states``: the
    operations are left out; ``short``: the last step is missing (nothing is left of a problem of depth 1).

    Raises:
        ValueError: for another kind.
    """
    if kind == "states":
        return task.answer[1::2]
    if kind == "short":
        return task.answer[:-2]
    if kind != "slip":
        raise ValueError(f"kind={kind!r}")
    at = int(rng.integers(task.level))
    others = family.states.replace(task.answer[2 * at + 1], "")
    state = others[int(rng.integers(len(others)))]
    rest = family.make(state, task.meta["ops"][at + 1 :]).answer if at + 1 < task.level else ""
    return task.answer[: 2 * at + 1] + state + rest


def stepwise(family: Composition, task: Task, rng: np.random.Generator, kind: str) -> tuple[str, str]:
    """A check, ``k|c:BDA`` and a marked trace ``Bh1Dm0Ac1``: 0 after a wrong state, from which the next step goes on.

    Or a repair, ``y|c:BDA`` and ``BhhDmnAjj``: a state, then the right one, from which the next step goes on.
    """
    state, text, checks = task.meta["start"], "", kind == "check"
    for operation in task.meta["ops"]:
        right = family.make(state, operation).answer[1]
        others = family.states.replace(right, "")
        given = others[int(rng.integers(len(others)))] if rng.random() < WRONG_STEPS else right
        text += f"{operation}{given}{int(given == right) if checks else right}"
        state = given if checks else right
    return f"{CHECK if checks else REPAIR}|{task.prompt}", text


def judged(family: Composition, rule: Judging, rng: np.random.Generator, kind: str) -> tuple[str, str]:
    """One (prompt, reply) of this kind."""
    task = family.generate(rng, rule.depths[int(rng.integers(len(rule.depths)))])
    if kind in ("check", "repair"):
        return stepwise(family, task, rng, kind)
    flip = rng.random() < rule.noise[str(task.level)]
    if kind == "rubric":
        right = rng.random() < 0.5
        answer = task.answer if right else _wrong(family, task, rule, rng)
        return write(Question(kind, "compact", task.prompt, (answer,))), say(kind, "compact", int(right != flip))
    first = rng.random() < 0.5
    if rng.random() < rule.contrast:
        wrong = _wrong(family, task, rule, rng)
        answers = (task.answer, wrong) if first else (wrong, task.answer)
        first = first != flip
    elif rng.random() < 0.5:
        answers = (task.answer, task.answer)
    else:
        answers = (_wrong(family, task, rule, rng), _wrong(family, task, rule, rng))
    return write(Question(kind, "compact", task.prompt, answers)), say(kind, "compact", 1 if first else 2)


def _wrong(family: Composition, task: Task, rule: Judging, rng: np.random.Generator) -> str:
    at = int(np.searchsorted(np.cumsum(list(rule.wrong.values())), rng.random(), side="right"))
    return wrong_answer(family, task, rng, list(rule.wrong)[min(at, len(rule.wrong) - 1)])
