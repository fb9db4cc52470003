"""
Annotate from a few seed labels
===============================

Somebody has labelled a few cells by hand. scANVI carries these labels over to all others, with a probability that can be
taken at its word, and with the right to abstain.

The cells are blood cells whose kind is known from surface proteins that were measured with their RNA (1500 cells, 7 kinds).
The model sees the RNA, and the kind of 20 cells each.
"""

# %%
# Seeds
# -----

import anndata
import numpy as np
import pandas as pd

import scvi
from scvi import plots

adata = anndata.read_h5ad("../../tests/sample_data/pbmc_gated.h5ad")
true = adata.obs["cell_type"].astype(str)
rng = np.random.default_rng(0)
seeds = np.concatenate([rng.choice(np.flatnonzero(true == kind), 20, replace=False) for kind in sorted(set(true))])
adata.obs["seed"] = "Unknown"
adata.obs.iloc[seeds, adata.obs.columns.get_loc("seed")] = true.iloc[seeds]
print(adata.obs["seed"].value_counts())

# %%
# Fit
# ---
# scVI first, without any label; then scANVI from its weights, with the seeds. ``unlabeled_category`` says which value stands
# for no label.

scvi.SCVI.setup_anndata(adata)
first = scvi.SCVI(adata, gene_likelihood="nb", seed=0)
first.train(max_epochs=30, seed=0)
model = scvi.SCANVI.from_scvi_model(first, unlabeled_category="Unknown", labels_key="seed", seed=0)
model.train(seed=0)

# %%
# Answers
# -------
# One label a cell, or the probabilities of all. On the plane: the seeds, what was predicted, and the truth.

predicted = model.predict()
probabilities = model.predict(soft=True)
hidden = adata.obs["seed"] == "Unknown"
right = (predicted == true)[hidden]
print(f"right: {right.mean():.3f} of {hidden.sum()} cells without a seed")
assert right.mean() > 0.85

places = plots.umap(model.get_latent_representation())
seen = adata.obs["seed"].where(~hidden)
panels = plots.plane(places, {"seeds": seen, "predicted": predicted, "true": true}, panel_size=(4.6, 3.6))

# %%
# Where it errs
# -------------
# Rows are true kinds, columns are answers. Errors should be among neighbours: kinds of T cells among one another.

pd.crosstab(true[hidden], pd.Series(predicted, index=true.index, name="predicted")[hidden])

# %%
# Is it as sure as it should be?
# ------------------------------
# Of the cells that it gives a probability of .8, four in five should be right. Points on the line say so.

panel = plots.calibration(probabilities[hidden.to_numpy()], true[hidden])

# %%
# Abstaining
# ----------
# With ``abstain_below`` a cell whose most probable label is not probable enough stays "Unknown". What is left is surer. A kind
# of which no cell was labelled would get the most similar label: there the probabilities are all that warns.

careful = model.predict(abstain_below=0.9)
answered = (careful != "Unknown") & hidden.to_numpy()
print(f"answered: {answered.sum() / hidden.sum():.2f} of the cells, right: {(careful == true)[answered].mean():.3f}")
assert (careful == true)[answered].mean() > right.mean()
