# SPDX-License-Identifier: Apache-2.0
"""API keys: the text is the caller's alone."""

from __future__ import annotations

from serverlessllm.metadata.api_keys import hash_key, mint_key
from serverlessllm.metadata.records import encode


def test_minted_key_is_found_by_its_hash_and_not_stored() -> None:
    plaintext, record = mint_key("ci", "infer")
    assert plaintext.startswith("sk-sllm-") and len(plaintext) == len("sk-sllm-") + 43
    assert record.hash == hash_key(plaintext)
    assert plaintext.encode() not in encode(record)
    assert plaintext.startswith(record.shown_prefix) and len(record.shown_prefix) == 14
    assert (record.name, record.role) == ("ci", "infer")


def test_keys_differ() -> None:
    assert len({mint_key("a", "admin")[0] for _ in range(100)}) == 100


def test_any_text_has_a_hash() -> None:
    assert hash_key("") != hash_key("\ud800") != hash_key("ключ")


def test_hash_is_sha256_in_hex() -> None:
    assert hash_key("sk-sllm-x") == "52aaa3c169e3a9420f76909b547e0f1d147e37f6aa3cd3aad3ceda992bd64ea1"
