"""Numbers of checks against closed forms, and on shipped counts against what is known of them."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from scvi.queries import checks
from small_cells import TINY, make_adata


def history(**curves):
    return {name: pd.DataFrame({name: curve}, index=range(len(curve))) for name, curve in curves.items()}


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_a_loss_that_levels_off_has_converged():
    curve = 100 + 900 * np.exp(-np.arange(50) / 5)
    found = checks.convergence(history(elbo_train=curve))
    assert found.epochs == 50
    assert found.fall == pytest.approx(900, rel=1e-3)
    assert found.last_share < 0.01


def test_a_loss_that_falls_evenly_has_not():
    found = checks.convergence(history(elbo_train=np.linspace(1000, 500, 50)))
    assert found.last_share == pytest.approx(0.2, abs=0.03)
    assert checks.convergence(history(elbo_train=[1000.0, 600.0])).last_share == 1


def test_a_training_loss_that_falls_alone_is_no_reason_to_go_on():
    falls, flat = np.linspace(1000, 500, 50), np.full(50, 1000.0)
    assert checks.convergence(history(elbo_train=falls, elbo_validation=flat)).last_share == 0


@pytest.mark.parametrize("curves", [{}, {"elbo_train": []}, {"elbo_train": [1.0, np.nan]}])
def test_without_losses_nothing_is_said(curves):
    assert checks.convergence(history(**curves)) is None
    assert checks.held_out(history(**curves)) is None
    assert checks.kl_weight(history(**curves)) is None


def test_a_rise_of_validation_cells_is_measured_by_the_fall_of_training_cells():
    validation = np.array([110.0, 80, 60, 70, 90])
    found = checks.held_out(history(elbo_train=np.linspace(110, 10, 5), elbo_validation=validation))
    assert (found.best, found.best_epoch, found.now) == (60, 3, 90)
    assert found.rise == pytest.approx(0.3)
    stopped = checks.held_out(history(elbo_train=np.linspace(110, 10, 5), elbo_validation=validation), now=60.0)
    assert stopped.rise == 0


# ---- what is explained -----------------------------------------------------------------------------------------------


def test_deviances_are_those_of_poisson_densities():
    rng = np.random.default_rng(0)
    mean = rng.gamma(1.0, 2.0, (30, 4))
    x = rng.poisson(mean).astype(float)
    expected = (stats.poisson.logpmf(x, np.maximum(x, 1e-300)) - stats.poisson.logpmf(x, mean)).sum(0)
    np.testing.assert_allclose(checks._deviance(x, mean), expected)


def test_means_of_batches_and_clusters_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    x, batch, clusters = rng.poisson(2.0, (40, 5)).astype(float), rng.integers(2, size=40), rng.integers(3, size=40)
    totals = x.sum(1) + 1
    alone = checks._from_batches(x, totals, batch)
    found = checks._from_clusters(x, alone, clusters)
    for cell in range(40):
        same = batch == batch[cell]
        np.testing.assert_allclose(alone[cell], totals[cell] * x[same].sum(0) / totals[same].sum())
        others = (clusters == clusters[cell]) & (np.arange(40) != cell)
        factor = (x[others].sum(0) + 1) / (alone[others].sum(0) + 1)
        np.testing.assert_allclose(found[cell], alone[cell] * factor)


def test_a_model_of_noise_explains_nothing(untrained):
    model, minibatches, counts, batch = untrained
    genes = checks.clear_genes(counts)
    components = checks.principal_components(counts, genes)
    found = checks.explained(model, minibatches(), counts, genes, batch, components)
    assert found.model < 0.05 < found.clusters


@pytest.fixture(scope="module")
def untrained():
    import scvi

    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, **TINY)
    data = model._cells.data

    def minibatches():
        return data.minibatches(np.arange(len(data)), 64)

    return model.module, minibatches, checks.as_csr(minibatches()), data.batch


def test_counts_are_gathered_as_they_are(untrained):
    np.testing.assert_array_equal(untrained[2].toarray(), make_adata().X.toarray())


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(mixology):
    counts = sparse.csr_array(mixology.X)[:, ::4]
    return counts, np.unique(mixology.obs["batch"].astype(str), return_inverse=True)[1]


def test_real_batches_differ_and_shuffled_ones_do_not(real):
    counts, batch = real
    found = checks.batch_information(counts, batch, np.random.default_rng(0))
    assert found.differ
    assert found.z > 50
    assert found.n_genes > 200
    for seed in range(5):
        rng = np.random.default_rng(seed)
        found = checks.batch_information(counts, rng.permutation(batch), rng)
        assert not found.differ
        assert abs(found.z) < 4
        assert found.would_be_seen


def test_shares_of_variance_are_those_of_an_analysis_of_variance(real):
    counts, batch = real
    (found, _), logs = checks._shares(counts, batch, np.random.default_rng(0)), checks.clustering.scaled_logs(counts)
    varies = logs.toarray().std(0) > 0
    for gene in (0, 7, 30):
        values = logs[:, np.flatnonzero(varies)[[gene]]].toarray()[:, 0]
        f = stats.f_oneway(*(values[batch == code] for code in np.unique(batch))).statistic
        k, n = batch.max() + 1, len(batch)
        np.testing.assert_allclose(found[gene], 1 / (1 + (n - k) / (f * (k - 1))), rtol=1e-6)


def test_few_counts_show_no_difference(real):
    counts, batch = real
    rng = np.random.default_rng(0)
    fewer = counts.astype(np.int64).copy()
    fewer.data = rng.binomial(fewer.data, 0.002)
    found = checks.batch_information(fewer, rng.permutation(batch), rng)
    assert not found.would_be_seen


def test_mixing_is_one_by_chance_and_none_where_batches_are_apart():
    rng = np.random.default_rng(0)
    batch = np.repeat([0, 1], 200)
    together, apart = rng.normal(size=(400, 3)), rng.normal(size=(400, 3)) + 50 * batch[:, None]
    found = checks.mixing(together, apart, batch, rng)
    assert found.latent == pytest.approx(1, abs=0.02)
    assert found.components == 0
    assert checks.mixing(together, None, batch, rng).components is None


def test_components_within_batches_have_no_means():
    rng = np.random.default_rng(0)
    values, batch = rng.normal(size=(30, 2)), np.arange(30) % 3
    found = checks.within_batches(values + batch[:, None], batch)
    for code in range(3):
        np.testing.assert_allclose(found[batch == code].mean(0), 0, atol=1e-12)
