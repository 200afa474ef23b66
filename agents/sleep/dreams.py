"""Dreaming: a learner makes up what to rehearse, and keeps the dreams that do it good.

From "Language Models Need Sleep" (arXiv 2606.03979), which builds on SEAL (arXiv 2506.10943): m dreams are made up, the
gradient of the fine-tuning loss says which matter, the ``top`` most important and ``random`` others are tried out, each
on a copy of its own, and a dream whose copy does better on the probe than one that did as much of the day is good
(reward 1, else 0).  The good ones are learnt from (ReST-EM), and so is proposing those of memory and fiction.

Departures: a dream is ``size`` questions with answers.  The random low-rank expert that makes dreams novel is active
while questions are made up and not while they are answered: novelty in what is asked, not in what is true.  The paper's
dreams all have the day's context; ours are of three kinds (``KINDS``), because a learner that dreams of nothing but the
day's context forgets what it learnt before, and how to read a context at all (``LOG.md``).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import torch

from dream_envs.agents.engines.decode import sample
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.sleep.experience import KINDS, Experience, bounded, seen
from dream_envs.agents.training.sft import Collator, Pair, fine_tune, lora, quietly, tokenized
from dream_envs.core import DreamEnvsError, Limits, Message, Reject, Request, TaskFamily
from dream_envs.rewards.imitation import dream_reward
from dream_envs.seeds import digest, stream


class QuestionGenerator(Protocol):
    """How questions are made up in somebody's notation; it knows no answers."""

    def brief(self) -> list[Message]:
        """What a dreamer is asked; the context stands before it."""

    def question(self, text: str) -> list[Message] | None:
        """The question that this text proposes, None for none."""

    def proposal(self, question: list[Message]) -> str | None:
        """The text that would have proposed this question, None if it cannot be told."""

    def limits(self) -> Limits:
        """Of a proposal and of an answer."""


class FamilyQuestions:
    """Questions of a task family: its brief, its proposals' grammar.  What the verifier knows is not used.

    ``avoid``: ids of problems that are never asked (an evaluation's).
    """

    def __init__(self, family: TaskFamily, avoid: Collection[str] = ()) -> None:
        self.family, self.avoid = family, frozenset(avoid)

    def brief(self) -> list[Message]:
        """The family's own."""
        return [{"role": "user", "content": self.family.brief()}]

    def question(self, text: str) -> list[Message] | None:
        """The problem's prompt, where the text is a proposal."""
        task = self.family.parse(text)
        if isinstance(task, Reject) or task.id in self.avoid:
            return None
        return [{"role": "user", "content": task.prompt}]

    def proposal(self, question: list[Message]) -> str | None:
        """The prompt itself, in notations where it is its own proposal (``compact``)."""
        text = question[-1]["content"]
        return text if self.question(text) == [{"role": "user", "content": text}] else None

    def limits(self) -> Limits:
        """The family's."""
        return Limits(self.family.max_reply_tokens, max(64, 8 * self.family.max_reply_tokens))


class DreamSettings(msgspec.Struct, frozen=True):
    """The settings of Dreaming.

    ``dreams``: m, of which ``memory`` and ``fiction`` are of these kinds.  ``size``: questions a dream.  ``novelty``:
    size of the random expert, relative to each weight matrix; ``novel_rank`` its rank.  ``votes``: sampled answers to a
    question, of which one has to be given more often than not, or the question is left out; 0: the most likely answer.
    ``top``, ``random``: k and b, of each kind.  ``probe``: questions of either of these kinds that are kept apart to
    measure with.  ``draft``: steps of the draft that dreams are tried on.  ``inner_*``: the trial of one dream.
    ``proposals``: share of the dreams' rows that teach proposing; ``today`` of these propose what was asked in the day.
    ``fictional``: share of the others that are fictions; the rest is memory.
    """

    dreams: int = 8
    memory: int = 4
    fiction: int = 2
    size: int = 320
    novelty: float = 0.05
    novel_rank: int = 2
    votes: int = 0
    top: int = 2
    random: int = 1
    probe: int = 48
    inner_steps: int = 5
    inner_lr: float = 1e-3
    inner_rank: int = 16
    draft: int = 30
    fictional: float = 0.33
    proposals: float = 0.2
    today: float = 0.1

    def __post_init__(self) -> None:
        bounded(self, 0, 1, "fictional", "proposals", "today")
        bounded(self, 1, None, "dreams", "size", "probe", "inner_steps", "inner_rank", "draft", "novel_rank")
        bounded(self, 0, None, "memory", "fiction", "top", "random", "votes", "novelty")
        if self.memory + self.fiction > self.dreams:
            raise DreamEnvsError(f"memory={self.memory}, fiction={self.fiction}: {self.dreams} together at most")
        if self.top + self.random < 1:
            raise DreamEnvsError(f"top={self.top}, random={self.random}: one or more are tried")


