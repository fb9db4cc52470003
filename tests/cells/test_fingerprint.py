"""What tells cells from others, but for their counts; that a set-up notices each of these is in test_uns.py."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scvi.cells.fingerprint import digest_of_names
from scvi.dataset import declare, fingerprint


def test_it_says_what_changed(adata: AnnData, keys: dict[str, Any]) -> None:
    schema, mark, _ = declare(adata, mask_var="chosen", **keys)
    assert mark == fingerprint(adata, schema)
    adata.obs["age"] += 1
    adata.obs["batch"] = np.roll(adata.obs["batch"], 1)
    adata.var["chosen"] = ~adata.var["chosen"]
    now = fingerprint(adata, schema)
    assert [name for name in mark if now[name] != mark[name]] == [
        "adata.obs['batch']",
        "adata.obs['age']",
        "genes in mask_var",
    ]


def test_counts_have_no_part_in_it(adata: AnnData) -> None:
    adata.layers["other"] = adata.X + 1
    schema, mark, digests = declare(adata)
    other, other_mark, other_digests = declare(adata, layer="other")
    assert mark == other_mark == fingerprint(adata, schema) == fingerprint(adata, other)
    assert (digests != other_digests).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fingerprint(adata[::2], schema)


@pytest.mark.parametrize("dtype", ["category", "object", "string"])
def test_how_a_column_is_stored_has_no_part_in_it(adata: AnnData, dtype: str) -> None:
    schema, mark, _ = declare(adata, batch_key="batch")
    adata.obs["batch"] = adata.obs["batch"].astype(dtype)
    assert fingerprint(adata, schema) == mark


def test_names_and_their_order() -> None:
    names = pd.Index([f"cell{i}" for i in range(9)])
    assert digest_of_names(names) == digest_of_names(names.to_numpy()) == digest_of_names(names.tolist())
    for others in (names[::-1], names[1:], names.repeat(2), [*names[:-1], "cell80"], ["", *names]):
        assert digest_of_names(others) != digest_of_names(names)
    assert digest_of_names(["ab", "c"]) != digest_of_names(["a", "bc"])
    with_nul = [["", "", "\0"], ["", "\0", ""], ["\0", "", ""], ["", "", "", ""], ["\0\0\0"]]
    assert len(set(map(digest_of_names, with_nul))) == len(with_nul)


def test_names_of_any_length_and_number() -> None:
    names = [f"{'experiment/' * 5}sample-{i % 97}/AAACCTGAGAAACCAT-{i}" for i in range(200_000)]
    mark = digest_of_names(names)
    names[123_456] = names[123_456].replace("A", "C", 1)
    assert digest_of_names(names) != mark
    assert digest_of_names(["\ud800", "é\0"]) != digest_of_names(["\ud800", "é"])  # whatever Python calls a text
