# SPDX-License-Identifier: Apache-2.0
"""The artifact format: index, writer, strict reader, verification. Knows no engine and no network."""
