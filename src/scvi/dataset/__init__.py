"""From files and AnnData to :class:`CellData`."""

from .anndataset import AnnDatasetFromAnnData, DownloadableAnnDataset
from .brain_large import BrainLargeDataset, read_brain_large
from .cell_data import CellData, Schema, declare, draw_minibatches, encode, fingerprint, register, registered
from .cite_seq import CbmcDataset, CiteSeqDataset, read_cite_seq
from .cortex import CortexDataset, read_cortex
from .csv import BreastCancerDataset, CsvDataset, MouseOBDataset, read_csv
from .dataset import CellMeasurement, DownloadableDataset, GeneExpressionDataset
from .dataset10X import BrainSmallDataset, Dataset10X
from .download import download_file
from .h5ad import read_h5ad
from .hemato import HematoDataset, read_hemato
from .loom import FrontalCortexDropseqDataset, LoomDataset, PreFrontalCortexStarmapDataset, RetinaDataset, read_loom
from .pbmc import PbmcDataset, PurifiedPBMCDataset
from .seqfish import SeqfishDataset, read_seqfish
from .seqfishplus import SeqFishPlusDataset, read_seqfishplus
from .smfish import SmfishDataset
from .store import to_store
from .synthetic import SyntheticDataset, SyntheticDatasetCorr, SyntheticRandomDataset, ZISyntheticDatasetCorr
from .tenx import read_10x

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
