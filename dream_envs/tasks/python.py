r"""Python: the three task types of Absolute Zero on Python programs, which run in the sandbox and nowhere else.

A problem is a program, a module with ``def f(x)``, and an input, a literal; kinds and streams as in ``programs``:

- ``deduction``: the program and the input are shown, the output is the answer.
- ``abduction``: the program and the output are shown; every input that gives this output is accepted.
- ``induction``: ``examples`` inputs with their outputs are shown; every program is accepted that has these outputs and
  those on ``hidden`` more inputs.

A proposal is three parts on lines of their own, the same in both notations: the kind, the program, ``f(INPUT)``.  What
is shown is the program as Python writes it: comments and docstrings are gone.  ``compact`` notation shows program,
input and output alone and takes a reply to the last character; ``english`` reads what a chat model writes around it.

Outputs are compared here, outside: no expected output, and of a hidden pair no output, is ever in the sandbox.  A
program runs anew for each input, twice; with two results, or none that is a literal, it has no value there.  More
inputs are drawn like the problem's own, from a stream that program and input name, so that the proposal alone says all.

Level = calls, operators, comparisons, subscripts, comprehensions, branches and loops.  Turned away: a program without a
value on most inputs, or with the same or the input itself on most; a leaked answer; what most guesses are right about.

Chance: a guesser draws one of 64 replies, all alike: of deduction values like the output, of abduction inputs like the
problem's, of induction generated programs of this level.  All are tried, so that it is exact.

The generator writes programs of the language of ``programs`` as Python.  Needs bubblewrap.  Version history: 1.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from dream_envs import sandbox
from dream_envs.core import DreamEnvsError, Reject, Task, content_hash
from dream_envs.tasks import answers, programs
from dream_envs.tasks._programs import Fault
from dream_envs.tasks._python import (
    _CHARACTERS,
    _COUNTED,
    _MODULES,
    _POOL,
    _PROGRAM_CHARS,
    _VALUE_CHARS,
    _canonical,
    _flaw,
    _guesses,
    _harder,
    _operations,
    _others,
    _output_of,
    _program,
    _random,
    _text,
    _tidy,
    _translated,
)
from dream_envs.tasks.answers import CHAT_TOKENS, NUMBER
from dream_envs.tasks.programs import KINDS, ThreeTypes

_BOX = sandbox.Sandbox(memory_mb=128, cpu_s=2, wall_s=20.0, output_kb=2048)
_TRIES = 1000
_KIND_LINE = re.compile(rf"^(?:{'|'.join(KINDS)})$", re.M)
_CALL_LINE = re.compile(r"^f\((.*)\)$", re.M)
#: A literal in a sentence; whether it is one is seen later.
_ANSWER = re.compile(
    r"(?<![\w\])}(])(?:\[[^\n]*\]|\([^\n]*\)|\{[^\n]*\})(?![\w\[(])|'[^'\n]*'|\"[^\"\n]*\"|\b(?:True|False|None)\b"
    rf"|{NUMBER.pattern}"
)
_PYTHON_LINE = re.compile(r"^\s*return\b|\bdef f\(")
#: Runs in the sandbox: every program on each of its inputs, each time anew, and twice.
_RUNNER = """
import os, signal, sys
def late(*_):
    raise TimeoutError
signal.signal(signal.SIGVTALRM, late)
jobs, lines = eval(sys.stdin.read()), []
sys.stdout = sys.stderr = None
def value(code, text):
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)
        space = {"__name__": "program"}
        exec(code, space)
        found = ascii(space["f"](eval(text)))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
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


class Python(ThreeTypes):
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
    max_chars = _PROGRAM_CHARS + _VALUE_CHARS + 20
    max_reply_tokens = CHAT_TOKENS
    _characters = _CHARACTERS

    def __init__(
        self, notation: str = "compact", *, mode: str = "all", max_level: int = 10, examples: int = 5, hidden: int = 5
    ) -> None:
        super().__init__(notation, max_level, 32, mode, examples, hidden)
        if reason := sandbox.available():
            raise DreamEnvsError(f"family python: {reason}")

    def generate(self, rng: np.random.Generator, level: int, stream: str = "") -> Task:
        """A problem of this level and stream, ``""`` for any of the family's; inputs are lists of 1 to 6 numbers."""
        level = self._level(level)
        kind = self._kind(rng, stream)
        return self._drawn(rng, level, kind, "generator")

    def read(self, task: Task, reply: str) -> str | None:
        """The answer that a reply states; None if it states none."""
        if self.protocol == "strict":
            return reply
        block = answers.block(reply)
        if task.meta["kind"] == "induction":
            return block if "def f(" in block else None
        if _PYTHON_LINE.search(block.rpartition("\n")[2]):
            return None
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
        """The share of the guesser's 64 replies that are accepted."""
        guesses, pairs = _guesses(task), task.meta["pairs"]
        if task.meta["kind"] == "abduction":
            _run([(task.meta["program"], guesses)])
        elif task.meta["kind"] == "induction":
            _run([(program, [x for x, _ in pairs]) for program in dict.fromkeys(guesses)])
        found = Counter(guesses)
        return sum(count for reply, count in found.items() if self.accepts(task, reply)) / len(guesses)

    def guess(self, task: Task, rng: np.random.Generator) -> str:
        """One of 64 replies of the right type; see the module's head."""
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
                f"A Python function f gives these results:\n{examples}\nWrite a function f(x) that gives them, and "
                "gives what it gives on other inputs. Reply with its Python alone."
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
            f"Invent a problem of {' or '.join(kinds[k] for k in self.kinds)}: a Python program with a function f of "
            f"one argument, and an input, a literal. It may import {', '.join(sorted(_MODULES))}. It must give "
            "the same every time, and its output must change with the input and not be printed in the problem."
            f"{wishes} Reply with the kind, the program and the input, on lines of their own, of the form "
            f"{self.proposal_form()} and "
            "nothing else."
        )

    def _shown(self, task: Task) -> str:
        """The problem without its answer."""
        kind, program, (x, y) = task.meta["kind"], task.meta["program"], task.meta["pairs"][0]
        if kind == "induction":
            return f"induction: f({x}) == {y}"
        return f"{kind}: {program}\n" + (f"f({x})" if kind == "deduction" else f"f(?) == {y}")


_EXAMPLE = "def f(x):\n    return x[::-1]"


def _written(kind: str, program: str, x: str) -> str:
    return f"{kind}\n{program}\nf({x})"


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
        if len(todo) == 1 and ended.wall_s < _BOX.wall_s:  # its own doing, and not that of a busy machine or of another
            _seen.update(dict.fromkeys(keys))
        return known
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
