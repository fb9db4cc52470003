"""The fit behind the AnnData door: schedules, validation, recovery, interruption, checkpoints and exact resume."""

from __future__ import annotations

import logging
import math
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import scvi
from scvi.cells.cell_data import CellData
from scvi.cells.encode import encode
from scvi.cells.epoch_order import count_minibatches
from scvi.cells.setup import declare
from scvi.fit import checkpoint
from scvi.fit import fit as fitting
from scvi.fit.early_stopping import Patience
from scvi.fit.fit import Fit
from scvi.fit.objectives import _VALIDATION_DRAWS_SEED, find_fault
from scvi.fit.plan import Plan, make_plan
from scvi.models import VAE
from scvi.models.base import Elbo
from scvi.queries import likelihood
from small_cells import QUICK, TINY, make_adata

PLAN = Plan(max_epochs=4, batch_size=32, lr=1e-2)


def cell_data(n: int = 150) -> CellData:
    adata = make_adata(n)
    return encode(adata, declare(adata, batch_key="batch")[0])


def make_model(seed: int = 0, **options: Any) -> VAE:
    torch.manual_seed(seed)
    return VAE(40, n_batch=3, n_hidden=8, n_latent=3, use_observed_lib_size=True, **options)


def make_fit(
    plan: Plan = PLAN,
    *,
    model: VAE | None = None,
    data: CellData | None = None,
    n_validation: int = 20,
    seed: int = 0,
    cls: type[Fit] = Fit,
    **options: Any,
) -> Fit:
    data = cell_data() if data is None else data
    cells = np.arange(len(data))
    split = len(cells) - n_validation
    model = make_model() if model is None else model
    return cls(model, data, cells[:split], cells[split:], plan, seed=seed, show_progbar=False, **options)


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def finite(model: torch.nn.Module) -> bool:
    return all(bool(value.isfinite().all()) for value in model.state_dict().values())


def values(fit: Fit, name: str) -> list[float]:
    return [value for _, value in fit.history[name]]


class PowerCut(Exception):
    pass


def cut_power(at_epoch: int, at_step: int = 1) -> type[Fit]:
    """A fit that dies in the middle of an epoch."""

    class Fails(Fit):
        def on_iteration_begin(self) -> None:
            super().on_iteration_begin()
            if self.loop.epoch == at_epoch and self.loop.n_iter % self.steps_per_epoch == at_step:
                raise PowerCut

    return Fails


def scripted(losses: Iterable[float]) -> type[Fit]:
    """A fit whose validation loss is what the script says."""
    script = list(losses)

    class Scripted(Fit):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.objective.validate = self.validate

        def validate(self, kl_weight: float = 1.0) -> dict[str, float]:
            return {"elbo": script[self.loop.epoch], "reconstruction_loss": 1.0, "kl_local": 1.0}

        def on_epoch_end(self) -> bool:
            self.weights = [*getattr(self, "weights", []), state(self.model)]
            return super().on_epoch_end()

    return Scripted


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots and checkpoints after each epoch."""
    monkeypatch.setattr(fitting, "_STEPS_BETWEEN_SNAPSHOTS", 1)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="scvi")
    return caplog


def warnings_of(fit: Fit) -> list[str]:
    """Runs a fit and gives the warnings, which point at the line that called it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit.fit()
    assert all(warning.filename == __file__ and warning.category is UserWarning for warning in caught)
    return [str(warning.message) for warning in caught]


# ---- seeds -----------------------------------------------------------------------------------------------------------


def test_one_seed_one_result() -> None:
    fits = [make_fit(seed=seed) for seed in (3, 3, 4)]
    for fit in fits:
        torch.rand(7)  # the global state does not matter
        fit.fit()
    assert same(state(fits[0].model), state(fits[1].model))
    assert fits[0].history == fits[1].history
    assert not same(state(fits[0].model), state(fits[2].model))


@pytest.mark.parametrize("cls", [Fit, cut_power(1)])
def test_global_random_state_is_left_alone(cls: type[Fit]) -> None:
    fit = make_fit(cls=cls)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    try:
        fit.fit()
    except PowerCut:
        assert cls is not Fit
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_each_epoch_has_an_order_of_its_own() -> None:
    fit = make_fit()
    orders = []
    for fit.loop.epoch in range(3):
        orders.append(torch.cat([mb.indices for mb in fit.data_loaders_loop()]).tolist())
        assert sorted(orders[-1]) == fit.split.train.tolist()
    assert orders[0] != orders[1] != orders[2]


# ---- steps and minibatches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 8, 128])
def test_every_number_of_cells_modulo_the_minibatch(batch_size: int) -> None:
    data = cell_data(60)
    for n in range(2, 40):
        fit = make_fit(replace(PLAN, batch_size=batch_size), data=data)
        fit.split, fit.loop.epoch = replace(fit.split, train=np.arange(n)), 0
        minibatches = list(fit.data_loaders_loop())
        assert sorted(torch.cat([mb.indices for mb in minibatches]).tolist()) == list(range(n))
        assert all(len(mb) >= 2 for mb in minibatches)
        assert all(len(mb) < 1.5 * batch_size + 1 for mb in minibatches)
        assert len(minibatches) == count_minibatches(n, batch_size)


@pytest.mark.parametrize("n", [2, 3, 7, 8, 9, 16, 17, 20, 21, 23])
def test_fits_of_awkward_sizes(n: int) -> None:
    fit = make_fit(Plan(2, batch_size=8), data=cell_data(n), n_validation=0)
    fit.fit()
    assert fit.loop.n_iter == fit.n_steps == 2 * count_minibatches(n, 8)
    assert finite(fit.model)


