# SPDX-License-Identifier: Apache-2.0
"""The terms of the score, one per file: each the expected seconds of TTFT for one reason, one per candidate."""
