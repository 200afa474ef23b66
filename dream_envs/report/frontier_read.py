"""``frontier.json`` of schema 2: read, checked, and the numbers that the page and the terminal share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dream_envs.core import DreamEnvsError
from dream_envs.report.read import items, walk
from dream_envs.report.words import NONE, number, visible

SCHEMA = 2
#: Blocks that every report has, and those that may be null; what each of them has to be.
REQUIRED: dict[str, type] = dict.fromkeys(("base", "trained", "suite", "protocol", "headline", "verdict"), dict)
OPTIONAL: dict[str, type] = {
    **dict.fromkeys(("certified", "problems", "support"), list),
    **dict.fromkeys(("pass1", "pass_at_k", "decay", "cover", "compute", "tiers", "exact"), dict),
    **dict.fromkeys(("retention", "diversity", "judge", "curriculum", "cost"), dict),
}
_NUMBERS = ("fg", "low", "high", "e", "e_star", "s", "n")
#: Lists that belong together, entry by entry: (block, key of the first, keys of the others).
_TOGETHER: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...] = (
    (("pass_at_k", "trained"), "k", ("mean", "low", "high")),
    (("pass_at_k", "base"), "k", ("mean", "low", "high")),
    (("decay",), "k", ("e", "low", "high")),
    (("cover",), "tau", ("trained", "base")),
    (("compute", "base"), "tokens", ("coverage",)),
    (("compute", "trained"), "tokens", ("coverage",)),
    (("tiers",), "names", ("count", "solved")),
)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def load(folder: Path) -> dict[str, Any]:
    """``frontier.json`` of this folder.

    Args:
        folder: holds a ``frontier.json`` of schema 2.

    Returns:
        The object; every optional block is there and is None, a dict or a list.

    Raises:
        DreamEnvsError: if the file is absent, is not JSON, is of another schema, or a block has the wrong shape.
    """
    path = Path(folder) / "frontier.json"
    try:
        data = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except FileNotFoundError:
        raise DreamEnvsError(f"{path} is not there: give a folder that `dream-envs frontier` has written") from None
    except OSError as error:
        raise DreamEnvsError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DreamEnvsError(f"{path} is not JSON ({visible(error, 200)}): evaluate again") from error
    try:
        return checked(data)
    except DreamEnvsError as error:
        raise DreamEnvsError(f"{path}: {error}") from None


def checked(data: Any) -> dict[str, Any]:
    """The object with every optional block filled in (None where it is absent); see ``load``.

    Raises:
        DreamEnvsError: as ``load``, without the file's name.
    """
    if not isinstance(data, dict):
        raise DreamEnvsError(f"expected an object, got a {type(data).__name__}: evaluate again")
    schema = data.get("schema", 1)
    if isinstance(schema, bool) or schema != SCHEMA:
        raise DreamEnvsError(f"schema {visible(repr(schema), 40)}, this page reads schema {SCHEMA}: evaluate again")
    found = {**dict.fromkeys(OPTIONAL), **data}
    for name, kind in {**REQUIRED, **OPTIONAL}.items():
        value = found.get(name)
        if not isinstance(value, kind) and not (value is None and name in OPTIONAL):
            raise DreamEnvsError(f"{name} is {_what(value)}, expected {_KINDS[kind]}: evaluate again")
    for key in _NUMBERS:
        if number(found["headline"].get(key)) is None:
            raise DreamEnvsError(f"headline.{key} is {_what(found['headline'].get(key))}, expected a number")
    for name in ("word", "sentence"):
        if not isinstance(found["verdict"].get(name), str):
            raise DreamEnvsError(f"verdict.{name} is {_what(found['verdict'].get(name))}, expected a text")
    for name, value in (("suite.families", found["suite"].get("families")), ("problems", found["problems"])):
        for entry in value if isinstance(value, list) else ():
            if not isinstance(entry, dict):
                raise DreamEnvsError(f"{name} holds {_what(entry)}, expected objects: evaluate again")
    for block, first, others in _TOGETHER:
        _same_length(found, block, first, others)
    return found


_KINDS: dict[type, str] = {dict: "an object", list: "a list"}


def _what(value: Any) -> str:
    """A value in an error line: short and harmless."""
    return (
        "missing" if value is None else f"a {type(value).__name__}" if isinstance(value, dict | list) else _cut(value)
    )


def _cut(value: Any) -> str:
    text = visible(repr(value)[:60], 60)
    return text.replace("\n", " ")


def _same_length(data: dict[str, Any], block: tuple[str, ...], first: str, others: tuple[str, ...]) -> None:
    found = walk(data, *block)
    if found is None:
        return
    size = len(items(walk(found, first)))
    for key in others:
        value = walk(found, key)
        if value is not None and (not isinstance(value, list) or len(value) != size):
            got = len(value) if isinstance(value, list) else "no"
            where = ".".join(block)
            raise DreamEnvsError(f"{where}.{key} has {got} entries for {size} of {where}.{first}: evaluate again")


def triple(value: Any) -> tuple[float | None, float | None, float | None]:
    """``[value, low, high]``, each a number or None; a single number has no interval."""
    if isinstance(value, list) and len(value) == 3:
        v, low, high = (number(x) for x in value)
        return v, low, high
    return number(value), None, None


def label(value: Any, cap: int = 28) -> str:
    r"""A name on one line, fit for XML, at most ``cap`` characters.

    >>> label("a\x00b\nc"), label("x" * 50, 5)
    ('a\\x00b c', 'xxxx…')
    """
    text = " ".join(visible("" if value is None else value, 400).split())
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= cap else text[: cap - 1] + "…"


def words_of(name: Any, cap: int = 60) -> str:
    """The name of a measure, to be read: ``answer_entropy`` is ``answer entropy``."""
    return label(name, cap).replace("_", " ")


def signed(value: Any, digits: int = 1) -> str:
    """Points with their sign: ``+2.3``, ``-0.4``, ``0.0``."""
    x = number(value)
    if x is None:
        return NONE
    rounded = round(x, digits) + 0.0
    return f"{rounded:+.{digits}f}" if rounded else f"{rounded:.{digits}f}"


def bracket(low: Any, high: Any, digits: int = 1) -> str:
    """``[+1.6, +3.0]``, or nothing without both ends."""
    if number(low) is None or number(high) is None:
        return ""
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def points_text(value: Sequence[float | None]) -> str:
    """``+2.3 [+1.6, +3.0]``."""
    return f"{signed(value[0])} {bracket(value[1], value[2])}".strip()


def points(value: Any, digits: int = 1) -> str:
    """Points without a sign for what cannot be negative: ``2.5``; small but not zero does not look like zero."""
    x = number(value)
    if x is None:
        return NONE
    shown = f"{round(x, digits) + 0.0:.{digits}f}"
    return f"{x:.1g}" if x and not float(shown) else shown


def headline(data: dict[str, Any], dot: str = " · ") -> str:
    """The line of the protocol: ``FG* +2.3 [+1.6, +3.0] · E 2.5 · S 0.2 · persistence 0.98 · ... · N=2,000``."""
    h = data["headline"]
    e = f"E {points(h['e'])}"
    if signed(h["e"]) != signed(h["e_star"]):
        e += f" (E* {signed(h['e_star'])} after the tail correction)"
    persistence = number(h.get("persistence"))
    held, runs = h.get("held_out"), h.get("runs")
    told = [
        f"FG* {signed(h['fg'])} {bracket(h['low'], h['high'])}".strip(),
        e,
        f"S {points(h['s'])}",
        f"persistence {NONE if persistence is None else f'{persistence:.2f}'}",
        "held-out families "
        + (
            f"{signed(walk(held, 'fg'))} {bracket(walk(held, 'low'), walk(held, 'high'))}".strip()
            if isinstance(held, dict)
            else "not measured"
        ),
        f"N={h['n']:,.0f}",
    ]
    count = number(walk(runs, "count"))
    return dot.join([*told, f"runs={count:,.0f}"] if count is not None else told)


class Family(NamedTuple):
    """One family's figures; shares in [0, 1], None where the file does not tell them.

    ``tried`` is the number of problems on which the base was drawn at all (the protocol draws it only where the
    trained model is reliable); ``reached`` the share of those that it solved.  ``gained`` and ``lost`` are in
    problems.  Where only some of the base's survivors were followed to the last draw, picked by lot, what became of
    those stands for the others, and ``gained`` need not be whole.
    """

    name: str
    kind: str
    n: int
    level: float | None
    chance: float | None
    eligible: bool
    held_out: bool
    tried: int
    reached: float | None
    pass1: float | None
    gained: float | None
    lost: float | None
    gain: tuple[float | None, float | None, float | None]


def families(data: dict[str, Any]) -> list[Family]:
    """The families in the file's order, with what their problems say about each."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for problem in problems(data):
        by_name.setdefault(str(problem.get("family")), []).append(problem)
    return [_family(f, by_name.get(str(f.get("name"))), data) for f in items(data["suite"].get("families"))]


