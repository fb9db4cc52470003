"""The compiled likelihood as torch operations: forward computes loss and gradients, backward hands them out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi.kernels.affine import Affine
from scvi.kernels.likelihood import negative_binomial_rows, poisson_rows
from scvi.kernels.mixing import mix_rows, slope_rows
from scvi.kernels.mixture import mixture_rows
from scvi.kernels.parallel import row_blocks, run_blocks
from scvi.kernels.precision import add_product, is_low, product
from scvi.kernels.rows import SparseRows

__all__ = ["FusedLikelihood", "FusedMixture", "LinearLikelihood", "MixedDropout"]

_MIN_ROWS = 8  # rows below which a second thread does not pay


class _Slopes(NamedTuple):
    """Gradients that do not take the place of their inputs."""

    library: Tensor  # (m,)
    theta: Tensor | None  # (1, g) or (m, g)
    sums: Tensor  # (2, g) of the gradients in the logits and in the dropout logits, over rows


class FusedLikelihood(torch.autograd.Function):
    """Rows of decoder outputs (m, g) -> negative log-likelihoods (m,)."""

    @staticmethod
    def of(
        x: SparseRows,
        logits: Tensor,
        log_library: Tensor,
        log_theta: Tensor | None,
        dropout: Tensor | None,
        weight: float | Tensor,
    ) -> Tensor:
        """Lay out draws as rows: (..., n, g) -> (m, g); row i belongs to cell i modulo n."""
        _check_shape(x, logits.shape)
        shape, g = logits.shape[:-1], logits.shape[-1]
        if dropout is not None:
            dropout = dropout.expand(*shape, g).reshape(-1, g)
        library, theta = _rows_of(shape, g, log_library, log_theta)
        nll = FusedLikelihood.apply(x, logits.reshape(-1, g), library, theta, dropout, weight)
        return nll.view(shape)

    @staticmethod
    def forward(
        ctx: Any,
        x: SparseRows,
        logits: Tensor,
        log_library: Tensor,
        log_theta: Tensor | None,
        dropout: Tensor | None,
        weight: float | Tensor,
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        nll, ctx.gradients = _copied(x, logits, log_library, log_theta, dropout, _constant(logits, weight), wanted)
        if wanted:
            ctx.save_for_backward(logits, log_library, log_theta, dropout)
            ctx.x, ctx.weight = x, weight
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # Handed out once: a gradient that became a parameter's `grad` is changed in place by what comes after.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None or not _as_expected(upstream, ctx.weight):
            logits, log_library, log_theta, dropout = ctx.saved_tensors
            weights = upstream.contiguous()
            _, gradients = _copied(ctx.x, logits, log_library, log_theta, dropout, weights, True)
        return None, *gradients, None


class LinearLikelihood(torch.autograd.Function):
    """As :class:`FusedLikelihood` for logits that are linear maps of one hidden layer (n, hidden)."""

    @staticmethod
    def takes(logits: Affine, dropout: Tensor | Affine | None) -> bool:
        """Whether the heads are those of one hidden layer."""
        if dropout is not None and not isinstance(dropout, Affine):
            return False
        one = dropout is None or (dropout.h is logits.h and dropout.weight.shape == logits.weight.shape)
        return one and logits.h.dim() == 2

    @staticmethod
    def of(
        x: SparseRows,
        logits: Affine,
        log_library: Tensor,
        log_theta: Tensor | None,
        dropout: Affine | None,
        weight: float | Tensor,
    ) -> Tensor:
        """For heads that :meth:`takes` them."""
        n, g = len(logits.h), len(logits.bias)
        _check_shape(x, torch.Size((n, g)))
        library, theta = _rows_of(torch.Size((n,)), g, log_library, log_theta)
        heads = (logits.weight, logits.bias) if dropout is None else (*logits[1:], *dropout[1:])
        return LinearLikelihood.apply(x, library, theta, weight, is_low(), logits.h, *heads)

    @staticmethod
    def forward(
        ctx: Any,
        x: SparseRows,
        log_library: Tensor,
        log_theta: Tensor | None,
        weight: float | Tensor,
        low: bool,
        h: Tensor,
        *heads: Tensor,
    ) -> Tensor:
        logits, nll, slopes = _through_heads(x, log_library, log_theta, _constant(h, weight), low, h, heads)
        ctx.save_for_backward(log_library, log_theta, h, *heads)
        ctx.x, ctx.weight, ctx.low, ctx.logits, ctx.slopes = x, weight, low, logits, slopes
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        log_library, log_theta, h, *heads = ctx.saved_tensors
        d_logits, slopes = ctx.logits, ctx.slopes
        if not _as_expected(upstream, ctx.weight):
            d_logits, _, slopes = _through_heads(
                ctx.x, log_library, log_theta, upstream.contiguous(), ctx.low, h, tuple(heads)
            )
        d_h = torch.zeros_like(h)
        d_heads: list[Tensor | None] = []
        trains = ctx.needs_input_grad[-len(heads) :: 2]  # which of the weights do
        for d, weights, d_bias, is_wanted in zip(d_logits, heads[::2], slopes.sums, trains, strict=False):
            add_product(d_h, d, weights, ctx.low)
            d_heads += [product(d.t(), h, ctx.low) if is_wanted else None, d_bias.clone()]
        d_theta = None if slopes.theta is None else slopes.theta.clone()
        return None, slopes.library.clone(), d_theta, None, None, d_h, *d_heads


class FusedMixture(torch.autograd.Function):
    """Rows (m, p) of decoded proteins, and measured counts (n, p) -> negative log-likelihoods (m,)."""

    @staticmethod
    def of(
        y: Tensor,
        log_background: Tensor,
        log_factor: Tensor,
        mixing: Tensor,
        log_theta: Tensor,
        measured: Tensor | None,
        weight: float,
    ) -> Tensor:
        """Lay out draws as rows: (..., n, p) -> (m, p); row i belongs to cell i modulo n."""
        shape, p = mixing.shape[:-1], mixing.shape[-1]
        if y.shape != mixing.shape[-2:]:  # compiled code does not check the bounds of its arrays
            raise ValueError(
                f"counts of shape {tuple(y.shape)} do not belong to parameters of shape {tuple(mixing.shape)}"
            )
        measured = torch.ones_like(y) if measured is None else measured.to(y.dtype).expand_as(y)
        rows = [t.expand(*shape, p).reshape(-1, p) for t in (log_background, log_factor, mixing)]
        _, theta = _rows_of(shape, p, mixing[..., :1], log_theta)
        return FusedMixture.apply(y, measured, weight, *rows, theta).view(shape)

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        measured: Tensor,
        weight: float,
        log_background: Tensor,
        log_factor: Tensor,
        mixing: Tensor,
        log_theta: Tensor,
    ) -> Tensor:
        parameters = (log_background, log_factor, mixing, log_theta)
        nll, ctx.gradients = _mixture(y, measured, parameters, _constant(mixing, weight))
        ctx.save_for_backward(y, measured, *parameters)
        ctx.weight = weight
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # handed out once, as above
        if gradients is None or not _as_expected(upstream, ctx.weight):
            y, measured, *parameters = ctx.saved_tensors
            _, gradients = _mixture(y, measured, tuple(parameters), upstream.contiguous())
        return None, None, None, *gradients


def _mixture(
    y: Tensor, measured: Tensor, parameters: tuple[Tensor, ...], weights: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss (m,) and the gradients of ``weights @ loss`` in background, factor, mixing and dispersion."""
    (m, p), log_theta = parameters[0].shape, parameters[3]
    given = [t.detach().contiguous().numpy() for t in (y, *parameters, measured, weights)]
    nll, slopes = torch.empty(m), torch.empty(4, m, p)
    results = [nll.numpy(), *slopes.numpy()]
    run_blocks(lambda _, *rows: mixture_rows(*given, rows, *results), row_blocks(m, min_rows=_MIN_ROWS * 8))
    d_theta = slopes[3].sum(0, keepdim=True) if log_theta.shape[0] == 1 else slopes[3]
    return nll, (slopes[0], slopes[1], slopes[2], d_theta)


