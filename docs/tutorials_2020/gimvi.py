"""
gimVI
=====

A spatial measurement sees tens to hundreds of genes, dissociated cells of the same tissue see all. gimVI puts both into one
latent space and says what the spatial cells have of the genes that were not measured there.

Two technologies that measured the same five cell lines stand for the pair: CEL-seq2 for the dissociated cells, Drop-seq,
with a fifth of its genes hidden, for the spatial ones. Because they were in fact measured, the hidden genes can be looked up.
"""

# %%
# Two data sets, one with fewer genes
# -----------------------------------

from copy import deepcopy

import numpy as np
import torch
from scipy.stats import spearmanr

import scvi
from scvi import plots
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import JVAETrainer
from scvi.models import JVAE, Classifier

torch.manual_seed(0)
adata = scvi.demo.load()
by_variance = np.argsort(-np.asarray(adata.X.power(2).mean(axis=0) - np.square(adata.X.mean(axis=0))).ravel())
adata = adata[:, np.sort(by_variance[:300])].copy()
data_sets = []
for technology in ("CEL-seq2", "Drop-seq"):
    cells = adata[adata.obs["protocol"] == technology].copy()
    del cells.obs["batch"]
    data_sets.append(AnnDatasetFromAnnData(cells, ctype_label="cell_type"))
data_seq, data_spatial = data_sets
for data in data_sets:
    data.make_gene_names_lower()
    data.filter_cells_by_count(1)

# %%
# 60 of the 300 genes are hidden from the spatial side.

rng = np.random.RandomState(0)
n_genes = data_spatial.nb_genes
gene_ids_train = np.sort(rng.choice(range(n_genes), int(n_genes * 0.8), False))
gene_ids_test = np.setdiff1d(np.arange(n_genes), gene_ids_train)
data_spatial_partial = deepcopy(data_spatial)
data_spatial_partial.filter_genes_by_attribute(data_spatial.gene_names[gene_ids_train])
data_spatial_partial.batch_indices += data_seq.n_batches

# %%
# Fit
# ---
# ``JVAE`` is told which genes each side has. A discriminator learns to tell from the latent space which side a cell is from;
# the encoders are trained against it, with the weight ``kappa``, so that equal cells of both sides come to lie together.

datasets = [data_seq, data_spatial_partial]
model = JVAE(
    [data.nb_genes for data in datasets],
    n_genes,
    [slice(None), gene_ids_train],
    ["zinb", "nb"],
    [True, False],
    n_layers_decoder_individual=0,
    n_layers_decoder_shared=0,
    n_layers_encoder_individual=1,
    n_layers_encoder_shared=1,
    dim_hidden_encoder=64,
    dim_hidden_decoder_shared=64,
    dropout_rate_encoder=0.2,
    dropout_rate_decoder=0.2,
    n_batch=sum(data.n_batches for data in (data_seq, data_spatial)),
    n_latent=8,
)
discriminator = Classifier(8, 32, 2, 3, logits=True)
trainer = JVAETrainer(model, discriminator, datasets, 0.95, frequency=10, kappa=1, show_progbar=False)
trainer.train(n_epochs=60, lr=4e-3)

# %%
# One space
# ---------
# Cells of one line should lie together in the right panel, whichever side they are from. The table is what the discriminator
# says of the two sides, in rows: a half everywhere would be a perfect mixture. Here it still knows most cells, for ``kappa=1``,
# the weight of 2020, is gentle; a larger one mixes more (``scvi.GIMVI`` takes 5).

latents = trainer.get_latent()
sides = np.repeat(["dissociated", "spatial"], [len(z) for z in latents])
lines = np.concatenate([np.asarray(data.cell_types)[data.labels.ravel()] for data in (data_seq, data_spatial)])
panels = plots.plane(plots.umap(np.concatenate(latents)), {"side": sides, "cell line": lines})
print(np.round(trainer.get_discriminator_confusion(), 2))

# %%
# The hidden genes
# ----------------
# For each of them the rank correlation, over the spatial cells, of what was imputed with what was measured. Without a model,
# the imputed value would be the same in every cell, and the correlation 0.

_, imputed = trainer.get_imputed_values(normalized=True)
original = np.asarray(data_spatial.X.todense() if hasattr(data_spatial.X, "todense") else data_spatial.X)
original = original / original.sum(axis=1, keepdims=True)
correlations = np.array([spearmanr(imputed[:, gene], original[:, gene])[0] for gene in gene_ids_test])
print("median Spearman correlation:", round(np.median(correlations), 2))
assert np.median(correlations) > 0.2

# %%
# The best gene, as it was measured and as it was imputed. In the tutorial of 2020 the cells have a place in the tissue; here
# they are on the UMAP of the latent space.

best = gene_ids_test[np.argmax(correlations)]
of_spatial = plots.umap(latents[1])
shown = {"measured": np.log1p(1e4 * original[:, best]), "imputed": np.log1p(1e4 * imputed[:, best])}
panels = plots.plane(
    of_spatial, {f"{data_spatial.gene_names[best]}, {how}": x for how, x in shown.items()}, continuous=True
)

# %%
# What the losses are made of
# ---------------------------

reconstruction, kl, told = trainer.get_loss_magnitude()
print("reconstruction", np.round(reconstruction), "KL", np.round(kl, 1), "discriminator", np.round(told, 1))
