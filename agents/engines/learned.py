"""Rewards that a model gives: a sequence-classification model (``reward_model``) or a judge that writes (``judge``).

Both are batched: all that a round asks is one call.  Where nothing can be measured they abstain or carry the failed
call's status; they never guess.  A judge's replies are stored in the scores, so that rescoring asks nothing twice.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dream_envs.checks import one_of
from dream_envs.core import Action, DreamEnvsError, Episode, Limits, Message, Request, Score, Turn, content_hash
from dream_envs.envs import judging
from dream_envs.play import as_agent, ask
from dream_envs.rewards.base import Scores, agents_of, by_agent, last_turns, reward, roles, worst
from dream_envs.seeds import digest
from dream_envs.tasks.answers import settled

#: Replies that a judge remembers beside those that are stored in episodes.
_REMEMBERED = 100_000


class Answer:
    """A turn that is scored, and the number of its episode."""

    __slots__ = ("episode", "turn")

    def __init__(self, episode: int, turn: Turn) -> None:
        self.episode, self.turn = episode, turn

    @property
    def prompt(self) -> str:
        """What was asked, as text: the message, or all of them under their roles."""
        messages = self.turn.messages
        if len(messages) == 1:
            return messages[0]["content"]
        return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)


def _answers(episodes: Sequence[Episode], role: str, every_turn: bool) -> list[Answer]:
    if episodes and not any(agents_of(episode, role) for episode in episodes):
        seen = sorted({its for episode in episodes for its in roles(episode).values()})
        raise DreamEnvsError(f"role={role!r}: nobody in these games, but {', '.join(seen) or 'no one else either'}")
    found = []
    for i, episode in enumerate(episodes):
        turns = episode.turns if every_turn else last_turns(episode, role).values()
        found += [Answer(i, turn) for turn in turns if turn.role == role]
    return [answer for answer in found if answer.turn.status == "ok"]


def _spread(
    episodes: Sequence[Episode], answers: Sequence[Answer], scores: Sequence[Score], role: str, every_turn: bool
) -> list[Scores]:
    """The agents' scores from those of their answers; turn by turn they add up, and one that failed fails them all."""
    own: dict[tuple[int, str], list[Score]] = {}
    for answer, score in zip(answers, scores, strict=True):
        own.setdefault((answer.episode, answer.turn.agent), []).append(score)

    def whole(i: int, agent: str) -> Score | None:
        its = own.get((i, agent))
        if its is None or not every_turn:
            return its[0] if its else None
        failed = worst(turn.status for turn in episodes[i].turns if turn.agent == agent)
        if failed != "ok":
            its = [*its, Score(0.0, failed, detail=f"a call ended in {failed}")]
        said = {key: text for score in its for key, text in score.judgements.items()}
        sums = {
            k: math.fsum(s.components.get(k, 0.0) for s in its)
            for k in dict.fromkeys(k for s in its for k in s.components)
        }
        if (status := worst(score.status for score in its)) != "ok":
            told = next(score.detail for score in its if score.status == status)
            return Score(0.0, status, sums, told, judgements=said)
        return Score(0.0, "ok", sums, turns=[score.value for score in its], judgements=said)

    return [by_agent(e, role, functools.partial(whole, i), "no reply") for i, e in enumerate(episodes)]


def _same_prompt(answers: Sequence[Answer]) -> Iterable[list[int]]:
    """Places of answers to the same messages, in the round."""
    groups: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        groups.setdefault(json.dumps(answer.turn.messages, sort_keys=True), []).append(i)
    return groups.values()


def _classifier(given: dict[str, Any]) -> dict[str, Any]:
    if given["pairwise"] and given["every_turn"]:
        raise DreamEnvsError("pairwise=True, every_turn=True: a pairwise model compares whole answers")
    one_of("notation", given["notation"], judging.NOTATIONS)
    if isinstance(given["model"], str):
        from dream_envs.agents.engines.classifier import classifier

        given["model"] = classifier(given["model"], given["device"], given["dtype"], given["batch"])
    elif not callable(getattr(given["model"], "logits", None)):
        raise DreamEnvsError(f"model={given['model']!r:.60}: a folder, a hub id or a Classifier")
    return given


