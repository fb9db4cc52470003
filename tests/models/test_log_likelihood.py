"""The 2020 log densities against float64 formulas, and the objectives over a posterior against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp as scipy_logsumexp
from torch import Tensor

import oracles
from scvi.minibatch import Minibatch
from scvi.models import VAE, log_likelihood
from scvi.models.log_likelihood import (
    compute_elbo,
    compute_marginal_log_likelihood_scvi,
    compute_reconstruction_error,
    log_mixture_nb,
    log_nb_positive,
    log_zinb_positive,
)


def grid() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = torch.tensor([0.0, 1, 2, 10, 1000, 1e5], dtype=torch.float64).view(-1, 1, 1, 1)
    mu = torch.logspace(-8, 5, 10, dtype=torch.float64).view(1, -1, 1, 1)
    theta = torch.logspace(-4, 3, 8, dtype=torch.float64).view(1, 1, -1, 1)
    pi = torch.tensor([-30.0, -2, 0, 3, 30], dtype=torch.float64)
    return tuple(torch.broadcast_tensors(x, mu, theta, pi))  # type: ignore[return-value]


def test_log_nb_positive() -> None:
    x, mu, theta, _ = grid()
    expected = torch.from_numpy(oracles.log_nb(x, mu, theta))
    assert torch.allclose(log_nb_positive(x, mu, theta), expected, rtol=1e-8, atol=1e-8)


def test_log_zinb_positive() -> None:
    x, mu, theta, pi = grid()
    expected = torch.from_numpy(oracles.log_zinb(x, mu, theta, pi))
    assert torch.allclose(log_zinb_positive(x, mu, theta, pi), expected, rtol=1e-8, atol=1e-8)


def test_eps_is_added_inside_the_logarithms() -> None:
    x, mu, theta, _ = grid()
    expected = torch.from_numpy(oracles.log_nb(x, mu, theta, eps=1e-3))
    assert torch.allclose(log_nb_positive(x, mu, theta, eps=1e-3), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shared", [False, True])
def test_log_mixture_nb(shared: bool) -> None:
    x, mu, theta, pi = grid()
    other_mu = mu.flip(1)
    theta_2 = None if shared else theta.flip(2)
    expected = oracles.log_nb_mixture(x, mu, other_mu, theta, theta if shared else theta_2, pi)
    got = log_mixture_nb(x, mu, other_mu, theta, theta_2, pi)
    assert torch.allclose(got, torch.from_numpy(expected), rtol=1e-8, atol=1e-8)


def test_logsumexp_is_torchs() -> None:
    assert log_likelihood.logsumexp is torch.logsumexp


@pytest.mark.parametrize("leading", [(), (3,)], ids=["minibatch", "draws"])
def test_shapes(leading: tuple[int, ...]) -> None:
    x, mu, theta, pi = torch.ones(4, 5), torch.ones(*leading, 4, 5), torch.ones(5), torch.zeros(*leading, 4, 5)
    assert log_nb_positive(x, mu, theta).shape == (*leading, 4, 5)
    assert log_zinb_positive(x, mu, theta, pi).shape == (*leading, 4, 5)
    assert log_mixture_nb(x, mu, mu, theta, None, pi).shape == (*leading, 4, 5)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.tensor([[0.0, 1.0, 7.0], [3.0, 0.0, 0.0]], dtype=torch.float64)
    mu, theta, pi = (torch.rand(2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda m, t: log_nb_positive(x, m, t), (mu, theta))
    assert torch.autograd.gradcheck(lambda m, t, p: log_zinb_positive(x, m, t, p), (mu, theta, pi))
    assert torch.autograd.gradcheck(lambda m, t, p: log_mixture_nb(x, m, 2 * m, t, None, p), (mu, theta, pi))


# --- objectives over a posterior --------------------------------------------------------------------------------------


class FakePosterior(list):
    """What the 2020 functions ask of a posterior: minibatches and the positions of its cells."""

    indices: np.ndarray


def posterior(n_genes: int = 6, sizes: tuple[int, ...] = (5, 3), extra: bool = False, copies: int = 1) -> FakePosterior:
    generator = torch.Generator().manual_seed(0)
    out = FakePosterior()
    for n in sizes:
        x = torch.poisson(torch.full((n, n_genes), 2.0), generator=generator)
        prior = [torch.full((n, 1), 2.3), torch.full((n, 1), 0.2)]
        codes = [torch.randint(2, (n, 1), generator=generator) for _ in range(2)]
        tensors = [x, *prior, *codes, *([torch.zeros(n, 3)] if extra else [])]
        out.append([t.repeat(copies, 1) for t in tensors])
    out.indices = np.arange(copies * sum(sizes))
    return out


def model(**options: object) -> VAE:
    torch.manual_seed(1)
    return VAE(6, n_batch=2, n_labels=2, n_hidden=8, n_latent=2, **options).eval()  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("extra", [False, True], ids=["five tensors", "six tensors"])
def test_compute_elbo(extra: bool) -> None:
    vae, cells = model(dispersion="gene-label"), posterior(extra=extra)
    torch.manual_seed(2)
    total = 0.0
    for x, l_mean, l_var, batch, labels, *_ in cells:
        reconstruction, kl, kl_global = vae(x, l_mean, l_var, batch, labels)
        total += (reconstruction + kl).sum().item()
        assert kl_global == 0.0
    torch.manual_seed(2)
    got = compute_elbo(vae, cells)
    assert isinstance(got, float)
    assert got == pytest.approx(total / 8, rel=1e-6)


def test_compute_elbo_counts_the_global_term_once() -> None:
    class WithGlobal(torch.nn.Module):
        def forward(self, x: Tensor, *_: Tensor, **__: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return x.sum(1), torch.ones(len(x)), torch.tensor(40.0)

    cells = posterior()
    total = sum(tensors[0].sum().item() for tensors in cells)
    got = compute_elbo(WithGlobal(), cells)
    assert isinstance(got, float)
    assert got == pytest.approx((total + 8 + 40) / 8)


@torch.no_grad()
@pytest.mark.parametrize("loss", ["zinb", "nb", "poisson"])
def test_compute_reconstruction_error(loss: str) -> None:
    vae, cells = model(reconstruction_loss=loss), posterior(extra=True)
    torch.manual_seed(3)
    total = 0.0
    for x, _, _, batch, labels, _ in cells:
        out = vae.inference(x, batch, labels)
        mu, theta = out["px_rate"].double(), out["px_r"].double()
        if loss == "poisson":
            density = torch.distributions.Poisson(mu).log_prob(x.double())
        elif loss == "nb":
            density = torch.from_numpy(oracles.log_nb(x, mu, theta))
        else:
            density = torch.from_numpy(oracles.log_zinb(x, mu, theta, out["px_dropout"].double()))
        total -= density.sum().item()
    torch.manual_seed(3)
    got = compute_reconstruction_error(vae, cells)
    assert isinstance(got, float)
    assert got == pytest.approx(total / 8, rel=1e-5)


# --- marginal likelihood against numerical integration ---------------------------------------------------------------


@torch.no_grad()
def log_likelihood_at(vae: VAE, x: Tensor, z: Tensor, log_library: Tensor) -> np.ndarray:
    """log p(x | z, l) of one cell at every row of z, with the decoder's numbers and the oracle's density."""
    batch = torch.zeros(len(z), 1, dtype=torch.long)
    scale, _, rate, dropout = vae.decoder("gene", vae.z_encoder.z_transformation(z), log_library, batch)
    log_mu = log_library.double() + scale.double().log()
    assert torch.allclose(log_mu.exp(), rate.double(), rtol=1e-5)
    density = oracles.zero_inflated_negative_binomial(x, log_mu, vae.px_r.double(), dropout.double())
    return density.log_prob.value.sum(-1)


def cells_to_integrate() -> FakePosterior:
    x = torch.tensor([[0.0, 3, 1, 0, 12, 0], [1, 0, 0, 2, 0, 1], [30, 2, 9, 0, 0, 4]])
    batch = torch.zeros(3, 1, dtype=torch.long)
    prior = [torch.full((3, 1), 2.5), torch.full((3, 1), 0.4)]
    out = FakePosterior([[x, *prior, batch, batch]])
    out.indices = np.arange(3)
    return out


def steep(vae: VAE) -> VAE:
    """A decoder in which z matters, so that the posterior is far from the prior."""
    with torch.no_grad():
        vae.decoder.px_scale_decoder[0].weight.mul_(4)
    return vae


@pytest.mark.parametrize("latent_distribution", ["normal", "ln"])
def test_marginal_likelihood_with_the_observed_library(latent_distribution: str) -> None:
    # One latent dimension; two for 'ln', whose softmax of a single number is always 1.
    n_latent = 1 if latent_distribution == "normal" else 2
    torch.manual_seed(4)
    vae = steep(
        VAE(
            6,
            n_batch=2,
            n_hidden=16,
            n_latent=n_latent,
            latent_distribution=latent_distribution,
            use_observed_lib_size=True,
        ).eval()
    )
    cells = cells_to_integrate()
    line = np.linspace(-7, 7, 401 if n_latent == 1 else 141)
    points = np.stack(np.meshgrid(*[line] * n_latent, indexing="ij"), -1).reshape(-1, n_latent)
    volume = (line[1] - line[0]) ** n_latent
    log_prior = oracles.log_normal_pdf(points, 0.0, 1.0).sum(-1)
    z = torch.tensor(points, dtype=torch.float32)
    exact = []
    for x in cells[0][0]:
        log_library = x.sum().log().expand(len(z), 1)
        exact.append(scipy_logsumexp(log_likelihood_at(vae, x, z, log_library) + log_prior) + math.log(volume))

    torch.manual_seed(5)
    estimate = -compute_marginal_log_likelihood_scvi(vae, cells, n_samples_mc=40_000)
    assert estimate == pytest.approx(np.mean(exact), abs=0.02)


def test_marginal_likelihood_with_a_latent_library() -> None:
    torch.manual_seed(6)
    vae = steep(VAE(6, n_batch=2, n_hidden=16, n_latent=1).eval())
    torch.nn.init.constant_(vae.l_encoder.mean_encoder.bias, 2.5)  # a proposal that knows the scale of the library
    cells = cells_to_integrate()
    z_line, l_line = np.linspace(-6, 6, 121), np.linspace(-1.5, 6.5, 201)
    z, log_library = (torch.tensor(a.reshape(-1, 1), dtype=torch.float32) for a in np.meshgrid(z_line, l_line))
    exact = []
    for x in cells[0][0]:
        surface = log_likelihood_at(vae, x, z, log_library).reshape(len(l_line), len(z_line))
        over_z = [oracles.integrate_over_normal(row, z_line, 0.0, 1.0) for row in surface]
        exact.append(oracles.integrate_over_normal(np.array(over_z), l_line, 2.5, 0.4))

    torch.manual_seed(7)
    estimate = -compute_marginal_log_likelihood_scvi(vae, cells, n_samples_mc=40_000)
    assert estimate == pytest.approx(np.mean(exact), abs=0.03)


@torch.no_grad()
@pytest.mark.parametrize("latent_distribution", ["normal", "ln"])
@pytest.mark.parametrize("observed", [False, True], ids=["latent library", "observed library"])
def test_marginal_lies_above_the_elbo(latent_distribution: str, observed: bool) -> None:
    vae = model(latent_distribution=latent_distribution, use_observed_lib_size=observed)
    torch.manual_seed(8)
    elbo = -compute_elbo(vae, posterior(copies=500))
    assert -compute_marginal_log_likelihood_scvi(vae, posterior(), n_samples_mc=3000) > elbo


@torch.no_grad()
def test_one_importance_weighted_draw_is_the_elbo_on_average() -> None:
    # With one draw the bound is the ELBO, in which both KL terms are estimated instead of known.
    vae, cells = model(), posterior(copies=1000)
    torch.manual_seed(9)
    elbo, bound = compute_elbo(vae, cells), compute_marginal_log_likelihood_scvi(vae, cells, n_samples_mc=1)
    single = torch.cat([vae.marginal_log_likelihood(Minibatch.from_tensors(t), 1) for t in cells])
    assert bound == pytest.approx(elbo, abs=6 * single.std().item() / 8000**0.5)


def test_draws_in_blocks_are_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, cells = model(), posterior()
    torch.manual_seed(10)
    whole = compute_marginal_log_likelihood_scvi(vae, cells, n_samples_mc=3000)
    monkeypatch.setattr("scvi.models.base._MAX_ELEMENTS", 70 * 5 * 6)
    blocks = compute_marginal_log_likelihood_scvi(vae, cells, n_samples_mc=3000)
    assert blocks == pytest.approx(whole, abs=0.1)


@pytest.mark.parametrize("n_draws", [0, -3])
def test_no_draws_are_refused(n_draws: int) -> None:
    with pytest.raises(ValueError, match=f"{n_draws}"):
        compute_marginal_log_likelihood_scvi(model(), posterior(), n_samples_mc=n_draws)


def test_minibatch_of_the_five_tensors() -> None:
    tensors = posterior(extra=True)[0]
    mb = Minibatch.from_tensors(tensors)
    assert all(a is b for a, b in zip(mb.tensors(), tensors[:5], strict=True))
