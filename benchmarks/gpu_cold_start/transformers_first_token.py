# SPDX-License-Identifier: Apache-2.0
"""The peer: `transformers` from a directory of safetensors to the first token on a device.

usage: transformers_first_token.py HF_DIR DEVICE PROMPT
"""

from __future__ import annotations

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


def main() -> None:
    """Load, answer one token, print how long both took."""
    logging.disable_progress_bar()
    directory, device, prompt = sys.argv[1:4]
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    # Straight to a GPU, which is its faster way; that needs `accelerate`, which the CPU does not.
    place = {} if device == "cpu" else {"device_map": device}
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16, **place)
    inputs = tokenizer(prompt, return_tensors="pt").to(device)
    output = model.generate(input_ids=inputs["input_ids"], max_new_tokens=1, do_sample=False)
    token = int(output[0, -1])
    print(
        json.dumps({"load_and_answer_ms": (time.perf_counter() - started) * 1e3, "token": token}), flush=True
    )


if __name__ == "__main__":
    main()
