"""What users choose by masks and positions, and tables of cells: aligned by name, or refused with what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from scvi.cells.cell_data import CellData
from scvi.cells.checks import rows_in_order
from scvi.cells.chosen import chosen_genes
from scvi.cells.schema import ProteinPlace
from scvi.dataset import declare, encode

N = 60
MASKS = ["bool", "boolean", "object", "category", "Sparse[bool]"]
POSITIONS = ["int8", "uint16", "int64", "UInt8", "Int32", "Int64", "object"]
QUICKLY = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def adata() -> AnnData:
    counts = np.random.default_rng(0).poisson(3, (N, 8)) + 1
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(N)])
    return AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"gene{j}" for j in range(8)]))


@pytest.fixture(scope="module")
def cells(adata: AnnData) -> CellData:
    return encode(adata, declare(adata)[0])


@QUICKLY
@given(
    mask=st.lists(st.booleans(), min_size=N, max_size=N),
    order=st.permutations(range(N)),
    dtype=st.sampled_from(MASKS),
)
def test_a_mask_is_aligned_by_name(cells: CellData, mask: list[bool], order: list[int], dtype: str) -> None:
    series = pd.Series(mask, index=cells.cell_names).astype(dtype).iloc[order]
    assert cells.positions(series).tolist() == np.flatnonzero(mask).tolist()
    values = pd.Series(mask).astype(dtype)  # without names they are in the order of the cells
    for form in (values.array, pd.Index(values), values.to_numpy(), list(values)):
        assert cells.positions(form).tolist() == np.flatnonzero(mask).tolist()


@QUICKLY
@given(
    order=st.permutations(range(8)), mask=st.lists(st.booleans(), min_size=8, max_size=8), dtype=st.sampled_from(MASKS)
)
def test_a_mask_of_genes_is_aligned_by_name(adata: AnnData, mask: list[bool], order: list[int], dtype: str) -> None:
    series = pd.Series(mask, index=adata.var_names).astype(dtype).iloc[order]
    expected = adata.var_names[np.array(mask)].tolist()
    assert chosen_genes(adata, series) == expected
    assert chosen_genes(adata, pd.Series(mask).astype(dtype).array) == expected


@QUICKLY
@given(
    positions=st.lists(st.integers(0, N - 1), max_size=2 * N),
    dtype=st.sampled_from(POSITIONS),
    names=st.sampled_from(["of cells", "others", "numbers"]),
)
def test_the_index_of_positions_does_not_matter(cells: CellData, positions: list[int], dtype: str, names: str) -> None:
    index = {
        "of cells": [cells.cell_names[i] for i in positions],
        "others": [f"x{i}" for i in range(len(positions))],
        "numbers": list(range(len(positions)))[::-1],
    }[names]
    series = pd.Series(positions, index=index, dtype=object).astype(dtype)
    for form in (series, series.array, pd.Index(series), series.to_numpy()):
        assert cells.positions(form).tolist() == positions


@QUICKLY
@given(data=st.data())
def test_a_mask_of_other_cells_is_refused(cells: CellData, data: st.DataObject) -> None:
    names = cells.cell_names.tolist()
    index = data.draw(
        st.one_of(
            st.lists(st.sampled_from(names), min_size=1, max_size=N - 1, unique=True),  # some cells
            st.lists(st.sampled_from(names), min_size=N, max_size=N).filter(lambda some: len(set(some)) < N),
            st.just([*names, "another"]),
            st.just([*names[1:], "another"]),
            st.just(list(range(N))),
        )
    )
    mask = pd.Series(np.arange(len(index)) % 2 == 0, index=index, dtype=bool)
    with pytest.raises(ValueError, match=r"not that of the cells, adata\.obs_names: give it .* indices\.to_numpy\(\)"):
        cells.positions(mask)
    with pytest.raises(ValueError, match=r"validation_indices is a Series .* pass validation_indices\.to_numpy\(\)"):
        cells.positions(mask, "validation_indices")


def test_cells_that_are_numbered(adata: AnnData) -> None:
    """anndata turns numbers into text; a Series of other software has kept them."""
    numbered = adata.copy()
    numbered.obs_names = [str(i) for i in range(N)]
    data, mask = encode(numbered, declare(numbered)[0]), pd.Series(np.arange(N) % 7 == 0)
    for form in (mask, mask[::-1]):
        assert data.positions(form).tolist() == np.flatnonzero(mask).tolist()


def test_names_that_repeat_are_no_names(adata: AnnData) -> None:
    repeated = adata.copy()
    repeated.obs_names = ["a", "a", *adata.obs_names[2:]]
    data = encode(repeated, declare(repeated)[0])
    mask = pd.Series(np.arange(N) < 3, index=repeated.obs_names)
    assert data.positions(mask).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="which repeat and so do not tell cells apart"):
        data.positions(mask[::-1])


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA])
@pytest.mark.parametrize("how", ["series", "array", "object array"])
def test_a_mask_with_gaps_is_refused(cells: CellData, adata: AnnData, gap: Any, how: str) -> None:
    values = [gap, *[True, False] * 29, gap]
    given: Any = {
        "series": pd.Series(values, index=cells.cell_names, dtype="boolean"),
        "array": pd.array(values, dtype="boolean"),
        "object array": np.array(values, dtype=object),
    }[how]
    with pytest.raises(ValueError, match=r"indices is a mask .* \(NA\) in 2 entries: .* indices\.fillna\(False\)"):
        cells.positions(given)
    some = given.iloc[:8].set_axis(adata.var_names) if how == "series" else given[:8]
    with pytest.raises(ValueError, match=r"mask_var is a mask .* \(NA\) in 1 entries"):
        chosen_genes(adata, some)


def test_masked_arrays(cells: CellData) -> None:
    mask = np.ma.array(np.ones(N, bool), mask=np.arange(N) == 4)
    with pytest.raises(ValueError, match=r"indices has masked entries: .* indices\.filled\(False\)"):
        cells.positions(mask)
    assert len(cells.positions(np.ma.array(np.ones(N, bool), mask=False))) == N


@pytest.mark.parametrize("dtype", ["int64", "UInt8", "object"])
def test_zeros_and_ones_by_name_are_no_positions(cells: CellData, adata: AnnData, dtype: str) -> None:
    flags = pd.Series(np.arange(N) % 2, index=cells.cell_names).astype(dtype)
    with pytest.raises(
        ValueError, match=r"0 or 1 for each of the cells: .* indices\.astype\(bool\) .* indices\.to_numpy"
    ):
        cells.positions(flags.sample(frac=1.0, random_state=0))
    assert cells.positions(flags.astype(bool)).tolist() == list(range(1, N, 2))
    assert cells.positions(flags.to_numpy()).tolist() == flags.tolist()
    with pytest.raises(ValueError, match=r"mask_var is 0 or 1 for each of the genes: .*if it is a mask$"):
        chosen_genes(adata, pd.Series([0, 1] * 4, index=adata.var_names))


@pytest.mark.parametrize("kind", [list, np.array, pd.Index, pd.Series, lambda names: pd.array(names, dtype="string")])
def test_names_of_cells_are_no_positions(cells: CellData, kind: Any) -> None:
    with pytest.raises(ValueError, match=r"list of cell positions or a mask; .*obs_names\.get_indexer\(names\)"):
        cells.positions(kind(["cell3", "cell1"]))


@pytest.mark.parametrize(
    "wrong",
    [
        pd.Series([0.5]),
        [True, np.nan],
        pd.Series([1, None], dtype="Int64"),
        [1, None],
        pd.DataFrame({"a": [1]}),
        [[0]],
        [{}],
    ],
)
def test_other_things_are_no_positions(cells: CellData, wrong: Any) -> None:
    with pytest.raises(ValueError, match="indices must be a list of cell positions or a mask"):
        cells.positions(wrong)


# ---- tables ----------------------------------------------------------------------------------------------------------


@QUICKLY
@given(order=st.permutations(range(9)))
def test_rows_of_a_table_are_aligned_by_name(order: list[int]) -> None:
    names = pd.Index([f"cell{i}" for i in range(9)])
    table = pd.DataFrame({"p": range(9)}, index=names)
    pd.testing.assert_frame_equal(rows_in_order(table.iloc[order], names, "it"), table)
    with pytest.raises(ValueError, match=r"the index of it .*: if .* in the order of the cells, set it\.index = adata"):
        rows_in_order(table.iloc[order[1:]], names, "it")


def test_anndata_refuses_a_table_of_other_cells(adata: AnnData) -> None:
    """It looks at the index whenever `obsm` is asked for, so that there is nothing to look at here."""
    adata = adata.copy()
    adata.obsm["adt"] = pd.DataFrame({"p": range(N)}, index=adata.obs_names)
    adata.obsm["adt"].sort_values("p", ascending=False, inplace=True)
    with pytest.raises(ValueError, match="does not match parent"):
        declare(adata, proteins=ProteinPlace("adt"))


def test_a_table_that_is_in_order_is_taken_as_it_is() -> None:
    table = pd.DataFrame({"p": [1, 2]}, index=["a", "a"])
    assert rows_in_order(table, table.index, "it") is table
    with pytest.raises(ValueError, match="the index of it is not"):
        rows_in_order(table, pd.Index(["a", "b"]), "it")
