# SPDX-License-Identifier: Apache-2.0
"""TLS over real processes: every listener, every client, nodes that show certificates to one another."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serverlessllm.errors import CertificateError, ServiceError
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.sdk.orchestrator import Client
from support.authority import Authority
from support.cluster import Cluster
from support.model_dirs import write_simulated
from support.platform import PATIENCE_S, eventually


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Processes that share a SQLite file."""
    with Cluster(tmp_path, f"sqlite:{tmp_path / 'metadata.sqlite'}") as cluster:
        yield cluster


def client_of(front: LocalServer, authority: Authority) -> Client:
    return Client(front.url, ca=str(authority.ca))


def one_alive(front: LocalServer, authority: Authority) -> str:
    """Wait for the agent; its address."""
    with client_of(front, authority) as client:
        return eventually(lambda: next((v.address for v in client.agents() if v.is_alive), None))


def problem(front: LocalServer, authority: Authority) -> str:
    """Wait until the front says why its agent is not used."""
    with client_of(front, authority) as client:
        return eventually(lambda: next((v.problem for v in client.agents() if v.problem), None))


def test_model_is_added_and_called_with_every_hop_over_mutual_tls(
    cluster: Cluster, authority: Authority, tmp_path: Path
) -> None:
    front = cluster.orchestrator(**authority.mutual())
    agent = cluster.agent(**authority.mutual())
    assert front.url.startswith("https://")
    assert one_alive(front, authority) == agent.url
    with client_of(front, authority) as client:
        source = str(write_simulated(tmp_path / "m"))
        client.add_model("m", source, engine="simulated", wait=True)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": True}
    context = ssl.create_default_context(cafile=str(authority.ca))
    reply = httpx.post(f"{front.url}/v1/chat/completions", json=body, verify=context, timeout=PATIENCE_S)
    assert reply.status_code == 200 and reply.content.endswith(b"data: [DONE]\n\n")


def test_node_without_a_certificate_may_not_call_an_agent(cluster: Cluster, authority: Authority) -> None:
    agent = cluster.agent(**authority.mutual())
    context = ssl.create_default_context(cafile=str(authority.ca))
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{agent.url}/healthz", verify=context)
    stranger = cluster.orchestrator(tls_cert="", metadata_call_timeout_s="3")
    with Client(stranger.url) as client:
        said = eventually(lambda: next((v.problem for v in client.agents() if v.problem), None))
    assert "an authority that we do not trust" in said and "tls.ca" in said


def test_front_says_that_an_agents_certificate_is_made_out_to_another_name(
    cluster: Cluster, authority: Authority
) -> None:
    front = cluster.orchestrator(**authority.mutual())
    cluster.agent(**authority.mutual("gpu-7.example"))
    assert "is not made out to 127.0.0.1" in problem(front, authority)


def test_expired_certificate_ends_the_start_and_names_the_file(
    cluster: Cluster, authority: Authority
) -> None:
    expired = authority.issue(days=-1)
    with pytest.raises(ServiceError, match=rf"certificate in {expired['tls_cert']} expired on .* renew it"):
        cluster.orchestrator(**expired)


def test_key_of_another_certificate_ends_the_start_and_names_both_files(
    cluster: Cluster, authority: Authority
) -> None:
    one, two = authority.issue(), authority.issue("other.example")
    with pytest.raises(ServiceError, match="is not the key of the certificate"):
        cluster.orchestrator(tls_cert=one["tls_cert"], tls_key=two["tls_key"])


def test_client_that_does_not_know_the_authority_is_told_how_to(
    cluster: Cluster, authority: Authority
) -> None:
    front = cluster.orchestrator(**authority.issue())
    with Client(front.url) as client, pytest.raises(CertificateError, match="--ca or SLLM_CA"):
        client.agents()


def test_all_in_one_serves_tls_with_a_certificate_of_a_public_name_only(
    tmp_path: Path, authority: Authority
) -> None:
    flags = {name.replace("_", "-"): value for name, value in authority.issue("llm.example").items()}
    small = {"arena-budget-bytes": "64MiB", "engine-threads": "1", "arena-huge-pages": "never"}
    context = ssl.create_default_context(cafile=str(authority.ca))
    public = {"sni_hostname": "llm.example"}
    with (
        LocalServer(tmp_path / "d", flags={**flags, **small}) as server,
        httpx.Client(verify=context) as http,
    ):
        eventually(lambda: http.get(f"{server.url}/readyz", extensions=public).status_code == 200)
