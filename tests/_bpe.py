"""A random Llama below 1 M parameters with a byte-level BPE that merges letters, and a chat template of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from _families import NAMES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
#: End of document first, as many models list it: a turn ends in the second.
ENDS = ("<|endoftext|>", "<|end|>")


def tokenizer(template: str | None = TEMPLATE) -> Any:
    """Merges learnt from the families' own english prompts."""
    from dream_envs import registry
    from dream_envs.seeds import stream

    texts = []
    for name in NAMES:
        family = registry.create("tasks", name, notation="english")
        for i in range(20):
            task = family.generate(stream("bpe", name, i), family.levels[i % 4])
            texts += [task.prompt, family.gold(task), family.brief(family.levels[0])]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = [*ENDS, "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=ENDS[0], pad_token="<|pad|>")
    made.add_special_tokens({"additional_special_tokens": special[1:2] + special[3:]})
    made.chat_template = template
    return made


def save(folder: Path, *, template: str | None = TEMPLATE, ends: Any = (0, 1), **config: Any) -> Path:
    """The model and its tokenizer as a folder."""
    made = tokenizer(template)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 2}
        settings = {"vocab_size": len(made), "tie_word_embeddings": True, **ids, **shape, **config}
        model = LlamaForCausalLM(LlamaConfig(**settings))
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    model.generation_config.eos_token_id = list(ends) if isinstance(ends, tuple) else ends
    model.save_pretrained(str(folder))
    made.save_pretrained(str(folder))
    return folder
