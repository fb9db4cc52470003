"""
Harmonization
=============

Blood cells of two conditions, control and stimulated, are put into one space, clustered there, and compared: what marks a
cluster, and what does stimulation change in every cluster?

The tutorial of 2020 downloaded cells of Kang et al. Here a half of the cells of one healthy donor is *stimulated* by us:
eight genes get three more counts a cell on average. So the right answer to the last question is known.
"""

# %%
# Two data sets, merged
# ---------------------

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

import scvi
from scvi import plots
from scvi.dataset import AnnDatasetFromAnnData, GeneExpressionDataset
from scvi.inference import UnsupervisedTrainer
from scvi.models import VAE

scvi.set_seed(0)
MARKERS = ["CD79A", "LYZ", "NKG7"]  # of B cells, monocytes and killer cells

blood = anndata.read_h5ad("../../tests/sample_data/pbmc3k_small.h5ad")[::2].copy()
by_mean = np.argsort(-np.ravel(blood.X.mean(axis=0)))
chosen = np.union1d(by_mean[:300], np.flatnonzero(blood.var_names.isin(MARKERS)))
stimulated_genes = list(blood.var_names[by_mean[100:180:10]])
blood = blood[:, chosen].copy()
is_stimulated = np.arange(blood.n_obs) % 2 == 1
counts = blood.X.toarray()
places = np.ix_(is_stimulated, blood.var_names.get_indexer(stimulated_genes))
counts[places] += np.random.default_rng(0).poisson(3, size=counts[places].shape)
blood.X = sparse.csr_matrix(counts)

control, stimulated = blood[~is_stimulated].copy(), blood[is_stimulated].copy()
all_dataset = GeneExpressionDataset()
all_dataset.populate_from_datasets([AnnDatasetFromAnnData(control), AnnDatasetFromAnnData(stimulated)])
print(all_dataset.nb_cells, "cells,", all_dataset.nb_genes, "genes,", all_dataset.n_batches, "batches")

# %%
# Fit
# ---
# The condition is the batch: batch 0 is control, batch 1 stimulated. What depends on the condition alone is left to the
# decoder, so that cells of one kind lie together, stimulated or not.

vae = VAE(
    all_dataset.nb_genes,
    n_batch=all_dataset.n_batches,
    n_labels=all_dataset.n_labels,
    n_hidden=128,
    n_latent=30,
    n_layers=2,
    dispersion="gene",
)
trainer = UnsupervisedTrainer(
    vae, all_dataset, train_size=1.0, n_epochs_kl_warmup=10, show_progbar=False, use_cuda=False
)
trainer.train(n_epochs=40, lr=5e-3)

full = trainer.create_posterior(trainer.model, all_dataset, indices=np.arange(len(all_dataset)))
latent, batch_indices, _ = full.sequential().get_latent()
batch_indices = batch_indices.ravel()

# %%
# Clusters in the latent space, on a UMAP. Each cluster should hold cells of both conditions.

from sklearn.cluster import KMeans

clusters = KMeans(5, n_init=10, random_state=0).fit_predict(latent)
conditions = np.array(["control", "stimulated"])[batch_indices]
plane = plots.umap(latent)
panels = plots.plane(plane, {"condition": conditions, "cluster": clusters})
print("entropy of batch mixing:", round(full.entropy_batch_mixing(), 2), "of", round(np.log(2), 2))
assert full.entropy_batch_mixing() > 0.85 * np.log(2)

# %%
# What marks a cluster
# --------------------
# Each cluster against all others. A marker should be frequent enough to be seen, and at least twice as frequent as elsewhere.

tables, names = full.one_vs_all_degenes(
    cell_labels=clusters, n_samples=2000, M_permutation=2000, output_file=False, min_cells=1
)
for name, found in zip(names, tables, strict=True):
    often = found[(found["raw_mean1"] > 0.5) & (found["raw_normalized_mean1"] > 2 * found["raw_normalized_mean2"])]
    print(f"cluster {name}:", ", ".join(often.index[:3]) or "no gene")

# %%
# Three genes of which everybody knows where they belong, on the plane. Each should light up one group.

shares = counts / counts.sum(axis=1, keepdims=True)
order = np.r_[np.flatnonzero(~is_stimulated), np.flatnonzero(is_stimulated)]  # as the data sets were merged
of_markers = {gene: np.log1p(1e4 * shares[order, blood.var_names.get_loc(gene)]) for gene in MARKERS}
panels = plots.plane(plane, of_markers, continuous=True)

# %%
# What stimulation changes
# ------------------------
# Within each cluster, stimulated cells against the others. ``states`` says which cells are of the first kind, ``batch1`` and
# ``batch2`` in which batch each side is decoded.

tables, names = full.within_cluster_degenes(
    cell_labels=clusters,
    states=batch_indices == 1,
    batch1=[1],
    batch2=[0],
    n_samples=2000,
    M_permutation=2000,
    output_file=False,
    min_cells=1,
)
called = pd.concat([found[(found["raw_mean1"] > 1) & (found["bayes_factor"] > 2)] for found in tables])
in_clusters = called.index.value_counts()
in_most = sorted(in_clusters.index[in_clusters >= 4])
print("called in four clusters or more:", in_most)
print("stimulated by us:               ", sorted(stimulated_genes))
assert in_most == sorted(stimulated_genes)
