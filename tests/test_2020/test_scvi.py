"""The checks of the test suite of 2020 that concern the models with counts alone."""

import numpy as np
import pytest
import torch

from scvi.dataset import AnnDatasetFromAnnData, SyntheticDataset
from scvi.inference import AdapterTrainer, UnsupervisedTrainer, load_posterior
from scvi.models import LDVAE, VAE

QUIET = {"show_progbar": False, "use_cuda": False}


@pytest.fixture
def small(mixology):
    """90 cells of all batches and lines x 60 genes."""
    small = mixology[np.linspace(0, mixology.n_obs - 1, 90).astype(int)].copy()[:, ::5].copy()
    return AnnDatasetFromAnnData(small, batch_label="batch", ctype_label="cell_type")


def fitted(vae, dataset, n_epochs=1, **kwargs):
    trainer = UnsupervisedTrainer(vae, dataset, **{"train_size": 0.5, **QUIET, **kwargs})
    trainer.train(n_epochs=n_epochs)
    return trainer


def test_special_dataset_size():
    dataset = SyntheticDataset(batch_size=17, nb_genes=10)  # 34 cells, 17 of them for training: 8 + 8 + 1
    vae = VAE(dataset.nb_genes, n_batch=dataset.n_batches, n_labels=dataset.n_labels)
    trainer = fitted(vae, dataset, batch_size=8, frequency=1)
    assert trainer.train_set.nb_cells == 17
    assert trainer.n_iter == 2
    assert np.isfinite(trainer.history["elbo_train_set"]).all()


def test_cortex(small):
    vae = VAE(small.nb_genes, n_batch=small.n_batches, n_labels=small.n_labels)
    trainer = fitted(vae, small, frequency=1, n_epochs_kl_warmup=None)
    for posterior in (trainer.train_set, trainer.test_set):
        assert np.isfinite([posterior.elbo(), posterior.reconstruction_error(), posterior.marginal_ll(10)]).all()
    full = trainer.create_posterior(vae, small, indices=np.arange(len(small)))
    genes = [str(gene) for gene in small.gene_names[[30, 4, 17]]]
    table = full.sequential().get_sample_scale(gene_list=genes)
    assert set(table.columns) == set(genes)
    assert full.sequential().get_sample_scale(n_samples=3).shape == (90, 60)
    assert full.sequential().imputation().shape == (90, 60)
    assert full.sequential().imputation(n_samples=5).shape == (5, 90, 60)
    assert full.get_stats().shape == (90,)
    counts, labels = full.raw_data()
    assert (counts.shape, labels.shape) == ((90, 60), (90,))
    latent, batch_indices, labels = full.get_latent()
    assert (latent.shape, batch_indices.shape, labels.shape) == ((90, 10), (90, 1), (90,))


@pytest.mark.parametrize("corruption", ["binomial", "uniform"])
def test_corruption(small, corruption):
    trainer = fitted(VAE(small.nb_genes), small)
    trainer.corrupt_posteriors(corruption=corruption)
    assert trainer.train_set.reads_corrupted
    trainer.train(n_epochs=1)
    trainer.uncorrupt_posteriors()
    assert not trainer.train_set.reads_corrupted
    assert np.isfinite(trainer.train_set.elbo())
    assert trainer.train_set.imputation_score(n_samples=1) > 0
    original_list, imputed_list = trainer.train_set.imputation_benchmark(n_samples=2, show_plot=False)
    assert [len(values) for values in original_list] == [len(values) for values in imputed_list]


def test_synthetic_1_save_and_load(tmp_path):
    dataset = SyntheticDataset(batch_size=10, nb_genes=20)
    vae = VAE(dataset.nb_genes, n_batch=dataset.n_batches, n_labels=dataset.n_labels)
    trainer = fitted(vae, dataset)
    full = trainer.create_posterior(vae, dataset, indices=np.arange(len(dataset)))
    full.save_posterior(tmp_path / "saved")
    again = load_posterior(tmp_path / "saved", VAE(20, n_batch=dataset.n_batches, n_labels=dataset.n_labels))
    assert np.array_equal(again.indices, full.indices)
    assert np.array_equal(again.gene_dataset.X, dataset.X)
    assert np.array_equal(again.gene_dataset.labels, dataset.labels)


def test_synthetic_1_scores_and_pictures():
    dataset = SyntheticDataset(batch_size=30, nb_genes=20)
    vae = VAE(dataset.nb_genes, n_batch=dataset.n_batches, n_labels=dataset.n_labels)
    full = fitted(vae, dataset).create_posterior(indices=np.arange(len(dataset)))
    assert 0 < full.knn_purity() <= 1
    for algorithm in ("knn", "gmm"):
        assert len(full.clustering_scores(prediction_algorithm=algorithm)) == 4
    for color_by in ("", "batches", "labels"):
        full.show_t_sne(n_samples=10, color_by=color_by)
    assert len(full.show_t_sne(n_samples=10, color_by="batches and labels")) == 2
    assert full.nn_overlap_score() is None