def test_a_step_minimises_the_annealed_bound() -> None:
    class WithGlobal(VAE):
        def loss(self, mb: Any, generator: Any = None) -> Elbo:
            return replace(super().loss(mb, generator), global_kl=torch.tensor(26.0))

    torch.manual_seed(0)
    model = WithGlobal(40, n_batch=3, n_hidden=8, n_latent=3, use_observed_lib_size=True).eval()
    fit = make_fit(model=model)  # 130 cells
    mb = fit.split.data.minibatch(np.arange(10))
    loss, _ = fit.objective.loss(mb, kl_weight=0.25)
    elbo = model.loss(mb, fit.objective.generator.manual_seed(fit.seed))
    by_hand = (elbo.reconstruction["genes"] + 0.25 * elbo.kl["z"]).mean() + 26.0 / 130
    torch.testing.assert_close(loss, by_hand)


def test_schedules_are_followed_step_by_step() -> None:
    class Recorded(Fit):
        def on_iteration_end(self) -> None:
            self.seen = [*getattr(self, "seen", []), (self.kl_weight, self.optimizer.lr)]
            super().on_iteration_end()

    fit = make_fit(replace(PLAN, kl_warmup=0.5), cls=Recorded)
    fit.fit()
    assert len(fit.seen) == fit.n_steps == 16
    assert fit.seen == [(fit.plan.kl_weight_at(i, 16), fit.plan.lr_at(i, 16)) for i in range(16)]
    assert [weight for weight, _ in fit.seen[7:]] == [1.0] * 9
    last = fit.steps_per_epoch - 1
    assert values(fit, "kl_weight") == [weight for weight, _ in fit.seen[last :: fit.steps_per_epoch]]
    assert values(fit, "lr") == [lr for _, lr in fit.seen[last :: fit.steps_per_epoch]]


@pytest.mark.parametrize("warmup", [0.2, 1.0])
@pytest.mark.parametrize("max_epochs", [1, 5])
def test_the_kl_weight_reaches_one(warmup: float, max_epochs: int) -> None:
    fit = make_fit(replace(PLAN, kl_warmup=warmup, max_epochs=max_epochs))
    assert warnings_of(fit) == []
    assert values(fit, "kl_weight")[-1] == 1.0


def test_the_plan_is_logged_before_training(log: pytest.LogCaptureFixture) -> None:
    make_fit().fit()
    assert log.messages == [
        "Training on 130 cells, validating on 20: 4 epochs of 4 steps of 32 cells; "
        "the KL weight reaches 1 after 4 steps."
    ]


@pytest.mark.parametrize("clip", [0.5, 5.0, None])
def test_gradients_are_clipped(clip: float | None) -> None:
    class Recorded(Fit):
        def on_iteration_end(self) -> None:
            given = zip(self.optimizer.parameters, self.optimizer.moments.mean, strict=True)
            moments = [m for p, m in given if p.grad is not None]
            self.gradients = [m / (1 - 0.9) for m in moments]  # of the first step
            self.norm = math.sqrt(sum(float(g.square().sum()) for g in self.gradients))
            super().on_iteration_end()

    plan = Plan(1, batch_size=1000, gradient_clip=clip, weight_decay=0.0)
    fit = make_fit(plan, cls=Recorded)
    fit.fit()
    free = make_fit(replace(plan, gradient_clip=None), cls=Recorded)
    free.fit()
    assert free.norm > 5.5
    assert fit.norm == pytest.approx(clip or free.norm, rel=1e-5)
    for clipped, whole in zip(fit.gradients, free.gradients, strict=True):
        torch.testing.assert_close(clipped, whole * fit.norm / free.norm)


# ---- history and validation ------------------------------------------------------------------------------------------


def test_history_is_one_table_a_loss() -> None:
    fit = make_fit()
    fit.prepare(epochs_before=10)
    fit.run()
    tables = fit.frames()
    assert set(tables) == set(fit.history)
    for name, table in tables.items():
        assert list(table.columns) == [name]
        assert table.index.tolist() == [10, 11, 12, 13]
        assert table.index.name == "epoch"
        assert table[name].tolist() == values(fit, name)


def test_the_validation_loss_is_the_bound_of_the_validation_cells() -> None:
    fit = make_fit()
    fit.fit()
    noise = torch.Generator().manual_seed(_VALIDATION_DRAWS_SEED)
    cells = fit.split.data.minibatches(fit.split.validation, PLAN.batch_size)
    expected = -likelihood.elbo(fit.model, cells, noise).mean()
    assert values(fit, "elbo_validation")[-1] == pytest.approx(expected, rel=1e-5)


def test_losses_at_the_weight_of_the_moment_and_of_what_is_shared() -> None:
    class WithGlobal(VAE):
        def loss(self, mb: Any, generator: Any = None) -> Elbo:
            return replace(super().loss(mb, generator), global_kl=torch.tensor(26.0))

    torch.manual_seed(0)
    model = WithGlobal(40, n_batch=3, n_hidden=8, n_latent=3, use_observed_lib_size=True)
    fit = make_fit(replace(PLAN, kl_warmup=0.5, max_kl_weight=0.4), model=model)
    fit.fit()
    assert values(fit, "kl_global_train") == pytest.approx([26.0 / 130] * 4)
    assert values(fit, "kl_global_validation") == pytest.approx([26.0 / 130] * 4)
    parts = (values(fit, f"{name}_validation") for name in ("reconstruction_loss", "kl_local"))
    by_hand = [r + w * kl + 0.2 for r, kl, w in zip(*parts, values(fit, "kl_weight"), strict=True)]
    np.testing.assert_allclose(values(fit, "validation_loss"), by_hand, rtol=1e-5)


def test_the_loss_of_the_last_step() -> None:
    class Recorded(Fit):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.seen, inner = [], self.objective.loss

            def loss(mb: Any, kl_weight: float) -> Any:
                self.seen.append(inner(mb, kl_weight))
                return self.seen[-1]

            self.objective.loss = loss

    fit = make_fit(cls=Recorded)
    fit.fit()
    assert values(fit, "train_loss_step") == [float(loss.detach()) for loss, _ in fit.seen[3::4]]


