"""Parameters with the moments of Adam in flat buffers, and a step in torch operations, which waits for no device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from scvi.kernels.precision import LowWeights

BETAS = 0.9, 0.999
_ALIGNED = 16  # numbers that a vector of the widest instructions holds: each tensor begins at a multiple of them


@dataclass(frozen=True)
class Rule:
    """What a step of Adam (Kingma and Ba 2015) does beside following the gradient.

    Attributes
    ----------
    lr, eps
        Learning rate, and what is added to the root of the second moment.
    max_norm
        The common norm of all gradients above which they are shortened to it; None: never.
    decoupled
        Take the penalty off the weights, times the learning rate, and not through the gradient: AdamW (Loshchilov and
        Hutter 2019).
    """

    lr: float
    eps: float
    max_norm: float | None = None
    decoupled: bool = False


class Moments:
    """Float32 parameters of one device, wherever they are in memory, and their moments side by side in flat buffers.

    Parameters
    ----------
    parameters
        One at least, each row by row in memory, or column by column; a moment lies as its parameter does.
    decay
        Weight of the L2 penalty of each.
    low
        Copies of them that a step writes, too.

    Attributes
    ----------
    mean, square
        The moments, by parameter, as views of their buffers.
    steps
        () number of steps of each parameter so far, views of one buffer.

    Raises
    ------
    ValueError
        If there are no parameters, or some are of another kind.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], decay: Sequence[float], low: LowWeights | None = None
    ) -> None:
        self.parameters, self.decay, self.low = list(parameters), list(decay), low
        if not self.parameters:
            raise ValueError("there are no parameters to fit: none of them asks for a gradient (requires_grad)")
        others = {(p.dtype, p.device) for p in self.parameters} - {(torch.float32, self.parameters[0].device)}
        if others:  # compiled code takes what it finds in memory for float32 numbers
            raise ValueError(
                f"parameters are to be float32 on one device, some are {' on '.join(map(str, others.pop()))}"
            )
        if not all(p.is_contiguous() or (p.dim() == 2 and p.t().is_contiguous()) for p in self.parameters):
            raise ValueError("parameters are to lie row by row or column by column in memory, some are parts of others")
        self.sizes = [p.numel() for p in self.parameters]
        ends = torch.tensor([-(-size // _ALIGNED) * _ALIGNED for size in self.sizes]).cumsum(0).tolist()
        self.starts, self.n_numbers = [0, *ends[:-1]], ends[-1]
        device = self.parameters[0].device
        self.flat_mean, self.flat_square = (torch.zeros(self.n_numbers, device=device) for _ in range(2))
        self.mean, self.square = self.views(self.flat_mean), self.views(self.flat_square)
        self.flat_steps = torch.zeros(len(self.parameters), device=device)
        self.steps = list(self.flat_steps)

    @cached_property
    def flat_gradient(self) -> Tensor:
        """A buffer for gradients, laid out as the moments are."""
        return torch.zeros_like(self.flat_mean)

    @cached_property
    def gradients(self) -> list[Tensor]:
        """Views of :attr:`flat_gradient`, by parameter."""
        return self.views(self.flat_gradient)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """What a flat buffer holds of each parameter."""
        return [
            buffer.as_strided(p.shape, p.stride(), start) for p, start in zip(self.parameters, self.starts, strict=True)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """The state by number of the parameter and name, as files have it."""
        names = {"step": self.steps, "exp_avg": self.mean, "exp_avg_sq": self.square}
        return {f"{i}.{name}": tensors[i] for i in range(len(self.parameters)) for name, tensors in names.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of :meth:`tensors`, in whatever layout they come.

        Raises
        ------
        ValueError
            For the state of other parameters.
        """
        mine = self.tensors()
        wrong = [name for name in {**mine, **tensors} if name not in mine or name not in tensors]
        wrong += [name for name in mine if name in tensors and mine[name].shape != tensors[name].shape]
        if wrong:
            raise ValueError(
                f"the state of the optimiser is of other parameters: {wrong[0]} is absent on one side, or of another "
                f"shape ({len(wrong)} such entries)"
            )
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])


@torch.no_grad()
def adam_step(moments: Moments, given: Sequence[int], loss: Tensor, rule: Rule) -> Tensor:
    """As :func:`scvi.kernels.adam_step`; the answer is on the device, and nothing waits for it."""
    gradients = [g for i in given if (g := moments.parameters[i].grad) is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    good = torch.isfinite(norm) & torch.isfinite(loss)
    shrink = torch.ones_like(norm) if rule.max_norm is None else (norm / rule.max_norm).clamp(min=1.0)
    fused = torch._fused_adamw_ if rule.decoupled else torch._fused_adam_
    stays, scale = (~good).float(), torch.where(good, shrink, 1.0)
    if good.device.type not in ("cpu", "cuda"):  # whose kernels alone heed these two, as torch's scaler uses them
        if not bool(good):
            return good
        torch._foreach_div_(gradients, shrink)
        stays = scale = None  # type: ignore[assignment]
    for decay in sorted({moments.decay[i] for i in given}):
        chosen = [i for i in given if moments.decay[i] == decay]
        steps = [moments.steps[i] for i in chosen]
        torch._foreach_add_(steps, 1)
        fused(
            [moments.parameters[i] for i in chosen],
            [g for i in chosen if (g := moments.parameters[i].grad) is not None],
            [moments.mean[i] for i in chosen],
            [moments.square[i] for i in chosen],
            [],
            steps,
            amsgrad=False,
            maximize=False,
            lr=rule.lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=decay,
            eps=rule.eps,
            grad_scale=scale,
            found_inf=stays,
        )
        if stays is not None:
            torch._foreach_sub_(steps, [stays] * len(steps))
    if moments.low is not None:
        moments.low.write([moments.parameters[i] for i in given])  # the fused step is none that torch counts
    return good
