"""Gaussian posteriors as few differentiable operations: in a training step each small one has its price."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Normal
from torch.nn import functional

from scvi._checks import check_choice
from scvi.kernels import drawn_rows

ActivationName: TypeAlias = Literal["exp", "softplus", "relu", "sigmoid", "square"]
VarianceActivation: TypeAlias = ActivationName | Callable[[Tensor], Tensor] | None
_ACTIVATIONS: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "softplus": functional.softplus,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "square": torch.square,
}
_OTHER_NAMES: dict[Any, ActivationName] = {  # the same functions, as scripts name them
    **{function: name for name, function in _ACTIVATIONS.items()},
    functional.relu: "relu",
    functional.sigmoid: "sigmoid",
}
_MODULES: dict[type, ActivationName] = {nn.Softplus: "softplus", nn.ReLU: "relu", nn.Sigmoid: "sigmoid"}


def activation_name(activation: VarianceActivation) -> ActivationName:
    """The name of what makes variances of the numbers of a network; a file holds names, and no functions.

    Parameters
    ----------
    activation
        A name, or a function or module of torch that has one here; None is exp.
    """
    if isinstance(activation, str):
        check_choice("var_activation", activation, [*_ACTIVATIONS])
        return activation
    name = "exp" if activation is None else _OTHER_NAMES.get(activation) or _MODULES.get(type(activation))
    if name is None or (isinstance(activation, nn.Softplus) and (activation.beta, activation.threshold) != (1, 20)):
        raise ValueError(
            f"var_activation={activation!r} is no function that a saved model could name: pass one of "
            f"{', '.join(map(repr, _ACTIVATIONS))}, or the function of torch"
        )
    return name


def gaussian_of(
    h: Tensor, mean: nn.Linear, log_variance: nn.Linear, floor: float, activation: VarianceActivation = "exp"
) -> Normal:
    """N(mean(h), activation(log_variance(h)) + floor), (n, d)."""
    name = activation_name(activation)
    if name != "exp":
        variance = _ACTIVATIONS[name](log_variance(h)) + floor
        return Normal(mean(h), variance.sqrt(), validate_args=False)
    loc, scale = _Heads.apply(h, mean.weight, mean.bias, log_variance.weight, log_variance.bias, floor)
    return Normal(loc, scale, validate_args=False)


def draw(q: Normal, n_samples: int | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Reparameterised draws, (n, d) or (s, n, d); `generator` None is torch's global one."""
    shape = q.loc.shape if n_samples is None else (n_samples, *q.loc.shape)
    return q.loc + q.scale * _noise(q, shape, generator)


def draw_with_kl(q: Normal, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """A draw (n, d), and KL(q || N(0, I)) summed over the last axis, (n,)."""
    return _DrawWithKl.apply(q.loc, q.scale, _noise(q, q.loc.shape, generator))


def _noise(q: Normal, shape: Any, generator: torch.Generator | None) -> Tensor:
    return drawn_rows(partial(torch.randn, generator=generator, device=q.loc.device, dtype=q.loc.dtype), shape)


class _Heads(torch.autograd.Function):
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


class _DrawWithKl(torch.autograd.Function):
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
