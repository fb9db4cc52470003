"""AutoZI against its definition: a mixture of NB and ZINB, with Beta posteriors of the weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, logit, logsumexp
from torch import Tensor

import oracles
from scvi.kernels import SparseRows
from scvi.minibatch import Minibatch
from scvi.models import AutoZIVAE
from scvi.models.log_likelihood import (
    compute_elbo,
    compute_marginal_log_likelihood_autozi,
    compute_marginal_log_likelihood_scvi,
    compute_reconstruction_error,
)
from scvi.queries.expression import Wanted, likelihood_parameters

N, G, K = 12, 7, 3
KINDS = ["gene", "gene-batch", "gene-label", "gene-cell"]
ALL_KINDS = pytest.mark.parametrize("kind", KINDS)


def counts(seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.negative_binomial(1.0, 0.25, (N, G)) + (np.arange(G) == 0), dtype=torch.float32)


def cells() -> Minibatch:
    codes = torch.arange(N)[:, None] % K
    ones = torch.ones(N, 1)
    return Minibatch(counts(), codes, (codes + 1) % K, l_mean=2.5 * ones, l_var=0.3 * ones)


def make(kind: str = "gene", **options: Any) -> AutoZIVAE:
    torch.manual_seed(0)
    sizes = {"n_batch": K, "n_labels": K, "n_hidden": 6, "n_latent": 2, "dropout_rate": 0.0}
    return AutoZIVAE(G, zero_inflation=kind, **{**sizes, **options}).eval()


def given(mb: Minibatch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(mb.tensors())  # type: ignore[return-value]


class Cells(list):
    """A 2020 posterior of two minibatches."""

    def __init__(self) -> None:
        tensors = cells().tensors()
        super().__init__([[t[:5] for t in tensors], [t[5:] for t in tensors]])


# ---- the likelihood --------------------------------------------------------------------------------------------------


@ALL_KINDS
def test_the_reconstruction_loss_is_that_of_the_mixture(kind: str) -> None:
    model, mb = make(kind, minimal_dropout=0.2), cells()
    out = model.inference(mb.x, mb.batch, mb.labels)
    names = ("px_rate", "px_r", "px_dropout", "bernoulli_params")
    mu, theta, dropout, delta = (out[name].detach().double().numpy() for name in names)
    assert (expit(dropout) >= 0.2).all()
    nb = oracles.log_nb(mb.x, mu, theta)
    zinb = oracles.log_zinb(mb.x, mu, theta, dropout)
    expected = -np.logaddexp(np.log(delta) + nb, np.log1p(-delta) + zinb).sum(-1)
    loss = model.get_reconstruction_loss(mb.x, *(out[name] for name in names))
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-5)


@ALL_KINDS
def test_training_uses_the_same_likelihood(kind: str) -> None:
    model, mb = make(kind), cells()
    q = model.variational(mb)
    delta = model.sample_bernoulli_params(mb.batch, mb.labels)
    decoded = model.generative(q.z.loc, q.l.loc, mb, delta=delta).genes
    raw = model.generative(q.z.loc, q.l.loc, mb, raw=True).genes
    pieces = raw.rate, raw.theta, model.rescale_dropout(raw.dropout_logits)
    expected = model.get_reconstruction_loss(mb.x, *pieces, bernoulli_params=delta)
    torch.testing.assert_close(decoded.nll(mb), expected, rtol=1e-4, atol=1e-4)
    sparse = decoded.nll(replace(mb, counts=SparseRows.of(mb.x)))
    torch.testing.assert_close(sparse, expected, rtol=1e-4, atol=1e-4)


def test_the_mean_of_delta_integrates_it_out() -> None:
    """A count's density is linear in delta, so averaging densities over the posterior is the density at its mean."""
    model, mb = make(), cells()
    q = model.variational(mb)
    one = Minibatch(mb.x[:1, :], mb.batch[:1], mb.labels[:1])
    z, log_library = q.z.loc[:1], q.l.loc[:1]
    exact = -model.generative(z, log_library, one).genes.nll(one).item()
    draws = model.posterior().sample((40_000,))
    many = z.expand(40_000, 1, -1)
    each = -model.generative(many, log_library, one, delta=draws[:, None]).genes.nll(one)
    estimate = logsumexp(each.detach().double().numpy()) - math.log(40_000)
    assert exact == pytest.approx(estimate, abs=0.05)


