"""One night: dream, try the dreams on a draft, seed the day together with the good ones, look what is lost.

The paper ("Language Models Need Sleep", arXiv 2606.03979) seeds first and dreams then.  On models as small as ours that
order loses what was learnt before in the first half of the night and does not get it back in the second (``LOG.md``).
So seeding is done twice: a short *draft* of it, on what was lived through alone, shows what would be lost; dreams are
tried on copies of the draft, and those that help it are seeded together with the day, from the weights before it on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.dreams import (
    Dream,
    DreamSettings,
    QuestionGenerator,
    as_pairs,
    fictions,
    imagine,
    likelihood,
    tried,
)
from dream_envs.agents.sleep.experience import Experience, alike, bounded, closed, context_of
from dream_envs.agents.sleep.seeding import Same, SeedingSettings, seed_knowledge
from dream_envs.agents.training.sft import fine_tune
from dream_envs.core import DreamEnvsError, Message
from dream_envs.seeds import stream


class SleepSettings(msgspec.Struct, frozen=True):
    """When and how a learner sleeps.

    ``every``: steps awake a day.  ``waits``: in ``improve`` a night follows only those days after which
    ``SleepConsolidation.due`` says that it is time; else every day.  ``reading``: prompt tokens (of practice, and of
    ``act`` with a context) after which it is time; None: any number.  ``alert``: how much of the mean log-likelihood
    per token of what was said after the last night may be lost awake, in nats, before it is; None: any.

    ``piece``: tokens of a context that are read at once; of a longer one a question gets the piece that it is about,
    by day and by night (``agents.sleep.pieces``).  None: contexts are read whole.

    ``learning``: how the night's optimiser learns.  ``seeding``: by Knowledge Seeding; False: by plain fine-tuning on
    the same replies.  ``dreaming``: None leaves it out.  ``block``: chunk length of the slow weights.  0: every night
    begins with the weights before it, so that only contexts have to be seeded.  n: every n-th night begins with
    those of the morning n days ago; what these days and the experts of the nights between hold is seeded into one slow
    expert, and they are dropped.  Until then the buffer is kept.  1 is the paper's order: the night overwrites the
    day's fast weights.

    ``experience``: how many experiences a night works on, each kind alike; ``apart`` of them are kept to measure
    dreams with.  ``dreamt``: share of the night's rows that are dreams of something else than the day.  ``capacity``:
    of the buffer, for each kind.  ``forget``: the buffer is emptied in the morning.  ``tolerance``: how much of the
    probe's mean log-likelihood per token a night may lose, in nats; None accepts every night.
    """

    every: int = 25
    waits: bool = False
    reading: int | None = None
    alert: float | None = None
    piece: int | None = None
    learning: SeedingSettings = SeedingSettings()
    seeding: bool = True
    dreaming: DreamSettings | None = DreamSettings()
    block: int = 0
    experience: int = 256
    apart: float = 0.1
    dreamt: float = 0.65
    capacity: int = 512
    forget: bool = True
    tolerance: float | None = 0.5

    def __post_init__(self) -> None:
        bounded(self, 1, None, "every", "experience", "capacity", "reading", "piece")
        bounded(self, 0, None, "block", "alert", "tolerance", "apart", "dreamt")
        if self.waits and not self.forget:
            raise DreamEnvsError("waits=True needs forget=True: a buffer that stays full is due every day")
        if not max(self.apart, self.dreamt) < 1:
            raise DreamEnvsError(f"apart={self.apart}, dreamt={self.dreamt}: 0 to below 1")


def refuse(settings: SleepSettings, names: Sequence[str], why: str) -> None:
    """Raise a one-line DreamEnvsError if one of these is set: it would do nothing."""
    plain = SleepSettings()
    for name in names:
        if (value := getattr(settings, name)) != getattr(plain, name):
            raise DreamEnvsError(f"{name}={value}: {why}; leave it at {getattr(plain, name)}")


class Night(msgspec.Struct, frozen=True):
    """What happened in a night, JSON-ready.

    ``lived``: experiences in the buffer.  ``tokens``: of replies that were trained on.  ``divergence``: from the
    teacher in the first and last steps, nats per token, and ``imitation``: mean reward; None where nothing was seeded.
    ``dreams``: one row a dream.  ``good``: dreams with reward 1.  ``before``, ``after``: the retention probe's mean
    log-likelihood per token.  ``undone``: the night was rolled back.  ``slow``: it began with an earlier morning.
    """

    number: int
    lived: int
    tokens: int = 0
    divergence: tuple[float, float] | None = None
    imitation: float | None = None
    dreams: list[dict[str, Any]] = []
    good: int = 0
    before: float | None = None
    after: float | None = None
    undone: bool = False
    slow: bool = False
    curve_before: dict[str, float] = {}
    curve_after: dict[str, float] = {}


class NightRunner:
    """What a night is made with: ``teacher`` is the learner before consolidation, ``same`` the semantic judge."""

    def __init__(
        self, teacher: LocalAgent, generator: QuestionGenerator | None, settings: SleepSettings, seed: str, same: Same
    ) -> None:
        self.teacher, self.generator, self.settings = teacher, generator, settings
        self.seed, self.same = seed, same

    def night(self, begins: LocalAgent, buffer: Sequence[Experience], number: int) -> tuple[LocalAgent, Night]:
        """The weights after consolidation, and what happened; ``begins``: the weights that the night begins with."""
        chosen = self.settings
        lived = alike(buffer, min(chosen.experience, len(buffer)), stream(self.seed, "experience"))
        retained = self.retained()
        least = int(chosen.dreaming is not None and not retained and len(lived) > 1)
        apart = max(least, int(chosen.apart * len(lived)))
        kept, lived = lived[:apart], lived[apart:]
        probe, dreams = [*kept, *retained], list[Dream]()
        before = likelihood(self.teacher, retained) if retained else None
        if chosen.dreaming is not None:
            draft = self.learnt(begins, lived, chosen.dreaming.draft, "draft")[0]
            dreams = self.dreams(chosen.dreaming, buffer, probe)
            if probe:
                dreams = tried(draft, dreams, lived, probe, chosen.dreaming, f"{self.seed}/trial")
        good = [d for d in dreams if d.reward]
        student, took = self.learnt(begins, self.rows(lived, good), chosen.learning.steps, "seeding")
        after, undone = likelihood(student, retained) if retained else None, False
        if before is not None and after is not None and chosen.tolerance is not None:
            undone = math.isnan(after) or before - after > chosen.tolerance
        told: Any = {"dreams": [row(d) for d in dreams], "good": len(good), **took}
        return student, Night(number, len(buffer), before=before, after=after, undone=undone, **told)

    def learnt(
        self, begins: LocalAgent, rows: Sequence[Experience], steps: int, label: str
    ) -> tuple[LocalAgent, dict[str, Any]]:
        """The weights behind ``steps`` on these rows, in their order; and tokens, divergence and imitation."""
        rule, seed = msgspec.structs.replace(self.settings.learning, steps=steps), f"{self.seed}/{label}"
        if self.settings.seeding:
            found = seed_knowledge(self.teacher, begins, rows, rule, seed, same=self.same)
            return found.agent, {"tokens": found.tokens, "divergence": found.divergence, "imitation": found.reward}
        how: Any = {"batch": rule.batch, "lora_rank": rule.rank, "warmup": rule.warmup, "decay": rule.decay}
        agent = fine_tune(begins, as_pairs(rows), steps=steps, lr=rule.lr, seed=seed, **how)
        tokens = sum(len(begins.completion(e.reply)) for e in rows) * steps * rule.batch // len(rows)
        return agent, {"tokens": tokens}

    def rows(self, lived: Sequence[Experience], good: Sequence[Dream]) -> list[Experience]:
        """What the night is about: the day and dreams of it, memory and fiction, and proposing."""
        chosen, rng = self.settings, stream(self.seed, "rows")
        total = chosen.learning.steps * chosen.learning.batch
        if not good or chosen.dreaming is None:
            return alike(lived, total, rng)
        dreamt = int(chosen.dreamt * total)
        taught = int(chosen.dreaming.proposals * dreamt)
        today = self.proposed(lived)
        own = int(chosen.dreaming.today * taught) if today else 0

        def told(kind: str) -> list[Experience]:
            return [e for d in good if d.kind == kind for e in d.pairs]

        memory, fiction = told("memory"), told("fiction")
        if not memory and not fiction:
            return alike([*lived, *told("day")], total, rng)
        share = chosen.dreaming.fictional if memory and fiction else 0 if memory else 1
        apart = int(share * (dreamt - taught))
        # Proposing what was dreamt of the day would come on top of ``today``: by the fifth night half of what is
        # made up would be about the newest lesson, and the first one forgotten.
        proposals = [e for d in good if d.kind != "day" for e in d.proposals]
        found = alike([*lived, *told("day")], total - dreamt, rng)
        found += alike(memory, dreamt - taught - apart, rng) + alike(fiction, apart, rng)
        found += alike(today, own, rng) + alike(proposals, taught - own, rng)
        return [found[i] for i in rng.permutation(len(found))]

    def retained(self) -> list[Experience]:
        """What the teacher says to questions that it makes up: the probe of what is not to be lost."""
        if self.generator is None:
            return []
        chosen, found = self.settings.dreaming or DreamSettings(), list[Experience]()
        for kind in [k for k, of in (("memory", chosen.memory), ("fiction", chosen.fiction)) if of]:
            contexts = self._contexts(kind, [], chosen.probe, "probe")
            if contexts is not None:
                label = f"{self.seed}/probe/{kind}"
                found += imagine(self.teacher, self.generator, kind, contexts, chosen.probe, label)[0]
        return found

    def dreams(self, chosen: DreamSettings, buffer: Sequence[Experience], probe: Sequence[Experience]) -> list[Dream]:
        """What is dreamt, as far as there is something to dream of; no question of the probe."""
        assert self.generator is not None  # seen to by SleepConsolidation
        kinds = ["memory"] * chosen.memory + ["fiction"] * chosen.fiction
        kinds += ["day"] * (chosen.dreams - len(kinds))
        known, found = {str(e.messages) for e in probe}, []
        how: Any = {"novelty": chosen.novelty, "rank": chosen.novel_rank, "votes": chosen.votes}
        for i, kind in enumerate(kinds):
            contexts = self._contexts(kind, buffer, chosen.size, str(i))
            if contexts is None:
                continue
            label = f"{self.seed}/dream/{i}"
            pairs, proposals = imagine(self.teacher, self.generator, kind, contexts, chosen.size, label, **how)
            found.append(Dream(kind, [e for e in pairs if str(e.messages) not in known], proposals, asked=chosen.size))
        return found

    def _contexts(self, kind: str, buffer: Sequence[Experience], count: int, label: str) -> list[list[Message]] | None:
        """What to dream with; None where there is nothing to."""
        if kind == "memory":
            return []
        if kind == "fiction":
            return fictions(self.teacher, count, f"{self.seed}/fiction/{label}") or None
        return list({str(c): c for e in buffer if (c := context_of(e.messages))}.values()) or None

    def proposed(self, lived: Sequence[Experience]) -> list[Experience]:
        """Proposing what was asked in the day, so that it is dreamt of when its context is gone."""
        assert self.generator is not None
        brief, found = self.generator.brief(), [(e, self.generator.proposal(closed(e.messages))) for e in lived]
        return [Experience([*context_of(e.messages), *brief], text, "day") for e, text in found if text is not None]


def row(dream: Dream) -> dict[str, Any]:
    """A dream in the night's record: its figures and three examples."""
    names = ("kind", "asked", "importance", "chosen", "before", "after", "reward")
    examples = [[e.messages[-1]["content"], e.reply] for e in dream.pairs[:3]]
    return {**{name: getattr(dream, name) for name in names}, "pairs": len(dream.pairs), "examples": examples}
