"""What the steps of a fit minimise, by the kind of its plan; resuming what an earlier version began."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

import scvi
from scvi.fit import checkpoint
from scvi.fit.fit import Fit
from scvi.fit.objectives import OBJECTIVES, Adversarial, NegativeElbo, SemiSupervised, f1_score
from scvi.fit.plan import AdversarialPlan, Plan, SemiSupervisedPlan
from scvi.queries.calibration import calibration_error
from small_cells import QUICK, TINY, make_adata


def fit_of(model: Any, plan: Plan) -> Fit:
    """A fit of the cells of an estimator that was made of one AnnData."""
    data = model._cells.own("be fitted")
    cells = np.arange(len(data))
    return Fit(model.module, data, cells[:-20], cells[-20:], plan, seed=3, show_progbar=False)


def labelled() -> scvi.SCANVI:
    adata = make_adata()
    adata.obs["known"] = np.where(np.arange(adata.n_obs) % 3 == 0, "Unknown", adata.obs["cell_type"])
    scvi.SCANVI.setup_anndata(adata, "known", "Unknown")
    return scvi.SCANVI(adata, **TINY)


def test_the_plan_decides_what_is_minimised() -> None:
    assert OBJECTIVES[Plan] is NegativeElbo
    assert OBJECTIVES[SemiSupervisedPlan] is SemiSupervised
    assert OBJECTIVES[AdversarialPlan] is Adversarial


def test_a_plan_with_further_options_keeps_the_objective_of_its_kind() -> None:
    class Further(SemiSupervisedPlan):
        pass

    assert type(fit_of(labelled(), Further(1)).objective) is SemiSupervised


def test_a_weighted_cross_entropy_is_added() -> None:
    fit, alone = fit_of(labelled(), SemiSupervisedPlan(1, classification_ratio=7)), fit_of(labelled(), Plan(1))
    fit.objective.begin_epoch(0)
    mb = fit.split.data.minibatch(np.arange(30))
    losses = []
    for each in (fit, alone):
        each.model.eval()
        torch.manual_seed(0)
        losses.append(each.objective.loss(mb, 0.5))
    (loss, terms), (expected, other_terms) = losses
    torch.testing.assert_close(loss.detach(), expected.detach() + 7 * terms["classification_loss"] / 30)
    assert {*terms} == {*other_terms, "classification_loss"}
    torch.testing.assert_close(terms["train_loss_epoch"], loss.detach() * 30)


def test_labelled_cells_are_those_of_the_epoch_and_the_seed() -> None:
    objective = fit_of(labelled(), SemiSupervisedPlan(1, n_samples_per_label=2)).objective
    first, again, next_one = (objective.chosen(epoch) for epoch in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_one)
    assert np.isin(first, objective.labelled).all()
    assert np.unique(objective.split.data.labels[first], return_counts=True)[1].max() <= 2


def test_too_few_labels_are_left_out_of_the_loss() -> None:
    model = labelled()
    model.adata.obs["known"] = "Unknown"
    fit = fit_of(model, SemiSupervisedPlan(1))
    fit.objective.begin_epoch(0)
    _, terms = fit.objective.loss(fit.split.data.minibatch(np.arange(30)), 1.0)
    assert "classification_loss" not in terms
    assert "accuracy" not in fit.objective.validate()


def test_scores_of_labelled_validation_cells() -> None:
    fit = fit_of(labelled(), SemiSupervisedPlan(1, classification_ratio=7))
    values = fit.objective.validate(0.5)
    cells = fit.split.in_order(fit.objective.labelled_validation)
    log_q, labels = zip(
        *((fit.model.eval().log_probabilities(mb).detach(), mb.labels[:, 0]) for mb in cells), strict=True
    )
    q, y = torch.cat(log_q).exp().numpy(), torch.cat(labels).numpy()
    assert values["f1_score"] == pytest.approx(metrics.f1_score(y, q.argmax(1), average="weighted", zero_division=0))
    assert values["calibration_error"] == pytest.approx(calibration_error(q, y))
    bound = NegativeElbo.validate(fit.objective, 0.5)["loss"]
    assert values["loss"] == pytest.approx(bound + 7 * values["classification_loss"])
    assert bound < NegativeElbo.validate(fit.objective)["loss"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_the_f1_score_is_that_of_the_library(pairs: list[tuple[int, int]]) -> None:
    said, labels = torch.tensor(pairs).T
    expected = metrics.f1_score(labels, said, average="weighted", zero_division=0)
    assert f1_score(said, labels, 4) == pytest.approx(expected)


def test_a_score_of_labelled_cells_needs_such_cells() -> None:
    model = labelled()
    plan = SemiSupervisedPlan(1, early_stopping=True, early_stopping_monitor="validation_accuracy")
    fit_of(model, plan)
    model.adata.obs["known"] = "Unknown"
    with pytest.raises(
        ValueError, match="validation_accuracy is of labelled validation cells, of which there are none"
    ):
        fit_of(model, plan)
    fit_of(model, replace(plan, early_stopping_monitor="elbo_validation"))


@pytest.mark.parametrize("name", ["SCVI", "SCANVI", "GIMVI"])
def test_checkpoints_name_what_the_first_version_named(name: str, tmp_path: Path) -> None:
    """Else no fit that it began could be resumed."""
    further = {"SCVI": set(), "SCANVI": {"classification_ratio", "n_samples_per_label"}, "GIMVI": {"kappa"}}[name]
    adata = make_adata()
    if name == "SCANVI":
        model: Any = labelled()
    else:
        cls = getattr(scvi, name)
        cls.setup_anndata(adata)
        model = cls(*([adata] * (2 if name == "GIMVI" else 1)), **TINY)
    model.train(**QUICK, checkpoint_dir=tmp_path)
    found = checkpoint.read(tmp_path)
    assert found is not None
    of_plan = {
        "max_epochs", "batch_size", "lr", "lr_schedule", "weight_decay", "eps", "gradient_clip", "kl_warmup",
        "min_kl_weight", "max_kl_weight", "check_val_every_n_epoch", "early_stopping", "early_stopping_monitor",
        "early_stopping_patience", "early_stopping_min_delta", "lr_patience", "lr_factor", "precision",
    }  # fmt: skip
    of_fit = {"seed", "data", "training cells", "validation cells"}
    assert set(found[1]["identity"]) == {*model.options, *of_plan, *of_fit, *further}
