r"""
Basic tutorial
==============

A first fit with the names of 2020: load counts, fit scVI, look at the latent space, at expression without noise, and at
the genes that differ between two kinds of cells.

The cells are those of five lung cancer cell lines, sequenced in five batches (Tian et al. 2019). The line of each cell is
known from its genotype, so that there is a truth to compare with.
"""

# %%
# Load
# ----
# ``AnnDatasetFromAnnData`` makes a data set of 2020 from an AnnData. We keep the 500 genes whose counts vary most: a fit is
# faster with fewer genes, and those that hardly vary say little about the kinds of cells.

import numpy as np

import scvi
from scvi import plots
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import UnsupervisedTrainer, load_posterior
from scvi.models import VAE

scvi.set_seed(0)
gene_dataset = AnnDatasetFromAnnData(scvi.demo.load(), batch_label="batch", ctype_label="cell_type")
gene_dataset.subsample_genes(500, mode="variance")
print(gene_dataset)

# %%
# Fit
# ---
# The network is made first, then the trainer, which splits the cells: with ``train_size=0.9`` a tenth of them is never
# trained on. ``frequency=5`` computes the losses of both parts every five epochs.
#
# The KL term of the loss is weighted up from 0 to 1 over ``n_epochs_kl_warmup`` epochs. The default of 2020 is 400, longer
# than this fit: with 10 the last epochs maximise the true bound.

vae = VAE(gene_dataset.nb_genes, n_batch=gene_dataset.n_batches)
trainer = UnsupervisedTrainer(
    vae, gene_dataset, train_size=0.90, frequency=5, n_epochs_kl_warmup=10, show_progbar=False, use_cuda=False
)
trainer.train(n_epochs=50, lr=5e-3)

# %%
# Both curves should have become flat, and that of the test cells should not have turned upwards again. If it had, the
# network would be learning the training cells by heart. The first point, before any training, is left out.

import matplotlib.pyplot as plt

train, test = trainer.history["elbo_train_set"], trainer.history["elbo_test_set"]
epochs = np.linspace(0, 50, len(train))
losses, ax = plt.subplots(figsize=(5, 3.5))
ax.plot(epochs[1:], train[1:], label="training cells")
ax.plot(epochs[1:], test[1:], label="test cells")
ax.set(title="loss", xlabel="epoch", ylabel="negative ELBO, nats per cell")
_ = ax.legend()

assert test[-1] < 0.2 * test[0]

# %%
# The latent space
# ----------------
# Questions are asked of a *posterior*: a model and cells. ``sequential()`` goes through the cells in their order.

full = trainer.create_posterior(trainer.model, gene_dataset, indices=np.arange(len(gene_dataset)))
full = full.update({"batch_size": 32})
latent, batch_indices, labels = full.sequential().get_latent()
print(latent.shape)

# %%
# A UMAP puts the ten dimensions on a plane. The decoder was told the batch of each cell, so the latent space has no need of
# it: in the left panel batches of one technology lie on top of each other, and in the right one each group is of one line.
# Batches of different technologies are less well mixed after so short a fit with the options of 2020; with those of today
# they are (:doc:`/gallery/integration`).

places = plots.umap(latent)
lines = np.asarray(gene_dataset.cell_types)[labels]
panels = plots.plane(places, {"batch": batch_indices.ravel(), "cell line": lines})

# %%
# In figures: how many of a cell's neighbours are of its own line (1 is best), and how well the batches are mixed (0 to
# log 5 = 1.61; less than all can be had, since not every line is in every batch in equal numbers).

print("neighbours of the same line:", round(full.knn_purity(), 3))
print("entropy of batch mixing:", round(full.entropy_batch_mixing(), 2))
assert full.knn_purity() > 0.95

# %%
# Expression without noise
# ------------------------
# ``get_sample_scale`` gives the share that each gene has in the RNA of a cell, as the model believes it; ``imputation`` the
# counts that it expects. Both come for every gene of every cell, zeros included.

normalized_values = full.sequential().get_sample_scale()
imputed_values = full.sequential().imputation()
print(normalized_values.shape, "sums to", normalized_values.sum(axis=1).round(3)[:3])

# %%
# What differs
# ------------
# Two kinds of cells are compared by draws from the posterior: ``proba_m1`` is the probability that a gene is expressed more
# in the first, ``bayes_factor`` its log odds. ``raw_normalized_mean`` is what the counts themselves say.

first, second = (labels == list(gene_dataset.cell_types).index(line) for line in ("H1975", "A549"))
de = full.differential_expression_score(first, second, n_samples=100, M_permutation=10_000)
print(de[["proba_m1", "bayes_factor", "raw_normalized_mean1", "raw_normalized_mean2"]].iloc[[0, 1, 2, -3, -2, -1]])
ratio = np.log2((de["raw_normalized_mean1"] + 0.1) / (de["raw_normalized_mean2"] + 0.1))
assert np.corrcoef(de["bayes_factor"], ratio)[0, 1] > 0.7

# %%
# Each line against all others gives its markers. The heat map shows the best five of each: its own line is bright.

tables, lines_of_tables = full.one_vs_all_degenes(cell_labels=gene_dataset.labels.ravel(), min_cells=1, n_samples=500)
markers = [gene for table in tables for gene in table.index[:5]]
heat = np.log10(1 + np.array([[table.loc[gene, "raw_normalized_mean1"] for table in tables] for gene in markers]))
figure, ax = plt.subplots(figsize=(4, 6))
ax.imshow(heat, aspect="auto")
ax.set_xticks(range(5), [gene_dataset.cell_types[i] for i in lines_of_tables], rotation=90)
ax.set_yticks(range(len(markers)), markers, fontsize=7)
_ = ax.set_title("markers: log10(1 + mean count)")

# %%
# Keep
# ----
# A posterior is saved to a folder: weights, cells and which of them it is about. Loading needs a network of the same shape.

import tempfile

with tempfile.TemporaryDirectory() as folder:
    full.save_posterior(f"{folder}/full")
    again = load_posterior(
        dir_path=f"{folder}/full", model=VAE(gene_dataset.nb_genes, n_batch=gene_dataset.n_batches), use_cuda=False
    )
assert np.array_equal(again.sequential().get_latent()[0], latent)
