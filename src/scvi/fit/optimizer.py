"""Adam with clipping and without a step where a gradient is not finite, in one pass over the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from scvi import kernels
from scvi.fit.scope import Columns
from scvi.kernels.moments import Moments, Rule
from scvi.kernels.precision import LowWeights


class ClippedAdam:
    """Adam (Kingma and Ba 2015) with an L2 penalty, on gradients whose common norm is at most `max_norm`.

    It is none of torch's optimisers, whose first parameter imports seconds of compilers.

    Parameters
    ----------
    params
        Float32 tensors on one device.
    max_norm
        None does not clip.
    undecayed
        Those of the tensors that the penalty is not for.
    columns
        Columns of further parameters, of which only these are changed.
    decoupled
        Take the penalty off the weights, times the learning rate, and not through the gradient: AdamW (Loshchilov and
        Hutter 2019).
    low
        Copies of weights in bfloat16, to be kept up with them.

    Attributes
    ----------
    lr
        Learning rate of the next steps.
    parameters, moments
        What is stepped, in an order that files go by, and its moments.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        eps: float,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
        undecayed: Iterable[nn.Parameter] = (),
        columns: Sequence[Columns] = (),
        decoupled: bool = False,
        low: LowWeights | None = None,
    ) -> None:
        self.lr, self.eps, self.max_norm, self.decoupled = lr, eps, max_norm, decoupled
        self.columns = list(columns)
        spared = {id(p) for p in undecayed}
        spared |= {id(some.part) for some in self.columns if id(some.whole) in spared}
        given = [*params, *(some.part for some in self.columns)]
        decayed, others = ([p for p in given if (id(p) in spared) == wanted] for wanted in (False, True))
        self.parameters = [*decayed, *others]
        self.moments = Moments(self.parameters, [weight_decay] * len(decayed) + [0.0] * len(others), low)

    def forget_gradients(self) -> None:
        """Before a step: autograd hands each parameter its new gradient, without a pass to add it to another."""
        for p in self.parameters:
            p.grad = None
        for some in self.columns:
            some.whole.grad = None

    @torch.no_grad()
    def flat_gradient(self) -> Tensor:
        """All gradients side by side, as one buffer that may be changed: the next step reads them there.

        The places of a parameter without a gradient hold zeros, and it is not stepped. Gradients of columns are
        gathered by :meth:`clipped_step`, and are not among them.
        """
        for p, place in zip(self.parameters, self.moments.gradients, strict=True):
            if p.grad is None:
                place.zero_()
            elif p.grad is not place:
                p.grad = place.copy_(p.grad)
        return self.moments.flat_gradient

    def gradients(self) -> list[Tensor]:
        """:meth:`flat_gradient`, and those of the parameters of which only columns are changed, as they lie in memory.

        For who adds up the gradients of several processes, in place.
        """
        wholes = [some.whole.grad for some in self.columns]
        return [self.flat_gradient(), *(g if g.is_contiguous() else g.t() for g in wholes if g is not None)]

    @torch.no_grad()
    def clipped_step(self, loss: Tensor) -> Tensor:
        """Takes a step if the loss and the norm of its gradient are finite; returns whether they were.

        The answer is on the device, and nothing waits for it.
        """
        for some in self.columns:
            some.read()
        given = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        if not given:
            return torch.isfinite(loss)
        good = kernels.adam_step(self.moments, given, loss, Rule(self.lr, self.eps, self.max_norm, self.decoupled))
        for some in self.columns:
            some.write()
        return good

    def tensors(self) -> dict[str, Tensor]:
        """Its state, by number of the parameter and name."""
        return self.moments.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of :meth:`tensors`; ValueError for the state of other parameters."""
        self.moments.load(tensors)
