"""The tutorial on the search for hyper-parameters, on few cells and epochs, and what a search writes and refuses."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autotune_2020 import DrawnCells, objective_of_scanvi
from objects_2020 import cells
from scvi.inference import UnsupervisedTrainer
from scvi.inference.autotune import _staff, auto_tune_scvi_model
from scvi.models import SCANVI, VAE
from scvi.tune.processes import Staff

FEW = {"metric_kwargs": {"n_mc_samples": 3}, "parallel": False, "seed": 0}
SMALL = {"model_specific_kwargs": {"n_hidden": 8}, "train_func_specific_kwargs": {"n_epochs": 3}}


@pytest.fixture(scope="module")
def dataset():
    return cells(120)


@pytest.fixture(scope="module")
def tuned(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    best_trainer, trials = auto_tune_scvi_model("cortex", dataset, max_evals=3, save_path=folder, **SMALL, **FEW)
    return folder, best_trainer, trials


def test_the_default_search(tuned, dataset):
    _, best_trainer, trials = tuned
    assert isinstance(best_trainer, UnsupervisedTrainer)
    assert len(trials) == 3
    for result in trials.results:
        tried = result["space"]["model_tunable_kwargs"]
        assert set(tried) == {"n_latent", "n_hidden", "n_layers", "dropout_rate", "reconstruction_loss"}
        assert 5 <= tried["n_latent"] <= 15
        assert 1 <= tried["n_layers"] <= 5
        assert result["space"]["train_func_tunable_kwargs"]["lr"] in (0.01, 0.005, 0.001, 0.0005, 0.0001)
        assert result["status"] == "ok"
        assert len(result["history"]["elbo_test_set"]) == 5  # before, after each epoch, and with the best state
        assert result["space"]["train_func_tunable_kwargs"]["n_epochs"] == result["best_epoch"] + 1
    assert trials.best_trial["result"]["loss"] == min(trials.losses())


def test_the_best_model_is_trained_on_all_cells_for_as_long_as_was_best(tuned, dataset):
    _, best_trainer, trials = tuned
    best = trials.best_trial["result"]["space"]
    assert best_trainer.train_set.nb_cells == len(dataset)
    assert best_trainer.n_epochs == best["train_func_tunable_kwargs"]["n_epochs"]
    assert best_trainer.model.n_latent == best["model_tunable_kwargs"]["n_latent"]
    assert best_trainer.model.z_encoder.encoder.fc_layers[0][0].out_features == 8  # what is held fixed wins


def test_results_are_json_and_a_state_dict(tuned):
    folder, best_trainer, trials = tuned
    assert json.loads((folder / "trials_cortex.json").read_text()) == trials.trials
    weights = load_file(folder / "best_model_cortex.safetensors")
    assert weights.keys() == best_trainer.model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in best_trainer.model.state_dict().items())
    written = json.loads((folder / "best_trainer_cortex.json").read_text())
    assert written["space"] == trials.best_trial["result"]["space"]
    assert "Trial 2: complete" in (folder / "scvi_autotune_logfile.txt").read_text()
    assert not logging.getLogger("scvi.inference.autotune").handlers


def test_the_same_key_goes_on(tuned, dataset):
    folder, _, before = tuned
    trials = auto_tune_scvi_model("cortex", dataset, max_evals=4, save_path=folder, train_best=False, **SMALL, **FEW)
    assert len(trials) == 4
    assert trials.trials[:3] == before.trials


@pytest.mark.parametrize("change", [{"n_cells": 100}, {"metric_kwargs": {"n_mc_samples": 4}}, {"use_batches": True}])
def test_the_same_key_with_something_else_is_refused(tuned, change):
    folder, *_ = tuned
    others = {name: value for name, value in change.items() if name != "n_cells"}
    with pytest.raises(ValueError, match=r"begun with .*cells|begun with arguments"):
        auto_tune_scvi_model(
            "cortex", cells(change.get("n_cells", 120)), max_evals=4, save_path=folder, **{**SMALL, **FEW, **others}
        )


def test_workers_see_the_gpus_that_they_are_given(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    options = {"n_workers_per_gpu": 1, "multiple_hosts": False, "seconds": None}
    assert _staff(True, None, None, **options) == Staff(2, ["4", "7"])
    assert _staff(True, 1, [1], **options) == Staff(2, ["7", ""])
    assert _staff(True, 2, [], **options) == Staff(2, ["", ""])  # none of them sees one
    with pytest.raises(ValueError, match=r"gpu_ids=2 is not the number of one of the 2 GPUs"):
        _staff(True, 0, [2], **options)


def test_a_space_and_a_metric_of_ones_own(dataset, tmp_path):
    space = {
        "model_tunable_kwargs": {"dropout_rate": (0.1, 0.3)},
        "train_func_tunable_kwargs": {"lr": (np.exp(-4.0), np.exp(-3.0), "log")},
    }
    options = {**SMALL, **FEW, "metric_kwargs": {"n_neighbors": 5, "n_pools": 3}}
    trials = auto_tune_scvi_model(
        "mixing", dataset, metric_name="entropy_batch_mixing", posterior_name="train_set", space=space, max_evals=2,
        use_batches=True, train_best=False, pickle_result=False, save_path=tmp_path, **options,
    )  # fmt: skip
    for result in trials.results:
        assert 0.1 <= result["space"]["model_tunable_kwargs"]["dropout_rate"] <= 0.3
        assert np.exp(-4) <= result["space"]["train_func_tunable_kwargs"]["lr"] <= np.exp(-3)
        assert result["loss"] <= 0  # high values are good
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.slow
def test_a_custom_objective_by_two_processes(dataset, tmp_path):
    space = {"model_tunable_kwargs": {"n_latent": [2, 4]}, "train_func_tunable_kwargs": {"lr": [1e-3, 1e-2]}}
    trainer, trials = auto_tune_scvi_model(
        "scanvi", gene_dataset=dataset, custom_objective_hyperopt=objective_of_scanvi, n_cpu_workers=2, space=space,
        objective_kwargs={"dataset": dataset, "n_epochs": 2}, model_class=SCANVI, max_evals=4, save_path=tmp_path,
    )  # fmt: skip
    assert trainer.model.n_latent == trials.best_trial["result"]["space"]["model_tunable_kwargs"]["n_latent"]
    assert len(trials) == 4
    assert all(result["n_labelled"] == 60 for result in trials.results)
    assert {result["worker_name"] for result in trials.results} <= {"worker 0", "worker 1"}


def test_data_that_each_worker_populates_and_early_stopping_of_ones_own(tmp_path):
    stopping = {"early_stopping_metric": "elbo", "save_best_state_metric": "elbo", "patience": 1, "threshold": 1e9}
    trainer, trials = auto_tune_scvi_model(
        "brain", DrawnCells(delayed_populating=True), delayed_populating=True, max_evals=1, save_path=tmp_path,
        trainer_specific_kwargs={"early_stopping_kwargs": stopping}, train_func_specific_kwargs={"n_epochs": 50}, **FEW,
    )  # fmt: skip
    assert len(trials.results[0]["history"]["elbo_test_set"]) < 10
    assert trainer.train_set.nb_cells == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mongo_port": "4321"}, "mongo_port='4321'.*storage"),
        ({"mongo_host": "elsewhere"}, "mongo_host.*storage"),
        ({"db_name": "mine"}, "db_name.*storage"),
        ({"multiple_hosts": True}, "multiple_hosts=True needs a storage"),
        ({"delayed_populating": True}, "DownloadableDataset"),
        ({"custom_objective_hyperopt": objective_of_scanvi}, "objective_kwargs"),
        ({"custom_objective_hyperopt": lambda space: 0, "objective_kwargs": {}}, "is_best_training"),
        ({"parallel": True, "n_cpu_workers": 0, "gpu_ids": []}, "nobody to work"),
        ({"space": {"model_tunable_kwargs": {"n_latent": (9, 5)}}}, "not a range"),
        ({"max_evals": 0}, "max_evals=0"),
    ],
)
def test_what_is_refused(dataset, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        auto_tune_scvi_model("refused", dataset, save_path=tmp_path, **{**FEW, **arguments})
    assert not list(tmp_path.iterdir())


def test_a_metric_that_is_none_ends_the_search(dataset, tmp_path):
    with pytest.raises(RuntimeError, match=r"first 2 trials .* failed.*'likelyhood' is no method of Posterior"):
        auto_tune_scvi_model("none", dataset, metric_name="likelyhood", max_evals=2, save_path=tmp_path, parallel=False)


def test_fmin_timer_ends_the_search_with_the_trials_that_there_are(dataset, tmp_path):
    options = {**FEW, **SMALL, "max_evals": 10**6, "save_path": tmp_path, "train_best": False, "fmin_timer": 2.0}
    trials = auto_tune_scvi_model("timed", dataset, **options)
    assert len(trials) < 10**6


def test_fmin_timer_with_train_best_warns(dataset, tmp_path):
    options = {**FEW, **SMALL, "max_evals": 1, "save_path": tmp_path, "fmin_timer": 60.0}
    with pytest.warns(UserWarning, match="ends the search early"):
        trainer, _ = auto_tune_scvi_model("both", dataset, model_class=VAE, **options)
    assert trainer is not None
