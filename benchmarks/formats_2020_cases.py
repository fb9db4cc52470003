"""The files of formats_2020.py, the class that reads each, and what is compared of it with the file."""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openpyxl
import pandas as pd
import scipy.sparse as sp
from raw_files import Loom, archive_of, lines_of, numbers, table_of

from scvi.dataset import (
    AnnDatasetFromAnnData,
    BrainLargeDataset,
    BrainSmallDataset,
    BreastCancerDataset,
    CbmcDataset,
    CiteSeqDataset,
    CortexDataset,
    CsvDataset,
    Dataset10X,
    DownloadableAnnDataset,
    FrontalCortexDropseqDataset,
    GeneExpressionDataset,
    HematoDataset,
    LoomDataset,
    MouseOBDataset,
    PbmcDataset,
    PreFrontalCortexStarmapDataset,
    PurifiedPBMCDataset,
    RetinaDataset,
    SeqfishDataset,
    SeqFishPlusDataset,
    SmfishDataset,
    SyntheticRandomDataset,
    read_h5ad,
)
from scvi.dataset.pbmc import PURIFIED

Found = tuple[GeneExpressionDataset, dict[str, bool]]
CASES: list[Case] = []


@dataclass
class Case:
    """Some files, the class that reads them, and what makes the data set and compares it."""

    files: list[str]
    reader: str
    compare: Callable[[Path], Found]


def case(reader: type, *files: str) -> Callable[[Callable[[Path], Found]], Callable[[Path], Found]]:
    """Adds a comparison of these files, named from the folder on; a name may be a pattern."""

    def add(compare: Callable[[Path], Found]) -> Callable[[Path], Found]:
        CASES.append(Case(list(files), reader.__name__, compare))
        return compare

    return add


# ---- what came of it -------------------------------------------------------------------------------------------------


def counts(dataset: GeneExpressionDataset, expected: np.ndarray, genes: Sequence[str] | None) -> dict[str, bool]:
    """Shape, totals, every count and names of genes, and that small counts are an array where they were one."""
    X = dataset.X.toarray() if sp.issparse(dataset.X) else dataset.X
    names = dataset.gene_names
    was_sparse = isinstance(dataset, (Dataset10X, BrainLargeDataset, PbmcDataset, PurifiedPBMCDataset))
    return {
        "shape": X.shape == expected.shape,
        "total": math.isclose(X.sum(dtype=float), expected.sum(), rel_tol=1e-6),
        "counts": X.shape == expected.shape and np.array_equal(X, expected.astype(np.float32)),
        "genes": names is None if genes is None else list(names) == list(genes),
        "layout": sp.issparse(dataset.X) == was_sparse,
        "no empty cell": bool((X.sum(axis=1) > 0).all()),
    }


def words(dataset: GeneExpressionDataset) -> list[str]:
    """Labels in words."""
    return np.asarray(dataset.cell_types)[dataset.labels.ravel()].tolist()


def ranks(codes: Any) -> list[int]:
    return np.unique(np.ravel(codes), return_inverse=True)[1].tolist()


def batches(dataset: GeneExpressionDataset) -> list[int]:
    return dataset.batch_indices.ravel().tolist()


# ---- the files -------------------------------------------------------------------------------------------------------


@case(CortexDataset, "expression.bin")
def cortex(folder: Path) -> Found:
    rows = [line.split("\t") for line in (folder / "expression.bin").read_text().splitlines()]
    classes, subclasses, body = rows[8][2:], rows[9][2:], rows[11:]
    genes, X = [row[0] for row in body], numbers([row[2:] for row in body]).T
    dataset = CortexDataset(str(folder), total_genes=None)
    chosen = CortexDataset(str(folder), genes_to_keep=genes[7:5:-1], total_genes=10)
    deviation = X.std(axis=0)
    others = {gene: value for gene, value in zip(genes, deviation, strict=True) if gene not in genes[6:8]}
    largest = sorted(others.values(), reverse=True)[:8]
    kept = [genes.index(gene) for gene in chosen.gene_names]
    return dataset, {
        **counts(dataset, X, genes),
        "labels": words(dataset) == classes,
        "seven types": dataset.cell_types.tolist() == sorted(set(classes)) and dataset.n_labels == 7,
        "level 2": dataset.precise_labels.tolist() == subclasses[: len(classes)],
        "genes to keep": chosen.gene_names[:2].tolist() == genes[7:5:-1],
        "variable genes": np.allclose([others[gene] for gene in chosen.gene_names[2:]], largest),
        "their counts": np.array_equal(chosen.X, X[:, kept]),
    }