def test_the_validation_curve_moves_with_the_weights_only() -> None:
    fit = make_fit()
    fit.model.train()
    before = state(fit.model)
    assert fit.objective.validate() == fit.objective.validate()
    assert fit.model.training
    assert same(state(fit.model), before)


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (3, [2, 4]), (9, [4])])
def test_validation_every_so_many_epochs(every: int, epochs: list[int]) -> None:
    fit = make_fit(replace(PLAN, max_epochs=5, check_val_every_n_epoch=every))
    fit.fit()
    for name in ("elbo_validation", "reconstruction_loss_validation", "kl_local_validation"):
        assert [epoch for epoch, _ in fit.history[name]] == epochs
    assert [epoch for epoch, _ in fit.history["elbo_train"]] == [0, 1, 2, 3, 4]


def test_no_validation_cells_no_validation_curve() -> None:
    fit = make_fit(n_validation=0)
    fit.fit()
    assert not [name for name in fit.history if "validation" in name]
    assert len(values(fit, "elbo_train")) == 4


def test_the_history_weighs_every_cell_alike() -> None:
    # a learning rate of next to nothing, no dropout: the mean over the epoch is the mean over the cells
    model = make_model(dropout_rate=0.0)
    data = cell_data(50)
    fit = make_fit(Plan(1, batch_size=32, lr=1e-20, kl_warmup=0.0), model=model, data=data, n_validation=0)
    fit.fit()
    losses = dict.fromkeys(("elbo", "kl_local"), 0.0)
    again = make_fit(fit.plan, model=make_model(dropout_rate=0.0), data=data, n_validation=0)
    again.loop.epoch = 0
    again.model.train()
    torch.manual_seed(0)
    for mb in again.data_loaders_loop():
        elbo = again.model.loss(mb)
        losses["elbo"] += float(elbo.per_cell().detach().sum())
        losses["kl_local"] += float(elbo.kl["z"].detach().sum())
    for name, total in losses.items():
        assert values(fit, f"{name}_train") == [pytest.approx(total / 50, rel=1e-5)]
    assert values(fit, "train_loss_epoch") == [pytest.approx(losses["elbo"] / 50, rel=1e-5)]


def test_progress_shows_the_latest_losses() -> None:
    fit = make_fit()
    assert fit.progress_values() == {}
    fit.fit()
    assert fit.progress_values() == {part: f"{values(fit, f'elbo_{part}')[-1]:.1f}" for part in ("train", "validation")}


def test_a_progress_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    fit = make_fit()
    fit.show_progbar = True
    fit.fit()
    shown = capsys.readouterr().out
    assert "4/4" in shown
    assert f"validation={values(fit, 'elbo_validation')[-1]:.1f}" in shown
    monkeypatch.setattr(scvi.settings, "progress_bar_style", "none")
    quiet = make_fit()
    quiet.show_progbar = True
    quiet.fit()
    assert capsys.readouterr() == ("", "")


# ---- early stopping and plateaus -------------------------------------------------------------------------------------


def test_patience() -> None:
    patience = Patience(2, 0.5)
    answers = [patience.update(value) for value in (9.0, 8.0, 7.6, 7.4, 7.4, 7.3)]
    assert answers == [True, True, True, True, True, False]
    assert patience.best == 7.4
    assert not Patience(1, 0.0).update(math.nan)


def test_early_stopping_goes_back_to_the_best_weights(log: pytest.LogCaptureFixture) -> None:
    plan = Plan(20, batch_size=64, kl_warmup=0.0, early_stopping=True, early_stopping_patience=3)
    fit = make_fit(plan, cls=scripted([9, 8, 7, 7.5, 6, 6, 6.5, 6.1, 5]))
    fit.fit()
    assert fit.loop.epoch == 7
    assert fit.best_epoch == 4
    assert same(state(fit.model), fit.weights[4])
    assert len(values(fit, "elbo_train")) == 8
    assert "Stopping early: no improvement in 3 epochs." in log.messages


@pytest.mark.parametrize(("max_epochs", "warmup", "last"), [(50, 0.2, 9 + 10), (30, 0.2, 5 + 6), (20, 0.0, 0 + 5)])
def test_early_stopping_stops_with_the_default_patience(max_epochs: int, warmup: float, last: int) -> None:
    plan = Plan(max_epochs, batch_size=64, kl_warmup=warmup, early_stopping=True)
    fit = make_fit(plan, cls=scripted([9] * max_epochs))
    fit.fit()
    assert fit.loop.epoch == last


def test_small_improvements_do_not_count() -> None:
    plan = Plan(20, batch_size=64, kl_warmup=0.0, early_stopping=True, early_stopping_patience=3)
    plan = replace(plan, early_stopping_min_delta=1.0)
    fit = make_fit(plan, cls=scripted([9, 8.5, 8.1, 8.05, 1]))
    fit.fit()
    assert fit.loop.epoch == 3
    assert same(state(fit.model), fit.weights[0])


def test_best_weights_are_kept_when_the_epochs_run_out() -> None:
    plan = Plan(5, batch_size=64, kl_warmup=0.0, early_stopping=True)
    fit = make_fit(plan, cls=scripted([9, 8, 7, 8, 9]))
    fit.fit()
    assert fit.best_epoch == 2
    assert same(state(fit.model), fit.weights[2])


def test_without_early_stopping_the_last_weights_are_kept() -> None:
    fit = make_fit(Plan(5, batch_size=64), cls=scripted([9, 8, 7, 8, 9]))
    fit.fit()
    assert same(state(fit.model), fit.weights[-1])


def test_patience_starts_when_the_kl_weight_is_full() -> None:
    plan = Plan(10, batch_size=64, kl_warmup=0.5, early_stopping=True, early_stopping_patience=2)
    fit = make_fit(plan, cls=scripted([1, 2, 3, 4, 9, 8, 8, 8, 8, 8]))  # the bound of a free KL is no benchmark
    fit.fit()
    assert fit.best_epoch == 5
    assert fit.loop.epoch == 7


