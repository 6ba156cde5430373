# SPDX-License-Identifier: Apache-2.0
"""The entry point of group `vllm.general_plugins`: vLLM calls `register` in each of its processes, at times twice."""

from __future__ import annotations

from serverlessllm_vllm.parent import follow_parent

LOAD_FORMAT = "sllm"


def register() -> None:
    """Make the load format known, once, and end this process with the one that asked for that."""
    follow_parent()
    from vllm.model_executor import model_loader

    if LOAD_FORMAT not in model_loader._LOAD_FORMAT_TO_MODEL_LOADER:
        from serverlessllm_vllm.loader import SllmModelLoader

        model_loader.register_model_loader(LOAD_FORMAT)(SllmModelLoader)
