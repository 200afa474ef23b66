"""Self-judging with known truth: ``python -m dream_envs.baselines.studies.self_judging --out runs/self_judging``.

The base ``nano/judge`` solves with slips and judges with declared noise; whether an answer is right is known exactly
and enters no reward but the noise dial's.  Every arm is the same learner (GRPO) on the same problems with another
judge or another reward; see ``ARMS``.  Finished runs are skipped and unfinished ones resumed, so that the same command
goes on after a stop.

Departures from SERL: GRPO's own normalisation, no KL term, both roles weighted alike throughout, and in some of the
length arms a wider band than its 0.2, since answers here are d (states alone) or 2d characters (traces).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dream_envs.baselines.studies.side_by_side import positive, side_by_side
from dream_envs.core import AgentLike, DreamEnvsError, RewardModel, Task
from dream_envs.envs.self_judge import SelfJudge
from dream_envs.runs import Run, read_json

RESULT = "self_judging.json"
BASE = "nano/judge"
DIAL = ((0.3, 0.7), (0.4, 0.6), (0.5, 0.5), (0.6, 0.4), (0.7, 0.3), (0.9, 0.1))
#: Length control of the always-first arms: the rule, and a band in which answers of d and of 2d characters meet (0.6),
#: or do not (SERL's own 0.2; 0.4 for the symmetric rule, which reaches from 0.6 to 1 / 0.6).
CONTROLS = {"off": ("off", 0.6), "serl": ("serl", 0.6), "narrow": ("serl", 0.2), "symmetric": ("symmetric", 0.4)}


class Arm(msgspec.Struct, frozen=True):
    """One way of judging.

    ``base``: what is trained.  ``judge``: a scripted judge (``agents.judges``), ``self`` for the learner's own weights,
    empty for none; ``args`` its arguments.  ``reward``: keyword arguments of ``serl``, or ``majority``.  ``rows``: of a
    step, an even number.
    """

    says: str
    judge: str = "self"
    args: dict[str, float] = {}
    reward: str = "serl"
    control: str = "serl"
    alpha: float = 0.2
    actors: int = 4
    judgements: int = 2
    swap: bool = True
    levels: tuple[int, ...] = (2, 3)
    steps: int = 24
    rows: int = 64
    base: str = BASE


def _arms() -> dict[str, Arm]:
    found = {
        "honest": Arm("one policy answers and judges, both are trained", judgements=4, rows=448, steps=30),
        "cyclic": Arm("the judge goes round in circles", "cyclic", steps=12, actors=3),
        "vote": Arm(
            "no judge: the vote of eight answers, just past what the base can do",
            "",
            reward="majority",
            actors=8,
            levels=(4,),
            rows=128,
            base="nano/compose",
        ),
        "majority": Arm(
            "no judge: the vote of eight answers", "", reward="majority", actors=8, levels=(3, 4), rows=128
        ),
    }
    for swap in (False, True):
        for name, (control, alpha) in CONTROLS.items():
            says = (
                f"always the first; {'both orders' if swap else 'one order'}; length control {control}, alpha {alpha}"
            )
            name = f"first_{'swapped' if swap else 'fixed'}_{name}"
            found[name] = Arm(says, "always_first", control=control, alpha=alpha, swap=swap)
    for tpr, fpr in DIAL:
        args = {"tpr": tpr, "fpr": fpr}
        found[f"dial_{tpr - fpr:+.1f}"] = Arm(f"noisy judge, tpr {tpr}, fpr {fpr}", "noisy", args, control="off")
    return found


ARMS = _arms()


class Settings(msgspec.Struct, frozen=True):
    """What decides a run's result; ``steps=0``, ``base=""``: the arm's own.  ``prompts``: of ``train``, a step."""

    arm: str
    seed: str = "0"
    base: str = ""
    steps: int = 0
    prompts: int = 16
    train: int = 512
    test: int = 96
    lr: float = 5e-4

    def __post_init__(self) -> None:
        if self.arm not in ARMS:
            raise DreamEnvsError(f"arm={self.arm!r}: one of {', '.join(ARMS)}")
        if min(self.prompts, self.train, self.test) < 1 or self.steps < 0:
            raise DreamEnvsError(f"{self}: prompts, train and test are 1 or more, steps 0 or more")


def _problems(game: SelfJudge, count: int, label: str, levels: Sequence[int]) -> list[Task]:
    """``count`` distinct problems, the levels in turn, the same for every run."""
    from dream_envs.seeds import stream

    assert game.family is not None
    rng, found = stream("self-judging", label), dict[str, Task]()
    while len(found) < count:
        task = game.family.generate(rng, levels[len(found) % len(levels)])
        found.setdefault(task.id, task)
    return list(found.values())


def _game(arm: Arm) -> SelfJudge:
    judging = "pairwise" if arm.judge else "none"
    return SelfJudge(
        "composition",
        actors=arm.actors,
        judgements=arm.judgements,
        order_swap=arm.swap,
        judging=judging,
        level=list(arm.levels),
    )


def _reward(arm: Arm) -> RewardModel:
    from dream_envs.rewards.self_judge import serl
    from dream_envs.rewards.solver import majority

    if arm.reward == "majority":
        return majority(role="actor")
    return serl(alpha=arm.alpha, length_control=arm.control, length="chars")


def _judge(arm: Arm, game: SelfJudge) -> dict[str, AgentLike]:
    from dream_envs.agents.engines import judges

    kinds: dict[str, Callable[..., AgentLike]] = {
        "always_first": judges.AlwaysFirst,
        "cyclic": judges.Cyclic,
        "noisy": judges.Noisy,
    }
    return {"judge": kinds[arm.judge](game, **arm.args)} if arm.judge in kinds else {}


def run(settings: Settings, out: Path, *, save_every: int = 16) -> dict[str, Any]:
    """One run in ``out`` to its end, from wherever it stands; returns ``self_judging.json``.

    Raises:
        DreamEnvsError: if the folder holds another run.
    """
    import torch
    from dream_envs.agents.training.grpo import GRPO, GRPOSettings
    from dream_envs.agents.training.self_practice import FixedPrompts, SelfPractice

    from dream_envs.agents.engines.local import keep_memory, resolve
    from dream_envs.agents.training.rows import RowConfig
    from dream_envs.baselines.nano.recipe import weights_hash
    from dream_envs.baselines.studies.self_judging_exam import Exam

    torch.set_num_threads(1)
    keep_memory()
    began, arm = time.perf_counter(), ARMS[settings.arm]
    steps, base = settings.steps or arm.steps, settings.base or arm.base
    config = {"command": "self_judging", **msgspec.to_builtins(settings), "steps": steps, "base": base}
    config |= {"rule": msgspec.to_builtins(arm), "weights_hash": weights_hash(Path(resolve(base)))}
    folder = Run(out, config)
    if (done := folder.read(RESULT)) is not None:
        folder.close()
        return done
    game = _game(arm)
    train = _problems(game, settings.train, f"train {arm.levels}", arm.levels)
    known = {t.id for t in train}
    test = [t for t in _problems(game, settings.test * 2, f"test {arm.levels}", arm.levels) if t.id not in known]
    exam = Exam(game, test[: settings.test], settings.seed)
    assert game.family is not None
    source = FixedPrompts(game.family, train, settings.prompts, f"self-judging/{settings.seed}")
    practice = SelfPractice(game, source, _reward(arm), folder, steps=steps, seats=_judge(arm, game))
    rows = RowConfig(rows=arm.rows, groups=settings.prompts, review=0)
    rule = GRPOSettings(lr=settings.lr, warmup=5, save_every=save_every, rows=rows)
    half = {0, steps // 2}
    learner = GRPO(
        base,
        settings=rule,
        seed=settings.seed,
        evaluate=lambda step, agent: {"exam": exam(agent)} if step in half else {},
    )
    learner.improve(practice, {}, steps, folder)
    result = _collect(config, folder, exam(learner.engine), exam.card(folder.path), time.perf_counter() - began)
    folder.write(RESULT, result)
    folder.close()
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    return read_json(folder.path / RESULT)  # as a run that is only read gives it


def _collect(
    config: dict[str, Any], folder: Run, last: dict[str, Any], card: dict[str, Any] | None, seconds: float
) -> dict[str, Any]:
    """The run's whole record, JSON-ready."""
    metrics = [msgspec.json.decode(x) for x in (folder.path / "metrics.jsonl").read_bytes().splitlines()]
    exams = [{"step": row["step"], **row["exam"]} for row in metrics if "exam" in row]
    kept = ("step", "solved", "band", "label_accuracy", "truth", "length", "judge_accuracy", "answer_entropy", "alarms")
    return {
        "schema": 1,
        "kind": "self_judging",
        "settings": {k: v for k, v in config.items() if k != "command"},
        "exams": [*exams, {"step": config["steps"], **last}],
        "rounds": [{k: row.get(k) for k in kept} for row in metrics],
        "card": card,
        "seconds": round(seconds, 1),
    }


