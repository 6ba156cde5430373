# SPDX-License-Identifier: Apache-2.0
"""Any checkpoint in, an artifact out: formats, conversion, jobs, the service."""
