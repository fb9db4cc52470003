"""What holds for every estimator. A new one joins by itself; what to ask of it is read off its class."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import scvi
from asking import (
    ESTIMATORS,
    EXPRESSION,
    MEANS,
    NAMES,
    ON_EVERY,
    SETUP,
    ask,
    by_data_set,
    cells_of,
    drawn,
    equal,
    is_paired,
    make,
    n_cells,
    names_of_cells,
    options_of,
    parameters,
    public,
    questions,
    rows,
    same,
    set_up,
    take,
    weights,
    with_partner,
)
from scvi.estimators.base import Estimator
from scvi.estimators.options_of_scvi import WithOptionsOfSCVI
from scvi.fit import fit as fitting
from small_cells import KEYS, QUICK, TINY, G, N, make_adata

EACH = pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)


def asked_of(by_cell: bool = False, takes: str | None = None) -> pytest.MarkDecorator:
    """Every question of every class: all, those with an answer for each cell, or of these those with an argument."""
    pairs = [(cls, question) for cls in ESTIMATORS for question in questions(cls, by_cell)]
    if takes is not None:
        pairs = [pair for pair in pairs if takes in parameters(*pair)]
    return pytest.mark.parametrize(
        ("cls", "question"), pairs, ids=[f"{cls.__name__}-{question}" for cls, question in pairs]
    )


@cache
def fitted(cls: type[Estimator]) -> Any:
    """A fitted model that no test changes."""
    model = make(cls)
    model.train(**QUICK)
    return model


# ---- the public surface ----------------------------------------------------------------------------------------------


@EACH
def test_the_surface_is_read_in_the_class(cls: type[Estimator]) -> None:
    shared = public(Estimator)
    assert shared <= ON_EVERY
    assert public(cls) >= ON_EVERY
    assert public(cls) - shared == {name for name in vars(cls) if not name.startswith("_")} - shared
    assert cls.__bases__ in [(Estimator,), (WithOptionsOfSCVI,)]


def test_the_class_with_the_options_of_scvi_has_a_constructor_alone() -> None:
    assert WithOptionsOfSCVI.__bases__ == (Estimator,)
    assert public(WithOptionsOfSCVI) == public(Estimator)
    assert "__init__" in vars(WithOptionsOfSCVI)
    assert "__init__" not in vars(Estimator)


@asked_of()
def test_questions_need_no_argument(cls: type[Estimator], question: str) -> None:
    known = parameters(cls, question)
    assert all(parameter.default is not inspect.Parameter.empty for parameter in list(known.values())[1:])
    if "adata" in known or "adatas" in known:
        cells = ["adata", "groupby" if question == "differential_expression" else "indices"]
        assert list(known)[1:3] == cells or (is_paired(cls) and list(known)[1] == "adatas")
        assert "batch_size" in known


@EACH
def test_public_methods_are_documented(cls: type[Estimator]) -> None:
    assert [name for name in public(cls) if not inspect.getdoc(getattr(cls, name))] == []
    documented = inspect.getdoc(cls) or ""
    assert [name for name in inspect.signature(cls).parameters if name not in documented] == []


@EACH
def test_the_arguments_of_train_are_documented(cls: type[Estimator]) -> None:
    documented = f"{inspect.getdoc(cls.train)} {inspect.getdoc(scvi.SCVI.train)}"
    assert [name for name in list(parameters(cls, "train"))[1:] if name not in documented] == []


@EACH
def test_the_package_has_it_under_both_names(cls: type[Estimator]) -> None:
    assert getattr(scvi, cls.__name__) is getattr(scvi.model, cls.__name__) is cls
    assert cls.__name__ in scvi.__all__


@EACH
def test_the_network_is_in_the_models(cls: type[Estimator]) -> None:
    assert type(fitted(cls).module).__module__.startswith("scvi.models")


# ---- set-up ----------------------------------------------------------------------------------------------------------


@EACH
def test_setup_writes_one_entry_and_nothing_else(cls: type[Estimator], cells: AnnData) -> None:
    before = cells.copy()
    set_up(cls, cells, **KEYS)
    assert list(cells.uns) == ["_scvi"]
    assert list(cells.uns["_scvi"]) == [cls.__name__]
    entry = cells.uns["_scvi"][cls.__name__]
    assert json.loads(entry["declared"])["schema"]["genes"] == list(cells.var_names)
    assert (entry["digests"].shape, entry["digests"].dtype) == ((N,), np.uint64)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    pd.testing.assert_frame_equal(cells.var, before.var)
    assert (cells.X != before.X).nnz == 0
    assert cells.X.dtype == before.X.dtype
    assert [*cells.obsm, *cells.layers, *cells.varm] == ["proteins"]
    pd.testing.assert_frame_equal(cells.obsm["proteins"], before.obsm["proteins"])


@EACH
def test_setups_of_two_estimators_live_side_by_side(cls: type[Estimator], cells: AnnData) -> None:
    def sources(one: type[Estimator]) -> list[str]:
        return one(*both[: len(names_of_cells(one))], **options_of(one, TINY)).view_anndata_setup()["source"].tolist()

    other = scvi.SCVI if cls is not scvi.SCVI else scvi.LinearSCVI
    both = with_partner(cls, cells)
    set_up(other, cells, labels_key="cell_type")
    set_up(cls, *both, batch_key="batch")
    assert "adata.obs['batch']" in sources(cls)
    assert sources(other) == ["adata.X", "adata.obs['cell_type']"]


@EACH
def test_no_setup_no_model(cls: type[Estimator], cells: AnnData) -> None:
    with pytest.raises(ValueError, match=rf"not set up for {cls.__name__}.*{cls.__name__}\.setup_anndata"):
        cls(*with_partner(cls, cells))


@EACH
def test_everything_that_can_be_read_is_read(cls: type[Estimator]) -> None:
    model = make(cls, setup={**KEYS, "mask_var": "chosen"}, encode_covariates=True)
    model.train(**QUICK)
    known = inspect.signature(cls.setup_anndata).parameters
    places = [
        place
        for key in ("categorical_covariate_keys", "size_factor_key", "continuous_covariate_keys")
        if key in known
        for place in np.atleast_1d(KEYS[key]).tolist()
    ]
    assert model.view_anndata_setup()["source"].tolist() == [
        "adata.X",
        *(f"adata.obs[{KEYS[key]!r}]" for key in ("batch_key", "labels_key")),
        *(f"adata.obs[{key!r}]" for key in places),
        *(f"adata.obsm[{key!r}]" for name, key in SETUP.get(cls, {}).items() if name.endswith("obsm_key")),
    ] * len(names_of_cells(cls))
    expression = EXPRESSION.get(cls, "get_normalized_expression")
    n_genes = G // 2 + (2 if is_paired(cls) else 0)  # and what only the other data set has
    assert ask(model, expression)[0].shape[-1] == n_genes
    assert np.isfinite(model.get_elbo()).all()


@EACH
def test_making_a_model_trains_nothing(cls: type[Estimator], cells: AnnData) -> None:
    model = make(cls, cells)
    assert not model.is_trained
    assert model.history == {}
    assert model.train_indices is model.validation_indices is None
    assert not model.module.training
    assert cells_of(model)[0] is cells
    assert "not trained" in repr(model)
    assert cls.__name__ in repr(model)


# ---- training --------------------------------------------------------------------------------------------------------


@EACH
def test_train_leaves_a_fitted_model(cls: type[Estimator]) -> None:
    model = make(cls)
    before = weights(model)
    assert model.train(**QUICK) is None
    assert model.is_trained
    assert not model.was_interrupted
    assert not same(weights(model), before)
    assert not any(module.training for module in model._networks.modules())
    parts = zip(cells_of(model), by_data_set(model.train_indices), by_data_set(model.validation_indices), strict=True)
    for adata, train, validation in parts:
        assert len(validation) == adata.n_obs // 10
        assert sorted([*train, *validation]) == list(range(adata.n_obs))
    assert "; trained" in repr(model)


@EACH
def test_history_is_tables_by_epoch(cls: type[Estimator]) -> None:
    history = fitted(cls).history
    losses = [
        f"{name}_{part}" for name in ("elbo", "reconstruction_loss", "kl_local") for part in ("train", "validation")
    ]
    assert set(losses) | {"train_loss_epoch", "kl_weight", "lr"} <= set(history)
    for name, table in history.items():
        assert list(table.columns) == [name]
        assert table.index.name == "epoch"
        assert table.index.tolist() == [0, 1, 2]
        assert np.isfinite(table[name]).all()
    for part in ("train", "validation"):
        total = history[f"reconstruction_loss_{part}"].iloc[:, 0] + history[f"kl_local_{part}"].iloc[:, 0]
        np.testing.assert_allclose(history[f"elbo_{part}"].iloc[:, 0], total, rtol=1e-5)


@EACH
def test_training_lowers_the_loss(cls: type[Estimator]) -> None:
    model = make(cls)
    model.train(**{**QUICK, "max_epochs": 30})
    for name in ("elbo_train", "elbo_validation"):
        losses = model.history[name][name]
        assert losses.iloc[-1] < losses.iloc[0] - 1


@EACH
def test_a_second_call_goes_on(cls: type[Estimator]) -> None:
    model = make(cls)
    model.train(**QUICK)
    first = {name: table.copy() for name, table in model.history.items()}
    model.train(**{**QUICK, "max_epochs": 2})
    for name, table in model.history.items():
        assert table.index.tolist() == [0, 1, 2, 3, 4]
        pd.testing.assert_frame_equal(table.iloc[:3], first[name])
    assert model.history["elbo_train"].iloc[3, 0] < first["elbo_train"].iloc[0, 0]


@EACH
def test_seeds(cls: type[Estimator]) -> None:
    again = make(cls)
    again.train(**QUICK)
    assert same(weights(again), weights(fitted(cls)))
    assert equal(*([np.asarray(table) for table in model.history.values()] for model in (again, fitted(cls))))
    other_weights = make(cls, seed=1)
    assert not same(weights(other_weights), weights(make(cls)))
    other_fit = make(cls)
    other_fit.train(**{**QUICK, "seed": 1})
    assert not same(weights(other_fit), weights(fitted(cls)))
    assert not equal(*(by_data_set(model.validation_indices) for model in (other_fit, fitted(cls))))


@EACH
def test_the_session_seed_stands_in(cls: type[Estimator], session_seed: Any) -> None:
    session_seed(0)
    model = make(cls, seed=None)
    model.train(**{**QUICK, "seed": None})
    assert same(weights(model), weights(fitted(cls)))
    assert equal(*(ask(model, "get_elbo", own_draws=True) for _ in range(2)))
    session_seed(None)
    assert not equal(*(ask(model, "get_elbo", own_draws=True) for _ in range(2)))
    assert not same(weights(make(cls, seed=None)), weights(make(cls, seed=None)))


@EACH
def test_a_resumed_fit_is_an_uninterrupted_one(
    cls: type[Estimator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: fitting.Fit) -> bool:
        if self.loop.epoch == 2:
            raise RuntimeError("power cut")
        return end_epoch(self)

    end_epoch = fitting.Fit.on_epoch_end
    monkeypatch.setattr(fitting, "_STEPS_BETWEEN_SNAPSHOTS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "on_epoch_end", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            make(cls).train(**QUICK, checkpoint_dir=tmp_path)
    resumed = make(cls)
    resumed.train(**QUICK, checkpoint_dir=tmp_path, resume=True)
    assert same(weights(resumed), weights(fitted(cls)))
    for name, table in fitted(cls).history.items():
        pd.testing.assert_frame_equal(resumed.history[name], table)


# ---- questions -------------------------------------------------------------------------------------------------------


@asked_of()
def test_an_untrained_model_answers_nothing(cls: type[Estimator], question: str) -> None:
    with pytest.raises(RuntimeError, match=rf"{cls.__name__} model is not trained: call train"):
        ask(make(cls), question)


@asked_of()
def test_answers_are_finite_and_depend_on_the_seed_alone(cls: type[Estimator], question: str) -> None:
    model, draws = fitted(cls), drawn(fitted(cls), question)
    answer = ask(model, question)
    assert all(np.isfinite(part).all() for part in answer)
    assert equal(answer, ask(model, question))
    if question in questions(cls, by_cell=True):
        assert rows(answer) == n_cells(model, answer)
    if "seed" not in parameters(cls, question):
        return
    if question in MEANS:
        assert equal(answer, ask(model, question, own_draws=True))
    assert equal(ask(model, question, **draws), ask(model, question, **draws))
    if question != "get_latent_library_size":  # which is observed, here
        assert not equal(ask(model, question, **draws), ask(model, question, **draws, seed=1))
        assert not equal(*(ask(model, question, **draws, own_draws=True) for _ in range(2)))


@asked_of()
def test_questions_leave_no_trace(cls: type[Estimator], question: str) -> None:
    model = fitted(cls)
    before, obs = weights(model), [adata.obs.copy() for adata in cells_of(model)]
    ask(model, question)
    assert same(weights(model), before)
    assert not any(module.training for module in model._networks.modules())
    assert all(parameter.grad is None or parameter.requires_grad for parameter in model._networks.parameters())
    for adata, then in zip(cells_of(model), obs, strict=True):
        pd.testing.assert_frame_equal(adata.obs, then)
        assert list(adata.uns) == ["_scvi"]


@pytest.fixture
def without_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw is the mean, so that answers about a cell do not depend on the cells beside it."""
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))


