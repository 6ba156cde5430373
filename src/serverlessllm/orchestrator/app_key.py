# SPDX-License-Identifier: Apache-2.0
"""How a route finds the orchestrator that it serves."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from serverlessllm.orchestrator.orchestrator import Orchestrator

ORCHESTRATOR: Final = web.AppKey("orchestrator", Orchestrator)
