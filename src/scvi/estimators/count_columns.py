"""What users say of the tests of the counts: within which batches, and with which samples as the unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scvi._checks import check_flag
from scvi.cells.cell_data import CellData
from scvi.cells.checks import found, named
from scvi.cells.schema import Schema
from scvi.queries.groups import Groups
from scvi.queries.tested_counts import CountTests, Units


@dataclass(frozen=True)
class Counted:
    """How counts are tested.

    Attributes
    ----------
    strata
        Columns of ``obs``: cells are compared within their combinations, which stand for batches. None: the batches of
        the model.
    sample_key
        Column of ``obs`` with the samples, which are the unit then; None: cells are.
    pseudobulk
        Test sums of counts by sample, too.
    """

    strata: str | Sequence[str] | None = None
    sample_key: str | None = None
    pseudobulk: bool = False

    def __post_init__(self) -> None:
        if check_flag("pseudobulk", self.pseudobulk) and self.sample_key is None:
            raise ValueError(
                "pseudobulk=True adds up counts by sample: say which with sample_key='...', a column of obs"
            )

    def refuse_if_asked(self, why: str) -> None:
        """Refuses what a user wants of counts that there are not."""
        for name, default in (("strata", None), ("sample_key", None), ("pseudobulk", False)):
            value = getattr(self, name)
            if value is not default:
                raise ValueError(f"{name}={value!r} is about tests of the counts, and {why}")

    def units(self, data: CellData, schema: Schema, obs: pd.DataFrame, groups: Groups) -> Units:
        """The units of the cells of `data`; `obs` is in their order."""
        is_compared = groups.codes >= 0
        if self.strata is None:
            codes, names = data.batch.astype(np.int64), tuple(schema.batch_names)
        else:
            keys = [self.strata] if isinstance(self.strata, str) else list(self.strata)
            codes, names = _combined([_coded(obs, "strata", key, is_compared) for key in keys], len(obs))
        if self.sample_key is None:
            return Units(codes, names)
        samples, sample_names = _coded(obs, "sample_key", self.sample_key, is_compared)
        return Units(samples, sample_names, True, _nested(samples[is_compared], codes[is_compared], len(sample_names)))

    def answers(self, tests: CountTests, groups: Groups) -> list[dict[str, np.ndarray]]:
        """Columns of each comparison."""
        tests.warn_of_confounded(groups.comparisons)
        return [tests.answer(comparison, self.pseudobulk) for comparison in groups.comparisons]


def _coded(obs: pd.DataFrame, argument: str, key: str, is_compared: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes (n,) of a column, and the names of its values."""
    column = found(obs, argument, key, "a column of adata.obs")
    is_missing = column.isna().to_numpy() & is_compared
    if is_missing.any():
        raise ValueError(
            f"{argument}={key!r} has no value for {is_missing.sum()} of the compared cells, "
            f"{named(obs.index[is_missing])}: give them one, or leave them out with idx1 and idx2"
        )
    codes, values = pd.factorize(column)
    return np.maximum(codes, 0), tuple(map(str, values))


def _combined(columns: Sequence[tuple[np.ndarray, tuple[str, ...]]], n: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes of combinations of several columns."""
    codes = np.zeros(n, dtype=np.int64)
    names: tuple[str, ...] = ("",)
    for of_column, values in columns:
        codes = codes * len(values) + of_column
        names = tuple(f"{first} {value}".strip() for first in names for value in values)
    used, codes = np.unique(codes, return_inverse=True)
    return codes.reshape(-1), tuple(names[code] for code in used)


def _nested(samples: np.ndarray, batches: np.ndarray, n_samples: int) -> np.ndarray | None:
    """(u,) codes of the batches of samples; None if a sample is of several."""
    pairs = np.unique(np.stack([samples, batches]), axis=1)
    if len(np.unique(pairs[0])) < pairs.shape[1]:
        return None
    of_sample = np.zeros(n_samples, dtype=np.int64)
    of_sample[pairs[0]] = pairs[1]
    return of_sample
