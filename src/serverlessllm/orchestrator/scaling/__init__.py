# SPDX-License-Identifier: Apache-2.0
"""How many replicas a model has: for now one when it is called, none when it is not."""
