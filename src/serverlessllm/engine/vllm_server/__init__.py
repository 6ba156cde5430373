# SPDX-License-Identifier: Apache-2.0
"""vLLM as an engine: a server of its own environment below a worker, filled from the arena, asked in ids."""
