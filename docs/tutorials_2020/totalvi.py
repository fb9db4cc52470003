"""
totalVI
=======

Genes and surface proteins of the same blood cells (CITE-seq) in one latent space, and the signal of each antibody apart from
its background. With the names of 2020.
"""

# %%
# Load
# ----
# Genes first, proteins as a *measurement* of the data set. In the download of 2020 ``Dataset10X`` finds both in one file; they
# can be attached to any data set, as here.

import anndata
import numpy as np

import scvi
from scvi import plots
from scvi.dataset import AnnDatasetFromAnnData, CellMeasurement
from scvi.inference import TotalPosterior, TotalTrainer
from scvi.models import TOTALVI

scvi.set_seed(0)
blood = anndata.read_h5ad("../../tests/sample_data/pbmc_cite_small.h5ad")
blood = blood[blood.obs["batch"] == "pbmc_10k"].copy()  # the run whose proteins were measured
dataset = AnnDatasetFromAnnData(blood, ctype_label="protein_gate")
dataset.initialize_cell_measurement(
    CellMeasurement(
        name="protein_expression",
        data=np.asarray(blood.obsm["protein_counts"]),
        columns_attr_name="protein_names",
        columns=np.asarray(blood.uns["protein_names"]).astype(str),
    )
)

# %%
# Genes that fewer than one cell in a hundred has are left out, and cells with hardly any protein.

dataset.update_genes(np.asarray((dataset.X > 0).mean(axis=0)).ravel() > 0.01)
dataset.subsample_genes(250)
totals = dataset.protein_expression.sum(axis=1)
dataset.update_cells(totals >= np.percentile(totals, 1))
print(dataset.nb_cells, "cells,", dataset.nb_genes, "genes,", dataset.protein_expression.shape[1], "proteins")

# %%
# Fit
# ---
# ``TotalTrainer`` watches the ELBO of held-out cells and lowers the learning rate where it no longer falls.

totalvae = TOTALVI(dataset.nb_genes, len(dataset.protein_names), n_hidden=64)
trainer = TotalTrainer(
    totalvae,
    dataset,
    train_size=0.90,
    test_size=0.10,
    use_cuda=False,
    frequency=1,
    show_progbar=False,
    n_iter_kl_warmup=100,
    data_loader_kwargs={"batch_size": 64},
    early_stopping_kwargs={
        "early_stopping_metric": "elbo",
        "save_best_state_metric": "elbo",
        "patience": 45,
        "threshold": 0,
        "reduce_lr_on_plateau": True,
        "lr_patience": 30,
        "lr_factor": 0.6,
        "posterior_class": TotalPosterior,
    },
)
trainer.train(lr=4e-3, n_epochs=60)

import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(5, 3.5))
for part in ("train_set", "test_set"):
    ax.plot(trainer.history[f"elbo_{part}"][1:], label=part)
ax.set(title="loss", xlabel="epoch", ylabel="negative ELBO, nats per cell")
_ = ax.legend()

# %%
# The latent space
# ----------------
# Beside the cells, the types that thresholds on the proteins give. The model was not told of them.

full = trainer.create_posterior(trainer.model, dataset, indices=np.arange(len(dataset)), type_class=TotalPosterior)
full = full.update({"batch_size": 32})
latent_mean, _, label, _ = full.sequential().get_latent()
gate = np.asarray(dataset.cell_types)[label]
places = plots.umap(latent_mean)
panels = plots.plane(places, {"gate": gate})

# %%
# Signal and background
# ---------------------
# An antibody also sticks where its protein is not. The model says for each count how probable it is that it is background;
# one minus that is the probability of *foreground*. Of three proteins, which each mark a kind of cells:

py_mixing = full.sequential().get_sample_mixing(n_samples=10, give_mean=True)
_, denoised_proteins = full.sequential().get_normalized_denoised_expression(n_samples=10, give_mean=True)
foreground = 1 - py_mixing
names = [str(name).split("_")[0] for name in dataset.protein_names]
shown = {f"{name}, foreground": foreground[:, names.index(name)] for name in ("CD3", "CD19", "CD14")}
panels = plots.plane(places, shown, continuous=True)

# %%
# Counts of CD3 fall into two heaps that overlap; without background they are apart.

observed = np.log1p(dataset.protein_expression[:, names.index("CD3")])
denoised = np.log1p(denoised_proteins[:, names.index("CD3")])
is_t = np.isin(gate, ["CD4 T memory", "CD4 T naive", "CD8 T"])
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5))
for ax, (title, values) in zip(axes, {"CD3, counted": observed, "CD3, denoised": denoised}.items(), strict=True):
    bins = np.linspace(0, values.max(), 40)
    ax.hist(values[is_t], bins, alpha=0.7, label="T cells")
    ax.hist(values[~is_t], bins, alpha=0.7, label="others")
    ax.set(title=title, xlabel="log(1 + count)", ylabel="cells")
_ = axes[0].legend()

# %%
# How well foreground tells the gated cells from the others, as the area under the ROC curve (1 is best):

from sklearn.metrics import roc_auc_score

gated = gate != "unassigned"
for name, types in {"CD3": gate[is_t], "CD19": ["B"], "CD14": ["CD14 Mono"]}.items():
    area = roc_auc_score(np.isin(gate, types)[gated], foreground[gated, names.index(name)])
    print(f"{name}: {area:.3f}")
    assert area > 0.9
