# SPDX-License-Identifier: Apache-2.0
"""The hub's protocol, spoken by a local server: pinned commits, tokens, promised digests, resumed fetches."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

from serverlessllm.config import SourcesConfig
from serverlessllm.errors import (
    CorruptDataError,
    InvalidRequestError,
    PermissionDeniedError,
    SllmError,
    UnreachableError,
)
from serverlessllm.sources.access import Access
from serverlessllm.sources.fetch import Fetch
from serverlessllm.sources.http_connection import HttpAccess
from serverlessllm.sources.location import Location, list_files
from serverlessllm.sources.url_policy import UrlPolicy
from support.hub_server import HubServer
from support.ranged_server import FaultKind

WEIGHTS = os.urandom(9 << 20)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": WEIGHTS,
    "consolidated.00.pth": WEIGHTS,
    "README.md": b"# A model",
    "onnx/model.onnx": WEIGHTS,
}
NEEDED = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(dict(FILES)) as server:
        yield server


def access(hub: HubServer, **environment: str) -> Access:
    # The files come from another, private address: the store that the hub redirects to.
    http = HttpAccess(UrlPolicy(allow_private=True), stall_timeout_s=10)
    return Access(http, {"HF_ENDPOINT": hub.endpoint, **environment}, num_workers=3)


def fetch(hub: HubServer, location: str, directory: Path, **environment: str) -> dict[str, bytes]:
    report = Fetch(Location.parse(location), directory, access(hub, **environment), max_bytes=1 << 30).run()
    found = (path for path in report.directory.iterdir() if not path.name.startswith("."))
    return {path.name: path.read_bytes() for path in found}


def test_one_copy_of_the_weights_comes_with_what_belongs_to_it(hub: HubServer, tmp_path: Path) -> None:
    found = fetch(hub, "hf://org/model", tmp_path)
    assert found == {name: FILES[name] for name in NEEDED}


def test_revision_is_pinned_when_the_branch_moves(hub: HubServer, tmp_path: Path) -> None:
    first = hub.branches["main"]
    hub.push("main", {**FILES, "model.safetensors": os.urandom(2000)})
    assert fetch(hub, f"hf://org/model@{first}", tmp_path / "old")["model.safetensors"] == WEIGHTS
    assert len(fetch(hub, "org/model", tmp_path / "new")["model.safetensors"]) == 2000


def test_all_files_are_asked_for_by_commit(hub: HubServer, tmp_path: Path) -> None:
    fetch(hub, "hf://org/model", tmp_path)
    resolved = [path for path in hub.asked if "/resolve/" in path]
    assert resolved and all(f"/resolve/{hub.branches['main']}/" in path for path in resolved)


def test_second_fetch_asks_for_no_bytes_of_the_weights(hub: HubServer, tmp_path: Path) -> None:
    fetch(hub, "hf://org/model", tmp_path)
    before = hub.store.served.nbytes
    fetch(hub, "hf://org/model", tmp_path)
    assert hub.store.served.nbytes - before < 1000


def test_gated_repository_opens_with_a_token_that_stays_at_the_hub(tmp_path: Path) -> None:
    with HubServer(dict(FILES), token="secret") as hub:
        with pytest.raises(PermissionDeniedError, match="HF_TOKEN"):
            fetch(hub, "hf://org/model", tmp_path)
        assert set(fetch(hub, "hf://org/model", tmp_path, HF_TOKEN="secret")) == set(NEEDED)
        served = hub.store.served
        assert all("authorization" not in one.headers for one in served.requests + served.probes)


def test_file_that_differs_from_its_promised_digest_is_refused(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.branches["main"]
    hub.store.objects[f"/{commit}/model.safetensors"] = WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])
    with pytest.raises(CorruptDataError, match=r"model\.safetensors has SHA-256 .* as promised"):
        fetch(hub, "hf://org/model", tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_file_that_lost_a_bit_on_the_way_is_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    faults: list[FaultKind] = ["corrupt"]
    hub.store.fault = lambda request: (
        faults.pop() if faults and request.path.endswith("model.safetensors") else None
    )
    assert fetch(hub, "hf://org/model", tmp_path)["model.safetensors"] == WEIGHTS
    assert faults == []


def test_missing_revision_is_named(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match="no such revision"):
        fetch(hub, "hf://org/model@v9", tmp_path)


def test_missing_repository_says_that_it_may_be_private(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(PermissionDeniedError, match="does not exist, or is gated or private"):
        fetch(hub, "hf://org/other", tmp_path)


def test_hub_that_is_away_is_unreachable(hub: HubServer, tmp_path: Path) -> None:
    away = Access(HttpAccess(UrlPolicy(allow_private=True)), {"HF_ENDPOINT": "http://127.0.0.1:9"})
    with pytest.raises(UnreachableError, match="127"):
        list_files(Location.parse("hf://org/model"), away)


def test_one_of_several_gguf_files_is_chosen_by_name(tmp_path: Path) -> None:
    with HubServer({"a-Q4.gguf": WEIGHTS, "a-Q8.gguf": WEIGHTS * 2}) as hub:
        with pytest.raises(InvalidRequestError, match=r"name one, e\.g\. hf://org/model/a-Q4\.gguf"):
            fetch(hub, "hf://org/model", tmp_path)
        assert fetch(hub, "hf://org/model/a-Q8.gguf", tmp_path) == {"a-Q8.gguf": WEIGHTS * 2}


def test_mirror_with_an_authority_of_its_own_is_believed_when_that_is_named(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with HubServer(dict(FILES), tls=tls) as hub:
        environment = {"HF_ENDPOINT": hub.endpoint}
        stranger = Access.from_config(SourcesConfig(), environment, allow_private_urls=True)
        with pytest.raises(SllmError, match="certificate"):
            list_files(Location.parse("hf://org/model"), stranger)
        trusted = SourcesConfig(ca_file=str(ca_file))
        try:
            friend = Access.from_config(trusted, environment, allow_private_urls=True)
            Fetch(Location.parse("hf://org/model"), tmp_path / "out", friend, max_bytes=1 << 30).run()
        finally:
            set_client_factory(default_client_factory)  # the library keeps one per process
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == WEIGHTS
