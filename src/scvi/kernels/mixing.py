r"""Dropout logits of a mixture of counts without and with dropout, in one pass with their slopes (numba, CPU, float32).

With weight delta a count has no dropout; otherwise it is dropped with probability p = m + (1 - m) sigmoid(a), which is at
least m. Together it is dropped with probability (1 - delta) p, whose logit, with u = exp(a) and w = 1 - delta, is

    t = log(w (m + u) / D),    D = 1 - m w + delta u,

    dt/da = (1 - m) u / ((m + u) D),    dt/ddelta = -(1 + u) / (w D).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi.kernels.elementary import ONE, OPTIONS, F, exp, log
from scvi.kernels.parallel import row_blocks, run_blocks

__all__ = ["MixedDropout"]

_MAX_LOGIT = F(60)
_LEAST_WEIGHT = F(2**-24)  # of dropout; the next float32 is 0, whose logit is none
_MIN_ROWS = 16  # rows below which a second thread does not pay


@njit(**OPTIONS)
def _mix(a, delta, floor, out):
    for j in range(a.shape[0]):
        b = a[j]
        b = -_MAX_LOGIT if b < -_MAX_LOGIT else b
        b = _MAX_LOGIT if b > _MAX_LOGIT else b
        u = exp(b)
        w = ONE - delta[j]
        w = _LEAST_WEIGHT if w < _LEAST_WEIGHT else w
        out[j] = log(w * (floor + u) / (ONE - floor * w + delta[j] * u))


@njit(**OPTIONS)
def _slopes(a, delta, floor, upstream, d_a, d_delta):
    """Writes the gradient in `a`, adds the one in `delta`."""
    for j in range(a.shape[0]):
        b = a[j]
        outside = abs(b) > _MAX_LOGIT
        b = -_MAX_LOGIT if b < -_MAX_LOGIT else b
        b = _MAX_LOGIT if b > _MAX_LOGIT else b
        u = exp(b)
        w = ONE - delta[j]
        w = _LEAST_WEIGHT if w < _LEAST_WEIGHT else w
        up = upstream[j] / (ONE - floor * w + delta[j] * u)
        d_a[j] = F(0) if outside else up * ((ONE - floor) * (u / (floor + u)))
        d_delta[j] -= up * ((ONE + u) / w)


@njit(**OPTIONS)
def _mix_rows(a, delta, floor, rows, out):
    for i in range(rows[0], rows[1]):
        _mix(a[i], delta[i if delta.shape[0] > 1 else 0], floor, out[i])


@njit(**OPTIONS)
def _slope_rows(a, delta, floor, upstream, rows, d_a, d_delta):
    for i in range(rows[0], rows[1]):
        shared = delta.shape[0] == 1
        _slopes(a[i], delta[0 if shared else i], floor, upstream[i], d_a[i], d_delta[0 if shared else i])


class MixedDropout(torch.autograd.Function):
    """Logits (..., g) and weights (g,) or (..., g) without dropout -> logits of the mixture, (..., g)."""

    @staticmethod
    def forward(ctx: Any, dropout: Tensor, delta: Tensor, floor: float) -> Tensor:
        g = dropout.shape[-1]
        if delta.shape[-1] != g:  # compiled code does not check the bounds of its arrays
            raise ValueError(f"weights of shape {tuple(delta.shape)} do not belong to {g} genes")
        a = dropout.reshape(-1, g).contiguous()
        weights = (delta.reshape(1, g) if delta.dim() == 1 else delta.expand(dropout.shape).reshape(-1, g)).contiguous()
        out = torch.empty_like(a)
        given, result = (a.detach().numpy(), weights.detach().numpy(), F(floor)), out.numpy()
        run_blocks(lambda _, *rows: _mix_rows(*given, rows, result), row_blocks(len(a), _MIN_ROWS))
        ctx.save_for_backward(a, weights)
        ctx.floor, ctx.shapes = floor, (dropout.shape, delta.shape)
        return out.view(dropout.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        a, weights = ctx.saved_tensors
        blocks = row_blocks(len(a), _MIN_ROWS)
        shared = len(weights) == 1
        d_a = torch.empty_like(a)
        d_delta = torch.zeros(len(blocks) if shared else 1, *weights.shape)
        given = [t.detach().numpy() for t in (a, weights)]
        up, results, sums = upstream.reshape(a.shape).contiguous().numpy(), d_a.numpy(), d_delta.numpy()

        def work(block: int, *rows: int) -> None:
            _slope_rows(*given, F(ctx.floor), up, rows, results, sums[block if shared else 0])

        run_blocks(work, blocks)
        of_dropout, of_delta = ctx.shapes
        total = d_delta.sum(0)
        total = total.reshape(of_delta) if shared else total.view(of_dropout).sum_to_size(of_delta)
        return d_a.view(of_dropout), total, None
