"""Methods of a posterior: scores and pictures of its latent space, under their names of 2020."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scvi import plots
from scvi._checks import check_choice, check_integer
from scvi.inference import posterior_utils
from scvi.queries.clustering import agreement, clusters, silhouette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scvi.inference.posterior import Posterior

PROTEINS = "protein_expression_clr"
"""Name of the measurement of a data set that holds centred log ratios of proteins."""
COLOURS: dict[str, tuple[str, ...]] = {
    "": (),
    "scalar": ("labels",),
    "batches": ("batches",),
    "labels": ("labels",),
    "batches and labels": ("batches", "labels"),
}
"""The codes by which a picture colours cells, by the names that `show_t_sne` has for it."""


def entropy_batch_mixing(self: Posterior, **kwargs: Any) -> float | None:
    """Entropy, in nats, of the batch among neighbours in the latent space; None for data of a single batch.

    It is 0 where batches are apart; where k batches of one size mix it nears ln k, ln 2 = 0.693 for two. `kwargs` go to
    `scvi.inference.posterior_utils.entropy_batch_mixing`.
    """
    if (self.gene_dataset.n_batches or 0) < 2:
        return None
    means, batch_indices, _ = self.placed()
    return posterior_utils.entropy_batch_mixing(means, batch_indices, **kwargs)


def knn_purity(self: Posterior) -> float:
    """Share of the 30 nearest neighbours in the latent space that have a cell's own label, mean over the labels."""
    means, _, labels = self.placed()
    return posterior_utils.knn_purity(means, labels)


def clustering_scores(
    self: Posterior, prediction_algorithm: str = "knn", *, seed: int | None = None
) -> tuple[float, float, float, float] | None:
    """How far labels, and clusters of the latent means, as many as there are labels, agree; None for a single label.

    Parameters
    ----------
    prediction_algorithm
        "knn" for K-means, the best of 200 starts, or "gmm" for a mixture of Gaussians.
    seed
        Of the clusters; None for torch's global generator, which `scvi.set_seed` seeds.

    Returns
    -------
    Silhouette width of the labels, and how far clusters agree: NMI, ARI, accuracy under the best assignment (UCA)
    """
    check_choice("prediction_algorithm", prediction_algorithm, ("knn", "gmm"))
    n_labels = self.gene_dataset.n_labels or 0
    if n_labels < 2:
        return None
    means, _, labels = self.placed()
    seed = posterior_utils.drawn_seed(seed)
    found = clusters(means, n_labels, "gmm" if prediction_algorithm == "gmm" else "kmeans", n_starts=200, seed=seed)
    scores = agreement(labels, found)
    accuracy, _ = posterior_utils.unsupervised_clustering_accuracy(labels, found)
    return silhouette(means, labels), scores["NMI"], scores["ARI"], accuracy


def nn_overlap_score(self: Posterior, **kwargs: Any) -> tuple[float, float] | None:
    """Overlap of neighbours in the latent space with those by proteins; None for data without "protein_expression_clr".

    `kwargs` go to `scvi.inference.posterior_utils.nn_overlap`.

    Returns
    -------
    Spearman correlation and fold enrichment
    """
    if PROTEINS not in self.gene_dataset.cell_measurements_col_mappings:
        return None
    means, *_ = self.placed()
    return posterior_utils.nn_overlap(means, getattr(self.gene_dataset, PROTEINS)[self.indices], **kwargs)


