import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from scvi.queries.clustering import (
    agreement,
    batch_entropy,
    clusters,
    kmeans_scores,
    knn_accuracy,
    knn_purity,
    max_batch_entropy,
    neighbour_overlap,
    pca,
    silhouette,
)


@pytest.fixture
def cells():
    """Three clumps in five dimensions, 120 cells, with 10 % of labels wrong, and three batches that half mix."""
    rng = np.random.default_rng(0)
    clump = rng.integers(3, size=120)
    latent = rng.normal(size=(120, 5)) + 3 * np.eye(5)[clump]
    labels = np.array(["b", "c", "a"])[np.where(rng.random(120) < 0.1, rng.integers(3, size=120), clump)]
    batches = np.where(rng.random(120) < 0.5, clump, rng.integers(3, size=120))
    return latent, labels, batches


def neighbours(latent, cell, k):
    distances = cdist(latent[[cell]], latent)[0]
    distances[cell] = np.inf
    return np.argsort(distances)[:k]


@pytest.mark.parametrize("k", [1, 2, 15, 119])
def test_knn_accuracy_against_a_loop(cells, k):
    latent, labels, _ = cells
    right = 0
    for cell in range(len(latent)):
        near = labels[neighbours(latent, cell, k)]
        right += max(sorted(set(labels)), key=lambda label: np.sum(near == label)) == labels[cell]
    assert knn_accuracy(latent, labels, k=k) == pytest.approx(right / len(latent))


@pytest.mark.parametrize("k", [1, 7, 50])
def test_batch_entropy_against_a_loop(cells, k):
    latent, _, batches = cells
    entropies = []
    for cell in range(len(latent)):
        share = pd.Series(batches[neighbours(latent, cell, k)]).value_counts(normalize=True)
        entropies.append(-(share * np.log(share)).sum())
    assert batch_entropy(latent, batches, k=k) == pytest.approx(np.mean(entropies))


def test_silhouette_against_a_loop(cells):
    latent, labels, _ = cells
    distances = cdist(latent, latent)
    widths = []
    for cell, label in enumerate(labels):
        own = labels == label
        inside = distances[cell, own].sum() / (own.sum() - 1)
        outside = min(distances[cell, labels == other].mean() for other in set(labels) - {label})
        widths.append((outside - inside) / max(inside, outside))
    assert silhouette(latent, labels) == pytest.approx(np.mean(widths))


def test_kmeans_scores_against_formulas(cells):
    from sklearn.cluster import KMeans

    latent, labels, _ = cells
    clusters = KMeans(3, n_init=50, random_state=0).fit_predict(latent)
    table = pd.crosstab(labels, clusters).to_numpy()
    rows, columns, n = table.sum(1), table.sum(0), table.sum()

    def pairs(counts):
        return np.sum(counts * (counts - 1) / 2)

    expected = pairs(rows) * pairs(columns) / pairs(n)
    ari = (pairs(table) - expected) / ((pairs(rows) + pairs(columns)) / 2 - expected)
    share, product = table / n, np.outer(rows, columns) / n**2
    mutual = np.sum(share[share > 0] * np.log(share[share > 0] / product[share > 0]))
    entropies = [-np.sum(part / n * np.log(part / n)) for part in (rows, columns)]
    scores = kmeans_scores(latent, labels)
    assert scores == pytest.approx({"ARI": ari, "NMI": mutual / np.mean(entropies)})
    assert 0.5 < ari < 1


def test_perfect_separation_and_no_mixing():
    latent = np.repeat(np.arange(4.0) * 100, 30)[:, None] + np.linspace(0, 1, 120)[:, None]
    labels = np.repeat(list("wxyz"), 30)
    assert kmeans_scores(latent, labels) == {"ARI": pytest.approx(1), "NMI": pytest.approx(1)}
    assert knn_accuracy(latent, pd.Categorical(labels)) == 1
    assert batch_entropy(latent, labels, k=20) == 0
    assert silhouette(latent, labels) > 0.99


def test_entropy_of_all_others_nears_that_of_the_proportions():
    batches = np.repeat(["p", "q"], [75, 25])
    top = max_batch_entropy(batches)
    assert top == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    latent = np.random.default_rng(0).normal(size=(100, 3))
    assert batch_entropy(latent, batches, k=1000) == pytest.approx(top, abs=1e-3)
    assert max_batch_entropy(["one"] * 9) == 0


