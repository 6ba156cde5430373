# SPDX-License-Identifier: Apache-2.0
"""A certificate authority for tests, and certificates in files as `tls.cert`, `tls.key` and `tls.ca` name them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


class Authority:
    """Issues certificates into `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._ca = trustme.CA()
        self.ca = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str = "127.0.0.1", *, days: int = 30) -> dict[str, str]:
        """Flags with a fresh certificate made out to `name`; one of negative `days` has expired."""
        not_after = datetime.now(UTC) + timedelta(days=days)
        made = self._ca.issue_cert(name, not_before=not_after - timedelta(days=60), not_after=not_after)
        stem = f"{name}-{days}"
        cert, key = self._directory / f"{stem}.pem", self._directory / f"{stem}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(key))
        return {"tls_cert": str(cert), "tls_key": str(key)}

    def mutual(self, name: str = "127.0.0.1") -> dict[str, str]:
        """The same with `tls.ca`: nodes show certificates to one another."""
        return {**self.issue(name), "tls_ca": str(self.ca)}
