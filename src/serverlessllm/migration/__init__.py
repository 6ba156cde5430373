# SPDX-License-Identifier: Apache-2.0
"""How a running request moves from one agent to another. Pure: knows no sockets, no engines and no clocks."""
