# SPDX-License-Identifier: Apache-2.0
"""Wires each process together, and all of them in one."""
