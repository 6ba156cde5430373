# SPDX-License-Identifier: Apache-2.0
"""What fields of the OpenAI API may say beyond their types: ranges, and fields that may only ask for nothing."""

from __future__ import annotations

from typing import Any, Final

MAX_CHOICES: Final = 16
MAX_TOP_LOGPROBS: Final = 20
"""Of a chat, as OpenAI bounds it."""
MAX_TOKENS_BOUND: Final = 1 << 22

NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "modalities": (["text"],),
    "echo": (False,),
    "suffix": ("",),
    "reasoning_effort": (),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "verbosity": (),
}
"""Unsupported fields, each with the values that ask for nothing."""

BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "max_tokens": (1, MAX_TOKENS_BOUND),
    "max_completion_tokens": (1, MAX_TOKENS_BOUND),
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (-1, MAX_TOKENS_BOUND),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "seed": (-(2**63), 2**64 - 1),
    "n": (1, MAX_CHOICES),
    "top_logprobs": (0, MAX_TOP_LOGPROBS),
}
