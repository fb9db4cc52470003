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


TYPES = ["b_cells", "cd34", "naive_t"]


def write_purified(path: Path) -> AnnData:
    adata = cells()
    adata.obs["n_genes"] = 1.0
    adata.obs["cell_types"] = pd.Categorical(np.array(TYPES)[np.arange(N) % 3])
    adata.write_h5ad(path)
    return adata


def test_purified_types_by_name_or_position(tmp_path: Path) -> None:
    adata = write_purified(tmp_path / "PurifiedPBMCDataset.h5ad")
    assert data.purified_pbmc_dataset(tmp_path).shape == (N, G)
    for wanted in (["cd34", "b_cells"], [7, 6]):
        found = data.purified_pbmc_dataset(tmp_path, subset_datasets=wanted)
        kept = adata.obs["cell_types"] != "naive_t"
        assert list(found.obs_names) == list(adata.obs_names[kept])
        np.testing.assert_array_equal(found.X.toarray(), X.toarray()[kept])
    assert set(data.purified_pbmc_dataset(tmp_path, "cd34").obs["cell_types"]) == {"cd34"}
    for wrong in (["cd4"], [10], [-1], [None], []):
        with pytest.raises(ValueError, match=r"subset_datasets (has|is empty).*cd14_monocytes"):
            data.purified_pbmc_dataset(tmp_path, wrong)
    cells().write_h5ad(tmp_path / "PurifiedPBMCDataset.h5ad")
    with pytest.raises(ValueError, match=r"PurifiedPBMCDataset.h5ad has no column of obs with the types"):
        data.purified_pbmc_dataset(tmp_path, ["cd34"])


def write_spleen(folder: Path, column: str | None = "cell_types") -> dict[str, AnnData]:
    written = {}
    for number, (run, names) in enumerate({"111": ["CD3", "CD4"], "208": ["CD4", "CD8"]}.items()):
        adata = cells(12)[:, : 8 + number].copy()
        if column is not None:
            adata.obs[column] = ["B1 B cells", "T doublets", "Low quality B cells", "pDCs"] * 3
        adata.obs["batch"] = np.array([f"SLN{run}-D1", f"SLN{run}-D2"])[np.arange(12) % 2]
        values = np.arange(24).reshape(12, 2) + number
        if number:  # as older files have it
            adata.obsm["protein_expression"], adata.uns["protein_names"] = values, np.array(names)
        else:
            adata.obsm["protein_expression"] = pd.DataFrame(values, adata.obs_names, names)
        adata.write_h5ad(folder / f"sln_{run}.h5ad")
        written[run] = adata
    return written


@pytest.mark.parametrize(("join", "names"), [("inner", ["CD4"]), ("outer", ["CD3", "CD4", "CD8"])])
def test_spleen_and_lymph_nodes(join: str, names: list[str], tmp_path: Path) -> None:
    write_spleen(tmp_path)
    whole = data.spleen_lymph_cite_seq(tmp_path, protein_join=join, remove_outliers=False)
    assert whole.n_obs == 24
    adata = data.spleen_lymph_cite_seq(tmp_path, join)
    assert list(adata.obs["batch"]) == ["SLN111-D1", "SLN111-D2"] * 3 + ["SLN208-D1", "SLN208-D2"] * 3
    assert set(adata.obs["cell_types"]) == {"B1 B cells", "pDCs"}
    assert list(adata.obs_names[[0, 6]]) == ["c0-SLN111", "c0-SLN208"]
    assert list(adata.var_names) == GENES[:8]
    table = adata.obsm["protein_expression"]
    assert list(table.columns) == names
    np.testing.assert_array_equal(table["CD4"], [1, 7, 9, 15, 17, 23, 1, 7, 9, 15, 17, 23])
    assert list(table.index) == list(adata.obs_names)


def test_spleen_without_annotation_or_proteins(tmp_path: Path) -> None:
    write_spleen(tmp_path, column=None)
    with pytest.raises(ValueError, match=r"no column cell_types.*: pass remove_outliers=False"):
        data.spleen_lymph_cite_seq(tmp_path)
    adata = cells(5)
    adata.obsm["protein_expression"] = np.ones((5, 3))
    adata.write_h5ad(tmp_path / "sln_208.h5ad")
    with pytest.raises(ValueError, match=r"SLN208 .*nor an array with names in uns\['protein_names'\]"):
        data.spleen_lymph_cite_seq(tmp_path, remove_outliers=False)
    with pytest.raises(ValueError, match="remove_outliers=1 is not True or False"):
        data.spleen_lymph_cite_seq(tmp_path, remove_outliers=1)


