"""The compiled likelihoods as torch operations: forward computes loss and gradients, backward hands them out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi.kernels.affine import Affine, as_tensor
from scvi.kernels.likelihood import negative_binomial_rows, poisson_rows, scratch
from scvi.kernels.mixing import mix_rows, slope_rows
from scvi.kernels.mixture import mixture_rows
from scvi.kernels.parallel import Block, row_blocks, run_blocks
from scvi.kernels.precision import low_of
from scvi.kernels.rows import SparseRows, arrays

_MIN_ROWS = 8  # rows below which a second thread does not pay
_TILE = 2**18  # logits in bfloat16 that are float32 at a time: they stay in the second cache

Parameters = Sequence[Tensor]
Slopes = Sequence[Any]  # tensors, and None where there is nothing to say


def count_nll(
    x: SparseRows,
    logits: Tensor | Affine,
    log_library: Tensor,
    log_theta: Tensor | None,
    dropout: Tensor | Affine | None,
    weight: float | Tensor,
) -> Tensor:
    """As :func:`scvi.kernels.nll_zinb`; without `dropout` negative binomial, without `log_theta` Poisson: (..., n)."""
    heads = [head for head in (logits, dropout) if head is not None]
    shape = tuple(heads[0].shape)
    if x.shape != shape[-2:]:  # compiled code does not check the bounds of its arrays
        raise ValueError(f"counts of shape {tuple(x.shape)} do not belong to logits of shape {shape}")
    library = log_library.expand(*shape[:-1], 1).reshape(-1)
    theta = None if log_theta is None else _per_gene(log_theta, shape)
    if _are_of_one_layer(heads):
        parameters = [heads[0].h, *(t for head in heads for t in (head.weight, head.bias))]
        low = [copy for head in heads if (copy := low_of(head.weight)) is not None]
        return _RowLoss.apply(_Heads(x, low), weight, library, theta, *parameters)
    rows = _as_rows(shape, *map(as_tensor, heads))
    return _RowLoss.apply(_Counts(x), weight, library, theta, *rows).view(shape[:-1])


def mixture_nll(
    y: Tensor,
    log_background: Tensor,
    log_factor: Tensor,
    mixing: Tensor,
    log_theta: Tensor,
    measured: Tensor | None,
    weight: float,
) -> Tensor:
    """As :func:`scvi.kernels.nll_nb_mixture`: (..., n)."""
    shape = tuple(mixing.shape)
    if y.shape != shape[-2:]:  # compiled code does not check the bounds of its arrays
        raise ValueError(f"counts of shape {tuple(y.shape)} do not belong to parameters of shape {shape}")
    measured = torch.ones_like(y) if measured is None else measured.to(y.dtype).expand_as(y)
    parameters = (*_as_rows(shape, log_background, log_factor, mixing), _per_gene(log_theta, shape))
    return _RowLoss.apply(_Mixture(y, measured), weight, *parameters).view(shape[:-1])


class _Density(ABC):
    """How the losses of rows follow from parameters; row i belongs to cell i modulo n, so that draws share the counts.

    Gradients are computed in two steps: what has to be done while the losses are, and what can wait until they are
    asked for.
    """

    @abstractmethod
    def evaluate(self, parameters: Parameters, weights: Tensor, wanted: bool) -> tuple[Tensor, Slopes]:
        """Losses (m,) and, if wanted, slopes of ``weights @ losses``."""

    def gradients(self, slopes: Slopes, parameters: Parameters, needed: Sequence[bool]) -> Slopes:
        """Gradients in the parameters."""
        return slopes


class _RowLoss(torch.autograd.Function):
    """Parameters of a density -> losses (m,)."""

    @staticmethod
    def forward(ctx: Any, density: _Density, weight: float | Tensor, *parameters: Tensor) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        weights = weight.contiguous() if isinstance(weight, Tensor) else torch.full(parameters[0].shape[:1], weight)
        nll, ctx.slopes = density.evaluate(parameters, weights, wanted)
        ctx.save_for_backward(*parameters)
        ctx.density, ctx.weight = density, weight
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # Handed out once: a gradient that became a parameter's `grad` is changed in place by what comes after.
        slopes, ctx.slopes = ctx.slopes, None
        if slopes is None or not _as_expected(upstream, ctx.weight):
            _, slopes = ctx.density.evaluate(ctx.saved_tensors, upstream.contiguous(), True)
        return None, None, *ctx.density.gradients(slopes, ctx.saved_tensors, ctx.needs_input_grad[2:])


@dataclass(frozen=True)
class _Counts(_Density):
    """Parameters: log library sizes (m,), log inverse dispersions, logits and, with zero inflation, dropout logits."""

    x: SparseRows

    def evaluate(self, parameters: Parameters, weights: Tensor, wanted: bool) -> tuple[Tensor, Slopes]:
        log_library, log_theta, *rows = parameters
        own = [t.clone(memory_format=torch.contiguous_format) if wanted else t.contiguous() for t in rows]
        nll, d_library, d_theta, _ = _evaluate(self.x, own, log_library, log_theta, weights, wanted)
        return nll, (d_library, d_theta, *own)


@dataclass(frozen=True)
class _Heads(_Density):
    """Logits that are linear maps of one hidden layer, which never leave this module.

    Parameters: log library sizes (n,), log inverse dispersions, hidden layer (n, hidden), weights and bias of the
    logits and, with zero inflation, of the dropout logits.
    """

    x: SparseRows
    low: Sequence[Tensor]  # the weights in bfloat16; none: products are in float32

    def evaluate(self, parameters: Parameters, weights: Tensor, wanted: bool) -> tuple[Tensor, Slopes]:
        log_library, log_theta, _, *heads = parameters
        h, weights_of_heads = self._factors(parameters)
        rows = [torch.mm(h, w.t()) for w in weights_of_heads]
        biases = torch.stack(heads[1::2])  # added by the kernel, which saves a pass over the logits
        evaluate = _evaluate_low if self.low else _evaluate
        nll, *slopes = evaluate(self.x, rows, log_library, log_theta, weights, wanted, biases)
        return nll, (*slopes, *rows)

    def gradients(self, slopes: Slopes, parameters: Parameters, needed: Sequence[bool]) -> Slopes:
        d_library, d_theta, d_biases, *d_rows = slopes
        h, weights = self._factors(parameters)
        d_h = torch.mm(d_rows[0], weights[0]).float()
        for d, w in zip(d_rows[1:], weights[1:], strict=True):
            d_h = d_h.add_(torch.mm(d, w)) if self.low else d_h.addmm_(d, w)
        d_heads: list[Tensor | None] = []
        for d, d_bias, trains in zip(d_rows, d_biases, needed[3::2], strict=False):
            d_heads += [torch.mm(d.t(), h).float() if trains else None, d_bias]
        return d_library, d_theta, d_h, *d_heads

    def _factors(self, parameters: Parameters) -> tuple[Tensor, Sequence[Tensor]]:
        """The hidden layer and the weights in the precision of the products."""
        _, _, h, *heads = parameters
        return (h.bfloat16(), self.low) if self.low else (h, heads[::2])


@dataclass(frozen=True)
class _Mixture(_Density):
    """Parameters: log background, log factor of the foreground and mixing logits (m, p), log inverse dispersions."""

    y: Tensor
    measured: Tensor

    def evaluate(self, parameters: Parameters, weights: Tensor, wanted: bool) -> tuple[Tensor, Slopes]:
        m, p = parameters[0].shape
        nll, slopes = torch.empty(m), torch.empty(4, m, p)
        given, results = arrays(self.y, *parameters, self.measured, weights), arrays(nll, *slopes)
        run_blocks(lambda _, *rows: mixture_rows(*given, rows, *results), row_blocks(m, min_rows=_MIN_ROWS * 8))
        d_theta = slopes[3].sum(0, keepdim=True) if len(parameters[3]) == 1 else slopes[3]
        return nll, (*slopes[:3], d_theta)


def _evaluate(
    x: SparseRows,
    rows: list[Tensor],
    log_library: Tensor,
    log_theta: Tensor | None,
    weights: Tensor,
    wanted: bool,
    biases: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Losses (m,) and, if wanted, the gradients of ``weights @ losses``; those in the logits are written over them.

    Parameters
    ----------
    rows
        Logits and, with zero inflation, dropout logits, (m, g).
    biases
        (1, g) or (2, g), to be added to `rows`.

    Returns
    -------
    Losses, gradients in log library (m,) and log inverse dispersions, sums (2, g) over rows of those in `rows`.
    """
    m, g = rows[0].shape
    blocks = row_blocks(m, _MIN_ROWS)
    nll, d_library, sums = torch.empty(m), torch.empty(m), torch.zeros(len(blocks), 2, g)
    biases = torch.zeros(len(rows), g) if biases is None else biases
    given = arrays(x.starts, x.genes, x.values, biases, rows[0], log_library)
    kernel, slots = poisson_rows, [sums]
    if log_theta is not None:
        kernel, slots = negative_binomial_rows, [_slots(blocks, log_theta if wanted else log_theta[:1]), sums]
        given += arrays(log_theta, rows[1] if len(rows) > 1 else torch.empty(m, 0))
    given += arrays(weights)
    results, in_slots = arrays(nll, d_library), arrays(*slots)
    most = int(np.diff(given[0]).max(initial=0))
    memory = [scratch(g, most) for _ in blocks]

    def work(block: int, *own: int) -> None:
        kernel(*given, own, memory[block], wanted, *results, *(slot[block % len(slot)] for slot in in_slots))

    run_blocks(work, blocks)
    *d_theta, sums = (slot.sum(0) if len(slot) > 1 else slot[0] for slot in slots)
    return nll, d_library, d_theta[0] if d_theta else None, sums


