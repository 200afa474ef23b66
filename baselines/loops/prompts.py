"""Where a loop's problems come from that no challenger is trained to write."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dream_envs.baselines.recipe import Phase
from dream_envs.core import DreamEnvsError, Limits, Message, Reject, Request, Task
from dream_envs.curriculum import gates
from dream_envs.curriculum.curriculum import Curriculum
from dream_envs.seeds import digest, stream

if TYPE_CHECKING:
    from dream_envs.baselines.loop import Context


def listed(ctx: Context, game: Any, label: str, tasks: Sequence[Task]) -> tuple[Curriculum, dict[str, Any]]:
    """What a phase's ``prepare`` returns: the recipe's mixture over these problems, and no reward of its own."""
    return Curriculum(game, ctx.recipe.mixture, seed=label, store=ctx.store(), dataset=tasks), {}


def from_generator(levels: Sequence[int], count: int, ctx: Context, game: Any, label: str) -> Any:
    """A phase's ``prepare`` (behind the first two arguments): the problems of ``drawn``."""
    return listed(ctx, game, label, drawn(ctx, levels, count, label))


def rounds(name: str, each: int, steps: int, prepare: Callable[..., Any], *first: Any) -> tuple[Phase, ...]:
    """Phases of ``each`` steps until ``steps`` are used up; ``prepare`` is given ``first`` and the phase's number."""
    lengths = [min(each, steps - done) for done in range(0, steps, each)]
    return tuple(Phase(name, n, prepare=functools.partial(prepare, *first, i)) for i, n in enumerate(lengths))


def drawn(ctx: Context, levels: Sequence[int], count: int, seed: str) -> list[Task]:
    """``count`` problems of each level from the family's generator: none of the evaluation's, none twice.

    The levels are those that the run was asked for, if it was, else ``levels``.
    """
    reserved = {t.id for t in ctx.eval.reserved()}
    found: dict[str, Task] = {}
    for level in ctx.recipe.mixture.levels or levels:
        if level not in ctx.family.levels:
            span = f"{ctx.family.levels.start} to {ctx.family.levels.stop - 1}"
            raise DreamEnvsError(f"levels={level}: {ctx.family.name} has {span}")
        rng, wanted = stream(seed, "prompts", level), len(found) + count
        for _ in range(100 * count):
            task = ctx.family.generate(rng, level)
            if task.id not in reserved and len(found) < wanted:
                found[task.id] = task
        if len(found) < wanted:
            raise DreamEnvsError(f"level {level} has fewer than {count} problems: ask for fewer prompts")
    return list(found.values())


def written(
    ctx: Context, agent: Any, count: int, seed: str, known: Sequence[Task] = (), rouge: float = 1.0
) -> tuple[list[Task], dict[str, int]]:
    """The problems that ``agent`` writes in ``count`` completions of the family's prompt, which names no example.

    The accepted ones in the order they came; and how many were ``accepted`` or turned away, by reason.  ``seed``: the
    label of the draws.  ``known``: problems that are not to come again.  ``rouge``: what is more like a known or an
    accepted one than this (``rouge_l``) is turned away too.
    """
    family, gate = ctx.family, gates.held_out(ctx.eval.reserved())
    prompt: list[Message] = [{"role": "user", "content": family.brief()}]
    limits = Limits(max_tokens=family.max_chars + 1)
    how: Any = {"messages": prompt, "agent": "challenger_0", "role": "challenger", "limits": limits}
    asked = [Request(seed=digest(seed, i), **how) for i in range(count)]
    ids, texts = {t.id for t in known}, [family.as_proposal(t) for t in known]
    found: list[Task] = []
    reasons = Counter[str]()
    for reply in agent.act(asked):
        task = family.parse(reply.text)
        refused = task if isinstance(task, Reject) else gate(task)
        if isinstance(task, Reject) or refused is not None:
            reasons[refused.code if refused is not None else ""] += 1
        elif task.id in ids:
            reasons["duplicate"] += 1
        elif rouge < 1.0 and any(rouge_l(reply.text, text) > rouge for text in texts):
            reasons["similar"] += 1
        else:
            reasons["accepted"] += 1
            found.append(task)
            ids.add(task.id)
            texts.append(family.as_proposal(task))
    return found, dict(sorted(reasons.items()))


def rouge_l(a: str, b: str) -> float:
    """ROUGE-L (F1 of the longest common subsequence), of words, or of characters where neither text has a blank.

    Returns:
        0 to 1; 1 for equal texts, two empty ones too.
    """
    x, y = (a.split(), b.split()) if " " in a + b else (list(a), list(b))
    if not x or not y:
        return float(x == y)
    row = [0] * (len(y) + 1)
    for one in x:
        diagonal = 0
        for j, other in enumerate(y, 1):
            diagonal, row[j] = row[j], diagonal + 1 if one == other else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(x) + len(y))