@case(BrainLargeDataset, "brain_large.h5")
def brain_large(folder: Path) -> Found:
    with h5py.File(folder / "brain_large.h5") as file:
        data, indices, indptr, shape = (file[f"mm10/{key}"][()] for key in ("data", "indices", "indptr", "shape"))
    X = np.zeros(shape[::-1])
    for cell in range(len(indptr) - 1):
        for place in range(indptr[cell], indptr[cell + 1]):
            X[cell, indices[place]] += data[place]
    dataset = BrainLargeDataset(save_path=str(folder), sample_size_gene_var=30, loading_batch_size=20)
    genes = dataset.subset_genes  # type: ignore[attr-defined]
    variance = X[:30].var(axis=0)
    return dataset, {
        **counts(dataset, X[:, genes], None),
        "variable genes": np.allclose(variance[genes], np.sort(variance)[::-1][:720]),
    }


@case(BrainSmallDataset, "10X/neuron_9k/filtered_gene_bc_matrices/**/*", "brain_small_metadata.pickle")
def brain_small(folder: Path) -> Found:
    X, genes, barcodes = archive_of(folder / "10X/neuron_9k/filtered_gene_bc_matrices/mm10")
    known = pd.read_pickle(folder / "brain_small_metadata.pickle")
    dataset: Any = BrainSmallDataset(str(folder), str(folder / "10X"))
    raw_qc = known["raw_qc"].loc[barcodes]
    return dataset, {
        **counts(dataset, X, [gene[0] for gene in genes]),
        "barcodes": dataset.barcodes.ravel().tolist() == barcodes,
        "labels": words(dataset) == [str(known["clusters"].loc[barcode, "Cluster"]) for barcode in barcodes],
        "quality": np.array_equal(dataset.raw_qc, raw_qc.to_numpy()) and list(dataset.qc_names) == list(raw_qc),
    }


@case(
    PbmcDataset,
    *("10X/pbmc8k/*.tar.gz", "10X/pbmc4k/*.tar.gz", "pbmc_metadata.pickle", "gene_info_pbmc.csv"),
)
def pbmc(folder: Path) -> Found:
    runs = [archive_of(next((folder / f"10X/{name}").glob("*.tar.gz"))) for name in ("pbmc8k", "pbmc4k")]
    known = pd.read_pickle(folder / "pbmc_metadata.pickle")
    place = {barcode: (run, cell) for run in (1, 0) for cell, barcode in enumerate(runs[run][2])}
    cells = [place[barcode] for barcode in known["barcodes"].index]
    head, *body = lines_of(folder / "gene_info_pbmc.csv", ",")
    info = {row[head.index("ENSG")]: row for row in body}
    genes = [gene[0] for gene in runs[0][1] if gene[0] in info]
    columns = [[gene[0] for gene in run[1]] for run in runs]
    X = np.array([[runs[run][0][cell, columns[run].index(gene)] for gene in genes] for run, cell in cells])
    dataset: Any = PbmcDataset(str(folder), str(folder / "10X"))
    return dataset, {
        **counts(dataset, X, genes),
        "barcodes": dataset.barcodes.ravel().tolist() == known["barcodes"].index.tolist(),
        "batches": batches(dataset) == [run for run, _ in cells],
        "labels": words(dataset) == [known["list_clusters"][code] for code in known["clusters"]],
        "quality": np.array_equal(dataset.raw_qc, known["raw_qc"].to_numpy()),
        "symbols": dataset.de_metadata["GS"].tolist() == [info[gene][head.index("GS")] for gene in genes],
    }


