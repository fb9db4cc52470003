"""How well a latent space keeps cell types apart and mixes batches.

Every function takes `latent` (n, d) and one value a cell: `labels` or `batches`, (n,), of any type that sorts. The
neighbours of a cell are the k nearest others by Euclidean distance, or all others where there are fewer.
`pca` is the plain latent space to compare with.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse


def pca(counts: npt.ArrayLike | sparse.csr_matrix | sparse.csr_array, n_components: int = 30) -> npt.NDArray:
    """Principal components of log(1 + counts scaled to the median total), (n, n_components)."""
    from sklearn.decomposition import PCA

    return PCA(n_components, svd_solver="covariance_eigh").fit_transform(scaled_logs(counts))


def scaled_logs(counts: npt.ArrayLike | sparse.csr_matrix | sparse.csr_array) -> sparse.csr_array:
    """(n, g) log(1 + counts scaled to the median total)."""
    scaled = sparse.csr_array(counts, dtype=np.float64, copy=True)
    totals = scaled.sum(axis=1)
    scaled.data *= np.repeat(np.median(totals) / np.maximum(totals, 1), np.diff(scaled.indptr))
    return scaled.log1p()


def kmeans_scores(latent: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """Agreement of K-means clusters, as many as there are labels, with the labels.

    Returns
    -------
    dict
        ARI (adjusted Rand index, 0 expected by chance) and NMI (normalised mutual information); 1 is perfect for both.
    """
    latent, codes, n_labels = _checked(latent, labels, "labels")
    return agreement(codes, clusters(latent, n_labels))


def clusters(
    latent: npt.ArrayLike,
    n_clusters: int,
    method: Literal["kmeans", "gmm"] = "kmeans",
    *,
    n_starts: int = 50,
    seed: int = 0,
) -> npt.NDArray[np.int64]:
    """Numbers of clusters, (n,), by K-means, the best of `n_starts`, or by a mixture of Gaussians."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    latent = np.asarray(latent)
    if len(latent) < n_clusters:
        raise ValueError(f"{len(latent)} cells cannot be in {n_clusters} clusters: ask for fewer, or give more cells")
    if method == "gmm":
        return GaussianMixture(n_clusters, random_state=seed).fit_predict(latent.astype(np.float64))
    return KMeans(n_clusters, n_init=n_starts, random_state=seed).fit_predict(latent)


def agreement(labels: npt.ArrayLike, found: npt.ArrayLike) -> dict[str, float]:
    """ARI and NMI, see `kmeans_scores`, of any clusters with the labels, (n,) each."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "ARI": float(adjusted_rand_score(labels, found)),
        "NMI": float(normalized_mutual_info_score(labels, found)),
    }


def silhouette(latent: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean silhouette width of the labels, from -1 to 1; needs at least two labels, and fewer than there are cells."""
    from sklearn.metrics import silhouette_score

    latent, codes, n_labels = _checked(latent, labels, "labels")
    if not 2 <= n_labels < len(codes):
        raise ValueError(f"the silhouette of {len(codes)} cells needs 2 to {len(codes) - 1} labels, got {n_labels}")
    return float(silhouette_score(latent, codes))


def knn_accuracy(latent: npt.ArrayLike, labels: npt.ArrayLike, k: int = 15) -> float:
    """Share of cells whose k nearest neighbours vote for its own label; a tie goes to the label that sorts first."""
    latent, codes, n_labels = _checked(latent, labels, "labels")
    return float(np.mean(_neighbour_counts(latent, codes, n_labels, k).argmax(axis=1) == codes))


def knn_purity(latent: npt.ArrayLike, labels: npt.ArrayLike, k: int = 30) -> float:
    """Share of the k nearest neighbours that have a cell's own label: mean over the cells of a label, then over labels.

    1 is pure; a rare label counts as much as a common one.
    """
    return float(np.mean(label_purity(latent, labels, k)))


