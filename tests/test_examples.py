"""The programs in examples/ learn what they say, from the public environment API alone."""

from __future__ import annotations

import ast
import re
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = {path.stem: path for path in (Path(__file__).resolve().parent.parent / "examples").glob("*.py")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_one_file_and_nothing_of_our_agents(name):
    text = EXAMPLES[name].read_text()
    assert len(text.splitlines()) <= 130
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {name for node in found for name in (getattr(node, "module", ""), *(alias.name for alias in node.names))}
    assert {name for name in names if str(name).startswith("dream_envs")} == {"dream_envs"}
    assert not [node for node in found if getattr(node, "module", "") == "dream_envs"]


@pytest.mark.parametrize(("name", "steps", "better"), [("reinforce_vector", 40, 1), ("pettingzoo_selfplay", 60, -1)])
def test_learns(name, steps, better, tmp_path):
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run = subprocess.run(
        [sys.executable, str(EXAMPLES[name]), "--seed", "0", "--steps", str(steps)],
        cwd=tmp_path, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    number = r"(-?\d\.\d{3})"
    pattern = rf"^(before|after) .*?{number} \[{number}, {number}\]$"
    found = {label: [float(x) for x in values] for label, *values in re.findall(pattern, run.stdout, re.MULTILINE)}
    (value, low, high), (value_after, low_after, high_after) = found["before"], found["after"]
    assert low < value < high and low_after < value_after < high_after
    assert low_after > high if better > 0 else high_after < low
    assert run.stdout.count("\nstep ") == steps // 20
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - spent < 100


def test_padding_changes_nothing():
    """Completions of one batch have the log-probabilities that each has by itself."""
    example = runpy.run_path(str(EXAMPLES["reinforce_vector"]))
    tokenizer = example["AutoTokenizer"].from_pretrained(example["BASE"], padding_side="left")
    model = example["AutoModelForCausalLM"].from_pretrained(example["BASE"])
    prompts = ["a:B", "c:BDAHG", "f:CA"]
    texts, tokens = example["sample"](model, tokenizer, prompts, torch.Generator().manual_seed(0))
    assert len({len(text) for text in texts}) > 1, "completions of one length test nothing"
    together = example["log_probs"](model, *tokens)
    for prompt, text, value in zip(prompts, texts, together, strict=True):
        chat = [{"role": "user", "content": prompt}]
        start = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        new = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([[*start, *new]])
        logits = model(ids).logits[0, len(start) - 1 : -1].log_softmax(-1)
        alone = logits.gather(1, torch.tensor(new)[:, None]).sum()
        torch.testing.assert_close(value, alone, atol=1e-4, rtol=1e-4)
