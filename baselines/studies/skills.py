"""Does cross-time replay help? ``python -m dream_envs.baselines.studies skills``: ``ctx2skill`` with known agents.

Every seat is ``skilled`` (``agents.engines.skilled``), whose competence is a function of the skills it holds; a run has
12 bundled contexts, 5 rounds of 5 tasks, 24 private tests a context (12 for the oracle's choice, 12 for every score).

Worlds.  ``honest``: right lessons alone.  ``drift``: the challenger writes more impossible tasks the more it has
evolved, and the editor draws wrong lessons from them; ``drift_once``: the same with one answer to a probe, as in the
paper; ``one_sided``: the same with a challenger that does not evolve.  ``memorise``: the editor keeps the answers of
failed tasks and no rules.  ``bloat``: every edit adds words that cost attention.  ``pass_judge`` and ``fail_judge``:
judges of one verdict.

Written before the first run on the seeds below (20 to 24); the numbers of the worlds were found on seed 11.  Each is a
95 % t-interval over five seeds of the mean over contexts, a difference paired by seed, apart from 0 or not:

1. ``drift``: replay above last, and above first.
2. ``honest``: no difference between replay and last is shown: where skills only grow there is nothing to guard against.
3. ``memorise``: replay not above no skills at all: probes that the skills have seen cannot tell learning from copying.
4. ``bloat``: replay above last.
5. ``pass_judge``: all choices are the same set, since nothing is failed; ``fail_judge``: replay below last, since all
   products are level and the earliest rule takes no skills at all.
6. ``drift``: five answers to a probe above one (``drift`` less ``drift_once``, replay).
7. ``drift``: replay takes the oracle's skills more often than a random round does, and in fewer than 0.9 of contexts.
8. ``drift``: one-sided evolution at its last round is above replay with both sides: not to drift beats to undo it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dream_envs.baselines.recipe import Options
from dream_envs.baselines.skill_rounds import CONTROLS, TIES, select
from dream_envs.baselines.studies.grid import Row, difference, markdown, named, over, show, sign, table_of, trained
from dream_envs.envs.skill_facts import mean
from dream_envs.runs import read_json

EDITORS = tuple(f"{side}_{kind}" for side in ("reasoner", "challenger") for kind in ("proposer", "editor"))
ROLES = ("challenger", "reasoner", "judge", *EDITORS)
DRIFT = {"challenger": "skilled(drift=0.25)", "reasoner_editor": "skilled(corrupt=0.8)"}


def world(seats: Mapping[str, str], **settings: Any) -> Options:
    """A run in which everybody is ``skilled``, but for these seats."""
    how = {"sample": 12, "tests": 24, **settings}
    return Options("ctx2skill", steps=5, seats={**dict.fromkeys(ROLES, "skilled"), **seats}, set=how)


SETTINGS = {
    "honest": world({}),
    "drift": world(DRIFT),
    "drift_once": world(DRIFT, repeats=1),
    "one_sided": world(DRIFT, evolve="reasoner"),
    "memorise": world({"reasoner_editor": "skilled(memorise=1)"}),
    "bloat": world({"reasoner": "skilled(span=150)", "reasoner_editor": "skilled(bloat=60,learn=2)"}),
    "pass_judge": world({"judge": "constant_judge(verdict=high)"}),
    "fail_judge": world({"judge": "constant_judge(verdict=low)"}),
}
GRIDS = {"all": tuple(SETTINGS)}
run = trained
#: Differences that the hypotheses are about: settings and control of either side, and which sign is expected.
PAIRS = (
    ("1", "drift", "replay", "drift", "last"), ("1", "drift", "replay", "drift", "first"),
    ("2", "honest", "replay", "honest", "last"), ("3", "memorise", "replay", "memorise", "none"),
    ("4", "bloat", "replay", "bloat", "last"), ("5", "pass_judge", "replay", "pass_judge", "last"),
    ("5", "fail_judge", "replay", "fail_judge", "last"), ("6", "drift", "replay", "drift_once", "replay"),
    ("8", "one_sided", "last", "drift", "replay"),
)  # fmt: skip


def score(folder: Path) -> dict[str, Any]:
    """Tests solved by control and by tie rule, how often replay and a random round took the oracle's skills, ties."""
    found = read_json(folder / "skills.json")
    own = list(found["contexts"].values())
    row: dict[str, Any] = {name: (found["controls"][name] or {}).get("test_counted") for name in CONTROLS}
    for tie in TIES:
        row[f"tie/{tie}"] = mean(select(its["replay"], tie)[0]["test_counted"] for its in own)
    hashes = [{name: c["hash"] for name, c in its["controls"].items()} for its in own]
    row["random taken"] = mean(h["random"] == h["oracle"] for h in hashes)
    calls = sum(role["calls"] for part in found["costs"].values() for role in part.values())
    return row | {"taken": found["oracle_taken"], "ties": found["ties"], "calls": calls}


def table(rows: list[Row], out: Path) -> str:
    """Controls by world, the hypotheses' differences, and the choice itself."""
    controls = table_of(rows, {name.replace("_", " "): (name, 2) for name in CONTROLS}, head="tests solved in")
    lines, own = [], named(rows)
    for number, a, one, b, other in PAIRS:
        both = [{"name": key, "seed": r["seed"], "x": r[control]} for key, name, control in
                (("a", a, one), ("b", b, other)) for r in own.get(name, ())]  # fmt: skip
        gap = difference(both, "a", "b", "x")
        lines.append([number, f"{a} {one}", f"{b} {other}", show(gap, 3), sign(gap)])
    if "drift" in own:
        taken = over([r["taken"] - r["random taken"] for r in own["drift"]])
        lines.append(["7", "drift: replay takes the oracle's", "a random round does", show(taken, 3), sign(taken)])
    gaps = markdown(["hypothesis", "of", "less that of", "difference", "above"], lines)
    columns: dict[str, str | tuple[str, int]] = {"replay takes the oracle's": "taken"}
    columns |= {"a random round does": "random taken"}
    columns |= {"ties": "ties", **{f"tie: {tie}": f"tie/{tie}" for tie in TIES}, "calls": ("calls", 0)}
    return f"{controls}\n{gaps}\n{table_of(rows, columns, head='the choice in')}"
