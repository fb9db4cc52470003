"""How well a latent space keeps cell types apart and mixes batches.

Every function takes `latent` (n, d) and one value a cell: `labels` or `batches`, (n,), of any type that sorts. The
neighbours of a cell are the k nearest others by Euclidean distance, or all others where there are fewer.
`pca` is the plain latent space to compare with.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse


def pca(counts: npt.ArrayLike | sparse.csr_matrix | sparse.csr_array, n_components: int = 30) -> npt.NDArray:
    """Principal components of log(1 + counts scaled to the median total), (n, n_components)."""
    from sklearn.decomposition import PCA

    scaled = sparse.csr_array(counts, dtype=np.float64)
    totals = scaled.sum(axis=1)
    scaled.data *= np.repeat(np.median(totals) / np.maximum(totals, 1), np.diff(scaled.indptr))
    return PCA(n_components, svd_solver="covariance_eigh").fit_transform(scaled.log1p())


def kmeans_scores(latent: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """Agreement of K-means clusters, as many as there are labels, with the labels.

    Returns
    -------
    dict
        ARI (adjusted Rand index, 0 expected by chance) and NMI (normalised mutual information); 1 is perfect for both.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    latent, codes, n_labels = _checked(latent, labels, "labels")
    clusters = KMeans(n_labels, n_init=50, random_state=0).fit_predict(latent)
    return {
        "ARI": float(adjusted_rand_score(codes, clusters)),
        "NMI": float(normalized_mutual_info_score(codes, clusters)),
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
    from sklearn.neighbors import NearestNeighbors

    if k < 1:
        raise ValueError(f"k={k!r} is not a positive number of neighbours")
    k = min(k, len(latent) - 1)
    neighbours = NearestNeighbors(n_neighbors=k).fit(latent).kneighbors(return_distance=False)  # (n, k)
    rows = np.repeat(np.arange(len(latent)), k)
    return np.bincount(rows * n_codes + codes[neighbours].ravel(), minlength=len(latent) * n_codes).reshape(-1, n_codes)


def _entropy(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Entropy in nats over the last axis of counts."""
    share = counts / counts.sum(axis=-1, keepdims=True)
    return -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=-1)
