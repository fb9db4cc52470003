"""What counts have beside what a model expects of their cells, by groups of cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scvi.queries.predictive_checks import Beside

_FEWEST = 10  # counts in a group, in the mean over groups, without which a gene is not tested


class GroupResiduals:
    """Takes block after block, and says of which features the residuals differ between groups of cells.

    The counts of a feature in each group are held against what the model expects there. What all groups have too much
    or too little in common is taken off: it is another question. Under the hypothesis that the rest is noise, the
    squared residual sums, each over its variance, are chi-squared with one degree of freedom fewer than there
    are groups.

    Parameters
    ----------
    codes
        (n,) groups of all cells, -1 for a cell of none.
    names
        Of the groups.
    """

    def __init__(self, codes: np.ndarray, names: Sequence[str]) -> None:
        self._codes, self._names = codes, np.asarray(names, dtype=object)
        self._sums: np.ndarray | float = 0.0  # (3, k, f)
        self._sums_drawn: np.ndarray | float = 0.0

    def add(self, block: Beside) -> None:
        """The next cells."""
        is_in = (self._codes[block.cells] == np.arange(len(self._names))[:, None]).astype(np.float64)  # (k, n)
        mean = block.mean.astype(np.float64)

        def sums(counts: np.ndarray) -> np.ndarray:
            return np.stack([is_in @ counts, is_in @ mean, is_in @ (counts - mean) ** 2])

        self._sums = self._sums + sums(block.counts.astype(np.float64))
        self._sums_drawn = self._sums_drawn + sums(block.drawn.astype(np.float64))

    def result(self) -> pd.DataFrame:
        """A row for each feature.

        'group', where the residuals are furthest, with 'observed' and 'expected' counts there and the 'log2_fold'
        between; 'p_value' and 'p_adjusted' (Benjamini and Hochberg) of all groups, NaN where the counts are too few.
        """
        return self._tested(np.asarray(self._sums))

    def of_draws(self) -> pd.DataFrame:
        """The same of the model's own draws: what is found there is chance."""
        return self._tested(np.asarray(self._sums_drawn))

    def _tested(self, sums: np.ndarray) -> pd.DataFrame:
        from scipy.stats import chi2, false_discovery_control

        observed, expected, variance = sums
        total = observed.sum(0)
        expected = expected * np.divide(total, expected.sum(0), out=np.ones_like(total), where=expected.sum(0) > 0)
        variance = np.maximum(variance, expected)  # no counts vary less than Poisson ones
        squares = np.divide((observed - expected) ** 2, variance, out=np.zeros_like(variance), where=variance > 0)
        is_tested = total >= _FEWEST * len(self._names)
        p_value = np.where(is_tested, chi2.sf(squares.sum(0), len(self._names) - 1), np.nan)
        p_adjusted = p_value.copy()
        if is_tested.any():
            p_adjusted[is_tested] = false_discovery_control(p_value[is_tested])
        # by Pearson's residuals: its own variance is large where a group is far from what is expected
        furthest, rows = ((observed - expected) ** 2 / (expected + 1)).argmax(0), np.arange(len(total))
        observed, expected = observed[furthest, rows], expected[furthest, rows]
        return pd.DataFrame(
            {
                "group": self._names[furthest],
                "observed": observed,
                "expected": expected,
                "log2_fold": np.log2((observed + 1) / (expected + 1)),
                "p_value": p_value,
                "p_adjusted": p_adjusted,
            }
        )