def apply_t_sne(
    latent: npt.ArrayLike, n_samples: int | None = 1000, *, seed: int | None = None
) -> tuple[npt.NDArray, npt.NDArray[np.int64]]:
    """Places some cells on a plane by t-SNE; cells that are on a plane stay where they are.

    Parameters
    ----------
    latent
        (n, d)
    n_samples
        How many cells, chosen at random; None or 0 for all in their order.
    seed
        Of choice and t-SNE; None for torch's global generator, which `scvi.set_seed` seeds.

    Returns
    -------
    places (k, 2), and the positions of their cells in `latent`, (k,)
    """
    latent = np.asarray(latent)
    if latent.ndim != 2:
        raise ValueError(f"latent must be (cells, dimensions), got shape {latent.shape}")
    if n_samples:
        check_integer("n_samples", n_samples, 1, wanted="a number of cells, a positive integer, or None for all")
    seed = posterior_utils.drawn_seed(seed)
    chosen = np.arange(len(latent))
    if n_samples:
        chosen = np.random.default_rng(seed).permutation(chosen)[:n_samples]
    places = latent[chosen]
    return (places if places.shape[1] == 2 else plots.t_sne(places, seed)), chosen


def show_t_sne(
    self: Posterior,
    n_samples: int | None = 1000,
    color_by: str = "",
    save_name: str | os.PathLike[str] = "",
    latent: npt.NDArray | None = None,
    batch_indices: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
    n_batch: int | None = None,
    *,
    seed: int | None = None,
) -> Axes | npt.NDArray[np.object_]:
    """Cells on a plane, shown in a notebook and elsewhere not.

    Parameters
    ----------
    n_samples
        How many cells, chosen at random; None or 0 for all. Cells that are given on a plane are all drawn.
    color_by
        "" for one colour, "batches", "labels", "batches and labels" for two panels, or "scalar" for labels that are
        numbers on a scale.
    save_name
        File in which the picture is written; nothing is written by default.
    latent
        Places (k, 2), as `apply_t_sne` gives them, or another latent space (k, d), of which this makes them; None for
        one draw of this posterior's.
    batch_indices, labels
        Codes of the cells in `latent`, (k,), where they are to be coloured.
    n_batch
        How many batches have a colour; None for all of the data set. Cells of others are grey.
    seed
        Of the choice of cells and of t-SNE; None for torch's global generator, which `scvi.set_seed` seeds.

    Returns
    -------
    The axes, or an array of two
    """
    check_choice("color_by", color_by, [*COLOURS])
    plots.check_matplotlib()
    if latent is None:
        latent, batch_indices, labels = self.placed(give_mean=False)
    elif np.ndim(latent) == 2 and np.shape(latent)[1] == 2:
        n_samples = None
    codes = {
        kind: _of_cells(*{"batches": ("batch_indices", batch_indices), "labels": ("labels", labels)}[kind], len(latent))
        for kind in COLOURS[color_by]
    }
    places, chosen = apply_t_sne(latent, n_samples, seed=seed)
    panels: dict[str, Any] = {
        kind: values[chosen] if color_by == "scalar" else _groups(self, kind, values[chosen], n_batch)
        for kind, values in codes.items()
    } or {"": np.full(len(places), "")}
    axes = plots.plane(
        places,
        panels,
        continuous=color_by == "scalar",
        panel_size=(10.0, 10.0) if len(panels) == 1 else (7.0, 7.0),
        file=save_name or None,
    )
    plots.show(axes[0].figure)
    return axes if len(axes) > 1 else axes[0]


def _of_cells(name: str, codes: npt.ArrayLike | None, n: int) -> npt.NDArray:
    """(n,) one code a cell."""
    found = np.zeros(0) if codes is None else np.ravel(codes)
    if len(found) != n:
        raise ValueError(f"{name} must have a code for each of the {n} cells to colour them, got {len(found)}")
    return found


def _groups(self: Posterior, kind: str, codes: npt.NDArray, n_batch: int | None) -> pd.Categorical:
    """Codes as groups with their names, in the order of the data set."""
    data_set = self.gene_dataset
    if kind == "batches":
        return pd.Categorical(codes, categories=range((data_set.n_batches or 1) if n_batch is None else n_batch))
    if data_set.cell_types is None:
        return pd.Categorical(codes)
    names = np.asarray(data_set.cell_types).astype(str)
    return pd.Categorical(names[codes.astype(np.int64)], categories=[*dict.fromkeys(names)])
