import math

import pytest

from scvi.inference import Posterior
from scvi.inference.early_stopping import EarlyStopping
from scvi.inference.posterior import metric
from scvi.inference.trainer import EarlyStopping as ByItsOldPath


class Scored(Posterior):
    @metric("max")
    def own(self):
        return 1.0


def answers(stopping, values):
    return [stopping.update(value) for value in values]


def test_stops_one_epoch_after_the_patience_is_used_up(caplog):
    stopping = EarlyStopping("elbo", patience=2, threshold=3)
    with caplog.at_level("INFO", logger="scvi"):
        assert [go_on for go_on, _ in answers(stopping, [100, 99, 98, 50])] == [True, True, True, False]
    assert "no improvement of more than 3 nats in 2 epochs" in caplog.text


def test_a_slow_gain_moves_the_best_value_but_counts_as_none():
    stopping = EarlyStopping("elbo", patience=10, threshold=3)
    answers(stopping, [100, 98, 96, 94])
    assert (stopping.best_performance, stopping.wait, stopping.epoch) == (94, 3, 4)


def test_a_gain_of_the_threshold_restores_the_patience():
    stopping = EarlyStopping("elbo", patience=10, threshold=3)
    answers(stopping, [100, 99, 96])
    assert stopping.wait == stopping.wait_lr == 0


def test_high_values_are_good_where_the_metric_says_so():
    stopping = EarlyStopping("accuracy", patience=10, threshold=0.01)
    answers(stopping, [0.5, 0.6, 0.55])
    assert (stopping.best_performance, stopping.wait) == (0.6, 1)


def test_the_class_of_the_posterior_says_what_is_good_of_both_metrics():
    stopping = EarlyStopping("own", "own", posterior_class=Scored)
    assert (stopping.mode, stopping.mode_save_state) == ("max", "max")
    assert [stopping.update_state(value) for value in (0.5, 0.4, 0.6)] == [True, False, True]
    with pytest.raises(NotImplementedError, match="'own' is not a metric of Posterior"):
        EarlyStopping(save_best_state_metric="own")


def test_nan_is_no_improvement():
    stopping = EarlyStopping("elbo", patience=2)
    assert [go_on for go_on, _ in answers(stopping, [100, math.nan, math.nan, math.nan])] == [True, True, True, False]
    assert stopping.best_performance == 100


def test_the_learning_rate_falls_after_its_own_patience():
    stopping = EarlyStopping("elbo", patience=10, threshold=1, reduce_lr_on_plateau=True, lr_patience=2)
    assert [reduce for _, reduce in answers(stopping, [9, 9, 9, 9, 9, 9])] == [False, False, False, True, False, True]


def test_a_benchmark_never_stops():
    stopping = EarlyStopping("elbo", patience=1, benchmark=True)
    assert answers(stopping, [1, 2, 3, 4]) == [(True, False)] * 4


def test_the_best_state_is_the_strictly_best():
    stopping = EarlyStopping(save_best_state_metric="elbo")
    assert [stopping.update_state(value) for value in (5, 5, 6, 4, math.nan)] == [True, False, False, True, False]


def test_a_name_that_is_no_metric_is_refused_with_the_names_that_are():
    with pytest.raises(NotImplementedError, match=r"'get_latent' is not a metric of Posterior.*elbo.*marginal_ll"):
        EarlyStopping("get_latent")


def test_its_path_of_2020():
    assert ByItsOldPath is EarlyStopping