@case(PurifiedPBMCDataset, *(f"10X/{name}/*.tar.gz" for name in PURIFIED))
def purified(folder: Path) -> Found:
    each = [archive_of(next((folder / f"10X/{name}").glob("*.tar.gz"))) for name in PURIFIED]
    X = np.concatenate([part[0] for part in each])
    expressed = X.sum(axis=0) > 0
    genes = [gene[0] for gene, is_in in zip(each[0][1], expressed, strict=True) if is_in]
    of_cell = [name for name, part in zip(PURIFIED, each, strict=True) for _ in part[0]]
    dataset = PurifiedPBMCDataset(str(folder / "10X"))
    return dataset, {
        **counts(dataset, X[:, expressed], genes),
        "labels": words(dataset) == of_cell,
        "batches": batches(dataset) == [PURIFIED.index(name) for name in of_cell],
    }


@case(Dataset10X, "10X/neuron_9k/*.tar.gz")
def neurons(folder: Path) -> Found:
    path = next((folder / "10X/neuron_9k").glob("*.tar.gz"))
    X, genes, barcodes = archive_of(path)
    place = folder / "of an archive"
    place.mkdir()
    shutil.copy(path, place)
    dataset: Any = Dataset10X(filename=path.name, save_path=str(place), measurement_names_column=1)
    return dataset, {
        **counts(dataset, X, [gene[1] for gene in genes]),
        "barcodes": dataset.barcodes.ravel().tolist() == barcodes,
    }


@case(Dataset10X, "10X/pbmc_10k_protein_v3/*.tar.gz")
def proteins(folder: Path) -> Found:
    path = next((folder / "10X/pbmc_10k_protein_v3").glob("*.tar.gz"))
    X, features, barcodes = archive_of(path)
    is_gene = np.array([feature[2] == "Gene Expression" for feature in features])
    kept = X[:, is_gene].sum(axis=1) > 0
    dataset: Any = Dataset10X("pbmc_10k_protein_v3", save_path=str(folder / "10X"))
    names = [feature[0] for feature in features]
    return dataset, {
        **counts(dataset, X[np.ix_(kept, is_gene)], [n for n, g in zip(names, is_gene, strict=True) if g]),
        "barcodes": dataset.barcodes.ravel().tolist() == [b for b, k in zip(barcodes, kept, strict=True) if k],
        "proteins": np.array_equal(dataset.protein_expression, X[np.ix_(kept, ~is_gene)]),
        "their names": list(dataset.protein_names) == [n for n, g in zip(names, is_gene, strict=True) if not g],
    }


@case(Dataset10X, "filtered_gene_bc_matrices/hg19/*")
def tenx_folder(folder: Path) -> Found:
    X, genes, barcodes = archive_of(folder / "filtered_gene_bc_matrices/hg19")
    dataset: Any = Dataset10X(save_path=str(folder / "filtered_gene_bc_matrices"))
    return dataset, {
        **counts(dataset, X, [gene[0] for gene in genes]),
        "barcodes": dataset.barcodes.ravel().tolist() == barcodes,
        "batches": dataset.n_batches == 1,
    }


def cite_seq(folder: Path, make: Callable[[str], Any], name: str) -> Found:
    dataset = make(str(folder / "citeSeq"))
    genes, cells, rna = table_of(folder / f"citeSeq/{name}/{name}_rna.csv.gz")
    human = [i for i, gene in enumerate(genes) if gene.startswith("HUMAN")]
    antibodies, of_adt, adt = table_of(folder / f"citeSeq/{name}/{name}_adt.csv.gz")
    of_clr, clr = table_of(folder / f"citeSeq/{name}/{name}_adt_centered.csv.gz")[1:]
    X = rna[human].T
    kept = [cell for cell, row in zip(cells, X, strict=True) if row.any()]
    return dataset, {
        **counts(dataset, X[X.any(axis=1)], [genes[i].rpartition("_")[2] for i in human]),
        "proteins": np.array_equal(dataset.protein_expression, adt[:, [of_adt.index(cell) for cell in kept]].T),
        "their names": list(dataset.protein_names) == antibodies == list(dataset.protein_names_clr),
        "ratios": np.allclose(dataset.protein_expression_clr, clr[:, [of_clr.index(cell) for cell in kept]].T),
    }


CASES += [
    Case(["citeSeq/cbmc/*"], "CbmcDataset", partial(cite_seq, make=CbmcDataset, name="cbmc")),
    Case(["citeSeq/pbmc/*"], "CiteSeqDataset", partial(cite_seq, make=partial(CiteSeqDataset, "pbmc"), name="pbmc")),
]


