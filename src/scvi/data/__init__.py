"""From files to AnnData: raw counts, cells x genes. Knows no model."""

from scvi.data.brain_large import read_brain_large
from scvi.data.cite_seq import read_cite_seq
from scvi.data.csv import read_csv
from scvi.data.download import download_file
from scvi.data.fish import read_seqfish, read_seqfishplus, read_smfish
from scvi.data.h5ad import read_h5ad
from scvi.data.hemato import read_hemato
from scvi.data.loom import read_loom
from scvi.data.pbmc import read_pbmc
from scvi.data.store import to_store
from scvi.data.tenx import read_10x
from scvi.data.zeisel_cortex import read_cortex

__all__ = [
    "download_file",
    "read_10x",
    "read_brain_large",
    "read_cite_seq",
    "read_cortex",
    "read_csv",
    "read_h5ad",
    "read_hemato",
    "read_loom",
    "read_pbmc",
    "read_seqfish",
    "read_seqfishplus",
    "read_smfish",
    "to_store",
]
