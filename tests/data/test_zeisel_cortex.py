"""The table of Zeisel et al. 2015, from a small one in its format."""

from __future__ import annotations

import pytest

import published_files as files
from published_files import GENES, N, X
from scvi.data import read_cortex


def test_counts_and_annotations(tmp_path):
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
