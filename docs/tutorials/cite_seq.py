"""
CITE-seq
========

Genes and surface proteins of the same cells in one model: states of cells by both, proteins without background, and
proteins of cells in which they were not measured.

Blood cells of two runs: in the first, 14 proteins were measured; in the second they were not (all zeros).
"""

# %%
# Set-up
# ------
# Proteins are in ``obsm``, their names in ``uns``. A protein without any count in a batch is taken as *not measured* there: the
# model then learns nothing from its zeros.

import anndata
import numpy as np
from sklearn.metrics import roc_auc_score

import scvi
from scvi import plots

adata = anndata.read_h5ad("../../tests/sample_data/pbmc_cite_small.h5ad")
print(adata.obs["batch"].value_counts())
scvi.TOTALVI.setup_anndata(adata, "protein_counts", "protein_names", batch_key="batch")
model = scvi.TOTALVI(adata, seed=0)
model.train(max_epochs=40, seed=0)

# %%
# One space for both runs
# -----------------------
# Thresholds on the proteins give the type of the cells of the first run. Cells of the second are grey in the right panel, and
# should lie among the others.

latent = adata.obsm["X_totalVI"] = model.get_latent_representation()
places = plots.umap(latent)
measured = (adata.obs["batch"] == "pbmc_10k").to_numpy()
gate = adata.obs["protein_gate"].astype(str)
gated = measured & (gate != "unassigned").to_numpy()
panels = plots.plane(places, {"batch": adata.obs["batch"], "gate": gate.where(gated)})

# %%
# Signal and background
# ---------------------
# ``transform_batch`` asks what each cell would have had in the run that measured proteins. So there is an answer for all cells.

_, protein = model.get_normalized_expression(n_samples=10, transform_batch="pbmc_10k", seed=0)
foreground = model.get_protein_foreground_probability(n_samples=10, transform_batch="pbmc_10k", seed=0)
print(foreground.groupby(adata.obs["batch"], observed=True).mean().T.round(2))

# %%
# The names of the proteins are found by their beginning. CD3 is of T cells, CD19 of B cells, CD14 of monocytes.

names = {name: next(found for found in foreground if found.split("_")[0] == name) for name in ("CD3", "CD19", "CD14")}
panels = plots.plane(
    places, {f"{name}, foreground": foreground[column] for name, column in names.items()}, continuous=True
)
of = {"CD3": ["CD4 T memory", "CD4 T naive", "CD8 T"], "CD19": ["B"], "CD14": ["CD14 Mono"]}
for name, column in names.items():
    area = roc_auc_score(gate[gated].isin(of[name]), foreground.loc[gated, column])
    print(f"{name}: area under the ROC curve {area:.3f}")
    assert area > 0.9

# %%
# Proteins where they were not measured
# -------------------------------------
# In the second run there is nothing to compare with, but genes speak of the same cells: *CD3* by the RNA of its parts, and so
# on. To score imputation itself, the proteins of half of the first run are hidden, and looked up afterwards.

hidden = np.zeros(adata.n_obs, bool)
hidden[np.flatnonzero(measured)[::2]] = True
half = adata[measured].copy()
half.obs["run"] = np.where(hidden[measured], "hidden", "shown")
counts = np.asarray(half.obsm["protein_counts"])
half.obsm["protein_counts"] = np.where(hidden[measured][:, None], 0, counts)
scvi.TOTALVI.setup_anndata(half, "protein_counts", "protein_names", batch_key="run")
blind = scvi.TOTALVI(half, seed=0)
blind.train(max_epochs=40, seed=0)
_, imputed = blind.get_normalized_expression(
    n_samples=10, transform_batch="shown", include_protein_background=True, indices=hidden[measured], seed=0
)
correlations = [
    np.corrcoef(np.log1p(imputed[name]), np.log1p(counts[hidden[measured], i]))[0, 1] for i, name in enumerate(imputed)
]

import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(6, 3.5))
ax.bar([name.split("_")[0] for name in imputed], correlations)
ax.set(title="imputed and measured", ylabel="correlation of log counts")
ax.tick_params(axis="x", rotation=90)
print("mean correlation:", round(float(np.mean(correlations)), 2))
assert np.mean(correlations) > 0.5

# %%
# A protein like CD25, of which signal and background overlap, is imputed poorly, and its foreground probability is in between
# everywhere: that is the model saying that it does not know.
