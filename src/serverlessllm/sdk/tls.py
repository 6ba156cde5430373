# SPDX-License-Identifier: Apache-2.0
"""TLS for all our listeners and clients, from the settings `tls.cert`, `tls.key` and `tls.ca`.

    listener        with `cert`                       with `ca` too
    front           https                             https; users need no certificate
    agent, ingest   https                             https, and who calls shows a certificate of that authority

Clients check names always. Whatever is wrong with a file or a peer's certificate is said with the file's name and
what to do about it.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from serverlessllm.config import TlsConfig
from serverlessllm.errors import CertificateError, ConfigError
from serverlessllm.sdk.certificate import validity

_EXPIRED, _NOT_YET = 10, 9
_WRONG_NAME = (62, 64)


def server_context(tls: TlsConfig, *, is_internal: bool) -> ssl.SSLContext | None:
    """For a listener; `is_internal`: only our own processes call it. None without a certificate.

    Raises ConfigError naming the file.
    """
    if not tls.cert:
        if tls.key or tls.ca:
            raise ConfigError(
                "tls.cert: name our certificate too, or leave tls.key and tls.ca away", param="tls.cert"
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_own(context, tls)
    if tls.ca and is_internal:
        _load_authorities(context, tls.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class ClientTls:
    """The contexts of our clients. `own` are addresses of this very process, known by our own certificate."""

    def __init__(self, tls: TlsConfig, *, own: tuple[str, ...] = ()) -> None:
        """Raises ConfigError naming the file that cannot be used."""
        self._tls = tls
        self._own = frozenset(own)
        self._context: ssl.SSLContext | None = None
        self._own_context: ssl.SSLContext | None = None
        if tls.cert or tls.ca:
            self._context = self._new_context(tls.ca)

    def context(self, address: str) -> ssl.SSLContext | None:
        """For a URL; None for one without TLS."""
        if urlsplit(address).scheme != "https":
            return None
        if address in self._own:
            return self._pinned()
        if self._context is None:
            self._context = self._new_context("")
        return self._context

    def _new_context(self, ca: str) -> ssl.SSLContext:
        context = client_context(ca)
        if self._tls.cert:
            _load_own(context, self._tls)
        return context

    def _pinned(self) -> ssl.SSLContext:
        """Trusts our own certificate alone, whatever names it has: the peer is this process, on loopback."""
        if self._own_context is None:
            context = self._new_context(self._tls.cert)
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            self._own_context = context
        return self._own_context


def client_context(ca: str) -> ssl.SSLContext:
    """Checks servers against the file `ca`, or the system's authorities when that is empty. Raises ConfigError."""
    if not ca:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load_authorities(context, ca)
    return context


def certificate_error(error: BaseException, address: str, tls_ca: str = "tls.ca") -> CertificateError | None:
    """What a failed connection to `address` means, if TLS is why; `tls_ca` is where authorities are set."""
    cause = next((part for part in _chain(error) if isinstance(part, ssl.SSLError)), None)
    if cause is None:
        return None
    host = urlsplit(address).hostname or address
    return CertificateError(f"{address}: {_reason(cause, host, tls_ca)}", source="client")


def _reason(error: ssl.SSLError, host: str, tls_ca: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        match error.verify_code:
            case code if code == _EXPIRED:
                return "its certificate has expired; renew the file that its `tls.cert` names, and restart it"
            case code if code == _NOT_YET:
                return "its certificate is not valid yet; check the clocks of both machines"
            case code if code in _WRONG_NAME:
                return (
                    f"its certificate is not made out to {host}; make one that is, or call it by a name in it"
                )
            case _:
                return (
                    f"its certificate is of an authority that we do not trust ({error.verify_message}); name the "
                    f"authority's file in {tls_ca}, or give it a certificate of ours"
                )
    text = f"{error.reason or ''} {error}".upper()
    if "CERTIFICATE_REQUIRED" in text or "HANDSHAKE_FAILURE" in text:
        return "it asks for a certificate of ours; set tls.cert and tls.key"
    if "EXPIRED" in text:
        return "it says that our certificate has expired; renew the file that tls.cert names, and restart"
    if "UNKNOWN_CA" in text or "BAD_CERTIFICATE" in text:
        return "it does not trust our certificate; make tls.cert one of the authority that its `tls.ca` names"
    if "WRONG_VERSION_NUMBER" in text or "HTTP_REQUEST" in text:
        return "it does not speak TLS; call it by http://, or set its `tls.cert`"
    return f"TLS failed: {error.reason or error}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    part: BaseException | None = error
    while part is not None and id(part) not in seen:
        seen.add(id(part))
        yield part
        part = part.__cause__ or part.__context__


def _load_own(context: ssl.SSLContext, tls: TlsConfig) -> None:
    _check_dates(tls.cert)
    key = tls.key or None
    try:
        context.load_cert_chain(tls.cert, key)
    except FileNotFoundError as error:
        raise ConfigError(f"tls.key: there is no file {tls.key}", param="tls.key") from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"tls.key: {tls.key or tls.cert} is not the key of the certificate {tls.cert}",
                param="tls.key",
            ) from error
        raise ConfigError(
            f"tls.key: {tls.key or tls.cert} holds no private key in PEM without a password", param="tls.key"
        ) from error
    except OSError as error:
        raise ConfigError(f"tls.key: cannot read {tls.key}: {error.strerror}", param="tls.key") from error


def _check_dates(path: str) -> None:
    """Raises ConfigError for a certificate that nobody would accept now."""
    try:
        not_before, not_after = validity(Path(path).read_text("ascii", errors="replace"))
    except OSError as error:
        raise ConfigError(f"tls.cert: cannot read {path}: {error.strerror}", param="tls.cert") from error
    except ValueError as error:
        raise ConfigError(
            f"tls.cert: {path}: {error}; it must be a certificate in PEM", param="tls.cert"
        ) from error
    now = datetime.now(UTC)
    if now > not_after:
        raise ConfigError(
            f"tls.cert: the certificate in {path} expired on {not_after:%Y-%m-%d %H:%M} UTC; renew it",
            param="tls.cert",
        )
    if now < not_before:
        raise ConfigError(
            f"tls.cert: the certificate in {path} is valid from {not_before:%Y-%m-%d %H:%M} UTC on; check the clock",
            param="tls.cert",
        )


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"tls.ca: {path} holds no certificate in PEM", param="tls.ca") from error
    except OSError as error:
        raise ConfigError(f"tls.ca: cannot read {path}: {error.strerror}", param="tls.ca") from error
