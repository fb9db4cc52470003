"""Files of every kind that is read are the same cells, and are looked at without their counts."""

from __future__ import annotations

import gzip
import json

import anndata
import h5py
import numpy as np
import pytest
import scipy.io
from mudata import MuData
from scipy import sparse

import scvi
from scvi import cli, plots
from scvi.cli.reading import glance, kind_of, read_cells
from small_cells import make_adata

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data")  # of anndata, whichever version writes


@pytest.fixture(scope="module")
def cells():
    return make_adata(30, 12)


def h5ad(folder, cells):
    cells.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def renamed(folder, cells):
    return h5ad(folder, cells).rename(folder / "cells.hdf5")


def zarr(folder, cells):
    cells.write_zarr(folder / "cells.zarr")
    return folder / "cells.zarr"


def zarr_of_another_name(folder, cells):
    return zarr(folder, cells).rename(folder / "store")


def loom(folder, cells):
    with h5py.File(folder / "cells.loom", "w") as file:
        file["matrix"] = cells.X.toarray().T
        file["col_attrs/CellID"] = cells.obs_names.to_numpy().astype("S")
        file["row_attrs/Gene"] = cells.var_names.to_numpy().astype("S")
    return folder / "cells.loom"


def tenx(folder, cells):
    (folder / "matrix").mkdir()
    scipy.io.mmwrite(folder / "matrix" / "matrix.mtx", sparse.coo_matrix(cells.X.T.astype(int)))
    (folder / "matrix" / "barcodes.tsv").write_text("\n".join(cells.obs_names) + "\n")
    (folder / "matrix" / "genes.tsv").write_text("\n".join(f"{name}\t{name}" for name in cells.var_names) + "\n")
    return folder / "matrix"


def table(folder, cells):
    cells.to_df().astype(int).to_csv(folder / "cells.csv")
    return folder / "cells.csv"


def packed_tabs(folder, cells):
    with gzip.open(folder / "cells.tsv.gz", "wt") as file:
        cells.to_df().astype(int).to_csv(file, sep="\t")
    return folder / "cells.tsv.gz"


def text(folder, cells):
    cells.to_df().astype(int).to_csv(folder / "cells.txt", sep=" ")
    return folder / "cells.txt"


WRITERS = [h5ad, renamed, zarr, zarr_of_another_name, loom, tenx, table, packed_tabs, text]


@pytest.mark.parametrize("write", WRITERS)
def test_every_kind_of_file_is_the_same_cells(tmp_path, cells, write):
    file = write(tmp_path, cells)
    read, seen = read_cells(file), glance(file)
    counts = read.X.toarray() if sparse.issparse(read.X) else read.X
    np.testing.assert_array_equal(counts, cells.X.toarray())
    assert list(read.obs_names) == list(cells.obs_names)
    assert list(read.var_names) == list(cells.var_names)
    assert seen.described()["says"].startswith(f"{file}: ")
    if seen.kind == "text":
        assert seen.cells is None
    else:
        assert seen.cells.shape == cells.shape
        assert seen.cells.X is None


def test_a_table_may_have_genes_in_rows(tmp_path, cells):
    cells.to_df().astype(int).T.to_csv(tmp_path / "genes.csv")
    np.testing.assert_array_equal(read_cells(tmp_path / "genes.csv", genes_in_rows=True).X.toarray(), cells.X.toarray())


@pytest.mark.parametrize("write", [h5ad, zarr])
def test_counts_stay_on_disk(tmp_path, cells, write):
    cells = cells.copy()
    cells.layers["raw"] = cells.X
    read = read_cells(write(tmp_path, cells), on_disk=True)
    for stored in (read.X, read.layers["raw"]):
        assert not sparse.issparse(stored)
        np.testing.assert_array_equal(stored[:].toarray(), cells.X.toarray())
    assert list(read.obs) == list(cells.obs)
    np.testing.assert_array_equal(read.obsm["proteins"], cells.obsm["proteins"])


def test_what_cannot_stay_on_disk_says_what_can(tmp_path, cells):
    with pytest.raises(ValueError, match=r"--on-disk is for \.h5ad files and \.zarr stores; `scvi convert"):
        read_cells(table(tmp_path, cells), on_disk=True)


def test_other_files_are_told_what_is_read(tmp_path):
    (tmp_path / "cells.xlsx").write_bytes(b"PK")
    assert kind_of(tmp_path / "cells.xlsx") == "text"
    with pytest.raises(ValueError, match=r"is none of what is read here: \.h5ad, \.h5mu"):
        read_cells(tmp_path / "cells.xlsx")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        kind_of(tmp_path / "nowhere.h5ad")


@pytest.fixture
def mdata(tmp_path, cells):
    proteins = anndata.AnnData(sparse.csr_matrix(cells.obsm["proteins"].to_numpy(np.float32)), obs=cells.obs[["donor"]])
    proteins.var_names = list(cells.obsm["proteins"])
    whole = MuData({"rna": anndata.AnnData(cells.X, obs=cells.obs, var=cells.var), "protein": proteins})
    whole.write_h5mu(tmp_path / "cells.h5mu")
    return tmp_path / "cells.h5mu"


@pytest.mark.filterwarnings("default::FutureWarning")
def test_a_mudata_is_trained_and_asked(capsys, tmp_path, mdata, monkeypatch, cells):
    monkeypatch.setattr(plots, "available", lambda: False)
    seen = glance(mdata)
    assert (seen.kind, seen.cells.shape, set(seen.obsm)) == ("h5mu", cells.shape, {"rna", "protein"})
    out = tmp_path / "fit"
    command = ["train", str(mdata), "--output", str(out), "--model", "totalvi", "--batch-key", "batch"]
    assert cli.main([*command, "--max-epochs", "1", "--set", "n_hidden=8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copies"] == [str(out / "cells.h5mu")]
    copy = read_cells(out / "cells.h5mu")
    assert copy.obsm["X_totalVI"].shape == (30, 20)
    model = scvi.TOTALVI.load(out / "model", copy)
    np.testing.assert_array_equal(model.get_latent_representation(), copy.obsm["X_totalVI"])
    assert cli.main(["impute", str(out), "--output", str(tmp_path / "i.h5ad"), "--genes", "gene1"]) == 0
    assert anndata.read_h5ad(tmp_path / "i.h5ad").obsm["proteins"].shape == (30, 5)
    capsys.readouterr()
    assert cli.main(["train", str(mdata), "--output", str(tmp_path / "no"), "--batch-key", "batch"]) == 1
    assert "--model scvi does not go with the MuData" in capsys.readouterr().err
