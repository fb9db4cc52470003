from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from scvi.data import organize_cite_seq_10x
from stores import stored

TYPES = ["Gene Expression", "Antibody Capture", "Gene Expression", "Antibody Capture", "CRISPR Guide Capture"]
COUNTS = np.arange(20).reshape(4, 5)


def features(layout: object = sp.csr_matrix) -> AnnData:
    adata = AnnData(layout(COUNTS), var=pd.DataFrame({"feature_types": TYPES}, index=["A", "CD3", "B", "CD4", "guide"]))
    adata.layers["again"] = adata.X.copy()
    return adata


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_antibodies_become_a_table(layout: object, copy: bool, view: bool, caplog: pytest.LogCaptureFixture) -> None:
    adata = features(layout)[:3] if view else features(layout)
    with caplog.at_level(logging.INFO, "scvi"):
        given, result = adata, organize_cite_seq_10x(adata, copy=copy)
    assert (result is None) is not copy
    result = result if copy else given
    assert list(result.var_names) == ["A", "B"]
    table = result.obsm["protein_expression"]
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == ["CD3", "CD4"]
    assert list(table.index) == list(result.obs_names)
    rows = COUNTS[:3] if view else COUNTS
    np.testing.assert_array_equal(table, rows[:, [1, 3]])
    for counts in (result.X, result.layers["again"]):
        np.testing.assert_array_equal(counts.toarray() if sp.issparse(counts) else counts, rows[:, [0, 2]])
    assert "CRISPR Guide Capture" in caplog.text
    if copy:
        assert given.shape[1] == 5
        assert not given.obsm


def test_refusals(tmp_path: Path) -> None:
    adata = features()
    with pytest.raises(ValueError, match=r"no 'Antibody Capture'.*gex_only=False"):
        organize_cite_seq_10x(adata[:, [0, 2]])
    with pytest.raises(ValueError, match="no 'Gene Expression'"):
        organize_cite_seq_10x(adata[:, [1, 3]])
    with stored(adata, "h5ad", tmp_path) as opened, pytest.raises(ValueError, match="to_memory"):
        organize_cite_seq_10x(opened)
    del adata.var["feature_types"]
    with pytest.raises(ValueError, match="feature_types"):
        organize_cite_seq_10x(adata)