def close(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


@asked_of(by_cell=True, takes="indices")
def test_the_order_of_indices_is_kept(cls: type[Estimator], question: str, without_draws: None) -> None:
    model = fitted(cls)
    whole = ask(model, question)
    for indices in (
        [5, 2, 9],
        np.array([140, 0, 77]),
        [3, 3, 3],  # repeated
        np.arange(N)[::-1],
        np.arange(N) % 7 == 0,  # a mask
        [False] * (N - 1) + [True],  # a mask as a list
    ):
        expected, answer = take(whole, np.arange(N)[np.asarray(indices)]), ask(model, question, indices=indices)
        if question == "posterior_predictive_sample":  # counts of a cell are drawn after those of the cells before
            assert rows(answer) == rows(expected)
        else:
            close(answer, expected)


@asked_of(by_cell=True, takes="batch_size")
def test_the_minibatch_size_makes_no_difference(cls: type[Estimator], question: str, without_draws: None) -> None:
    model = fitted(cls)
    whole = ask(model, question)
    for batch_size in (1, 7, 1000):
        answer = ask(model, question, batch_size=batch_size)
        if question == "posterior_predictive_sample":
            assert rows(answer) == rows(whole)
        else:
            close(answer, whole)


@asked_of(by_cell=True, takes="batch_size")
def test_the_session_minibatch_size_stands_in(
    cls: type[Estimator], question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ask(fitted(cls), question, batch_size=9)
    monkeypatch.setattr(scvi.settings, "_batch_size", 9)
    assert equal(ask(fitted(cls), question), expected)


@asked_of(by_cell=True)
def test_other_cells_may_be_asked_about(cls: type[Estimator], question: str) -> None:
    model, other = fitted(cls), make_adata(n=30, seed=1)
    answer = ask(model, question, adata=other)
    assert rows(answer) == n_cells(model, answer, 30)
    assert "_scvi" not in other.uns
    shuffled = other[:, np.random.default_rng(0).permutation(G)].copy()
    assert shuffled.var_names.tolist() != cells_of(model)[0].var_names.tolist()
    assert equal(ask(model, question, adata=shuffled), answer)
    further = make_adata(n=30, g=3)
    further.var_names = ["new0", "new1", "new2"]
    further.obsm.clear()
    wider = anndata.concat([further, other], axis=1, merge="first")
    wider.obs = other.obs
    assert equal(ask(model, question, adata=wider), answer)


@asked_of(by_cell=True)
def test_the_own_cells_given_explicitly(cls: type[Estimator], question: str) -> None:
    model = fitted(cls)
    adata = cells_of(model)[0]
    assert equal(ask(model, question, adata=adata), ask(model, question))
    assert equal(ask(model, question, adata=adata.copy()), ask(model, question))
    part = adata[20:50]
    assert part.is_view
    answer = ask(model, question, adata=part)
    assert rows(answer) == n_cells(model, answer, 30)
    assert part.is_view
    if not is_paired(cls):
        assert equal(answer, ask(model, question, indices=range(20, 50)))


BAD_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"indices": [0, N]}, IndexError, rf"indices holds {N}; there are {N} cells"),
    ({"indices": [-1]}, IndexError, "indices holds -1"),
    ({"indices": [0.5]}, ValueError, "list of cell positions or a mask"),
    ({"indices": ["cell1"]}, ValueError, "list of cell positions or a mask"),
    ({"indices": 3}, ValueError, "list of cell positions or a mask"),
    ({"indices": [True, False]}, ValueError, rf"2 values for {N} cells"),
    ({"indices": []}, ValueError, "no cell"),
    ({"batch_size": 0}, ValueError, "batch_size=0 is not a positive integer"),
    ({"batch_size": 1.5}, ValueError, "batch_size=1.5"),
    ({"seed": -1}, ValueError, "seed=-1"),
    ({"seed": 0.5}, ValueError, "seed=0.5"),
]


