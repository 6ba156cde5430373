# SPDX-License-Identifier: Apache-2.0
"""The dates of a certificate, read from its PEM."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trustme

from serverlessllm.sdk.certificate import validity


@pytest.mark.parametrize("year", [2031, 2070])
def test_dates_are_those_that_the_certificate_was_made_with(year: int) -> None:
    not_before, not_after = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(year, 6, 7, tzinfo=UTC)
    made = trustme.CA().issue_cert("x.example", not_before=not_before, not_after=not_after)
    pem = b"".join(blob.bytes() for blob in made.cert_chain_pems).decode()
    assert validity(f"a remark\n{pem}") == (not_before, not_after)


@pytest.mark.parametrize("base64", ["", "MAA=", "MIIB", "BQA=", "MAUwAwIBAQ=="])
def test_anything_else_is_refused(base64: str) -> None:
    with pytest.raises(ValueError):
        validity(f"-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
    with pytest.raises(ValueError):
        validity(base64)
