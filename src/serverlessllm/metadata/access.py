# SPDX-License-Identifier: Apache-2.0
"""How a metadata server is spoken to: account, certificates, and the bound of every call. Values only."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from serverlessllm.errors import ConfigError

CALL_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """Empty texts: no account, the system's authorities, no certificate of our own (all three are PEM files)."""

    user: str = ""
    password: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    call_timeout_s: float = CALL_TIMEOUT_S

    def tls_context(self) -> ssl.SSLContext:
        """The client's side of TLS, names checked. Raises ConfigError for a file that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file or None)
        except (OSError, ssl.SSLError) as error:
            named = self.ca_file if not self.cert_file else f"{self.ca_file or 'CA'}, {self.cert_file}"
            raise ConfigError(f"metadata: certificates {named} cannot be used: {error}") from error
        return context
