# SPDX-License-Identifier: Apache-2.0
"""The first token of a long prompt, when it is new and when it was seen before. Measures our server alone."""

from __future__ import annotations

from benchmarks._harness import timed_stream
from benchmarks._harness.stats import median

NUM_TOKENS = 1000
_STRIDE = 7919
_NUM_IDS = 40_000


def prompt_ids(serial: int) -> list[int]:
    """As many ids as ever, other ones for each `serial` from the first id on."""
    return [100 + (serial * _STRIDE + index * 31) % _NUM_IDS for index in range(NUM_TOKENS)]


def measure(url: str, model: str, serial: int) -> tuple[float, float]:
    """Milliseconds to the first token of a prompt that nobody has sent yet, and of the same prompt again."""
    body = {"model": model, "prompt": prompt_ids(serial), "max_tokens": 2, "temperature": 0}
    first, again = (timed_stream.ask(url, "/v1/completions", body).first_ms for _ in range(2))
    return first, again


def figures(samples: list[tuple[float, float]]) -> dict[str, float]:
    """Medians; the ratio is the median of each pair's own."""
    return {
        "prefix_1000_first_ttft_ms": median([first for first, _ in samples]),
        "prefix_1000_again_ttft_ms": median([again for _, again in samples]),
        "prefix_1000_again_over_first_ratio": median([again / first for first, again in samples]),
    }
