# SPDX-License-Identifier: Apache-2.0
"""`application/vnd.sllm.resume`: its bytes, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.errors import WireError
from serverlessllm.wire.resume import ResumedChoice, ResumeHead, decode_resume, encode_resume

DIGEST = "00112233445566778899aabbccddeeff"
HEAD = ResumeHead(
    seq=5,
    prompt_digest=DIGEST,
    choices=[ResumedChoice([72, 345], 6, "stop"), ResumedChoice([300], 1), ResumedChoice()],
)
GOLDEN = (
    b"\x3e\x00\x00\x00"
    b"\x95\x01\x05\xd9\x20" + DIGEST.encode() + b"\x90\x93"
    b"\x93\x92\x48\xcd\x01\x59\x06\xa4stop"
    b"\x93\x91\xcd\x01\x2c\x01\xc0"
    b"\x93\x90\x00\xc0"
    b'{"model":"m"}'
)


def test_message_has_golden_bytes() -> None:
    assert encode_resume(HEAD, b'{"model":"m"}') == GOLDEN


def test_page_shows_the_golden_bytes() -> None:
    page = (Path(__file__).parents[3] / "docs" / "stream.md").read_text()
    found = re.search(r"```golden resume\n(.*?)```", page, re.DOTALL)
    assert found is not None and bytes.fromhex(found[1]) == GOLDEN


def test_golden_bytes_read_back() -> None:
    assert decode_resume(GOLDEN) == (HEAD, b'{"model":"m"}')


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": 2}, "version"),
        ({"choices": []}, "choices"),
        ({"choices": [ResumedChoice([1])] * 17}, "choices"),
        ({"seq": 2}, "seq"),
        ({"seq": 1 << 40}, "seq"),
        ({"prompt_digest": ""}, "digest"),
        ({"prompt_digest": "zz" * 16}, "digest"),
        ({"prompt_ids": [-1]}, "prompt ids"),
        ({"choices": [ResumedChoice([1 << 32])]}, "choice 0"),
        ({"choices": [ResumedChoice([1], -1)]}, "choice 0"),
        ({"choices": [ResumedChoice([], 1)]}, "choice 0"),
        ({"choices": [ResumedChoice([], 0, "stop")]}, "choice 0"),
    ],
)
def test_what_cannot_be_is_refused_naming_it(changes: dict[str, Any], told: str) -> None:
    head = msgspec.structs.replace(HEAD, **changes)
    packed = msgspec.msgpack.encode(head)
    with pytest.raises(WireError, match=told):
        decode_resume(len(packed).to_bytes(4, "little") + packed)
    with pytest.raises(WireError, match=told):
        encode_resume(head, b"")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_clearly(data: bytes) -> None:
    try:
        decode_resume(data)
    except WireError as error:
        assert "resume" in error.message


@given(st.integers(0, len(GOLDEN) - 14))
def test_cut_head_is_refused(end: int) -> None:
    with pytest.raises(WireError, match="resume"):
        decode_resume(GOLDEN[:end])
