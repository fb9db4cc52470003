"""Layers and optimiser on compiled code, as torch operations (CPU, float32)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from scvi.kernels import layers, sparse
from scvi.kernels.dropout import dropout_seed
from scvi.kernels.parallel import row_blocks, run_blocks
from scvi.kernels.rows import SparseRows, arrays

_F = np.float32
_LARGE = 2**14  # numbers from which a tensor is shared out between threads


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


class Adam:
    """Adam (Kingma and Ba 2015) on parameters and moments that stay where they are in memory.

    Parameters
    ----------
    states
        Parameters and their moments `exp_avg` and `exp_avg_sq`, laid out alike.
    decayed
        Whether the L2 penalty is for each of them; None: for all.
    """

    def __init__(
        self, states: list[tuple[Tensor, Mapping[str, Tensor]]], decayed: Sequence[bool] | None = None
    ) -> None:
        self.decayed = [True] * len(states) if decayed is None else decayed
        self.flat = [(_flat(p), _flat(state["exp_avg"]), _flat(state["exp_avg_sq"])) for p, state in states]

    def step(
        self,
        gradients: list[Tensor],
        max_norm: float | None,
        number: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> float:
        """Step `number`, from 1, with the gradient shortened to `max_norm`; none where its norm is not finite.

        Returns
        -------
        The norm of the gradient.
        """
        flat = [_flat(g) for g in gradients]
        shares = _shares([g.size for g in flat])
        squares = np.zeros(len(shares))

        def add_squares(block: int, *_: int) -> None:
            squares[block] = sum(layers.sum_of_squares(flat[i][start:stop]) for i, start, stop in shares[block])

        blocks = [(i, i + 1) for i in range(len(shares))]
        run_blocks(add_squares, blocks)
        norm = float(np.sqrt(squares.sum()))
        if not np.isfinite(norm):
            return norm
        scale = 1.0 if max_norm is None or norm <= max_norm else max_norm / norm
        corrections = [1 - beta**number for beta in betas]
        rest = (lr / corrections[0], *betas, corrections[1] ** -0.5, eps)
        numbers = {decayed: tuple(map(_F, (scale, weight_decay * decayed, *rest))) for decayed in (True, False)}

        def update(block: int, *_: int) -> None:
            for i, start, stop in shares[block]:
                p, m, v = self.flat[i]
                layers.adam(p[start:stop], flat[i][start:stop], m[start:stop], v[start:stop], *numbers[self.decayed[i]])

        run_blocks(update, blocks)
        return norm


def _flat(tensor: Tensor) -> np.ndarray:
    """The numbers in the order of memory."""
    lying = tensor.detach()
    return (lying if lying.is_contiguous() else lying.t()).view(-1).numpy()


def _shares(sizes: list[int]) -> list[list[tuple[int, int, int]]]:
    """For each thread the pieces (tensor, start, stop) it works on: large tensors are divided, small ones dealt."""
    n_threads = torch.get_num_threads()
    shares: list[list[tuple[int, int, int]]] = [[] for _ in range(n_threads)]
    for i, size in enumerate(sizes):
        if size < _LARGE:
            shares[i % n_threads].append((i, 0, size))
        else:
            for share, (start, stop) in zip(shares, row_blocks(size), strict=True):
                share.append((i, start, stop))
    return shares
