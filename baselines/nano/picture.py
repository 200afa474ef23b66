"""The README's picture: ``python -m dream_envs.baselines.nano.picture RUN... docs/flagship.svg``.

Exact success by depth on 64 problems, at temperature 1: of the base, of the base in pieces (each problem cut into parts
of at most three operations, the replies joined), and of the runs' final weights, mean and 95 % t-interval over runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dream_envs.agents.engines.local import LocalAgent
from dream_envs.baselines.nano.exams import said_by_user, success
from dream_envs.baselines.studies.grid import over
from dream_envs.seeds import stream
from dream_envs.tasks.composition import Composition

DEPTHS = tuple(range(1, 13))
PIECE = 3


def by_depth(agent: LocalAgent, piece: int, count: int = 64) -> list[float]:
    """Mean success at each depth; a problem is right where each of its pieces of so many operations is."""
    family, found = Composition(max_level=max(DEPTHS)), []
    for depth in DEPTHS:
        rng, total = stream("picture", depth), np.ones(count)
        tasks = [family.generate(rng, depth) for _ in range(count)]
        for at in range(0, depth, piece):
            answers = [task.answer[2 * at : 2 * (at + piece)] for task in tasks]
            starts = [(task.prompt[0] + task.answer)[2 * at] for task in tasks]
            asked = [f"{s}:{task.prompt[2 + at : 2 + at + piece]}" for s, task in zip(starts, tasks, strict=True)]
            total *= success(agent, said_by_user(asked), answers)
        found.append(float(total.mean()))
    return found


def draw(base: LocalAgent, runs: Sequence[LocalAgent], path: Path) -> dict[str, list[float]]:
    """Write the picture; the curves by their names."""
    from matplotlib.figure import Figure

    trained = np.array([by_depth(agent, max(DEPTHS)) for agent in runs])
    curves = {
        "trained, one reply": trained.mean(0).tolist(),
        "base, in pieces of three": by_depth(base, PIECE),
        "base, one reply": by_depth(base, max(DEPTHS)),
    }
    figure = Figure(figsize=(7.2, 3.4))
    axes = figure.subplots()
    for (name, ys), style in zip(curves.items(), ("-", "--", "-"), strict=True):
        axes.plot(DEPTHS, ys, style, marker="o", markersize=4, label=name)
    if len(runs) > 1:
        ends = np.array([over(column) for column in trained.T.tolist()])
        axes.fill_between(DEPTHS, ends[:, 1].clip(0), ends[:, 2].clip(max=1), alpha=0.2, linewidth=0)
    axes.axvspan(0.5, PIECE + 0.5, color="0.92", zorder=0)
    axes.text(0.6, 0.03, "all that the base\nwas ever shown", color="0.35", fontsize=9)
    axes.set(xlabel="depth of the problem", ylabel="exact success", ylim=(-0.02, 1.02), xlim=(0.5, max(DEPTHS) + 0.5))
    axes.set_xticks(DEPTHS)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.42, 0.1))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    return curves


def main() -> None:
    """Draw, and print the curves."""
    parser = argparse.ArgumentParser(description="success by depth: the base, in pieces, and trained")
    parser.add_argument("runs", type=Path, nargs="+", help="runs of dream-envs dream, and then the picture's file")
    given = parser.parse_args()
    *runs, path = given.runs
    agents = [LocalAgent(str(run / "checkpoints" / "final")) for run in runs]
    for name, ys in draw(LocalAgent("nano/compose"), agents, path).items():
        print(f"{name}: " + " ".join(f"{y:.3f}" for y in ys))


if __name__ == "__main__":
    main()
