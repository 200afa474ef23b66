"""Pre-train a nano base from its declared support: ``python -m dream_envs.baselines.nano.recipe compose``.

A nano base is a transformer of about 0.15 M parameters without positional encoding (SmolLM3's layout with no rotary
layer: it extrapolates in length better than learned positions did, and shifting a prompt changes nothing), pre-trained
on a generator with explicit limits.  Whatever is outside the declared support is not in the data, so that "beyond the
base" has a meaning; what the base then does outside it is measured exactly (``frontier.exact``).

Bases are named by their support.  A new one is a new row of ``BASES`` and never changes another.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from dream_envs.baselines.nano import contexts
from dream_envs.baselines.nano import tokenizer as nano_tokenizer
from dream_envs.baselines.nano.judged import Judging, asked, judged, question_mask, wrong_answer
from dream_envs.envs.kuhn_exact import INFORMATION_SETS
from dream_envs.seeds import digest, stream
from dream_envs.tasks.composition import Composition


class Support(msgspec.Struct, frozen=True):
    """All that a base was ever shown.

    ``depths``: problem depths, drawn uniformly.  ``copy``: share of examples that only repeat a string of 1 to
    ``copy_length`` operations (``:BDA`` -> ``BDA``), a skill that any language model brings along and without which a
    transformer this small finds the next operation by tricks that break at odd depths.  ``propose``: share of
    proposing examples among the others, which solve.
    ``formats``: shares of the answer formats of a solved problem: ``trace`` is the family's own, ``states`` leaves the
    operations out, ``final`` is the last state alone.  Pairs of operations in ``family.held_out`` never occur.
    """

    family_args: dict[str, Any] = {}
    depths: tuple[int, ...] = (1, 2, 3)
    copy: float = 0.2
    copy_length: int = 10
    propose: float = 0.35
    formats: dict[str, float] = msgspec.field(default_factory=lambda: {"trace": 0.9, "states": 0.1})


class Wider(Support, frozen=True):
    """A support whose copied strings have operations that no problem ever shows: known by name, not by table.

    ``copied``: the operations of the copied strings.
    """

    copied: str = "ABCDEFGHIJ"


class Judged(Support, frozen=True):
    """A support with answers to judge, and solutions that slip.

    ``slip``: share of the solved problems whose trace has one wrong state and goes on from it, as if it were right.
    ``judging``: what is judged, and how rightly.
    """

    slip: float = 0.25
    judging: Judging = Judging()


class Readers(Support, frozen=True):
    """A support with contexts to read: operations whose tables are shown and not known."""

    reading: contexts.Reading = contexts.Reading()


class Explorers(Readers, frozen=True):
    """Readers who know more operations by name: ``copied`` are those of the copied strings."""

    copied: str = "ABCDEFGHIJKLMNOPQRSTUVWX"


class LegalPlay(Support, frozen=True):
    """A support without problems: every situation of Kuhn poker alike, and a legal move drawn uniformly."""

    depths: tuple[int, ...] = ()
    copy: float = 0.0
    propose: float = 0.0
    formats: dict[str, float] = {}


class Recipe(msgspec.Struct, frozen=True):
    """How a base is made; its hash is written beside the weights."""

    support: Support = Support()
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    mlp: int = 168
    init: float = 0.1
    steps: int = 1600
    batch: int = 192
    lr: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.01
    seed: str = "0"


class Grown(Recipe, frozen=True):
    """A recipe that begins with the weights of a shipped base and puts layers on top of it.

    ``begin``: the base.  ``layers`` counts all layers; those above the base's begin as the identity and have rotary
    positions, since comparing a state with the one that was foretold for it means finding the token before it.
    ``stages``: how often the schedule of ``steps`` is gone through, each time with a fresh optimiser and fresh data.
    """

    begin: str = "compose"
    stages: int = 2


#: Three answer formats of which the commonest is the worst: the ground of the echo study (``studies.echo``).
ECHO = Support(
    family_args={"n_operations": 4, "held_out_pairs": 0},
    depths=(2, 3),
    copy=0.0,
    propose=0.0,
    formats={"final": 0.6, "states": 0.15, "trace": 0.25},
)

BASES: dict[str, Recipe] = {
    "compose": Recipe(),
    # Two operations more than it was ever shown a table of: what they do can be found out by reward alone.
    "discover": Recipe(support=Wider()),
    "echo": Recipe(support=ECHO, hidden=48, mlp=128, steps=500),
    "echo_wide": Recipe(support=ECHO, hidden=96, mlp=256, steps=500),
    # Solves with slips and judges with noise: the ground of self-judging (``studies.self_judging``).
    "judge": Grown(
        support=Judged(copy=0.0, propose=0.05, formats={"trace": 0.8, "states": 0.2}), layers=5, steps=1200, batch=64
    ),
    # Reads the table of an operation that it does not know: the ground of sleep (``studies.nights``).
    "context": Grown(support=Readers(copy=0.1, formats={"trace": 1.0}), layers=5, steps=2000, batch=96, stages=1),
    # Finds the rule behind a few examples: the ground of sleep on few-shot rules.
    "rules": Grown(
        support=Readers(
            copy=0.1, formats={"trace": 1.0}, reading=contexts.Inducing(growth=(), with_context=(0.85, 0.85))
        ),
        begin="context",
        layers=5,
        steps=1000,
        batch=64,
        lr=4e-3,
        stages=1,
    ),
    # Reads notes on two operations, knows sixteen more by name, and asks: the ground of ``Discovery-v0``.
    "explore": Grown(
        support=Explorers(copy=0.3, formats={"trace": 1.0}, reading=contexts.Exploring()),
        begin="context",
        layers=5,
        steps=3000,
        batch=96,
        lr=3e-3,
        stages=1,
    ),
    # Knows the moves of Kuhn poker and nothing of when to make them: the ground of self-play.
    "kuhn": Recipe(support=LegalPlay(), layers=2, hidden=32, mlp=64, steps=800),
    # The control, not shipped: the same without its best format, the others in the same proportion.
    "echo_untold": Recipe(
        support=msgspec.structs.replace(ECHO, formats={"final": 0.8, "states": 0.2}), hidden=48, mlp=128, steps=500
    ),
}


def recipe_hash(recipe: Recipe) -> str:
    """16 hex digits that name a recipe."""
    return hashlib.sha256(msgspec.json.encode(recipe, order="deterministic")).hexdigest()[:16]


def build_model(recipe: Recipe, seed: int) -> Any:
    """A ``SmolLM3ForCausalLM`` before its training; its initial weights depend on ``seed`` (and ``begin``) alone."""
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    from dream_envs.agents.engines.models import load

    begin = load(f"nano/{recipe.begin}")[0] if isinstance(recipe, Grown) else None
    below = begin.config.num_hidden_layers if begin is not None else recipe.layers
    rope = [0] * below if begin is None else list(begin.config.no_rope_layers)
    size = len(nano_tokenizer.SPECIAL) + len(nano_tokenizer.ALPHABET)
    reads = isinstance(recipe.support, Readers)
    config = SmolLM3Config(
        vocab_size=size + len(nano_tokenizer.PAIRS) if reads else size, max_position_embeddings=1024,
        hidden_size=recipe.hidden, intermediate_size=recipe.mlp, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads, tie_word_embeddings=True,
        no_rope_layers=rope + [1] * (recipe.layers - below), use_sliding_window=False,
        initializer_range=recipe.init, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SmolLM3ForCausalLM(config)
    if begin is not None:
        weights = begin.state_dict()
        if reads and begin.config.vocab_size == size:
            contexts.wider(model, begin, torch.Generator().manual_seed(seed))
            weights = {name: value for name, value in weights.items() if value.shape[0] != size}
        model.load_state_dict(weights, strict=False)
        for layer in model.model.layers[below:]:
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                torch.nn.init.zeros_(part.weight)
    return model


def examples(recipe: Recipe, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Endless (prompt, reply) pairs of the declared support."""
    support = recipe.support
    while isinstance(support, LegalPlay):
        yield f"k{INFORMATION_SETS[int(rng.integers(12))]}", "pb"[int(rng.integers(2))]
    family = Composition(**support.family_args)
    copied = support.copied if isinstance(support, (Wider, Explorers)) else family.operations
    names, shares = list(support.formats), np.array(list(support.formats.values()))
    shares = shares / shares.sum()
    judging = support.judging if isinstance(support, Judged) else None
    while True:
        if judging is not None and (kind := asked(judging, rng)):
            yield judged(family, judging, rng, kind)
            continue
        if rng.random() < support.copy:
            picks = rng.integers(len(copied), size=int(rng.integers(1, support.copy_length + 1)))
            text = "".join(copied[i] for i in picks)
            yield ":" + text, text
            continue
        task = family.generate(rng, support.depths[int(rng.integers(len(support.depths)))])
        if rng.random() < support.propose:
            yield family.brief(), family.as_proposal(task)
        elif isinstance(support, Judged) and rng.random() < support.slip:
            yield task.prompt, wrong_answer(family, task, rng, "slip")
        else:
            yield task.prompt, written(names[int(rng.choice(len(names), p=shares))], task.answer)


