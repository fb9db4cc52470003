"""Counts that are estimates are told from values that are no counts, and read as they are or rounded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from grids import each_of
from scvi.cells import count_checks, storage
from scvi.cells.count_checks import BadCounts, EstimatedCounts
from scvi.cells.encode import encode
from scvi.cells.schema import ProteinPlace, Schema
from scvi.cells.setup import declare
from small_cells import make_adata, same_set_up, whole

Change = Callable[[np.ndarray], np.ndarray]

PBMC = anndata.read_h5ad(Path(__file__).parents[1] / "sample_data" / "pbmc3k_small.h5ad")[:300]
REAL = np.asarray(PBMC.X.toarray(), dtype=np.float64)
RNG = np.random.default_rng(0)
LENGTHS, FACTORS = RNG.lognormal(7.5, 0.7, REAL.shape[1]), RNG.uniform(0.85, 1.15, REAL.shape[1])
UNIFORM = RNG.random(REAL.shape)


def normalised(x: np.ndarray, to: float = 1e4) -> np.ndarray:
    return x / x.sum(1, keepdims=True) * to


def tf_idf(x: np.ndarray) -> np.ndarray:
    return normalised(x, 1.0) * np.log1p(len(x) / (1 + (x > 0).sum(0)))


def ambient(x: np.ndarray, share: float) -> np.ndarray:
    """Less what cells have of the mean cell."""
    return np.maximum(x - share * x.sum(1, keepdims=True) * x.sum(0) / x.sum(), 0)


def pseudo_aligned(x: np.ndarray) -> np.ndarray:
    """Some counts are shared between genes."""
    return np.where((UNIFORM < 0.1) & (x > 0), np.maximum(x - UNIFORM * 9, 0.01), x)


NO_COUNTS: dict[str, tuple[Change, str]] = {
    "log1p": (np.log1p, "logarithms of counts"),
    "log2": (lambda x: np.log2(x + 1), "logarithms to base 2 of counts"),
    "log10": (lambda x: np.log10(x + 1), "logarithms to base 10 of counts"),
    "per million": (lambda x: normalised(x, 1e6), r"normalised: those of each cell add up to 1e\+06"),
    "per ten thousand": (normalised, "normalised: those of each cell add up to 10000"),
    "to the median": (lambda x: normalised(x, 812.5), "normalised: those of each cell add up to 812.5"),
    "frequencies": (lambda x: normalised(x, 1), "normalised: those of each cell add up to 1"),
    "normalised, some genes": (lambda x: normalised(x)[:, ::2], "normalised: those of a cell are multiples of one"),
    "log, normalised": (lambda x: np.log1p(normalised(x)), "logarithms of normalised counts: undone, .* 10000"),
    "log, per million": (lambda x: np.log1p(normalised(x, 1e6)), "logarithms of normalised counts"),
    "log, some genes": (lambda x: np.log1p(normalised(x))[:, ::3], "logarithms of counts: undone, .* multiples"),
    "log2, per million": (lambda x: np.log2(normalised(x, 1e6) + 1), "logarithms to base 2 of normalised counts"),
    "TPM": (lambda x: normalised(x / LENGTHS, 1e6), "normalised: those of each cell add up to"),
    "log2 TPM": (lambda x: np.log2(normalised(x / LENGTHS, 1e6) + 1), "logarithms to base 2 of normalised counts"),
    "TPM, some genes": (lambda x: normalised(x / LENGTHS, 1e6)[:, ::2], "scaled up: most are 0"),
    "square roots": (np.sqrt, "square roots of counts"),
    "square roots, normalised": (lambda x: np.sqrt(normalised(x)), "square roots of normalised counts"),
    "arsinh": (np.arcsinh, "inverse hyperbolic sines of counts"),
    "of length 1": (lambda x: x / np.linalg.norm(x, axis=1, keepdims=True), "square roots of normalised counts"),
    "tf-idf": (tf_idf, "shares or probabilities: none is above"),
    "tf-idf, scaled": (lambda x: tf_idf(x) * 1e4, "scaled up"),
    "log tf-idf": (lambda x: np.log1p(tf_idf(x) * 1e4), "logarithms, scores or shares"),
    "ranks by cell": (lambda x: np.apply_along_axis(rankdata, 1, x), "ranks"),
    "ranks by gene": (lambda x: np.apply_along_axis(rankdata, 0, x), "ranks"),
    "probabilities": (lambda x: UNIFORM, "shares or probabilities"),
    "probabilities of what is seen": (lambda x: UNIFORM * (x > 0), "shares or probabilities"),
    "by the largest of a gene": (lambda x: x / np.maximum(x.max(0), 1), "shares or probabilities"),
    "by the largest of a cell": (lambda x: x / x.max(1, keepdims=True), "normalised"),
    "thousands": (lambda x: x / 1000, "normalised: those of a cell are multiples of one number, 0.001"),
    "centred log ratios": (lambda x: np.maximum(np.log1p(x) - np.log1p(x).mean(1, keepdims=True), 0), "logarithms"),
}
ESTIMATES: dict[str, Change] = {
    "gene-wise factors": lambda x: x * FACTORS,
    "ambient RNA": lambda x: ambient(x, 0.1),
    "much ambient RNA": lambda x: ambient(x, 0.3),
    "pseudo-alignment": pseudo_aligned,
    "a share of each cell": lambda x: x * (1 - 0.2 * UNIFORM[:, :1]),
    "a share of all": lambda x: x * 0.95,
    "halves": lambda x: x + 0.5 * (UNIFORM < 0.1) * (x > 0),
    "two decimals": lambda x: np.round(x * (1 - UNIFORM / 10), 2),
}


def with_values(values: np.ndarray, layer: str | None = None, numbers: type = np.float32) -> AnnData:
    """Real cells with these values as their counts."""
    stored = sp.csr_matrix(values.astype(numbers))
    obs, var = PBMC.obs[[]].copy(), PBMC.var.iloc[: values.shape[1]][[]].copy()
    return AnnData(stored if layer is None else None, obs=obs, var=var, layers={} if layer is None else {layer: stored})


@each_of(name=NO_COUNTS, numbers=[np.float32, np.float64])
def test_what_is_no_count_is_refused(name: str, numbers: type) -> None:
    change, looks_like = NO_COUNTS[name]
    values = change(REAL)
    for rule in ("warn", "round"):
        with pytest.raises(
            BadCounts, match=rf"adata\.layers\['x'\] holds a non-integer value.* {looks_like}.*raw counts"
        ):
            declare(with_values(values, "x", numbers), layer="x", non_integer=rule)
    with pytest.raises(BadCounts, match="for estimated counts, set up with non_integer='warn'"):
        declare(with_values(values, numbers=numbers), non_integer="refuse")


@pytest.mark.parametrize("rule", ["warn", "refuse", "round"])
@pytest.mark.parametrize(
    "change", [lambda x: x - x.mean(0), lambda x: np.where(x > 0, x + 0.1, np.nan), lambda x: -x / 3]
)
def test_what_never_is_a_count_is_refused_by_every_rule(change: Change, rule: Any) -> None:
    with pytest.raises(BadCounts, match=r"holds a (negative|non-finite) value"):
        declare(with_values(change(REAL)), non_integer=rule)


@each_of(name=ESTIMATES, layer=[None, "soup"], numbers=[np.float32, np.float64])
def test_estimates_are_taken_with_one_warning(name: str, layer: str | None, numbers: type) -> None:
    """It names the layer, how many there are, and one of them."""
    values = ESTIMATES[name](REAL).astype(numbers)
    adata = with_values(values, layer, numbers)
    with pytest.warns(EstimatedCounts) as caught:
        schema, _, digests = declare(adata, layer=layer)
    (warning,) = caught
    assert warning.filename == __file__
    cell, gene = np.argwhere(values != np.floor(values))[0]
    share = (values != np.floor(values)).sum() / (values != 0).sum()
    where = "adata.X" if layer is None else "adata.layers['soup']"
    example = f"as {values[cell, gene]} in cell {adata.obs_names[cell]!r}, gene {adata.var_names[gene]!r}"
    assert f"{where} holds values that are no integers: {share:.1%} of" in str(warning.message)
    assert example in str(warning.message)
    cells = encode(adata, schema, validate=False, digests=digests)  # what was told is not told again
    np.testing.assert_array_equal(whole(cells), values.astype(np.float32))
    np.testing.assert_allclose(cells.totals(), values.sum(1, dtype=np.float64), rtol=1e-6)
    logs = np.log(values.sum(1, dtype=np.float64))
    np.testing.assert_allclose(schema.library_prior, [(logs.mean(), logs.var())], rtol=1e-5)


@each_of(n=[1, 2, 5, 40], name=["log1p", "log, normalised", "per ten thousand", "TPM", "square roots", "probabilities"])
def test_few_cells_are_enough_in_a_question(n: int, name: str) -> None:
    schema = declare(with_values(REAL)).schema
    cells = encode(with_values(NO_COUNTS[name][0](REAL))[:n].copy(), schema, validate=False)
    with pytest.raises(BadCounts, match="holds a non-integer value"):
        list(cells.minibatches(batch_size=3))


@each_of(n=[1, 2, 5, 40], name=ESTIMATES)
def test_few_cells_with_estimates(n: int, name: str) -> None:
    """One warning of the cells that were read, when all of them were; and no other cell is looked at."""
    schema = declare(with_values(REAL)).schema
    values = ESTIMATES[name](REAL)
    values[n:] = np.nan
    cells = encode(with_values(values), schema, validate=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(cells.minibatches(np.arange(n), batch_size=3))
        list(cells.minibatches(np.arange(n), batch_size=3))
    has_fractions = (values[:n] != np.floor(values[:n])).any()
    assert [w.category for w in caught] == [EstimatedCounts] * int(has_fractions)


def test_cells_that_were_normalised_among_others() -> None:
    values = REAL.copy()
    values[200:] = normalised(values[200:])
    with pytest.raises(BadCounts, match="look normalised"):
        declare(with_values(values))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    factors=st.lists(st.floats(0.8, 1.2), min_size=40, max_size=40),
    total=st.floats(1e-3, 1e7),
    seed=st.integers(0, 100),
)
def test_any_factors_near_1_and_any_size(factors: list[float], total: float, seed: int) -> None:
    adata = make_adata(seed=seed)
    counts = adata.X.toarray()
    adata.X = sp.csr_matrix(counts * (0.999 + 0 * np.array(factors)) * factors)
    with pytest.warns(EstimatedCounts):
        declare(adata)
    for values in (normalised(counts, total + 0.123), np.log1p(normalised(counts, total))):
        adata.X = values
        with pytest.raises(BadCounts, match="non-integer"):
            declare(adata)


# ---- rounded ---------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": np.asarray,
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "csr_array": sp.csr_array,
}


def estimated(numbers: type = np.float64) -> np.ndarray:
    """Counts of small cells with halves, values that become 0, and others."""
    counts = make_adata().X.toarray().astype(numbers)
    rng = np.random.default_rng(1)
    return counts + (counts > 0) * np.round(rng.uniform(-0.6, 0.6, counts.shape), 1)


def rounded_twice(values: np.ndarray, layout: str, **arguments: Any) -> tuple[AnnData, AnnData]:
    """The same cells, whose counts are to be rounded, or are."""
    pair = make_adata(), make_adata()
    pair[0].X, pair[1].X = LAYOUTS[layout](values), LAYOUTS[layout](np.rint(values))
    return pair


@each_of(layout=LAYOUTS, numbers=[np.float32, np.float64], mask=[None, "chosen"])
def test_rounded_counts_are_those_of_rounded_cells(layout: str, numbers: type, mask: str | None) -> None:
    """Silently: totals, digests, moments, minibatches and extents are the same numbers."""
    estimates, integers = rounded_twice(estimated(numbers), layout)
    setup = {"batch_key": "batch", "mask_var": mask, "non_integer": "round"}
    first, second = declare(estimates, **setup), declare(integers, **setup)
    assert same_set_up(first, second)
    for digests in (None, first.digests):
        a, b = (encode(adata, first.schema, validate=False, digests=digests) for adata in (estimates, integers))
        np.testing.assert_array_equal(whole(a), whole(b))
        assert all(map(np.array_equal, a.moments(), b.moments()))
        np.testing.assert_array_equal(a.totals(np.array([3, 1])), b.totals(np.array([3, 1])))
        np.testing.assert_array_equal(whole(a.loaded(np.arange(9))), whole(b.loaded(np.arange(9))))
        order = np.arange(len(a))[::-1]
        np.testing.assert_array_equal(whole(a.reordered(order)), whole(b.reordered(order)))
        assert all((mb.counts.values != 0).all() for mb in a.minibatches())


def test_entries_of_one_place_are_added_up_before_they_are_rounded() -> None:
    adata = make_adata()
    counts = adata.X.tocsr()
    halves = sp.csr_matrix(
        (np.repeat(counts.data / 2, 2), np.repeat(counts.indices, 2), counts.indptr * 2), shape=counts.shape
    )
    adata.X = halves.copy()
    schema, _, digests = declare(adata, non_integer="round")
    np.testing.assert_array_equal(whole(encode(adata, schema, validate=False, digests=digests)), counts.toarray())
    assert adata.X.nnz == halves.nnz


def test_rounded_counts_on_disk(tmp_path: Path) -> None:
    estimates, integers = rounded_twice(estimated(), "csr")
    estimates.write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    schema, _, digests = declare(backed, non_integer="round")
    expected = encode(integers, schema)
    np.testing.assert_array_equal(digests, expected.guard.digests)
    cells = encode(backed, schema, validate=False, digests=digests)
    np.testing.assert_array_equal(whole(cells), whole(expected))
    assert all(map(np.array_equal, cells.moments(), expected.moments()))
    epoch = list(cells.epoch(np.arange(20), 5, np.random.default_rng(0)))
    np.testing.assert_array_equal(epoch[0].x.numpy(), integers.X.toarray()[epoch[0].indices.numpy()])
    backed.file.close()


def test_a_change_that_rounding_hides_is_none_and_others_are() -> None:
    estimates, _ = rounded_twice(estimated(), "dense")
    schema, _, digests = declare(estimates, non_integer="round")
    estimates.X = np.rint(estimates.X)
    list(encode(estimates, schema, validate=False, digests=digests).minibatches())
    estimates.X[3, 3] += 1
    with pytest.raises(BadCounts, match="the counts of 'cell3' are others"):
        list(encode(estimates, schema, validate=False, digests=digests).minibatches())


@pytest.mark.parametrize("value", [-0.3, np.nan])
def test_rounding_makes_no_counts_of_other_values(value: float) -> None:
    estimates, integers = rounded_twice(estimated(), "dense")
    schema = declare(integers, non_integer="round").schema
    estimates.X[7, 2] = value
    with pytest.raises(BadCounts, match="in cell 'cell7', gene 'gene2'"):
        list(encode(estimates, schema, validate=False).minibatches())


# ---- what goes with it -----------------------------------------------------------------------------------------------


def test_the_rule_is_part_of_the_schema() -> None:
    schema = declare(make_adata(), non_integer="round").schema
    values = schema.to_json()
    assert Schema.from_json(values) == schema
    assert values.pop("non_integer") == "round"
    assert Schema.from_json(values).non_integer == "warn"  # as before there was one
    with pytest.raises(ValueError, match="non_integer='floor' is not one of 'warn', 'refuse', 'round'"):
        Schema.from_json({**values, "non_integer": "floor"})


def test_estimates_of_genes_and_proteins_are_told_together() -> None:
    adata = make_adata()
    adata.X = adata.X * 0.97
    adata.obsm["proteins"] = adata.obsm["proteins"] * 0.9
    place = ProteinPlace("proteins")
    with pytest.warns(
        EstimatedCounts, match=r"adata\.X holds.*; adata\.obsm\['proteins'\] holds.*protein 'protein"
    ) as caught:
        schema = declare(adata, proteins=place).schema
    assert len(caught) == 1
    mb = encode(adata, schema, validate=False).minibatch(np.arange(3))
    np.testing.assert_allclose(mb.proteins, adata.obsm["proteins"].iloc[:3], rtol=1e-6)
    schema = declare(adata, proteins=place, non_integer="round").schema
    mb = encode(adata, schema, validate=False).minibatch(np.arange(3))
    np.testing.assert_array_equal(mb.proteins, np.rint(adata.obsm["proteins"].iloc[:3]))
    adata.obsm["proteins"] = np.log1p(make_adata().obsm["proteins"])
    with pytest.raises(BadCounts, match=r"adata\.obsm\['proteins'\] holds a non-integer value.*logarithms"):
        declare(adata, proteins=place, non_integer="round")


def test_counts_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides is gathered on the way."""
    read: list[int] = []
    blocks = storage.blocks

    def noted(counts: Any) -> Any:
        for start, block in blocks(counts):
            read.append(block.shape[0])
            yield start, block

    monkeypatch.setattr(count_checks, "blocks", noted)
    monkeypatch.setattr(storage, "_BLOCK_VALUES", 100 * REAL.shape[1])
    with pytest.warns(EstimatedCounts):
        declare(with_values(REAL * FACTORS))
    with pytest.raises(BadCounts, match="of normalised counts"):
        declare(with_values(np.log1p(normalised(REAL))))
    assert read == [100, 100, 100] * 2
