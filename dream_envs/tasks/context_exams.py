"""The exams of the bundled contexts, a function each; their texts are in ``contexts.toml``."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from msgspec.structs import replace

from dream_envs.tasks.context_rubrics import (
    braced,
    brief,
    call,
    clause,
    field,
    joined,
    lacks,
    line,
    listed,
    member,
    names,
    part,
    row,
    stacked,
)  # fmt: skip
from dream_envs.tasks.contexts import Context, Exam

T = TypeVar("T")
Rng = np.random.Generator


def pick(rng: Rng, options: Sequence[T], other: Any = None) -> T:
    """One of the options, other than ``other``."""
    left = [option for option in options if option != other]
    return left[int(rng.integers(len(left)))]


def number(rng: Rng, low: int, high: int, other: int | None = None) -> int:
    """A whole number from ``low`` to ``high``, other than ``other``."""
    return pick(rng, range(low, high + 1), other)


# ---------------------------------------------------------------------------------------------------------------- rules


def ferry(rng: Rng) -> Exam:
    """Fares with a cap."""
    age, bags, hour = pick(rng, (4, 9, 10, 33, 69, 70, 81)), number(rng, 0, 6), pick(rng, (4, 5, 12, 20, 21, 23))
    base = 5 if age < 10 else 7 if age >= 70 else 12
    extra, night = 3 * max(0, bags - 1), -(-base // 2) if hour >= 21 or hour < 5 else 0
    total = min(24, base + extra + night)
    capped = "yes" if total < base + extra + night else "no"
    return Exam(
        f"Quote the fare of a passenger aged {age} with {bags} bags on the {hour}:00 sailing.",
        (
            field("base", "Base", base, pick(rng, (5, 7, 12), base)),
            field("bags", "Bags", extra, 3 * bags + 3),
            field("night", "Night", night, night + 3),
            field("cap", "Total", total, total + 4),
            field("shape", "Capped", capped, "no" if capped == "yes" else "yes"),
        ),
    )


def tolva(rng: Rng) -> Exam:
    """Whether a move is legal, in prose."""
    piece, at, enemy = pick(rng, ("scout", "wagon", "tower")), number(rng, 1, 16), pick(rng, (True, False))
    step = pick(rng, (1, 2, 3, 4)) if piece != "wagon" or at < 3 else pick(rng, (-2, 1, 2, 3))
    to = at + step
    gate = to % 5 == 0
    reach = {"scout": 1 <= step <= 3, "wagon": abs(step) == 2, "tower": step == 4 and enemy}[piece]
    legal = reach and not (enemy and gate)
    takes = legal and enemy
    does = f"throws at square {to}" if piece == "tower" else f"moves from square {at} to square {to}"
    there = "where an enemy stands" if enemy else "which is empty"
    both = [("legal", "illegal"), ("a gate", "no gate"), ("one piece", "nothing"), ("same", "other")]
    said = [legal, gate, takes, takes or not legal]
    right = [pair[0 if true else 1] for pair, true in zip(both, said, strict=True)]
    wrong = [pair[1 if true else 0] for pair, true in zip(both, said, strict=True)]
    return Exam(
        f"A {piece} on square {at} {does}, {there}. Give the ruling.",
        (
            names("move", f"the move is {right[0]}", f"the move is {wrong[0]}"),
            names("place", f"square {to}"),
            names("gate", f"that square is {right[1]}", f"that square is {wrong[1]}"),
            names("target", f"{right[2]} is captured", f"{wrong[2]} is captured"),
            names("tempo", f"{right[3]} side moves", f"{wrong[3]} side moves"),
        ),
        stacked,
    )


def stockcode(rng: Rng) -> Exam:
    """A code of six segments."""
    stuff = pick(rng, ("ceramic", "fabric", "metal", "paper"))
    grams, bay, day = number(rng, 2, 900) * 100, number(rng, 1, 40), number(rng, 1, 360)
    hazard, fragile = pick(rng, ("", "acid", "fire", "heat")), pick(rng, (True, False))
    kind = {"ceramic": "K", "fabric": "V", "metal": "M"}.get(stuff, "Z")
    mass, mark = -(-grams // 1000), (hazard[:1].upper() or "N") * (2 if fragile else 1)
    based = np.base_repr(day, 12)
    what = f"{stuff} goods of {grams} g, {hazard or 'no'} hazard, {'' if fragile else 'not '}fragile"
    values = [kind, f"{mass:03d}", mark, str(41 - bay), based, str((mass + 41 - bay) % 7)]
    wrongs = ["Q", f"{mass + 1:03d}", mark[0] if fragile else mark * 2, str(41), str(day) + "D", str(7)]
    rules = ("class", "mass", "hazard", "bay", "date", "check")
    parts = [part(r, i, v, w, "-", 6) for i, (r, v, w) in enumerate(zip(rules, values, wrongs, strict=True), 1)]
    return Exam(f"Write the stock code of {what}, in bay {bay}, on day {day} of the year.", tuple(parts), joined("-"))


def hands(rng: Rng) -> Exam:
    """Four hands of cards, in order."""
    people = [str(name) for name in rng.permutation(["Ada", "Bo", "Cy", "Di", "Eli", "Fay"])[:4]]
    dealt = [_hand(rng, pick(rng, ("stair", "twin", "plain"))) for _ in people]
    if len({_rank(hand) for hand in dealt}) < 4:
        return hands(rng)
    order = [p for _, p in sorted(zip(map(_rank, dealt), people, strict=True), reverse=True)]
    best = {3: "a stair", 2: "a twin", 1: "a plain hand"}[max(map(_rank, dealt))[0]]
    told = "; ".join(f"{p} has {', '.join(map(str, h))}" for p, h in zip(people, dealt, strict=True))
    lost = [order[(i + 1) % 4] for i in range(4)]
    other = pick(rng, ("a stair", "a twin", "a plain hand"), best)
    named = [line(r, i + 1, order[i], lost[i]) for i, r in enumerate(("stair", "twin", "plain", "last"))]
    return Exam(f"{told}. Who wins?", (*named, line("name", 5, f"won by {best}", f"won by {other}")))


def _hand(rng: Rng, kind: str) -> list[int]:
    if kind == "stair":
        low = number(rng, 1, 13)
        return [low, low + 1, low + 2]
    if kind == "twin":
        pair = number(rng, 1, 15)
        return [pair, pair, number(rng, 1, 15, pair)]
    cards = sorted(int(c) for c in rng.choice(np.arange(1, 16), 3, replace=False))
    return _hand(rng, kind) if cards[2] - cards[0] == 2 else cards


def _rank(hand: Sequence[int]) -> tuple[int, int, int]:
    low, middle, high = sorted(hand)
    if low == middle == high:
        return 2, -low, 0
    if (low + 1, low + 2) == (middle, high):
        return 3, middle, 0
    if low == middle or middle == high:
        return 2, -middle, 0
    return 1, low * middle * high, 0


MONTHS = ("Ost", "Bran", "Cull", "Deme", "Erle", "Fenn", "Gost", "Hain", "Ilm", "Jarn", "Kell", "Luth")
WEEKDAYS = ("Aday", "Bereday", "Cenday", "Dorday", "Elday", "Fenday")


def calendar(rng: Rng) -> Exam:
    """A date of five parts."""
    day = number(rng, 1, 360)
    month, inside = divmod(day - 1, 30)
    season = ("wet", "bright", "dim")[month // 4]
    feast = "feast" if inside + 1 == 21 or (inside + 1 == 7 and season != "dim") else "no feast"
    tide, weekday = ("high" if day % 4 == 0 else "low"), WEEKDAYS[(day + 1) % 6]
    values = [f"{inside + 1} {MONTHS[month]}", weekday, f"{season} season", feast, f"{tide} tide"]
    wrongs = [f"{inside + 1} {pick(rng, MONTHS, MONTHS[month])}", pick(rng, WEEKDAYS, weekday)]
    wrongs += [f"{pick(rng, ('wet', 'bright', 'dim'), season)} season", "no feast" if feast == "feast" else "feast"]
    wrongs += ["low tide" if tide == "high" else "high tide"]
    rules = ("month", "weekday", "season", "feast", "tide")
    parts = [part(r, i, v, w, ",", 5) for i, (r, v, w) in enumerate(zip(rules, values, wrongs, strict=True), 1)]
    return Exam(f"Which date is day {day} of the year?", tuple(parts), joined(", "))


def league(rng: Rng) -> Exam:
    """Points of three teams, and their champion."""
    teams = ("Ash", "Birch", "Cedar")
    points, scored = dict.fromkeys(teams, 0), dict.fromkeys(teams, 0)
    told = []
    for one, other in (("Ash", "Birch"), ("Birch", "Cedar"), ("Ash", "Cedar")):
        a, b = number(rng, 0, 5), number(rng, 0, 4)
        told.append(f"{one} {a}:{b} {other}")
        for team, own, their in ((one, a, b), (other, b, a)):
            scored[team] += own
            gap = own - their
            points[team] += (5 if gap >= 3 else 4) if gap > 0 else (2 if own >= 2 else 1) if gap == 0 else gap == -1
    champion = min(teams, key=lambda t: (-points[t], scored[t], t))
    rules, total = ("win", "draw", "loss"), sum(scored.values())
    rows = [row(r, t, str(int(points[t])), str(int(points[t]) + 2)) for r, t in zip(rules, teams, strict=True)]
    return Exam(
        f"Report on these games: {'; '.join(told)}.",
        (
            *rows,
            names("tie", f"champion is {champion}", f"champion is {pick(rng, teams, champion)}"),
            names("goals", f"goals {total}", f"goals {total + 1}"),
        ),
    )


# ----------------------------------------------------------------------------------------------------------- procedures


def kiln(rng: Rng) -> Exam:
    """Six steps in order."""
    clay, gas, damp = pick(rng, ("stoneware", "porcelain")), pick(rng, (True, False)), pick(rng, (True, False))
    mass, hour = number(rng, 20, 60), number(rng, 7, 17)
    ramp = (90 if clay == "stoneware" else 120) + 30 * damp
    steps = [
        ("vent", "open both vents" if mass > 40 else "open the vent", "open no vent"),
        ("gas", "light the pilot" if gas else "close the breaker", "close the breaker" if gas else "light the pilot"),
        ("ramp", f"ramp to 600 in {ramp} minutes", f"ramp to 600 in {ramp + 15} minutes"),
        ("hold", f"hold {mass} minutes", f"hold {mass + 5} minutes"),
        ("cone", f"watch cone {6 if clay == 'stoneware' else 9}", "watch cone 7"),
        ("log", f"sign log {'A' if hour < 12 else 'B'}", f"sign log {'B' if hour < 12 else 'A'}"),
    ]
    what = f"{mass} kg of {'damp' if damp else 'dry'} {clay} in the {'gas' if gas else 'electric'} kiln at {hour}:00"
    return Exam(f"List the steps to start {what}.", tuple(line(r, i, v, w) for i, (r, v, w) in enumerate(steps, 1)))


def triage(rng: Rng) -> Exam:
    """An instruction of few words that keeps a name back."""
    part_, night, rain = pick(rng, ("mirror", "dome", "gate", "heating")), pick(rng, (True, False)), pick(rng, (1, 0))
    guest = pick(rng, ("Almeida", "Brandt", "Castell", "Drummond", "Eriksen", "Fontaine"))
    grade = max(1, {"mirror": 1, "dome": 2}.get(part_, 3) - night)
    people, delay = ("Ishaan", "Petra", "Wim"), (5, 30, 240)[grade - 1]
    within, word = f"{delay / (1 + rain):g}", ("one", "two", "three")
    when, sky = ("at night" if night else "by day"), ("in the rain" if rain else "in dry weather")
    called = people[grade - 1]
    return Exam(
        f"{guest}, a guest, reports an alarm of the {part_} {when} {sky}. What is to be done?",
        (
            names("grade", f"grade {word[grade - 1]}", f"grade {pick(rng, word, word[grade - 1])}"),
            names("caller", f"call {called}", f"call {pick(rng, people, called)}"),
            names("delay", f"within {within} minutes", f"within {delay * 2} minutes"),
            lacks("privacy", guest),
            brief("brevity", 40),
        ),
        stacked,
    )


def batch(rng: Rng) -> Exam:
    """Amounts for so many loaves."""
    loaves, height, holiday = 8 * number(rng, 1, 6) + pick(rng, (0, 4)), number(rng, 0, 12) * 50, pick(rng, (1, 0))
    rye, whey = 50 * loaves, 30 * loaves + 10 * (height // 100)
    salt, seed, oven = 2 * min(loaves, 24), 5 * loaves * (1 + holiday), 35 + 5 * math.ceil((loaves - 8) / 8)
    amounts = {"rye": (rye, "g"), "whey": (whey, "ml"), "salt": (salt, "g"), "seed": (seed, "g"), "oven": (oven, "min")}
    day = "on a holiday" if holiday else "on a working day"
    rows = [row(name, name, f"{n} {unit}", f"{n + 7} {unit}") for name, (n, unit) in amounts.items()]
    return Exam(f"Write the sheet for {loaves} loaves at {height} m above the sea, {day}.", tuple(rows))


def routing(rng: Rng) -> Exam:
    """A route of five stops."""
    abroad, liquid, town = (pick(rng, (True, False)) for _ in range(3))
    mass, code = number(rng, 5, 35), number(rng, 1000, 9999)
    digit = code % 10 - code % 2
    stops = [
        ("dock", ("North", "East"), abroad), ("scan", ("Xray", "Weigh"), liquid),
        ("sort", ("Belt", "Cage"), mass <= 20), ("hall", (f"H{digit}", f"H{digit + 1}"), True),
        ("exit", ("Van", "Rail"), town or liquid),
    ]  # fmt: skip
    where = f"{'from abroad' if abroad else 'from inland'}, {'with' if liquid else 'without'} liquid, {mass} kg"
    parts = [part(r, i, two[not yes], two[yes], ">", 5) for i, (r, two, yes) in enumerate(stops, 1)]
    to = f"postcode {code}, an address {'in' if town else 'out of'} town"
    return Exam(f"Route a parcel {where}, {to}.", tuple(parts), joined(" > "))


def loans(rng: Rng) -> Exam:
    """A letter about a loan."""
    kind, day, used = pick(rng, ("book", "map", "score")), number(rng, 1, 200), number(rng, 0, 3)
    staff, waits, late, ref = pick(rng, (1, 0)), pick(rng, (1, 0)), number(rng, 0, 30), number(rng, 1234, 9876)
    due = day + {"book": 28, "map": 7, "score": 14}[kind]
    left, fine = 0 if waits else 3 - used, 0 if staff else min(300, 15 * late)
    who = "A colleague on the staff" if staff else "A reader"
    told = f"{who} borrowed a {kind} on day {day}, renewed it {used} times; today is day {due + late}"
    greeting = ("Dear colleague", "Dear reader")
    back = str(ref)[::-1]
    return Exam(
        f"{told}; {'somebody' if waits else 'nobody'} waits for it; the loan is number {ref}. Write the letter.",
        (
            line("greeting", 1, greeting[1 - staff], greeting[staff]),
            names("due", f"due on day {due}", f"due on day {due + 3}"),
            names("renewals", f"{left} renewals left", f"{left + 4} renewals left"),
            names("fine", f"fine {fine} pence", f"fine {fine + 15} pence"),
            line("reference", -1, f"Ref {back}", "Ref 0"),
        ),
    )


_SAID = (
    "amber", "emerald", "ivory", "ochre", "umber", "badger", "dormouse", "gannet", "kestrel", "polecat", "tern",
    "finch", "lynx", "marten", "newt", "raven", "stoat",
)  # fmt: skip
SAID = {word[0].upper(): word for word in _SAID}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def spelling(rng: Rng) -> Exam:
    """A call sign, a word a sign."""
    signs = [pick(rng, "AEIOU"), pick(rng, "BDGKPT"), pick(rng, "FLMNRS"), str(number(rng, 0, 9))]
    signs = [signs[i] for i in rng.permutation(4)]
    twice = number(rng, 0, 3)
    signs.insert(twice, signs[twice])
    rubrics = []
    for i, sign in enumerate(signs):
        again = i > 0 and signs[i - 1] == sign
        plain = DIGITS[9 - int(sign)] if sign.isdigit() else SAID[sign]
        rule = "digit" if sign.isdigit() else "vowel" if sign in "AEIOU" else "hard" if sign in "BDGKPT" else "soft"
        value, wrong = ("again", plain) if again else (plain, "unknown")
        rubrics.append(part("echo" if again else rule, i + 1, value, wrong, " ", 5))
    return Exam(f"Spell the call sign {''.join(signs)}.", tuple(rubrics), joined(" "))


# --------------------------------------------------------------------------------------------------------------- tables

HUTS = (
    ("Aske", 1810, 12, True, "Ruta"), ("Brim", 2240, 8, False, "Ruta"), ("Cleft", 1995, 20, True, "Olin"),
    ("Dunmore", 2410, 16, False, "Olin"), ("Eyrie", 2630, 6, True, "Ruta"), ("Fallow", 1720, 30, True, "Sten"),
)  # fmt: skip


def peaks(rng: Rng) -> Exam:
    """Which huts will do."""
    high, party, month = pick(rng, ("high", "low", "any")), number(rng, 2, 18), pick(rng, ("June", "July", "August"))
    water = pick(rng, (True, False))
    rubrics = []
    for name, height, beds, wet, warden in HUTS:
        wet = wet and not (month == "August" and height > 2500)
        tall = high == "any" or (height > 2000) == (high == "high")
        fits = tall and beds - 2 >= party and (wet or not water) and not (month == "June" and warden == "Olin")
        why = {"Eyrie": "water", "Cleft": "warden", "Brim": "height", "Dunmore": "warden", "Aske": "beds"}
        rubrics.append(listed(why.get(name, "shape"), name, fits, [hut[0] for hut in HUTS]))
    if not any(r.good for r in rubrics):
        return peaks(rng)
    what = {"high": "high huts", "low": "huts that are not high", "any": "huts"}[high]
    told = f"Which {what} can take a party of {party} in {month}{', with water' if water else ''}?"
    return Exam(told, tuple(rubrics), joined(", "))


def measures(rng: Rng) -> Exam:
    """A length in mixed units."""
    hairs = 5 * number(rng, 3, 900)
    suts = hairs // 5
    lok, rest = divmod(suts, 84)
    pim, sut = divmod(rest, 12)
    toll = -(-suts // 84)
    return Exam(
        f"A rope is {suts} sut long. Tell its length, and the toll.",
        (
            names("lok", f"{lok} lok", f"{lok + 1} lok"),
            names("pim", f"{pim} pim", f"{pim + 7} pim"),
            names("sut", f"{sut} sut", f"{sut + 12} sut"),
            names("hair", f"{hairs} hair in all", f"{hairs + 5} hair in all"),
            names("toll", f"toll {toll}", f"toll {toll + 2}"),
        ),
    )


FIRST = ((370, "T1", 420), (460, "T3", 515), (545, "T5", 590), (690, "T7", 740), (855, "T9", 905))
SECOND = (
    (424, "W2", 480), (450, "W4", 500), (530, "W6", 595), (605, "W8", 660), (743, "W10", 790), (770, "W12", 820),
    (930, "W14", 985),
)  # fmt: skip


def trains(rng: Rng) -> Exam:
    """The earliest connection, as a row."""
    at, bicycle = number(rng, 64, 170) * 5, pick(rng, (True, False))
    leave, first, there = next(t for t in FIRST if t[0] >= at)
    _, second, arrive = next(t for t in SECOND if t[0] >= there + (20 if bicycle else 5))
    fare = 9 + 4 * bicycle - 2 * (leave >= 540)
    values = [_clock(leave), first, second, _clock(arrive), str(fare)]
    wrongs = [
        _clock(leave + 5), pick(rng, [t[1] for t in FIRST], first), pick(rng, [t[1] for t in SECOND], second),
        _clock(arrive + 10), str(fare + 2),
    ]  # fmt: skip
    rules = ("first", "board", "second", "arrival", "fare")
    parts = [part(r, i, v, w, "|", 5) for i, (r, v, w) in enumerate(zip(rules, values, wrongs, strict=True), 1)]
    told = f"I am at Ulm Cross at {_clock(at)}{' with a bicycle' if bicycle else ''}. How do I get to Wick?"
    return Exam(told, tuple(parts), joined(" | "))


def _clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}"


LIMITS = {"pin": (-3, 3), "sleeve": (0, 8), "collar": (-6, 0), "wedge": (-10, 10), "cap": (-2, 5)}


def gauges(rng: Rng) -> Exam:
    """Pass, rework or scrap, as JSON."""
    hot = pick(rng, (True, False))
    told, rubrics = [], []
    for name, (low, high) in LIMITS.items():
        off = number(rng, low - 3, high + 8)
        real = off - 2 * hot
        fate = "pass" if low <= real <= high else "rework" if name == "wedge" or high < real <= high + 4 else "scrap"
        told.append(f"{name} {off:+d}")
        rule = {"pin": "limits", "sleeve": "rework", "collar": "scrap", "wedge": "wedge", "cap": "heat"}[name]
        rubrics.append(member(rule, name, fate, pick(rng, ("pass", "rework", "scrap"), fate)))
    told_ = f"Grade these parts, measured {'hot' if hot else 'cold'}: {', '.join(told)}."
    return Exam(told_, tuple(rubrics), braced)


def rebates(rng: Rng) -> Exam:
    """A quotation with a rebate."""
    goods, boxes, new = pick(rng, ("bolts", "hinges", "braces")), number(rng, 5, 70), pick(rng, (True, False))
    gross = boxes * {"bolts": 4, "hinges": 9, "braces": 15}[goods]
    percent = (20 if boxes >= 50 else 10 if boxes >= 20 else 0) // (2 if goods == "braces" else 1)
    rebate, carriage = gross * percent // 100, 0 if gross >= 300 else 12
    due, terms = gross - rebate + carriage, ("pay in 14 days", "pay in 40 days")
    return Exam(
        f"Quote {boxes} boxes of {goods} to {'a new' if new else 'an old'} customer.",
        (
            names("gross", f"gross {gross}", f"gross {gross + 9}"),
            names("rebate", f"rebate {rebate}", f"rebate {rebate + 11}"),
            names("carriage", f"carriage {carriage}", f"carriage {12 - carriage}"),
            names("due", f"due {due}", f"due {due + 1}"),
            names("terms", terms[not new], terms[new]),
        ),
    )


def salts(rng: Rng) -> Exam:
    """The name of a salt, and its mass."""
    metals, acids = {"Tarn": 11, "Olb": 23, "Kesh": 40}, {"vint": 18, "morr": 30, "sul": 7}
    metal, acid, count, water = pick(rng, [*metals]), pick(rng, [*acids]), number(rng, 1, 4), number(rng, 0, 4)
    counts = ("mono", "bi", "tri", "tetra")
    mass = metals[metal] + count * acids[acid] + 6 * water
    values = [metal, counts[count - 1], f"{acid}-{'ate' if water else 'ite'}", f"wet{water}" if water else "dry"]
    wrongs = [pick(rng, [*metals], metal), pick(rng, counts, counts[count - 1]), f"{acid}-{'ite' if water else 'ate'}"]
    wrongs += ["dry" if water else "wet1", str(mass + 6)]
    rules = ("metal", "count", "acid", "water", "mass")
    both = zip(rules, [*values, str(mass)], wrongs, strict=True)
    parts = [part(r, i, v, w, " ", 5) for i, (r, v, w) in enumerate(both, 1)]
    told = f"Name the salt of one {metal} and {count} {acid} with {water or 'no'} waters, and its mass."
    return Exam(told, tuple(parts), joined(" "))


# ----------------------------------------------------------------------------------------------------------------- APIs


def plotter(rng: Rng) -> Exam:
    """Five calls in order."""
    x, y, length, radius = number(rng, 5, 60), number(rng, 5, 60), 10 * number(rng, 4, 16), number(rng, 3, 20)
    width, across = number(rng, 2, 9), pick(rng, (True, False))
    end = (x + length, y) if across else (x, y + length)
    park = "A" if length > 100 else "B"
    told = f"a line from x={x}, y={y} to x={end[0]}, y={end[1]}, {width / 10:g} mm wide"
    calls = [
        ("pen", 'pen("down")', 'pen("on")'),
        ("line", f"line({y}, {x}, {end[1]}, {end[0]}, width={width})", f"line({x}, {y}, {end[0]}, {end[1]})"),
        ("ring", f"ring({y}, {x}, {2 * radius})", f"ring({y}, {x}, {radius})"),
        ("order", 'pen("up")', 'pen("off")'),
        ("park", f"park('{park}')", "park()"),
    ]
    rubrics = [call(r, i, v, w) for i, (r, v, w) in enumerate(calls, 1)]
    return Exam(f"Plot {told}, and a circle of radius {radius} mm around its beginning.", tuple(rubrics))


WORDS = ("FROM", "KEEP", "WHEN", "SORT", "TAKE")


def rookql(rng: Rng) -> Exam:
    """A query of five clauses."""
    table, columns = pick(
        rng,
        (("boats", ("crew", "length", "owner")), ("farms", ("acres", "owner", "sheep")), ("mines", ("depth", "ore"))),
    )
    shown = [str(c) for c in rng.permutation(columns)[:2]]
    by, sign, limit = pick(rng, columns), pick(rng, (("less than", "<<"), ("more than", ">>"))), number(rng, 2, 90)
    order, largest, wanted = pick(rng, columns), pick(rng, (True, False)), number(rng, 3, 20)
    told = f"Show {' and '.join(shown)} of the {table} whose {by} is {sign[0]} {limit}"
    clauses = [
        ("from", "FROM", table[:-1], table), ("keep", "KEEP", "+".join(sorted(shown)), "+".join(sorted(shown)[::-1])),
        ("when", "WHEN", f"{by} {sign[1]} {limit}", f"{by} {sign[1][0]} {limit}"),
        ("sort", "SORT", ("~" if largest else "") + order, ("" if largest else "~") + order),
        ("take", "TAKE", str(wanted + 1), str(wanted)),
    ]  # fmt: skip
    rubrics = [clause(r, word, v, w, WORDS) for r, word, v, w in clauses]
    first = "largest" if largest else "smallest"
    return Exam(f"{told}, the {first} {order} first, {wanted} rows of them.", tuple(rubrics), joined(" "))


def fleetconf(rng: Rng) -> Exam:
    """Five settings."""
    node, memory, disks = number(rng, 1, 60), 2 * number(rng, 2, 32), number(rng, 1, 6)
    settings = [
        ("mode", ("standby", "primary")[node % 2 == 0], ("primary", "standby")[node % 2 == 0]),
        ("port", 7000 + 10 * node, 7000 + node), ("memory", 500 * memory, 1000 * memory),
        ("peers", f"{node - 1}:{node + 1}", f"{node + 1}:{node - 1}"),
        ("sync", "full" if disks > 3 else "lazy", "lazy" if disks > 3 else "full"),
    ]  # fmt: skip
    rubrics = [field(name, name, value, wrong) for name, value, wrong in settings]
    told = f"Configure node {node}: a machine with {memory} GB and {disks} disks."
    return Exam(told, tuple(rubrics), _settings)


def _settings(pieces: Sequence[str]) -> str:
    return "\n".join(piece.replace(": ", " = ", 1) for piece in pieces)


VOWELS, OTHERS = "aeiou", "bdlmnrst"


def globs(rng: Rng) -> Exam:
    """Which words a pattern matches."""
    signs = [str(s) for s in rng.permutation(["?", "#", pick(rng, OTHERS), pick(rng, OTHERS) + "2"])]
    open_end = pick(rng, (True, False))
    made = {"?": f"[^{VOWELS}]", "#": f"[{VOWELS}]+"}
    pattern = "".join(signs) + ("!" if open_end else "")
    regex = re.compile("".join(made.get(s, s[0] * len(s)) for s in signs) + ("[a-z]*" if open_end else ""))
    words: list[str] = []
    while len(words) < 5:
        word = "".join(
            pick(rng, OTHERS) if s == "?" else pick(rng, VOWELS) * number(rng, 1, 2) if s == "#" else s[0] * len(s)
            for s in signs
        )
        at, what = number(rng, 0, len(word) - 1), pick(rng, ("none", "vowel", "drop", "more"))
        word = {
            "none": word, "more": word + pick(rng, OTHERS), "drop": word[:at] + word[at + 1 :],
            "vowel": word[:at] + pick(rng, VOWELS) + word[at + 1 :],
        }[what]  # fmt: skip
        if word not in words and not any(w in word or word in w for w in words):
            words.append(word)
    rules = ("any", "run", "plain", "double", "end")
    fates = ["match" if regex.fullmatch(w) else "no" for w in words]
    rubrics = [field(r, w, f, "no" if f == "match" else "match") for r, w, f in zip(rules, words, fates, strict=True)]
    return Exam(f"Which of these does {pattern} match: {', '.join(words)}?", tuple(rubrics))


def stack(rng: Rng) -> Exam:
    """What a program leaves on the stack."""
    numbers = [number(rng, 1, 20) for _ in range(5)]
    words, piled = [str(n) for n in numbers], list(numbers)
    for word in [pick(rng, ("ad", "su")), "du", *(pick(rng, ("fl", "ad", "su", "du")) for _ in range(3))]:
        if word in ("ad", "su") and len(piled) > 1:
            top, low = piled.pop(), piled.pop()
            piled.append(low + top if word == "ad" else low - top)
        elif word == "du":
            piled.append(piled[-1])
        elif word == "fl":
            piled[-2:] = piled[-2:][::-1]
        words.append(word)
    while len(piled) < 5:
        extra = number(rng, 1, 20)
        piled.append(extra)
        words.append(str(extra))
    shown, rules = piled[::-1], ("push", "add", "sub", "dup", "flip")
    parts = [part(rules[i % 5], i + 1, str(v), str(v + 37), " ", len(shown)) for i, v in enumerate(shown)]
    return Exam(f"What does this program leave: {' '.join(words)}?", tuple(parts), joined(" "))


def bins(rng: Rng) -> Exam:
    """A request and what comes of it."""
    verb, doing = pick(rng, (("PUT", "make"), ("PATCH", "change"), ("DELETE", "empty")))
    zone, own, hour = pick(rng, ("north", "south", "harbour")), number(rng, 1, 999), number(rng, 2, 23)
    role, volume = pick(rng, ("Clerk", "Driver", "Auditor")), number(rng, 1, 60)
    retry, status = (5 if verb == "PUT" else 20), {"PUT": "201", "PATCH": "200", "DELETE": "204"}[verb]
    other, body = pick(rng, ("PUT", "PATCH", "DELETE"), verb), member("body", "litres", 10 * volume, volume)
    return Exam(
        f"Which request lets a {role} {doing} bin {own} of zone {zone} at {hour}:00 local time? It holds {volume} "
        "dekalitres.",
        (
            line("verb", 1, f"{verb} /v3/{zone}/bins/{own:04d}", f"{other} /v3/{zone}/bins/{own}"),
            line("auth", 2, f"X-Key: {role.lower()}:{hour - 2}", f"X-Key: {role}:{hour}"),
            replace(body, good="{" + body.good + "}", bad="{" + body.bad + "}"),
            line("retry", 4, f"Retry-After: {retry}", f"Retry-After: {retry + 1}"),
            line("status", 5, status, "500"),
        ),
    )


_DRAWS = (
    ferry, tolva, stockcode, hands, calendar, league, kiln, triage, batch, routing, loans, spelling, peaks, measures,
    trains, gauges, rebates, salts, plotter, rookql, fleetconf, globs, stack, bins,
)  # fmt: skip
_TEXTS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("contexts.toml").read_text("utf-8"))
#: The contexts of this package, in the order of their kinds.
BUNDLED = tuple(
    Context(name, kind, text.strip(), next(draw for draw in _DRAWS if draw.__name__ == name))
    for kind, texts in _TEXTS.items()
    for name, text in texts.items()
)
