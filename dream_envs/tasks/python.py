r"""Python: the three task types of Absolute Zero on Python programs, which run in the sandbox and nowhere else.

A problem is a program, a module with ``def f(x)``, and an input, a literal; kinds and streams are those of ``programs``:

- ``deduction``: the program and the input are shown, the output is the answer.
- ``abduction``: the program and the output are shown; every input that gives this output is accepted.
- ``induction``: ``examples`` inputs with their outputs are shown; every program is accepted that has these outputs and
  those on ``hidden`` more inputs.

A proposal is three parts on lines of their own, the same in both notations: the kind, the program, ``f(INPUT)``.  What is
shown is the program as Python writes it: comments and docstrings are gone.  ``compact`` notation shows program, input
and output alone and takes a reply to the last character; ``english`` asks in a paragraph and reads what a chat model writes.

Outputs are compared here, outside: no expected output, and of a hidden pair no output, is ever in the sandbox.  A program
runs anew for each input, twice; with two results, or none that is a literal, it has no value there.  More inputs are
drawn like the problem's own, from a stream that program and input name, so that the proposal alone says all.

Level = calls, operators, comparisons, subscripts, comprehensions, branches and loops.  Turned away: a program without a
value on most inputs, or with the same or the input itself on most; a leaked answer; what guessers know more often than not.

Chance: a guesser draws one of 128 replies, all alike: of deduction values like the output, of abduction inputs like the
problem's, of induction generated programs of this level.  All are tried, so that it is exact.

The generator writes programs of the language of ``programs`` as Python.  Needs bubblewrap.  Version history: 1.
"""

from __future__ import annotations

import ast
import functools
import re
import string
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dream_envs import sandbox
from dream_envs.checks import check, one_of
from dream_envs.core import DreamEnvsError, Reject, Task, content_hash
from dream_envs.seeds import stream
from dream_envs.tasks import _programs as lang
from dream_envs.tasks import answers, programs
from dream_envs.tasks._programs import Fault
from dream_envs.tasks.answers import CHAT_TOKENS, NUMBER
from dream_envs.tasks.family import Family
from dream_envs.tasks.programs import KINDS, MODES

_BOX = sandbox.Sandbox(memory_mb=128, cpu_s=2, wall_s=20.0, output_kb=2048)
_POOL, _PROBES, _TRIES = 128, 32, 4000
_PROGRAM_CHARS, _VALUE_CHARS, _DEPTH = 960, 300, 12
_LONGEST, _LARGEST = 6, 9  # of inputs that are drawn
_MODULES = frozenset("bisect collections functools heapq itertools math operator re string".split())
_CHARACTERS = frozenset(string.printable) - frozenset("\r\t\x0b\x0c")
_COUNTED = (
    ast.BinOp, ast.BoolOp, ast.Compare, ast.Call, ast.Subscript, ast.comprehension, ast.IfExp, ast.If, ast.For, ast.While,
    ast.AugAssign,
)  # fmt: skip
_KIND_LINE = re.compile(rf"^(?:{'|'.join(KINDS)})$", re.M)
_CALL_LINE = re.compile(r"^f\((.*)\)$", re.M)
#: A literal in a sentence; whether it is one is seen later.
_ANSWER = re.compile(
    r"(?<![\w\])}])(?:\[[^\n]*\]|\([^\n]*\)|\{[^\n]*\})(?![\w\[(])|'[^'\n]*'|\"[^\"\n]*\"|\b(?:True|False|None)\b"
    rf"|{NUMBER.pattern}"
)
#: What makes a program one step harder: its result ``e`` in an expression, with a digit ``d``.
_STEPS = (
    "({e}) + {d}", "({e}) * {d}", "{d} - ({e})", "({e}) % {d}", "({e}) // {d}", "abs({e})", "({e})[::-1]", "({e})[1:]",
    "sorted({e})", "sum({e})", "len({e})", "max({e})", "min({e})", "({e}) + [{d}]", "({e})[0]", "({e}) * 2", "str({e})",
)  # fmt: skip
#: Runs in the sandbox: every program on each of its inputs, each time anew, and twice.
_RUNNER = """
import os, sys
jobs, lines = eval(sys.stdin.read()), []
sys.stdout = sys.stderr = None
def value(code, text):
    try:
        space = {"__name__": "program"}
        exec(code, space)
        found = ascii(space["f"](eval(text)))
        return found if len(found) <= 300 else ""
    except BaseException:
        return ""
for program, inputs in jobs:
    code = compile(program, "program", "exec")
    for text in inputs:
        found = value(code, text)
        lines.append(found if found and found == value(code, text) else "")
said = "\\n".join([*lines, "end"]).encode()
while said:
    said = said[os.write(1, said):]
"""
#: Outputs of a program on an input, both as text: facts about the program alone, whoever's problem it is in.
_seen: dict[tuple[str, str], str | None] = {}


