"""Dataset10X by name, from an archive and from a folder."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import formats
from scvi.dataset import Dataset10X
from web import serving

X = formats.counts()
N, G = X.shape
IDS, SYMBOLS = formats.names(G)
TYPES = ["Gene Expression"] * (G - 3) + ["Antibody Capture"] * 3
CELLS = formats.barcodes(N - 1, run=1) + formats.barcodes(1, run=3, seed=9)


def archive(folder, name="filtered_feature_bc_matrix"):
    source = formats.write_10x_v3(folder / "source", X, CELLS, types=TYPES)
    path = formats.tar_of(folder / f"{name}.tar.gz", source, name)
    for file in source.iterdir():
        file.unlink()
    source.rmdir()
    return path


def check(dataset, column):
    names = [IDS, SYMBOLS][column]
    genes = X[:, : G - 3]
    kept = np.ravel(genes.sum(axis=1)) > 0
    assert (genes[kept] != dataset.X).nnz == 0
    assert dataset.gene_names.tolist() == names[: G - 3]
    assert dataset.gene_names.dtype == np.dtype("<U64")
    np.testing.assert_array_equal(dataset.protein_expression, X[kept][:, G - 3 :].toarray())
    assert dataset.protein_expression.dtype == np.int64
    assert dataset.protein_names.tolist() == names[G - 3 :]
    assert dataset.barcodes.ravel().tolist() == np.array(CELLS)[kept].tolist()
    assert dataset.batch_indices.ravel().tolist() == [0] * (kept.sum() - 1) + [1]  # run 3, renumbered


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("remove", [False, True])
def test_by_name_then_from_the_folder(column, remove, tmp_path):
    folder = tmp_path / "pbmc_10k_protein_v3"
    folder.mkdir()
    archive(folder)
    dataset = Dataset10X(
        "pbmc_10k_protein_v3",
        save_path=str(tmp_path),
        measurement_names_column=column,
        remove_extracted_data=remove,
    )
    check(dataset, column)
    assert isinstance(dataset.X, sp.csr_matrix)
    assert (folder / "filtered_feature_bc_matrix").exists() is not remove
    if not remove:
        options = {"measurement_names_column": column, "remove_extracted_data": True}
        check(Dataset10X(save_path=str(folder), **options), column)
        check(Dataset10X("pbmc_10k_protein_v3", save_path=str(tmp_path), **options), column)
        assert (folder / "filtered_feature_bc_matrix").exists()  # it was there before


def test_dense(tmp_path):
    archive(tmp_path)
    dataset = Dataset10X(filename="filtered_feature_bc_matrix.tar.gz", save_path=str(tmp_path), dense=True)
    assert isinstance(dataset.X, np.ndarray)
    assert dataset.X.dtype == np.float32


def test_from_a_url(tmp_path):
    content = archive(tmp_path / "web").read_bytes() if (tmp_path / "web").mkdir() is None else b""
    with serving(files={"/filtered_feature_bc_matrix.tar.gz": content}) as web:
        url = f"{web.url}/filtered_feature_bc_matrix.tar.gz"
        check(Dataset10X(url=url, save_path=str(tmp_path / "a")), 0)
        dataset = Dataset10X(url=url, filename="b.tar.gz", save_path=str(tmp_path / "b"), delayed_populating=True)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["b.tar.gz"]
    dataset.populate()
    check(dataset, 0)


def test_h5(tmp_path):
    formats.write_10x_h5(tmp_path / "cells.h5", X, types=TYPES)
    dataset = Dataset10X(filename="cells.h5", save_path=str(tmp_path))
    assert dataset.nb_genes == G - 3
    assert dataset.protein_expression.shape == (dataset.nb_cells, 3)


def test_the_matrices_of_the_type_that_was_asked_for(tmp_path):
    formats.write_10x_v3(tmp_path / "filtered_feature_bc_matrix", X)
    formats.write_10x_v3(tmp_path / "raw_feature_bc_matrix", sp.csr_matrix(X * 2))
    assert (Dataset10X(save_path=str(tmp_path)).X != X).nnz == 0
    assert (Dataset10X(save_path=str(tmp_path), type="raw").X != X * 2).nnz == 0


def test_further_features_become_measurements(tmp_path):
    types = [*TYPES[:-1], "CRISPR Guide Capture"]
    formats.write_10x_v3(tmp_path, X, types=types)
    dataset = Dataset10X(save_path=str(tmp_path))
    assert dataset.crispr_guide_capture_names.tolist() == IDS[-1:]
    assert dataset.crispr_guide_capture.shape == (dataset.nb_cells, 1)


def test_a_name_outranks_filename_and_url(tmp_path, caplog):
    folder = tmp_path / "cd4_t_helper"
    folder.mkdir()
    archive(folder, "filtered_gene_bc_matrices")
    dataset = Dataset10X("cd4_t_helper", filename="other", url="http://127.0.0.1:9/other", save_path=str(tmp_path))
    assert dataset.nb_genes == G - 3
    assert "filename and url are ignored" in caplog.text


def test_what_is_refused(tmp_path):
    with pytest.raises(KeyError, match="pbmc9k"):
        Dataset10X("pbmc9k", save_path=str(tmp_path))
    with pytest.raises(ValueError, match="'filtered', 'raw'"):
        Dataset10X("pbmc4k", save_path=str(tmp_path), type="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="measurement_names_column=2"):
        Dataset10X(save_path=str(tmp_path), measurement_names_column=2)
    with pytest.raises(FileNotFoundError, match=r"No matrix.mtx\(.gz\) found in path"):
        Dataset10X(save_path=str(tmp_path))
    formats.tar(tmp_path / "evil.tar.gz", {"../matrix.mtx": b"!"})
    with pytest.raises(ValueError, match="leads out of the folder"):
        Dataset10X(filename="evil.tar.gz", save_path=str(tmp_path))
