"""Cells far from those that a model was fitted to: in another unit, normalised in another way, of another depth.

What a model says of such cells is an extrapolation, and mostly they are so by mistake. Cells are judged a batch at a
time, by where half of them lie and by how large their values are, so that no single outlier counts. Batches of one
tissue, and whole data sets of one tissue from several platforms, are not far from each other: the numbers behind the
thresholds are in ``docs/query-mapping.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._warnings import warn
from scvi.cells import checks
from scvi.cells.other_names import likely_cause
from scvi.cells.schema import Extent, Schema

Batches: TypeAlias = np.ndarray | pd.Series
"""Name or code of the batch of each cell."""

FACTOR = 5.0
"""Values that are so many times those of every batch of the reference are far, or such a share of them.

Ordinary batches were at most 1.8 apart, data sets of blood from several platforms 3.1; units mostly are 10 or more.
"""
DEVIATIONS = 10.0
"""A covariate so many standard deviations away, and outside of its range, is far; batches of data were within 5."""
FEW = 20
"""Sizes are compared among so many different values: a column of fewer may say something of samples, not of cells."""
ALIKE = 1.3
"""Total counts are alike if their 95 % quantile is less than this times the 5 % one.

It is where cells were normalised to one sum and rounded (at most 1.27), and nowhere else (at least 1.8).
"""
SHARED_SHARE, SHARED_GENES = 0.1, 10
"""Two data sets share hardly a gene below this share of the smaller, or below this number if that is not half of it.

