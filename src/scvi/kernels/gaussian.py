"""Gaussian posteriors as few differentiable torch operations: in a training step each small one has its price."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Heads(torch.autograd.Function):
    """Two linear layers of one input as one, then sqrt(exp(.) + floor) of the second."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, w_mean: Tensor, b_mean: Tensor, w_var: Tensor, b_var: Tensor, floor: float
    ) -> tuple[Tensor, Tensor]:
        weight = torch.cat([w_mean, w_var])
        out = torch.addmm(torch.cat([b_mean, b_var]), h, weight.t())
        loc, raw = out.split(out.shape[1] // 2, dim=1)
        variance = raw.exp()
        scale = (variance + floor).sqrt_()
        ctx.save_for_backward(h, weight, variance, scale)
        return loc.clone(), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loc: Tensor, d_scale: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, variance, scale = ctx.saved_tensors
        d_out = torch.cat([d_loc, d_scale * variance / (2 * scale)], dim=1)
        d_weight, d_bias, d = d_out.t() @ h, d_out.sum(0), d_loc.shape[1]
        return d_out @ weight, d_weight[:d], d_bias[:d], d_weight[d:], d_bias[d:], None


class DrawWithKl(torch.autograd.Function):
    """Location, scale and noise (n, d) to a draw, (n, d), and KL(q || N(0, I)), (n,)."""

    @staticmethod
    def forward(ctx: Any, loc: Tensor, scale: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(loc, scale, noise)
        terms = torch.addcmul(loc.square(), scale, scale).sub_(scale.log(), alpha=2.0).sum(-1)
        return torch.addcmul(loc, scale, noise), 0.5 * (terms - loc.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_z: Tensor, d_kl: Tensor) -> tuple[Tensor, Tensor, None]:
        loc, scale, noise = ctx.saved_tensors
        d_kl = d_kl.unsqueeze(-1)
        return torch.addcmul(d_z, d_kl, loc), d_z * noise + d_kl * (scale - 1 / scale), None
