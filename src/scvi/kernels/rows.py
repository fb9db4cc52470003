"""Counts of some cells as they cross from the data to a model: sparse until something needs them dense."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device; what goes to a GPU is not waited for, what comes from one is."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """The numbers of tensors on the CPU, row by row, as compiled code reads them; no copy of what lies like that.

    What compiled code is to write into has to lie like that.
    """
    return [_array(t) for t in tensors]


def _array(tensor: Tensor) -> np.ndarray:
    """Each of the operations that may be left out takes as long as a small kernel."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.numpy() if tensor.is_contiguous() else tensor.contiguous().numpy()


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """(n + 1,) int64: where each of n rows of entries starts, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows of counts, n cells and g genes, of which only the entries that are not zero are stored.

    Where a model asks for no more than what is here (`log1p`, `sum`, `shape`, `device`), it takes a dense tensor as
    well.
    """

    starts: Tensor  # (n + 1,) int64: row i has the entries starts[i] to starts[i + 1]
    genes: Tensor  # (entries,) int32, each gene at most once in a row
    values: Tensor  # (entries,) float32
    n_genes: int
    totals: Tensor | None = None  # (n, 1) sums of the rows, where they are known

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), self.n_genes))

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def density(self) -> float:
        """Share of the entries that are stored."""
        return len(self.values) / max(1, len(self) * self.n_genes)

    @cached_property
    def cells(self) -> Tensor:
        """(entries,) int64 row of each entry."""
        rows = torch.arange(len(self), device=self.device)
        # The length of the result is known: it need not be asked of the device.
        return rows.repeat_interleave(self.starts.diff(), output_size=len(self.values))

    @cached_property
    def dense(self) -> Tensor:
        """(n, g) float32; made once, not to be changed in place."""
        out = torch.zeros(len(self) * self.n_genes, dtype=self.values.dtype, device=self.device)
        return out.index_copy_(0, self.cells * self.n_genes + self.genes, self.values).view(self.shape)

    def log1p(self) -> SparseRows:
        """log(1 + x), which leaves zeros at zero."""
        return replace(self, values=torch.log1p(self.values), totals=None)

    def over(self, sizes: Tensor) -> SparseRows:
        """Every row over its own of `sizes`, (n, 1)."""
        return replace(self, values=self.values / sizes[self.cells, 0], totals=None)

    def rounded(self) -> SparseRows:
        """The nearest integers, halves to the even one."""
        values = self.values.round()
        is_kept = values != 0
        kept = torch.cat([torch.zeros(1, dtype=torch.int64, device=self.device), is_kept.cumsum(0)])
        return SparseRows(kept[self.starts], self.genes[is_kept], values[is_kept], self.n_genes)

    def sums(self) -> Tensor:
        """(n, 1) sums of the rows."""
        if self.totals is not None:
            return self.totals
        return torch.segment_reduce(self.values, "sum", lengths=self.starts.diff(), unsafe=True).unsqueeze(1)

    def take(self, rows: np.ndarray, starts: np.ndarray) -> SparseRows:
        """Some rows in any order, gathered on the device without waiting for it.

        Parameters
        ----------
        rows
            (k,) positions.
        starts
            `starts` of these rows in the memory of the host, which says how long the result is.
        """
        lengths = starts[rows + 1] - starts[rows]
        ends = starts_of(lengths)
        on_device = sent(torch.from_numpy(np.stack([starts[rows] - ends[:-1], lengths, rows])), self.device)
        shift = on_device[0].repeat_interleave(on_device[1], output_size=int(ends[-1]))
        entries = shift + torch.arange(int(ends[-1]), device=self.device)
        return SparseRows(
            sent(torch.from_numpy(ends), self.device),
            self.genes[entries],
            self.values[entries],
            self.n_genes,
            None if self.totals is None else self.totals[on_device[2]],
        )

    def to(self, device: torch.device | str) -> SparseRows:
        """The same rows on another device."""
        starts, genes, values = (sent(t, device) for t in (self.starts, self.genes, self.values))
        totals = None if self.totals is None else sent(self.totals, device)
        return SparseRows(starts, genes, values, self.n_genes, totals)

    @classmethod
    def of(cls, dense: Tensor) -> SparseRows:
        """The entries of (n, g) that are not zero."""
        cells, genes = dense.nonzero(as_tuple=True)
        starts = torch.zeros(dense.shape[0] + 1, dtype=torch.int64, device=dense.device)
        torch.cumsum(torch.count_nonzero(dense, dim=1), 0, out=starts[1:])
        return cls(starts, genes.int(), dense[cells, genes], dense.shape[1])
