"""Text tables: layouts, bad input, and the classes over them."""

from __future__ import annotations

import bz2
import gzip
import lzma

import numpy as np
import pytest
import scipy.sparse as sp

import formats
from scvi.data import csv
from scvi.dataset import BreastCancerDataset, CsvDataset, MouseOBDataset, read_csv
from web import serving

X = formats.counts()
N, G = X.shape
CELLS, GENES = formats.barcodes(N), formats.names(G)[1]
TABLE = formats.table(X.T.toarray(), GENES, CELLS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv", TABLE),
        ("c.csv.gz", gzip.compress(TABLE)),
        ("gzip without its suffix", gzip.compress(TABLE)),
        ("c.csv.bz2", bz2.compress(TABLE)),
        ("c.csv.xz", lzma.compress(TABLE)),
        ("r.csv", formats.table(X.T.toarray(), GENES, CELLS, corner=None)),
        ("windows.csv", formats.table(X.T.toarray(), GENES, CELLS, end="\r\n")),
        ("bom.csv", b"\xef\xbb\xbf" + TABLE),
        ("quoted.csv", formats.table(X.T.toarray(), [f'"{g}"' for g in GENES], [f'"{c}"' for c in CELLS])),
    ],
)
@pytest.mark.parametrize("at_once", [2**22, 4 * N])
def test_layouts(name, content, at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(csv, "_BLOCK_VALUES", at_once)
    (tmp_path / name).write_bytes(content)
    adata = read_csv(tmp_path / name)
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.int32
    assert (adata.X != X).nnz == 0
    assert adata.obs_names.tolist() == CELLS
    assert adata.var_names.tolist() == GENES


def test_cells_in_rows_zip_separator_and_encoding(tmp_path):
    content = formats.table(X.toarray(), CELLS, ["gène", *GENES[1:]], sep=";").decode().encode("latin1")
    formats.zipped(tmp_path / "c.zip", {"c.csv": content})
    adata = read_csv(tmp_path / "c.zip", sep=";", genes_in_rows=False, encoding="latin1")
    assert (adata.X != X).nnz == 0
    assert adata.var_names[0] == "gène"


def test_names_stay_text_and_numbers_stay_numbers(tmp_path):
    (tmp_path / "c.csv").write_text(",c1,c2\n007,1,2\nNA,0,2.5\n1-Mar,3,0\n")
    adata = read_csv(tmp_path / "c.csv")
    assert adata.var_names.tolist() == ["007", "NA", "1-Mar"]
    assert adata.X.dtype == np.float32
    assert adata.X.toarray().tolist() == [[1, 0, 3], [2, 2.5, 0]]


def test_genes_that_repeat_get_a_number(tmp_path, caplog):
    (tmp_path / "c.csv").write_text(",c1\nA,1\nA,2\n")
    assert read_csv(tmp_path / "c.csv").var_names.tolist() == ["A", "A-1"]
    assert "1 gene names occur twice" in caplog.text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b",c1,c2\n", "second 0"),
        (b"a,b\n", "sep=','"),
        (b"a\tb\tc\nd\t1\t2\n", "sep=','"),
        (b",c1,c2\ng1,1,2\ng2,0\n", "column 'c2' holds '' beside numbers"),
        (b",c1,c2\ng1,1,2\ng2,0,\n", "column 'c2' holds ''"),
        (b",c1,c2\ng1,1,2\ng2,0,3,4\n", "Expected 3 fields"),
        (b",c1,c2\ng1,1,2\ng2,0,x\n", "column 'c2' holds 'x'"),
        (b",c1,c2\ng1,1,2\ng2,0,nan\n", "column 'c2' holds 'nan'"),
        (b",c1,c2\ng1,1,2\ng2,0,True\n", "column 'c2' holds 'True'"),
        (b",c1,c1\ng1,1,2\n", "1 repeated names of cells, 'c1'"),
        (b",c1,c2\n\xe4,1,2\n", "not UTF-8"),
        (b",\xe4,c2\na,1,2\n", "not UTF-8"),
        (formats.table(X.toarray(), CELLS, GENES), "pass genes_in_rows=False"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(content, says, tmp_path):
    path = tmp_path / "c.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        read_csv(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.csv.gz", TABLE, "no gzip file"),
        ("c.csv.gz", gzip.compress(TABLE)[:-20], "ends too early"),
        ("c.csv.xz", lzma.compress(TABLE)[:-20], "ends too early"),
        ("c.csv.bz2", TABLE, "cannot be read"),
        ("c.zip", TABLE, "cannot be read"),
    ],
)
def test_bad_compression(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        read_csv(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_zip_of_two_files_and_an_unknown_compression(tmp_path):
    formats.zipped(tmp_path / "c.zip", {"a": TABLE, "b": TABLE})
    with pytest.raises(ValueError, match="holds 2 files"):
        read_csv(tmp_path / "c.zip")
    with pytest.raises(ValueError, match="compression='rar'"):
        read_csv(tmp_path / "c.zip", compression="rar")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "none.csv")


def test_csv_dataset_from_its_url(tmp_path):
    empty = np.vstack([X.toarray(), np.zeros((1, G), int)])  # a last cell without counts
    content = gzip.compress(formats.table(empty.T, GENES, [*CELLS, "empty"]))
    with serving(files={"/GSE.csv.gz": content}) as web:
        dataset = CsvDataset("cells.csv.gz", str(tmp_path), f"{web.url}/GSE.csv.gz", compression="gzip")
    assert (dataset.X != X).nnz == 0
    assert dataset.gene_names.tolist() == GENES
    assert dataset.n_batches == dataset.n_labels == 1


def test_csv_dataset_with_labels_batches_and_fewer_genes(tmp_path):
    types = np.array(["T", "B", "NK"])[np.arange(N) % 3]
    (tmp_path / "c.csv").write_bytes(TABLE)
    (tmp_path / "labels.csv").write_bytes(formats.table(types[::-1, None], CELLS[::-1], ["type"]))  # found by name
    (tmp_path / "batches.csv").write_bytes(formats.table(np.arange(N)[:, None] % 2 + 5, range(N), ["batch"]))
    options = {"save_path": str(tmp_path), "labels_file": "labels.csv", "batch_ids_file": "batches.csv"}
    dataset = CsvDataset("c.csv", **options)
    assert dataset.cell_types.tolist() == ["B", "NK", "T"]
    np.testing.assert_array_equal(dataset.cell_types[dataset.labels.ravel()], types)
    np.testing.assert_array_equal(dataset.batch_indices.ravel(), np.arange(N) % 2)
    assert CsvDataset("c.csv", subset_genes=[3, 1], **options).gene_names.tolist() == [GENES[3], GENES[1]]
    assert CsvDataset("c.csv", new_n_genes=5, **options).nb_genes == 5
    assert CsvDataset("c.csv", new_n_genes=500, **options).nb_genes == G
    (tmp_path / "labels.csv").write_bytes(formats.table(types[:5, None], CELLS[:5], ["type"]))
    with pytest.raises(ValueError, match="5 lines for 30 cells"):
        CsvDataset("c.csv", **options)


def test_delayed_populating(tmp_path):
    (tmp_path / "c.csv").write_bytes(TABLE)
    dataset = CsvDataset("c.csv", str(tmp_path), delayed_populating=True)
    assert dataset.X is None
    dataset.populate()
    assert dataset.X.shape == (N, G)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(BreastCancerDataset, "Layer2_BC_count_matrix-1.tsv"), (MouseOBDataset, "Rep11_MOB_count_matrix-1.tsv")],
)
def test_spatial_transcriptomics(kind, name, tmp_path):
    spots = [f"{17 + i}.907x{4 + i}.967" for i in range(N)]
    (tmp_path / name).write_bytes(formats.table(X.toarray(), spots, GENES, sep="\t"))
    dataset = kind(str(tmp_path))
    assert (dataset.X != X).nnz == 0
    assert dataset.gene_names.tolist() == GENES
