"""The data sets of 2020 from loom files."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

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
    np.testing.assert_array_equal(dataset.X, X[kept].toarray())
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


CODES = st.lists(st.integers(0, 12), min_size=6, max_size=6)
AS_STORED = {
    "int": lambda codes: np.array(codes),
    "uint8": lambda codes: np.array(codes, dtype=np.uint8),
    "float": lambda codes: np.array(codes, dtype=float),
    "float32 column": lambda codes: np.array(codes, dtype=np.float32)[:, None],
    "text": lambda codes: np.array([str(code) for code in codes]),
    "text of floats": lambda codes: np.array([f"{code}.0" for code in codes]),
}


def loom_of(folder, cells, types=None, **options):
    """Six cells, and what they are."""
    others = None if types is None else {"CellTypes": types}
    formats.write_loom(folder / "f.loom", X[:6], cells, ROWS, others)
    return LoomDataset("f.loom", str(folder), **options)


@pytest.mark.parametrize("stored", AS_STORED)
@pytest.mark.parametrize("named", [True, False])
def test_codes_are_codes_however_they_are_stored(stored, named, tmp_path_factory):
    types = [f"type {code}" for code in range(13)]

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(CODES, CODES)
    def check(labels, batches):
        folder = tmp_path_factory.mktemp("loom")
        cells = {"ClusterID": AS_STORED[stored](labels), "BatchID": AS_STORED[stored](batches)}
        dataset = loom_of(folder, cells, types if named else None)
        for codes, found in ((labels, dataset.labels), (batches, dataset.batch_indices)):
            ranks = np.unique(codes, return_inverse=True)[1]  # in the order of numbers: 10 comes after 9
            np.testing.assert_array_equal(found.ravel(), ranks)
        if named:
            assert dataset.cell_types[dataset.labels.ravel()].tolist() == [types[label] for label in labels]
        elif stored.startswith("text"):
            assert dataset.cell_types[dataset.labels.ravel()].tolist() == AS_STORED[stored](labels).tolist()
            assert dataset.batch_names[dataset.batch_indices.ravel()].tolist() == AS_STORED[stored](batches).tolist()
        else:
            assert dataset.cell_types is None

    check()


def test_numbers_that_are_no_codes_are_names_in_their_order(tmp_path, caplog):
    dataset = loom_of(tmp_path, {"ClusterID": np.array([10.5, 9.0, -1.0, np.nan, 9.0, 10.0])})
    assert dataset.cell_types.tolist() == ["-1", "9", "10", "10.5", "unknown"]
    assert dataset.labels.ravel().tolist() == [3, 1, 0, 4, 1, 2]
    dataset = loom_of(tmp_path, {"ClusterID": np.array([1.0, 0.0, np.nan, 1.0, 0.0, 1.0])}, ["a", "b"])
    assert dataset.cell_types.tolist() == ["a", "b", "unknown"]
    assert dataset.labels.ravel().tolist() == [1, 0, 2, 1, 0, 1]
    assert "1 cells have no label: they are called 'unknown'" in caplog.text


@pytest.mark.parametrize(
    ("labels", "encode", "says"),
    [
        ([0.0, 1.0, 2.0, 0.0, 0.0, 0.0], False, "label '2', which is not among its [23] CellTypes"),
        ([0.5, 1.0, 1.0, 0.0, 0.0, 0.0], False, r"label '0\.5'"),
        ([2.0, 1.0, np.nan, 0.0, 0.0, 0.0], False, "label '2'"),
        ([-1, 1, 0, 0, 0, 0], False, "label '-1'"),
        (["a", "b", "c", "a", "a", "a"], False, "label 'c'"),
        (["0", "1", "2", "0", "0", "0"], False, "label '2'"),
        ([0, 1, 0, 0, 0, 0], True, "label '0'"),
        (np.zeros((6, 2)), False, "several values for each cell in 'ClusterID'"),
    ],
)
def test_labels_beyond_their_names_are_refused(labels, encode, says, tmp_path):
    with pytest.raises(ValueError, match=rf"f\.loom has .*{says}"):
        loom_of(tmp_path, {"ClusterID": np.array(labels)}, ["a", "b"], encode_labels_name_into_int=encode)


def test_names_come_before_codes(tmp_path):
    """Types called by numbers, in another order than these; a repeated name is that of its first place."""
    labels, types = np.array(["2", "0", "1", "2", "2", "2"]), ["2", "1", "0", "0"]
    for encode in (True, False):
        dataset = loom_of(tmp_path, {"ClusterID": labels}, types, encode_labels_name_into_int=encode)
        assert dataset.cell_types[dataset.labels.ravel()].tolist() == labels.tolist()
    floats = loom_of(tmp_path, {"ClusterID": labels.astype(float)}, types, encode_labels_name_into_int=True)
    assert floats.cell_types[floats.labels.ravel()].tolist() == labels.tolist()


def test_a_loom_as_anndata_writes_it(tmp_path):
    cells = {"obs_names": CELLS["CellID"], "batch": CELLS["BatchID"]}
    formats.write_loom(tmp_path / "f.loom", X, cells, {"var_names": GENES, "length": np.arange(G)})
    dataset = LoomDataset("f.loom", str(tmp_path), batch_indices_attribute_name="batch")
    assert dataset.gene_names.tolist() == GENES
    assert dataset.gene_attribute_names == {"gene_names", "length"}
    assert dataset.n_batches == 2


def test_what_was_named_and_is_missing_is_said(tmp_path, caplog):
    formats.write_loom(tmp_path / "f.loom", X, CELLS, {"length": np.arange(G)})
    with pytest.warns(UserWarning, match=r"f\.loom has no names of genes: of the row attributes 'Gene', 'var_names'"):
        dataset = LoomDataset("f.loom", str(tmp_path), labels_attribute_name="Clusters")
    assert dataset.gene_names is None
    assert "has no column attribute 'Clusters'; there are ['BatchID', 'CellID', 'ClusterID']" in caplog.text
    assert dataset.n_labels == 1


@pytest.mark.parametrize("name", ["osmFISH_SScortex_mouse_all_cell.loom", "osmFISH_SScortex_mouse_all_cells.loom"])
def test_smfish_under_both_of_its_names(name, tmp_path):
    cells = {"ClusterID": np.arange(N) % 5, "ClusterName": ["a"] * N, "X": np.arange(N), "Y": np.arange(N)}
    formats.write_loom(tmp_path / name, X, cells, {"Gene": GENES})
    for delayed in (False, True):
        dataset = SmfishDataset(str(tmp_path), use_high_level_cluster=False, delayed_populating=delayed)
        dataset.populate()
        np.testing.assert_array_equal(dataset.X, X.toarray())
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing was downloaded


def test_a_smfish_without_any_of_the_types_leaves_nothing(tmp_path):
    cells = {"ClusterID": np.zeros(N), "ClusterName": ["Excluded"] * N, "X": np.arange(N), "Y": np.arange(N)}
    formats.write_loom(tmp_path / "osmFISH_SScortex_mouse_all_cell.loom", X, cells, {"Gene": GENES})
    dataset = SmfishDataset(str(tmp_path), delayed_populating=True)
    with pytest.raises(ValueError, match="no cell would be left"):
        dataset.populate()
    assert dataset.X is None
