# SPDX-License-Identifier: Apache-2.0
"""Moving bytes: threads, turns, local reads, fetches, and what of a plan has arrived."""
