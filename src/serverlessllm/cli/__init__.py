# SPDX-License-Identifier: Apache-2.0
"""The sllm command: one file per noun; parse, call the SDK, print."""