class Dream(msgspec.Struct, frozen=True):
    """A dream: what was made up, and what became of it.

    ``kind``: one of ``KINDS``.  ``pairs``: questions with answers; ``proposals``: brief with question.  ``asked``:
    how many proposals were sampled.  ``importance``: norm of the gradient.  ``chosen``: ``top``, ``random`` or
    ``rejected``.  ``before``, ``after``: mean log-likelihood of the probe behind a trial on the day and on the dream.
    ``reward``: 1 or 0.
    """

    kind: str
    pairs: list[Experience]
    proposals: list[Experience]
    asked: int
    importance: float = 0.0
    chosen: str = "rejected"
    before: float | None = None
    after: float | None = None
    reward: float | None = None


def imagine(
    agent: LocalAgent, generator: QuestionGenerator, kind: str, contexts: Sequence[list[Message]], count: int,
    seed: str, *, novelty: float = 0.0, rank: int = 2, votes: int = 0,
) -> tuple[list[Experience], list[Experience]]:  # fmt: skip
    """Made-up questions with the agent's own answers, and the proposals that they came from.

    ``contexts``: proposal i of ``count`` is made with context i, from the front again where there are fewer; may be
    empty.  Proposals that say nothing or the same again are left out.  ``novelty``, ``votes``: see ``DreamSettings``.
    """
    heads = [contexts[i % len(contexts)] if contexts else [] for i in range(count)]
    asked = [[*head, *generator.brief()] for head in heads]
    with random_expert(agent.model, novelty, rank, seed):
        texts = [a.text for a in agent.act([_request(generator, m, seed, i) for i, m in enumerate(asked)])]
    told: dict[str, tuple[list[Message], Experience]] = {}
    for head, brief, text in zip(heads, asked, texts, strict=True):
        if (question := generator.question(text)) is not None:
            told.setdefault(f"{head}{question}", ([*head, *question], Experience(brief, text, kind)))
    questions = [messages for messages, _ in told.values()]
    replies = answers(agent, generator, questions, seed, votes)
    kept = [(m, r, p) for m, r, (_, p) in zip(questions, replies, told.values(), strict=True) if r is not None]
    return [Experience(m, reply, kind) for m, reply, _ in kept], [proposal for _, _, proposal in kept]


def answers(
    agent: LocalAgent, generator: QuestionGenerator, questions: Sequence[list[Message]], seed: str, votes: int
) -> list[str | None]:
    """The agent's answer to each question: its most likely one; with ``votes`` the one that it gives more often than
    not, None where there is none (self-consistency, arXiv 2203.11171).
    """
    asker = agent if votes else agent.decoding(temperature=0)
    asked = [_request(generator, m, seed, "answer", q, i) for q, m in enumerate(questions) for i in range(votes or 1)]
    said = [a.text for a in asker.act(asked)]
    if not votes:
        return list(said)
    most = [Counter(said[i : i + votes]).most_common(1)[0] for i in range(0, len(said), votes)]
    return [text if 2 * count > votes else None for text, count in most]


def fictions(agent: LocalAgent, count: int, seed: str, max_tokens: int = 256) -> list[list[Message]]:
    """Contexts that the agent makes up, each a system message: what it says behind the template's opening alone.

    What does not come to its end within ``max_tokens`` is left out; empty for a template without system messages.
    """
    mark = "\x1a"
    try:
        chat = [{"role": "system", "content": mark}, {"role": "user", "content": mark}]
        text = str(agent.tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception:  # templates refuse a role in their own words
        return []
    parts = text.split(mark)
    if len(parts) != 3 or not all(parts[:2]):  # system messages are dropped in silence, or nothing ends them
        return []
    prompt, ends = (agent.tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts[:2])
    seeds = np.array([digest("fiction", seed, i) for i in range(count)], dtype=np.uint64)
    limits = np.full(count, max_tokens)
    found = sample(agent.engine(), [prompt] * count, seeds, limits, end=ends[:1], pad=agent.pad, device=agent.device)
    texts = agent.decode([s.ids for s in found if s.ended])
    return [[{"role": "system", "content": text}] for text in dict.fromkeys(texts) if text.strip()]


def _request(generator: QuestionGenerator, messages: list[Message], *labels: str | int) -> Request:
    seed = digest("dream", *labels)
    return Request(messages=messages, agent="dreamer_0", role="dreamer", seed=seed, limits=generator.limits())


@contextlib.contextmanager
def random_expert(model: Any, scale: float, rank: int, seed: str) -> Iterator[None]:
    """The model with a random low-rank matrix of relative size ``scale`` added to every linear layer but the head."""
    if not scale:
        yield
        return
    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    kept = [layer.weight.detach().clone() for layer in layers]
    rng = stream("random-expert", seed)
    try:
        with torch.no_grad():
            for layer in layers:
                out, into = layer.weight.shape
                found = rng.standard_normal((out, rank)) @ rng.standard_normal((rank, into))
                noise = torch.from_numpy(found).to(layer.weight)
                layer.weight += noise * (scale * layer.weight.norm() / noise.norm())
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, kept, strict=True):
                layer.weight.copy_(weight)


