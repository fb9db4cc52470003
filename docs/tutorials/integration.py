"""
Integrate batches
=================

Cells of several batches are to be compared as if they had been measured together. scVI is told the batch of each cell, so
that what depends on the batch alone need not be in the latent space. This tutorial fits it, looks at the result, and asks
whether the result can be trusted.

The cells: five lung cancer cell lines in five batches, three of CEL-seq2 and two of Drop-seq. The line of a cell is known
from its genotype and is shown to no model here.
"""

# %%
# Before
# ------
# A principal component analysis of log counts is what one would do without a model. On its plane the batches lie apart:
# cells of one line form several groups, one for each technology.

import numpy as np
from sklearn.decomposition import PCA

import scvi
from scvi import plots
from scvi.queries import clustering

adata = scvi.demo.load()
counts = adata.X.toarray()
logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
components = PCA(10, random_state=0).fit_transform(logs)
before = plots.plane(plots.umap(components), {"batch": adata.obs["batch"], "cell line": adata.obs["cell_type"]})

# %%
# Fit
# ---
# ``X`` has to hold raw counts: the model knows how counts scatter, and a logarithm would hide it. One call says what is in
# the AnnData, one makes the model, one fits it. The number of epochs follows from the number of cells.

scvi.SCVI.setup_anndata(adata, batch_key="batch")
model = scvi.SCVI(adata, seed=0)
model.train(seed=0)

# %%
# A tenth of the cells was set aside. Where both curves have become flat, the fit is done; where the lower one of the
# training cells went on falling while the other rose, the model would have begun to learn cells by heart.

losses = plots.history(model.history)

# %%
# After
# -----

latent = adata.obsm["X_scVI"] = model.get_latent_representation()
after = plots.plane(plots.umap(latent), {"batch": adata.obs["batch"], "cell line": adata.obs["cell_type"]})

# %%
# The same in figures. *Accuracy*: how often a vote of its 15 neighbours names the line of a cell. *Entropy*: how mixed the
# batches are among neighbours, 0 if not at all. Good integration raises the second without lowering the first; a method
# that throws all cells onto one heap would have the best entropy of all, and an accuracy of chance.

for name, space in {"PCA": components, "scVI": latent}.items():
    accuracy = clustering.knn_accuracy(space, adata.obs["cell_type"])
    entropy = clustering.batch_entropy(space, adata.obs["batch"])
    print(f"{name:5}accuracy {accuracy:.3f}, entropy {entropy:.2f}")

assert accuracy > 0.98
assert entropy > 1.5 * clustering.batch_entropy(components, adata.obs["batch"])

# %%
# Can it be trusted?
# ------------------
# ``check`` looks at the curves, at the batches, and at counts that the fitted model draws beside those that were measured.
# It says what it finds in plain words, the most doubtful first.

found = model.check()
print(found)

# %%
# Each point is a gene: the mean of its counts, and how they scatter, measured and drawn. A model of Poisson noise alone
# would have its dots below the line.

panels = plots.predictive_panels(found.predictive["genes"])

# %%
# Next
# ----
# ``adata.obsm["X_scVI"]`` goes wherever principal components would: neighbours, clusters, UMAP. Expression as it would be
# had every cell been in the same batch is asked with ``transform_batch``:

adjusted = model.get_normalized_expression(transform_batch=adata.obs["batch"].iloc[0], library_size=1e4)
adjusted.iloc[:3, :4].round(2)