def test_another_value_may_be_monitored() -> None:
    plan = Plan(10, batch_size=64, kl_warmup=0.0, early_stopping=True, early_stopping_patience=2)
    plan = replace(plan, early_stopping_monitor="reconstruction_loss_validation")
    fit = make_fit(plan, cls=scripted(range(20, 0, -1)))
    fit.fit()
    assert fit.loop.epoch == 2


def test_epochs_without_validation_do_not_use_up_patience() -> None:
    plan = Plan(12, batch_size=64, kl_warmup=0.0, early_stopping=True, early_stopping_patience=2)
    fit = make_fit(replace(plan, check_val_every_n_epoch=3), cls=scripted([9] * 12))
    fit.fit()
    assert fit.best_epoch == 2
    assert fit.loop.epoch == 8


def test_a_value_that_is_to_rise() -> None:
    plan = Plan(20, batch_size=64, kl_warmup=0.0, early_stopping=True, early_stopping_patience=2)
    fit = make_fit(replace(plan, early_stopping_mode="max"), cls=scripted([5, 9, 8, 7, 6] + [0] * 15))
    fit.fit()
    assert fit.best_epoch == 1
    assert fit.loop.epoch == 3
    assert same(state(fit.model), fit.weights[1])


@pytest.mark.parametrize(("warmup", "best", "last"), [(0, 0, 2), (2, 2, 4), (3, 4, 6)])
def test_the_patience_starts_after_epochs_of_warm_up(warmup: int, best: int, last: int) -> None:
    plan = Plan(20, batch_size=64, kl_warmup=0.0, early_stopping=True, early_stopping_patience=2)
    plan = replace(plan, early_stopping_warmup_epochs=warmup)
    fit = make_fit(plan, cls=scripted([1, 2, 3, 5, 4] + [9] * 15))
    fit.fit()
    assert (fit.best_epoch, fit.loop.epoch) == (best, last)


def test_training_cells_may_be_followed_without_others() -> None:
    plan = Plan(30, batch_size=64, kl_warmup=0.0, early_stopping=True, early_stopping_patience=1, lr=1e-12)
    fit = make_fit(replace(plan, early_stopping_monitor="elbo_train", early_stopping_min_delta=50.0), n_validation=0)
    fit.fit()
    assert (fit.best_epoch, fit.loop.epoch) == (0, 1)


def test_the_plateau_has_a_value_a_distance_and_a_floor_of_its_own() -> None:
    plan = Plan(6, batch_size=64, kl_warmup=0.0, lr=0.01, lr_schedule="plateau", lr_patience=1, lr_factor=0.5)
    plan = replace(plan, lr_min=2e-3, lr_threshold=2.0)
    fit = make_fit(plan, cls=scripted([100, 99, 96, 95, 94, 93]))
    fit.fit()
    np.testing.assert_allclose(values(fit, "lr"), [0.01, 0.01, 0.005, 0.005, 0.0025, 0.002])
    own = make_fit(
        replace(plan, lr_scheduler_metric="reconstruction_loss_validation"), cls=scripted([9, 6, 3, 0, -3, -6])
    )
    own.fit()  # the script's other loss stays the same
    np.testing.assert_allclose(values(own, "lr"), [0.01, 0.01, 0.005, 0.0025, 0.002, 0.002])


@pytest.mark.parametrize("max_steps", [1, 4, 6, 15, 16])
def test_a_fit_of_some_steps(max_steps: int) -> None:
    plan = make_plan({"max_epochs": 4, "batch_size": 32, "max_steps": max_steps, "kl_warmup": 1.0}, None, 130, 20)
    fit = make_fit(plan)
    assert warnings_of(fit) == []
    assert fit.loop.n_iter == fit.steps_kept == max_steps
    assert [epoch for epoch, _ in fit.history["elbo_validation"]] == list(range(math.ceil(max_steps / 4)))
    assert values(fit, "kl_weight")[-1] == 1.0
    assert values(fit, "lr")[-1] == plan.lr_at(max_steps - 1, max_steps)


def test_the_rate_falls_on_a_plateau() -> None:
    plan = Plan(9, batch_size=64, kl_warmup=0.0, lr=0.01, lr_schedule="plateau", lr_patience=2, lr_factor=0.5)
    fit = make_fit(plan, cls=scripted([9, 8, 8, 8, 8, 8, 7, 7, 7]))
    fit.fit()
    # waits of 2 epochs end after epochs 3, 5 and 8; the epoch after has the new rate
    np.testing.assert_allclose(values(fit, "lr"), [0.01] * 4 + [0.005] * 2 + [0.0025] * 3)
    assert fit.lr_scale == 0.125


# ---- non-finite losses -----------------------------------------------------------------------------------------------


def poisoned(when: Callable[[Fit], bool], poison: Callable[[Fit], None]) -> type[Fit]:
    class Poisoned(Fit):
        def on_iteration_begin(self) -> None:
            super().on_iteration_begin()
            if when(self):
                poison(self)

    return Poisoned


def nan_weight(fit: Fit) -> None:
    with torch.no_grad():
        fit.model.px_r[3] = math.nan


def test_a_broken_weight_is_recovered_from(every_epoch: None) -> None:
    fit = make_fit(replace(PLAN, max_epochs=30), cls=poisoned(lambda fit: fit.loop.n_iter == 41, nan_weight))
    (message,) = warnings_of(fit)
    assert re.fullmatch(
        r"Recovered from a non-finite loss in epoch 11 \(it is so for all \d+ cells; those with the most counts are: "
        r"cell\d+, cell\d+, cell\d+; largest counts in genes gene\d+ \(\d+\), gene\d+ \(\d+\), gene\d+ \(\d+\)\): "
        r"back to the last good weights, learning rate halved\.",
        message,
    )
    assert fit.recoveries == 1
    assert fit.lr_scale == 0.5
    assert finite(fit.model)
    assert np.isfinite([value for name in fit.history for value in values(fit, name)]).all()
    assert [epoch for epoch, _ in fit.history["elbo_train"]] == list(range(30))
    calm = make_fit(replace(PLAN, max_epochs=30))
    calm.fit()
    assert values(fit, "elbo_validation")[-1] < values(fit, "elbo_validation")[10] - 5
    assert values(fit, "lr")[9] == values(calm, "lr")[9]
    assert values(fit, "lr")[10] == values(calm, "lr")[10] / 2


