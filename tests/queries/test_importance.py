"""Weighted draws against a posterior that is known: that of a latent variable of one dimension, by integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from scvi.minibatch import Minibatch
from scvi.models import VAE
from scvi.queries import importance
from scvi.queries.expression import Wanted, normalized

N, G = 8, 15
POINTS = torch.linspace(-7, 7, 1401)


def effective_size(weights: np.ndarray) -> np.ndarray:
    """(n,) of weights (s, n), as the page on expression has it."""
    return 1 / (weights**2).sum(axis=0)


@pytest.fixture(scope="module")
def model() -> VAE:
    """Its encoder was never fitted: q is N(some mean, some variance), whatever the counts are."""
    torch.manual_seed(0)
    vae = VAE(G, n_hidden=8, n_latent=1, reconstruction_loss="nb", use_observed_lib_size=True).eval()
    vae.px_r.data.fill_(0.5)
    vae.z_encoder.var_encoder.bias.data.fill_(0.7)  # wide enough for draws to come where the posterior is
    for parameter in vae.parameters():
        parameter.requires_grad_(False)
    return vae


@pytest.fixture(scope="module")
def mb(model: VAE) -> Minibatch:
    """Counts of the model itself."""
    rng = np.random.default_rng(1)
    no_cells = Minibatch(torch.zeros(N, G), torch.zeros(N, 1, dtype=torch.long), torch.zeros(N, 1, dtype=torch.long))
    with torch.no_grad():
        z = torch.from_numpy(rng.normal(size=(N, 1)).astype(np.float32))
        genes = model.generative(z, torch.full((N, 1), 5.0), no_cells).genes
    x = rng.poisson(rng.gamma(np.exp(0.5), genes.rate.numpy() / np.exp(0.5))) + 1e-9
    return Minibatch(torch.from_numpy(np.round(x).astype(np.float32)), no_cells.batch, no_cells.labels)


@torch.no_grad()
def at_points(model: VAE, mb: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x, z) and log q(z | x), (points, n) float64, and the frequencies (points, n, g)."""
    z = POINTS[:, None, None].expand(-1, N, 1)
    decoded = model.generative(z, mb.totals.log().expand(len(POINTS), -1, -1), mb)
    joint = Normal(0.0, 1.0).log_prob(z)[..., 0].double() - decoded.genes.nll(mb).double()
    return joint, model.variational(mb).z.log_prob(z)[..., 0].double(), decoded.genes.scale.double()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_expression_is_that_of_the_true_posterior(model: VAE, mb: Minibatch) -> None:
    joint, log_q, rho = at_points(model, mb)
    exact, of_q = (torch.einsum("sn,sng->ng", torch.softmax(log, 0), rho).numpy() for log in (joint, log_q))
    wanted = Wanted(n_weighed=20_000)
    np.testing.assert_allclose(normalized(model, [mb], wanted, generator=generator()), exact, rtol=0.03)
    kept = Wanted(n_samples=4000, return_mean=False, n_weighed=20_000)
    draws = normalized(model, [mb], kept, generator=generator(1))
    assert draws.shape == (4000, N, G)
    np.testing.assert_allclose(draws.mean(0), exact, rtol=0.06)
    spread = torch.einsum("sn,sng->ng", torch.softmax(joint, 0), (rho - torch.from_numpy(exact)) ** 2).sqrt().numpy()
    np.testing.assert_allclose(draws.std(0), spread, rtol=0.15)
    unweighted = normalized(model, [mb], Wanted(n_samples=20_000), generator=generator())
    np.testing.assert_allclose(unweighted, of_q, rtol=0.03)
    assert np.abs(unweighted / exact - 1).max() > 0.2  # so that it is the weights that mend it


def test_weights_and_how_much_they_are_worth(model: VAE, mb: Minibatch) -> None:
    joint, log_q, _ = at_points(model, mb)
    n_draws, step = 20_000, float(POINTS[1] - POINTS[0])
    weights, z = importance.weights(model, [mb], n_draws, generator=generator())
    assert weights.shape == (n_draws, N)
    assert z.shape == (n_draws, N, 1)
    np.testing.assert_allclose(weights.sum(0), 1)
    posterior = torch.softmax(joint, 0).numpy()
    mean = (POINTS.numpy()[:, None] * posterior).sum(0)
    np.testing.assert_allclose((weights * z[..., 0]).sum(0), mean, atol=0.05)
    density = posterior / step
    share = 1 / ((density**2 / np.exp(log_q.numpy())).sum(0) * step)  # of draws that weights are worth in the limit
    found = effective_size(weights)
    np.testing.assert_allclose(found / n_draws, share, rtol=0.15)
    assert share.min() < 0.7


def test_draws_in_blocks_and_minibatches(model: VAE, mb: Minibatch, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, z = importance.weights(model, [mb], 50, generator=generator())
    assert len(np.unique(z)) == z.size
    parts = [mb.take(torch.arange(3)), mb.take(torch.arange(3, N))]
    weights, z = importance.weights(model, parts, 50, generator=generator(), at_once=7)
    assert whole.shape == weights.shape == (50, N)
    np.testing.assert_allclose(weights.sum(0), 1)
    monkeypatch.setattr("scvi.models.base._MAX_ELEMENTS", 3 * mb.counts.numel())
    blocks = list(importance.draws(model, mb, 10, None, generator()))
    assert [len(block[0]) for block in blocks] == [3, 3, 3, 1]
    np.testing.assert_allclose(sum(block[2].sum(0) for block in blocks), 1, rtol=1e-5)  # type: ignore[union-attr]
    kept = list(importance.draws(model, mb, 10, 4, generator()))
    assert [(len(z), weights) for z, _, weights in kept] == [(3, None), (1, None)]


def test_truncation(model: VAE, mb: Minibatch) -> None:
    few = torch.from_numpy(np.random.default_rng(0).dirichlet(np.full(16, 0.1), size=N).T)
    assert (few > 0.25).any()
    expected = np.minimum(few.numpy(), 0.25)
    cut = importance.truncated(few).numpy()
    np.testing.assert_allclose(cut, expected / expected.sum(0))
    assert (effective_size(cut) >= effective_size(few.numpy()) - 1e-9).all()
    given, asked = (importance.weights(model, [mb], 3, flag, generator())[0] for flag in (False, True))
    np.testing.assert_allclose(asked, importance.truncated(torch.from_numpy(given)).numpy())
    assert not np.array_equal(asked, given)
