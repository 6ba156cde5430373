# SPDX-License-Identifier: Apache-2.0
"""What a container's HEALTHCHECK runs: exit 0 if `HEALTHCHECK_URL` answers 200. Needs the standard library alone."""

import os
import sys
import urllib.request

URL = os.environ.get("HEALTHCHECK_URL", "http://127.0.0.1:8343/healthz")
TIMEOUT_S = 4.0

try:
    with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as answer:
        sys.exit(0 if answer.status == 200 else 1)
except OSError as error:
    sys.stderr.write(f"{URL}: {error}\n")
    sys.exit(1)
