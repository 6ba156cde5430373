# SPDX-License-Identifier: Apache-2.0
"""Where bytes come from: one file per medium. Knows neither artifacts nor engines."""
