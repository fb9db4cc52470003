"""Counts beside draws: sums against numpy, and a model whose own draws are checked is calibrated."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from scvi.estimators.verdicts import by_misfit
from scvi.minibatch import Minibatch
from scvi.models.vae import VAE
from scvi.queries.predictive_checks import Beside, PredictiveSums, beside_draws, mean_counts, ranked_features
from scvi.queries.residuals import GroupResiduals

N, G = 600, 12


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = VAE(G, n_latent=2, n_hidden=8, reconstruction_loss="zinb", use_observed_lib_size=True).eval()
    with torch.no_grad():
        model.px_r.copy_(torch.linspace(-1, 2, G))
    return model


def at_a_point(n, library=60.0):
    """Cells of which the posterior is known, and narrow, whatever their counts are."""
    kept = {
        "qz_mean": torch.zeros(n, 2),
        "qz_var": torch.full((n, 2), 1e-12),
        "log_library": torch.full((n, 1), float(np.log(library))),
    }
    zeros = torch.zeros(n, 1, dtype=torch.long)
    return Minibatch(
        torch.full((n, G), library / G), zeros, zeros, log_size=torch.full((n, 1), float(np.log(library))), kept=kept
    )


def drawn_by(model, n, seed, library=60.0):
    (block,) = beside_draws(model, [at_a_point(n, library)], "genes", np.arange(G), torch.Generator().manual_seed(seed))
    return block


def checked(model, counts, seed=1, library=60.0):
    mb = replace(at_a_point(len(counts), library), counts=torch.from_numpy(counts))
    (block,) = beside_draws(model, [mb], "genes", np.arange(G), torch.Generator().manual_seed(seed))
    return block


def test_draws_have_the_mean_and_the_variance_of_the_density(model):
    block = drawn_by(model, 4_000, 0)
    with torch.no_grad():
        genes = model.generative(torch.zeros(1, 1, 2), torch.full((1, 1, 1), float(np.log(60.0))), at_a_point(1)).genes
        density = genes.likelihood.distribution(genes.rate, genes.theta, genes.dropout_logits)
        mean, variance = density.mean[0, 0].numpy(), density.variance[0, 0].numpy()
        np.testing.assert_allclose(mean_counts(genes)[0, 0].numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(block.mean[0], mean, rtol=1e-4)
    assert (np.abs(block.drawn.mean(0) - mean) < 5 * np.sqrt(variance / 4_000)).all()
    np.testing.assert_allclose(block.drawn.var(0), variance, rtol=0.25)


def test_counts_that_the_model_drew_are_calibrated(model):
    block = checked(model, drawn_by(model, N, 0).drawn)
    assert kstest(block.ranks.ravel(), "uniform").pvalue > 1e-3
    sums = PredictiveSums()
    sums.add(block)
    found = sums.result()
    covered = found.intervals["covered"]
    error = 4 * np.sqrt(covered.index * (1 - covered.index) / (N * G))
    assert (np.abs(covered - covered.index) < error).all()
    assert found.features["spread"].median() == pytest.approx(1, abs=0.15)


def test_counts_with_less_noise_are_not(model):
    block = checked(model, np.round(drawn_by(model, N, 0).mean).astype(np.float32))
    assert kstest(block.ranks.ravel(), "uniform").pvalue < 1e-10
    sums = PredictiveSums()
    sums.add(block)
    found = sums.result()
    assert found.intervals["covered"][0.5] > 0.7
    assert found.features["spread"].max() < 0.2


def test_sums_of_blocks_are_those_of_all_cells():
    rng = np.random.default_rng(0)
    x, y = (rng.poisson(2.0, (50, 7)).astype(np.float32) for _ in range(2))
    x[3], mean = 0, np.full((50, 7), 2.0, np.float32)
    sums = PredictiveSums()
    for cells in (slice(0, 20), slice(20, 50)):
        sums.add(Beside(cells, x[cells], mean[cells], y[cells], None, rng.random((cells.stop - cells.start, 2))))
    found = sums.result()
    for suffix, counts in (("", x), ("_drawn", y)):
        expected = {"mean": counts.mean(0), "variance": counts.var(0), "zeros": (counts == 0).mean(0)}
        expected["cv"] = counts.std(0) / counts.mean(0)
        for name, values in expected.items():
            np.testing.assert_allclose(found.features[f"{name}{suffix}"], values, rtol=1e-5)
        totals = counts.sum(1)
        np.testing.assert_allclose(found.cells[f"total{suffix}"], totals)
        cv = np.where(totals > 0, counts.std(1) / np.maximum(counts.mean(1), 1e-9), np.nan)
        np.testing.assert_allclose(found.cells[f"cv{suffix}"], cv, rtol=1e-5)
        smallest = [row[row > 0].min() if row.any() else 0 for row in counts]
        np.testing.assert_array_equal(found.cells[f"smallest{suffix}"], smallest)
    spread = ((x - mean) ** 2).sum(0) / ((y - mean) ** 2).sum(0)
    np.testing.assert_allclose(found.features["spread"], spread, rtol=1e-5)


def test_what_was_not_measured_is_left_out():
    rng = np.random.default_rng(0)
    x = rng.poisson(5.0, (40, 3)).astype(np.float32)
    measured = np.ones(x.shape, dtype=bool)
    measured[:30, 1] = False
    x[~measured] = 0
    sums = PredictiveSums()
    sums.add(Beside(slice(0, 40), x, np.where(measured, 5, 0), x, measured, np.where(measured, 0.5, np.nan)))
    found = sums.result()
    assert found.features["mean"][1] == pytest.approx(x[30:, 1].mean())
    assert found.features["zeros"][1] == (x[30:, 1] == 0).mean()
    np.testing.assert_allclose(found.cells["cv"][0], x[0, [0, 2]].std() / x[0, [0, 2]].mean())


def test_ranks_are_of_the_features_with_most_counts():
    means = np.random.default_rng(0).random(1000)
    chosen = ranked_features(means)
    assert len(chosen) == 200
    assert means[chosen].min() >= np.delete(means, chosen).max()
    assert list(ranked_features(means[:5])) == [0, 1, 2, 3, 4]


# ---- residuals by group ----------------------------------------------------------------------------------------------


def residuals_of(counts, mean, codes, names=("a", "b", "c")):
    group = GroupResiduals(codes, names)
    for start in range(0, len(counts), 100):
        cells = slice(start, start + 100)
        group.add(Beside(cells, counts[cells], mean[cells], counts[cells], None, np.empty((0, 0))))
    return group.result()


def test_p_values_of_noise_are_uniform():
    rng = np.random.default_rng(0)
    mean = rng.gamma(2.0, 1.0, (600, 1)) * rng.gamma(1.0, 1.0, 400)
    counts = rng.poisson(mean * rng.gamma(2.0, 0.5, mean.shape))
    codes = rng.choice([-1, 0, 1, 2], 600, p=[0.1, 0.5, 0.3, 0.1])
    found = residuals_of(counts, mean, codes)
    p_value = found["p_value"].dropna()
    assert len(p_value) > 300
    assert kstest(p_value, "uniform").pvalue > 1e-3
    assert (found["p_adjusted"].dropna() > 0.05).all()


def test_genes_that_differ_are_found_with_their_group():
    rng = np.random.default_rng(0)
    mean = np.tile(rng.uniform(0.5, 3.0, 100), (600, 1))
    codes = rng.integers(3, size=600)
    true = mean.copy()
    true[codes == 1, :10] *= 2
    counts = rng.poisson(true * 1.5)  # what all groups have too much is another question
    found = residuals_of(counts, mean, codes)
    called = found["p_adjusted"] < 0.05
    assert called[:10].all()
    assert called[10:].mean() < 0.05
    assert (found["group"][:10] == "b").all()
    np.testing.assert_allclose(found["log2_fold"][:10], np.log2(2 / (4 / 3)), atol=0.2)


def test_cells_of_no_group_do_not_count():
    rng = np.random.default_rng(0)
    counts, mean = rng.poisson(2.0, (300, 20)), np.full((300, 20), 2.0)
    codes = np.arange(300) % 4 - 1
    known = codes >= 0
    changed = counts.copy()
    changed[~known] = 1000
    assert residuals_of(changed, mean, codes).equals(residuals_of(counts, mean, codes))


def test_genes_with_few_counts_are_not_tested():
    counts = np.zeros((300, 2))
    counts[:, 1] = 1
    found = residuals_of(counts, np.ones((300, 2)), np.arange(300) % 3)
    assert found["p_value"].isna().tolist() == [True, False]


def test_worst_are_features_that_are_off_in_most_cells():
    """Not one of which a single draw is very large: another seed would name another."""
    rng = np.random.default_rng(0)
    x, y = (rng.poisson(2.0, (2000, 6)).astype(np.float32) for _ in range(2))
    x[:, 1] = 5 * (rng.random(2000) < 0.4)
    y[7, 4] = 1e4
    sums = PredictiveSums()
    sums.add(Beside(slice(0, 2000), x, np.full((2000, 6), 2.0, np.float32), y, None, rng.random((2000, 6))))
    ranked = by_misfit(sums.result())
    assert ranked["spread"].idxmin() == 4
    assert ranked.index[0] == 1
    assert ranked["off"][1] > 1  # its scatter is three times that of the draws
    assert (ranked["off"].drop(1) < 0.3).all()