def jobs(out: Path, seeds: Sequence[int], arms: Sequence[str]) -> list[tuple[Settings, Path]]:
    """What is still to be run, seed by seed, so that an early stop leaves whole seeds."""
    every = [(Settings(arm=a, seed=str(s)), out / f"{a}-{s}") for s in seeds for a in arms]
    return [(settings, path) for settings, path in every if not (path / RESULT).exists()]


def _work(job: tuple[Settings, Path]) -> tuple[str, float]:
    settings, path = job
    return path.name, run(settings, path)["seconds"]


def main() -> None:
    """``python -m dream_envs.baselines.studies.self_judging [--seeds 5] [--arms honest,cyclic] [--out DIR]``."""
    from dream_envs.baselines.studies.self_judging_report import summary, table

    parser = argparse.ArgumentParser(description="self-judging with known truth, several seeds an arm")
    parser.add_argument("--out", type=Path, default=Path("runs/self_judging"))
    parser.add_argument("--seeds", type=positive, default=5)
    parser.add_argument("--arms", default=",".join(ARMS), help="names with commas between them")
    parser.add_argument("--side-by-side", type=positive, default=2)
    given = parser.parse_args()
    try:
        waiting = jobs(given.out, range(given.seeds), given.arms.split(","))
        side_by_side(_work, waiting, given.side_by_side)
        found = summary([read_json(p) for p in sorted(given.out.glob(f"*/{RESULT}"))])
        (given.out / "table.md").write_text(table(found), "utf-8")
        print(table(found))
    except DreamEnvsError as error:
        sys.exit(f"self_judging: {error}")
    except KeyboardInterrupt:
        sys.exit("self_judging: stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
