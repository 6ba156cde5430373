# SPDX-License-Identifier: Apache-2.0
"""What is measured and how it is shown: metrics, timelines, logs."""
