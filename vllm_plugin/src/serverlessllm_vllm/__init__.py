# SPDX-License-Identifier: Apache-2.0
"""vLLM takes its weights from ServerlessLLM's memory. Knows nothing of ServerlessLLM but one JSON document."""
