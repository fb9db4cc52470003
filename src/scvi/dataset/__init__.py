"""From files and AnnData to :class:`CellData`."""

from .anndataset import AnnDatasetFromAnnData
from .cell_data import CellData, Schema, declare, draw_minibatches, encode, fingerprint, register, registered
from .dataset import CellMeasurement, DownloadableDataset, GeneExpressionDataset
from .synthetic import SyntheticDataset

__all__ = [
    "AnnDatasetFromAnnData",
    "CellData",
    "CellMeasurement",
    "DownloadableDataset",
    "GeneExpressionDataset",
    "Schema",
    "SyntheticDataset",
    "declare",
    "draw_minibatches",
    "encode",
    "fingerprint",
    "register",
    "registered",
]
