"""What becomes of weights on their way through lava-dl's netx, and why some do not survive it.

netx reads a dense matrix, shifts it up as far as 8 bits allow and hands Lava the number of bits and the exponent that
undo it (lava-dl 0.6.0, lava/lib/dl/netx/utils.py l.101-158); Lava then clips and truncates by rules of its own
(lava-nc 0.10.0, lava/utils/weightutils.py l.21-43, l.204-295). Neither says a word where they disagree. A
convolution's kernel is neither shifted nor checked (lava/proc/conv/models.py l.68-79).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def dense_problem(weight: Int64) -> str:
    """Why a dense layer would not run with these weights [n_out, n_in], as the end of a sentence; empty if it does."""
    if not weight.any():
        return "all weights are 0, at which netx ends in an OverflowError; leave the layer out, or check the weights"
    found = kernel_problem(weight)
    if found:
        return found
    stored, n_up = _shifted(weight)
    held = _held(stored, _n_bits(weight, n_up))
    if np.array_equal(held, stored):
        return ""
    n, at = int((held != stored).sum()), tuple(np.argwhere(held != stored)[0])
    return (
        f"netx and Lava would change {n:,} weights without a word, the first from {weight[at]} to "
        f"{held[at] / (1 << n_up):g}; change the weights, or deploy the network from PyTorch with --backend lava"
    )


def weights_run(weight: Int64) -> Int64:
    """What Lava multiplies with where a dense layer [n_out, n_in] goes through netx; unchanged where it does not."""
    if not weight.any() or kernel_problem(weight):
        return weight
    stored, n_up = _shifted(weight)
    held = _held(stored, _n_bits(weight, n_up))
    return weight if (held % (1 << n_up)).any() else held >> n_up


def kernel_problem(weight: Int64) -> str:
    """Why a synapse of Loihi cannot hold these weights, as the end of a sentence; empty if it can.

    Mixed signs are even numbers of 8 bits, or any of 7, which are held twice as large under an exponent of -1.
    """
    low, high = int(weight.min()), int(weight.max())
    if low < 0 < high:
        if low >= -128 and high <= 127:
            return ""
        if low < -256 or high > 254:
            return f"weights are {low} to {high}, Loihi holds -256 to 254 where signs are mixed; scale them down"
        odd = weight[weight % 2 != 0]
        if odd.size:
            return (
                f"{odd.size:,} weights are odd (the first is {odd.flat[0]}) among {low} to {high}, Loihi holds mixed "
                f"signs beyond 7 bits as even numbers; round them to even ones"
            )
        return ""
    if low < -255 or high > 255:
        zeroed = "; a dense layer would become 0 without a word" if high > 255 else ""
        return f"weights are {low} to {high}, Loihi holds -255 to 255 of one sign{zeroed}; scale them down"
    return ""


def _shifted(weight: Int64) -> tuple[Int64, int]:
    """What netx hands to Lava, and by how many bits it was shifted up (utils.py l.114-133, l.149-151)."""
    low, high = int(weight.min()), int(weight.max())
    if high < 0:
        n_up = _floor_log2(256, -low)
    elif low >= 0:
        n_up = _floor_log2(255, high)
    else:  # as many as leave both ends in 8 bits; weights up to 0 count as mixed
        n_up = 1 + min(_floor_log2(128, -low), _floor_log2(127, high) if high else 8)
    return weight << n_up, n_up


def _n_bits(weight: Int64, n_up: int) -> int:
    """num_weight_bits as netx computes it (utils.py l.135-148)."""
    every: int = int(np.bitwise_or.reduce(weight, axis=None)) & 0xFF | 0x100
    n_zeros = (every & -every).bit_length() - 1  # of every weight, 8 at most
    is_mixed = bool(weight.min() < 0 <= weight.max())
    return 8 - n_up - (n_zeros - is_mixed)


def _held(stored: Int64, n_bits: int) -> Int64:
    """What Lava's Dense multiplies with: clipped to 8 bits and cut to n_bits by the signs it finds itself."""
    low, high = int(stored.min()), int(stored.max())
    sign, is_mixed = (-1 if low < 0 and high <= 0 else 1), low < 0 < high
    n_cut = 8 - n_bits + is_mixed
    held: Int64 = np.clip(sign * stored, -256 if is_mixed else 0, 255)
    return sign * (held >> n_cut << n_cut)


def _floor_log2(numerator: int, denominator: int) -> int:
    """floor(log2(numerator / denominator)), exact."""
    n = math.floor(math.log2(numerator / denominator))
    return n - (numerator < math.ldexp(denominator, n)) + (numerator >= math.ldexp(denominator, n + 1))
