"""Self-judging with known truth: ``python -m dream_envs.baselines.studies self_judging``.

The base ``nano/judge`` solves with slips and judges with declared noise; whether an answer is right is known exactly
and enters no reward but the noise dial's.  Every variant is the same learner (GRPO) on the same problems with another
judge or another reward; see ``Variant``.

Departures from SERL: GRPO's own normalisation, no KL term, both roles weighted alike throughout, and in some of the
length variants a wider range of lengths than its 0.2, since answers are d (states alone) or 2d characters (traces).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np

from dream_envs.agents.elicitation.attempts import attempts
from dream_envs.agents.engines import judges
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.sources import RoleWeights
from dream_envs.baselines.eval_set import log_success
from dream_envs.baselines.loop import Context
from dream_envs.baselines.nano.exams import pairs, pairwise_exam
from dream_envs.baselines.recipe import SELF_JUDGE, Loop, Options, Phase, Recipe
from dream_envs.baselines.studies.grid import Interval, Row, ends, named, over, own_settings, sign, table_of, trained
from dream_envs.checks import check
from dream_envs.core import Task
from dream_envs.curriculum.curriculum import Curriculum, Mixture
from dream_envs.curriculum.store import ChallengeStore
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.metrics.cards import judge_card, records
from dream_envs.metrics.rounds import read_rows
from dream_envs.play import read_episodes
from dream_envs.rewards.self_judge import serl
from dream_envs.rewards.self_judge_groups import role_weights
from dream_envs.rewards.solver import majority
from dream_envs.runs import read_json, write_json
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

RESULT = "self_judging.json"
DIAL = ((0.3, 0.7), (0.4, 0.6), (0.5, 0.5), (0.6, 0.4), (0.7, 0.3), (0.9, 0.1))
#: Length control of the always-first judge: the rule, and a range in which answers of d and of 2d characters meet
#: (0.6), or do not (SERL's own 0.2; 0.4 for the symmetric rule, which reaches from 0.6 to 1 / 0.6).
CONTROLS = {"off": ("off", 0.6), "serl": ("serl", 0.6), "narrow": ("serl", 0.2), "symmetric": ("symmetric", 0.4)}
#: A judge whose expected calibration error is above this is not calibrated.
CALIBRATED = 0.1


class Variant(msgspec.Struct, frozen=True):
    """One way of judging.

    ``judge``: a scripted judge (``agents.engines.judges``), ``self`` for the learner's own weights, empty for none and
    a majority vote; ``noise``: its arguments.  ``control``, ``alpha``: of ``rewards.serl``.  ``rows``: of a step, an
    even number.  ``prompts``: of ``train``, a step; ``test``: problems of the exam.
    """

    judge: str = "self"
    noise: dict[str, float] = {}
    control: str = "serl"
    alpha: float = 0.2
    actors: int = 4
    judgements: int = 2
    swap: bool = True
    levels: tuple[int, ...] = (2, 3)
    rows: int = 64
    prompts: int = 16
    train: int = 512
    test: int = 96
    lr: float = 5e-4

    def __post_init__(self) -> None:
        for name in ("prompts", "train", "test"):
            check(name, getattr(self, name), 1)


def problems(family: Any, count: int, label: str, levels: Sequence[int]) -> list[Task]:
    """``count`` distinct problems, the levels in turn, the same for every run."""
    rng, found = stream("self-judging", label), dict[str, Task]()
    while len(found) < count:
        task = family.generate(rng, levels[len(found) % len(levels)])
        found.setdefault(task.id, task)
    return list(found.values())


def recipe(chosen: Variant, steps: int) -> Recipe:
    """A fixed list of problems; who judges and what that earns is the variant's."""
    args: dict[str, Any] = {"actors": chosen.actors, "judgements": chosen.judgements, "order_swap": chosen.swap}
    args |= {"judging": "pairwise" if chosen.judge else "none", "level": list(chosen.levels)}
    kinds: dict[str, Any] = {"always_first": judges.AlwaysFirst, "cyclic": judges.Cyclic, "noisy": judges.Noisy}
    seats = {}
    if chosen.judge in kinds:
        seats["judge"] = kinds[chosen.judge](SelfJudge("composition", **args), **chosen.noise)

    def prepare(ctx: Context, game: Any, label: str) -> tuple[Curriculum, dict[str, Any]]:
        tasks = problems(game.family, chosen.train, f"train {chosen.levels}", chosen.levels)
        listed: dict[str, Any] = {"dataset": tasks, "label": "fixed", "anew": True}
        return Curriculum(game, ctx.recipe.mixture, seed=label, store=ChallengeStore(None), **listed), {}

    def sources() -> tuple[Any, ...]:
        return (RoleWeights(lambda progress: role_weights(progress, "equal")),) if chosen.judge == "self" else ()

    judged = serl(alpha=chosen.alpha, length_control=chosen.control, length="chars")
    roles = {"actor": {"groups": chosen.prompts}, "judge": {}}
    return Recipe(
        env=SELF_JUDGE,
        args=args,
        mixture=Mixture(0, 0, 0, dataset=chosen.prompts),
        gates=(),
        reward={"": judged if chosen.judge else majority(role="actor")},
        seats=seats,
        phases=(Phase("self_judging", steps, prepare=prepare),),
        learning={"rows.rows": chosen.rows, "rows.roles": roles, "lr": chosen.lr, "warmup": 5},
        sources=sources,
        label="self-judging",
        model="nano/judge",
        steps=steps,
    )


