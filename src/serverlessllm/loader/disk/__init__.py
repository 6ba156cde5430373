# SPDX-License-Identifier: Apache-2.0
"""The NVMe tier: artifacts on the node's disk, whole, half-fetched or put aside."""
