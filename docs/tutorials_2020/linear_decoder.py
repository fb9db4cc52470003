"""
Linear decoder
==============

scVI decodes its latent space with a neural network, and nobody can read its weights. LDVAE has a single matrix in its place:
each latent dimension is a list of genes, as in a factor analysis, at the price of a slightly lower likelihood.

The cells are blood cells of a healthy donor, whose kinds everybody knows by their markers.
"""

# %%
# Fit
# ---

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import scvi
from scvi import plots
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import UnsupervisedTrainer
from scvi.models import LDVAE

scvi.set_seed(0)
blood = anndata.read_h5ad("../../tests/sample_data/pbmc3k_small.h5ad")[::2].copy()
cells = AnnDatasetFromAnnData(blood)
cells.subsample_genes(600, mode="variance")
vae = LDVAE(
    cells.nb_genes,
    n_batch=cells.n_batches,
    n_latent=10,
    n_layers_encoder=1,
    n_hidden=128,
    reconstruction_loss="nb",
    latent_distribution="normal",
)
trainer = UnsupervisedTrainer(vae, cells, frequency=5, use_cuda=False, n_epochs_kl_warmup=None, show_progbar=False)
trainer.train(lr=5e-3, n_epochs=40)

losses, ax = plt.subplots(figsize=(5, 3.5))
for part in ("train_set", "test_set"):
    ax.plot(range(5, 41, 5), trainer.history[f"elbo_{part}"][1:], label=part)
ax.set(title="loss", xlabel="epoch", ylabel="negative ELBO, nats per cell")
_ = ax.legend()

# %%
# Loadings
# --------
# One column a dimension. A loading is the change in the logarithm of a gene's share when a cell moves by one along it. Here
# are the four genes that each dimension lowers and raises most. The signs and the order of dimensions have no meaning.

loadings = pd.DataFrame(vae.get_loadings(), index=cells.gene_names, columns=[f"Z_{i}" for i in range(10)])
for name in loadings:
    column = loadings[name].sort_values()
    print(f"{name}  lowers {', '.join(column.index[:4]):36} raises {', '.join(column.index[:-5:-1])}")

# %%
# Markers of one kind of cells should be found together. Do the genes at one end of a dimension hold those of monocytes, of
# killer cells, of B cells?

KINDS = {"monocytes": {"LYZ", "S100A8", "S100A9", "CST3"}, "killer cells": {"NKG7", "GNLY", "GZMB", "PRF1"}}
KINDS["B cells"] = {"CD79A", "CD79B", "MS4A1", "CD74"}
ends = [set(loadings[name].sort_values().index[part]) for name in loadings for part in (slice(30), slice(-30, None))]
for kind, markers in KINDS.items():
    most = max(len(markers & end) for end in ends)
    print(f"{kind}: {most} of {len(markers)} at the same end of a dimension")
    assert most >= 2

# %%
# The cells
# ---------
# Coordinates are those of any latent space: a UMAP, coloured by two of the dimensions and by a marker.

full = trainer.create_posterior(trainer.model, cells, indices=np.arange(len(cells)))
latent, _, _ = full.sequential().get_latent()
best = max(loadings, key=lambda name: abs(loadings.loc["LYZ", name]))
lyz = np.log1p(np.ravel(blood[:, "LYZ"].X.toarray()))
panels = plots.plane(
    plots.umap(latent),
    {best: latent[:, list(loadings).index(best)], "LYZ, log counts": lyz},
    continuous=True,
)
correlation = np.corrcoef(latent[:, list(loadings).index(best)], lyz)[0, 1]
print(f"correlation of {best} with LYZ: {correlation:.2f}")
assert abs(correlation) > 0.5
