"""Layers and optimiser on compiled code, as torch operations (CPU, float32)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from scvi.kernels import adam, layers, sparse
from scvi.kernels.dropout import dropout_seed
from scvi.kernels.moments import BETAS, Moments, Rule
from scvi.kernels.parallel import row_blocks, run_blocks, run_in_turn
from scvi.kernels.precision import lies_by_input, low_of, low_weight_gradient
from scvi.kernels.rows import SparseRows, arrays

_F = np.float32
_SHARE = 2**14  # numbers from which another thread pays
_VECTOR = 16  # tensors are divided between threads at multiples of it


def _times(x: SparseRows, matrix: Tensor, out: Tensor) -> None:
    """Adds rows (n, g) times `matrix` (g, h) to `out`, (n, h)."""
    *given, result = arrays(x.starts, x.genes, x.values, matrix, out)
    run_blocks(lambda _, *rows: sparse.product(*given, rows, result), row_blocks(len(x), min_rows=16))


def _transposed_times(x: SparseRows, matrix: Tensor, out: Tensor) -> None:
    """Writes the transposed rows (g, n) times `matrix` (n, h) to `out`, (g, h)."""
    starts, genes, values, given, result = arrays(x.starts, x.genes, x.values, matrix, out)
    # The entries are sorted by gene first: those of each block of cells are counted, so that each knows its places.
    blocks = row_blocks(len(x), min_rows=32)
    counts = np.zeros((len(blocks), x.n_genes), np.int64)
    run_blocks(lambda i, *rows: sparse.count_entries(starts, genes, rows, counts[i]), blocks)
    upto = counts.cumsum(0)
    ends = upto[-1].cumsum()
    places = upto - counts + (ends - upto[-1])
    cells, by_gene = np.empty_like(genes), np.empty_like(values)
    run_blocks(lambda i, *rows: sparse.transpose(starts, genes, values, rows, places[i], cells, by_gene), blocks)
    run_blocks(
        lambda _, *genes: sparse.sum_by_gene(ends, cells, by_gene, given, genes, result),
        row_blocks(x.n_genes, min_rows=64),
    )


def densified(x: SparseRows, dtype: torch.dtype) -> Tensor:
    """(n, g) float32 or bfloat16."""
    out, values = torch.zeros(x.shape, dtype=dtype), x.values.to(dtype)
    if dtype == torch.bfloat16:  # which numpy does not know: its bits are moved
        *given, result = arrays(x.starts, x.genes, values.view(torch.int16), out.view(torch.int16))
    else:
        *given, result = arrays(x.starts, x.genes, values, out)
    run_blocks(lambda _, *rows: sparse.densify(*given, rows, result), row_blocks(len(x), min_rows=32))
    return out


class SparseLinear(torch.autograd.Function):
    """A linear layer of sparse rows and, beside them, dense columns: (n, g) and (n, k) -> (n, h)."""

    @staticmethod
    def forward(ctx: Any, x: SparseRows, weight: Tensor, bias: Tensor | None, beside: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, beside)
        ctx.x = x
        out = _linear(x, beside, weight)
        return out if bias is None else out.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        weight, beside = ctx.saved_tensors
        _, *needed = ctx.needs_input_grad
        d_out = d_out.contiguous()
        d_weight = _weight_gradient(ctx.x, beside, weight, d_out) if needed[0] else None
        d_beside = d_out @ weight[:, ctx.x.n_genes :] if needed[2] else None
        return None, d_weight, d_out.sum(0) if needed[1] else None, d_beside


def _linear(x: SparseRows | Tensor, beside: Tensor | None, weight: Tensor) -> Tensor:
    """Rows and dense columns beside them, times weights (h, g + k)."""
    g = x.shape[1]
    if isinstance(x, SparseRows):
        out = torch.zeros(len(x), weight.shape[0])
        _times(x, weight.t().contiguous()[:g], out)  # no copy where the weights are stored by gene
    else:
        out = torch.mm(x, weight[:, :g].t())
    if beside is not None:
        out.addmm_(beside, weight[:, g:].t())
    return out


def _weight_gradient(x: SparseRows | Tensor, beside: Tensor | None, weight: Tensor, d_out: Tensor) -> Tensor:
    """Gradient of :func:`_linear` in the weights, (h, g + k), which lies in memory as they do."""
    g, (h, width) = x.shape[1], weight.shape
    by_input = isinstance(x, SparseRows) or lies_by_input(weight)
    out = torch.empty(width, h).t() if by_input else torch.empty(h, width)
    for values, part in ((x, out[:, :g]), (beside, out[:, g:])):
        if isinstance(values, SparseRows):
            _transposed_times(values, d_out, part.t())
        elif values is not None and by_input:
            torch.mm(values.t(), d_out, out=part.t())
        elif values is not None:
            torch.mm(d_out.t(), values, out=part)
    return out


class Hidden(torch.autograd.Function):
    """A linear layer, batch norm in training mode, ReLU and dropout: (n, g) and (n, k) beside them -> (n, h).

    The running moments are brought up to date. Of the bias of the linear layer only the running mean hears: batch norm
    takes it off again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: SparseRows | Tensor,
        beside: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        norm: nn.BatchNorm1d,
        rate: float,
    ) -> Tensor:
        g, low = x.shape[1], None
        if isinstance(x, SparseRows) or (low := low_of(weight)) is None:
            before = _linear(x, beside, weight)
        else:
            x, beside = (x if beside is None else torch.cat([x, beside], 1)).bfloat16(), None
            before = torch.mm(x, low.t()).float()
        out, normed, moments = torch.empty_like(before), np.empty(before.shape, _F), np.zeros((3, len(gamma)), _F)
        seed = dropout_seed() if rate > 0 else 0
        numbers = (_F(norm.eps), _F(norm.momentum), _F(rate), np.uint32(seed))
        running = (norm.running_mean, norm.running_var)
        given = arrays(before, torch.zeros_like(gamma) if bias is None else bias, gamma, beta)
        moved = [t.numpy() for t in running]  # type: ignore[union-attr]
        layers.hidden_forward(*given, *numbers, *moved, moments, normed, out.numpy())
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        torch.autograd.graph.increment_version(running)  # type: ignore[arg-type]
        dense = None if isinstance(x, SparseRows) else x
        ctx.save_for_backward(dense, beside, weight, low, gamma, out)
        ctx.rows, ctx.kept = (x if dense is None else None), (moments[2], normed, rate, g)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        dense, beside, weight, low, gamma, out = ctx.saved_tensors
        inverse, normed, rate, g = ctx.kept
        needed = ctx.needs_input_grad
        sums, d_before = torch.zeros(2, len(gamma)), torch.empty_like(out)
        results = [sums[0].numpy(), sums[1].numpy(), d_before.numpy()]
        layers.hidden_backward(*arrays(d_out, out, gamma), inverse, normed, _F(rate), *results)
        if low is None:
            x = ctx.rows if dense is None else dense
            slopes, factor = d_before, weight
            d_weight = _weight_gradient(x, beside, weight, d_before) if needed[2] else None
        else:
            slopes, factor = d_before.bfloat16(), low
            d_weight = low_weight_gradient(slopes, dense, lies_by_input(weight)) if needed[2] else None
        return (
            torch.mm(slopes, factor[:, :g]).float() if needed[0] else None,
            torch.mm(slopes, factor[:, g:]).float() if needed[1] else None,
            d_weight,
            d_before.sum(0) if needed[3] else None,
            sums[0],
            sums[1],
            None,
            None,
        )