@reward(
    "reward_model",
    within={"batch": (1, 4096), "label": (0, 4096)},
    prepare=_classifier,
    always=("model",),
    batched=True,
)
def reward_model(
    episodes: Sequence[Episode], model: Any, *, role: str = "solver", pairwise: bool = False, label: int = 0,
    every_turn: bool = False, notation: str = "english", device: str = "cpu", dtype: str = "auto", batch: int = 32,
) -> list[Scores]:  # fmt: skip
    """The score that a sequence-classification model gives to prompt and answer, in its chat template.

    ``model``: a folder (an adapter's too), a hub id or a loaded ``Classifier``.  One label: its logit.  Several: the
    probability of ``label``.  ``every_turn``: a process reward; each turn of ``role`` is scored in its context.

    ``pairwise``: the model reads a question that shows two answers to one prompt (``envs.judging``, in ``notation``)
    and says how likely the first is the better one (one label: its sigmoid; two: the probability of label 0).  An
    answer's score is its mean chance, over both orders, against the round's other answers to the same messages.

    Returns:
        Components of a pairwise score: ``compared``.  ``abstain`` for an answer that has nothing to be compared with,
        ``error`` for one that is longer than the model can read.
    """
    answers = _answers(episodes, role, every_turn)
    scores = _compared(answers, model, notation) if pairwise else _rated(answers, model, label)
    return _spread(episodes, answers, scores, role, every_turn)


def _rated(answers: Sequence[Answer], model: Any, label: int) -> list[Score]:
    texts = [[*a.turn.messages, {"role": a.turn.writes, "content": a.turn.text}] for a in answers]
    scores = []
    for logits in model.logits(texts):
        if logits is None:
            scores.append(Score(0.0, "error", detail="longer than the reward model can read"))
        elif len(logits) == 1:
            scores.append(Score(float(logits[0])))
        elif label < len(logits):
            scores.append(Score(_softmax(logits, label)))
        else:
            raise DreamEnvsError(f"label={label}: the model has {len(logits)}, 0 to {len(logits) - 1}")
    return scores


def _compared(answers: Sequence[Answer], model: Any, notation: str) -> list[Score]:
    pairs = [pair for group in _same_prompt(answers) for pair in itertools.permutations(group, 2)]
    asked: list[list[Message]] = []
    for i, j in pairs:
        question = judging.Question(
            "pairwise", notation, answers[i].prompt, (answers[i].turn.text, answers[j].turn.text)
        )
        asked.append([{"role": "user", "content": judging.write(question)}])
    chances: list[list[float]] = [[] for _ in answers]
    for (i, j), logits in zip(pairs, model.logits(asked), strict=True):
        if logits is not None:
            first = _softmax(logits, 0) if len(logits) > 1 else 1 / (1 + math.exp(-max(-500.0, min(500.0, logits[0]))))
            chances[i].append(first)
            chances[j].append(1 - first)
    return [
        Score(math.fsum(its) / len(its), components={"compared": len(its) / 2})
        if its
        else Score(0.0, "abstain", detail="no other answer to compare with")
        for its in chances
    ]


def _softmax(logits: Any, label: int) -> float:
    top = max(logits)
    return float(math.exp(logits[label] - top) / math.fsum(math.exp(x - top) for x in logits))


class Judge:
    """The engine of ``judge`` with its memory of what it said.

    ``label``: names it in the keys under which replies are stored: another engine's replies are not taken for its own.
    """

    def __init__(self, engine: Any) -> None:
        named = isinstance(engine, str)
        self.agent = as_agent(engine)
        if getattr(self.agent, "privileged", False):
            raise DreamEnvsError(f"engine={engine!r:.60}: it needs the hidden truth; a model, a URL or a function")
        known = (getattr(self.agent, name, "") for name in ("name", "model"))
        self.label = (
            engine if named else next((x for x in known if isinstance(x, str) and x), type(self.agent).__name__)
        )
        self.calls, self._said = 0, OrderedDict[str, str]()

    def __repr__(self) -> str:
        return self.label if len(self.label) <= 80 else f"#{content_hash(self.label)}"

    def replies(self, asked: Mapping[str, Request], stored: Mapping[str, str]) -> tuple[dict[str, Action], set[str]]:
        """A reply by key, from memory, from what is ``stored``, or from one call; and the keys that were asked anew."""
        found = {key: Action(stored[key]) for key in asked if key in stored}
        found |= {key: Action(self._said[key]) for key in asked if key not in found and key in self._said}
        new = [key for key in asked if key not in found]
        if new:
            self.calls += 1
            for key, action in zip(new, ask(self.agent, [asked[key] for key in new]), strict=True):
                # of a reply that was cut off only what may be read is kept, so that it is read alike another time
                found[key] = action = msgspec.structs.replace(action, text=settled(action, "verdict"))
                if action.status == "ok":
                    self._said[key] = action.text
            while len(self._said) > _REMEMBERED:
                self._said.popitem(last=False)
        return found, set(new)

    def cost(self, action: Action) -> float:
        """What a reply cost, in the unit of the engine's prices."""
        read, written = getattr(self.agent, "price", (0.0, 0.0))
        return float(action.usage.prompt_tokens * read + action.usage.completion_tokens * written) / 1e6