class Python(Family):
    """The family ``python``.

    Args:
        notation: ``compact`` or ``english``.
        mode: ``deduction``, ``abduction``, ``induction``, or ``all`` of them.
        max_level: the highest level that ``parse`` accepts, 1 to 32.
        examples: pairs that an induction problem shows, 2 to 8.
        hidden: pairs that it keeps back, 1 to 16.
    """

    name = "python"
    version = 1
    wish = " Use {} operations."
    max_chars = _PROGRAM_CHARS + _VALUE_CHARS + 20
    max_reply_tokens = CHAT_TOKENS
    _characters = _CHARACTERS

    def __init__(
        self, notation: str = "compact", *, mode: str = "all", max_level: int = 10, examples: int = 5, hidden: int = 5
    ) -> None:
        super().__init__(notation, max_level, 32)
        self.mode = one_of("mode", mode, MODES)
        self.examples = check("examples", examples, 2, 8, whole=True)
        self.hidden = check("hidden", hidden, 1, 16, whole=True)
        self.kinds = KINDS if mode == "all" else (mode,)
        #: What a curriculum asks for in turn, and learners compare by itself (``core.GameHooks``).
        self.streams: tuple[str, ...] = self.kinds if mode == "all" else ()
        if reason := sandbox.available():
            raise DreamEnvsError(f"family python: {reason}")

    def generate(self, rng: np.random.Generator, level: int, stream: str = "") -> Task:
        """A problem of this level and stream, ``""`` for any of the family's; inputs are lists of 1 to 6 numbers."""
        level = self._level(level)
        kind = self._stream(stream) or self.kinds[int(rng.integers(len(self.kinds)))]
        return self._drawn(rng, level, kind, "generator")

    def read(self, task: Task, reply: str) -> str | None:
        """The answer that a reply states; None if it states none."""
        if self.protocol == "strict":
            return reply
        block = answers.block(reply)
        if task.meta["kind"] == "induction":
            return block if "def f(" in block else None
        try:
            return _canonical(block)
        except Fault:
            return answers.read(reply, _ANSWER, task.prompt, tidy=_tidy)

    def accepts(self, task: Task, answer: str) -> bool:
        """Whether an answer, as it was read, is right; see the module's head."""
        kind, pairs = task.meta["kind"], task.meta["pairs"]
        try:
            if kind != "induction":
                value = _canonical(answer)
                if self.protocol == "strict" and value != answer:
                    return False
                return (
                    value == task.answer
                    if kind == "deduction"
                    else _outputs(task.meta["program"], [value]) == [pairs[0][1]]
                )
            if answer != answer.strip():
                return False
            return _outputs(_program(answer)[0], [x for x, _ in pairs]) == [y for _, y in pairs]
        except Fault:
            return False

    def proposal_form(self) -> str:
        """The proposal grammar, by example of the first kind."""
        return f"'{_written(self.kinds[0], _EXAMPLE, '[3, -1]')}'"

    def chance(self, task: Task) -> float:
        """The share of the guesser's 128 replies that are accepted."""
        guesses, pairs = _guesses(task), task.meta["pairs"]
        if task.meta["kind"] == "abduction":
            _run([(task.meta["program"], guesses)])
        elif task.meta["kind"] == "induction":
            _run([(program, [x for x, _ in pairs]) for program in dict.fromkeys(guesses)])
        found = Counter(guesses)
        return sum(count for reply, count in found.items() if self.accepts(task, reply)) / len(guesses)

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """One of 128 replies of the right type; see the module's head."""
        guesses = _guesses(task)
        return guesses[int(rng.integers(len(guesses)))]

    def mutate(self, task: Task, rng: np.random.Generator) -> Task | None:
        """The program with one more operation on its result, or else another program; None at the highest level."""
        if task.level >= self.max_level:
            return None
        x = task.meta["pairs"][0][0]
        harder = [h for h in _harder(task.meta["program"], rng) if h[1] == task.level + 1]
        jobs = [(text, [x, *_others(text, x)]) for text, _ in harder]
        _run(jobs)
        for text, inputs in jobs:
            found = self._make(task.meta["kind"], text, x, _outputs(text, inputs), origin="mutation")
            if isinstance(found, Task):
                return found
        return self._drawn(rng, task.level + 1, task.meta["kind"], "mutation")

    def features(self, task: Task) -> tuple[str, ...]:
        """What is asked, how many operations, the type of the output, and what is called and looped over."""
        tree = ast.parse(task.meta["program"])
        used = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        used |= {type(node).__name__.lower() for node in ast.walk(tree) if isinstance(node, _COUNTED)}
        output = type(ast.literal_eval(task.meta["pairs"][0][1])).__name__
        uses = sorted(f"uses={name}" for name in used if len(name) <= 20)
        return (f"kind={task.meta['kind']}", f"operations={task.level}", f"output={output}", *uses)

    def as_proposal(self, task: Task) -> str:
        """The text that ``parse`` turns into this problem."""
        return str(task.meta["text"])

    def brief(self, level: int | None = None, reference: Task | None = None, stream: str = "") -> str:
        """``new`` in compact notation, a paragraph in english; a ``stream`` asks for a problem of this kind."""
        kind = self._stream(stream)
        if not self._english:
            return f"new {kind[0]}" if kind else "new"
        return super().brief(level, reference) + (f" It must be a problem of {kind}." if kind else "")

    def parse(self, proposal: str) -> Task | Reject:
        """The problem that a proposal describes; in the chat protocol the last of its form counts."""
        if self.protocol == "strict":
            return self._parse_line(proposal)
        shown = answers.visible(proposal)
        if shown is None or not shown.strip():
            return Reject("empty", "" if shown is not None else "the reasoning was never closed")
        text = answers.plain(shown[-8 * self.max_chars :])
        kinds = list(_KIND_LINE.finditer(text))
        text = text[kinds[-1].start() :] if kinds else text
        calls = list(_CALL_LINE.finditer(text))
        return self._parse_line(text[: calls[-1].end()] if calls else text.strip())

    def _parse(self, proposal: str) -> Task | Reject:
        kind, _, rest = proposal.partition("\n")
        source, _, call = rest.rpartition("\n")
        given = _CALL_LINE.fullmatch(call)
        if kind not in KINDS or given is None:
            return Reject("grammar", "expected the kind, the program and f(INPUT), on lines of their own")
        if kind not in self.kinds:
            return Reject("limits", f"a problem of {kind}; this is {self.mode}")
        try:
            (program, _), x = _program(source), _canonical(given[1])
        except Fault as fault:
            return Reject(fault.code, fault.detail)
        return self._make(kind, program, x, None, origin="proposal", text=proposal)

    def _drawn(self, rng: np.random.Generator, level: int, kind: str, origin: str) -> Task:
        for _ in range(_TRIES):
            node, x = _random(rng, level), _text(list(programs._input(rng)))
            if programs._flaw(lang.symbols(node)):
                continue
            text, _ = _program(_translated(node))
            try:  # our own interpreter says the same as Python where it says anything, so that nothing has to be run
                values = [_output_of(node, given) for given in (x, *_others(text, x))]
            except Fault:
                continue
            task = self._make(kind, text, x, values, origin=origin)
            if isinstance(task, Task):
                return task
        raise DreamEnvsError(f"python: no {kind} problem of level {level} in {_TRIES} draws: choose another level")

    def _make(
        self, kind: str, program: str, x: str, values: Sequence[str | None] | None, *, origin: str, text: str = ""
    ) -> Task | Reject:
        """The one way to a task; ``values``: on ``x`` and on the other inputs, None if they have to be found."""
        level = _operations(ast.parse(program))
        if level > self.max_level:
            return Reject("limits", f"{level} operations, at most {self.max_level}")
        if not level:
            return Reject("trivial", "no operation")
        others = _others(program, x)
        y, *rest = _outputs(program, [x, *others]) if values is None else values
        if flaw := _flaw(y, others, rest):
            return Reject(*flaw)
        assert y is not None
        pairs = [(x, y)]
        if kind == "induction":
            more = {a: b for a, b in zip(others, rest, strict=True) if b is not None and a != x}
            pairs += list(more.items())[: self.examples + self.hidden - 1]
            if len(pairs) < self.examples + self.hidden or len({b for _, b in pairs[: self.examples]}) < 2:
                return Reject("trivial", "the examples have one output")
        prompt = self._prompt(kind, program, pairs[: self.examples])
        answer = {"deduction": y, "abduction": x, "induction": program}[kind]
        if kind != "induction" and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", prompt):
            return Reject("leak", "the answer is printed in the problem")
        meta = {
            "kind": kind,
            "program": program,
            "pairs": [list(p) for p in pairs],
            "text": text or _written(kind, program, x),
        }
        if self.streams:
            meta["stream"] = kind
        key = content_hash(self.name, kind, prompt, program if kind == "induction" else "")
        task = Task(family=self.name, level=level, prompt=prompt, answer=answer, meta=meta, origin=origin, id=key)
        known = rest.count(y) if kind == "abduction" else _guesses(task).count(y) if kind == "deduction" else 0
        if 2 * known > _POOL:
            return Reject("trivial", "most guesses are right")
        return task

    def _prompt(self, kind: str, program: str, pairs: Sequence[tuple[str, str]]) -> str:
        (x, y), examples = pairs[0], "\n".join(f"f({a}) == {b}" for a, b in pairs)
        if not self._english:
            return {"deduction": f"{program}\nf({x}) == ?", "abduction": f"{program}\nf(?) == {y}"}.get(
                kind, f"{examples}\nf = ?"
            )
        if kind == "induction":
            return (
                f"A Python function f gives these results:\n{examples}\nWrite a function f(x) that gives them, and gives "
                "what it gives on other inputs. Reply with its Python alone."
            )
        head = f"Here is a Python program:\n{program}\n"
        if kind == "deduction":
            return head + f"What does f({x}) return? Reply with the value alone, as a Python literal."
        return (
            head + f"For which input x is f(x) == {y}? Any that fits will do. Reply with it alone, as a Python literal."
        )

    def _invite(self, wishes: str) -> str:
        kinds = {
            "deduction": "deduction (what is the output?)",
            "abduction": "abduction (which input gives this output?)",
            "induction": "induction (which program has these outputs?)",
        }
        return (
            f"Invent a problem of {' or '.join(kinds[k] for k in self.kinds)}: a Python program with a function f of one "
            f"argument, and an input, which is a literal. It may import {', '.join(sorted(_MODULES))}. It must give the same "
            f"every time, and its output must change with the input and not be printed in the problem.{wishes} Reply "
            f"with the kind, the program and the input, on lines of their own, of the form {self.proposal_form()} and "
            "nothing else."
        )

    def _shown(self, task: Task) -> str:
        """The problem without its answer."""
        kind, program, (x, y) = task.meta["kind"], task.meta["program"], task.meta["pairs"][0]
        if kind == "induction":
            return f"induction: f({x}) == {y}"
        return f"{kind}: {program}\n" + (f"f({x})" if kind == "deduction" else f"f(?) == {y}")

    def _stream(self, name: str) -> str:
        return one_of("stream", name, self.kinds) if name else ""


