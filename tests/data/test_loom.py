"""Loom files of all versions, and bad ones."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import formats
from scvi.data import loom, read_loom

X = formats.counts()
N, G = X.shape
GENES = formats.names(G)[1]
CELLS = {"CellID": formats.barcodes(N), "ClusterID": np.arange(N) % 3, "BatchID": (np.arange(N) % 2)[:, None]}
ROWS = {"Gene": GENES, "Accession": formats.names(G)[0]}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("block_bytes", [2**25, 8 * G * 7])
def test_counts_and_attributes(version, block_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(loom, "_BLOCK_BYTES", block_bytes)
    cells = {**CELLS, "place": np.arange(2.0 * N).reshape(N, 2)}
    path = formats.write_loom(tmp_path / "f.loom", X, cells, ROWS, {"title": "brain", "Types": ["a", "ü"]}, version)
    adata = read_loom(path)
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.int32
    assert (adata.X != X).nnz == 0
    assert adata.obs_names.tolist() == CELLS["CellID"]
    assert adata.var_names.tolist() == GENES
    assert adata.obs["ClusterID"].tolist() == CELLS["ClusterID"].tolist()
    assert adata.obs["BatchID"].tolist() == CELLS["BatchID"].ravel().tolist()
    np.testing.assert_array_equal(adata.obsm["place"], cells["place"])
    assert adata.var["Accession"].tolist() == ROWS["Accession"]
    assert adata.uns["title"] == "brain"
    assert adata.uns["Types"].tolist() == ["a", "ü"]


def test_without_names_they_are_numbered_and_that_is_said(tmp_path):
    path = formats.write_loom(tmp_path / "f.loom", X, {"age": np.arange(N)}, {"length": np.arange(G)})
    with pytest.warns(UserWarning, match="has no names of") as said:
        adata = read_loom(path)
    cells, genes = (str(warning.message) for warning in said)
    assert "no names of cells: of the column attributes 'CellID', 'obs_names'," in cells
    assert "it has none (there are ['age'])" in cells
    assert "no names of genes: of the row attributes 'Gene', 'var_names'," in genes
    assert "(there are ['length'])" in genes
    assert adata.obs_names[:2].tolist() == adata.var_names[:2].tolist() == ["0", "1"]


def test_names_that_repeat_are_told_apart(tmp_path, caplog):
    adata = read_loom(formats.write_loom(tmp_path / "f.loom", X, CELLS, {"Gene": ["A", "A", *GENES[2:]]}))
    assert adata.var_names[:2].tolist() == ["A", "A-1"]
    assert "1 gene names occur twice" in caplog.text


@pytest.mark.parametrize(
    ("cells", "genes"),
    [
        ("obs_names", "var_names"),  # as AnnData and scanpy write them
        ("CellID", "var_names"),
        ("cell_id", "gene_symbols"),
        ("barcode", "gene_ids"),
        ("index", "index"),
        ("Barcodes", "Accession"),
    ],
)
def test_names_as_others_call_them(cells, genes, tmp_path):
    """Genes and cells are in another order in the second file, and are found by name."""
    order, others = np.random.default_rng(0).permutation(G), {"length": np.arange(G), "strand": ["+"] * G}
    one = formats.write_loom(tmp_path / "one.loom", X, {cells: CELLS["CellID"]}, {**others, genes: GENES})
    names = np.array(GENES)[order]
    other = formats.write_loom(tmp_path / "other.loom", X[:, order], {cells: CELLS["CellID"]}, {**others, genes: names})
    one, other = read_loom(one), read_loom(other)
    assert one.obs_names.tolist() == other.obs_names.tolist() == CELLS["CellID"]
    assert one.var_names.tolist() == GENES
    assert (other[:, GENES].X != one.X).nnz == 0


def test_names_that_were_asked_for(tmp_path):
    genes = {"Gene": GENES, "Symbol": [f"{gene}s" for gene in GENES], "pairs": np.zeros((G, 2))}
    path = formats.write_loom(tmp_path / "f.loom", X, {**CELLS, "well": [f"w{i}" for i in range(N)]}, genes)
    adata = read_loom(path, obs_names="well", var_names="Symbol")
    assert adata.obs_names[0] == "w0"
    assert adata.var_names[0] == f"{GENES[0]}s"
    for missing in ("symbols of genes", "pairs"):
        with pytest.warns(
            UserWarning, match=f"no row attribute '{missing}'; the names of the genes are those in 'Gene'"
        ):
            assert read_loom(path, var_names=missing).var_names.tolist() == GENES


def changed(path, what):
    with h5py.File(path, "a") as file:
        if what == "no matrix":
            del file["matrix"]
        elif what == "a flat matrix":
            del file["matrix"]
            file["matrix"] = np.zeros(5)
        elif what == "text":
            del file["matrix"]
            file["matrix"] = np.full((G, N), b"x")
        elif what == "missing":
            file["matrix"][0, 0] = np.nan
        elif what == "turned":
            del file["matrix"]
            file["matrix"] = X.toarray()
        elif what == "short":
            file["col_attrs/few"] = np.zeros(3)
        elif what == "no UTF-8":
            file["col_attrs/name"] = np.array([b"\xe4"] * N)
        elif what == "repeated":
            del file["col_attrs/CellID"]
            file["col_attrs/CellID"] = np.array([b"A"] * N)
    return path


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no matrix", "no two-dimensional /matrix"),
        ("a flat matrix", "no two-dimensional /matrix"),
        ("text", "no numbers"),
        ("missing", "a value is missing"),
        ("turned", "the other way round"),
        ("short", r"few has shape \(3,\) for 30"),
        ("no UTF-8", "not UTF-8"),
        ("repeated", "repeated values"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(what, says, tmp_path):
    path = changed(formats.write_loom(tmp_path / "f.loom", X, CELLS, ROWS), what)
    with pytest.raises(ValueError, match=says) as error:
        read_loom(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("shape", [(10**9, 10**9), (10**9, N), (G, 10**10)])
def test_absurd_shapes_need_no_memory(shape, tmp_path):
    with h5py.File(tmp_path / "f.loom", "w") as file:
        file.create_dataset("matrix", shape, np.float32, chunks=(1, 1))
        file.create_group("row_attrs")
        file.create_group("col_attrs")
    with pytest.raises(ValueError, match=f"/matrix claims {shape[0]} x {shape[1]} values, and 0 bytes are there"):
        read_loom(tmp_path / "f.loom")


def test_cut_empty_and_other_files(tmp_path):
    path = formats.write_loom(tmp_path / "f.loom", X, CELLS, ROWS)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match="cannot be read as a loom file"):
        read_loom(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="cannot be read as a loom file"):
        read_loom(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read_loom(path)
    with pytest.raises(FileNotFoundError):
        read_loom(tmp_path / "none.loom")
