"""The published files of the brain, small, in their formats."""

from __future__ import annotations

import numpy as np
import pytest

import published_files as files
from published_files import GENES, IDS, N, X
from scvi.data import published_brain, read_brain_large, read_cortex


def test_cortex(tmp_path):
    written = files.cortex(tmp_path)
    adata = read_cortex(tmp_path / "expression.bin")
    assert (adata.X != X).nnz == 0
    assert adata.var_names.tolist() == GENES
    assert adata.obs["level1class"].tolist() == written["types"].tolist()
    assert adata.obs["level2class"].tolist() == written["subtypes"]
    assert adata.obs["age"].tolist() == ["21"] * N
    assert adata.obs_names[1] == "1772071015_C01"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[: len(text) - 40], "counts for 40 cells"),
        (lambda text: text.replace(b"level1class", b"class"), "line 9 is called"),
        (lambda text: text.replace(b"\t21", b"", 1), "not of the same cells"),
        (lambda text: text.replace(b"Gene3", b"Gene2"), "1 repeated genes"),
        (lambda text: text.replace(b"\t1\t0", b"\t1\tx", 1), "not|no number"),
        (lambda text: b"\n".join(text.split(b"\n")[:11]), "no genes"),
        (lambda text: b"<html>404</html>", "line 9 is called"),
        (lambda text: text.replace(b"Gene3", b"\xe4"), "not UTF-8"),
    ],
)
def test_a_bad_cortex_is_refused_in_one_line(change, says, tmp_path):
    files.cortex(tmp_path)
    path = tmp_path / "expression.bin"
    path.write_bytes(change(path.read_bytes()))
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
