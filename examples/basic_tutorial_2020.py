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
