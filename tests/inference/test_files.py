import json
import os
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from safetensors.torch import save_file

from scvi.dataset import CellMeasurement
from scvi.inference import Posterior, load_posterior
from scvi.models import VAE

FILES = ["anndata_dataset.h5ad", "cells.safetensors", "posterior.json", "weights.safetensors"]


@pytest.fixture
def posterior(vae, dataset):
    return Posterior(vae, dataset, indices=[5, 3, 8, 1], data_loader_kwargs={"batch_size": 3, "pin_memory": True})


@pytest.fixture
def saved(posterior, tmp_path):
    posterior.save_posterior(tmp_path / "saved")
    return tmp_path / "saved"


def fresh(dataset):
    return VAE(dataset.nb_genes, n_batch=dataset.n_batches, n_labels=dataset.n_labels, n_hidden=16, n_latent=3)


def tensors(posterior):
    return [torch.cat(column) for column in zip(*posterior, strict=True)]


def test_what_is_loaded_is_what_was_saved(posterior, saved, dataset):
    loaded = load_posterior(saved, fresh(dataset))
    assert np.array_equal(loaded.indices, [5, 3, 8, 1])
    assert loaded.data_loader.batch_size == 3
    assert loaded.data_loader_kwargs == posterior.data_loader_kwargs
    assert all(map(torch.equal, tensors(loaded.sequential()), tensors(posterior.sequential())))
    assert not loaded.model.training
    assert np.array_equal(loaded.sequential().get_latent()[0], posterior.sequential().get_latent()[0])
    again = loaded.gene_dataset
    for name in ("X", "labels", "batch_indices", "gene_names", "local_means", "local_vars"):
        assert np.array_equal(getattr(again, name), getattr(dataset, name)), name
    assert list(again.cell_types) == list(dataset.cell_types)
    assert (again.n_batches, again.n_labels) == (dataset.n_batches, dataset.n_labels)


def test_only_safe_files_are_written_and_nothing_else(saved, tmp_path):
    assert sorted(os.listdir(saved)) == FILES
    assert os.listdir(tmp_path) == ["saved"]
    assert json.loads((saved / "posterior.json").read_text())["posterior_type"] == "Posterior"


def test_empty_cells_and_gaps_in_the_codes_survive(vae, dataset, tmp_path):
    x = dataset.X.copy()
    x[[0, 4]] = 0
    dataset._X = x
    dataset.labels = np.where(dataset.labels == 1, 2, dataset.labels)  # no cell has label 1
    posterior = Posterior(vae, dataset, indices=[0, 4, 59])
    posterior.save_posterior(tmp_path / "saved")
    loaded = load_posterior(tmp_path / "saved", fresh(dataset))
    assert all(map(torch.equal, tensors(loaded.sequential()), tensors(posterior.sequential())))
    assert np.array_equal(loaded.gene_dataset.labels, dataset.labels)


def test_sparse_counts_attributes_and_measurements_survive(vae, dataset, tmp_path):
    proteins = np.arange(120).reshape(60, 2)
    dataset._X = sp.csr_matrix(dataset.X)
    dataset.initialize_cell_measurement(CellMeasurement("protein", proteins, "protein_names", np.array(["p", "q"])))
    dataset.initialize_cell_attribute("donor", np.arange(60) % 2, categorical=True)
    dataset.initialize_mapped_attribute("donor", "donor_names", ["x", "y"])
    dataset.initialize_cell_attribute("depth", np.linspace(0, 1, 60))
    dataset.initialize_cell_attribute("position", np.arange(180).reshape(60, 3))
    dataset.initialize_gene_attribute("length", np.arange(20))
    dataset.initialize_gene_attribute("scores", np.arange(40).reshape(20, 2))
    Posterior(vae, dataset).save_posterior(tmp_path / "saved")
    again = load_posterior(tmp_path / "saved", fresh(dataset)).gene_dataset
    assert sp.issparse(again.X)
    assert (again.X != dataset.X).nnz == 0
    assert np.array_equal(again.protein, proteins)
    assert list(again.protein_names) == ["p", "q"]
    assert np.array_equal(np.ravel(again.depth), np.ravel(dataset.depth))
    assert np.array_equal(np.ravel(again.donor), np.ravel(dataset.donor))
    assert list(again.donor_names) == ["x", "y"]
    assert again.attribute_mappings["donor"] == ["donor_names"]
    assert again.cell_categorical_attribute_names == dataset.cell_categorical_attribute_names
    for name in ("position", "length", "scores"):
        assert np.array_equal(getattr(again, name), getattr(dataset, name))