def of_table(
    folder: Path, name: str, make: Callable[[str], Any], sep: str = "\t", genes_in_lines: bool = True
) -> Found:
    lines, columns, X = table_of(folder / name, sep)
    genes, X = (lines, X.T) if genes_in_lines else (columns, X)
    return make(str(folder)), counts(make(str(folder)), X[X.any(axis=1)], genes)


def csv_case(name: str, **options: Any) -> Case:
    return Case([name], "CsvDataset", partial(of_table, name=name, make=partial(CsvDataset, name, **options)))


CASES += [
    csv_case("immune_control_expression_matrix.txt", sep="\t", new_n_genes=35635),
    csv_case("immune_stimulated_expression_matrix.txt", sep="\t", new_n_genes=35635),
]
for _name, _class in (
    ("Layer2_BC_count_matrix-1.tsv", BreastCancerDataset),
    ("Rep11_MOB_count_matrix-1.tsv", MouseOBDataset),
):
    CASES.append(Case([_name], _class.__name__, partial(of_table, name=_name, make=_class, genes_in_lines=False)))


@case(CsvDataset, "GSE100866_CBMC_8K_13AB_10X-RNA_umi.csv.gz")
def geo(folder: Path) -> Found:
    name = "GSE100866_CBMC_8K_13AB_10X-RNA_umi.csv.gz"
    return of_table(folder, name, lambda place: CsvDataset(name, place, compression="gzip"), ",")


@case(HematoDataset, "HEMATO/*")
def hemato(folder: Path) -> Found:
    head, *body = lines_of(folder / "HEMATO/bBM.raw_umifm_counts.csv.gz", ",")
    places_head, *places = lines_of(folder / "HEMATO/bBM.spring_and_pba.csv", ",")
    of_place = {row[0]: dict(zip(places_head[1:], map(float, row[1:]), strict=True)) for row in places}
    genes = (folder / "HEMATO/bBM.filtered_gene_list.paper.txt").read_text().split()
    cells = [row for row in body if row[1] != "basal_bm1" and row[0] in of_place]
    X = numbers([[row[head.index(gene)] for gene in genes] for row in cells])
    with zipfile.ZipFile(folder / "HEMATO/data.zip") as archive:
        is_empty = not [name for name in archive.namelist() if not name.endswith("/")]
    dataset: Any = HematoDataset(str(folder / "HEMATO"))
    odds = {name: logits([of_place[row[0]][name] for row in cells]) for name in ("Pr_Gr", "Pr_Er")}
    return dataset, {
        **counts(dataset, X, genes),
        "cells": dataset.meta["cell_id"].tolist() == [row[0] for row in cells],
        "places": np.array_equal(dataset.x_coord, [of_place[row[0]]["x_spring"] for row in cells])
        and np.array_equal(dataset.y_coord, [of_place[row[0]]["y_spring"] for row in cells]),
        "fate": np.allclose(dataset.fate_score, np.subtract(odds["Pr_Gr"], odds["Pr_Er"])),
        "empty archive": is_empty,
    }


def logits(p: Sequence[float]) -> list[float]:
    """Log odds; 0 and 1 stand for the nearest value between them."""
    inner = [value for value in p if 0 < value < 1]
    clipped = [min(max(value, min(inner)), max(inner)) for value in p]
    return [math.log(value / (1 - value)) for value in clipped]


def of_loom(dataset: GeneExpressionDataset, loom: Loom, label: str | None, types: Sequence[str] | None) -> Found:
    """Labels are compared in words where the codes have names, else as codes in order. Empty cells are left out."""
    loom = loom.without_empty_cells()
    checks = counts(dataset, loom.X, loom.genes)
    if "BatchID" in loom.cells:
        checks["batches"] = batches(dataset) == ranks(loom.cells["BatchID"])
    if types is not None and label is not None:
        checks["labels"] = words(dataset) == loom.words(label, types)
    elif label is not None:
        checks["labels"] = dataset.labels.ravel().tolist() == ranks(loom.cells[label])
    return dataset, checks


@case(LoomDataset, "Cortex.loom")
def cortex_loom(folder: Path) -> Found:
    return of_loom(LoomDataset("Cortex.loom", str(folder)), Loom.of(folder / "Cortex.loom"), "ClusterID", None)