Pairs of one tissue, a panel and a part of the transcriptome, shared 23 to 100 % of the smaller; a few genes by chance
are also shared by names of two kinds, and fewer than 10 do not span the latent space.
"""


def extent_of(values: np.ndarray, batch: Batches) -> Extent:
    """How far values (n,) reach; `batch` (n,) tells which cells belong together."""
    parts = [values[rows] for rows in _by_batch(batch).values()]
    parts = [part for part in parts if np.count_nonzero(part) >= FEW] or [values]
    typical, large = np.transpose([_sizes(part) for part in parts]).tolist()
    return Extent(float(values.min()), float(values.max()), (min(typical), max(typical)), (min(large), max(large)))


def warn_if_far(
    adata: AnnData, schema: Schema, totals: np.ndarray | None = None, rows: np.ndarray | None = None
) -> None:
    """One warning of everything in which cells are far from those that a schema was made for.

    A schema of an earlier version may not know how far its cells reach; then nothing is said.

    Parameters
    ----------
    totals
        (k,) total counts of the cells over the genes that are read; None: they are not known.
    rows
        (k,) positions of the cells in `adata`; None: all.

    Warns
    -----
    UserWarning
        The columns, both ranges, and the likely causes.
    """
    rows = np.arange(adata.n_obs) if rows is None else rows
    key = schema.batch_key
    batch = None if key is None else checks.obs_column(adata, "batch_key", key).iloc[rows]
    found = [column.finding(batch) for column in _columns(adata, schema, rows)]
    found.append(None if totals is None else far_depth(totals, schema, batch))
    said = [finding for finding in found if finding is not None]
    if said:
        warn(
            f"these cells are far from those that the model was fitted to: {'; '.join(said)}. What the model says of "
            "them is an extrapolation: bring them to the scale of the reference, unless they are meant so"
        )


def far_depth(totals: np.ndarray, schema: Schema, batch: Batches | None = None) -> str | None:
    """What there is to say of cells by their total counts (k,) and the names (k,) of their batches; None: nothing.

    Cells without any count, of which another warning tells, do not matter.
    """
    some = totals > 0
    if schema.total_extent is None or not some.any():
        return None
    depth = _Depth("the total counts of a cell over the model's genes", totals[some], schema.total_extent)
    return depth.finding(None if batch is None else batch[some])


def warn_of_few_shared(names: str, first: Sequence[str], second: Sequence[str]) -> None:
    """A warning if two data sets, which go by `names`, share hardly any of their genes, which tie them together."""
    smaller, larger = sorted((first, second), key=len)
    missing = [gene for gene, place in zip(smaller, pd.Index(larger).get_indexer(smaller), strict=True) if place < 0]
    n, n_shared = len(smaller), len(smaller) - len(missing)
    if n_shared < SHARED_SHARE * n or (n_shared < SHARED_GENES and n_shared < n / 2):
        warn(
            f"{names} share {n_shared} genes, of {len(first)} and {len(second)}, and these alone tie them together, "
            f"which is hardly enough: only one has {checks.named(missing)}{likely_cause(missing, larger)}"
        )


def _columns(adata: AnnData, schema: Schema, rows: np.ndarray) -> Iterator[_Sizes]:
    """The columns of ``adata.obs`` of which is known how far they reach."""
    if schema.continuous_extents is not None:
        of_keys = zip(
            schema.continuous_covariate_keys, schema.continuous_extents, schema.continuous_moments, strict=True
        )
        for key, extent, (mean, deviation) in of_keys:
            values = checks.numbers(adata, "continuous_covariate_keys", key)[rows]
            yield _Covariate(f"adata.obs[{key!r}]", values, extent, mean, deviation)
    if schema.size_factor_key is not None and schema.size_factor_extent is not None:
        values = checks.numbers(adata, "size_factor_key", schema.size_factor_key)[rows]
        yield _Sizes(f"adata.obs[{schema.size_factor_key!r}]", values, schema.size_factor_extent)


@dataclass(frozen=True, eq=False)
class _Sizes:
    """Size factors (k,), and how far those of the reference reach."""

    name: str
    values: np.ndarray
    extent: Extent

    def finding(self, batch: Batches | None) -> str | None:
        """What there is to say of the batches, by name (k,), that are far; None stands for one batch."""
        parts = {"": np.arange(len(self.values))} if batch is None else _by_batch(batch)
        far = {name: rows for name, rows in parts.items() if self.is_far(self.values[rows])}
        if not far:
            return None
        values = self.values[np.concatenate([*far.values()])]
        where = "" if len(far) == len(parts) else f" in batch {checks.named(far)}"
        here, there = _span(values.min(), values.max()), _span(self.extent.lowest, self.extent.highest)
        return f"{self.name}: {here}{where}, {there} in the reference{self._ratio(values)} ({self.cause(values)}?)"

    def is_far(self, values: np.ndarray) -> bool:
        """Whether the cells of one batch are."""
        return self._is_beyond(values) or self._is_resized(values)

    def cause(self, values: np.ndarray) -> str:
        """The likely one."""
        return "size factors of another scale: were they computed as those of the reference"

    def _is_beyond(self, values: np.ndarray) -> bool:
        """Whether half of what is never negative lies outside of the range, and far by the factor."""
        middle, (least, most), extent = float(np.median(values)), self.extent.typical, self.extent
        above = middle > extent.highest and middle >= FACTOR * most
        below = middle < extent.lowest and middle <= least / FACTOR
        return extent.lowest >= 0 < least and (above or below)

    def _is_resized(self, values: np.ndarray) -> bool:
        """Whether typical and large values are far by the factor, as those in another unit are."""
        (typical, large), extent = _sizes(values), self.extent
        above = typical >= FACTOR * extent.typical[1] and large >= FACTOR * extent.large[1]
        below = typical <= extent.typical[0] / FACTOR and large <= extent.large[0] / FACTOR
        varies = len(pd.unique(values[values != 0])) >= FEW
        return varies and extent.typical[0] > 0 and (above or below)

    def _ratio(self, values: np.ndarray) -> str:
        """By how much typical values differ, if that is worth a word."""
        (typical, _), (least, most) = _sizes(values), self.extent.typical
        if min(typical, least) > 0 and typical >= FACTOR * most:
            return f", about {typical / most:.2g} times as large"
        if min(typical, least) > 0 and typical <= least / FACTOR:
            return f", about 1/{least / typical:.2g} of their size"
        return ""


@dataclass(frozen=True, eq=False)
class _Covariate(_Sizes):
    """A continuous covariate, which enters a model in standard deviations of the reference."""

    mean: float
    deviation: float

    def is_far(self, values: np.ndarray) -> bool:
        middle = float(np.median(values))
        outside = not self.extent.lowest <= middle <= self.extent.highest
        return (outside and abs(middle - self.mean) >= DEVIATIONS * self.deviation) or super().is_far(values)

    def cause(self, values: np.ndarray) -> str:
        sizes, of_reference = _sizes(values), (self.extent.typical[1], self.extent.large[1])
        if _are_logs_of(sizes, of_reference):
            return "logs of what the reference has"
        if _are_logs_of(of_reference, sizes):
            return "logs in the reference"
        if values.min() < 0 <= self.extent.lowest:
            return "standardised, or logs"
        return "another unit or another normalisation"


@dataclass(frozen=True, eq=False)
class _Depth(_Sizes):
    """Total counts of cells."""

    def is_far(self, values: np.ndarray) -> bool:
        return super().is_far(values) or self._are_alike(values)

    def cause(self, values: np.ndarray) -> str:
        if self._are_alike(values):
            return "counts that were normalised to one sum and rounded, as per million or ten thousand"
        if np.median(values) > self.extent.typical[1]:
            return "another normalisation, as counts per million, or sequenced far deeper"
        return "logs of counts, another normalisation, genes that are missing, or sequenced far less deeply"

    def _are_alike(self, values: np.ndarray) -> bool:
        """Whether they are all but the same, and those of no batch of the reference are."""
        low, high = np.quantile(values, (0.05, 0.95))
        varies = self.extent.large[0] >= ALIKE * self.extent.typical[1]
        return len(values) >= FEW and varies and bool(high < ALIKE * low)


def _sizes(values: np.ndarray) -> tuple[float, float]:
    """Median and 95 % quantile of the absolute values that are not 0; two zeros if there are none."""
    sizes = np.abs(values[values != 0])
    typical, large = np.quantile(sizes, (0.5, 0.95)) if len(sizes) else (0.0, 0.0)
    return float(typical), float(large)


def _by_batch(batch: Batches) -> dict[str, np.ndarray]:
    """Positions of the cells of each batch, by its name."""
    codes, names = pd.factorize(batch)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))[:-1]
    return {str(name): rows for name, rows in zip(names, np.split(order, ends), strict=True)}


def _are_logs_of(ones: tuple[float, float], others: tuple[float, float]) -> bool:
    """Whether sizes are about the logarithms of others, which are large enough to tell, to one base or another."""
    if min(ones) <= 0 or min(others) <= 20:
        return False
    logs = np.log1p(others) / np.log(np.array([[np.e], [2.0], [10.0]]))  # (3, 2)
    near = (np.abs(logs - ones) < 0.2 * logs).all(axis=1)
    # Another unit leaves the ratio of large to typical values as it is; logarithms do not.
    ratio, of_others = ones[1] / ones[0], others[1] / others[0]
    closer = np.abs(logs[:, 1] / logs[:, 0] - ratio) < abs(of_others - ratio)
    return bool((near & closer).any())


def _span(lowest: float, highest: float) -> str:
    """A range, for a message."""
    low, high = (f"{end:,.0f}" if abs(end) >= 1000 else f"{end:.3g}" for end in (lowest, highest))
    return low if low == high else f"{low} to {high}"
