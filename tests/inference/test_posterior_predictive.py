"""What a posterior generates, against the parameters of the model and loops written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from scvi.inference import Posterior
from scvi.inference.jvae_trainer import JPosterior
from scvi.models import JVAE, VAE

GENES = 20


def made(dataset: Any, loss: str = "zinb", dispersion: str = "gene", **options: Any) -> Posterior:
    sizes = {"n_batch": dataset.n_batches, "n_labels": dataset.n_labels, "n_hidden": 16, "n_latent": 3}
    vae = VAE(dataset.nb_genes, **sizes, reconstruction_loss=loss, dispersion=dispersion, **options).eval()
    return Posterior(vae, dataset, indices=np.arange(60), data_loader_kwargs={"batch_size": 25})


@pytest.fixture
def posterior(dataset: Any) -> Posterior:
    return made(dataset, use_observed_lib_size=True)


@pytest.fixture
def latents_are_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))


# generate -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [1, 2, 5])
def test_shapes_and_originals(posterior: Posterior, n_samples: int) -> None:
    counts = posterior.gene_dataset.X
    generated, originals = posterior.sequential().generate(n_samples=n_samples)
    assert generated.shape == (60, GENES, n_samples)
    assert np.array_equal(originals, counts)
    assert np.array_equal(generated, np.floor(generated))
    assert generated.min() >= 0
    for genes in (["gene_7", "gene_2"], [7, 2], np.array([7, 2])):
        some, of_some = posterior.sequential().generate(n_samples=n_samples, genes=genes, batch_size=7)
        assert some.shape == (60, 2, n_samples)
        assert np.array_equal(of_some, counts[:, [7, 2]])
    assert posterior.generate(n_samples=n_samples, genes="gene_7")[0].shape == (60, 1, n_samples)
    with pytest.raises(IndexError, match="gene_20"):
        posterior.generate(genes=["gene_20"])
    for position in (20, -1):
        with pytest.raises(IndexError, match=f"genes holds {position}; there are 20 genes, numbered from 0 to 19"):
            posterior.generate(genes=[0, position])
    with pytest.raises(ValueError, match="n_samples=0 is not a number of draws"):
        posterior.generate(n_samples=0)


@pytest.mark.usefixtures("latents_are_means")
def test_what_is_generated_and_the_originals_are_of_the_same_cells(posterior: Posterior) -> None:
    """In an order that is random: the observed library sizes tell the cells apart."""
    generated, originals = posterior.generate(n_samples=300)
    assert not np.array_equal(originals, posterior.gene_dataset.X)
    kept = np.corrcoef(generated.mean(2).sum(1), originals.sum(1))[0, 1]
    assert kept > 0.9


@pytest.mark.parametrize("loss", ["zinb", "nb", "poisson"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-label", "gene-cell"])
@pytest.mark.usefixtures("latents_are_means")
def test_parameters_are_those_of_what_is_generated(dataset: Any, loss: str, dispersion: str) -> None:
    posterior = made(dataset, loss, dispersion, use_observed_lib_size=True).sequential()
    logits, means, dispersions = posterior.generate_parameters()
    assert logits.shape == means.shape == dispersions.shape == (60, GENES)
    assert (logits == -np.inf).all() == (loss != "zinb")
    assert np.isinf(dispersions).all() == (loss == "poisson")
    if loss != "poisson" and dispersion in ("gene-batch", "gene-label"):
        codes = posterior.gene_dataset.batch_indices if dispersion == "gene-batch" else posterior.gene_dataset.labels
        by_code = posterior.model.px_r.exp().detach().numpy().T[codes.ravel().astype(int)]
        np.testing.assert_allclose(dispersions, by_code, rtol=1e-5)
    lost = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected, variance = (1 - lost) * means, (1 - lost) * means * (1 + means * (lost + 1 / dispersions))
    generated = posterior.generate(n_samples=400)[0].astype(np.float64)
    assert np.abs((generated.mean(2) - expected) / np.sqrt(variance / 400)).max() < 6
    np.testing.assert_allclose((generated.var(2) / variance).mean(), 1, atol=0.1)


def test_parameters_of_several_draws(dataset: Any) -> None:
    """Along the axis of draws, also where the cells come in several minibatches."""
    for dispersion in ("gene", "gene-batch", "gene-cell"):
        posterior = made(dataset, "zinb", dispersion)
        logits, means, dispersions = posterior.generate_parameters(n_samples=3)
        assert logits.shape == means.shape == (3, 60, GENES)
        assert dispersions.shape == ((3, 60, GENES) if dispersion == "gene-cell" else (60, GENES))
        assert not np.array_equal(means[0], means[1])
        averaged = posterior.generate_parameters(n_samples=3, give_mean=True)
        assert [part.shape for part in averaged] == [(60, GENES)] * 3
    sizes = np.concatenate([posterior.gene_dataset.X.sum(1)] * 3)
    assert np.corrcoef(means.sum(2).ravel(), sizes)[0, 1] < 0.999  # the library is latent, here


def test_parameters_are_in_the_order_of_the_indices(posterior: Posterior, latents_are_means: None) -> None:
    means = posterior.generate_parameters()[1]
    np.testing.assert_allclose(means.sum(1), posterior.gene_dataset.X.sum(1), rtol=1e-4)


# Denoised -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("latents_are_means")
def test_denoised_samples_of_a_batch(posterior: Posterior) -> None:
    """The batch is not passed over, as it was in 2020."""
    s = posterior.sequential()
    assert s.generate_denoised_samples(n_samples=1).shape == (60, GENES, 1)
    for batch in (None, 0, 1):
        scales = s.get_sample_scale(transform_batch=batch)
        samples = s.generate_denoised_samples(n_samples=400, rna_size_factor=100, transform_batch=batch)
        assert samples.dtype == np.float32
        assert (samples > 0).mean() > 0.9  # no counts
        theta = np.exp(s.model.px_r.detach().numpy())
        error = (samples.mean(2) / (100 * scales) - 1) / np.sqrt(1 / theta / 400)
        assert np.abs(error).max() < 6
        np.testing.assert_allclose((samples.std(2) / samples.mean(2) * np.sqrt(theta)).mean(), 1, atol=0.1)
    with pytest.raises(ValueError, match="more than one batch"):
        s.generate_denoised_samples(transform_batch=[0, 1])
    with pytest.raises(ValueError, match="transform_batch=2"):
        s.generate_denoised_samples(transform_batch=2)
    with pytest.raises(ValueError, match="rna_size_factor=0"):
        s.generate_denoised_samples(rna_size_factor=0)


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_correlations_are_those_of_denoised_samples(posterior: Posterior, kind: str) -> None:
    s = posterior.sequential()
    by_hand = []
    torch.manual_seed(3)
    for batch in (0, 1):
        samples = s.generate_denoised_samples(n_samples=4, transform_batch=batch)
        rows = samples.transpose(0, 2, 1).reshape(-1, GENES).astype(np.float64)
        by_hand.append(stats.spearmanr(rows)[0] if kind == "spearman" else np.corrcoef(rows.T))
    torch.manual_seed(3)
    found = s.generate_feature_correlation_matrix(n_samples=4, transform_batch=[0, 1], correlation_type=kind)
    np.testing.assert_allclose(found, np.mean(by_hand, axis=0), atol=1e-5)
    assert s.generate_feature_correlation_matrix(n_samples=1).shape == (GENES, GENES)
    with pytest.raises(ValueError, match=r"correlation_type='kendall' is not one of 'spearman', 'pearson'"):
        s.generate_feature_correlation_matrix(correlation_type="kendall")


# Other posteriors -----------------------------------------------------------------------------------------------------


def test_one_of_several_data_sets(make_dataset: Any) -> None:
    first, second = make_dataset(), make_dataset(g=12, seed=1)
    model = JVAE([20, 12], 20, [slice(None), np.arange(12)], ["zinb", "nb"], [True, False], n_batch=2, n_latent=3)
    for mode, data_set in enumerate((first, second)):
        posterior = JPosterior(model.eval(), data_set, mode=mode)
        generated, originals = posterior.generate(n_samples=2)
        assert generated.shape == (*data_set.X.shape, 2)
        assert np.array_equal(originals, data_set.X)
        assert [part.shape for part in posterior.generate_parameters()] == [data_set.X.shape] * 3


def test_corrupted_counts_are_what_is_encoded(posterior: Posterior) -> None:
    posterior.gene_dataset.corrupt(rate=0.5)
    originals = posterior.corrupted().sequential().generate(n_samples=1)[1]
    assert np.array_equal(originals, posterior.gene_dataset.corrupted_X)
