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


def densified(x: SparseRows) -> Tensor:
    """(n, g) float32."""
    out = torch.zeros(x.shape)
    *given, result = arrays(x.starts, x.genes, x.values, out)
    run_blocks(lambda _, *rows: sparse.densify(*given, rows, result), row_blocks(len(x), min_rows=32))
    return out


class SparseLinear(torch.autograd.Function):
    """A linear layer of sparse rows and, beside them, dense columns: (n, g) and (n, k) -> (n, h)."""

    @staticmethod
    def forward(ctx: Any, x: SparseRows, weight: Tensor, bias: Tensor | None, beside: Tensor | None) -> Tensor:
        g = x.n_genes
        matrix = weight.t().contiguous()  # (g + k, h); no copy where the weights are stored by gene
        out = torch.zeros(len(x), weight.shape[0]) if bias is None else bias.repeat(len(x), 1)
        _times(x, matrix[:g], out)
        if beside is not None:
            out.addmm_(beside, matrix[g:])
        ctx.save_for_backward(weight, beside)
        ctx.x = x
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        weight, beside = ctx.saved_tensors
        g = ctx.x.n_genes
        d_out = d_out.contiguous()
        d_matrix = torch.empty(weight.shape[1], weight.shape[0])
        _transposed_times(ctx.x, d_out, d_matrix[:g])
        d_beside = None
        if beside is not None:
            torch.mm(beside.t(), d_out, out=d_matrix[g:])
            d_beside = d_out @ weight[:, g:] if ctx.needs_input_grad[3] else None
        return None, d_matrix.t(), d_out.sum(0) if ctx.needs_input_grad[2] else None, d_beside


class Hidden(torch.autograd.Function):
    """Batch norm in training mode, ReLU and dropout: (n, d) -> (n, d). The running moments are brought up to date."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, norm: nn.BatchNorm1d, rate: float) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        normed, inverse = np.empty(x.shape, _F), np.empty(x.shape[1], _F)
        seed = dropout_seed() if rate > 0 else 0
        numbers = (_F(norm.eps), _F(norm.momentum), _F(rate), np.uint32(seed))
        running = (norm.running_mean, norm.running_var)
        moments = [t.numpy() for t in running]  # type: ignore[union-attr]
        layers.hidden_forward(*arrays(x, gamma, beta), *numbers, *moments, inverse, normed, out.numpy())
        torch.autograd.graph.increment_version(running)  # type: ignore[arg-type]
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        ctx.save_for_backward(gamma, out)
        ctx.inverse, ctx.normed, ctx.rate = inverse, normed, rate
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        gamma, out = ctx.saved_tensors
        d_gamma, d_beta, d_x = torch.zeros_like(gamma), torch.zeros_like(gamma), torch.empty_like(out)
        results = [t.numpy() for t in (d_gamma, d_beta, d_x)]
        layers.hidden_backward(*arrays(d_out, out, gamma), ctx.inverse, ctx.normed, _F(ctx.rate), *results)
        return d_x, d_gamma, d_beta, None, None


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
    places = np.array([p.data_ptr() for p in chosen])
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
            adam.step(places, of_gradients, mean, square, shares[share], numbers, _F(scale), _F(rule.eps))

    run_in_turn((add_squares, update), len(shares))
    if not math.isfinite(squares.sum()):
        return False
    moments.flat_steps.numpy()[given] = counted
    torch.autograd.graph.increment_version(chosen)  # as any change in place tells autograd
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
