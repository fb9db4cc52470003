"""Real cells for the tutorials of 2020: five cell lines in five batches, cut to the most variable genes."""

from importlib.resources import as_file, files

import anndata
import numpy as np
import pytest

import scvi
from scvi.dataset import AnnDatasetFromAnnData


@pytest.fixture(scope="session")
def real_cells():
    """AnnData of 1021 cells x 300 genes, not to be changed."""
    with as_file(files("scvi") / "demo_data" / "sc_mixology_demo.h5ad") as path:
        adata = anndata.read_h5ad(path)
    squares = adata.X.copy()
    squares.data = squares.data.astype(np.float64) ** 2
    variance = np.ravel(squares.mean(axis=0)) - np.ravel(adata.X.mean(axis=0)) ** 2
    return adata[:, np.sort(np.argsort(-variance)[:300])].copy()


@pytest.fixture
def mixology(real_cells):
    """The same, to do with as a test likes."""
    return real_cells.copy()


@pytest.fixture
def gene_dataset(mixology):
    """The same as a data set with the names of 2020."""
    return AnnDatasetFromAnnData(mixology, batch_label="batch", ctype_label="cell_type")


@pytest.fixture(autouse=True)
def _seeded():
    yield scvi.set_seed(0)
    scvi.settings.seed = None
