"""The data sets of 2020, clients of :mod:`scvi.data` and :mod:`scvi.cells`."""

from scvi.cells.cell_data import CellData
from scvi.cells.encode import encode
from scvi.cells.epoch_order import draw_minibatches
from scvi.cells.fingerprint import fingerprint
from scvi.cells.schema import Schema
from scvi.cells.setup import declare
from scvi.cells.uns import register, registered
from scvi.data import (
    download_file,
    read_10x,
    read_brain_large,
    read_cite_seq,
    read_cortex,
    read_h5ad,
    read_hemato,
    read_loom,
    read_seqfish,
    read_seqfishplus,
    to_store,
)
from scvi.dataset.anndataset import AnnDatasetFromAnnData, DownloadableAnnDataset
from scvi.dataset.brain_large import BrainLargeDataset
from scvi.dataset.cite_seq import CbmcDataset, CiteSeqDataset
from scvi.dataset.cortex import CortexDataset
from scvi.dataset.csv import BreastCancerDataset, CsvDataset, MouseOBDataset, read_csv
from scvi.dataset.dataset import CellMeasurement, DownloadableDataset, GeneExpressionDataset
from scvi.dataset.dataset10X import BrainSmallDataset, Dataset10X
from scvi.dataset.hemato import HematoDataset
from scvi.dataset.loom import (
    FrontalCortexDropseqDataset,
    LoomDataset,
    PreFrontalCortexStarmapDataset,
    RetinaDataset,
)
from scvi.dataset.pbmc import PbmcDataset, PurifiedPBMCDataset
from scvi.dataset.seqfish import SeqfishDataset
from scvi.dataset.seqfishplus import SeqFishPlusDataset
from scvi.dataset.smfish import SmfishDataset
from scvi.dataset.synthetic import (
    SyntheticDataset,
    SyntheticDatasetCorr,
    SyntheticRandomDataset,
    ZISyntheticDatasetCorr,
)

__all__ = [
    "AnnDatasetFromAnnData",
    "BrainLargeDataset",
    "BrainSmallDataset",
    "BreastCancerDataset",
    "CbmcDataset",
    "CellData",
    "CellMeasurement",
    "CiteSeqDataset",
    "CortexDataset",
    "CsvDataset",
    "Dataset10X",
    "DownloadableAnnDataset",
    "DownloadableDataset",
    "FrontalCortexDropseqDataset",
    "GeneExpressionDataset",
    "HematoDataset",
    "LoomDataset",
    "MouseOBDataset",
    "PbmcDataset",
    "PreFrontalCortexStarmapDataset",
    "PurifiedPBMCDataset",
    "RetinaDataset",
    "Schema",
    "SeqFishPlusDataset",
    "SeqfishDataset",
    "SmfishDataset",
    "SyntheticDataset",
    "SyntheticDatasetCorr",
    "SyntheticRandomDataset",
    "ZISyntheticDatasetCorr",
    "declare",
    "download_file",
    "draw_minibatches",
    "encode",
    "fingerprint",
    "read_10x",
    "read_brain_large",
    "read_cite_seq",
    "read_cortex",
    "read_csv",
    "read_h5ad",
    "read_hemato",
    "read_loom",
    "read_seqfish",
    "read_seqfishplus",
    "register",
    "registered",
    "to_store",
]
