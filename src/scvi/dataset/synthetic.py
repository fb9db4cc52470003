"""Data drawn at random, for tests and demonstrations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from scvi._checks import check_integer, check_number, check_rates
from scvi.data.pickles import read_metadata
from scvi.data.published import published
from scvi.dataset.attributes import CellMeasurement
from scvi.dataset.dataset import DownloadableDataset, GeneExpressionDataset

__all__ = ["SyntheticDataset", "SyntheticDatasetCorr", "SyntheticRandomDataset", "ZISyntheticDatasetCorr"]


class SyntheticDataset(GeneExpressionDataset):
    """Zero-inflated negative binomial counts without structure, with labels and proteins to match.

    Every count is NegativeBinomial(5, 0.3), which has mean 35/3, set to 0 with probability 0.3; proteins are not set to
    0. Labels are uniform. Draws follow numpy's global state, which :func:`scvi.set_seed` sets.

    Parameters
    ----------
    batch_size
        Cells in each batch.
    nb_genes, n_proteins, n_batches, n_labels
        Sizes.
    """

    def __init__(
        self, batch_size: int = 200, nb_genes: int = 100, n_proteins: int = 100, n_batches: int = 2, n_labels: int = 3
    ) -> None:
        super().__init__()
        rng = np.random.default_rng(np.random.randint(2**31))
        n = n_batches * batch_size
        counts = rng.negative_binomial(5, 0.3, (n, nb_genes)) * rng.binomial(1, 0.7, (n, nb_genes))
        proteins = rng.negative_binomial(5, 0.3, (n, n_proteins))
        self.populate_from_data(
            counts,
            Ys=[CellMeasurement("protein_expression", proteins, "protein_names", np.arange(n_proteins))],
            batch_indices=np.repeat(np.arange(n_batches), batch_size),
            labels=rng.integers(0, n_labels, n),
            gene_names=np.arange(nb_genes).astype(str),
            cell_types=[f"undefined_{label}" for label in range(n_labels)],
        )


class SyntheticRandomDataset(DownloadableDataset):
    """Gamma-Poisson counts of 2,000 cells and 10 genes with dropout, and clusters that were published for them.

    The draws are those of 2020 (numpy's generator of that time, seed 0), because the published clusters belong to them.
    Cells without counts are left out.

    Parameters
    ----------
    mu, theta
        Mean and inverse dispersion of the counts.
    dropout
        Probability that a count is set to 0.
    save_path
        Folder of the metadata: clusters, and an embedding `ydata`. They are kept in `simlr_metadata`.
    """

    def __init__(self, mu: float = 4.0, theta: float = 2.0, dropout: float = 0.7, save_path: str = "data/") -> None:
        self.mu = check_number("mu", mu, "a positive number", above=0)
        self.theta = check_number("theta", theta, "a positive number", above=0)
        check_rates(dropout=dropout)
        self.dropout = dropout
        self.simlr_metadata: dict[str, Any] = {}
        super().__init__(*published("random_metadata"), save_path)

    def populate(self) -> None:
        """Draws the counts and reads the clusters."""
        rng = np.random.RandomState(0)
        size = (2000, 10)
        means = rng.gamma(self.theta, self.mu / self.theta, size)
        counts = rng.poisson(means) * rng.binomial(1, 1 - self.dropout, size)
        counts = counts[counts.sum(axis=1) > 0]
        metadata = read_metadata(self._paths[0], "clusters")
        labels = np.ravel(metadata["clusters"])
        if len(labels) != len(counts):
            raise ValueError(
                f"{self._paths[0]} has clusters of {len(labels)} cells, and {len(counts)} were drawn; it belongs to "
                "mu=4, theta=2, dropout=0.7"
            )
        self.simlr_metadata = metadata
        self.populate_from_data(counts, labels=labels - labels.min())


class SyntheticDatasetCorr(GeneExpressionDataset):
    """Poisson counts of clusters that each have a set of highly expressed genes.

    Cluster c has `n_genes_high` of them from gene c (`n_genes_high` - `n_overlap`) on. In a cell the weights of all
    genes are brought to the sum 1, and the mean of a count is `lam_0` times its weight. Draws are those of 2020 (seed
    0).

    Parameters
    ----------
    n_cells_cluster, n_clusters
        Cells in each cluster, and clusters.
    n_genes_high
        Highly expressed genes of a cluster.
    n_overlap
        How many of them neighbouring clusters share.
    weight_high, weight_low
        Weights of highly expressed genes and of others.
    lam_0
        Mean total of a cell.

    Attributes
    ----------
    exprs_param, is_highly_exp, poisson_zero
        (1, n, G) means of the counts, whether the gene is highly expressed, and the probability of a 0.
    probas_zero_bio_tech_high, probas_zero_bio_tech_low
        None here, see :class:`ZISyntheticDatasetCorr`.
    """

    def __init__(
        self,
        n_cells_cluster: int = 200,
        n_clusters: int = 3,
        n_genes_high: int = 25,
        n_overlap: int = 0,
        weight_high: float = 4e-2,
        weight_low: float = 1e-2,
        lam_0: float = 50.0,
    ) -> None:
        super().__init__()
        self.n_cells_cluster = check_integer("n_cells_cluster", n_cells_cluster, 1)
        self.n_clusters = check_integer("n_clusters", n_clusters, 1)
        self.n_genes_high = check_integer("n_genes_high", n_genes_high, 1)
        check_integer("n_overlap", n_overlap, 0, n_genes_high - 1, f"an integer from 0 to {n_genes_high - 1}")
        self.batch_size = n_cells_cluster * n_clusters
        step = n_genes_high - n_overlap
        self.n_genes_total = n_clusters * step + n_overlap
        self._rng = np.random.RandomState(0)
        clusters = np.repeat(np.arange(n_clusters), n_cells_cluster)
        genes = np.arange(self.n_genes_total)
        high = (genes >= step * clusters[:, None]) & (genes < step * clusters[:, None] + n_genes_high)  # (n, G)
        weights = np.where(high, weight_high, weight_low)
        self.is_highly_exp = high[None]
        self.exprs_param = (lam_0 * weights / weights.sum(axis=1, keepdims=True))[None]
        self.poisson_zero = np.exp(-self.exprs_param)
        self.probas_zero_bio_tech_high: npt.NDArray | None = None
        self.probas_zero_bio_tech_low: npt.NDArray | None = None
        data = self.mask(self._rng.poisson(self.exprs_param))
        self.populate_from_data(data[0], labels=clusters, gene_names=genes.astype(str))

    def mask(self, data: npt.NDArray) -> npt.NDArray:
        """The counts as they are."""
        return data


class ZISyntheticDatasetCorr(SyntheticDatasetCorr):
    """:class:`SyntheticDatasetCorr` with dropout: a count is set to 0 with probability coef exp(-lam mean^2).

    Parameters
    ----------
    dropout_coef_high, lam_dropout_high
        coef and lam of highly expressed genes.
    dropout_coef_low, lam_dropout_low
        coef and lam of the others.

    Attributes
    ----------
    p_dropout, zi_zero, is_technical
        (1, n, G) probabilities of dropout (twice, as in 2020), and where it happened.
    probas_zero_bio_tech_high, probas_zero_bio_tech_low
        Mean probabilities over highly expressed genes, and over others: [[count above 0 and kept, above 0 and dropped],
        [0 and kept, 0 and dropped]]. They sum to 1.
    """

    def __init__(
        self,
        dropout_coef_high: float = 0.05,
        lam_dropout_high: float = 0.0,
        dropout_coef_low: float = 0.08,
        lam_dropout_low: float = 0.0,
        n_cells_cluster: int = 200,
        n_clusters: int = 3,
        n_genes_high: int = 25,
        n_overlap: int = 0,
        weight_high: float = 4e-2,
        weight_low: float = 1e-2,
        lam_0: float = 50.0,
    ) -> None:
        check_rates(dropout_coef_high=dropout_coef_high, dropout_coef_low=dropout_coef_low)
        self.dropout_coef_high, self.lam_dropout_high = dropout_coef_high, lam_dropout_high
        self.dropout_coef_low, self.lam_dropout_low = dropout_coef_low, lam_dropout_low
        super().__init__(n_cells_cluster, n_clusters, n_genes_high, n_overlap, weight_high, weight_low, lam_0)

    def mask(self, data: npt.NDArray) -> npt.NDArray:
        """The counts with dropout; sets the attributes that tell where."""
        high = self.is_highly_exp
        coef = np.where(high, self.dropout_coef_high, self.dropout_coef_low)
        lam = np.where(high, self.lam_dropout_high, self.lam_dropout_low)
        self.p_dropout = self.zi_zero = coef * np.exp(-lam * self.exprs_param**2)
        kept = self._rng.binomial(1, 1 - self.p_dropout)
        self.is_technical = kept == 0
        zero = self.poisson_zero
        cases = np.array([[1 - zero, 1 - zero], [zero, zero]]) * np.array([1 - self.p_dropout, self.p_dropout])
        self.probas_zero_bio_tech_high = cases[..., high].mean(axis=-1)  # (2, 2)
        self.probas_zero_bio_tech_low = cases[..., ~high].mean(axis=-1)
        return data * kept