def test_recovery_goes_back_to_the_last_snapshot(every_epoch: None) -> None:
    """Weights, moments of the optimiser and statistics of batch norm: nothing of the bad step is left."""

    class Compared(Fit):
        def on_epoch_end(self) -> bool:
            go_on = super().on_epoch_end()
            if self.loop.epoch == 1:
                self.expected = state(self.model), self.optimizer.tensors()
                self.expected = self.expected[0], {name: t.clone() for name, t in self.expected[1].items()}
            return go_on

        def on_iteration_begin(self) -> None:
            super().on_iteration_begin()
            if self.loop.n_iter == 11:  # the last but one of the third epoch
                nan_weight(self)

        def on_iteration_end(self) -> None:
            if self.loop.n_iter == 11:
                self.after = state(self.model), self.optimizer.tensors()
            super().on_iteration_end()

    fit = make_fit(replace(PLAN, max_epochs=3), cls=Compared)
    assert len(warnings_of(fit)) == 1
    assert fit.steps_kept == 8  # those of the first two epochs
    assert same(fit.after[0], fit.expected[0])
    assert same(fit.after[1], fit.expected[1])


class OneBadCell(VAE):
    """Gives one cell a loss of NaN, `times` times in training and always when it is asked afterwards."""

    bad, times = 17, 1

    def loss(self, mb: Any, generator: Any = None) -> Elbo:
        elbo = super().loss(mb, generator)
        here = mb.indices == self.bad
        if here.any() and (self.times > 0 or not self.training):
            self.times -= self.training
            genes = torch.where(
                here, torch.full_like(elbo.reconstruction["genes"], math.nan), elbo.reconstruction["genes"]
            )
            return replace(elbo, reconstruction={"genes": genes})
        return elbo


def bad_cell_model() -> OneBadCell:
    torch.manual_seed(0)
    return OneBadCell(40, n_batch=3, n_hidden=8, n_latent=3, use_observed_lib_size=True)


def test_the_cell_and_its_genes_are_named() -> None:
    fit = make_fit(model=bad_cell_model())
    (message,) = warnings_of(fit)
    assert " cells have a non-finite likelihood: cell17; largest counts in genes gene" in message
    counts = fit.split.data.minibatch(np.array([17])).x[0]
    for gene in counts.topk(3).indices:
        assert f"gene{int(gene)} ({counts[gene]:g})" in message