LOOP = Loop("self_judging", "self-judging with known truth", Variant, recipe, 24)


def _settings() -> dict[str, Options]:
    def made(steps: int = 24, model: str | None = None, **changes: Any) -> Options:
        return Options(f"{__name__}:LOOP", steps=steps, model=model, set=changes)

    vote: dict[str, Any] = {"judge": "", "actors": 8, "rows": 128}
    found = {
        "honest": made(30, judgements=4, rows=448),
        "cyclic": made(12, judge="cyclic", actors=3),
        "vote": made(model="nano/compose", levels=[4], **vote),
        "majority": made(levels=[3, 4], **vote),
    }
    for swap in (False, True):
        for name, (control, alpha) in CONTROLS.items():
            first = made(judge="always_first", control=control, alpha=alpha, swap=swap)
            found[f"first_{'swapped' if swap else 'fixed'}_{name}"] = first
    for tpr, fpr in DIAL:
        found[f"dial_{tpr - fpr:+.1f}"] = made(judge="noisy", noise={"tpr": tpr, "fpr": fpr}, control="off")
    return found


SETTINGS = _settings()
GRIDS = {"all": tuple(SETTINGS)}


class Exam:
    """Problems and pairs of the variant's levels that are never trained on, the same for every run of it.

    ``seed``: the label of the sampled completions (for ``length`` and ``traces``).
    """

    def __init__(self, chosen: Variant, seed: str) -> None:
        self.family, self.seed = Composition(), seed
        known = {t.id for t in problems(self.family, chosen.train, f"train {chosen.levels}", chosen.levels)}
        fresh = problems(self.family, chosen.test * 2, f"test {chosen.levels}", chosen.levels)
        self.tasks = [t for t in fresh if t.id not in known][: chosen.test]
        self.pairs = [p for d in sorted({t.level for t in self.tasks}) for p in pairs(self.family, d, 48, "study")]

    def __call__(self, agent: LocalAgent) -> dict[str, Any]:
        """``accuracy`` (mean exact probability of the accepted completion at T = 1; ``deepest``: at the deepest depth).

        ``length`` of a completion and the share of ``traces``; and ``judge/``: see ``nano.exams.pairwise_exam``.
        """
        exact = np.exp(log_success(agent, self.tasks))
        levels = np.array([t.level for t in self.tasks])
        drawn = attempts(agent, self.tasks, self.family, 4, f"self-judging/{self.seed}")
        texts = [(task, a.text) for task, row in zip(self.tasks, drawn, strict=True) for a in row]
        return {
            "accuracy": float(exact.mean()),
            "deepest": float(exact[levels == levels.max()].mean()),
            "length": float(np.mean([len(text) for _, text in texts])),
            "traces": float(np.mean([len(text) == 2 * task.level for task, text in texts])),
            **{f"judge/{k}": v for k, v in pairwise_exam(agent, self.pairs).items() if k != "by_kind"},
        }


def run(settings: Options, seed: str, out: Path) -> None:
    """Train, then examine what there was before and what there is after."""
    summary, exam = trained(settings, seed, out), Exam(own_settings(LOOP, settings), seed)
    before, after = (exam(LocalAgent(p)) for p in (summary.run.base, str(out / "checkpoints" / "final")))
    write_json(out / RESULT, {"first": before, "last": after, "card": card(out)})


