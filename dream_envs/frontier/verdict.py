"""The verdict of a Frontier Report, by fixed rules: a claim for each kind of problem and envelope, and a word of them.

- ``beyond``: the lower end of the kind's E(K), at a level that is shared between the kinds, is above ``MARGIN``; losses
  are told by themselves and do not cancel a gain.
- ``within``: the trained model solves the kind (lower end above ``WITHIN``) and the upper end of what the envelope does
  not reach is at most ``WITHIN``.  Both ends are intervals': absence is shown, not inferred from want of significance.
- ``not shown``: neither.

*Expansion*: some kind is beyond decoding.  *Trade*: that, and a loss.  *Contraction*: a loss, or the whole interval of
G(K) below 0, and nothing beyond.  *Sharpening*: nothing beyond, pass@1 rose, and at most ``SHARP`` points are out of
the base's reach, solved reliably or at all.  *Not shown*: none of these.  A loss: of more than ``LOSS`` points of
success on a stratum of the base's declared support, of more than half of that on all of it together, or of more than
``MARGIN`` points of problems that it solved reliably (S).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dream_envs.frontier import gain
from dream_envs.frontier.gain import Evidence
from dream_envs.frontier.intervals import share_interval
from dream_envs.frontier.methods import ENVELOPES
from dream_envs.frontier.schema import Claim, Estimate, Headline, Interval, Retention, Verdict

#: In percentage points: what a gain has to exceed; what absence may leave open, of a kind and of all; a loss.
MARGIN, WITHIN, SHARP, LOSS = 0.5, 10.0, 2.0, 5.0
#: Standard deviations by which samples may miss what is known exactly.
DEVIATIONS = 5.0
ALARM = "What was sampled is not what the models' probabilities say: look at stop tokens, templates and engines."


def claims(evidence: Mapping[str, Sequence[Evidence]], kinds: Sequence[str]) -> list[Claim]:
    """A claim for every kind and envelope; ``evidence`` of each run by envelope, ``kinds`` of its problems."""
    of, found = np.array(kinds), list[Claim]()
    for kind in dict.fromkeys(kinds):
        for envelope, runs in evidence.items():
            own = [facts.of(of == kind) for facts in runs]
            g, e, _ = gain.over_runs(own)
            each = [share_interval(facts.reliable, facts.family) for facts in own]
            solved = gain.points(np.mean(each, axis=0).tolist())
            word: Any = _word(_for_all(e, len(set(kinds))), e, solved)
            found.append(Claim(kind, envelope, len(own[0]), solved, g, e, word))
    return found


def _for_all(e: Interval, kinds: int) -> float:
    """The lower end at a level that holds for all kinds at once (Bonferroni): any of them makes the word."""
    from scipy.special import ndtri

    return e[0] - (e[0] - e[1]) * float(ndtri(1 - 0.025 / kinds) / ndtri(0.975))


def _word(low: float, e: Interval, solved: Interval) -> str:
    if low > MARGIN:
        return "beyond"
    return "within" if solved[1] > WITHIN and e[2] <= WITHIN else "not shown"


def losses(head: Headline, kept: Retention | None) -> list[str]:
    """What was lost, in words."""
    shown = [s for s in kept.suites if s.gain[2] is not None and 100 * s.gain[2] < -LOSS] if kept else []
    found = [f"{s.name} ({100 * s.gain[0]:+.0f} points of success)" for s in shown]
    if kept and not found and kept.mean[2] is not None and 100 * kept.mean[2] < -LOSS / 2:
        found.append(f"declared support as a whole ({100 * kept.mean[0]:+.0f} points of success)")
    if head.s[1] > MARGIN:
        found.append(f"{head.s[0]:.1f} points of problems that the base solved reliably")
    return found


def verdict(
    head: Headline, found: Sequence[Claim], pass1_gain: Estimate, kept: Retention | None, reached: Mapping[str, int],
    qualified: Sequence[str], exact: tuple[float, float] | None = None, contradicted: str = "", thin: float = 0.0,
) -> Verdict:  # fmt: skip
    """The word with its phrase and sentence.

    Args:
        head: G@K.
        found: the claims.
        pass1_gain: change of the mean success of one sample, a share.
        kept: success on the declared support before and after.
        reached: by method of a later envelope, how many problems it solved that decoding did not.
        qualified: what limits the word.
        exact: where it is known, E(K) in points of these very problems and the standard deviation of its estimate;
            samples that contradict it, or ``contradicted`` (another such contradiction, in words), end in *Alarm*.
        contradicted: see ``exact``.
        thin: upper end, in points, of what the trained model solved in any fixed sample and the base in none of all:
            what is not reliable may be new all the same.
    """
    if exact is not None and abs(head.e[0] - exact[0]) > DEVIATIONS * exact[1] + 100 / head.n:
        contradicted = f"E(K) is {head.e[0]:.1f} points by samples and {exact[0]:.1f} by exact probabilities"
    if contradicted:
        return Verdict("Alarm", f"Alarm: {contradicted}: no verdict", ALARM, list(found), [], list(qualified))
    lost = losses(head, kept)
    beyond = [c.kind for c in found if c.envelope == "decoding" and c.word == "beyond"]
    word: Any = "Not shown"
    if beyond:
        word = "Trade" if lost else "Expansion"
    elif lost or head.g[2] < 0:
        word = "Contraction"
    elif (pass1_gain[1] or 0) > 0 and max(head.e[2], thin) <= SHARP:
        word = "Sharpening"
    parts = [f"{word} beyond decoding ({', '.join(beyond)})" if beyond else word]
    tried = list(dict.fromkeys(c.envelope for c in found))
    if beyond:
        parts += [_against(envelope, beyond, found) for envelope in tried[1:]]
        parts += [f"{envelope} not tried" for envelope in ENVELOPES if envelope not in tried]
    parts += [f"lost: {', '.join(lost)}"] if lost else []
    return Verdict(word, "; ".join(parts), _sentence(word, head, found, reached), list(found), lost, list(qualified))


def _against(envelope: str, beyond: Sequence[str], found: Sequence[Claim]) -> str:
    """How the kinds that are beyond decoding stand against a later envelope."""
    words = {c.kind: c.word for c in found if c.envelope == envelope and c.kind in beyond}
    groups = {word: [k for k, w in words.items() if w == word] for word in ("beyond", "within", "not shown")}
    said = []
    for word, some in groups.items():
        which = f" ({', '.join(some)})" if len(some) < len(words) or word == "beyond" else ""
        said += [f"{word} {'against ' if word == 'not shown' else ''}{envelope}{which}"] if some else []
    return ", ".join(said)


def _sentence(word: str, head: Headline, found: Sequence[Claim], reached: Mapping[str, int]) -> str:
    k = f"{head.k:,}"
    if word in ("Expansion", "Trade"):
        text = f"{head.e[0]:.1f} % of the problems are solved reliably by the trained model and missed by {k} samples"
        text += " of the base"
        if reached:
            most, of = max(reached, key=lambda name: reached[name]), round(head.e[0] * head.n * head.runs / 100)
            where, solved = f" (in {head.runs} runs)" if head.runs > 1 else "", sum(reached.values())
            text += f"; of these {of:,}{where} the base solves {solved:,} by other means, most by `{most}`"
        return text + "."
    if word == "Sharpening":
        return (
            f"More is solved at the first try; what is solved reliably and out of reach of {k} samples of the base is "
            f"at most {head.e[2]:.1f} points of problems."
        )
    if word == "Contraction":
        return "The trained model lost what the base could do, and no gain is shown."
    return (
        f"No gain is shown, and none is excluded: what is solved reliably and out of reach of {k} samples of the base "
        f"lies between {head.e[1]:.1f} and {head.e[2]:.1f} points of problems."
    )
