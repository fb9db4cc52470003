"""What trials are judged by: each metric beside a computation of its own, sums, functions, and what cannot be asked."""

from __future__ import annotations

import numpy as np
import pytest

import scvi
from scvi.queries import calibration, clustering
from scvi.tune.metrics import METRICS, check_answers, metric_of
from small_cells import QUICK, TINY, make_adata

CELLS = np.arange(0, 150, 2)


@pytest.fixture(scope="module")
def model():
    adata = make_adata()
    adata.obs["known"] = np.where(np.arange(150) % 3 == 0, "Unknown", adata.obs["cell_type"])
    adata.layers["counts"] = adata.X.copy()
    scvi.SCANVI.setup_anndata(adata, "known", "Unknown", batch_key="batch", layer="counts")
    model = scvi.SCANVI(adata, **TINY)
    model.train(**QUICK)
    return model


def score(model, name):
    return METRICS[name].score(model, CELLS, 0)


def test_likelihoods_are_those_of_the_model(model):
    assert score(model, "elbo") == model.get_elbo(indices=CELLS, seed=0)
    assert score(model, "marginal_ll") == model.get_marginal_ll(indices=CELLS, n_mc_samples=100, seed=0)


def test_annotation_is_judged_on_labelled_cells(model):
    labels = model.adata.obs["known"].to_numpy()[CELLS]
    known = labels != "Unknown"
    predicted = model.predict(indices=CELLS)
    assert score(model, "accuracy") == pytest.approx(np.mean(predicted[known] == labels[known]))
    table = model.predict(indices=CELLS, soft=True)
    codes = table.columns.get_indexer(labels[known])
    expected = calibration.calibration_error(table.to_numpy()[known], codes)
    assert score(model, "calibration") == pytest.approx(expected)


def test_batch_mixing_is_a_share_of_what_chance_would_give(model):
    batches = model.adata.obs["batch"].to_numpy()[CELLS]
    latent = model.get_latent_representation(indices=CELLS)
    expected = clustering.batch_entropy(latent, batches) / clustering.max_batch_entropy(batches)
    assert score(model, "batch_mixing") == pytest.approx(expected)


def test_imputation_compares_hidden_counts_with_what_is_expected(model):
    counts = model.adata.layers["counts"].toarray()
    before = counts.copy()
    error = score(model, "imputation")
    assert np.array_equal(model.adata.layers["counts"].toarray(), before)
    assert error == score(model, "imputation")
    spread = np.median(np.abs(counts[counts > 0] - np.median(counts[counts > 0])))
    assert 0 < error < 2 * spread
    with_all_hidden = METRICS["imputation"].score(model, CELLS, 1)
    assert with_all_hidden != error  # other counts are hidden


def test_a_sum_counts_what_is_good_if_low_negative(model):
    metric = metric_of({"accuracy": 2, "calibration": 0.5, "elbo": 0})
    assert metric.mode == "max"
    assert metric.name == "2 accuracy + 0.5 calibration"
    expected = 2 * score(model, "accuracy") - 0.5 * score(model, "calibration")
    assert metric.score(model, CELLS, 0) == pytest.approx(expected)


def n_cells(model, cells):
    return len(cells)


def test_a_function_says_whether_low_is_good(model):
    metric = metric_of(n_cells, "min")
    assert metric.score(model, CELLS, 0) == len(CELLS)
    assert metric.name.endswith("test_metrics.n_cells")
    with pytest.raises(ValueError, match="mode must be 'min' or 'max'"):
        metric_of(n_cells)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("elbow", "metric='elbow' is not one of"),
        ({"elbow": 1.0}, "metric='elbow' is not one of"),
        ({"elbo": -1.0}, "not a weight"),
        ({"elbo": 0.0}, "no weight above 0"),
    ],
)
def test_what_is_no_metric_is_refused(metric, message):
    with pytest.raises(ValueError, match=message):
        metric_of(metric)


def test_a_metric_that_a_model_does_not_answer_is_refused(model):
    with pytest.raises(ValueError, match="'accuracy' asks a model to predict, which SCVI does not"):
        check_answers(metric_of({"elbo": 1, "accuracy": 1}), scvi.SCVI, model.schema)
    check_answers(metric_of("accuracy"), scvi.SCANVI, model.schema)