_EXAMPLE = "def f(x):\n    return x[::-1]"


def _written(kind: str, program: str, x: str) -> str:
    return f"{kind}\n{program}\nf({x})"


# ---- values ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    """The one spelling of a literal.

    Raises:
        Fault: for a text that is none, or one that is too long.
    """
    text = text.strip(" \n")
    if len(text) > _VALUE_CHARS:
        raise Fault("limits", f"a value of more than {_VALUE_CHARS} characters")
    nested = max(
        (sum(1 if c in "([{" else -1 if c in ")]}" else 0 for c in text[:i]) for i in range(len(text))), default=0
    )
    if not text or set(text) - _CHARACTERS or nested > _DEPTH or re.search(r"(?<![\w.'\"])0\d", text):
        raise Fault("grammar", "an input is a Python literal")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _text(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise Fault("grammar", "an input is a Python literal") from None
    if len(found) > _VALUE_CHARS:
        raise Fault("limits", f"a value of more than {_VALUE_CHARS} characters")
    return found


def _text(value: Any) -> str:
    """A value in letters, of sets and mappings in order.

    Raises:
        ValueError: for a value of another type.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and value - value == 0):
        return ascii(value)
    if kind is list:
        return f"[{', '.join(map(_text, value))}]"
    if kind is tuple:
        return f"({', '.join(map(_text, value))}{',' * (len(value) == 1)})"
    if kind is dict:
        return f"{{{', '.join(sorted(f'{_text(k)}: {_text(v)}' for k, v in value.items()))}}}"
    if kind is set and value:
        return f"{{{', '.join(sorted(map(_text, value)))}}}"
    raise ValueError(f"no value: {kind.__name__}")


