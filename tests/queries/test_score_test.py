"""Tests of the counts against closed forms, fits by other means, and simulations in which nothing differs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import optimize, sparse, stats

from scvi.queries.batch_effects import TAUS, contrast, shares, usual
from scvi.queries.count_sums import CountSums, PoolSums
from scvi.queries.sample_test import Clustered, design, sample_test
from scvi.queries.score_test import dispersions, robust_sizes, score_test, skewed_tails, t_tails


def sums_of(
    x: np.ndarray, offsets: np.ndarray, groups: np.ndarray, units: np.ndarray, measured: np.ndarray | None = None
) -> CountSums:
    pools = PoolSums(groups, units)
    pools.add(np.arange(len(x)), x, offsets if offsets.ndim == 2 else offsets[:, None], measured)
    return pools.of((0,), (1,))[0]


def simulated(
    rng: np.random.Generator,
    groups: np.ndarray,
    units: np.ndarray,
    n_genes: int = 1000,
    tau: float = 0.0,
    change: np.ndarray | float = 0.0,
    means: tuple[float, float] = (0.05, 10.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Negative binomial counts and library sizes, with random effects of units and a log fold change of group 0."""
    size = np.exp(rng.normal(0, 0.4, len(groups)))
    mean = np.exp(rng.uniform(*np.log(means), n_genes))
    phi = np.exp(rng.uniform(np.log(0.1), np.log(2), n_genes))
    effects = rng.normal(0, 1, (units.max() + 1, n_genes)) * tau
    mu = size[:, None] * mean * np.exp(effects[units] + change * (groups == 0)[:, None])
    return rng.poisson(mu * rng.gamma(1 / phi, phi, mu.shape)).astype(float), 1e4 * size


