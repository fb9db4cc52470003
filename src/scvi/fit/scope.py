"""Training a part of a network: some parameters, some columns of others, all else untouched to the bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from scvi.models.freezing import Scope, axis_of


class Columns:
    """Columns of a parameter, or rows, as a parameter of their own.

    An optimiser is given this `part` only. So its momentum, its L2 penalty and its clipping know nothing of the other
    columns, which are never written to.
    """

    def __init__(self, whole: nn.Parameter, mask: Tensor) -> None:
        self.whole = whole
        self.axis = axis_of(mask)
        self.places = mask.nonzero()[:, 0].to(whole.device)
        self.part = nn.Parameter(self._chosen(whole.detach()))

    def _chosen(self, values: Tensor) -> Tensor:
        return values.index_select(self.axis, self.places).contiguous()

    @torch.no_grad()
    def read(self) -> None:
        """Takes over values, which a recovery may have put back, and the gradient."""
        self.part.copy_(self._chosen(self.whole))
        self.part.grad = None if self.whole.grad is None else self._chosen(self.whole.grad)

    @torch.no_grad()
    def write(self) -> None:
        """Puts the values in their places."""
        self.whole.index_copy_(self.axis, self.places, self.part)


def parts(model: nn.Module, scope: Scope) -> tuple[list[nn.Parameter], list[Columns]]:
    """What a scope lets train: whole parameters, and columns of others."""
    named = [(p, scope.trained[name]) for name, p in model.named_parameters() if name in scope.trained]
    return [p for p, mask in named if mask.dim() == 0], [Columns(p, mask) for p, mask in named if mask.dim()]


def left_out(model: nn.Module, scope: Scope) -> list[nn.Parameter]:
    """What a scope does not let train."""
    return [p for name, p in model.named_parameters() if name not in scope.trained]


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, these parameters ask for no gradient, which saves computing it."""
    asking = [p for p in parameters if p.requires_grad]
    for p in asking:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asking:
            p.requires_grad_(True)
