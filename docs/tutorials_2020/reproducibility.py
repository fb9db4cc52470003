"""
Reproducibility
===============

The figures of the first paper (Lopez et al. 2018) on cells that ship with the source: held-out likelihood, imputation of
counts that the model does not see, clusters, differential expression, and counts that the model draws itself.
"""

# %%
# A fit
# -----
# A function, since several fits follow. The last epochs have a small learning rate, so that batch norm keeps up.

import numpy as np

import scvi
from scvi import plots
from scvi.dataset import AnnDatasetFromAnnData, GeneExpressionDataset
from scvi.inference import AdapterTrainer, UnsupervisedTrainer
from scvi.models import VAE


def data_of(adata, n_genes=300):
    gene_dataset = AnnDatasetFromAnnData(adata, batch_label="batch", ctype_label="cell_type")
    gene_dataset.subsample_genes(n_genes, mode="variance")
    return gene_dataset


def fitted(gene_dataset, n_epochs=30, corruption=None, train_size=0.9):
    scvi.set_seed(0)
    vae = VAE(gene_dataset.nb_genes, n_batch=gene_dataset.n_batches)
    trainer = UnsupervisedTrainer(
        vae,
        gene_dataset,
        train_size=train_size,
        n_epochs_kl_warmup=None,
        n_iter_kl_warmup=80,
        show_progbar=False,
        use_cuda=False,
    )
    if corruption is not None:
        trainer.corrupt_posteriors(**corruption)
    trainer.train(n_epochs=n_epochs, lr=5e-3)
    trainer.train(n_epochs=n_epochs // 4, lr=2e-4)
    trainer.uncorrupt_posteriors()
    return trainer, trainer.create_posterior(vae, gene_dataset, indices=np.arange(len(gene_dataset)))


gene_dataset = data_of(scvi.demo.load())
trainer, full = fitted(gene_dataset)

# %%
# Held-out likelihood
# -------------------
# Half of the cells are trained on. For the other half the encoder, which has never seen them, is fitted for one more epoch:
# what is left is the decoder's doing. All are losses in nats per cell, lower is better; the bound is above what it bounds.

half, _ = fitted(gene_dataset, n_epochs=20, train_size=0.5)
before = half.test_set.elbo()
adapter = AdapterTrainer(half.model, gene_dataset, half.test_set)
adapter.show_progbar = False
after = adapter.train(n_path=1, n_epochs=1)
evidence = half.test_set.marginal_ll(n_mc_samples=20)
print(f"negative ELBO {before:.1f}, encoder adapted {after:.1f}, negative log evidence {evidence:.1f}")
assert evidence < before

# %%
# Imputation
# ----------
# A tenth of the non-zero counts is hidden before the fit, and then asked for. In the picture the shades are pairs of a hidden
# count and what was expected for it.

hidden, of_hidden = fitted(data_of(scvi.demo.load()), n_epochs=40, corruption={"rate": 0.1, "corruption": "uniform"})
original_list, imputed_list = of_hidden.imputation_benchmark(n_samples=1, show_plot=False)
original, imputed = np.concatenate(original_list), np.concatenate(imputed_list)
panel = plots.imputation(original, imputed, title="hidden counts")
score = of_hidden.imputation_score(original_list=original_list, imputed_list=imputed_list)
without = np.median(np.abs(original - original.mean()))
print(f"median error {score:.2f}; of their mean {without:.2f}")
assert score < without

# %%
# Clusters
# --------
# How well groups in the latent space are the five cell lines, and a t-SNE of it.

asw, nmi, ari, uca = full.clustering_scores()
print(f"silhouette {asw:.2f}, NMI {nmi:.2f}, ARI {ari:.2f}, accuracy of clusters {uca:.2f}")
assert nmi > 0.6

latent, batch_indices, labels = full.sequential().get_latent()
lines = np.asarray(gene_dataset.cell_types)[labels]
panels = plots.plane(plots.t_sne(latent), {"batch": batch_indices.ravel(), "cell line": lines})

# %%
# Where there is nothing to find, nothing should be found: counts without structure, with labels at random.

rng = np.random.default_rng(0)
noise = GeneExpressionDataset()
noise.populate_from_data(rng.negative_binomial(2, 0.2, size=(400, 60)) + 1, labels=rng.integers(3, size=400))
_, of_noise = fitted(noise, n_epochs=10)
print("scores of noise:", np.round(of_noise.clustering_scores(), 2))
assert of_noise.clustering_scores()[1] < 0.1

# %%
# Differential expression
# -----------------------
# Two cell lines, and one of them with itself. Absolute Bayes factors above 3 are many in the one and none in the other.

one, other = (np.flatnonzero(labels == line) for line in (1, 4))
options = {"n_samples": 200, "M_permutation": 40_000, "all_stats": False}
different = full.differential_expression_score(one, other, **options)["bayes_factor"]
same = full.differential_expression_score(one, one, **options)["bayes_factor"]

import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(5, 3.5))
bins = np.linspace(-8, 8, 41)
for name, factors in {"two lines": different, "one line with itself": same}.items():
    ax.hist(np.clip(factors, -8, 8), bins, alpha=0.7, label=name)
ax.set(title="Bayes factors", xlabel="Bayes factor", ylabel="genes")
_ = ax.legend()
print("above 3:", int((different.abs() >= 3).sum()), "and", int((same.abs() >= 3).sum()))
assert (different.abs() >= 3).sum() > 30
assert not (same.abs() >= 3).any()

# %%
# Counts drawn by the model
# -------------------------
# Thirty draws of one gene for every training cell. Their histogram should be that of the counts.

gene = str(gene_dataset.gene_names[7])
drawn, counts = trainer.train_set.generate(genes=[gene], n_samples=30)
figure, ax = plt.subplots(figsize=(5, 3.5))
bins = np.arange(0, np.percentile(counts, 99) + 2)
for name, values in {"counts": counts.ravel(), "drawn": drawn.ravel()}.items():
    ax.hist(values, bins, density=True, histtype="step", label=name)
ax.set(title=gene, xlabel="count", ylabel="share of cells")
_ = ax.legend()

# %%
# The same seed gives the same fit
# --------------------------------

again, _ = fitted(gene_dataset)
weights, others = trainer.model.state_dict(), again.model.state_dict()
assert all((weights[name] == others[name]).all() for name in weights)
