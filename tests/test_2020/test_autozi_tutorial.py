"""The tutorial of 2020 on AutoZI, on real cells that ship with the package in place of the download."""

import numpy as np
import pytest
import torch
from scipy.stats import beta

from scvi.inference import UnsupervisedTrainer, load_posterior
from scvi.models import AutoZIVAE

pytestmark = pytest.mark.slow
QUIET = {"show_progbar": False, "use_cuda": False}


@pytest.fixture
def cells(gene_dataset):
    gene_dataset.subsample_genes(new_n_genes=100, mode="variance")
    return gene_dataset


def zero_inflated(autozivae):
    outs = autozivae.get_alphas_betas()
    probability = beta.cdf(0.5, outs["alpha_posterior"], outs["beta_posterior"])
    np.testing.assert_array_equal(probability > 0.5, outs["alpha_posterior"] < outs["beta_posterior"])
    return probability > 0.5


def test_gene_specific(cells, tmp_path):
    autozivae = AutoZIVAE(n_input=cells.nb_genes, alpha_prior=0.5, beta_prior=0.5, minimal_dropout=0.01)
    before = autozivae.get_alphas_betas()
    trainer = UnsupervisedTrainer(autozivae, cells, frequency=10, n_epochs_kl_warmup=None, batch_size=32, **QUIET)
    assert not trainer.normalize_loss
    trainer.train(n_epochs=30, lr=1e-2)
    for part in ("train_set", "test_set"):
        losses = trainer.history[f"elbo_{part}"]
        assert losses[-1] < losses[0]
    after = autozivae.get_alphas_betas()
    for name in ("alpha_posterior", "beta_posterior"):
        assert after[name].shape == (100,)
        assert np.abs(after[name] - before[name]).mean() > 0.1
    by_gene = zero_inflated(autozivae)
    expressed = np.asarray(cells.X.mean(axis=0)).ravel() > np.median(np.asarray(cells.X.mean(axis=0)))
    assert 0 < by_gene.mean() < 1
    assert by_gene[expressed].mean() <= by_gene.mean()

    full = trainer.create_posterior(autozivae, cells, indices=np.arange(len(cells))).sequential()
    n = len(cells)
    assert full.imputation(n_samples=2).shape == (2, n, 100)
    assert full.get_sample_scale().shape == (n, 100)
    assert full.get_latent()[0].shape == (n, 10)
    assert np.isfinite([full.elbo(), full.reconstruction_error(), full.marginal_ll(n_mc_samples=5)]).all()
    assert full.marginal_ll(n_mc_samples=5) < full.elbo() + 5  # losses; few draws of what all cells share
    full.save_posterior(tmp_path / "saved")
    again = load_posterior(tmp_path / "saved", AutoZIVAE(cells.nb_genes))
    assert all(np.array_equal(value, after[name]) for name, value in again.model.get_alphas_betas().items())


@pytest.mark.parametrize("by", ["label", "batch"])
def test_specific_to_genes_and_cell_types_or_batches(cells, by):
    n_categories = cells.n_labels if by == "label" else cells.n_batches
    autozivae = AutoZIVAE(
        cells.nb_genes,
        n_batch=cells.n_batches,
        n_labels=cells.n_labels,
        dispersion=f"gene-{by}",
        zero_inflation=f"gene-{by}",
    )
    trainer = UnsupervisedTrainer(autozivae, cells, n_epochs_kl_warmup=None, **QUIET)
    trainer.train(n_epochs=3, lr=1e-2)
    assert zero_inflated(autozivae).shape == (100, n_categories)
    assert np.isfinite([trainer.test_set.elbo(), trainer.test_set.marginal_ll(5)]).all()
    assert trainer.test_set.imputation().shape == (trainer.test_set.nb_cells, 100)


def test_specific_to_entries(cells):
    autozivae = AutoZIVAE(cells.nb_genes, zero_inflation="gene-cell")
    trainer = UnsupervisedTrainer(autozivae, cells, n_epochs_kl_warmup=None, **QUIET)
    trainer.train(n_epochs=3, lr=1e-2)
    minibatch = next(trainer.test_set.sequential().minibatches())
    with torch.no_grad():
        delta = autozivae.posterior_of_entries(minibatch).mean
    assert delta.shape == minibatch.x.shape
    assert (delta[minibatch.x > 0] > 0.5).all()  # a count that was seen was not dropped
    assert (delta[minibatch.x == 0] < 0.5).all()
