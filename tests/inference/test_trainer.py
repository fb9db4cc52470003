import io
import pickle
import signal
import sys
import threading
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from scvi.inference import Posterior, Trainer, UnsupervisedTrainer
from scvi.kernels import fused
from scvi.minibatch import Minibatch
from scvi.models import VAE

QUIET = {"show_progbar": False, "use_cuda": False}


def make_trainer(vae, dataset, **kwargs):
    return UnsupervisedTrainer(vae, dataset, **{"train_size": 0.5, **QUIET, **kwargs})


@pytest.fixture
def trainer(vae, dataset):
    return make_trainer(vae, dataset)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


# Posteriors -----------------------------------------------------------------------------------------------------------


def test_a_posterior_assigned_to_any_attribute_is_registered(trainer):
    trainer._mine_ = posterior = trainer.create_posterior(indices=[1, 2])
    assert trainer.mine is trainer._mine_ is posterior
    assert list(trainer._posteriors) == ["train_set", "test_set", "validation_set", "mine"]
    del trainer.mine
    assert "mine" not in trainer._posteriors
    with pytest.raises(AttributeError, match="no attribute 'mine'"):
        trainer.mine  # noqa: B018


def test_a_plain_value_takes_the_place_of_a_posterior(trainer):
    trainer.test_set = None
    assert trainer.test_set is None
    assert "test_set" not in trainer._posteriors
    trainer.test_set = trainer.train_set
    assert trainer.test_set is trainer.train_set