def card(folder: Path) -> dict[str, Any] | None:
    """The judge card of the second half of the recorded episodes; None where nobody judged."""
    episodes = sorted(read_episodes(folder / "episodes.jsonl"), key=lambda e: e.index)
    last = episodes[-max(1, len(episodes) // 2) :]
    if not any("judgements" in e.outcome.facts for e in last):
        return None
    return judge_card(records(last), stream("self-judging", "card"), draws=400)


def score(folder: Path) -> dict[str, Any]:
    """The figures of a run.

    ``first/``, ``last/`` and ``gain/`` of the exam's figures and of what the run rewarded (``rewarded``: mean reward of
    the actors in its first and last quarter); ``labels``: label accuracy of the last quarter; ``collapsed``: accuracy
    ended below a tenth of its start; ``alarm``: the label alarm rang; ``flags``: of the judge card.
    """
    exams, metrics = read_json(folder / RESULT), read_rows(folder)

    def quarter(key: str, which: str) -> float | None:
        values = [row[key] for row in metrics if row.get(key) is not None]
        count = max(1, len(values) // 4)
        part = values[:count] if which == "first" else values[-count:]
        return fmean(part) if part else None

    first, last = ({**exams[which], "rewarded": quarter("curriculum/solved", which)} for which in ("first", "last"))
    flags = (exams["card"] or {}).get("flags", ())
    return {
        **{f"first/{k}": v for k, v in first.items()},
        **{f"last/{k}": v for k, v in last.items()},
        **{f"gain/{k}": last[k] - v for k, v in first.items() if v is not None and last[k] is not None},
        "labels": quarter("curriculum/label_accuracy", "last"),
        "collapsed": last["accuracy"] < first["accuracy"] / 10,
        "alarm": any("labels agree" in a for row in metrics for a in row.get("alarms") or ()),
        "flags": [" ".join(w for w in f.split() if not w.replace(".", "").replace(":", "").isdigit()) for f in flags],
    }


def answers(rows: Sequence[Row]) -> dict[str, str]:
    """Question to answer; only those whose variants are there."""
    found: dict[str, str] = {}
    by = named(rows)

    def of(name: str, key: str) -> Interval | None:
        return over([r.get(key) for r in by[name]])

    if "honest" in by:
        calibration, sure = (of("honest", f"last/judge/{key}") for key in ("calibration", "overconfidence"))
        found["honest self-judging raises the actor's accuracy"] = sign(of("honest", "gain/accuracy"))
        found[f"its judge is calibrated (error at most {CALIBRATED})"] = below(calibration, CALIBRATED)
        found[f"its judge is overconfident by {CALIBRATED} at most"] = below(sure, CALIBRATED)
        found["its judge loses accuracy"] = sign(of("honest", "gain/judge/accuracy"), -1)
    for name in [name for name in by if name.startswith("first_")]:
        order, control = name.split("_")[1:]
        shorter = sign(of(name, "gain/length"), -1)
        found[f"always-first, {order} order, length control {control}: shorter"] = shorter
    if "cyclic" in by:
        flagged = all("of the triples go in a circle" in r["flags"] for r in by["cyclic"])
        found["the cyclic judge is flagged in every run"] = "yes" if flagged else "no"
    for name in sorted((name for name in by if name.startswith("dial_")), key=lambda name: float(name[5:])):
        found[f"noise dial {name[5:]}: accuracy rises"] = sign(of(name, "gain/accuracy"))
    for name in [name for name in ("majority", "vote") if name in by]:
        own, of_all = by[name], len(by[name])
        collapsed, rings = sum(r["collapsed"] for r in own), all(r["alarm"] for r in own)
        found[f"{name}: its reward rises"] = sign(of(name, "gain/rewarded"))
        found[f"{name}: accuracy at the deepest depth falls"] = sign(of(name, "gain/deepest"), -1)
        found[f"{name}: accuracy falls below a tenth of what it was"] = f"in {collapsed} of {of_all}"
        found[f"{name}: the label alarm rings in every run"] = "yes" if rings else "no"
    return found


def below(interval: Interval | None, bound: float) -> str:
    """``yes`` if the whole interval lies below the bound, ``no`` if above, else ``not shown``."""
    if interval is None:
        return "not measured"
    low, high = ends(interval)
    return "yes" if high <= bound else "no" if low > bound else "not shown"


def table(rows: list[Row], out: Path) -> str:
    """The variants and the answers."""
    columns = {
        "accuracy before": "first/accuracy", "after": "last/accuracy", "gain": "gain/accuracy",
        "length gain": "gain/length", "judge before": "first/judge/accuracy", "judge after": "last/judge/accuracy",
        "labels": "labels", "rewarded at first": "first/rewarded", "at last": "last/rewarded",
    }  # fmt: skip
    made = table_of(rows, columns, head="variant")
    return "\n".join([made, *(f"- {question}: **{answer}**" for question, answer in answers(rows).items()), ""])