@asked_of(by_cell=True)
def test_bad_arguments_are_refused(cls: type[Estimator], question: str) -> None:
    for arguments, error, message in BAD_ARGUMENTS:
        if parameters(cls, question).keys() >= arguments.keys():
            with pytest.raises(error, match=message):
                ask(fitted(cls), question, **arguments)
    with pytest.raises(TypeError, match=r"pass an anndata\.AnnData"):
        ask(fitted(cls), question, adata="cells.h5ad")


@asked_of(by_cell=True)
def test_other_cells_must_fit(cls: type[Estimator], question: str) -> None:
    unknown = make_adata(n=20)
    unknown.obs["batch"] = ["b0", "b7"] * 10
    with pytest.raises(ValueError, match=r"never seen: 'b7' \(10 cells\)"):
        ask(fitted(cls), question, adata=unknown)
    narrow = make_adata(n=20)[:, :30]
    with pytest.raises(ValueError, match=rf"lacks 10 of the {G} genes.*'gene30'"):
        ask(fitted(cls), question, adata=narrow)
    normalised = make_adata(n=20)
    normalised.X = np.log1p(normalised.X.toarray())
    with pytest.raises(ValueError, match=r"non-integer value.*raw counts"):
        ask(fitted(cls), question, adata=normalised)


