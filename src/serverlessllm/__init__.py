# SPDX-License-Identifier: Apache-2.0
"""ServerlessLLM: many language models on few machines, awake within moments of the first call."""

__version__ = "0.1.0"
