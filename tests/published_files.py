"""The files of the published data sets, small, in their formats and under their names."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

import formats

X = formats.counts(40, 12, seed=3)
N, G = X.shape
IDS, GENES = formats.names(G)


def cortex(folder: Path) -> dict[str, Any]:
    types = np.array(["interneurons", "pyramidal SS", "microglia"])[np.arange(N) % 3]
    subtypes = [f"Sub{i % 5}" for i in range(N)]
    (folder / "expression.bin").write_bytes(formats.cortex_text(X, types, subtypes, GENES, beyond=3))
    return {"types": types, "subtypes": subtypes}


def brain_large(folder: Path) -> dict[str, Any]:
    formats.write_10x_h5(folder / "brain_large.h5", X, version=2, genome="mm10")
    return {}


def tenx(folder: Path, name: str, seed: int, cells: list[str] | None = None) -> sp.csr_matrix:
    """The archive of a data set in its folder."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    counts = formats.counts(N, G, seed=seed)
    source = formats.write_10x_v2(folder / f".{name}", counts, cells or formats.barcodes(N, seed=seed))
    formats.tar_of(folder / name / "filtered_gene_bc_matrices.tar.gz", source, "filtered_gene_bc_matrices/GRCh38")
    for file in source.iterdir():
        file.unlink()
    source.rmdir()
    return counts


def brain_small(folder: Path) -> dict[str, Any]:
    counts = tenx(folder, "neuron_9k", 5)
    cells = formats.barcodes(N, seed=5)
    order = np.random.default_rng(0).permutation(N)
    clusters = pd.Series(np.arange(N) % 4 + 1, index=cells)
    metrics = pd.DataFrame(np.arange(N * 3.0).reshape(N, 3), index=cells, columns=["num_umi", "num_reads", "mapped"])
    metadata = {"clusters": clusters.iloc[order], "raw_qc": metrics.iloc[order]}
    (folder / "brain_small_metadata.pickle").write_bytes(pickle.dumps(metadata, 2))
    return {"counts": counts, "clusters": clusters, "metrics": metrics}


def pbmc(folder: Path) -> dict[str, Any]:
    """Cell 0 of the second run has the barcode of cell 1 of the first."""
    first = formats.barcodes(N, seed=8)
    second = [first[1], *formats.barcodes(N - 1, seed=4)]
    counts = [tenx(folder, "pbmc8k", 8, first), tenx(folder, "pbmc4k", 4, second)]
    kept = [*first[5:], first[1], f"{first[1]}1", *second[3:]]  # a different order, cells left out, the repeated one
    n = len(kept)
    names = ["B cells", "CD14+ Monocytes", "CD4 T cells", "Other"]
    metadata = {
        "barcodes": pd.DataFrame({"x": np.zeros(n)}, index=kept),
        "clusters": np.arange(n) % 3,
        "list_clusters": names,
        "design": pd.DataFrame({"run": ["a"] * n, "depth": np.arange(n)}),
        "raw_qc": pd.DataFrame(np.arange(2.0 * n).reshape(n, 2), columns=["num_umi", "num_reads"]),
        "qc_pc": np.arange(2.0 * n).reshape(n, 2),
        "normalized_qc": np.arange(3.0 * n).reshape(n, 3),
    }
    (folder / "pbmc_metadata.pickle").write_bytes(pickle.dumps(metadata))
    info = pd.DataFrame({"ENSG": [IDS[7], IDS[2], IDS[5], "ENSG_none"], "GS": list("abcd"), "CD_logFC": range(4)})
    info.to_csv(folder / "gene_info_pbmc.csv", index=False)
    return {"counts": counts, "first": first, "second": second, "kept": kept, "names": names, "info": info}


PURIFIED = (
    *("cd4_t_helper", "regulatory_t", "naive_t", "memory_t", "cytotoxic_t", "naive_cytotoxic", "b_cells", "cd34"),
    *("cd56_nk", "cd14_monocytes"),
)


def purified(folder: Path) -> dict[str, Any]:
    for seed, name in enumerate(PURIFIED):
        tenx(folder, name, seed)
    return {}


def cite_seq(folder: Path, name: str = "cbmc") -> dict[str, Any]:
    (folder / name).mkdir(parents=True, exist_ok=True)
    cells, proteins = formats.barcodes(N, seed=1), ["CD3", "CD4", "CD8"]
    genes = [f"HUMAN_{gene}" for gene in GENES[:9]] + [f"MOUSE_{gene}" for gene in GENES[9:]]
    adt = np.random.default_rng(0).poisson(20, (3, N))
    clr = np.random.default_rng(1).normal(size=(3, N))
    order = np.random.default_rng(2).permutation(N)  # of the cells in the last table
    for part, content in {
        "rna": formats.table(X.T.toarray(), genes, cells),
        "adt": formats.table(adt, proteins, cells),
        "adt_centered": formats.table(clr[:, order], proteins, np.array(cells)[order]),
    }.items():
        (folder / name / f"{name}_{part}.csv.gz").write_bytes(gzip.compress(content))
    return {"adt": adt, "clr": clr, "proteins": proteins}


