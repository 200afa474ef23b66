"""The field's words: what ``words.txt`` lists is in no identifier of the product, no help and no document."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_layers import ROOT, SOURCE, tree_of

from dream_envs import cli

WORDS = [w for w in (ROOT / "tests" / "words.txt").read_text("utf-8").splitlines() if w and not w.startswith("#")]
#: Labels of random streams keep the words that they were drawn with.
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def parts(name: str) -> set[str]:
    """``FixedPrompts`` and ``fixed_prompts`` as their words and as a whole."""
    split = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return {name.lower().strip("_"), *(p.lower() for p in split)}


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for field in ("name", "id", "arg", "attr"):
            if isinstance(value := getattr(node, field, None), str):
                yield getattr(node, "lineno", 0), value


@pytest.mark.parametrize("path", SOURCE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_identifier(path: Path) -> None:
    found = [(line, name) for line, name in identifiers(tree_of(path)) if parts(name) & set(WORDS)]
    assert not found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_no_document(path: Path) -> None:
    text = " ".join(path.read_text("utf-8").lower().split())
    assert not [w for w in WORDS if re.search(rf"\b{re.escape(w)}\b", text)]


@pytest.mark.parametrize(
    "verb", ["", "train", "dream", "frontier", "play", "rollout", "check", "new", "view", "rescore"]
)
def test_no_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*([verb] if verb else []), "--help"])
    text = capsys.readouterr().out.lower()
    assert text and not [w for w in WORDS if re.search(rf"\b{re.escape(w)}\b", text)]


def test_a_word_is_found() -> None:
    assert parts("FixedPrompts") >= {"fixedprompts", "fixed"} and "veto" in parts("veto_draws")
