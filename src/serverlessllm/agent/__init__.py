# SPDX-License-Identifier: Apache-2.0
"""The node daemon: replicas, their queues, their text, and the node's HTTP surface."""
