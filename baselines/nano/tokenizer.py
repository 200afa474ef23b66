"""The nano models' tokenizer: one token a printable ASCII character, and a chat template.

With ``pairs`` an entry of a table, ``a>f``, is one token as well.
"""

from __future__ import annotations

from typing import Any

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|unk|>")
ALPHABET = "\n" + "".join(chr(i) for i in range(32, 127))
STATES = "abcdefghijklmnop"
PAIRS = tuple(f"{source}>{image}" for source in STATES for image in STATES)
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build(pairs: bool = False) -> Any:
    """A ``PreTrainedTokenizerFast`` of 102 tokens (358 with ``pairs``); padding on the left."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *ALPHABET, *(PAIRS if pairs else ())))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    pattern = r"[a-p]>[a-p]|[\s\S]" if pairs else r"[\s\S]"
    core.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unk|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
