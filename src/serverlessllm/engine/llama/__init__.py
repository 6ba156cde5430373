# SPDX-License-Identifier: Apache-2.0
"""Our own engine: the Llama, Qwen2, Qwen3, Mistral, Gemma 2 and Gemma 3 families on PyTorch, CPU, ids in and ids out.

The factory is `serverlessllm.engine.llama.engine:create`. Importing this package imports no torch; its modules do.
"""
