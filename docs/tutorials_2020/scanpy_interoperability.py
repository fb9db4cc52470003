"""
scanpy
======

scVI in the middle of an analysis with scanpy: counts in, latent space, clusters, markers in scanpy's own layout out.
"""

# %%
# Counts
# ------
# scanpy's usual steps (normalise, logarithm, scale) are for its own methods. scVI reads the raw counts, so a copy of these is
# kept. The genes are those that vary most.

import warnings

import numpy as np

import scvi
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import UnsupervisedTrainer
from scvi.models import VAE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scanpy's own
    import scanpy as sc

scvi.set_seed(0)
adata = scvi.demo.load()
adata.layers["counts"] = adata.X.copy()
sc.pp.normalize_total(adata, target_sum=1e4)
sc.pp.log1p(adata)
sc.pp.highly_variable_genes(adata, n_top_genes=500, batch_key="batch")
adata = adata[:, adata.var["highly_variable"]].copy()
raw = adata.copy()
raw.X = adata.layers["counts"]

# %%
# The latent space
# ----------------
# The function of the tutorial of 2020: a data set, a network, a trainer, a posterior.


def compute_scvi_latent(adata, n_latent=5, n_epochs=100, lr=1e-3, use_batches=False, use_cuda=False):
    dataset = AnnDatasetFromAnnData(adata, batch_label="batch")
    vae = VAE(dataset.nb_genes, n_batch=dataset.n_batches * use_batches, n_latent=n_latent)
    trainer = UnsupervisedTrainer(
        vae, dataset, train_size=1.0, n_epochs_kl_warmup=10, use_cuda=use_cuda, show_progbar=False
    )
    trainer.train(n_epochs=n_epochs, lr=lr)
    posterior = trainer.create_posterior(trainer.model, dataset, indices=np.arange(len(dataset))).sequential()
    latent, _, _ = posterior.get_latent()
    return posterior, latent


posterior, adata.obsm["X_scvi"] = compute_scvi_latent(raw, n_epochs=40, lr=5e-3, use_batches=True)

# %%
# Neighbours, UMAP and clusters
# -----------------------------
# From here on ``X_scvi`` stands where principal components would. Clusters are cut from the graph of neighbours.

from sklearn.cluster import SpectralClustering

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sc.pp.neighbors(adata, n_neighbors=20, use_rep="X_scvi")
    sc.tl.umap(adata)
graph = SpectralClustering(8, affinity="precomputed", random_state=0).fit_predict(adata.obsp["connectivities"])
adata.obs["cluster"] = [f"cluster {i}" for i in graph]

import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(11, 4))
for ax, key in zip(axes, ("cluster", "cell_type"), strict=True):
    sc.pl.umap(adata, color=key, ax=ax, show=False)
figure.tight_layout()

# %%
# Each cluster should be of one line. The share of cells that are of the most frequent line of their cluster:

table = adata.obs.groupby(["cluster", "cell_type"], observed=True).size().unstack(fill_value=0)
print(table)
purity = table.max(axis=1).sum() / adata.n_obs
print("purity:", round(purity, 3))
assert purity > 0.9

# %%
# Markers, where scanpy looks for them
# ------------------------------------
# Each line against the others; ``scvi.rank_genes_groups`` writes the surest genes to ``adata.uns`` in the layout of
# ``sc.tl.rank_genes_groups``, so that scanpy's plots and tables take them.

lines = adata.obs["cell_type"].astype("category")
tables, _ = posterior.one_vs_all_degenes(cell_labels=lines.cat.codes.to_numpy(), min_cells=1, n_samples=1000)
for found, line in zip(tables, lines.cat.categories, strict=True):
    found["clusters"] = line
scvi.rank_genes_groups(adata, tables, "cell_type", n_genes=25)
markers = sc.get.rank_genes_groups_df(adata, "H1975", key="rank_genes_groups_scvi")
print(markers.head())
assert len(markers) == 25

axes = sc.pl.rank_genes_groups(adata, key="rank_genes_groups_scvi", n_genes=10, show=False)

# %%
# The same without 2020
# ---------------------
# On AnnData this takes four lines: ``scvi.SCVI.setup_anndata(adata, layer="counts", batch_key="batch")``, the model, its
# ``train`` and ``get_latent_representation`` (:doc:`/gallery/integration`).