def _judge(given: dict[str, Any]) -> dict[str, Any]:
    if given["kind"] == "pairwise" and given["every_turn"]:
        raise DreamEnvsError("kind='pairwise', every_turn=True: whole answers are compared; score or rubric")
    given["engine"] = given["engine"] if isinstance(given["engine"], Judge) else Judge(given["engine"])
    return given


@reward(
    "judge", within={"repeats": (1, 256), "max_tokens": (1, 131_072)},
    choices={"kind": judging.KINDS, "notation": judging.NOTATIONS}, prepare=_judge, always=("engine",), batched=True,
)  # fmt: skip
def judge(
    episodes: Sequence[Episode], engine: Any, *, kind: str = "score", role: str = "solver", criteria: str = "",
    repeats: int = 1, max_tokens: int = 512, every_turn: bool = False, notation: str = "english",
    ask_again: bool = False,
) -> list[Scores]:  # fmt: skip
    """What a judge says of an answer: ``score`` (0 to 10, worth a tenth), ``rubric`` (right or wrong) or ``pairwise``.

    ``engine``: an agent's expression (``local(model=...)``, ``http://...``), an agent or a function; it is asked in the
    words of ``envs.judging``, with ``criteria`` in front, ``repeats`` times with other seeds.  ``pairwise``: each two
    of the round's answers to the same messages, in both orders; the score is the share of verdicts that it won.
    ``every_turn``: a process reward.  ``ask_again``: replies that are stored in the episodes (a file that somebody may
    have edited) are not believed.

    Returns:
        0 to 1: the mean over the readable verdicts.  Components ``judged`` (how many), ``tokens`` (read and written in
        calls that were made now) and ``cost``, where the engine has a price.  ``abstain`` without a readable verdict or
        with nothing to compare with; the call's own status where every call failed.
    """
    answers = _answers(episodes, role, every_turn)
    known = () if ask_again else episodes
    stored = {k: said for e in known for score in e.scores.values() for k, said in score.judgements.items()}
    asked, places = dict[str, Request](), list[tuple[str, tuple[int, ...]]]()
    shown: list[tuple[int, ...]] = [(i,) for i in range(len(answers))]
    if kind == "pairwise":
        shown = [pair for group in _same_prompt(answers) for pair in itertools.permutations(group, 2)]
    for who in shown:
        question = judging.Question(kind, notation, answers[who[0]].prompt, tuple([answers[i].turn.text for i in who]))
        text = f"{criteria}\n\n{judging.write(question)}" if criteria else judging.write(question)
        for trial in range(repeats):
            key = content_hash(engine.label, str(max_tokens), text, str(trial))
            seed = digest("judge", text, trial)
            message: Message = {"role": "user", "content": text}
            asked[key] = Request(
                messages=[message], agent="judge_0", role="judge", seed=seed, limits=Limits(max_tokens)
            )
            places.append((key, who))
    replies, new = engine.replies(asked, stored)
    verdicts: list[list[float]] = [[] for _ in answers]
    calls: list[dict[str, Action]] = [{} for _ in answers]
    for key, who in places:
        for i in who:
            calls[i][key] = replies[key]
        rating = _rating(kind, notation, replies[key])
        if rating is not None and kind == "pairwise":
            verdicts[who[0]].append(float(rating == 1))
            verdicts[who[1]].append(float(rating == 2))
        elif rating is not None:
            verdicts[who[0]].append(judging.worth(kind, notation, rating))
    shared = {key: len(who) for key, who in places}
    scores = [_verdict(v, c, new, shared, engine) for v, c in zip(verdicts, calls, strict=True)]
    return _spread(episodes, answers, scores, role, every_turn)


def _rating(kind: str, notation: str, action: Action) -> int | None:
    if action.status != "ok":
        return None
    return judging.rating_of(kind, notation, action.text)


def _verdict(
    values: list[float], calls: Mapping[str, Action], new: set[str], shared: Mapping[str, int], engine: Judge
) -> Score:
    """An answer's score from its verdicts; tokens and cost of a question about two are halved."""
    said = {key: action.text for key, action in calls.items() if action.status == "ok"}
    fresh = [(action, shared[key]) for key, action in calls.items() if key in new]
    tokens = math.fsum((a.usage.prompt_tokens + a.usage.completion_tokens) / n for a, n in fresh)
    components = {"judged": float(len(values)), "tokens": tokens}
    if cost := math.fsum(engine.cost(a) / n for a, n in fresh):
        components["cost"] = cost
    if values:
        return Score(math.fsum(values) / len(values), "ok", components, judgements=said)
    if not calls:
        return Score(0.0, "abstain", components, "no other answer to compare with")
    if not said:
        status = worst(action.status for action in calls.values())
        return Score(0.0, status, components, f"the judge's call ended in {status}")
    return Score(0.0, "abstain", components, "no readable verdict", judgements=said)