def label_purity(latent: npt.ArrayLike, labels: npt.ArrayLike, k: int = 30) -> npt.NDArray[np.float64]:
    """Share of the k nearest neighbours that have a cell's own label, of the cells of each label, (c,), in order."""
    latent, codes, n_labels = _checked(latent, labels, "labels")
    counts = _neighbour_counts(latent, codes, n_labels, k)
    share = counts[np.arange(len(codes)), codes] / counts.sum(axis=1)
    return np.bincount(codes, share) / np.bincount(codes)


def neighbour_overlap(first: npt.ArrayLike, second: npt.ArrayLike, k: int = 100) -> tuple[float, float]:
    """How far the same cells have the same k nearest neighbours in two spaces, (n, d) each; dimensions may differ.

    Returns
    -------
    correlation, enrichment
        Spearman correlation of the two n x n matrices that say who is a neighbour of whom (of 0 and 1, so that it is
        Pearson's, and needs no such matrix), and the number of common neighbours over the k^2 expected by chance.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 3:
        raise ValueError(
            f"the overlap needs the same cells, at least 3, in two spaces (n, d), got shapes {first.shape} and "
            f"{second.shape}"
        )
    n = len(first)
    k = min(k, n - 1)
    mine, theirs = (np.arange(n)[:, None] * n + _neighbours(space, k) for space in (first, second))  # (n, k) entries
    common, share = len(np.intersect1d(mine, theirs, assume_unique=True)) / n**2, k / n
    return (common - share**2) / (share * (1 - share)), common / share**2


def batch_entropy(latent: npt.ArrayLike, batches: npt.ArrayLike, k: int = 50) -> float:
    """Mean entropy, in nats, of the batch among the k nearest neighbours of a cell.

    0 means that every neighbourhood is of one batch; compare with `max_batch_entropy`.
    """
    return float(np.mean(neighbourhood_entropy(latent, batches, k)))


def neighbourhood_entropy(latent: npt.ArrayLike, batches: npt.ArrayLike, k: int = 50) -> npt.NDArray[np.float64]:
    """Entropy, in nats, of the batch among the k nearest neighbours of each cell, (n,)."""
    latent, codes, n_batches = _checked(latent, batches, "batches")
    return _entropy(_neighbour_counts(latent, codes, n_batches, k))


def max_batch_entropy(batches: npt.ArrayLike) -> float:
    """Entropy, in nats, of the batch proportions: what `batch_entropy` nears where batches mix perfectly."""
    return float(_entropy(np.unique(np.asarray(batches), return_counts=True)[1]))


def _checked(latent: npt.ArrayLike, values: npt.ArrayLike, name: str) -> tuple[npt.NDArray, npt.NDArray[np.int64], int]:
    """Latent, integer codes of the values, number of distinct values."""
    latent, values = np.asarray(latent), np.asarray(values)
    if latent.ndim != 2 or values.shape != latent.shape[:1]:
        raise ValueError(
            f"latent must be (cells, dimensions) and {name} (cells,), got shapes {latent.shape} and {values.shape}"
        )
    if len(latent) < 2:
        raise ValueError(f"scores of a latent space need at least 2 cells, got {len(latent)}")
    distinct, codes = np.unique(values, return_inverse=True)
    return latent, codes, len(distinct)


def _neighbour_counts(latent: npt.NDArray, codes: npt.NDArray[np.int64], n_codes: int, k: int) -> npt.NDArray[np.int64]:
    """How many of the k nearest neighbours of each cell have each code, (n, n_codes)."""
    neighbours = _neighbours(latent, k)
    rows = np.arange(len(latent))[:, None]
    of_each = np.bincount((rows * n_codes + codes[neighbours]).ravel(), minlength=len(latent) * n_codes)
    return of_each.reshape(-1, n_codes)


def _neighbours(latent: npt.NDArray, k: int) -> npt.NDArray[np.int64]:
    """Positions of the k nearest others of each cell, or of all others, (n, k)."""
    from sklearn.neighbors import NearestNeighbors

    if k < 1:
        raise ValueError(f"k={k!r} is not a positive number of neighbours")
    return NearestNeighbors(n_neighbors=min(k, len(latent) - 1)).fit(latent).kneighbors(return_distance=False)


def _entropy(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Entropy in nats over the last axis of counts."""
    share = counts / counts.sum(axis=-1, keepdims=True)
    return -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=-1)
