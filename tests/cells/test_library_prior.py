"""Mean and variance of the log library size in each batch."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from scvi.cells.library_prior import VARIANCE_FLOOR
from scvi.dataset import declare, encode


def test_a_batch_of_empty_cells_gets_the_prior_of_all(adata: AnnData, counts: np.ndarray) -> None:
    empty = (adata.obs["batch"] == "b").to_numpy()
    adata.X[empty] = 0
    with pytest.warns(UserWarning, match="20 of 60 cells .* and 15 more"):
        schema, *_ = declare(adata, batch_key="batch")
    logs = np.log(counts[~empty].sum(axis=1))
    np.testing.assert_allclose(schema.library_prior[1], (logs.mean(), logs.var()))


def test_the_prior_variance_is_floored(adata: AnnData) -> None:
    adata.X[:] = 2
    schema, *_ = declare(adata)
    assert schema.library_prior[0][1] == VARIANCE_FLOOR > 0
    assert encode(adata, schema).l_var.min() > 0
