"""Advice of a check names what would be a change, and nothing that was done already."""

from typing import Any

import pytest

import scvi
from asking import make
from scvi.estimators import advice
from scvi.estimators.advice import Done
from small_cells import KEYS, QUICK, make_adata


def fitted(cls: type[Any] = scvi.SCVI, setup: Any = None, **arguments: Any) -> Any:
    """A model by its options and, as `train`, the arguments of its fit."""
    train = arguments.pop("train", {})
    model = make(cls, make_adata(), setup, **arguments)
    model.train(**{**QUICK, **train})
    return model


@pytest.mark.parametrize(
    ("cls", "options", "batches", "changes"),
    [
        (scvi.SCVI, {"gene_likelihood": "poisson"}, True, ["gene_likelihood 'nb' or 'zinb' in place of 'poisson'"]),
        (scvi.SCVI, {"gene_likelihood": "nb"}, False, ["gene_likelihood 'zinb' in place of 'nb'"]),
        (scvi.SCVI, {"gene_likelihood": "nb"}, True, ["'zinb' in place of 'nb', or dispersion='gene-batch'"]),
        (scvi.SCVI, {"gene_likelihood": "zinb"}, True, ["narrow: dispersion='gene-batch'"]),
        (scvi.SCVI, {"gene_likelihood": "zinb", "dispersion": "gene-batch"}, True, ["no option makes it wider"]),
        (scvi.SCVI, {"gene_likelihood": "zinb"}, False, ["no option makes it wider"]),
        (scvi.TOTALVI, {"gene_likelihood": "zinb"}, True, ["narrow: gene_dispersion='gene-batch'"]),
        (scvi.AUTOZI, {}, True, ["narrow: dispersion='gene-batch'"]),
    ],
)
def test_a_likelihood_that_is_too_narrow(cls, options, batches, changes):
    setup = {"batch_key": "batch"} if batches else {}
    done = Done.by(make(cls, make_adata(), setup, **options))
    text = advice.other_noise(done, "genes", is_wider=False)
    assert all(change in text for change in changes), text
    for name, value in options.items():
        assert f"{name}={value!r}" not in text
        assert f"{name} {value!r}" not in text


def test_proteins_have_a_dispersion_of_their_own():
    both = [
        make(scvi.TOTALVI, setup={"batch_key": "batch"}, protein_dispersion=x) for x in ("protein", "protein-batch")
    ]
    first, second = (advice.other_noise(Done.by(model), "proteins", is_wider=False) for model in both)
    assert first.endswith("narrow: protein_dispersion='protein-batch'")
    assert "no option makes it wider" in second
    assert "likelihood" not in advice.other_zeros(Done.by(both[0]), "proteins")


def test_of_two_data_sets_each_has_its_likelihood():
    model = fitted(scvi.GIMVI, train={"kappa": 7.0})
    done = Done.by(model)
    seq, spatial = (done.of(cells.schema, number) for number, cells in enumerate(model._data_sets))
    assert "generative_distributions 'nb' with 'zinb', which this fit has" in advice.other_zeros(seq, "genes")
    assert "generative_distributions 'zinb' in place of 'nb'" in advice.other_noise(spatial, "genes", False)
    assert "kappa above 7" in advice.more_mixing(done, is_of_data_sets=True)
    assert "covariate" not in advice.more_mixing(seq, is_of_data_sets=False)  # it takes none


def test_a_likelihood_that_is_too_wide():
    wide, narrow = (Done.by(make(scvi.SCVI, gene_likelihood=name)) for name in ("zinb", "nb"))
    assert "gene_likelihood 'nb' in place of 'zinb'" in advice.other_noise(wide, "genes", is_wider=True)
    assert "in place of" not in advice.other_noise(narrow, "genes", is_wider=True)