@pytest.mark.parametrize("m", [0.0, 0.01, 0.3])
def test_rescaled_dropout(m: float) -> None:
    model = make(minimal_dropout=m)
    x = torch.linspace(-8, 8, 30)
    expected = logit(m + (1 - m) * expit(x.double().numpy()))
    np.testing.assert_allclose(model.rescale_dropout(x).numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_gradients_reach_the_posterior_of_delta(kind: str) -> None:
    model, mb = make(kind).train(), cells()
    elbo = model.loss(mb)
    (elbo.objective() + elbo.global_kl / N).backward()
    for name in ("alpha_posterior_logit", "beta_posterior_logit"):
        gradient = getattr(model, name).grad
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).all()


def test_learned_priors_get_gradients() -> None:
    for kind in KINDS:
        model = make(kind, alpha_prior=None, beta_prior=None).train()
        assert model.alpha_prior_logit.shape == {"gene": (1,), "gene-cell": (1,)}.get(kind, (1, K))
        elbo = model.loss(cells())
        (elbo.objective() + elbo.global_kl).backward()
        assert (model.alpha_prior_logit.grad != 0).all()
        assert set(dict(model.named_parameters())) >= {"alpha_prior_logit", "beta_prior_logit"}


# ---- delta -----------------------------------------------------------------------------------------------------------


def test_beta_draws() -> None:
    model = make()
    draws = model.sample_from_beta_distribution(torch.full((50_000,), 0.7), torch.full((50_000,), 0.3))
    assert ((draws > 0) & (draws < 1)).all()
    assert stats.kstest(draws.numpy(), stats.beta(0.7, 0.3).cdf).pvalue > 1e-3
    tiny = model.sample_from_beta_distribution(torch.full((1000,), 1e-4), torch.full((1000,), 1e-4))
    assert torch.isfinite(tiny).all()
    assert ((tiny > 0) & (tiny < 1)).all()
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    first, second = (
        model.sample_from_beta_distribution(torch.ones(3) / 2, torch.ones(3) / 2, generator=g) for g in generators
    )
    assert torch.equal(first, second)


def test_beta_draws_are_differentiable() -> None:
    """d E[delta] / d alpha, against beta / (alpha + beta)**2."""
    alpha = torch.tensor(0.6, requires_grad=True)
    draws = make().sample_from_beta_distribution(alpha.expand(100_000), torch.full((100_000,), 0.4))
    draws.mean().backward()
    assert alpha.grad.item() == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_global_kl_against_monte_carlo(kind: str) -> None:
    model = make(kind, alpha_prior=0.4, beta_prior=0.7)
    for name in ("alpha_posterior_logit", "beta_posterior_logit"):
        getattr(model, name).data.clamp_(-1, 1)
    q, p = model.posterior(), model.prior()
    draws = q.sample((200_000,)).double().clamp(1e-12, 1 - 1e-12)
    terms = torch.distributions.Beta(q.concentration1.double(), q.concentration0.double()).log_prob(draws)
    terms = terms - torch.distributions.Beta(p.concentration1.double(), p.concentration0.double()).log_prob(draws)
    estimate = terms.mean(0).sum().item()
    assert model.compute_global_kl_divergence().item() == pytest.approx(estimate, rel=0.05)


def test_there_is_no_global_kl_where_cells_share_nothing() -> None:
    assert make("gene-cell").compute_global_kl_divergence() == 0


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"), [(0.3, 0.6, (0.3, 0.6)), (None, 0.2, (0.8, 0.2)), (0.9, None, (0.9, 0.1))]
)
def test_priors(alpha: float | None, beta: float | None, expected: tuple[float, float]) -> None:
    found = make(alpha_prior=alpha, beta_prior=beta).get_alphas_betas()
    np.testing.assert_allclose([found["alpha_prior"][0], found["beta_prior"][0]], expected, rtol=1e-5)


@pytest.mark.parametrize(("kind", "shape"), [("gene", (G,)), ("gene-batch", (G, K)), ("gene-label", (G, K))])
def test_alphas_and_betas(kind: str, shape: tuple[int, ...]) -> None:
    model = make(kind)
    found = model.get_alphas_betas()
    for name in ("alpha", "beta"):
        logits = getattr(model, f"{name}_posterior_logit").detach().numpy()
        assert found[f"{name}_posterior"].shape == shape
        np.testing.assert_allclose(found[f"{name}_posterior"], expit(logits), rtol=1e-6)
        assert found[f"{name}_prior"].tolist() == [0.5]
    assert isinstance(model.get_alphas_betas(as_numpy=False)["alpha_posterior"], Tensor)


