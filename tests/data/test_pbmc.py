"""Two runs of blood cells and their metadata, small, in their formats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import published_files as files
from published_files import IDS, N
from scvi.data import read_10x, read_pbmc


def runs(folder):
    return [read_10x(folder / name / "filtered_gene_bc_matrices.tar.gz") for name in ("pbmc8k", "pbmc4k")]


def test_cells_of_the_metadata_and_genes_of_the_table(tmp_path):
    written = files.pbmc(tmp_path)
    adata = read_pbmc(runs(tmp_path), tmp_path / "pbmc_metadata.pickle", tmp_path / "gene_info_pbmc.csv")
    cells = [(0, i) for i in range(5, N)] + [(0, 1)] + [(1, i) for i in range(3, N)]
    rows = [i for i, name in enumerate(written["kept"]) if not name.endswith("11")]
    genes = [2, 5, 7]
    expected = np.stack([written["counts"][run][[cell]].toarray()[0, genes] for run, cell in cells])
    np.testing.assert_array_equal(adata.X.toarray(), expected)
    assert adata.obs["run"].tolist() == [run for run, _ in cells]
    assert adata.obs["barcode"].tolist() == [(written["first"], written["second"])[run][i] for run, i in cells]
    assert adata.obs["cell_type"].tolist() == [written["names"][row % 3] for row in rows]
    assert adata.obs["cell_type"].cat.categories.tolist() == written["names"]
    assert adata.var_names.tolist() == [IDS[gene] for gene in genes]
    assert adata.var["GS"].tolist() == ["b", "c", "a"]
    assert adata.obsm["raw_qc"][:, 0].tolist() == [2.0 * row for row in rows]
    assert adata.uns["qc_names"].tolist() == ["num_umi", "num_reads"]


def test_files_of_other_cells_or_genes(tmp_path):
    files.pbmc(tmp_path)
    both, metadata, info = runs(tmp_path), tmp_path / "pbmc_metadata.pickle", tmp_path / "gene_info_pbmc.csv"
    pd.DataFrame({"ENSG": ["other"]}).to_csv(info)
    with pytest.raises(ValueError, match="has none of the genes"):
        read_pbmc(both, metadata, info)
    pd.DataFrame({"gene": IDS}).to_csv(info)
    with pytest.raises(ValueError, match="no column ENSG"):
        read_pbmc(both, metadata, info)
