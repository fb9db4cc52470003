"""Values that are not integers: counts that were estimated, which are modelled as they are, or no counts.

Ambient RNA that is taken away, reads that go to several genes and pseudo-alignment leave fractions of counts. So do
normalisation and transformations, which no model of counts can make good. The two are told apart by what they do to a
cell, in the cells that have fractions, in the pass that looks at all counts; the numbers behind the thresholds are in
``docs/counts.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import scipy.sparse as sp

from scvi._checks import check_choice
from scvi.cells.storage import Rows, without_repeats
from scvi.kernels import CountsLook, look_at_counts

NonInteger: TypeAlias = Literal["warn", "refuse", "round"]
"""What to do with counts that are estimates."""

ALIKE = 1.01
"""Sums of cells are alike if their 95 % quantile is less than this times the 5 % one; those of counts are 1.8 apart."""
POWER_OF_TEN = 1e-4
"""A sum that is so near to 1, 100, 10,000 or another power of ten, relative to it, is no chance."""
SMALL = 15.0
"""Logarithms of counts, also per million, are smaller; so are scores and probabilities."""
NEAR = 0.2
"""Small values whose mean distance to an integer from 1 on is less are counts; that of any numbers is 0.25."""
ENOUGH = 20
"""Fewer values say nothing of how large values are."""
FEW_ABOVE = 2.0
"""If the smallest value of a cell with zeros mostly is larger, the cells were scaled up: in counts there are ones."""

_CELLS_OF_A_BLOCK = 256  # whose sums and units are looked at, in each block of cells
_MULTIPLES, _LEAST_RATIO, _MOST_RATIO, _ROUNDING = 0.8, 1.5, 200.0, 0.02


class _Transform(NamedTuple):
    """What may have been done to counts, or to normalised counts, and how to undo it."""

    name: str
    undo: Callable[[np.ndarray], np.ndarray]


_TRANSFORMS = (
    _Transform("values", lambda x: x),
    _Transform("logarithms", np.expm1),
    _Transform("logarithms to base 2", lambda x: np.exp2(x) - 1),
    _Transform("logarithms to base 10", lambda x: 10**x - 1),
    _Transform("square roots", np.square),
    _Transform("inverse hyperbolic sines", np.sinh),
)


@dataclass(frozen=True, eq=False)
class _Cells:
    """What is kept of m cells that have fractions."""

    sums: np.ndarray  # (m, transforms) of the values, each transform undone
    units: np.ndarray  # (m, transforms) what all values of the cell are multiples of; 0: there is no such number
    n_told: np.ndarray  # (m, transforms) values that can tell whether they are multiples of the smallest
    n_multiples: np.ndarray  # (m, transforms) those that are
    n_values: np.ndarray  # (m,) that are not 0
    n_genes: np.ndarray  # (m,)
    lowest: np.ndarray  # (m,)
    n_fractions: np.ndarray  # (m,)
    n_halves: np.ndarray  # (m,) of the fractions, those with .5
    distances: np.ndarray  # (m,) sums of the distances of values to the nearest integer from 1 on

    @property
    def mostly_integers(self) -> bool:
        return bool(2 * self.n_fractions.sum() < self.n_values.sum())


class Fractions:
    """What blocks of cells say of values that are not integers."""

    def __init__(self) -> None:
        self.n_values = self.n_fractions = 0
        self.example: tuple[int, int, float] | None = None  # cell, gene, value
        self._highest, self._cells = 0.0, list[_Cells]()

    def add(self, rows: Rows, cells: np.ndarray, look: CountsLook) -> None:
        """Takes a block of non-negative numbers into account.

        Parameters
        ----------
        cells
            (n,) positions of these cells.
        look
            What was found by looking at each of its values.
        """
        if look.n_fractions > 0 and not isinstance(rows, np.ndarray) and not rows.has_canonical_format:
            rows = without_repeats(rows)  # whose sums are the counts
            look = look_at_counts(rows.data)  # type: ignore[assignment]  # sums of such values are such values
        self.n_values += look.n_values
        self.n_fractions += look.n_fractions
        if look.n_fractions == 0:
            return
        if self.example is None:
            row, column, value = place_of(rows, look.first_fraction)
            self.example = int(cells[row]), column, value
        values = rows if isinstance(rows, np.ndarray) else rows.data
        self._highest = max(self._highest, float(values.max()))
        self._cells.append(_look_closely(rows))

    @property
    def share(self) -> str:
        """How many of the values that are not 0 are fractions, in words."""
        part = self.n_fractions / max(self.n_values, 1)
        return f"{part:.1%}" if part >= 0.001 else f"{self.n_fractions:,} of {self.n_values:,}"

    def why_no_counts(self) -> str | None:
        """What the values look like, if not like counts that are estimates; None if they do."""
        parts = self._cells
        if not parts:
            return None
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
        cells = _Cells(**joined)
        return (
            _sums_alike(cells)
            or _multiples(cells)
            or _ranks(cells)
            or _small(cells, self._highest)
            or _scaled_up(cells)
        )


def check_non_integer(value: object) -> None:
    """Refuses what is no rule for counts that are estimates."""
    check_choice("non_integer", value, get_args(NonInteger))


def place_of(rows: Rows, position: int) -> tuple[int, int, float]:
    """Row, column and value of a stored value."""
    if isinstance(rows, np.ndarray):
        row, column = divmod(position, rows.shape[1])
        return row, column, rows[row, column]
    row = int(np.searchsorted(rows.indptr, position, side="right")) - 1
    return row, int(rows.indices[position]), rows.data[position]


def rounded(rows: Rows) -> Rows:
    """The nearest integers, halves to the even one; the same object where there is nothing to round."""
    if rows.dtype.kind != "f":
        return rows
    if isinstance(rows, np.ndarray):
        return np.rint(rows)
    rows = without_repeats(rows)
    return type(rows)((np.rint(rows.data), rows.indices, rows.indptr), shape=rows.shape)


def _look_closely(rows: Rows) -> _Cells:
    """The cells of a block that have fractions, some of them if they are many."""
    rows = without_repeats(sp.csr_matrix(rows))
    values = rows.data.astype(np.float64)
    of_value = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    some = np.unique(of_value[values != np.floor(values)])
    if len(some) > _CELLS_OF_A_BLOCK:
        some = some[np.linspace(0, len(some) - 1, _CELLS_OF_A_BLOCK).astype(np.int64)]
    chosen = rows[some]
    lengths = np.diff(chosen.indptr)
    values = chosen.data.astype(np.float64)
    of_value, is_there = np.repeat(np.arange(len(some)), lengths), values > 0
    values, of_value = values[is_there], of_value[is_there]
    n_values = np.bincount(of_value, minlength=len(some))
    starts = np.cumsum(n_values) - n_values
    is_fraction = values != np.floor(values)
    sums, units, n_told, n_multiples = _undone(values, of_value, starts, is_fraction)
    distance = np.abs(values - np.maximum(np.rint(values), 1))
    return _Cells(
        sums,
        units,
        n_told,
        n_multiples,
        n_values,
        np.full(len(some), rows.shape[1]),
        np.minimum.reduceat(values, starts),
        np.bincount(of_value, is_fraction, len(some)),
        np.bincount(of_value, values % 1 == 0.5, len(some)),
        np.bincount(of_value, distance, len(some)),
    )


def _undone(
    values: np.ndarray, of_value: np.ndarray, starts: np.ndarray, is_fraction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The first four of :class:`_Cells`; a unit is told only where most values are fractions."""
    n = len(starts)
    sums, units, n_told, n_multiples = np.zeros((4, n, len(_TRANSFORMS)))
    for i, transform in enumerate(_TRANSFORMS):
        with np.errstate(over="ignore", invalid="ignore"):  # what is large is no logarithm, and tells nothing
            counts = transform.undo(values)
            smallest = np.minimum.reduceat(counts, starts)
            ratio = counts / smallest[of_value]
            is_multiple = np.abs(ratio - np.rint(ratio)) < _ROUNDING
        sums[:, i] = np.bincount(of_value, counts, n)
        tells = (ratio > _LEAST_RATIO) & (ratio < _MOST_RATIO)
        told, multiples = np.bincount(of_value, tells, n), np.bincount(of_value, tells & is_multiple, n)
        mostly_fractions = 2 * np.bincount(of_value, tells & is_fraction, n) >= told
        units[:, i] = np.where((told >= 3) & (multiples == told) & mostly_fractions, smallest, 0.0)
        n_told[:, i], n_multiples[:, i] = told, multiples
    return sums, units, n_told, n_multiples


