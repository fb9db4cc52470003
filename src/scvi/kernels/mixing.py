r"""Dropout logits of a mixture of counts without and with dropout, in one pass with their slopes (numba, CPU, float32).

With weight delta a count has no dropout; otherwise it is dropped with probability p = m + (1 - m) sigmoid(a), at least
m. Together it is dropped with probability (1 - delta) p, whose logit, with u = exp(a) and w = 1 - delta, is

    t = log(w (m + u) / D),    D = 1 - m w + delta u,

    dt/da = (1 - m) u / ((m + u) D),    dt/ddelta = -(1 + u) / (w D).
"""

from __future__ import annotations

from numba import njit

from scvi.kernels.compiler import CALLED_ONCE, OPTIONS, PART
from scvi.kernels.elementary import ONE, ZERO, F, clamp, exp, log

_MAX_LOGIT = F(60)
_LEAST_WEIGHT = F(2**-24)  # of dropout; the next float32 is 0, whose logit is none


@njit(**PART)
def _parts(a, delta, floor):
    """u, w and D of the formulas above."""
    u = exp(clamp(a, -_MAX_LOGIT, _MAX_LOGIT))
    w = ONE - delta
    w = _LEAST_WEIGHT if w < _LEAST_WEIGHT else w
    return u, w, ONE - floor * w + delta * u


@njit(**CALLED_ONCE)
def _mix(a, delta, floor, out):
    for j in range(a.shape[0]):
        u, w, denominator = _parts(a[j], delta[j], floor)
        out[j] = log(w * (floor + u) / denominator)


@njit(**CALLED_ONCE)
def _slopes(a, delta, floor, upstream, d_a, d_delta):
    """Writes the gradient in `a`, adds the one in `delta`."""
    for j in range(a.shape[0]):
        u, w, denominator = _parts(a[j], delta[j], floor)
        up = upstream[j] / denominator
        d_a[j] = ZERO if abs(a[j]) > _MAX_LOGIT else up * ((ONE - floor) * (u / (floor + u)))
        d_delta[j] -= up * ((ONE + u) / w)


@njit(**OPTIONS)
def mix_rows(a, delta, floor, rows, out):
    """Logits of the mixture of ``rows[0]:rows[1]`` from `a` (m, g) and `delta` (1, g) for all rows or (m, g)."""
    for i in range(rows[0], rows[1]):
        _mix(a[i], delta[i if delta.shape[0] > 1 else 0], floor, out[i])


@njit(**OPTIONS)
def slope_rows(a, delta, upstream, floor, rows, d_a, d_delta):
    """From gradients in the logits of the mixture to those in `a`, and, added up, in `delta`, of whose shape it is."""
    for i in range(rows[0], rows[1]):
        shared = delta.shape[0] == 1
        _slopes(a[i], delta[0 if shared else i], floor, upstream[i], d_a[i], d_delta[0 if shared else i])