@EACH
def test_bad_options_are_refused(cls: type[Estimator], cells: AnnData) -> None:
    adatas = with_partner(cls, cells)
    set_up(cls, *adatas)
    known = inspect.signature(cls).parameters
    if "gene_likelihood" in known:
        choices = r"'(zinb', 'nb', 'poisson|nb', 'zinb)'"
        with pytest.raises(ValueError, match=rf"gene_likelihood='gaussian' is not one of {choices}"):
            cls(*adatas, gene_likelihood="gaussian")
    if dispersion := options_of(cls, {"dispersion": "gene-bach"}):
        with pytest.raises(ValueError, match=r"dispersion='gene-bach' is not one of 'gene', 'gene-batch'"):
            cls(*adatas, **dispersion)
    wrong: list[tuple[str, Any]] = [
        ("n_latent", 0),
        ("n_hidden", -3),
        ("n_layers", 0),
        ("n_latent", 2.5),
        ("n_latent", "many"),
        ("dropout_rate", 1.5),
        ("latent_distribution", "cauchy"),
        ("seed", -1),
    ]
    for option, value in wrong:
        name = NAMES.get(cls, {}).get(option, option)
        if name in known:
            in_network = {"n_hidden": "dim_hidden", "dropout_rate": "dropout_rate_encoder"} if is_paired(cls) else {}
            with pytest.raises(ValueError, match=rf"{in_network.get(name, name)}\w*={value!r}"):
                cls(*adatas, **{name: value})
    with pytest.raises(TypeError, match="n_latnet"):
        cls(*adatas, n_latnet=3)


