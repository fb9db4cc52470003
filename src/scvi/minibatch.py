"""The one record that crosses from the data to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from scvi.kernels import Counts, SparseRows
from scvi.kernels.rows import sent

__all__ = ["Minibatch"]


@dataclass(frozen=True, slots=True, eq=False)
class Minibatch:
    """Cells drawn for one step: n cells, g genes.

    Codes are integer columns, never one-hot; what a data set does not have is None.
    """

    counts: Counts  # (n, g) float32, as sparse rows or dense
    batch: Tensor  # (n, 1) int64 codes of the experimental batch
    labels: Tensor  # (n, 1) int64 codes of the cell type, -1 where it is not known
    l_mean: Tensor | None = None  # (n, 1) prior mean of the log library size
    l_var: Tensor | None = None  # (n, 1) its variance
    log_size: Tensor | None = None  # (n, 1) log of a given size factor; None: the cell's total is the size
    continuous: Tensor | None = None  # (n, c) continuous covariates, standardised
    categorical: Tensor | None = None  # (n, m) int64 codes, a column for each categorical covariate
    indices: Tensor | None = None  # (n,) int64 positions of the cells in their data set
    kept: Mapping[str, Tensor] | None = None  # (n, .) what a model keeps of cells whose counts were dropped, by name
    proteins: Tensor | None = None  # (n, p) float32 counts of proteins; 0 where they were not measured
    measured: Tensor | None = None  # (n, p) bool, which of them were measured; None: all
    dataset: int = 0  # number of the data set the cells are from, for models of several

    def __len__(self) -> int:
        return self.counts.shape[0]

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
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, SparseRows) else sent(value, device)
            for name, value in given.items()
            if isinstance(value, (SparseRows, Tensor))
        }
        if self.kept is not None:
            moved["kept"] = {name: sent(value, device) for name, value in self.kept.items()}
        return replace(self, **moved)

    def take(self, rows: Tensor) -> Minibatch:
        """Some of the cells, in any order, also more than once; `rows` are positions (k,)."""
        if isinstance(self.counts, SparseRows):
            counts: Counts = self.counts.take(rows.cpu().numpy(), self.counts.starts.cpu().numpy())
        else:
            counts = self.counts[rows]
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "counts"}
        others: dict[str, Any] = {name: t[rows] for name, t in given.items() if isinstance(t, Tensor)}
        if self.kept is not None:
            others["kept"] = {name: t[rows] for name, t in self.kept.items()}
        return replace(self, counts=counts, **others)

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
