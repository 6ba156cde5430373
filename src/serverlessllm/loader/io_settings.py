# SPDX-License-Identifier: Apache-2.0
"""How this node reads its disk and origins: what is set, else what was measured, else what suits most. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serverlessllm.arena.mapping import PAGE_BYTES
from serverlessllm.config import MIB, LoaderConfig, SourcesConfig
from serverlessllm.errors import ConfigError
from serverlessllm.node_profile import IoProfile
from serverlessllm.sources.download import DEFAULT_WORKERS

DEFAULT_THREADS: Final = 4
DEFAULT_READ_BYTES: Final = 8 * MIB


@dataclass(frozen=True, slots=True)
class IoSettings:
    """`possible_bytes_per_s` is what `sllm tune io` reached, 0 when it did not run."""

    num_threads: int
    read_bytes: int
    direct_io: str
    possible_bytes_per_s: float


def choose_io(config: LoaderConfig, profile: IoProfile | None) -> IoSettings:
    """A setting that is not 0 or `auto` wins over the profile.

    Raises: ConfigError for a read size off the page grid.
    """
    if config.chunk_bytes % PAGE_BYTES:
        raise ConfigError(
            f"loader.chunk_bytes: {config.chunk_bytes} is not a multiple of {PAGE_BYTES}; change it",
            param="loader.chunk_bytes",
            source="agent",
        )
    is_buffered = profile is not None and not profile.is_direct
    return IoSettings(
        num_threads=config.threads or (profile.num_threads if profile else DEFAULT_THREADS),
        read_bytes=config.chunk_bytes or (profile.read_bytes if profile else DEFAULT_READ_BYTES),
        direct_io="never" if config.direct_io == "auto" and is_buffered else config.direct_io,
        possible_bytes_per_s=profile.bytes_per_s if profile else 0.0,
    )


def choose_connections(config: SourcesConfig, profile: IoProfile | None) -> int:
    """How many connections fetch one file: what is set, else what `sllm tune io --url` found, else the usual."""
    return config.connections or (profile.num_connections if profile else 0) or DEFAULT_WORKERS
