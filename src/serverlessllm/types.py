# SPDX-License-Identifier: Apache-2.0
"""Words that every layer shares: names, tiers, phases, states. No behaviour beyond their own rules."""

from __future__ import annotations

import os
import re
import secrets
from typing import Final, Literal

from serverlessllm.errors import InvalidRequestError

Tier = Literal["gpu", "dram", "nvme", "peer", "remote"]
StartKind = Literal["cold", "warm", "hot"]
EngineKind = Literal["torch", "vllm", "simulated"]
Role = Literal["infer", "admin", "node"]
FinishReason = Literal["stop", "length"]
Pooling = Literal["last", "mean"]
"""How the states of a text's ids become one vector."""
AnswerFinish = Literal["stop", "length", "tool_calls"]
"""Why a choice ended, as its caller is told: engines know no calls."""

PHASES: Final = ("queue", "place", "fetch", "read", "bind", "prefill", "first_token")
"""The phases of one request's road, in order; each is a duration in milliseconds."""

ReplicaState = Literal["loading", "binding", "ready", "draining", "gone"]
"""loading: bytes move into the arena · binding: a slot takes the weights · ready: answers ·
draining: finishes what runs, takes nothing new · gone: unbound, the slot was discarded."""

TENSOR_PARALLEL_OPTION: Final = "tensor_parallel_size"
"""A model's option: how many ranks of one node compute it together; without it, one."""
MAX_TENSOR_PARALLEL: Final = 64
ADAPTER_MODEL_TYPE: Final = "lora_adapter"
"""`model_type` in the `config.json` of an adapter's artifact."""
MAX_MODEL_NAME_BYTES: Final = 200
_MODEL_NAME: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*(:[A-Za-z0-9][A-Za-z0-9._-]*)?"
)
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT_TENANT: Final = "default"
"""Whose requests without a key are, and those of keys for which no tenant was named."""
_REVISION: Final = re.compile(r"[0-9a-f]{32}")


def base_name(name: str) -> str:
    """The model of `model:adapter`; the name itself where it names no adapter."""
    return name.partition(":")[0]


def adapter_salt(cache_salt: str, adapter: str) -> str:
    """The salt of what is cached with an adapter (its revision), which nothing computed without it may meet."""
    return f"{cache_salt}\0{adapter}" if adapter else cache_salt


def check_model_name(name: object, *, param: str = "model") -> str:
    """Return `name` if it is a valid model name, else raise `InvalidRequestError` naming `param`.

    Segments of `[A-Za-z0-9][A-Za-z0-9._-]*` joined by single `/`, at most 200 bytes; perhaps `:` and one segment
    more, which names an adapter.
    """
    if not isinstance(name, str):
        raise InvalidRequestError(f"{param}: expected a string", param=param)
    if len(name.encode("utf-8", "replace")) > MAX_MODEL_NAME_BYTES:
        raise InvalidRequestError(f"{param}: longer than {MAX_MODEL_NAME_BYTES} bytes", param=param)
    if not _MODEL_NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{param}: {name[:60]!r} is not a model name; use letters, digits, '.', '_' and '-', "
            "in segments joined by '/', each starting with a letter or digit, and ':adapter' for an adapter",
            param=param,
        )
    return name


def check_tenant(name: str, *, param: str = "tenant") -> str:
    """Return `name` if it is a tenant's id, else raise `InvalidRequestError`: letters, digits, `._-`, at most 64."""
    if not _TENANT.fullmatch(name):
        raise InvalidRequestError(
            f"{param}: {name[:80]!r} is not a tenant; 1 to 64 letters, digits, '.', '_' or '-', the first a letter "
            "or digit",
            param=param,
        )
    return name


def is_revision(text: str) -> bool:
    """Whether `text` has the form of a revision: 32 lower-case hex digits."""
    return bool(_REVISION.fullmatch(text))


def mint_id(prefix: str) -> str:
    """A fresh identifier, `prefix-` and 96 random bits in hex: nobody guesses another's."""
    return f"{prefix}-{_random_bits.take()}"


class _RandomBits:
    """The system's randomness, fetched for many identifiers at once: a system call each costs more than the rest.

    A forked process fetches its own.
    """

    _BITS_BYTES: Final = 12

    def __init__(self) -> None:
        self._pool = b""
        os.register_at_fork(after_in_child=self._forget)

    def take(self) -> str:
        """96 bits in hex."""
        if len(self._pool) < self._BITS_BYTES:
            self._pool = secrets.token_bytes(256 * self._BITS_BYTES)
        bits, self._pool = self._pool[: self._BITS_BYTES], self._pool[self._BITS_BYTES :]
        return bits.hex()

    def _forget(self) -> None:
        self._pool = b""


_random_bits: Final = _RandomBits()
