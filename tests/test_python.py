"""The family ``python``: what is accepted, hostile programs and replies, and that truth never enters the sandbox.

What every family must do is in ``test_tasks.py``, every reason for a rejection in ``test_task_rejects.py``.
"""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dream_envs import registry, sandbox
from dream_envs.core import DreamEnvsError, Reject, Task
from dream_envs.seeds import stream
from dream_envs.tasks import _programs as lang
from dream_envs.tasks import programs
from dream_envs.tasks import python as module
from dream_envs.tasks.programs import KINDS
from dream_envs.tasks.python import Python

REASON = sandbox.available()
needs = pytest.mark.skipif(REASON is not None, reason=REASON or "")
DOUBLE = "def f(x):\n    return [v * 2 for v in x][::-1]"


def task_of(kind: str, program: str = DOUBLE, x: str = "[3, -1]", notation: str = "compact", **knobs: Any) -> Task:
    found = Python(notation, **knobs).parse(f"{kind}\n{program}\nf({x})")
    assert isinstance(found, Task), found
    return found


def test_without_a_sandbox_there_is_no_family(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DreamEnvsError, match=r"^family python: sandbox: bubblewrap is not installed: apt install"):
        registry.create("tasks", "python")


@needs
def test_each_kind_by_hand() -> None:
    f = Python()
    deduction, abduction, induction = (task_of(kind) for kind in KINDS)
    assert (deduction.prompt, deduction.answer) == (f"{DOUBLE}\nf([3, -1]) == ?", "[-2, 6]")
    assert (abduction.prompt, abduction.answer) == (f"{DOUBLE}\nf(?) == [-2, 6]", "[3, -1]")
    assert induction.prompt.startswith("f([3, -1]) == [-2, 6]\n") and induction.prompt.endswith("\nf = ?")
    assert len(induction.meta["pairs"]) == 10 and induction.prompt.count("==") == 5
    for reply, right in (("[-2, 6]", 1), ("[-2,6]", 0), ("[6, -2]", 0), ("(-2, 6)", 0), ("[-2, 6.0]", 0), (DOUBLE, 0)):
        assert f.verify(deduction, reply).value == right, reply
    for reply, right in (("[3, -1]", 1), ("(3, -1)", 1), ("[-1, 3]", 0), ("x", 0), ("[1] + [2]", 0), ("f", 0)):
        assert f.verify(abduction, reply).value == right, reply
    by_loop = "def f(x):\n    out = []\n    for v in x:\n        out.insert(0, v + v)\n    return out"
    knows = f"def f(x):\n    return {{{', '.join(f'str({a}): {b}' for a, b in induction.meta['pairs'][:5])}}}[str(x)]"
    for reply, right in ((DOUBLE, 1), (by_loop, 1), (DOUBLE.replace("2", "3"), 0), (knows, 0), ("[-2, 6]", 0), ("", 0)):
        assert f.verify(induction, reply).value == right, reply


@needs
def test_inputs_of_other_types_have_others_like_them() -> None:
    word = task_of("induction", "def f(x):\n    return x.count('a') * x[0]", "'banana'")
    assert all(a.startswith("'") for a, _ in word.meta["pairs"])
    table = task_of("deduction", "def f(x):\n    return sorted(x.values())", "{'a': 3, 'b': 1}")
    assert table.answer == "[1, 3]"
    pair = task_of("abduction", "def f(x):\n    a, b = x\n    return a * 10 + b", "(3, 4)")
    assert Python().verify(pair, "(2, 14)").value == 1.0
    ordered = task_of("deduction", "def f(x):\n    return {v % 7 for v in x} | {len(x)}", "[30, 20, 10, 1]")
    assert ordered.answer == "{1, 2, 3, 4, 6}"


@needs
@pytest.mark.parametrize(
    ("reply", "right"),
    [
        (f"```python\n{DOUBLE}\n```", 1),
        (f"<think>hm\ndef f(x): pass</think>Here it is:\n```python\n# doubles\n{DOUBLE}\n```\nIt doubles.", 1),
        (f"Answer:\n{DOUBLE}", 1),
        (f"```python\n{DOUBLE}\n```\nor\n```python\ndef f(x):\n    return x\n```", 0),
        (f"<think>{DOUBLE}", 0),
        (f"{DOUBLE}\n{DOUBLE}", 0),
        (f"{DOUBLE}\nprint(f([1]))", 0),
        ("lambda x: [v * 2 for v in x][::-1]", 0),
    ],
)
def test_english_programs(reply: str, right: float) -> None:
    assert Python("english").verify(task_of("induction", notation="english"), reply).value == right


