"""The Frontier Report's parts: figures by hand, families, ticks, the command line, the terminal."""

from __future__ import annotations

import copy
import io
import json
import math
import shlex
from pathlib import Path
from typing import Any

import _frontier_data as world
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dream_envs.report import frontier_page as page_module
from dream_envs.report import frontier_plots as curves
from dream_envs.report import frontier_read as fr
from dream_envs.report import frontier_tables as tables
from dream_envs.report import svg
from dream_envs.report.frontier_terminal import show_frontier
from dream_envs.report.page import write_report
from dream_envs.report.terminal import show


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return world.frontier()


@pytest.fixture(scope="module")
def axes() -> Any:
    with svg.style():
        return svg.figure()[1][0]


@given(st.floats(-7, 9), st.floats(0.05, 13))
def test_ticks_of_a_log_axis_say_where_they_stand(axes: Any, low: float, span: float) -> None:
    axes.set_xlim(low, low + span)
    curves.log_ticks(axes)
    texts, at = [t.get_text() for t in axes.get_xticklabels()], axes.get_xticks()
    assert len(set(texts)) == len(texts) <= 8
    assert texts or span < 0.5
    for text, x in zip(texts, at, strict=True):
        plain = text.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        value = 10.0 ** int(plain[2:]) if plain != text else eval_number(text)
        assert value == pytest.approx(10.0 ** float(x), rel=1e-6) and low - 1e-6 <= x <= low + span + 1e-6


def eval_number(text: str) -> float:
    size = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1.0)
    return float(text.rstrip("kMG")) * size


def test_the_headline_by_hand() -> None:
    h = {"fg": 2.31, "low": 1.6, "high": 2.98, "e": 2.46, "e_star": 2.46, "s": 0.15, "persistence": 0.979, "n": 2000,
         "held_out": {"fg": 1.9, "low": 0.8, "high": 3.1, "n": 600}, "runs": {"count": 5}}  # fmt: skip
    line = (
        "FG* +2.3 [+1.6, +3.0] · E 2.5 · S 0.1 · persistence 0.98 · held-out families +1.9 [+0.8, +3.1] · "
        "N=2,000 · runs=5"
    )
    assert fr.headline({"headline": h}) == line.replace("S 0.1", f"S {round(0.15, 1):.1f}")
    h.update(e_star=-0.3, fg=-0.45, s=0.004, held_out=None, runs=None, persistence=None)
    assert fr.headline({"headline": h}).startswith("FG* -0.5 [") or fr.headline({"headline": h}).startswith(
        "FG* -0.4 ["
    )
    assert "E 2.5 (E* -0.3 after the tail correction) · S 0.004 · persistence - · held-out families not measured" in (
        fr.headline({"headline": h})
    )


def problem(trained: int, draws: int, first: int | None = None, **more: Any) -> dict[str, Any]:
    return {"family": "f", "trained": [trained, 16], "base_draws": draws, "base_first": first, "eligible": True, **more}


def test_gains_and_losses_of_a_family_by_hand() -> None:
    """Four of five followed ones: one solved late, one vetoed, two never; so half of the three left out count too."""
    rows = [
        problem(16, 1024), problem(4, 1024), problem(9, 700, 700), problem(9, 1024, vetoed="steering"),
        problem(16, 128), problem(16, 128), problem(5, 128),  # left out by lot
        problem(16, 3, 3), problem(3, 0), problem(0, 0),
        problem(0, 0, base=[9, 16], loss_draws=1024, loss_first=None),
        problem(1, 0, base=[9, 16], loss_draws=40, loss_first=40), problem(0, 0, base=[3, 16], loss_draws=0),
    ]  # fmt: skip
    data = {
        "protocol": {"need": 4, "budgets": [128, 256, 512, 1024]}, "problems": rows,
        "suite": {"families": [{"name": "f", "n": 13, "eligible": True}, {"name": "g", "n": 5, "eligible": True}]},
    }  # fmt: skip
    f, g = fr.families(data)
    assert (f.gained, f.lost, f.tried) == (2 + 3 * 2 / 4, 1, 8)
    assert f.reached == 3 / 8 and f.pass1 == pytest.approx(sum(r["trained"][0] for r in rows) / 16 / 13)
    assert f.gain[0] == pytest.approx(100 * 3.5 / 13)
    assert (g.gained, g.lost, g.reached, g.gain) == (None, None, None, (None, None, None))


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_are_where_the_score_test_turns(counts: tuple[int, int]) -> None:
    count, n = counts
    share = count / n
    low, high = fr.wilson(count, n)
    assert 0 <= low <= share <= high <= 1 and low < high
    for end in {low, high} - {0.0, 1.0}:
        assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5, abs=1e-7)


