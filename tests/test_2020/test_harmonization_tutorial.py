"""The tutorial on blood cells of two conditions, on cells in one half of which some genes were stimulated."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook
from scipy import sparse
from sklearn.cluster import KMeans

import scvi
from scvi.dataset import AnnDatasetFromAnnData, GeneExpressionDataset
from scvi.inference import UnsupervisedTrainer
from scvi.models import VAE

pytestmark = pytest.mark.slow
CELLS = Path(__file__).parents[1] / "sample_data"
MARKERS = {"CD79A": "B cells", "LYZ": "monocytes", "NKG7": "killer cells"}


@pytest.fixture(scope="module")
def conditions():
    """Control, stimulated, and the names of the genes that are: eight of middling counts, three counts more a cell."""
    adata = anndata.read_h5ad(CELLS / "pbmc3k_small.h5ad")[::2].copy()
    means = np.ravel(adata.X.mean(axis=0))
    kept = np.argsort(-means)[:300]
    kept = np.union1d(kept, np.flatnonzero(adata.var_names.isin([*MARKERS])))
    adata = adata[:, kept].copy()
    genes = adata.var_names[np.argsort(-np.ravel(adata.X.mean(axis=0)))[100:180:10]]
    counts = adata.X.toarray()
    is_on = np.arange(adata.n_obs) % 2 == 1
    columns = adata.var_names.get_indexer(genes)
    counts[np.ix_(is_on, columns)] += np.random.default_rng(0).poisson(3, size=(is_on.sum(), len(columns)))
    adata.X = sparse.csr_matrix(counts)
    return adata[~is_on].copy(), adata[is_on].copy(), list(genes)


@pytest.fixture(scope="module")
def harmonized(conditions):
    """All cells in one data set, the posterior of all, and clusters in the latent space."""
    scvi.set_seed(0)
    control, stimulated, _ = conditions
    all_dataset = GeneExpressionDataset()
    all_dataset.populate_from_datasets([AnnDatasetFromAnnData(control), AnnDatasetFromAnnData(stimulated)])
    vae = VAE(
        all_dataset.nb_genes,
        n_batch=all_dataset.n_batches,
        n_labels=all_dataset.n_labels,
        n_hidden=128,
        n_latent=30,
        n_layers=2,
        dispersion="gene",
    )
    trainer = UnsupervisedTrainer(vae, all_dataset, train_size=1.0, n_epochs_kl_warmup=10, show_progbar=False)
    trainer.train(n_epochs=40, lr=5e-3)
    full = trainer.create_posterior(trainer.model, all_dataset, indices=np.arange(len(all_dataset)))
    latent, batch_indices, _ = full.sequential().get_latent()
    clusters = KMeans(5, n_init=10, random_state=0).fit_predict(latent)
    return full, batch_indices.ravel(), clusters


def test_conditions_mix(harmonized):
    full, _, _ = harmonized
    assert full.entropy_batch_mixing() > 0.85 * np.log(2)
    panels = full.show_t_sne(n_samples=200, color_by="batches and labels")
    assert len(panels) == 2


def test_markers_of_clusters(harmonized, tmp_path):
    full, _, clusters = harmonized
    scvi.set_seed(0)
    de_res, de_clust = full.one_vs_all_degenes(
        cell_labels=clusters,
        n_samples=2000,
        M_permutation=2000,
        output_file=True,
        save_dir=f"{tmp_path}/",
        filename="Harmonized_ClusterDE",
        min_cells=1,
    )
    assert de_clust == list(range(5))
    markers = []
    for table in de_res:
        chosen = table[(table["raw_mean1"] > 0.5) & (table["raw_normalized_mean1"] / table["raw_normalized_mean2"] > 2)]
        markers.append(chosen[:3])
    markers = pd.concat(markers)
    assert set(markers["clusters"]) <= set(de_clust)
    assert len(markers) >= 9
    genes = np.asarray(full.gene_dataset.gene_names)
    counts = sparse.csr_matrix(full.gene_dataset.X).toarray()
    share = counts / counts.sum(axis=1, keepdims=True)
    for gene in MARKERS:  # of these everybody knows where they are: the cluster of most of them has them
        column = share[:, np.flatnonzero(genes == gene)[0]]
        home = int(np.argmax([column[clusters == cluster].mean() for cluster in de_clust]))
        table = de_res[home]
        assert table.loc[gene, "bayes_factor"] > 2
        assert table.loc[gene, "scale1"] > 2 * table.loc[gene, "scale2"]
        assert table.index.get_loc(gene) < 20
        assert (table["clusters"] == home).all()
    book = load_workbook(tmp_path / "differential_expression.Harmonized_ClusterDE.xlsx", read_only=True)
    assert len(book.sheetnames) == 5


def test_genes_that_are_stimulated_in_every_cluster(harmonized, conditions):
    full, batch_indices, clusters = harmonized
    scvi.set_seed(0)
    de_res, de_clust = full.within_cluster_degenes(
        cell_labels=clusters,
        states=(batch_indices == 1),
        output_file=False,
        batch1=[1],
        batch2=[0],
        filename="Harmonized_StimDE",
        min_cells=1,
        n_samples=2000,
        M_permutation=2000,
    )
    called = pd.concat([table[(table["raw_mean1"] > 1) & (table["bayes_factor"] > 2)] for table in de_res])
    in_clusters = called.index.value_counts()
    assert de_clust == list(range(5))
    assert set(in_clusters.index[in_clusters >= 4]) == set(conditions[2])
