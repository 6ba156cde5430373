# SPDX-License-Identifier: Apache-2.0
"""`python -m serverlessllm_vllm.server PARENT_PID …`: vLLM's HTTP server; it ends with its starter."""

from __future__ import annotations

import runpy
import sys

from serverlessllm_vllm.parent import follow_parent

if __name__ == "__main__":
    follow_parent(int(sys.argv.pop(1)))
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
