"""The annotation tutorial, on real cells of two protocols."""

import numpy as np
import pytest

import scvi
from scvi.dataset import AnnDatasetFromAnnData
from scvi.inference import (
    AlternateSemiSupervisedTrainer,
    JointSemiSupervisedTrainer,
    SemiSupervisedTrainer,
    UnsupervisedTrainer,
)
from scvi.inference.annotation import compute_accuracy_rf, compute_accuracy_svc
from scvi.models import SCANVI, VAE

pytestmark = pytest.mark.slow
QUIET = {"show_progbar": False, "use_cuda": False}


@pytest.fixture(scope="module")
def gene_dataset(real_cells):
    return AnnDatasetFromAnnData(real_cells, batch_label="protocol", ctype_label="cell_type")


def from_one_protocol_to_the_other(trainer, gene_dataset):
    """Labels of one protocol are known, those of the other are hidden."""
    for name, batch in (("labelled_set", 0), ("unlabelled_set", 1)):
        posterior = trainer.create_posterior(indices=(gene_dataset.batch_indices == batch).ravel())
        posterior.to_monitor = ["reconstruction_error", "accuracy"]
        setattr(trainer, name, posterior)


def scanvi_of(gene_dataset, **options):
    return SCANVI(gene_dataset.nb_genes, gene_dataset.n_batches, gene_dataset.n_labels, **options)


@pytest.fixture(scope="module")
def trained(gene_dataset):
    scvi.set_seed(0)
    trainer = SemiSupervisedTrainer(scanvi_of(gene_dataset), gene_dataset, frequency=5, n_epochs_kl_warmup=10, **QUIET)
    from_one_protocol_to_the_other(trainer, gene_dataset)
    trainer.train(30, lr=5e-3)
    return trainer


def test_accuracies_of_both_protocols(trained):
    labelled, unlabelled = (trained.history[f"accuracy_{name}_set"] for name in ("labelled", "unlabelled"))
    assert len(labelled) == len(unlabelled) == 30 // 5 + 1
    assert labelled[-1] > 0.98
    assert unlabelled[-1] > 0.9
    for values in (trained.history["elbo_full_dataset"], trained.history["reconstruction_error_unlabelled_set"]):
        assert values[-1] < 0.5 * values[0]


def test_predictions(trained, gene_dataset):
    labels, predicted = trained.unlabelled_set.sequential().compute_predictions()
    assert np.array_equal(labels, gene_dataset.labels.ravel()[trained.unlabelled_set.indices])
    assert np.mean(labels == predicted) == pytest.approx(trained.history["accuracy_unlabelled_set"][-1])
    assert trained.labelled_set.nn_latentspace(trained.unlabelled_set) > 0.8
    assert 0 < trained.full_dataset.entropy_batch_mixing() <= np.log(2)


def test_a_picture_and_differences(trained, gene_dataset):
    panels = trained.full_dataset.show_t_sne(n_samples=200, color_by="batches and labels")
    assert [axes.get_title() for axes in panels] == ["batches", "labels"]
    one, other = (gene_dataset.labels.ravel() == line for line in (0, 4))
    table = trained.full_dataset.differential_expression_score(one, other, n_samples=100, M_permutation=10_000)
    ratio = np.log2((table["raw_normalized_mean1"] + 0.01) / (table["raw_normalized_mean2"] + 0.01))
    assert table["proba_m1"][ratio > 3].min() > 0.8
    assert table["proba_m1"][ratio < -3].max() < 0.2


def test_weights_of_scvi_are_a_start(gene_dataset):
    scvi.set_seed(0)
    vae = VAE(gene_dataset.nb_genes, gene_dataset.n_batches, gene_dataset.n_labels)
    first = UnsupervisedTrainer(vae, gene_dataset, train_size=1.0, n_epochs_kl_warmup=10, **QUIET)
    first.train(30, lr=5e-3)
    options = {"classifier_parameters": {"dropout_rate": 0.2, "n_hidden": 256, "n_layers": 2}}
    scanvi = scanvi_of(gene_dataset, **options)
    scanvi.load_state_dict(vae.state_dict(), strict=False)
    trainer = SemiSupervisedTrainer(scanvi, gene_dataset, frequency=5, n_epochs_kl_warmup=None, **QUIET)
    from_one_protocol_to_the_other(trainer, gene_dataset)
    trainer.compute_metrics()
    assert trainer.history["elbo_full_dataset"][0] < 1.2 * first.train_set.elbo()
    trainer.train(15, lr=1e-4)
    assert trainer.unlabelled_set.accuracy() > 0.8


@pytest.mark.parametrize("trainer_class", [JointSemiSupervisedTrainer, AlternateSemiSupervisedTrainer])
def test_few_labels(trainer_class, real_cells):
    gene_dataset = AnnDatasetFromAnnData(real_cells, batch_label="batch", ctype_label="cell_type")
    trainer = trainer_class(
        scanvi_of(gene_dataset),
        gene_dataset,
        n_labelled_samples_per_class=10,
        classification_ratio=100,
        n_epochs_kl_warmup=10,
        n_epochs_classifier=5,
        **QUIET,
    )
    trainer.train(30, lr=5e-3)
    assert trainer.labelled_set.nb_cells == 50
    assert trainer.unlabelled_set.accuracy() > 0.9


def test_baselines(trained):
    data_train, labels_train = trained.labelled_set.raw_data()
    data_test, labels_test = trained.unlabelled_set.raw_data()
    small = {"param_grid": [{"C": [1], "kernel": ["linear"]}]}
    for scores, _ in (
        compute_accuracy_svc(data_train, labels_train, data_test, labels_test, **small),
        compute_accuracy_rf(
            data_train, labels_train, data_test, labels_test, param_grid={"max_depth": [9], "n_estimators": [50]}
        ),
    ):
        assert scores[0].unweighted > 0.95
        assert 0 < scores[1].worst <= scores[1].weighted <= 1