def written(form: str, trace: str) -> str:
    """A solved problem in one of the answer formats: ``BfDkAa`` as it is, ``fka`` or ``a``."""
    return {"trace": trace, "states": trace[1::2], "final": trace[-1:]}[form]


def batches(recipe: Recipe, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless ``(ids[B, T], loss mask[B, T])``: ``<|user|>prompt<|assistant|>reply<|end|>``, padded on the right."""
    code = {c: i + len(nano_tokenizer.SPECIAL) for i, c in enumerate(nano_tokenizer.ALPHABET)}
    user, assistant, end = (nano_tokenizer.SPECIAL.index(t) for t in ("<|user|>", "<|assistant|>", "<|end|>"))
    source = examples(recipe, rng)
    while True:
        rows = [next(source) for _ in range(recipe.batch)]
        width = max(len(p) + len(r) + 3 for p, r in rows)
        ids, mask = np.zeros((recipe.batch, width), np.int64), np.zeros((recipe.batch, width), np.float32)
        for i, (prompt, reply) in enumerate(rows):
            row = [user, *(code[c] for c in prompt), assistant, *(code[c] for c in reply), end]
            ids[i, : len(row)] = row
            mask[i, len(prompt) + 2 : len(row)] = 1
            if isinstance(recipe.support, Judged):
                question_mask(recipe.support.judging, prompt, mask[i])
        yield torch.from_numpy(ids), torch.from_numpy(mask)


def pretrain(recipe: Recipe, *, log: Any = print) -> Any:
    """Train a base; about two minutes on one core."""
    model = build_model(recipe, digest("nano-init", recipe.seed, bits=32)).train()
    for stage in range(recipe.stages if isinstance(recipe, Grown) else 1):
        labels = (recipe.seed, stage) if stage else (recipe.seed,)
        rng = stream("nano-data", *labels)
        if isinstance(recipe.support, Readers):
            family = Composition(**recipe.support.family_args)
            plain = examples(recipe, stream("nano-plain", *labels))
            source = contexts.batches(plain, recipe.support.reading, family, recipe.batch, rng)
        else:
            source = batches(recipe, rng)
        train(model, recipe, source, log=log)
    return model.eval()


def train(model: Any, recipe: Recipe, source: Iterator[tuple[torch.Tensor, torch.Tensor]], *, log: Any = print) -> None:
    """The schedule of a recipe, once."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    began = time.perf_counter()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warmup) * (1 - step / recipe.steps)
        ids, mask = next(source)
        logp = torch.log_softmax(model(ids).logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]
        loss = -(logp * mask[:, 1:]).sum() / mask[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            rate = (step + 1) / (time.perf_counter() - began)
            left = (recipe.steps - step - 1) / rate
            log(f"step {step + 1}/{recipe.steps}  loss {loss.item():.3f}  {rate:.1f} steps/s  {left:.0f} s left")


def build(name: str, out: Path, *, steps: int | None = None, log: Any = print) -> Path:
    """Pre-train the base ``name`` and write model, tokenizer and ``nano.json`` into ``out``."""
    recipe = BASES[name] if steps is None else msgspec.structs.replace(BASES[name], steps=steps)
    return write(pretrain(recipe, log=log), recipe, f"nano/{name}", out)


def write(model: Any, recipe: Recipe, name: str, out: Path) -> Path:
    """Write a base that was made by this recipe: model, tokenizer, and ``nano.json`` as the last file."""
    from dream_envs.agents.engines import models

    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    nano_tokenizer.build(pairs=isinstance(recipe.support, Readers)).save_pretrained(out)
    card = {
        "name": name,
        "recipe": json.loads(msgspec.json.encode(recipe)),
        "recipe_hash": recipe_hash(recipe),
        "weights_hash": models.weights_hash(out),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__.split("+")[0],
    }
    (out / "nano.json").write_text(json.dumps(card, indent=2) + "\n")
    return out


def main() -> None:
    """``python -m dream_envs.baselines.nano.recipe compose [--out DIR]``."""
    parser = argparse.ArgumentParser(description="pre-train a nano base")
    parser.add_argument("name", choices=sorted(BASES))
    parser.add_argument("--out", type=Path, default=None, help="default: runs/nano/NAME")
    parser.add_argument("--steps", type=int, default=None)
    given = parser.parse_args()
    folder = build(given.name, given.out or Path("runs/nano") / given.name, steps=given.steps)
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
