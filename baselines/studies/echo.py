"""Does training by reward let one answer format of the pre-training mixture win, and when?

``python -m dream_envs.baselines.studies echo``: two bases of different size, KL coefficients 0, 1e-3 and 1e-2.  The
bases (``nano/echo``, ``nano/echo_wide``) solve the same problems in three formats in known shares, of which the
commonest is the least accurate; the reward asks for the right final state alone, in any of them.

The claim (Zhao et al., arXiv 2504.07912): one format wins within the first epoch, at the time of the largest gain in
accuracy.  A format has *won* when nine completions in ten have it.  ``word`` fixes what counts as confirmed and what as
refuted; it was written before the study was run.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.engines.models import resolve
from dream_envs.agents.training.learner import PolicyLearner
from dream_envs.baselines.loop import Context
from dream_envs.baselines.loops.dream import rows as row_settings
from dream_envs.baselines.recipe import EvalSettings, Loop, Options, Phase, Recipe
from dream_envs.baselines.studies.echo_family import FORMATS, LABELS, CompositionFormats, format_of
from dream_envs.baselines.studies.grid import (
    Interval,
    Row,
    difference,
    named,
    over,
    own_settings,
    show,
    table_of,
    trained,
)
from dream_envs.checks import check
from dream_envs.core import DreamEnvsError, Episode, Message, Task, challenge_of
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.frontier.estimators import pass_at_k
from dream_envs.metrics import diversity
from dream_envs.play import read_episodes
from dream_envs.runs import read_json, write_json
from dream_envs.seeds import digest, stream

RESULT = "echo.json"
BASES = ("nano/echo", "nano/echo_wide")
COEFFICIENTS = (0.0, 1e-3, 1e-2)
STEPS = 96
K = (1, 8, 32)
#: Draws of a problem that the divergence from the base is estimated on.
KL_DRAWS = 8
WON = 0.9
#: Steps over which a training series is averaged, centred: a step's 256 completions alone cross a line by chance.
WINDOW = 5
#: A share of a smaller gain in accuracy than this would be noise over noise.
LEAST_GAIN = 0.05


class EchoSettings(msgspec.Struct, frozen=True):
    """What decides a run's result.

    ``kl``: coefficient of the divergence from the base in the loss (k3, as in the paper's GRPO runs).  ``prompts``
    problems a step, ``attempts`` completions each.  ``train`` problems are passed through in random order, again and
    again: an epoch is one pass.  ``test`` others are for exams, ``draws`` completions each.
    """

    base: str = "nano/echo"
    kl: float = 0.0
    prompts: int = 32
    attempts: int = 8
    train: int = 768
    test: int = 128
    draws: int = 64
    depth: int = 3
    lr: float = 5e-4
    warmup: int = 10

    def __post_init__(self) -> None:
        for name in ("prompts", "attempts", "train", "test"):
            check(name, getattr(self, name), 1)
        check("kl", self.kl, 0)
        if self.train % self.prompts:
            raise DreamEnvsError(f"train={self.train}: a multiple of prompts={self.prompts}, so that epochs are whole")
        if self.draws % max(K) or self.draws < 1:
            raise DreamEnvsError(f"draws={self.draws}: a multiple of {max(K)}")


def world_of(base: str, depth: int) -> dict[str, Any]:
    """Arguments of the family that a nano base was pre-trained on, by its ``nano.json``."""
    folder = Path(resolve(base))
    card = read_json(folder / "nano.json")
    try:
        arguments = dict(card["recipe"]["support"]["family_args"])
    except (KeyError, TypeError) as error:
        raise DreamEnvsError(f"base={base!r}: {folder}/nano.json names no family_args; give a nano base") from error
    return {**arguments, "max_level": depth + 1}


def problems(family: CompositionFormats, depth: int, train: int, test: int) -> tuple[list[Task], list[Task]]:
    """Distinct problems of this depth, the same for every run: ``train`` to learn from, ``test`` to be asked."""
    if depth not in family.levels:
        raise DreamEnvsError(f"depth={depth}: {family.levels.start} to {family.levels.stop - 1}")
    asked = itertools.product(family.states, *[family.operations] * depth)
    every = [t for start, *ops in asked if not (t := family.make(start, "".join(ops))).meta["held_out"]]
    if len(every) < train + test:
        raise DreamEnvsError(f"train={train}, test={test}: this world has {len(every)} problems of depth {depth}")
    order = stream("echo-problems", family.world, depth).permutation(len(every))
    return [every[i] for i in order[test : test + train]], [every[i] for i in order[:test]]


def marks(steps: int) -> list[int]:
    """Log-spaced steps, two an octave, with 0 and ``steps``: 0, 1, 2, 3, 4, 6, 8, 11, 16 ..."""
    octaves = (round(2 ** (i / 2)) for i in itertools.count())
    return sorted({0, steps, *itertools.takewhile(lambda s: s < steps, octaves)})


def passes(game: Any, tasks: Sequence[Task], prompts: int, seed: str) -> Curriculum:
    """A fixed list of problems, passed through again and again, each time in another random order."""
    mixture = Mixture(0, 0, 0, dataset=prompts)
    return Curriculum(game, mixture, seed=seed, store=ChallengeStore(None), dataset=tasks, label="pass")


class Exam:
    """Problems that are never trained on, ``draws`` completions each (a multiple of the largest of ``K``).

    They and the ``base`` are asked the same way at every step: equal labels ``seed`` give equal random numbers.
    """

    def __init__(
        self, family: CompositionFormats, tasks: Sequence[Task], base: LocalAgent, *, seed: str, draws: int = 64
    ) -> None:
        self.family, self.tasks, self.draws = family, list(tasks), draws
        self.base = base
        messages: list[list[Message]] = [[{"role": "user", "content": t.prompt}] for t in self.tasks]
        self._prompts = [base.encode(m) for m in messages]
        self._seeds = np.array(
            [digest("echo-exam", seed, t.id, i) for t in self.tasks for i in range(draws)], dtype=np.uint64
        )
        self._base_share = self._shares(self._sampled(base)[0])

    def __call__(self, agent: LocalAgent) -> dict[str, Any]:
        """The numbers of this agent; shares and accuracies 0 to 1, entropies in bits, divergence in nats."""
        texts, ids, logps = self._sampled(agent)
        labels = [format_of(t) for t in texts]
        last = [self.family.last_state(self.tasks[i // self.draws], t) for i, t in enumerate(texts)]
        right = np.array([s == self.tasks[i // self.draws].answer[-1] for i, s in enumerate(last)])
        by_problem = right.reshape(len(self.tasks), self.draws)
        counts, share = by_problem.sum(1), self._shares(texts)
        return {
            "share": share,
            "entropy": diversity.entropy(labels),
            "effective": diversity.effective_number(labels),
            "js": diversity.js_distance(share, self._base_share),
            "accuracy": float(right.mean()),
            "accuracy_in": accuracy_in(labels, right.tolist()),
            "pass@k": {str(k): float(pass_at_k(self.draws, counts, k).mean()) for k in K},
            "majority@k": {str(k): self._majority(last, k) for k in K},
            "greedy": self._greedy(agent, share),
            "kl": self._divergence(ids, logps),
        }

    def _sampled(self, agent: LocalAgent) -> tuple[list[str], list[list[int]], list[float]]:
        prompts = [p for p in self._prompts for _ in range(self.draws)]
        limits = np.full(len(prompts), self.family.max_reply_tokens)
        found = agent.sample(prompts, self._seeds, limits)
        return agent.decode([s.ids for s in found]), [s.ids for s in found], [sum(s.logprobs) for s in found]

    def _shares(self, texts: Iterable[str]) -> dict[str, float]:
        found = diversity.histogram(map(format_of, texts))
        return {name: found.get(name, 0.0) for name in LABELS}

    def _majority(self, last: Sequence[str | None], k: int) -> float:
        """True majority: mean over problems and over their disjoint groups of ``k`` draws, ties shared evenly."""
        groups = [(i // self.draws, last[i : i + k]) for i in range(0, len(last), k)]
        return float(np.mean([diversity.majority(votes, self.tasks[i].answer[-1]) for i, votes in groups]))

    def _greedy(self, agent: LocalAgent, sampled: dict[str, float]) -> dict[str, Any]:
        """Shares and accuracy of the greedy completions; ``gap``: total variation from the sampled shares."""
        twin = LocalAgent(agent.model, tokenizer=agent.tokenizer, temperature=0.0)
        limits = np.full(len(self.tasks), self.family.max_reply_tokens)
        found = twin.sample(self._prompts, self._seeds[:: self.draws], limits)
        texts = twin.decode([s.ids for s in found])
        right = [self.family.verify(t, text).value for t, text in zip(self.tasks, texts, strict=True)]
        share = self._shares(texts)
        return {"share": share, "accuracy": float(np.mean(right)), "gap": diversity.total_variation(share, sampled)}

    def _divergence(self, ids: Sequence[list[int]], logps: Sequence[float]) -> float:
        """KL(model || base) a completion in nats: the mean log-ratio of completions that the model itself sampled."""
        picked = [i for i in range(len(ids)) if i % self.draws < KL_DRAWS]
        prompts = [self._prompts[i // self.draws] for i in picked]
        base = log_likelihood(self.base, prompts, [ids[i] for i in picked])
        return float(np.mean(np.array([logps[i] for i in picked]) - base))


@torch.inference_mode()
def log_likelihood(
    agent: LocalAgent, prompts: Sequence[Sequence[int]], ids: Sequence[Sequence[int]], batch: int = 512
) -> np.ndarray:
    """``float64[N]``: natural log of the probability that the model outputs ``ids`` after ``prompts``."""
    found = []
    for at in range(0, len(prompts), batch):
        heads, tails = prompts[at : at + batch], ids[at : at + batch]
        logp = torch.log_softmax(agent.read(heads, tails).logits.float(), -1)
        for row, head, tail in zip(logp, heads, tails, strict=True):
            found.append(float(row[range(len(head) - 1, len(head) + len(tail) - 1), tail].double().sum()))
    return np.array(found)


def accuracy_in(labels: Sequence[str], right: Sequence[float]) -> dict[str, float | None]:
    """Accuracy among the completions of each format; None where there is none."""
    found: dict[str, float | None] = {}
    for name in FORMATS:
        values = [r for label, r in zip(labels, right, strict=True) if label == name]
        found[name] = float(np.mean(values)) if values else None
    return found


def exam_of(chosen: EchoSettings, seed: str, base: LocalAgent) -> Exam:
    """The run's exam."""
    family = CompositionFormats(**world_of(chosen.base, chosen.depth))
    test = problems(family, chosen.depth, chosen.train, chosen.test)[1]
    return Exam(family, test, base, seed=seed, draws=chosen.draws)


def recipe(chosen: EchoSettings, steps: int) -> Recipe:
    """GRPO on the fixed problems, without a review: no gold completion exists anywhere; exams at log-spaced steps."""

    def prepare(ctx: Context, game: Any, label: str) -> tuple[Curriculum, dict[str, Any]]:
        tasks = problems(game.family, chosen.depth, chosen.train, chosen.test)[0]
        return passes(game, tasks, chosen.prompts, label), {}

    def learn(ctx: Context, model: LocalAgent, seed: str, place: Path) -> PolicyLearner:
        exam, at = exam_of(chosen, seed, ctx.base), set(marks(steps))

        def look(step: int, agent: LocalAgent) -> dict[str, Any]:
            if step in at:
                ctx.note(f"exam-{step:05d}.json", exam(agent))
            return {}

        return PolicyLearner(model, settings=ctx.rule, seed=seed, evaluate=look)

    count, learning = chosen.prompts * chosen.attempts, {"kl": chosen.kl, "lr": chosen.lr, "warmup": chosen.warmup}
    return Recipe(
        args={"solvers": chosen.attempts},
        family="dream_envs.baselines.studies.echo_family:CompositionFormats",
        family_args=world_of(chosen.base, chosen.depth),
        gates=(),
        mixture=Mixture(0, 0, 0, dataset=chosen.prompts),
        reward={"": "correctness()"},
        phases=(Phase("echo", steps, prepare=prepare),),
        learning=row_settings(chosen.prompts, rows=count + count % 2) | learning,
        learn=learn,
        eval=EvalSettings("sampled", levels=(chosen.depth,), problems=16, attempts=4),
        model=chosen.base,
        steps=steps,
    )


LOOP = Loop("echo", "which answer format training by reward keeps", EchoSettings, recipe, STEPS)
SETTINGS = {
    f"{Path(base).name}-kl{kl:g}": Options(f"{__name__}:LOOP", set={"base": base, "kl": kl})
    for base in BASES
    for kl in COEFFICIENTS
}
GRIDS = {"all": tuple(SETTINGS)}


def rounds(episodes: Iterable[Episode], prompts: int) -> dict[str, Any]:
    """What training itself sampled, ``prompts`` problems a step; the episodes of a run come in any order.

    Returns:
        Columns of equal length: ``step``, ``share`` by format, ``entropy`` (bits), ``accuracy``.
    """
    found: dict[int, tuple[list[str], list[float]]] = {}
    for episode in episodes:
        if challenge_of(episode) is not None:
            turns = [t for t in episode.turns if t.role == "solver" and t.status == "ok"]
            labels, values = found.setdefault(episode.index // prompts, ([], []))
            labels += [format_of(t.text) for t in turns]
            values += [float(episode.outcome.facts["correct"][t.agent]) for t in turns]
    steps = sorted(found)
    return {
        "step": steps,
        "entropy": [diversity.entropy(found[s][0]) for s in steps],
        "accuracy": [float(np.mean(found[s][1])) for s in steps],
        "share": {name: [found[s][0].count(name) / len(found[s][0]) for s in steps] for name in LABELS},
    }


def run(settings: Options, seed: str, out: Path) -> None:
    """Train, and collect the run's whole record in ``echo.json``."""
    summary, chosen = trained(settings, seed, out), own_settings(LOOP, settings)
    last = exam_of(chosen, seed, LocalAgent(chosen.base))(LocalAgent(str(out / "checkpoints" / "final")))
    exams = [{"step": int(path.stem[-5:]), **read_json(path)} for path in sorted(out.glob("exam-*.json"))]
    exams.append({"step": summary.run.steps, **last})
    told = rounds(read_episodes(out / "episodes.jsonl"), chosen.prompts)
    record = {"settings": chosen, "epoch_steps": chosen.train // chosen.prompts, "exams": exams, "rounds": told}
    write_json(out / RESULT, record)


def score(folder: Path) -> dict[str, Any]:
    """What one run shows; see ``derive``."""
    return derive(read_json(folder / RESULT))


def smooth(series: Sequence[float]) -> np.ndarray:
    """Centred mean over ``WINDOW`` steps, over fewer at the ends."""
    x, half = np.asarray(series, dtype=np.float64), WINDOW // 2
    return np.array([x[max(0, i - half) : i + half + 1].mean() for i in range(len(x))])


def derive(run: dict[str, Any]) -> dict[str, Any]:
    """From the content of ``echo.json`` to figures.

    ``base_best``, ``base_majority`` (formats), ``winner`` (the commonest format at the end); ``won_step`` and
    ``half_step`` (None: not within the run), the same in epochs; ``epoch_share``: the winner's share in the exam at the
    end of the first epoch; ``gain_by_half`` and ``gain_by_epoch``: shares of the gain in accuracy made by then;
    ``gain_by_choice``: the share that the new formats at the old accuracies in each explain, the rest being better
    answers within the formats (all three None for a gain below ``LEAST_GAIN``); ``before/`` and ``after/``: the exams'
    figures.
    """
    exams, told, epoch = run["exams"], run["rounds"], run["epoch_steps"]
    before, after = exams[0], exams[-1]
    winner = max(FORMATS, key=lambda f: after["share"][f])
    steps, accuracy = [e["step"] for e in exams], [e["accuracy"] for e in exams]
    gain = after["accuracy"] - before["accuracy"]

    def first(holds: np.ndarray) -> int | None:
        return int(told["step"][int(holds.argmax())]) if holds.any() else None

    def at(step: float, values: Sequence[float]) -> float:
        return float(np.interp(step, steps, values))

    def share_of_gain(value: float | None) -> float | None:
        return None if value is None or gain < LEAST_GAIN else (value - before["accuracy"]) / gain

    won = first(smooth(told["share"][winner]) >= WON)
    half = first(smooth(told["entropy"]) <= before["entropy"] / 2)
    chosen = sum(after["share"][f] * (before["accuracy_in"][f] or 0.0) for f in FORMATS)
    return {
        "base": run["settings"]["base"],
        "epoch_steps": epoch,
        "base_best": max(FORMATS, key=lambda f: before["accuracy_in"][f] or 0.0),
        "base_majority": max(FORMATS, key=lambda f: before["share"][f]),
        "winner": winner,
        "won_step": won,
        "won_epochs": None if won is None else won / epoch,
        "half_epochs": None if half is None else half / epoch,
        "half_step": half,
        "epoch_share": at(epoch, [e["share"][winner] for e in exams]),
        "gain": gain,
        "gain_by_half": share_of_gain(None if half is None else at(half, accuracy)),
        "gain_by_epoch": share_of_gain(at(epoch, accuracy)),
        "gain_by_choice": share_of_gain(chosen),
        **_flat("before/", before),
        **_flat("after/", after),
        "exams": exams,
    }


def _flat(prefix: str, exam: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in exam.items():
        parts = {f"/{k}": v for k, v in value.items()} if isinstance(value, dict) else {"": value}
        found |= {f"{prefix}{key}{k}": v for k, v in parts.items()}
    return found


def word(rows: Sequence[Row]) -> str:
    """``confirmed``, ``refuted`` or ``mixed`` for one base and coefficient.

    Confirmed: in every run the same format won, and the interval of when it did lies within the first epoch.
    Refuted: no format won in at least half of the runs, or the interval of when lies past the first epoch.
    """
    known = [r["won_epochs"] for r in rows if r["won_epochs"] is not None]
    when = over(known)
    if when is None or len(known) * 2 <= len(rows) or when[1] > 1:
        return "refuted"
    same = len({r["winner"] for r in rows}) == 1
    return "confirmed" if len(known) == len(rows) and same and when[2] <= 1 else "mixed"


def _winners(rows: Sequence[Row]) -> str:
    return ", ".join(f"{name} {n}/{len(rows)}" for name, n in Counter(r["winner"] for r in rows).most_common())


def verdict(rows: Sequence[Row]) -> str:
    """The word for the whole study, that of all its settings if they agree, in a sentence with what it rests on."""
    words = Counter(word(own) for own in named(rows).values())
    all_of = words.most_common(1)[0][0] if len(words) == 1 else "mixed"
    told = ", ".join(f"{words[w]} {w}" for w in ("confirmed", "mixed", "refuted"))
    won = sum(r["won_epochs"] is not None and r["won_epochs"] <= 1 for r in rows)
    best, common = (sum(r["winner"] == r[key] for r in rows) for key in ("base_best", "base_majority"))
    return (
        f"**One format wins within the first epoch: {all_of}** ({told}). In {won} of {len(rows)} runs one format had "
        f"{WON:.0%} of the completions within the first epoch ({rows[0]['epoch_steps']} steps). At the end the "
        f"commonest format was the base's most accurate one in {best} of {len(rows)} runs and the base's commonest in "
        f"{common}."
    )


def table(rows: list[Row], out: Path) -> str:
    """The whole report; ``echo.svg`` and ``echo.png`` into ``out``."""
    if not rows:
        raise DreamEnvsError("no finished run: nothing to sum up")
    parts: dict[str, Any] = {f"{f}: share": (f"before/share/{f}", 3) for f in FORMATS}
    parts |= {f"accuracy in {f}": f"before/accuracy_in/{f}" for f in FORMATS}
    parts |= {"accuracy": ("before/accuracy", 3), "greedy accuracy": "before/greedy/accuracy"}
    claim: dict[str, Any] = {"share after epoch 1": "epoch_share", "entropy halved (epochs)": "half_epochs"}
    claim |= {f"share {WON:.0%} (epochs)": "won_epochs", "(step)": ("won_step", 0)}
    claim |= {"gain made when halved": "gain_by_half", "gain made by epoch 1": "gain_by_epoch"}
    pairs = ("accuracy", "entropy", "pass@k/8", "pass@k/32", "majority@k/8", "majority@k/32", "greedy/gap")
    ends = {f"{key} {when}": f"{when}/{key}" for key in pairs for when in ("before", "after")}
    ends |= {"gain by choice of format alone": "gain_by_choice", "effective formats": "after/effective"}
    ends |= {"JS distance to base": "after/js", "KL to base (nats a completion)": "after/kl"}
    lines = [verdict(rows), "\nBefore training:\n"]
    lines.append(table_of([{**r, "name": r["base"]} for r in rows], parts, head="base"))
    lines.append(table_of(rows, claim, {"format at the end": _winners, "claim": word}))
    lines += [table_of(rows, ends), "What the KL coefficient changes, paired by seed:\n"]
    lines += [
        f"- {name} against {other}, {key} at the end: {show(found, 3)}" for name, other, key, found in effects(rows)
    ]
    plot(rows, out)
    return "\n".join([*lines, "\n![format entropy against accuracy](echo.svg)\n"])


def effects(rows: Sequence[Row]) -> list[tuple[str, str, str, Interval | None]]:
    """What each setting ends in less what the first of its base does."""
    least: dict[str, str] = {}
    for row in rows:
        least.setdefault(row["base"], row["name"])
    pairs = [(name, least[own[0]["base"]]) for name, own in named(rows).items()]
    keyed = itertools.product([p for p in pairs if p[0] != p[1]], ("entropy", "accuracy", "effective"))
    return [(name, other, key, difference(rows, name, other, f"after/{key}")) for (name, other), key in keyed]


def plot(rows: Sequence[Row], folder: Path) -> None:
    """``echo.svg`` and ``echo.png``: a row a base; shares by step, entropy by step, entropy against accuracy."""
    import matplotlib

    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "dream-envs", "font.size": 9}
    with matplotlib.rc_context({**style, "legend.frameon": False}):
        from matplotlib.figure import Figure

        bases = list(dict.fromkeys(r["base"] for r in rows))
        figure = Figure(figsize=(10.5, 3.1 * len(bases)), layout="constrained")
        for axes, base in zip(figure.subplots(len(bases), 3, squeeze=False), bases, strict=True):
            _panels(axes, base, named([r for r in rows if r["base"] == base]))
        figure.savefig(folder / "echo.svg", metadata={"Date": None})
        figure.savefig(folder / "echo.png", dpi=140)


def _panels(axes: Any, base: str, settings: dict[str, list[Row]]) -> None:
    first = next(iter(settings.values()))
    steps = [e["step"] for e in first[0]["exams"]]

    def series(rows: Sequence[Row], *keys: str) -> np.ndarray:
        values = [[_flat("", e)["/".join(keys)] for e in r["exams"]] for r in rows]
        return np.array([over(at) for at in zip(*values, strict=True)]).T

    def band(ax: Any, found: np.ndarray, label: str) -> None:
        ax.plot(steps, found[0], linewidth=1.5, label=label)
        ax.fill_between(steps, found[1], found[2], alpha=0.2, linewidth=0)

    for name in FORMATS:
        band(axes[0], series(first, "share", name), name)
    for name, own in settings.items():
        entropy = series(own, "entropy")
        band(axes[1], entropy, name)
        axes[2].plot(series(own, "accuracy")[0], entropy[0], marker="o", markersize=3, linewidth=1.2, label=name)
    axes[0].set(title=f"{base}: shares, {first[0]['name']}", ylim=(0, 1))
    axes[1].set_title("format entropy (bits)")
    axes[2].set(title="entropy (bits) against accuracy", xlabel="accuracy on held-out problems")
    for ax in axes[:2]:
        ax.set_xscale("symlog", linthresh=1)
        ax.axvline(first[0]["epoch_steps"], color="0.5", linewidth=0.8, linestyle=":")
        ax.set(xlabel="step (dotted: end of epoch 1)", xlim=(0, steps[-1]))
    for ax in axes:
        ax.legend()