def test_corrupted_counts_survive(vae, dataset, tmp_path):
    dataset.corrupt(rate=0.5, corruption="binomial")
    posterior = Posterior(vae, dataset, indices=np.arange(60)).corrupted()
    posterior.save_posterior(tmp_path / "saved")
    loaded = load_posterior(tmp_path / "saved", fresh(dataset))
    assert np.array_equal(tensors(loaded.sequential())[0], dataset.corrupted_X)
    assert np.array_equal(tensors(loaded.uncorrupted().sequential())[0], dataset.X)


def test_options_that_are_objects_are_left_out_with_a_warning(posterior, dataset, tmp_path, caplog):
    posterior.update({"generator": torch.Generator()}).save_posterior(tmp_path / "saved")
    assert "are not saved: generator" in caplog.text
    assert "generator" not in load_posterior(tmp_path / "saved", fresh(dataset)).data_loader_kwargs


class Labelled(Posterior):
    def __init__(self, *args, extra="none", **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = extra


def test_the_class_is_remembered(vae, dataset, tmp_path):
    Labelled(vae, dataset).save_posterior(tmp_path / "saved")
    loaded = load_posterior(tmp_path / "saved", fresh(dataset), extra="given")
    assert type(loaded) is Labelled
    assert loaded.extra == "given"


# Bad news -------------------------------------------------------------------------------------------------------------


def test_a_directory_that_exists_is_refused(posterior, saved):
    with pytest.raises(ValueError, match="already exists: choose another directory"):
        posterior.save_posterior(saved)


def test_nothing_is_left_of_a_failed_save(posterior, tmp_path, monkeypatch):
    monkeypatch.setattr(type(posterior.model), "state_dict", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        posterior.save_posterior(tmp_path / "saved")
    assert os.listdir(tmp_path) == []


def test_a_missing_directory(vae, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        load_posterior(tmp_path / "nowhere", vae)


def test_another_model_is_refused_and_left_alone(saved, dataset):
    other = VAE(dataset.nb_genes, n_batch=2, n_hidden=8, n_latent=3)
    with pytest.raises(ValueError, match=r"are of another model than the one given.*px_r|size mismatch"):
        load_posterior(saved, other)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_damaged_files_are_refused(saved, dataset, name, damage):
    content = (saved / name).read_bytes()
    if damage == "missing":
        (saved / name).unlink()
    else:
        (saved / name).write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(ValueError, match="is no complete directory of save_posterior"):
        load_posterior(saved, fresh(dataset))


def test_weights_that_are_not_finite_are_neither_saved_nor_read(posterior, saved, of_2020, dataset, tmp_path):
    px_r = posterior.model.state_dict()["px_r"]
    broken = {name: (t * np.nan).contiguous() for name, t in posterior.model.state_dict().items()} | {"px_r": px_r}
    save_file(broken, saved / "weights.safetensors")
    torch.save(broken, of_2020 / "model_params.pt")
    for folder in (saved, of_2020):
        model = fresh(dataset)
        before = model.px_r.clone()
        with pytest.raises(ValueError, match=r"no complete directory.*its weights are damaged: .* and \d+ further"):
            load_posterior(folder, model)
        assert torch.equal(model.px_r, before)
    posterior.model.px_r.data[:] = np.inf
    with pytest.raises(ValueError, match=r"this posterior is not saved.*values of 'px_r' are NaN or infinite$"):
        posterior.save_posterior(tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_an_unknown_class_and_a_later_format_are_refused(saved, dataset):
    info = json.loads((saved / "posterior.json").read_text())
    (saved / "posterior.json").write_text(json.dumps({**info, "posterior_type": "Sampler"}))
    with pytest.raises(ValueError, match="Posterior type 'Sampler' is not eligible for loading; known types: Post"):
        load_posterior(saved, fresh(dataset))
    (saved / "posterior.json").write_text(json.dumps({**info, "format": 2}))
    with pytest.raises(ValueError, match="it has format 2, this version of scvi reads 1"):
        load_posterior(saved, fresh(dataset))


# Directories of 2020 --------------------------------------------------------------------------------------------------


@pytest.fixture
def of_2020(vae, dataset, tmp_path):
    """The files that release 0.6.3 wrote."""
    folder = tmp_path / "of_2020"
    folder.mkdir()
    dataset.to_anndata().write_h5ad(folder / "anndata_dataset.h5ad")
    (folder / "posterior_type.txt").write_text("Posterior\n")
    torch.save(vae.state_dict(), folder / "model_params.pt")
    np.save(folder / "indices.npy", np.array([4, 0]))
    return folder


def test_a_directory_of_2020_is_read(of_2020, vae, dataset):
    loaded = load_posterior(of_2020, fresh(dataset))
    assert np.array_equal(loaded.indices, [4, 0])
    assert np.array_equal(loaded.gene_dataset.X, dataset.X)
    names = np.asarray(loaded.gene_dataset.cell_types)[loaded.gene_dataset.labels.ravel()]
    assert np.array_equal(names, np.asarray(dataset.cell_types)[dataset.labels.ravel()])
    vae.eval()
    expected = Posterior(vae, dataset, indices=[4, 0]).sequential().get_latent()[0]
    assert np.array_equal(loaded.sequential().get_latent()[0], expected)


def test_a_pickle_in_place_of_weights_runs_nothing(of_2020, dataset, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (of_2020 / "model_params.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="is no complete directory"):
        load_posterior(of_2020, fresh(dataset))
    assert not (tmp_path / "ran").exists()


def test_measurements_of_2020_have_no_names_of_columns(vae, dataset, tmp_path, caplog):
    dataset.initialize_cell_measurement(CellMeasurement("protein", np.arange(120).reshape(60, 2), "names", ["a", "b"]))
    folder = tmp_path / "of_2020"
    folder.mkdir()
    adata = dataset.to_anndata()
    adata.uns = {"cell_measurements_col_mappings": {"protein": "names"}, "protein": adata.obsm["protein"]}
    adata.write_h5ad(folder / "anndata_dataset.h5ad")
    (folder / "posterior_type.txt").write_text("Posterior")
    np.save(folder / "indices.npy", np.arange(60))
    torch.save(vae.state_dict(), folder / "model_params.pt")
    with caplog.at_level("INFO", logger="scvi"):
        loaded = load_posterior(folder, fresh(dataset)).gene_dataset
    assert np.array_equal(loaded.protein, dataset.protein)
    assert loaded.names.tolist() == ["0", "1"]
    assert "columns of protein have no names" in caplog.text


def test_attributes_of_mixed_objects_are_saved_as_text(vae, dataset, tmp_path, caplog):
    dataset.initialize_cell_attribute("mixed", np.array([1, "x", None] * 20, dtype=object))
    dataset.initialize_cell_attribute("pairs", np.array([[1, "x"]] * 60, dtype=object))
    Posterior(vae, dataset).save_posterior(tmp_path / "saved")
    assert "The attribute mixed holds objects" in caplog.text
    loaded = load_posterior(tmp_path / "saved", fresh(dataset)).gene_dataset
    assert loaded.mixed[:3].tolist() == ["1", "x", "None"]
    assert loaded.pairs[0].tolist() == ["1", "x"]
