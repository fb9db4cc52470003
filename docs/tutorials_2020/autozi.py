"""
AutoZI
======

Does a gene have more zeros than its counts explain? AutoZI gives each gene a variable of its own that says so. Counts of
molecules seldom have such genes; here a part of the counts is thrown away in half of the genes, so that the truth is known.
"""

# %%
# Counts, some of which are lost
# ------------------------------
# The 100 most frequent genes of the demonstration. In every second one each count is lost with a probability of .4.

import numpy as np
from scipy import sparse
from scipy.stats import beta

import scvi
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import UnsupervisedTrainer
from scvi.models import AutoZIVAE

scvi.set_seed(0)
adata = scvi.demo.load()
by_mean = np.argsort(-np.ravel(adata.X.mean(axis=0)))
adata = adata[:, by_mean[50:150]].copy()
loses = np.arange(100) % 2 == 1
counts = adata.X.toarray()
counts *= ~(loses & (np.random.default_rng(0).random(counts.shape) < 0.4))
adata.X = sparse.csr_matrix(counts)
cells = AnnDatasetFromAnnData(adata, batch_label="batch", ctype_label="cell_type")

# %%
# Fit
# ---
# ``alpha_prior`` and ``beta_prior`` of 0.5 say nothing beforehand; ``minimal_dropout`` is the least loss that counts.

autozivae = AutoZIVAE(
    n_input=cells.nb_genes, n_batch=cells.n_batches, alpha_prior=0.5, beta_prior=0.5, minimal_dropout=0.01
)
trainer = UnsupervisedTrainer(
    autozivae, cells, n_epochs_kl_warmup=None, batch_size=32, show_progbar=False, use_cuda=False
)
trainer.train(n_epochs=60, lr=1e-2)

# %%
# Which genes?
# ------------
# The posterior of each gene's variable is a Beta distribution; below 0.5 it speaks for zero inflation. The probability of that
# is its distribution function at 0.5.

outs = autozivae.get_alphas_betas()
probability = beta.cdf(0.5, outs["alpha_posterior"], outs["beta_posterior"])
is_inflated = probability > 0.5
print(
    f"called: {is_inflated[loses].mean():.0%} of the genes that lose counts, {is_inflated[~loses].mean():.0%} of the others"
)

# %%
# A dot a gene. The two kinds of genes should be apart, and they are, but for genes with few counts: zeros of these are no
# surprise with or without losses.

import matplotlib.pyplot as plt

means = counts.mean(axis=0)
figure, ax = plt.subplots(figsize=(5.5, 4))
for kind, name in ((loses, "loses counts"), (~loses, "does not")):
    ax.scatter(means[kind], outs["alpha_posterior"][kind] - outs["beta_posterior"][kind], s=14, label=name)
ax.axhline(0, color="grey", linewidth=1)
ax.set(title="zero inflation", xscale="log", xlabel="mean count", ylabel="alpha - beta (below 0: zero-inflated)")
_ = ax.legend()

from sklearn.metrics import roc_auc_score

area = roc_auc_score(loses, probability)
print(f"area under the ROC curve: {area:.3f}")
assert area > 0.75

# %%
# By kind of cells
# ----------------
# A gene may lose counts in some cells only. With ``zero_inflation="gene-label"`` each kind of cells has its own variables, and
# the answers are tables, genes x kinds.

by_label = AutoZIVAE(
    cells.nb_genes,
    n_batch=cells.n_batches,
    n_labels=cells.n_labels,
    dispersion="gene-label",
    zero_inflation="gene-label",
)
trainer = UnsupervisedTrainer(
    by_label, cells, n_epochs_kl_warmup=None, batch_size=32, show_progbar=False, use_cuda=False
)
trainer.train(n_epochs=30, lr=1e-2)
outs = by_label.get_alphas_betas()
called = outs["alpha_posterior"] < outs["beta_posterior"]
for name, column in zip(cells.cell_types, called.T, strict=True):
    print(
        f"{name:8} called: {column[loses].mean():.0%} of the genes that lose counts, {column[~loses].mean():.0%} of the others"
    )
