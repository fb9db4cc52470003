"""The tutorial on loading data, with small files in the formats and under the names of the large ones."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import formats
import published_files
from scvi.dataset import (
    AnnDatasetFromAnnData,
    CortexDataset,
    CsvDataset,
    Dataset10X,
    DownloadableAnnDataset,
    HematoDataset,
    LoomDataset,
    SmfishDataset,
)
from web import serving

N, G = 120, 60
X = formats.counts(N, G, seed=6, share=0.5)
IDS, SYMBOLS = formats.names(G)
CELLS = formats.barcodes(N)


@pytest.fixture
def web():
    with serving() as served:
        yield served


def test_a_loom_file_from_its_url_and_again_without(web, tmp_path, caplog):
    cells = {"ClusterID": np.arange(N) % 3, "X": np.arange(N) * 1.0, "Y": np.arange(N) * 1.0}
    path = formats.write_loom(tmp_path / "source.loom", X, cells, {"Gene": SYMBOLS})
    web.files["/osmFISH/cells.loom"] = path.read_bytes()
    first = LoomDataset("osmFISH.loom", save_path=str(tmp_path), url=f"{web.url}/osmFISH/cells.loom")
    assert "'X' is already taken: the attribute is stored as 'X_cell'" in caplog.text
    again = LoomDataset("osmFISH.loom", save_path=str(tmp_path))
    assert repr(again) == repr(first)
    assert "'X_cell'" in repr(first)
    assert len(web.requests) == 1


def test_a_table_with_fewer_genes(web, tmp_path):
    web.files["/suppl/RNA_umi.csv.gz"] = gzip.compress(formats.table(X.T.toarray(), SYMBOLS, CELLS))
    url = f"{web.url}/suppl/RNA_umi.csv.gz"
    dataset = CsvDataset("RNA_umi.csv.gz", str(tmp_path), new_n_genes=40, compression="gzip", url=url)
    assert dataset.X.shape == (N, 40)


def test_an_anndata_by_both_ways(web, tmp_path):
    AnnData(X, obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=SYMBOLS)).write_h5ad(tmp_path / "source.h5ad")
    web.files["/TM_droplet_mat.h5ad"] = (tmp_path / "source.h5ad").read_bytes()
    one = DownloadableAnnDataset("TM_droplet_mat.h5ad", str(tmp_path), url=f"{web.url}/TM_droplet_mat.h5ad")
    other = AnnDatasetFromAnnData(ad=anndata.read_h5ad(tmp_path / "TM_droplet_mat.h5ad"))
    np.testing.assert_array_equal(one.X, other.X)
    np.testing.assert_array_equal(one.X[:, 3].ravel(), X[:, 3].toarray().ravel())
    assert one.gene_names.tolist() == other.gene_names.tolist()


def test_10x_by_name_and_from_the_folder_then_choosing_genes_and_cells(tmp_path, caplog):
    folder = tmp_path / "10X" / "pbmc_10k_protein_v3"
    proteins = [f"CD{i}_TotalSeqB" for i in range(5)]
    symbols = [f"A{i}" if i % 9 == 0 else name for i, name in enumerate(SYMBOLS[: G - 5])] + proteins
    types = ["Gene Expression"] * (G - 5) + ["Antibody Capture"] * 5
    source = formats.write_10x_v3(tmp_path / "source", X, CELLS, (IDS, symbols), types)
    folder.mkdir(parents=True)
    formats.tar_of(folder / "filtered_feature_bc_matrix.tar.gz", source, "filtered_feature_bc_matrix")

    Dataset10X("pbmc_10k_protein_v3", save_path=str(tmp_path / "10X"), measurement_names_column=1)
    dataset = Dataset10X(save_path=f"{folder}/", measurement_names_column=1)
    assert isinstance(dataset.X, sp.csr_matrix)
    assert dataset.gene_names.dtype == np.dtype("<U64")
    assert dataset.protein_names.tolist() == proteins
    assert dataset.protein_expression.dtype == np.int64
    assert dataset.barcodes.ravel()[:2].tolist() == CELLS[:2]
    print_of = repr(dataset)
    assert "cell_measurements_col_mappings: 'protein_expression': 'protein_names'" in print_of

    with caplog.at_level(logging.INFO, "scvi.dataset"):
        dataset.subsample_genes(new_n_genes=40, mode="variance")
    assert f"Downsampling from {G - 5} to 40 genes" in caplog.text
    totals = np.ravel(dataset.X.sum(axis=1))
    dataset.filter_cells_by_count(int(np.median(totals)))
    assert dataset.nb_cells == (totals >= int(np.median(totals))).sum()
    with_a = np.flatnonzero([name.startswith("A") for name in dataset.gene_names])
    left = dataset.X[:, with_a].toarray().any(axis=1)
    dataset.subsample_genes(subset_genes=with_a)
    assert dataset.X.shape == (left.sum(), len(with_a))
    assert len(dataset.protein_expression) == left.sum()


def test_data_sets_that_come_with_the_package(tmp_path):
    (tmp_path / "HEMATO").mkdir()
    published_files.cortex(tmp_path)
    published_files.looms(tmp_path)
    published_files.hemato(tmp_path / "HEMATO")
    assert CortexDataset(save_path=str(tmp_path), total_genes=558).nb_genes == published_files.G
    assert SmfishDataset(save_path=str(tmp_path), use_high_level_cluster=False).nb_cells == published_files.N
    assert HematoDataset(save_path=str(Path(tmp_path) / "HEMATO")).nb_genes == 3
