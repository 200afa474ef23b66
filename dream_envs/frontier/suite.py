"""Suites of the Frontier Report: strata of fresh problems, what each stands for and whether luck could solve it.

A suite is a list of strata; a stratum draws problems of one family, level and kind.  Problems are made from a seed
label, so that a report on a seed nobody has trained on can be made at any time, and none is drawn twice.

Suites are found by name, through the entry-point group ``dream_envs.suites``, or as ``module:function`` without
arguments (``registry``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec
import numpy as np

from dream_envs import registry
from dream_envs.core import DreamEnvsError, Message, Task, TaskFamily
from dream_envs.seeds import stream
from dream_envs.tasks import answers
from dream_envs.tasks.arithmetic import Arithmetic
from dream_envs.tasks.composition import OPERATION_NAMES, STATE_NAMES, Composition
from dream_envs.tasks.countdown import Countdown
from dream_envs.tasks.reverse_addition import ReverseAddition

#: What a gain on a stratum would show.
KINDS = ("declared support", "longer", "held-out combinations", "new facts", "harder")
#: What a kind is called where the trained model's run has practised it.
PRACTISED = "practised range"

#: A stratum counts only if luck would solve at most this share of its problems in all of the base's draws.
LUCK = 0.05
_TRIES = 400

Draw = Callable[[np.random.Generator], Task]


class Stratum(msgspec.Struct, frozen=True):
    """Problems that are alike."""

    name: str  # unique in the suite
    family: TaskFamily  # checks the completions
    level: int  # difficulty in the family's own unit
    kind: str  # one of ``KINDS``
    draw: Draw | None = None  # a problem from a generator; None draws ``family.generate(rng, level)``
    practice: bool = False  # the base's declared support: shown beside the others (retention) and never counted
    # whether a problem that a run met makes this stratum a practised one; None: the same family at this level or above
    met: Callable[[Task], bool] | None = None

    def practised(self, tasks: Iterable[Task]) -> bool:
        """Whether a run that met these problems has practised what this stratum holds."""
        met = self.met or (lambda t: t.family == self.family.name and t.level >= self.level)
        return any(map(met, tasks))

    def task(self, rng: np.random.Generator) -> Task:
        """One problem."""
        return self.draw(rng) if self.draw is not None else self.family.generate(rng, self.level)


class Problem(msgspec.Struct, frozen=True):
    """A problem and the index of its stratum."""

    task: Task
    stratum: int


class Suite(msgspec.Struct, frozen=True):
    """Strata, and how their problems are put."""

    name: str  # what the report calls it
    strata: tuple[Stratum, ...]  # all of them; those that luck could solve are shown and never counted
    methods: tuple[str, ...]  # names of ``methods.METHODS`` that elicit the base, in the order of their turns
    instruction: str = ""  # put after every prompt; with ``final_field`` it asks for the line that is graded
    final_field: bool = False  # grade what stands after the last ``Answer:`` instead of the whole completion
    max_tokens: int = 0  # bound on a completion; 0: the family's own ``max_reply_tokens``
    mini: int = 20  # problems a stratum in the mini report; the standard report draws five times as many
    # every problem has one accepted completion, its ``answer``: a draw may stop at the first token that leaves it
    one_reply: bool = False
    # what a completion's form allows, from the prompt alone: for each position the tokens that may stand there; the
    # ``forced`` methods need it, and the ``given`` ones ``fixed``, which allows only what the prompt itself names.
    # None: there is no such form.
    form: Callable[[str], list[list[str]]] | None = None
    fixed: Callable[[str], list[list[str]]] | None = None
    followed: int = 0  # survivors followed to the last sample; 0: all, where samples are cheap

    def problems(self, seed: str, per_stratum: int, avoid: Collection[str] = ()) -> list[Problem]:
        """``per_stratum`` different problems a stratum (fewer where there are no more), none with an id of ``avoid``.

        ``seed`` labels the draw.  Strata for practice, which may be small, do not look at ``avoid``.
        """
        seen, found = set[str](), list[Problem]()
        for index, stratum in enumerate(self.strata):
            rng = stream("frontier-suite", self.name, stratum.name, seed)
            before, misses = len(found), 0
            while len(found) - before < per_stratum and misses < _TRIES:
                task = stratum.task(rng)
                if task.id in seen or (task.id in avoid and not stratum.practice):
                    misses += 1
                else:
                    seen.add(task.id)
                    found.append(Problem(task, index))
            if len(found) == before:
                raise DreamEnvsError(f"suite {self.name!r}: stratum {stratum.name!r} has no problem left to draw")
        return found

    def eligible(self, problems: Sequence[Problem], draws: int) -> list[bool]:
        """For each stratum whether it counts: luck solves at most ``LUCK`` of its problems in ``draws`` draws."""
        chances = self.chances(problems)
        return [not s.practice and g <= LUCK / draws for s, g in zip(self.strata, chances, strict=True)]

    def chances(self, problems: Sequence[Problem]) -> list[float]:
        """For each stratum the largest guess probability among its problems."""
        worst = [0.0] * len(self.strata)
        for p in problems:
            worst[p.stratum] = max(worst[p.stratum], self.strata[p.stratum].family.chance(p.task))
        return worst

    def messages(self, task: Task) -> list[Message]:
        """The problem as the trained model and a plain base see it."""
        return [{"role": "user", "content": task.prompt + self.instruction}]

    def written(self, answer: str) -> str:
        """An answer as a completion that is graded right."""
        return f"Answer: {answer}" if self.final_field else answer

    def reply(self, text: str) -> str:
        """The answer that a completion states, bare, whatever it is an answer to; without ``final_field`` all of it."""
        return answers.stated(text) if self.final_field else text

    def limit(self, stratum: int) -> int:
        """Tokens that a completion may have."""
        return self.max_tokens or self.strata[stratum].family.max_reply_tokens


def nano(world: str = "world-0") -> Suite:
    """Composition World for the nano bases, in any world: 20 strata that count, five that show retention and pass@1.

    Longer compositions of known operations, the same with a pair that pre-training never had side by side (depths 11
    and 12 of both no run with the flagship's ``max_level`` can practise), and two operations that it never showed.
    """
    known = Composition(max_level=16, world=world)
    wider = Composition(n_operations=10, held_out_pairs=0, max_level=16, world=world)
    strata = [Stratum(f"d{d}", known, d, "declared support", practice=True) for d in (1, 2, 3)]
    strata += [msgspec.structs.replace(_pairs(known, d), practice=True) for d in (2, 3)]
    strata += [Stratum(f"d{d}", known, d, "longer") for d in range(4, 13)]
    strata += [_pairs(known, d) for d in range(4, 13)]
    strata += [_new_operations(wider, d) for d in (8, 12)]  # 4,096 problems and more: too many for a table
    return Suite(
        "nano",
        tuple(strata),
        methods=(
            "plain", "cool", "hot_min_p", "few_shot", "cot_decoding", "forced", "forced_cool", "forced_hot", "given",
            "given_cool", "decompose", "decompose_1", "steering", "critique", "sae", "rlvr", "self_tuning",
        ),
        one_reply=True,
        form=_trace_form,
        fixed=_fixed_form,
    )  # fmt: skip


def _trace_form(prompt: str) -> list[list[str]]:
    """``c:BDA``: operation, state, operation, state ...; the new operations where the prompt has one of them."""
    operations = prompt.partition(":")[2]
    names = OPERATION_NAMES[: 8 if max(operations, default="") <= "H" else 10]
    return [list(names), list(STATE_NAMES[:16])] * len(operations)


def _fixed_form(prompt: str) -> list[list[str]]:
    """The same with the operations of the prompt, so that only the states are left to say."""
    return [symbols for o in prompt.partition(":")[2] for symbols in ([o], list(STATE_NAMES[:16]))]


def _pairs(family: Composition, depth: int) -> Stratum:
    return Stratum(
        f"pairs-d{depth}", family, depth, "held-out combinations",
        draw=lambda rng: family.generate(rng, depth, pairs="held_out"),
        met=lambda t: t.family == family.name and t.level >= depth and bool(t.meta.get("held_out")),
    )  # fmt: skip


def _new_operations(family: Composition, depth: int) -> Stratum:
    new = family.operations[8:]

    def draw(rng: np.random.Generator) -> Task:
        start = family.states[int(rng.integers(len(family.states)))]
        return family.make(start, "".join(new[i] for i in rng.integers(len(new), size=depth).tolist()))

    return Stratum(
        f"new-d{depth}", family, depth, "new facts", draw,
        met=lambda t: t.family == family.name and bool(set(t.meta.get("ops", "")) & set(new)),
    )  # fmt: skip


def english() -> Suite:
    """Four families in English for chat models, five levels each.

    Completions reason freely and end in ``Answer: ...``; only that line is graded.  Countdown can be guessed too well
    to count: it is shown beside the others.
    """
    sums = Arithmetic("english", digits=6, max_magnitude=10**12, operators="+-", max_level=12)
    rows: list[tuple[str, TaskFamily, Sequence[int]]] = [
        ("composition", Composition("english", max_level=24), (6, 8, 12, 16, 24)),
        ("arithmetic", sums, (2, 4, 6, 8, 12)),
        ("reverse_addition", ReverseAddition("english", max_level=24), (6, 8, 12, 16, 24)),
        ("countdown", Countdown("english", max_number=99, max_level=8, max_target=9999), (4, 5, 6, 7, 8)),
    ]
    strata = [Stratum(f"{name}-{level}", family, level, "harder") for name, family, levels in rows for level in levels]
    return Suite(
        "english",
        tuple(strata),
        methods=(
            "zero_shot", "step_by_step", "few_shot_cool", "few_shot", "code", "cot_decoding", "hot_min_p", "power",
            "majority", "decompose", "least_to_most", "plan", "verify",
        ),
        instruction="\nThink as long as you like, then finish with one line 'Answer: ' and the answer alone.",
        final_field=True,
        max_tokens=1024,
        followed=512,
    )  # fmt: skip


def suite(name: str) -> Suite:
    """The suite of this name, or of ``module:function``; ``name@WORLD``: on the tables of another world."""
    plain, _, world = name.partition("@")
    made = registry.create("suites", plain, **({"world": world} if world else {}))
    if not isinstance(made, Suite):
        raise DreamEnvsError(f"suite {name!r} makes a {type(made).__name__}, not a frontier.suite.Suite")
    return msgspec.structs.replace(made, name=name)  # what it is found by, whatever it calls itself
