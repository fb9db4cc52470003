"""Populations: mixtures of posteriors, and which states a sample has more of than another."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

import scvi
from asking import make
from scvi.queries import populations
from small_cells import QUICK, make_adata


@pytest.fixture(scope="module")
def posteriors():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 3)).astype(np.float32), rng.uniform(0.1, 2, (40, 3)).astype(np.float32)


def by_hand(means, variances, cell, cells, dof):
    """Log density of one cell's mean under the mixture of the others."""
    others = [other for other in cells if other != cell]
    kind = stats.norm if dof is None else stats.t(dof)
    densities = [
        np.prod(kind.pdf((means[cell] - means[i]) / np.sqrt(variances[i])) / np.sqrt(variances[i])) for i in others
    ]
    return np.log(np.mean(densities))


@pytest.mark.parametrize("dof", [None, 3.0])
@pytest.mark.parametrize("at_once", [2**22, 50])
def test_densities_are_those_of_a_loop(posteriors, dof, at_once, monkeypatch):
    monkeypatch.setattr(populations, "_AT_ONCE", at_once)
    means, variances = posteriors
    members = {"a": np.arange(0, 25), "b": np.arange(20, 38)}  # a cell may be in both, or in none
    found = populations.sample_densities(means, variances, members, dof)
    for cell in (0, 5, 22, 30, 39):
        expected = [by_hand(means, variances, cell, cells, dof) for cells in members.values()]
        np.testing.assert_allclose(found[cell], expected, rtol=1e-5)


def test_a_sample_of_one_cell_says_nothing_of_it(posteriors):
    found = populations.sample_densities(*posteriors, {"a": np.array([3]), "b": np.arange(4, 40)})
    assert np.isnan(found[3, 0])
    assert np.isfinite(np.delete(found[:, 0], 3)).all()


@pytest.mark.parametrize("dof", [None, 3.0])
def test_the_mixture_has_the_mean_density(posteriors, dof):
    means, variances = posteriors
    mixture = populations.aggregated_posterior(means, variances, dof)
    far = np.vstack([means, means[:1] + 50])  # the last is no member, and has all components
    found = populations.sample_densities(far, np.vstack([variances, variances[:1]]), {"a": np.arange(40)}, dof)
    np.testing.assert_allclose(mixture.log_prob(torch.from_numpy(far[-1:])).numpy(), found[-1], rtol=1e-4)


@pytest.fixture(scope="module")
def quick():
    adata = make_adata()
    model = make(scvi.SCVI, adata)
    model.train(**QUICK)
    return model, adata


def test_an_aggregated_posterior_is_of_the_cells_asked_about(quick):
    model, adata = quick
    mean, variance = model.get_latent_representation(return_dist=True, indices=[4, 9])
    found = model.get_aggregated_posterior(indices=[4, 9], dof=None).component_distribution.base_dist
    np.testing.assert_allclose(found.loc, mean)
    np.testing.assert_allclose(found.scale, np.sqrt(variance), rtol=1e-6)
    assert model.get_aggregated_posterior(adata).component_distribution.base_dist.df.unique().tolist() == [3.0]


def test_a_table_of_cells_and_samples(quick):
    model, adata = quick
    found = model.differential_abundance(sample_key="batch")
    assert list(found.index) == list(adata.obs_names)
    assert list(found.columns) == ["b0", "b1", "b2"]
    assert np.isfinite(found.to_numpy()).all()
    fewer = model.differential_abundance(adata, sample_key="batch", num_cells_posterior=20, seed=0)
    assert fewer.equals(model.differential_abundance(adata, sample_key="batch", num_cells_posterior=20, seed=0))
    assert 0.5 < np.corrcoef(fewer["b0"], found["b0"])[0, 1] < 0.9999


def test_cells_of_no_sample_have_densities(quick):
    model, adata = quick
    some = adata.copy()
    some.obs["donor"] = pd.Categorical(np.where(np.arange(150) < 20, None, np.arange(150) % 2))
    found = model.differential_abundance(some, sample_key="donor")
    assert list(found.columns) == ["0", "1"]
    assert np.isfinite(found.to_numpy()).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "needs sample_key"),
        ({"sample_key": "batches"}, KeyError, "sample_key='batches' is not a column"),
        ({"sample_key": "one"}, ValueError, "has 1 sample; abundances are compared between samples"),
        ({"sample_key": "number"}, ValueError, "sample_key='number': two categories are both '1', '1' as text; rename"),
        ({"sample_key": "batch", "dof": 0}, ValueError, "dof=0 is not a positive number or None"),
        ({"sample_key": "batch", "num_cells_posterior": 1}, ValueError, "num_cells_posterior=1"),
    ],
)
def test_what_cannot_be_asked_is_refused(quick, arguments, error, message):
    model, adata = quick
    adata.obs["one"] = "a"
    adata.obs["number"] = [1, "1"] * (adata.n_obs // 2)
    with pytest.raises(error, match=message):
        model.differential_abundance(**arguments)


@pytest.mark.parametrize("cls", [scvi.LinearSCVI, scvi.SCANVI, scvi.CondSCVI, scvi.AUTOZI, scvi.TOTALVI])
def test_each_estimator_is_asked_and_minified_cells_answer_alike(cls):
    model = make(cls)
    model.train(**QUICK)
    found = model.differential_abundance(sample_key="donor")
    assert found.shape == (150, 4)
    model.minify_adata()
    np.testing.assert_allclose(model.differential_abundance(sample_key="donor"), found, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_known_abundances_are_found(mixology):
    """Four samples of two conditions: in one of these the cells of one line are seven times rarer."""
    totals = np.asarray(mixology.X.sum(0)).ravel()
    adata = mixology[:, np.sort(np.argsort(-totals)[:250])].copy()
    rng = np.random.default_rng(0)
    adata.obs["sample"] = rng.choice(["control1", "control2", "treated1", "treated2"], adata.n_obs)
    is_line = (adata.obs["cell_type"] == "H1975").to_numpy()
    is_treated = adata.obs["sample"].str.startswith("treated").to_numpy()
    adata = adata[~(is_line & is_treated) | (rng.random(adata.n_obs) < 1 / 7)].copy()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, seed=0)
    model.train(max_epochs=20, seed=0, enable_progress_bar=False)
    density = model.differential_abundance(sample_key="sample")
    more = density[["control1", "control2"]].mean(axis=1) - density[["treated1", "treated2"]].mean(axis=1)
    line = adata.obs["cell_type"] == "H1975"
    assert roc_auc_score(line, more) > 0.95
    assert more[line].median() > np.log(7) - 0.5
    assert abs(more[~line].median()) < 0.5
    # without leaving it out, a cell would lie by far the best in its own sample
    own = density.to_numpy()[np.arange(len(density)), density.columns.get_indexer(adata.obs["sample"])]
    elsewhere = (density.sum(axis=1) - own) / 3
    assert abs((own - elsewhere)[~line].median()) < 0.3
