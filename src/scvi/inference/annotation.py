"""Trainers and posteriors of models with a classifier, under the names of 2020."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from scvi._checks import check_integer, check_number
from scvi.dataset import GeneExpressionDataset
from scvi.inference.accuracy import (
    Accuracy,
    classifier_input,
    compute_accuracy,
    compute_accuracy_classifier,
    compute_accuracy_nn,
    compute_accuracy_rf,
    compute_accuracy_svc,
    compute_accuracy_tuple,
    compute_predictions,
)
from scvi.inference.inference import UnsupervisedTrainer
from scvi.inference.loaders import check_trainable, side_by_side
from scvi.inference.posterior import Posterior, metric
from scvi.inference.posterior_utils import unsupervised_clustering_accuracy
from scvi.inference.trainer import Trainer
from scvi.minibatch import Minibatch
from scvi.models.classifier import Classifier
from scvi.models.labels import LabelledVAE
from scvi.models.scanvae import SCANVAE
from scvi.queries.likelihood import elbo, reconstruction

__all__ = [
    "Accuracy",
    "AlternateSemiSupervisedTrainer",
    "AnnotationPosterior",
    "ClassifierTrainer",
    "JointSemiSupervisedTrainer",
    "SemiSupervisedTrainer",
    "compute_accuracy",
    "compute_accuracy_classifier",
    "compute_accuracy_nn",
    "compute_accuracy_rf",
    "compute_accuracy_svc",
    "compute_accuracy_tuple",
    "compute_predictions",
]


class AnnotationPosterior(Posterior):
    """A posterior whose cells a model labels; see :class:`Posterior` for the rest, the order of the cells above all.

    Parameters
    ----------
    *args, **kwargs
        As for :class:`Posterior`.
    model_zl
        The classifier is shown the latent library size beside the latent space.

    Attributes
    ----------
    sampling_model
        The network whose latent space `model` classifies; None where `model` classifies counts, or by itself.
    observed
        (n,) mask over all cells of the data set: whose labels the model may see in scores of its fit. None: all.
    """

    def __init__(self, *args: Any, model_zl: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_zl = model_zl
        self.sampling_model: nn.Module | None = None
        self.observed: npt.NDArray[np.bool_] | None = None

    def own_options(self) -> dict[str, Any]:
        return {"model_zl": self.model_zl}

    def hiding_labels(self) -> AnnotationPosterior:
        """The same cells with the label code -1 where a label is not `observed`: what a model may see."""
        return (
            self
            if self.observed is None
            else self.update({"collate_fn": _Hiding(self.data_loader.collate_fn, self.observed)})
        )

    @metric("min")
    def elbo(self) -> float:
        """Negative evidence lower bound, mean over cells, in nats; labels that are not observed are not used."""
        return -float(elbo(self.model, self.hiding_labels()._asked().minibatches()).mean())

    @metric("min")
    def reconstruction_error(self) -> float:
        """Negative log-likelihood at a draw of the latent variables, mean over cells, in nats; labels as in `elbo`."""
        terms = reconstruction(self.model, self.hiding_labels()._asked().minibatches())
        return -float(sum(values.mean() for values in terms.values()))

    @metric("max")
    def accuracy(self) -> float:
        """Share of cells whose most probable label is the true one."""
        model, classifier = self._networks()
        return compute_accuracy(model, self._asked(), classifier, self.model_zl)

    @metric("max")
    def hierarchical_accuracy(self) -> float:
        """Share of cells whose most probable label is in the group of the true one."""
        model, _ = self._networks()
        if not isinstance(model, SCANVAE) or model.labels_groups is None:
            raise ValueError("labels have no groups in this model: hierarchical_accuracy needs labels_groups")
        groups = model.labels_groups
        true, found = self.compute_predictions()
        return float(np.mean(groups[true] == groups[found]))

    def compute_predictions(self, soft: bool = False) -> tuple[npt.NDArray, npt.NDArray]:
        """True codes (n,), and predicted ones or with `soft` probabilities (n, c); in the order of the iteration."""
        model, classifier = self._networks()
        return compute_predictions(model, self._asked(), classifier, soft, self.model_zl)

    @metric("max")
    def unsupervised_classification_accuracy(self) -> float:
        """Accuracy after the predicted labels were renamed so that it is highest."""
        return unsupervised_clustering_accuracy(*self.compute_predictions())[0]

    def nn_latentspace(self, posterior: Posterior) -> float:
        """Share of the cells of `posterior` to which their 5 nearest neighbours among these cells give their label."""
        from sklearn.neighbors import KNeighborsClassifier

        (here, _, labels), (there, _, true) = self.get_latent(), posterior.get_latent()
        return float(KNeighborsClassifier().fit(here, labels).score(there, true))

    def _networks(self) -> tuple[nn.Module | None, nn.Module | None]:
        """Model and classifier, as :func:`compute_predictions` takes them."""
        return (self.model, None) if self.sampling_model is None else (self.sampling_model, self.model)


class _Hiding:
    """Minibatches in which the labels that are not observed have the code -1."""

    def __init__(self, collate: Any, observed: npt.NDArray[np.bool_]) -> None:
        self.collate, self.observed = collate, observed

    def __call__(self, positions: list[int]) -> list[Tensor]:
        *others, labels = self.collate(positions)
        observed = torch.from_numpy(self.observed[positions])[:, None]
        return [*others, torch.where(observed, labels, -1)]


class ClassifierTrainer(Trainer):
    """Fits a classifier to the labels, by their negative log-probability.

    Parameters
    ----------
    model
        The :class:`scvi.models.Classifier`.
    gene_dataset
        The data.
    train_size, test_size
        See `Trainer.train_test_validation`.
    sampling_model
        A network to whose posterior means of z the classifier is fitted, or one that labels cells by itself and of
        which `model` is the classifier. It is left in evaluation mode, and but for its classifier as it is. None:
        counts are classified.
    sampling_zl
        Show the classifier the latent library size of a `sampling_model` without a classifier of its own, too; it has
        ``n_latent + 1`` inputs then.
    use_cuda
        Train on a GPU if there is one.
    **kwargs
        See `Trainer`.
    """

    train_set: AnnotationPosterior

    def __init__(
        self,
        *args: Any,
        train_size: float | None = 0.8,
        test_size: float | None = None,
        sampling_model: nn.Module | None = None,
        sampling_zl: bool = False,
        use_cuda: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **{**kwargs, "use_cuda": use_cuda})
        self._check_networks(sampling_model, sampling_zl)
        self.sampling_model, self.sampling_zl = sampling_model, sampling_zl
        if sampling_model is not None:
            sampling_model.to(self.device)
        split = self.train_test_validation(train_size=train_size, test_size=test_size, type_class=AnnotationPosterior)
        for posterior in split:
            self._prepare(posterior)
            posterior.to_monitor = ["accuracy"]
        self.train_set, self.test_set, self.validation_set = split  # type: ignore[assignment]

    def _check_networks(self, sampling_model: nn.Module | None, sampling_zl: bool) -> None:
        """Refuses what would fail in the first epoch, or train nothing."""
        if sampling_zl and (sampling_model is None or isinstance(sampling_model, LabelledVAE)):
            what = (
                "no sampling_model"
                if sampling_model is None
                else f"the classifier of a {type(sampling_model).__name__}"
            )
            raise ValueError(f"sampling_zl=True, but {what} reads a latent library size: leave it out")
        if isinstance(sampling_model, LabelledVAE) and self.model is not sampling_model.classifier:
            raise ValueError(
                f"sampling_model is a {type(sampling_model).__name__}, which labels cells by a classifier of its own: "
                "pass sampling_model.classifier as the model"
            )
        n_labels = int(self._data_set().labels.max()) + 1
        if isinstance(self.model, Classifier) and self.model.n_labels < n_labels:
            raise ValueError(
                f"the Classifier has n_labels={self.model.n_labels} for the {n_labels} labels of the data set: make it "
                "with as many"
            )

    def on_training_begin(self) -> None:
        """Puts the sampling model in evaluation mode: its batch norm would go on to learn, its dropout be noise."""
        if self.sampling_model is not None:
            self.sampling_model.eval()
            self.model.train()

    def _prepare(self, posterior: Posterior) -> None:
        if not isinstance(posterior, AnnotationPosterior):
            raise TypeError(f"a {type(posterior).__name__} has no labels to predict: make an AnnotationPosterior")
        posterior.sampling_model, posterior.model_zl = self.sampling_model, self.sampling_zl

    @property
    def posteriors_loop(self) -> Sequence[str]:
        return ["train_set"]

    def loss(self, tensors_labelled: Sequence[Tensor]) -> Tensor:
        """Mean over the cells of -log q(y | x)."""
        mb = Minibatch.from_tensors(tensors_labelled)
        if isinstance(self.sampling_model, LabelledVAE):
            return self.sampling_model.cross_entropy(mb).mean()
        with torch.no_grad():
            inputs = classifier_input(self.sampling_model, mb, self.sampling_zl)
        return nll_loss(_log_probabilities(self.model, inputs), mb.labels[:, 0])

    def compute_predictions(self, soft: bool = False) -> tuple[npt.NDArray, npt.NDArray]:
        """True label codes of all cells, and predictions as :meth:`AnnotationPosterior.compute_predictions`."""
        full = self.create_posterior(type_class=AnnotationPosterior)
        self._prepare(full)
        return full.compute_predictions(soft)  # type: ignore[attr-defined]


def _log_probabilities(classifier: nn.Module, inputs: Tensor) -> Tensor:
    """(n, c); of another network than ours, which gives probabilities, their logarithm."""
    if isinstance(classifier, Classifier):
        return classifier.log_probabilities(inputs)
    return classifier(inputs).clamp(min=torch.finfo(inputs.dtype).tiny).log()


class SemiSupervisedTrainer(UnsupervisedTrainer):
    """Fits a model with a classifier to all cells and to the labels of some.

    The posteriors `full_dataset`, `labelled_set` and `unlabelled_set` are :class:`AnnotationPosterior` objects; others
    may be assigned in place of the last two. The labels of `labelled_set` are the only ones that the model ever sees,
    in training and in the monitored `elbo` and `reconstruction_error`: other cells train the marginal over labels.

    Parameters
    ----------
    model
        A :class:`scvi.models.SCANVI` or :class:`scvi.models.VAEC`.
    gene_dataset
        The data.
    n_labelled_samples_per_class
        Cells of each class in `labelled_set`, all where a class has fewer.
    n_epochs_classifier, lr_classification
        After each epoch, so many epochs of the classifier alone on the labelled cells, with this learning rate.
    classification_ratio
        Weight of the negative log-probability of the labels beside the negative ELBO per cell.
    seed
        Seed of the choice of the labelled cells.
    **kwargs
        See `UnsupervisedTrainer`. Its `train_size` and `test_size` have no effect: all cells are fitted.
    """

    full_dataset: AnnotationPosterior
    labelled_set: AnnotationPosterior
    unlabelled_set: AnnotationPosterior

    def __init__(
        self,
        model: LabelledVAE,
        gene_dataset: GeneExpressionDataset,
        n_labelled_samples_per_class: int = 50,
        n_epochs_classifier: int = 1,
        lr_classification: float = 5 * 1e-3,
        classification_ratio: float = 50,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, LabelledVAE):
            raise TypeError(f"model is a {type(model).__name__}, which has no classifier: pass a SCANVI or a VAEC")
        check_integer("n_labelled_samples_per_class", n_labelled_samples_per_class, 1)
        check_integer("n_epochs_classifier", n_epochs_classifier, 0)
        check_number("lr_classification", lr_classification, "a positive number", above=0)
        check_number("classification_ratio", classification_ratio, "a number of at least 0", least=0)
        super().__init__(model, gene_dataset, **kwargs)
        self.n_epochs_classifier = n_epochs_classifier
        self.lr_classification = lr_classification
        self.classification_ratio = classification_ratio
        self.classifier_trainer = ClassifierTrainer(
            model.classifier,
            gene_dataset,
            metrics_to_monitor=[],
            show_progbar=False,
            frequency=0,
            sampling_model=model,
            batch_size=self.data_loader_kwargs["batch_size"],
            device=self.device,
        )
        labelled, unlabelled = _some_of_each(gene_dataset.labels, n_labelled_samples_per_class, seed)
        self.full_dataset = self.create_posterior(shuffle=True)  # type: ignore[assignment]
        self.labelled_set = self.create_posterior(indices=labelled)  # type: ignore[assignment]
        self.unlabelled_set = self.create_posterior(indices=unlabelled)  # type: ignore[assignment]
        for posterior in (self.labelled_set, self.unlabelled_set):
            posterior.to_monitor = ["reconstruction_error", "accuracy"]

    def register_posterior(self, name: str, value: Posterior) -> None:
        """As `Trainer.register_posterior`; labelled cells are those of the classifier's trainer, too."""
        super().register_posterior(name, value)
        if name.strip("_") == "labelled_set":
            self.classifier_trainer.train_set = value  # type: ignore[assignment]

    def create_posterior(
        self,
        model: nn.Module | None = None,
        gene_dataset: GeneExpressionDataset | None = None,
        shuffle: bool = False,
        indices: npt.ArrayLike | None = None,
        type_class: type[Posterior] = AnnotationPosterior,
    ) -> Posterior:
        return super().create_posterior(model, gene_dataset, shuffle, indices, type_class)

    @property
    def posteriors_loop(self) -> Sequence[str]:
        return ["full_dataset", "labelled_set"]

    def data_loaders_loop(self) -> Iterator[Sequence[Any]]:
        """As that of `Trainer`, without the labels that the model must not see."""
        self._share_observed()
        _, *others = (self._posteriors[name] for name in self.posteriors_loop)
        return side_by_side([self.full_dataset.hiding_labels(), *others])

    def compute_metrics(self) -> None:
        self._share_observed()
        super().compute_metrics()

    def _check_posteriors(self) -> None:
        """Also the labelled cells, where only the classifier in its own epochs reads them."""
        super()._check_posteriors()
        if self.n_epochs_classifier:
            check_trainable("labelled_set", self.labelled_set)

    def _share_observed(self) -> None:
        """Tells every posterior which labels may be seen."""
        observed = np.zeros(len(self._data_set()), dtype=bool)
        observed[self.labelled_set.indices] = True
        for posterior in self._posteriors.values():
            if isinstance(posterior, AnnotationPosterior) and posterior.gene_dataset is self.gene_dataset:
                posterior.observed = observed

    def loss(self, tensors_all: Sequence[Tensor], tensors_labelled: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """The objective of all cells, plus `classification_ratio` times that of the classifier for labelled ones."""
        cross_entropy = self.model.cross_entropy(Minibatch.from_tensors(tensors_labelled)).mean()
        return super().loss(tensors_all) + self.classification_ratio * cross_entropy

    def on_epoch_end(self) -> bool:
        """Trains the classifier, then as `Trainer.on_epoch_end`."""
        if self.n_epochs_classifier:
            self.model.eval()
            # with groups of labels there are two classifiers
            params = [p for name, p in self.model.named_parameters() if name.startswith("classifier")]
            self.classifier_trainer.train(self.n_epochs_classifier, lr=self.lr_classification, params=params)
            self.model.train()
        return super().on_epoch_end()


class JointSemiSupervisedTrainer(SemiSupervisedTrainer):
    """A `SemiSupervisedTrainer` without epochs of the classifier alone."""

    def __init__(self, model: LabelledVAE, gene_dataset: GeneExpressionDataset, **kwargs: Any) -> None:
        super().__init__(model, gene_dataset, **{**kwargs, "n_epochs_classifier": 0})


class AlternateSemiSupervisedTrainer(SemiSupervisedTrainer):
    """A `SemiSupervisedTrainer` that fits the model by its ELBO alone, and the classifier in its own epochs alone."""

    def loss(self, all_tensor: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """The objective of all cells."""
        return UnsupervisedTrainer.loss(self, all_tensor)

    @property
    def posteriors_loop(self) -> Sequence[str]:
        return ["full_dataset"]


def _some_of_each(labels: npt.NDArray, n_per_class: int, seed: int) -> tuple[npt.NDArray, npt.NDArray]:
    """Positions of `n_per_class` cells of each class, chosen at random, and of the others."""
    order = np.random.RandomState(seed).permutation(len(labels))
    codes = pd.Series(np.ravel(labels)[order])
    is_labelled = (codes.groupby(codes).cumcount() < n_per_class).to_numpy()
    return order[is_labelled], order[~is_labelled]
