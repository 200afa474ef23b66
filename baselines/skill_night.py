"""A night that puts skills into weights: context distillation of the skill texts that ``ctx2skill`` chose.

The teacher is the model with context and skill before it, the student the same model with the context alone
(``agents.sleep.seeding``); both answer practice questions, never a test's.  What it was worth is told by the private
tests, asked without the text, beside the model before the night without and with the text, and beside a *placebo*: a
night as long whose teacher read the skill of another context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.experience import Experience
from dream_envs.agents.sleep.frozen import FrozenLearner
from dream_envs.agents.sleep.night import Night, SleepSettings
from dream_envs.agents.sleep.seeding import SeedingSettings, seed_knowledge
from dream_envs.core import Message, Request
from dream_envs.envs import skill_prompts
from dream_envs.envs.skill_facts import mean
from dream_envs.runs import read_json, write_json
from dream_envs.seeds import digest
from dream_envs.tasks.skills import SkillSet

if TYPE_CHECKING:
    from dream_envs.baselines.skill_rounds import SkillLearner, Track

Row = dict[str, Any]
#: Where the two nights' weights lie in a run's folder, and a finished night's record there.
FOLDER, NIGHT = "consolidated", "night.json"
#: Settings of a night that would do nothing here.
IDLE = ("every", "piece", "seeding", "dreaming", "block", "apart", "dreamt", "capacity", "forget", "tolerance")


def night_settings() -> SleepSettings:
    """One seeding: 60 steps of 8 rows on all weights' low-rank expert."""
    return SleepSettings(learning=SeedingSettings(steps=60, batch=8, lr=5e-4, lam=0.0))


def consolidate(learner: SkillLearner, tracks: Mapping[str, Track], contexts: Row, settings: SleepSettings) -> Row:
    """Both nights on the chosen skills, and all arms on the private tests; the learner has the night's weights then.

    ``contexts``: the examination's rows by context.  Contexts that ended without a skill are left out; with fewer than
    two others there is no placebo.  What a kill left unfinished is begun again, what is finished is read.
    """
    chosen = {name: t.reasoner[contexts[name]["selected"]["round"]] for name, t in tracks.items()}
    taught = [name for name, skills in chosen.items() if skills.skills and _questions(learner, name, tracks[name], 1)]
    controls = [contexts[name]["controls"] for name in taught]
    arms = {"base": mean(c["none"]["test_counted"] for c in controls)}
    arms["text"] = mean(c["replay"]["test_counted"] for c in controls)
    found: Row = {"taught": taught, "steps": settings.learning.steps, "arms": arms}
    base, read = learner.agent, {"night": taught, "placebo": [*taught[1:], *taught[:1]]}
    for arm, whose in read.items() if taught else ():
        if arm == "placebo" and len(taught) < 2:
            continue
        skills = {name: chosen[other] for name, other in zip(taught, whose, strict=True)}
        agent, night = _slept(learner, base, tracks, skills, settings, arm)
        bare, seat = SkillSet(), {"reasoner": FrozenLearner(agent)}
        scored = learner.tested({name: [bare] for name in taught}, seat, f"tests_{arm}.jsonl")
        arms[arm] = mean(mean(v or 0 for v in own[bare.hash]["score"]) for own in scored.values())
        found[arm] = {"divergence": night.divergence, "tokens": night.tokens, "lived": night.lived}
        if arm == "night":
            learner.adopt(agent)
            learner.nights = [night]
    return found


def _slept(
    learner: SkillLearner, base: LocalAgent, tracks: Mapping[str, Track], skills: Mapping[str, SkillSet],
    settings: SleepSettings, arm: str,
) -> tuple[LocalAgent, Night]:  # fmt: skip
    folder = learner.folder / FOLDER / arm
    if (done := read_json(folder / NIGHT)) is not None:
        return base.reloaded(folder), msgspec.convert(done, Night)
    rows = experiences(learner, base, tracks, skills, settings.experience)
    seeded = seed_knowledge(base, base, rows, settings.learning, f"{learner.seed}/consolidate")
    night = Night(0, len(rows), tokens=seeded.tokens, divergence=seeded.divergence, imitation=seeded.reward)
    seeded.agent.save(folder)
    write_json(folder / NIGHT, msgspec.to_builtins(night))
    return seeded.agent, night


def experiences(
    learner: SkillLearner, teacher: LocalAgent, tracks: Mapping[str, Track], skills: Mapping[str, SkillSet], most: int
) -> list[Experience]:
    """What the teacher answers with these skills, and what is left to the student: the same without them.

    ``most`` of all contexts together.
    """
    seen, left = list[list[Message]](), list[list[Message]]()
    for name, own in skills.items():
        text = next(c.text for c in learner.game.contexts if c.id == name)
        for question in _questions(learner, name, tracks[name], max(1, most // len(skills))):
            seen.append(skill_prompts.reasoner(learner.game.notation, text, own, question))
            left.append(skill_prompts.reasoner(learner.game.notation, text, SkillSet(), question))
    seat = learner.game.seat("reasoner_0")
    requests = [
        Request(messages=m, agent=seat.agent, role=seat.role, seed=digest(learner.seed, "skill", i), limits=seat.limits)
        for i, m in enumerate(seen)
    ]
    replies = teacher.act(requests)
    return [Experience(m, a.text, "skill", c) for m, a, c in zip(seen, replies, left, strict=True)]


def _questions(learner: SkillLearner, name: str, track: Track, count: int) -> list[str]:
    """Of the context's practice; where it has none, the probes of its rounds."""
    context = next(c for c in learner.game.contexts if c.id == name)
    found = [exam.question for exam in context.practice(count, learner.seed)]
    return found or [probe.question for probe in track.probes][:count]
