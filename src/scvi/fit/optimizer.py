"""Adam with clipping and without a step where a gradient is not finite, in one pass over the parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scvi import kernels
from scvi.fit.scope import Columns


class ClippedAdam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015) with an L2 penalty, on gradients whose common norm is at most `max_norm`.

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
    ) -> None:
        self.taken_off, weight_decay = (weight_decay, 0.0) if decoupled else (0.0, weight_decay)
        self.columns = list(columns)
        self.undecayed = {id(p) for p in undecayed}
        self.undecayed |= {id(some.part) for some in self.columns if id(some.whole) in self.undecayed}
        given = [*params, *(some.part for some in self.columns)]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in given if id(p) not in self.undecayed]},
            {"params": [p for p in given if id(p) in self.undecayed], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self.parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        self.device, self.max_norm = self.parameters[0].device, max_norm
        self.is_fused = self.device.type in ("cpu", "cuda")
        super().__init__(groups, lr=lr, eps=eps, weight_decay=weight_decay, fused=self.is_fused or None)
        for p in self.parameters:
            step = torch.zeros((), device=self.device if self.is_fused else "cpu")
            self.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        self._compiled: tuple[list[int], kernels.Adam] | None = None

    def forget_gradients(self) -> None:
        """`zero_grad`, without all that it looks for on its way."""
        for p in self.parameters:
            p.grad = None
        for some in self.columns:
            some.whole.grad = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also lays the moments out in memory as the parameters lie."""
        super().load_state_dict(state_dict)
        for p in self.parameters:
            for name in ("exp_avg", "exp_avg_sq"):
                self.state[p][name] = torch.empty_like(p).copy_(self.state[p][name])
        self._compiled = None

    @torch.no_grad()
    def clipped_step(self, loss: Tensor) -> Tensor:
        """Takes a step if the loss and the norm of its gradient are finite; returns whether they were.

        The answer is on the device, and nothing waits for it. (A decoupled penalty is taken off in any case: who does
        not follow a step goes back to earlier weights.)
        """
        for some in self.columns:
            some.read()
        given = [p for p in self.parameters if p.grad is not None]
        for p in given:
            p.grad = _laid_out_like(p, p.grad)  # type: ignore[arg-type]
        if not given:
            return torch.isfinite(loss)
        if self.taken_off:
            shrunk: list[Tensor] = [p for p in given if id(p) not in self.undecayed]
            torch._foreach_mul_(shrunk, 1 - self.param_groups[0]["lr"] * self.taken_off)
        if self.device.type != "cpu":
            good = self._device_step(given, loss)
        else:
            good = torch.tensor(math.isfinite(loss) and self._compiled_step(given, loss))
        for some in self.columns:
            some.write()
        return good

    def _compiled_step(self, given: list[nn.Parameter], loss: Tensor) -> bool:
        states = [self.state[p] for p in given]
        places = [p.data_ptr() for p in given]
        if self._compiled is None or self._compiled[0] != places:
            if len({int(state["step"]) for state in states}) > 1:  # one of them had no gradient earlier on
                return bool(self._device_step(given, loss))
            decayed = [id(p) not in self.undecayed for p in given]
            self._compiled = places, kernels.adam([(p, self.state[p]) for p in given], decayed)
        gradients = [p.grad for p in given if p.grad is not None]
        group, number = self.param_groups[0], int(states[0]["step"]) + 1
        options = (group["lr"], group["betas"], group["eps"], group["weight_decay"])
        good = math.isfinite(self._compiled[1].step(gradients, self.max_norm, number, *options))
        if good:
            torch._foreach_add_([state["step"] for state in states], 1)
            torch.autograd.graph.increment_version(given)  # as any change in place tells autograd
        return good

    def _device_step(self, given: list[nn.Parameter], loss: Tensor) -> Tensor:
        gradients = [p.grad for p in given if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        good = torch.isfinite(norm) & torch.isfinite(loss)
        shrink = torch.ones_like(norm) if self.max_norm is None else (norm / self.max_norm).clamp(min=1.0)
        if self.is_fused:
            # what torch's own scaler of gradients uses: they are divided by the one, and the other forbids the step
            self.grad_scale, self.found_inf = torch.where(good, shrink, 1.0), (~good).float()
            self.step()
            del self.grad_scale, self.found_inf
        elif bool(good):
            torch._foreach_div_(gradients, shrink)
            self.step()
        return good


def _laid_out_like(p: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the order of memory of the parameter, which autograd's have unless somebody else made them."""
    return gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)
