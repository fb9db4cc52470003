"""The most variable genes of a large file, a part of its cells at a time."""

from __future__ import annotations

import numpy as np
import pytest

import published_files as files
from published_files import IDS, X
from scvi.data import brain_large, read_brain_large


@pytest.mark.parametrize("cells_at_once", [7, 100_000])
def test_the_most_variable_genes(cells_at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(brain_large, "_VALUES_AT_ONCE", 60)
    files.brain_large(tmp_path)
    path, options = tmp_path / "brain_large.h5", {"n_genes": 5, "n_cells_for_variance": 10}
    adata = read_brain_large(path, n_cells_at_once=cells_at_once, **options)
    genes = np.argsort(-X[:10].toarray().var(axis=0), kind="stable")[:5]
    expected = X.toarray()[:, genes]
    np.testing.assert_array_equal(adata.X.toarray(), expected)
    assert adata.var_names.tolist() == [IDS[gene] for gene in genes]
    limited = read_brain_large(path, n_cells=13, **options)
    np.testing.assert_array_equal(limited.X.toarray(), expected[:13])


@pytest.mark.parametrize("name", ["n_genes", "n_cells_for_variance", "n_cells", "n_cells_at_once"])
def test_sizes_are_positive_integers(name, tmp_path):
    files.brain_large(tmp_path)
    with pytest.raises(ValueError, match=f"{name}=0"):
        read_brain_large(tmp_path / "brain_large.h5", **{name: 0})
