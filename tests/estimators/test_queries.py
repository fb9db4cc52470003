"""Answers of the estimators against hand-written loops over the network, integration, and the 2020 door."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import oracles
import scvi
from grids import each_of
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import Posterior
from scvi.minibatch import Minibatch
from scvi.models import VAE
from scvi.models.base import blocks_of_draws, observed_log_size
from small_cells import KEYS, QUICK, TINY, G, N, make_adata

CELLS = [3, 99, 17, 60, 5]


def fit(setup: dict[str, Any] | None = None, **options: Any) -> scvi.SCVI:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, **({"batch_key": "batch"} if setup is None else setup))
    model = scvi.SCVI(adata, **{**TINY, **options})
    model.train(**QUICK)
    return model


@pytest.fixture(scope="module")
def fitted() -> scvi.SCVI:
    """ZINB, observed library, three batches."""
    return fit()


@pytest.fixture(scope="module")
def full() -> scvi.SCVI:
    """Latent library, all covariates, batch-wise dispersion."""
    keys = {**KEYS, "size_factor_key": None}
    return fit(keys, use_observed_lib_size=False, dispersion="gene-batch", encode_covariates=True)


@pytest.fixture(scope="module")
def sized() -> scvi.SCVI:
    """Given size factors, all covariates, label-wise dispersion."""
    return fit(KEYS, dispersion="gene-label", encode_covariates=True)


@pytest.fixture(params=["fitted", "full", "sized"])
def either(request: pytest.FixtureRequest) -> scvi.SCVI:
    return request.getfixturevalue(request.param)


def minibatch(model: scvi.SCVI, cells: list[int] = CELLS) -> Minibatch:
    """The cells as the network reads them, written by hand."""
    adata, schema = model.adata, model.schema
    obs = adata.obs.iloc[cells]

    def codes(key: str) -> torch.Tensor:
        names = list(schema.categories[key])
        return torch.tensor([[names.index(str(value))] for value in obs[key]])

    rows = adata.X[cells].toarray()
    totals = np.asarray(adata.X.sum(1)).ravel()
    batches = adata.obs["batch"].to_numpy()
    moments = {b: (np.log(totals[batches == b]).mean(), np.log(totals[batches == b]).var()) for b in np.unique(batches)}
    prior = torch.tensor([moments[b] for b in obs["batch"]], dtype=torch.float32)
    more: dict[str, Any] = {}
    if schema.size_factor_key:
        size = adata.obs["size"].to_numpy()
        scaled = size[cells] / size.mean() * totals.mean()
        more["log_size"] = torch.tensor(np.log(scaled)[:, None], dtype=torch.float32)
    if schema.continuous_covariate_keys:
        numbers = adata.obs[["age", "score"]].to_numpy()
        standardised = (numbers[cells] - numbers.mean(0)) / numbers.std(0)
        more["continuous"] = torch.tensor(standardised, dtype=torch.float32)
        more["categorical"] = torch.cat([codes("donor"), codes("treated")], 1)
    return Minibatch(
        counts=torch.from_numpy(rows),
        batch=codes("batch"),
        labels=codes("cell_type") if schema.labels_key else torch.zeros(len(cells), 1, dtype=torch.long),
        l_mean=prior[:, :1],
        l_var=prior[:, 1:],
        **more,
    )


class Draws:
    """The posterior draws of a question with this seed, in its own order: z, then the library, draw after draw."""

    @torch.no_grad()
    def __init__(self, model: scvi.SCVI, mb: Minibatch, n_samples: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        q = model.module.variational(mb)
        z_noise = torch.randn(n_samples, *q.z.loc.shape, generator=generator)
        self.z = q.z.loc + q.z.scale * z_noise
        if q.l is None:
            self.log_library = observed_log_size(mb).expand(n_samples, -1, -1)
        else:
            self.log_library = q.l.loc + q.l.scale * torch.randn(n_samples, *q.l.loc.shape, generator=generator)


@torch.no_grad()
def decoded(model: scvi.SCVI, draws: Draws, mb: Minibatch, batch: int | None = None) -> list[Any]:
    """One draw at a time."""
    pairs = zip(draws.z, draws.log_library, strict=True)
    return [model.module.generative(z, log_library, mb, batch).genes for z, log_library in pairs]


# ---- latent space ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_latent_means_and_variances(either: scvi.SCVI) -> None:
    mb = minibatch(either)
    qz = either.module.variational(mb).z
    latent = either.get_latent_representation(indices=CELLS)
    np.testing.assert_allclose(latent, qz.loc, rtol=1e-5, atol=1e-6)
    mean, variance = either.get_latent_representation(indices=CELLS, return_dist=True)
    assert np.array_equal(mean, latent)
    np.testing.assert_allclose(variance, qz.scale**2, rtol=1e-5)
    assert latent.dtype == variance.dtype == np.float32


def test_latent_draws(fitted: scvi.SCVI) -> None:
    mean, variance = fitted.get_latent_representation(return_dist=True)
    draws = np.stack([fitted.get_latent_representation(give_mean=False, seed=seed) for seed in range(200)])
    assert np.array_equal(draws[3], fitted.get_latent_representation(give_mean=False, seed=3))
    z = (draws.mean(0) - mean) / np.sqrt(variance / 200)
    assert abs(z).max() < 5.5
    assert abs(z.std() - 1) < 0.1
    np.testing.assert_allclose(draws.var(0) / variance, 1.0, atol=0.6)


def test_a_logistic_normal_latent_space() -> None:
    model = fit(latent_distribution="ln")
    z = model.get_latent_representation(seed=0)
    assert (z > 0).all()
    np.testing.assert_allclose(z.sum(1), 1.0, rtol=1e-4)
    draw = model.get_latent_representation(give_mean=False, seed=0)
    np.testing.assert_allclose(draw.sum(1), 1.0, rtol=1e-4)
    mean, variance = model.get_latent_representation(return_dist=True)
    noise = np.random.default_rng(0).normal(size=(20_000, 3))
    for cell in CELLS:
        logits = mean[cell] + np.sqrt(variance[cell]) * noise
        softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(z[cell], softmax.mean(0), atol=0.02)
    assert not np.array_equal(z, model.get_latent_representation(seed=1))
    rough = model.get_latent_representation(seed=0, mc_samples=1)
    assert np.abs(rough - z).max() > np.abs(model.get_latent_representation(seed=1) - z).max()
    with pytest.raises(ValueError, match="mc_samples=0 is not a positive integer"):
        model.get_latent_representation(mc_samples=0)


# ---- library size ----------------------------------------------------------------------------------------------------


def test_an_observed_library_size_is_the_total(fitted: scvi.SCVI) -> None:
    totals = np.asarray(fitted.adata.X.sum(1))
    np.testing.assert_allclose(fitted.get_latent_library_size(), totals, rtol=1e-5)
    assert np.array_equal(fitted.get_latent_library_size(), fitted.get_latent_library_size(give_mean=False))


@torch.no_grad()
def test_a_latent_library_size(full: scvi.SCVI) -> None:
    ql = full.module.variational(minibatch(full)).l
    np.testing.assert_allclose(full.get_latent_library_size(indices=CELLS), ql.loc.exp(), rtol=1e-4)
    draws = np.stack([np.log(full.get_latent_library_size(indices=CELLS, give_mean=False, seed=i)) for i in range(400)])
    np.testing.assert_allclose((draws.mean(0) - ql.loc.numpy()) / (ql.scale.numpy() / 20), 0.0, atol=4.5)
    np.testing.assert_allclose(draws.std(0) / ql.scale.numpy(), 1.0, atol=0.2)


# ---- normalised expression -------------------------------------------------------------------------------------------


def test_normalised_expression_is_a_table(fitted: scvi.SCVI) -> None:
    table = fitted.get_normalized_expression(indices=CELLS, seed=0)
    assert isinstance(table, pd.DataFrame)
    assert table.index.tolist() == [f"cell{i}" for i in CELLS]
    assert table.columns.tolist() == [f"gene{j}" for j in range(G)]
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-5)
    assert (table.to_numpy() >= 0).all()
    array = fitted.get_normalized_expression(indices=CELLS, seed=0, return_numpy=True)
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, table)


@each_of(library_size=[1, 1e4, np.float32(50), np.int64(7), "latent"], n_samples=[1, 3], return_mean=[True, False])
def test_normalised_expression(either: scvi.SCVI, n_samples: int, return_mean: bool, library_size: Any) -> None:
    mb = minibatch(either)
    draws = decoded(either, Draws(either, mb, n_samples, seed=5), mb)
    values = [d.scale * d.log_size.exp() if library_size == "latent" else d.scale * library_size for d in draws]
    expected = torch.stack(values).numpy()
    answer = either.get_normalized_expression(
        indices=CELLS,
        n_samples=n_samples,
        return_mean=return_mean,
        library_size=library_size,
        return_numpy=True,
        seed=5,
    )
    if return_mean or n_samples == 1:
        assert answer.shape == (len(CELLS), G)
        np.testing.assert_allclose(answer, expected.mean(0), rtol=1e-4)
    else:
        assert answer.shape == (3, len(CELLS), G)
        np.testing.assert_allclose(answer, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("names", "codes"), [("b1", [1]), (["b2"], [2]), (["b0", "b2"], [0, 2]), (("b1", "b1"), [1, 1])]
)
def test_expression_in_other_batches(either: scvi.SCVI, names: Any, codes: list[int]) -> None:
    mb = minibatch(either)
    draws = Draws(either, mb, 2, seed=0)
    expected = [d.scale for code in codes for d in decoded(either, draws, mb, code)]
    answer = either.get_normalized_expression(
        indices=CELLS, transform_batch=names, n_samples=2, return_numpy=True, seed=0
    )
    np.testing.assert_allclose(answer, torch.stack(expected).mean(0), rtol=1e-4)


def test_several_batches_are_averaged_with_the_same_draws(fitted: scvi.SCVI) -> None:
    answers = [fitted.get_normalized_expression(transform_batch=name, seed=3) for name in ("b0", "b1", "b2")]
    mean = fitted.get_normalized_expression(transform_batch=["b0", "b1", "b2"], seed=3)
    np.testing.assert_allclose(mean, sum(answers) / 3, rtol=1e-5)
    array = fitted.get_normalized_expression(transform_batch=np.array(["b0", "b1", "b2"]), seed=3)
    pd.testing.assert_frame_equal(array, mean)


def test_the_own_batch_is_the_default(fitted: scvi.SCVI) -> None:
    in_b1 = np.flatnonzero(fitted.adata.obs["batch"] == "b1")
    own = fitted.get_normalized_expression(indices=in_b1, seed=0)
    pd.testing.assert_frame_equal(own, fitted.get_normalized_expression(indices=in_b1, transform_batch="b1", seed=0))
    assert not own.equals(fitted.get_normalized_expression(indices=in_b1, transform_batch="b0", seed=0))


def test_genes_come_in_the_order_wanted(fitted: scvi.SCVI) -> None:
    whole = fitted.get_normalized_expression(seed=0)
    for names in (["gene7", "gene0", "gene39"], np.array(["gene3"]), pd.Index(["gene5", "gene4"]), ("gene1", "gene1")):
        part = fitted.get_normalized_expression(gene_list=names, seed=0)
        assert part.columns.tolist() == list(names)
        np.testing.assert_allclose(part, whole[list(names)], rtol=1e-5)
    assert fitted.get_normalized_expression(gene_list="gene2", seed=0).columns.tolist() == ["gene2"]
    draws = fitted.get_normalized_expression(gene_list=["gene2", "gene1"], n_samples=3, return_mean=False, seed=0)
    assert draws.shape == (3, N, 2)


def test_draws_of_some_cells(fitted: scvi.SCVI) -> None:
    table = fitted.get_normalized_expression(indices=[4, 90], n_samples_overall=1000, seed=0)
    assert table.shape == (1000, G)
    share = (table.index == "cell4").mean()
    assert set(table.index) == {"cell4", "cell90"}
    assert 0.42 < share < 0.58
    assert len(np.unique(table.to_numpy(), axis=0)) == 1000  # a draw of its own for each
    pd.testing.assert_frame_equal(
        table, fitted.get_normalized_expression(indices=[4, 90], n_samples_overall=1000, seed=0)
    )
    other = fitted.get_normalized_expression(indices=[4, 90], n_samples_overall=1000, seed=1)
    assert other.index.tolist() != table.index.tolist()


def test_many_draws_in_blocks(fitted: scvi.SCVI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvi.models.base._MAX_ELEMENTS", 2 * len(CELLS) * G)
    draws = fitted.get_normalized_expression(indices=CELLS, n_samples=7, return_mean=False, seed=0)
    assert draws.shape == (7, len(CELLS), G)
    assert len(np.unique(draws[:, 0, 0])) == 7
    mean = fitted.get_normalized_expression(indices=CELLS, n_samples=7, return_numpy=True, seed=0)
    np.testing.assert_allclose(mean, draws.mean(0), rtol=1e-5)
    parameters = fitted.get_likelihood_parameters(indices=CELLS, n_samples=7, seed=0)
    totals = np.asarray(fitted.adata.X[CELLS].sum(1))
    np.testing.assert_allclose(parameters["mean"], draws * totals, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform_batch": "b3"}, r"transform_batch='b3' is not a batch of the model; there are 'b0', 'b1', 'b2'"),
        (
            {"transform_batch": ["b1", "xyz"]},
            r"transform_batch='xyz' is not a batch of the model; there are 'b0', 'b1', 'b2'",
        ),
        ({"transform_batch": 1}, "transform_batch=1 is not a batch"),
        ({"transform_batch": []}, "transform_batch is an empty list"),
        (
            {"gene_list": ["gene1", "gen2"]},
            r"gene_list has 'gen2', which is not a gene of the model; did you mean 'gene2'",
        ),
        ({"library_size": "observed"}, "library_size='observed' is neither 'latent' nor a positive number"),
        ({"library_size": 0}, "library_size=0"),
        ({"library_size": -1e4}, r"library_size=-10000\.0"),
        ({"library_size": np.inf}, "library_size=inf"),
        ({"library_size": np.nan}, "library_size=nan"),
        ({"library_size": None}, "library_size=None"),
        ({"library_size": np.ones(N)}, "library_size=array"),
        ({"n_samples": 0}, "n_samples=0 is not a positive integer"),
        ({"n_samples": 2.5}, r"n_samples=2\.5"),
        ({"n_samples_overall": 0}, "n_samples_overall=0"),
        ({"n_samples_overall": -4}, "n_samples_overall=-4"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(fitted: scvi.SCVI, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted.get_normalized_expression(**arguments)


# ---- parameters of the likelihood ------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-cell"])
def test_likelihood_parameters(likelihood: Any, dispersion: Any) -> None:
    model = fit(gene_likelihood=likelihood, dispersion=dispersion)
    mb = minibatch(model)
    draws = decoded(model, Draws(model, mb, 3, seed=2), mb)
    expected = {"mean": [d.scale * d.log_size.exp() for d in draws]}
    if likelihood != "poisson":
        expected["dispersions"] = [d.log_theta.detach().exp().expand(len(CELLS), G) for d in draws]
    if likelihood == "zinb":
        expected["dropout"] = [d.dropout for d in draws]
    many = model.get_likelihood_parameters(indices=CELLS, n_samples=3, seed=2)
    mean = model.get_likelihood_parameters(indices=CELLS, n_samples=3, give_mean=True, seed=2)
    assert list(many) == list(mean) == list(expected)
    for name, values in expected.items():
        assert many[name].shape == (3, len(CELLS), G)
        np.testing.assert_allclose(many[name], torch.stack(values), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean[name], torch.stack(values).mean(0), rtol=1e-4, atol=1e-5)
    assert model.get_likelihood_parameters()["mean"].shape == (N, G)
    with pytest.raises(ValueError, match="n_samples=0"):
        model.get_likelihood_parameters(n_samples=0)


# ---- scores ----------------------------------------------------------------------------------------------------------


def scores(model: scvi.SCVI, mb: Minibatch, d: Any) -> np.ndarray:
    """Log-likelihoods of the cells, by scipy."""
    x, mu, theta = mb.x.double().numpy(), d.rate.double().numpy(), d.theta.double().numpy()
    theta = np.broadcast_to(theta, mu.shape)
    log_nb = stats.nbinom.logpmf(x, theta, theta / (theta + mu))
    dropout = 1 / (1 + np.exp(-d.dropout.double().numpy()))
    return np.log(dropout * (x == 0) + (1 - dropout) * np.exp(log_nb)).sum(1)


@torch.no_grad()
def test_elbo_and_reconstruction_error(either: scvi.SCVI) -> None:
    mb, module = minibatch(either), either.module
    q = module.variational(mb)
    generator = torch.Generator().manual_seed(4)
    log_library, kl = observed_log_size(mb), 0.0
    if q.l is not None:  # the library is drawn before the state, here
        log_library = q.l.loc + q.l.scale * torch.randn(q.l.loc.shape, generator=generator)
        kl = oracles.kl_normal(q.l.loc, q.l.scale**2, mb.l_mean, mb.l_var).sum(1)
    z = q.z.loc + q.z.scale * torch.randn(q.z.loc.shape, generator=generator)
    reconstruction = scores(either, mb, module.generative(z, log_library, mb).genes)
    kl = kl + oracles.kl_normal(q.z.loc, q.z.scale**2, 0.0, 1.0).sum(1)

    losses = either.get_reconstruction_error(indices=CELLS, return_mean=False, seed=4)
    assert list(losses) == ["reconstruction_loss"]
    np.testing.assert_allclose(losses["reconstruction_loss"], -reconstruction, rtol=1e-4)
    elbo = either.get_elbo(indices=CELLS, return_mean=False, seed=4)
    np.testing.assert_allclose(elbo, reconstruction - kl, rtol=1e-4)
    means = either.get_reconstruction_error(indices=CELLS, seed=4)
    for mean, values in ((either.get_elbo(indices=CELLS, seed=4), elbo), (*means.values(), *losses.values())):
        assert isinstance(mean, float)
        assert mean == pytest.approx(values.mean(), rel=1e-6)


def test_arguments_of_scripts(fitted: scvi.SCVI) -> None:
    """They change how an answer comes about, or nothing, and not what it is."""
    expression = fitted.get_normalized_expression(silent=False, return_numpy=None, seed=0)
    pd.testing.assert_frame_equal(expression, fitted.get_normalized_expression(seed=0))
    with pytest.raises(ValueError, match="silent='yes' is not True or False"):
        fitted.get_normalized_expression(silent="yes")
    scores = [fitted.get_marginal_ll(n_mc_samples=200, n_mc_samples_per_pass=n, seed=0) for n in (None, 1000, 200, 7)]
    assert scores[0] == scores[1] == scores[2]
    assert scores[3] == pytest.approx(scores[0], rel=0.01)
    with pytest.raises(ValueError, match="n_mc_samples_per_pass=0 is not a positive integer"):
        fitted.get_marginal_ll(n_mc_samples_per_pass=0)


def test_blocks_of_draws_are_as_small_as_asked(fitted: scvi.SCVI) -> None:
    mb = minibatch(fitted)
    assert blocks_of_draws(mb, 10, 4) == [4, 4, 2]
    assert blocks_of_draws(mb, 3, 4) == [3]


def test_signs(fitted: scvi.SCVI) -> None:
    """Bounds are log-likelihoods, errors and the history are losses."""
    loss = fitted.get_reconstruction_error(seed=0)["reconstruction_loss"]
    assert loss > 0
    assert fitted.get_elbo(seed=0) < -loss
    assert (fitted.history["elbo_validation"] > 0).all(axis=None)
    last = fitted.history["elbo_validation"].iloc[-1, 0]
    assert fitted.get_elbo(indices=fitted.validation_indices, seed=0) == pytest.approx(-last, rel=0.05)


@pytest.mark.parametrize("distribution", ["normal", "ln"])
@pytest.mark.parametrize("latent_library", [False, True])
def test_the_marginal_likelihood_lies_above_the_bound(distribution: Any, latent_library: bool) -> None:
    model = fit(latent_distribution=distribution, use_observed_lib_size=not latent_library)
    elbo = np.mean([model.get_elbo(return_mean=False, seed=seed) for seed in range(50)], axis=0)
    few, many = (model.get_marginal_ll(n_mc_samples=n, return_mean=False, seed=0) for n in (20, 500))
    assert many.shape == (N,)
    assert (many > elbo - 0.3).all()
    assert many.mean() > few.mean() > elbo.mean()
    assert model.get_marginal_ll(n_mc_samples=20, seed=0) == pytest.approx(few.mean())
    with pytest.raises(ValueError, match="n_mc_samples=0 is not a positive integer"):
        model.get_marginal_ll(n_mc_samples=0)


@pytest.fixture(scope="module")
def one_dimension() -> scvi.SCVI:
    model = fit(n_latent=1)
    model.train(**{**QUICK, "max_epochs": 300})  # so long that q is near the posterior, whose draws weigh the same
    return model


@torch.no_grad()
def test_the_marginal_likelihood_is_the_integral(one_dimension: scvi.SCVI) -> None:
    mb = minibatch(one_dimension)
    points = np.linspace(-8, 8, 801)
    z = torch.from_numpy(points).float()[:, None, None].expand(-1, len(CELLS), 1)
    log_library = observed_log_size(mb).expand(len(points), -1, -1)
    d = one_dimension.module.generative(z, log_library, mb).genes
    log_f = -d.nll(mb).double().numpy()  # (points, n)
    exact = [oracles.integrate_over_normal(log_f[:, i], points, 0.0, 1.0) for i in range(len(CELLS))]
    answer = one_dimension.get_marginal_ll(indices=CELLS, n_mc_samples=20_000, return_mean=False, seed=0)
    np.testing.assert_allclose(answer, exact, atol=0.03)
    bound = np.mean([one_dimension.get_elbo(indices=CELLS, return_mean=False, seed=i) for i in range(300)], axis=0)
    assert (bound < np.array(exact) + 0.05).all()


# ---- both doors ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def doors() -> tuple[scvi.SCVI, Posterior]:
    """One network behind both doors."""
    adata = make_adata()
    adata.obs["codes"] = adata.obs["batch"].cat.codes.astype(int)
    scvi.SCVI.setup_anndata(adata, batch_key="codes")
    model = scvi.SCVI(adata, **TINY, use_observed_lib_size=False)
    model.train(**QUICK)
    vae = VAE(G, n_batch=3, n_labels=1, n_hidden=8, n_latent=3)
    vae.load_state_dict(model.module.state_dict())
    posterior = Posterior(vae.eval(), AnnDatasetFromAnnData(adata, batch_label="codes"), use_cuda=False).sequential()
    return model, posterior


@pytest.mark.usefixtures("global_numbers")
def test_both_doors_give_the_same_latents(doors: tuple[scvi.SCVI, Posterior]) -> None:
    model, posterior = doors
    latent, batches, _ = posterior.get_latent()
    np.testing.assert_allclose(latent, model.get_latent_representation(batch_size=128), rtol=1e-5, atol=1e-6)
    assert np.array_equal(np.ravel(batches), model.adata.obs["codes"])


@pytest.mark.usefixtures("global_numbers")
def test_both_doors_give_the_same_scores(doors: tuple[scvi.SCVI, Posterior], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sign of 2020 turned round in bounds; every draw is the mean, here."""
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))
    model, posterior = doors
    assert -posterior.elbo() == pytest.approx(model.get_elbo(), rel=1e-5)
    loss = model.get_reconstruction_error()["reconstruction_loss"]
    assert posterior.reconstruction_error() == pytest.approx(loss, rel=1e-5)
    assert -posterior.marginal_ll(n_mc_samples=2) == pytest.approx(model.get_marginal_ll(n_mc_samples=2), rel=1e-5)


def test_a_network_of_the_estimator_is_a_network_of_2020(fitted: scvi.SCVI) -> None:
    assert type(fitted.module) is VAE


# ---- linear decoder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_batch_norm", [True, False])
def test_loadings(use_batch_norm: bool) -> None:
    adata = make_adata()
    scvi.LinearSCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.LinearSCVI(adata, **TINY, use_batch_norm=use_batch_norm)
    model.train(**QUICK)
    loadings = model.get_loadings()
    assert loadings.index.tolist() == adata.var_names.tolist()
    assert loadings.columns.tolist() == ["Z_0", "Z_1", "Z_2"]
    # a step along a dimension moves the log frequencies by the loading, up to what all genes share
    mb = minibatch(model)
    z = torch.zeros(len(CELLS), 3)
    step = torch.tensor([0.0, 1.0, 0.0])
    with torch.no_grad():
        before, after = (model.module.generative(at, observed_log_size(mb), mb).genes for at in (z, z + step))
    moved = (after.scale.log() - before.scale.log()).numpy()
    expected = loadings["Z_1"].to_numpy()
    np.testing.assert_allclose(
        moved - moved.mean(1, keepdims=True),
        np.broadcast_to(expected - expected.mean(), moved.shape),
        atol=1e-4,
    )
