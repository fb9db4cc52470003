"""The data sets of 2020 from loom files."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import formats
from scvi.dataset import (
    FrontalCortexDropseqDataset,
    LoomDataset,
    PreFrontalCortexStarmapDataset,
    RetinaDataset,
    SmfishDataset,
)

X = formats.counts()
N, G = X.shape
GENES = formats.names(G)[1]
CELLS = {"CellID": formats.barcodes(N), "ClusterID": np.arange(N) % 3, "BatchID": (np.arange(N) % 2)[:, None]}
ROWS = {"Gene": GENES, "Accession": formats.names(G)[0]}


def test_loom_dataset(tmp_path, caplog):
    counts = X.tolil()
    counts[4] = 0
    cells = {**CELLS, "X": np.arange(N), "age": np.arange(N) * 2.0}
    formats.write_loom(tmp_path / "f.loom", sp.csr_matrix(counts), cells, ROWS, {"CellTypes": ["a", "b", "c"], "t": 1})
    dataset = LoomDataset("f.loom", str(tmp_path))
    kept = np.arange(N) != 4
    assert (X[kept] != dataset.X).nnz == 0
    assert "1 cells have no counts" in caplog.text
    assert dataset.gene_names.tolist() == GENES
    assert dataset.cell_types.tolist() == ["a", "b", "c"]
    assert dataset.n_batches == 2
    np.testing.assert_array_equal(dataset.labels.ravel(), (np.arange(N) % 3)[kept])
    np.testing.assert_array_equal(dataset.X_cell, np.arange(N)[kept])
    np.testing.assert_array_equal(dataset.age, np.arange(N)[kept] * 2.0)
    assert dataset.Accession.tolist() == ROWS["Accession"]
    assert dataset.global_attributes_dict == {"t": 1}
    assert {"X_cell", "age", "CellID"} <= dataset.cell_attribute_names


def test_labels_and_batches_by_name(tmp_path):
    names = np.array(["b", "a", "c"])[np.arange(N) % 3]
    cells = {"ClusterID": names, "BatchID": np.array(["y", "x"])[np.arange(N) % 2]}
    formats.write_loom(tmp_path / "f.loom", X, cells, ROWS)
    dataset = LoomDataset("f.loom", str(tmp_path))
    assert dataset.cell_types.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(dataset.cell_types[dataset.labels.ravel()], names)
    assert dataset.batch_indices.ravel().tolist() == [1, 0] * (N // 2)
    formats.write_loom(tmp_path / "f.loom", X, cells, ROWS, {"CellTypes": ["c", "b", "a"]})
    dataset = LoomDataset("f.loom", str(tmp_path), encode_labels_name_into_int=True)
    assert dataset.cell_types.tolist() == ["c", "b", "a"]
    np.testing.assert_array_equal(dataset.cell_types[dataset.labels.ravel()], names)
    formats.write_loom(tmp_path / "f.loom", X, cells, ROWS, {"CellTypes": ["c", "b"]})
    with pytest.raises(ValueError, match="has the label 'a'"):
        LoomDataset("f.loom", str(tmp_path), encode_labels_name_into_int=True)


def test_retina(tmp_path):
    cells = {"ClusterID": (np.arange(N) % 14 + 1)[:, None], "BatchID": (np.arange(N) % 2)[:, None]}
    formats.write_loom(tmp_path / "retina.loom", X, cells, ROWS)
    dataset = RetinaDataset(str(tmp_path))
    assert dataset.n_batches == 2
    assert dataset.cell_types.tolist()[:3] == ["MG", "BC5A", "BC7"]  # RBC has no cells here
    assert dataset.cell_types[dataset.labels[5, 0]] == "BC1A"
    dataset.filter_cell_types(["BC1A", "BC4"])
    dataset.remap_categorical_attributes()
    assert dataset.cell_types.tolist() == ["BC1A", "BC4"]


@pytest.mark.parametrize("delayed", [False, True])
def test_starmap(delayed, tmp_path):
    names = np.array(["eL2", "Astro", "NA"])[np.arange(N) % 3]
    places = np.random.default_rng(0).random((N, 2))
    cells = {"Clusters": names, "BatchID": np.arange(N) % 3, "Spatial_coordinates": places}
    formats.write_loom(tmp_path / "mpfc-starmap.loom", X, cells, ROWS, {"CellTypes": ["Astro", "NA", "eL2", "Micro"]})
    dataset = PreFrontalCortexStarmapDataset(str(tmp_path), delayed_populating=delayed)
    if delayed:
        dataset.populate()
    assert dataset.n_batches == 3
    assert dataset.cell_types.tolist() == ["Astro", "NA", "eL2"]
    np.testing.assert_array_equal(dataset.cell_types[dataset.labels.ravel()], names)
    np.testing.assert_array_equal(dataset.y_coord.ravel(), places[:, 1])


def test_what_fails_after_the_counts_leaves_nothing(tmp_path):
    cells = {"Clusters": np.array(["a", "b"])[np.arange(N) % 2]}
    formats.write_loom(tmp_path / "mpfc-starmap.loom", X, cells, ROWS, {"CellTypes": ["a", "b"]})
    dataset = PreFrontalCortexStarmapDataset(str(tmp_path), delayed_populating=True)
    with pytest.raises(ValueError, match="no column attribute 'Spatial_coordinates'"):
        dataset.populate()
    formats.write_loom(tmp_path / "fc-dropseq.loom", X, {"Clusters": np.arange(N) % 2}, ROWS)
    dropseq = FrontalCortexDropseqDataset(str(tmp_path), genes_to_keep=["none"], delayed_populating=True)
    with pytest.raises(KeyError, match="none"):
        dropseq.populate()
    for unpopulated in (dataset, dropseq):
        assert "unpopulated" in repr(unpopulated)
        assert unpopulated.X is None


@pytest.mark.parametrize("delayed", [False, True])
def test_dropseq(delayed, tmp_path):
    types = [f"type{i}" for i in range(14)]
    cells = {"Clusters": np.arange(N) % 14, "BatchID": np.zeros(N, int)}
    formats.write_loom(tmp_path / "fc-dropseq.loom", X, cells, ROWS, {"CellTypes": types})
    dataset = FrontalCortexDropseqDataset(str(tmp_path), genes_to_keep=["Gene3", "Gene1"], delayed_populating=delayed)
    if delayed:
        dataset.populate()
    assert dataset.gene_names.tolist() == ["Gene3", "Gene1"]
    order = [5, 6, 3, 2, 4, 0, 1, 8, 7, 9, 10, 11, 12, 13]
    assert dataset.cell_types.tolist() == [types[code] for code in order]
    assert dataset.cell_types[dataset.labels[3, 0]] == "type3"


def test_smfish(tmp_path):
    clusters = np.arange(N) % 5
    names = np.array(["Excluded", "Pyramidal L6", "Astrocyte gfap", "Astrocyte mfge8", "Pyramidal L2-3"])[clusters]
    cells = {"ClusterID": clusters, "ClusterName": names, "X": np.arange(N) * 1.5, "Y": np.arange(N) * 2.5}
    formats.write_loom(tmp_path / "osmFISH_SScortex_mouse_all_cell.loom", X, cells, {"Gene": GENES})
    dataset = SmfishDataset(str(tmp_path), use_high_level_cluster=False)
    assert dataset.cell_types[:2].tolist() == ["Excluded", "Pyramidal L6"]
    assert dataset.nb_cells == N
    assert dataset.x_coord.shape == (N, 1)
    dataset = SmfishDataset(str(tmp_path))
    assert dataset.cell_types.tolist() == ["Astrocytes", "Pyramidals"]
    assert dataset.nb_cells == N - N // 5
    kept = clusters[clusters > 0]
    np.testing.assert_array_equal(dataset.cell_types[dataset.labels.ravel()] == "Astrocytes", np.isin(kept, [2, 3]))
    np.testing.assert_array_equal(dataset.y_coord.ravel(), (np.arange(N) * 2.5)[clusters > 0])
    del cells["ClusterName"]
    formats.write_loom(tmp_path / "osmFISH_SScortex_mouse_all_cell.loom", X, cells, {"Gene": GENES})
    with pytest.raises(ValueError, match="no attributes \\['ClusterName'\\]"):
        SmfishDataset(str(tmp_path))
