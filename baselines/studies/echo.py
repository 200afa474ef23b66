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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dream_envs.baselines.loops.dream import rows as row_settings
from dream_envs.baselines.recipe import EvalSettings, Loop, Options, Phase, Recipe
from dream_envs.baselines.studies.echo_family import FORMATS, CompositionFormats
from dream_envs.baselines.studies.echo_measure import Exam, K, rounds
from dream_envs.baselines.studies.grid import Row, difference, named, table_of, trained
from dream_envs.baselines.studies.intervals import Interval, over, show
from dream_envs.core import DreamEnvsError, Task
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.runs import read_json, write_json
from dream_envs.seeds import stream

if TYPE_CHECKING:
    from dream_envs.agents.engines.local import LocalAgent
    from dream_envs.agents.training.learner import PolicyLearner
    from dream_envs.baselines.loop import Context

RESULT = "echo.json"
BASES = ("nano/echo", "nano/echo_wide")
COEFFICIENTS = (0.0, 1e-3, 1e-2)
STEPS = 96
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
            if (value := getattr(self, name)) < 1:
                raise DreamEnvsError(f"{name}={value}: 1 or more")
        if self.train % self.prompts:
            raise DreamEnvsError(f"train={self.train}: a multiple of prompts={self.prompts}, so that epochs are whole")
        if self.draws % max(K) or self.draws < 1:
            raise DreamEnvsError(f"draws={self.draws}: a multiple of {max(K)}")
        if not self.kl >= 0:
            raise DreamEnvsError(f"kl={self.kl}: 0 or more")


def world_of(base: str, depth: int) -> dict[str, Any]:
    """Arguments of the family that a nano base was pre-trained on, by its ``nano.json``.

    Raises:
        DreamEnvsError: if the folder does not say.
    """
    from dream_envs.agents.engines.local import resolve

    folder = Path(resolve(base))
    card = read_json(folder / "nano.json")
    try:
        arguments = dict(card["recipe"]["support"]["family_args"])
    except (KeyError, TypeError) as error:
        raise DreamEnvsError(f"base={base!r}: {folder}/nano.json names no family_args; give a nano base") from error
    return {**arguments, "max_level": depth + 1}


def problems(family: CompositionFormats, depth: int, train: int, test: int) -> tuple[list[Task], list[Task]]:
    """Distinct problems of this depth, the same for every run: ``train`` to learn from, ``test`` to be asked.

    Raises:
        DreamEnvsError: if the world does not have so many.
    """
    if depth not in family.levels:
        raise DreamEnvsError(f"depth={depth}: {family.levels.start} to {family.levels.stop - 1}")
    every = [
        family.make(start, "".join(ops))
        for start in family.states
        for ops in itertools.product(family.operations, repeat=depth)
    ]
    every = [t for t in every if not t.meta["held_out"]]
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


def exam_of(chosen: EchoSettings, seed: str, base: LocalAgent) -> Exam:
    """The run's exam."""
    family = CompositionFormats(**world_of(chosen.base, chosen.depth))
    test = problems(family, chosen.depth, chosen.train, chosen.test)[1]
    return Exam(family, test, base, seed=seed, draws=chosen.draws, group=chosen.attempts)


def recipe(chosen: EchoSettings, steps: int) -> Recipe:
    """GRPO on the fixed problems, without a review: no gold completion exists anywhere; exams at log-spaced steps."""

    def prepare(ctx: Context, game: Any, label: str) -> tuple[Curriculum, dict[str, Any]]:
        tasks = problems(game.family, chosen.depth, chosen.train, chosen.test)[0]
        return passes(game, tasks, chosen.prompts, label), {}

    def learn(ctx: Context, model: LocalAgent, seed: str, place: Path) -> PolicyLearner:
        from dream_envs.agents.training.learner import PolicyLearner

        exam, at = exam_of(chosen, seed, ctx.base), set(marks(steps))

        def look(step: int, agent: LocalAgent) -> dict[str, Any]:
            if step in at:
                ctx.note(f"exam-{step:05d}.json", exam(agent))
            return {}

        return PolicyLearner(model, settings=ctx.rule, seed=seed, evaluate=look)

    count = chosen.prompts * chosen.attempts
    return Recipe(
        args={"solvers": chosen.attempts},
        family="dream_envs.baselines.studies.echo_family:CompositionFormats",
        family_args=world_of(chosen.base, chosen.depth),
        gates=(),
        mixture=Mixture(0, 0, 0, dataset=chosen.prompts),
        reward={"": "correctness()"},
        phases=(Phase("echo", steps, prepare=prepare),),
        learning={
            **row_settings(chosen.prompts, rows=count + count % 2),
            "kl": chosen.kl,
            "lr": chosen.lr,
            "warmup": chosen.warmup,
        },
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
MARKS: dict[str, str] = {}


def run(settings: Options, seed: str, out: Path) -> None:
    """Train, and collect the run's whole record in ``echo.json``."""
    from dream_envs.agents.engines.local import LocalAgent
    from dream_envs.baselines.recipe import changed
    from dream_envs.play import read_episodes

    summary = trained(settings, seed, out)
    own = {k: v for k, v in settings.set.items() if "." not in k}
    chosen = changed(EchoSettings(), own, "echo")
    last = exam_of(chosen, seed, LocalAgent(chosen.base))(LocalAgent(str(out / "checkpoints" / "final")))
    exams = [{"step": int(path.stem[-5:]), **read_json(path)} for path in sorted(out.glob("exam-*.json"))]
    record = {
        "settings": chosen,
        "epoch_steps": chosen.train // chosen.prompts,
        "exams": [*exams, {"step": summary.run.steps, **last}],
        "rounds": rounds(read_episodes(out / "episodes.jsonl"), chosen.prompts),
    }
    write_json(out / RESULT, record)


def smooth(series: Sequence[float], window: int = WINDOW) -> np.ndarray:
    """Centred mean over ``window`` steps, over fewer at the ends."""
    x, half = np.asarray(series, dtype=np.float64), window // 2
    return np.array([x[max(0, i - half) : i + half + 1].mean() for i in range(len(x))])


def score(folder: Path) -> dict[str, Any]:
    """What one run shows; see ``derive``."""
    return derive(read_json(folder / RESULT))


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
    steps = [e["step"] for e in exams]

    def first(holds: np.ndarray) -> int | None:
        return int(told["step"][int(holds.argmax())]) if holds.any() else None

    def at(step: float, values: Sequence[float]) -> float:
        return float(np.interp(step, steps, values))

    won = first(smooth(told["share"][winner]) >= WON)
    half = first(smooth(told["entropy"]) <= before["entropy"] / 2)
    gain = after["accuracy"] - before["accuracy"]
    accuracy = [e["accuracy"] for e in exams]
    chosen = sum(after["share"][f] * (before["accuracy_in"][f] or 0.0) for f in FORMATS)
    enough = gain >= LEAST_GAIN
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
        "gain_by_half": (at(half, accuracy) - before["accuracy"]) / gain if enough and half is not None else None,
        "gain_by_epoch": (at(epoch, accuracy) - before["accuracy"]) / gain if enough else None,
        "gain_by_choice": (chosen - before["accuracy"]) / gain if enough else None,
        **{f"before/{k}": v for k, v in _flat(before).items()},
        **{f"after/{k}": v for k, v in _flat(after).items()},
        "exams": exams,
    }


