# SPDX-License-Identifier: Apache-2.0
"""HTTP routes of the front, one file per noun. Each handler: decode, call a part, encode."""
