"""Scores of a latent space and of imputed values, and other functions that scripts of 2020 find here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from scvi import plots
from scvi._checks import check_integer
from scvi.inference.comparing import (
    credible_intervals,
    describe_continuous_distrib,
    pairs_sampler,
    save_cluster_xlsx,
)
from scvi.inference.posterior_files import load_posterior
from scvi.queries import clustering

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "credible_intervals",
    "describe_continuous_distrib",
    "entropy_batch_mixing",
    "entropy_from_indices",
    "knn_purity",
    "load_posterior",
    "nn_overlap",
    "pairs_sampler",
    "plot_imputation",
    "proximity_imputation",
    "save_cluster_xlsx",
    "unsupervised_clustering_accuracy",
]


# Scores ---------------------------------------------------------------------------------------------------------------


def entropy_batch_mixing(
    latent_space: npt.ArrayLike,
    batches: npt.ArrayLike,
    n_neighbors: int = 50,
    n_pools: int = 50,
    n_samples_per_pool: int = 100,
    *,
    seed: int | None = None,
) -> float:
    """Mean entropy, in nats, of the batch among the nearest neighbours of a cell, for any number of batches.

    Parameters
    ----------
    latent_space
        (n, d)
    batches
        (n,)
    n_neighbors
        Neighbours of a cell, itself not counted; at most n - 1.
    n_pools, n_samples_per_pool
        The mean is taken over so many cells, drawn with replacement, and averaged over so many draws.
    seed
        Seed of these draws; None for torch's global generator, which `scvi.set_seed` seeds.

    Returns
    -------
    0 where no neighbourhood is mixed; where all are, the entropy of the batches' shares, ln 2 = 0.693 for equal two
    """
    entropy = clustering.neighbourhood_entropy(latent_space, np.ravel(batches), k=n_neighbors)
    rng = np.random.default_rng(drawn_seed(seed))
    return float(rng.choice(entropy, size=(n_pools, n_samples_per_pool)).mean())


def drawn_seed(seed: int | None) -> int:
    """The seed, or one drawn from torch's global generator."""
    return int(torch.randint(2**31, ())) if seed is None else seed


def knn_purity(latent: npt.ArrayLike, label: npt.ArrayLike, n_neighbors: int = 30) -> float:
    """Share of the nearest neighbours that have a cell's own label: mean over the cells of a label, then over labels.

    Parameters
    ----------
    latent
        (n, d)
    label
        (n,)
    n_neighbors
        Neighbours of a cell, itself not counted; at most n - 1.
    """
    return clustering.knn_purity(latent, np.ravel(label), k=n_neighbors)


def nn_overlap(X1: npt.ArrayLike, X2: npt.ArrayLike, k: int = 100) -> tuple[float, float]:
    """How far the same cells have the same k nearest neighbours in two spaces, (n, d1) and (n, d2); k is at most n - 1.

    Returns
    -------
    Spearman correlation of the n x n matrices of who is a neighbour of whom, and the number of common neighbours over
    that expected by chance
    """
    return clustering.neighbour_overlap(X1, X2, k)


def entropy_from_indices(indices: npt.ArrayLike) -> float:
    """Entropy, in nats, of the histogram of the values."""
    from scipy.stats import entropy

    return float(entropy(np.unique(indices, return_counts=True)[1]))


def unsupervised_clustering_accuracy(y: npt.ArrayLike, y_pred: npt.ArrayLike) -> tuple[float, npt.NDArray[np.int64]]:
    """Accuracy under the best assignment, one to one, of predicted ids to labels (the Hungarian method).

    Parameters
    ----------
    y, y_pred
        (n,) labels and predicted ids.

    Returns
    -------
    The accuracy, and (k, 2) pairs of a predicted id and a label, as positions among the sorted values of both
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import confusion_matrix

    y, y_pred = np.ravel(y), np.ravel(y_pred)
    if len(y) == 0 or len(y) != len(y_pred):
        raise ValueError(f"{len(y_pred)} predictions do not belong to {len(y)} labels: give one for each, at least one")
    true, found = np.split(np.unique(np.concatenate([y, y_pred]), return_inverse=True)[1], 2)
    matches = confusion_matrix(found, true)
    pairs = np.stack(linear_sum_assignment(matches, maximize=True), axis=1)
    return float(matches[pairs[:, 0], pairs[:, 1]].sum() / len(y)), pairs


# Imputed values -------------------------------------------------------------------------------------------------------


def proximity_imputation(
    real_latent1: npt.ArrayLike, normed_gene_exp_1: npt.ArrayLike, real_latent2: npt.ArrayLike, k: int = 4
) -> npt.NDArray:
    """Expression of cells by that of the cells of another data set that are nearest in a common latent space.

    Parameters
    ----------
    real_latent1, real_latent2
        (n1, d) and (n2, d)
    normed_gene_exp_1
        (n1, g)
    k
        How many neighbours, weighed by one over their distance.

    Returns
    -------
    (n2, g)
    """
    from sklearn.neighbors import KNeighborsRegressor

    n_known = len(np.asarray(real_latent1))
    check_integer("k", k, 1, n_known, f"a number of neighbours, an integer from 1 to {n_known}")
    nearest = KNeighborsRegressor(n_neighbors=k, weights="distance").fit(real_latent1, normed_gene_exp_1)
    return nearest.predict(real_latent2)


def plot_imputation(
    original: npt.ArrayLike, imputed: npt.ArrayLike, show_plot: bool = True, title: str = "Imputation"
) -> Axes:
    """Imputed against original values, (t,), where both are below 10; see `scvi.plots.imputation`.

    No file is written: ``axes.figure.savefig`` does that.

    Parameters
    ----------
    show_plot
        Show the picture in a notebook; elsewhere nothing is shown.
    title
        Of the picture.
    """
    axes = plots.imputation(original, imputed, title)
    if show_plot:
        plots.show(axes.figure)
    return axes
