# SPDX-License-Identifier: Apache-2.0
"""Counter-based Gumbel noise: a pure function of (seed, choice, position, token id). Knows no logits.

The exact integers (all arithmetic modulo 2**64; `mix` is SplitMix64's output function):

    mix(x):  x ^= x >> 30;  x *= 0xBF58476D1CE4E5B9;  x ^= x >> 27;  x *= 0x94D049BB133111EB;  x ^= x >> 31
    key   = mix(mix(mix(seed + G) ^ choice) ^ position)            G = 0x9E3779B97F4A7C15
    bits  = mix(key + (token_id + 1) * G)                          the token_id-th output of SplitMix64 from `key`
    u     = ((bits >> 12) + 0.5) * 2**-52                          exact in float64, never 0 or 1
    noise = -log(-log(u))                                          standard Gumbel, at most 36.74

`position` is the index of the sampled id in its sequence (prompt ids and generated ids together), so that a
sequence which is continued elsewhere draws the same noise.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MUL_1: Final = 0xBF58476D1CE4E5B9
_MUL_2: Final = 0x94D049BB133111EB
_UNIT: Final = 2.0**-52


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * _MUL_1) & _MASK
    value = ((value ^ (value >> 27)) * _MUL_2) & _MASK
    return value ^ (value >> 31)


def draw_key(seed: int, choice: int, position: int) -> int:
    """The 64-bit key of one draw; negative and large arguments are taken modulo 2**64."""
    key = _mix((seed + _GOLDEN) & _MASK)
    key = _mix(key ^ (choice & _MASK))
    return _mix(key ^ (position & _MASK))


def token_counters(token_ids: npt.NDArray[np.int64]) -> UInt64Array:
    """`(token_id + 1) * G` per id; the part of the counter that does not depend on the draw."""
    counters: UInt64Array = (token_ids.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    return counters


def draw_bits(key: int, counters: UInt64Array) -> UInt64Array:
    """64 random bits per counter, for the draw of `key`. Shape and order of `counters`."""
    bits = counters + np.uint64(key)
    shifted = np.empty_like(bits)
    for shift, factor in ((30, _MUL_1), (27, _MUL_2)):
        np.right_shift(bits, np.uint64(shift), out=shifted)
        np.bitwise_xor(bits, shifted, out=bits)
        np.multiply(bits, np.uint64(factor), out=bits)
    np.right_shift(bits, np.uint64(31), out=shifted)
    np.bitwise_xor(bits, shifted, out=bits)
    return bits


def gumbel(bits: UInt64Array) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise from random bits, float64; grows with `bits`."""
    uniform = (bits >> np.uint64(12)).astype(np.float64)
    uniform += 0.5
    uniform *= _UNIT
    noise: npt.NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise
