"""The page of the task families: its Python runs as it stands there, and it names every family."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dream_envs import registry, sandbox
from dream_envs.tasks import _programs as lang

PAGE = (Path(__file__).parent.parent / "docs" / "tasks.md").read_text("utf-8")
PARTS = re.split(r"^## ", PAGE, flags=re.M)


def blocks(part: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", part, re.M | re.S)


def test_the_blocks_run_one_after_the_other() -> None:
    names: dict[str, object] = {}
    ours = [block for part in PARTS if not part.startswith(("reasoning_gym", "python\n")) for block in blocks(part)]
    assert len(ours) == 5
    for number, block in enumerate(ours):
        exec(compile(block, f"block {number} of tasks.md", "exec"), names)


@pytest.mark.skipif(sandbox.available() is not None, reason=sandbox.available() or "")
def test_the_block_of_python() -> None:
    names: dict[str, object] = {}
    (part,) = [part for part in PARTS if part.startswith("python\n")]
    for block in (*blocks(PARTS[0]), *blocks(part)):
        exec(block, names)


def test_the_blocks_of_reasoning_gym() -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")
    from dream_envs.tasks import reasoning_gym as module

    names: dict[str, object] = {}
    exec(blocks(PARTS[0])[0], names)
    (part,) = [part for part in PARTS if part.startswith("reasoning_gym")]
    assert len(blocks(part)) == 2
    for block in blocks(part):
        exec(block, names)
    assert all(f"`{name}`" in part for name in module.LEFT_OUT)
    assert f"one of {len(module._known()) - len(module.LEFT_OUT)} generators" in PARTS[0]


def test_it_names_every_family_and_every_operation() -> None:
    for name in registry.rows("tasks"):
        assert f"| `{name}` |" in PARTS[0] and any(part.startswith(f"{name}\n") for part in PARTS)
    (part,) = [part for part in PARTS if part.startswith("programs")]
    for symbol, operation in lang.OPERATIONS.items():
        assert re.search(rf"`{operation.name}` {re.escape(symbol)}[, ]", part), operation.name


def test_lines_are_not_too_long() -> None:
    assert max(map(len, PAGE.splitlines())) <= 140
