# SPDX-License-Identifier: Apache-2.0
"""The bytes of single tokens, as the vocabulary spells them. Knows no context: a detokenizer joins them.

Byte-level vocabularies write each byte as a printable character (GPT-2's table), the others write a space as U+2581
and a raw byte as `<0xE4>`. An added token is its own text.
"""

from __future__ import annotations

import re
from typing import Final

from tokenizers import Tokenizer

_RAW_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE: Final = "\u2581"


class TokenBytes:
    """Immutable; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = _added_texts(tokenizer)
        state = b"" if tokenizer.decoder is None else tokenizer.decoder.__getstate__()
        self._byte_of = _byte_of_character() if b"ByteLevel" in state else None

    def of(self, token_id: int) -> bytes:
        """The token's bytes, perhaps not whole characters; none for an id beyond the vocabulary."""
        if token_id in self._added:
            return self._added[token_id].encode()
        text = self._tokenizer.id_to_token(token_id)
        if text is None:
            return b""
        if self._byte_of is not None:
            return b"".join(self._byte_of.get(char) or char.encode() for char in text)
        raw = _RAW_BYTE.fullmatch(text)
        return bytes([int(raw[1], 16)]) if raw else text.replace(_SPACE, " ").encode()


def _added_texts(tokenizer: Tokenizer) -> dict[int, str]:
    """Id → text of the tokens that were added to the vocabulary as they are."""
    return {token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()}


def _byte_of_character() -> dict[str, bytes]:
    """The inverse of GPT-2's table: printable Latin-1 stands for itself, the others for U+0100 and up, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)}