@pytest.mark.parametrize("kind", KINDS[1:3])
def test_reshaping_takes_the_column_of_each_cell(kind: str) -> None:
    model, mb = make(kind), cells()
    codes = mb.batch if kind == "gene-batch" else mb.labels
    delta = torch.rand(4, G, K)
    expected = torch.stack([delta[:, :, c] for c in codes[:, 0]], dim=1)
    assert torch.equal(model.reshape_bernoulli(delta, mb.batch, mb.labels), expected)
    assert torch.equal(model.reshape_bernoulli(delta[0], mb.batch, mb.labels), expected[0])
    one_hot = torch.nn.functional.one_hot(codes[:, 0], K)
    given = {"batch_index": one_hot} if kind == "gene-batch" else {"y": one_hot}
    torch.testing.assert_close(model.reshape_bernoulli(delta, **given), expected)
    with pytest.raises(ValueError, match="needs batch_index" if kind == "gene-batch" else "needs y"):
        model.reshape_bernoulli(delta)


@pytest.mark.parametrize(
    ("kind", "one", "several"), [("gene", (G,), (5, G)), ("gene-batch", (N, G), (5, N, G)), ("gene-cell", (G,), (5, G))]
)
def test_shapes_of_draws(kind: str, one: tuple[int, ...], several: tuple[int, ...]) -> None:
    model, mb = make(kind), cells()
    assert model.sample_bernoulli_params(mb.batch, mb.labels).shape == one
    assert model.sample_bernoulli_params(mb.batch, mb.labels, n_samples=5).shape == several


# ---- gene-cell -------------------------------------------------------------------------------------------------------


def test_the_posterior_of_an_entry_is_exact() -> None:
    """Its mean, against Bayes' rule on a grid."""
    model, mb = make("gene-cell", alpha_prior=0.4, beta_prior=0.8, minimal_dropout=0.3), cells()
    q = model.variational(mb)
    raw = model.generative(q.z.loc, q.l.loc, mb, raw=True).genes
    mu, theta, dropout = (
        t.detach().double().numpy() for t in (raw.rate, raw.theta, model.rescale_dropout(raw.dropout_logits))
    )
    nb, zinb = np.exp(oracles.log_nb(mb.x, mu, theta)), np.exp(oracles.log_zinb(mb.x, mu, theta, dropout))
    quantiles = stats.beta(0.4, 0.8).ppf((np.arange(4000) + 0.5) / 4000)[:, None, None]  # equal shares of the prior
    likelihood = quantiles * nb + (1 - quantiles) * zinb
    expected = (quantiles * likelihood).sum(0) / likelihood.sum(0)
    np.testing.assert_allclose(model.posterior_of_entries(mb).mean.detach().numpy(), expected, rtol=1e-3)


def test_entries_have_a_posterior_with_gene_cell_only() -> None:
    with pytest.raises(ValueError, match="delta does not differ between cells"):
        make("gene").posterior_of_entries(cells())
    with pytest.raises(ValueError, match="use posterior_of_entries"):
        make("gene-cell").get_alphas_betas()


# ---- what a VAE answers ----------------------------------------------------------------------------------------------


@ALL_KINDS
@pytest.mark.parametrize("n_samples", [1, 3])
@pytest.mark.parametrize("transform_batch", [None, 1])
def test_the_methods_of_a_vae_work(kind: str, n_samples: int, transform_batch: int | None) -> None:
    model, mb = make(kind), cells()
    out = model.inference(mb.x, mb.batch, mb.labels, n_samples, transform_batch=transform_batch)
    shape = (N, G) if n_samples == 1 else (n_samples, N, G)
    assert out["px_rate"].shape == out["px_dropout"].shape == shape
    arguments = (mb.x, mb.batch, mb.labels, n_samples, transform_batch)
    assert model.get_sample_scale(*arguments).shape == model.get_sample_rate(*arguments).shape == shape
    names = ("px_rate", "px_r", "px_dropout", "bernoulli_params")
    loss = model.get_reconstruction_loss(mb.x, *(out[name] for name in names))
    assert loss.shape == shape[:-1]
    assert torch.isfinite(loss).all()