@needs
@pytest.mark.parametrize(
    "reply", ["Answer: [-2, 6]", "So f returns [-2, 6].", "\\boxed{[-2, 6]}", "`[-2,6]`", "[-2,6]"]
)
def test_english_values(reply: str) -> None:
    task, f = task_of("deduction", notation="english"), Python("english")
    assert f.verify(task, reply).value == 1.0
    assert f.verify(task, reply.replace("6", "5")).value == 0.0
    assert f.verify(task, f"{reply} or [1, 2]").value == float("boxed" in reply)  # a box says which it is


#: Programs of a challenger that make no problem, and why.
HOSTILE = {
    "import os\ndef f(x):\n    return os.listdir('/')[:x[0]]": "limits",
    "def f(x):\n    import subprocess\n    return len(x)": "limits",
    "def f(x):\n    return open('/etc/passwd').read()[:x[0]]": "execution",
    "def f(x):\n    while x:\n        pass\n    return len(x)": "execution",
    "def f(x):\n    return [0] * 10 ** 9 + x": "execution",
    "def f(x):\n    return id(x) + len(x)": "execution",  # another value each time
    "def f(x):\n    __import__('os')._exit(len(x))": "execution",
    "def f(x):\n    __import__('os').write(1, b'7\\nend')\n    __import__('os')._exit(len(x) * 0)": "execution",
    "def f(x):\n    return print(x) or len(x[:1])": "trivial",
    "seen = []\ndef f(x):\n    return len(seen)": "grammar",
    "def f(x, y=[]):\n    y.append(1)\n    return len(y)": "grammar",
    "def f(x):\n    f.n = getattr(f, 'n', 0) + 1\n    return f.n": "trivial",  # anew each time: it is always 1
    "def f(x):\n    return sum(x) * 0": "trivial",
    "def f(x):\n    return sorted(x)[::1] and x": "trivial",
}


@needs
@pytest.mark.parametrize("program", HOSTILE)
def test_hostile_proposals(program: str) -> None:
    found = Python().parse(f"deduction\n{program}\nf([4, 2, 9])")
    assert isinstance(found, Reject) and found.code == HOSTILE[program], found


@needs
def test_hostile_inductions_are_wrong_and_cost_the_others_nothing() -> None:
    f, task = Python(), task_of("induction")
    for body in ("while True: pass", "__import__('os')._exit(0)", "raise SystemExit", "return [0] * 10 ** 10", "1 / 0",
                 "return __import__('sys')._getframe(1).f_locals", "print('end')", "return f(x)"):  # fmt: skip
        assert f.verify(task, f"def f(x):\n    {body}").value == 0.0, body
    assert f.verify(task, DOUBLE).value == 1.0


@needs
def test_no_answer_ever_enters_the_sandbox(monkeypatch: Any) -> None:
    """What the sandbox is given, of every kind: no expected output beyond what is an input as well."""
    given: list[str] = []
    run = sandbox.Sandbox.run

    def watched(self: Any, source: str, **rest: Any) -> Any:
        given.append(source + rest["stdin"].decode())
        return run(self, source, **rest)

    tasks = [task_of(kind, x="[41, 57]") for kind in KINDS]
    module._seen.clear()
    monkeypatch.setattr(sandbox.Sandbox, "run", watched)
    f = Python()
    replies = ["[114, 82]", "[41, 57]", "def f(x):\n    return [v + v for v in reversed(x)]"]
    assert [f.verify(task, reply).value for task, reply in zip(tasks, replies, strict=True)] == [1.0, 1.0, 1.0]
    assert len(given) == 2 and not any("114" in text for text in given)  # a deduction runs nothing


@needs
def test_a_problem_costs_one_run(monkeypatch: Any) -> None:
    count, run = Counter[str](), sandbox.Sandbox.run
    monkeypatch.setattr(sandbox.Sandbox, "run", lambda self, *a, **k: count.update(["run"]) or run(self, *a, **k))
    for i, kind in enumerate(KINDS):
        task_of(kind, f"def f(x):\n    return [v * 2 + {i} for v in x][::-1]", "[7, 3]")
        assert count["run"] == i + 1


