# SPDX-License-Identifier: Apache-2.0
"""From logits to the next id. Pure functions of (ids, parameters, logits); numpy only, no torch, no state to move."""
