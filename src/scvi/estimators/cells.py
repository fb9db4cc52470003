"""The cells a model was made with, and what users say of cells, genes and batches in the codes of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
import torch

from scvi._checks import check_integer
from scvi._settings import settings
from scvi.cells.cell_data import CellData
from scvi.cells.checks import nearest
from scvi.cells.encode import encode
from scvi.cells.fingerprint import fingerprint, in_a_file
from scvi.cells.minified import is_minified
from scvi.cells.schema import Schema
from scvi.minibatch import Minibatch

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Cells", "Indices", "setup_table"]

Indices: TypeAlias = Sequence[int] | np.ndarray | None
"""Positions of cells or a mask; None: all."""

_WITH_COUNTS = "pass the AnnData with counts that they were made of, or load the model with it"


class Cells:
    """Cells as one model reads them.

    Parameters
    ----------
    schema
        What the model reads, and in which codes.
    adata
        The cells the model was made with; None if there are none.
    labels
        Whether the model has a use for labels; otherwise they are not read, and cells may come without.
    owner
        Name of the model's class, for messages.
    validate
        Look at every stored count. Not needed for an `adata` that was set up and has not changed since.

    Attributes
    ----------
    data
        The encoded cells of `adata`.
    fingerprint
        Of the counts of `adata`; None where there are none, and for those in a file, which nobody changes in place.
    """

    def __init__(
        self, schema: Schema, adata: AnnData | None, *, labels: bool, owner: str, validate: bool = True
    ) -> None:
        self.schema, self.adata, self.labels, self.owner = schema, adata, labels, owner
        self.data = None if adata is None else encode(adata, schema, validate=validate, labels=labels)
        with_counts = adata is not None and not is_minified(adata)
        in_memory = with_counts and not in_a_file(adata, schema)
        self.fingerprint = fingerprint(adata, schema) if in_memory else None

    def own(self, wish: str, needs_counts: bool = True) -> CellData:
        """The cells the model was made with, refused if there are none or if their counts are gone or have changed."""
        if self.data is None:
            raise ValueError(f"this model was loaded without cells and cannot {wish}: pass adata to {self.owner}.load")
        if self.data.kept is not None and needs_counts:
            raise ValueError(f"the model's adata is minified, and to {wish} needs counts: {_WITH_COUNTS}")
        if self.fingerprint is not None and fingerprint(self.adata, self.schema) != self.fingerprint:
            raise ValueError(
                "the cells, genes or counts of the model's adata have changed since the model was made "
                f"({self.schema.counts_name} was normalised or subset in place, perhaps): "
                "put the raw counts back, or pass other cells as adata"
            )
        return self.data

    def choose(self, adata: AnnData | None, indices: Indices, needs_counts: bool = True) -> tuple[CellData, np.ndarray]:
        """The cells that a question is about: the data they are part of, and their positions.

        Parameters
        ----------
        needs_counts
            Refuse minified cells.
        """
        if adata is None or adata is self.adata:
            data = self.own("answer without adata", needs_counts=False)
        else:
            data = encode(adata, self.schema, labels=self.labels)
        if needs_counts and data.kept is not None:
            raise ValueError(f"these cells are minified, and this question needs their counts: {_WITH_COUNTS}")
        positions = data.positions(indices)
        if len(positions) == 0:
            raise ValueError("indices choose no cell")
        return data, positions

    def minibatches(
        self, data: CellData, positions: np.ndarray, batch_size: int | None, device: torch.device
    ) -> Iterator[Minibatch]:
        """Cells in the order of `positions`, on a device; `batch_size` None is that of the session."""
        size = settings.batch_size if batch_size is None else check_integer("batch_size", batch_size, 1)
        on_cpu = data.minibatches(positions, size)
        return on_cpu if device.type == "cpu" else (mb.to(device) for mb in on_cpu)

    def gene_positions(self, names: Sequence[str]) -> np.ndarray:
        """(k,) positions of genes among those of the model."""
        if isinstance(names, str):
            names = [names]
        known = {gene: position for position, gene in enumerate(self.schema.genes)}
        for name in names:
            if name not in known:
                raise ValueError(f"gene_list has {name!r}, which is not a gene of the model{nearest(name, known)}")
        return np.array([known[name] for name in names], dtype=np.int64)

    def batch_codes(self, names: str | int | Sequence[str | int] | None) -> list[int] | None:
        """Codes of one batch or several; None stays None."""
        if names is None:
            return None
        wanted = list(names) if np.ndim(names) else [names]  # type: ignore[arg-type]
        if not wanted:
            raise ValueError("transform_batch is an empty list; None decodes each cell in its own batch")
        known = {name: code for code, name in enumerate(self.schema.batch_names)}
        for name in wanted:
            if str(name) not in known:
                raise ValueError(f"transform_batch={name!r} is not a batch of the model{nearest(name, known)}")
        return [known[str(name)] for name in wanted]


def setup_table(schema: Schema) -> pd.DataFrame:
    """What a model reads: one row for each input, with its place in the AnnData and a summary."""
    s = schema
    rows = [("counts", s.counts_name, f"{s.n_genes} genes" + (" (mask_var)" if s.mask_var else ""))]
    named = [("batch", s.batch_key), ("labels", s.labels_key)]
    named += [("categorical covariate", key) for key in s.categorical_covariate_keys]
    rows += [(what, f"adata.obs[{key!r}]", ", ".join(s.categories[key])) for what, key in named if key]
    others = [("size factor", s.size_factor_key)]
    others += [("continuous covariate", key) for key in s.continuous_covariate_keys]
    rows += [(what, f"adata.obs[{key!r}]", "") for what, key in others if key]
    if s.proteins is not None:
        rows.append(("proteins", f"adata.obsm[{s.proteins.obsm_key!r}]", ", ".join(s.proteins.names)))
    if s.unlabeled_category is not None:
        said = f"{', '.join(s.label_names)}; unlabelled: {s.unlabeled_category}"
        rows = [(what, source, said if what == "labels" else summary) for what, source, summary in rows]
    return pd.DataFrame(rows, columns=["input", "source", "summary"]).set_index("input")
