r"""Programs: the three task types of Absolute Zero, on a small language instead of Python.

A problem is a program, which maps a list of whole numbers ``x`` to a number or a list, and an input; ``mode`` says what
is asked, and ``all`` has the three as streams.

- ``deduction``: the program and the input are shown, the output is the answer.
- ``abduction``: the program and the output are shown; every input that gives this output is accepted.
- ``induction``: ``examples`` inputs with their outputs are shown, the problem's own first; every program is accepted
  that has these outputs and those on ``hidden`` more inputs.

- ``compact`` notation: a program is a text of symbols, each before its operands: ``+2h`` and ``x`` is ``2 + x[0]``.
  Prompts ``r@*y2x:[3,-1]>?``, ``r@*y2x:?>[-2,6]`` and ``?:[3,-1]>[-2,6];[5,0,4]>[8,0,10]``; replies ``[-2,6]``,
  ``[3,-1]`` and ``r@*y2x``.  A proposal is ``d``, ``a`` or ``i`` with program and input: ``dr@*y2x:[3,-1]``.
- ``english`` notation: a program is written as calls, ``reverse(map(mul(y, 2), x))``, the prompt is a paragraph, and a
  proposal is ``deduction: reverse(map(mul(y, 2), x)) with [3, -1]``.

``_programs`` has the grammar, the operations and their bounds.  Replies and proposals are parsed by a total parser and
run by an interpreter that counts steps; no text of an agent is ever evaluated by Python.  The inputs of an induction
problem beyond its own are drawn from a stream that is named by program and input, so that the proposal alone says all.

Level = number of operations.  Turned away, also by ``generate``: a program without a value on this input or on most
others; one that is constant, or the input itself, on most inputs; one of which a part has no variable, or does what a
part of that part does alone; an answer that is printed in the problem, and an empty list as output.

Chance: a guesser draws one of 256 replies of the right type, all alike: of deduction the outputs of other programs of
this level on other inputs, of abduction inputs, of induction programs of this level.  All 256 are tried, so that it is
exact; at most 1/2 for abduction (more is turned away as trivial).

Source: the task types and the rule for induction are those of Absolute Zero (arXiv 2505.03335); the language is ours.
Version history: 1.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dream_envs.checks import check, one_of
from dream_envs.core import DreamEnvsError, Reject, Task, content_hash
from dream_envs.seeds import stream
from dream_envs.tasks import _programs as lang
from dream_envs.tasks.answers import CHAT_TOKENS, NUMBER, number, read
from dream_envs.tasks.family import Family

KINDS = ("deduction", "abduction", "induction")
MODES = (*KINDS, "all")
_POOL, _PROBES, _TRIES = 256, 32, 2000
_LONGEST_INPUT, _LARGEST = 6, 9  # of inputs that are drawn
_ITEM = r"-?[0-9]+"
_ITEMS = rf"\s*{_ITEM}(?:\s*,\s*{_ITEM}){{0,32}}\s*"
#: A value of either type, or a program: one that is not of the asked type is still a second answer.
_ANSWER = re.compile(
    rf"(?<![\w\])])\[{_ITEMS}\](?![\w\[(])|^{_ITEMS}$"
    rf"|(?<![\w(])[a-z]+\([a-z0-9(), ]{{1,800}}\)(?!\w|[()]|\.\w)|(?<!\[)(?<!\[-)(?:{NUMBER.pattern})(?!\])"
)


class ThreeTypes(Family):
    """A family of Absolute Zero's three task types, which are its streams where it has ``all`` of them."""

    wish = " Use {} operations."

    def __init__(self, notation: str, max_level: int, most: int, mode: str, examples: int, hidden: int) -> None:
        super().__init__(notation, max_level, most)
        self.mode = one_of("mode", mode, MODES)
        self.examples = check("examples", examples, 2, 8, whole=True)
        self.hidden = check("hidden", hidden, 1, 16, whole=True)
        self.kinds = KINDS if mode == "all" else (mode,)
        #: What a curriculum asks for in turn, and learners compare by itself (``core.GameHooks``).
        self.streams: tuple[str, ...] = self.kinds if mode == "all" else ()

    def brief(self, level: int | None = None, reference: Task | None = None, stream: str = "") -> str:
        """``new`` in compact notation, a paragraph in english; a ``stream`` asks for a problem of this kind."""
        kind = self._stream(stream)
        if not self._english:
            return f"new {kind[0]}" if kind else "new"
        return super().brief(level, reference) + (f" It must be a problem of {kind}." if kind else "")

    def _stream(self, name: str) -> str:
        return one_of("stream", name, self.kinds) if name else ""

    def _kind(self, rng: np.random.Generator, stream: str) -> str:
        """That of the stream, or any."""
        return self._stream(stream) or self.kinds[int(rng.integers(len(self.kinds)))]


