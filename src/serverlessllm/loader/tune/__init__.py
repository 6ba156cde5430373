# SPDX-License-Identifier: Apache-2.0
"""How to read this node's media fastest: what `sllm tune io` measures, and what loads then do."""
