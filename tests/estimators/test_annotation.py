"""SCANVI and CondSCVI: what the common suite does not know of, and their quality on real cells."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import scvi
from scvi.fit import fit as fitting
from scvi.fit.objectives import SemiSupervised
from scvi.queries.calibration import calibration_error
from small_cells import QUICK, TINY, G, N, make_adata

UNKNOWN = "not known"


def some_labels(adata: AnnData | None = None, share: float = 0.5) -> AnnData:
    """Cells of which a part has a label in the column 'label'."""
    adata = make_adata() if adata is None else adata
    hidden = np.random.default_rng(0).random(adata.n_obs) >= share
    adata.obs["label"] = np.where(hidden, UNKNOWN, adata.obs["cell_type"].astype(str))
    adata.obs["hidden"] = hidden
    return adata


def make(adata: AnnData | None = None, **options: Any) -> scvi.SCANVI:
    adata = some_labels() if adata is None else adata
    scvi.SCANVI.setup_anndata(adata, "label", UNKNOWN, batch_key="batch")
    return scvi.SCANVI(adata, **{**TINY, **options})


@pytest.fixture(scope="module")
def fitted() -> scvi.SCANVI:
    model = make()
    model.train(**{**QUICK, "max_epochs": 20})
    return model


@pytest.mark.parametrize(
    "empty", [np.nan, None, pd.Categorical([None] * N, categories=["t0"])], ids=["NaN", "None", "categories"]
)
def test_cells_with_an_empty_column_have_no_label(fitted: scvi.SCANVI, empty: Any) -> None:
    cells = some_labels()
    expected = fitted.get_elbo(without_labels(cells), seed=0)
    cells.obs["label"] = empty
    assert fitted.get_elbo(cells, seed=0) == expected
    np.testing.assert_array_equal(fitted.predict(cells), fitted.predict(without_labels(cells)))
    mapped = scvi.SCANVI.load_query_data(cells.copy(), fitted, unfrozen=True)
    mapped.train(**QUICK)
    cells.obs["label"] = [np.nan, *["t0"] * (N - 1)]  # which is a mistake rather
    with pytest.raises(ValueError, match=r"adata.obs\['label'\] is missing \(NaN\) in 1 cells"):
        fitted.predict(cells)


def without_labels(adata: AnnData) -> AnnData:
    copy = adata.copy()
    del copy.obs["label"]
    return copy


def equal_weights(first: Any, second: Any) -> bool:
    a, b = first.module.state_dict(), second.module.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- set-up ----------------------------------------------------------------------------------------------------------


def test_the_unlabelled_category_is_no_label(fitted: scvi.SCANVI) -> None:
    assert fitted.schema.label_names == ("t0", "t1", "t2")
    assert fitted.schema.unlabeled_category == UNKNOWN
    assert fitted.module.n_labels == 3
    assert f"t0, t1, t2; unlabelled: {UNKNOWN}" in fitted.view_anndata_setup()["summary"].tolist()


def test_all_cells_may_be_labelled() -> None:
    adata = make_adata()
    scvi.SCANVI.setup_anndata(adata, "cell_type", "Unknown")
    model = scvi.SCANVI(adata, **TINY)
    model.train(**QUICK)
    assert model.predict().shape == (N,)


@pytest.mark.parametrize(
    ("labels_key", "category", "options", "message"),
    [
        ("label", "not knwon", {}, r"does not occur in adata.obs\['label'\]; did you mean 'not known'"),
        ("nothing", UNKNOWN, {}, "labels_key='nothing' is not a column"),
        ("empty", UNKNOWN, {}, "every cell has unlabeled_category"),
        (None, UNKNOWN, {}, "name it by labels_key"),
        ("label", UNKNOWN, {"batch_key": "label"}, "is the batch or a covariate as well"),
        ("label", UNKNOWN, {"categorical_covariate_keys": ["label"]}, "is the batch or a covariate as well"),
    ],
)
def test_bad_set_ups_are_refused(labels_key: Any, category: str, options: dict[str, Any], message: str) -> None:
    adata = some_labels()
    adata.obs["empty"] = UNKNOWN
    with pytest.raises(ValueError, match=message):
        scvi.SCANVI.setup_anndata(adata, labels_key, category, **options)
    assert not adata.uns


# ---- from an SCVI model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first() -> scvi.SCVI:
    adata = some_labels()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, **TINY, gene_likelihood="nb")
    model.train(**QUICK)
    return model


def test_a_model_starts_from_scvi(first: scvi.SCVI) -> None:
    before = {name: value.clone() for name, value in first.module.state_dict().items()}
    model = scvi.SCANVI.from_scvi_model(first, UNKNOWN, labels_key="label", seed=0)
    assert not model.is_trained
    assert model.options == {**first.options, "linear_classifier": False, "classifier_parameters": None}
    assert list(first.adata.uns["_scvi"]) == ["SCVI"]
    weights = model.module.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in before.items())
    twin = scvi.SCANVI.from_scvi_model(first, UNKNOWN, labels_key="label", seed=0)
    assert equal_weights(model, twin)
    model.train(**{**QUICK, "max_epochs": 1, "lr": 1e-9})
    assert model.get_elbo(seed=0) > first.get_elbo(seed=0) - 30  # it did not start from scratch
    assert all(torch.equal(first.module.state_dict()[name], value) for name, value in before.items())
    default = scvi.SCANVI.from_scvi_model(first, UNKNOWN, labels_key="label")
    default.train(**{**QUICK, "max_epochs": None})
    assert len(default.history["elbo_train"]) == 20


def test_the_labels_of_the_scvi_model_are_the_default() -> None:
    adata = some_labels()
    scvi.SCVI.setup_anndata(adata, labels_key="label")
    model = scvi.SCVI(adata, **TINY)
    model.train(**QUICK)
    annotated = scvi.SCANVI.from_scvi_model(model, UNKNOWN)
    assert annotated.schema.labels_key == "label"
    assert annotated.schema.label_names == ("t0", "t1", "t2")
    assert scvi.SCANVI.from_scvi_model(model, "t9", labels_key="cell_type").schema.label_names == ("t0", "t1", "t2")


def test_what_cannot_be_annotated_is_refused(first: scvi.SCVI, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a str; pass a fitted scvi\.SCVI"):
        scvi.SCANVI.from_scvi_model("model", UNKNOWN)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="not trained"):
        scvi.SCANVI.from_scvi_model(scvi.SCVI(first.adata, **TINY), UNKNOWN, "label")
    with pytest.raises(ValueError, match="labels_key=None"):
        scvi.SCANVI.from_scvi_model(first, UNKNOWN)
    first.save(tmp_path / "model")
    with pytest.raises(ValueError, match="without cells and cannot be annotated"):
        scvi.SCANVI.from_scvi_model(scvi.SCVI.load(tmp_path / "model"), UNKNOWN, "label")
    adata = some_labels()
    scvi.SCVI.setup_anndata(adata, labels_key="label")
    by_label = scvi.SCVI(adata, **TINY, dispersion="gene-label")
    by_label.train(**QUICK)
    adata.obs["other"] = adata.obs["label"].replace({"t1": "new"})
    with pytest.raises(ValueError, match="the SCVI model does not know the labels new: set SCVI up"):
        scvi.SCANVI.from_scvi_model(by_label, UNKNOWN, "other")


def other_cells() -> AnnData:
    """Other cells than those of `first`, labelled in the column 'named', their genes in another order, and one more."""
    cells = some_labels(make_adata(seed=1))[:90].copy()
    more = AnnData(np.ones((90, 1), np.float32), cells.obs[[]], pd.DataFrame(index=["more"]))
    adata = anndata.concat([cells[:, np.r_[10:G, :10]], more], axis=1)
    adata.obs = cells.obs.rename(columns={"label": "named"})
    return adata


@pytest.mark.parametrize("has_cells", [True, False], ids=["with cells", "without"])
def test_other_cells_are_annotated_from_scvi(first: scvi.SCVI, has_cells: bool, tmp_path: Path) -> None:
    first.save(tmp_path / "model")
    scvi_model = first if has_cells else scvi.SCVI.load(tmp_path / "model")
    adata = other_cells()
    model = scvi.SCANVI.from_scvi_model(scvi_model, UNKNOWN, "named", adata, seed=0)
    assert model.adata is adata
    assert not adata.uns
    assert model.schema.label_names == ("t0", "t1", "t2")
    assert model.schema.library_prior == first.schema.library_prior
    weights = model.module.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in first.module.state_dict().items())
    model.train(**{**QUICK, "max_epochs": 1})
    assert len(model.train_indices) + len(model.validation_indices) == 90
    assert np.array_equal(model.predict(), model.predict(other_cells()))
    known = (adata.obs["named"] != UNKNOWN).to_numpy()
    assert np.array_equal(model.predict(keep_observed=True)[known], adata.obs["named"][known])


def test_other_cells_that_do_not_fit_the_scvi_model_are_refused(first: scvi.SCVI, tmp_path: Path) -> None:
    adata = other_cells()
    new_batch, negative, mixed = adata.copy(), adata.copy(), adata.copy()
    new_batch.obs["batch"] = new_batch.obs["batch"].astype(str).replace({"b0": "b9"})
    negative.X.data[3] = -1
    mixed.X = mixed.X / 3
    first.save(tmp_path / "model")
    minified = scvi.SCVI.load(tmp_path / "model", some_labels())
    minified.minify_adata()
    minified.adata.obs["named"] = minified.adata.obs["label"]
    for given, error, message in (
        (adata[:, 1:].copy(), ValueError, f"lacks 1 of the {G} genes that the model reads"),
        (
            AnnData(adata.X, adata.obs.drop(columns="named"), adata.var),
            ValueError,
            "labels_key='named' is not a column",
        ),
        (AnnData(adata.X, adata.obs.drop(columns="batch"), adata.var), ValueError, "batch_key='batch' is not a column"),
        (new_batch, ValueError, "b9"),
        (negative, ValueError, "negative"),
        (mixed, ValueError, "normalised"),
        (minified.adata, ValueError, "minified by another model"),
        (adata.obs, TypeError, "adata is a DataFrame; pass an anndata.AnnData"),
    ):
        with pytest.raises(error, match=message):
            scvi.SCANVI.from_scvi_model(first, UNKNOWN, "named", given)


def test_a_dispersion_by_label_goes_by_the_names_of_the_labels() -> None:
    adata = some_labels()
    adata.obs["label"] = adata.obs["label"].replace({UNKNOWN: "a", "t2": "z"})  # before the others, not after them
    scvi.SCVI.setup_anndata(adata, labels_key="label")
    first = scvi.SCVI(adata, **TINY, dispersion="gene-label")
    first.train(**QUICK)
    assert first.schema.label_names == ("a", "t0", "t1", "z")
    model = scvi.SCANVI.from_scvi_model(first, "a")
    assert model.schema.label_names == ("t0", "t1", "z")
    assert torch.equal(model.module.px_r, first.module.px_r[:, 1:])


def test_files_keep_that_a_model_starts_from_scvi(first: scvi.SCVI, tmp_path: Path) -> None:
    model = scvi.SCANVI.from_scvi_model(first, UNKNOWN, labels_key="label", seed=0)
    model.save(tmp_path / "model")
    loaded = scvi.SCANVI.load(tmp_path / "model", first.adata)
    for one in (model, loaded):
        one.train(**{**QUICK, "max_epochs": None})
    assert len(loaded.history["elbo_train"]) == 20
    assert equal_weights(model, loaded)


# ---- training --------------------------------------------------------------------------------------------------------


def test_history_has_the_classifier(fitted: scvi.SCANVI) -> None:
    losses = fitted.history["classification_loss_train"]["classification_loss_train"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert {"classification_loss_validation", "accuracy_validation"} <= set(fitted.history)
    elbo, total = (fitted.history[name].iloc[-1, 0] for name in ("elbo_train", "train_loss_epoch"))
    assert total == pytest.approx(elbo + 10 * losses.iloc[-1], rel=0.02)


def test_no_label_leaks() -> None:
    """The fit does not depend on what the unlabelled cells are."""
    models = []
    for turn in range(2):
        adata = some_labels()
        adata.obs.loc[adata.obs["hidden"], "cell_type"] = ["t0", "t1"][turn]
        model = make(adata)
        model.train(**QUICK)
        models.append(model)
    assert equal_weights(*models)


def test_training_and_validation_cells_are_of_every_label() -> None:
    adata = some_labels(share=0.3)
    model = make(adata)
    model.train(**QUICK, train_size=0.8)
    counts = adata.obs["label"].iloc[model.validation_indices].value_counts()
    expected = adata.obs["label"].value_counts() * 0.2
    assert all(abs(counts[name] - number) <= 1 for name, number in expected.items())
    assert len(model.validation_indices) == round(0.2 * N)


def test_samples_per_label(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    chosen = SemiSupervised.chosen

    def noted(self: SemiSupervised, epoch: int) -> np.ndarray:
        cells = chosen(self, epoch)
        seen.append((self.split.data.labels[cells], cells))
        return cells

    monkeypatch.setattr(SemiSupervised, "chosen", noted)
    make().train(**QUICK, n_samples_per_label=4)
    assert [np.bincount(labels).tolist() for labels, _ in seen] == [[4, 4, 4]] * 3
    assert set(seen[0][1]) != set(seen[1][1])


def test_the_classifier_has_a_weight() -> None:
    by_argument, by_plan, none = make(), make(), make()
    by_argument.train(**QUICK, classification_ratio=3)
    by_plan.train(**QUICK, plan_kwargs={"classification_ratio": 3})
    none.train(**QUICK, classification_ratio=0)
    assert equal_weights(by_argument, by_plan)
    assert not equal_weights(by_argument, none)
    assert none.history["train_loss_epoch"].iloc[-1, 0] == pytest.approx(
        none.history["elbo_train"].iloc[-1, 0], rel=0.2
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classification_ratio": -1}, "classification_ratio=-1 is not a number of at least 0"),
        ({"n_samples_per_label": 0}, "n_samples_per_label=0"),
        ({"calibrate": "yes"}, "calibrate='yes'"),
        ({"plan_kwargs": {"classification_rate": 1}}, "unknown keys"),
        ({"plan_kwargs": [1]}, r"plan_kwargs=\[1\] is not a dictionary"),
    ],
)
def test_bad_arguments_of_train_are_refused(arguments: dict[str, Any], message: str) -> None:
    model = make()
    with pytest.raises(ValueError, match=message):
        model.train(**QUICK, **arguments)
    assert not model.is_trained


def test_one_sample_of_one_label() -> None:
    adata = some_labels()
    adata.obs["label"] = np.where(adata.obs["hidden"], UNKNOWN, "t0")
    model = make(adata)
    model.train(**QUICK, n_samples_per_label=1)
    assert np.isfinite(model.history["classification_loss_train"].to_numpy()).all()


def test_a_fit_needs_labelled_cells() -> None:
    adata = some_labels()
    adata.obs["label"] = UNKNOWN
    adata.obs.loc[adata.obs_names[0], "label"] = "t0"
    with pytest.raises(ValueError, match=r"1 of 135 training cells have a label.*label more cells"):
        make(adata).train(**QUICK)


def test_a_fitted_model_may_go_on_without_labels(fitted: scvi.SCANVI, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    model = scvi.SCANVI.load(tmp_path / "model", make_adata(seed=2))  # has no column of labels
    temperature = float(model.module.temperature)
    model.train(**{**QUICK, "max_epochs": 1})
    assert model.history["elbo_train"].index[-1] == fitted.history["elbo_train"].index[-1] + 1
    assert model.history["classification_loss_train"].index[-1] == fitted.history["elbo_train"].index[-1]
    assert float(model.module.temperature) == temperature


def test_calibration(caplog: pytest.LogCaptureFixture) -> None:
    plain, calibrated, unchecked = make(), make(), make()
    plain.train(**QUICK, calibrate=False)
    with caplog.at_level(logging.INFO, "scvi"):
        calibrated.train(**QUICK)
        assert "Temperature of the classifier from 7 labelled validation cells" in caplog.text
        unchecked.train(**QUICK, train_size=1.0)
        assert "No validation cell has a label" in caplog.text
    temperature = float(calibrated.module.temperature)
    assert temperature != 1.0
    assert float(plain.module.temperature) == float(unchecked.module.temperature) == 1.0
    raw = np.log(plain.predict(soft=True).to_numpy(np.float64)) / temperature
    expected = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    np.testing.assert_allclose(calibrated.predict(soft=True), expected, rtol=1e-3, atol=1e-6)


def test_resuming_with_few_samples_per_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(self: fitting.Fit) -> bool:
        if self.loop.epoch == 2:
            raise RuntimeError("power cut")
        return end_epoch(self)

    arguments = {**QUICK, "n_samples_per_label": 3}
    whole = make()
    whole.train(**arguments)
    end_epoch = fitting.Fit.on_epoch_end
    monkeypatch.setattr(fitting, "_STEPS_BETWEEN_SNAPSHOTS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "on_epoch_end", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            make().train(**arguments, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="n_samples_per_label was 3, is 4"):
        make().train(**{**arguments, "n_samples_per_label": 4}, checkpoint_dir=tmp_path, resume=True)
    resumed = make()
    resumed.train(**arguments, checkpoint_dir=tmp_path, resume=True)
    assert equal_weights(resumed, whole)


# ---- predictions -----------------------------------------------------------------------------------------------------


def test_predictions_at_draws(fitted: scvi.SCANVI) -> None:
    """They are what the classifier says of the latent states that are drawn, and on average those at the mean."""
    means = fitted.predict(soft=True)
    drawn = fitted.predict(soft=True, use_posterior_mean=False, seed=3)
    pd.testing.assert_frame_equal(drawn, fitted.predict(None, None, True, None, False, seed=3))
    assert not np.allclose(drawn, means)
    z = torch.from_numpy(fitted.get_latent_representation(give_mean=False, seed=3))
    with torch.no_grad():
        expected = torch.softmax(fitted.module.log_q_y(z) / fitted.module.temperature, -1)
    np.testing.assert_allclose(drawn, expected, rtol=1e-4, atol=1e-6)
    assert fitted.predict(use_posterior_mean=False, seed=3).tolist() == drawn.idxmax(axis=1).tolist()
    with pytest.raises(ValueError, match="use_posterior_mean='no' is not True or False"):
        fitted.predict(use_posterior_mean="no")


def test_predictions(fitted: scvi.SCANVI) -> None:
    soft, hard = fitted.predict(soft=True), fitted.predict()
    assert list(soft.columns) == ["t0", "t1", "t2"]
    assert soft.index.equals(fitted.adata.obs_names)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    assert np.array_equal(hard, soft.idxmax(axis=1))
    assert np.array_equal(fitted.predict(indices=[5, 2]), hard[[5, 2]])
    np.testing.assert_allclose(fitted.predict(soft=True, batch_size=7), soft, rtol=1e-4, atol=1e-6)
    fitted.adata.obs["predictions_scanvi"] = hard
    assert UNKNOWN not in set(hard)
    del fitted.adata.obs["predictions_scanvi"]


def test_abstaining(fitted: scvi.SCANVI) -> None:
    top = fitted.predict(soft=True).max(axis=1).to_numpy()
    threshold = float(np.median(top))
    answers = fitted.predict(abstain_below=threshold)
    assert np.array_equal(answers == UNKNOWN, top < threshold)
    assert np.array_equal(answers[top >= threshold], fitted.predict()[top >= threshold])
    with pytest.raises(ValueError, match="abstain_below goes with soft=False"):
        fitted.predict(soft=True, abstain_below=0.5)
    for threshold in ("half", 1.5, -0.1):
        with pytest.raises(ValueError, match="abstain_below="):
            fitted.predict(abstain_below=threshold)  # type: ignore[arg-type]


def test_observed_labels_can_be_kept(fitted: scvi.SCANVI) -> None:
    hidden = fitted.adata.obs["hidden"].to_numpy()
    kept, plain = fitted.predict(keep_observed=True, abstain_below=1.0), fitted.predict()
    assert np.array_equal(kept[~hidden], fitted.adata.obs["label"][~hidden])
    assert (kept[hidden] == UNKNOWN).all()
    assert np.array_equal(fitted.predict(keep_observed=True)[hidden], plain[hidden])
    soft = fitted.predict(soft=True, keep_observed=True)
    assert (soft.to_numpy()[~hidden].max(1) == 1).all()


def test_cells_without_a_column_of_labels(fitted: scvi.SCANVI) -> None:
    other = make_adata(n=30, seed=1)
    assert fitted.predict(other).shape == (30,)
    assert np.isfinite(fitted.get_elbo(other))
    assert (fitted.predict(other, keep_observed=True) == fitted.predict(other)).all()
    other.obs["label"] = "t7"
    with pytest.raises(ValueError, match="never seen: 't7'"):
        fitted.predict(other)


def test_files_keep_the_temperature(fitted: scvi.SCANVI, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    loaded = scvi.SCANVI.load(tmp_path / "model", fitted.adata)
    assert loaded.schema == fitted.schema
    pd.testing.assert_frame_equal(loaded.predict(soft=True), fitted.predict(soft=True))


@pytest.mark.parametrize("options", [{"dispersion": "gene-label"}, {"latent_distribution": "ln"}, {"n_layers": 2}])
def test_options(options: dict[str, Any]) -> None:
    model = make(**options)
    model.train(**QUICK)
    assert np.isfinite(model.predict(soft=True).to_numpy()).all()
    assert model.get_elbo(seed=0) < model.get_marginal_ll(n_mc_samples=200, seed=0)


# ---- CondSCVI --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conditional() -> scvi.CondSCVI:
    adata = make_adata()
    scvi.CondSCVI.setup_anndata(adata, "cell_type", batch_key="batch", categorical_covariate_keys=["donor"])
    model = scvi.CondSCVI(adata, n_hidden=32, n_latent=3, seed=0)
    model.train(**{**QUICK, "max_epochs": 60})
    return model


def test_profiles_of_labels(conditional: scvi.CondSCVI) -> None:
    profiles = conditional.get_label_expression(seed=0)
    assert profiles.index.tolist() == ["t0", "t1", "t2"]
    np.testing.assert_allclose(profiles.sum(1), 1, rtol=1e-4)
    counts, kinds = conditional.adata.X.toarray(), conditional.adata.obs["cell_type"]
    shares = counts / counts.sum(1, keepdims=True)
    for name, profile in profiles.iterrows():
        seen = shares[(kinds == name).to_numpy()].mean(0)
        correlations = [np.corrcoef(seen, other)[0, 1] for _, other in profiles.iterrows()]
        assert np.argmax(correlations) == profiles.index.get_loc(name)
        assert np.corrcoef(seen, profile)[0, 1] > 0.9
    pd.testing.assert_frame_equal(conditional.get_label_expression(seed=0), profiles)
    some = conditional.get_label_expression(["t2", "t0"], gene_list=["gene5", "gene1"], transform_batch="b1", seed=0)
    assert some.shape == (2, 2)
    assert some.columns.tolist() == ["gene5", "gene1"]
    assert not np.allclose(some, profiles.loc[some.index, some.columns])
    with pytest.raises(ValueError, match="labels has 't9', which is not a label"):
        conditional.get_label_expression(["t9"])
    with pytest.raises(ValueError, match="labels is an empty list"):
        conditional.get_label_expression([])
    with pytest.raises(ValueError, match="n_samples=0"):
        conditional.get_label_expression(n_samples=0)


def test_the_label_decides_what_is_decoded(conditional: scvi.CondSCVI) -> None:
    other = conditional.adata.copy()
    other.obs["cell_type"] = "t0"
    one = conditional.get_normalized_expression(seed=0, return_numpy=True)
    two = conditional.get_normalized_expression(other, seed=0, return_numpy=True)
    was = (conditional.adata.obs["cell_type"] == "t0").to_numpy()
    np.testing.assert_allclose(one[was], two[was], rtol=1e-3, atol=1e-6)
    assert np.abs(one[~was] - two[~was]).mean() > 1e-3


def test_every_cell_needs_a_label(conditional: scvi.CondSCVI) -> None:
    with pytest.raises(ValueError, match="labels_key='cell_type' is not a column"):
        conditional.get_elbo(
            AnnData(conditional.adata.X, conditional.adata.obs[["batch", "donor"]], conditional.adata.var)
        )
    with pytest.raises(ValueError, match="name the column of labels"):
        scvi.CondSCVI.setup_anndata(make_adata(), None)  # type: ignore[arg-type]


# ---- quality ---------------------------------------------------------------------------------------------------------


def annotated(adata: AnnData, n_labelled: int, batch_key: str | None, seed: int) -> tuple[float, float, float]:
    """Of the hidden labels: accuracy, calibration error, accuracy of 15 neighbours in the latent space of scVI."""
    from sklearn.neighbors import KNeighborsClassifier

    truth, rng = adata.obs["cell_type"].astype(str).to_numpy(), np.random.default_rng(seed)
    hidden = np.ones(adata.n_obs, dtype=bool)
    for name in np.unique(truth):
        hidden[rng.permutation(np.flatnonzero(truth == name))[:n_labelled]] = False
    adata = adata.copy()
    adata.obs["label"] = np.where(hidden, UNKNOWN, truth)
    scvi.SCVI.setup_anndata(adata, batch_key=batch_key)
    first = scvi.SCVI(adata, seed=seed)
    first.train(seed=seed, enable_progress_bar=False)
    latent = first.get_latent_representation()
    neighbours = KNeighborsClassifier(15).fit(latent[~hidden], truth[~hidden])
    model = scvi.SCANVI.from_scvi_model(first, UNKNOWN, "label", seed=seed)
    model.train(seed=seed, enable_progress_bar=False)
    found = model.predict(soft=True)
    codes = found.columns.get_indexer(truth)
    accuracy = float(np.mean(found.to_numpy().argmax(1)[hidden] == codes[hidden]))
    return (
        accuracy,
        calibration_error(found.to_numpy()[hidden], codes[hidden]),
        neighbours.score(latent[hidden], truth[hidden]),
    )


@pytest.mark.slow
def test_five_labels_of_each_cell_line(mixology: AnnData) -> None:
    accuracy, error, _ = annotated(mixology, 5, "batch", 0)
    assert accuracy > 0.98
    assert error < 0.05


@pytest.mark.slow
def test_twenty_labels_of_each_blood_cell_type() -> None:
    with (Path(__file__).parents[1] / "sample_data" / "pbmc_gated.h5ad").open("rb") as file:
        adata = anndata.read_h5ad(file)
    accuracy, error, of_neighbours = annotated(adata, 20, None, 0)
    assert accuracy > 0.85
    assert accuracy > of_neighbours
    assert error < 0.05


def test_an_unknown_argument_of_train_is_named_with_its_class(cells: AnnData) -> None:
    scvi.SCANVI.setup_anndata(cells, "cell_type", "t2")
    with pytest.raises(TypeError, match=r"SCANVI\.train\(\).*'kappa'"):
        scvi.SCANVI(cells, **TINY).train(kappa=2)


CLASSIFIERS: dict[str, dict[str, Any]] = {
    "linear": {"linear_classifier": True},
    "deep": {"classifier_parameters": {"n_layers": 2, "n_hidden": 5, "dropout_rate": 0.0}},
}


@pytest.mark.parametrize("options", CLASSIFIERS.values(), ids=CLASSIFIERS)
@pytest.mark.parametrize("start", ["new", "from scvi"])
def test_the_classifier_has_options_of_its_own(options: dict[str, Any], start: str, tmp_path: Path) -> None:
    adata = make_adata()
    if start == "new":
        scvi.SCANVI.setup_anndata(adata, "cell_type", "t2", batch_key="batch")
        model = scvi.SCANVI(adata, **TINY, **options)
    else:
        scvi.SCVI.setup_anndata(adata, batch_key="batch")
        first = scvi.SCVI(adata, **TINY)
        first.train(**QUICK)
        model = scvi.SCANVI.from_scvi_model(first, "t2", "cell_type", **options)
    model.train(**QUICK)
    shapes = [tuple(p.shape) for p in model.module.classifier.parameters() if p.dim() == 2]
    assert shapes == ([(2, 3)] if "linear_classifier" in options else [(5, 3), (5, 5), (2, 5)])
    assert shapes != [(8, 3), (2, 8)]  # what it is otherwise
    expected = model.predict(soft=True)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    if "linear_classifier" in options:
        (layer,) = [part for part in model.module.classifier.modules() if isinstance(part, torch.nn.Linear)]
        logits = model.get_latent_representation() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        by_hand = torch.softmax(torch.from_numpy(logits) / model.module.temperature, -1)
        np.testing.assert_allclose(expected, by_hand, rtol=1e-4, atol=1e-6)
    model.save(tmp_path / "model")
    loaded = scvi.SCANVI.load(tmp_path / "model", adata)
    assert loaded.options == model.options
    pd.testing.assert_frame_equal(loaded.predict(soft=True), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"linear_classifier": "yes"}, "linear_classifier='yes' is not True or False"),
        ({"classifier_parameters": {"n_labels": 3}}, "'n_labels' is not one of 'n_hidden', 'n_layers', 'dropout_rate'"),
        ({"classifier_parameters": [1]}, r"classifier_parameters=\[1\] is not a mapping"),
        ({"classifier_parameters": {"n_layers": -1}}, "n_layers=-1"),
    ],
)
def test_classifiers_that_cannot_be(options: dict[str, Any], message: str) -> None:
    adata = make_adata()
    scvi.SCANVI.setup_anndata(adata, "cell_type", "t2")
    with pytest.raises(ValueError, match=message):
        scvi.SCANVI(adata, **TINY, **options)
