"""What a model says of itself under the names that scripts know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_flag
from scvi.cells.schema import Schema
from scvi.cells.uns import registered
from scvi.estimators.cells import one_or_all, setup_table

if TYPE_CHECKING:
    from scvi.estimators.base import Estimator


def view_anndata_setup(
    self: Estimator, adata: AnnData | None = None, hide_state_registries: bool = False
) -> pd.DataFrame:
    """What the model reads: one row for each input, with its place in the AnnData and a summary.

    Parameters
    ----------
    adata
        Show what was declared for it with ``setup_anndata`` instead.
    hide_state_registries
        Leave out the summary.
    """
    schema = self.schema if adata is None else registered(adata, type(self).__name__).schema
    return table_of(schema, hide_state_registries)


def table_of(schema: Schema, hide_state_registries: bool) -> pd.DataFrame:
    """What a schema says, with or without the summary."""
    shown = setup_table(schema)
    return shown.drop(columns="summary") if check_flag("hide_state_registries", hide_state_registries) else shown


def summary_string(self: Estimator) -> str:
    """The class, its sizes and its options in one line, and whether it is trained."""
    return repr(self)


def history_(self: Estimator) -> dict[str, pd.DataFrame]:
    """As `history`."""
    return self.history


def is_trained_(self: Estimator) -> bool:
    """As `is_trained`."""
    return self.is_trained


def get_var_names(self: Estimator) -> np.ndarray:
    """(g,) names of the genes that the model reads, in its order."""
    return np.array(self.schema.genes, dtype=object)


def test_indices(self: Estimator) -> Any:
    """Positions in `adata` of the cells that were neither fitted nor looked at; None before a fit."""
    if self.train_indices is None:
        return None
    sides = zip(self._data_sets, _listed(self.train_indices), _listed(self.validation_indices), strict=True)
    return one_or_all(
        [
            np.setdiff1d(np.arange(0 if cells.given is None else cells.given.n_obs), np.concatenate(seen))
            for cells, *seen in sides
        ]
    )


def _listed(positions: Any) -> list[np.ndarray]:
    return positions if isinstance(positions, list) else [positions]
