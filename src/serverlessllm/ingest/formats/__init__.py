# SPDX-License-Identifier: Apache-2.0
"""Checkpoint formats that can be converted. Each gives names, dtypes, shapes and bytes; none writes anything."""
