"""The verbs ``list`` and ``info`` for names: what there is, where it comes from, and its manual page."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
import sys
from typing import Any

import msgspec

import dream_envs
from dream_envs import registry, seeds
from dream_envs.cli import common
from dream_envs.core import DreamEnvsError


def listing(kind: str = "") -> list[dict[str, Any]]:
    """One row a name: kind, name, where it lives, which distribution brought it."""
    if kind and kind not in registry.KINDS:
        raise DreamEnvsError(registry.unknown("kinds", kind, list(registry.KINDS)))
    found = []
    for one in [kind] if kind else registry.KINDS:
        brought = {p.name: p.dist for p in importlib.metadata.entry_points(group=f"dream_envs.{one}")}
        for name, target in registry.rows(one).items():
            dist = brought.get(name)
            source = f"{dist.name} {dist.version}" if dist is not None else "dream-envs"
            found.append({"kind": one, "name": name, "target": target, "source": source})
    return found


def listing_text(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    return common.table([list(row.values()) for row in rows], ("kind", "name", "is", "from"))


def pages(name: str) -> dict[str, Any]:
    """Everything registered under this name, or the ``module:attribute`` itself, each with its manual page.

    Raises:
        DreamEnvsError: if there is nothing of that name.
    """
    found = []
    for kind, full in _places(name):
        thing = registry.load(kind, full)
        page = {"kind": kind, "name": full, "target": registry.rows(kind).get(full, full), "manual": _manual(thing)}
        found.append(page | _FACTS.get(kind, _signature)(full, thing))
    return {"name": name, "pages": found}


def _places(name: str) -> list[tuple[str, str]]:
    """``(kind, full name)`` of everything that goes by this name; an error tells the nearest names of all kinds."""
    from dream_envs.envs._adapter import NAMESPACE

    full_names = dict.fromkeys((name, NAMESPACE + name))
    found = [(kind, full) for kind in registry.KINDS for full in full_names if full in registry.rows(kind)]
    if not found and (game := common.game_id(name)) != name:
        return [("envs", game)]
    if not found and ":" in name:
        return [(kind_of(registry.load("envs", name)), name)]
    if not found:
        known = [n for kind in registry.KINDS for n in registry.rows(kind)]
        raise DreamEnvsError(registry.unknown("names", name, known))
    return found


#: The methods by which an object of each kind is known, the first match counting; anything else is a game.
_MARKS = (
    ("loops", ("recipe",)), ("learners", ("improve",)), ("tasks", ("verify", "generate")), ("agents", ("act",)),
)  # fmt: skip


def kind_of(thing: Any) -> str:
    """Which kind of row an object could be, by the methods it has."""
    for kind, methods in _MARKS:
        if all(callable(getattr(thing, method, None)) for method in methods):
            return kind
    return "rewards" if hasattr(thing, "reward_name") or hasattr(thing, "grader") else "envs"


def _manual(thing: Any) -> str:
    """The docstrings of the thing's module (the manual page of games and families) and of the thing itself."""
    things = (sys.modules[thing.__module__], thing) if inspect.isclass(thing) else (thing,)
    return "\n\n".join(filter(None, map(inspect.getdoc, things)))


def _env(name: str, thing: Any) -> dict[str, Any]:
    game = common.game_of(name, {})
    roles = [
        {"role": r.name, "seats": r.count, "reply": r.reply, "reward_range": list(r.reward_range)} for r in game.roles
    ]
    named = registry.roles(name) or tuple(r.name for r in game.roles)
    ids = [dream_envs.role_id(name, role) for role in named] if ":" not in name else []
    facts = {"version": game.version, "agents": list(game.agents), "roles": roles, "gymnasium_ids": ids}
    return {**facts, **_signature(name, thing)}


