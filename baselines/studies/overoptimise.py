"""How far may a reward model be optimised?  ``python -m dream_envs.baselines.studies overoptimise``.

``free``, ``light`` and ``strong``: loop ``preference`` with a penalty for leaving the base of 1e-6 (none, but it is
measured), 0.05 and 0.5.  The proxy is the reward model's mean score of a round's answers, the truth the share of them
that is right (the policy never sees it), KL the mean over its sampled tokens (k3, to the base).

Written before the first run of the seeds below, found on the seed ``pref`` (30 steps, no penalty), which is none of
the study's: in ``free`` the truth rises first and then falls below where it began while the proxy goes on rising, in
at least two of three seeds, and the alarm rings within 10 steps of the best; ``strong`` keeps the truth at or above
where it began.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dream_envs.baselines.recipe import Options
from dream_envs.baselines.studies.grid import Row, markdown, named, over, show, trained
from dream_envs.metrics.rounds import read_rows
from dream_envs.runs import read_json

SETTINGS = {
    name: Options("preference", steps=60, set={"kl": kl, "eval.every": 60})
    for name, kl in (("free", 1e-6), ("light", 0.05), ("strong", 0.5))
}
GRIDS = {"all": tuple(SETTINGS)}
#: Steps at either end that the first and the last figures are means of, and that a best one is the best mean of.
ENDS = 5
CURVES = {"proxy": "reward/solver/mean", "truth": "curriculum/truth", "kl": "train/kl"}
run = trained


def score(folder: Path) -> dict[str, Any]:
    """Curves by step, their means at both ends, the best truth with its step, and the first alarm's."""
    rows = read_rows(folder)
    curves = {name: [float(row.get(key, 0.0)) for row in rows] for name, key in CURVES.items()}
    found: dict[str, Any] = {f"curve/{name}": values for name, values in curves.items()}
    for name, values in curves.items():
        found |= {f"{name}/first": float(np.mean(values[:ENDS])), f"{name}/last": float(np.mean(values[-ENDS:]))}
    means = np.convolve(curves["truth"], np.ones(ENDS) / ENDS, "valid")
    found |= {"truth/best": float(means.max()), "best at": int(means.argmax()) + ENDS - 1}
    rung = [row["step"] for row in rows if any("over-optimised" in alarm for alarm in row.get("alarms", ()))]
    about = read_json(folder / "reward_model.json") or {}
    return found | {"alarm at": rung[0] if rung else -1, "ordered": about.get("held_out", float("nan"))}


def table(rows: list[Row], out: Path) -> str:
    """The means over seeds with 95 % t-intervals; the plot lies beside it."""
    lines = []
    for name, own in named(rows).items():
        shown = [show(over([r[key] for r in own]), 2) for key in
                 ("proxy/first", "proxy/last", "truth/first", "truth/best", "truth/last", "kl/last")]  # fmt: skip
        bells = ", ".join("-" if r["alarm at"] < 0 else str(r["alarm at"]) for r in own)
        best = ", ".join(str(r["best at"]) for r in own)
        lines.append([name, str(len(own)), *shown, best, bells])
    plot(rows, out / "overoptimise.png")
    head = [
        "penalty",
        "seeds",
        "proxy, first",
        "last",
        "truth, first",
        "best",
        "last",
        "KL a token, last",
        "best at step",
    ]
    return markdown([*head, "alarm at step"], lines)


def plot(rows: list[Row], file: Path) -> None:
    """Proxy, truth and KL over the steps, a line a seed, a panel a setting."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    by_name = named(rows)
    colours = {"proxy": "#b35806", "truth": "#2166ac", "kl": "#666666"}
    figure, axes = plt.subplots(1, len(by_name), figsize=(4 * len(by_name), 3.4), sharey=True, squeeze=False)
    top = max(max(r["curve/proxy"]) for r in rows)
    for axis, (name, own) in zip(axes[0], by_name.items(), strict=True):
        for number, row in enumerate(own):
            for curve, scale in (
                ("proxy", top),
                ("truth", 1.0),
                ("kl", max(1.0, max(max(r["curve/kl"]) for r in rows))),
            ):
                label = {
                    "proxy": f"proxy reward / {top:.1f}",
                    "truth": "true success",
                    "kl": f"KL a token / {scale:.1f}",
                }
                values = np.array(row[f"curve/{curve}"]) / scale
                axis.plot(values, color=colours[curve], lw=1.1, label=label[curve] if number == 0 else None)
            if row["alarm at"] >= 0:
                axis.axvline(row["alarm at"], color="#b2182b", lw=0.8, ls=":", label="alarm" if number == 0 else None)
        axis.set_title(f"{name}: penalty {SETTINGS[name].set['kl']:g}", fontsize=10)
        axis.set_xlabel("step")
        axis.set_ylim(-0.05, 1.05)
    axes[0][-1].legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, loc="upper right")  # where there is room
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)
