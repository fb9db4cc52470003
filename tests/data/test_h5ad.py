"""AnnData files and DownloadableAnnDataset."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import formats
import scvi
from scvi.dataset import DownloadableAnnDataset, read_h5ad, to_store
from web import serving

X = formats.counts()
N, G = X.shape


def written(path, layout=sp.csr_matrix, **parts):
    obs = pd.DataFrame(
        {"batch": (np.arange(N) % 2).astype(str), "cell_types": pd.Categorical(np.array(["b", "a"])[np.arange(N) % 2])},
        index=formats.barcodes(N),
    )
    AnnData(layout(parts.pop("X", X)), obs=obs, var=pd.DataFrame(index=formats.names(G)[1]), **parts).write_h5ad(path)
    return path


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, lambda X: X.toarray(), lambda X: X.toarray() * 1.0])
def test_counts_by_cell(layout, tmp_path):
    adata = read_h5ad(written(tmp_path / "f.h5ad", layout))
    assert sp.issparse(adata.X)
    assert adata.X.format == "csr"
    assert (adata.X != X).nnz == 0
    assert adata.obs_names.tolist() == formats.barcodes(N)


def test_bad_files(tmp_path):
    path = written(tmp_path / "f.h5ad")
    content = path.read_bytes()
    for bad, says in ((content[:-5000], "cannot be read as"), (b"PK", "no HDF5 file"), (b"", "is empty")):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=says) as error:
            read_h5ad(path)
        assert "\n" not in str(error.value)
    formats.write_10x_h5(tmp_path / "t.h5", X)
    with pytest.raises(ValueError, match=r"cannot be read as an .h5ad|no counts"):
        read_h5ad(tmp_path / "t.h5")
    with pytest.raises(FileNotFoundError):
        read_h5ad(tmp_path / "none.h5ad")
    adata = anndata.AnnData(X, obs=pd.DataFrame(index=formats.barcodes(N)))
    adata.obs_names = [adata.obs_names[0], *adata.obs_names[:-1]]
    adata.write_h5ad(path)
    with pytest.warns(UserWarning, match="not unique"), pytest.raises(ValueError, match="1 repeated names of cells"):
        read_h5ad(path)
    anndata.AnnData(obs=pd.DataFrame(index=["a"])).write_h5ad(path)
    with pytest.raises(ValueError, match="no counts in X"):
        read_h5ad(path)


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("indices", 10**6, "number 1000000, but"),
        ("indices", -1, "number -1, but"),
        ("indptr", 10**6, "do not follow one another"),
        ("indptr", -5, "do not follow one another"),
    ],
)
def test_values_outside_of_the_matrix(layout, where, value, says, tmp_path):
    path = written(tmp_path / "f.h5ad", layout)
    with h5py.File(path, "a") as file:
        stored = file["X"][where]
        stored[len(stored) // 2] = value
    reads = (read_h5ad, lambda path: DownloadableAnnDataset(path.name, str(tmp_path)))
    for read in (*reads, lambda path: to_store(path, tmp_path / "s.h5ad")):
        with pytest.raises(ValueError, match=f"f.h5ad cannot be read as .* is damaged: .*{says}"):
            read(path)
    assert not (tmp_path / "s.h5ad").exists()
    with pytest.raises(ValueError, match=f"adata.X is damaged: .*{says}"):
        scvi.SCVI.setup_anndata(anndata.read_h5ad(path))


@pytest.mark.parametrize("shape", [(10**9, 10**9), (N, 10**11), (10**12, G)])
def test_absurd_shapes_need_no_memory(shape, tmp_path):
    path = written(tmp_path / "f.h5ad")
    with h5py.File(path, "a") as file:
        file["X"].attrs["shape"] = np.array(shape)
    for read in (read_h5ad, lambda path: to_store(path, tmp_path / "s.h5ad")):
        with pytest.raises(ValueError, match=rf"f.h5ad cannot be read as an .h5ad file: .*{shape[0]}.*{shape[1]}"):
            read(path)
    with h5py.File(path, "a") as file:
        del file["X"]
        file.create_dataset("X", shape, np.float32, chunks=(1, 1)).attrs["encoding-type"] = "array"
    with pytest.raises(ValueError, match=f"/X claims {shape[0]} x {shape[1]} values, and 0 bytes are there"):
        read_h5ad(path)


def test_an_encoding_that_is_none(tmp_path):
    path = written(tmp_path / "f.h5ad")
    with h5py.File(path, "a") as file:
        file["obs/_index"].attrs["encoding-type"] = "nonsense"
    with pytest.raises(ValueError, match=r"cannot be read as an .h5ad file") as error:
        read_h5ad(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("use_raw", [False, True])
def test_downloadable_anndata(use_raw, tmp_path):
    counts = X.tolil()
    counts[3] = 0
    counts = sp.csr_matrix(counts)
    content = written(tmp_path / "source.h5ad", X=counts, obsm={"place": np.arange(2.0 * N).reshape(N, 2)})
    adata = anndata.read_h5ad(content)
    if use_raw:
        adata.raw = adata
        adata = adata[:, :4].copy()
        adata.write_h5ad(content)
    with serving(files={"/TM.h5ad": content.read_bytes()}) as web:
        options = {"url": f"{web.url}/TM.h5ad", "batch_label": "batch", "use_raw": use_raw}
        dataset = DownloadableAnnDataset("TM.h5ad", str(tmp_path), **options)
    kept = np.arange(N) != 3
    np.testing.assert_array_equal(dataset.X, X[kept].toarray())
    assert dataset.cell_types.tolist() == ["b", "a"]
    assert dataset.n_batches == 2
    np.testing.assert_array_equal(dataset.obsm["place"], np.arange(2.0 * N).reshape(N, 2)[kept])
    assert "cell_types" not in dataset.obs
    assert len(dataset.var) == G