class Programs(ThreeTypes):
    """The family ``programs``.

    Args:
        notation: ``compact`` or ``english``.
        mode: ``deduction``, ``abduction``, ``induction``, or ``all`` of them.
        max_level: the most operations that ``parse`` accepts, 1 to 16.
        examples: pairs that an induction problem shows, 2 to 8.
        hidden: pairs that it keeps back, 1 to 16.
    """

    name = "programs"
    version = 1

    def __init__(
        self,
        notation: str = "compact",
        *,
        mode: str = "all",
        max_level: int = 8,
        examples: int = 5,
        hidden: int = 5,
    ) -> None:
        super().__init__(notation, max_level, 16, mode, examples, hidden)
        letters = "abcdefghijklmnopqrstuvwxyz0123456789(), :[]-"
        self._characters = frozenset(letters) if self._english else lang.SYMBOLS | set("dai:[],-")
        # name, parentheses and up to two ", " an operation; an operand that is none is one character
        program = (self.max_level * (7 + 2 + 4) if self._english else self.max_level) + 2 * self.max_level + 1
        shown = lang.INPUT_ITEMS * (5 if self._english else 4) + 2
        self.max_chars = program + shown + (len("deduction:  with ") if self._english else len("d:"))
        self.max_reply_tokens = CHAT_TOKENS if self._english else max(program, lang.MOST_ITEMS * 6 + 1) + 2
        self._comma = ", " if self._english else ","
        self._write: Callable[[lang.Node], str] = lang.calls if self._english else lang.symbols

    def generate(self, rng: np.random.Generator, level: int, stream: str = "") -> Task:
        """A problem with ``level`` operations of this stream, ``""`` for any of the family's.

        The type of every operand's operation, and the split of the operations among the operands, are equally likely;
        inputs have 1 to 6 items from -9 to 9.
        """
        level = self._level(level)
        kind = self._kind(rng, stream)
        for _ in range(_TRIES):
            program = _draw(rng, level, "", "x")
            task = self._make(kind, program, _input(rng), "generator")
            if isinstance(task, Task):
                return task
        raise DreamEnvsError(f"programs: no {kind} problem of level {level} in {_TRIES} draws: choose another level")

    def read(self, task: Task, reply: str) -> str | None:
        """The answer that a reply states; None if it states none."""
        if self.protocol == "strict":
            return reply
        return read(reply, _ANSWER, task.prompt, tidy=functools.partial(_tidy, _form(task)))

    def accepts(self, task: Task, answer: str) -> bool:
        """Whether an answer, as it was read, is right; see the module's head."""
        kind, pairs = task.meta["kind"], task.meta["pairs"]
        if kind == "deduction":
            return answer == task.answer
        try:
            if kind == "abduction":
                x, program = lang.read_input(answer, self._comma), lang.read(task.meta["program"])
                return lang.run(program, x) == _value(pairs[0][1])
            program = self._program(answer)
            return all(lang.run(program, tuple(x)) == _value(y) for x, y in pairs)
        except lang.Fault:
            return False

    def proposal_form(self) -> str:
        """The proposal grammar, by example of the first kind."""
        program, x = lang.read("r@*y2x"), (3, -1)
        return repr(self._proposal(self.kinds[0], program, x))

    def chance(self, task: Task) -> float:
        """The share of the guesser's 256 replies that are accepted."""
        pool = Counter(self._pool(task))
        return sum(count for reply, count in pool.items() if self.accepts(task, reply)) / _POOL

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """One of 256 replies of the right type; see the module's head."""
        pool = self._pool(task)
        return pool[int(rng.integers(len(pool)))]

    def mutate(self, task: Task, rng: np.random.Generator) -> Task | None:
        """The program inside one more operation; None at the highest level.

        Where no operation around it makes a problem, the input is drawn anew, and in the end the program.
        """
        if task.level >= self.max_level:
            return None
        kind, inner = task.meta["kind"], lang.read(task.meta["program"])
        x = tuple(task.meta["pairs"][0][0])
        for tries in range(256):
            x = x if tries < 64 else _input(rng)
            harder = self._make(kind, _around(rng, inner), x, "mutation")
            if isinstance(harder, Task):
                return harder
        for _ in range(_TRIES):
            harder = self._make(kind, _draw(rng, task.level + 1, "", "x"), _input(rng), "mutation")
            if isinstance(harder, Task):
                return harder
        return None

    def features(self, task: Task) -> tuple[str, ...]:
        """What is asked, how many operations and which, how deep they are nested, and the type of the output."""
        program = lang.read(task.meta["program"])
        names = sorted({lang.OPERATIONS[node[0]].name for node in lang.walk(program) if len(node) > 1})
        return (
            f"kind={task.meta['kind']}",
            f"operations={task.level}",
            f"depth={lang.depth(program)}",
            f"output={lang.gives(program)}",
            *(f"operation={name}" for name in names),
        )

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this problem."""
        return self._proposal(task.meta["kind"], lang.read(task.meta["program"]), task.meta["pairs"][0][0])

    def _parse(self, proposal: str) -> Task | Reject:
        if self._english:
            kind, _, rest = proposal.partition(": ")
            text, _, listed = rest.partition(" with ")
        else:
            kind = next((k for k in KINDS if k[0] == proposal[0]), "")
            text, _, listed = proposal[1:].partition(":")
        if kind not in KINDS or not text or not listed:
            return self._bad_form()
        if kind not in self.kinds:
            return Reject("limits", f"a problem of {kind}; this is {self.mode}")
        try:
            program, x = self._program(text), lang.read_input(listed, self._comma)
        except lang.Fault as fault:
            return Reject(fault.code, fault.detail)
        if proposal != self._proposal(kind, program, x):
            return self._bad_form()
        return self._make(kind, program, x, "proposal")

    def _make(self, kind: str, program: lang.Node, x: tuple[int, ...], origin: str) -> Task | Reject:
        """The one way to a task, for generator, proposals and mutations alike."""
        level = lang.operations(program)
        if level > self.max_level:
            return Reject("limits", f"{level} operations, at most {self.max_level}")
        if not level:
            return Reject("trivial", "no operation")
        text = lang.symbols(program)
        if flaw := _flaw(text):
            return Reject(*flaw)
        try:
            pairs = [(x, lang.run(program, x))]
        except lang.Fault as found:
            return Reject("execution", found.detail)
        if pairs[0][1] == ():
            return Reject("trivial", "the output is an empty list")
        if kind == "induction":
            pairs += _pairs(text, x, self.examples + self.hidden - 1)
            if len(pairs) < self.examples + self.hidden or len({y for _, y in pairs[: self.examples]}) < 2:
                return Reject("trivial", "the examples have one output")
        prompt, answer = self._prompt(kind, program, pairs[: self.examples]), self._answer(kind, program, pairs[0])
        if kind != "induction" and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", prompt):
            return Reject("leak", "the answer is printed in the problem")
        meta = {"kind": kind, "program": text, "pairs": [[list(a), _stored(b)] for a, b in pairs]}
        if self.streams:
            meta["stream"] = kind
        key = content_hash(self.name, kind, prompt, text if kind == "induction" else "")
        task = Task(family=self.name, level=level, prompt=prompt, answer=answer, meta=meta, origin=origin, id=key)
        if kind == "abduction" and self.chance(task) > 0.5:
            return Reject("trivial", "most inputs give this output")
        return task

    def _answer(self, kind: str, program: lang.Node, pair: tuple[tuple[int, ...], lang.Value]) -> str:
        if kind == "induction":
            return self._write(program)
        return lang.value_text(pair[kind == "deduction"], self._comma)

    def _prompt(self, kind: str, program: lang.Node, pairs: Sequence[tuple[tuple[int, ...], lang.Value]]) -> str:
        shown = [(lang.value_text(x, self._comma), lang.value_text(y, self._comma)) for x, y in pairs]
        (x, y), text = shown[0], self._write(program)
        if not self._english:
            if kind == "induction":
                return "?:" + ";".join(f"{a}>{b}" for a, b in shown)
            return f"{text}:{x}>?" if kind == "deduction" else f"{text}:?>{y}"
        if kind == "induction":
            examples = "\n".join(f"f({a}) = {b}" for a, b in shown)
            return (
                f"A program f(x) maps a list x to a number or a list:\n{examples}\n{_legend(lang.OPERATIONS)}\nWrite a "
                "program that does this, and does the same on other lists, as calls of these operations on x and on "
                "digits. Reply with the program alone."
            )
        used = {node[0] for node in lang.walk(program) if len(node) > 1}
        head = f"A program maps a list x:\nf(x) = {text}\n{_legend([s for s in lang.OPERATIONS if s in used])}\n"
        if kind == "deduction":
            return head + f"What is f({x})? Reply with the value alone."
        return head + f"For which list x is f(x) = {y}? Any that fits will do. Reply with the list alone."

    def _invite(self, wishes: str) -> str:
        kinds = {
            "deduction": "of deduction (what is the output?)",
            "abduction": "of abduction (which input gives this output?)",
            "induction": "of induction (which program has these outputs?)",
        }
        return (
            f"Invent a problem {' or '.join(kinds[k] for k in self.kinds)}: a program and an input. A program is one "
            f"expression in the list x, with digits and these operations:\n{_legend(lang.OPERATIONS)}\nAn input is a "
            f"list of one to {lang.INPUT_ITEMS} whole numbers from -{lang.INPUT_VALUE} to {lang.INPUT_VALUE}. The "
            f"output must not be printed in the problem, and must change with the input.{wishes} Reply with one line "
            f"of the form {self.proposal_form()} and nothing else."
        )

    def _shown(self, task: Task) -> str:
        """The problem in one line, without its answer."""
        kind, (x, y) = task.meta["kind"], task.meta["pairs"][0]
        first = lang.value_text(tuple(x), self._comma), lang.value_text(_value(y), self._comma)
        if kind == "induction":
            return f"induction: {first[0]} gives {first[1]}"
        text = self._write(lang.read(task.meta["program"]))
        return f"{kind}: {text} with {first[0]}" if kind == "deduction" else f"{kind}: {text} gives {first[1]}"

    def _proposal(self, kind: str, program: lang.Node, x: Sequence[int]) -> str:
        listed = lang.value_text(tuple(x), self._comma)
        if self._english:
            return f"{kind}: {self._write(program)} with {listed}"
        return f"{kind[0]}{self._write(program)}:{listed}"

    def _program(self, text: str) -> lang.Node:
        return lang.read_calls(text) if self._english else lang.read(text)

    def _pool(self, task: Task) -> tuple[str, ...]:
        kind = task.meta["kind"]
        return _drawn_pool(self._english, kind, 0 if kind == "abduction" else task.level, _form(task))


@functools.lru_cache(maxsize=256)
def _drawn_pool(english: bool, kind: str, level: int, form: str) -> tuple[str, ...]:
    """The guesser's 256 replies; ``form``: their type."""
    rng, found = stream("programs", "guesses", kind, level, form), list[str]()
    comma = ", " if english else ","
    while len(found) < _POOL:
        if kind == "abduction":
            found.append(lang.value_text(_input(rng), comma))
            continue
        program = _draw(rng, level, "" if form == "program" else form, "x")
        if kind == "induction":
            found.append(lang.calls(program) if english else lang.symbols(program))
            continue
        try:
            value = lang.run(program, _input(rng))
        except lang.Fault:
            continue
        found += [lang.value_text(value, comma)] if value != () else []
    return tuple(found)


