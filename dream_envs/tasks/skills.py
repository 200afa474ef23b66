r"""Skills as text: an immutable set of Markdown texts by name, the edits that change it, and how they are written.

An edit is ``add`` (a new name), ``merge`` (append to a known one what it does not say yet), ``replace`` or ``delete``.
``parse_edit`` is total: a reply that is no edit, or one that the set does not allow, is a ``Reject`` with its reason.

``english``::

    Edit: add
    Name: night-fares
    Text:
    Half the base fare more after nine. (to the end of the reply)

``Edit: none`` leaves the set as it is.  ``compact``: ``+name|text``, ``&name|text``, ``=name|text``, ``-name`` and
``.``, with ``\n`` for a line end, ``\|`` and ``\\`` in the text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from dream_envs.core import Reject, content_hash
from dream_envs.tasks.answers import visible

Op = Literal["add", "merge", "replace", "delete"]
#: The edits, and their signs in compact notation.
SIGNS: dict[str, str] = {"add": "+", "merge": "&", "replace": "=", "delete": "-"}
#: Skills in a set and characters of them all, names included, at most.
MOST_SKILLS, MOST_CHARS = 32, 16_000
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
_HEAD = re.compile(r"^[ \t>*_#`-]*edit[ \t*_`]*:[ \t*_`]*([a-z]+)[ \t*_`.]*$", re.I | re.M)
_FIELD = re.compile(r"^[ \t>*_#`-]*(name|text)[ \t*_`]*:[ \t*_`]*(.*)$", re.I)
_SECTION = re.compile(r"^## (.+)$", re.M)


class Edit(msgspec.Struct, frozen=True):
    """A change of one skill."""

    op: Op
    name: str
    text: str = ""


class SkillSet(msgspec.Struct, frozen=True):
    """Skills, ``(name, text)`` in the order of their names; the same content has the same ``hash``."""

    skills: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, skills: Mapping[str, str]) -> SkillSet:
        """The set of these texts by name."""
        return cls(tuple(sorted((str(name), str(text)) for name, text in skills.items())))

    @property
    def hash(self) -> str:
        """16 hex digits that name the content."""
        return content_hash(*[part for skill in self.skills for part in skill])

    @property
    def words(self) -> int:
        """Words of all texts."""
        return sum(len(text.split()) for _, text in self.skills)

    @property
    def chars(self) -> int:
        """Characters of names and texts."""
        return sum(len(name) + len(text) for name, text in self.skills)

    def as_dict(self) -> dict[str, str]:
        """Texts by name."""
        return dict(self.skills)

    def markdown(self) -> str:
        """A section a skill; ``read_markdown`` reads it back.  Headings within a text are set one level lower."""
        return "".join(f"## {name}\n\n{_lower(text)}\n\n" for name, text in self.skills)

    def changed(self, edit: Edit, *, skills: int = MOST_SKILLS, chars: int = MOST_CHARS) -> SkillSet | Reject:
        """The set after this edit, or why it cannot be made; ``skills`` and ``chars``: the caps."""
        own, text = self.as_dict(), edit.text.strip()
        if not _NAME.fullmatch(edit.name):
            return Reject("charset", f"name {edit.name!r:.60}: small letters, digits and '-', at most 48")
        if edit.op != "delete" and not text:
            return Reject("empty", f"{edit.op} without a text")
        if edit.op == "add" and edit.name in own:
            return Reject("duplicate", f"there is a skill {edit.name!r} already")
        if edit.op != "add" and edit.name not in own:
            return Reject("execution", f"there is no skill {edit.name!r}")
        if edit.op == "delete":
            del own[edit.name]
        elif edit.op == "merge":
            known = own[edit.name].split("\n")
            fresh = [line for line in text.split("\n") if line not in known]
            own[edit.name] = "\n".join([*known, *fresh])
        else:
            own[edit.name] = text
        made = SkillSet.of(own)
        if len(made.skills) > skills or made.chars > max(chars, self.chars - 1):  # what makes it shorter is welcome
            return Reject("limits", f"{len(made.skills)} skills, {made.chars} characters: at most {skills}, {chars}")
        return made

    def diff(self, other: SkillSet) -> str:
        """Unified diff of the Markdown, from this set to the other; empty where they are the same."""
        one, two = (s.markdown().splitlines() for s in (self, other))
        return "\n".join(difflib.unified_diff(one, two, self.hash, other.hash, lineterm=""))


def read_markdown(text: str) -> SkillSet:
    """The set that ``SkillSet.markdown`` wrote."""
    parts = _SECTION.split(text)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return SkillSet.of({name: re.sub(r"(?m)^#(?=##)", "", body.strip()) for name, body in pairs})


def _lower(text: str) -> str:
    return re.sub(r"(?m)^(?=##)", "#", text)


def say_edit(edit: Edit | None, notation: str = "english") -> str:
    """The reply that ``parse_edit`` reads as this edit; None: no change."""
    if notation == "compact":
        return "." if edit is None else SIGNS[edit.op] + edit.name + ("" if edit.op == "delete" else pack([edit.text]))
    if edit is None:
        return "Edit: none"
    return f"Edit: {edit.op}\nName: {edit.name}\n" + ("" if edit.op == "delete" else f"Text:\n{edit.text}")


def parse_edit(reply: str, notation: str = "english") -> Edit | Reject | None:
    """The edit that a reply states, None for none wanted, or why it is no edit; the last ``Edit:`` counts."""
    if not reply.strip():
        return Reject("empty")
    if notation == "compact":
        op = next((o for o, sign in SIGNS.items() if reply.startswith(sign)), None)
        name, bar, rest = reply[1:].partition("|")
        fields = unpack("|" + rest) if bar else []
        if reply == "." or op is None or (bar == "") != (op == "delete") or (op != "delete" and len(fields or ()) != 1):
            return None if reply == "." else Reject("grammar", "expected +name|text, &, =, -name or .")
        return Edit(op, name, fields[0] if fields else "")  # type: ignore[arg-type]
    shown = visible(reply)
    if shown is None:
        return Reject("empty", "the reasoning was never closed")
    heads = list(_HEAD.finditer(shown))
    found = next((h for h in reversed(heads) if h[1].lower() in (*SIGNS, "none")), None)
    if found is None:
        return Reject("grammar", "no line 'Edit: add', 'merge', 'replace', 'delete' or 'none'")
    if found[1].lower() == "none":
        return None
    rows, name, text = shown[found.end() :].split("\n")[1:], "", ""
    for number, row in enumerate(rows):
        if (field := _FIELD.match(row)) is None:
            continue
        if field[1].lower() == "text":
            text = _unfenced([field[2], *rows[number + 1 :]])
            break
        name = re.sub(r"[\s_]+", "-", field[2].strip(" \t*_`.\"'").lower())
    return Edit(found[1].lower(), name, text)  # type: ignore[arg-type]


def _unfenced(rows: Iterable[str]) -> str:
    """The text without a code fence around the whole of it."""
    kept = "\n".join(rows).strip().split("\n")
    fenced = len(kept) > 1 and kept[0].startswith("```") and kept[-1].strip() == "```"
    return "\n".join(kept[1:-1] if fenced else kept).strip()


def pack(fields: Iterable[str]) -> str:
    r"""Fields in compact notation: ``|`` before each, ``\\``, ``\|`` and ``\n`` within."""
    return "".join("|" + f.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "\\n") for f in fields)


def unpack(text: str) -> list[str] | None:
    """What ``pack`` wrote; None for a text that it cannot have written."""
    if not re.fullmatch(r"(?:\|(?:[^\\|\n]|\\[\\|n])*)*", text):
        return None
    parts = re.findall(r"\|((?:[^\\|\n]|\\[\\|n])*)", text)
    return [re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], part) for part in parts]