# ---- files and devices -----------------------------------------------------------------------------------------------


@EACH
def test_save_and_load(cls: type[Estimator], tmp_path: Path) -> None:
    model = fitted(cls)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", *cells_of(model))
    assert type(loaded) is cls
    assert repr(loaded) == repr(model)
    assert same(weights(loaded), weights(model))
    for name, table in model.history.items():
        pd.testing.assert_frame_equal(loaded.history[name], table)
    for part in ("train_indices", "validation_indices"):
        assert equal(by_data_set(getattr(loaded, part)), by_data_set(getattr(model, part)))
    for question in questions(cls):
        assert equal(ask(loaded, question), ask(model, question))


@EACH
def test_a_model_without_cells(cls: type[Estimator], tmp_path: Path) -> None:
    model = fitted(cls)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model")
    assert cells_of(loaded) == [None] * len(names_of_cells(cls))
    for question in questions(cls, by_cell=True):
        with pytest.raises(ValueError, match=rf"without cells.*pass adata to {cls.__name__}\.load"):
            ask(loaded, question)
        given = {"adatas": cells_of(model)} if is_paired(cls) else {"adata": cells_of(model)[0]}
        assert equal(ask(loaded, question, **given), ask(model, question))
    with pytest.raises(ValueError, match="cannot train"):
        loaded.train(**QUICK)
    with pytest.raises(ValueError, match="save_anndata=True, but this model was loaded without"):
        loaded.save(tmp_path / "again", save_anndata=True)


