"""The cells a model was made with, and what users say of cells, genes and batches in the codes of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import NotThereError
from scvi.cells.categories import joined, places_among
from scvi.cells.cell_data import CellData
from scvi.cells.checks import nearest
from scvi.cells.encode import encode
from scvi.cells.far import warn_if_far
from scvi.cells.mudata import adata_in_order, as_anndata, cells_in_order, is_multimodal
from scvi.cells.schema import Schema

Indices: TypeAlias = Sequence[int] | np.ndarray | pd.Series | None
"""Positions of cells or a mask, which as a Series has the index of the cells; None: all."""

NO_GENE = "gene_list has {!r}, which is not a gene"
_WITH_COUNTS = "pass the AnnData with counts that they were made of, or load the model with it"


class Cells:
    """One data set as a model reads it.

    It is encoded anew for each question, so that answers are about the cells as they are. Their counts are held against
    what they were when the model was given the cells, as they are read.

    Parameters
    ----------
    schema
        What the model reads, and in which codes.
    adata
        The cells the model was made with, an AnnData or a MuData; None if there are none.
    labels
        Names of the labels in the order of their codes; None if the model has no use for them: they are not read, and
        cells may come without.
    owner
        Name of the model's class, for messages.
    digests
        (n,) what the counts of each cell are, where all of them were looked at already; None: this is done now.
    first_batch
        Code of the first batch of one of several data sets, whose batches the model counts through.

    Attributes
    ----------
    given, adata
        The cells as they were given, and the AnnData that was read of them last, in the same order.
    data
        The cells of `adata` as they were encoded last.
    digests
        Of the counts, in the order in which they are stored; None where there are none.
    """

    def __init__(
        self,
        schema: Schema,
        adata: AnnData | None,
        *,
        labels: Sequence[str] | None,
        owner: str,
        digests: np.ndarray | None = None,
        first_batch: int = 0,
    ) -> None:
        self.schema, self.labels, self.owner = schema, labels, owner
        self.batches = range(first_batch, first_batch + schema.n_batch)
        self.given, self.digests = adata, digests
        self.adata: AnnData | None = None
        self.data: CellData | None = None
        if adata is not None:
            stored = as_anndata(adata, schema)
            data = self._encoded(stored, digests, validate=digests is None)
            self.digests = None if data.guard is None else data.guard.digests
            self._names = stored.obs_names
            self._keep(stored, data)

    def _encoded(self, adata: AnnData, digests: np.ndarray | None = None, validate: bool = False) -> CellData:
        data = encode(adata, self.schema, validate=validate, labels=self.labels is not None, digests=digests)
        if self.batches.start:
            data = replace(data, batch=data.batch + self.batches.start)
        if self.labels is not None and tuple(self.labels) != self.schema.label_names:
            codes = codes_among(self.schema.label_names, self.labels, "{!r} is not a label")
            data = replace(data, labels=codes[data.labels])
        return data

    def _keep(self, stored: AnnData, data: CellData) -> CellData:
        """Keeps the cells in the order in which they were given; the same AnnData as before, if it reads the same."""
        in_order = cells_in_order(self.given, stored, data)
        if self.adata is None or self.data is None or not self.data.reads_like(in_order):
            if self.data is not None:  # columns were edited in place
                warn_if_far(stored, self.schema)
            self.adata = adata_in_order(self.given, stored)
        self.data = in_order
        return in_order

    def own(self, wish: str, needs_counts: bool = True) -> CellData:
        """The cells the model was made with as they are now, refused if there are none or if their counts are gone."""
        if self.given is None:
            raise ValueError(f"this model was loaded without cells and cannot {wish}: pass adata to {self.owner}.load")
        data = self._read_anew()
        if self.adata is not self.given:
            self._refuse_edited_copy()
        if data.kept is not None and needs_counts:
            raise ValueError(f"the model's adata is minified, and to {wish} needs counts: {_WITH_COUNTS}")
        return data

    def now(self) -> AnnData | None:
        """`adata`, joined anew if it is of a MuData that was edited."""
        if is_multimodal(self.given):
            self._read_anew()
        return self.adata

    def given_now(self) -> Any:
        """The cells as they were given, for a file: an AnnData, or a MuData whose modalities fit together still."""
        return self.given if self.now() is not None and is_multimodal(self.given) else self.adata

    def _read_anew(self) -> CellData:
        stored = as_anndata(self.given, self.schema)
        return self._keep(stored, self._encoded(stored, self.digests if stored.obs_names.equals(self._names) else None))

    def _refuse_edited_copy(self) -> None:
        """Refuses the AnnData that was joined of a MuData if it was edited, which would be passed over."""
        try:
            is_same = self._encoded(self.adata).reads_like(self.data)  # type: ignore[arg-type]
        except ValueError:
            is_same = False
        if not is_same:
            raise ValueError(
                "model.adata was edited, but it was joined of a MuData, which is what the model reads: edit "
                "mdata.mod[...] and say model.adata = mdata, or assign the edited AnnData"
            )

    def choose(self, adata: AnnData | None, indices: Indices, needs_counts: bool = True) -> tuple[CellData, np.ndarray]:
        """The cells that a question is about: the data they are part of, and their positions.

        Parameters
        ----------
        needs_counts
            Refuse minified cells.
        """
        if adata is None or adata is self.given:
            data = self.own("answer without adata", needs_counts=False)
        else:
            stored = as_anndata(adata, self.schema)
            data = cells_in_order(adata, stored, self._encoded(stored))
            if data.kept is not None:  # else it is said when the counts are read
                warn_if_far(stored, self.schema)
        if needs_counts and data.kept is not None:
            raise ValueError(f"these cells are minified, and this question needs their counts: {_WITH_COUNTS}")
        positions = data.positions(indices)
        if len(positions) == 0:
            raise ValueError("indices choose no cell")
        return data, positions

    def gene_positions(self, names: Sequence[str] | None) -> np.ndarray | None:
        """(k,) positions of genes among those of the model; None stays None."""
        return None if names is None else positions_of(names, self.schema.genes, NO_GENE)

    def batch_codes(self, names: str | int | Sequence[str | int] | None) -> list[int] | None:
        """Codes of one batch or several; None stays None."""
        if names is None:
            return None
        codes = codes_among(names, self.schema.batch_names, "transform_batch={!r} is not a batch")
        if len(codes) == 0:
            raise ValueError("transform_batch is an empty list; None decodes each cell in its own batch")
        if len(codes) > self.schema.n_batch:  # a column of cells, perhaps
            raise ValueError(
                f"transform_batch has {len(codes)} entries and the model {self.schema.n_batch} batches: it names those "
                "to decode every cell in; None decodes each cell in its own batch"
            )
        return codes.tolist()


def positions_of(names: Any, known: Sequence[str] | np.ndarray, wrong: str) -> np.ndarray:
    """(k,) positions of one gene or protein or several among the known ones, by name.

    Parameters
    ----------
    wrong
        How a message about an unknown name begins, with a place for it.
    """
    wanted = _listed(names)
    if wanted and all(isinstance(name, (bool, np.bool_)) for name in wanted):
        raise ValueError(f"{wrong.format(bool(wanted[0]))}; pass the names that a mask chooses: names[mask]")
    return _all_found(wanted, pd.Index(known).get_indexer([str(name) for name in wanted]), known, wrong)


def codes_among(names: Any, known: Sequence[str], wrong: str) -> np.ndarray:
    """(k,) codes of one batch or label or several: the same of categories, see :mod:`scvi.cells.categories`."""
    wanted = _listed(names)
    return _all_found(wanted, places_among(known, wanted), known, wrong)


def _listed(names: Any) -> list[Any]:
    """One name or several as a list."""
    is_one = isinstance(names, str) or not isinstance(names, Iterable) or getattr(names, "ndim", 1) == 0
    return [names] if is_one else list(names)


def _all_found(wanted: list[Any], places: np.ndarray, known: Iterable[str], wrong: str) -> np.ndarray:
    for name, place in zip(wanted, places, strict=True):
        if place < 0:
            raise NotThereError(f"{wrong.format(name)} of the model{nearest(name, known)}")
    return places.astype(np.int64)


def one_or_all(parts: Sequence[Any]) -> Any:
    """The entry of a model of one data set; a list for several."""
    return parts[0] if len(parts) == 1 else list(parts)


def all_labels(schemas: Sequence[Schema]) -> list[str]:
    """Names of the labels of all data sets, each once, as the first that has it spells it."""
    labels: tuple[str, ...] = ()
    for schema in schemas:
        labels = joined(labels, schema.label_names)
    return list(labels)


def setup_table(schema: Schema) -> pd.DataFrame:
    """What a model reads: one row for each input, with its place in the AnnData and a summary."""
    unlabelled = "" if schema.unlabeled_category is None else f"; unlabelled: {schema.unlabeled_category}"
    columns = [
        ("batch", schema.batch_key, ""),
        ("labels", schema.labels_key, unlabelled),
        *(("categorical covariate", key, "") for key in schema.categorical_covariate_keys),
        ("size factor", schema.size_factor_key, ""),
        *(("continuous covariate", key, "") for key in schema.continuous_covariate_keys),
    ]
    known = schema.categories
    rows = [("counts", schema.counts_name, f"{schema.n_genes} genes" + (" (mask_var)" if schema.mask_var else ""))]
    rows += [(what, f"adata.obs[{key!r}]", ", ".join(known.get(key, ())) + more) for what, key, more in columns if key]
    if schema.proteins is not None:
        rows.append(("proteins", f"adata.obsm[{schema.proteins.obsm_key!r}]", ", ".join(schema.proteins.names)))
    return pd.DataFrame(rows, columns=["input", "source", "summary"]).set_index("input")
