"""The published files of blood and its progenitors, small, in their formats."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

import published_files as files
from published_files import GENES, IDS, N, X
from scvi.data import read_10x, read_cite_seq, read_hemato, read_pbmc
from scvi.data.archives import extract


def cite_seq_tables(folder: Path) -> list[Path]:
    files.cite_seq(folder)
    return [folder / "cbmc" / f"cbmc_{part}.csv.gz" for part in ("rna", "adt", "adt_centered")]


def test_cite_seq(tmp_path):
    adata = read_cite_seq(*cite_seq_tables(tmp_path))
    tables = files.cite_seq(tmp_path)
    assert (X[:, :9] != adata.X).nnz == 0
    assert adata.var_names.tolist() == GENES[:9]
    np.testing.assert_array_equal(adata.obsm["protein_expression"], tables["adt"].T)
    np.testing.assert_allclose(adata.obsm["protein_expression_clr"], tables["clr"].T)
    assert adata.uns["protein_names"].tolist() == adata.uns["protein_names_clr"].tolist() == tables["proteins"]


def test_tables_of_cite_seq_that_do_not_go_together(tmp_path):
    rna, adt, centered = cite_seq_tables(tmp_path)
    with pytest.raises(ValueError, match="no genes called HUMAN_"):
        read_cite_seq(adt, adt, centered)
    content = gzip.decompress(centered.read_bytes())
    centered.write_bytes(gzip.compress(content.replace(b"CD3", b"CD9")))
    with pytest.raises(ValueError, match="same antibodies"):
        read_cite_seq(rna, adt, centered)
    centered.write_bytes(gzip.compress(content.replace(b",", b",A", 1)))
    with pytest.raises(ValueError, match="lacks 1 cells"):
        read_cite_seq(rna, adt, centered)
    centered.write_bytes(gzip.compress(content.replace(b"\nCD4,", b"\nCD4,x", 1)))
    with pytest.raises(ValueError, match="no number"):
        read_cite_seq(rna, adt, centered)


def hemato_files(folder: Path) -> tuple[dict, tuple[Path, Path, Path]]:
    made = files.hemato(folder)
    spring, genes = extract(folder / "data.zip", folder)
    return made, (folder / "bBM.raw_umifm_counts.csv.gz", spring, genes)


def test_hemato(tmp_path):
    made, paths = hemato_files(tmp_path)
    adata = read_hemato(*paths)
    cells = [i for i in range(4, N) if made["libraries"][i] != "basal_bm1"]
    np.testing.assert_array_equal(adata.X.toarray(), X.toarray()[np.ix_(cells, [8, 1, 4])])
    assert adata.var_names.tolist() == made["genes"]
    assert adata.obs["cell_id"].tolist() == [f"c{i}" for i in cells]
    spring = made["spring"].loc[adata.obs["cell_id"]]
    inner = (spring[["Pr_Gr", "Pr_Er"]] > 0).all(axis=1) & (spring[["Pr_Gr", "Pr_Er"]] < 1).all(axis=1)
    expected = logit(spring["Pr_Gr"][inner]) - logit(spring["Pr_Er"][inner])
    np.testing.assert_allclose(adata.obs["fate_score"][inner.to_numpy()], expected)
    assert np.isfinite(adata.obs["fate_score"]).all()


def test_hemato_without_cells_or_columns_in_common(tmp_path):
    _, paths = hemato_files(tmp_path)
    spring = paths[1]
    spring.write_text(spring.read_text().replace("\nc", "\nd"))
    with pytest.raises(ValueError, match="no cells in common"):
        read_hemato(*paths)
    spring.write_text(spring.read_text().replace("Pr_Er", "Er"))
    with pytest.raises(ValueError, match="no columns \\['Pr_Er'\\]"):
        read_hemato(*paths)
    paths[2].write_text("none\n")
    spring.write_text(spring.read_text().replace("Er", "Pr_Er"))
    with pytest.raises(ValueError, match="none of the genes to keep"):
        read_hemato(*paths)


def runs(folder):
    return [read_10x(folder / name / "filtered_gene_bc_matrices.tar.gz") for name in ("pbmc8k", "pbmc4k")]


def test_pbmc(tmp_path):
    written = files.pbmc(tmp_path)
    adata = read_pbmc(runs(tmp_path), tmp_path / "pbmc_metadata.pickle", tmp_path / "gene_info_pbmc.csv")
    cells = [(0, i) for i in range(5, N)] + [(0, 1)] + [(1, i) for i in range(3, N)]
    rows = [i for i, name in enumerate(written["kept"]) if not name.endswith("11")]
    genes = [2, 5, 7]
    expected = np.stack([written["counts"][run][[cell]].toarray()[0, genes] for run, cell in cells])
    np.testing.assert_array_equal(adata.X.toarray(), expected)
    assert adata.obs["run"].tolist() == [run for run, _ in cells]
    assert adata.obs["barcode"].tolist() == [(written["first"], written["second"])[run][i] for run, i in cells]
    assert adata.obs["cell_type"].tolist() == [written["names"][row % 3] for row in rows]
    assert adata.obs["cell_type"].cat.categories.tolist() == written["names"]
    assert adata.var_names.tolist() == [IDS[gene] for gene in genes]
    assert adata.var["GS"].tolist() == ["b", "c", "a"]
    assert adata.obsm["raw_qc"][:, 0].tolist() == [2.0 * row for row in rows]
    assert adata.uns["qc_names"].tolist() == ["num_umi", "num_reads"]


def test_pbmc_with_other_genes(tmp_path):
    files.pbmc(tmp_path)
    both, metadata, info = runs(tmp_path), tmp_path / "pbmc_metadata.pickle", tmp_path / "gene_info_pbmc.csv"
    pd.DataFrame({"ENSG": ["other"]}).to_csv(info)
    with pytest.raises(ValueError, match="has none of the genes"):
        read_pbmc(both, metadata, info)
    pd.DataFrame({"gene": IDS}).to_csv(info)
    with pytest.raises(ValueError, match="no column ENSG"):
        read_pbmc(both, metadata, info)