def _tidy(text: str) -> str:
    try:
        return _canonical(text)
    except Fault:
        return text


def _like(rng: np.random.Generator, value: Any) -> Any:
    """A random value of the same shape: numbers of this size and sign, lists and texts of a length of their own."""
    kind = type(value)
    if kind is bool:
        return bool(rng.integers(2))
    if kind is int:
        most = min(max(_LARGEST, abs(value)), 2**62)
        return int(rng.integers(-most if value < 0 else 0, most + 1))
    if kind is float:
        return round(float(rng.uniform(-1.0 if value < 0 else 0.0, 1.0)) * max(_LARGEST, abs(value)), 1)
    if kind in (str, list):
        if not value:
            return value
        size = int(rng.integers(1, max(_LONGEST, len(value)) + 1))
        chosen = [value[int(rng.integers(len(value)))] for _ in range(size)]
        return "".join(chosen) if kind is str else [_like(rng, item) for item in chosen]
    if kind is tuple:
        return tuple(_like(rng, item) for item in value)
    if kind is dict:
        return {_like(rng, k): _like(rng, value[k]) for k in sorted(value, key=_text)}
    if kind is set:
        return {_like(rng, item) for item in sorted(value, key=_text)}
    return value


@functools.lru_cache(maxsize=256)
def _likes(labels: tuple[str, ...], value: str) -> tuple[str, ...]:
    rng, found = stream("python", *labels), ast.literal_eval(value)
    return tuple(_text(_like(rng, found)) for _ in range(_POOL))


