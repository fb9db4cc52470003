"""The cells that a report shows: where they lie, what is known of them, and the same by principal components."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scvi._random import generator_of
from scvi.cells.categories import places_among
from scvi.cells.cell_data import CellData
from scvi.cells.checks import found
from scvi.cells.schema import Schema
from scvi.estimators.base import Estimator
from scvi.minibatch import Minibatch
from scvi.queries import checks, latent

MOST_SHOWN, MOST_SCORED = 20_000, 5_000
N_CHECKED = 2000  # cells that are held against draws where nothing else is said
DATA_SET = "data set"  # what tells the cells of a model of two data sets apart
DATA_SETS = ("seq", "spatial")


@dataclass(frozen=True)
class Wish:
    """What a report is asked for.

    Attributes
    ----------
    adata
        Cells in place of the model's.
    columns
        Names of columns of obs to show beside those that the model reads.
    labels_key
        The one with the cell types.
    n_cells
        How many cells are held against draws, at most.
    """

    adata: AnnData | None
    columns: Sequence[str]
    labels_key: str | None
    n_cells: int
    seed: int


@dataclass(frozen=True)
class Shown:
    """Cells drawn at random, all where they are few.

    Attributes
    ----------
    positions
        Of the n cells among `of_all`, for a model of one data set.
    latent
        (n, d) posterior means.
    columns
        (n,) values by the name of the column: those to colour by.
    batch
        (n,) names of batches, or data sets; None where there is one.
    labels
        (n,) cell types, missing where they are not known; None: no column says so.
    scored
        Positions among the n of the cells whose neighbours are looked at.
    components
        (k, d) principal components of these; None where there are no counts.
    """

    positions: np.ndarray
    of_all: int
    latent: np.ndarray
    columns: dict[str, pd.Series]
    batch: pd.Series | None
    labels: pd.Series | None
    scored: np.ndarray
    components: np.ndarray | None

    @property
    def spaces(self) -> dict[str, np.ndarray]:
        """Where those whose neighbours are looked at lie: in the 'latent' space and, if there are counts, by 'pca'."""
        return {
            "latent": self.latent[self.scored],
            **({} if self.components is None else {"pca": self.components}),
        }

    @property
    def sampled(self) -> str:
        """Says where they are not all cells."""
        n = len(self.latent)
        return "" if n == self.of_all else f"{n:,} of {self.of_all:,} cells are shown, drawn at random. "


def has_counts(model: Estimator, adata: AnnData | None) -> bool:
    """Whether the cells still have their counts: minified ones have not."""
    return all(model_cells.choose(adata, None, False)[0].kept is None for model_cells in model._data_sets)


def shown(model: Estimator, wish: Wish) -> Shown:
    """Cells of a model, of one data set or of two."""
    if len(model._data_sets) > 1:
        return _of_two(model, wish)
    schema = model.schema
    data, positions = model._choose(wish.adata, None, needs_counts=False)
    known = model.adata if wish.adata is None else wish.adata
    chosen = _drawn(positions, MOST_SHOWN, wish.seed)
    obs = known.obs.iloc[chosen]  # type: ignore[union-attr]  # there is one, or no positions
    keys = dict.fromkeys([*column_keys(schema, wish), *wish.columns])
    columns = {key: found(obs, "columns", key, "a column of adata.obs") for key in keys}
    batch = None
    if schema.n_batch > 1:
        batch = pd.Series(np.array(schema.batch_names, dtype=object)[data.batch[chosen]])
    labels = _labels(obs, wish.labels_key, schema.unlabeled_category)
    scored = _drawn(np.arange(len(chosen)), MOST_SCORED, wish.seed)
    components = None
    if data.kept is None:
        counts = checks.as_csr(model._minibatches(data, chosen[scored], None))
        components = _components(counts)
    where = _latent(model, model._minibatches(data, chosen, None), wish.seed)
    return Shown(chosen, len(positions), where, columns, batch, labels, scored, components)


def column_keys(schema: Schema, wish: Wish) -> list[str]:
    """The columns of obs that a model reads, and that with the cell types."""
    keys = [schema.batch_key, wish.labels_key, *schema.categorical_covariate_keys, *schema.continuous_covariate_keys]
    return list(dict.fromkeys(key for key in keys if key is not None))


def _of_two(model: Any, wish: Wish) -> Shown:
    parts = [_one_of_two(model, wish, number) for number in range(2)]
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    number = np.repeat([0, 1], [len(part.latent) for part in parts])
    batch = pd.Series(np.array(DATA_SETS, dtype=object)[number])
    columns = {DATA_SET: batch, **{name: _joined([part.columns.get(name) for part in parts], parts) for name in names}}
    labels = None
    if any(part.labels is not None for part in parts):
        labels = _joined([part.labels for part in parts], parts)
    ends = np.cumsum([0, len(parts[0].latent)])
    scored = np.concatenate([end + part.scored for end, part in zip(ends, parts, strict=True)])
    components = _components_of_two(model, [part.positions[part.scored] for part in parts])
    where = np.concatenate([part.latent for part in parts])
    positions = np.concatenate([part.positions for part in parts])
    return Shown(positions, sum(part.of_all for part in parts), where, columns, batch, labels, scored, components)


def _one_of_two(model: Any, wish: Wish, number: int) -> Shown:
    own = model._data_sets[number]
    data, positions = own.choose(None, None)
    chosen = _drawn(positions, MOST_SHOWN // 2, wish.seed)
    obs = own.adata.obs.iloc[chosen]
    keys = dict.fromkeys([*column_keys(own.schema, replace(wish, labels_key=None)), *wish.columns])
    columns = {key: obs[key] for key in keys if key in obs}
    labels = None
    if wish.labels_key is not None and wish.labels_key in obs:
        labels = _labels(obs, wish.labels_key, None)
        columns[wish.labels_key] = obs[wish.labels_key]
    scored = _drawn(np.arange(len(chosen)), MOST_SCORED // 2, wish.seed)
    where = _latent(model, numbered(model, data, chosen, number), wish.seed)
    return Shown(chosen, len(positions), where, columns, None, labels, scored, None)


def numbered(model: Any, data: CellData, positions: np.ndarray, number: int) -> Iterator[Minibatch]:
    """Cells of one of two data sets."""
    return (replace(mb, dataset=number) for mb in model._minibatches(data, positions, None))


def _joined(values: Sequence[pd.Series | None], parts: Sequence[Shown]) -> pd.Series:
    """A column of both data sets, missing in one that has it not."""
    filled = [
        pd.Series([None] * len(part.latent), dtype=object) if column is None else column.astype(object)
        for column, part in zip(values, parts, strict=True)
    ]
    return pd.concat(filled, ignore_index=True)


def _components_of_two(model: Any, positions: Sequence[np.ndarray]) -> np.ndarray | None:
    """Of the genes that both data sets have."""
    genes = [pd.Index(cells.schema.genes) for cells in model._data_sets]
    common = genes[0].intersection(genes[1])
    parts = []
    for number, chosen in enumerate(positions):
        data, _ = model._data_sets[number].choose(None, None)
        counts = checks.as_csr(numbered(model, data, chosen, number))
        parts.append(counts[:, genes[number].get_indexer(common)])
    return _components(sparse.vstack(parts, format="csr"))


def _components(counts: sparse.csr_array) -> np.ndarray:
    return checks.principal_components(counts, checks.clear_genes(counts))


def _latent(model: Any, minibatches: Iterable[Minibatch], seed: int) -> np.ndarray:
    make = partial(generator_of, seed, model.device)
    return latent.latent(model.module, minibatches, True, make())


def _labels(obs: pd.DataFrame, key: str | None, unlabelled: str | None) -> pd.Series | None:
    """Cell types as text, missing where the label is not known."""
    if key is None:
        return None
    column = found(obs, "labels_key", key, "a column of adata.obs")
    labels = column.astype(object).where(column.notna(), None).map(lambda value: None if value is None else str(value))
    if unlabelled is not None:
        is_known = places_among([unlabelled], column.astype(object).tolist()) < 0
        labels = labels.where(is_known, None)
    return labels.reset_index(drop=True)


def _drawn(positions: np.ndarray, most: int, seed: int) -> np.ndarray:
    """So many at most, in their order."""
    if len(positions) <= most:
        return positions
    return positions[np.sort(np.random.default_rng([seed, 3]).choice(len(positions), most, replace=False))]