def two_groups(rng: np.random.Generator, n: int, share: float, n_units: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """2 n cells; of group 0 a share is in unit 0, of group 1 the rest."""
    groups = np.repeat([0, 1], n)
    if n_units != 2:
        return groups, rng.integers(n_units, size=2 * n)
    return groups, (rng.random(2 * n) < np.where(groups == 0, share, 1 - share)).astype(int)


# ---- parts against closed forms --------------------------------------------------------------------------------------


def test_sums_are_those_of_a_loop_however_the_cells_come():
    rng = np.random.default_rng(0)
    pools, units = rng.integers(-1, 4, 200), rng.integers(0, 3, 200)
    x, offsets, measured = rng.poisson(1.5, (200, 5)), rng.random((200, 5)), rng.random((200, 5)) < 0.8
    together, blocks = PoolSums(pools, units), PoolSums(pools, units)
    together.add(np.arange(200), x, offsets, measured)
    for cells in np.split(rng.permutation(200), [30, 100]):
        blocks.add(cells, sparse.csr_matrix(x[cells]), offsets[cells], measured[cells])
    for pools1, pools2 in (((0,), (1,)), ((0, 1), (2, 3)), ((0, 1), (1, 2))):
        by_loop = np.zeros((6, 3, 2, 5))
        for cell in range(200):
            for side, (own, other) in enumerate(((pools1, pools2), (pools2, pools1))):
                if pools[cell] in own and pools[cell] not in other:
                    a, b = x[cell] * measured[cell], offsets[cell] * measured[cell]
                    by_loop[:, units[cell], side] += [a, a**2, a * b, b, b**2, measured[cell]]
        for sums in (together.of(pools1, pools2)[0], blocks.of(pools1, pools2)[0]):
            assert_allclose([sums.x, sums.xx, sums.xo, sums.o, sums.oo, sums.n], by_loop)
    one = together.of((0,), (1,))[0]
    assert_allclose(one.by(np.zeros(3, dtype=int)).xo[0], one.xo.sum(0))
    with pytest.raises(ValueError, match="no cell"):
        PoolSums(pools, units).of((0,), (1,))


@pytest.mark.parametrize("tau", [0.0, 0.3, 5.0])
def test_the_contrast_is_generalised_least_squares(tau):
    rng = np.random.default_rng(1)
    y, v = rng.normal(size=(4, 2, 3)), rng.random((4, 2, 3)) + 0.1
    found = contrast(y, v, tau)
    x = np.stack([np.ones(8), np.tile([1.0, 0.0], 4)], axis=1)
    same = np.kron(np.eye(4), np.ones((2, 2)))
    for gene in range(3):
        covariance = np.diag(v[..., gene].ravel()) + tau**2 * same
        inverse = np.linalg.inv(covariance)
        of_x = x.T @ inverse @ x
        assert_allclose(found.c[..., gene].ravel(), (np.linalg.inv(of_x) @ x.T @ inverse)[1], atol=1e-12)
        left = y[..., gene].ravel() - x @ np.linalg.solve(of_x, x.T @ inverse @ y[..., gene].ravel())
        log_dets = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(of_x)[1]
        assert_allclose(found.log_likelihood[gene], -0.5 * (log_dets + left @ inverse @ left))


def test_what_is_left_over_says_how_large_batch_effects_are():
    rng = np.random.default_rng(2)
    for tau in (0.0, 0.8):
        y = rng.normal(0, tau, (6, 1, 2000)) + rng.normal(0, 0.1, (6, 2, 2000)) + rng.normal(size=2000)
        y[:, 0] += rng.normal(0, 3, 2000)  # group effects are not taken for batch effects
        v = np.full(y.shape, 0.01)
        weights = shares(np.stack([contrast(y, v, t).log_likelihood for t in TAUS]))
        assert_allclose(weights.sum(0), 1)
        near = np.abs(TAUS - tau) <= (0.05 if tau == 0 else 0.4)
        assert weights[near].sum(0).mean() > 0.95


def test_skewed_tails_are_pearson_iii():
    z, skewness = (a.ravel() for a in np.meshgrid(np.linspace(-4, 6, 21), [-1.2, -0.3, 0.0, 0.01, 0.5, 2.0]))
    lower, upper = skewed_tails(z, skewness)
    assert_allclose(lower, stats.pearson3.cdf(z, skewness), atol=1e-9)
    assert_allclose(upper, stats.pearson3.sf(z, skewness), atol=1e-9)
    z, df = np.linspace(-5, 5, 11), np.linspace(3, 50, 11)
    assert_allclose(t_tails(stats.norm.cdf([z, -z]), df), stats.t.cdf([z, -z], df))


def test_most_genes_say_what_is_usual():
    rng = np.random.default_rng(3)
    errors = rng.uniform(0.02, 0.3, 2000)
    values = 0.7 + errors * rng.normal(size=2000)
    values[:600] += 2  # all of them up
    assert abs(usual(values, errors) - 0.7) < 0.02
    assert usual(values[:9], errors[:9]) == 0


# ---- the test against fits by other means ----------------------------------------------------------------------------


def _poisson_ratio(x: np.ndarray, o: np.ndarray, groups: np.ndarray) -> float:
    """Signed root of the likelihood ratio of a Poisson model with and without the group."""

    def log_likelihood(of: np.ndarray) -> float:
        rate = x[of].sum() / o[of].sum()
        return float(stats.poisson.logpmf(x[of], rate * o[of]).sum())

    first = groups == 0
    up = x[first].sum() / o[first].sum() > x[~first].sum() / o[~first].sum()
    ratio = log_likelihood(first) + log_likelihood(~first) - log_likelihood(np.full(len(x), True))
    return float(np.sqrt(2 * max(ratio, 0)) * (1 if up else -1))


def _negative_binomial(x: np.ndarray, o: np.ndarray, columns: np.ndarray) -> tuple[float, np.ndarray]:
    """Log likelihood and coefficients of a negative binomial regression, all parameters fitted."""

    def loss(parameters: np.ndarray) -> float:
        mu, theta = o * np.exp(columns @ parameters[:-1]), np.exp(parameters[-1])
        return -float(stats.nbinom.logpmf(x, theta, theta / (theta + mu)).sum())

    start = np.append(np.zeros(columns.shape[1]), 0.0)
    start[:-1] = np.log(x.mean() / o.mean()) / columns.sum(1).mean()
    bounds = [(-6.0, 6.0)] * len(start)
    fit = optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    return -fit.fun, fit.x[:-1]


def test_a_poisson_gene_has_the_p_value_of_its_likelihood_ratio():
    rng = np.random.default_rng(4)
    groups, units = np.repeat([0, 1], [300, 500]), np.zeros(800, dtype=int)
    change = np.repeat([0.0, 0.2, -0.2], [80, 10, 10])
    o = np.exp(rng.normal(0, 0.4, 800))
    x = rng.poisson(o[:, None] * 3 * np.exp(change * (groups == 0)[:, None])).astype(float)
    found = score_test(sums_of(x, o, groups, units))
    o = o * robust_sizes(sums_of(x, o, groups, units))[0, groups, 0]
    z = np.array([_poisson_ratio(x[:, gene], o, groups) for gene in range(100)])
    assert_allclose(
        np.sign(found.lfc) * stats.norm.isf(found.p / 2), z, rtol=0.12, atol=0.15
    )  # a score and a likelihood ratio
    by_hand = np.log2(x[groups == 0].sum(0) / o[groups == 0].sum() / (x[groups == 1].sum(0) / o[groups == 1].sum()))
    assert_allclose(found.lfc, by_hand, atol=0.01)


def test_a_negative_binomial_gene_in_two_batches_agrees_with_a_regression():
    rng = np.random.default_rng(5)
    groups, units = two_groups(rng, 250, 0.7)
    change = np.repeat([0.0, 0.5, -0.5], [10, 3, 3])
    x, o = simulated(rng, groups, units, 16, tau=1.0, change=change, means=(1.0, 10.0))
    sums = sums_of(x, o, groups, units)
    o = o / 1e4 * robust_sizes(sums)[units, groups, 0]
    batch = np.eye(2)[units]
    z, lfc = np.empty(16), np.empty(16)
    for gene in range(16):
        without, _ = _negative_binomial(x[:, gene], o, batch)
        with_group, beta = _negative_binomial(x[:, gene], o, np.column_stack([batch, groups == 0]))
        lfc[gene] = beta[-1] / np.log(2)
        z[gene] = np.sign(beta[-1]) * np.sqrt(max(2 * (with_group - without), 0))
    found = score_test(sums)
    z_found = np.sign(found.lfc) * stats.norm.isf(found.p / 2)
    assert np.corrcoef(z_found, z)[0, 1] > 0.95
    assert np.corrcoef(found.lfc, lfc)[0, 1] > 0.97
    assert 0.8 < np.polyfit(z, z_found, 1)[0] < 1.2


def test_dispersions_are_those_of_the_simulation():
    rng = np.random.default_rng(6)
    groups, units = two_groups(rng, 3000, 0.5)
    mu = np.exp(rng.normal(0, 0.3, 6000))[:, None] * [2.0, 5.0] * np.array([1.0, 3.0])[units][:, None]
    x = rng.poisson(mu * rng.gamma(2.0, 0.5, mu.shape)).astype(float)
    assert_allclose(dispersions(sums_of(x, mu, groups, units)), 0.5, atol=0.06)


# ---- where nothing differs -------------------------------------------------------------------------------------------

NULLS = [(share, tau) for share in (0.5, 0.8) for tau in (0.0, 0.2, 1.0)]


@pytest.mark.parametrize(("share", "tau"), NULLS)
def test_p_values_are_uniform_with_groups_balanced_and_unbalanced_over_batches(share, tau):
    rng = np.random.default_rng(7)
    groups, units = two_groups(rng, 200, share)
    x, o = simulated(rng, groups, units, 2000, tau=tau)
    p = score_test(sums_of(x, o, groups, units)).p
    assert stats.kstest(p, "uniform").statistic < 0.04  # all genes share the sizes of cells
    assert (p < 0.01).mean() < 0.02


def test_p_values_are_uniform_where_few_cells_are_compared_with_many():
    rng = np.random.default_rng(8)
    groups = np.repeat([0, 1], [30, 800])
    x, o = simulated(rng, groups, np.zeros(830, dtype=int), 3000)
    p = score_test(sums_of(x, o, groups, np.zeros(830, dtype=int))).p
    assert stats.kstest(p, "uniform").statistic < 0.03
    assert (p < 0.001).mean() < 0.004  # 25 times as many without skewness


@pytest.mark.parametrize("n_cells", [1, 3, 14])
def test_a_handful_of_cells_differs_in_no_gene_for_the_counts_that_it_lacks(n_cells):
    rng = np.random.default_rng(10)
    groups, units = np.repeat([0, 1], [n_cells, 500]), rng.integers(3, size=n_cells + 500)
    x, o = simulated(rng, groups, units, 3000)
    tested = score_test(sums_of(x, o, groups, units))
    assert np.nansum(tested.p_adjusted < 0.05) == 0
    assert np.nanmean(tested.p < 0.001) < 0.002
    up = np.arange(3000) < 100
    x[groups == 0] += 50 * up * x.mean(axis=0)
    assert np.nanmean(score_test(sums_of(x, o, groups, units)).p_adjusted[up] < 0.05) > 0.8


@pytest.mark.parametrize("is_paired", [False, True])
def test_p_values_are_uniform_with_samples_as_the_unit_and_not_with_cells(is_paired):
    rng = np.random.default_rng(9)
    samples = np.repeat(np.arange(6), 80)
    groups = np.tile([0, 1], 240) if is_paired else (samples >= 3).astype(int)
    effects_of = 2 * samples + groups if is_paired else samples  # a sample answers to the treatment in its own way
    x, o = simulated(rng, groups, effects_of, 2000, tau=0.4)
    p = sample_test(sums_of(x, o, groups, samples)).p
    assert stats.kstest(p, "uniform").statistic < 0.035
    of_cells = score_test(sums_of(x, o, groups, np.zeros(480, dtype=int))).p
    assert (of_cells < 0.001).mean() > 0.05


@pytest.mark.parametrize("n_samples", [(2, 2), (2, 5), (5, 5)])
def test_samples_that_are_alike_by_chance_are_no_surer_than_their_cells(n_samples):
    rng = np.random.default_rng(11)
    samples = np.repeat(np.arange(sum(n_samples)), 60)
    groups = (samples >= n_samples[0]).astype(int)
    x, o = simulated(rng, groups, samples, 5000, means=(0.002, 0.5))
    sums = sums_of(x, o, groups, samples)
    tested = sample_test(sums)
    assert np.nansum(tested.p_adjusted < 0.05) == 0
    assert np.nanmean(tested.p < 0.001) < 0.001
    x[:, :50] += rng.poisson(3.0, (len(x), 50)) * (groups == 0)[:, None]
    assert np.median(sample_test(sums_of(x, o, groups, samples)).p[:50]) < 0.02


def test_samples_with_another_level_are_compared_within_batches():
    rng = np.random.default_rng(10)
    samples = np.repeat(np.arange(12), 60)
    groups, batch_of = np.arange(12) % 2, np.arange(12) // 6
    change = np.repeat([0.0, 1.0], [500, 100])
    x, o = simulated(rng, groups[samples], samples, 600, tau=0.1, change=change)
    x = x * np.where(rng.random(600) < 0.5, 1, 4) ** batch_of[samples][:, None]  # batches differ
    sums = sums_of(x, o, groups[samples], samples)
    within, without = sample_test(sums, batch_of), sample_test(sums)
    for tested in (within, without):
        assert (tested.p_adjusted[:500] < 0.05).mean() < 0.02
    assert (within.p_adjusted[500:] < 0.05).mean() > (without.p_adjusted[500:] < 0.05).mean() + 0.1
    assert design(sums, groups).shape[2] == 2  # batches that are the groups are left out


def test_the_variance_of_samples_is_that_of_a_t_test_where_all_weigh_the_same():
    rng = np.random.default_rng(11)
    y = rng.normal(size=(8, 1, 3)) * np.ones((1, 2, 1))
    v = np.full((8, 2, 3), 1e12)
    v[:4, 0] = v[4:, 1] = 1.0
    found = Clustered.of(np.where(v < 1e6, y, 0), v, np.zeros(3), np.broadcast_to([[[1, 1], [1, 0]]], (8, 2, 2)))
    expected = stats.ttest_ind(y[:4, 0], y[4:, 0])
    assert_allclose(found.estimate / np.sqrt(found.variance), expected.statistic)
    assert_allclose(found.df, 6)


def test_a_group_of_one_sample_has_no_replicates():
    rng = np.random.default_rng(12)
    samples = np.repeat(np.arange(4), 50)
    x, o = simulated(rng, samples, samples, 20)
    assert np.isnan(sample_test(sums_of(x, o, (samples > 0).astype(int), samples)).p).all()


# ---- where something does --------------------------------------------------------------------------------------------


def test_genes_that_are_thinned_are_found_in_unbalanced_batches_and_others_are_not():
    rng = np.random.default_rng(13)
    groups, units = two_groups(rng, 300, 0.8)
    change = np.zeros(1000)
    change[:200] = rng.choice([-1, 1], 200) * rng.uniform(0.5, 1.5, 200)
    x, _ = simulated(rng, groups, units, 1000, tau=0.5, change=change, means=(0.3, 10.0))
    found = score_test(sums_of(x, x.sum(1), groups, units))
    called = found.p_adjusted < 0.05
    assert called[:200].mean() > 0.5
    assert called[200:].sum() / called.sum() < 0.08
    assert 0.9 < np.polyfit(change / np.log(2), found.lfc, 1)[0] < 1.1
    shares = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    wilcoxon = stats.false_discovery_control(stats.mannwhitneyu(shares[groups == 0], shares[groups == 1]).pvalue)
    assert (wilcoxon[200:] < 0.05).sum() / (wilcoxon < 0.05).sum() > 0.2


def test_a_gene_that_takes_a_third_of_the_counts_does_not_make_all_others_differ():
    rng = np.random.default_rng(14)
    groups, units = two_groups(rng, 300, 0.5)
    x, o = simulated(rng, groups, units, 500, means=(2.0, 10.0))
    x[:, 0] = rng.poisson(o / 1e4 * np.where(groups == 0, 2000, 100))
    found = score_test(sums_of(x, x.sum(1), groups, units))
    assert found.p_adjusted[0] < 1e-4
    assert found.lfc[0] == pytest.approx(np.log2(20), abs=0.2)
    assert (found.p_adjusted[1:] < 0.05).mean() < 0.02


def test_what_was_not_counted_is_not_tested():
    rng = np.random.default_rng(15)
    groups, units = two_groups(rng, 50, 0.5)
    x, o = simulated(rng, groups, units, 30)
    x[:, 3] = 0
    measured = np.ones(x.shape, dtype=bool)
    measured[groups == 0, 4] = False
    found = score_test(sums_of(x, np.repeat(o[:, None], 30, axis=1), groups, units, measured))
    assert np.flatnonzero(np.isnan(found.p)).tolist() == [3, 4]
    assert np.isnan(found.p_adjusted[[3, 4]]).all()
    is_tested = np.isfinite(found.p)
    assert_allclose(found.p_adjusted[is_tested], stats.false_discovery_control(found.p[is_tested]))
    nothing = score_test(sums_of(np.zeros_like(x), o, groups, units))
    assert np.isnan(nothing.p).all()
    assert np.isnan(nothing.p_adjusted).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0.01, 100))
def test_groups_change_places_and_offsets_have_any_unit(seed, n_units, unit):
    rng = np.random.default_rng(seed)
    groups, units = rng.integers(0, 2, 60), rng.integers(0, n_units, 60)
    groups[:2] = 0, 1
    x, o = simulated(rng, groups, units, 12, tau=0.5)
    x[rng.random(x.shape) < 0.5] *= 0.5  # estimated counts
    one, other = score_test(sums_of(x, o, groups, units)), score_test(sums_of(x, unit * o, 1 - groups, units))
    assert_allclose(other.p, one.p, rtol=1e-6)
    assert_allclose(other.lfc, -one.lfc, rtol=1e-6, atol=1e-8)
    is_tested = np.isfinite(one.p)
    assert ((one.p[is_tested] > 0) & (one.p[is_tested] <= 1)).all()