def _sums_alike(cells: _Cells) -> str | None:
    """Whether cells add up to one sum, as they are or before a transform."""
    if cells.mostly_integers:
        return None
    for i, transform in enumerate(_TRANSFORMS):
        sums = cells.sums[:, i]
        if not np.isfinite(sums).all():
            continue
        low, middle, high = np.quantile(sums, (0.05, 0.5, 0.95))
        tens = 10.0 ** np.rint(np.log10(sums))
        is_round = (np.abs(sums - tens) < POWER_OF_TEN * tens).all() and cells.n_values.sum() >= ENOUGH
        if is_round or (len(sums) >= 3 and high < ALIKE * low):
            which = "look normalised:" if i == 0 else f"look like {transform.name} of normalised counts: undone,"
            return f"{which} those of each cell add up to {middle:.6g}"
    return None


def _multiples(cells: _Cells) -> str | None:
    """Whether the values of a cell are multiples of one number, as they are or before a transform."""
    most_told = cells.n_told.max(1)
    can_tell = most_told >= 3
    if most_told[can_tell].sum() < ENOUGH:
        return None
    # The squares of most multiples are multiples as well.
    as_they_are = 2 * cells.n_multiples[:, 0].sum() > cells.n_told[:, 0].sum()
    for i, transform in enumerate(_TRANSFORMS[: 1 if as_they_are else None]):
        units = cells.units[can_tell, i]
        units = units[units > 0]
        if len(units) < _MULTIPLES * can_tell.sum():
            continue
        if i > 0:
            return f"look like {transform.name} of counts: undone, those of a cell are multiples of one number"
        low, middle, high = np.quantile(units, (0.05, 0.5, 0.95))
        if high > 1.5 * low or not 0.5 < middle < 2:
            return f"look normalised: those of a cell are multiples of one number, {middle:.3g} in the median cell"
        return None  # all are less by a share, as ambient correction may leave them
    return None


