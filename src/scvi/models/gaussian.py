"""Gaussian posteriors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

from scvi import kernels
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
    heads = kernels.GaussianHeads(h, mean.weight, mean.bias, log_variance.weight, log_variance.bias, floor)
    return _Waiting(heads) if torch.is_grad_enabled() else Normal(*heads.compute(), validate_args=False)


class _Waiting(Normal):
    """The Gaussian of two heads, not computed yet: a step that asks for a draw and its divergence gets both at once."""

    def __init__(self, heads: kernels.GaussianHeads) -> None:
        self.heads = heads
        self.found: tuple[Tensor, Tensor] | None = None  # location and scale
        self._batch_shape, self._event_shape = torch.Size((len(heads.h), len(heads.b_mean))), torch.Size()
        self._validate_args = False

    def draw_with_kl(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        if self.found is not None:
            return kernels.gaussian_draw_with_kl(self.loc, self.scale, noise)
        loc, scale, z, kl = self.heads.draw_with_kl(noise)
        self.found = loc, scale
        return z, kl

    @property
    def _both(self) -> tuple[Tensor, Tensor]:
        if self.found is None:
            with torch.enable_grad():  # as it was where the heads were read
                self.found = self.heads.compute()
        return self.found

    @property
    def loc(self) -> Tensor:  # type: ignore[override]
        return self._both[0]

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        return self._both[1]

    def expand(self, batch_shape: Any, _instance: Any = None) -> Normal:
        return Normal(self.loc, self.scale, validate_args=False).expand(batch_shape)


def draw(q: Normal, n_samples: int | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Reparameterised draws, (n, d) or (s, n, d); `generator` None is torch's global one."""
    shape = q.loc.shape if n_samples is None else (n_samples, *q.loc.shape)
    return q.loc + q.scale * _noise(q, shape, generator)


def draw_with_kl(q: Normal, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """A draw (n, d), and KL(q || N(0, I)) summed over the last axis, (n,)."""
    noise = _noise(q, q.batch_shape, generator)
    return q.draw_with_kl(noise) if isinstance(q, _Waiting) else kernels.gaussian_draw_with_kl(q.loc, q.scale, noise)


def _noise(q: Normal, shape: Any, generator: torch.Generator | None) -> Tensor:
    like = q.heads.h if isinstance(q, _Waiting) else q.loc
    return drawn_rows(partial(torch.randn, generator=generator, device=like.device, dtype=like.dtype), shape)
