# SPDX-License-Identifier: Apache-2.0
"""Where a model wakes: filter, score, pick. Pure."""
