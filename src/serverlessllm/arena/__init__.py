# SPDX-License-Identifier: Apache-2.0
"""The DRAM tier: extents of one tmpfs file, pins that the kernel holds, adoption after a restart."""
