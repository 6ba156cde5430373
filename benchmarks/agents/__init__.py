# SPDX-License-Identifier: Apache-2.0
"""What following hundreds of agents costs one orchestrator."""
