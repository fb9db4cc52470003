"""Text tables: layouts, and bad input."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import formats
import scvi.dataset
from scvi.data import csv, read_csv, read_text

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
    adata = read_csv(tmp_path / name, genes_in_rows=True)
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.int32
    assert (adata.X != X).nnz == 0
    assert adata.obs_names.tolist() == CELLS
    assert adata.var_names.tolist() == GENES


def test_cells_in_rows_zip_separator_and_encoding(tmp_path):
    content = formats.table(X.toarray(), CELLS, ["gène", *GENES[1:]], sep=";").decode().encode("latin1")
    formats.zipped(tmp_path / "c.zip", {"c.csv": content})
    adata = read_csv(tmp_path / "c.zip", sep=";", encoding="latin1")
    assert (adata.X != X).nnz == 0
    assert adata.var_names[0] == "gène"


def test_lines_are_cells_here_and_genes_in_2020(tmp_path):
    (tmp_path / "c.csv").write_bytes(TABLE)
    assert scvi.dataset.read_csv(tmp_path / "c.csv").var_names.tolist() == GENES
    with pytest.raises(ValueError, match="pass genes_in_rows=True"):
        read_csv(tmp_path / "c.csv")
    (tmp_path / "c.csv").write_bytes(formats.table(X.toarray(), CELLS, GENES))
    assert (read_csv(tmp_path / "c.csv").X != X).nnz == 0


def test_names_stay_text_and_numbers_stay_numbers(tmp_path):
    (tmp_path / "c.csv").write_text(",c1,c2\n007,1,2\nNA,0,2.5\n1-Mar,3,0\n")
    adata = read_csv(tmp_path / "c.csv", genes_in_rows=True)
    assert adata.var_names.tolist() == ["007", "NA", "1-Mar"]
    assert adata.X.dtype == np.float32
    assert adata.X.toarray().tolist() == [[1, 0, 3], [2, 2.5, 0]]


def test_genes_that_repeat_get_a_number(tmp_path, caplog):
    (tmp_path / "c.csv").write_text(",c1\nA,1\nA,2\n")
    assert read_csv(tmp_path / "c.csv", genes_in_rows=True).var_names.tolist() == ["A", "A-1"]
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
        read_csv(path, genes_in_rows=True)
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
        read_csv(tmp_path / name, genes_in_rows=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zip"])
def test_a_compression_that_is_not_the_files(compression, tmp_path):
    (tmp_path / "c.csv").write_bytes(TABLE)
    with pytest.raises(ValueError, match=r"c\.csv"):
        read_csv(tmp_path / "c.csv", genes_in_rows=True, compression=compression)


def test_a_zip_of_two_files_and_an_unknown_compression(tmp_path):
    formats.zipped(tmp_path / "c.zip", {"a": TABLE, "b": TABLE})
    with pytest.raises(ValueError, match="holds 2 files"):
        read_csv(tmp_path / "c.zip", genes_in_rows=True)
    with pytest.raises(ValueError, match="compression='rar'"):
        read_csv(tmp_path / "c.zip", compression="rar")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "none.csv")


@pytest.mark.parametrize("separator", ["\t", ",", ";", " "])
@pytest.mark.parametrize("corner", [True, False])
def test_read_text_sees_what_separates_the_columns(tmp_path: Path, separator: str, corner: bool) -> None:
    lines = [["name"] * corner + ["A", "B"], ["c1", "1", "0"], ["c2", "0", "7"]]
    path = tmp_path / "counts.txt"
    path.write_text("\n".join(separator.join(line) for line in lines) + "\n", encoding="utf-8-sig")
    for options in ({}, {"delimiter": separator, "first_column_names": True}):
        adata = read_text(path, **options)
        assert list(adata.obs_names) == ["c1", "c2"]
        assert list(adata.var_names) == ["A", "B"]
        np.testing.assert_array_equal(adata.X.toarray(), [[1, 0], [0, 7]])
    assert list(read_text(path, genes_in_rows=True).var_names) == ["c1", "c2"]


def test_read_csv_takes_the_arguments_of_scripts(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text("cell;A;B\nc1;1;0\nc2;0;3\n")
    for options in ({"sep": ";"}, {"delimiter": ";", "first_column_names": True}):
        np.testing.assert_array_equal(read_csv(path, **options).X.toarray(), [[1, 0], [0, 3]])
    np.testing.assert_array_equal(read_csv(path, ";").X.toarray(), [[1, 0], [0, 3]])
    with pytest.raises(ValueError, match="first_column_names=False"):
        read_csv(path, ";", False)


def test_read_text_refuses_what_it_cannot_separate_or_name(tmp_path: Path) -> None:
    path = tmp_path / "counts.txt"
    path.write_text("A\nc1\n")
    with pytest.raises(ValueError, match=r"counts\.txt.*no tab, comma.*delimiter="):
        read_text(path)
    with pytest.raises(ValueError, match="first_column_names=False"):
        read_text(path, first_column_names=False)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none.txt")


@pytest.mark.parametrize("corner", ["name", ""])
def test_read_text_takes_any_spaces(tmp_path: Path, corner: str) -> None:
    path = tmp_path / "counts.txt"
    path.write_text(f"{corner:6}  A    B  \nc1      1    0\nc2 \t    0    7\n")
    for adata in (read_text(path), read_csv(path, r"\s+")):
        assert list(adata.obs_names) == ["c1", "c2"]
        assert list(adata.var_names) == ["A", "B"]
        np.testing.assert_array_equal(adata.X.toarray(), [[1, 0], [0, 7]])


def test_read_csv_takes_the_spellings_of_other_readers(tmp_path: Path) -> None:
    path = tmp_path / "counts.tsv"
    path.write_bytes(formats.table(X.toarray(), CELLS, GENES, sep="\t"))
    for options in ({"delimiter": "\t"}, {"delimiter": "\t", "first_column_names": True}, {"sep": "\t"}):
        assert (read_csv(path, **options).X != X).nnz == 0
    assert (read_csv(path, "\t").X != X).nnz == 0
    with pytest.raises(ValueError, match="first_column_names=False"):
        read_csv(path, first_column_names=False)
    with pytest.raises(ValueError, match="both say what separates columns: pass one"):
        read_csv(path, delimiter=";", sep="\t")
    with pytest.raises(ValueError, match="delimiter='' is not a text"):
        read_csv(path, delimiter="")
