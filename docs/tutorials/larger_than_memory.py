"""
Larger than memory
==================

Counts that do not fit into memory stay in their file. Several files become one store without being held in memory; the
AnnData that shows the store is set up, fitted and asked like any other.

Two thousand simulated cells stand for two million: what changes with their number is how long it takes, not what to write.
"""

# %%
# Two files
# ---------
# Two runs of cells of four kinds. The second run has a batch effect: a factor for each gene.

import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

import scvi
from scvi import plots
from scvi.queries import clustering

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
programs = rng.gamma(0.3, 1, (4, 200))  # four kinds of cells, 200 genes
programs /= programs.sum(axis=1, keepdims=True)
for run, effect in {"run_1": np.ones(200), "run_2": rng.lognormal(0, 0.5, 200)}.items():
    kind = rng.integers(4, size=1000)
    size = rng.lognormal(5, 0.3, 1000)
    counts = sparse.csr_matrix(rng.poisson(size[:, None] * programs[kind] * effect).astype(np.int32))
    obs = pd.DataFrame({"kind": [f"kind {k}" for k in kind]}, index=[f"{run}_{i}" for i in range(1000)])
    var = pd.DataFrame(index=[f"gene{g}" for g in range(200)])
    anndata.AnnData(counts, obs=obs, var=var).write_h5ad(folder / f"{run}.h5ad")

# %%
# One store
# ---------
# ``to_store`` reads the files a part of their cells at a time. It takes ``.h5ad``, loom and the files of Cell Ranger, keeps the
# genes that all have, and writes the name of the file of each cell to the column ``sample``.

store = scvi.data.to_store([folder / "run_1.h5ad", folder / "run_2.h5ad"], folder / "all.h5ad", progress=False)
adata = anndata.read_h5ad(store, backed="r")
print(adata)

# %%
# ``backed="r"`` leaves the counts on disk:

print(type(adata.X).__name__)

# %%
# Fit
# ---
# Nothing else differs. Set-up reads every count once, a block of cells at a time, checks it, and keeps a digest of 8 bytes for
# each cell. An epoch reads each training cell once: blocks of neighbouring cells in random order, shuffled in a buffer, which
# is read ahead while the fit goes on.

scvi.SCVI.setup_anndata(adata, batch_key="sample")
model = scvi.SCVI(adata, gene_likelihood="nb", seed=0)
model.train(max_epochs=20, seed=0)
losses = plots.history(model.history)

# %%
# Ask
# ---
# A question reads the cells that it is about, once. Kinds should be apart and runs mixed:

latent = adata.obsm["X_scVI"] = model.get_latent_representation()
kind, run = adata.obs["kind"], adata.obs["sample"]
accuracy = clustering.knn_accuracy(latent, kind)
mixing = clustering.batch_entropy(latent, run) / clustering.max_batch_entropy(run)
print(f"neighbours name the kind of {accuracy:.3f} of the cells; runs are mixed to {mixing:.0%}")
assert accuracy > 0.95
assert mixing > 0.8

some = np.arange(0, adata.n_obs, 2)
panels = plots.plane(plots.umap(latent[some]), {"kind": kind.iloc[some], "run": run.iloc[some]})

# %%
# Answers that are as large as the counts are asked for a part of the cells or genes at a time:

part = model.get_normalized_expression(indices=np.arange(100), gene_list=["gene0", "gene1"], library_size=1e4)
print(part.shape)

# %%
# The same fit from memory
# ------------------------
# Cells are seen in another order, so the weights are not the same; how good they are is.

in_memory = anndata.read_h5ad(store)
scvi.SCVI.setup_anndata(in_memory, batch_key="sample")
other = scvi.SCVI(in_memory, gene_likelihood="nb", seed=0)
other.train(max_epochs=20, seed=0)
scores = {"from the file": model.get_elbo(), "from memory": other.get_elbo()}
for name, score in scores.items():
    print(f"{name}: {float(score):.1f} nats per cell")
assert np.isclose(*map(float, scores.values()), rtol=0.01)

# %%
# What it costs, and how stores on disk are best laid out: :doc:`/large-data`.
