# SPDX-License-Identifier: Apache-2.0
"""What a request and a chunk cost on their way through a front, beside other proxies."""
