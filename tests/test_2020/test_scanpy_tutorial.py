"""The tutorial on scanpy: clusters of the latent space, and what marks them, in scanpy's layout."""

import warnings

import numpy as np
import pytest

import scvi
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import UnsupervisedTrainer
from scvi.models import VAE

pytestmark = pytest.mark.slow


def compute_scvi_latent(adata, n_latent=5, n_epochs=100, lr=1e-3, use_batches=False, use_cuda=False):
    dataset = AnnDatasetFromAnnData(adata)
    vae = VAE(dataset.nb_genes, n_batch=dataset.n_batches * use_batches, n_latent=n_latent)
    trainer = UnsupervisedTrainer(vae, dataset, train_size=1.0, use_cuda=use_cuda, show_progbar=False)
    trainer.train(n_epochs=n_epochs, lr=lr)
    posterior = trainer.create_posterior(trainer.model, dataset, indices=np.arange(len(dataset))).sequential()
    latent, _, _ = posterior.get_latent()
    return posterior, latent


def test_clusters_are_marked_by_what_their_cells_have_more_of(mixology):
    adata = mixology
    posterior, adata.obsm["X_scvi"] = compute_scvi_latent(adata, n_epochs=30, lr=5e-3)
    kinds = adata.obs["cell_type"].astype("category")  # in place of clusters, which are of the same cells
    adata.obs["cluster"] = kinds
    tables, names = posterior.one_vs_all_degenes(cell_labels=kinds.cat.codes.to_numpy(), min_cells=1, n_samples=2000)
    assert names == list(range(5))
    for table, kind in zip(tables, kinds.cat.categories, strict=True):
        table["clusters"] = kind
    scvi.rank_genes_groups(adata, tables, "cluster", n_genes=25)
    top = adata.uns["rank_genes_groups_scvi"]["names"]
    x = adata.to_df()
    x = x.div(x.sum(axis=1), axis=0)
    for kind in top.dtype.names:
        more = x.loc[kinds == kind, top[kind]].mean() > x.loc[kinds != kind, top[kind]].mean()
        assert more.mean() >= 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's own
        import matplotlib

        matplotlib.use("Agg")
        sc = pytest.importorskip("scanpy")
        assert sc.pl.rank_genes_groups(adata, key="rank_genes_groups_scvi", show=False)
        assert len(sc.get.rank_genes_groups_df(adata, "H1975", key="rank_genes_groups_scvi")) == 25