def test_saving_a_sequential_posterior_keeps_its_batch_size(small, tmp_path):
    vae = VAE(small.nb_genes, n_batch=small.n_batches)
    posterior = fitted(vae, small).test_set.sequential(batch_size=3)
    posterior.save_posterior(tmp_path / "saved")
    again = load_posterior(tmp_path / "saved", VAE(small.nb_genes, n_batch=small.n_batches))
    assert again.data_loader.batch_size == 3
    assert np.array_equal(again.indices, posterior.indices)


def test_synthetic_3_adapter():
    dataset = SyntheticDataset(batch_size=50, nb_genes=20)
    vae = VAE(dataset.nb_genes, n_batch=dataset.n_batches)
    trainer = fitted(vae, dataset, n_epochs=2)
    adapter = AdapterTrainer(vae, dataset, trainer.train_set, frequency=1)
    adapter.show_progbar = False
    assert adapter.train(n_path=1, n_epochs=1) <= adapter.history["elbo_test_set"][0]


def test_adapting_to_held_out_cells_improves_their_elbo(gene_dataset):
    vae = VAE(gene_dataset.nb_genes)
    trainer = fitted(vae, gene_dataset, n_epochs=20, n_epochs_kl_warmup=None)
    adapter = AdapterTrainer(vae, gene_dataset, trainer.test_set, frequency=20)
    adapter.n_epochs_kl_warmup, adapter.show_progbar = None, False
    best = adapter.train(n_path=1, n_epochs=20)
    assert best == adapter.history["elbo_test_set"][-1] < adapter.history["elbo_test_set"][0]


@pytest.mark.parametrize("reconstruction_loss", ["zinb", "nb", "poisson"])
def test_nb_not_zinb_and_poisson_not_zinb(gene_dataset, reconstruction_loss):
    vae = VAE(gene_dataset.nb_genes, n_batch=gene_dataset.n_batches, reconstruction_loss=reconstruction_loss)
    trainer = UnsupervisedTrainer(vae, gene_dataset, n_epochs_kl_warmup=None, **QUIET)
    losses = []
    trainer.on_epoch_begin = lambda: losses.append(trainer.current_loss)
    trainer.train(n_epochs=12)
    assert losses[-1] < 0.8 * losses[1]
    assert np.isfinite(trainer.test_set.marginal_ll(n_mc_samples=5))


@pytest.mark.parametrize("n_batches", [1, 2])
@pytest.mark.parametrize("latent_distribution", ["normal", "ln"])
def test_ldvae(n_batches, latent_distribution):
    dataset = SyntheticDataset(batch_size=40, nb_genes=20, n_batches=n_batches)
    vae = LDVAE(dataset.nb_genes, n_batch=dataset.n_batches, latent_distribution=latent_distribution)
    trainer = fitted(vae, dataset)
    assert np.isfinite(trainer.test_set.marginal_ll(n_mc_samples=10))
    assert vae.get_loadings().shape == (20, 10)
    latent, *_ = trainer.test_set.get_latent()
    if latent_distribution == "ln":
        assert np.allclose(latent.sum(axis=1), 1, atol=1e-4)


def test_annealing_procedures(small):
    def weight_after_two_epochs(**warmup):
        return fitted(VAE(small.nb_genes), small, n_epochs=2, **warmup).kl_weight

    assert weight_after_two_epochs(n_epochs_kl_warmup=1) >= 0.99
    assert weight_after_two_epochs(n_epochs_kl_warmup=5) <= 0.99
    assert weight_after_two_epochs(n_epochs_kl_warmup=None, n_iter_kl_warmup=1) >= 0.99
    assert weight_after_two_epochs(n_epochs_kl_warmup=None) == 1


def test_multibatches_features():
    scvi_dataset = SyntheticDataset(batch_size=20, nb_genes=15, n_batches=4)
    vae = VAE(scvi_dataset.nb_genes, n_batch=scvi_dataset.n_batches)
    trainer = fitted(vae, scvi_dataset)
    torch.manual_seed(0)
    one = trainer.test_set.sequential().imputation(n_samples=2, transform_batch=0)
    torch.manual_seed(0)
    several = trainer.train_set.sequential().imputation(n_samples=2, transform_batch=[0, 1, 3])
    assert one.shape == (2, trainer.test_set.nb_cells, 15)
    assert several.shape == (2, trainer.train_set.nb_cells, 15)


def test_anndata_loader(mixology):
    """The AnnData is not changed by loading it."""
    mixology.obs["batch_indices"] = mixology.obs["batch"].cat.codes.to_numpy() % 2
    first = AnnDatasetFromAnnData(mixology)
    second = AnnDatasetFromAnnData(mixology)
    assert first.n_batches == second.n_batches == 2


def test_train_one(mixology):
    dataset = AnnDatasetFromAnnData(mixology[:4, :7].copy())
    trainer = fitted(VAE(dataset.nb_genes, dataset.n_batches, dataset.n_labels), dataset)
    assert trainer.n_iter == 1
