# SPDX-License-Identifier: Apache-2.0
"""How many replicas a model has: none when nobody calls, one when it is called, more when its queue says so."""
