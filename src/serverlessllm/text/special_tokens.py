# SPDX-License-Identifier: Apache-2.0
"""Special tokens of a model: the ids that end an answer, and the names that chat templates use.

Checkpoints disagree on where these live, so every place is read. Knows no template and no sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tokenizers import Tokenizer

from serverlessllm.errors import CheckpointFormatError
from serverlessllm.text.source import TextSource, read_json

GENERATION_CONFIG: Final = "generation_config.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
_NAMES: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def stop_token_ids(source: TextSource, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end an answer, ascending: the union of what the three config files say.

    `generation_config.json` and `config.json` give `eos_token_id` (one id or a list), `tokenizer_config.json`
    gives `eos_token` as text. Instruct models often list their end-of-turn token in only one of them.
    Raises: CheckpointFormatError naming the file whose `eos_token_id` is neither.
    """
    found = _eos_ids(read_json(source, GENERATION_CONFIG), GENERATION_CONFIG)
    found |= _eos_ids(source.config(), "config.json")
    eos_token = _content(read_json(source, TOKENIZER_CONFIG).get("eos_token"))
    eos_id = None if eos_token is None else tokenizer.token_to_id(eos_token)
    return tuple(sorted(found if eos_id is None else found | {eos_id}))


def template_tokens(tokenizer_config: Mapping[str, object]) -> dict[str, object]:
    """`bos_token`, `eos_token`, … as text, for the chat template; only those that the model has."""
    tokens: dict[str, object] = {}
    for name in _NAMES:
        if (content := _content(tokenizer_config.get(name))) is not None:
            tokens[name] = content
    extra = tokenizer_config.get("additional_special_tokens")
    if isinstance(extra, list):
        tokens["additional_special_tokens"] = [text for item in extra if (text := _content(item)) is not None]
    return tokens


def _eos_ids(config: Mapping[str, object], file_name: str) -> set[int]:
    value = config.get("eos_token_id")
    if value is None:
        return set()
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
        raise CheckpointFormatError(
            f"{file_name}: eos_token_id must be a token id or a list of them, not {value!r:.80}",
            param=f"{file_name}:eos_token_id",
        )
    return set(ids)


def _content(token: object) -> str | None:
    """A token is written as text, or as an object with its text in `content`."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None
