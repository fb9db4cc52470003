"""From files and AnnData to :class:`CellData`."""

from .cell_data import CellData, Schema, declare, draw_minibatches, encode, fingerprint, register, registered

__all__ = [
    "CellData",
    "Schema",
    "declare",
    "draw_minibatches",
    "encode",
    "fingerprint",
    "register",
    "registered",
]