def _form(task: Task) -> str:
    """The type of an answer to this task: ``int``, ``list`` or ``program``."""
    if task.meta["kind"] == "deduction":
        return "list" if isinstance(task.meta["pairs"][0][1], list) else "int"
    return "program" if task.meta["kind"] == "induction" else "list"


def _tidy(form: str, text: str) -> str:
    """The one spelling of an answer where this type is asked for."""
    if "(" in text:
        return "".join(text.split())
    if form == "list" or "[" in text or not NUMBER.fullmatch(text.strip()):
        return f"[{', '.join(item.strip() for item in text.strip().strip('[]').split(','))}]"
    return number(text.strip())


def _value(stored: Any) -> lang.Value:
    return tuple(stored) if isinstance(stored, list) else stored


def _stored(value: lang.Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _legend(chosen: Any) -> str:
    return "\n".join(lang.OPERATIONS[symbol].says for symbol in chosen)


def _input(rng: np.random.Generator) -> tuple[int, ...]:
    size = int(rng.integers(1, _LONGEST_INPUT + 1))
    return tuple(rng.integers(-_LARGEST, _LARGEST + 1, size=size).tolist())


@functools.cache
def _probes() -> tuple[tuple[int, ...], ...]:
    rng = stream("programs", "probes")
    return tuple(_input(rng) for _ in range(_PROBES))


def _values(program: lang.Node) -> list[lang.Value | None]:
    """What a program gives on the probes; None where it has no value."""
    found: list[lang.Value | None] = []
    for x in _probes():
        try:
            found.append(lang.run(program, x))
        except lang.Fault:
            found.append(None)
    return found


@functools.lru_cache(maxsize=4096)
def _flaw(text: str) -> tuple[str, str] | None:
    """Why a program makes no problem whatever its input, None if nothing speaks against it."""
    program = lang.read(text)
    for node in lang.walk(program):
        leaves = {leaf[0] for leaf in lang.walk(node) if len(leaf) == 1}
        if len(node) > 1 and not leaves & {"x", "y", "z"}:
            return "trivial", f"{lang.symbols(node)} is a constant"
        if node[0] in ("@", "f", "F") and not {leaf[0] for leaf in lang.walk(node[1])} & {"y", "z"}:
            return "trivial", f"the body of {lang.symbols(node)} does not use its item"
    values = _values(program)
    defined = [value for value in values if value is not None]
    if 2 * len(defined) < len(values):
        return "execution", "it has no value on most inputs"
    if 2 * Counter(defined).most_common(1)[0][1] > len(defined):
        return "trivial", "it gives the same on most inputs"
    if 2 * sum(value == x for value, x in zip(values, _probes(), strict=True)) > len(values):
        return "trivial", "it gives back most inputs"
    idle = _idle(program)[1]
    return ("trivial", f"{lang.symbols(idle)} is the same as a part of it") if idle is not None else None


def _idle(node: lang.Node) -> tuple[list[list[lang.Value | None]], lang.Node | None]:
    """What the node and its parts outside of bodies give on the probes, and the first that gives what a part gives."""
    below: list[list[lang.Value | None]] = []
    for child, takes in zip(node[1:], lang.OPERATIONS[node[0]].takes if len(node) > 1 else (), strict=True):
        if takes in (lang.INT, lang.LIST):
            values, idle = _idle(child)
            if idle is not None:
                return [], idle
            below += values
    mine = _values(node)
    return [*below, mine], node if mine in below else None


def _pairs(text: str, x: tuple[int, ...], count: int) -> list[tuple[tuple[int, ...], lang.Value]]:
    """``count`` more inputs with their outputs, all different; fewer if there are too few in 256 draws."""
    program, rng = lang.read(text), stream("programs", "pairs", text, lang.value_text(x))
    found: dict[tuple[int, ...], lang.Value] = {}
    for _ in range(256):
        drawn = _input(rng)
        if drawn == x or len(found) == count:
            continue
        try:
            found[drawn] = lang.run(program, drawn)
        except lang.Fault:
            continue
    return list(found.items())


def _draw(rng: np.random.Generator, size: int, wanted: str, scope: str) -> lang.Node:
    """A random program of ``size`` operations and this type (``""``: of either)."""
    if not size:
        if wanted == lang.LIST:
            return ("x",)
        variables = [name for name in scope if name != "x"]
        if variables and rng.random() < 0.6:
            return (variables[int(rng.integers(len(variables)))],)
        return (str(int(rng.integers(10))),)
    wanted = wanted or (lang.INT, lang.LIST)[int(rng.integers(2))]
    choices = _BY_TYPE[wanted]
    symbol = choices[int(rng.integers(len(choices)))]
    takes = lang.OPERATIONS[symbol].takes
    cuts = np.sort(rng.integers(size, size=len(takes) - 1)).tolist()
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, size - 1], strict=True)]
    return (symbol, *(_operand(rng, n, kind, scope) for n, kind in zip(sizes, takes, strict=True)))


def _operand(rng: np.random.Generator, size: int, takes: str, scope: str) -> lang.Node:
    inner = {lang.BODY: scope.replace("y", "") + "y", lang.FOLD: "xyz"}.get(takes, scope)
    return _draw(rng, size, lang.LIST if takes == lang.LIST else lang.INT, inner)


def _around(rng: np.random.Generator, inner: lang.Node) -> lang.Node:
    """The program as an operand of a random operation; the other operands are leaves."""
    choices = _TAKING[lang.gives(inner)]
    symbol = choices[int(rng.integers(len(choices)))]
    takes = lang.OPERATIONS[symbol].takes
    places = [i for i, kind in enumerate(takes) if kind == lang.gives(inner)]
    at = places[int(rng.integers(len(places)))]
    return (symbol, *(inner if i == at else _operand(rng, 0, kind, "x") for i, kind in enumerate(takes)))


_BY_TYPE = {kind: [s for s, o in lang.OPERATIONS.items() if o.gives == kind] for kind in (lang.INT, lang.LIST)}
_TAKING = {kind: [s for s, o in lang.OPERATIONS.items() if kind in o.takes] for kind in (lang.INT, lang.LIST)}
