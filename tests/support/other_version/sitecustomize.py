# SPDX-License-Identifier: Apache-2.0
"""On the path of a child process: all of it, and its own children, speak the wire version TEST_WIRE_VERSION."""

from __future__ import annotations

import os

import serverlessllm.wire

serverlessllm.wire.WIRE_VERSION = int(os.environ["TEST_WIRE_VERSION"])  # type: ignore[misc]
