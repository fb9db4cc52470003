"""
Map new cells onto a reference
==============================

A reference was fitted once. New cells arrive, of a batch that it has never seen. They are mapped onto it without fitting it
again and without its cells: the new batch gets a few weights of its own, and only these are trained. What the model says of
the reference stays as it was.

Four batches of the demonstration are the reference, the fifth is the query. It was sequenced with another technology than
most of them.
"""

# %%
# The reference
# -------------
# ``encode_covariates=True`` shows the batch to the encoder as well: without it, training would not move a query in the latent
# space. The labels are known for the reference only.

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

import scvi
from scvi import plots

cells = scvi.demo.load()
is_query = (cells.obs["batch"] == cells.obs["batch"].iloc[-1]).to_numpy()
adata, query = cells[~is_query].copy(), cells[is_query].copy()
print(adata.n_obs, "cells in the reference,", query.n_obs, "in the query")

scvi.SCVI.setup_anndata(adata, batch_key="batch")
reference = scvi.SCVI(adata, encode_covariates=True, seed=0)
reference.train(max_epochs=40, seed=0)
before = reference.get_latent_representation()

# %%
# The query
# ---------
# It needs the same columns of ``obs`` and raw counts; its genes are found by name. In place of the model itself a folder with a
# saved one can be given. A new batch starts as an average one, so there is an answer before any training.

model = scvi.SCVI.load_query_data(query, reference)
untrained = model.get_latent_representation()
model.train(lr=0.02, seed=0)
mapped = model.get_latent_representation()

# %%
# The reference has not moved:

again = model.get_latent_representation(adata)
print("largest change in the reference:", float(np.abs(again - before).max().round(6)))
assert np.allclose(again, before, atol=1e-4)

# %%
# Labels for the query
# --------------------
# A vote of the 15 nearest cells of the reference, beside the true line of each cell.

vote = KNeighborsClassifier(15).fit(before, adata.obs["cell_type"])
for name, latent in {"untrained": untrained, "trained": mapped}.items():
    print(f"{name}: {(vote.predict(latent) == query.obs['cell_type']).mean():.3f} right")
assert (vote.predict(mapped) == query.obs["cell_type"]).mean() > 0.95

# %%
# Query cells should lie on top of cells of their own line in the reference.

together = plots.umap(np.concatenate([before, mapped]))
panels = plots.plane(
    together,
    {
        "cells": np.repeat(["reference", "query"], [len(before), len(mapped)]),
        "cell line": np.concatenate([adata.obs["cell_type"], query.obs["cell_type"]]),
    },
)

# %%
# Does it fit?
# ------------
# The model scores each cell: nats, higher is better. Training the weights of the new batch should raise the score of the query.
# (Query and reference are not to be compared with one another: cells with fewer counts have higher scores.)

raw = scvi.SCVI.load_query_data(query, reference)
for name, score in {
    "query, untrained": raw.get_elbo(),
    "query, trained": model.get_elbo(),
}.items():
    print(f"{name}: {float(score):.0f}")
assert model.get_elbo() > raw.get_elbo()
