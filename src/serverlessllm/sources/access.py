# SPDX-License-Identifier: Apache-2.0
"""What this process may use to reach the outside: URL rules, certificates, time limits, people's accounts.

Made once from the configuration and handed down, so that nothing below reads the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serverlessllm.config import SourcesConfig
from serverlessllm.sources.download import DEFAULT_WORKERS
from serverlessllm.sources.http_connection import HttpAccess, trusted_certificates
from serverlessllm.sources.url_policy import UrlPolicy


@dataclass(frozen=True, slots=True)
class Access:
    """`environment` holds `AWS_*`, `HF_TOKEN`, `HF_ENDPOINT` and `HOME`, as `config.source_environment` gives them.

    `num_workers` connections fetch one file at once.
    """

    http: HttpAccess
    environment: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    num_workers: int = DEFAULT_WORKERS

    @classmethod
    def from_config(
        cls, config: SourcesConfig, environment: Mapping[str, str], *, allow_private_urls: bool = False
    ) -> Access:
        """The operator's settings. Raises: ConfigError when `ca_file` cannot be used."""
        named = config.ca_file or environment.get("AWS_CA_BUNDLE", "")
        ca_file = Path(named).expanduser() if named else None
        http = HttpAccess(
            UrlPolicy(allow_private=allow_private_urls),
            tls=trusted_certificates(ca_file),
            connect_timeout_s=config.connect_timeout_s,
            stall_timeout_s=config.stall_timeout_s,
        )
        return cls(http, environment, ca_file, config.connections or DEFAULT_WORKERS)

    def trusting(self, url: str) -> HttpAccess:
        """For an endpoint that the operator named: it may be private. Raises: InvalidRequestError."""
        return HttpAccess(
            self.http.policy.trusting(url),
            tls=self.http.tls,
            connect_timeout_s=self.http.connect_timeout_s,
            stall_timeout_s=self.http.stall_timeout_s,
        )