def simulation(folder: Path, number: int) -> Found:
    name = f"simulation_{number}.loom"
    loom = Loom.of(folder / "simulation" / name)
    return of_loom(LoomDataset(name, str(folder / "simulation")), loom, "ClusterID", loom.types)


for _number in (1, 2, 3):
    CASES.append(Case([f"simulation/simulation_{_number}.loom"], "LoomDataset", partial(simulation, number=_number)))

BIPOLAR = (
    *("RBC", "MG", "BC5A", "BC7", "BC6", "BC5C", "BC1A", "BC3B", "BC1B", "BC2", "BC5D", "BC3A", "BC5B", "BC4", "BC8_9"),
)


@case(RetinaDataset, "retina.loom")
def retina(folder: Path) -> Found:
    return of_loom(RetinaDataset(str(folder)), Loom.of(folder / "retina.loom"), "ClusterID", BIPOLAR)


@case(FrontalCortexDropseqDataset, "fc-dropseq.loom")
def dropseq(folder: Path) -> Found:
    loom = Loom.of(folder / "fc-dropseq.loom")
    dataset, checks = of_loom(FrontalCortexDropseqDataset(str(folder)), loom, "Clusters", loom.types)
    order = [loom.types[place] for place in (5, 6, 3, 2, 4, 0, 1, 8, 7, 9, 10, 11, 12, 13)]
    genes = loom.genes[20:10:-1]
    chosen = FrontalCortexDropseqDataset(str(folder), genes_to_keep=genes)
    X = loom.X[:, 20:10:-1]
    return dataset, {
        **checks,
        "layers first": dataset.cell_types.tolist() == order,
        "genes to keep": list(chosen.gene_names) == genes and np.array_equal(chosen.X, X),
    }


@case(PreFrontalCortexStarmapDataset, "mpfc-starmap.loom")
def starmap(folder: Path) -> Found:
    loom = Loom.of(folder / "mpfc-starmap.loom")
    dataset: Any = PreFrontalCortexStarmapDataset(str(folder))
    places = np.stack([dataset.x_coord.ravel(), dataset.y_coord.ravel()], axis=1)
    return dataset, {
        **of_loom(dataset, loom, None, None)[1],
        "labels": words(dataset) == loom.cells["Clusters"].tolist(),
        "16 types": dataset.cell_types.tolist() == loom.types,
        "places": np.array_equal(places, loom.cells["Spatial_coordinates"]),
    }


HIGH_LEVEL = {
    **dict.fromkeys((3, 2), "Astrocytes"),
    **dict.fromkeys((7, 26), "Endothelials"),
    **dict.fromkeys((18, 17, 14, 19, 15, 16, 20), "Inhibitory"),
    **dict.fromkeys((29, 28), "Microglias"),
    **dict.fromkeys((32, 33, 30, 22, 21), "Oligodendrocytes"),
    **dict.fromkeys((9, 8, 10, 6, 5, 4, 12, 1, 13), "Pyramidals"),
}


@case(SmfishDataset, "osmFISH_SScortex_mouse_all_cell.loom")
def smfish(folder: Path) -> Found:
    path = folder / "osmFISH_SScortex_mouse_all_cell.loom"
    loom = Loom.of(path)
    kinds = [HIGH_LEVEL.get(int(code)) for code in loom.cells["ClusterID"]]
    kept = [i for i, kind in enumerate(kinds) if kind is not None]
    dataset: Any = SmfishDataset(str(folder))
    whole = SmfishDataset(str(folder), use_high_level_cluster=False)
    elsewhere = folder / "under its name on the web"
    elsewhere.mkdir()
    shutil.copy(path, elsewhere / "osmFISH_SScortex_mouse_all_cells.loom")
    return dataset, {
        **counts(dataset, loom.X[kept], loom.genes),
        "labels": words(dataset) == [kinds[i] for i in kept],
        "six types": dataset.cell_types.tolist() == sorted(set(HIGH_LEVEL.values())),
        "places": dataset.x_coord.ravel().tolist() == loom.cells["X"][kept].tolist(),
        "all clusters": words(whole) == loom.cells["ClusterName"].tolist() and np.array_equal(whole.X, loom.X),
        "first clusters": whole.cell_types[:2].tolist() == ["Excluded", "Pyramidal L6"],
        "other name": np.array_equal(SmfishDataset(str(elsewhere)).X, dataset.X),
    }


