# SPDX-License-Identifier: Apache-2.0
"""Opens the metadata store that the settings name. Each server's client is imported when it is met."""

from __future__ import annotations

from pathlib import Path

from serverlessllm.config import MetadataConfig, environment
from serverlessllm.errors import ConfigError
from serverlessllm.metadata.access import ServerAccess
from serverlessllm.metadata.location import KEY, parse_location
from serverlessllm.metadata.sqlite import SqliteStore
from serverlessllm.metadata.store import MetadataStore


async def open_store(config: MetadataConfig, data_path: Path) -> MetadataStore:
    """The store at `config.url`; accounts come from `SLLM_METADATA_USER` and `SLLM_METADATA_PASSWORD`.

    Raises: ConfigError; UnreadableStoreError; MetadataUnavailableError.
    """
    location = parse_location(config.url, data_path)
    if location.path is not None:
        return await SqliteStore.open(location.path)
    access = ServerAccess(
        user=environment("SLLM_METADATA_USER") or "",
        password=environment("SLLM_METADATA_PASSWORD") or "",
        ca_file=config.ca_file,
        cert_file=config.cert_file,
        key_file=config.key_file,
        call_timeout_s=config.call_timeout_s,
    )
    if location.kind == "etcd":
        from serverlessllm.metadata.etcd import EtcdStore

        return await EtcdStore.open(location, access)
    try:
        from serverlessllm.metadata.redis import RedisStore
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{KEY}: Redis needs a package that is not installed ({error.name}); "
            "install it with `pip install 'serverlessllm[redis]'`",
            param=KEY,
        ) from error
    return await RedisStore.open(location, access)