def _through_heads(
    x: SparseRows,
    log_library: Tensor,
    log_theta: Tensor | None,
    weights: Tensor,
    low: bool,
    h: Tensor,
    heads: tuple[Tensor, ...],
) -> tuple[list[Tensor], Tensor, _Slopes]:
    """Gradients in the logits, one (n, g) of each head; loss; the other gradients."""
    logits = [product(h, w.t(), low) for w in heads[::2]]
    dropout = logits[1] if len(logits) > 1 else None
    biases = torch.stack(heads[1::2])  # added by the kernel, which saves a pass over the logits
    nll, slopes = _evaluate(x, logits[0], log_library, log_theta, dropout, weights, True, biases)
    return logits, nll, slopes


def _copied(
    x: SparseRows,
    logits: Tensor,
    log_library: Tensor,
    log_theta: Tensor | None,
    dropout: Tensor | None,
    weights: Tensor,
    wanted: bool,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Loss (m,) and, if wanted, gradients in logits, library, theta and dropout; the inputs stay as they are."""
    rows = [None if t is None else t.clone() if wanted else t for t in (logits, dropout)]
    rows = [None if t is None else t.contiguous() for t in rows]
    nll, slopes = _evaluate(x, rows[0], log_library, log_theta, rows[1], weights, wanted)  # type: ignore[arg-type]
    return nll, (rows[0], slopes.library, slopes.theta, rows[1])


def _evaluate(
    x: SparseRows,
    logits: Tensor,
    log_library: Tensor,
    log_theta: Tensor | None,
    dropout: Tensor | None,
    weights: Tensor,
    wanted: bool,
    biases: Tensor | None = None,
) -> tuple[Tensor, _Slopes]:
    """Loss (m,) and, if wanted, the gradients of ``weights @ loss``; those in the logits are written over them.

    `biases`, (1, g) or (2, g), are added to the logits and to the dropout logits.
    """
    m, g = logits.shape
    blocks = row_blocks(m, _MIN_ROWS)
    nll, d_library = torch.empty(m), torch.empty(m)
    sums = torch.zeros(len(blocks), 2, g)
    counts = [t.numpy() for t in (x.starts, x.genes, x.values)]
    added = torch.empty(0, g) if biases is None else biases
    given = [t.detach().contiguous().numpy() for t in (added, logits, log_library)]
    results = [t.numpy() for t in (nll, d_library)]
    last, per_block = weights.numpy(), sums.numpy()
    if log_theta is None:
        run_blocks(
            lambda block, *rows: poisson_rows(*counts, *given, last, rows, wanted, *results, per_block[block]), blocks
        )
        return nll, _Slopes(d_library, None, sums.sum(0))
    inflation = torch.empty(m, 0) if dropout is None else dropout
    shared = log_theta.shape[0] == 1
    d_theta = torch.zeros(len(blocks), 1, g) if shared else torch.empty(m if wanted else 0, g)
    given += [t.detach().contiguous().numpy() for t in (log_theta, inflation)]
    slopes = d_theta.numpy()

    def work(block: int, start: int, stop: int) -> None:
        own = slopes[block] if shared else slopes
        negative_binomial_rows(*counts, *given, last, (start, stop), wanted, *results, own, per_block[block])

    run_blocks(work, blocks)
    return nll, _Slopes(d_library, d_theta.sum(0) if shared else d_theta, sums.sum(0))


def _check_shape(x: SparseRows, shape: torch.Size) -> None:
    if x.shape != shape[-2:]:  # compiled code does not check the bounds of its arrays
        raise ValueError(f"counts of shape {tuple(x.shape)} do not belong to logits of shape {tuple(shape)}")


def _rows_of(shape: torch.Size, g: int, log_library: Tensor, log_theta: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(m,) log library sizes; (1, g) or (m, g) log inverse dispersions."""
    library = log_library.expand(*shape, 1).reshape(-1)
    if log_theta is not None:
        log_theta = log_theta.reshape(1, g) if log_theta.dim() == 1 else log_theta.expand(*shape, g).reshape(-1, g)
    return library, log_theta


def _constant(rows: Tensor, weight: float | Tensor) -> Tensor:
    return weight.contiguous() if isinstance(weight, Tensor) else torch.full(rows.shape[:1], weight)


def _as_expected(upstream: Tensor, weight: float | Tensor) -> bool:
    return bool((upstream == weight).all())


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
        given, result = (a.detach().numpy(), weights.detach().numpy(), np.float32(floor)), out.numpy()
        run_blocks(lambda _, *rows: mix_rows(*given, rows, result), row_blocks(len(a), 2 * _MIN_ROWS))
        ctx.save_for_backward(a, weights)
        ctx.floor, ctx.shapes = floor, (dropout.shape, delta.shape)
        return out.view(dropout.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        a, weights = ctx.saved_tensors
        blocks = row_blocks(len(a), 2 * _MIN_ROWS)
        shared = len(weights) == 1
        d_a = torch.empty_like(a)
        d_delta = torch.zeros(len(blocks) if shared else 1, *weights.shape)
        given = [t.detach().numpy() for t in (a, weights)]
        up, results, sums = upstream.reshape(a.shape).contiguous().numpy(), d_a.numpy(), d_delta.numpy()

        def work(block: int, *rows: int) -> None:
            slope_rows(*given, np.float32(ctx.floor), up, rows, results, sums[block if shared else 0])

        run_blocks(work, blocks)
        of_dropout, of_delta = ctx.shapes
        total = d_delta.sum(0)
        total = total.reshape(of_delta) if shared else total.view(of_dropout).sum_to_size(of_delta)
        return d_a.view(of_dropout), total, None