def _others(program: str, x: str) -> tuple[str, ...]:
    """More inputs of a problem; some may be alike."""
    return tuple(text if len(text) <= _VALUE_CHARS else x for text in _likes(("others", program, x), x))


def _guesses(task: Task) -> tuple[str, ...]:
    if task.meta["kind"] == "abduction":
        return _others(task.meta["program"], task.answer)
    if task.meta["kind"] == "deduction":
        return _likes(("guesses", task.id), task.answer)
    return _guessed_programs(min(task.level, 16))


@functools.cache
def _guessed_programs(level: int) -> tuple[str, ...]:
    rng = stream("python", "programs", level)
    return tuple(_program(_translated(_random(rng, level)))[0] for _ in range(_POOL))


def _flaw(y: str | None, inputs: Sequence[str], values: Sequence[str | None]) -> tuple[str, str] | None:
    """Why a program makes no problem on an input, None if nothing speaks against it."""
    if y is None:
        return "execution", "it has no value on this input, or not always the same"
    if y in ("None", "[]", "''", "()", "{}"):
        return "trivial", f"the output is {y}"
    probes = list(zip(inputs, values, strict=True))[:_PROBES]
    defined = [value for _, value in probes if value is not None]
    if 2 * len(defined) < len(probes):
        return "execution", "it has no value on most inputs"
    if 2 * Counter(defined).most_common(1)[0][1] > len(defined):
        return "trivial", "it gives the same on most inputs"
    if 2 * sum(value == x for x, value in probes) > len(probes):
        return "trivial", "it gives back most inputs"
    return None


