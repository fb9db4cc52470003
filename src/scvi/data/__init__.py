"""From files to AnnData: raw counts, cells x genes. Knows no model."""

from scvi.data.cite_seq_10x import organize_cite_seq_10x
from scvi.data.cite_seq_data_sets import pbmc_seurat_v4_cite_seq, pbmcs_10x_cite_seq, spleen_lymph_cite_seq
from scvi.data.csv import read_csv, read_text
from scvi.data.data_sets import (
    brainlarge_dataset,
    breast_cancer_dataset,
    cortex,
    dataset_10x,
    frontalcortex_dropseq,
    heart_cell_atlas_subsampled,
    mouse_ob_dataset,
    pbmc_dataset,
    prefrontalcortex_starmap,
    purified_pbmc_dataset,
    retina,
    smfish,
)
from scvi.data.download import download_file
from scvi.data.h5ad import read_h5ad
from scvi.data.loom import read_loom
from scvi.data.poisson_genes import poisson_gene_selection
from scvi.data.published_blood import read_cite_seq, read_hemato, read_pbmc
from scvi.data.published_brain import read_brain_large, read_cortex
from scvi.data.published_fish import read_seqfish, read_seqfishplus, read_smfish
from scvi.data.store import to_store
from scvi.data.synthetic import synthetic_iid
from scvi.data.tenx import read_10x

__all__ = [
    "brainlarge_dataset",
    "breast_cancer_dataset",
    "cortex",
    "dataset_10x",
    "download_file",
    "frontalcortex_dropseq",
    "heart_cell_atlas_subsampled",
    "mouse_ob_dataset",
    "organize_cite_seq_10x",
    "pbmc_dataset",
    "pbmc_seurat_v4_cite_seq",
    "pbmcs_10x_cite_seq",
    "poisson_gene_selection",
    "prefrontalcortex_starmap",
    "purified_pbmc_dataset",
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
    "read_text",
    "retina",
    "smfish",
    "spleen_lymph_cite_seq",
    "synthetic_iid",
    "to_store",
]
