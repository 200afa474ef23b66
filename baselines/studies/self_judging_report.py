"""From the runs of ``self_judging`` to figures with intervals and the answers to what the study asks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from dream_envs.baselines.studies.intervals import Interval, over, show, sign

#: A judge whose expected calibration error is above this is not calibrated.
CALIBRATED = 0.1


def cell(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One arm: what changed between the first and the last exam, and what the run believed of itself.

    ``accuracy``, ``length``, ``traces``, ``judge``: first, last and (as ``gain_*``) the difference, seed by seed.
    ``deepest``: accuracy at the deepest depth.  ``collapsed``: run by run, whether it ended below a tenth of its start.
    ``believed``: mean reward of the actors in the first and last rounds.  ``label_accuracy``: of the last quarter.
    ``alarms``: runs that rang; ``flags``: of the judge cards, with how many runs had each.
    """

    def change(read: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
        first, last = [[read(run["exams"][i]) for run in runs] for i in (0, -1)]
        gain = [b - a for a, b in zip(first, last, strict=True)]
        return {"first": over(first), "last": over(last), "gain": over(gain)}

    flags: dict[str, int] = defaultdict(int)
    for run in runs:
        for flag in (run["card"] or {}).get("flags", ()):
            flags[" ".join(w for w in flag.split() if not w.replace(".", "").replace(":", "").isdigit())] += 1
    return {
        "runs": len(runs),
        "accuracy": change(lambda e: e["accuracy"]),
        "deepest": change(lambda e: e["by_depth"][max(e["by_depth"], key=int)]),
        "collapsed": [run["exams"][-1]["accuracy"] < run["exams"][0]["accuracy"] / 10 for run in runs],
        "length": change(lambda e: e["length"]),
        "traces": change(lambda e: e["traces"]),
        "judge": change(lambda e: e["judge"]["accuracy"]),
        "flip": change(lambda e: e["judge"]["flip"]),
        "calibration": change(lambda e: e["judge"]["calibration"]),
        "overconfidence": change(lambda e: e["judge"]["overconfidence"]),
        "believed": {
            "first": over(_ends(runs, "solved", True)),
            "last": over(_ends(runs, "solved", False)),
            "gain": over(_gains(runs, "solved")),
        },
        "variety": {
            "first": over(_ends(runs, "answer_entropy", True)),
            "last": over(_ends(runs, "answer_entropy", False)),
        },
        "label_accuracy": over(_ends(runs, "label_accuracy", False)),
        "alarms": sum(
            any("labels agree" in a for row in run["rounds"] for a in row.get("alarms") or ()) for run in runs
        ),
        "kappa": over(
            [
                (run["card"] or {}).get("kappa", [None])[0] if run["card"] and run["card"]["kappa"] else None
                for run in runs
            ]
        ),
        "cyclic": over(
            [
                run["card"]["cyclic_triads"][0] if run["card"] and run["card"].get("cyclic_triads") else None
                for run in runs
            ]
        ),
        "flags": dict(flags),
        "seconds": over([run["seconds"] for run in runs]),
    }


def _ends(runs: Sequence[dict[str, Any]], key: str, first: bool) -> list[float | None]:
    found: list[float | None] = []
    for run in runs:
        rows = [row[key] for row in run["rounds"] if row.get(key) is not None]
        part = rows[: max(1, len(rows) // 4)] if first else rows[-max(1, len(rows) // 4) :]
        found.append(math.fsum(part) / len(part) if part else None)
    return found


def _gains(runs: Sequence[dict[str, Any]], key: str) -> list[float | None]:
    ends = zip(_ends(runs, key, True), _ends(runs, key, False), strict=True)
    return [None if a is None or b is None else b - a for a, b in ends]


def summary(runs: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Every arm's cell and ``answers``: what the study asks, each yes, no or open (the interval holds 0)."""
    by: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        if run is not None:
            by[run["settings"]["arm"]].append(run)
    cells = {arm: cell(found) for arm, found in by.items()}
    return {"schema": 1, "arms": cells, "answers": answers(cells)}


def answers(cells: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Question to answer, in the order of the issue; only those whose arms are there."""
    found = {}
    if its := cells.get("honest"):
        found["honest self-judging raises the actor's accuracy"] = sign(its["accuracy"]["gain"], 1)
        found[f"its judge is calibrated (error at most {CALIBRATED})"] = below(its["calibration"]["last"], CALIBRATED)
        sure = f"its judge is overconfident by {CALIBRATED} at most"
        found[sure] = below(its["overconfidence"]["last"], CALIBRATED)
        found["its judge loses accuracy"] = sign(its["judge"]["gain"], -1)
    for name, its in cells.items():
        if name.startswith("first_"):
            order, control = name.split("_")[1:]
            found[f"always-first, {order} order, length control {control}: shorter"] = sign(its["length"]["gain"], -1)
    if its := cells.get("cyclic"):
        found["the cyclic judge is flagged in every run"] = (
            "yes" if its["flags"].get(_CYCLIC, 0) == its["runs"] else "no"
        )
    for name, its in sorted(cells.items(), key=lambda item: _dial(item[0])):
        if name.startswith("dial_"):
            found[f"noise dial {_dial(name):+.1f}: accuracy rises"] = sign(its["accuracy"]["gain"], 1)
    for name in ("majority", "vote"):
        if its := cells.get(name):
            found[f"{name}: its reward rises"] = sign(its["believed"]["gain"], 1)
            found[f"{name}: accuracy at the deepest depth falls"] = sign(its["deepest"]["gain"], -1)
            found[f"{name}: accuracy falls below a tenth of what it was"] = (
                f"in {sum(its['collapsed'])} of {its['runs']}"
            )
            found[f"{name}: the label alarm rings in every run"] = "yes" if its["alarms"] == its["runs"] else "no"
    return found


_CYCLIC = "of the triples go in a circle"


def _dial(name: str) -> float:
    return float(name.removeprefix("dial_")) if name.startswith("dial_") else 0.0


def below(interval: Interval | None, bound: float) -> str:
    """``yes`` if the whole interval lies below the bound, ``no`` if above, else ``not shown``."""
    if interval is None:
        return "not measured"
    mean, low, high = interval
    low, high = (mean, mean) if math.isnan(low) else (low, high)
    return "yes" if high <= bound else "no" if low > bound else "not shown"


def table(found: dict[str, Any]) -> str:
    """The arms and the answers as Markdown."""
    lines = [
        "| arm | runs | accuracy before | after | gain | length gain | judge before | after | labels | believed |",
        "| --- " + "| ---: " * 9 + "|",
    ]
    for name, its in found["arms"].items():
        cells = [
            its["accuracy"]["first"],
            its["accuracy"]["last"],
            its["accuracy"]["gain"],
            its["length"]["gain"],
            its["judge"]["first"],
            its["judge"]["last"],
            its["label_accuracy"],
        ]
        believed = f"{show(its['believed']['first'])} to {show(its['believed']['last'])}"
        lines.append(f"| {name} | {its['runs']} | " + " | ".join(map(show, cells)) + f" | {believed} |")
    lines += ["", *(f"- {question}: **{answer}**" for question, answer in found["answers"].items()), ""]
    return "\n".join(lines)
