"""The record of cells that crosses from the data to a model, and the one list of what is known of a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from scvi.kernels import Counts, Part, SparseRows
from scvi.kernels.rows import sent

C = TypeVar("C")  # counts, as a data set or a minibatch holds them
A = TypeVar("A")  # arrays of a data set, tensors of a minibatch

_CODES, _NUMBERS, _FLAGS = ({"dtype": dtype} for dtype in ("int64", "float32", "bool"))


@dataclass(frozen=True, slots=True, eq=False)
class PerCell(Generic[C, A]):
    """What is known of n cells, a row or an entry for each; g genes.

    This is the one list of it: to read something more, a line is added here, and one where cells are encoded. Data sets
    have arrays in whatever number type; in a minibatch they have the one given here, and (n,) is a column (n, 1). Codes
    are integers, never one-hot; what a data set does not have is None.
    """

    counts: C  # (n, g)
    batch: A = field(metadata=_CODES)  # (n,) codes of the experimental batch
    labels: A = field(metadata=_CODES)  # (n,) codes of the cell type, -1 where it is not known
    l_mean: A | None = field(default=None, metadata=_NUMBERS)  # (n,) prior mean of the log library size
    l_var: A | None = field(default=None, metadata=_NUMBERS)  # (n,) its variance
    log_size: A | None = field(default=None, metadata=_NUMBERS)  # (n,) log of a given size factor; None: of the total
    continuous: A | None = field(default=None, metadata=_NUMBERS)  # (n, c) covariates, standardised
    categorical: A | None = field(default=None, metadata=_CODES)  # (n, m) codes, a column for each covariate
    proteins: A | None = field(default=None, metadata=_NUMBERS)  # (n, p) counts; 0 where they were not measured
    measured: A | None = field(default=None, metadata=_FLAGS)  # (n, p) which of them were measured; None: all

    def given(self) -> dict[str, A]:
        """What there is beside the counts, by name."""
        return {name: value for name in PER_CELL if (value := getattr(self, name)) is not None}


PER_CELL: dict[str, str] = {entry.name: entry.metadata["dtype"] for entry in fields(PerCell) if entry.metadata}
"""Names of what is known of each cell beside its counts, and its number type in a minibatch."""


@dataclass(frozen=True, slots=True, eq=False)
class Minibatch(PerCell[Counts, Tensor]):
    """Cells drawn for one step: n cells, g genes; counts are float32, as sparse rows or dense."""

    indices: Tensor | None = None  # (n,) int64 positions of the cells in their data set
    kept: Mapping[str, Tensor] | None = None  # (n, .) what a model keeps of cells whose counts were dropped, by name
    dataset: int = 0  # number of the data set the cells are from, for models of several
    part: Part | None = None  # which of the cells of a step these are, if processes share them; None: all

    def __len__(self) -> int:
        return self.counts.shape[0]

    @property
    def n_shared(self) -> int | None:
        """Number of cells of the step in all processes that share them; None: these are all."""
        return None if self.part is None else self.part.n_rows

    @property
    def n_whole(self) -> int:
        """Number of cells of the step."""
        return len(self) if self.part is None else self.part.n_rows

    @property
    def x(self) -> Tensor:
        """(n, g) dense counts."""
        return self.counts.dense if isinstance(self.counts, SparseRows) else self.counts

    @property
    def totals(self) -> Tensor:
        """(n, 1) total counts of the cells."""
        return self.counts.sums() if isinstance(self.counts, SparseRows) else self.counts.sum(1, keepdim=True)

    @property
    def device(self) -> torch.device:
        return self.counts.device

    def to(self, device: torch.device | str) -> Minibatch:
        """The same minibatch on another device."""
        counts = self.counts.to(device) if isinstance(self.counts, SparseRows) else sent(self.counts, device)
        return self._changed(counts, lambda tensor: sent(tensor, device))

    def take(self, rows: Tensor) -> Minibatch:
        """Some of the cells, in any order, also more than once; `rows` are positions (k,)."""
        counts: Counts = (
            self.counts.take(rows.cpu().numpy(), self.counts.starts.cpu().numpy())
            if isinstance(self.counts, SparseRows)
            else self.counts[rows]
        )
        return self._changed(counts, lambda tensor: tensor[rows])

    def _changed(self, counts: Counts, change: Callable[[Tensor], Tensor]) -> Minibatch:
        """Other counts, and every tensor beside them changed."""
        tensors = self.given() if self.indices is None else {**self.given(), "indices": self.indices}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items()}
        if self.kept is not None:
            changed["kept"] = {name: change(tensor) for name, tensor in self.kept.items()}
        return replace(self, counts=counts, **changed)

    def tensors(self) -> list[Tensor]:
        """The five tensors that the 2020 trainers and posteriors pass around."""
        missing = [name for name in ("l_mean", "l_var") if getattr(self, name) is None]
        if missing:
            raise ValueError(f"this minibatch has no {' and no '.join(missing)}: its cells have no library-size prior")
        return [self.x, self.l_mean, self.l_var, self.batch, self.labels]  # type: ignore[list-item]

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor]) -> Minibatch:
        """The inverse of :meth:`tensors`; further tensors (a model's own) are left out."""
        x, l_mean, l_var, batch, labels = tensors[:5]
        return cls(counts=x, batch=batch, labels=labels, l_mean=l_mean, l_var=l_var)
