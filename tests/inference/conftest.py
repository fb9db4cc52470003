"""A small data set with structure: three cell types in two batches."""

import numpy as np
import pytest
import torch

from scvi.dataset import GeneExpressionDataset
from scvi.models import VAE


def _make_dataset(n=60, g=20, n_batches=2, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    batches = rng.permutation(np.arange(n) % n_batches)
    means = rng.gamma(1.0, 3.0, size=(3, g))[labels] * rng.gamma(20.0, 0.05, size=(n_batches, g))[batches]
    dataset = GeneExpressionDataset()
    dataset.populate_from_data(
        rng.poisson(means) + (np.arange(g) == 0),  # no empty cell
        batch_indices=batches,
        labels=labels,
        gene_names=[f"gene_{j}" for j in range(g)],
        cell_types=["a", "b", "c"],
    )
    return dataset


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def make_dataset():
    """Function (n, g, n_batches, seed) -> data set."""
    return _make_dataset


@pytest.fixture
def dataset():
    return _make_dataset()


@pytest.fixture
def vae(dataset):
    return VAE(dataset.nb_genes, n_batch=dataset.n_batches, n_labels=dataset.n_labels, n_hidden=16, n_latent=3)
