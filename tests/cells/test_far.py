"""Cells far from those of the reference are said to be; ordinary batches are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from scvi.cells.far import ALIKE, DEVIATIONS, FACTOR, FEW, extent_of, far_depth, warn_if_far, warn_of_few_shared
from scvi.cells.schema import Schema
from scvi.cells.setup import declare, extended
from scvi.dataset import encode

SAMPLES = Path(__file__).parents[1] / "sample_data"
COVARIATES = ["genes", "counts", "log_counts", "percent", "score", "minutes"]
REAL = ["mixology", "cite", "blood"]


def annotated(adata: AnnData) -> AnnData:
    """The cells that are not empty, with what users compute of them: percentages, scores, size factors and more."""
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    counts, rng = np.asarray(adata.X.todense(), dtype=np.float64), np.random.default_rng(0)
    totals = counts.sum(axis=1)
    shares = counts / totals[:, None]
    top = np.argsort(-counts.sum(axis=0))
    batch = adata.obs["batch"].astype(str)
    adata.obs = pd.DataFrame(
        {
            "batch": batch,
            "genes": (counts > 0).sum(axis=1),
            "counts": totals,
            "log_counts": np.log1p(totals),
            "percent": 100 * shares[:, top[:25]].sum(axis=1),
            "score": np.log1p(1e4 * shares[:, top[25:50]]).mean(axis=1) - np.log1p(1e4 * shares[:, top[50:75]]).mean(1),
            "minutes": rng.uniform(0, 48 * 60, len(totals)),
            "size": totals / totals.mean(),
            "days": 10.0 + pd.factorize(batch)[0],  # one value for each batch
        },
        index=adata.obs_names,
    )
    return adata


@pytest.fixture(scope="module")
def real(mixology: AnnData) -> dict[str, AnnData]:
    """Real cells: of five plates and runs of two protocols, of two runs of one, and of three data sets of blood."""
    files = {name: anndata.read_h5ad(SAMPLES / f"{name}.h5ad") for name in ("pbmc3k_small", "pbmc_cite_small")}
    blood = anndata.concat(files, join="inner", label="batch", index_unique="-")
    return {
        "mixology": annotated(mixology),
        "cite": annotated(files["pbmc_cite_small"]),
        "blood": annotated(blood),
    }


def schema_of(adata: AnnData, **keys: Any) -> Schema:
    given = {"continuous_covariate_keys": [*COVARIATES, "days"], "size_factor_key": "size", **keys}
    return declare(adata, **given)[0]


def left_out(adata: AnnData) -> Iterator[tuple[AnnData, AnnData]]:
    """All batches but one, and that one."""
    for name in adata.obs["batch"].unique():
        is_out = adata.obs["batch"] == name
        yield adata[~is_out].copy(), adata[is_out].copy()


def said(call: Callable[[], object]) -> str:
    """What the one warning says; empty if there is none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    messages = [str(w.message) for w in caught if "are far from" in str(w.message)]
    assert len(messages) <= 1
    return "".join(messages)


# ---- ordinary batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_ordinary_batches_are_not_far(real: dict[str, AnnData], name: str) -> None:
    """Neither each as the query of the others, nor all as cells of the reference itself."""
    for reference, query in left_out(real[name]):
        assert said(lambda: extended(schema_of(reference, batch_key="batch"), query, True)) == ""  # noqa: B023
        assert said(lambda: encode(query, schema_of(reference))) == ""  # noqa: B023
    assert said(lambda: encode(real[name], schema_of(real[name], batch_key="batch"))) == ""


def test_no_cell_by_itself_is_far(real: dict[str, AnnData]) -> None:
    reference, query = next(left_out(real["mixology"]))
    schema, totals = schema_of(reference), np.asarray(query.X.sum(axis=1)).ravel()
    for cell in range(0, query.n_obs, 5):
        rows = np.array([cell])
        assert said(lambda: warn_if_far(query, schema, totals[rows], rows)) == ""  # noqa: B023


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    scales=st.lists(st.sampled_from([0.01, 0.2, 1.0, 30.0, 1e4]), min_size=6, max_size=6),
    spreads=st.lists(st.sampled_from([0.0, 0.05, 1.0, 3.0]), min_size=6, max_size=6),
    zeros=st.sampled_from([0.0, 0.5, 0.97]),
    seed=st.integers(0, 10**6),
)
def test_what_the_reference_has_is_never_far(
    sizes: list[int], scales: list[float], spreads: list[float], zeros: float, seed: int
) -> None:
    """Whatever its batches are like, as long as one is asked about as a whole."""
    rng, batch = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    values = np.array(scales)[batch] * np.exp(np.array(spreads)[batch] * rng.normal(size=len(batch)))
    values[rng.random(len(batch)) < zeros] = 0
    values[0] = 1
    signs = rng.choice([-1, 1], len(batch))
    obs = pd.DataFrame({"batch": batch.astype(str), "value": values, "signed": signs * values, "size": values + 1e-3})
    obs.index = obs.index.astype(str)
    counts = np.column_stack([np.ceil(100 * values), np.ones(len(batch))])
    adata = AnnData(np.tile(counts, (2, 1)), obs=pd.concat([obs, obs.rename(index="{}_2".format)]))
    keys = {"continuous_covariate_keys": ["value", "signed"], "size_factor_key": "size", "batch_key": "batch"}
    assert said(lambda: encode(adata, schema_of(adata, **keys))) == ""


