"""Two AnnData as one model reads them: genes by name, batches and labels counted through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scvi._checks import check_integer
from scvi._settings import settings
from scvi.cells.cell_data import CellData
from scvi.cells.checks import nearest
from scvi.cells.joint import JointCells
from scvi.cells.schema import Schema
from scvi.estimators.cells import Cells, Indices
from scvi.estimators.training import moment_estimates, split_cells
from scvi.minibatch import Minibatch
from scvi.models.jvae import JVAE

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["NAMES", "Sides"]

NAMES = ("seq", "spatial")


class Sides:
    """The cells of a model of two data sets.

    Parameters
    ----------
    schemas
        What the model reads from each.
    adatas
        The cells; None where there are none.
    labels
        Whether the model has a use for labels.
    owner
        Name of the model's class, for messages.
    validate
        As in :class:`scvi.estimators.cells.Cells`.

    Attributes
    ----------
    gene_names
        The genes of the first, then those that the second alone has.
    mappings
        For each data set the positions of its genes among all.
    """

    def __init__(
        self,
        schemas: Sequence[Schema],
        adatas: Sequence[AnnData | None],
        *,
        labels: bool,
        owner: str,
        validate: bool = True,
    ) -> None:
        self.schemas = tuple(schemas)
        self.gene_names = np.array(list(dict.fromkeys(g for s in schemas for g in s.genes)), dtype=object)
        places = {name: i for i, name in enumerate(self.gene_names)}
        self.mappings = [np.array([places[name] for name in schema.genes]) for schema in schemas]
        self.n_shared = sum(schema.n_genes for schema in schemas) - len(self.gene_names)
        if self.n_shared == 0:
            first, second = (schema.genes[0] for schema in schemas)
            raise ValueError(
                "adata_seq and adata_spatial have no gene in common, such as would tie them together; their genes are "
                f"called like {first!r} and {second!r}: are these names of the same kind?"
            )
        self.labels = list(dict.fromkeys(name for s in schemas for name in s.label_names)) if labels else ["0"]
        self.n_batch, self.n_labels = sum(schema.n_batch for schema in schemas), len(self.labels)
        self._reads_labels = labels
        self._cells = [
            Cells(schema, adata, labels=labels, owner=owner, validate=validate)
            for schema, adata in zip(schemas, adatas, strict=True)
        ]

    @property
    def adatas(self) -> tuple[AnnData | None, ...]:
        """The cells the model was made with."""
        return tuple(cells.adata for cells in self._cells)

    def own(self, wish: str) -> JointCells:
        """The cells the model was made with; see :meth:`Cells.own`."""
        return JointCells(tuple(self._coded(i, cells.own(wish)) for i, cells in enumerate(self._cells)))

    def minibatches(
        self, adatas: Sequence[AnnData | None], batch_size: int | None, device: torch.device
    ) -> list[Iterator[Minibatch]]:
        """All cells of each data set on a device; None stands for the cells the model was made with."""
        size = settings.batch_size if batch_size is None else check_integer("batch_size", batch_size, 1)
        chosen = [cells.choose(adata, None) for cells, adata in zip(self._cells, adatas, strict=True)]

        def of(i: int, data: CellData) -> Iterator[Minibatch]:
            for mb in self._coded(i, data).minibatches(None, size):
                yield replace(mb if device.type == "cpu" else mb.to(device), dataset=i)

        return [of(i, data) for i, (data, _) in enumerate(chosen)]

    def batch_codes(self, dataset: int) -> list[int]:
        """Codes of the batches of a data set; those of the second follow those of the first."""
        start = sum(schema.n_batch for schema in self.schemas[:dataset])
        return list(range(start, start + self.schemas[dataset].n_batch))

    def gene_positions(self, names: Sequence[str]) -> np.ndarray:
        """(k,) positions of genes among those of the model."""
        known = {gene: position for position, gene in enumerate(self.gene_names)}
        for name in [names] if isinstance(names, str) else names:
            if name not in known:
                raise ValueError(f"gene_list has {name!r}, which is not a gene of the model{nearest(name, known)}")
        return np.array([known[name] for name in ([names] if isinstance(names, str) else names)], dtype=np.int64)

    def train_and_validation(
        self,
        data: JointCells,
        train_size: float,
        validation_size: float | None,
        validation_indices: Sequence[Indices],
        seed: int,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Positions of the training and of the validation cells in each data set; see :func:`split_cells`."""
        pairs = []
        for i, (part, given) in enumerate(zip(data.parts, validation_indices, strict=True)):
            held_out = None if given is None else part.positions(given, f"validation_indices[{i}]")
            pairs.append(split_cells(len(part), train_size, validation_size, held_out, seed))
        return [train for train, _ in pairs], [validation for _, validation in pairs]

    def initialise(self, module: JVAE, training_cells: Sequence[np.ndarray]) -> None:
        """Starts the decoder at the mean frequencies of the first data set, and dispersions at moment estimates.

        Genes that the first lacks get their frequency in the second, scaled to that of the genes that both have. Each
        data set has dispersions of its own, and those of the other for genes that it lacks.
        """
        n_genes = len(self.gene_names)
        frequency, theta = np.full((2, n_genes), np.nan), np.full((2, n_genes), np.nan)
        for i, (data, cells) in enumerate(zip(self.own("train").parts, training_cells, strict=True)):
            frequency[i, self.mappings[i]], theta[i, self.mappings[i]] = moment_estimates(data, cells)
        shared = np.isfinite(frequency).all(0)
        frequency[1] *= frequency[0, shared].sum() / max(frequency[1, shared].sum(), 1e-8)
        theta = np.where(np.isfinite(theta), theta, theta[::-1])
        by_batch = np.repeat(theta, [schema.n_batch for schema in self.schemas], axis=0).T  # (g, n_batch)
        chosen = by_batch if module.dispersion == "gene-batch" else theta[0]
        as_tensor = lambda values: torch.as_tensor(values, dtype=torch.float32)  # noqa: E731
        start = np.where(np.isfinite(frequency[0]), frequency[0], frequency[1])
        module.initialise(as_tensor(start), as_tensor(np.log(chosen)))

    def _coded(self, i: int, data: CellData) -> CellData:
        """The cells of a data set with the model's codes of batches and labels."""
        batch = data.batch + self.batch_codes(i)[0]
        if not self._reads_labels:
            return replace(data, batch=batch)
        codes = np.array([self.labels.index(name) for name in self.schemas[i].label_names])
        return replace(data, batch=batch, labels=codes[data.labels])
