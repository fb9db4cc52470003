"""The basic tutorial of 2020 with its own names, on the counts that ship with the package.

python examples/basic_tutorial_2020.py
"""

import numpy as np

import scvi
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import UnsupervisedTrainer
from scvi.models import VAE

scvi.set_seed(0)
dataset = AnnDatasetFromAnnData(scvi.demo.load(), batch_label="batch", ctype_label="cell_type")
dataset.subsample_genes(1000, mode="variance")
print(dataset)

vae = VAE(dataset.nb_genes, n_batch=dataset.n_batches)
trainer = UnsupervisedTrainer(vae, dataset, train_size=0.9, frequency=5, n_epochs_kl_warmup=None, show_progbar=False)
trainer.train(n_epochs=30, lr=1e-3)
print("negative ELBO of the test cells:", np.round(trainer.history["elbo_test_set"], 1))

full = trainer.create_posterior(trainer.model, dataset, indices=np.arange(len(dataset)))
latent, batch_indices, labels = full.sequential().get_latent()
print("latent space:", latent.shape)
print("expected counts:", full.sequential().imputation().shape)
print("expected frequencies:", full.sequential().get_sample_scale().shape)

# what differs between two types of cells, and what tells each type from all others
types = np.asarray(dataset.cell_types)
first, second = dataset.labels.ravel() == 0, dataset.labels.ravel() == 1
differences = full.differential_expression_score(first, second, n_samples=500, M_permutation=5000)
print(
    f"{types[0]} and {types[1]}:",
    differences[["bayes_factor", "raw_mean1", "raw_mean2"]].iloc[[0, 1, -2, -1]],
    sep="\n",
)
tables, clusters = full.one_vs_all_degenes(n_samples=500, min_cells=1)
for name, table in zip(clusters, tables, strict=True):
    print(f"{name}: {', '.join(table.index[:3])}")

# how well types are apart and batches mixed, and how well counts are guessed that the model does not see
print("silhouette, NMI, ARI, UCA:", np.round(full.clustering_scores(), 2))
print(
    "entropy of batch mixing:", np.round(full.entropy_batch_mixing(), 2), "of", np.round(np.log(dataset.n_batches), 2)
)
trainer.corrupt_posteriors(rate=0.1, corruption="uniform")
trainer.train(n_epochs=5, lr=1e-3)
trainer.uncorrupt_posteriors()
print("median error of hidden counts:", np.round(full.imputation_score(), 2))
