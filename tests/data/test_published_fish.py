"""osmFISH, seqFISH and seqFISH+, small, in their formats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import formats
import published_files as files
from published_files import GENES, N, X
from scvi.data import read_seqfish, read_seqfishplus, read_smfish


def test_smfish(tmp_path):
    files.looms(tmp_path)
    adata = read_smfish(tmp_path / "osmFISH_SScortex_mouse_all_cell.loom")
    assert (adata.X != X).nnz == 0
    assert adata.var_names.tolist() == GENES
    assert adata.obs["ClusterID"].tolist() == (np.arange(N) % 5).tolist()
    assert adata.obs["ClusterName"].tolist() == [f"type{i % 5}" for i in range(N)]
    np.testing.assert_array_equal(adata.obsm["coords"], np.tile(np.arange(N)[:, None], 2))


@pytest.mark.parametrize("lacking", ["ClusterID", "ClusterName", "X", "Y", "Gene"])
def test_a_smfish_that_lacks_something(lacking, tmp_path):
    cells = {"ClusterID": np.arange(N) % 5, "ClusterName": ["a"] * N, "X": np.arange(N), "Y": np.arange(N)}
    genes = {"Gene": GENES}
    cells.pop(lacking, None) if lacking in cells else genes.pop(lacking)
    formats.write_loom(tmp_path / "smfish.loom", X, cells, genes)
    with pytest.raises(ValueError, match=rf"has no attributes \['{lacking}'\]"):
        read_smfish(tmp_path / "smfish.loom")


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("ClusterID", np.full(N, np.nan), "'ClusterID' that are no whole numbers from 0"),
        ("ClusterID", np.arange(N) + 0.5, "'ClusterID' that are no whole numbers from 0"),
        ("ClusterID", np.arange(N) - 1, "'ClusterID' that are no whole numbers from 0"),
        ("ClusterID", np.full(N, 10**15), "'ClusterID' that are no whole numbers from 0"),
        ("ClusterID", np.array(["a"] * N), "'ClusterID' that are no whole numbers from 0"),
        ("X", np.zeros((N, 3)), r"several values for each cell or gene in \['X'\]"),
    ],
)
def test_a_bad_smfish_is_refused_in_one_line(name, values, says, tmp_path):
    cells = {"ClusterID": np.arange(N) % 5, "ClusterName": ["a"] * N, "X": np.arange(N), "Y": np.arange(N)}
    path = tmp_path / "smfish.loom"
    formats.write_loom(path, X, {**cells, name: values}, {"Gene": GENES})
    with pytest.raises(ValueError, match=f"{path.name} has .*{says}"):
        read_smfish(path)


def test_seqfish(tmp_path):
    files.seqfish(tmp_path)
    path = tmp_path / "SeqFISH.xlsx"
    adata = read_seqfish(path)
    assert (adata.X != X).nnz == 0
    assert adata.X.dtype == np.int32
    assert adata.var_names.tolist() == GENES
    assert adata.obs_names[:2].tolist() == ["0", "1"]
    with pytest.raises(ValueError, match="Worksheet named 'Nix' not found"):
        read_seqfish(path, sheet="Nix")
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="cannot be read as an Excel workbook"):
        read_seqfish(path)


def workbook(path, rows):
    pd.DataFrame(rows).to_excel(path, sheet_name="Hippocampus Counts", header=False, index=False, engine="openpyxl")
    return path


@pytest.mark.parametrize("head", [[None, 1, 2], [None, "c1", "c2"], ["gene", "c1", "c2"]])
def test_a_seqfish_with_a_line_of_names(head, tmp_path):
    rows = [head, ["'NA'", 1, 2], ["'nan'", 0, 4], [None, None, None]]
    adata = read_seqfish(workbook(tmp_path / "f.xlsx", rows))
    assert adata.X.toarray().tolist() == [[1, 0], [2, 4]]
    assert adata.var_names.tolist() == ["NA", "nan"]
    assert adata.obs_names.tolist() == [str(name) for name in head[1:]]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([["'A'", 1, 2], ["'B'", 3, None]], "missing"),
        ([["'A'", 1, 2], ["'B'", 3, "x"]], "no numbers"),
        ([["'A'", 1, 2], [7, 3, 4]], "does not begin with the name of a gene"),
        ([[1, 2], [3, 4]], "does not begin with the name of a gene"),
        ([[None, "c", "c"], ["'A'", 1, 2]], "1 repeated names of cells"),
        ([[None]], "has no counts"),
    ],
)
def test_a_bad_seqfish_is_refused_in_one_line(rows, says, tmp_path):
    path = workbook(tmp_path / "f.xlsx", rows)
    with pytest.raises(ValueError, match=says) as error:
        read_seqfish(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def seqfishplus(folder):
    counts, places = pd.DataFrame(X.toarray(), columns=GENES), pd.DataFrame(np.arange(4.0 * N).reshape(N, 4))
    places.columns = ["Field of View", "Cell ID", "X", "Y"]
    for name, table in {"counts.csv": counts, "centroids.csv": places}.items():
        table.to_csv(folder / name, index=False)
    return folder / "counts.csv", folder / "centroids.csv", places


def test_seqfishplus(tmp_path):
    counts, centroids, places = seqfishplus(tmp_path)
    adata = read_seqfishplus(counts, centroids)
    assert (adata.X != X).nnz == 0
    assert adata.X.dtype == np.int32
    assert adata.var_names.tolist() == GENES
    pd.read_csv(counts).to_csv(counts)  # with a column without a name in front, as published
    again = read_seqfishplus(counts, centroids)
    assert (again.X != X).nnz == 0
    assert again.var_names.tolist() == GENES
    assert list(adata.obs) == ["field_of_view", "cell_id"]
    np.testing.assert_array_equal(adata.obsm["coords"], places[["X", "Y"]])


def test_tables_of_seqfishplus_that_do_not_go_together(tmp_path):
    counts, centroids, places = seqfishplus(tmp_path)
    places[1:].to_csv(centroids, index=False)
    with pytest.raises(ValueError, match=f"has {N} cells and .*centroids.csv {N - 1}"):
        read_seqfishplus(counts, centroids)
    places.drop(columns="X").to_csv(centroids, index=False)
    with pytest.raises(ValueError, match=r"has no columns \['X'\]"):
        read_seqfishplus(counts, centroids)
    counts.write_text("a,b\n1,x\n")
    with pytest.raises(ValueError, match=r"counts.csv cannot be read as a table of counts: .* that are no numbers"):
        read_seqfishplus(counts, centroids)
