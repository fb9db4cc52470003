"""Matrix products with factors rounded to bfloat16, for those who ask; everything else stays in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn.functional import linear as float32_linear

__all__ = ["add_product", "bf16_is_supported", "bf16_products", "is_low", "linear", "product"]

_low: ContextVar[bool] = ContextVar("bf16_products", default=False)


@contextmanager
def bf16_products(wanted: bool = True) -> Iterator[None]:
    """Inside, the layers of networks multiply in bfloat16; sums are float32, and so are results."""
    token = _low.set(wanted)
    try:
        yield
    finally:
        _low.reset(token)


def is_low() -> bool:
    """Whether products are asked for in bfloat16 here. Backward passes have to be told: they may run elsewhere."""
    return _low.get()


def bf16_is_supported(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware (on a CPU: whether oneDNN says so)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` in float32."""
    if not is_low():
        return float32_linear(x, weight, bias)
    out = float32_linear(x.bfloat16(), weight.bfloat16()).float()
    return out if bias is None else out + bias


def product(a: Tensor, b: Tensor, low: bool) -> Tensor:
    """Matrix product in float32, of factors rounded to bfloat16 if `low`."""
    return torch.mm(a.bfloat16(), b.bfloat16()).float() if low else torch.mm(a, b)


def add_product(out: Tensor, a: Tensor, b: Tensor, low: bool) -> None:
    """Adds :func:`product` to `out`."""
    if low:
        out += product(a, b, low)
    else:
        out.addmm_(a, b)