@pytest.mark.parametrize("copied", [deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
def test_copies_of_a_trained_trainer_work(vae, dataset, copied):
    trainer = make_trainer(vae, dataset, frequency=1, early_stopping_kwargs={"save_best_state_metric": "elbo"})
    trainer.train(n_epochs=2)
    copy = copied(trainer)
    assert copy.history == trainer.history
    assert np.array_equal(copy.train_set.indices, trainer.train_set.indices)
    assert same(copy.model.state_dict(), trainer.model.state_dict())
    before = state(trainer.model)
    copy.early_stopping.save_best_state_metric = None
    copy.train(n_epochs=1)
    assert not same(copy.model.state_dict(), before)
    assert same(trainer.model.state_dict(), before)


def test_the_split_depends_on_the_seed_alone_and_leaves_the_global_state(vae, dataset):
    np.random.seed(7)
    expected = np.random.rand()
    np.random.seed(7)
    trainer = make_trainer(vae, dataset, train_size=0.5, test_size=0.3, seed=3)
    assert np.random.rand() == expected
    order = np.random.RandomState(3).permutation(60)
    assert np.array_equal(trainer.test_set.indices, order[:18])
    assert np.array_equal(trainer.train_set.indices, order[18:48])
    assert np.array_equal(trainer.validation_set.indices, order[48:])


def test_corrupted_posteriors_read_the_corrupted_counts(trainer, dataset):
    trainer.corrupt_posteriors(rate=0.5, corruption="binomial")
    corrupted = dataset.corrupted_X
    x, *_ = next(iter(trainer.train_set.sequential()))
    assert np.array_equal(x.numpy(), np.asarray(corrupted)[trainer.train_set.indices])
    trainer.corrupt_posteriors(update_corruption=False)
    assert dataset.corrupted_X is corrupted
    trainer.uncorrupt_posteriors()
    x, *_ = next(iter(trainer.train_set.sequential()))
    assert np.array_equal(x.numpy(), dataset.X[trainer.train_set.indices])


def test_loader_options(vae, dataset):
    trainer = make_trainer(vae, dataset, batch_size=10, data_loader_kwargs={"batch_size": 7}, use_cuda=True)
    assert trainer.batch_size == 10
    assert trainer.data_loader_kwargs == {"batch_size": 7, "pin_memory": True}
    assert trainer.train_set.data_loader.batch_size == 7
    assert trainer.use_cuda is torch.cuda.is_available()


# The loop -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frequency", "n_epochs", "length"), [(1, 3, 4), (2, 4, 3), (2, 3, 3), (None, 3, 0)])
def test_length_of_the_history(vae, dataset, frequency, n_epochs, length):
    trainer = make_trainer(vae, dataset, frequency=frequency)
    trainer.train(n_epochs=n_epochs)
    assert [len(trainer.history[f"elbo_{name}"]) for name in ("train_set", "test_set")] == [length, length]
    assert "elbo_validation_set" not in trainer.history  # it has no cells


def test_a_benchmark_has_no_history(vae, dataset):
    trainer = make_trainer(vae, dataset, frequency=1, benchmark=True)
    trainer.train(n_epochs=1)
    assert not trainer.history


def test_metrics_are_those_of_the_trainer_and_of_the_posterior(vae, dataset):
    trainer = make_trainer(vae, dataset, frequency=1, metrics_to_monitor=["reconstruction_error"])
    trainer.test_set.to_monitor = ["entropy_batch_mixing", "reconstruction_error"]
    trainer.train_set.to_monitor = []
    trainer.train(n_epochs=1)
    assert list(trainer.history) == [
        "reconstruction_error_train_set",
        "entropy_batch_mixing_test_set",
        "reconstruction_error_test_set",
    ]


def test_training_lowers_the_loss_and_leaves_the_model_in_evaluation_mode(vae, dataset):
    trainer = make_trainer(vae, dataset, frequency=30, n_epochs_kl_warmup=None)
    trainer.train(n_epochs=30, lr=1e-2)
    before, after = trainer.history["elbo_train_set"]
    assert after < 0.9 * before
    assert not vae.training
    assert trainer.training_time > 0
    assert trainer.compute_metrics_time > 0


def test_a_second_call_goes_on(trainer):
    trainer.frequency = 1
    trainer.train(n_epochs=2)
    steps, optimizer = trainer.n_iter, trainer.optimizer
    trainer.train(n_epochs=3)
    assert trainer.n_iter == steps + 3 * steps // 2
    assert len(trainer.history["elbo_train_set"]) == 3 + 4
    assert trainer.optimizer is not optimizer
    assert trainer.epoch == 2


def test_same_seed_same_weights(make_dataset):
    def fitted():
        torch.manual_seed(5)
        dataset = make_dataset()
        trainer = make_trainer(VAE(dataset.nb_genes, n_batch=2, n_hidden=16, n_latent=3), dataset)
        trainer.train(n_epochs=2)
        return trainer.model.state_dict()

    assert same(fitted(), fitted())


def test_only_the_given_parameters_are_trained(trainer, vae):
    before = state(vae)
    trainer.train(n_epochs=1, params=vae.z_encoder.parameters())
    after = vae.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("z_encoder") for name in changed)
    assert not {name for name, _ in vae.named_parameters() if not name.startswith("z_encoder")} & changed


def test_the_optimizer_of_2020(trainer):
    trainer.train(n_epochs=1)
    defaults = trainer.optimizer.defaults
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    expected = {"lr": 1e-3, "eps": 0.01, "weight_decay": 1e-6, "betas": (0.9, 0.999), "fused": True}
    assert {name: defaults[name] for name in expected} == expected


def test_metrics_leave_the_mode_of_the_model(trainer, vae):
    trainer.frequency = 1
    modes = []
    trainer.on_iteration_begin = lambda: modes.append(vae.training)
    trainer.train(n_epochs=2)
    assert all(modes)


def test_hooks_run_in_order(vae, dataset):
    calls = []

    class Told(UnsupervisedTrainer):
        def progress(self, epochs):
            for epoch in epochs:
                yield epoch
                calls.append("shown")

    def tell(name):
        method = getattr(Told, name)

        def told(self, *args, **kwargs):
            calls.append(name)
            return method(self, *args, **kwargs)

        setattr(Told, name, told)

    hooks = (
        "make_optimizer", "training_extras_init", "on_training_begin", "on_epoch_begin", "data_loaders_loop",
        "on_iteration_begin", "on_training_loop", "on_iteration_end", "on_epoch_end", "training_extras_end",
        "on_training_end",
    )  # fmt: skip
    for name in hooks:
        tell(name)
    trainer = Told(vae, dataset, **QUIET)
    trainer.train_set = trainer.create_posterior()
    trainer.train(n_epochs=1)
    assert calls == [*hooks[:9], "shown", *hooks[9:]]


def test_an_unknown_argument_is_refused(trainer):
    with pytest.raises(TypeError, match=r"UnsupervisedTrainer\.train has no argument 'learning_rate'"):
        trainer.train(n_epochs=1, learning_rate=1e-3)


def test_the_progress_bar_can_be_hidden(vae, dataset, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    make_trainer(vae, dataset, show_progbar=True).train(n_epochs=1)
    assert "training: 100%" in capsys.readouterr().out
    make_trainer(vae, dataset, show_progbar=False).train(n_epochs=1)
    assert capsys.readouterr() == ("", "")


def test_the_progress_bar_is_for_terminals_and_notebooks(vae, dataset, capsys, monkeypatch):
    make_trainer(vae, dataset, show_progbar=True).train(n_epochs=1)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stdout", None)  # a program without a console
    make_trainer(vae, dataset, show_progbar=True).train(n_epochs=1)

    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stdout", notebook)
    make_trainer(vae, dataset, show_progbar=True).train(n_epochs=1)
    assert "training: 100%" in notebook.getvalue()


def test_the_progress_bar_counts_on_where_an_earlier_run_stopped(vae, dataset, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    trainer = make_trainer(vae, dataset, show_progbar=True)
    trainer.first_epoch = 3
    trainer.train(n_epochs=5)
    shown = capsys.readouterr().out
    assert "3/5" in shown
    assert "5/5" in shown
    assert "0/" not in shown


class Plain(Trainer):
    """A trainer without a data set of 2020."""

    posteriors_loop = ()

    def data_loaders_loop(self):
        for rows in torch.arange(20.0).view(5, 4):
            yield (rows[:, None],)

    def loss(self, x):
        self.seen.append(self.epoch)
        return self.model(x).square().mean()


def test_a_trainer_may_bring_its_own_minibatches_and_first_epoch():
    trainer = Plain(nn.Linear(1, 1), None, show_progbar=False, device="cpu")
    trainer.seen = []
    trainer.first_epoch = 2
    trainer.train(n_epochs=4)
    assert trainer.seen == [2] * 5 + [3] * 5
    with pytest.raises(ValueError, match="this Plain has no gene_dataset"):
        trainer.create_posterior()


class TwoLoaders(UnsupervisedTrainer):
    posteriors_loop = ("long", "short")

    def loss(self, long, short):
        self.seen.append(short[0].sum(1))
        return super().loss(long)


def test_shorter_loaders_begin_again_in_a_new_order(vae, dataset):
    trainer = TwoLoaders(vae, dataset, batch_size=10, **QUIET)
    trainer.seen = []
    trainer.long, trainer.short = trainer.create_posterior(), trainer.create_posterior(indices=np.arange(20))
    trainer.train(n_epochs=1)
    passes = torch.stack(trainer.seen).view(3, 20)
    assert torch.equal(passes.sort().values[0], passes.sort().values[1])
    assert not torch.equal(passes[0], passes[1])


# Bad news -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_epochs", [-1, 1.5, "ten"])
def test_bad_numbers_of_epochs_are_refused(trainer, n_epochs):
    with pytest.raises(ValueError, match="is not a number of epochs"):
        trainer.train(n_epochs=n_epochs)


@pytest.mark.parametrize("rate", [{"lr": 0.0}, {"lr": -1e-3}, {"lr": float("nan")}, {"eps": -0.01}])
def test_bad_rates_are_refused(trainer, rate):
    with pytest.raises(ValueError, match="is not a positive number"):
        trainer.train(n_epochs=1, **rate)


def test_one_training_cell_is_refused(vae, dataset):
    with pytest.raises(ValueError, match=r"train_set has 1 cell, training needs at least 2.*train_size=1.0"):
        make_trainer(vae, dataset, train_size=1).train(n_epochs=1)


def test_minibatches_of_one_cell_are_refused(vae, dataset):
    with pytest.raises(ValueError, match="batch_size=1 for train_set"):
        make_trainer(vae, dataset, batch_size=1).train(n_epochs=1)


def test_a_loader_that_drops_everything_is_refused(vae, dataset):
    with pytest.raises(ValueError, match="drop_last drops all 30 cells of train_set"):
        make_trainer(vae, dataset, data_loader_kwargs={"drop_last": True}).train(n_epochs=1)


class Poisoned(UnsupervisedTrainer):
    """NaN losses at the steps in `bad`."""

    bad = ()

    def __init__(self, model, dataset, **kwargs):
        super().__init__(model, dataset, **kwargs)
        self.train_set = self.create_posterior()

    def loss(self, tensors):
        return super().loss(tensors) * (float("nan") if self.n_iter in self.bad else 1.0)


def test_training_is_given_up_after_many_nan_losses(vae, dataset):
    trainer = Poisoned(vae, dataset, batch_size=10, max_nans=3, **QUIET)
    trainer.bad = range(2, 100)
    with pytest.raises(ValueError, match=r"3 consecutive times.*lower learning rate"):
        trainer.train(n_epochs=2)
    assert not vae.training


def test_a_nan_loss_now_and_then_does_no_harm(vae, dataset, caplog):
    trainer = Poisoned(vae, dataset, batch_size=10, max_nans=2, **QUIET)
    trainer.bad = (1, 3, 5)
    trainer.train(n_epochs=2)
    assert caplog.text.count("Model training loss was NaN") == 3
    assert trainer.nan_counter == 0
    assert all(value.isfinite().all() for value in vae.parameters())


class Interrupted(UnsupervisedTrainer):
    """Ctrl-C in the middle of the third step."""

    times = 1

    def loss(self, tensors):
        if self.n_iter == 2:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return super().loss(tensors)


def interrupted_trainer(vae, dataset, times):
    trainer = Interrupted(vae, dataset, batch_size=10, **QUIET)
    trainer.train_set = trainer.create_posterior()
    trainer.times = times
    return trainer


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_a_usable_model(vae, dataset, caplog):
    trainer = interrupted_trainer(vae, dataset, times=1)
    handler = signal.getsignal(signal.SIGINT)
    trainer.train(n_epochs=5)
    assert trainer.interrupted
    assert (trainer.n_iter, trainer.epoch) == (3, 0)
    assert not vae.training
    assert signal.getsignal(signal.SIGINT) is handler
    assert "interrupted in epoch 1 of 5" in caplog.text
    assert np.isfinite(trainer.train_set.elbo())
    trainer.train(n_epochs=1)
    assert not trainer.interrupted


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_stops_at_once(vae, dataset):
    trainer = interrupted_trainer(vae, dataset, times=2)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(n_epochs=5)
    assert trainer.n_iter == 2
    assert signal.getsignal(signal.SIGINT) is handler
    assert not vae.training


def test_training_works_outside_the_main_thread(trainer):
    thread = threading.Thread(target=trainer.train, kwargs={"n_epochs": 1})
    thread.start()
    thread.join()
    assert trainer.n_iter == 1


# Early stopping -------------------------------------------------------------------------------------------------------


class Scripted(Posterior):
    """A posterior whose ELBO is read from a list."""

    def elbo(self):
        return self.script.pop(0)

    elbo.mode = "min"


def scripted_trainer(vae, dataset, script, frequency=None, **stopping):
    trainer = make_trainer(vae, dataset, frequency=frequency, early_stopping_kwargs=stopping)
    trainer.test_set = trainer.create_posterior(indices=trainer.test_set.indices, type_class=Scripted)
    trainer.test_set.script = list(script)
    return trainer


def test_early_stopping_needs_no_frequency(vae, dataset):
    trainer = scripted_trainer(vae, dataset, [10.0] * 10, early_stopping_metric="elbo", patience=2)
    trainer.train(n_epochs=20)
    assert trainer.epoch == 3
    assert not trainer.history


def test_early_stopping_sees_every_epoch_whatever_the_frequency(vae, dataset):
    values = [90.0, 80, 70, 60, 50, 40, 30, 20, 10, 0, -10]  # before training and after each epoch
    trainer = scripted_trainer(vae, dataset, values, frequency=5, early_stopping_metric="elbo", patience=2)
    trainer.train(n_epochs=10)
    assert trainer.epoch == 9
    assert trainer.history["elbo_test_set"] == [90, 40, -10]


def test_the_best_weights_are_a_copy(vae, dataset):
    values = [9.0, 5, 1, 2, 3]  # before training and after each epoch
    trainer = scripted_trainer(vae, dataset, values, save_best_state_metric="elbo")
    states = []
    trainer.on_epoch_begin = lambda: states.append(state(vae))
    trainer.train(n_epochs=4)
    assert trainer.best_epoch == 1
    assert same(vae.state_dict(), states[2])
    assert not same(states[2], states[3])


def test_the_learning_rate_is_reduced(vae, dataset, caplog):
    trainer = scripted_trainer(
        vae, dataset, [1.0] * 9, early_stopping_metric="elbo", reduce_lr_on_plateau=True, lr_patience=2, lr_factor=0.1
    )
    with caplog.at_level("INFO", logger="scvi"):
        trainer.train(n_epochs=4, lr=1e-2)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    assert "Reducing LR on epoch 3" in caplog.text


def test_patience_is_restored_by_a_further_call(vae, dataset):
    trainer = scripted_trainer(vae, dataset, [1.0] * 20, early_stopping_metric="elbo", patience=2)
    trainer.train(n_epochs=10)
    trainer.train(n_epochs=10)
    assert trainer.epoch == 2


def test_early_stopping_on_nothing_is_refused(vae, dataset):
    trainer = make_trainer(vae, dataset, train_size=1.0, early_stopping_kwargs={"early_stopping_metric": "elbo"})
    with pytest.raises(ValueError, match=r"on='test_set', which has no cells; posteriors with cells: train_set"):
        trainer.train(n_epochs=1)


def test_weights_draws_and_dropout_follow_the_global_seed_of_torch(dataset):
    def trained(seed, seed_of_training):
        torch.manual_seed(seed)
        model = VAE(dataset.nb_genes, n_batch=dataset.n_batches, n_hidden=16, n_latent=3)
        torch.manual_seed(seed_of_training)
        make_trainer(model, dataset).train(n_epochs=2)
        return state(model)

    first = trained(1, 2)
    assert same(first, trained(1, 2))
    assert not same(first, trained(1, 3))
    assert not same(first, trained(3, 2))


# The objective --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("normalize_loss", "scale"), [(None, 1), (True, 1), (False, 30)])
def test_the_loss_is_the_weighted_negative_elbo(vae, dataset, normalize_loss, scale):
    trainer = make_trainer(vae, dataset, normalize_loss=normalize_loss, n_epochs_kl_warmup=4)
    trainer.epoch = 1
    vae.eval()
    tensors = next(iter(trainer.train_set))
    torch.manual_seed(1)
    loss = trainer.loss(tensors)
    torch.manual_seed(1)
    expected = vae.loss(Minibatch.from_tensors(tensors)).objective(kl_weight=0.25)
    assert loss.item() == pytest.approx(scale * expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("epochs", "iterations", "epoch", "n_iter", "weight"),
    [
        (400, None, -1, 0, 0.0),
        (400, None, 100, 0, 0.25),
        (400, 10, 100, 10, 0.25),
        (400, None, 900, 0, 1.0),
        (None, 10, 0, 5, 0.5),
        (None, None, 0, 0, 1.0),
        (0, None, 0, 0, 1.0),
        (None, 0, 0, 0, 1.0),
    ],
)
def test_kl_weight(vae, dataset, epochs, iterations, epoch, n_iter, weight):
    trainer = make_trainer(vae, dataset, n_epochs_kl_warmup=epochs, n_iter_kl_warmup=iterations)
    trainer.epoch, trainer.n_iter = epoch, n_iter
    assert trainer.kl_weight == weight


def test_a_negative_warmup_is_refused(vae, dataset):
    with pytest.raises(ValueError, match="n_epochs_kl_warmup=-1 is negative"):
        make_trainer(vae, dataset, n_epochs_kl_warmup=-1)


@pytest.mark.parametrize(
    ("warmup", "messages"),
    [
        ({"n_epochs_kl_warmup": 400}, ["KL warmup for 400 epochs", "exceeds", "still in warming up"]),
        ({"n_epochs_kl_warmup": 1}, ["KL warmup for 1 epochs"]),
        ({"n_epochs_kl_warmup": None, "n_iter_kl_warmup": 9}, ["KL warmup for 9 iterations", "exceeds", "still in"]),
        ({"n_epochs_kl_warmup": None}, ["Training without KL warmup"]),
    ],
)
def test_the_warmup_is_logged(vae, dataset, caplog, warmup, messages):
    with caplog.at_level("INFO", logger="scvi.inference"):
        make_trainer(vae, dataset, **warmup).train(n_epochs=2)
    assert len(caplog.messages) == len(messages)
    assert all(part in message for part, message in zip(messages, caplog.messages, strict=True))


@pytest.mark.parametrize("option", ["early_stopping_metric", "save_best_state_metric"])
@pytest.mark.parametrize("name", ["entropy_batch_mixing", "accuracy"])
def test_following_a_metric_without_a_value_is_refused_before_training(option, name, make_dataset):
    trainer = make_trainer(VAE(20, n_hidden=16), make_dataset(n_batches=1), early_stopping_kwargs={option: name})
    with pytest.raises(ValueError, match=f"'{name}' on 'test_set', where it has no value"):
        trainer.train(n_epochs=2)
    assert trainer.n_iter == 0


def test_unknown_metrics_are_refused(vae, dataset):
    with pytest.raises(ValueError, match=r"'elboo' is not among .*'elbo', 'entropy_batch_mixing'"):
        make_trainer(vae, dataset, metrics_to_monitor=["elboo"])


@pytest.mark.parametrize(("batch_size", "drop_last"), [(7, False), (16, False), (25, False), (7, True), (40, False)])
def test_planned_iterations_are_those_that_come(vae, dataset, batch_size, drop_last, caplog):
    options = {"batch_size": batch_size, "drop_last": drop_last}
    trainer = make_trainer(vae, dataset, n_epochs_kl_warmup=None, n_iter_kl_warmup=10**6, data_loader_kwargs=options)
    with caplog.at_level("INFO", logger="scvi"):
        trainer.train(n_epochs=2)
    assert f"{trainer.n_iter} of training" in caplog.text


@pytest.mark.parametrize("n_samples", [40.0, 41.0, 328.0])
def test_the_likelihood_gets_the_gradient_that_it_expects(vae, dataset, monkeypatch, n_samples):
    """Any other costs a second pass; n (1 / n) is not 1 in float32 for n = 41."""
    said, expected = [], fused._as_expected
    monkeypatch.setattr(fused, "_as_expected", lambda *given: said.append(expected(*given)) or said[-1])
    trainer = make_trainer(vae, dataset)
    trainer.n_samples = n_samples
    trainer.train(n_epochs=1)
    assert said
    assert all(said)


def test_a_subclass_may_set_and_shadow_what_the_loop_keeps(vae, dataset):
    class Early(UnsupervisedTrainer):
        def __init__(self, *args, **kwargs):
            self.n_epochs = 3
            super().__init__(*args, **kwargs)
            self.train_set, self.test_set, self.validation_set = self.train_test_validation(train_size=0.8)

    class Shadowing(Early):
        n_epochs = 7

    for kind in (Early, Shadowing):
        trainer = kind(vae, dataset, frequency=5, use_cuda=False, show_progbar=False)
        trainer.train(3)
        assert len(trainer.history["elbo_train_set"]) == 2  # before the first epoch and after the last
