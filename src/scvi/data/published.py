"""Where the data sets were published: the one table of addresses, with size and checksum where they are known.

The addresses of the data sets of 2020 are as published then; some hosts have moved since. A file that is placed by hand
under `filename` in the folder of the data set is read as if it had been downloaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scvi._checks import check_choice


@dataclass(frozen=True)
class PublishedFile:
    """A file on the web.

    Attributes
    ----------
    url
        Address, as published.
    filename
        Name in the folder of the data set.
    size
        Bytes; None if not known.
    sha256
        Hexadecimal checksum; None if not known.
    other_name
        Another name that the file had in 2020, at its address or in a folder.
    """

    url: str
    filename: str
    size: int | None = None
    sha256: str | None = None
    other_name: str | None = None

    def name_in(self, folder: str | os.PathLike[str]) -> str:
        """The name under which it lies in a folder; its own, if it is not there."""
        names = [name for name in (self.filename, self.other_name) if name is not None]
        return next((name for name in names if (Path(folder) / name).exists()), self.filename)


_LINNARSSON = "https://storage.googleapis.com/linnarsson-lab-www-blobs/blobs"
_TENX = "http://cf.10xgenomics.com/samples/cell-exp"
_YOSEF = "https://github.com/YosefLab/scVI-data/raw/master"
_SCVERSE = "https://exampledata.scverse.org/scvi-tools"
_SPATIAL = "http://www.spatialtranscriptomicsresearch.org/wp-content/uploads/2016/07"
_GEO = "https://www.ncbi.nlm.nih.gov/geo/download"
_GEO_SERIES = "ftp://ftp.ncbi.nlm.nih.gov/geo/series/GSE100nnn/GSE100866/suppl/GSE100866"

FILES: dict[str, PublishedFile] = {
    "cortex": PublishedFile(f"{_LINNARSSON}/cortex/expression_mRNA_17-Aug-2014.txt", "expression.bin"),
    "brain_large": PublishedFile(
        f"{_TENX}/1.3.0/1M_neurons/1M_neurons_filtered_gene_bc_matrices_h5.h5", "brain_large.h5"
    ),
    "brain_small_metadata": PublishedFile(f"{_YOSEF}/brain_small_metadata.pickle", "brain_small_metadata.pickle"),
    "pbmc_gene_info": PublishedFile(f"{_YOSEF}/gene_info.csv", "gene_info_pbmc.csv"),
    "pbmc_metadata": PublishedFile(f"{_YOSEF}/pbmc_metadata.pickle", "pbmc_metadata.pickle"),
    "random_metadata": PublishedFile(f"{_YOSEF}/random_metadata.pickle", "random_metadata.pickle"),
    "breast_cancer": PublishedFile(f"{_SPATIAL}/Layer2_BC_count_matrix-1.tsv", "Layer2_BC_count_matrix-1.tsv"),
    "mouse_ob": PublishedFile(f"{_SPATIAL}/Rep11_MOB_count_matrix-1.tsv", "Rep11_MOB_count_matrix-1.tsv"),
    "hemato_counts": PublishedFile(
        f"{_GEO}/?acc=GSM2388072&format=file&file=GSM2388072%5Fbasal%5Fbone%5Fmarrow%2Eraw%5Fumifm%5Fcounts%2Ecsv%2Egz",
        "bBM.raw_umifm_counts.csv.gz",
    ),
    "hemato_data": PublishedFile(
        "https://github.com/romain-lopez/scVI-reproducibility/raw/master/additional/data.zip", "data.zip"
    ),
    "retina": PublishedFile(f"{_YOSEF}/retina.loom", "retina.loom"),
    "starmap": PublishedFile(f"{_YOSEF}/mpfc-starmap.loom", "mpfc-starmap.loom"),
    "dropseq": PublishedFile(f"{_YOSEF}/fc-dropseq.loom", "fc-dropseq.loom"),
    "smfish": PublishedFile(
        "http://linnarssonlab.org/osmFISH/osmFISH_SScortex_mouse_all_cells.loom",
        "osmFISH_SScortex_mouse_all_cell.loom",
        other_name="osmFISH_SScortex_mouse_all_cells.loom",
    ),
    "seqfish": PublishedFile("https://www.cell.com/cms/attachment/2080562255/2072099886/mmc6.xlsx", "SeqFISH.xlsx"),
    "seqfishplus": PublishedFile(
        "https://github.com/CaiGroup/seqFISH-PLUS/raw/master/sourcedata.zip", "seqfishplus.zip"
    ),
}

_H5AD = {
    "retina_h5ad": f"{_SCVERSE}/retina.h5ad",
    "starmap_h5ad": f"{_SCVERSE}/mpfc-starmap.h5ad",
    "dropseq_h5ad": f"{_SCVERSE}/fc-dropseq.h5ad",
    "heart": f"{_YOSEF}/hca_subsampled_20k.h5ad",
    "cite_seq_pbmc10k": f"{_YOSEF}/pbmc_10k_protein_v3.h5ad",
    "cite_seq_pbmc5k": f"{_YOSEF}/pbmc_5k_protein_v3.h5ad",
    "cite_seq_sln111": f"{_YOSEF}/sln_111.h5ad",
    "cite_seq_sln208": f"{_YOSEF}/sln_208.h5ad",
    "cite_seq_seurat_v4": f"{_SCVERSE}/pbmc_seurat_v4.h5ad",
    "purified_pbmc": f"{_YOSEF}/PurifiedPBMCDataset.h5ad",
}
FILES |= {_name: PublishedFile(_url, _url.rpartition("/")[2]) for _name, _url in _H5AD.items()}

CITE_SEQ = {"cbmc": "CBMC_8K_13AB_10X", "pbmc": "PBMC_vs_flow_10X", "cd8": "CD8_merged"}
"""Names of the CITE-seq experiments of GSE100866, and what they are called there."""

for _name, _series in CITE_SEQ.items():
    FILES |= {
        f"cite_seq_{_name}_rna": PublishedFile(f"{_GEO_SERIES}_{_series}-RNA_umi.csv.gz", f"{_name}_rna.csv.gz"),
        f"cite_seq_{_name}_adt": PublishedFile(f"{_GEO_SERIES}_{_series}-ADT_umi.csv.gz", f"{_name}_adt.csv.gz"),
        f"cite_seq_{_name}_adt_centered": PublishedFile(
            f"{_GEO_SERIES}_{_series}-ADT_clr-transformed.csv.gz", f"{_name}_adt_centered.csv.gz"
        ),
    }

PURIFIED = (
    *("cd4_t_helper", "regulatory_t", "naive_t", "memory_t", "cytotoxic_t", "naive_cytotoxic", "b_cells", "cd34"),
    *("cd56_nk", "cd14_monocytes"),
)
"""Types of blood cells that were purified, each of which is a data set of 10x Genomics."""

TENX_GROUPS: dict[str, tuple[str, ...]] = {
    "1.1.0": (
        *("frozen_pbmc_donor_a", "frozen_pbmc_donor_b", "frozen_pbmc_donor_c", "fresh_68k_pbmc_donor_a"),
        *("cd14_monocytes", "b_cells", "cd34", "cd56_nk", "cd4_t_helper", "regulatory_t", "naive_t", "memory_t"),
        *("cytotoxic_t", "naive_cytotoxic"),
    ),
    "2.1.0": ("pbmc8k", "pbmc4k", "t_3k", "t_4k", "neuron_9k"),
    "3.0.0": (
        *(
            "pbmc_1k_protein_v3",
            "pbmc_10k_protein_v3",
            "malt_10k_protein_v3",
            "pbmc_1k_v2",
            "pbmc_1k_v3",
            "pbmc_10k_v3",
        ),
        *("hgmm_1k_v2", "hgmm_1k_v3", "hgmm_5k_v3", "hgmm_10k_v3", "neuron_1k_v2", "neuron_1k_v3", "neuron_10k_v3"),
        *("heart_1k_v2", "heart_1k_v3", "heart_10k_v3"),
    ),
    "3.1.0": ("5k_pbmc_protein_v3", "5k_pbmc_protein_v3_nextgem"),
}
"""Names of the data sets of 10x Genomics, by the version of Cell Ranger that they were published under."""


def published(*names: str) -> tuple[list[str], list[str]]:
    """Addresses and names of the files that are listed under these names."""
    return [FILES[name].url for name in names], [FILES[name].filename for name in names]


def tenx_file(name: str, type: Literal["filtered", "raw"] = "filtered") -> PublishedFile:
    """The archive of matrices of a data set of 10x Genomics.

    Raises
    ------
    KeyError
        For a name that is in no group.
    ValueError
        For another type.
    """
    check_choice("type", type, ("filtered", "raw"))
    groups = [group for group, names in TENX_GROUPS.items() if name in names]
    if not groups:
        known = sorted(name for names in TENX_GROUPS.values() for name in names)
        raise KeyError(f"dataset_name={name!r} is not one of {known}")
    matrices = "feature_bc_matrix" if groups[0].startswith("3.") else "gene_bc_matrices"
    filename = f"{type}_{matrices}.tar.gz"
    return PublishedFile(f"{_TENX}/{groups[0]}/{name}/{name}_{filename}", filename)


def known_file(url: str) -> PublishedFile | None:
    """What is listed of an address."""
    return _BY_URL.get(url)


_BY_URL = {file.url: file for file in FILES.values()}
