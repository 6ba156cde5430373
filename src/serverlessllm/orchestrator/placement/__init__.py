# SPDX-License-Identifier: Apache-2.0
"""Where a model wakes, and which replica answers: filter, score, pick. Pure; over arrays, one row per candidate."""