@pytest.mark.parametrize("score", [kmeans_scores, silhouette, knn_accuracy, knn_purity, batch_entropy])
def test_bad_input_is_refused(score):
    latent = np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"got shapes \(4, 2\) and \(3,\)"):
        score(latent, [1, 2, 3])
    with pytest.raises(ValueError, match=r"got shapes \(4,\)"):
        score(latent[:, 0], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="at least 2 cells, got 1"):
        score(latent[:1], [1])


def test_sizes_out_of_range_are_refused():
    latent = np.random.default_rng(0).normal(size=(4, 2))
    with pytest.raises(ValueError, match="k=0"):
        knn_accuracy(latent, [0, 0, 1, 1], k=0)
    with pytest.raises(ValueError, match="needs 2 to 3 labels, got 1"):
        silhouette(latent, [0, 0, 0, 0])


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_pca_against_the_singular_values(layout):
    counts = np.random.default_rng(0).poisson(0.5, size=(60, 40))
    counts[3] = 0
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    log = np.log1p(counts * np.median(counts.sum(1)) / totals)
    u, s, _ = np.linalg.svd(log - log.mean(0), full_matrices=False)
    given = layout(counts)
    np.testing.assert_allclose(np.abs(pca(given, 5)), np.abs(u[:, :5] * s[:5]), rtol=1e-8, atol=1e-10)
    assert (np.asarray(given.todense() if sparse.issparse(given) else given) == counts).all()


def test_knn_purity_against_a_loop(cells):
    latent, labels, _ = cells
    for k in (1, 7, 30, 119):
        share = [np.mean(labels[neighbours(latent, cell, k)] == labels[cell]) for cell in range(len(latent))]
        expected = pd.Series(share).groupby(labels).mean().mean()
        assert knn_purity(latent, labels, k=k) == pytest.approx(expected)


def test_knn_purity_of_points_on_a_line():
    # of two neighbours: a sees (a, a), (a, a), (a, b); b sees (b, b), (b, b) but for the first, which sees (a, b)
    latent = np.array([0.0, 1.0, 2.1, 3.0, 4.2, 5.5])[:, None]
    assert knn_purity(latent, list("aaabbb"), k=2) == pytest.approx(((1 + 1 + 1 / 2) + (1 / 2 + 1 + 1)) / 3 / 2)
    assert knn_purity(latent, list("aaaaab"), k=2) == pytest.approx((1 + 1 + 1 + 1 + 1 / 2) / 5 / 2)  # b: 0
    assert knn_purity(np.repeat([[0.0], [9.0]], 40, axis=0), np.repeat([3, 1], 40)) == 1


@given(n=st.integers(3, 40), k=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_the_overlap_of_neighbours_is_that_of_the_matrices(n, k, seed):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(n, 3))
    second = np.c_[first[:, :2] + rng.normal(size=(n, 2)), rng.normal(size=n)]
    k = min(k, n - 1)
    matrices = np.zeros((2, n, n))
    for matrix, space in zip(matrices, (first, second), strict=True):
        for cell in range(n):
            matrix[cell, neighbours(space, cell, k)] = 1
    one, two = matrices.reshape(2, -1)
    correlation, enrichment = neighbour_overlap(first, second, k)
    assert correlation == pytest.approx(spearmanr(one, two)[0], abs=1e-9)
    assert enrichment == pytest.approx(np.sum(one * two) * n**2 / (one.sum() * two.sum()))


def test_the_overlap_of_equal_and_of_unrelated_spaces():
    first, second = np.random.default_rng(0).normal(size=(2, 300, 4))
    assert neighbour_overlap(first, 2 * first + 1, 20) == (pytest.approx(1), pytest.approx(15))
    correlation, enrichment = neighbour_overlap(first, second, 20)
    assert abs(correlation) < 0.05
    assert enrichment == pytest.approx(1, abs=0.5)
    with pytest.raises(ValueError, match=r"got shapes \(300, 4\) and \(299, 4\)"):
        neighbour_overlap(first, second[1:])


def test_clusters_find_clumps_and_refuse_more_clusters_than_cells():
    clump = np.arange(60) % 3
    latent = np.random.default_rng(0).normal(size=(60, 2)) + 20 * np.eye(3, 2)[clump]
    for method in ("kmeans", "gmm"):
        found = clusters(latent, 3, method, seed=1)
        assert agreement(clump, found) == {"ARI": pytest.approx(1), "NMI": pytest.approx(1)}
        assert np.array_equal(found, clusters(latent, 3, method, seed=1))
    with pytest.raises(ValueError, match="60 cells cannot be in 61 clusters"):
        clusters(latent, 61)
