"""The imputation benchmark of 2020, against entries that are known and a loop over the cells."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scvi import plots
from scvi.dataset import CellMeasurement
from scvi.inference import Posterior, TotalPosterior
from scvi.models import LDVAE, SCANVI, TOTALVI, VAE, AutoZIVAE

CHANGED = {3: [0, 7], 8: [2], 41: [5, 6, 19]}  # genes by cell


@pytest.fixture
def corrupted(dataset):
    """The data set with counts of three cells, which are known, set to zero."""
    dataset.X = dataset.X + 1  # no zero is a zero already
    noisy = dataset.X.copy()
    for cell, genes in CHANGED.items():
        noisy[cell, genes] = 0
    dataset.corrupted_X = noisy
    return dataset


@pytest.fixture
def posterior(vae, corrupted):
    return Posterior(vae.eval(), corrupted, indices=np.arange(60), data_loader_kwargs={"batch_size": 16})


@pytest.fixture
def no_noise(monkeypatch):
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))


def test_the_changed_entries_are_those_that_come_back(posterior, corrupted, no_noise):
    original, imputed = posterior.imputation_list()
    assert len(original) == len(imputed) == 60  # minibatches without a change are there, too
    rates = posterior.corrupted().sequential().imputation()
    for cell in range(60):
        genes = CHANGED.get(cell, [])
        assert np.array_equal(original[cell], corrupted.X[cell, genes])
        assert np.allclose(imputed[cell], rates[cell, genes], rtol=1e-5)


def test_the_model_sees_the_corrupted_counts_alone(posterior, corrupted, no_noise):
    _, first = posterior.imputation_list()
    truth = corrupted.X.copy()
    for cell, genes in CHANGED.items():
        truth[cell, genes] += 100
    noisy = corrupted.corrupted_X
    corrupted.X = truth
    corrupted.corrupted_X = noisy
    original, second = posterior.imputation_list()
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
    assert min(original[3]) > 100


def test_draws_follow_one_another_in_each_cell(posterior, no_noise):
    once, several = posterior.imputation_list(), posterior.imputation_list(n_samples=3)
    for one, three in zip(once, several, strict=True):
        assert all(np.allclose(np.tile(a, 3), b, rtol=1e-5) for a, b in zip(one, three, strict=True))


def test_draws_differ(posterior):
    _, imputed = posterior.imputation_list(n_samples=2)
    first, second = imputed[41].reshape(2, 3)
    assert not np.allclose(first, second, rtol=1e-3)


def test_the_order_is_that_of_the_indices(vae, corrupted, no_noise):
    cells = [41, 8, 9, 3]
    original, imputed = Posterior(vae.eval(), corrupted, indices=cells).imputation_list()
    assert [len(values) for values in original] == [3, 1, 0, 2]
    whole = Posterior(vae, corrupted).imputation_list()[1]
    assert all(np.allclose(imputed[i], whole[cell], rtol=1e-5) for i, cell in enumerate(cells))


@pytest.mark.parametrize("network", [VAE, LDVAE, SCANVI, AutoZIVAE])
def test_networks(network, corrupted):
    sizes = {"n_labels": 3} if network is SCANVI else {}
    model = network(20, n_batch=2, **sizes, n_hidden=16, n_latent=3)
    original, imputed = Posterior(model, corrupted).imputation_list(n_samples=2)
    assert [len(values) for values in imputed] == [2 * len(CHANGED.get(cell, [])) for cell in range(60)]
    assert np.all(np.concatenate(imputed) > 0)
    assert original[8].tolist() == [corrupted.X[8, 2]] * 2


def test_genes_of_cells_with_proteins(corrupted):
    proteins = np.random.default_rng(0).integers(1, 30, size=(60, 4))
    corrupted.initialize_cell_measurement(
        CellMeasurement("protein_expression", proteins, "protein_names", list("abcd"))
    )
    posterior = TotalPosterior(TOTALVI(20, 4, n_batch=2, n_hidden=16), corrupted, indices=np.arange(60))
    original, imputed = posterior.imputation_list(n_samples=2)
    assert [len(values) for values in original] == [2 * len(CHANGED.get(cell, [])) for cell in range(60)]
    assert posterior.imputation_score(original, imputed) == np.median(
        np.abs(np.concatenate(original) - np.concatenate(imputed))
    )


def test_the_score_is_the_median_error(posterior, caplog):
    assert posterior.imputation_score([np.array([1.0, 5.0]), np.array([])], [np.array([2.0, 2.0]), np.array([])]) == 2
    torch.manual_seed(0)
    lists = posterior.imputation_list(n_samples=2)
    torch.manual_seed(0)
    assert posterior.imputation_score(n_samples=2) == posterior.imputation_score(*lists) > 0
    posterior.gene_dataset.corrupted_X = posterior.gene_dataset.X.copy()
    with caplog.at_level(logging.INFO, logger="scvi"):
        assert posterior.imputation_score() == 0.0
    assert "No count of these cells was changed" in caplog.text


def test_what_the_score_refuses(posterior, vae, make_dataset):
    lists = posterior.imputation_list()
    with pytest.raises(ValueError, match="pass both original_list and imputed_list"):
        posterior.imputation_score(lists[0])
    with pytest.raises(ValueError, match="not of the same entries"):
        posterior.imputation_score(lists[0], lists[1][:-1])
    with pytest.raises(ValueError, match="n_samples=0 is not a number of draws"):
        posterior.imputation_list(0)
    with pytest.raises(ValueError, match="no corrupted_X; call corrupt"):
        Posterior(vae, make_dataset()).imputation_score()


def test_the_benchmark_logs_its_scores_and_writes_nothing_unasked(posterior, caplog, tmp_path, monkeypatch, no_noise):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.DEBUG, logger="scvi"):
        original, imputed = posterior.imputation_benchmark(n_samples=4)
    assert not list(tmp_path.iterdir())
    errors = [np.abs(a - b) for a, b in zip(original, imputed, strict=True)]
    of_cells = sum(np.median(errors[cell]) for cell in CHANGED) / 60  # other cells count 0
    assert f"{np.median(np.concatenate(errors)):.4f}, {of_cells:.4f}" in caplog.text
    assert len(original[3]) == 8


def test_the_picture_is_written_where_it_is_wanted(posterior, tmp_path):
    posterior.imputation_benchmark(1, show_plot=False, title_plot="hidden", save_path=tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["hidden.png"]


def test_the_picture_is_shown_in_a_notebook(posterior, monkeypatch):
    shown = []
    display = SimpleNamespace(display=shown.append, Image=lambda data: data)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: "shell", display=display))
    posterior.imputation_benchmark(1, show_plot=False)
    assert not shown
    posterior.imputation_benchmark(1)
    assert shown[0].startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None, display=display))
    posterior.imputation_benchmark(1)
    assert len(shown) == 1


def test_a_missing_matplotlib_is_said_before_anything_is_computed(posterior, monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    monkeypatch.setattr(posterior, "imputation_list", lambda n_samples: pytest.fail("computed first"))
    with pytest.raises(ImportError, match=r'pip install "scvi\[plot\]"'):
        posterior.imputation_benchmark(save_path="somewhere")
