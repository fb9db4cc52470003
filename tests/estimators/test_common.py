"""What holds for every estimator. A new one joins by a line in ESTIMATORS, with the methods that it alone has."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import scvi
from scvi.estimators.base import Estimator
from scvi.fit import fit as fitting
from small_cells import KEYS, QUICK, TINY, G, N, make_adata

ESTIMATORS: dict[type[Estimator], set[str]] = {
    scvi.AUTOZI: {"get_alphas_betas", "get_zero_inflation"},
    scvi.SCVI: set(),
    scvi.LinearSCVI: {"get_loadings"},
    scvi.SCANVI: {"predict", "from_scvi_model"},
    scvi.CondSCVI: {"get_label_expression"},
    scvi.TOTALVI: {
        "setup_mudata",
        "mdata",
        "get_protein_foreground_probability",
        "get_feature_correlation_matrix",
        "posterior_predictive_sample",
    },
}
# Options that an estimator has under another name.
NAMES: dict[type[Estimator], dict[str, str]] = {
    scvi.TOTALVI: {
        "dispersion": "gene_dispersion",
        "n_layers": "n_layers_encoder",
        "dropout_rate": "dropout_rate_encoder",
    }
}
# What set-up cannot do without.
SETUP: dict[type[Estimator], dict[str, Any]] = {
    scvi.SCANVI: {"labels_key": "cell_type", "unlabeled_category": "t2"},
    scvi.CondSCVI: {"labels_key": "cell_type"},
    scvi.TOTALVI: {"protein_expression_obsm_key": "proteins"},
}
NO_QUESTIONS = {"from_scvi_model", "setup_mudata", "mdata"}  # which have tests of their own
# Public methods that read cells, with arguments under which the answer is one array or several, all with a cell axis.
QUESTIONS: dict[str, dict[str, Any]] = {
    "get_latent_representation": {},
    "get_latent_library_size": {},
    "get_normalized_expression": {"n_samples": 2},
    "get_likelihood_parameters": {"n_samples": 2},
    "get_elbo": {"return_mean": False},
    "get_reconstruction_error": {"return_mean": False},
    "get_marginal_ll": {"return_mean": False, "n_mc_samples": 4},
}
ELSEWHERE = {"setup_anndata", "view_anndata_setup", "train", "save", "load", "device", "to_device"}  # exercised below
ELSEWHERE |= {"load_query_data", "prepare_query_anndata", "minify_adata"}  # in test_query_mapping and test_minified
QUESTION = pytest.mark.parametrize("question", QUESTIONS)


def set_up(cls: type[Estimator], adata: AnnData, **keys: Any) -> None:
    assert cls.setup_anndata(adata, **{**SETUP.get(cls, {}), **keys}) is None


def make(cls: type[Estimator], adata: AnnData | None = None, **options: Any) -> Any:
    adata = make_adata() if adata is None else adata
    set_up(cls, adata, batch_key="batch")
    return cls(adata, **{**TINY, **options})


def ask(model: Any, question: str, *, own_draws: bool = False, **arguments: Any) -> list[np.ndarray]:
    """The answer as arrays, made with seed 0 unless `own_draws`."""
    seed = {} if own_draws else {"seed": 0}
    return arrays(getattr(model, question)(**{**QUESTIONS[question], **seed, **arguments}))


def arrays(answer: Any) -> list[np.ndarray]:
    parts = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, tuple) else [answer]
    return [part.toarray() if sparse.issparse(part) else np.asarray(part) for part in parts]


def own_methods(model: Any) -> dict[str, Any]:
    """Answers of the methods that no other estimator has, without arguments but for the seed."""
    methods = {name: getattr(model, name) for name in ESTIMATORS[type(model)] - NO_QUESTIONS}
    return {
        name: method(**({"seed": 0} if "seed" in inspect.signature(method).parameters else {}))
        for name, method in methods.items()
    }


def take(answer: list[np.ndarray], cells: Any) -> list[np.ndarray]:
    return [np.take(part, cells, axis=0 if part.ndim == 1 else -2) for part in answer]


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module", params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> type[Estimator]:
    return request.param


@pytest.fixture(scope="module")
def fitted(cls: type[Estimator]) -> Any:
    """A fitted model that no test changes."""
    model = make(cls)
    model.train(**QUICK)
    return model


# ---- the public surface ----------------------------------------------------------------------------------------------


def test_every_public_method_is_exercised(cls: type[Estimator]) -> None:
    public = {name for name in dir(cls) if not name.startswith("_")}
    assert public == set(QUESTIONS) | ELSEWHERE | ESTIMATORS[cls]


@QUESTION
def test_questions_take_the_same_arguments(cls: type[Estimator], question: str) -> None:
    parameters = inspect.signature(getattr(cls, question)).parameters
    assert list(parameters)[:3] == ["self", "adata", "indices"]
    assert {"batch_size", "seed"} <= set(parameters)
    assert all(parameter.default is not inspect.Parameter.empty for parameter in list(parameters.values())[1:])


def test_public_methods_are_documented(cls: type[Estimator]) -> None:
    for name in set(QUESTIONS) | ELSEWHERE | ESTIMATORS[cls]:
        assert inspect.getdoc(getattr(cls, name)), name
    documented = inspect.getdoc(cls) or ""
    assert [name for name in inspect.signature(cls).parameters if name not in documented] == []


def test_the_package_has_it_under_both_names(cls: type[Estimator]) -> None:
    assert getattr(scvi, cls.__name__) is getattr(scvi.model, cls.__name__) is cls
    assert cls.__name__ in scvi.__all__


def test_the_network_is_in_the_models(fitted: Any) -> None:
    assert type(fitted.module).__module__.startswith("scvi.models")


# ---- set-up ----------------------------------------------------------------------------------------------------------


def test_setup_writes_one_entry_and_nothing_else(cls: type[Estimator], cells: AnnData) -> None:
    before = cells.copy()
    set_up(cls, cells, **KEYS)
    assert list(cells.uns) == ["_scvi"]
    assert list(cells.uns["_scvi"]) == [cls.__name__]
    assert isinstance(cells.uns["_scvi"][cls.__name__], str)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    pd.testing.assert_frame_equal(cells.var, before.var)
    assert (cells.X != before.X).nnz == 0
    assert cells.X.dtype == before.X.dtype
    assert [*cells.obsm, *cells.layers, *cells.varm] == ["proteins"]
    pd.testing.assert_frame_equal(cells.obsm["proteins"], before.obsm["proteins"])


def test_setups_of_two_estimators_live_side_by_side(cls: type[Estimator], cells: AnnData) -> None:
    other = next(estimator for estimator in ESTIMATORS if estimator is not cls)
    set_up(other, cells, labels_key="cell_type")
    set_up(cls, cells, batch_key="batch")
    assert cls(cells, **TINY).schema.batch_key == "batch"
    assert other(cells, **TINY).schema.batch_key is None


def test_no_setup_no_model(cls: type[Estimator], cells: AnnData) -> None:
    with pytest.raises(ValueError, match=rf"not set up for {cls.__name__}.*{cls.__name__}\.setup_anndata"):
        cls(cells)


def test_everything_that_can_be_read_is_read(cls: type[Estimator], cells: AnnData) -> None:
    set_up(cls, cells, **KEYS, mask_var="chosen")
    model: Any = cls(cells, **TINY, encode_covariates=True)
    model.train(**QUICK)
    table = model.view_anndata_setup()
    assert table["source"].tolist() == [
        "adata.X",
        *(f"adata.obs[{key!r}]" for key in ("batch", "cell_type", "donor", "treated", "size", "age", "score")),
        *(f"adata.obsm[{key!r}]" for name, key in SETUP.get(cls, {}).items() if name.endswith("obsm_key")),
    ]
    assert ask(model, "get_normalized_expression", n_samples=1)[0].shape == (N, G // 2)
    assert np.isfinite(model.get_elbo())


def test_making_a_model_trains_nothing(cls: type[Estimator], cells: AnnData) -> None:
    model = make(cls, cells)
    assert not model.is_trained
    assert model.history == {}
    assert model.train_indices is model.validation_indices is None
    assert not model.module.training
    assert model.adata is cells
    assert "not trained" in repr(model)
    assert cls.__name__ in repr(model)


# ---- training --------------------------------------------------------------------------------------------------------


def test_train_leaves_a_fitted_model(cls: type[Estimator]) -> None:
    model = make(cls)
    before = weights(model)
    assert model.train(**QUICK) is None
    assert model.is_trained
    assert not model.was_interrupted
    assert not same(weights(model), before)
    assert not model.module.training
    assert len(model.validation_indices) == N // 10
    assert sorted([*model.train_indices, *model.validation_indices]) == list(range(N))
    assert "; trained" in repr(model)


def test_history_is_tables_by_epoch(fitted: Any) -> None:
    losses = [
        f"{name}_{part}" for name in ("elbo", "reconstruction_loss", "kl_local") for part in ("train", "validation")
    ]
    assert set(losses) | {"train_loss_epoch", "kl_weight", "lr"} <= set(fitted.history)
    for name, table in fitted.history.items():
        assert list(table.columns) == [name]
        assert table.index.name == "epoch"
        assert table.index.tolist() == [0, 1, 2]
        assert np.isfinite(table[name]).all()
    for part in ("train", "validation"):
        total = fitted.history[f"reconstruction_loss_{part}"].iloc[:, 0] + fitted.history[f"kl_local_{part}"].iloc[:, 0]
        np.testing.assert_allclose(fitted.history[f"elbo_{part}"].iloc[:, 0], total, rtol=1e-5)


def test_training_lowers_the_loss(cls: type[Estimator]) -> None:
    model = make(cls)
    model.train(**{**QUICK, "max_epochs": 30})
    for name in ("elbo_train", "elbo_validation"):
        losses = model.history[name][name]
        assert losses.iloc[-1] < losses.iloc[0] - 1


def test_a_second_call_goes_on(cls: type[Estimator]) -> None:
    model = make(cls)
    model.train(**QUICK)
    first = {name: table.copy() for name, table in model.history.items()}
    model.train(**{**QUICK, "max_epochs": 2})
    for name, table in model.history.items():
        assert table.index.tolist() == [0, 1, 2, 3, 4]
        pd.testing.assert_frame_equal(table.iloc[:3], first[name])
    assert model.history["elbo_train"].iloc[3, 0] < first["elbo_train"].iloc[0, 0]


def test_seeds(cls: type[Estimator], fitted: Any) -> None:
    again = make(cls)
    again.train(**QUICK)
    assert same(weights(again), weights(fitted))
    assert equal(*([np.asarray(table) for table in model.history.values()] for model in (again, fitted)))
    other_weights = make(cls, seed=1)
    assert not same(weights(other_weights), weights(make(cls)))
    other_fit = make(cls)
    other_fit.train(**{**QUICK, "seed": 1})
    assert not same(weights(other_fit), weights(fitted))
    assert other_fit.validation_indices.tolist() != fitted.validation_indices.tolist()


def test_the_session_seed_stands_in(cls: type[Estimator], fitted: Any, session_seed: Any) -> None:
    session_seed(0)
    model = make(cls, seed=None)
    model.train(**{**QUICK, "seed": None})
    assert same(weights(model), weights(fitted))
    assert equal(*(ask(model, "get_elbo", own_draws=True) for _ in range(2)))
    session_seed(None)
    assert not equal(*(ask(model, "get_elbo", own_draws=True) for _ in range(2)))
    assert not same(weights(make(cls, seed=None)), weights(make(cls, seed=None)))


def test_global_random_state_is_left_alone(cls: type[Estimator], tmp_path: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    model = make(cls)
    model.train(**QUICK)
    for question in QUESTIONS:
        ask(model, question)
        ask(model, question, own_draws=True)
    model.save(tmp_path / "model")
    cls.load(tmp_path / "model", model.adata)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_a_resumed_fit_is_an_uninterrupted_one(
    cls: type[Estimator], fitted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert same(weights(resumed), weights(fitted))
    for name, table in fitted.history.items():
        pd.testing.assert_frame_equal(resumed.history[name], table)


# ---- questions -------------------------------------------------------------------------------------------------------


@QUESTION
def test_an_untrained_model_answers_nothing(cls: type[Estimator], question: str) -> None:
    with pytest.raises(RuntimeError, match=rf"{cls.__name__} model is not trained: call train"):
        ask(make(cls), question)


def test_own_methods_of_an_untrained_model(cls: type[Estimator]) -> None:
    for name in ESTIMATORS[cls] - NO_QUESTIONS:
        with pytest.raises(RuntimeError, match=r"not trained: call train"):
            getattr(make(cls), name)()


@QUESTION
def test_answers_are_finite_and_depend_on_the_seed_alone(fitted: Any, question: str) -> None:
    answer = ask(fitted, question)
    assert all(np.isfinite(part).all() for part in answer)
    assert all(part.shape[0 if part.ndim == 1 else -2] == N for part in answer)
    assert equal(answer, ask(fitted, question))
    if question not in ("get_latent_representation", "get_latent_library_size"):  # means, here, which need no draws
        assert not equal(answer, ask(fitted, question, seed=1))
        assert not equal(*(ask(fitted, question, own_draws=True) for _ in range(2)))


@QUESTION
def test_questions_leave_no_trace(fitted: Any, question: str) -> None:
    before, obs = weights(fitted), fitted.adata.obs.copy()
    ask(fitted, question)
    assert same(weights(fitted), before)
    assert not any(module.training for module in fitted.module.modules())
    assert all(parameter.grad is None or parameter.requires_grad for parameter in fitted.module.parameters())
    pd.testing.assert_frame_equal(fitted.adata.obs, obs)
    assert list(fitted.adata.uns) == ["_scvi"]


def without_draws(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw is the mean, so that answers about a cell do not depend on the cells beside it."""
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))


