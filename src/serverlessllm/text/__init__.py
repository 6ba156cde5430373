# SPDX-License-Identifier: Apache-2.0
"""Between text and token ids: tokenizers, chat templates, detokenising, stop strings."""
