"""Elementary functions of float32 numbers as plain arithmetic, which becomes vector instructions (numba).

Calls of the C library would be several times slower: they stop a loop from being vectorised.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from scvi.kernels.compiler import PART, SUMMING_PART

F = np.float32
ZERO, HALF, ONE, TWO, FOUR = F(0), F(0.5), F(1), F(2), F(4)
_LOG2E, _LN2_HIGH, _LN2_LOW = F(1.44269504), F(0.693359375), F(-2.12194440e-4)
_ROUND = F(12582912.0)  # 1.5 * 2**23: adding and subtracting it rounds a float32 to an integer
_EXP_MIN, _EXP_MAX = F(-87.0), F(88.0)
_BITS_OF_1, _BITS_OF_SQRT_HALF = np.int32(0x3F800000), np.int32(0x3F3504F3)
# Minimax polynomials for (exp(r) - 1 - r) / r**2 and (log(1 + f) - f + f**2 / 2) / f**3 on the intervals that are left
# after range reduction; relative errors of exp and log 1e-7 and 3e-7. Each coefficient is named after its power in the
# series of exp(r) and log(1 + f).
_E5, _E4, _E3, _E2 = F(0.00831252), F(0.04189016), F(0.16667115), F(0.49999231)
_L8, _L7, _L6, _L5, _L4, _L3 = (
    F(x) for x in (-0.10191731, 0.16024379, -0.1713713, 0.19924505, -0.24983267, 0.33334246)
)
# 2 atanh(z) / z in z**2, for z up to 1/3, relative error 3e-7.
_A0, _A2, _A4, _A6 = F(1.9999998), F(0.66676706), F(0.39571026), F(0.34335709)
# Coefficients of Stirling's series of log Gamma and of its derivative.
_S1, _S3, _S5 = F(1 / 12), F(-1 / 360), F(1 / 1260)
_D1, _D2, _D4, _D6 = F(-1 / 2), F(-1 / 12), F(1 / 120), F(-1 / 252)


@njit(**PART)
def clamp(x, low, high):
    """What is no number stays none."""
    x = low if x < low else x
    return high if x > high else x


@njit(**PART)
def exp(x):
    """e to the power x; arguments are clamped to the float32 range."""
    x = clamp(x, _EXP_MIN, _EXP_MAX)
    rounded = x * _LOG2E + _ROUND  # its last bits are the integer nearest to x / log 2
    n = rounded - _ROUND
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = (((_E5 * r + _E4) * r + _E3) * r + _E2) * r * r + r + ONE
    power = np.int32((np.float32(rounded).view(np.int32) << np.int32(23)) + _BITS_OF_1)
    return p * power.view(np.float32)


@njit(**PART)
def log(x):
    """Natural logarithm of a positive normal number."""
    above = np.int32(np.float32(x).view(np.int32) - _BITS_OF_SQRT_HALF)  # so that f is in [sqrt(1/2), sqrt(2)) - 1
    exponent = np.float32(np.int32(above >> np.int32(23)))
    f = np.int32((above & np.int32(0x7FFFFF)) + _BITS_OF_SQRT_HALF).view(np.float32) - ONE
    p = ((((_L8 * f + _L7) * f + _L6) * f + _L5) * f + _L4) * f + _L3
    z = f * f
    y = p * f * z + exponent * _LN2_LOW - HALF * z
    return f + y + exponent * _LN2_HIGH


@njit(**PART)
def log1p(x, inverse):
    """log(1 + x) for x >= -0.5, given 1 / (1 + x): to full relative accuracy near 0, the rounding of 1 + x put back."""
    u = ONE + x
    return log(u) + (x - (u - ONE)) * inverse


@njit(**PART)
def twice_atanh(z):
    """log((1 + z) / (1 - z)) for z between -1/3 and 1/3."""
    s = z * z
    return (((_A6 * s + _A4) * s + _A2) * s + _A0) * z


@njit(**PART)
def stirling(i):
    """log Gamma(z) - ((z - 1/2) log z - z + log(2 pi) / 2), for z >= 4, given 1 / z."""
    s = i * i
    return i * (_S1 + s * (_S3 + s * _S5))


@njit(**PART)
def digamma_series(i):
    """digamma(z) - log z, for z >= 4, given 1 / z."""
    s = i * i
    return i * _D1 + s * (_D2 + s * (_D4 + s * _D6))


@njit(**SUMMING_PART)
def _sum(values):
    part = ZERO
    for j in range(values.shape[0]):
        part += values[j]
    return part


@njit(**PART)
def total(values):
    """Sum in float64 of float32 sums of up to 1024 numbers."""
    whole = 0.0
    for start in range(0, values.shape[0], 1024):
        whole += _sum(values[start : start + 1024])
    return whole


@njit(**PART)
def _order(bits):
    """Bits of a float32 to an integer with the same order, and back."""
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(**PART)
def largest(values):
    """The largest of at least one number: as integers, since comparing what may be no number is not vectorised."""
    top = np.int32(-(2**31))
    for j in range(values.shape[0]):
        found = _order(np.float32(values[j]).view(np.int32))
        top = found if found > top else top
    return np.int32(_order(top)).view(np.float32)