def _flat(exam: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in exam.items():
        found |= {f"{key}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
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
    claim: dict[str, Any] = {
        "share after epoch 1": "epoch_share",
        "entropy halved (epochs)": "half_epochs",
        f"share {WON:.0%} (epochs)": "won_epochs",
        "(step)": ("won_step", 0),
        "gain made when halved": "gain_by_half",
        "gain made by epoch 1": "gain_by_epoch",
    }
    pairs = ("accuracy", "entropy", "pass@k/8", "pass@k/32", "majority@k/8", "majority@k/32", "greedy/gap")
    ends = {f"{key} {when}": f"{when}/{key}" for key in pairs for when in ("before", "after")}
    ends |= {"gain by choice of format alone": "gain_by_choice", "effective formats": "after/effective"}
    ends |= {"JS distance to base": "after/js", "KL to base (nats a completion)": "after/kl"}
    lines = [
        f"- {name} against {other}, {key} at the end: {show(found, 3)}" for name, other, key, found in effects(rows)
    ]
    plot(rows, out)
    return "\n".join(
        [
            verdict(rows),
            "\nBefore training:\n",
            table_of([{**r, "name": r["base"]} for r in rows], parts, head="base"),
            table_of(rows, claim, {"format at the end": _winners, "claim": word}),
            table_of(rows, ends),
            "What the KL coefficient changes, paired by seed:\n",
            *lines,
            "\n![format entropy against accuracy](echo.svg)\n",
        ]
    )


def effects(rows: Sequence[Row]) -> list[tuple[str, str, str, Interval | None]]:
    """What each setting ends in less what the first of its base does."""
    least: dict[str, str] = {}
    for row in rows:
        least.setdefault(row["base"], row["name"])
    pairs = [(name, least[own[0]["base"]]) for name, own in named(rows).items()]
    return [
        (name, other, key, difference(rows, name, other, f"after/{key}"))
        for name, other in pairs
        if name != other
        for key in ("entropy", "accuracy", "effective")
    ]


def plot(rows: Sequence[Row], folder: Path) -> list[Path]:
    """``echo.svg`` and ``echo.png``: a row a base; shares by step, entropy by step, entropy against accuracy."""
    import matplotlib

    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "dream-envs", "font.size": 9}
    with matplotlib.rc_context({**style, "legend.frameon": False}):
        from matplotlib.figure import Figure

        bases = list(dict.fromkeys(r["base"] for r in rows))
        figure = Figure(figsize=(10.5, 3.1 * len(bases)), layout="constrained")
        for axes, base in zip(figure.subplots(len(bases), 3, squeeze=False), bases, strict=True):
            _panels(axes, base, named([r for r in rows if r["base"] == base]))
        paths = [folder / "echo.svg", folder / "echo.png"]
        figure.savefig(paths[0], metadata={"Date": None})
        figure.savefig(paths[1], dpi=140)
    return paths


def _panels(axes: Any, base: str, settings: dict[str, list[Row]]) -> None:
    first = next(iter(settings.values()))
    steps = [e["step"] for e in first[0]["exams"]]

    def series(rows: Sequence[Row], *keys: str) -> np.ndarray:
        values = [[_flat(e)["/".join(keys)] for e in r["exams"]] for r in rows]
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
