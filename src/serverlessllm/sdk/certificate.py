# SPDX-License-Identifier: Apache-2.0
"""Reads from a certificate in PEM the one thing that `ssl` does not tell of our own: until when it is valid.

Pure; knows no trust and no connection. Reads only as much of X.509 (RFC 5280, section 4.1) as leads to the dates.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import Final

_END: Final = "-----END CERTIFICATE-----"
_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


def validity(pem: str) -> tuple[datetime, datetime]:
    """(not before, not after) of the first certificate in `pem`. Raises ValueError when there is none."""
    start = pem.find("-----BEGIN CERTIFICATE-----")
    end = pem.find(_END, start)
    if start < 0 or end < 0:
        raise ValueError("no certificate in it")
    der = ssl.PEM_cert_to_DER_cert(pem[start : end + len(_END)])
    certificate, _ = _take(der, _SEQUENCE)
    rest, _ = _take(certificate, _SEQUENCE)
    if rest and rest[0] == _VERSION:
        _, rest = _take(rest, _VERSION)
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serial number, algorithm, issuer
        _, rest = _take(rest, tag)
    dates, _ = _take(rest, _SEQUENCE)
    not_before, dates = _time(dates)
    not_after, _ = _time(dates)
    return not_before, not_after


def _take(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The content of the element that `data` begins with, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError("not a certificate")
    length, at = data[1], 2
    if length & 0x80:
        at = 2 + (length & 0x7F)
        length = int.from_bytes(data[2:at], "big")
    if len(data) < at + length:
        raise ValueError("a certificate that ends too early")
    return data[at : at + length], data[at + length :]


def _time(data: bytes) -> tuple[datetime, bytes]:
    tag = data[0] if data else 0
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("a certificate without dates")
    text, rest = _take(data, tag)
    digits = text.decode("ascii")
    if tag == _UTC_TIME:
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC), rest
