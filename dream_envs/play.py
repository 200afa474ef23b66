"""Temporary."""

from dream_envs.acting import *  # noqa
from dream_envs.acting import as_agent, ask, play, background_loop, Table, Runner, score as _score1  # noqa
from dream_envs.rollout import EpisodeWriter, read_episodes, rollout  # noqa
import msgspec
from dream_envs.rewards.base import as_reward
from dream_envs.core import Score


def score(episodes, model, agents=()):
    model = as_reward(model)
    found = model.score(episodes)
    out = []
    for e, s in zip(episodes, found):
        s = dict(s)
        for a in agents:
            s.setdefault(a, Score(0.0, "abstain", detail="the reward does not score this agent"))
        out.append(msgspec.structs.replace(e, scores=s, grader=getattr(model, "grader", "")))
    return out
