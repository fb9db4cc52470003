"""All counts in the memory of a GPU: minibatches are gathered there, and the CPU sends positions only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from scvi.cells.storage import Rows
from scvi.kernels import SparseRows, rows_to_sparse

__all__ = ["Resident", "fits"]

_SHARE = 0.5  # of the free memory of a device that counts may take
_ENTRY_BYTES = 8  # a gene and a value
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Resident:
    """Counts (n, g) of the genes that are read, on a device."""

    rows: SparseRows
    starts: np.ndarray  # (n + 1,) as `rows.starts`, in the memory of the host

    @property
    def shape(self) -> torch.Size:
        return self.rows.shape

    def take(self, cells: np.ndarray) -> SparseRows:
        """Cells in any order, on the device."""
        return self.rows.take(cells, self.starts)

    @classmethod
    def of(cls, counts: Rows, columns: np.ndarray | None, n_genes: int, device: torch.device) -> Resident:
        """`columns` as in :func:`scvi.kernels.rows_to_sparse`."""
        n = counts.shape[0]
        parts = [
            rows_to_sparse(counts, np.arange(start, min(start + _ROWS_AT_ONCE, n)), columns, n_genes).to(device)
            for start in range(0, n, _ROWS_AT_ONCE)
        ]
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), *(part.starts.diff().cpu() for part in parts)]).cumsum(0)
        joined = [torch.cat([getattr(part, name) for part in parts]) for name in ("genes", "values", "totals")]
        return cls(SparseRows(starts.to(device), joined[0], joined[1], n_genes, joined[2]), starts.numpy())


def fits(counts: Rows, device: torch.device) -> bool:
    """Whether a device has room for counts beside a model; only CUDA devices are asked."""
    if device.type != "cuda":
        return False
    entries = np.count_nonzero(counts) if isinstance(counts, np.ndarray) else counts.nnz
    return bool(entries * _ENTRY_BYTES <= _SHARE * torch.cuda.mem_get_info(device)[0])
