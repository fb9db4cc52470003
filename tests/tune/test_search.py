"""`scvi.tune.search`: what it tries, keeps, refuses and goes on with."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

import scvi
from scvi import tune
from scvi.tune.arguments import checked_arguments
from small_cells import make_adata

SPACE = {"n_latent": (2, 5), "n_hidden": [8, 16], "lr": (1e-3, 1e-2, "log"), "max_epochs": 4}


def search(adata, folder, **others):
    return tune.search(scvi.SCVI, adata, **{"space": SPACE, "n_trials": 4, "output": folder, "seed": 1, **others})


@pytest.fixture(scope="module")
def adata():
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    return adata


@pytest.fixture(scope="module")
def found(adata, tmp_path_factory):
    return search(adata, tmp_path_factory.mktemp("found"))


def test_the_record_says_what_was_tried_and_what_was_best(found):
    table = found.trials
    assert list(table.index) == [0, 1, 2, 3]
    assert set(table["state"]) <= {"complete", "pruned"}
    assert table["n_latent"].between(2, 5).all()
    assert table["n_hidden"].isin([8, 16]).all()
    assert table["lr"].between(1e-3, 1e-2).all()
    assert found.best_value == table["value"].max()
    best = table.loc[found.best_trial]
    assert found.best_model_args == {"n_latent": best["n_latent"], "n_hidden": best["n_hidden"]}
    assert found.best_train_args == {"lr": best["lr"], "max_epochs": 4}
    assert (table["seconds"] > 0).all()


def test_the_first_trial_has_the_defaults_where_the_space_has_them(found):
    assert found.trials.loc[0, "lr"] == 5.5e-3


def test_the_best_model_is_fitted_to_all_cells_and_saved(found, adata):
    again = scvi.SCVI.load(found.model_dir, adata)
    assert again.options["n_latent"] == found.best_model_args["n_latent"]
    np.testing.assert_array_equal(again.get_latent_representation(), found.model.get_latent_representation())
    assert len(found.model.train_indices) + len(found.model.validation_indices) == adata.n_obs
    written = json.loads((found.folder / "best.json").read_text())
    assert written["trial"] == found.best_trial
    assert written["value"] == found.best_value


def test_the_same_call_goes_on_and_ends_where_one_call_would(found, adata, tmp_path):
    first = search(adata, tmp_path, n_trials=2, refit=False)
    assert len(first.trials) == 2
    assert first.model is None
    second = search(adata, tmp_path, refit=False, seed=None)  # the seed of the study
    columns = ["state", "value", *SPACE.keys() - {"max_epochs"}]
    assert second.trials[columns].equals(found.trials[columns])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_latnt": [2]}, "n_latent"),
        ({"seed": [1, 2]}, "for the search to decide"),
        ({"n_latent": (5, 2)}, "not a range"),
        ({"n_hidden": [8, -1]}, "n_hidden=-1"),
        ({"lr": (0.0, 1.0, "log")}, "begins above 0"),
        ({"lr": [-1.0]}, "lr=-1.0"),
        ({"preset": ["quick", "quikc"]}, "preset='quikc'"),
        ({"preset": "quick", "max_epochs": 2}, "both say how long"),
        ({"accelerator": "gpuu"}, "accelerator='gpuu'"),
        ({"plan_kwargs": {"lrr": 0.1}}, "unknown keys"),
        ({"n_hidden": [object()]}, "numbers, strings"),
        ({"gene_likelihood": ["nb", "gauss"]}, "'gauss'"),
        ({"n_latent": 3, "n_hidden": 3}, "holds every argument fixed"),
    ],
)
def test_a_space_is_refused_before_anything_is_fitted(adata, tmp_path, change, message):
    base = {} if all(value == 3 for value in change.values()) else {"n_latent": (2, 3)}
    with pytest.raises(ValueError, match=message):
        search(adata, tmp_path, space={**base, **change})
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_kept_as_those_of_python(adata, tmp_path):
    space = {"n_latent": list(np.arange(2, 4)), "lr": (np.float32(1e-3), np.float32(1e-2)), "max_epochs": np.int64(1)}
    options = {"space": space, "n_trials": 1, "test_size": np.float32(0.25)}
    first = search(adata, tmp_path, **options)
    written = json.loads((tmp_path / "best.json").read_text())
    assert written["model_args"] == first.best_model_args
    assert written["train_args"] == first.best_train_args
    assert search(adata, tmp_path, **options).trials.equals(first.trials)


def test_a_default_that_no_step_of_a_range_meets_is_not_tried(adata):
    def first(**steps):
        return checked_arguments(scvi.SCVI, adata, {"n_latent": IntDistribution(**steps)}).first_trial()

    assert first(low=5, high=13, step=4) == {}
    assert first(low=2, high=14, step=4) == {"n_latent": 10}
    assert checked_arguments(scvi.SCVI, adata, {"kl_warmup": FloatDistribution(0, 1, step=0.1)}).first_trial() == {
        "kl_warmup": 0.2
    }


def test_a_model_that_is_away_is_fitted_again(adata, tmp_path):
    first = search(adata, tmp_path, n_trials=1)
    shutil.rmtree(first.model_dir)
    second = search(adata, tmp_path, n_trials=1)
    assert second.model_dir.exists()
    latents = [found.model.get_latent_representation() for found in (first, second)]
    np.testing.assert_array_equal(*latents)


def test_a_study_of_other_terms_is_refused(found, adata):
    with pytest.raises(ValueError, match=r"begun with metric='elbo'.*study_name"):
        search(adata, found.folder, metric="marginal_ll", study_name=found.study_name)
    with pytest.raises(ValueError, match="seed=1, not 2"):
        search(adata, found.folder, seed=2)
