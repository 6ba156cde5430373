# SPDX-License-Identifier: Apache-2.0
"""The peer: `transformers` from a Hugging Face directory to the first token of a chat.

usage: transformers_start.py HF_DIR DTYPE MESSAGES_JSON [--once]

`--once`: load and answer right away, as a fresh process does, print and end: the caller times the whole process.
Otherwise everything is imported first, and each line of standard input asks for one load and one first token.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


def first_token(hf_dir: str, dtype: str, messages: list[dict[str, str]]) -> int:
    """Load tokenizer and model, apply the template, generate one token greedily."""
    tokenizer = AutoTokenizer.from_pretrained(hf_dir)
    model = AutoModelForCausalLM.from_pretrained(hf_dir, dtype=getattr(torch, dtype))
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=1, do_sample=False)
    return int(output[0, -1])


def main() -> None:
    """One measurement at once, or one per line."""
    logging.disable_progress_bar()
    hf_dir, dtype, messages = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    if "--once" in sys.argv:
        print(json.dumps({"token": first_token(hf_dir, dtype, messages)}), flush=True)
        return
    print(json.dumps({"imported": 1}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        token = first_token(hf_dir, dtype, messages)
        print(json.dumps({"ms": (time.perf_counter() - started) * 1000, "token": token}), flush=True)


if __name__ == "__main__":
    main()
