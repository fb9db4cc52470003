"""Large matrix products in bfloat16, for those who ask; everything else stays in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn.functional import linear as float32_linear

_low: ContextVar[bool] = ContextVar("bf16_products", default=False)


@contextmanager
def bf16_products(wanted: bool = True) -> Iterator[None]:
    """Inside, layers of networks multiply numbers rounded to bfloat16, and round what comes out.

    Not the sparse first layer, which adds few numbers, nor the small heads of a Gaussian.
    """
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
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``, float32."""
    if not is_low():
        return float32_linear(x, weight, bias)
    out = float32_linear(x.bfloat16(), weight.bfloat16()).float()
    return out if bias is None else out + bias


def product(a: Tensor, b: Tensor, low: bool) -> Tensor:
    """Matrix product, float32; factors and result are rounded to bfloat16 if `low`."""
    return torch.mm(a.bfloat16(), b.bfloat16()).float() if low else torch.mm(a, b)


def add_product(out: Tensor, a: Tensor, b: Tensor, low: bool) -> None:
    """Adds :func:`product` to `out`."""
    if low:
        out += product(a, b, low)
    else:
        out.addmm_(a, b)


def write_product(out: Tensor, a: Tensor, b: Tensor, low: bool) -> None:
    """Writes :func:`product` to `out`."""
    if low:
        out.copy_(product(a, b, low))
    else:
        torch.mm(a, b, out=out)
