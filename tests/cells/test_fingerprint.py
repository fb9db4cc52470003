"""What tells cells from others; that changes are seen and storage does not matter is in test_uns.py."""

from __future__ import annotations

import warnings

from anndata import AnnData

from scvi.dataset import declare, fingerprint


def test_the_fingerprint_is_of_the_layer(adata: AnnData) -> None:
    adata.layers["other"] = adata.X + 1
    schema, mark = declare(adata)
    other, other_mark = declare(adata, layer="other")
    assert mark == fingerprint(adata, schema) != other_mark == fingerprint(adata, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fingerprint(adata[::2], schema)