@torch.no_grad()
def test_the_fifth_argument_of_inference_is_that_of_2020() -> None:
    """What is added to the probability of no dropout; the batch to decode in goes by its name."""
    model, mb = make(minimal_dropout=0.25), cells()
    raw = super(AutoZIVAE, model)
    for eps_log in (1e-8, 0.1):
        torch.manual_seed(0)
        expected = raw.inference(mb.x, mb.batch, mb.labels)["px_dropout"]
        torch.manual_seed(0)
        found = model.inference(mb.x, mb.batch, mb.labels, 1, eps_log)["px_dropout"]
        assert torch.equal(found, model.rescale_dropout(expected, eps_log))
    with pytest.raises(ValueError, match=r"eps_log=2 is not a number in .*; transform_batch is passed by its name"):
        model.inference(mb.x, mb.batch, mb.labels, 1, 2)
    with pytest.raises(TypeError, match="positional argument"):
        model.inference(mb.x, mb.batch, mb.labels, 1, 1e-8, 2)


def test_delta_is_that_of_the_batch_decoded_in() -> None:
    model, mb = make("gene-batch"), cells()
    model.alpha_posterior_logit.data[:] = torch.tensor([-20.0, 20.0, -20.0])
    model.beta_posterior_logit.data[:] = torch.tensor([0.0, -20.0, 0.0])
    for batch, near in ((0, 0.0), (1, 1.0)):
        delta = model.inference(mb.x, mb.batch, mb.labels, transform_batch=batch)["bernoulli_params"]
        torch.testing.assert_close(delta, torch.full_like(delta, near), atol=1e-3, rtol=0)
    dropout = [model.generative(torch.zeros(N, 2), torch.zeros(N, 1), mb, batch=b).genes.dropout_logits for b in (0, 1)]
    assert (dropout[0] > dropout[1] + 3).all()


@ALL_KINDS
def test_forward_is_three_parts(kind: str) -> None:
    model = make(kind)
    mb = cells()
    x, l_mean, l_var, batch, labels = given(mb)
    rec, kl, kl_global = model(x, l_mean, l_var, batch, labels)
    assert rec.shape == kl.shape == (N,)
    torch.testing.assert_close(kl_global, model.compute_global_kl_divergence())


def test_the_answer_about_a_cell_does_not_depend_on_draws_of_delta() -> None:
    model, mb = make(), cells()
    first, second = (model.loss(mb, torch.Generator().manual_seed(0)).per_cell() for _ in range(2))
    assert torch.equal(first, second)
    draws = [model._elbo(mb, model.sample_bernoulli_params(), torch.Generator().manual_seed(0)) for _ in range(300)]
    averaged = torch.stack([elbo.per_cell().detach() for elbo in draws]).mean(0)
    assert (first.detach() < averaged).all()  # a loss: Jensen's inequality


def test_reported_dropout_is_that_of_the_mixture() -> None:
    model, mb = make(), cells()
    found = likelihood_parameters(model, [mb], Wanted(), torch.Generator().manual_seed(0))
    assert set(found) == {"mean", "dispersions", "dropout"}
    most = 1 - model.posterior().mean.detach().numpy()
    assert (expit(found["dropout"]) < most).all()
    assert (expit(found["dropout"]) > 0.009 * most).all()


# ---- objectives over a posterior -------------------------------------------------------------------------------------


def test_compute_elbo_counts_the_global_kl_once() -> None:
    model = make()
    with torch.no_grad():
        for name in ("alpha_posterior_logit", "beta_posterior_logit"):
            getattr(model, name).fill_(0.0 if name.startswith("alpha") else -12.0)  # delta is 1, or nearly
    values = [compute_elbo(model, Cells()) for _ in range(200)]
    assert all(isinstance(value, float) for value in values)
    with torch.no_grad():
        per_cell = [
            float(sum((r + k).sum() for r, k, _ in (model(*part[:3], part[3], part[4]) for part in Cells())))
            for _ in range(200)
        ]
    expected = (np.mean(per_cell) + model.compute_global_kl_divergence().item()) / N
    assert np.mean(values) == pytest.approx(expected, rel=0.02)


