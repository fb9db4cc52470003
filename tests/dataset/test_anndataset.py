from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

from scvi.dataset import AnnDatasetFromAnnData, CellMeasurement, GeneExpressionDataset, SyntheticDataset
from scvi.dataset.anndataset import extract_data_from_anndata
from scvi.inference import UnsupervisedTrainer
from scvi.models import VAE


def annotated(X: Any, **columns: Any) -> AnnData:
    return AnnData(X, obs=pd.DataFrame(columns, index=[f"c{i}" for i in range(X.shape[0])]))


@pytest.fixture
def X() -> np.ndarray:
    return np.random.default_rng(0).poisson(2.0, (6, 7)) + 1


def test_sizes(X: np.ndarray) -> None:
    dataset = AnnDatasetFromAnnData(AnnData(X[:3]))
    assert (dataset.nb_cells, dataset.nb_genes) == (3, 7)
    assert dataset.gene_names.tolist() == [str(i) for i in range(7)]


LAYOUTS = [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_small_counts_are_an_array(X: np.ndarray, layout: Callable, dtype: Any) -> None:
    adata = AnnData(layout(X.astype(dtype)))
    dataset = AnnDatasetFromAnnData(adata)
    assert type(dataset.X) is np.ndarray
    assert dataset.X.dtype == np.float32
    assert dataset.X.flags.c_contiguous
    np.testing.assert_array_equal(dataset.X[:, 3].ravel(), X[:, 3])  # as tutorials have it
    dataset.X[:] = 0
    np.testing.assert_array_equal(adata.X.toarray() if sp.issparse(adata.X) else adata.X, X)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_large_counts_stay_sparse(X: np.ndarray, layout: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvi.dataset.arrays.LARGEST_ARRAY", 4 * X.size)
    adata = AnnData(layout(X))
    dataset = AnnDatasetFromAnnData(adata)
    assert dataset.X.format == "csr"
    np.testing.assert_array_equal(dataset.X.toarray(), X)
    dataset.X.data[:] = 0
    np.testing.assert_array_equal(adata.X.toarray(), X)
    monkeypatch.setattr("scvi.dataset.arrays.LARGEST_ARRAY", 4 * X.size + 1)
    assert type(AnnDatasetFromAnnData(adata).X) is np.ndarray


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_array_is_what_models_read(X: np.ndarray, layout: Callable) -> None:
    """What a script changes in place is read, also by a fit that was under way."""
    dataset = AnnDatasetFromAnnData(AnnData(layout(X)))
    model = VAE(dataset.nb_genes, n_hidden=8)
    trainer = UnsupervisedTrainer(model, dataset, train_size=1.0)
    posterior = trainer.create_posterior(model, dataset, indices=np.arange(len(dataset))).sequential()
    before = posterior.get_latent()[0]
    dataset.X[2, 5] = 40
    np.testing.assert_array_equal(next(iter(posterior))[0].numpy(), dataset.X)
    after = posterior.get_latent()[0]
    assert (np.abs(after - before).max(axis=1) > 0).tolist() == [False, False, True, False, False, False]


def test_the_anndata_is_copied_and_not_changed(X: np.ndarray) -> None:
    adata = annotated(X.astype(np.float32), batch_indices=list("aabbcc"), cell_types=list("xyxyxy"), more=range(6))
    before = adata.copy()
    dataset = AnnDatasetFromAnnData(adata)
    dataset.X[:] = 0
    dataset.more[:] = 0
    np.testing.assert_array_equal(adata.X, before.X)
    assert adata.obs.equals(before.obs)


def test_use_raw(X: np.ndarray) -> None:
    adata = AnnData(X, var=pd.DataFrame({"length": np.arange(7)}, index=list("abcdefg")))
    adata.raw = adata
    adata = adata[:, 3:].copy()
    adata.X = np.log1p(adata.X)
    dataset = AnnDatasetFromAnnData(adata, use_raw=True)
    np.testing.assert_array_equal(dataset.X, X)
    assert dataset.gene_names.tolist() == list("abcdefg")
    assert dataset.length.tolist() == list(range(7))
    with pytest.raises(ValueError, match=r"ad\.raw is None"):
        AnnDatasetFromAnnData(AnnData(X), use_raw=True)


def test_batches_by_name(X: np.ndarray) -> None:
    for names in (list("bbaacc"), pd.Categorical(list("bbaacc"))):
        dataset = AnnDatasetFromAnnData(annotated(X, plate=names), batch_label="plate")
        assert dataset.batch_indices.ravel().tolist() == [0, 0, 1, 1, 2, 2]
        assert dataset.batch_names.tolist() == ["b", "a", "c"]
        assert dataset.n_batches == 3


@pytest.mark.parametrize("codes", [[4, 4, 2, 2, 7, 7], [4.0, 4.0, 2.0, 2.0, 7.0, 7.0]])
def test_batches_by_code(X: np.ndarray, codes: list[float]) -> None:
    dataset = AnnDatasetFromAnnData(annotated(X, batch_indices=codes))
    assert dataset.batch_indices.ravel().tolist() == [1, 1, 0, 0, 2, 2]
    assert not hasattr(dataset, "batch_names")


@pytest.mark.parametrize("codes", [[-1, -1, 0, 0, 1, 1], [10**6, 10**6, 0, 0, 1, 1]])
def test_numbers_that_are_no_codes_are_names(X: np.ndarray, codes: list[int]) -> None:
    dataset = AnnDatasetFromAnnData(annotated(X, labels=codes))
    assert dataset.labels.ravel().tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.cell_types.tolist() == [str(codes[0]), "0", "1"]


def test_labels(X: np.ndarray) -> None:
    dataset = AnnDatasetFromAnnData(annotated(X, cell_types=list("yxyxzz"), labels=[0, 0, 1, 1, 2, 2]))
    assert dataset.cell_types.tolist() == ["y", "x", "z"]
    assert dataset.labels.ravel().tolist() == [0, 1, 0, 1, 2, 2]
    assert dataset.labels_cell.tolist() == [0, 0, 1, 1, 2, 2]
    dataset = AnnDatasetFromAnnData(annotated(X, labels=[3, 3, 1, 1, 1, 1]))
    assert dataset.labels.ravel().tolist() == [1, 1, 0, 0, 0, 0]
    assert dataset.cell_types is None
    dataset = AnnDatasetFromAnnData(annotated(X, kind=list("yxyxzz")), class_label="kind")
    assert dataset.cell_types.tolist() == ["y", "x", "z"]


def test_cells_without_a_type(X: np.ndarray, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = AnnDatasetFromAnnData(annotated(X, cell_types=["a", None, "b", np.nan, "a", "b"]))
    assert dataset.cell_types.tolist() == ["a", "unknown", "b"]
    assert dataset.labels.ravel().tolist() == [0, 1, 2, 1, 0, 2]
    assert "cell_types is missing in 2 cells" in caplog.text


def test_empty_cells_are_left_out_and_codes_renumbered(X: np.ndarray) -> None:
    X[:2] = 0
    dataset = AnnDatasetFromAnnData(annotated(X, batch_indices=list("aabbcc"), cell_types=list("xxyyzz")))
    assert dataset.nb_cells == 4
    assert dataset.batch_indices.ravel().tolist() == [0, 0, 1, 1]
    assert dataset.batch_names.tolist() == ["b", "c"]
    assert dataset.cell_types.tolist() == ["y", "z"]


def test_other_columns_become_attributes(X: np.ndarray) -> None:
    adata = annotated(X, score=np.arange(6.0), nb_cells=np.arange(6), local_means=np.arange(6), n=list("abcdef"))
    adata.var["length"] = np.arange(7)
    adata.var["gene_names"] = list("abcdefg")
    dataset = AnnDatasetFromAnnData(adata)
    assert dataset.score.tolist() == list(range(6))
    assert dataset.n.tolist() == list("abcdef")
    assert dataset.nb_cells == 6
    assert dataset.nb_cells_cell.tolist() == dataset.local_means_cell.tolist() == list(range(6))
    assert dataset.length.tolist() == list(range(7))
    assert dataset.gene_names_gene.tolist() == list("abcdefg")
    assert dataset.gene_names.tolist() == [str(i) for i in range(7)]


@pytest.mark.parametrize("through_file", [False, True])
def test_round_trip(X: np.ndarray, tmp_path: Path, through_file: bool) -> None:
    dataset = GeneExpressionDataset()
    dev = np.arange(12).reshape(6, 2)
    dataset.populate_from_data(
        X,
        Ys=[CellMeasurement("dev", dev, "dev_names", ["a", "b"])],
        batch_indices=[0, 0, 0, 1, 1, 1],
        labels=[1, 0, 1, 0, 2, 2],
        cell_types=["t0", "t1", "t2"],
        gene_names=list("abcdefg"),
    )
    adata = dataset.to_anndata()
    if through_file:
        adata.write_h5ad(tmp_path / "x.h5ad")
        adata = anndata.read_h5ad(tmp_path / "x.h5ad")
    again = AnnDatasetFromAnnData(adata, cell_measurements_col_mappings={"dev": "dev_names"})
    np.testing.assert_array_equal(again.X, X)
    np.testing.assert_array_equal(again.dev, dev)
    assert again.dev_names.tolist() == ["a", "b"]
    assert again.cell_types[again.labels.ravel()].tolist() == dataset.cell_types[dataset.labels.ravel()].tolist()
    assert again.batch_indices.tolist() == dataset.batch_indices.tolist()
    assert again.gene_names.tolist() == list("abcdefg")
    np.testing.assert_array_equal(again.local_means, dataset.local_means)


def test_missing_measurements(X: np.ndarray) -> None:
    adata = AnnData(X, obsm={"dev": np.ones((6, 2))})
    with pytest.raises(ValueError, match=r"'deV' is not in ad\.obsm; did you mean 'dev'"):
        AnnDatasetFromAnnData(adata, cell_measurements_col_mappings={"deV": "names"})
    with pytest.raises(ValueError, match=r"'names' is not in ad\.uns; there are none"):
        AnnDatasetFromAnnData(adata, cell_measurements_col_mappings={"dev": "names"})


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("large", [False, True])
def test_backed(X: np.ndarray, tmp_path: Path, layout: Callable, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvi.dataset.arrays.LARGEST_ARRAY", 4 * X.size + (not large))
    AnnData(layout(X.astype(np.float32))).write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    dataset = AnnDatasetFromAnnData(backed)
    backed.file.close()
    assert sp.issparse(dataset.X) == (large and layout is not np.asarray)
    np.testing.assert_array_equal(dataset.X.toarray() if sp.issparse(dataset.X) else dataset.X, X)


def test_extract_data(X: np.ndarray) -> None:
    adata = annotated(X, batch_indices=list("aabbcc"), cell_types=list("xyxyxy"), more=np.arange(6))
    adata.obsm["o"] = np.ones((6, 2))
    adata.uns["u"] = 1
    data, batch, labels, genes, types, obs, obsm, var, varm, uns = extract_data_from_anndata(adata)
    np.testing.assert_array_equal(data, X)
    assert batch.tolist() == [0, 0, 1, 1, 2, 2]
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert types.tolist() == ["x", "y"]
    assert genes.tolist() == adata.var_names.tolist()
    assert list(obs) == ["more"]
    assert list(obsm) == ["o"]
    assert (list(var), list(varm), dict(uns)) == ([], [], {"u": 1})


def test_synthetic() -> None:
    np.random.seed(0)
    dataset = SyntheticDataset(batch_size=300, nb_genes=30, n_proteins=5, n_batches=3, n_labels=4)
    assert (dataset.nb_cells, dataset.nb_genes) == (900, 30)
    assert (dataset.n_batches, dataset.n_labels) == (3, 4)
    assert dataset.batch_indices.ravel().tolist() == [0] * 300 + [1] * 300 + [2] * 300
    assert dataset.cell_types.tolist() == [f"undefined_{i}" for i in range(4)]
    assert dataset.gene_names[[0, 29]].tolist() == ["0", "29"]
    assert dataset.protein_expression.shape == (900, 5)
    assert dataset.protein_names.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(dataset.X.mean(), 0.7 * 35 / 3, rtol=0.02)
    np.testing.assert_allclose(dataset.protein_expression.mean(), 35 / 3, rtol=0.02)
    np.random.seed(0)
    again = SyntheticDataset(batch_size=300, nb_genes=30, n_proteins=5, n_batches=3, n_labels=4)
    np.testing.assert_array_equal(again.X, dataset.X)
    assert SyntheticDataset().X.shape == (400, 100)


def test_a_missing_batch_is_logged_once(X: np.ndarray, caplog: Any) -> None:
    dataset = AnnDatasetFromAnnData(annotated(X, b=["x", None] * 3), batch_label="b")
    assert caplog.text.count("is missing in 3 cells") == 1
    assert dataset.batch_names.tolist() == ["x", "unknown"]


def test_numbers_are_the_same_of_an_array_and_of_sparse_counts(cells: AnnData, monkeypatch: Any) -> None:
    """Bit for bit: models read the entries that are not zero, in the order of the genes, from either."""
    found = []
    for limit in (1, 10**9):
        monkeypatch.setattr("scvi.dataset.arrays.LARGEST_ARRAY", limit)
        dataset = AnnDatasetFromAnnData(cells, batch_label="batch", ctype_label="cell_type")
        assert sp.issparse(dataset.X) == (limit == 1)
        torch.manual_seed(0)
        np.random.seed(0)
        model = VAE(dataset.nb_genes, n_batch=dataset.n_batches, n_hidden=8)
        trainer = UnsupervisedTrainer(model, dataset, train_size=0.8, frequency=1)
        trainer.train(n_epochs=2)
        latent = trainer.test_set.sequential().get_latent()[0]
        found.append((trainer.history["elbo_train_set"], trainer.history["elbo_test_set"], latent, dataset.local_vars))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
