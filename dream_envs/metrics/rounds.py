"""What every round logs: rewards, statuses and lengths by role, what judges said, its health; and reading it.

A majority loop looks healthy from inside while truth collapses (``LOG.md``), so no health is evidence for a gain: the
alarms are reasons to stop and look, for R-Zero's label rot, SGS's starvation, R-Diverse's cycles.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dream_envs.core import DreamEnvsError, Episode, Turn, author_of, challenge_of, hook
from dream_envs.curriculum.curriculum import rewarded
from dream_envs.metrics.diversity import entropy
from dream_envs.rewards.base import agents_of, roles
from dream_envs.schema import Role

#: Rows of metrics at either end that the first and the last reward are means of.
ENDS = 5
#: What can be wrong with a completion that has a score all the same, in words.
REPLY_FAULTS = {"cut": "cut off", "unread": "no answer read"}


def round_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """By role: ``reward/ROLE/mean`` and ``std`` over ``ok`` scores, ``status/ROLE/STATUS`` as shares, ``length/ROLE``.

    ``length``: mean tokens of a completion, or characters where no turn of the role has tokens.  ``reply/ROLE/cut`` and
    ``reply/ROLE/unread``: shares of completions that their budget cut off and that no answer could be read from, where
    an engine says so and the replies are read.
    """
    values: dict[str, list[float]] = defaultdict(list)
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    tokens: dict[str, list[int]] = defaultdict(list)
    chars: dict[str, list[int]] = defaultdict(list)
    told: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        seated = roles(episode)
        for agent, score in episode.scores.items():
            role = seated.get(agent, agent)
            statuses[role][score.status] += 1
            if score.status == "ok":
                values[role].append(score.value)
        for turn in episode.turns:
            chars[turn.role].append(len(turn.text))
            if turn.token_ids:
                tokens[turn.role].append(len(turn.token_ids))
            for name, value in reply_faults(turn).items():
                told[f"reply/{turn.role}/{name}"].append(value)
    found: dict[str, float] = {}
    for role, own in values.items():
        found |= {f"reward/{role}/mean": float(np.mean(own)), f"reward/{role}/std": float(np.std(own))}
    for role, counts in statuses.items():
        found |= {f"status/{role}/{status}": n / counts.total() for status, n in counts.items()}
    found |= {name: float(np.mean(own)) for name, own in told.items()}
    return found | {f"length/{role}": float(np.mean(tokens.get(role) or own)) for role, own in chars.items()}


def reply_faults(turn: Turn) -> dict[str, bool]:
    """Whether a completion was ``cut`` off and is ``unread``, where that is known and applies."""
    if turn.status != "ok":
        return {}
    cut = {"cut": turn.finish_reason == "length"} if turn.finish_reason else {}
    return cut | ({"unread": not turn.extracted} if turn.extracted is not None else {})


def judging(episodes: Sequence[Episode]) -> dict[str, float]:
    """What a round says of answers and judges, where the facts have verdicts; a share of nothing is left out.

    ``judge/truth``: share of right answers; ``judge/length``: mean characters of an answer; ``judge/accuracy`` over
    verdicts on a right and a wrong answer, ``judge/first``, ``judge/flip``, ``judge/cycles`` (share of triples) and
    ``judge/readable``.
    """
    facts = [f for e in episodes if "judging" in (f := e.outcome.facts) and isinstance(f.get("truth"), dict)]
    judged = [f for f in facts if "judgements" in f and "asked" in f]
    truth = [t for f in facts for t in f["truth"].values() if t is not None]
    lengths = [its["chars"] for f in facts for its in f.get("lengths", {}).values()]
    pairwise = [f for f in judged if f["judging"] == "pairwise"]
    rows = [r for f in pairwise for r in f["judgements"] if r["verdict"] is not None]
    scores = [f["judge_accuracy"] for f in judged if "judge_accuracy" in f]
    swapped = [f["swapped_pairs"] for f in pairwise]
    flipped = [(f["flip_rate"] or 0.0) * f["swapped_pairs"] for f in pairwise]
    parts: dict[str, tuple[float, float]] = {
        "truth": (sum(truth), len(truth)),
        "length": (sum(lengths), len(lengths)),
        "accuracy": (sum(s["right"] for s in scores), sum(s["of"] for s in scores)),
        "readable": (sum(f["readable"] for f in judged), sum(f["asked"] for f in judged)),
        "first": (sum(r["verdict"] == r["first"] for r in rows), len(rows)),
        "flip": (sum(flipped), sum(swapped)),
        "cycles": (sum(f["cycles"] for f in pairwise), sum(f["triples"] for f in pairwise)),
    }
    return {f"judge/{name}": count / of for name, (count, of) in parts.items() if of}


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``, an unfinished last line left out; any other that is no object is an error."""
    path, rows = Path(run) / "metrics.jsonl", list[dict[str, Any]]()
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            rows.append(msgspec.json.decode(line, type=dict[str, Any]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DreamEnvsError(f"{path}, line {number}: not an object ({error}); restore or remove it") from error
    return rows


def roles_of(run: Path, game: Any, learns: Collection[str]) -> list[Role]:
    """Each role's mean reward in the first and the last rounds, and its statuses over all."""
    rows = [row for row in read_rows(run) if any(key.startswith("reward/") for key in row)]
    found = []
    for spec in game.roles:
        means = [row[key] for row in rows if (key := f"reward/{spec.name}/mean") in row]
        prefix = f"status/{spec.name}/"
        names = sorted({key.removeprefix(prefix) for row in rows for key in row if key.startswith(prefix)})
        statuses = {name: float(np.mean([row.get(prefix + name, 0.0) for row in rows])) for name in names}
        first, last = (float(np.mean(part)) if part else None for part in (means[:ENDS], means[-ENDS:]))
        faults = {name: [row[k] for row in rows if (k := f"reply/{spec.name}/{name}") in row] for name in REPLY_FAULTS}
        replies = {name: float(np.mean(values)) for name, values in faults.items() if values}
        low, high = min([spec.reward_range[0], *means]), max([spec.reward_range[1], *means])  # a model's has no bounds
        found.append(Role(spec.name, spec.reply, low, high, spec.name in learns, first, last, statuses, replies))
    return found


class Health(msgspec.Struct, frozen=True):
    """One round in numbers; shares are 0 to 1, entropies in bits, None where nothing was there to measure.

    ``valid``: share of the challenger's own proposals that are problems, known ones included.  ``duplicates``: share
    turned away as known.  ``unique``: distinct share of what it proposed.  ``learnable``: share of problems whose
    solvers' rewards differ.  ``depth``: mean level of its accepted problems, or of all where there is no challenger.
    ``solved``: mean reward of the solvers, limited to 0 to 1; ``reward``: the same as it is.  ``truth``: share of their
    answers that are right, whatever the reward says.  ``label_accuracy``: how far the solvers' scores agree with it.
    ``features``: distinct skills among accepted problems.  ``format_entropy``: of the completions' shape;
    ``answer_entropy``: of the completions themselves, within a problem, averaged.
    """

    valid: float | None
    duplicates: float | None
    unique: float | None
    learnable: float | None
    depth: float | None
    solved: float | None
    label_accuracy: float | None
    features: int
    format_entropy: float
    answer_entropy: float
    reward: float | None = None
    truth: float | None = None


def health(episodes: Sequence[Episode], game: Any) -> Health:
    """The numbers of one round of this game; those of problems need its hooks ``proposer`` and ``solver_role``."""
    family, role = getattr(game, "family", None), hook(game, "solver_role")
    own = [e for e in episodes if author_of(e) == "challenger"] if hook(game, "proposer") else []
    texts = [e.turns[0].text for e in own if e.turns]
    accepted = [c for e in own if (c := challenge_of(e)) is not None]
    rejects = Counter(str(e.outcome.facts.get("reject", "")) for e in own)
    solved = [v for e in episodes if (v := rewarded(e, role))] if role else []
    answering = {role} if role else {r.name for r in game.roles}
    replies = [said for e in episodes if (said := [t.text for t in e.turns if t.role in answering])]
    levels = [c.level for c in accepted] if own else [e.tasks[-1].level for e in episodes if role and e.tasks]
    return Health(
        valid=(len(accepted) + rejects["duplicate"]) / len(own) if own else None,
        duplicates=rejects["duplicate"] / len(own) if own else None,
        unique=len(set(texts)) / len(texts) if texts else None,
        learnable=_mean([max(v) > min(v) for v in solved]),
        depth=_mean(levels),
        solved=_mean([sum(v) / len(v) for v in solved]),
        label_accuracy=label_accuracy(episodes),
        features=len({f for c in accepted for f in family.features(c)}) if family is not None else 0,
        format_entropy=entropy(shape(t) for group in replies for t in group),
        answer_entropy=sum(entropy(group) for group in replies) / len(replies) if replies else 0.0,
        reward=_mean(
            [s.value for e in episodes for a in agents_of(e, role) if (s := e.scores.get(a)) and s.status == "ok"]
        )
        if role
        else None,
        truth=_mean([value for e in episodes for value in truth_of(e).values()]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def label_accuracy(episodes: Sequence[Episode]) -> float | None:
    """How far the solvers' rewards follow the truth, None where nothing can be compared.

    Where answers are compared in pairs, or the reward is on a scale of its own (a value beyond -1 to 1): of all pairs
    of a right and a wrong answer to one prompt, how often the right one is rewarded more (equal counts a half); else
    the share of rewards on the right side of 1/2.
    """
    found: list[float] = []
    values = [s.value for e in episodes for a in truth_of(e) if (s := e.scores.get(a)) and s.status == "ok"]
    ranks = max(map(abs, values), default=0.0) > 1
    for episode in episodes:
        if episode.outcome.facts.get("judging") != "pairwise" and not ranks:
            found += label_agreement(episode)
            continue
        own = [(t, episode.scores[a]) for a, t in truth_of(episode).items() if a in episode.scores]
        scored = [(t, s.value) for t, s in own if s.status == "ok"]
        found += [(v > w) + 0.5 * (v == w) for t, v in scored for u, w in scored if t > u]
    return _mean(found)


def truth_of(episode: Episode) -> dict[str, float]:
    """Whether each solver was right, as executed or verified: what a vote or a claim cannot change."""
    found = episode.outcome.facts.get("truth") or episode.outcome.facts.get("correct", {})
    if not isinstance(found, dict):  # a stranger's game may mean something else by these names
        return {}
    return {agent: value for agent, value in found.items() if value is not None}


def label_agreement(episode: Episode) -> list[bool]:
    """Which of the solvers' scores agree with the truth, of those that can be compared with it."""
    scored = [(episode.scores[a], value) for a, value in truth_of(episode).items() if a in episode.scores]
    return [(score.value > 0.5) == (value > 0.5) for score, value in scored if score.status == "ok"]


def shape(text: str) -> str:
    """The structure of a reply: character classes, repeats folded (``BfDk`` and ``AaCcBd`` are both ``(Aa)+``).

    Repeated units of 1 to 4 characters are folded, whichever size gives the shortest result.
    """
    classes = "".join("A" if c.isupper() else "a" if c.islower() else "0" if c.isdigit() else c for c in text[:512])
    best = list(classes)
    for size in (1, 2, 3, 4):
        runs = re.finditer(rf"(.{{{size}}})\1+|.", classes, re.DOTALL)
        best = min(best, [f"({m[1]})+" if m[1] else m[0] for m in runs], key=len)  # of equals the smaller unit
    return "".join(best)


#: Shares of the newest round, the range that is no reason to stop, and what is said outside it.
_RULES = (
    ("unique", 0.5, 1.0, "only {:.2f} of the proposals are distinct: the challenger repeats itself"),
    ("duplicates", 0.0, 0.8, "{:.2f} of the proposals are known already: the challenger has stopped exploring"),
    ("learnable", 0.05, 1.0, "only {:.2f} of the problems are partly solved: nothing to learn from"),
    ("label_accuracy", 0.9, 1.0, "{:.2f} of the labels agree with the truth: the reward rewards mistakes"),
)


def ring(history: Sequence[Health]) -> list[str]:
    """The alarms that the newest round sets off, in words; empty when there is nothing to report."""
    if not history:
        return []
    first, now = history[0], history[-1]
    alarms = []
    if now.valid is not None and first.valid is not None and now.valid < first.valid - 0.2:
        alarms.append(f"valid share fell from {first.valid:.2f} to {now.valid:.2f}: the challenger loses the grammar")
    for name, low, high, words in _RULES:
        if (value := getattr(now, name)) is not None and not low <= value <= high:
            alarms.append(words.format(value))
    return [*alarms, *_hacked(history)]


#: Rounds that are averaged, and how far the truth has to fall from its best for an alarm.
_WINDOW, _FALL = 5, 0.1


def _hacked(history: Sequence[Health]) -> list[str]:
    """Whether the reward has risen since the truth was at its best, and the truth has fallen (arXiv 2210.10760)."""
    rows = [(h.reward, h.truth) for h in history if h.reward is not None and h.truth is not None]
    if len(rows) < 2 * _WINDOW:
        return []
    means = np.lib.stride_tricks.sliding_window_view(np.array(rows), _WINDOW, axis=0).mean(-1)
    (reward, truth), (was, best) = means[-1], means[means[:, 1].argmax()]
    if best - truth <= _FALL or reward <= was:
        return []
    told = f"the reward rose from {was:.2f} to {reward:.2f} while {best:.2f} to {truth:.2f} of the answers are right"
    return [f"{told}: it is over-optimised"]
