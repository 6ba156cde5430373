# SPDX-License-Identifier: Apache-2.0
"""A small byte-level BPE tokenizer with a chat template, made from fixed text: for tests that need text.

Deterministic: the same bytes on every machine. Ids 0–2 are special, 3–258 the bytes, the rest merges.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from typing import Final

END_OF_TEXT_ID: Final = 0
IM_START_ID: Final = 1
IM_END_ID: Final = 2
SPECIAL_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NUM_MERGES: Final = 750

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TEXT: Final = """
You are a helpful assistant. What is the capital of France? The capital of France is Paris, a city on the river Seine.
Once upon a time there was a little robot who wanted to learn how people think, speak and write about their world.
A model that nobody calls costs nothing but disk; the first call wakes it in moments and streams its answer.
Please tell me a short story, explain the following question, and write some code: def main(): return print("Hello!")
The quick brown fox jumps over the lazy dog. Numbers such as 0 1 2 3 10 42 100 2024 and 3.14159 are common.
Each machine has memory, processors and storage; loading weights quickly means reading large blocks at once.
Because language models predict one token after another, the time between tokens matters as much as that before them.
Naïve café, über Straße, señor, garçon, 你好世界, こんにちは, Привет мир, שלום, 🙂🚀 — symbols “quoted”… and so on.
Users should never see an error merely because something was asleep, however long it slept or however busy others are.
If you know the result, answer briefly; otherwise describe which information would still be required to find it out.
"""


def tiny_tokenizer_files() -> dict[str, bytes]:
    """`tokenizer.json`, `tokenizer_config.json` (with the chat template) and `generation_config.json`."""
    config = {
        "bos_token": SPECIAL_TOKENS[IM_START_ID],
        "eos_token": SPECIAL_TOKENS[IM_END_ID],
        "chat_template": CHAT_TEMPLATE,
    }
    return {
        "tokenizer.json": _tokenizer_json(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "generation_config.json": json.dumps({"eos_token_id": [IM_END_ID, END_OF_TEXT_ID]}).encode(),
    }


def byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte value."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {byte: chr(byte) for byte in printable}
    table |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


@cache
def _tokenizer_json() -> bytes:
    merges = _train(_TEXT)
    tokens = [*SPECIAL_TOKENS, *byte_characters()]
    tokens += dict.fromkeys(left + right for left, right in merges)
    added = [
        {
            "id": index,
            "content": token,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for index, token in enumerate(SPECIAL_TOKENS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    model = {
        "type": "BPE",
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": [list(merge) for merge in merges],
        "ignore_merges": False,
    }
    document = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": model,
    }
    return json.dumps(document).encode()


def _train(text: str) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, ties by the pair itself."""
    table = byte_characters()
    counts = Counter(text.replace(" ", "\n ").split("\n"))
    words = {word: [table[byte] for byte in word.encode()] for word in counts if word}
    merges: list[tuple[str, str]] = []
    while len(merges) < NUM_MERGES:
        pairs = Counter[tuple[str, str]]()
        for word, symbols in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += counts[word]
        if not pairs:
            break
        merge = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(merge)
        words = {word: _merged(symbols, merge) for word, symbols in words.items()}
    return merges


def _merged(symbols: list[str], merge: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == merge:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out
