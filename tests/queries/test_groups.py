"""Pools of cells and what was counted in them, against loops over the groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scvi
from scvi.cells.encode import encode
from scvi.queries.groups import Comparison, Groups, group_counts
from small_cells import make_adata, whole

MASKS = st.integers(1, 3).flatmap(
    lambda k: st.lists(st.lists(st.booleans(), min_size=2 * k, max_size=2 * k), min_size=1, max_size=12)
)


@settings(deadline=None)
@given(MASKS)
def test_groups_of_masks_are_those_masks(rows: list[list[bool]]) -> None:
    masks = np.array(rows).T
    pairs = [(f"a{i}", masks[2 * i], f"b{i}", masks[2 * i + 1]) for i in range(len(masks) // 2)]
    groups = Groups.of_masks(pairs)
    for (a, first, b, second), comparison in zip(pairs, groups.comparisons, strict=True):
        assert comparison.name == f"{a} vs {b}"
        np.testing.assert_array_equal(groups.cells(comparison.pools1), np.flatnonzero(first))
        np.testing.assert_array_equal(groups.cells(comparison.pools2), np.flatnonzero(second))
    np.testing.assert_array_equal(groups.members, np.flatnonzero(masks.any(axis=0)))
    assert groups.sizes.sum() == len(groups.members)
    assert (groups.sizes > 0).all()


@pytest.mark.parametrize("at_once", [7, 1000])
def test_what_was_counted(at_once: int) -> None:
    adata = make_adata()
    adata.obs["batch"] = np.array(["b0", "b1"])[np.arange(adata.n_obs) // 80]
    adata.obsm["proteins"].iloc[:80, 1] = 0  # not measured there
    scvi.TOTALVI.setup_anndata(adata, batch_key="batch", protein_expression_obsm_key="proteins")
    model = scvi.TOTALVI(adata, seed=0)
    cells = encode(adata, model.schema)
    codes = np.arange(adata.n_obs) % 4 - 1
    codes[:80][codes[:80] == 2] = -1  # the last pool has cells of the second batch alone
    comparison = Comparison("some", "others", (0,), (1, 2))
    groups = Groups(codes, (comparison,))
    found = group_counts(cells.minibatches(groups.members, at_once), groups)
    x, y = whole(cells), adata.obsm["proteins"].to_numpy(float)
    y[:80, 1] = np.nan
    answer = found.summary(comparison)
    for side, mask in ((1, codes == 0), (2, codes >= 1)):
        for values, features in ((x, slice(None, found.n_genes)), (y, slice(found.n_genes, None))):
            part = values[mask]
            shares = 1e4 * part / np.maximum(np.nansum(part, axis=1, keepdims=True), 1e-30)
            above = np.where(np.isnan(part), np.nan, part > 0)
            for name, expected in (
                ("raw_mean", part),
                ("non_zeros_proportion", above),
                ("raw_normalized_mean", shares),
            ):
                np.testing.assert_allclose(answer[f"{name}{side}"][features], np.nanmean(expected, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.is_seen(comparison)[: found.n_genes], (x[codes >= 0] > 0).any(axis=0))
    nowhere = found.summary(Comparison("", "", (0,), (0,)))
    assert np.isfinite(nowhere["raw_mean1"]).all()
    first_only = Groups(np.where(np.arange(adata.n_obs) < 80, 0, 1), (Comparison("", "", (0,), (1,)),))
    of_batches = group_counts(cells.minibatches(batch_size=50), first_only).summary(first_only.comparisons[0])
    assert np.isnan(of_batches["raw_mean1"][found.n_genes + 1])
    assert np.isfinite(of_batches["raw_mean2"]).all()


def test_no_cell() -> None:
    with pytest.raises(ValueError, match="no cell is compared"):
        group_counts([], Groups(np.array([0, 1]), ()))
