"""Where a recipe's problems come from that no challenger is trained to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.loop import Stand
from dream_envs.core import DreamEnvsError, Limits, Message, Reject, Request, Task
from dream_envs.curriculum import gates
from dream_envs.seeds import digest, stream


def drawn(stand: Stand, depths: Sequence[int], count: int, seed: str) -> list[Task]:
    """``count`` problems of each depth from the family's generator: none of the yardstick's, none twice.

    Raises:
        DreamEnvsError: for a depth that the family does not have or that has too few problems.
    """
    reserved = {t.id for t in stand.yardstick.reserved()}
    found: dict[str, Task] = {}
    for depth in depths:
        rng, wanted = stream(seed, "prompts", depth), len(found) + count
        for _ in range(100 * count):
            task = stand.yardstick.family.generate(rng, depth)
            if task.id not in reserved and len(found) < wanted:
                found[task.id] = task
        if len(found) < wanted:
            raise DreamEnvsError(f"depth {depth} has fewer than {count} problems: ask for fewer prompts")
    return list(found.values())


def written(
    stand: Stand, agent: LocalAgent, count: int, seed: str, known: Sequence[Task] = (), rouge: float = 1.0
) -> tuple[list[Task], dict[str, int]]:
    """The problems that ``agent`` writes in ``count`` replies to the family's brief, which names no example.

    Args:
        stand: its yardstick's family and reserved problems.
        agent: who writes.
        count: replies.
        seed: the label of their draws.
        known: problems that are not to come again.
        rouge: what is more like a known or an accepted one than this (``rouge_l``) is turned away too.

    Returns:
        The accepted ones in the order they came; and how many replies were ``accepted`` or turned away, by reason.
    """
    family = stand.yardstick.family
    gate = gates.held_out(stand.yardstick.reserved())
    brief: list[Message] = [{"role": "user", "content": family.brief()}]
    limits = Limits(max_tokens=family.max_chars + 1)
    asked = [
        Request(messages=brief, agent="challenger_0", role="challenger", seed=digest(seed, i), limits=limits)
        for i in range(count)
    ]
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
