"""What stands between the matrix products of a network, in one pass each (numba, CPU, float32)."""

from __future__ import annotations

import numpy as np
from numba import njit

from scvi.kernels.compiler import CALLED_ONCE, OPTIONS
from scvi.kernels.elementary import HALF, ONE, ZERO, F, exp, log


@njit(**CALLED_ONCE)
def _uniform(seed, number):
    """In [0, 1): two rounds of multiply and xor-shift of a 32-bit counter, which mix all of its bits."""
    z = np.uint32(np.uint32(number) * np.uint32(0x9E3779B9)) ^ np.uint32(seed)
    z = np.uint32(np.uint32(z ^ np.uint32(z >> np.uint32(16))) * np.uint32(0x21F0AAAD))
    z = np.uint32(np.uint32(z ^ np.uint32(z >> np.uint32(15))) * np.uint32(0xD35A2D97))
    z = np.uint32(z ^ np.uint32(z >> np.uint32(15)))
    return np.float32(np.int32(z >> np.uint32(8))) * F(2**-24)


@njit(**OPTIONS)
def hidden_forward(
    x, bias, gamma, beta, eps, momentum, rate, seed, running_mean, running_variance, moments, normed, out
):
    """Batch norm with the moments of these rows, ReLU and dropout: `x` (n, d) -> `out` (n, d).

    Writes over `moments`, (3, d) zeros, the means, variances and inverse standard deviations, and the normalised rows
    `normed`, and moves the running moments towards those of these rows and `bias`, which the norm takes off again and
    which is not added to them.
    """
    n, d = x.shape
    mean, variance, inverse = moments[0], moments[1], moments[2]
    for i in range(n):
        for j in range(d):
            mean[j] += x[i, j]
    for j in range(d):
        mean[j] /= n
    for i in range(n):
        for j in range(d):
            centred = x[i, j] - mean[j]
            variance[j] += centred * centred
    for j in range(d):
        variance[j] /= n
        inverse[j] = ONE / np.sqrt(variance[j] + eps)
        running_mean[j] += momentum * (mean[j] + bias[j] - running_mean[j])
        running_variance[j] += momentum * (variance[j] * (F(n) / F(n - 1)) - running_variance[j])
    keep = ONE / (ONE - rate)
    for i in range(n):
        for j in range(d):
            y = (x[i, j] - mean[j]) * inverse[j]
            normed[i, j] = y
            y = y * gamma[j] + beta[j]
            out[i, j] = keep * y if y > ZERO else (y if y != y else ZERO)  # what is no number stays none
    if rate > ZERO:
        for i in range(n):
            for j in range(d):
                out[i, j] = ZERO if _uniform(seed, i * d + j) < rate else out[i, j]


@njit(**OPTIONS)
def drop(values, rate, seed, places):
    """Sets entries of rows (n, d) to 0: those that :func:`hidden_forward` drops of the rows at `places` (n,)."""
    n, d = values.shape
    for i in range(n):
        for j in range(d):
            values[i, j] = ZERO if _uniform(seed, places[i] * d + j) < rate else values[i, j]


@njit(**OPTIONS)
def hidden_backward(d_out, out, gamma, inverse, normed, rate, d_gamma, d_beta, d_x):
    """Gradients of :func:`hidden_forward`: writes `d_x`, adds to `d_gamma` and `d_beta`.

    Where `out` is zero, ReLU or dropout let nothing through.
    """
    n, d = out.shape
    keep = ONE / (ONE - rate)
    for i in range(n):
        for j in range(d):
            g = ZERO if out[i, j] == ZERO else d_out[i, j] * keep
            d_x[i, j] = g
            d_beta[j] += g
            d_gamma[j] += g * normed[i, j]
    share = ONE / F(n)
    for i in range(n):
        for j in range(d):
            centred = d_x[i, j] - share * (d_beta[j] + normed[i, j] * d_gamma[j])
            d_x[i, j] = centred * gamma[j] * inverse[j]


@njit(**OPTIONS)
def gaussian_forward(raw, bias, floor, noise, loc, variance, scale, z, kl):
    """Means and log variances `raw` + `bias`, (n, 2 d), to a Gaussian, a draw z and KL(q || N(0, I)).

    Writes `loc`, ``variance``, exp of the log variance, `scale`, the root of it and of `floor`, and `z`, (n, d) each,
    and `kl`, (n,).
    """
    n, d = noise.shape
    for i in range(n):
        whole = ZERO
        for j in range(d):
            mean = raw[i, j] + bias[j]
            own = exp(raw[i, d + j] + bias[d + j])
            square = own + floor
            root = np.sqrt(square)
            loc[i, j] = mean
            variance[i, j] = own
            scale[i, j] = root
            z[i, j] = mean + root * noise[i, j]
            whole += mean * mean + square - log(square) - ONE
        kl[i] = HALF * whole


@njit(**OPTIONS)
def gaussian_backward(d_loc, d_scale, d_z, d_kl, loc, variance, scale, noise, d_raw, d_bias):
    """Gradients of :func:`gaussian_forward`: writes `d_raw`, adds to `d_bias`; one that is empty is none."""
    n, d = noise.shape
    for i in range(n):
        of_kl = d_kl[i] if d_kl.shape[0] > 0 else ZERO
        for j in range(d):
            mean, root = of_kl * loc[i, j], of_kl * (scale[i, j] - ONE / scale[i, j])
            if d_z.shape[0] > 0:
                mean += d_z[i, j]
                root += d_z[i, j] * noise[i, j]
            if d_loc.shape[0] > 0:
                mean += d_loc[i, j]
            if d_scale.shape[0] > 0:
                root += d_scale[i, j]
            d_raw[i, j] = mean
            d_raw[i, d + j] = root * variance[i, j] / (scale[i, j] + scale[i, j])
        for j in range(d + d):
            d_bias[j] += d_raw[i, j]