# ---- other units and normalisations ----------------------------------------------------------------------------------

CHANGES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "per mille for percent": ("percent", lambda x: 10 * x, "times as large (another unit"),
    "a share for percent": ("percent", lambda x: x / 100, "1/"),
    "hours for minutes": ("minutes", lambda x: x / 60, "of their size (another unit"),
    "seconds for minutes": ("minutes", lambda x: 60 * x, "times as large (another unit"),
    "logs for numbers": ("counts", np.log1p, "(logs of what the reference has?)"),
    "logs to base 10": ("counts", lambda x: np.log10(1 + x), "(logs of what the reference has?)"),
    "numbers for logs": ("log_counts", np.expm1, "(logs in the reference?)"),
    "standardised": ("genes", lambda x: (x - x.mean()) / x.std(), "(standardised, or logs?)"),
    "a score of another scale": ("score", lambda x: 100 * x, "another unit"),
    "an offset": ("score", lambda x: x + 273.15, "another unit"),
    "dates for days": ("days", lambda x: x + 20240000, "another unit"),
    "hours for days": ("days", lambda x: 24 * x, "another unit"),
    "size factors that are totals": ("size", lambda x: 5000 * x, "size factors of another scale"),
    "size factors per mille": ("size", lambda x: x / 1000, "size factors of another scale"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", REAL)
def test_columns_in_another_unit_are_far(real: dict[str, AnnData], name: str, change: str) -> None:
    column, function, cause = CHANGES[change]
    for reference, query in left_out(real[name]):
        schema = schema_of(reference)
        query.obs[column] = function(query.obs[column].astype(float))
        message = said(lambda: encode(query, schema))  # noqa: B023
        assert f"adata.obs[{column!r}]: " in message, (change, message)
        assert cause in message
        assert message.count("in the reference") == 1 + message.count("logs in the reference")  # of one column


def normalised(adata: AnnData, target: float) -> AnnData:
    """Counts of one sum in each cell, rounded, since others are refused."""
    adata = adata.copy()
    factors = target / np.asarray(adata.X.sum(axis=1)).ravel()
    adata.X = sp.csr_matrix(sp.diags(factors) @ adata.X)
    adata.X.data = np.round(adata.X.data)
    return adata


@pytest.mark.parametrize("name", REAL)
def test_normalised_counts_are_far(real: dict[str, AnnData], name: str) -> None:
    for reference, query in left_out(real[name]):
        schema = schema_of(reference)
        message = said(lambda: encode(normalised(query, 1e6), schema))  # noqa: B023
        assert "total counts of a cell over the model's genes: 9" in message or "genes: 1,0" in message
        assert "normalised to one sum" in message
        some = normalised(query, 1e6)[:, ::3].copy()
        part = said(lambda: encode(some, schema_of(reference[:, ::3].copy())))  # noqa: B023
        assert "another normalisation, as counts per million" in part or "normalised to one sum" in part
    _, query = next(left_out(real["blood"]))
    assert "normalised to one sum" in said(lambda: encode(normalised(query, 1e4), schema_of(real["blood"])))


def test_logs_of_counts(real: dict[str, AnnData]) -> None:
    """They are no counts; cut down to integers they are, but far."""
    reference, query = next(left_out(real["blood"]))
    query.X = query.X.astype(np.float32).log1p()
    with pytest.raises(ValueError, match="log-transformed"):
        encode(query, schema_of(reference))
    query.X.data = np.floor(query.X.data)
    assert "logs of counts" in said(lambda: encode(query, schema_of(reference)))


# ---- what is said, and of whom ---------------------------------------------------------------------------------------


def test_one_warning_says_all(real: dict[str, AnnData]) -> None:
    reference, query = next(left_out(real["mixology"]))
    query.obs["percent"] *= 10
    query.obs["size"] *= 1e4
    query = normalised(query, 1e6)
    schema = schema_of(reference)
    message = said(lambda: encode(query, schema))
    for name, extent in (("percent", schema.continuous_extents[3]), ("size", schema.size_factor_extent)):
        column = query.obs[name]
        assert f"obs[{name!r}]: {shown(column.min())} to {shown(column.max())}, " in message
        assert f"{shown(extent.lowest)} to {shown(extent.highest)} in the reference" in message
    assert message.count("in the reference") == 3
    assert "total counts of a cell" in message
    assert message.endswith("bring them to the scale of the reference, unless they are meant so")


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def test_batches_are_judged_by_themselves_and_named(real: dict[str, AnnData]) -> None:
    """A sixth of the cells in another unit is noticed."""
    adata = real["mixology"]
    schema = schema_of(adata, batch_key="batch")
    query, name = adata.copy(), adata.obs["batch"].value_counts().index[-1]
    is_far = query.obs["batch"] == name
    assert is_far.mean() < 0.2
    query.obs.loc[is_far, "minutes"] /= 60
    message = said(lambda: encode(query, schema))
    assert f" in batch {name!r}, " in message
    few = query.obs.loc[is_far, "minutes"]
    assert f"{few.min():.3g} to {few.max():.3g} in batch" in message
    rows = np.flatnonzero(~is_far)
    assert said(lambda: warn_if_far(query, schema, rows=rows)) == ""
    assert "'minutes'" in said(lambda: warn_if_far(query, schema, rows=np.flatnonzero(is_far)))


def test_some_cells_of_some_counts(real: dict[str, AnnData]) -> None:
    """As a question reads them, which knows the totals of its cells alone."""
    adata, rng = real["blood"], np.random.default_rng(0)
    schema, totals = schema_of(adata, batch_key="batch"), np.asarray(adata.X.sum(axis=1)).ravel()
    rows = rng.permutation(adata.n_obs)[:300]
    assert far_depth(totals[rows], schema) is None
    assert far_depth(np.append(totals[rows], np.zeros(400)), schema) is None  # of which another warning tells
    assert far_depth(np.zeros(30), schema) is None
    assert far_depth(np.empty(0), schema) is None
    nearest = np.median(30 * totals) / max(schema.total_extent.typical)  # type: ignore[union-attr]
    assert f"about {nearest:.2g} times as large" in str(far_depth(30 * totals, schema))
    assert said(lambda: warn_if_far(adata, schema, totals[rows], rows)) == ""
    message = said(lambda: warn_if_far(adata, schema, 100 * totals[rows], rows))
    assert "total counts" in message
    assert "in batch" not in message


def test_a_single_cell_in_another_unit(real: dict[str, AnnData]) -> None:
    reference, query = next(left_out(real["mixology"]))
    schema, one = schema_of(reference), query[:1].copy()
    one.obs["minutes"] = 2e5
    one.obs["size"] = 5e3
    message = said(lambda: encode(one, schema))
    assert "adata.obs['minutes']: 200,000, " in message
    assert "adata.obs['size']: 5,000, " in message
    one = normalised(query[:1], 1e6)
    assert "total counts" in said(lambda: encode(one, schema))


def test_earlier_schemas_know_nothing_of_it(real: dict[str, AnnData]) -> None:
    reference, query = next(left_out(real["mixology"]))
    schema = schema_of(reference)
    query.obs["percent"] *= 10
    assert said(lambda: encode(normalised(query, 1e6), schema))
    unknown = replace(schema, continuous_extents=None, size_factor_extent=None, total_extent=None)
    assert said(lambda: encode(normalised(query, 1e6), unknown)) == ""


def test_a_mapped_model_keeps_the_extents_of_its_reference(real: dict[str, AnnData]) -> None:
    reference, query = next(left_out(real["mixology"]))
    query.obs["percent"] *= 10
    schema = schema_of(reference, batch_key="batch")
    with pytest.warns(UserWarning, match="'percent'"):
        mapped, _ = extended(schema, query, True)
    for name in ("continuous_extents", "size_factor_extent", "total_extent"):
        assert getattr(mapped, name) == getattr(schema, name)


# ---- thresholds ------------------------------------------------------------------------------------------------------


def with_column(values: np.ndarray, name: str = "value") -> AnnData:
    """Cells of one depth, with a column."""
    counts = np.random.default_rng(1).poisson(20, (len(values), 8))
    obs = pd.DataFrame({name: values}, index=[f"cell{i}" for i in range(len(values))])
    return AnnData(counts.astype(np.float32), obs=obs)


def asked(reference: np.ndarray, query: np.ndarray, keys: str = "continuous_covariate_keys") -> str:
    given: dict[str, Any] = {keys: ["value"] if keys.endswith("s") else "value"}
    schema = declare(with_column(reference), **given)[0]
    return said(lambda: warn_if_far(with_column(query), schema))


@pytest.mark.parametrize("keys", ["continuous_covariate_keys", "size_factor_key"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    factor=st.one_of(st.floats(1, FACTOR * 0.99), st.floats(FACTOR * 1.01, 1e4)),
    up=st.booleans(),
    spread=st.floats(0.5, 1.5),
    zeros=st.sampled_from([0.0, 0.6]),
    n=st.integers(40, 200),
)
def test_the_factor(keys: str, factor: float, up: bool, spread: float, zeros: float, n: int) -> None:
    """What is five times as large as in the reference, or a fifth, is far, whether or not it is mostly zero."""
    rng = np.random.default_rng(n)
    values = np.exp(spread * rng.normal(size=n))
    if keys != "size_factor_key":
        values *= rng.random(n) >= zeros
    message = asked(values, values * factor if up else values / factor, keys)
    assert bool(message) is (factor > FACTOR)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("away", "is_far"), [(DEVIATIONS * 0.98, False), (DEVIATIONS * 1.02, True)])
def test_the_number_of_deviations(sign: int, away: float, is_far: bool) -> None:
    """Of half of the cells; it takes 10, where the values are not large or small enough for the factor."""
    values = np.random.default_rng(0).normal(100, 1.5, 400)
    query = np.full(9, values.mean() + sign * away * values.std())
    query[:4] = values[:4]
    assert bool(asked(values, query)) is is_far
    query[4] = values[4]
    assert asked(values, query) == ""


def test_a_constant_covariate_has_no_deviation() -> None:
    """It enters models as it is, and so its unit is 1; a fifth of it, or five times, is far as well."""
    assert asked(np.full(30, 48.0), np.full(30, 57.0)) == ""
    assert "48 in the reference" in asked(np.full(30, 48.0), np.full(30, 59.0))
    assert asked(np.full(30, 0.0), np.full(30, 1.0)) == ""


@pytest.mark.parametrize(("n_different", "is_far"), [(FEW - 1, False), (FEW, True)])
def test_few_different_values_within_the_range_may_be_of_samples(n_different: int, is_far: bool) -> None:
    """The first days of a course of many are no other unit."""
    days = np.repeat(np.arange(100.0), 3)
    early = np.repeat(np.linspace(1, 8, n_different), 5)
    assert bool(asked(days, early)) is is_far
    assert "1/" in asked(days + 60, np.array([1.0, 2.0]))  # outside of it they are, by the factor


@pytest.mark.parametrize(
    ("high", "n", "is_far"), [(ALIKE * 0.97, 60, True), (ALIKE * 1.03, 60, False), (1.0, FEW - 1, False)]
)
def test_totals_that_are_alike(real: dict[str, AnnData], high: float, n: int, is_far: bool) -> None:
    schema = schema_of(real["blood"])
    totals = np.full(n, 100.0)
    totals[: n // 10] = 100 / high
    message = far_depth(totals, schema)
    assert ("normalised to one sum" in str(message)) is is_far
    alike = replace(schema, total_extent=extent_of(np.full(50, 100.0), np.zeros(50)))
    assert far_depth(totals, alike) is None


@pytest.mark.parametrize(
    ("n_smaller", "n_shared", "is_few"),
    [(33, 3, True), (200, 19, True), (200, 20, False), (158, 37, False), (18, 9, False), (19, 9, True), (3, 2, False)],
)
def test_hardly_any_shared_genes(n_smaller: int, n_shared: int, is_few: bool) -> None:
    """Under a tenth of the smaller data set's, or fewer than 10 and not half of them."""
    larger = [f"a{i}" for i in range(1000)]
    smaller = [*larger[:n_shared], *(f"b{i}" for i in range(n_smaller - n_shared))]
    for pair in ((larger, smaller), (smaller, larger)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_few_shared("one and other", *pair)
        assert [f"one and other share {n_shared} genes" in str(w.message) for w in caught] == [True] * is_few
