"""Arguments and history of `train` as scripts that exist know them."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
import torch

import scvi
from asking import ESTIMATORS, cells_of, make
from scvi.estimators.base import Estimator
from scvi.fit.plan import Plan
from small_cells import QUICK, TINY, make_adata

EACH = pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
NO_MEANING: dict[str, Any] = {
    "simple_progress_bar": False,
    "enable_checkpointing": True,
    "log_every_n_steps": 1,
    "strategy": "ddp_find_unused_parameters_true",
    "load_sparse_tensor": True,
    "learning_rate_monitor": True,
    "enable_model_summary": True,
}


def model_of(cls: Any = scvi.SCVI) -> Any:
    adata = make_adata()
    cls.setup_anndata(adata, batch_key="batch")
    return cls(adata, **TINY)


def trained(**arguments: Any) -> Any:
    model = model_of()
    model.train(**{**QUICK, **arguments})
    return model


def same(first: Any, second: Any) -> bool:
    a, b = first.module.state_dict(), second.module.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def usual() -> Any:
    return trained()


# ---- names -----------------------------------------------------------------------------------------------------------


@EACH
def test_the_history_has_the_names_that_users_know(cls: type[Estimator]) -> None:
    model = make(cls)
    model.train(**QUICK)
    sides = [
        f"{n}_{s}" for n in ("elbo", "reconstruction_loss", "kl_local", "kl_global") for s in ("train", "validation")
    ]
    for name in (*sides, "train_loss_step", "train_loss_epoch", "validation_loss", "kl_weight"):
        table = model.history[name]
        assert table.columns.tolist() == [name]
        assert np.isfinite(table[name]).all()
    assert (model.history["kl_global_train"]["kl_global_train"] > 0).all() == (cls is scvi.AUTOZI)


@pytest.mark.parametrize("cls", [scvi.SCANVI, scvi.CondSCVI])
def test_the_history_of_a_classifier(cls: Any) -> None:
    model = make(cls)
    model.train(**QUICK)
    twice = {"accuracy_validation": "validation_accuracy", "classification_loss_train": "train_classification_loss"}
    if cls is scvi.SCANVI:
        for name, other in twice.items():
            assert model.history[name][name].tolist() == model.history[other][other].tolist()
        for name in ("validation_f1_score", "validation_calibration_error", "validation_classification_loss"):
            assert model.history[name][name].between(0, 1).all() or name.endswith("loss")
    else:
        assert not any("classification" in name for name in model.history)


@EACH
def test_what_has_no_meaning_is_named_once(cls: type[Estimator], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="scvi")
    first, second = make(cls), make(cls)
    first.train(**QUICK)
    caplog.clear()
    second.train(**QUICK, **NO_MEANING, benchmark=None)
    (line,) = [message for message in caplog.messages if "without a meaning" in message]
    assert line.startswith("train: ")
    assert set(line.removeprefix("train: without a meaning here, and not used: ")[:-1].split(", ")) == set(NO_MEANING)
    assert same_networks(first, second)


def same_networks(first: Any, second: Any) -> bool:
    a, b = first._networks.state_dict(), second._networks.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


@EACH
@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("max_epoch", "did you mean 'max_epochs'"),
        ("early_stoping", "did you mean 'early_stopping'"),
        ("simple_progressbar", "did you mean 'simple_progress_bar'"),
        ("gradient_clip_value", "did you mean 'gradient_clip_val'"),
        ("xyzzy", "there are 'max_epochs'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(cls: type[Estimator], name: str, nearest: str) -> None:
    model = make(cls)
    with pytest.raises(
        TypeError, match=rf"{cls.__name__}\.train\(\) got an unexpected keyword argument '{name}'; {nearest}"
    ):
        model.train(**{name: 1})
    assert not model.is_trained


# ---- defaults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"train_size": None, "check_val_every_n_epoch": None, "max_steps": -1, "precision": "32-true"},
        {"validation_size": 0.1, "train_size": None, "plan_kwargs": None, "plan_config": None, "datamodule": None},
        {"callbacks": None, "logger": None, "datasplitter_kwargs": None, "precision": 32},
        {
            "reduce_lr_on_plateau": None,
            "n_epochs_kl_warmup": None,
            "n_steps_kl_warmup": None,
            "external_indexing": None,
        },
        {"adversarial_classifier": None, "gradient_clip_val": 100.0, "gradient_clip_algorithm": "norm"},
        {"shuffle_set_split": True, "datasplitter_kwargs": {"pin_memory": True, "external_indexing": None}},
    ],
)
def test_defaults_under_other_words_change_nothing(arguments: dict[str, Any], usual: Any) -> None:
    assert same(trained(**arguments), usual)


def test_a_train_size_of_none_is_what_the_other_leaves() -> None:
    model = trained(train_size=None, validation_size=0.3)
    assert (len(model.train_indices), len(model.validation_indices)) == (105, 45)


# ---- the plan --------------------------------------------------------------------------------------------------------


def test_gradients_are_clipped_by_the_other_name(usual: Any) -> None:
    assert same(trained(gradient_clip_val=0.1), trained(gradient_clip=0.1))
    assert same(trained(gradient_clip_val=0), trained(gradient_clip=None))
    assert not same(trained(gradient_clip_val=0.1), usual)
    with pytest.raises(ValueError, match="gradient_clip_algorithm: gradients are clipped by their norm"):
        trained(gradient_clip_algorithm="value")


@pytest.mark.parametrize(
    "options",
    [
        {"n_epochs_kl_warmup": 2},
        {"n_steps_kl_warmup": 3},
        {"reduce_lr_on_plateau": True},
        {"reduce_lr_on_plateau": True, "n_epochs_kl_warmup": 1, "scale_adversarial_loss": "auto"},
    ],
)
@pytest.mark.parametrize("cls", [scvi.SCVI, scvi.TOTALVI])
def test_options_of_the_plan_beside_it(cls: Any, options: dict[str, Any], usual: Any) -> None:
    beside, within, config = make(cls), make(cls), make(cls)
    beside.train(**QUICK, **options)
    within.train(**QUICK, plan_kwargs=options)
    config.train(**QUICK, plan_config=options)
    assert same(beside, within)
    assert same(config, within)


def test_a_dataclass_may_be_a_configuration(usual: Any) -> None:
    @dataclasses.dataclass
    class Options:
        lr: float = 1e-3
        weight_decay: float = 0.0

    assert same(trained(plan_config=Options()), trained(plan_kwargs={"lr": 1e-3, "weight_decay": 0.0}))
    assert same(trained(trainer_config={"max_epochs": 2, "simple_progress_bar": True}), trained(max_epochs=2))
    with pytest.raises(ValueError, match="plan_config=3 is not a dictionary"):
        trained(plan_config=3)
    with pytest.raises(ValueError, match="datamodule: a model is fitted to the cells that it was made with"):
        trained(datamodule=object())


def test_plan_kwargs_win() -> None:
    both = trained(plan_config={"lr": 0.1}, plan_kwargs={"lr": 0.2}, lr_schedule="constant")
    assert both.history["lr"]["lr"].iloc[-1] == 0.2


def test_an_adversary_is_warned_of_and_its_weight_is_named() -> None:
    model = make(scvi.TOTALVI)
    with pytest.warns(UserWarning, match="adversarial_classifier=True: there is no adversary here"):
        model.train(**QUICK, adversarial_classifier=True)
    assert model.is_trained


def test_steps_end_a_fit() -> None:
    model = trained(max_epochs=10, max_steps=3)  # of 2 in an epoch
    assert model.history["elbo_train"].index.tolist() == [0, 1]
    assert len(model.history["elbo_validation"]) == 2
    assert model.history["kl_weight"]["kl_weight"].iloc[-1] == 1.0


def test_each_option_is_shown_by_train(usual: Any) -> None:
    later = {"early_stopping_mode", "early_stopping_warmup_epochs", "max_steps"}
    assert later <= {option.name for option in dataclasses.fields(Plan)}
    stopped = trained(
        max_epochs=60, early_stopping=True, early_stopping_monitor="train_loss_epoch", early_stopping_min_delta=1e6,
        early_stopping_patience=2, early_stopping_warmup_epochs=20, early_stopping_mode="min",
    )  # fmt: skip
    assert len(stopped.history["lr"]) == 23


# ---- the split -------------------------------------------------------------------------------------------------------


def test_a_split_without_a_draw() -> None:
    model = trained(shuffle_set_split=False, train_size=0.6, validation_size=0.2)
    assert model.validation_indices.tolist() == list(range(30))
    assert model.train_indices.tolist() == list(range(30, 120))
    with pytest.raises(ValueError, match="shuffle_set_split='no' is not True or False"):
        trained(shuffle_set_split="no")


@pytest.mark.parametrize("within", [True, False])
def test_a_split_that_is_given(within: bool) -> None:
    order = np.random.default_rng(0).permutation(150)
    parts = [order[:90], order[90:120], order[120:]]
    bag = {"datasplitter_kwargs": {"external_indexing": parts}} if within else {"external_indexing": parts}
    model = trained(**bag)
    assert model.train_indices.tolist() == parts[0].tolist()
    assert model.validation_indices.tolist() == parts[1].tolist()
    assert same(model, trained(external_indexing=[part.tolist() for part in parts[:2]]))
    mask = np.isin(np.arange(150), parts[0])
    alone = trained(external_indexing=[mask])
    assert alone.train_indices.tolist() == sorted(parts[0].tolist())
    assert len(alone.validation_indices) == 0
    assert len(trained(external_indexing=[parts[0], None, parts[2]]).validation_indices) == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], r"has 0 entries: give cells to train on"),
        ([[0, 1], [2], [3], [4]], r"has 4 entries"),
        ([[0, 1, 2], [2, 3]], r"cells more than once, such as 2"),
        ([[0, 0, 1], []], r"cells more than once, such as 0"),
        ([[7], [8]], r"has 1 cells to train on, at least 2 are needed"),
        ([[0.5, 1.5], []], r"external_indexing\[0\] must be a list of cell positions or a mask"),
        (np.arange(5), r"external_indexing is a ndarray; it must be a list"),
    ],
)
def test_a_split_that_cannot_be(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trained(datasplitter_kwargs={"external_indexing": parts})


def test_a_split_that_is_given_twice_or_outside() -> None:
    with pytest.raises(IndexError, match=r"external_indexing\[1\] holds 150"):
        trained(external_indexing=[[0, 1, 2], [150]])
    with pytest.raises(ValueError, match="external_indexing and validation_indices both say"):
        trained(external_indexing=[[0, 1, 2], [5]], validation_indices=[5])
    with pytest.raises(
        ValueError, match=r"datasplitter_kwargs has unknown keys \['indexing'\]; known is external_index"
    ):
        trained(datasplitter_kwargs={"indexing": 1})
    with pytest.raises(ValueError, match="datasplitter_kwargs=3 is not a dictionary"):
        trained(datasplitter_kwargs=3)


def test_a_split_of_two_data_sets() -> None:
    model = make(scvi.GIMVI)
    first, second = cells_of(model)
    parts = [[np.arange(10, first.n_obs), np.arange(10)], [np.arange(second.n_obs)]]
    model.train(**QUICK, external_indexing=parts)
    assert model.train_indices[0].tolist() == parts[0][0].tolist()
    assert len(model.validation_indices[1]) == 0


def test_labels_are_shared_out_without_a_draw() -> None:
    model = make(scvi.SCANVI)
    model.train(**QUICK, shuffle_set_split=False, train_size=0.5)
    labels = model.adata.obs["cell_type"].to_numpy()
    shares = [
        np.unique(labels[cells], return_counts=True)[1] for cells in (model.train_indices, model.validation_indices)
    ]
    assert np.abs(shares[0] - shares[1]).max() <= 2
