# SPDX-License-Identifier: Apache-2.0
"""An engine without weights: a real worker process with configured times and ids that anyone can predict."""