def close(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


@QUESTION
@pytest.mark.parametrize(
    "indices",
    [
        [5, 2, 9],
        np.array([140, 0, 77]),
        [3, 3, 3],
        np.arange(N)[::-1],
        np.arange(N) % 7 == 0,
        [False] * (N - 1) + [True],
    ],
    ids=["list", "array", "repeated", "reversed", "mask", "list mask"],
)
def test_the_order_of_indices_is_kept(
    fitted: Any, question: str, indices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_draws(fitted, monkeypatch)
    positions = np.arange(N)[np.asarray(indices)]
    close(ask(fitted, question, indices=indices), take(ask(fitted, question), positions))


@QUESTION
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_minibatch_size_makes_no_difference(
    fitted: Any, question: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_draws(fitted, monkeypatch)
    close(ask(fitted, question, batch_size=batch_size), ask(fitted, question))


@QUESTION
def test_the_session_minibatch_size_stands_in(fitted: Any, question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ask(fitted, question, batch_size=9)
    monkeypatch.setattr(scvi.settings, "_batch_size", 9)
    assert equal(ask(fitted, question), expected)


@QUESTION
def test_other_cells_may_be_asked_about(fitted: Any, question: str) -> None:
    other = make_adata(n=30, seed=1)
    model_genes = fitted.schema.genes
    answer = ask(fitted, question, adata=other)
    assert all(part.shape[0 if part.ndim == 1 else -2] == 30 for part in answer)
    assert "_scvi" not in other.uns
    shuffled = other[:, np.random.default_rng(0).permutation(G)].copy()
    assert tuple(shuffled.var_names) != model_genes
    assert equal(ask(fitted, question, adata=shuffled), answer)
    further = make_adata(n=30, g=3)
    further.var_names = ["new0", "new1", "new2"]
    further.obsm.clear()
    import anndata

    wider = anndata.concat([further, other], axis=1, merge="first")
    wider.obs = other.obs
    assert equal(ask(fitted, question, adata=wider), answer)


@QUESTION
def test_the_own_cells_given_explicitly(fitted: Any, question: str) -> None:
    assert equal(ask(fitted, question, adata=fitted.adata), ask(fitted, question))
    assert equal(ask(fitted, question, adata=fitted.adata.copy()), ask(fitted, question))
    part = fitted.adata[20:50]
    assert part.is_view
    assert equal(ask(fitted, question, adata=part), ask(fitted, question, indices=range(20, 50)))
    assert part.is_view


@QUESTION
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
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
        ({"adata": "cells.h5ad"}, TypeError, "pass an anndata.AnnData"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused(
    fitted: Any, question: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ask(fitted, question, **arguments)


@QUESTION
def test_other_cells_must_fit(fitted: Any, question: str) -> None:
    unknown = make_adata(n=20)
    unknown.obs["batch"] = ["b0", "b7"] * 10
    with pytest.raises(ValueError, match=r"never seen: 'b7' \(10 cells\)"):
        ask(fitted, question, adata=unknown)
    narrow = make_adata(n=20)[:, :30]
    with pytest.raises(ValueError, match=rf"lacks 10 of the {G} genes.*'gene30'"):
        ask(fitted, question, adata=narrow)
    normalised = make_adata(n=20)
    normalised.X = np.log1p(normalised.X.toarray())
    with pytest.raises(ValueError, match=r"non-integer value.*raw counts"):
        ask(fitted, question, adata=normalised)


def test_bad_options_are_refused(cls: type[Estimator], cells: AnnData) -> None:
    set_up(cls, cells)
    name = {option: option for option in ("dispersion", "n_layers", "dropout_rate")} | NAMES.get(cls, {})
    if "gene_likelihood" in inspect.signature(cls).parameters:
        known = r"'(zinb', 'nb', 'poisson|nb', 'zinb)'"
        with pytest.raises(ValueError, match=rf"gene_likelihood='gaussian' is not one of {known}"):
            cls(cells, gene_likelihood="gaussian")
    with pytest.raises(ValueError, match=r"dispersion='gene-bach' is not one of 'gene', 'gene-batch'"):
        cls(cells, **{name["dispersion"]: "gene-bach"})
    wrong = [("n_latent", 0), ("n_hidden", -3), (name["n_layers"], 0), ("n_latent", 2.5), ("n_latent", "many")]
    for option, value in wrong:
        with pytest.raises(ValueError, match=f"{option}={value!r}"):
            cls(cells, **{option: value})
    with pytest.raises(ValueError, match=rf"{name['dropout_rate']}=1\.5"):
        cls(cells, **{name["dropout_rate"]: 1.5})
    with pytest.raises(ValueError, match=r"latent_distribution='cauchy'"):
        cls(cells, latent_distribution="cauchy")
    with pytest.raises(TypeError, match="n_latnet"):
        cls(cells, n_latnet=3)


# ---- files and devices -----------------------------------------------------------------------------------------------


def test_save_and_load(fitted: Any, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    loaded = type(fitted).load(tmp_path / "model", fitted.adata)
    assert type(loaded) is type(fitted)
    assert repr(loaded) == repr(fitted)
    assert same(weights(loaded), weights(fitted))
    for question in QUESTIONS:
        assert equal(ask(loaded, question), ask(fitted, question))
    for name, answer in own_methods(fitted).items():
        assert equal(arrays(own_methods(loaded)[name]), arrays(answer))


def test_a_model_without_cells(fitted: Any, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    loaded = type(fitted).load(tmp_path / "model")
    assert loaded.adata is None
    for question in QUESTIONS:
        with pytest.raises(ValueError, match=rf"without cells.*pass adata to {type(fitted).__name__}\.load"):
            ask(loaded, question)
        assert equal(ask(loaded, question, adata=fitted.adata), ask(fitted, question))
    with pytest.raises(ValueError, match="cannot train"):
        loaded.train(**QUICK)


def test_a_loaded_model_trains_on(fitted: Any, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    twins = [type(fitted).load(tmp_path / "model", fitted.adata) for _ in range(2)]
    for model in twins:
        model.train(**QUICK)
        assert model.history["elbo_train"].index.tolist() == list(range(6))
    assert same(*(weights(model) for model in twins))
    assert not same(weights(twins[0]), weights(fitted))


def test_devices(cls: type[Estimator]) -> None:
    model = make(cls)
    assert model.device == torch.device("cpu")
    model.to_device("cpu")
    model.to_device(torch.device("cpu"))
    model.train(**QUICK, accelerator="cpu", devices=1)
    assert model.device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu(cls: type[Estimator], tmp_path: Path) -> None:
    before = torch.cuda.get_rng_state()
    model = make(cls)
    model.train(**QUICK, accelerator="gpu", devices=[0], checkpoint_dir=tmp_path / "checkpoint")
    assert model.device == torch.device("cuda", 0)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    for question in QUESTIONS:
        assert all(np.isfinite(part).all() for part in ask(model, question))
    latent = model.get_latent_representation()
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", model.adata)
    assert loaded.device == torch.device("cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), latent, rtol=1e-3, atol=1e-4)
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