@case(SeqfishDataset, "SeqFISH.xlsx")
def seqfish(folder: Path) -> Found:
    rows = list(openpyxl.load_workbook(folder / "SeqFISH.xlsx")["Hippocampus Counts"].iter_rows(values_only=True))
    dataset = SeqfishDataset(str(folder))
    return dataset, counts(dataset, np.array([row[1:] for row in rows]).T, [row[0].strip("'") for row in rows])


def seqfishplus(folder: Path, region: Any, prefix: str) -> Found:
    with zipfile.ZipFile(folder / "seqfishplus.zip") as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    unpacked = {f"sourcedata/{file.name}": file for file in (folder / "seqfishplus/sourcedata").iterdir()}
    head, *body = lines_of(unpacked[f"sourcedata/{prefix}_counts.csv"], ",")
    places_head, *places = lines_of(unpacked[f"sourcedata/{prefix}_cellcentroids.csv"], ",")
    column = {name: [row[i] for row in places] for i, name in enumerate(places_head)}
    dataset: Any = SeqFishPlusDataset(region, str(folder))
    elsewhere = folder / f"packed {prefix}"
    elsewhere.mkdir()
    shutil.copy(folder / "seqfishplus.zip", elsewhere)
    checks = {
        **counts(dataset, numbers([row[1:] for row in body]), head[1:]),
        "places": np.array_equal(dataset.coords, numbers(list(zip(column["X"], column["Y"], strict=True)))),
        "fields": list(map(str, dataset.field_of_view.ravel())) == column["Field of View"],
        "cells": list(map(str, dataset.cell_id.ravel())) == column["Cell ID"],
        "archive": packed == {name: file.read_bytes() for name, file in unpacked.items()}
        and np.array_equal(SeqFishPlusDataset(region, str(elsewhere)).X, dataset.X),
    }
    if "Region" in column:
        checks["region"] = dataset.region.ravel().tolist() == column["Region"]
    del checks["no empty cell"]  # they stay
    return dataset, checks


for _region, _prefix in (("subventricular cortex", "cortex_svz"), ("olfactory bulb", "ob")):
    _files = [f"seqfishplus/sourcedata/{_prefix}_*.csv", "seqfishplus.zip"]
    CASES.append(Case(_files, "SeqFishPlusDataset", partial(seqfishplus, region=_region, prefix=_prefix)))


@case(DownloadableAnnDataset, "TM_droplet_mat.h5ad")
def tabula_muris(folder: Path) -> Found:
    path = folder / "TM_droplet_mat.h5ad"
    with h5py.File(path) as file:
        data, indices, indptr = (file[f"X/{key}"][()] for key in ("data", "indices", "indptr"))
        names = [[name[0].decode() for name in file[axis]] for axis in ("obs", "var")]
    X = np.zeros((len(names[0]), len(names[1])))
    for cell in range(len(X)):
        X[cell, indices[indptr[cell] : indptr[cell + 1]]] = data[indptr[cell] : indptr[cell + 1]]
    dataset = DownloadableAnnDataset("TM_droplet_mat.h5ad", str(folder))
    return dataset, {
        **counts(dataset, X, names[1]),
        "cells": dataset.obs.index.tolist() == names[0],
        "as an AnnData": np.array_equal(AnnDatasetFromAnnData(read_h5ad(path)).X, dataset.X),  # type: ignore[arg-type]
    }


@case(SyntheticRandomDataset, "random_metadata.pickle")
def random(folder: Path) -> Found:
    known = pd.read_pickle(folder / "random_metadata.pickle")
    rng = np.random.RandomState(0)
    X = rng.poisson(rng.gamma(2.0, 2.0, (2000, 10))) * rng.binomial(1, 1 - 0.7, (2000, 10))
    dataset = SyntheticRandomDataset(save_path=str(folder))
    return dataset, {
        **counts(dataset, X[X.any(axis=1)], None),
        "labels": dataset.labels.ravel().tolist() == ranks(known["clusters"]),
        "embedding": np.array_equal(dataset.simlr_metadata["ydata"], known["ydata"]),
    }
