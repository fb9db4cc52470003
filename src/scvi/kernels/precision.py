"""Large matrix products in bfloat16, for those who ask; everything else stays in float32.

Factors and results are bfloat16, sums within a product float32. Weights stay float32, and the large ones have a copy in
bfloat16 beside them, so that no step has to convert them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear as float32_linear

_SMALL = 128 * 128  # weights up to which a product in bfloat16 gains nothing
_STALE = -1, 0
# Share of entries from which dense products of a layer, forward and backward together, are faster than sparse ones with
# 2,000 and 10,000 genes: in float32; in bfloat16 on vector units; on tiles, which take a quarter of the time of those.
_DENSE, _DENSE_LOW, _DENSE_ON_TILES = 0.25, 0.15, 0.04


class LowWeights:
    """The large weights of a model in bfloat16.

    A copy is made when a product first asks for it, and a step of Adam writes it again with the weights. Weights that
    anything else has changed are told by their version, which torch counts, and copied when they are next asked for.
    What goes behind the back of torch (``weight.data.mul_(2)``) does not count: who lets others do so calls
    :meth:`forget` afterwards.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[nn.Parameter, Tensor]] = {}
        self._states: dict[int, tuple[int, int]] = {}

    def of(self, weight: Tensor) -> Tensor:
        """Weights in bfloat16, as they lie in memory; only those of a parameter are kept."""
        if not isinstance(weight, nn.Parameter):
            return weight.detach().bfloat16()
        key = id(weight)
        if key not in self._kept:
            self._kept[key] = weight, torch.empty_like(weight, dtype=torch.bfloat16, requires_grad=False)
        copy = self._kept[key][1]
        if self._states.get(key) != _state(weight):
            with torch.no_grad():
                copy.copy_(weight)
            self._states[key] = _state(weight)
        return copy

    def copies(self, weights: Iterable[Tensor]) -> list[Tensor | None]:
        """The copies that are kept of some weights, to be written with them; they may be of former values."""
        return [kept[1] if (kept := self._kept.get(id(weight))) is not None else None for weight in weights]

    @torch.no_grad()
    def write(self, weights: Sequence[Tensor]) -> None:
        """Makes the copies that are kept of some weights anew."""
        for weight, copy in zip(weights, self.copies(weights), strict=True):
            if copy is not None:
                copy.copy_(weight)
        self.written(weights)

    def written(self, weights: Iterable[Tensor]) -> None:
        """Says that weights were changed, and their copies with them."""
        self._states |= {id(weight): _state(weight) for weight in weights if id(weight) in self._kept}

    def forget(self) -> None:
        """Has every copy made again when it is next asked for."""
        self._states = dict.fromkeys(self._states, _STALE)


def _state(weight: Tensor) -> tuple[int, int]:
    """What tells present values from former ones."""
    return weight._version, weight.data_ptr()


_low: ContextVar[LowWeights | None] = ContextVar("bf16_products", default=None)


@contextmanager
def bf16_products(weights: LowWeights | None) -> Iterator[None]:
    """Inside, layers of networks multiply in bfloat16 where their weights are large; with None they do not.

    Not a first layer that is sparse, see :func:`dense_from`, nor the small heads of a Gaussian.
    """
    token = _low.set(weights)
    try:
        yield
    finally:
        _low.reset(token)


def low_of(weight: Tensor) -> Tensor | None:
    """The weights in bfloat16 if their products are asked for like that here, else None."""
    weights = _low.get()
    return None if weights is None or weight.numel() <= _SMALL else weights.of(weight)


def dense_from(weight: Tensor) -> float:
    """Share of counts that are not zero from which a layer with these weights computes dense products on a CPU.

    It depends on the precision that is asked for here and on the kind of processor, and on no clock: a fit that is
    repeated or goes on takes the same products.
    """
    if _low.get() is None or weight.numel() <= _SMALL:
        return _DENSE
    return _DENSE_ON_TILES if _has_tiles() else _DENSE_LOW


@cache
def _has_tiles() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())  # absent from some versions of torch


def bf16_is_supported(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware (on a CPU: whether oneDNN says so)."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bf16_pays(device: torch.device) -> bool:
    """Whether the device has units for products of bfloat16, so that they are faster than those of float32."""
    if device.type == "cpu":
        units = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # absent from some versions of torch
        return bf16_is_supported(device) and any(getattr(torch.cpu, name, lambda: False)() for name in units)
    return bf16_is_supported(device)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``, float32."""
    low = low_of(weight)
    if low is None:
        return float32_linear(x, weight, bias)
    out = _LowLinear.apply(x, weight, low)
    return out if bias is None else out + bias


class _LowLinear(torch.autograd.Function):
    """x (..., n, k) times weights (h, k), of which the last argument is the copy in bfloat16 -> (..., n, h) float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, low: Tensor) -> Tensor:
        given = x.bfloat16()
        ctx.save_for_backward(given, low)
        ctx.by_input = lies_by_input(weight)
        return float32_linear(given, low).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        given, low = ctx.saved_tensors
        d_low = d_out.bfloat16()
        d_x = (d_low @ low).float() if ctx.needs_input_grad[0] else None
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = low_weight_gradient(d_low.flatten(0, -2), given.flatten(0, -2), ctx.by_input)
        return d_x, d_weight, None


def low_weight_gradient(slopes: Tensor, rows: Tensor, by_input: bool) -> Tensor:
    """Float32 gradient in weights (h, k), `by_input` in memory or not, of slopes (n, h) and rows (n, k) in bfloat16."""
    return ((rows.t() @ slopes).t() if by_input else slopes.t() @ rows).float()


def lies_by_input(weight: Tensor) -> bool:
    """Whether weights (h, k) lie in memory as (k, h), which their gradient then does, too."""
    return weight.t().is_contiguous()