def _ranks(cells: _Cells) -> str | None:
    """Whether the values of a cell are the numbers from 1 on, or there are halves and no zeros, as in ranks by gene."""
    n, halves = cells.n_values, cells.n_halves
    by_cell = np.allclose(cells.sums[:, 0], n * (n + 1) / 2, rtol=1e-6)
    by_gene = (n == cells.n_genes).all() and (halves == cells.n_fractions).all()
    if n.sum() >= ENOUGH and (by_cell or by_gene):
        return "look like ranks: halves among whole numbers"
    return None


def _scaled_up(cells: _Cells) -> str | None:
    """Whether there are hardly any values near 1 where most are 0."""
    some = (2 * cells.n_values < cells.n_genes) & (cells.n_values >= ENOUGH)
    if 2 * some.sum() < len(some) or cells.mostly_integers:
        return None
    lowest = np.median(cells.lowest[some])
    return f"look scaled up: most are 0, the others of a cell {lowest:.3g} or more" if lowest > FEW_ABOVE else None


def _small(cells: _Cells, highest: float) -> str | None:
    """Whether all values are small, and not those of counts."""
    n = cells.n_values.sum()
    if n < ENOUGH or highest >= SMALL or cells.distances.sum() < NEAR * n:
        return None
    what = "shares or probabilities" if highest <= 1 else "logarithms, scores or shares"
    return f"look like {what}: none is above {highest:.3g}, and few are near to an integer"