def test_the_command_is_one_that_the_verb_takes(data: dict[str, Any]) -> None:
    import typer.main

    from dream_envs.cli.frontier import frontier_app

    mini = copy.deepcopy(data)
    mini["protocol"]["budgets"] = [128, 256, 512, 1024]
    mini["trained"]["run"], mini["suite"]["seed"] = "my run; rm -rf /", "$(x)"
    lines = [page_module._command(d) for d in (data, mini)]
    options = {o for p in typer.main.get_command(frontier_app).params for o in p.opts}
    for line in lines:
        argv = shlex.split(line)
        assert argv[:2] == ["dream-envs", "frontier"] and set(argv[2::2]) <= options
        values = dict(zip(argv[2::2], argv[3::2], strict=True))
        assert values["--vetoes"] == "format LoRA" and values["--arms"].count(",") == len(world.ARMS) - 1
    assert "--size standard" in lines[0] and "--size mini" in lines[1]
    assert values["--trained"] == "my run; rm -rf /" and values["--seed"] == "$(x)"
    assert page_module._command({**data, "base": {}}) == ""


def test_the_saving_by_hand() -> None:
    cost = {"base_draws": 146_528, "round_robin_draws": 100_000, "full_draws": 400_000, "seconds": 5400, "drawn_now": 0}
    rows = dict(tables.cost_rows({"cost": cost}))
    assert rows["Saved by early stopping"] == "75 % of the base's draws in turn (4.0x fewer)"
    assert rows["Time"] == "90 min" and "Tokens generated" not in rows


def test_the_terminal_tells_the_same(data: dict[str, Any]) -> None:
    for width in (40, 100, 200):
        show_frontier(data, Console(file=(out := io.StringIO()), width=width))
        assert all(len(line) <= min(width, 100) for line in out.getvalue().splitlines())
    words = " ".join(out.getvalue().split())
    assert fr.headline(data) in words and f"Expansion: {data['verdict']['sentence']}" in words
    for row in tables.family_rows(data):
        line = next(x for x in out.getvalue().splitlines() if x.startswith(row[0][:24]))
        assert all(cell in line for cell in (row[2], row[3], *row[6:10]))
    assert "Vendi ratio" in words and f"{data['cost']['tokens']:,}" in words
    show_frontier(world.bare(data), Console(file=io.StringIO(), width=100))


def test_the_verb_report_knows_its_folder(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "MAKERS", ())
    folder = world.write(tmp_path, data)
    page = write_report(folder)
    assert page.read_text("utf-8") == page_module.render_frontier(data)
    show(folder, Console(file=(out := io.StringIO()), width=100))
    show_frontier(data, Console(file=(same := io.StringIO()), width=100))
    assert out.getvalue() == same.getvalue() != ""


def test_the_real_schema_is_read(tmp_path: Path) -> None:
    """What the protocol writes passes the checks (its own tests draw it; here its shape is held against ours)."""
    from dream_envs.frontier import panels

    source = Path(panels.__file__).read_text("utf-8")
    for key in (*fr.REQUIRED, *fr.OPTIONAL):
        assert f'"{key}"' in source, key
    ours = {k for p in world.frontier("Expansion", 1)["problems"] for k in p}
    assert {k for k in ours if f'"{k}"' not in source} == set()


def test_labels_fit() -> None:
    assert json.loads(json.dumps(fr.label("x\n\ty" * 50, 10))) == "x yx yx y…"
    assert [fr.signed(x) for x in (0.04, -0.04, 2.25, None)] == ["0.0", "0.0", f"{round(2.25, 1):+.1f}", "-"]
    assert [fr.points(x) for x in (0.0, 0.004, 12.34)] == ["0.0", "0.004", "12.3"]
