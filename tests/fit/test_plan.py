"""Plans: defaults, schedules as functions of the step, and what is refused."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import scvi
from grids import each_of
from scvi.fit.plan import (
    AdversarialPlan,
    Plan,
    SemiSupervisedPlan,
    default_batch_size,
    default_max_epochs,
    make_plan,
    one_cycle,
)


def planned(options: dict[str, Any] | None = None, n_train: int = 1000, n_validation: int = 100, **kwargs: Any) -> Plan:
    return make_plan({"max_epochs": 20, "batch_size": 100, **(options or {})}, kwargs, n_train, n_validation)


# ---- schedules -------------------------------------------------------------------------------------------------------


@each_of(
    n_steps=[1, 2, 3, 10, 1000],
    warmup=[0.0, 0.01, 0.2, 0.5, 1.0],
    bounds=[(0.0, 1.0), (0.2, 0.7), (1.0, 1.0), (0.0, 0.0)],
)
def test_the_kl_weight_always_reaches_its_maximum(n_steps: int, warmup: float, bounds: tuple[float, float]) -> None:
    least, most = bounds
    plan = Plan(1, kl_warmup=warmup, min_kl_weight=least, max_kl_weight=most)
    weights = [plan.kl_weight_at(step, n_steps) for step in range(n_steps)]
    assert weights[-1] == most
    assert all(least <= weight <= most for weight in weights)
    assert all(a <= b for a, b in zip(weights, weights[1:], strict=False))
    rising = sum(weight < most for weight in weights)
    assert rising <= warmup * n_steps


def test_the_full_kl_weight_is_exact() -> None:
    rng = np.random.default_rng(0)
    for least, most, warmup in rng.random((200, 3)):
        plan = Plan(1, kl_warmup=warmup, min_kl_weight=min(least, most), max_kl_weight=max(least, most))
        assert plan.kl_weight_at(99, 100) == max(least, most)
    for n_steps in range(1, 500):  # the product is at times a little more than the whole number it stands for
        for warmup in (0.1, 0.2, 0.3, 0.6, 0.7):
            last = round(warmup * n_steps, 9)
            if last == int(last) and last > 0:
                assert Plan(1, kl_warmup=warmup).kl_weight_at(int(last) - 1, n_steps) == 1.0


def test_the_kl_weight_rises_in_a_line() -> None:
    plan = Plan(1, kl_warmup=0.5, min_kl_weight=0.5)
    np.testing.assert_allclose([plan.kl_weight_at(step, 8) for step in range(8)], [0.625, 0.75, 0.875] + [1.0] * 5)


def test_one_cycle() -> None:
    plan = Plan(1, lr=2.0)
    rates = [plan.lr_at(step, 1000) for step in range(1000)]
    peak = int(np.argmax(rates))
    assert peak == 300
    assert rates[peak] == 2.0
    assert rates[0] == pytest.approx(2.0 / 25)
    assert 0 < rates[-1] < 1e-4
    assert np.all(np.diff(rates[: peak + 1]) > 0)
    assert np.all(np.diff(rates[peak:]) < 0)
    assert one_cycle(1.0) == pytest.approx(0.0)
    assert one_cycle(0.3 - 1e-12) == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_a_constant_rate(schedule: Any) -> None:
    plan = Plan(1, lr=0.3, lr_schedule=schedule)
    assert {plan.lr_at(step, 10) for step in range(10)} == {0.3}


# ---- defaults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_cells", "epochs"), [(2, 50), (1000, 50), (50_000, 50), (100_000, 25), (256_000, 10), (10**7, 10)]
)
def test_epochs_by_the_number_of_cells(n_cells: int, epochs: int) -> None:
    assert abs(default_max_epochs(n_cells, 128) - epochs) <= 1
    assert planned({"max_epochs": None, "batch_size": 128}, n_cells).max_epochs == default_max_epochs(n_cells, 128)


def test_minibatches_by_the_number_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_batch_size(4_999, 128) == 64
    assert default_batch_size(5_000, 128) == 128
    assert default_batch_size(100, 32) == 32
    assert planned({"batch_size": None}).batch_size == 64
    assert planned({"batch_size": None}, 10_000).batch_size == 128
    monkeypatch.setattr(scvi.settings, "_batch_size", 256)
    assert planned({"batch_size": None}, 10_000).batch_size == 256
    assert planned({"batch_size": None}, 1_000).batch_size == 256  # what was chosen wins over the default
    monkeypatch.setattr(scvi.settings, "_batch_size", 128)
    assert planned({"batch_size": None}, 1_000).batch_size == 128
    assert planned({"batch_size": 1000}).batch_size == 1000


def test_none_is_a_value_where_it_means_something() -> None:
    assert planned() == Plan(20, 100)
    assert planned({"gradient_clip": None}).gradient_clip is None
    assert planned({"lr": None}).lr == Plan.lr
    with pytest.raises(ValueError, match="eps=None is not a positive number"):
        planned({"eps": None})


@pytest.mark.parametrize(("epochs", "patience"), [(1, 5), (20, 5), (30, 6), (50, 10), (400, 80)])
def test_the_patience_follows_from_the_epochs(epochs: int, patience: int) -> None:
    assert planned({"max_epochs": epochs}).patience == patience
    assert planned({"max_epochs": epochs, "early_stopping_patience": 7}).patience == 7


def test_the_signature_of_train_shows_the_defaults_of_the_plan() -> None:
    shown = {name: value.default for name, value in inspect.signature(scvi.SCVI.train).parameters.items()}
    defaults = {field.name: field.default for field in fields(Plan) if field.name in shown}
    own = {"max_epochs", "batch_size", "weight_decay", "early_stopping", "lr"}  # decided by the plan
    assert {name: shown[name] for name in defaults if name not in own} == {
        name: default for name, default in defaults.items() if name not in own
    }
    assert len(defaults) >= 12
    assert isinstance(shown["kl_warmup"], float)


def test_a_plan_is_plain_json() -> None:
    plan = Plan(np.int64(3), batch_size=np.int32(8), lr=np.float32(0.5), kl_warmup=np.float64(0.1), gradient_clip=None)
    assert json.loads(json.dumps(plan.to_json())) == plan.to_json()
    assert Plan(**plan.to_json()) == plan
    later = Plan(3, early_stopping_warmup_epochs=2, max_steps=9, optimizer="AdamW", lr_min=1e-4)
    assert Plan(**later.to_json()) == later
    assert set(later.to_json()) - set(plan.to_json()) == {
        "early_stopping_warmup_epochs", "max_steps", "optimizer", "lr_min"
    }  # fmt: skip


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            (name, value)
            for name in ("max_epochs", "check_val_every_n_epoch", "lr_patience")
            for value in (0, -1, 1.5, "3")
        ),
        *((name, value) for name in ("early_stopping_patience", "max_steps") for value in (0, -2, 0.5, True)),
        *(("early_stopping_warmup_epochs", value) for value in (-1, 0.5, None)),
        *((name, value) for name in ("lr_min", "lr_threshold") for value in (-1e-9, np.nan, "0")),
        ("lr_min", 1.0),
        ("early_stopping_mode", "least"),
        ("optimizer", "SGD"),
        ("lr_scheduler_metric", "loss"),
        *(("batch_size", value) for value in (1, 0, -64, 32.0, "64")),
        *(
            (name, value)
            for name in ("lr", "eps", "lr_factor")
            for value in (0, -1e-3, np.nan, np.inf, "fast", [1], True)
        ),
        *((name, value) for name in ("weight_decay", "early_stopping_min_delta") for value in (-1e-9, np.nan, "none")),
        *((name, value) for name in ("kl_warmup", "min_kl_weight", "max_kl_weight") for value in (-0.1, np.inf, "0.2")),
        ("kl_warmup", 1.5),
        ("min_kl_weight", 2.0),
        ("gradient_clip", 0.0),
        ("gradient_clip", -1.0),
        ("lr_schedule", "cosine"),
        ("precision", "fp16"),
        ("lr_schedule", 3),
        ("early_stopping", "yes"),
        ("early_stopping", 1),
    ],
)
def test_values_out_of_range_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"{option}={value!r}")):
        planned({option: value})


def test_a_monitor_that_is_not_in_the_history_is_refused() -> None:
    with pytest.raises(ValueError, match=r"early_stopping_monitor='loss' is not one of 'elbo_validation', 'recon"):
        planned({"early_stopping_monitor": "loss"})


@pytest.mark.parametrize("options", [{"early_stopping": True}, {"lr_schedule": "plateau"}])
def test_nothing_to_follow(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"early_stopping and lr_schedule='plateau'.*lower train_size"):
        planned(options, n_validation=0)
    with pytest.raises(ValueError, match="lower train_size"):
        planned(n_validation=0, reduce_lr_on_plateau=True)
    planned(n_validation=0)


def test_the_value_of_the_plateau_has_to_fall() -> None:
    options = {"lr_schedule": "plateau", "early_stopping_monitor": "accuracy_validation"}
    with pytest.raises(
        ValueError, match=r"early_stopping_monitor \(and so lr_scheduler_metric\)='accuracy_validation'"
    ):
        make_plan(options, None, 100, 10, SemiSupervisedPlan)
    make_plan(options, {"lr_scheduler_metric": "elbo_validation"}, 100, 10, SemiSupervisedPlan)


@pytest.mark.parametrize("monitor", ["elbo_train", "reconstruction_loss_train", "kl_local_train", "train_loss_epoch"])
def test_values_of_training_cells_need_no_others(monitor: str) -> None:
    planned({"early_stopping": True, "early_stopping_monitor": monitor}, n_validation=0)
    planned({"early_stopping_monitor": monitor}, n_validation=0, reduce_lr_on_plateau=True)
    with pytest.raises(ValueError, match="follow early_stopping_monitor='elbo_train'"):
        planned({"early_stopping": True, "early_stopping_monitor": "validation_loss"}, n_validation=0)


def test_the_wrong_way_is_warned_of() -> None:
    with pytest.warns(
        UserWarning, match=r"mode='max', but elbo_validation falls as .*; pass early_stopping_mode='min'"
    ):
        planned({"early_stopping": True, "early_stopping_mode": "max"})
    with pytest.warns(UserWarning, match=r"mode='min', but validation_accuracy rises as .*mode='max'"):
        make_plan(
            {"early_stopping": True, "early_stopping_monitor": "validation_accuracy"}, None, 100, 9, SemiSupervisedPlan
        )
    planned({"early_stopping_mode": "max"})  # nothing is followed


@pytest.mark.parametrize(("max_steps", "epochs", "steps"), [(1, 1, 1), (10, 1, 10), (11, 2, 11), (500, 20, 200)])
def test_epochs_are_no_more_than_the_steps(max_steps: int, epochs: int, steps: int) -> None:
    plan = planned({"max_steps": max_steps})  # 20 epochs of 10 steps
    assert plan.max_epochs == epochs
    assert plan.planned_steps(10) == steps
    assert planned({"max_steps": 50}, n_steps_kl_warmup=25).kl_warmup == 0.5
    assert planned({"max_steps": 50}, n_epochs_kl_warmup=1).kl_warmup == 0.2


# ---- plan_kwargs -----------------------------------------------------------------------------------------------------


def test_plan_kwargs_of_the_same_name() -> None:
    values = {
        "lr": 0.01,
        "weight_decay": 0.1,
        "eps": 0.02,
        "max_kl_weight": 0.9,
        "min_kl_weight": 0.1,
        "lr_patience": 3,
        "lr_factor": 0.5,
        "lr_min": 1e-4,
        "lr_threshold": 0.5,
        "lr_scheduler_metric": "kl_local_validation",
        "optimizer": "AdamW",
    }
    plan = planned(**values)
    assert {name: getattr(plan, name) for name in values} == values
    assert plan.lr_schedule == "one-cycle"
    assert planned(**dict.fromkeys(values)) == planned()


def test_plan_kwargs_win_over_arguments() -> None:
    assert planned({"lr": 0.5}, lr=0.1).lr == 0.1


def test_plateau_under_its_old_name() -> None:
    assert planned(reduce_lr_on_plateau=True).lr_schedule == "plateau"
    assert planned(reduce_lr_on_plateau=False).lr_schedule == "one-cycle"
    assert planned(reduce_lr_on_plateau=None).lr_schedule == "one-cycle"
    with pytest.raises(ValueError, match=r"plan_kwargs\['reduce_lr_on_plateau'\]='no' is not True or False"):
        planned(reduce_lr_on_plateau="no")


@pytest.mark.parametrize(
    ("kwargs", "warmup"),
    [
        ({"n_epochs_kl_warmup": 5}, 0.25),
        ({"n_epochs_kl_warmup": 400}, 1.0),
        ({"n_epochs_kl_warmup": 0}, 0.0),
        ({"n_steps_kl_warmup": 50}, 0.25),
        ({"n_steps_kl_warmup": 10**6}, 1.0),
        ({"n_epochs_kl_warmup": 5, "n_steps_kl_warmup": 150}, 0.25),
        ({"n_epochs_kl_warmup": None, "n_steps_kl_warmup": 150}, 0.75),
        ({"n_epochs_kl_warmup": None}, 0.0),
        ({"n_epochs_kl_warmup": None, "n_steps_kl_warmup": None}, 0.0),
        ({"n_steps_kl_warmup": None}, 0.2),
    ],
)
def test_a_warmup_in_epochs_or_steps_is_a_share_of_the_plan(kwargs: dict[str, Any], warmup: float) -> None:
    plan = planned(**kwargs)  # 20 epochs of 10 steps
    assert plan.kl_warmup == warmup
    assert plan.kl_weight_at(199, 200) == 1.0


def test_steps_are_counted_as_they_will_be_taken() -> None:
    # 150 cells in minibatches of 100 are two steps, 149 are one: less than half a minibatch is folded into the last
    assert planned(n_train=150, n_steps_kl_warmup=20).kl_warmup == 0.5
    assert planned(n_train=149, n_steps_kl_warmup=20).kl_warmup == 1.0
    assert planned(n_train=250, n_steps_kl_warmup=30).kl_warmup == 0.5


@pytest.mark.parametrize("name", ["n_epochs_kl_warmup", "n_steps_kl_warmup"])
@pytest.mark.parametrize("value", [-1, np.nan, "all", [3]])
def test_a_wrong_warmup_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        planned(**{name: value})


def test_unknown_plan_kwargs_are_refused_with_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"plan_kwargs has unknown keys \['learning_rate'\]; known are lr, .*lr_factor"
    ):
        planned(learning_rate=0.1)
    with pytest.raises(ValueError, match=r"unknown keys \[3, None, 'b'\]; known are lr"):
        make_plan({}, {3: 1, None: 2, "b": 0}, 100, 10)  # type: ignore[dict-item]


def test_plan_kwargs_without_a_meaning_are_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="scvi")
    assert planned(compile=False, scale_adversarial_loss="auto", on_step=None) == planned()
    assert caplog.messages == ["plan_kwargs: without a meaning here, and not used: compile, scale_adversarial_loss."]
    assert planned(adversarial_classifier=False, update_only_decoder=False, optimizer_creator=None) == planned()
    with pytest.warns(UserWarning, match="adversarial_classifier=True: there is no adversary here"):
        planned(adversarial_classifier=True)


@pytest.mark.parametrize(
    ("key", "reason"), [("update_only_decoder", "all weights are fitted"), ("optimizer_creator", "'Adam' and 'AdamW'")]
)
def test_plan_kwargs_that_would_make_another_fit_are_refused(key: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"plan_kwargs[{key!r}]=True cannot be done: ") + f".*{reason}"):
        planned(**{key: True})


def test_the_nearest_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown keys \['n_epoch_kl_warmup'\]; did you mean 'n_epochs_kl_warmup'\?"):
        planned(n_epoch_kl_warmup=3)


def test_the_key_of_classifiers_is_refused_as_such() -> None:
    with pytest.raises(
        ValueError,
        match=r"'classification_ratio', which belongs to models with a classifier; known here are lr, .*lr_fac",
    ):
        planned(classification_ratio=50)


def test_values_in_plan_kwargs_are_checked() -> None:
    with pytest.raises(ValueError, match=r"lr=-1 is not a positive number"):
        planned(lr=-1)
    with pytest.raises(ValueError, match=r"min_kl_weight=2 is above max_kl_weight=1\.0"):
        planned(min_kl_weight=2)


def test_plan_kwargs_are_a_mapping() -> None:
    with pytest.raises(ValueError, match=r"plan_kwargs=\['lr'\] is not a dictionary"):
        make_plan({}, ["lr"], 100, 10)  # type: ignore[arg-type]


# ---- plans of some models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SemiSupervisedPlan, {"classification_ratio": 3, "n_samples_per_label": np.int64(7), "calibrate": False}),
        (AdversarialPlan, {"kappa": 0}),
    ],
)
def test_further_options(kind: type[Plan], options: dict[str, Any]) -> None:
    plan = make_plan({"max_epochs": 3, "batch_size": None, **options}, {"lr": 0.1}, 100, 10, kind)
    assert plan == kind(3, batch_size=64, lr=0.1, **options)
    assert json.loads(json.dumps(plan.to_json())) == plan.to_json()


def test_what_is_done_after_a_fit_is_no_part_of_it() -> None:
    """A checkpoint is of the same fit, whether its model is to be calibrated or not."""
    before, after = SemiSupervisedPlan(3, calibrate=True), SemiSupervisedPlan(3, calibrate=False)
    assert before.to_json() == after.to_json()
    assert before.to_json() == {**Plan(3).to_json(), "classification_ratio": 10.0, "n_samples_per_label": None}


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        *((SemiSupervisedPlan, "classification_ratio", value) for value in (-1, np.nan, "10", True, None)),
        *((SemiSupervisedPlan, "n_samples_per_label", value) for value in (0, 1.5, True)),
        *((SemiSupervisedPlan, "calibrate", value) for value in (1, "yes", None)),
        *((AdversarialPlan, "kappa", value) for value in (-1e-9, np.inf, "5", False)),
    ],
)
def test_further_options_out_of_range(kind: type[Plan], option: str, value: Any) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"{option}={value!r} is not")):
        kind(1, **{option: value})
    with pytest.raises(ValueError, match=r"lr=-1 is not"):
        kind(1, lr=-1)


def test_the_weight_of_the_classifier_may_be_in_plan_kwargs() -> None:
    plan = make_plan({"classification_ratio": 3}, {"classification_ratio": 50}, 100, 10, SemiSupervisedPlan)
    assert plan.classification_ratio == 50
    with pytest.raises(
        ValueError, match=r"unknown keys \['n_samples_per_label'\]; known are lr, .*classification_ratio"
    ):
        make_plan({}, {"n_samples_per_label": 5}, 100, 10, SemiSupervisedPlan)
