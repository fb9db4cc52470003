"""Folders, archives and HDF5 files of Cell Ranger: what is read, and what is refused in one line."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import formats
from scvi.data import read_10x, read_brain_large
from scvi.data.matrix_market import Header, _parsed, read_matrix_market
from scvi.data.tenx import open_tenx_h5

X = formats.counts()
N, G = X.shape
IDS, SYMBOLS = formats.names(G)
TYPES = ["Gene Expression"] * (G - 3) + ["Antibody Capture"] * 2 + ["CRISPR Guide Capture"]


def written(kind: str, folder: Path) -> Path:
    if kind == "v2 folder":
        return formats.write_10x_v2(folder / "v2", X)
    if kind == "v3 folder":
        return formats.write_10x_v3(folder / "v3", X)
    if kind == "nested":
        formats.write_10x_v2(folder / "out" / "filtered_gene_bc_matrices" / "GRCh38", X)
        (folder / "out" / "._matrix.mtx").write_bytes(b"left by a Mac")
        return folder / "out"
    if kind == "tar.gz":
        return formats.tar_of(folder / "f.tar.gz", formats.write_10x_v3(folder / "v3", X), "filtered_feature_bc_matrix")
    if kind == "tar":
        inner = {f"hg19/{p.name}": p.read_bytes() for p in formats.write_10x_v2(folder / "v2", X).iterdir()}
        return formats.tar(folder / "f.tar", inner, "w")
    return formats.write_10x_h5(folder / "f.h5", X, version=int(kind[-1]))


KINDS = ["v2 folder", "v3 folder", "nested", "tar.gz", "tar", "h5 version 2", "h5 version 3"]


@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_names(kind, tmp_path):
    adata = read_10x(written(kind, tmp_path))
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.int32
    assert adata.X.has_canonical_format
    assert (adata.X != X).nnz == 0
    assert adata.obs_names.tolist() == formats.barcodes(N)
    assert adata.var_names.tolist() == IDS
    assert adata.var["gene_symbols"].tolist() == SYMBOLS


def test_genes_by_symbol(tmp_path):
    assert read_10x(written("v3 folder", tmp_path), var_names="gene_symbols").var_names.tolist() == SYMBOLS


@pytest.mark.parametrize("kind", ["folder", "h5"])
def test_antibodies_and_other_features(kind, tmp_path):
    if kind == "folder":
        path = formats.write_10x_v3(tmp_path / "f", X, types=TYPES)
    else:
        path = formats.write_10x_h5(tmp_path / "f.h5", X, types=TYPES)
    adata = read_10x(path, var_names="gene_symbols")
    assert (X[:, : G - 3] != adata.X).nnz == 0
    np.testing.assert_array_equal(adata.obsm["protein_expression"], X[:, G - 3 : G - 1].toarray())
    assert adata.uns["protein_names"].tolist() == SYMBOLS[G - 3 : G - 1]
    assert (adata.obsm["crispr_guide_capture"] != X[:, G - 1 :]).nnz == 0
    assert adata.uns["crispr_guide_capture_names"].tolist() == SYMBOLS[G - 1 :]


@pytest.mark.parametrize("kind", ["", "crispr_guide capture", "Protein Expression"])
def test_types_of_features_that_have_no_name_of_their_own(kind, tmp_path):
    path = formats.write_10x_v3(tmp_path / "f", X, types=[kind, *TYPES[1:]])
    with pytest.raises(ValueError, match=r"features of type '.*', which is no name, or that of another type"):
        read_10x(path)


def test_antibodies_are_not_among_the_most_variable_genes(tmp_path):
    counts = X.toarray()
    counts[:, G - 3 : G - 1] *= 1000
    path = formats.write_10x_h5(tmp_path / "f.h5", sp.csr_matrix(counts), types=TYPES)
    assert set(read_brain_large(path, n_genes=G).var_names) == set(IDS[: G - 3])


def test_entries_in_any_order_repeated_and_real(tmp_path):
    double = sp.csr_matrix(X * 2)
    text = formats.matrix_market(X, order="any").decode().splitlines()
    head, body = text[:2], text[3:]
    lines = [*head, f"{G} {N} {2 * len(body)}", *body, *body]
    folder = formats.write_10x_v2(tmp_path, X)
    (folder / "matrix.mtx").write_text("\n".join(lines))  # no newline at the end
    assert (double != read_10x(folder).X).nnz == 0
    (folder / "matrix.mtx").write_text("\n".join(lines).replace("integer", "real").replace(" 3\n", " 2.5\n"))
    read = read_10x(folder).X
    assert read.dtype == np.float32
    assert 5.0 in read.data


def test_windows_line_ends_and_a_byte_order_mark(tmp_path):
    folder = formats.write_10x_v2(tmp_path, X)
    for file in folder.iterdir():
        content = file.read_bytes().replace(b"\n", b"\r\n")
        file.write_bytes(content if file.suffix == ".mtx" else b"\xef\xbb\xbf" + content)
    adata = read_10x(folder)
    assert (adata.X != X).nnz == 0
    assert adata.obs_names.tolist() == formats.barcodes(N)
    assert adata.var_names.tolist() == IDS


def test_without_barcodes_cells_are_numbered(tmp_path):
    folder = formats.write_10x_v2(tmp_path, X)
    (folder / "barcodes.tsv").unlink()
    assert read_10x(folder).obs_names.tolist() == [str(i) for i in range(N)]


def test_symbols_that_repeat_get_a_number(tmp_path, caplog):
    folder = formats.write_10x_v2(tmp_path, X, genes=(IDS, ["TBCE", "TBCE", *SYMBOLS[2:]]))
    adata = read_10x(folder, var_names="gene_symbols")
    assert adata.var_names[:2].tolist() == ["TBCE", "TBCE-1"]
    assert adata.var["gene_symbols"].tolist()[:2] == ["TBCE", "TBCE"]
    assert "1 gene names occur twice" in caplog.text


def test_one_of_several_genomes(tmp_path):
    path = formats.write_10x_h5(tmp_path / "f.h5", X, version=2, genome="hg19")
    formats.write_10x_h5(path, X * 2, version=2, genome="mm10")
    with pytest.raises(ValueError, match=r"several genomes, \['hg19', 'mm10'\]"):
        read_10x(path)
    assert (read_10x(path, genome="mm10").X != X * 2).nnz == 0
    with pytest.raises(ValueError, match="no genome 'rn6'"):
        read_10x(path, genome="rn6")


def test_h5_is_read_by_ranges_of_cells(tmp_path):
    with open_tenx_h5(formats.write_10x_h5(tmp_path / "f.h5", X)) as file:
        parts = [file.rows(start, min(start + 7, N)) for start in range(0, N, 7)]
    assert (sp.vstack(parts) != X).nnz == 0


def damage(folder: Path, what: str) -> Path:
    """A folder of version 3 with one thing wrong."""
    formats.write_10x_v3(folder, X)
    matrix, features, barcodes = (folder / f"{name}.gz" for name in ("matrix.mtx", "features.tsv", "barcodes.tsv"))
    text = formats.matrix_market(X)
    head = b"%%MatrixMarket matrix coordinate integer general\n%\n"
    changes = {
        "cut gzip": (matrix, matrix.read_bytes()[:-30]),
        "cut text": (matrix, gzip.compress(text[: len(text) // 2].rpartition(b"\n")[0])),
        "half a line": (matrix, gzip.compress(text[: len(text) // 2].rpartition(b" ")[0])),
        "empty": (matrix, b""),
        "no gzip": (matrix, text),
        "no matrix": (matrix, gzip.compress(b"<html>404</html>")),
        "other kind": (matrix, gzip.compress(text.replace(b"coordinate integer", b"array integer"))),
        "pattern": (matrix, gzip.compress(text.replace(b"coordinate integer", b"coordinate pattern"))),
        "turned": (matrix, gzip.compress(formats.matrix_market(X.T.tocsr()))),
        "absurd": (matrix, gzip.compress(head + b"%d %d %d\n1 1 1\n" % (10**15, 10**15, 10**15))),
        "too many": (matrix, gzip.compress(head + b"%d %d %d\n1 1 1\n" % (G, N, N * G))),
        "impossible": (matrix, gzip.compress(head + b"%d %d %d\n1 1 1\n" % (G, N, 10**15))),
        "outside": (matrix, gzip.compress(text[:60] + text[60:].replace(b"\n12 ", b"\n13 "))),
        "zero-based": (matrix, gzip.compress(text.replace(b"\n1 ", b"\n0 "))),
        "a word": (matrix, gzip.compress(text.replace(b" 3\n", b" x\n", 1))),
        "a fraction": (matrix, gzip.compress(text.replace(b" 3\n", b" 3.5\n", 1))),
        "huge value": (matrix, gzip.compress(text.replace(b" 3\n", b" 99999999999\n", 1))),
        "repeated barcode": (barcodes, gzip.compress(formats.tsv([*formats.barcodes(N - 1), formats.barcodes(1)[0]]))),
        "no UTF-8": (features, gzip.compress(formats.tsv(IDS, SYMBOLS, TYPES).replace(b"Gene1", b"G\xe4ne1"))),
        "one column": (features, gzip.compress(formats.tsv(IDS))),
        "one short line": (features, gzip.compress(formats.tsv(IDS, SYMBOLS, TYPES).replace(b"\tGene4\tG", b"G"))),
        "no genes": (features, gzip.compress(formats.tsv(IDS, SYMBOLS, ["Peaks"] * G))),
        "fewer genes": (features, gzip.compress(formats.tsv(IDS[1:], SYMBOLS[1:], TYPES[1:]))),
        "empty features": (features, gzip.compress(b"")),
    }
    file, content = changes[what]
    file.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("cut gzip", "ends too early"),
        ("cut text", "fewer than the"),
        ("half a line", "damaged"),
        ("empty", "is empty"),
        ("no gzip", "no gzip file"),
        ("no matrix", "first line"),
        ("other kind", "first line"),
        ("pattern", "'pattern' values"),
        ("turned", "other way round"),
        ("absurd", "12 genes and 30 cells"),
        ("too many", "entries"),
        ("impossible", "entries in 12 x 30 places"),
        ("outside", "entry in row .* of 12"),
        ("zero-based", "entry in row 0"),
        ("a word", "no number"),
        ("a fraction", "no number of its kind"),
        ("huge value", "beyond 32 bits"),
        ("repeated barcode", "1 repeated barcodes"),
        ("no UTF-8", "not UTF-8"),
        ("one column", "line 1 has 1 fields"),
        ("one short line", "line 5 has 1 fields"),
        ("no genes", "no features of type 'Gene Expression'"),
        ("fewer genes", "11 genes and 30 cells"),
        ("empty features", "no lines"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(what, says, tmp_path):
    with pytest.raises(ValueError, match=says) as error:
        read_10x(damage(tmp_path / "f", what))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "text", [b"1 2 x\n3 4 5", b"1 2 3.5\n3 4 5", b"1 2 3\n4 5 6.5", b"1 2 3\n4 5 6x", b"1 2 3\n4 5"]
)
def test_what_is_no_number_is_found_where_numpy_only_warns_of_it(text, monkeypatch):
    def stops(text, kind, sep):
        """As numpy did before it raised an error."""
        for end in range(len(text), -1, -1):
            with contextlib.suppress(ValueError):
                return whole(text[:end], kind, sep=sep)

    whole = np.fromstring
    monkeypatch.setattr(np, "fromstring", stops)
    header = Header(12, 30, 2, whole=True)
    with pytest.raises(ValueError, match=r"no number of its kind|not row, column, value"):
        _parsed(text, header)
    assert [part.tolist() for part in _parsed(b"1 2 3\n4 5 6", header)] == [[1, 4], [0, 3], [3, 6]]


def test_absurd_numbers_of_cells_need_no_memory(tmp_path):
    folder = damage(tmp_path / "f", "absurd")
    (folder / "barcodes.tsv.gz").unlink()
    text = b"%%%%MatrixMarket matrix coordinate integer general\n%d %d 1\n1 1 1\n" % (G, 10**15)
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress(text))
    with pytest.raises(ValueError, match="claims 1000000000000000 cells"):
        read_10x(folder)
    text = b"%%MatrixMarket matrix coordinate integer general\n3000000 3000000 9000000000000\n1 1 1\n"
    (tmp_path / "m.mtx").write_bytes(text)
    with pytest.raises(ValueError, match="more than a file of its size holds"):
        read_matrix_market(tmp_path / "m.mtx", 3_000_000, 3_000_000)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_10x(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"No matrix.mtx\(.gz\) found in path"):
        read_10x(tmp_path)
    for name in ("a", "b"):
        formats.write_10x_v2(tmp_path / name, X)
    with pytest.raises(ValueError, match=r"several matrices, in \['a', 'b'\]"):
        read_10x(tmp_path)
    (tmp_path / "a" / "genes.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no genes\.tsv"):
        read_10x(tmp_path / "a")
    (tmp_path / "cells.csv").write_text(",a\nb,1\n")
    with pytest.raises(ValueError, match="no HDF5 file"):
        read_10x(tmp_path / "cells.csv")
    with pytest.raises(ValueError, match="'gene_ids', 'gene_symbols'"):
        read_10x(tmp_path / "a", var_names="ids")  # type: ignore[arg-type]


def replaced(path: Path, key: str, value: object) -> Path:
    with h5py.File(path, "a") as file:
        del file[key]
        if value is not None:
            file[key] = value
    return path


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("matrix/data", None, "no list 'data'"),
        ("matrix/data", np.array([b"x"] * X.nnz), "not numbers"),
        ("matrix/data", X.data[:-1], "announces"),
        ("matrix/data", X.data.astype(np.int64) + 2**40, "no count"),
        ("matrix/indices", X.indices + G, "12 genes"),
        ("matrix/indptr", X.indptr[::-1].copy(), "does not rise"),
        ("matrix/indptr", X.indptr[:-1], "does not go with 29 cells"),
        ("matrix/shape", np.array([N, G]), "does not go with"),
        ("matrix/shape", np.array([2**60, 2**60]), "does not go with"),
        ("matrix/barcodes", None, "no /matrix/barcodes"),
        ("matrix/barcodes", np.array([b"A"] * N), "29 repeated barcodes"),
        ("matrix/barcodes", np.array([b"\xe4"] * N), "not UTF-8"),
        ("matrix/features/id", np.array([b"A"]), r"shape \(1,\)"),
        ("matrix/features/feature_type", np.array([b"Peaks"] * G), "no features of type"),
    ],
)
def test_a_damaged_h5_is_refused_in_one_line(key, value, says, tmp_path):
    path = replaced(formats.write_10x_h5(tmp_path / "f.h5", X), key, value)
    with pytest.raises(ValueError, match=says) as error:
        read_10x(path)
    assert "\n" not in str(error.value)


def test_values_that_are_not_there_need_no_memory(tmp_path):
    path = formats.write_10x_h5(tmp_path / "a.h5", X)
    with h5py.File(path, "a") as file:
        indptr = file["matrix/indptr"][:].astype(np.int64)
        indptr[-1] = 10**12
        for key in ("data", "indices", "indptr"):
            del file["matrix"][key]
        file["matrix/indptr"] = indptr
        for key in ("data", "indices"):
            file["matrix"].create_dataset(key, (10**12,), np.int32, chunks=(1024,))
    for read in (read_10x, read_brain_large):
        with pytest.raises(ValueError, match="/matrix/data claims 1000000000000 values, and 0 bytes are there"):
            read(path)


def test_a_cut_h5_and_another_h5(tmp_path):
    path = formats.write_10x_h5(tmp_path / "f.h5", X)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="cannot be read as an HDF5 file of Cell Ranger") as error:
        read_10x(path)
    assert "\n" not in str(error.value)
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(ValueError, match="no group with a matrix"):
        read_10x(tmp_path / "g.h5")