def importance(agent: LocalAgent, dreams: Sequence[Dream], rank: int, seed: str) -> list[float]:
    """Norm of the fine-tuning loss' gradient at a fresh low-rank expert, for each dream; 0 for an empty one."""
    from peft import get_peft_model

    copy = agent.snapshot().model.requires_grad_(True)
    with quietly():
        torch.manual_seed(digest("importance", seed, bits=24))
        model = get_peft_model(copy, lora(rank))
    trained = [p for p in model.parameters() if p.requires_grad]
    found = []
    for dream in dreams:
        if not dream.pairs:
            found.append(0.0)
            continue
        rows = tokenized(agent, as_pairs(dream.pairs))
        batch = Collator(rows, agent.pad)([{"row": i} for i in range(len(rows))])
        loss = model(**{name: values.to(agent.device) for name, values in batch.items()}).loss
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        found.append(float(torch.stack([g.pow(2).sum() for g in gradients if g is not None]).sum().sqrt()))
    return found


def select(weights: Sequence[float], top: int, random: int, rng: np.random.Generator) -> list[str]:
    """``top`` for the k largest, ``random`` for b of the others, ``rejected`` for the rest and for empty dreams (0)."""
    order = sorted((i for i, w in enumerate(weights) if w > 0), key=lambda i: -weights[i])
    lucky = {order[top:][i] for i in rng.permutation(max(0, len(order) - top))[:random].tolist()}
    return ["top" if i in order[:top] else "random" if i in lucky else "rejected" for i in range(len(weights))]


def as_pairs(found: Sequence[Experience]) -> list[Pair]:
    """What is fine-tuned on."""
    return [(seen(e), e.reply) for e in found]


def likelihood(agent: LocalAgent, probe: Sequence[Experience]) -> float:
    """Mean log-likelihood per token of the probe's replies."""
    pairs = as_pairs(probe)
    logits, ids = agent.completion_logits([list(m) for m, _ in pairs], [r for _, r in pairs])
    total, tokens = 0.0, 0
    for row, target in zip(logits, ids, strict=True):
        with np.errstate(invalid="ignore"):  # of spoilt weights it is no number, and to be told as such
            logp = row - np.logaddexp.reduce(row, axis=-1, keepdims=True)
        total += float(logp[np.arange(len(target)), target].sum())
        tokens += len(target)
    return total / tokens


def tried(
    student: LocalAgent, dreams: Sequence[Dream], lived: Sequence[Experience], probe: Sequence[Experience],
    settings: DreamSettings, seed: str,
) -> list[Dream]:  # fmt: skip
    """The dreams with what selection and trial said of them.

    A dream is held against as many steps on the day (``lived``), not against none: on a probe that the student knows by
    heart a few steps on anything do harm, since the optimiser's first steps are as long as any.
    """

    def behind(rows: Sequence[Experience]) -> float:
        how: Any = {"steps": settings.inner_steps, "lr": settings.inner_lr, "lora_rank": settings.inner_rank}
        # One start for all: else an unlucky day would make every dream good.
        return likelihood(fine_tune(student, as_pairs(rows), seed=f"{seed}/try", batch=32, **how), probe)

    weights = importance(student, dreams, settings.inner_rank, seed)
    chosen = [""] * len(dreams)
    for kind in KINDS:  # across kinds the strangest would always win: fiction
        own = [i for i, d in enumerate(dreams) if d.kind == kind]
        found = select([weights[i] for i in own], settings.top, settings.random, stream(seed, "select", kind))
        for i, how in zip(own, found, strict=True):
            chosen[i] = how
    before, result = behind(lived), []
    for i, dream in enumerate(dreams):
        dream = msgspec.structs.replace(dream, importance=weights[i], chosen=chosen[i])
        if chosen[i] != "rejected":
            after = behind(dream.pairs)
            reward = dream_reward(before, after).value
            dream = msgspec.structs.replace(dream, before=before, after=after, reward=reward)
        result.append(dream)
    return result