# ---- programs --------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _program(source: str) -> tuple[str, int]:
    """A program as Python writes it, and its operations.

    Raises:
        Fault: for a text that is none.
    """
    if len(source) > _PROGRAM_CHARS or set(source) - _CHARACTERS:
        raise Fault("limits", f"a program of at most {_PROGRAM_CHARS} characters of ASCII, without tabs")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            names = _checked(tree)
            text = ast.unparse(tree)
            compile(text, "program", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Fault("grammar", f"no program: {type(error).__name__}") from None
    if names.count("f") != 1 or len(set(names)) < len(names):
        raise Fault("grammar", "a program defines f(x) once, and else imports and functions of other names")
    if len(text) > _PROGRAM_CHARS:
        raise Fault("limits", f"a program of at most {_PROGRAM_CHARS} characters")
    return text, _operations(tree)


def _checked(tree: ast.Module) -> list[str]:
    """The names of the functions; docstrings are cut out."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
            arguments = node.args
            if node.name == "f" and (len(arguments.args) != 1 or ast.unparse(arguments) != arguments.args[0].arg):
                raise Fault("grammar", "f has one argument")
        elif not isinstance(node, (ast.Import, ast.ImportFrom)):
            raise Fault("grammar", "beside functions and imports there is nothing in a program")
    for inner in ast.walk(tree):
        if (
            isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and ast.get_docstring(inner) is not None
        ):
            inner.body = inner.body[1:] or [ast.Pass()]
        imported = [a.name for a in inner.names] if isinstance(inner, ast.Import) else []
        imported += [f"{inner.module}{'.' * inner.level}"] if isinstance(inner, ast.ImportFrom) else []
        for name in imported:
            if name not in _MODULES:
                raise Fault("limits", f"it imports {name:.40}; it may import {', '.join(sorted(_MODULES))}")
    return names


def _operations(tree: ast.Module) -> int:
    return sum(isinstance(node, _COUNTED) for node in ast.walk(tree))


def _harder(program: str, rng: np.random.Generator) -> list[tuple[str, int]]:
    """The program with another operation on what it returns, in random order; none if it returns at several places."""
    tree = ast.parse(program)
    (f,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "f")
    returns = [node for node in ast.walk(f) if isinstance(node, ast.Return) and node.value is not None]
    if len(returns) != 1 or returns[0].value is None:
        return []
    inner, found = ast.unparse(returns[0].value), []
    for i in rng.permutation(len(_STEPS)).tolist():
        step = _STEPS[i].format(e=inner, d=int(rng.integers(2, 10)))
        returns[0].value = ast.parse(step, mode="eval").body
        try:
            found.append(_program(ast.unparse(tree)))
        except Fault:
            continue
    return found


def _random(rng: np.random.Generator, level: int) -> lang.Node:
    """A program of ``programs`` that has this level in Python."""
    while True:
        node = programs._draw(rng, int(rng.integers((level + 1) // 2, level + 1)), "", "x")
        if sum((each[0] in _DOUBLE) + (len(each) > 1) for each in lang.walk(node)) == level:
            return node


def _translated(node: lang.Node) -> str:
    """A program of ``programs`` as Python: a line an operation, and the bodies of maps, filters and folds inside."""
    lines, names = list[str](), iter("abcdeghijklmnopqrstuvw")

    def value(node: lang.Node, inside: bool, top: bool = False) -> str:
        symbol, *operands = node
        if not operands:
            return str(symbol)
        takes = lang.OPERATIONS[symbol].takes
        texts = [
            value(child, inside or kind in (lang.BODY, lang.FOLD) or symbol == "w")
            for child, kind in zip(operands, takes, strict=True)
        ]
        text = _PYTHON[symbol].format(*texts)
        if inside or top:
            return text if top else f"({text})"
        lines.append(f"    {(name := next(names))} = {text}\n")
        return name

    last = value(node, False, True)
    head = "from functools import reduce\n" if any(each[0] == "F" for each in lang.walk(node)) else ""
    return f"{head}def f(x):\n{''.join(lines)}    return {last}"


_PYTHON = {
    "+": "{} + {}", "-": "{} - {}", "*": "{} * {}", "/": "{} // {}", "%": "{} % {}", "m": "min({}, {})",
    "M": "max({}, {})", "<": "int({} < {})", "=": "int({} == {})", "w": "{1} if {0} else {2}", "h": "{}[0]", "e": "{}[-1]",
    "n": "len({})", "s": "sum({})", "b": "min({})", "B": "max({})", "i": "{}[{}]", "c": "{}.count({})",
    "F": "reduce(lambda z, y: {}, {2}, {1})".replace("{}", "{0}"), "r": "{}[::-1]", "o": "sorted({})", "t": "{}[1:]",
    "u": "list(dict.fromkeys({}))", "T": "{}[:max(0, {})]", "D": "{}[max(0, {}):]", "a": "{} + [{}]", "j": "{} + {}",
    "g": "list(range({}))", "@": "[{} for y in {}]", "f": "[y for y in {1} if {0}]",
}  # fmt: skip


_DOUBLE = frozenset("<=uTDg")  # two operations in Python


def _output_of(node: lang.Node, x: str) -> str:
    found = lang.run(node, tuple(ast.literal_eval(x)))
    return _text(list(found) if isinstance(found, tuple) else found)


# ---- runs ------------------------------------------------------------------------------------------------------


def _outputs(program: str, inputs: Sequence[str]) -> list[str | None]:
    """What a program gives on each input, None where that is no value."""
    found = _run([(program, inputs)])
    return [found.get((program, x)) for x in inputs]


def _run(jobs: Iterable[tuple[str, Sequence[str]]]) -> dict[tuple[str, str], str | None]:
    """Outputs by program and input; one run in the sandbox for all that is not known yet."""
    jobs = list(jobs)
    known = {(program, x): _seen[program, x] for program, inputs in jobs for x in inputs if (program, x) in _seen}
    todo = [(p, list(dict.fromkeys(x for x in inputs if (p, x) not in known))) for p, inputs in jobs]
    todo = [(program, inputs) for program, inputs in todo if inputs]
    if not todo:
        return known
    keys = [(program, x) for program, inputs in todo for x in inputs]
    ended = _BOX.run(_RUNNER, stdin=repr(todo).encode())
    lines = ended.stdout.decode("ascii", "replace").split("\n")
    if ended.status != "ok" or len(lines) != len(keys) + 1 or lines[-1] != "end":
        return known  # one endless run takes the others along; nothing is kept of it
    found = {key: None if _no_value(line) else _canonical(line) for key, line in zip(keys, lines, strict=False)}
    if len(_seen) > 20_000:
        _seen.clear()
    _seen.update(found)
    return known | found


def _no_value(line: str) -> bool:
    try:
        return not _canonical(line)
    except Fault:
        return True