class Unwatched(Fit):
    """Treats the CPU as a device that is not waited for between the steps of an epoch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps.waits = False


def test_steps_that_are_not_waited_for_are_the_same() -> None:
    watched, unwatched = make_fit(), make_fit(cls=Unwatched)
    watched.fit()
    unwatched.fit()
    assert same(state(watched.model), state(unwatched.model))
    assert watched.frames().keys() == unwatched.frames().keys()
    for name, table in watched.frames().items():
        pd.testing.assert_frame_equal(table, unwatched.frames()[name])


def test_a_fault_on_a_device_is_found_at_the_end_of_the_epoch() -> None:
    fit = make_fit(model=bad_cell_model(), cls=Unwatched)
    (message,) = warnings_of(fit)
    assert message.startswith("Recovered from a non-finite loss in epoch 1 (")
    assert " cells have a non-finite likelihood: cell17; largest counts in genes gene" in message
    assert fit.recoveries == 1
    assert finite(fit.model)
    assert np.isfinite(values(fit, "elbo_train")).all()
    assert len(values(fit, "elbo_train")) == 4


def test_a_fault_on_a_device_before_ctrl_c_is_looked_at() -> None:
    class Interrupted(Unwatched):
        def on_iteration_end(self) -> None:
            super().on_iteration_end()
            if self.loop.n_iter == 6:  # in the second epoch
                self.model.decoder.px_decoder.fc_layers[0][1].running_mean.fill_(math.nan)
                self.steps._first_bad = torch.tensor(1)
                self.loop.interrupted = True

    fit = make_fit(cls=Interrupted)
    (message,) = warnings_of(fit)
    assert message.startswith("Recovered from a non-finite loss in epoch 2 (")
    assert finite(fit.model)


def test_a_non_finite_gradient_is_recovered_from() -> None:
    fit = make_fit()
    steps = iter([False, False, True] + [False] * 100)
    fit.model.px_r.register_hook(lambda gradient: gradient * math.inf if next(steps) else gradient)
    (message,) = warnings_of(fit)
    assert "the largest losses are of cells: cell" in message
    assert fit.recoveries == 1
    assert finite(fit.model)
    assert len(values(fit, "elbo_train")) == 4


def test_weights_that_break_at_the_end_of_an_epoch_are_no_snapshot(every_epoch: None, tmp_path: Path) -> None:
    class BreaksLate(Fit):
        def on_iteration_end(self) -> None:
            super().on_iteration_end()
            if self.loop.n_iter in (10, 20):  # the ends of the second and the last epoch
                nan_weight(self)

    fit = make_fit(cls=BreaksLate, n_validation=0, checkpoint_dir=tmp_path)
    assert warnings_of(fit) == [
        f"Recovered from non-finite weights after epoch {epoch}: back to the last good weights, learning rate halved."
        for epoch in (2, 4)
    ]
    assert finite(fit.model)
    assert all(bool(t.isfinite().all()) for t in checkpoint.read(tmp_path)[0].values())


@pytest.mark.parametrize(
    ("first_bad_step", "trained_before", "left"),
    [
        (0, False, "is untrained, no step was good"),
        (0, True, "is as it was before, no step was good"),
        (5, False, "has its last good weights"),
    ],
)
def test_training_is_given_up_after_some_recoveries(
    first_bad_step: int, trained_before: bool, left: str, every_epoch: None
) -> None:
    model = make_model()
    before = state(model)
    fit = make_fit(model=model, cls=poisoned(lambda fit: fit.loop.n_iter >= first_bad_step, nan_weight))
    message = rf"given up after 5 recoveries: a non-finite loss in epoch [23].*The model {left}\..*lower learning rate"
    fit.prepare(trained_before=trained_before)
    with (
        pytest.warns(UserWarning, match="Recovered from a non-finite loss") as caught,
        pytest.raises(RuntimeError, match=message),
    ):
        fit.run()
    assert same(state(model), before) is (first_bad_step == 0)
    assert fit.steps_kept == (0 if first_bad_step == 0 else fit.steps_per_epoch)
    assert finite(model)
    assert not model.training
    assert len(caught) == 5


def test_an_epoch_without_a_good_step_has_no_training_loss() -> None:
    fit = make_fit(replace(PLAN, batch_size=500), cls=poisoned(lambda fit: fit.loop.n_iter == 1, nan_weight))
    assert len(warnings_of(fit)) == 1
    assert [epoch for epoch, _ in fit.history["elbo_train"]] == [0, 2, 3]
    assert [epoch for epoch, _ in fit.history["elbo_validation"]] == [0, 1, 2, 3]


def test_a_model_whose_training_was_given_up_is_usable() -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, **TINY)
    steps = iter(range(1000))
    model.module.px_r.register_hook(lambda gradient: gradient if next(steps) < 80 else gradient * math.nan)
    with pytest.warns(UserWarning, match="Recovered from"), pytest.raises(RuntimeError, match="its last good weights"):
        model.train(**{**QUICK, "max_epochs": 50})
    assert model.is_trained
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.get_elbo())


def test_a_fit_without_a_good_step_trains_nothing() -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    model, trained = scvi.SCVI(adata, **TINY), scvi.SCVI(adata, **TINY)
    trained.train(**QUICK)
    latent, history = trained.get_latent_representation(), {**trained.history}
    for each, left in ((model, "is untrained"), (trained, "is as it was before")):
        each.module.px_r.register_hook(lambda gradient: gradient * math.nan)
        with pytest.warns(UserWarning, match="Recovered from"), pytest.raises(RuntimeError, match=left):
            each.train(**{**QUICK, "max_epochs": 10})
    assert not model.is_trained
    assert model.history == {}
    with pytest.raises(RuntimeError, match="not trained: call train"):
        model.get_latent_representation()
    assert trained.is_trained
    assert list(trained.history) == list(history)
    assert all(trained.history[name] is table for name, table in history.items())
    assert np.array_equal(trained.get_latent_representation(), latent)


def test_faults_are_described() -> None:
    data, model = cell_data(), bad_cell_model().eval()
    asked = data, torch.Generator()
    _, one = find_fault(model, data.minibatch(np.arange(10, 20)), *asked)
    assert one.startswith("1 of 10 cells have a non-finite likelihood: cell17; largest counts in genes gene")
    _, none = find_fault(model, data.minibatch(np.arange(10)), *asked)
    assert none.startswith("the largest losses are of cells: cell")
    nan_weight_of = state(model)
    nan_weight_of["px_r"][0] = math.nan
    model.load_state_dict(nan_weight_of)
    _, every = find_fault(model, data.minibatch(np.arange(2)), *asked)
    assert every.startswith("it is so for all 2 cells; those with the most counts are: cell")


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


def press_ctrl_c(*steps: int) -> type[Fit]:
    def press(fit: Fit) -> None:
        signal.raise_signal(signal.SIGINT)

    return poisoned(lambda fit: fit.loop.n_iter in steps, press)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_after_the_minibatch(log: pytest.LogCaptureFixture) -> None:
    handler = signal.getsignal(signal.SIGINT)
    fit = make_fit(cls=press_ctrl_c(5))
    fit.fit()
    assert signal.getsignal(signal.SIGINT) is handler
    assert fit.loop.interrupted
    assert fit.loop.n_iter == 6
    assert len(values(fit, "elbo_train")) == 1
    assert not fit.model.training
    assert finite(fit.model)
    assert "Training was interrupted in epoch 2 of 4." in log.messages


@pytest.mark.usefixtures("ctrl_c")
def test_stopping_before_the_full_kl_weight_warns() -> None:
    (message,) = warnings_of(make_fit(replace(PLAN, kl_warmup=0.5), cls=press_ctrl_c(3)))
    assert message.startswith("Training stopped at KL weight 0.5 of 1: the latent space is under-regularised")
    assert "kl_warmup=0.5" in message


@pytest.mark.usefixtures("ctrl_c")
def test_stopping_after_it_does_not() -> None:
    assert warnings_of(make_fit(replace(PLAN, kl_warmup=0.5), cls=press_ctrl_c(7))) == []


@pytest.mark.usefixtures("ctrl_c")
def test_a_model_that_was_interrupted_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, **TINY)
    monkeypatch.setattr("scvi.estimators.train.Fit", press_ctrl_c(3))
    model.train(**QUICK)
    assert model.is_trained
    assert model.was_interrupted
    assert model.history["elbo_train"].index.tolist() == [0]
    assert model.get_latent_representation().shape == (150, 3)
    monkeypatch.undo()
    model.train(**QUICK)
    assert not model.was_interrupted
    assert model.history["elbo_train"].index.tolist() == [0, 1, 2, 3]


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, **TINY)
    monkeypatch.setattr("scvi.estimators.train.Fit", press_ctrl_c(0))
    with pytest.warns(UserWarning, match="under-regularised"):
        model.train(**QUICK)
    assert model.history == {}
    assert model.is_trained
    assert np.isfinite(model.get_elbo())


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, **TINY)

    def twice(fit: Fit) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("scvi.estimators.train.Fit", poisoned(lambda fit: fit.loop.n_iter == 4, twice))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        model.train(**QUICK)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not model.module.training
    assert model.is_trained
    assert np.isfinite(model.get_elbo())


def test_a_fit_in_another_thread() -> None:
    fits = [make_fit(), make_fit()]
    thread = threading.Thread(target=fits[0].fit)
    thread.start()
    thread.join()
    fits[1].fit()
    assert same(*(state(fit.model) for fit in fits))


# ---- checkpoints -----------------------------------------------------------------------------------------------------

PLANS = {
    "one-cycle": PLAN,
    "plateau": replace(PLAN, lr_schedule="plateau", lr_patience=1, kl_warmup=0.0),
    "early stopping": replace(PLAN, early_stopping=True, early_stopping_patience=4, kl_warmup=0.1, lr=0.1),
    "warm-up": replace(PLAN, kl_warmup=1.0, check_val_every_n_epoch=3, gradient_clip=1.0),
    "AdamW": replace(PLAN, optimizer="AdamW", weight_decay=0.1),
    "steps": replace(PLAN, max_steps=14),  # of 16
    "two monitors": replace(
        PLAN,
        lr_schedule="plateau",
        lr_patience=1,
        lr_scheduler_metric="validation_loss",
        lr_threshold=100.0,
        lr_min=4e-3,
        kl_warmup=0.0,
        early_stopping=True,
        early_stopping_monitor="elbo_train",
        early_stopping_mode="max",
        early_stopping_patience=2,
        early_stopping_warmup_epochs=1,
    ),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("at_epoch", [1, 2, 3])
def test_resume_is_exact(name: str, at_epoch: int, tmp_path: Path, every_epoch: None) -> None:
    whole = make_fit(PLANS[name], checkpoint_dir=tmp_path / "whole")
    whole.fit()
    with pytest.raises(PowerCut):
        make_fit(PLANS[name], cls=cut_power(at_epoch), checkpoint_dir=tmp_path / "cut").fit()
    resumed = make_fit(PLANS[name], model=make_model(seed=9), checkpoint_dir=tmp_path / "cut")
    resumed.fit(resume=True)
    assert resumed.loop.first_epoch == at_epoch
    assert same(state(resumed.model), state(whole.model))
    assert same(*(fit.optimizer.tensors() for fit in (resumed, whole)))
    assert resumed.history == whole.history
    assert (resumed.loop.n_iter, resumed.best_epoch) == (whole.loop.n_iter, whole.best_epoch)
    files = [checkpoint.read(tmp_path / folder) for folder in ("whole", "cut")]
    assert files[0][1] == files[1][1]
    assert same(files[0][0], files[1][0])


def test_resume_after_several_interruptions(tmp_path: Path, every_epoch: None) -> None:
    whole = make_fit()
    whole.fit()
    for at_epoch in (1, 1, 2, 3):
        with pytest.raises(PowerCut):
            make_fit(cls=cut_power(at_epoch), checkpoint_dir=tmp_path).fit(resume=True)
    resumed = make_fit(checkpoint_dir=tmp_path)
    resumed.fit(resume=True)
    assert same(state(resumed.model), state(whole.model))
    assert resumed.history == whole.history


def test_resume_after_a_recovery(tmp_path: Path, every_epoch: None) -> None:
    class Poisoned(poisoned(lambda fit: fit.loop.n_iter == 5, nan_weight)):
        pass

    class PoisonedAndCut(Poisoned, cut_power(3)):
        pass

    whole = make_fit(cls=Poisoned)
    assert len(warnings_of(whole)) == 1
    with pytest.warns(UserWarning, match="Recovered from"), pytest.raises(PowerCut):
        make_fit(cls=PoisonedAndCut, checkpoint_dir=tmp_path).fit()
    resumed = make_fit(checkpoint_dir=tmp_path)
    resumed.fit(resume=True)
    assert (resumed.recoveries, resumed.lr_scale) == (1, 0.5)
    assert resumed.steps_kept == whole.steps_kept == 14  # of 16: the sixth was bad and the fifth was taken back
    assert same(state(resumed.model), state(whole.model))
    assert resumed.history == whole.history


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_and_resume(tmp_path: Path, every_epoch: None) -> None:
    whole = make_fit()
    whole.fit()
    make_fit(cls=press_ctrl_c(9), checkpoint_dir=tmp_path).fit()
    resumed = make_fit(checkpoint_dir=tmp_path)
    resumed.fit(resume=True)
    assert same(state(resumed.model), state(whole.model))
    assert resumed.history == whole.history


@pytest.mark.parametrize("plan", ["one-cycle", "early stopping"])
def test_a_fit_that_is_finished_is_not_fitted_on(plan: str, tmp_path: Path) -> None:
    whole = make_fit(PLANS[plan], checkpoint_dir=tmp_path)
    whole.fit()
    again = make_fit(PLANS[plan], model=make_model(seed=9), checkpoint_dir=tmp_path, cls=cut_power(0, 0))
    again.fit(resume=True)
    assert same(state(again.model), state(whole.model))
    assert again.history == whole.history


def test_checkpoints_are_written_every_so_many_steps(tmp_path: Path) -> None:
    class Counted(Fit):
        def _write_checkpoint(self, finished: bool) -> None:
            self.written = [*getattr(self, "written", []), (self.loop.epoch, finished)]
            super()._write_checkpoint(finished)

    fit = make_fit(replace(PLAN, max_epochs=30), cls=Counted, checkpoint_dir=tmp_path)  # 4 steps an epoch
    fit.fit()
    assert fit.written == [(12, False), (25, False), (29, True)]
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE_NAME]


def test_no_checkpoint_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_epoch: None) -> None:
    monkeypatch.chdir(tmp_path)
    make_fit().fit()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["a file", "below a file"])
def test_a_checkpoint_dir_that_cannot_be_is_refused_before_training(where: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    folder = tmp_path / "notes.txt" if where == "a file" else tmp_path / "notes.txt" / "checkpoint"
    fit = make_fit(checkpoint_dir=folder)
    with pytest.raises(ValueError, match=r"^checkpoint_dir='.*notes\.txt.*' cannot be made: .*; name a directory"):
        fit.fit()
    assert fit.loop.n_iter == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="checkpoint_dir="):
        make_fit(checkpoint_dir=folder).fit(resume=True)


def test_nothing_to_resume_starts_anew(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    fit = make_fit(checkpoint_dir=tmp_path / "new")
    fit.fit(resume=True)
    assert any("does not exist: training starts from the beginning" in message for message in log.messages)
    whole = make_fit()
    whole.fit()
    assert same(state(fit.model), state(whole.model))


def test_an_earlier_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    make_fit(checkpoint_dir=tmp_path).fit()
    before = (tmp_path / checkpoint.FILE_NAME).read_bytes()
    fit = make_fit(checkpoint_dir=tmp_path)
    weights = state(fit.model)
    with pytest.raises(FileExistsError, match=r"checkpoint of an earlier fit: pass resume=True.*or remove it"):
        fit.fit()
    assert same(state(fit.model), weights)
    assert fit.loop.n_iter == 0
    assert (tmp_path / checkpoint.FILE_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": replace(PLAN, lr=0.5)}, r"lr was 0\.01, is 0\.5"),
        ({"plan": replace(PLAN, max_epochs=9, kl_warmup=0.5)}, r"max_epochs was 4, is 9; kl_warmup was 0\.2, is 0\.5"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"n_validation": 30}, r"training cells was '130 \(.*is '120 \("),
        ({"data": cell_data(151)}, "data was"),
    ],
    ids=["rate", "epochs and warm-up", "seed", "split", "data"],
)
def test_the_checkpoint_of_another_fit_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    make_fit(checkpoint_dir=tmp_path).fit()
    before = (tmp_path / checkpoint.FILE_NAME).read_bytes()
    fit = make_fit(**change, checkpoint_dir=tmp_path)
    weights = state(fit.model)
    with pytest.raises(
        ValueError, match=rf"belongs to another fit: .*{message}.*Train with the same data, options and seed"
    ):
        fit.fit(resume=True)
    assert same(state(fit.model), weights)
    assert (tmp_path / checkpoint.FILE_NAME).read_bytes() == before


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    make_fit(checkpoint_dir=tmp_path).fit()
    path = tmp_path / checkpoint.FILE_NAME
    path.write_bytes(path.read_bytes()[:-9])
    for resume in (True, False):
        with pytest.raises(ValueError, match="no complete checkpoint"):
            make_fit(checkpoint_dir=tmp_path).fit(resume=resume)


# ---- resume through an estimator -------------------------------------------------------------------------------------


def model_of(adata: Any = None, **options: Any) -> scvi.SCVI:
    adata = make_adata() if adata is None else adata
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    return scvi.SCVI(adata, **{**TINY, **options})


@pytest.fixture
def interrupted(ctrl_c: None, tmp_path: Path, every_epoch: None, monkeypatch: pytest.MonkeyPatch) -> scvi.SCVI:
    """A model that was stopped in its second epoch of three, with a checkpoint in `tmp_path`."""
    model = model_of()
    with monkeypatch.context() as patch:
        patch.setattr("scvi.estimators.train.Fit", press_ctrl_c(3))
        model.train(**QUICK, checkpoint_dir=tmp_path)
    return model


def test_resume_in_the_same_session(interrupted: scvi.SCVI, tmp_path: Path) -> None:
    whole = model_of()
    whole.train(**QUICK)
    interrupted.train(**QUICK, checkpoint_dir=tmp_path, resume=True)
    assert same(state(interrupted.module), state(whole.module))
    for name, table in whole.history.items():
        pd.testing.assert_frame_equal(interrupted.history[name], table)
    assert not interrupted.was_interrupted


def test_resume_needs_no_seed(interrupted: scvi.SCVI, tmp_path: Path) -> None:
    whole = model_of()
    whole.train(**QUICK)
    resumed = model_of(seed=5)
    resumed.train(**{**QUICK, "seed": None}, checkpoint_dir=tmp_path, resume=True)
    assert same(state(resumed.module), state(whole.module))
    assert resumed.train_indices.tolist() == whole.train_indices.tolist()


def test_resume_of_a_second_fit(tmp_path: Path, every_epoch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = model_of(), model_of()
    for model in (whole, cut):
        model.train(**QUICK)
    whole.train(**QUICK)
    with monkeypatch.context() as patch:
        patch.setattr("scvi.estimators.train.Fit", cut_power(2))
        with pytest.raises(PowerCut):
            cut.train(**QUICK, checkpoint_dir=tmp_path)
    cut.train(**QUICK, checkpoint_dir=tmp_path, resume=True)
    assert same(state(cut.module), state(whole.module))
    assert whole.history["lr"].index.tolist() == list(range(6))
    for name, table in whole.history.items():
        pd.testing.assert_frame_equal(cut.history[name], table)


def test_the_model_must_be_the_same(interrupted: scvi.SCVI, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_latent was 3, is 4"):
        model_of(n_latent=4).train(**QUICK, checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="gene_likelihood was 'zinb', is 'nb'"):
        model_of(gene_likelihood="nb").train(**QUICK, checkpoint_dir=tmp_path, resume=True)


def test_the_cells_must_be_the_same(interrupted: scvi.SCVI, tmp_path: Path) -> None:
    other = make_adata()
    other.X.data[7] += 1
    model = model_of(other)
    with pytest.raises(ValueError, match=r"data was '[0-9a-f]{16}', is '"):
        model.train(**QUICK, checkpoint_dir=tmp_path, resume=True)
    assert not model.is_trained
    assert model.history == {}


def test_a_refused_fit_leaves_an_untrained_model(interrupted: scvi.SCVI, tmp_path: Path) -> None:
    model = model_of()
    with pytest.raises(FileExistsError, match="pass resume=True"):
        model.train(**QUICK, checkpoint_dir=tmp_path)
    assert not model.is_trained
    with pytest.raises(ValueError, match="resume=True needs checkpoint_dir"):
        model.train(**QUICK, resume=True)
    assert not model.is_trained
