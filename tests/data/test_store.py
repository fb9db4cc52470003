"""One store from many files: what is in it, going on after an interruption, and training from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

import formats
import scvi
from scvi.data import read_10x, store, to_store

N, G = 30, 12
IDS, SYMBOLS = formats.names(G)


def h5ad(path: Path, seed: int, genes: list[str] = IDS, layout=sp.csr_matrix, **columns) -> sp.csr_matrix:
    X = formats.counts(N, len(genes), seed=seed)
    obs = pd.DataFrame({"depth": np.arange(N), **columns}, index=formats.barcodes(N, seed=seed))
    AnnData(layout(X), obs=obs, var=pd.DataFrame({"symbol": SYMBOLS[: len(genes)]}, index=genes)).write_h5ad(path)
    return X


def opened(path: Path) -> AnnData:
    if path.suffix == ".h5ad":
        return anndata.read_h5ad(path, backed="r")
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="r")
    return AnnData(sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))


def in_memory(path: Path) -> AnnData:
    adata = opened(path).to_memory()
    if path.suffix == ".h5ad":
        anndata.read_h5ad(path)  # as a whole, too
    return adata


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_every_kind_of_input_in_one_store(suffix, tmp_path):
    X = [formats.counts(N, G, seed=seed) for seed in range(7)]
    write = {
        "v2": lambda x: formats.write_10x_v2(tmp_path / "v2", x, formats.barcodes(N, seed=0)),
        "archive": lambda x: formats.tar_of(
            tmp_path / "a.tar.gz", formats.write_10x_v3(tmp_path / "v3", x, formats.barcodes(N, seed=1)), "filtered"
        ),
        "h5 2": lambda x: formats.write_10x_h5(tmp_path / "2.h5", x, version=2),
        "h5 3": lambda x: formats.write_10x_h5(tmp_path / "3.h5", x),
        "loom": lambda x: formats.write_loom(
            tmp_path / "l.loom", x, {"CellID": formats.barcodes(N, seed=4)}, {"Gene": IDS}
        ),
    }
    inputs = {name: function(x) for (name, function), x in zip(write.items(), X[:5], strict=True)}
    X[5], X[6] = h5ad(tmp_path / "csr.h5ad", 5), h5ad(tmp_path / "dense.h5ad", 6, layout=lambda x: x.toarray() * 1.0)
    inputs |= {"csr": tmp_path / "csr.h5ad", "dense": tmp_path / "dense.h5ad"}
    path = to_store(inputs, tmp_path / f"all{suffix}", cells_at_once=7)
    adata = in_memory(path)
    assert (sp.vstack(X) != adata.X).nnz == 0
    assert adata.X.dtype == np.int32
    assert adata.obs["sample"].tolist() == np.repeat(list(inputs), N).tolist()
    assert adata.var_names.tolist() == IDS
    assert adata.var["gene_symbols"].tolist() == SYMBOLS
    assert adata.obs_names[0] == f"{formats.barcodes(N, seed=0)[0]}-v2"  # two inputs have the same barcodes
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("layout", [sp.csc_matrix, sp.csr_matrix])
def test_shared_genes_and_columns_in_the_order_of_the_first(layout, tmp_path):
    first = h5ad(tmp_path / "a.h5ad", 0, layout=layout, kind=["x", "y"] * (N // 2), only_here=1.5)
    second = h5ad(tmp_path / "b.h5ad", 1, [*IDS[:8][::-1], "other"], kind=["z"] * N)
    adata = in_memory(to_store([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "s.h5ad"))
    assert adata.var_names.tolist() == IDS[:8]
    assert (sp.vstack([first[:, :8], second[:, :8][:, ::-1]]) != adata.X).nnz == 0
    assert list(adata.obs) == ["depth", "kind", "sample"]
    assert adata.obs["kind"].tolist() == ["x", "y"] * (N // 2) + ["z"] * N
    assert adata.obs["sample"].cat.categories.tolist() == ["a", "b"]
    assert adata.obs_names.tolist() == formats.barcodes(N, seed=0) + formats.barcodes(N, seed=1)
    assert adata.var["symbol"].tolist() == SYMBOLS[:8]


def test_other_features_are_left_out_and_a_layer_is_read(tmp_path):
    X = formats.counts(N, G)
    types = ["Gene Expression"] * (G - 2) + ["CRISPR Guide Capture"] * 2
    formats.write_10x_h5(tmp_path / "a.h5", X, types=types)
    formats.write_10x_v3(tmp_path / "b", X, types=types)
    adata = in_memory(to_store([tmp_path / "a.h5", tmp_path / "b"], tmp_path / "s.h5ad"))
    assert (sp.vstack([X, X])[:, : G - 2] != adata.X).nnz == 0
    assert not adata.obsm
    with_layer = AnnData(sp.csr_matrix(X * 0.5), layers={"counts": X})
    with_layer.write_h5ad(tmp_path / "l.h5ad")
    adata = in_memory(to_store(tmp_path / "l.h5ad", tmp_path / "l2.h5ad", layer="counts", batch_key=None))
    assert (adata.X != X).nnz == 0
    assert list(adata.obs) == []
    adata = in_memory(to_store(tmp_path / "l.h5ad", tmp_path / "l3.h5ad"))
    assert adata.X.dtype == np.float32


TYPES = ["Gene Expression"] * (G - 3) + ["Antibody Capture"] * 3


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_proteins_that_all_inputs_have(suffix, tmp_path, caplog):
    X = formats.counts(N, G)
    formats.write_10x_h5(tmp_path / "a.h5", X, types=TYPES)
    formats.write_10x_v3(tmp_path / "b", X, types=TYPES)
    genes, antibodies = X[:, : G - 3], X[:, G - 3 :].toarray()
    adata = AnnData(genes, obs=pd.DataFrame(index=formats.barcodes(N)), var=pd.DataFrame(index=IDS[: G - 3]))
    adata.obsm["protein_expression"] = antibodies[:, [2, 0]]
    adata.uns["protein_names"] = np.array(IDS)[[G - 1, G - 3]]
    adata.write_h5ad(tmp_path / "array.h5ad")
    adata.obsm["protein_expression"] = pd.DataFrame(antibodies, index=adata.obs_names, columns=IDS[G - 3 :])
    adata.write_h5ad(tmp_path / "table.h5ad")
    adata.obsm["protein_expression"] = sp.csr_matrix(antibodies[:, [2, 0]])
    adata.write_h5ad(tmp_path / "sparse.h5ad")
    inputs = [tmp_path / name for name in ("a.h5", "b", "array.h5ad", "table.h5ad", "sparse.h5ad")]
    path = to_store(inputs, tmp_path / f"s{suffix}", cells_at_once=7)
    if suffix == ".h5ad":
        written = anndata.read_h5ad(path)
    else:
        written = anndata.read_zarr(path)
    np.testing.assert_array_equal(written.obsm["protein_expression"], np.tile(antibodies[:, [0, 2]], (5, 1)))
    assert written.uns["protein_names"].tolist() == [IDS[G - 3], IDS[G - 1]]
    assert (sp.vstack([genes] * 5) != written.X).nnz == 0
    assert f"1 proteins that not all inputs have are left out: {IDS[G - 2]!r}" in caplog.text
    assert not anndata.read_h5ad(to_store(inputs, tmp_path / "none.h5ad", protein_key=None)).obsm


@pytest.mark.parametrize("gaps", [False, True])
def test_tables_of_proteins_with_types_of_pandas(gaps, tmp_path):
    adata = AnnData(formats.counts(N, G), var=pd.DataFrame(index=IDS))
    table = pd.DataFrame(np.arange(2 * N).reshape(N, 2), index=adata.obs_names, columns=["x", "y"], dtype="Int64")
    if gaps:
        table["y"] = pd.array([pd.NA] * N, dtype="Int64")
    adata.obsm["protein_expression"] = table
    adata.write_h5ad(tmp_path / "a.h5ad")
    table["y"] = 1
    adata.write_h5ad(tmp_path / "b.h5ad")
    store = anndata.read_h5ad(to_store([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "s.h5ad"))
    proteins = store.obsm["protein_expression"]
    np.testing.assert_array_equal(proteins[:, 0], np.tile(np.arange(0, 2 * N, 2), 2))
    np.testing.assert_array_equal(proteins[:, 1], [*([np.nan] * N if gaps else range(1, 2 * N, 2)), *[1] * N])
    assert gaps or proteins.dtype == np.int32
    scvi.TOTALVI.setup_anndata(store, "protein_expression", "protein_names", batch_key="sample")


def test_tables_of_proteins_in_another_order_of_the_cells(tmp_path):
    """As no anndata writes them, and other software may."""
    adata = AnnData(formats.counts(N, G), var=pd.DataFrame(index=IDS))
    adata.obsm["protein_expression"] = pd.DataFrame({"x": range(N), "y": 1}, index=adata.obs_names)
    adata.write_h5ad(tmp_path / "a.h5ad")
    order = np.random.default_rng(0).permutation(N)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        table = file["obsm/protein_expression"]
        index = table.attrs["_index"]
        for column in (index, "x"):
            table[column][...] = table[column][...][order]
    store = anndata.read_h5ad(to_store(tmp_path / "a.h5ad", tmp_path / "s.h5ad"))
    np.testing.assert_array_equal(store.obsm["protein_expression"][:, 0], np.arange(N))
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file[f"obsm/protein_expression/{index}"][0] = "another"
    with pytest.raises(
        ValueError, match=r"a\.h5ad.* the index of adata\.obsm\['protein_expression'\] is not that of the"
    ):
        to_store(tmp_path / "a.h5ad", tmp_path / "t.h5ad")


def test_proteins_without_names_or_of_other_cells(tmp_path, caplog):
    adata = AnnData(formats.counts(N, G), obsm={"adt": np.ones((N, 2), np.int32)})
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert not anndata.read_h5ad(to_store(tmp_path / "a.h5ad", tmp_path / "s.h5ad", protein_key="adt")).obsm
    assert "obsm['adt'] is left out, for uns['protein_names'] is not there" in caplog.text
    for names, says in ((["x"], "1 names of proteins"), (["x", "x"], "repeated proteins, 'x' among them")):
        adata.uns["protein_names"] = np.array(names)
        adata.write_h5ad(tmp_path / "a.h5ad")
        with pytest.raises(ValueError, match=says):
            to_store(tmp_path / "a.h5ad", tmp_path / "t.h5ad", protein_key="adt")


def test_genes_and_proteins_from_a_store(tmp_path):
    path = formats.write_10x_h5(tmp_path / "a.h5", formats.counts(N, G), types=TYPES)
    adata = opened(to_store(path, tmp_path / "s.h5ad", cells_at_once=11))
    scvi.TOTALVI.setup_anndata(adata, "protein_expression", "protein_names")
    in_memory = read_10x(path)
    scvi.TOTALVI.setup_anndata(in_memory, "protein_expression", "protein_names")
    latent = []
    for cells in (adata, in_memory):
        model = scvi.TOTALVI(cells, n_hidden=8, n_latent=2, seed=0)
        model.train(max_epochs=2, seed=0)
        latent.append(model.get_latent_representation())
    assert np.isfinite(latent[0]).all()
    assert latent[0].shape == latent[1].shape == (N, 2)


def watch(monkeypatch, before) -> None:
    """Calls `before` with the name of a file, first cell and end, before these cells are read."""
    original = store.open_source

    def open_source(path, *more):
        source = original(path, *more)
        rows = source.rows
        source.rows = lambda start, stop: before(path.name, start, stop) or rows(start, stop)
        return source

    monkeypatch.setattr(store, "open_source", open_source)


def test_the_sizes_of_parts_follow_the_cells(tmp_path, monkeypatch):
    h5ad(tmp_path / "a.h5ad", 0)
    asked = []
    watch(monkeypatch, lambda file, i, j: asked.append((i, j)))
    monkeypatch.setattr("scvi.cells.storage.BUFFER_BYTES", 400)
    to_store(tmp_path / "a.h5ad", tmp_path / "s.h5ad")
    assert len(asked) > 3
    assert [i for i, _ in asked] == [0, *(j for _, j in asked[:-1])]


class Stop(Exception):
    pass


def test_an_interrupted_call_goes_on_where_it_was(tmp_path, monkeypatch):
    X = [h5ad(tmp_path / f"{name}.h5ad", seed) for seed, name in enumerate("ab")]
    inputs = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    asked = []

    def stop_at_the_fifth(file, start, stop):
        if len(asked) == 4:
            raise Stop
        asked.append((file, start))

    watch(monkeypatch, stop_at_the_fifth)
    with pytest.raises(Stop):
        to_store(inputs, tmp_path / "s.h5ad", cells_at_once=10)
    assert not (tmp_path / "s.h5ad").exists()
    assert (tmp_path / ".s.h5ad.parts").exists()
    before, asked[:] = list(asked), []
    monkeypatch.setattr(store, "_fill", lambda *_: (_ for _ in ()).throw(Stop))  # and again, while it is put together
    with pytest.raises(Stop):
        to_store(inputs, tmp_path / "s.h5ad", cells_at_once=10)
    monkeypatch.undo()
    assert before == [("a.h5ad", 0), ("a.h5ad", 10), ("a.h5ad", 20), ("b.h5ad", 0)]
    assert asked == [("b.h5ad", 10), ("b.h5ad", 20)]
    watch(monkeypatch, lambda *_: pytest.fail("all parts were there"))
    assert (sp.vstack(X) != in_memory(to_store(inputs, tmp_path / "s.h5ad", cells_at_once=10)).X).nnz == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad", "b.h5ad", "s.h5ad"]


def test_parts_of_other_inputs_are_not_used(tmp_path, monkeypatch, caplog):
    h5ad(tmp_path / "a.h5ad", 0)
    monkeypatch.setattr(store, "_assemble", lambda *_: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        to_store(tmp_path / "a.h5ad", tmp_path / "s.h5ad")
    monkeypatch.undo()
    X = h5ad(tmp_path / "a.h5ad", 1)
    with caplog.at_level("INFO", "scvi"):
        assert (in_memory(to_store(tmp_path / "a.h5ad", tmp_path / "s.h5ad")).X != X).nnz == 0
    assert "made anew" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="a process is killed")
def test_a_killed_process_leaves_no_store_and_is_resumed(tmp_path):
    h5ad(tmp_path / "a.h5ad", 0)
    code = (
        "import sys, time, numpy as np; from scvi.data import store, to_store; savez = np.savez\n"
        "store.np.savez = lambda *a, **k: (time.sleep(0.05), savez(*a, **k))[1]\n"
        "to_store(sys.argv[1], sys.argv[2], cells_at_once=1, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "a.h5ad", tmp_path / "s.h5ad"])
    parts = tmp_path / ".s.h5ad.parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("[0-9]*.npz"))) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "s.h5ad").exists()
    assert len(list(parts.glob("[0-9]*.npz"))) >= 5
    adata = in_memory(to_store(tmp_path / "a.h5ad", tmp_path / "s.h5ad", cells_at_once=1))
    assert (formats.counts(N, G, seed=0) != adata.X).nnz == 0


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_training_from_a_store(suffix, tmp_path):
    for seed, name in enumerate("ab"):
        h5ad(tmp_path / f"{name}.h5ad", seed)
    path = to_store([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / f"s{suffix}")
    adata = opened(path)
    scvi.SCVI.setup_anndata(adata, batch_key="sample")
    model = scvi.SCVI(adata, n_hidden=8, n_latent=2, seed=0)
    model.train(2, seed=0)
    assert model.get_latent_representation().shape == (2 * N, 2)


def test_what_is_refused(tmp_path):
    h5ad(tmp_path / "a.h5ad", 0, sample="s")
    h5ad(tmp_path / "b.h5ad", 1, [f"other{i}" for i in range(G)])
    a, b = tmp_path / "a.h5ad", tmp_path / "b.h5ad"
    with pytest.raises(ValueError, match=r"does not end with .h5ad or .zarr"):
        to_store(a, tmp_path / "s.loom")
    with pytest.raises(ValueError, match="empty"):
        to_store([], tmp_path / "s.h5ad")
    with pytest.raises(ValueError, match="column 'sample' already"):
        to_store(a, tmp_path / "s.h5ad")
    with pytest.raises(ValueError, match="no gene in common"):
        to_store([a, b], tmp_path / "s.h5ad", batch_key=None)
    with pytest.raises(ValueError, match="repeated names"):
        to_store([a, a], tmp_path / "s.h5ad")
    with pytest.raises(ValueError, match="cells_at_once=0"):
        to_store(b, tmp_path / "s.h5ad", cells_at_once=0)
    with pytest.raises(ValueError, match="no counts in layers/nix"):
        to_store(b, tmp_path / "s.h5ad", layer="nix")
    with pytest.raises(FileNotFoundError):
        to_store(tmp_path / "none.h5ad", tmp_path / "s.h5ad")
    (tmp_path / "c.csv").write_text(",a\nb,1\n")
    with pytest.raises(ValueError, match="nothing else is read here"):
        to_store(tmp_path / "c.csv", tmp_path / "s.h5ad")
    (tmp_path / "there.h5ad").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        to_store(b, tmp_path / "there.h5ad")
    assert (tmp_path / "there.h5ad").read_text() == "mine"
    to_store(b, tmp_path / "there.h5ad", overwrite=True)
    assert opened(tmp_path / "there.h5ad").shape == (N, G)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad", "b.h5ad", "c.csv", "there.h5ad"]
