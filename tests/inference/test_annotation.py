"""Trainers and posteriors of models with a classifier, and accuracies."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from scvi.inference import (
    AlternateSemiSupervisedTrainer,
    ClassifierTrainer,
    JointSemiSupervisedTrainer,
    Posterior,
    SemiSupervisedTrainer,
    UnsupervisedTrainer,
    load_posterior,
)
from scvi.inference.annotation import (
    AnnotationPosterior,
    compute_accuracy,
    compute_accuracy_classifier,
    compute_accuracy_nn,
    compute_accuracy_rf,
    compute_accuracy_svc,
    compute_accuracy_tuple,
    compute_predictions,
)
from scvi.inference.posterior import metric, unsupervised_clustering_accuracy
from scvi.minibatch import Minibatch
from scvi.models import SCANVI, VAE, VAEC, Classifier

QUIET = {"show_progbar": False, "use_cuda": False}
TRAINERS = pytest.mark.parametrize(
    "trainer_class", [SemiSupervisedTrainer, JointSemiSupervisedTrainer, AlternateSemiSupervisedTrainer]
)
MODELS = pytest.mark.parametrize("model_class", [SCANVI, VAEC])


def scanvi(dataset, model_class=SCANVI, **options):
    torch.manual_seed(0)
    sizes = {"n_hidden": 16, "n_latent": 3}
    return model_class(dataset.nb_genes, dataset.n_batches, dataset.n_labels, **sizes, **options)


def trainer_of(dataset, trainer_class=SemiSupervisedTrainer, model=None, **options):
    model = scanvi(dataset) if model is None else model
    return trainer_class(
        model, dataset, **{"n_labelled_samples_per_class": 5, "n_epochs_kl_warmup": None, **QUIET, **options}
    )


# Semi-supervised training --------------------------------------------------------------------------------------------


@TRAINERS
@MODELS
def test_training(trainer_class, model_class, dataset):
    trainer = trainer_of(dataset, trainer_class, scanvi(dataset, model_class), frequency=2)
    trainer.train(4, lr=1e-2)
    history = trainer.history
    assert set(history) == {
        f"{metric}_{name}"
        for metric in ("elbo", "reconstruction_error", "accuracy")
        for name in ("labelled_set", "unlabelled_set")
    } | {"elbo_full_dataset"}
    assert all(len(values) == 3 and np.isfinite(values).all() for values in history.values())
    assert history["elbo_full_dataset"][-1] < history["elbo_full_dataset"][0]
    assert not trainer.model.training


def test_labelled_cells_are_chosen_in_each_class(dataset):
    state = np.random.get_state()[1].copy()
    trainer = trainer_of(dataset, n_labelled_samples_per_class=7)
    labels = dataset.labels.ravel()
    assert np.bincount(labels[trainer.labelled_set.indices]).tolist() == [7, 7, 7]
    both = [*trainer.labelled_set.indices, *trainer.unlabelled_set.indices]
    assert sorted(both) == list(range(len(dataset)))
    assert np.array_equal(np.random.get_state()[1], state)
    assert trainer.full_dataset.nb_cells == len(dataset)
    assert trainer.labelled_set.indices.tolist() != trainer_of(dataset, seed=1).labelled_set.indices.tolist()
    everything = trainer_of(dataset, n_labelled_samples_per_class=1000)
    assert everything.labelled_set.nb_cells == len(dataset)
    assert everything.unlabelled_set.nb_cells == 0


@TRAINERS
@MODELS
def test_no_label_leaks(trainer_class, model_class, make_dataset):
    """Fits to data sets that differ in the labels of unlabelled cells are the same, bit for bit, and so are scores."""

    def fit(changed):
        dataset = make_dataset()
        trainer = trainer_of(dataset, trainer_class, scanvi(dataset, model_class))
        if changed:
            cells = trainer.unlabelled_set.indices
            dataset.labels[cells] = (dataset.labels[cells] + 1) % 3
        torch.manual_seed(1)
        trainer.train(2, lr=1e-2)
        trainer.compute_metrics()
        torch.manual_seed(2)
        weights = [p.detach().clone() for p in trainer.model.parameters()]
        return weights, trainer.full_dataset.sequential().elbo(), trainer.full_dataset.reconstruction_error()

    (first, *scores), (second, *other_scores) = fit(False), fit(True)
    assert all(map(torch.equal, first, second))
    assert scores[0] == other_scores[0]


def test_labelled_cells_are_used(make_dataset):
    def weights(changed):
        dataset = make_dataset()
        trainer = trainer_of(dataset, AlternateSemiSupervisedTrainer, n_epochs_classifier=0)
        if changed:
            cells = trainer.labelled_set.indices
            dataset.labels[cells] = (dataset.labels[cells] + 1) % 3
        torch.manual_seed(1)
        trainer.train(1)
        return [p.detach().clone() for p in trainer.model.parameters()]

    assert not all(map(torch.equal, weights(False), weights(True)))


def test_the_users_own_labelled_set(dataset):
    trainer = trainer_of(dataset, frequency=1)
    first = dataset.batch_indices.ravel() == 0
    trainer.labelled_set = trainer.create_posterior(indices=first)
    trainer.unlabelled_set = trainer.create_posterior(indices=~first)
    trainer.labelled_set.to_monitor = trainer.unlabelled_set.to_monitor = ["reconstruction_error", "accuracy"]
    trainer.train(2)
    assert isinstance(trainer.labelled_set, AnnotationPosterior)
    assert trainer.classifier_trainer.train_set is trainer.labelled_set
    assert len(trainer.history["accuracy_unlabelled_set"]) == 3
    labels = torch.cat([tensors[4] for tensors in trainer.full_dataset.hiding_labels().sequential()]).ravel()
    assert np.array_equal(labels >= 0, first)
    assert np.array_equal(labels[first], dataset.labels.ravel()[first])
    shown = torch.cat([tensors[4] for tensors in trainer.full_dataset.sequential()]).ravel()
    assert np.array_equal(shown, dataset.labels.ravel())


def test_the_objective(dataset, monkeypatch):
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))
    trainer = trainer_of(dataset, classification_ratio=7)
    trainer.model.eval()
    everything, labelled = next(iter(trainer.full_dataset.hiding_labels())), next(iter(trainer.labelled_set))
    unsupervised = UnsupervisedTrainer.loss(trainer, everything)
    mb = Minibatch.from_tensors(labelled)
    cross_entropy = -trainer.model.classify(mb.x).gather(1, mb.labels).log().mean()
    expected = unsupervised + 7 * cross_entropy
    assert torch.allclose(trainer.loss(everything, labelled), expected, rtol=1e-5)
    assert torch.allclose(trainer.model.cross_entropy(mb).mean(), cross_entropy, rtol=1e-4)
    alternate = trainer_of(dataset, AlternateSemiSupervisedTrainer, trainer.model.eval())
    assert torch.allclose(alternate.loss(everything), unsupervised, rtol=1e-5)
    assert trainer_of(dataset, JointSemiSupervisedTrainer).n_epochs_classifier == 0


def test_epochs_of_the_classifier_train_the_classifier_alone(dataset):
    trainer = trainer_of(dataset, AlternateSemiSupervisedTrainer, n_epochs_classifier=3)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.model.eval()
    trainer.classifier_trainer.train(3)
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all(name.startswith("classifier.") for name in changed)


def test_both_classifiers_of_a_hierarchy_learn_from_labels(dataset):
    model = scanvi(dataset, labels_groups=[0, 0, 1], use_labels_groups=True)
    trainer = trainer_of(dataset, AlternateSemiSupervisedTrainer, model)
    model.eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.on_epoch_end()
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"classifier", "classifier_groups"}


@TRAINERS
def test_too_few_labelled_cells_are_refused_before_the_first_step(trainer_class, dataset):
    trainer = trainer_of(dataset, trainer_class)
    trainer.labelled_set = trainer.create_posterior(indices=[3])
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(ValueError, match="labelled_set has 1 cell"):
        trainer.train(1)
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


@TRAINERS
@MODELS
def test_an_encoder_that_sees_the_batch(trainer_class, model_class, dataset):
    model = scanvi(dataset, model_class, encode_covariates=True)
    trainer = trainer_of(dataset, trainer_class, model, frequency=1)
    trainer.train(1)
    assert len(trainer.history["accuracy_labelled_set"]) == 2


def test_the_batch_is_shown_to_an_encoder_that_sees_it(dataset):
    torch.manual_seed(0)
    vae = VAE(dataset.nb_genes, dataset.n_batches, n_latent=3, n_hidden=16, encode_covariates=True).eval()
    full = AnnotationPosterior(vae, dataset)
    latent = torch.as_tensor(full.get_latent()[0])
    _, found = compute_predictions(vae, full, torch.nn.Identity(), soft=True)
    assert torch.allclose(torch.as_tensor(found), latent, atol=1e-5)


def test_models_without_a_classifier_are_refused(dataset, vae):
    with pytest.raises(TypeError, match="a VAE, which has no classifier"):
        trainer_of(dataset, model=vae)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_labelled_samples_per_class", 0),
        ("n_epochs_classifier", -1),
        ("classification_ratio", -1.0),
        ("lr_classification", 0.0),
    ],
)
def test_bad_options_are_refused(dataset, option, value):
    with pytest.raises(ValueError, match=option):
        trainer_of(dataset, **{option: value})


# Classifiers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize(("sampling", "zl"), [(None, False), ("vae", False), ("vae", True)])
def test_classifier_trainer(dataset, vae, sampling, zl, logits):
    model = None if sampling is None else vae
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    n_input = dataset.nb_genes if model is None else 3 + zl
    classifier = Classifier(n_input, 16, dataset.n_labels, logits=logits)
    trainer = ClassifierTrainer(
        classifier, dataset, train_size=0.6, test_size=0.2, sampling_model=model, sampling_zl=zl, frequency=5, **QUIET
    )
    trainer.train(60, lr=1e-2)
    assert all(torch.equal(p, before[name]) for name, p in vae.named_parameters())
    accuracies = trainer.history["accuracy_train_set"]
    assert len(accuracies) == 13
    assert accuracies[-1] > max(0.6, accuracies[0])
    true, found = trainer.compute_predictions()
    assert np.array_equal(true, dataset.labels.ravel())
    assert found.shape == true.shape
    assert trainer.compute_predictions(soft=True)[1].shape == (len(dataset), 3)
    assert trainer.validation_set.sampling_model is model
    mean = np.mean(true == found)
    full = trainer.create_posterior(type_class=AnnotationPosterior)
    assert compute_accuracy(model, full, classifier, zl) == pytest.approx(mean)


@pytest.mark.parametrize("model_class", [VAE, SCANVI, VAEC])
def test_the_sampling_model_stays_as_it_is(model_class, dataset):
    """Batch norm, too, and also of a network that is in training mode, as new ones are."""
    model = scanvi(dataset, model_class)
    classifier = model.classifier if model_class is not VAE else Classifier(3, 16, dataset.n_labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ClassifierTrainer(classifier, dataset, sampling_model=model, **QUIET).train(1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith("classifier.") for name in changed)
    assert not model.training


def test_networks_that_do_not_go_together_are_refused(dataset, vae):
    with pytest.raises(ValueError, match=r"a SCANVAE, .* pass sampling_model\.classifier"):
        ClassifierTrainer(Classifier(3, n_labels=3), dataset, sampling_model=scanvi(dataset), **QUIET)
    model = scanvi(dataset)
    with pytest.raises(ValueError, match="sampling_zl=True, but the classifier of a SCANVAE"):
        ClassifierTrainer(model.classifier, dataset, sampling_model=model, sampling_zl=True, **QUIET)
    with pytest.raises(ValueError, match="sampling_zl=True, but no sampling_model"):
        ClassifierTrainer(Classifier(dataset.nb_genes, n_labels=3), dataset, sampling_zl=True, **QUIET)
    with pytest.raises(ValueError, match="n_labels=2 for the 3 labels"):
        ClassifierTrainer(Classifier(dataset.nb_genes, n_labels=2), dataset, **QUIET)


def test_the_loss_is_the_log_probability(dataset):
    """Not the softmax of probabilities, whose loss has a floor far above 0."""
    classifier = Classifier(dataset.nb_genes, 64, dataset.n_labels, dropout_rate=0)
    trainer = ClassifierTrainer(classifier, dataset, train_size=1.0, **QUIET)
    trainer.train(200, lr=3e-2)
    tensors = next(iter(trainer.train_set))
    assert trainer.loss(tensors).item() < 0.2  # log(1 + 2 / e) = 0.55 is the floor of the other
    expected = torch.nn.functional.nll_loss(classifier(tensors[0]).log(), tensors[4][:, 0])
    assert torch.allclose(trainer.loss(tensors), expected, rtol=1e-3, atol=1e-5)


def test_a_network_of_the_user_classifies(dataset):
    network = torch.nn.Sequential(torch.nn.Linear(dataset.nb_genes, 3), torch.nn.Softmax(dim=-1))
    trainer = ClassifierTrainer(network, dataset, train_size=1.0, frequency=1, **QUIET)
    trainer.train(3)
    assert len(trainer.history["accuracy_train_set"]) == 4


def test_what_cannot_be_classified_is_refused(dataset, vae):
    full = AnnotationPosterior(vae, dataset)
    with pytest.raises(ValueError, match="both None"):
        compute_predictions(None, full)
    with pytest.raises(TypeError, match="a Linear, which has no latent space"):
        compute_predictions(torch.nn.Linear(3, 3), full, Classifier(3))
    observed = VAE(dataset.nb_genes, use_observed_lib_size=True)
    with pytest.raises(ValueError, match="the library size of this model is observed"):
        compute_predictions(observed, full, Classifier(11), model_zl=True)
    with pytest.raises(TypeError, match="make an AnnotationPosterior"):
        ClassifierTrainer(Classifier(dataset.nb_genes, n_labels=3), dataset, **QUIET)._prepare(Posterior(vae, dataset))


# Posteriors ----------------------------------------------------------------------------------------------------------


def test_scores_of_a_posterior(dataset):
    model = scanvi(dataset, labels_groups=[0, 0, 1])
    posterior = AnnotationPosterior(model, dataset)
    true, found = posterior.compute_predictions()
    probabilities = posterior.compute_predictions(soft=True)[1]
    assert np.array_equal(probabilities.argmax(1), found)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert posterior.accuracy() == pytest.approx(np.mean(true == found))
    groups = np.array([0, 0, 1])
    assert posterior.hierarchical_accuracy() == pytest.approx(np.mean(groups[true] == groups[found]))
    assert posterior.unsupervised_classification_accuracy() == unsupervised_clustering_accuracy(true, found)[0]
    assert 0 <= posterior.nn_latentspace(AnnotationPosterior(model, dataset, indices=range(20))) <= 1
    assert Posterior(model, dataset).accuracy() is None
    with pytest.raises(ValueError, match="needs labels_groups"):
        AnnotationPosterior(scanvi(dataset), dataset).hierarchical_accuracy()
    for name, mode in (("accuracy", "max"), ("elbo", "min"), ("reconstruction_error", "min")):
        assert getattr(AnnotationPosterior, name).mode == getattr(Posterior, name).mode == mode


def test_the_most_accurate_state_is_kept_and_training_stops_by_accuracy(dataset, monkeypatch):
    """High values are good, which `Posterior` says of them as `AnnotationPosterior` does."""
    values = iter([0.0, 0.5, 0.9, 0.6, 0.6, 0.6, 0.6, 0.9])
    monkeypatch.setattr(AnnotationPosterior, "accuracy", metric("max")(lambda self: next(values)))
    trainer = ClassifierTrainer(
        Classifier(dataset.nb_genes, n_hidden=16, n_labels=3),
        dataset,
        train_size=0.5,
        metrics_to_monitor=[],
        early_stopping_kwargs={
            "early_stopping_metric": "accuracy",
            "save_best_state_metric": "accuracy",
            "on": "test_set",
            "patience": 2,
            "threshold": 0.01,
        },
        **QUIET,
    )
    states = []
    monkeypatch.setattr(trainer, "on_epoch_begin", lambda: states.append(deepcopy(trainer.model.state_dict())))
    trainer.train(n_epochs=6)
    assert (trainer.best_epoch, trainer.epoch) == (1, 4)
    assert (trainer.early_stopping.mode, trainer.early_stopping.mode_save_state) == ("max", "max")
    kept, after_the_best = trainer.model.state_dict(), states[2]
    assert all(torch.equal(kept[name], after_the_best[name]) for name in kept)


def test_saving_and_loading(dataset, tmp_path):
    trainer = trainer_of(dataset)
    trainer.full_dataset.save_posterior(tmp_path / "full")
    loaded = load_posterior(tmp_path / "full", scanvi(dataset), use_cuda=False)
    assert isinstance(loaded, AnnotationPosterior)
    assert np.array_equal(
        loaded.sequential().compute_predictions()[1], trainer.full_dataset.sequential().compute_predictions()[1]
    )
    AnnotationPosterior(trainer.model, dataset, model_zl=True).save_posterior(tmp_path / "with library")
    assert load_posterior(tmp_path / "with library", scanvi(dataset), use_cuda=False).model_zl


# Accuracies ----------------------------------------------------------------------------------------------------------


def test_accuracy_tuple():
    found = compute_accuracy_tuple([0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 2, 0])
    assert found.unweighted == pytest.approx(4 / 6)
    assert found.accuracy_classes == pytest.approx([2 / 3, 1, 1 / 2])
    assert found.weighted == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert found.worst == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="2 predictions do not belong to 3 labels"):
        compute_accuracy_tuple([0, 1, 1], [0, 1])


def test_baselines(dataset):
    x, y = np.log1p(np.asarray(dataset.X)), dataset.labels.ravel()
    train, test = np.arange(0, 40), np.arange(40, 60)
    parts = x[train], y[train], x[test], y[test]
    from sklearn.neighbors import KNeighborsClassifier

    for scores in (
        compute_accuracy_svc(*parts, param_grid=[{"C": [1], "kernel": ["linear"]}]),
        compute_accuracy_svc(*parts),
        compute_accuracy_rf(*parts, param_grid={"max_depth": [3], "n_estimators": [10]}),
        compute_accuracy_nn(*parts, k=3),
        compute_accuracy_classifier(KNeighborsClassifier(), *parts),
    ):
        (of_train, of_test), found = scores
        assert found.shape == (20,)
        assert of_test.unweighted == pytest.approx(np.mean(found == y[test]))
        assert of_train.unweighted > 0.8
        assert len(of_test.accuracy_classes) == 3
    assert compute_accuracy_nn(*parts, k=3)[0][0].unweighted == 1.0  # a training cell is its own nearest neighbour


def test_unsupervised_clustering_accuracy():
    accuracy, pairs = unsupervised_clustering_accuracy([0, 1, 0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1])
    assert accuracy == 0.625
    assert pairs.tolist() == [[0, 0], [1, 1]]
    assert unsupervised_clustering_accuracy([5, 5, 7], [1, 1, 0])[0] == 1.0
    with pytest.raises(ValueError, match="1 predictions do not belong to 2 labels"):
        unsupervised_clustering_accuracy([0, 1], [0])
