"""The likelihood of proteins, a mixture of two negative binomials, against a float64 oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

import oracles
from grids import each_of
from scvi import kernels
from scvi.kernels import twin
from scvi.kernels.fused import mixture_nll

NAMES = ("log_background", "log_factor", "mixing", "log_theta")
Nll = Callable[..., Tensor]


def compiled(y: Tensor, *parameters: Tensor) -> Tensor:
    return mixture_nll(y, *parameters, None, 1.0)


def in_torch(y: Tensor, *parameters: Tensor) -> Tensor:
    return -twin.log_nb_mixture(y, *parameters).sum(-1)


PATHS = pytest.mark.parametrize("nll", [compiled, in_torch])


def problem(shape: tuple[int, ...], seed: int = 0, per_cell: bool = False) -> tuple[np.ndarray, list[np.ndarray]]:
    """Counts (n, p) and parameters as in an experiment."""
    rng = np.random.default_rng(seed)
    back, factor = rng.normal(2, 1.5, shape), rng.gamma(1, 1.5, shape) * (rng.random(shape) < 0.8)
    mixing, theta = rng.normal(0, 4, shape), rng.normal(1, 2, shape if per_cell else shape[-1:])
    means = np.exp(back + factor * (rng.random(shape) < expit(-mixing))).reshape(-1, *shape[-2:])[0]
    y = rng.poisson(means * rng.gamma(2, 0.5, means.shape)) * (rng.random(means.shape) < 0.9)
    return y.astype(np.float32), [a.astype(np.float32) for a in (back, factor, mixing, theta)]


def evaluate(nll: Nll, y: np.ndarray, parameters: list[np.ndarray], weight: np.ndarray) -> list[np.ndarray]:
    given = [torch.tensor(a, requires_grad=True) for a in parameters]
    loss = nll(torch.tensor(y), *given)
    loss.backward(torch.tensor(weight, dtype=loss.dtype))
    return [loss.detach().numpy(), *(t.grad.numpy() for t in given)]


@PATHS
@each_of(shape=[(1, 1), (5, 14), (200, 30), (3, 7, 10), (2, 2, 3, 4)], per_cell=[False, True])
def test_rows(nll: Nll, shape: tuple[int, ...], per_cell: bool) -> None:
    y, parameters = problem(shape, per_cell=per_cell)
    weight = np.random.default_rng(1).normal(size=shape[:-1]).astype(np.float32)
    expected = oracles.mixture_loss(y, *parameters, weight=weight)
    for name, got, wanted in zip(("nll", *NAMES), evaluate(nll, y, parameters, weight), expected, strict=True):
        assert got.shape == wanted.value.shape, name
        assert (np.abs(got - wanted.value) <= 1e-5 * (wanted.size + 1e-6)).all(), name


@each_of(
    nll=[compiled, in_torch],
    counts=[(0, 1, 3, 10, 1000, 10**5), (0.1, 0.5, 0.98, 2.25, 3.01, 999.5)],  # the second are estimates
)
def test_the_whole_range(nll: Nll, counts: tuple[float, ...]) -> None:
    log_back = np.linspace(-15, 12, 7)
    grid = np.meshgrid(counts, log_back, [0.0, 0.5, 8.0], [-30.0, -3.0, 0.0, 9.0, 30.0], np.linspace(-9, 13, 6))
    y, *parameters = (a.reshape(-1, 1).astype(np.float32) for a in grid)
    weight = np.ones(len(y), np.float32)
    expected = oracles.mixture_loss(y, *parameters, weight=weight)
    for name, got, wanted in zip(("nll", *NAMES), evaluate(nll, y, parameters, weight), expected, strict=True):
        assert np.isfinite(got).all(), name
        assert (np.abs(got - wanted.value) <= 1e-5 * (wanted.size + 1e-6)).all(), name


def test_the_oracle_is_the_density_of_2020() -> None:
    y, (back, factor, mixing, theta) = problem((6, 5))
    means = np.exp(back.astype(float)), np.exp(back.astype(float) + factor)
    theta = np.exp(theta.astype(float))
    ours = oracles.mixture_loss(y, back, factor, mixing, np.log(theta), weight=np.ones(6))[0].value
    np.testing.assert_allclose(ours, -oracles.log_nb_mixture(y, *means, theta, theta, mixing).sum(1), rtol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 0.83])
def test_gradcheck_of_the_twin(factor: float) -> None:
    y, parameters = problem((3, 4))
    y *= np.float32(factor)
    given = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in parameters]
    assert torch.autograd.gradcheck(lambda *p: in_torch(torch.tensor(y, dtype=torch.float64), *p), given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "twin"])
def test_what_was_not_measured_says_nothing(dtype: torch.dtype) -> None:
    y, parameters = problem((20, 6))
    measured = np.random.default_rng(0).random(y.shape) < 0.5
    measured[3] = False
    given = [torch.tensor(a, dtype=dtype, requires_grad=True) for a in parameters]

    def losses(y: np.ndarray) -> Tensor:
        return kernels.nll_nb_mixture(torch.tensor(y, dtype=dtype), *given, torch.from_numpy(measured))

    loss = losses(y)
    loss.sum().backward()
    each = -twin.log_nb_mixture(torch.tensor(y).double(), *(t.detach().double() for t in given))
    np.testing.assert_allclose(loss.detach().numpy(), (each.numpy() * measured).sum(-1), rtol=2e-5)
    assert loss[3] == 0
    assert all((t.grad.numpy()[~measured] == 0).all() for t in given[:3])
    assert torch.equal(losses(np.where(measured, y, 77).astype(np.float32)), loss)


def test_the_expected_weight_saves_a_pass_and_changes_nothing() -> None:
    y, parameters = problem((40, 8))
    given = [torch.tensor(a, requires_grad=True) for a in parameters]
    results = []
    for weight in (1.0, 1 / 40):
        loss = kernels.nll_nb_mixture(torch.tensor(y), *given, weight=weight).mean()
        results.append(torch.autograd.grad(loss, given))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-9) for a, b in zip(*results, strict=True))


def test_counts_of_another_shape_are_refused() -> None:
    y, parameters = problem((4, 5))
    with pytest.raises(ValueError, match=r"counts of shape \(4, 4\) do not belong to parameters of shape \(4, 5\)"):
        kernels.nll_nb_mixture(torch.tensor(y[:, :4]), *map(torch.tensor, parameters))