PANEL = ["CD3-1", "CD4-1", "CD3-2", "CD4-2", "CD19", "CD56-1", "Notch-1", "Notch-2", "Rat-IgG2b"]


def write_seurat(path: Path) -> AnnData:
    adata = cells(24)
    adata.obs["orig.ident"] = np.array(["P1_0", "P1_3", "P2_0"])[np.arange(24) % 3]
    adata.obs["celltype.l2"] = pd.Categorical(np.array(["B memory", "Doublet", "CD4 TCM", "NK"])[np.arange(24) % 4])
    table = pd.DataFrame(np.arange(24 * 9).reshape(24, 9), adata.obs_names, PANEL)
    adata.obsm["protein_counts"] = table
    adata.write_h5ad(path)
    return adata


def test_blood_with_228_proteins(tmp_path: Path) -> None:
    written = write_seurat(tmp_path / "pbmc_seurat_v4.h5ad")
    table = written.obsm["protein_counts"]
    whole = data.pbmc_seurat_v4_cite_seq(tmp_path, apply_filters=False, aggregate_proteins=False)
    pd.testing.assert_frame_equal(whole.obsm["protein_counts"], table)
    np.testing.assert_allclose(whole.obs["RNA log library size"], np.log(np.maximum(X[:24].sum(1).A1, 1)))
    np.testing.assert_array_equal(whole.obs["Number proteins detected"], (table > 0).sum(axis=1))
    adata = data.pbmc_seurat_v4_cite_seq(tmp_path)
    kept = (written.obs["celltype.l2"] != "Doublet").to_numpy()
    assert list(adata.obs_names) == list(written.obs_names[kept])
    proteins = adata.obsm["protein_counts"]
    assert list(proteins.columns) == ["CD3", "CD4", "CD19", "CD56-1", "Notch-1", "Notch-2"]
    np.testing.assert_array_equal(proteins["CD3"], (table["CD3-1"] + table["CD3-2"])[kept])
    np.testing.assert_array_equal(proteins["CD56-1"], table["CD56-1"][kept])
    np.testing.assert_allclose(adata.obs["Protein log library size"], np.log(table[kept].iloc[:, :-1].sum(axis=1)))


def test_proteins_of_drawn_batches_are_masked(tmp_path: Path) -> None:
    write_seurat(tmp_path / "pbmc_seurat_v4.h5ad")
    draws = set()
    for seed in range(6):
        adata, again = (data.pbmc_seurat_v4_cite_seq(tmp_path, True, True, 2, seed=seed) for _ in range(2))
        pd.testing.assert_frame_equal(adata.obsm["protein_counts"], again.obsm["protein_counts"])
        empty = adata.obsm["protein_counts"].groupby(adata.obs["orig.ident"].to_numpy()).sum().sum(axis=1) == 0
        assert empty.sum() == 2
        draws.add(empty.idxmin())
    assert len(draws) > 1
    with pytest.raises(ValueError, match=r"mask_protein_batches=3 leaves no batch with proteins: there are 3"):
        data.pbmc_seurat_v4_cite_seq(tmp_path, mask_protein_batches=3)
    with pytest.raises(ValueError, match="mask_protein_batches=-1"):
        data.pbmc_seurat_v4_cite_seq(tmp_path, mask_protein_batches=-1)


def test_data_sets_of_several_files_are_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    there.mkdir()
    write_spleen(there)
    write_seurat(there / "pbmc_seurat_v4.h5ad")
    write_purified(there / "PurifiedPBMCDataset.h5ad")
    names = {"cite_seq_sln111": "sln_111.h5ad", "cite_seq_sln208": "sln_208.h5ad"}
    names |= {"cite_seq_seurat_v4": "pbmc_seurat_v4.h5ad", "purified_pbmc": "PurifiedPBMCDataset.h5ad"}
    with serving(files={f"/{name}": (there / name).read_bytes() for name in names.values()}) as web:
        for key, name in names.items():
            assert FILES[key].url.endswith(f"/{name}")
            monkeypatch.setitem(FILES, key, PublishedFile(f"{web.url}/{name}", name))
        for _ in range(2):
            assert data.spleen_lymph_cite_seq(tmp_path / "new").n_obs == 12
            assert data.pbmc_seurat_v4_cite_seq(tmp_path / "new").n_obs == 18
            assert data.purified_pbmc_dataset(tmp_path / "new").n_obs == N
        assert len(web.requests) == 4
