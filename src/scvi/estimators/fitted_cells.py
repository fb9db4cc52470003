"""The cells that a fit saw, by name: found again among other cells, or the same ones in another order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scvi.cells.fingerprint import digest_of_names

_NAMES, _ENDS = "names", "ends"  # in a file: all names in one text, and where each ends


class FittedCells:
    """Cells of one side of a split.

    Parameters
    ----------
    names
        Their names, but for those that another cell of that fit has as well; None where an earlier version did not
        write them down.
    positions
        (k,) where they were among all cells of that fit.
    among
        Digest of the names of all these, in their order, see :func:`scvi.cells.fingerprint.digest_of_names`.
    """

    def __init__(self, names: np.ndarray | None, positions: np.ndarray, among: str) -> None:
        self.names, self.positions, self.among = names, positions, among
        self._found: tuple[pd.Index, np.ndarray] | None = None  # the last answer

    @classmethod
    def of(cls, cell_names: np.ndarray, *sides: np.ndarray) -> list[Self]:
        """The cells at the positions of each side of a split of all cells."""
        among, names = digest_of_names(cell_names), pd.Index(cell_names.astype(str))
        is_shared = names.duplicated(keep=False)
        return [cls(names[side[~is_shared[side]]].to_numpy(), side, among) for side in sides]

    def tensors(self) -> dict[str, Tensor]:
        """What goes into a file."""
        found = {"": torch.as_tensor(self.positions)}
        if self.names is not None:
            encoded = [name.encode("utf-8", "surrogatepass") for name in self.names]
            ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
            text = np.frombuffer(b"".join(encoded), dtype=np.uint8).copy()
            found |= {_NAMES: torch.from_numpy(text), _ENDS: torch.from_numpy(ends)}
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], among: str) -> Self:
        """The inverse of :meth:`tensors`.

        Raises
        ------
        ValueError
            If they are no positions and names of cells.
        """
        positions = tensors[""]
        if positions.dtype != torch.int64 or positions.dim() != 1 or bool((positions < 0).any()):
            raise ValueError("positions are not whole numbers from 0 on")
        if _NAMES not in tensors:
            return cls(None, positions.numpy(), among)
        text, ends = tensors[_NAMES], tensors[_ENDS].tolist()
        starts = [0, *ends[:-1]]
        if text.dtype != torch.uint8 or [0, *ends] != sorted([0, *ends]) or [0, *ends][-1] != len(text):
            raise ValueError("names do not follow one another")
        content = text.numpy().tobytes()
        found = [content[start:end].decode("utf-8", "surrogatepass") for start, end in zip(starts, ends, strict=False)]
        return cls(np.array(found, dtype=object), positions.numpy(), among)

    def within(self, cells: pd.Index | None) -> np.ndarray:
        """Positions of those that are among other cells, in ascending order unless all cells are the same.

        A name that more than one cell has says nothing, unless the names of all cells are the same in the same order.
        Where there are no cells, none is found.
        """
        if cells is None:
            return np.empty(0, np.int64)
        if self._found is None or self._found[0] is not cells:
            self._found = cells, self._search(cells)
        return self._found[1]

    def _search(self, cells: pd.Index) -> np.ndarray:
        if self.names is None or digest_of_names(cells) == self.among:
            return self.positions
        there = pd.Index(cells.astype(str))
        return np.flatnonzero(there.isin(self.names) & ~there.duplicated(keep=False))
