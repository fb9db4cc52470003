"""Dropout logits of a mixture without and with dropout: compiled and in torch operations, against the definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from torch import Tensor

import oracles
from scvi import kernels
from scvi.kernels import twin
from scvi.kernels.fused import MixedDropout

Mix = Callable[[Tensor, Tensor, float], Tensor]
PATHS = pytest.mark.parametrize("mix", [MixedDropout.apply, twin.mixed_dropout], ids=["compiled", "in torch"])
FLOORS = pytest.mark.parametrize("floor", [0.0, 0.01, 0.4])


def problem(rows: int = 40, genes: int = 70, per_cell: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(0)
    a = rng.normal(-1, 6, (rows, genes))
    delta = np.clip(rng.beta(0.2, 0.2, (rows, genes) if per_cell else genes), 1e-5, 1 - 1e-5)
    arrays = a, delta, rng.normal(size=(rows, genes))
    return tuple(torch.tensor(array, dtype=torch.float32) for array in arrays)  # type: ignore[return-value]


@PATHS
@FLOORS
def test_the_logits_are_those_of_the_mixture(mix: Mix, floor: float) -> None:
    a, delta, _ = problem()
    p = floor + (1 - floor) * expit(a.double().numpy())
    expected = logit((1 - delta.double().numpy()) * p)
    np.testing.assert_allclose(mix(a, delta, floor).numpy(), expected, rtol=1e-5, atol=1e-5)


@PATHS
@FLOORS
@pytest.mark.parametrize("per_cell", [False, True])
def test_gradients(mix: Mix, floor: float, per_cell: bool) -> None:
    a, delta, upstream = problem(per_cell=per_cell)
    exact = [t.double().requires_grad_() for t in (a, delta)]
    p = floor + (1 - floor) * torch.sigmoid(exact[0])
    torch.logit((1 - exact[1]) * p).backward(upstream.double())
    given = [t.clone().requires_grad_() for t in (a, delta)]
    mix(*given, floor).backward(upstream)
    for mine, theirs in zip(given, exact, strict=True):
        scale = theirs.grad.abs().clamp(min=1.0) if mine is given[0] else 40 / (delta * (1 - delta))
        assert ((mine.grad - theirs.grad).abs() <= 1e-4 * scale).all()


def test_gradcheck_of_the_twin() -> None:
    a, delta, _ = problem(3, 4)
    a, delta = a.double().requires_grad_(), delta.double().clamp(0.05, 0.95).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, delta: twin.mixed_dropout(a, delta, 0.01), (a, delta))


@PATHS
def test_extremes_are_finite(mix: Mix) -> None:
    a = torch.tensor([-500.0, -60.0, 0.0, 60.0, 500.0]).repeat(5, 1).requires_grad_()
    delta = torch.tensor([0.0, 1e-7, 0.5, 1 - 1e-7, 1.0])[:, None].expand(5, 5).clone().requires_grad_()
    for floor in (0.0, 0.01):
        t = mix(a, delta, floor)
        assert torch.isfinite(t).all()
        assert (t[0] >= t[-1]).all()
        t.sum().backward()
        assert torch.isfinite(a.grad).all()
        assert torch.isfinite(delta.grad).all()


def test_the_mixture_of_nb_and_zinb_is_a_zinb() -> None:
    rng = np.random.default_rng(1)
    x, log_mu, log_theta = rng.poisson(1.0, 200), rng.normal(0, 1, 200), rng.normal(0, 1, 200)
    a, delta = rng.normal(0, 2, 200), rng.uniform(0.01, 0.99, 200)
    p = 0.01 + 0.99 * expit(a)
    parts = (
        oracles.negative_binomial(x, log_mu, log_theta),
        oracles.zero_inflated_negative_binomial(x, log_mu, log_theta, logit(p)),
    )
    nb, zinb = (part.log_prob.value for part in parts)
    mixed = twin.mixed_dropout(torch.tensor(a), torch.tensor(delta), 0.01).numpy()
    together = oracles.zero_inflated_negative_binomial(x, log_mu, log_theta, mixed).log_prob.value
    np.testing.assert_allclose(together, np.logaddexp(np.log(delta) + nb, np.log1p(-delta) + zinb), rtol=1e-9)


def test_draws_share_the_weights_of_a_gene() -> None:
    a, delta, _ = problem(6, 5)
    draws = a.view(2, 3, 5)
    weights = torch.stack([delta, 1 - delta])[:, None]  # (s, 1, g)
    mixed = kernels.mixed_dropout(draws, weights, 0.01)
    for s in range(2):
        assert torch.equal(mixed[s], kernels.mixed_dropout(draws[s], weights[s, 0], 0.01))


def test_the_door_takes_what_waits_and_refuses_what_does_not_fit() -> None:
    h, weight, bias = torch.randn(4, 3), torch.randn(5, 3), torch.randn(5)
    waiting = kernels.Affine(h, weight, bias)
    delta = torch.full((5,), 0.3)
    assert torch.equal(kernels.mixed_dropout(waiting, delta), kernels.mixed_dropout(waiting.compute(), delta))
    in_float64 = kernels.mixed_dropout(waiting.compute().double(), delta.double())
    np.testing.assert_allclose(kernels.mixed_dropout(waiting, delta).numpy(), in_float64.numpy(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="do not belong to 5 genes"):
        kernels.mixed_dropout(waiting, torch.ones(4))


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    a, delta, upstream = problem(64)
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            given = [t.clone().requires_grad_() for t in (a, delta)]
            out = kernels.mixed_dropout(*given, 0.01)
            out.backward(upstream)
            found.append([out.detach(), *(t.grad for t in given)])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-4, atol=1e-3)