class GaussianDraw(torch.autograd.Function):
    """A draw from N(mean(h), exp(log_variance(h)) + floor) and KL(q || N(0, I)), of two linear layers of one input.

    From h (n, hidden), weights and biases of both and noise (n, d) to location, scale and draw, (n, d), and KL (n,).
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, w_mean: Tensor, b_mean: Tensor, w_var: Tensor, b_var: Tensor, floor: float, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        weight = torch.cat([w_mean, w_var])
        raw, (loc, variance, scale, z), kl = torch.mm(h, weight.t()), torch.empty(4, *noise.shape), torch.empty(len(h))
        given = arrays(raw, torch.cat([b_mean, b_var]))
        layers.gaussian_forward(*given, _F(floor), *arrays(noise, loc, variance, scale, z, kl))
        ctx.save_for_backward(h, weight, loc, variance, scale, noise)
        return loc, scale, z, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        h, weight, *kept = ctx.saved_tensors
        d, none = len(weight) // 2, torch.empty(0)
        d_raw, d_bias = torch.empty(len(h), 2 * d), torch.zeros(2 * d)
        slopes = [none.view(0, 0) if t is None else t for t in upstream[:3]]
        slopes.append(none if upstream[3] is None else upstream[3])
        layers.gaussian_backward(*arrays(*slopes, *kept, d_raw, d_bias))
        d_weight = d_raw.t() @ h
        return d_raw @ weight, d_weight[:d], d_bias[:d], d_weight[d:], d_bias[d:], None, None


def kept_entries(places: Tensor, width: int, rate: float) -> Tensor:
    """(n, width): 0 for what :class:`Hidden` drops in the rows at `places` (n,), and what it multiplies the rest by."""
    kept = torch.full((len(places), width), 1 / (1 - rate))
    layers.drop(*arrays(kept), _F(rate), np.uint32(dropout_seed()), *arrays(places))
    return kept


def adam_step(moments: Moments, given: Sequence[int], loss: Tensor, rule: Rule) -> bool:
    """As :func:`scvi.kernels.adam_step`, in one team of threads."""
    if not math.isfinite(loss):
        return False
    chosen = [moments.parameters[i] for i in given]
    gradients = [_laid_out_like(p, p.grad) for p in chosen]  # type: ignore[arg-type]
    copies = [None] * len(chosen) if moments.low is None else moments.low.copies(chosen)
    places = np.array([p.data_ptr() for p in chosen])
    of_copies = np.array([0 if c is None else c.data_ptr() for c in copies])
    of_gradients = np.array([g.data_ptr() for g in gradients])
    shares = _shares(*(tuple(of[i] for i in given) for of in (moments.starts, moments.sizes)), torch.get_num_threads())
    squares = np.zeros(len(shares))
    mean, square = moments.flat_mean.numpy(), moments.flat_square.numpy()
    counted, numbers = _numbers(moments, given, rule)

    def add_squares(share: int) -> None:
        squares[share] = adam.sum_of_squares(of_gradients, shares[share])

    def update(share: int) -> None:
        norm = math.sqrt(squares.sum())
        if math.isfinite(norm):
            scale = 1.0 if rule.max_norm is None or norm <= rule.max_norm else rule.max_norm / norm
            adam.step(places, of_copies, of_gradients, mean, square, shares[share], numbers, _F(scale), _F(rule.eps))

    run_in_turn((add_squares, update), len(shares))
    if not math.isfinite(squares.sum()):
        return False
    moments.flat_steps.numpy()[given] = counted
    changed = [*chosen, *(c for c in copies if c is not None)]
    torch.autograd.graph.increment_version(changed)  # as any change in place tells autograd
    if moments.low is not None:
        moments.low.written(chosen)
    return True


def _numbers(moments: Moments, given: Sequence[int], rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Number of this step of each tensor, from 1, and its (tensors, 4) numbers for :func:`scvi.kernels.adam.step`."""
    counted = moments.flat_steps.numpy()[given].astype(np.float64) + 1
    decay = np.array([moments.decay[i] for i in given])
    numbers = np.empty((len(given), 4), np.float32)
    numbers[:, 0], numbers[:, 1] = (0.0, 1 - rule.lr * decay) if rule.decoupled else (decay, 1.0)
    numbers[:, 2] = rule.lr / (1 - BETAS[0] ** counted)
    numbers[:, 3] = (1 - BETAS[1] ** counted) ** -0.5
    return counted, numbers


def _laid_out_like(p: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the order of memory of the parameter, which autograd's have unless somebody else made them."""
    return gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)


@lru_cache(maxsize=64)
def _shares(starts: Sequence[int], sizes: Sequence[int], n_threads: int) -> list[np.ndarray]:
    """For each thread its pieces of the tensors, see :mod:`scvi.kernels.adam`; all have as many numbers.

    Parameters
    ----------
    starts
        Where each tensor begins in the buffers.
    """
    whole = sum(sizes)
    n_shares = max(1, min(n_threads, whole // _SHARE))
    ends = np.cumsum(sizes)
    shares = []
    for number in range(n_shares):
        low, high = (
            whole * k // n_shares // _VECTOR * _VECTOR if k < n_shares else whole for k in (number, number + 1)
        )
        pieces = [
            (i, first, last, start + first)
            for i, (start, size, end) in enumerate(zip(starts, sizes, ends, strict=True))
            if (first := max(0, low - (end - size))) < (last := min(size, high - (end - size)))
        ]
        shares.append(np.array(pieces, dtype=np.int64))
    return shares
