"""Ways to search: other models and metrics, Ctrl-C, several processes, pictures, and what is refused."""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

import scvi
from metrics_of_a_search import interrupted_everywhere, interrupted_once
from scvi import tune
from scvi._settings import settings
from scvi.tune.arguments import checked_arguments
from scvi.tune.claims import Queue
from scvi.tune.search import Task
from scvi.tune.worker import _share
from small_cells import make_adata

SPACE = {"n_latent": (2, 5), "n_hidden": [8], "lr": (1e-3, 1e-2, "log"), "max_epochs": 2}
MODELS = [scvi.SCVI, scvi.LinearSCVI, scvi.SCANVI, scvi.CondSCVI, scvi.AUTOZI, scvi.TOTALVI]


def set_up(model_class, adata):
    keys = {
        scvi.SCANVI: {"labels_key": "cell_type", "unlabeled_category": "none"},
        scvi.CondSCVI: {"labels_key": "cell_type"},
        scvi.TOTALVI: {"protein_expression_obsm_key": "proteins"},
    }
    model_class.setup_anndata(adata, **keys.get(model_class, {}), batch_key="batch")
    return adata


def search(adata, folder, model_class=scvi.SCVI, **others):
    return tune.search(model_class, adata, **{"space": SPACE, "n_trials": 2, "output": folder, "seed": 1, **others})


@pytest.fixture(scope="module")
def adata():
    return set_up(scvi.SCVI, make_adata())


@pytest.mark.parametrize("model_class", MODELS)
def test_default_spaces_are_ones_that_models_have(model_class):
    arguments = checked_arguments(model_class, set_up(model_class, make_adata(30)), tune.default_space(model_class))
    assert {"n_latent", "n_hidden", "lr"} <= set(arguments.searched)
    assert {"n_latent", "n_hidden", "lr"} <= set(arguments.first_trial())  # the defaults are in the space


@pytest.mark.parametrize(
    ("model_class", "metric"),
    [(scvi.SCANVI, {"accuracy": 1, "calibration": 0.5}), (scvi.TOTALVI, "elbo"), (scvi.LinearSCVI, "imputation")],
)
def test_other_models_and_metrics(model_class, metric, tmp_path):
    found = search(set_up(model_class, make_adata()), tmp_path, model_class, metric=metric, n_trials=1)
    assert np.isfinite(found.best_value)
    assert isinstance(found.model, model_class)
    assert found.direction == ("minimize" if metric == "imputation" else "maximize")


def test_ctrl_c_keeps_everything_and_the_same_call_goes_on(adata, tmp_path, ctrl_c):
    options = {"metric": interrupted_once, "mode": "max", "n_trials": 3}
    interrupted_once.calls = 0
    first = search(adata, tmp_path, **options)
    assert first.was_interrupted
    assert list(first.trials["state"]) == ["complete", "fail"]
    assert first.trials.loc[1, "why"] == "interrupted"
    assert first.model is None
    second = search(adata, tmp_path, **options)
    assert not second.was_interrupted
    assert list(second.trials["state"]) == ["complete", "fail", "complete", "complete"]
    assert second.trials.loc[2, "retry_of"] == 1
    assert second.trials.loc[2, "lr"] == second.trials.loc[1, "lr"]
    assert second.model is not None


