"""Clipping and Adam on parameters and gradients wherever they are in memory (numba, CPU, float32)."""

from __future__ import annotations

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from scvi.kernels.compiler import CALLED_ONCE, OPTIONS, PART, SUMMING
from scvi.kernels.elementary import ONE
from scvi.kernels.moments import BETAS

_F = np.float32
_B1, _B2 = map(_F, BETAS)
_AT_A_TIME = 1024  # numbers of which copies are made


@intrinsic
def _pointer(_, address):
    """A place in memory by its number."""

    def generate(_, builder, __, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@njit(**PART)
def _numbers(place, first, last):
    """The numbers from `first` to `last` of a tensor that begins at `place`."""
    return carray(_pointer(place + 4 * first), (last - first,), np.float32)


@njit(**SUMMING)
def sum_of_squares(places, pieces):
    """Of the numbers ``pieces`` (tensor, first, last, first in the buffers) of tensors that begin at `places`.

    In float64, in which no square of a float32 number overflows.
    """
    whole = 0.0
    for k in range(pieces.shape[0]):
        i, first, last = pieces[k, 0], pieces[k, 1], pieces[k, 2]
        values = _numbers(places[i], first, last)
        for j in range(values.shape[0]):
            value = np.float64(values[j])
            whole += value * value
    return whole


@njit(**CALLED_ONCE)
def _update(p, g, m, v, scale, numbers, eps):
    """One step of some numbers of a tensor, which has its own `numbers`, see :func:`step`."""
    decay, keep, rate, correction = numbers[0], numbers[1], numbers[2], numbers[3]
    for j in range(p.shape[0]):
        slope = g[j] * scale + decay * p[j]
        m[j] += (ONE - _B1) * (slope - m[j])
        v[j] = _B2 * v[j] + (ONE - _B2) * slope * slope
        p[j] = p[j] * keep - rate * m[j] / (np.sqrt(v[j]) * correction + eps)


@njit(**CALLED_ONCE)
def round_to_bfloat16(values, bits):
    """Writes the bits of numbers in bfloat16: the nearest, of two the even one; what is no number stays none."""
    for j in range(values.shape[0]):
        b = np.float32(values[j]).view(np.uint32)
        nearest = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        is_none = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        bits[j] = np.uint16(np.uint32(0x7FC0) if is_none else nearest)


@njit(**OPTIONS)
def step(places, of_copies, of_gradients, mean, square, pieces, numbers, scale, eps):
    """One step of Adam (Kingma and Ba 2015) with gradients times `scale`, of pieces as in :func:`sum_of_squares`.

    `numbers` has for each tensor the weight of its L2 penalty, what is kept of its weights, the learning rate over the
    bias correction of `mean`, and the inverse root of that of `square`. Where `of_copies` has a place, the numbers go
    there, too, in bfloat16, while they are in the first cache.
    """
    for k in range(pieces.shape[0]):
        i, first, last, at = pieces[k, 0], pieces[k, 1], pieces[k, 2], pieces[k, 3]
        while first < last:
            end = min(last, first + _AT_A_TIME) if of_copies[i] else last
            p, g, n = _numbers(places[i], first, end), _numbers(of_gradients[i], first, end), end - first
            _update(p, g, mean[at : at + n], square[at : at + n], scale, numbers[i], eps)
            if of_copies[i]:
                round_to_bfloat16(p, carray(_pointer(of_copies[i] + 2 * first), (n,), np.uint16))
            first, at = end, at + n