def test_zeros_are_compared_with_another_likelihood():
    text = advice.other_zeros(Done.by(make(scvi.SCVI, gene_likelihood="nb")), "genes")
    assert text.startswith("compare gene_likelihood 'zinb' with 'nb', which this fit has")


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"max_epochs": 3}, "train longer: a further train() goes on from here, max_epochs above 3 begins anew"),
        ({"max_epochs": None, "preset": "quick", "max_steps": 4}, "max_steps above 4"),
        (
            {
                "max_epochs": 30,
                "early_stopping": True,
                "early_stopping_min_delta": 1e6,
                "early_stopping_patience": 2,
                "kl_warmup": 0.0,
            },
            "early stopping ended the fit after 3 epochs, as elbo_validation got no better",
        ),
        ({"max_epochs": 3, "early_stopping": True}, "max_epochs above 3"),  # which did not end it
    ],
)
def test_what_ended_the_fit_is_what_is_to_change(train, words):
    assert words in fitted(train=train).check(seed=0)["convergence"].advice


def test_a_quick_fit_that_early_stopping_did_not_end_is_not_said_to_be_stopped():
    told = {"max_epochs": None, "preset": "quick", "early_stopping": True, "early_stopping_patience": 1000}
    model = fitted(train={**told, "batch_size": 4})
    assert len(model.history["elbo_train"]) < 50  # as many as there are without the preset
    assert "train() without preset='quick' begins anew" in Done.by(model).longer


def test_more_epochs_are_not_advised_where_losses_are_flat():
    model = fitted()
    for name in ("elbo_train", "elbo_validation"):
        model.history[name].iloc[:, 0] = [300.0, 100.0, 100.0]
    found = model.check(seed=0)
    assert found["convergence"].level == "good"
    doubts = [verdict for verdict in found.verdicts if verdict.level != "good"]
    assert doubts
    assert not [verdict for verdict in doubts if "train longer" in verdict.advice or "max_epochs" in verdict.advice]
    assert f"n_latent above {model.options['n_latent']}" in found["under-fitting"].advice


def test_early_stopping_is_not_advised_where_it_was_on():
    plain, stopped, other, by_default = (
        Done.by(fitted(train=train))
        for train in (
            {},
            {"early_stopping": True},
            {"early_stopping": True, "early_stopping_monitor": "elbo_train"},
            {"max_epochs": None, "max_steps": 4},
        )
    )
    assert "train(early_stopping=True), or max_epochs=2" in advice.against_overfitting(plain, 2)
    for done in (stopped, by_default):  # by default, too, it goes back to its best weights
        text = advice.against_overfitting(done, 2)
        assert "early_stopping=True" not in text
        assert "went back to the weights" in text
    assert "not 'elbo_train'" in advice.against_overfitting(other, 2)


def test_keys_that_were_given_are_not_advised():
    bare, with_batch, full = (
        Done.by(make(scvi.SCVI, make_adata(), setup)) for setup in ({}, {"batch_key": "batch"}, KEYS)
    )
    assert "as batch_key or as a covariate" in advice.for_residuals(bare, "treated", False)
    assert "as a covariate, beside the batch_key" in advice.for_residuals(with_batch, "treated", False)
    assert "was told 'treated'" in advice.for_residuals(full, "treated", False)
    assert "categorical_covariate_keys" in advice.more_mixing(with_batch, False)
    assert "categorical_covariate_keys" not in advice.more_mixing(full, False)
    labelled = Done.by(make(scvi.CondSCVI))
    assert "was told 'cell_type'" in advice.for_residuals(labelled, "cell_type", False)


def test_a_weight_that_was_told_is_what_to_leave_out():
    done = Done.by(fitted(train={"plan_kwargs": {"max_kl_weight": 0.5}}))
    assert advice.for_full_weight(done) == "leave max_kl_weight=0.5 out of plan_kwargs"


def test_where_nothing_is_left_it_is_said():
    done = Done(call={}, longer="", schema=Done.by(make(scvi.SCVI, make_adata(), KEYS)).schema)
    assert "no option is left that is not in force" in advice.more_mixing(done, False)
    assert advice.for_residuals(done, "batch", True).endswith("nothing is left to change")
