# SPDX-License-Identifier: Apache-2.0
"""Programs that run a model: the Protocol, the slots that wait for one, and the engines themselves."""
