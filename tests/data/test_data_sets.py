"""Data sets by name, from small files in their formats; none is downloaded but from this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import formats
import published_files as files
from published_files import GENES, IDS, G, N, X
from scvi import data
from scvi.data.published import FILES, PublishedFile
from web import serving


def test_cortex_has_names_and_codes_of_types(tmp_path: Path) -> None:
    written = files.cortex(tmp_path)
    adata = data.cortex(tmp_path)
    np.testing.assert_array_equal(adata.X.toarray(), X.toarray())
    assert list(adata.var_names) == GENES
    assert list(adata.obs["cell_type"]) == list(written["types"])
    assert list(adata.obs["cell_type"].cat.categories[adata.obs["labels"]]) == list(written["types"])
    assert list(adata.obs["precise_labels"]) == written["subtypes"]


def test_brain_large(tmp_path: Path) -> None:
    files.brain_large(tmp_path)
    adata = data.brainlarge_dataset(tmp_path, 10, 30, n_genes_to_keep=5, loading_batch_size=7)
    genes = np.argsort(-X[:10].toarray().var(axis=0), kind="stable")[:5]
    assert list(adata.var_names) == [IDS[gene] for gene in genes]
    assert adata.n_obs == 30


def test_10x_by_name_or_file(tmp_path: Path) -> None:
    counts = files.tenx(tmp_path, "pbmc8k", 8)
    named = data.dataset_10x("pbmc8k", save_path=tmp_path, var_names="gene_symbols")
    np.testing.assert_array_equal(named.X.toarray(), counts.toarray())
    assert list(named.var_names) == GENES
    path = tmp_path / "pbmc8k" / "filtered_gene_bc_matrices.tar.gz"
    np.testing.assert_array_equal(data.dataset_10x(filename=path).X.toarray(), counts.toarray())
    with pytest.raises(KeyError, match="dataset_name='pbmc9k'"):
        data.dataset_10x("pbmc9k")
    for both in ({}, {"dataset_name": "pbmc8k", "filename": path}):
        with pytest.raises(ValueError, match="pass one of"):
            data.dataset_10x(**both)


@pytest.mark.parametrize("apart", [False, True])
def test_pbmc(tmp_path: Path, apart: bool) -> None:
    written = files.pbmc(tmp_path)
    adata = data.pbmc_dataset(tmp_path, tmp_path if apart else None)
    assert set(adata.obs["batch"]) == {"pbmc8k", "pbmc4k"}
    assert list(adata.obs["str_labels"].cat.categories) == written["names"]
    assert list(adata.obs["str_labels"].cat.categories[adata.obs["labels"]]) == list(adata.obs["str_labels"])
    first = adata.obs["batch"] == "pbmc8k"
    assert set(adata.obs["barcode"][first]) <= set(written["first"])
    assert set(adata.obs["barcode"][~first]) <= set(written["second"])


def test_nothing_is_extracted_that_could_be_removed(tmp_path: Path) -> None:
    files.pbmc(tmp_path)
    for flag in (True, False):
        before = sorted(tmp_path.rglob("*"))
        data.pbmc_dataset(tmp_path, remove_extracted_data=flag)
        data.dataset_10x("pbmc8k", save_path=tmp_path, remove_extracted_data=flag)
        assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match="remove_extracted_data='no'"):
        data.pbmc_dataset(tmp_path, remove_extracted_data="no")


@pytest.mark.parametrize(
    ("name", "file"),
    [("breast_cancer_dataset", "Layer2_BC_count_matrix-1.tsv"), ("mouse_ob_dataset", "Rep11_MOB_count_matrix-1.tsv")],
)
def test_spots(name: str, file: str, tmp_path: Path) -> None:
    table = pd.DataFrame(X.toarray(), index=[f"{i}x{i + 1}" for i in range(N)], columns=GENES)
    table.to_csv(tmp_path / file, sep="\t")
    adata = getattr(data, name)(tmp_path)
    np.testing.assert_array_equal(adata.X.toarray(), X.toarray())
    assert (list(adata.obs_names), list(adata.var_names)) == (list(table.index), GENES)


def cells(n: int = N) -> AnnData:
    return AnnData(X[:n], pd.DataFrame(index=[f"c{i}" for i in range(n)]), pd.DataFrame(index=GENES))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("retina", "retina.h5ad"),
        ("prefrontalcortex_starmap", "mpfc-starmap.h5ad"),
        ("frontalcortex_dropseq", "fc-dropseq.h5ad"),
    ],
)
def test_files_that_are_read_as_they_are(name: str, file: str, tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / file)
    adata = getattr(data, name)(tmp_path)
    np.testing.assert_array_equal(adata.X.toarray(), X.toarray())
    assert adata.shape == (N, G)


def test_heart_without_nuisance(tmp_path: Path) -> None:
    adata = cells()
    adata.obs["cell_type"] = pd.Categorical(
        np.array(["Fibroblast", "doublets", "NotAssigned", "Myeloid"])[np.arange(N) % 4]
    )
    adata.write_h5ad(tmp_path / "hca_subsampled_20k.h5ad")
    assert set(data.heart_cell_atlas_subsampled(tmp_path).obs["cell_type"]) == {"Fibroblast", "Myeloid"}
    assert data.heart_cell_atlas_subsampled(tmp_path, remove_nuisance_clusters=False).n_obs == N


def write_cite_seq(folder: Path) -> list[pd.DataFrame]:
    tables = []
    for number, (file, names) in enumerate({"10k": ["CD3", "CD4"], "5k": ["CD4", "CD8"]}.items()):
        adata = cells(20)[:, : 8 + number].copy()
        table = pd.DataFrame(np.arange(40).reshape(20, 2) + number, adata.obs_names, names)
        adata.obsm["protein_expression"] = table
        adata.write_h5ad(folder / f"pbmc_{file}_protein_v3.h5ad")
        tables.append(table)
    return tables


@pytest.mark.parametrize(("join", "names"), [("inner", ["CD4"]), ("outer", ["CD3", "CD4", "CD8"])])
def test_cite_seq_of_two_batches(join: str, names: list[str], tmp_path: Path) -> None:
    first, second = write_cite_seq(tmp_path)
    adata = data.pbmcs_10x_cite_seq(tmp_path, protein_join=join)
    assert list(adata.obs["batch"]) == ["PBMC10k"] * 20 + ["PBMC5k"] * 20
    assert list(adata.obs_names[[0, 20]]) == ["c0-PBMC10k", "c0-PBMC5k"]
    assert list(adata.var_names) == GENES[:8]
    np.testing.assert_array_equal(adata.X.toarray(), np.vstack([X.toarray()[:20, :8]] * 2))
    table = adata.obsm["protein_expression"]
    assert list(table.columns) == names
    np.testing.assert_array_equal(table["CD4"], [*first["CD4"], *second["CD4"]])
    if join == "outer":
        assert (table["CD8"][:20] == 0).all()


def test_cite_seq_without_proteins_or_way_to_join(tmp_path: Path) -> None:
    for name in ("10k", "5k"):
        cells(5).write_h5ad(tmp_path / f"pbmc_{name}_protein_v3.h5ad")
    with pytest.raises(ValueError, match=r"PBMC10k .*no table obsm"):
        data.pbmcs_10x_cite_seq(tmp_path)
    with pytest.raises(ValueError, match="protein_join='left'"):
        data.pbmcs_10x_cite_seq(tmp_path, protein_join="left")


def test_what_is_not_there_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells().write_h5ad(tmp_path / "there.h5ad")
    with serving(files={"/retina": (tmp_path / "there.h5ad").read_bytes()}) as web:
        monkeypatch.setitem(FILES, "retina_h5ad", PublishedFile(f"{web.url}/retina", "retina.h5ad"))
        for _ in range(2):
            assert data.retina(tmp_path / "new").shape == (N, G)
        assert len(web.requests) == 1
    assert (tmp_path / "new" / "retina.h5ad").exists()


@pytest.mark.parametrize("name", ["osmFISH_SScortex_mouse_all_cell.loom", "osmFISH_SScortex_mouse_all_cells.loom"])
def test_smfish(name: str, tmp_path: Path) -> None:
    clusters, names = np.array([3, 2, 7, 0, 11])[np.arange(N) % 5], np.array(list("abcde"))[np.arange(N) % 5]
    places = np.arange(2.0 * N).reshape(N, 2)
    cells = {"ClusterID": clusters, "ClusterName": names, "X": places[:, 0], "Y": places[:, 1]}
    formats.write_loom(tmp_path / name, X, cells, {"Gene": np.array(GENES)})
    all_of_them = data.smfish(tmp_path, use_high_level_cluster=False)
    assert list(all_of_them.obs["str_labels"]) == list(names)
    np.testing.assert_array_equal(all_of_them.obs[["x_coord", "y_coord"]], places)
    adata = data.smfish(tmp_path)
    kept = np.isin(clusters, [3, 2, 7])
    np.testing.assert_array_equal(adata.X.toarray(), X.toarray()[kept])
    assert list(adata.obs["str_labels"]) == ["Endothelials" if c == 7 else "Astrocytes" for c in clusters[kept]]
    np.testing.assert_array_equal(adata.obs["labels"], clusters[kept] == 7)
