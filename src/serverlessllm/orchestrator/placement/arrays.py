# SPDX-License-Identifier: Apache-2.0
"""The array types of placement: one element per candidate, per model, or per seat."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
Tiers: TypeAlias = NDArray[np.uint8]
