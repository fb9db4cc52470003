"""The three tables of CITE-seq, small, in their format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import published_files as files
from published_files import GENES, X
from scvi.data import read_cite_seq


def written(folder: Path) -> list[Path]:
    files.cite_seq(folder)
    return [folder / "cbmc" / f"cbmc_{part}.csv.gz" for part in ("rna", "adt", "adt_centered")]


def test_human_genes_and_antibodies(tmp_path):
    adata = read_cite_seq(*written(tmp_path))
    tables = files.cite_seq(tmp_path)
    assert (X[:, :9] != adata.X).nnz == 0
    assert adata.var_names.tolist() == GENES[:9]
    np.testing.assert_array_equal(adata.obsm["protein_expression"], tables["adt"].T)
    np.testing.assert_allclose(adata.obsm["protein_expression_clr"], tables["clr"].T)
    assert adata.uns["protein_names"].tolist() == adata.uns["protein_names_clr"].tolist() == tables["proteins"]


def test_tables_that_do_not_go_together(tmp_path):
    rna, adt, centered = written(tmp_path)
    with pytest.raises(ValueError, match="no genes called HUMAN_"):
        read_cite_seq(adt, adt, centered)
    content = gzip.decompress(centered.read_bytes())
    centered.write_bytes(gzip.compress(content.replace(b"CD3", b"CD9")))
    with pytest.raises(ValueError, match="same antibodies"):
        read_cite_seq(rna, adt, centered)
    centered.write_bytes(gzip.compress(content.replace(b",", b",A", 1)))
    with pytest.raises(ValueError, match="lacks 1 cells"):
        read_cite_seq(rna, adt, centered)
    centered.write_bytes(gzip.compress(content.replace(b"\nCD4,", b"\nCD4,x", 1)))
    with pytest.raises(ValueError, match="no number"):
        read_cite_seq(rna, adt, centered)
