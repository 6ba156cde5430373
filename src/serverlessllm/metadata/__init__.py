# SPDX-License-Identifier: Apache-2.0
"""Facts that outlive a process, behind one Protocol."""