def _task(name: str, thing: Any) -> dict[str, Any]:
    family: Any = thing() if inspect.isclass(thing) else thing
    levels = family.levels
    examples = []
    for level in dict.fromkeys([levels[0], levels[min(2, len(levels) - 1)], levels[len(levels) // 2]]):
        task = family.generate(seeds.stream("info", name, int(level)), level)
        row = {"level": level, "prompt": task.prompt, "gold": family.gold(task), "chance": family.chance(task)}
        examples.append({**row, "proposal": family.as_proposal(task)})
    facts = {"version": family.version, "notation": family.notation, "levels": [levels[0], levels[-1]]}
    return {**facts, "brief": family.brief(), "examples": examples, **_signature(name, thing)}


def _loop(name: str, thing: Any) -> dict[str, Any]:
    """The loop's settings with their defaults, and the recipe that these make, in words."""
    common.needs("dream_envs.baselines.recipe")
    recipe = thing.recipe(thing.settings(), thing.steps)
    sources = {k: v for k, v in msgspec.to_builtins(recipe.mixture).items() if isinstance(v, int) and k != "copies"}
    words = {
        "plays": f"{recipe.env} {_pairs(recipe.args)}".strip(),
        "problems": f"{recipe.family} {_pairs(recipe.family_args)}".strip(),
        "a round": ", ".join(f"{n} {source}" for source, n in sources.items() if n),
        "turned away": ", ".join(recipe.gates),
        "rewards": _pairs(recipe.reward) or "the game's own",
        "seats": _pairs(recipe.seats),
        "phases": ", ".join(f"{p.name} ({p.steps} steps of {p.weights})" for p in recipe.phases),
        "learner": f"{recipe.learner} {_pairs(recipe.learning)}".strip(),
        "nights": "" if recipe.nights is None else f"every {recipe.nights.every} steps",
        "measured by": f"eval.kind={recipe.eval.kind}, every {recipe.eval.every} steps",
        "steps": str(recipe.steps),
        "model": recipe.model,
    }
    settings, told = msgspec.to_builtins(thing.settings()), {k: v for k, v in words.items() if v}
    return {"says": thing.says, "manual": _manual(thing.settings), "settings": settings, "recipe": told}


def _learner(name: str, thing: Any) -> dict[str, Any]:
    spec = common.needs("dream_envs.agents.training.learner").spec(name)
    flat = dict[str, Any]()
    for key, value in msgspec.to_builtins(spec.settings).items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return {"says": spec.says, "settings": flat, "manual": _manual(type(spec.settings))}


def _pairs(words: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in words.items())


def _signature(name: str, thing: Any) -> dict[str, Any]:
    try:
        return {"arguments": re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(thing)))}
    except (TypeError, ValueError):
        return {"arguments": ""}


_FACTS = {"envs": _env, "tasks": _task, "loops": _loop, "learners": _learner}


def pages_text(found: dict[str, Any]) -> str:
    """The pages for a terminal."""
    return "\n\n".join([_page_text(page) for page in found["pages"]])


def _page_text(page: dict[str, Any]) -> str:
    parts = [common.style(f"{page['name']}  ({page['kind']}, {page['target']})", common.BOLD)]
    if "agents" in page:
        rows = [[r["role"], r["seats"], *r["reward_range"], r["reply"]] for r in page["roles"]]
        parts.append(f"version {page['version']}, agents {', '.join(page['agents'])}")
        parts.append(common.table(rows, ("role", "seats", "from", "to", "a reply is")))
        parts.append("Gymnasium: " + ", ".join(page["gymnasium_ids"]))
    if "examples" in page:
        low, high = page["levels"]
        parts.append(f"version {page['version']}, notation {page['notation']}, levels {low} to {high}")
        for e in page["examples"]:
            rows = [["prompt", e["prompt"]], ["gold", e["gold"]], ["chance", f"{e['chance']:.3g}"]]
            shown = common.table([[f"  {k}", repr(v)[1:-1]] for k, v in [*rows, ["proposal", e["proposal"]]]])
            parts.append(f"level {e['level']}\n{shown}")
    if "says" in page:
        parts.append(page["says"])
    parts.append(page["manual"] or "(no docstring)")
    for title in ("recipe", "settings"):
        if title in page:
            rows = [[f"  {k}", v if v and isinstance(v, str) else json.dumps(v)] for k, v in page[title].items()]
            parts.append(f"{title}\n{common.table(rows)}")
    if page.get("arguments"):
        parts.append(f"arguments: {page['arguments']}")
    return "\n\n".join(parts)