def hemato(folder: Path) -> dict[str, Any]:
    cells = [f"c{i}" for i in range(N)]
    libraries = np.array(["basal_bm1", "basal_bm2", "basal_bm3"])[np.arange(N) % 3]
    counts = pd.DataFrame(X.toarray(), columns=GENES)
    counts.insert(0, "library_id", libraries)
    counts.insert(0, "cell_id", cells)
    (folder / "bBM.raw_umifm_counts.csv.gz").write_bytes(gzip.compress(counts.to_csv(index=False).encode()))
    rng = np.random.default_rng(0)
    spring = pd.DataFrame({"cell_id": cells[::-1][:-4], "x_spring": rng.random(N - 4), "y_spring": rng.random(N - 4)})
    spring["Potential"] = rng.random(N - 4)
    for name in ("Pr_Er", "Pr_Gr", "Pr_Ly", "Pr_DC", "Pr_Mk", "Pr_Mo", "Pr_Ba"):
        spring[name] = rng.random(N - 4)
    spring.loc[0, "Pr_Er"], spring.loc[1, "Pr_Gr"] = 0.0, 1.0
    wanted = [GENES[8], GENES[1], GENES[4], "not measured"]
    formats.zipped(
        folder / "data.zip",
        {
            "data/bBM.spring_and_pba.csv": spring.to_csv(index=False).encode(),
            "data/bBM.filtered_gene_list.paper.txt": "\r\n".join(wanted).encode(),
        },
    )
    return {"spring": spring.set_index("cell_id"), "libraries": libraries, "genes": wanted[:3]}


def seqfish(folder: Path) -> dict[str, Any]:
    frame = pd.DataFrame(X.T.toarray(), index=[f"'{gene}'" for gene in GENES])
    with pd.ExcelWriter(folder / "SeqFISH.xlsx", engine="openpyxl") as writer:
        pd.DataFrame({"a": [1]}).to_excel(writer, sheet_name="Cover")
        frame.to_excel(writer, sheet_name="Hippocampus Counts", header=False)
    return {}


def seqfishplus(folder: Path) -> dict[str, Any]:
    members, places = {}, np.arange(2.0 * N).reshape(N, 2)
    for prefix in ("cortex_svz", "ob"):
        frame = pd.DataFrame(
            {"Field of View": np.arange(N) % 5, "Cell ID": range(N), "X": places[:, 0], "Y": places[:, 1]}
        )
        if prefix == "cortex_svz":
            frame["Region"] = "Cortex"
        counts = pd.DataFrame(X.toarray(), columns=GENES)
        members[f"sourcedata/{prefix}_counts.csv"] = counts.to_csv().encode()  # a column without a name comes first
        members[f"sourcedata/{prefix}_cellcentroids.csv"] = frame.to_csv().encode()
    formats.zipped(folder / "seqfishplus.zip", members)
    return {"places": places}


def random_metadata(folder: Path) -> dict[str, Any]:
    rng = np.random.RandomState(0)
    counts = rng.poisson(rng.gamma(2.0, 2.0, (2000, 10))) * rng.binomial(1, 1 - 0.7, (2000, 10))
    counts = counts[counts.sum(axis=1) > 0]
    metadata = {"clusters": np.arange(len(counts)) % 3 + 1, "ydata": np.zeros((len(counts), 2))}
    (folder / "random_metadata.pickle").write_bytes(pickle.dumps(metadata))
    return {"counts": counts}


def looms(folder: Path) -> dict[str, Any]:
    cells = {"ClusterID": (np.arange(N) % 14)[:, None], "BatchID": (np.arange(N) % 2.0)[:, None]}
    formats.write_loom(folder / "retina.loom", X, cells, {"Gene": GENES})
    types = [f"type{i}" for i in range(14)]
    cells = {"Clusters": np.arange(N) % 14, "BatchID": np.zeros(N, int)}
    formats.write_loom(folder / "fc-dropseq.loom", X, cells, {"Gene": GENES}, {"CellTypes": types})
    cells = {"Clusters": np.array(types)[np.arange(N) % 14], "BatchID": np.arange(N) % 3}
    cells["Spatial_coordinates"] = np.zeros((N, 2))
    formats.write_loom(folder / "mpfc-starmap.loom", X, cells, {"Gene": GENES}, {"CellTypes": types})
    cells = {"ClusterID": np.arange(N) % 5, "ClusterName": np.array(types)[np.arange(N) % 5]}
    cells |= {"X": np.arange(N) * 1.0, "Y": np.arange(N) * 1.0}
    formats.write_loom(folder / "osmFISH_SScortex_mouse_all_cell.loom", X, cells, {"Gene": GENES})
    return {}
