"""The compiled likelihood as a torch operation: forward computes loss and gradients, backward hands them out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi.kernels.likelihood import negative_binomial_rows, poisson_rows
from scvi.kernels.parallel import row_blocks, run_blocks

__all__ = ["FusedLikelihood"]

_MIN_ROWS = 8  # rows below which a second thread does not pay


Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]  # x, logits, log_library, log_theta, dropout


class FusedLikelihood(torch.autograd.Function):
    """Rows of decoder outputs (m, g) -> negative log-likelihoods (m,)."""

    @staticmethod
    def of(
        x: Tensor, logits: Tensor, log_library: Tensor, log_theta: Tensor | None, dropout: Tensor | None, weight: float
    ) -> Tensor:
        """Lay out draws as rows: (..., n, g) -> (m, g); row i belongs to cell i modulo n."""
        shape, g = logits.shape[:-1], logits.shape[-1]
        if x.shape != logits.shape[-2:]:  # compiled code does not check the bounds of its arrays
            raise ValueError(f"counts of shape {tuple(x.shape)} do not belong to logits of shape {tuple(logits.shape)}")
        logits = logits.reshape(-1, g)
        log_library = log_library.expand(*shape, 1).reshape(-1)
        if log_theta is not None:
            log_theta = log_theta.reshape(1, g) if log_theta.dim() == 1 else log_theta.expand(*shape, g).reshape(-1, g)
        if dropout is not None:
            dropout = dropout.expand(*shape, g).reshape(-1, g)
        nll = FusedLikelihood.apply(x.contiguous(), logits, log_library, log_theta, dropout, weight)
        return nll.view(shape)

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        logits: Tensor,
        log_library: Tensor,
        log_theta: Tensor | None,
        dropout: Tensor | None,
        weight: float,
    ) -> Tensor:
        inputs = (x, logits, log_library, log_theta, dropout)
        wanted = any(ctx.needs_input_grad)
        weights = torch.full(logits.shape[:1], weight)
        nll, gradients = _evaluate(inputs, weights, wanted)
        if wanted:
            ctx.save_for_backward(*inputs)
            ctx.gradients, ctx.weight = gradients, weight
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        if not bool((upstream == ctx.weight).all()):
            _, gradients = _evaluate(ctx.saved_tensors, upstream.contiguous(), True)
        return None, *gradients, None


def _evaluate(inputs: Inputs, weights: Tensor, wanted: bool) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Loss (m,) and, if wanted, the gradients of ``weights @ loss`` for logits, library, theta and dropout."""
    x, logits, log_library = (t.detach().contiguous() for t in inputs[:3])
    log_theta, dropout = (None if t is None else t.detach().contiguous() for t in inputs[3:])
    m, g = logits.shape
    blocks = row_blocks(m, _MIN_ROWS)
    nll = torch.empty(m)
    d_logits = torch.empty(m if wanted else 0, g)
    d_library = torch.empty(m)
    if log_theta is None:
        outputs = (nll, d_logits, d_library)
        args = [t.numpy() for t in (x, logits, log_library, weights)]
        results = [t.numpy() for t in outputs]
        run_blocks(lambda _, start, stop: poisson_rows(*args, (start, stop), *results), blocks)
        return nll, (d_logits, d_library, None, None)
    inflation = torch.empty(m, 0) if dropout is None else dropout
    d_dropout = torch.empty(m if wanted else 0, inflation.shape[1])
    shared = log_theta.shape[0] == 1
    d_theta = torch.zeros(len(blocks), 1, g) if shared else torch.empty(m if wanted else 0, g)
    args = [t.numpy() for t in (x, logits, log_library, log_theta, inflation, weights)]
    results = [t.numpy() for t in (nll, d_logits, d_library)]
    slopes, drops = d_theta.numpy(), d_dropout.numpy()

    def work(block: int, start: int, stop: int) -> None:
        negative_binomial_rows(*args, (start, stop), *results, slopes[block] if shared else slopes, drops)

    run_blocks(work, blocks)
    return nll, (d_logits, d_library, d_theta.sum(0) if shared else d_theta, None if dropout is None else d_dropout)
