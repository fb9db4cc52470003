"""Files that earlier versions wrote: they are read, answer what they answered, and train on. See make.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

import scvi
from golden.make import HERE, MODALITIES, MODELS, QUICK, SETUPS, TINY, cells, plain, weights_changed_by
from scvi.models.former_names import present_name

FOLDERS = sorted(path.name for path in HERE.glob("*_v?") if path.name != "scvi_v1")
ENTRIES = {path.name: json.loads(path.read_text()) for path in HERE.glob("uns_v?.json")}
ENTRY = pytest.mark.parametrize(
    ("file", "entry"), [(file, entry) for file, entries in ENTRIES.items() for entry in entries]
)


def near(found: Any, expected: Any, within: float) -> None:
    """Nested answers are the same, as a share of their size."""
    if isinstance(expected, Mapping):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if expected and isinstance(expected, list) and isinstance(expected[0], (list, Mapping)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            near(one, other, within)
        return
    size = float(np.abs(expected).mean())
    np.testing.assert_allclose(found, expected, rtol=within, atol=within * size)


@pytest.fixture(params=FOLDERS)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a golden folder."""
    return Path(shutil.copytree(HERE / request.param, tmp_path / request.param))


def load(golden: Path, expected: dict[str, Any]) -> Any:
    cls = getattr(scvi, json.loads((golden / "model.json").read_text())["estimator"])
    parts = expected["cells"]
    if parts == "saved":
        return cls.load(golden)
    return cls.load(golden, *(cells(part) for part in ([parts] if isinstance(parts, str) else parts)))


def test_models_of_earlier_versions_are_read(golden: Path) -> None:
    expected = json.loads((golden / "expected.json").read_text())
    model = load(golden, expected)
    assert model.is_trained is expected["is_trained"]
    assert len(model.history.get("lr", [])) == expected["epochs"]
    assert (plain(model.train_indices) if model.is_trained else None) == expected["train_indices"]
    for question, arguments, within, answer in expected["questions"]:
        near(plain(getattr(model, question)(**arguments)), answer, within)


def test_models_of_earlier_versions_train_on(golden: Path) -> None:
    """Of a mapped model the same weights rest as did then."""
    expected = json.loads((golden / "expected.json").read_text())
    model = load(golden, expected)
    if "changes" not in expected:
        with pytest.raises(ValueError, match="minified"):
            model.train(**QUICK)
        return
    before = len(model.history.get("lr", []))
    assert weights_changed_by(model) == [present_name(name) for name in expected["changes"]]
    assert model.history["elbo_train"].index.tolist() == list(range(before + 1))


def test_a_model_that_starts_from_another_is_fitted_briefly() -> None:
    """What the file says of it is read: 20 epochs, from the weights that it has."""
    model = scvi.SCANVI.load(HERE / "scanvi_untrained_v1", cells("all"))
    model.train(seed=0, batch_size=12, enable_progress_bar=False)
    assert len(model.history["lr"]) == 20


def test_a_model_without_the_file_of_its_cells(tmp_path: Path) -> None:
    """Whoever deletes the cells of a minified model has a model of no cells."""
    folder = Path(shutil.copytree(HERE / "scvi_minified_v1", tmp_path / "model"))
    (folder / "adata.h5ad").unlink()
    fresh = scvi.SCVI.load(folder, cells("all"))
    expected = json.loads((folder / "expected.json").read_text())["questions"][0]
    near(plain(fresh.get_latent_representation(return_dist=True)), expected[3], 1e-4)


def test_the_first_golden_model(tmp_path: Path) -> None:
    golden = Path(shutil.copytree(HERE / "scvi_v1", tmp_path / "golden"))
    expected = json.loads((golden / "expected.json").read_text())
    counts = np.array(expected["counts"], dtype=np.float32)
    obs = pd.DataFrame(
        {"batch": expected["batch"], "age": expected["age"]}, index=[f"cell{i}" for i in range(len(counts))]
    )
    adata = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"gene{j}" for j in range(counts.shape[1])]))
    model = scvi.SCVI.load(golden, adata)
    assert model.is_trained
    assert len(model.history["elbo_train"]) == 5
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(mean, expected["latent_mean"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, expected["latent_variance"], rtol=1e-4)
    assert model.get_marginal_ll(n_mc_samples=2000, seed=0) == pytest.approx(expected["marginal_ll"], abs=0.05)
    model.train(**{**QUICK, "max_epochs": 3})
    assert model.history["elbo_train"].index.tolist() == list(range(8))


def test_every_kind_of_model_has_a_golden_folder() -> None:
    assert {folder.rpartition("_v")[0] for folder in FOLDERS} == set(MODELS)
    estimators = {json.loads((HERE / folder / "model.json").read_text())["estimator"] for folder in FOLDERS}
    assert estimators == set(scvi.model.__all__)


# ---- what set-up wrote into `uns` ------------------------------------------------------------------------------------


def fresh(name: str, part: str) -> Any:
    """The same cells, set up now."""
    data = cells(part)
    if part == "modalities":
        getattr(scvi, name).setup_mudata(data, **MODALITIES)
    else:
        getattr(scvi, name).setup_anndata(data, **SETUPS[name])
    return data


def make(name: str, *data: Any) -> Any:
    """A model of cells that are set up; the other of the two data sets of GIMVI is set up now."""
    if name == "GIMVI":
        other = "spatial" if data[0].n_vars == 12 else "sequenced"
        data = (*data, fresh(name, other))[:: 1 if other == "spatial" else -1]
    return getattr(scvi, name)(*data, **TINY)


@ENTRY
def test_setups_of_earlier_versions_are_accepted(file: str, entry: str) -> None:
    name, part = entry.split()
    data = cells(part)
    data.uns["_scvi"] = {name: ENTRIES[file][entry]}
    model, now = make(name, data), make(name, fresh(name, part))
    pd.testing.assert_frame_equal(model.view_anndata_setup(), now.view_anndata_setup())
    assert model.module.state_dict().keys() == now.module.state_dict().keys()
    model.train(**{**QUICK, "max_epochs": 1})


@pytest.mark.parametrize("backed", [None, "r"], ids=["in memory", "on disk"])
@pytest.mark.parametrize(
    ("file", "name"), [(f, e[:-4]) for f, entries in ENTRIES.items() for e in entries if e.endswith(" all")]
)
def test_setups_in_files_of_earlier_versions_are_accepted(file: str, name: str, backed: Any, tmp_path: Path) -> None:
    stored = file.replace("uns", "cells").replace(".json", ".h5ad")
    path = shutil.copy(HERE / stored, tmp_path / stored)
    adata = anndata.read_h5ad(path, backed=backed)
    try:
        model = make(name, adata)
        now = make(name, fresh(name, "all"))
        pd.testing.assert_frame_equal(model.view_anndata_setup(), now.view_anndata_setup())
        model.train(**{**QUICK, "max_epochs": 1})
    finally:
        if backed:
            adata.file.close()


def test_changed_cells_are_set_up_anew_by_a_setup_of_an_earlier_version() -> None:
    adata = cells("all")
    adata.uns["_scvi"] = {"SCVI": ENTRIES["uns_v1.json"]["SCVI all"]}
    adata.layers["twice"].data[0] += 7
    changed = cells("all")
    changed.layers["twice"].data[0] += 7
    scvi.SCVI.setup_anndata(changed, **SETUPS["SCVI"])
    assert make("SCVI", adata).schema.library_prior == make("SCVI", changed).schema.library_prior
