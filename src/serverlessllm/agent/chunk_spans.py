# SPDX-License-Identifier: Apache-2.0
"""Where the chunks of a request's canonical text end, in tokens. Pure; knows no tokenizer and no cache.

A template copies each message's content into the prompt, and writes text of its own between. So a place within a
content is found in the prompt by searching for the content; a place within the framing counts as the end of the
content before it. What a template changed (beyond trimming) is not found, and chunks from there on have no end:
they are not told of, rather than told of wrongly.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from serverlessllm.wire.prompt_chunks import CHUNK_BYTES, ID_BYTES, Part


class Stretch(NamedTuple):
    """Text that came with one piece of an answer: its bytes and the ids sampled, both counted from the start."""

    end_bytes: int
    end_tokens: int


def prompt_ends(parts: Sequence[Part], prompt: str, char_ends: Sequence[int]) -> list[int]:
    """For each whole chunk of `parts`: how many tokens of `prompt` lie below its end.

    `char_ends`: where each token ends in `prompt`, in characters. Ends early where a content is not found.
    """
    ends: list[int] = []
    done_bytes = cursor = 0
    for part in parts:
        start = _find(part.content, prompt, cursor)
        head_bytes = len(part.head.encode())
        content = part.content.encode("utf-8", "surrogatepass")
        end_bytes = done_bytes + head_bytes + len(content)
        while (chunk_end := (len(ends) + 1) * CHUNK_BYTES) <= end_bytes:
            inside = chunk_end - done_bytes - head_bytes
            if inside > 0 and start is None:
                return ends
            place = cursor if inside <= 0 or start is None else start + _num_chars(content, inside)
            ends.append(bisect_right(char_ends, min(place, len(prompt))))
        if start is None:
            return ends
        cursor = min(start + len(part.content), len(prompt))
        done_bytes = end_bytes
    return ends


def id_ends(num_ids: int) -> list[int]:
    """The same for a prompt that was given as ids."""
    per_chunk = CHUNK_BYTES // ID_BYTES
    return list(range(per_chunk, num_ids + 1, per_chunk))


def answer_ends(
    num_before_bytes: int, num_prompt_tokens: int, head_bytes: int, stretches: Sequence[Stretch]
) -> list[int]:
    """For each chunk that ends in an answer: how many tokens, prompt and ids sampled, lie below its end.

    The answer follows `num_before_bytes` of canonical text and its own `head_bytes`. An end within what came in
    one stretch counts as that stretch's end.
    """
    if not stretches:
        return []
    start = num_before_bytes + head_bytes
    first = num_before_bytes // CHUNK_BYTES + 1
    ends = []
    for chunk_end in range(first * CHUNK_BYTES, start + stretches[-1].end_bytes + 1, CHUNK_BYTES):
        if chunk_end <= start:
            ends.append(num_prompt_tokens)
        else:
            at = bisect_left(stretches, chunk_end - start, key=lambda stretch: stretch.end_bytes)
            ends.append(num_prompt_tokens + stretches[at].end_tokens)
    return ends


def _find(content: str, prompt: str, cursor: int) -> int | None:
    """Where `content` would begin in `prompt`, at or after `cursor`; a template may have trimmed it."""
    found = prompt.find(content, cursor)
    if found >= 0:
        return found
    bare = content.strip()
    found = prompt.find(bare, cursor)
    return None if found < 0 else max(0, found - (len(content) - len(content.lstrip())))


def _num_chars(data: bytes, num_bytes: int) -> int:
    """Whole characters in the first `num_bytes` of UTF-8."""
    return len(data[:num_bytes].decode("utf-8", "ignore"))
