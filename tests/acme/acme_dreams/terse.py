"""The reward ``acme_terse``."""

from dream_envs.core import Score
from dream_envs.rewards.base import reward


@reward("acme_terse")
def terse(episode, *, cap: int = 100):
    """1 less a share of ``cap`` for each character said, at least 0."""
    said = {t.agent: len(t.text) for t in episode.turns}
    return {agent: Score(max(0.0, 1.0 - chars / cap)) for agent, chars in said.items()}
