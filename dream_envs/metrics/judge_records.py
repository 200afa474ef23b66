"""From played episodes to the records that a judge card is made of.

>>> from dream_envs.metrics.cards import judge_card
>>> card = judge_card(records(episodes), rng)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dream_envs.core import DreamEnvsError, Episode
from dream_envs.metrics.cards import Judgement
from dream_envs.rewards.base import last_turns


def records(episodes: Iterable[Episode], *, threshold: float = 0.5) -> list[Judgement]:
    """Every judgement that was asked for and whose call did not fail, with the truth that its episode recorded.

    Pairwise: the truth is the name of the right answer where one of the two is right and the other wrong; of two that
    are alike in that there is none.  Pointwise (``rubric``, ``score``, and ``ChallengerSolver``'s judge): ``yes`` from
    ``threshold`` on, else ``no``.  An unreadable verdict is a record without a verdict.  An answer without a word in it
    is a null output: a pointwise verdict on one, or one between it and an answer that has words, is a ``control``.

    Args:
        episodes: of ``SelfJudge``, or of ``ChallengerSolver`` with a judge; all with the same kind of judging.
        threshold: the lowest verdict, 0 to 1, that says right.

    Raises:
        DreamEnvsError: for an episode without a judge.
    """
    found: list[Judgement] = []
    for number, episode in enumerate(episodes):
        facts = episode.outcome.facts
        item = f"{number}:{episode.seed}:{episode.tasks[-1].id if episode.tasks else ''}"
        empty = {turn.agent for turn in episode.turns if turn.role in ("actor", "solver") and not turn.text.strip()}
        if "judgements" in facts:
            found += _of_table(facts, item, empty, threshold)
        elif "verdict_status" in facts:
            found += _of_list(episode, item, empty, threshold)
        elif facts.get("valid", True):
            raise DreamEnvsError(f"{episode.env_id}, seed {episode.seed!r}: nobody judged in this episode")
    return found


def _of_table(facts: dict[str, Any], item: str, empty: set[str], threshold: float) -> list[Judgement]:
    truth, found = facts.get("truth") or {}, []
    for row in facts["judgements"]:
        if row["status"] not in ("ok", "invalid"):
            continue
        if "of" in row:
            found.append(_pointwise(f"{item}:{row['of']}", row["verdict"], truth.get(row["of"]), row, empty, threshold))
            continue
        one, two = row["first"], row["second"]
        known = truth.get(one) is not None and truth.get(two) is not None and truth[one] != truth[two]
        null = sorted({one, two} & empty)
        found.append(
            Judgement(
                item=item,
                verdict=row["verdict"] or "",
                truth=max((one, two), key=truth.__getitem__) if known else "",
                first=one,
                second=two,
                trial=row["trial"],
                control=null[0] if len(null) == 1 else "",
            )
        )
    return found


def _of_list(episode: Episode, item: str, empty: set[str], threshold: float) -> list[Judgement]:
    facts = episode.outcome.facts
    judge = next(iter(last_turns(episode, "judge").values()), None)
    if judge is None or judge.status != "ok":
        return []
    truth, row = facts.get("truth") or {}, {"trial": 0}
    return [
        _pointwise(f"{item}:{name}", verdict, truth.get(name), {**row, "of": name}, empty, threshold)
        for name, verdict in facts["correct"].items()
    ]


def _pointwise(
    item: str, verdict: float | None, truth: float | None, row: dict[str, Any], empty: set[str], threshold: float
) -> Judgement:
    def word(value: float | None) -> str:
        return "" if value is None else "yes" if value >= threshold else "no"

    null = "null" if row["of"] in empty else ""
    return Judgement(item=item, verdict=word(verdict), truth=word(truth), trial=row["trial"], control=null)
