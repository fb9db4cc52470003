"""Batch norm over the rows of all processes that share the work of a minibatch, as torch operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from scvi.kernels.part import Processes


def shared_batch_norm(x: Tensor, norm: nn.BatchNorm1d, processes: Processes) -> Tensor:
    """What `norm` in training makes of rows (n, d), any number of them, with the moments of those of all processes.

    The running moments are brought up to date, alike in all processes.
    """
    return _SharedNorm.apply(x, norm.weight, norm.bias, norm, processes)


class _SharedNorm(torch.autograd.Function):
    """Gradients in weights are those through the rows of this process: their sum over processes is the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, norm: nn.BatchNorm1d, processes: Processes) -> Tensor:
        exact, d = x.double(), x.shape[1]  # in which the difference of the sums below loses nothing that matters
        own = torch.cat([exact.sum(0), exact.square().sum(0), exact.new_full((1,), len(x))])
        mean, square, n = processes.sum(own).split([d, d, 1])
        mean, square = mean / n, square / n
        variance = (square - mean.square()).clamp_(min=0)
        _move(norm, mean, variance * (n / (n - 1)))
        inverse = (variance + norm.eps).rsqrt()
        normed = (exact - mean).mul_(inverse).to(x.dtype)
        ctx.save_for_backward(normed, gamma, inverse.to(x.dtype), n.to(x.dtype))
        ctx.processes = processes
        return torch.addcmul(beta, normed, gamma)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        normed, gamma, inverse, n = ctx.saved_tensors
        d_beta, d_gamma = d_out.sum(0), (d_out * normed).sum(0)
        of_all = ctx.processes.sum(torch.stack([d_beta, d_gamma])) / n
        d_x = (d_out - of_all[0] - normed * of_all[1]) * (gamma * inverse)
        return d_x, d_gamma, d_beta, None, None


@torch.no_grad()
def _move(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor) -> None:
    """The running moments towards those of a minibatch."""
    for running, value in ((norm.running_mean, mean), (norm.running_var, variance)):
        running.lerp_(value.to(running.dtype), norm.momentum)  # type: ignore[union-attr, arg-type]
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