def _family(f: dict[str, Any], mine: list[dict[str, Any]] | None, data: dict[str, Any]) -> Family:
    mine = mine or []
    rates = [r for p in mine if (r := rate(p.get("trained"))) is not None]
    tried = [p for p in mine if (number(p.get("base_draws")) or 0) > 0]
    reached = sum(base_solved(p) for p in tried)
    counted, count = f.get("eligible") is not False and bool(mine), len(mine)
    gain, total = triple(f.get("gain")), gained(mine, data) if counted else None
    if gain[0] is None and total is not None:
        low, high = wilson(total, count)
        gain = (100 * total / count, 100 * low, 100 * high)
    return Family(
        name=label(f.get("name"), 60),
        kind=label(f.get("kind"), 40),
        n=int(number(f.get("n")) or count),
        level=number(f.get("level")),
        chance=number(f.get("chance")),
        eligible=f.get("eligible") is not False,
        held_out=bool(f.get("held_out")),
        tried=len(tried),
        reached=reached / len(tried) if tried else None,
        pass1=sum(rates) / len(rates) if rates else None,
        gained=total,
        lost=lost(mine, data) if counted else None,
        gain=gain,
    )


def problems(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The per-problem rows, an empty list if they were not kept."""
    return data["problems"] or []


def pair(value: Any) -> tuple[int, int] | None:
    """``[correct, draws]`` as whole numbers, or None."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    c, n = (number(x) for x in value)
    return (int(c), int(n)) if c is not None and n is not None and 0 <= c <= n else None


def rate(value: Any) -> float | None:
    """``c / n`` of ``[c, n]``; None without draws."""
    found = pair(value)
    return found[0] / found[1] if found and found[1] else None


def base_solved(problem: dict[str, Any]) -> bool:
    """Whether any draw of the base solved it: in the round-robin sequence, or as a veto."""
    return bool(problem.get("vetoed")) or bool(number(problem.get("base_first")))


def reliable(counts: Any, data: dict[str, Any]) -> bool:
    """Whether ``[correct, draws]`` is reliable by the protocol (``need`` right ones)."""
    found, need = pair(counts), number(data["protocol"].get("need"))
    return found is not None and need is not None and found[0] >= need


def gained(rows: Sequence[dict[str, Any]], data: dict[str, Any]) -> float:
    """Problems of these that the trained model solves reliably and the base never does: their part of E.

    Survivors that the lot left out are counted at the share of the followed ones (``frontier.lottery``).
    """
    full = max((number(b) or 0.0 for b in items(data["protocol"].get("budgets"))), default=0.0)
    drawn = [p for p in rows if reliable(p.get("trained"), data) and number(p.get("base_draws"))]
    open_ = [p for p in drawn if not base_solved(p) and (number(p.get("base_draws")) or 0) < full]
    stage = max((number(p.get("base_draws")) or 0.0 for p in open_), default=full)
    missed = [p for p in drawn if not base_solved(p) and (number(p.get("base_draws")) or 0) >= full]
    late = [p for p in drawn if p not in missed and base_solved(p) and _solved_at(p) > stage]
    followed = len(missed) + len(late)
    return len(missed) + len(open_) * (len(missed) / followed if followed else 1.0)


def _solved_at(problem: dict[str, Any]) -> float:
    """The draw at which the base solved it; a veto comes after all of them."""
    return math.inf if problem.get("vetoed") else number(problem.get("base_first")) or 0.0


def lost(rows: Sequence[dict[str, Any]], data: dict[str, Any]) -> float | None:
    """Problems of these that the base solves reliably and the trained model never did; None if that was not kept."""
    if not any("loss_draws" in p for p in rows):
        return None
    known = [p for p in rows if reliable(p.get("base"), data) and number(p.get("loss_draws"))]
    return float(sum(not number(p.get("loss_first")) for p in known))


def wilson(count: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share, not degenerate at 0 and at 1.

    >>> [round(x, 4) for x in wilson(0, 100)]
    [0.0, 0.037]
    """
    p, zz = count / n, z * z / n
    centre, half = (p + zz / 2) / (1 + zz), z * ((p * (1 - p) + zz / 4) / n) ** 0.5 / (1 + zz)
    return max(centre - half, 0.0) if count > 0 else 0.0, min(centre + half, 1.0) if count < n else 1.0


def certified_first(rows: list[dict[str, Any]], cap: int) -> Iterator[dict[str, Any]]:
    """At most ``cap`` rows: all certified ones, then the others at even steps; the file's order stays."""
    if len(rows) <= cap:
        yield from rows
        return
    marked = [i for i, r in enumerate(rows) if r.get("certified")][:cap]
    others = [i for i, r in enumerate(rows) if not r.get("certified")]
    left = cap - len(marked)
    kept = {*marked, *(others[i * len(others) // left] for i in range(min(left, len(others))))}
    yield from (rows[i] for i in sorted(kept))