@needs
def test_what_is_generated_is_what_python_gives() -> None:
    """The generator's values are our interpreter's; here all of them are run as Python, in one go."""
    f = Python()
    tasks = [f.generate(stream("as python", i), 1 + i % 8, stream="induction") for i in range(24)]
    jobs = [(t.meta["program"], [x for x, _ in t.meta["pairs"]]) for t in tasks]
    module._seen.clear()
    found = module._run(jobs)
    for task in tasks:
        assert [found[task.meta["program"], x] for x, _ in task.meta["pairs"]] == [y for _, y in task.meta["pairs"]]


@needs
@pytest.mark.parametrize("symbol", lang.OPERATIONS)
def test_every_operation_as_python(symbol: str) -> None:
    """Drawn programs with the operation at the top, against the interpreter; this runs our own text."""
    rng, tried = stream("operation", symbol), 0
    takes = lang.OPERATIONS[symbol].takes
    while tried < 20:
        node = (symbol, *(programs._operand(rng, int(rng.integers(3)), kind, "x") for kind in takes))
        x, space = programs._input(rng), dict[str, Any]()
        try:
            expected = lang.run(node, x)
        except lang.Fault:
            continue
        exec(module._translated(node), space)
        found, tried = space["f"](list(x)), tried + 1
        assert found == (list(expected) if isinstance(expected, tuple) else expected), module._translated(node)


@needs
def test_modes_streams_and_travel() -> None:
    f = Python()
    assert f.streams == KINDS and Python(mode="induction").streams == ()
    for kind in KINDS:
        task = f.generate(stream("one"), 2, stream=kind)
        assert task.meta["kind"] == task.meta["stream"] == kind
        assert kind in Python("english").brief(stream=kind) and f.brief(stream=kind) == f"new {kind[0]}"
    with pytest.raises(DreamEnvsError, match="stream"):
        f.brief(stream="all")
    other = Python(mode="abduction").parse(f"deduction\n{DOUBLE}\nf([3, -1])")
    assert isinstance(other, Reject) and other.code == "limits"
    for again in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f)):
        assert again.generate(stream("one"), 2) == f.generate(stream("one"), 2)


@needs
def test_a_proposal_of_a_chat_model() -> None:
    text = f"<think>x</think>Here you are.\n```\ndeduction\n# twice\n{DOUBLE}\nf([3,-1])\n```\nHave fun!"
    found = Python("english").parse(text)
    assert isinstance(found, Task) and found.answer == "[-2, 6]" and "twice" not in found.prompt


@pytest.mark.parametrize(
    "text", ["", "x", "1+1", "[1", "00", "[01]", "a.b", "f(1)", "1j", "b'a'", "...", "[" * 40 + "]" * 40, "9" * 400,
             "{1, []}", "-'a'", "\u0663", "1e999", "[1]\x00", "'\u00e9'"],
)  # fmt: skip
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(lang.Fault):
        module._canonical(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("[1,2 ,]", "[1, 2]"), ("(1)", "1"), ("(1,)", "(1,)"), ('"a"', "'a'"), ("{2:1,1:2}", "{1: 2, 2: 1}"),
     ("-0.50", "-0.5"),
     ("{3,1}", "{1, 3}"), ("True", "True"), ("'\\xe9'", "'\\xe9'")],
)  # fmt: skip
def test_one_spelling(text: str, value: str) -> None:
    assert module._canonical(text) == value == module._canonical(value)


@needs
@pytest.mark.slow
def test_azr_trains_on_python(tmp_path: Any) -> None:
    pytest.importorskip("trl")
    import json

    from dream_envs import cli

    out = tmp_path / "run"
    words = "proposals=6,replays=3,attempts=2,groups=4,eval.problems=2,eval.attempts=1,eval.levels=[1]"
    argv = [
        "train",
        "azr",
        "--family",
        "python",
        "--steps",
        "2",
        "--out",
        str(out),
        "--no-frontier",
        "--json",
        "--set",
        words,
    ]
    assert cli.main(argv) == 0
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert {line["tasks"][0]["meta"].get("stream") for line in lines} >= set(KINDS)
