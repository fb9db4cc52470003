"""From files to AnnData; knows no model."""

from scvi.data.download import download_file
from scvi.data.h5ad import read_h5ad
from scvi.data.store import to_store
from scvi.data.tenx import read_10x

__all__ = ["download_file", "read_10x", "read_h5ad", "to_store"]
