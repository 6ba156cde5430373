# SPDX-License-Identifier: Apache-2.0
"""Moves a revision's bytes from the cheapest tier into the arena, and says how fast it was."""
