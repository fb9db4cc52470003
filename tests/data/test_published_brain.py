"""The published files of the brain, small, in their formats."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import formats
import published_files as files
from published_files import GENES, IDS, N, X
from scvi.data import published_brain, read_10x, read_brain_large, read_cortex


def test_cortex(tmp_path, caplog):
    written = files.cortex(tmp_path)
    adata = read_cortex(tmp_path / "expression.bin")
    assert (adata.X != X).nnz == 0
    assert adata.var_names.tolist() == GENES
    assert adata.obs["level1class"].tolist() == written["types"].tolist()
    assert adata.obs["level2class"].tolist() == written["subtypes"]
    assert adata.obs["age"].tolist() == ["21"] * N
    assert adata.obs_names[1] == "1772071015_C01"
    beyond = ["tissue", "total mRNA mol", "well", "sex", "age", "diameter", "cell_id", "level2class"]
    assert f"the lines {beyond} go beyond the {N} cells" in caplog.text


@pytest.mark.parametrize("first", [("(none)", ""), ("", "(none)"), ("", "")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("padded", [b"", b"\t\t"])
def test_layouts_of_cortex(first, end, padded, tmp_path, caplog):
    types, subtypes = ["a", "(none)"] * (N // 2), ["b"] * N
    text = formats.cortex_text(X, types, subtypes, GENES, first=first, end=end)
    text = text.replace(end.encode(), padded + end.encode())
    (tmp_path / "expression.bin").write_bytes(b"\xef\xbb\xbf" + text + b"\n\n")
    adata = read_cortex(tmp_path / "expression.bin")
    assert (adata.X != X).nnz == 0
    assert adata.obs["level1class"].tolist() == types
    assert "level2class" in adata.obs
    assert adata.var_names.tolist() == GENES
    assert not caplog.text


def test_genes_of_cortex_that_repeat_get_a_number(tmp_path, caplog):
    names = [GENES[0], GENES[0], *GENES[2:]]
    (tmp_path / "expression.bin").write_bytes(formats.cortex_text(X, ["a"] * N, ["b"] * N, names))
    assert read_cortex(tmp_path / "expression.bin").var_names[:2].tolist() == [GENES[0], f"{GENES[0]}-1"]
    assert "1 gene names occur twice" in caplog.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[: len(text) - 40], "counts for 40 cells"),
        (lambda text: text.replace(b"level1class", b"class"), "line 9 is called 'class'"),
        (lambda text: text.replace(b"\tlevel1class", b"\t"), "line 9 is called 'line 9'"),
        (lambda text: text.replace(b"\t21", b"", 1), "not of the same cells"),
        (lambda text: text.replace(b"\nGene0\t0", b"\nGene0\t0\t7"), "has 41 counts for 40 cells"),
        (lambda text: text.replace(b"\t1\t0", b"\t1\tx", 1), "not|no number"),
        (lambda text: b"\n".join(line for line in text.split(b"\n") if line.strip()), "line 11, .* is not empty"),
        (lambda text: b"\n".join(text.split(b"\n")[:11]), "no genes"),
        (lambda text: b"\n".join(text.split(b"\n")[:7]), "ends before its line 10"),
        (lambda text: b"<html>404</html>", "ends before its line 10"),
        (lambda text: text.replace(b"Gene3", b"\xe4"), "not UTF-8"),
    ],
)
def test_a_bad_cortex_is_refused_in_one_line(change, says, tmp_path):
    path = tmp_path / "expression.bin"
    path.write_bytes(change(formats.cortex_text(X, ["a"] * N, ["b"] * N, GENES)))
    with pytest.raises(ValueError, match=says) as error:
        read_cortex(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cells_at_once", [7, 100_000])
def test_brain_large_keeps_the_most_variable_genes(cells_at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(published_brain, "_VALUES_AT_ONCE", 60)
    files.brain_large(tmp_path)
    path, options = tmp_path / "brain_large.h5", {"n_genes": 5, "n_cells_for_variance": 10}
    adata = read_brain_large(path, n_cells_at_once=cells_at_once, **options)
    genes = np.argsort(-X[:10].toarray().var(axis=0), kind="stable")[:5]
    expected = X.toarray()[:, genes]
    np.testing.assert_array_equal(adata.X.toarray(), expected)
    assert adata.var_names.tolist() == [IDS[gene] for gene in genes]
    limited = read_brain_large(path, n_cells=13, **options)
    np.testing.assert_array_equal(limited.X.toarray(), expected[:13])


@pytest.mark.parametrize("name", ["n_genes", "n_cells_for_variance", "n_cells", "n_cells_at_once"])
def test_sizes_of_brain_large_are_positive_integers(name, tmp_path):
    files.brain_large(tmp_path)
    with pytest.raises(ValueError, match=f"{name}=0"):
        read_brain_large(tmp_path / "brain_large.h5", **{name: 0})


@pytest.mark.parametrize("barcodes", [True, False])
def test_brain_large_without_names_of_genes(barcodes, tmp_path):
    path = formats.write_10x_h5(tmp_path / "brain_large.h5", X, version=2, genome="mm10")
    with h5py.File(path, "a") as file:
        for name in ("genes", "gene_names", *([] if barcodes else ["barcodes"])):
            del file["mm10"][name]
    with pytest.warns(UserWarning, match=r"brain_large\.h5 has no names of genes\. Numbers stand for the names"):
        adata = read_brain_large(path, n_genes=5)
    genes = np.argsort(-X.toarray().var(axis=0), kind="stable")[:5]
    np.testing.assert_array_equal(adata.X.toarray(), X.toarray()[:, genes])
    assert adata.var_names.tolist() == [str(gene) for gene in genes]
    assert adata.obs_names[:2].tolist() == (formats.barcodes(N)[:2] if barcodes else ["0", "1"])
    with pytest.warns(UserWarning, match="has no names of genes"):
        assert read_10x(path).var_names.tolist() == [str(gene) for gene in range(len(GENES))]