@pytest.mark.slow
@pytest.mark.parametrize("pressed_for", ["all", "the first"])
def test_ctrl_c_stops_two_processes_and_the_same_call_goes_on(adata, tmp_path, ctrl_c, monkeypatch, pressed_for):
    monkeypatch.setenv("CTRL_C_MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("CTRL_C_FOR", pressed_for)
    options = {"metric": interrupted_everywhere, "mode": "max", "n_trials": 6, "pruner": "none", "refit": False}
    first = search(adata, tmp_path, workers=2, **options)
    assert first.was_interrupted
    stopped = first.trials.index[first.trials["state"] == "fail"]
    assert len(stopped) >= (pressed_for == "all")  # the others stop between trials, if they have done with one
    assert set(first.trials.loc[stopped, "why"]) <= {"interrupted"}
    second = search(adata, tmp_path, **options)
    assert not second.was_interrupted
    assert (second.trials["state"] == "complete").sum() == 6
    again = second.trials.dropna(subset="retry_of")
    assert sorted(again["retry_of"]) == list(stopped)
    columns = ["n_latent", "n_hidden", "lr"]
    assert again[columns].to_numpy().tolist() == first.trials.loc[again["retry_of"], columns].to_numpy().tolist()


def test_a_complete_search_is_read_and_not_fitted_again(adata, tmp_path, monkeypatch):
    first = search(adata, tmp_path)
    monkeypatch.setattr(Task, "fit", None)
    second = search(adata, tmp_path)
    assert second == first
    assert second.trials.equals(first.trials)
    latents = [found.model.get_latent_representation() for found in (first, second)]
    np.testing.assert_array_equal(*latents)


@pytest.mark.slow
def test_two_processes_find_what_one_does(adata, tmp_path):
    alone, together = (search(adata, tmp_path / f"{n}", n_trials=4, workers=n, refit=False) for n in (1, 2))
    columns = ["n_latent", "n_hidden", "lr"]
    assert together.trials[columns].equals(alone.trials[columns])
    np.testing.assert_allclose(together.trials["value"], alone.trials["value"], rtol=1e-3)  # numbers of threads differ


def test_pictures_are_drawn_and_pyplot_is_left_alone(adata, tmp_path):
    found = search(adata, tmp_path, refit=False, n_trials=3)
    figures, style = plt.get_fignums(), dict(plt.rcParams)
    files = found.plot(tmp_path / "pictures")
    assert [file.name for file in files] == ["history.png", "importance.png", "parallel.png"]
    assert all(file.stat().st_size > 5000 for file in files)
    assert (plt.get_fignums(), dict(plt.rcParams)) == (figures, style)
    (again,) = found.plot(tmp_path / "again", only=["importance"])
    assert again.read_bytes() == files[1].read_bytes()
    with pytest.raises(ValueError, match="only='histroy'"):
        found.plot(only=["histroy"])


def test_workers_of_one_machine_share_its_cores(monkeypatch):
    from optuna.trial import TrialState

    class Trial:
        def __init__(self, host, state=TrialState.RUNNING):
            self.state, self.user_attrs = state, {"host": host}

    here = [Trial("here"), Trial("here"), Trial("here", TrialState.COMPLETE), Trial("there")]
    monkeypatch.setattr("platform.node", lambda: "here")
    queue = Queue.__new__(Queue)
    queue.trials = lambda: here
    assert _share(queue, 1, 8) == 4
    assert _share(queue, 3, 8) == 2  # two of them may not have begun
    assert _share(queue, 1, 1) == 1


def test_hyperband_prunes_too(adata, tmp_path):
    found = search(adata, tmp_path, pruner="hyperband", refit=False)
    assert set(found.trials["state"]) <= {"complete", "pruned"}


def test_the_number_of_threads_is_as_before(adata, tmp_path):
    before = settings.num_threads
    search(adata, tmp_path, n_trials=1, refit=False)
    assert settings.num_threads == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_class": scvi.GIMVI}, "not an estimator of one AnnData"),
        ({"model_class": scvi.SCANVI}, "not set up for SCANVI"),
        ({"metric": "accuracy"}, "SCVI does not answer"),
        ({"metric": {"elbo": 1, "batch_mixing": 1}, "adata": "of one batch"}, "needs cells of several batches"),
        ({"metric": lambda model, cells: 0.0, "mode": "min", "workers": 2}, "define it in a module"),
        ({"mode": "min"}, "has its own"),
        ({"pruner": "mean"}, "pruner='mean'"),
        ({"test_size": 1.0}, "test_size=1.0"),
        ({"n_trials": 0}, "n_trials=0"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_what_is_refused(adata, tmp_path, change, message):
    if change.get("adata") == "of one batch":
        adata = make_adata()
        scvi.SCVI.setup_anndata(adata)
    others = {name: value for name, value in change.items() if name != "adata"}
    with pytest.raises(ValueError, match=message):
        search(adata, tmp_path, **others)
    assert not list(tmp_path.iterdir())


def test_a_search_in_a_job_of_several_processes_is_refused(adata, tmp_path, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="not for the processes of torchrun"):
        search(adata, tmp_path)


def test_cells_in_an_open_file_are_not_sent_to_other_processes(tmp_path):
    import anndata

    make_adata().write_h5ad(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    scvi.SCVI.setup_anndata(adata)
    with pytest.raises(ValueError, match="pass workers=1"):
        search(adata, tmp_path / "found", workers=2)
    found = search(adata, tmp_path / "found", n_trials=1, metric="imputation")
    assert list(found.trials["state"]) == ["complete"]
    adata.file.close()


def test_without_the_extra_the_error_names_it(adata, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"scvi\[tune\]"):
        search(adata, tmp_path)