@EACH
def test_cells_are_saved_with_the_model(cls: type[Estimator], tmp_path: Path) -> None:
    model = fitted(cls)
    model.save(tmp_path / "model", save_anndata=True)
    loaded = cls.load(tmp_path / "model")
    assert [adata.shape for adata in cells_of(loaded)] == [adata.shape for adata in cells_of(model)]
    assert equal(ask(loaded, "get_latent_representation"), ask(model, "get_latent_representation"))


@EACH
def test_a_loaded_model_trains_on(cls: type[Estimator], tmp_path: Path) -> None:
    model = fitted(cls)
    model.save(tmp_path / "model")
    twins = [cls.load(tmp_path / "model", *cells_of(model)) for _ in range(2)]
    for twin in twins:
        twin.train(**QUICK)
        assert twin.history["elbo_train"].index.tolist() == list(range(6))
    assert same(*(weights(twin) for twin in twins))
    assert not same(weights(twins[0]), weights(model))
    never_saved = make(cls)
    for _ in range(2):
        never_saved.train(**QUICK)
    assert same(weights(never_saved), weights(twins[0]))


@EACH
def test_devices(cls: type[Estimator]) -> None:
    model = make(cls)
    assert model.device == torch.device("cpu")
    model.to_device("cpu")
    model.to_device(torch.device("cpu"))
    model.train(**QUICK, accelerator="cpu", devices=1)
    assert model.device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EACH
def test_a_gpu(cls: type[Estimator], tmp_path: Path) -> None:
    before = torch.cuda.get_rng_state()
    model = make(cls)
    model.train(**QUICK, accelerator="gpu", devices=[0], checkpoint_dir=tmp_path / "checkpoint")
    assert model.device == torch.device("cuda", 0)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    for question in questions(cls):
        assert all(np.isfinite(part).all() for part in ask(model, question))
    latent = ask(model, "get_latent_representation")
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", *cells_of(model))
    assert loaded.device == torch.device("cpu")
    for found, expected in zip(ask(loaded, "get_latent_representation"), latent, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    loaded.to_device(0)
    assert loaded.device == model.device
    model.train(**QUICK, accelerator="cpu")
    assert model.device == torch.device("cpu")


@pytest.fixture(autouse=True)
def _progress_bars_are_quiet(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capsys.readouterr() == ("", "")


def test_bfloat16_is_refused_where_it_is_not_supported(cells: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    scvi.SCVI.setup_anndata(cells)
    model = scvi.SCVI(cells, **TINY)
    monkeypatch.setattr("scvi.fit.devices.bf16_is_supported", lambda device: False)
    with pytest.raises(
        ValueError, match=r"precision='bf16' is not supported by the device 'cpu'.*use precision='float32'"
    ):
        model.train(**QUICK, precision="bf16")
    assert not model.is_trained
    monkeypatch.setattr("scvi.fit.devices.bf16_is_supported", lambda device: True)
    model.train(**QUICK, precision="bf16")
    assert np.isfinite(model.history["elbo_train"].to_numpy()).all()