def _evaluate_low(
    x: SparseRows,
    rows: list[Tensor],
    log_library: Tensor,
    log_theta: Tensor | None,
    weights: Tensor,
    wanted: bool,
    biases: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """As :func:`_evaluate` for `rows` in bfloat16, of one draw, over which gradients are written in bfloat16.

    Some rows at a time are float32, in a cache: only bfloat16 crosses the memory, and the kernel is the same.
    """
    m, g = rows[0].shape
    results = []
    for block in torch.arange(m).split(max(1, _TILE // g)):
        some = slice(int(block[0]), int(block[-1]) + 1)
        cells = replace(x, starts=x.starts[some.start : some.stop + 1], totals=None)
        theta = log_theta if log_theta is None or len(log_theta) == 1 else log_theta[some]
        tile = [t[some].float() for t in rows]
        results.append(_evaluate(cells, tile, log_library[some], theta, weights[some], wanted, biases))
        for t, gradient in zip(rows, tile, strict=True):
            t[some] = gradient
    nll, d_library, d_theta, sums = zip(*results, strict=True)
    if log_theta is None:
        of_theta = None
    else:
        of_theta = torch.stack(d_theta).sum(0) if len(log_theta) == 1 else torch.cat(d_theta)
    return torch.cat(nll), torch.cat(d_library), of_theta, torch.stack(sums).sum(0)


class MixedDropout(torch.autograd.Function):
    """Logits (..., g) and weights (g,) or (..., g) without dropout -> logits of the mixture, (..., g)."""

    @staticmethod
    def forward(ctx: Any, dropout: Tensor, delta: Tensor, floor: float) -> Tensor:
        g = dropout.shape[-1]
        if delta.shape[-1] != g:  # compiled code does not check the bounds of its arrays
            raise ValueError(f"weights of shape {tuple(delta.shape)} do not belong to {g} genes")
        a, weights = dropout.reshape(-1, g).contiguous(), _per_gene(delta, dropout.shape).contiguous()
        out = torch.empty_like(a)
        *given, result = arrays(a, weights, out)
        run_blocks(
            lambda _, *rows: mix_rows(*given, np.float32(floor), rows, result), row_blocks(len(a), 2 * _MIN_ROWS)
        )
        ctx.save_for_backward(a, weights)
        ctx.floor, ctx.shapes = floor, (dropout.shape, delta.shape)
        return out.view(dropout.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        a, weights = ctx.saved_tensors
        of_dropout, of_delta = ctx.shapes
        blocks = row_blocks(len(a), 2 * _MIN_ROWS)
        d_a, d_delta = torch.empty_like(a), _slots(blocks, weights)
        *given, of_rows, of_weights = arrays(a, weights, upstream.reshape(a.shape), d_a, d_delta)

        def work(block: int, *rows: int) -> None:
            slope_rows(*given, np.float32(ctx.floor), rows, of_rows, of_weights[block % len(of_weights)])

        run_blocks(work, blocks)
        total = d_delta.sum(0)
        total = total.reshape(of_delta) if len(weights) == 1 else total.view(of_dropout).sum_to_size(of_delta)
        return d_a.view(of_dropout), total, None


def _are_of_one_layer(heads: Sequence[Tensor | Affine]) -> TypeGuard[Sequence[Affine]]:
    """Whether all of them are linear maps of the same rows, alike in shape."""
    first = heads[0]
    return (
        isinstance(first, Affine)
        and first.h.dim() == 2
        and all(
            isinstance(head, Affine) and head.h is first.h and head.weight.shape == first.weight.shape for head in heads
        )
    )


def _as_rows(shape: tuple[int, ...], *parameters: Tensor) -> list[Tensor]:
    """Draws laid out as rows: what broadcasts to (..., n, g) -> (m, g)."""
    return [t.expand(shape).reshape(-1, shape[-1]) for t in parameters]


def _per_gene(parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(g,) for all rows -> (1, g); what broadcasts to (..., n, g) -> (m, g)."""
    return parameter.unsqueeze(0) if parameter.dim() == 1 else _as_rows(shape, parameter)[0]


def _slots(blocks: list[Block], parameter: Tensor) -> Tensor:
    """Where blocks of rows write the gradients in a parameter: each has a slot to add up its own, if all rows share it.

    Returns
    -------
    (blocks, 1, g) or (1, m, g); block i takes slot i modulo their number.
    """
    return torch.zeros(len(blocks) if len(parameter) == 1 else 1, *parameter.shape)


def _as_expected(upstream: Tensor, weight: float | Tensor) -> bool:
    return bool((upstream == weight).all())