def test_reconstruction_error() -> None:
    model = make("gene-batch")
    found = np.mean([compute_reconstruction_error(model, Cells()) for _ in range(100)])
    mb = cells()
    losses = []
    with torch.no_grad():
        for _ in range(100):
            out = model.inference(mb.x, mb.batch, mb.labels)
            names = ("px_rate", "px_r", "px_dropout", "bernoulli_params")
            losses.append(model.get_reconstruction_loss(mb.x, *(out[n] for n in names)).mean().item())
    assert found == pytest.approx(np.mean(losses), rel=0.05)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_marginal_likelihood_against_integration(kind: str) -> None:
    """One gene, two cells, one latent dimension that nothing depends on: delta is all there is to integrate."""
    torch.manual_seed(1)
    model = AutoZIVAE(
        1,
        alpha_prior=0.6,
        beta_prior=0.5,
        minimal_dropout=0.3,
        zero_inflation=kind,
        n_batch=1,
        n_labels=1,
        n_hidden=3,
        n_latent=1,
        use_observed_lib_size=True,
    ).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        for name in ("mean_encoder", "var_encoder"):
            for parameter in getattr(model.z_encoder, name).parameters():
                parameter.zero_()  # q(z) is almost its prior
    code = torch.zeros(3, 1, dtype=torch.long)
    x = torch.tensor([[3.0], [0.0], [0.0]])
    tensors = [x, torch.zeros(3, 1), torch.ones(3, 1), code, code]
    found = compute_marginal_log_likelihood_autozi(model, [tensors], n_samples_mc=40_000)
    mu, theta = np.maximum(x.numpy(), 1), math.exp(model.px_r.item())
    dropout = logit(0.3 + 0.7 * 0.5)
    nb, zinb = np.exp(oracles.log_nb(x, mu, theta)), np.exp(oracles.log_zinb(x, mu, theta, dropout))
    delta = stats.beta(0.6, 0.5).ppf((np.arange(20_000) + 0.5) / 20_000)
    joint = np.prod([delta * a + (1 - delta) * b for a, b in zip(nb.ravel(), zinb.ravel(), strict=True)], axis=0)
    assert found == pytest.approx(-np.log(joint.mean()) / 3, abs=0.02)


def test_without_shared_delta_the_marginal_likelihood_is_that_of_scvi() -> None:
    model = make("gene-cell")
    torch.manual_seed(0)
    found = compute_marginal_log_likelihood_autozi(model, Cells(), n_samples_mc=20)
    torch.manual_seed(0)
    assert found == compute_marginal_log_likelihood_scvi(model, Cells(), n_samples_mc=20)


# ---- options and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reconstruction_loss": "nb"}, "leave out reconstruction_loss"),
        ({"zero_inflation": "cell"}, "zero_inflation='cell' is not one of 'gene', 'gene-batch'"),
        ({"minimal_dropout": 1.0}, r"minimal_dropout=1.0 is not a number in \[0, 1\)"),
        ({"minimal_dropout": -0.1}, "minimal_dropout=-0.1"),
        ({"alpha_prior": 0.0}, "alpha_prior=0.0 is neither a number between 0 and 1 nor None"),
        ({"beta_prior": 1}, "beta_prior=1 is neither"),
        ({"beta_prior": "half"}, "beta_prior='half'"),
        ({"zero_inflation": "gene-batch"}, "zero_inflation='gene-batch' needs n_batch >= 1, got n_batch=0"),
        ({"zero_inflation": "gene-label"}, "needs n_labels >= 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoZIVAE(G, **options)


def test_state_dict_keys() -> None:
    own = {"alpha_posterior_logit", "beta_posterior_logit", "alpha_prior_logit", "beta_prior_logit"}
    assert own <= set(make().state_dict())
    assert set(make("gene-cell").state_dict()) & own == {"alpha_prior_logit", "beta_prior_logit"}


def test_state_dicts_of_2020_have_no_fixed_priors() -> None:
    model = make(alpha_prior=0.3)
    state = {name: t for name, t in model.state_dict().items() if "prior" not in name}
    other = make(alpha_prior=0.3)
    other.load_state_dict(state)
    assert other.get_alphas_betas()["alpha_prior"].tolist() == pytest.approx([0.3])
    learned = make(alpha_prior=None, beta_prior=None)
    with pytest.raises(RuntimeError, match="alpha_prior_logit"):
        learned.load_state_dict(state)


def test_priors_move_with_the_model() -> None:
    assert make().to(torch.float64).alpha_prior_logit.dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS[1:3])
def test_data_of_more_categories_are_refused(kind: str) -> None:
    model = make(kind)
    sizes = {"gene-batch": (K + 1, K), "gene-label": (K, K + 1)}[kind]
    model.check_fits(G, K, K)
    with pytest.raises(ValueError, match="was made for other data"):
        model.check_fits(G, *sizes)
