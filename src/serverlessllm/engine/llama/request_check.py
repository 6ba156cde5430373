# SPDX-License-Identifier: Apache-2.0
"""What a `Generate` must satisfy before it is queued. Pure; knows no model but its two limits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from serverlessllm.errors import ContextLengthError, InvalidRequestError
from serverlessllm.wire.standby import Extend
from serverlessllm.wire.worker import Generate, SamplingParams

if TYPE_CHECKING:
    from serverlessllm.engine.llama.sequence import Sequence


def check_request(request: Generate, *, vocab_size: int, max_model_len_tokens: int) -> None:
    """Raises: InvalidRequestError naming the field; ContextLengthError when prompt and max_tokens do not fit."""
    if not request.prompt_ids:
        raise InvalidRequestError("prompt_ids: at least one id is needed", param="prompt_ids")
    for field, ids in (("prompt_ids", request.prompt_ids), ("generated_ids", request.generated_ids)):
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            raise InvalidRequestError(f"{field}: ids must lie between 0 and {vocab_size - 1}", param=field)
    if request.max_tokens <= len(request.generated_ids):
        raise InvalidRequestError(
            f"max_tokens: {request.max_tokens} leaves nothing to generate after "
            f"{len(request.generated_ids)} ids that were generated before",
            param="max_tokens",
        )
    _check_sampling(request.sampling)
    total = len(request.prompt_ids) + request.max_tokens
    if total > max_model_len_tokens:
        raise ContextLengthError(
            f"prompt of {len(request.prompt_ids)} tokens and max_tokens {request.max_tokens} make {total}; "
            f"this model's context is {max_model_len_tokens} tokens: shorten one of them",
            param="max_tokens",
        )


def check_extension(message: Extend, sequence: Sequence | None, vocab_size: int) -> None:
    """`sequence` is whom the message is for. Raises: InvalidRequestError when it cannot have such ids."""
    if sequence is None or not sequence.is_standby:
        raise InvalidRequestError(
            f"choice {message.choice} of the request does not stand by here", param="choice"
        )
    ids, request = message.token_ids, sequence.request
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise InvalidRequestError(
            f"token_ids: ids must lie between 0 and {vocab_size - 1}", param="token_ids"
        )
    if sequence.num_tokens + len(ids) >= len(request.prompt_ids) + request.max_tokens:
        raise InvalidRequestError("token_ids: they leave nothing to generate", param="token_ids")


def _check_sampling(params: SamplingParams) -> None:
    infinity = math.inf
    _check_range("temperature", params.temperature, 0.0 <= params.temperature < infinity, "at least 0")
    _check_range("top_p", params.top_p, 0.0 < params.top_p <= 1.0, "above 0 and at most 1")
    _check_range("top_k", params.top_k, params.top_k >= 0, "at least 0")
    _check_range("min_p", params.min_p, 0.0 <= params.min_p <= 1.0, "between 0 and 1")
    repetition = params.repetition_penalty
    _check_range("repetition_penalty", repetition, 0.0 < repetition < infinity, "above 0")
    for field in ("presence_penalty", "frequency_penalty"):
        value = getattr(params, field)
        _check_range(field, value, math.isfinite(value), "finite")


def _check_range(field: str, value: float, is_valid: bool, rule: str) -> None:
    if not is_valid:
        raise InvalidRequestError(f"{field}: {value!r} is not {rule}", param=field)
