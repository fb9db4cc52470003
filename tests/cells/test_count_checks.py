"""Counts that are none, and cells without any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from grids import each_of
from scvi.dataset import declare, encode
from small_cells import whole


@each_of(
    layout=[np.asarray, sp.csr_matrix, sp.csc_matrix],
    bad=[(np.nan, "non-finite"), (np.inf, "non-finite"), (-2.0, "negative"), (0.5, "non-integer")],
    where=[(0, 0), (31, 7), (59, 11)],
)
def test_one_bad_value_is_found_and_named(
    make: Callable[..., AnnData], layout: Callable, bad: tuple[float, str], where: tuple[int, int]
) -> None:
    value, reason = bad
    clean = make()
    schema, *_ = declare(clean, non_integer="refuse")
    X = np.asarray(clean.X).copy()
    X[where] = value
    adata = make()
    adata.X = layout(X)
    message = rf"adata\.X holds a {reason} value: {value} in cell 'cell{where[0]}', gene 'gene{where[1]}'.*raw counts"
    for call in (lambda: declare(adata, non_integer="refuse"), lambda: encode(adata, schema)):
        with pytest.raises(ValueError, match=message):
            call()
    encode(adata, schema, validate=False)


def test_the_message_names_the_layer_and_the_remedy(adata: AnnData) -> None:
    adata.layers["raw"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    with pytest.raises(ValueError, match=r"adata\.X holds.*pass layer='...' \(there are 'raw'\)"):
        declare(adata)
    declare(adata, layer="raw")
    adata.layers["raw"] = adata.X
    with pytest.raises(
        ValueError, match=r"adata\.layers\['raw'\] holds.*keep them in adata\.layers\['counts'\] before"
    ):
        declare(adata, layer="raw")


def test_a_bad_value_on_disk(make: Callable[..., AnnData], tmp_path: Path) -> None:
    adata = make(sp.csr_matrix)
    adata.X.data[-1] = 0.25
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"0\.25 in cell 'cell59'"):
        declare(backed, non_integer="refuse")
    backed.file.close()


def test_large_counts(adata: AnnData) -> None:
    adata.X[3, 4] = 1e6
    assert encode(adata, declare(adata)[0]).minibatch(np.array([3])).x[0, 4] == 1e6


def test_empty_cells_give_one_warning(adata: AnnData) -> None:
    adata.X[[4, 9]] = 0
    adata.X[:, 5] = 0  # an empty gene gives none
    with pytest.warns(UserWarning, match=r"2 of 60 cells have no count .*\('cell4', 'cell9'\)") as caught:
        schema, _, digests = declare(adata, batch_key="batch")
    assert len(caught) == 1
    assert np.isfinite(schema.library_prior).all()
    cells = encode(adata, schema, validate=False, digests=digests)
    totals = adata.X.sum(axis=1)
    batch_a = (adata.obs["batch"] == "a").to_numpy() & (totals > 0)
    np.testing.assert_allclose(schema.library_prior[0][0], np.log(totals[batch_a]).mean())
    assert whole(cells)[[4, 9]].sum() == 0
