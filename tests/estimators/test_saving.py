"""Models as files: complete, replaced in one move, never run, and readable by later versions."""

from __future__ import annotations

import json
import math
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import scvi
from scvi.estimators import cell_files, files
from small_cells import KEYS, QUICK, TINY, make_adata


@pytest.fixture(scope="module")
def fitted() -> scvi.SCVI:
    """A model that no test changes."""
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, **{**KEYS, "size_factor_key": None}, mask_var="chosen")
    model = scvi.SCVI(adata, **TINY, dispersion="gene-batch", use_observed_lib_size=False)
    model.train(**QUICK)
    return model


@pytest.fixture
def stored(fitted: scvi.SCVI, tmp_path: Path) -> Path:
    fitted.save(tmp_path / "model")
    return tmp_path / "model"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit(stored: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    description = json.loads((stored / "model.json").read_text())
    changed = change(description)
    (stored / "model.json").write_text(json.dumps(description if changed is None else changed))


# ---- round trip ------------------------------------------------------------------------------------------------------


def test_everything_comes_back(fitted: scvi.SCVI, stored: Path) -> None:
    assert names(stored) == ["model.json", "weights.safetensors"]
    loaded = scvi.SCVI.load(str(stored), fitted.adata)
    assert loaded.schema == fitted.schema
    assert loaded.options == fitted.options
    assert loaded.is_trained
    assert loaded.train_indices.tolist() == fitted.train_indices.tolist()
    assert loaded.validation_indices.tolist() == fitted.validation_indices.tolist()
    assert list(loaded.history) == list(fitted.history)
    for name, table in fitted.history.items():
        pd.testing.assert_frame_equal(loaded.history[name], table)
    pd.testing.assert_frame_equal(loaded.view_anndata_setup(), fitted.view_anndata_setup())
    state, expected = loaded.module.state_dict(), fitted.module.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert not loaded.module.training
    assert loaded.device == torch.device("cpu")


def test_the_files_are_safetensors_and_json(stored: Path) -> None:
    assert {name.split("/")[0] for name in load_file(stored / "weights.safetensors")} == {
        "model",
        "train_indices",
        "validation_indices",
    }
    description = json.loads((stored / "model.json").read_text())
    assert description["format"] == 3
    assert description["scvi_version"] == scvi.__version__
    assert description["estimator"] == "SCVI"


def test_everyone_who_may_read_the_folder_may_read_the_files(stored: Path) -> None:
    modes = {stat.S_IMODE((stored / name).stat().st_mode) for name in names(stored)}
    assert len(modes) == 1


def test_a_loaded_adata_needs_no_setup(fitted: scvi.SCVI, stored: Path) -> None:
    fresh = make_adata()
    loaded = scvi.SCVI.load(stored, fresh)
    assert "_scvi" not in fresh.uns
    assert np.array_equal(loaded.get_latent_representation(), fitted.get_latent_representation())


def test_the_adata_may_be_saved_with_the_model(fitted: scvi.SCVI, tmp_path: Path) -> None:
    obs = fitted.adata.obs.copy()
    fitted.save(tmp_path / "model", save_anndata=True)
    pd.testing.assert_frame_equal(fitted.adata.obs, obs)
    assert names(tmp_path / "model") == ["adata.h5ad", "model.json", "weights.safetensors"]
    loaded = scvi.SCVI.load(tmp_path / "model")
    assert loaded.adata.shape == fitted.adata.shape
    assert np.array_equal(loaded.get_latent_representation(), fitted.get_latent_representation())
    other = make_adata(20, seed=1)
    assert scvi.SCVI.load(tmp_path / "model", other).adata is other


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_a_backed_adata_may_be_saved_with_the_model(tmp_path: Path, layout: str) -> None:
    adata = make_adata()
    adata.raw = adata
    if layout == "dense":
        adata.X = adata.X.toarray()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    scvi.SCVI.setup_anndata(backed)
    model = scvi.SCVI(backed, **TINY)
    model.train(**QUICK)
    model.save(tmp_path / "model", save_anndata=True)
    assert Path(backed.filename) == tmp_path / "cells.h5ad"
    latent = model.get_latent_representation()
    loaded = scvi.SCVI.load(tmp_path / "model")
    assert np.array_equal(loaded.get_latent_representation(), latent)
    assert (loaded.adata.raw.X != adata.raw.X).nnz == 0
    backed.file.close()


def test_there_must_be_an_adata_to_save(fitted: scvi.SCVI, stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save_anndata=True, but this model was loaded without an AnnData"):
        scvi.SCVI.load(stored).save(tmp_path / "second", save_anndata=True)
    assert names(tmp_path) == ["model"]


def test_a_model_without_cells_may_be_saved_again(stored: Path, tmp_path: Path) -> None:
    scvi.SCVI.load(stored).save(tmp_path / "second")
    for name in names(stored):
        assert (tmp_path / "second" / name).read_bytes() == (stored / name).read_bytes()


def test_an_untrained_model(tmp_path: Path) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, **TINY)
    model.save(tmp_path / "model")
    loaded = scvi.SCVI.load(tmp_path / "model", adata)
    assert not loaded.is_trained
    assert loaded.history == {}
    assert loaded.train_indices is None
    for twin in (model, loaded):
        twin.train(**QUICK)
    assert np.array_equal(model.get_latent_representation(), loaded.get_latent_representation())


def test_numbers_of_numpy_are_options_too(tmp_path: Path) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    options = {"n_hidden": np.int64(8), "n_latent": np.int32(2), "dropout_rate": np.float32(0.25)}
    scvi.SCVI(adata, **options, use_observed_lib_size=np.bool_(True)).save(tmp_path / "model")
    loaded = scvi.SCVI.load(tmp_path / "model")
    assert {name: loaded.options[name] for name in options} == {"n_hidden": 8, "n_latent": 2, "dropout_rate": 0.25}
    assert loaded.options["use_observed_lib_size"] is True


def test_attributes_of_a_user_come_along(fitted: scvi.SCVI, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = scvi.SCVI.load(fitted_in(fitted, tmp_path / "first"))
    model.notes_, model.n_kept_, model.cutoffs_ = "filtered", np.int64(3), {"mito": 0.2, "genes": [1, None, True]}
    model.markers_, model.table_, model.notes = ("CD3E", "CD8A"), pd.DataFrame(), "not saved"
    model.share_, model.angle_ = np.longdouble(0.25), np.clongdouble(1j)  # whose item() is of numpy still
    with caplog.at_level("WARNING", "scvi"):
        model.save(tmp_path / "second")
    assert "Not saved with the model" in caplog.text
    assert "table_ (DataFrame)" in caplog.text
    assert "angle_ (clongdouble)" in caplog.text
    loaded = scvi.SCVI.load(tmp_path / "second")
    assert loaded.notes_ == "filtered"
    assert (loaded.n_kept_, loaded.share_) == (3, 0.25)
    assert loaded.cutoffs_ == model.cutoffs_
    assert loaded.markers_ == ["CD3E", "CD8A"]
    assert not hasattr(loaded, "table_")
    assert not hasattr(loaded, "notes")


@pytest.mark.parametrize("attributes", [[], {"save": 1}, {"__class__": 1}, {"_cells_": 1}, {"a b_": 1}])
def test_attributes_that_are_no_users(stored: Path, attributes: Any) -> None:
    edit(stored, lambda d: {**d, "attributes": attributes})
    with pytest.raises(ValueError, match="does not describe a SCVI model"):
        scvi.SCVI.load(stored)


def test_attributes_do_not_hide_those_of_the_class(stored: Path) -> None:
    edit(stored, lambda d: {**d, "attributes": {"history_": "gone", "is_trained_": False}})
    loaded = scvi.SCVI.load(stored)
    assert loaded.is_trained_
    assert loaded.history_ is loaded.history


def fitted_in(model: scvi.SCVI, folder: Path) -> Path:
    model.save(folder)
    return folder


def test_where_and_with_what_a_model_is_loaded(fitted: scvi.SCVI, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model", save_anndata=True)
    assert scvi.SCVI.load(tmp_path / "model", adata=False).adata is None
    loaded = scvi.SCVI.load(tmp_path / "model", None, "cpu", "auto", None)
    assert loaded.device == torch.device("cpu")
    assert loaded.adata is not None
    assert scvi.SCVI.load(tmp_path / "model", False, accelerator="cpu", device=1).device == torch.device("cpu")
    with pytest.raises(ValueError, match="accelerator='tpu' is not one of"):
        scvi.SCVI.load(tmp_path / "model", accelerator="tpu")


def test_a_model_is_loaded_where_there_is_a_device(
    fitted: scvi.SCVI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fitted.save(tmp_path / "model", save_anndata=True)
    loaded = scvi.SCVI.load(tmp_path / "model", accelerator="auto")
    assert loaded.device == torch.device("cpu")
    np.testing.assert_array_equal(loaded.get_latent_representation(), fitted.get_latent_representation())
    with pytest.raises(ValueError, match="gpu"):
        scvi.SCVI.load(tmp_path / "model", accelerator="gpu")


def test_no_cells_in_the_place_of_cells_are_refused(fitted: scvi.SCVI, tmp_path: Path) -> None:
    before = fitted.adata
    with pytest.raises(TypeError, match=r"None came in the place of cells.*SCVI.load\(dir_path, adata=False\)"):
        fitted.adata = None
    assert fitted.adata is before
    fitted.save(tmp_path / "model")
    with pytest.raises(ValueError, match="no cells"):
        scvi.SCVI.load(tmp_path / "model", fitted.adata[:0])


def test_what_a_model_says_of_itself(fitted: scvi.SCVI) -> None:
    assert fitted.history_ is fitted.history
    assert fitted.is_trained_ is True
    assert fitted.get_var_names().tolist() == list(fitted.schema.genes)
    shown = fitted.view_anndata_setup()
    pd.testing.assert_frame_equal(fitted.view_anndata_setup(fitted.adata), shown)
    assert fitted.view_anndata_setup(hide_state_registries=True).columns.tolist() == ["source"]
    with pytest.raises(ValueError, match="setup_anndata"):
        fitted.view_anndata_setup(make_adata())
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, **TINY)
    assert model.test_indices is None
    model.train(**QUICK, train_size=0.5, validation_size=0.2)
    parts = [model.train_indices, model.validation_indices, model.test_indices]
    assert [len(part) for part in parts] == [75, 30, 45]
    assert sorted(np.concatenate(parts)) == list(range(150))
    assert len(fitted.test_indices) == 0


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_folders_on_the_way_are_made(fitted: scvi.SCVI, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a" / "b" / "model")
    assert names(tmp_path / "a" / "b") == ["model"]


def test_an_existing_folder_is_not_overwritten(fitted: scvi.SCVI, stored: Path, tmp_path: Path) -> None:
    before = {name: (stored / name).read_bytes() for name in names(stored)}
    with pytest.raises(FileExistsError, match=r"model exists: choose another dir_path, or pass overwrite=True"):
        fitted.save(stored)
    assert {name: (stored / name).read_bytes() for name in names(stored)} == before
    assert names(tmp_path) == ["model"]


def test_overwriting(fitted: scvi.SCVI, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model", save_anndata=True)
    other = scvi.SCVI.load(tmp_path / "model")
    other.train(**QUICK)
    other.save(tmp_path / "model", overwrite=True)
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["model.json", "weights.safetensors"]
    assert len(scvi.SCVI.load(tmp_path / "model").history["lr"]) == 6


def test_overwriting_keeps_what_else_is_there(fitted: scvi.SCVI, stored: Path, tmp_path: Path) -> None:
    (stored / "notes.txt").write_text("mine")
    (stored / "figures").mkdir()
    (stored / "figures" / "umap.png").write_text("mine, too")
    fitted.save(stored, overwrite=True)
    assert names(stored) == ["figures", "model.json", "notes.txt", "weights.safetensors"]
    assert (stored / "figures" / "umap.png").read_text() == "mine, too"
    assert names(tmp_path) == ["model"]


def test_overwriting_through_a_link(fitted: scvi.SCVI, stored: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("model", target_is_directory=True)
    (stored / "model.json").unlink()
    (stored / "weights.safetensors").unlink()
    fitted.save(tmp_path / "latest", overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert names(tmp_path) == ["latest", "model"]
    assert scvi.SCVI.load(stored).is_trained


@pytest.mark.parametrize("dir_path", [".", "../model", ""])
def test_the_current_folder_may_hold_the_model(
    fitted: scvi.SCVI, stored: Path, dir_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stored)
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        fitted.save(dir_path)
    fitted.save(dir_path, overwrite=True)
    assert names(stored) == ["model.json", "weights.safetensors"]
    assert scvi.SCVI.load(dir_path).is_trained


def test_a_folder_of_other_things_may_hold_the_model(fitted: scvi.SCVI, tmp_path: Path) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    (target / "adata.h5ad").write_text("not ours")
    before = (target / "thesis.tex").stat()
    with pytest.raises(FileExistsError, match="thesis exists"):
        fitted.save(target)
    fitted.save(target, overwrite=True)
    fitted.save(target, overwrite=True)  # also when it holds a model
    assert scvi.SCVI.load(target, False).is_trained
    assert names(target) == ["adata.h5ad", "model.json", "thesis.tex", "weights.safetensors"]
    assert (target / "thesis.tex").stat() == before
    assert (target / "adata.h5ad").read_text() == "not ours"


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json", "adata.h5ad"])
def test_what_no_model_wrote_is_never_overwritten(fitted: scvi.SCVI, tmp_path: Path, name: str) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / name).write_text('{"a": "network of another package"}')
    with pytest.raises(FileExistsError, match=f"has {name}, which no model of this package wrote"):
        fitted.save(target, overwrite=True, save_anndata=True)
    assert (target / name).read_text() == '{"a": "network of another package"}'
    assert names(target) == [name]
    fitted.save(target, overwrite=True, save_anndata=True, prefix="my_")
    assert names(target) == sorted([name, "my_adata.h5ad", "my_model.json", "my_weights.safetensors"])


def test_a_file_is_no_folder(fitted: scvi.SCVI, tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(FileExistsError, match="thesis is a file"):
        fitted.save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis").read_text() == "years of work"


def test_a_folder_holds_several_models(fitted: scvi.SCVI, tmp_path: Path) -> None:
    fitted.save(tmp_path / "models", prefix="first_")
    other = scvi.SCVI.load(tmp_path / "models", fitted.adata, prefix="first_")
    other.train(**QUICK)
    other.save(tmp_path / "models", overwrite=True, save_anndata=True, prefix="second_")
    first, second = (scvi.SCVI.load(tmp_path / "models", prefix=f"{name}_") for name in ("first", "second"))
    assert first.adata is None
    assert second.adata.shape == fitted.adata.shape
    assert [len(model.history["lr"]) for model in (first, second)] == [3, 6]
    with pytest.raises(FileNotFoundError, match=r"holds no saved model: model\.json is not there"):
        scvi.SCVI.load(tmp_path / "models")
    with pytest.raises(FileNotFoundError, match=r"model.json is not there; pass prefix='first_' for the one"):
        scvi.SCVI.load(tmp_path / "models")
    for prefix in ("../", "a/b", 3):
        with pytest.raises(ValueError, match=f"prefix={prefix!r} is not what the name of a file could begin with"):
            fitted.save(tmp_path / "models", overwrite=True, prefix=prefix)


class Crash(BaseException):
    """The end of the process: nothing is cleaned up."""


@pytest.mark.parametrize("step", range(7))
@pytest.mark.parametrize("was_earlier_version", [False, True])
def test_a_crash_leaves_the_old_model_or_the_new_one(
    fitted: scvi.SCVI, tmp_path: Path, step: int, was_earlier_version: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    fitted.save(target, save_anndata=True)
    (target / "notes.txt").write_text("mine")
    if was_earlier_version:
        edit(target, lambda d: {key: value for key, value in d.items() if key not in ("weights", "files")})
    other = scvi.SCVI.load(target)
    other.adata.obs["mark"] = "new"
    other.train(**QUICK)
    steps, replace, unlink = [], os.replace, Path.unlink

    def until_the_crash(do: Callable[..., Any]) -> Callable[..., Any]:
        def done(*arguments: Any, **options: Any) -> Any:
            if len(steps) >= step:
                raise Crash
            steps.append(arguments)
            return do(*arguments, **options)

        return done

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", until_the_crash(replace))
        patch.setattr(Path, "unlink", until_the_crash(unlink))
        patch.setattr("scvi.estimators.folder.rmtree", lambda *_, **__: None)
        with pytest.raises(Crash):
            other.save(target, overwrite=True, save_anndata=True)
    loaded = scvi.SCVI.load(target)
    is_new = len(loaded.history["lr"]) == 6
    assert is_new == (step > 4)
    assert ("mark" in loaded.adata.obs) == is_new
    expected = (other if is_new else fitted).module.state_dict()
    assert all(torch.equal(values, expected[name]) for name, values in loaded.module.state_dict().items())
    loaded.save(target, overwrite=True, save_anndata=True)
    assert {"adata.h5ad", "model.json", "notes.txt", "weights.safetensors"} == {
        name for name in names(target) if not name.startswith(".")
    }
    assert len(scvi.SCVI.load(target).history["lr"]) == (6 if is_new else 3)


def test_an_empty_folder_may_be_used_with_overwrite(fitted: scvi.SCVI, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    fitted.save(tmp_path / "model", overwrite=True)
    assert scvi.SCVI.load(tmp_path / "model").is_trained


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("culprit", ["save_file", "json.dumps", "write_h5ad", "weights", "adata", "model"])
def test_a_write_that_fails_leaves_what_was_there(
    fitted: scvi.SCVI, tmp_path: Path, overwrite: bool, culprit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    if overwrite:
        fitted.save(target)
        before = {name: (target / name).read_bytes() for name in names(target)}

    def fails(*arguments: Any, **options: Any) -> Any:
        raise OSError("disk full")

    move, rename = os.replace, Path.rename

    def fails_to_move_in(source: Path, to: Path) -> Any:
        is_new = Path(source).parent != target
        return fails() if is_new and Path(to).stem == culprit else move(source, to)

    with monkeypatch.context() as patch:
        if culprit == "save_file":
            patch.setattr(files, "save_file", fails)
        elif culprit == "json.dumps":
            patch.setattr(files.json, "dumps", fails)
        elif culprit == "write_h5ad":
            patch.setattr(cell_files, "write_h5ad", fails)
        elif overwrite:
            patch.setattr(os, "replace", fails_to_move_in)
        else:
            patch.setattr(Path, "rename", lambda self, to: fails() if Path(to) == target else rename(self, to))
        with pytest.raises(OSError, match="disk full"):
            fitted.save(target, overwrite=overwrite, save_anndata=True)
    assert names(tmp_path) == (["model"] if overwrite else [])
    if overwrite:
        assert {name: (target / name).read_bytes() for name in names(target)} == before


# ---- reading what is no model ----------------------------------------------------------------------------------------


class Harmful:
    """Leaves a file behind where it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("harmed"),)


@pytest.fixture(autouse=True)
def _nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("harmed").exists()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no saved model: model.json is not there"):
        scvi.SCVI.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_missing_file(stored: Path, name: str) -> None:
    (stored / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"holds no saved model: {name} is not there"):
        scvi.SCVI.load(stored)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("length", [0, 1, 8, 100, -3])
def test_a_truncated_file(stored: Path, name: str, length: int) -> None:
    whole = (stored / name).read_bytes()
    (stored / name).write_bytes(whole[:length])
    with pytest.raises(ValueError, match=rf"{name} is truncated or no "):
        scvi.SCVI.load(stored)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "adata.h5ad"])
@pytest.mark.parametrize("content", ["pickle", "torch", "zeros", "text", "nested"])
def test_a_foreign_file(stored: Path, name: str, content: str) -> None:
    path = stored / name
    if content == "torch":
        torch.save({"model": Harmful()}, path)
    else:
        garbage = {
            "pickle": pickle.dumps(Harmful()),
            "zeros": bytes(1000),
            "text": "to whom it may concern".encode("utf-16"),
            "nested": b"[" * 100_000,
        }
        path.write_bytes(garbage[content])
    with pytest.raises(ValueError, match=f"{name} is truncated or no "):
        scvi.SCVI.load(stored)


def test_pickles_beside_the_model_are_not_read(fitted: scvi.SCVI, stored: Path) -> None:
    for name in ("model.pt", "model.pkl", "attr.pkl", "pytorch_model.bin", "weights.pt"):
        (stored / name).write_bytes(pickle.dumps(Harmful()))
    loaded = scvi.SCVI.load(stored, fitted.adata)
    assert np.array_equal(loaded.get_latent_representation(), fitted.get_latent_representation())


@pytest.mark.parametrize(
    "change",
    [
        lambda d: [],
        lambda d: {},
        lambda d: "SCVI",
        lambda d: {name: value for name, value in d.items() if name != "schema"},
        lambda d: {name: value for name, value in d.items() if name != "options"},
    ],
)
def test_json_that_describes_no_model(stored: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit(stored, change)
    with pytest.raises(ValueError, match=r"model.json does not describe a model of this package"):
        scvi.SCVI.load(stored)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("options", {}),
        ("options", None),
        ("options", "n_hidden=8"),
        ("options", {"gene_likelihood": "zinb", "new_option": 3}),
        ("options", {"gene_likelihood": "gaussian"}),
        ("options", {"gene_likelihood": "zinb", "n_hidden": "__import__('os').getcwd()"}),
        ("options", {"gene_likelihood": "zinb", "n_latent": -1}),
        ("is_trained", 1),
        ("is_trained", "no"),
        ("is_trained", None),
        ("schema", None),
        ("schema", {}),
        ("schema", {"genes": ["a"]}),
        ("history", 3),
        ("history", {"lr": 3}),
        ("history", {"lr": [[0, 1], [0.1, 0.2, 0.3]]}),
        ("history", ["lr"]),
        ("history", {"lr": [["a"], [0.1]]}),
        ("history", {"lr": [[10**400], [0.1]]}),
        ("history", {"lr": [[0], ["fast"]]}),
        ("history", {"lr": [[0], [10**400]]}),
    ],
)
def test_descriptions_that_make_no_model(stored: Path, part: str, value: Any) -> None:
    edit(stored, lambda d: {**d, part: value})
    with pytest.raises(ValueError, match=r"model.json does not describe a SCVI model"):
        scvi.SCVI.load(stored)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_hidden", 10**12),
        ("n_hidden", 10**400),
        ("n_hidden", 8.0),
        ("n_hidden", True),
        ("n_layers", 10**9),
        ("n_latent", [3]),
        ("dropout_rate", 10**400),
        ("dropout_rate", math.nan),
        ("use_observed_lib_size", "no"),
        ("use_observed_lib_size", 0),
        ("encode_covariates", None),
        ("dispersion", ["gene"]),
        ("gene_likelihood", {}),
        ("seed", 0),
        ("n_latnet", 3),
    ],
)
def test_options_that_cannot_be(stored: Path, option: str, value: Any) -> None:
    edit(stored, lambda d: {**d, "options": {**d["options"], option: value}})
    with pytest.raises(ValueError, match=r"model.json does not describe a SCVI model") as error:
        scvi.SCVI.load(stored)
    assert {"gene_likelihood": "reconstruction_loss"}.get(option, option) in str(error.value)


def test_an_option_that_is_missing(stored: Path) -> None:
    edit(stored, lambda d: {**d, "options": {k: v for k, v in d["options"].items() if k != "n_layers"}})
    with pytest.raises(ValueError, match=r"does not describe a SCVI model \(missing or unknown options: n_layers\)"):
        scvi.SCVI.load(stored)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("library_prior", [[math.nan, 1.0]] * 3),
        ("library_prior", [[1.0, 0.0]] * 3),
        ("library_prior", [[10**400, 1.0]] * 3),
        ("continuous_moments", [[0.0, 0.0]] * 2),
        ("size_factor_scale", math.inf),
        ("genes", ["gene0"] * 20),
    ],
)
def test_schemas_that_cannot_be(stored: Path, entry: str, value: Any) -> None:
    edit(stored, lambda d: {**d, "schema": {**d["schema"], entry: value}})
    with pytest.raises(ValueError, match=rf"model.json does not describe a SCVI model \(.*{entry}"):
        scvi.SCVI.load(stored)


def test_a_number_of_ten_thousand_digits(stored: Path) -> None:
    text = (stored / "model.json").read_text().replace('"n_hidden": 8', '"n_hidden": ' + "9" * 10_000)
    (stored / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"model.json is truncated or no JSON file"):
        scvi.SCVI.load(stored)


@pytest.mark.parametrize("cells", [torch.tensor([0.5]), torch.tensor([[1]]), torch.tensor([-1])])
def test_a_split_that_cannot_be(stored: Path, cells: torch.Tensor) -> None:
    tensors = load_file(stored / "weights.safetensors")
    save_file({**tensors, "train_indices": cells}, stored / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights.safetensors holds no positions of cells in 'train_indices'"):
        scvi.SCVI.load(stored)


def test_another_estimator(stored: Path) -> None:
    with pytest.raises(ValueError, match=r"holds a SCVI model: load it with scvi\.SCVI\.load"):
        scvi.LinearSCVI.load(stored)


def test_a_newer_format(stored: Path) -> None:
    edit(stored, lambda d: {**d, "format": 4, "scvi_version": "7.1"})
    with pytest.raises(ValueError, match=r"written by scvi 7\.1, has format 4, .* this one reads 1 to 3: update scvi"):
        scvi.SCVI.load(stored)


@pytest.mark.parametrize("fault", ["shape", "missing", "further"])
def test_weights_that_do_not_fit(stored: Path, fault: str) -> None:
    tensors = load_file(stored / "weights.safetensors")
    if fault == "shape":
        tensors["model/px_r"] = tensors["model/px_r"][:3].contiguous()
    elif fault == "missing":
        del tensors["model/px_r"]
    else:
        tensors["model/px_s"] = torch.zeros(3)
    save_file(tensors, stored / "weights.safetensors")
    with pytest.raises(ValueError, match=r"the weights in .*model do not fit the model that is described there.*px_"):
        scvi.SCVI.load(stored)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite(fitted: scvi.SCVI, stored: Path, value: float) -> None:
    tensors = load_file(stored / "weights.safetensors")
    tensors["model/px_r"].view(-1)[[1, 3]] = value
    save_file(tensors, stored / "weights.safetensors")
    says = r"weights.safetensors is damaged, .*: 2 of \d+ values of 'px_r' are NaN or infinite$"
    for read in (scvi.SCVI.load, lambda path: scvi.SCVI.load_query_data(make_adata(), path)):
        with pytest.raises(ValueError, match=says):
            read(stored)


def test_weights_that_are_not_finite_are_not_saved(fitted: scvi.SCVI, stored: Path) -> None:
    before = {name: (stored / name).read_bytes() for name in names(stored)}
    broken = scvi.SCVI.load(stored, fitted.adata)
    with torch.no_grad():
        for weight in broken.module.parameters():
            weight.fill_(math.nan)
    with pytest.raises(ValueError, match=r"this model is not saved.*values of '.*' are NaN.*and \d+ further tensors"):
        broken.save(stored, overwrite=True)
    assert {name: (stored / name).read_bytes() for name in names(stored)} == before


def test_an_adata_that_does_not_fit(stored: Path) -> None:
    narrow = make_adata()[:, 10:].copy()
    with pytest.raises(ValueError, match="lacks 5 of the 20 genes that the model reads: 'gene0'"):
        scvi.SCVI.load(stored, narrow)
    plain = make_adata()
    del plain.obs["age"]
    with pytest.raises(ValueError, match=r"continuous_covariate_keys='age' is not a column of adata\.obs"):
        scvi.SCVI.load(stored, plain)
