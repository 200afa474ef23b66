"""The echo study as Markdown tables, a paragraph and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dream_envs.baselines.studies.echo_study import WON
from dream_envs.baselines.studies.echo_task import FORMATS, LABELS

NONE = "-"
_COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito: told apart by the colour-blind too


def number(found: dict[str, Any] | None, digits: int = 2) -> str:
    """``0.84 [0.80, 0.88]``, with ``(4/5)`` where not every run has the value; ``-`` where none has."""
    if found is None:
        return NONE
    mean, low, high = (float("nan") if v is None else v for v in found["interval"])
    text = f"{mean:.{digits}f}"
    if low == low:  # not nan: two runs or more
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return text if found["runs"] == found["of"] else f"{text} ({found['runs']}/{found['of']})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def base_table(study: dict[str, Any]) -> str:
    """What the bases do before training, format by format (the exam at step 0, over all seeds of one coefficient)."""
    rows, seen = [], set()
    for c in study["cells"]:
        if c["base"] in seen:
            continue
        seen.add(c["base"])
        exam = c["before"]
        shares = [
            f"{number(exam['share'][f], 3)} / {number(exam['accuracy_in'][f])}" for f in ("final", "states", "trace")
        ]
        other = number(exam["share"]["other"], 3)
        rows.append([c["base"], *shares, other, number(exam["accuracy"], 3), number(exam["greedy_accuracy"])])
    head = ("base", *(f"{f}: share / accuracy in it" for f in FORMATS), "other: share", "accuracy", "greedy accuracy")
    return table(head, rows)


def claim_table(study: dict[str, Any]) -> str:
    """One line a base and coefficient: which format won, when, and what was gained by then."""
    rows = []
    for c in study["cells"]:
        rows.append(
            [
                c["base"],
                f"{c['kl']:g}",
                ", ".join(f"{f} {n}/{len(c['seeds'])}" for f, n in c["winners"].items()),
                number(c["epoch_share"]),
                number(c["half_epochs"]),
                number(c["won_epochs"]),
                number(c["won_step"], 0),
                number(c["gain_by_half"]),
                number(c["gain_by_epoch"]),
                c["word"],
            ]
        )
    head = (
        "base", "KL", "format at the end", "its share after epoch 1", "entropy halved (epochs)",
        f"share {WON:.0%} (epochs)", f"share {WON:.0%} (step)", "gain made when halved", "gain made by epoch 1",
        "claim",
    )  # fmt: skip
    return table(head, rows)


def end_table(study: dict[str, Any]) -> str:
    """One line a base and coefficient: before and after."""
    rows = []
    for c in study["cells"]:
        a, b = c["before"], c["after"]
        rows.append(
            [
                c["base"],
                f"{c['kl']:g}",
                f"{number(a['accuracy'])} -> {number(b['accuracy'])}",
                number(c["gain_by_choice"]),
                f"{a['entropy']['interval'][0]:.2f} -> {number(b['entropy'])}",
                number(b["effective"]),
                number(b["js"]),
                number(b["kl"]),
                *(f"{a['pass@k'][k]['interval'][0]:.2f} -> {number(b['pass@k'][k])}" for k in ("8", "32")),
                *(f"{a['majority@k'][k]['interval'][0]:.2f} -> {number(b['majority@k'][k])}" for k in ("8", "32")),
                f"{a['greedy_gap']['interval'][0]:.2f} -> {number(b['greedy_gap'])}",
            ]
        )
    head = (
        "base", "KL", "accuracy", "gain by choice of format alone", "format entropy (bits)",
        "effective formats at the end", "JS distance to base", "KL to base (nats a reply)", "pass@8", "pass@32",
        "majority@8", "majority@32", "greedy-sampled gap",
    )  # fmt: skip
    return table(head, rows)


def kl_table(study: dict[str, Any]) -> str:
    """The effect of the coefficient, paired by seed."""
    rows = []
    for i, row in enumerate(study["effect_of_kl"]["entropy"]):
        other = study["effect_of_kl"]
        cells = [number({**other[k][i], "interval": other[k][i]["difference"], "of": row["runs"]}, 3) for k in other]
        rows.append([row["base"], f"{row['kl']:g} against {row['against']:g}", *cells])
    return table(("base", "KL", *(f"{k} at the end, difference" for k in study["effect_of_kl"])), rows)


def paragraph(study: dict[str, Any]) -> str:
    """The verdict in words, from the numbers alone."""
    cells, settings = study["cells"], study["settings"]
    seeds = max(len(c["seeds"]) for c in cells)
    runs = sum(len(c["seeds"]) for c in cells)
    won = sum(c["won_in_first_epoch"] for c in cells)
    best = sum(c["winners"].get(c["base_best"], 0) for c in cells)
    common = sum(c["winners"].get(c["base_majority"], 0) for c in cells)
    least = {c["base"]: c for c in sorted(cells, key=lambda c: (c["base"], -c["kl"]))}.values()
    when = "; ".join(f"{c['base']} at KL {c['kl']:g}: {number(c['won_epochs'])} epochs" for c in least)
    words = ", ".join(f"{sum(c['word'] == w for c in cells)} {w}" for w in ("confirmed", "mixed", "refuted"))
    chance, share = study["chance"], f"{WON:.0%}"
    return (
        f"**One format wins within the first epoch: {study['verdict']}** ({words}, of {len(cells)} cells of {seeds} "
        f"seeds). In {won} of {runs} runs one format had {share} of the replies within the first epoch "
        f"({study['epoch_steps']} steps of {settings['prompts']} x {settings['attempts']} replies, learning rate "
        f"{settings['lr']:g}). When it had them: {when}. At the end the commonest format was the base's most accurate "
        f"one in {best} of {runs} runs and the base's commonest in {common}. Chance for the final state, whatever the "
        f"format: {chance:.4f}; a guesser's pass@8 is {1 - (1 - chance) ** 8:.2f} and its pass@32 "
        f"{1 - (1 - chance) ** 32:.2f}, so that pass@k says little here."
    )


def markdown(study: dict[str, Any], command: str) -> str:
    """The whole report."""
    settings = study["settings"]
    seeds = sorted({s for c in study["cells"] for s in c["seeds"]})
    return "\n\n".join(
        [
            "# The echo study",
            paragraph(study),
            f"Command: `{command}`; seeds {', '.join(seeds)}. Depth {settings['depth']}, {settings['train']} problems "
            f"to learn from, {settings['test']} others for exams with {settings['draws']} draws each, "
            f"{settings['steps']} steps ({settings['steps'] / study['epoch_steps']:g} epochs). Mean [95 % t interval] "
            "over seeds; one (n/m): only n of m runs have the value.",
            "## The bases",
            base_table(study),
            "## The claim",
            claim_table(study),
            "## Before and after",
            end_table(study),
            "## What the KL coefficient changes",
            kl_table(study),
            "![format entropy against accuracy](echo.svg)",
            "",
        ]
    )


def plot(study: dict[str, Any], folder: Path) -> list[Path]:
    """``echo.svg`` and ``echo.png``: a row a base; shares by step, entropy by step, entropy against accuracy."""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "dream-envs",
        "font.size": 9,
        "axes.spines.top": False,
    }
    with matplotlib.rc_context(settings | {"axes.spines.right": False, "legend.frameon": False}):
        from matplotlib.figure import Figure

        bases = list(dict.fromkeys(c["base"] for c in study["cells"]))
        figure = Figure(figsize=(10.5, 3.1 * len(bases)), layout="constrained")
        axes = figure.subplots(len(bases), 3, squeeze=False)
        for row, base in zip(axes, bases, strict=True):
            cells = [c for c in study["cells"] if c["base"] == base]
            _shares(row[0], cells[0])
            _entropies(row[1], cells)
            _against(row[2], cells)
            for ax in row[:2]:
                ax.set_xscale("symlog", linthresh=1)
                ax.xaxis.set_major_formatter("{x:.0f}")
                ax.axvline(study["epoch_steps"], color="0.5", linewidth=0.8, linestyle=":")
                ax.set_xlabel("step (dotted: end of epoch 1)")
                ax.set_xlim(0, study["settings"]["steps"])
        paths = [folder / "echo.svg", folder / "echo.png"]
        figure.savefig(paths[0], metadata={"Date": None})
        figure.savefig(paths[1], dpi=140)
    return paths


def _shares(ax: Any, cell: dict[str, Any]) -> None:
    for colour, name in zip(_COLOURS, LABELS, strict=False):
        _band(ax, cell["series"]["step"], cell["series"]["share"][name], colour, name)
    ax.set_title(f"{cell['base']}: shares at KL {cell['kl']:g}")
    ax.set_ylim(0, 1)
    ax.legend()


def _entropies(ax: Any, cells: Sequence[dict[str, Any]]) -> None:
    for colour, c in zip(_COLOURS, cells, strict=False):
        _band(ax, c["series"]["step"], c["series"]["entropy"], colour, f"KL {c['kl']:g}")
    ax.axhline(cells[0]["before"]["entropy"]["interval"][0] / 2, color="0.5", linewidth=0.8)
    ax.set_title("format entropy (bits); line: half of the base's")
    ax.set_ylim(bottom=0)
    ax.legend()


def _against(ax: Any, cells: Sequence[dict[str, Any]]) -> None:
    for colour, c in zip(_COLOURS, cells, strict=False):
        x, y = ([v[0] for v in c["series"][k]] for k in ("accuracy", "entropy"))
        ax.plot(x, y, color=colour, marker="o", markersize=3, linewidth=1.2, label=f"KL {c['kl']:g}")
    ax.set_title("entropy (bits) against accuracy")
    ax.set_xlabel("accuracy on held-out problems")
    ax.set_ylim(bottom=0)
    ax.legend()


def _band(ax: Any, steps: Sequence[int], rows: Sequence[Sequence[float | None]], colour: str, label: str) -> None:
    mean, low, high = ([float("nan") if r[i] is None else float(r[i] or 0.0) for r in rows] for i in range(3))
    ax.plot(steps, mean, color=colour, linewidth=1.5, label=label)
    ax.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
