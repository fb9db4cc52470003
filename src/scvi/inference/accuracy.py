"""How often predicted labels are right, of a model and of classifiers of counts or latent spaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scvi.minibatch import Minibatch
from scvi.models.labels import LabelledVAE
from scvi.models.vae import VAE
from scvi.queries.evaluation import asked_parts

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

__all__ = [
    "Accuracy",
    "classifier_input",
    "compute_accuracy",
    "compute_accuracy_classifier",
    "compute_accuracy_nn",
    "compute_accuracy_rf",
    "compute_accuracy_svc",
    "compute_accuracy_tuple",
    "compute_predictions",
]

Cells = Iterable[Sequence[Tensor]]
Scores = tuple[tuple["Accuracy", "Accuracy"], npt.NDArray]


class Accuracy(NamedTuple):
    """Shares of cells whose label is right.

    `unweighted` is that of all cells, `weighted` the mean over classes, `worst` the lowest of a class, and
    `accuracy_classes` has one for each class.
    """

    unweighted: float
    weighted: float
    worst: float
    accuracy_classes: list[float]


# Of networks ----------------------------------------------------------------------------------------------------------


def classifier_input(model: nn.Module | None, mb: Minibatch, model_zl: bool = False) -> Tensor:
    """What a classifier of its own is shown of cells.

    Posterior means of z under `model`, with `model_zl` beside those of the log library size; without a model, counts.
    """
    if model is None:
        return mb.x
    if not isinstance(model, VAE):
        raise TypeError(f"model is a {type(model).__name__}, which has no latent space to classify: pass a VAE or None")
    q = model.variational(mb)
    if not model_zl:
        return q.z.loc
    if q.l is None:
        raise ValueError("model_zl=True classifies the latent library size; the library size of this model is observed")
    return torch.cat([q.z.loc, q.l.loc], dim=-1)


def compute_predictions(
    model: nn.Module | None,
    data_loader: Cells,
    classifier: nn.Module | None = None,
    soft: bool = False,
    model_zl: bool = False,
) -> tuple[npt.NDArray, npt.NDArray]:
    """True labels and what is predicted of them.

    Parameters
    ----------
    model
        A network that classifies by itself, one whose latent space `classifier` takes, or None: counts are classified.
    data_loader
        Minibatches as a `Posterior` yields them.
    classifier
        A classifier beside the model.
    soft
        Probabilities instead of codes.
    model_zl
        Show the classifier the latent library size, too.

    Returns
    -------
    (n,) codes, and (n,) codes or (n, c) probabilities, both in the order of `data_loader`
    """
    networks = [network for network in (model, classifier) if network is not None]
    if not networks:
        raise ValueError("model and classifier are both None: pass one of them")

    def answer(mb: Minibatch) -> dict[str, Tensor]:
        if isinstance(model, LabelledVAE):
            outputs = model.log_probabilities(mb).exp()
        elif classifier is not None:
            outputs = classifier(classifier_input(model, mb, model_zl))
        else:
            outputs = networks[0](mb.x)
        return {"true": mb.labels[:, 0], "found": outputs if soft else outputs.argmax(dim=-1)}

    answers = asked_parts(nn.ModuleList(networks), map(Minibatch.from_tensors, data_loader), answer)
    if not answers:
        raise ValueError("the posterior yields no cells, of which there are no predictions")
    return answers["true"], answers["found"]


def compute_accuracy(
    vae: nn.Module | None, data_loader: Cells, classifier: nn.Module | None = None, model_zl: bool = False
) -> float:
    """Share of cells whose predicted label is right; arguments as :func:`compute_predictions`."""
    true, found = compute_predictions(vae, data_loader, classifier, model_zl=model_zl)
    return float(np.mean(true == found))


def compute_accuracy_tuple(y: npt.ArrayLike, y_pred: npt.ArrayLike) -> Accuracy:
    """Of true and predicted codes (n,)."""
    y, y_pred = np.ravel(y), np.ravel(y_pred)
    if len(y) == 0 or len(y) != len(y_pred):
        raise ValueError(f"{len(y_pred)} predictions do not belong to {len(y)} labels: give one for each, at least one")
    _, codes = np.unique(y, return_inverse=True)
    by_class = np.bincount(codes, weights=y == y_pred) / np.bincount(codes)
    return Accuracy(float(np.mean(y == y_pred)), float(by_class.mean()), float(by_class.min()), by_class.tolist())


# Baselines ------------------------------------------------------------------------------------------------------------


def compute_accuracy_nn(
    data_train: npt.ArrayLike,
    labels_train: npt.ArrayLike,
    data_test: npt.ArrayLike,
    labels_test: npt.ArrayLike,
    k: int = 5,
) -> Scores:
    """Of k nearest neighbours, weighted by their distance; as :func:`compute_accuracy_classifier`."""
    from sklearn.neighbors import KNeighborsClassifier

    clf = KNeighborsClassifier(n_neighbors=k, weights="distance")
    return compute_accuracy_classifier(clf, data_train, labels_train, data_test, labels_test)


def compute_accuracy_classifier(
    clf: BaseEstimator,
    data_train: npt.ArrayLike,
    labels_train: npt.ArrayLike,
    data_test: npt.ArrayLike,
    labels_test: npt.ArrayLike,
) -> Scores:
    """Fits a classifier of scikit-learn and scores it.

    Returns
    -------
    ((accuracy of the training cells, accuracy of the test cells), (n_test,) predictions)
    """
    clf.fit(data_train, np.ravel(labels_train))
    found = clf.predict(data_test)
    train = compute_accuracy_tuple(labels_train, clf.predict(data_train))
    return (train, compute_accuracy_tuple(labels_test, found)), found


def compute_accuracy_svc(
    data_train: npt.ArrayLike,
    labels_train: npt.ArrayLike,
    data_test: npt.ArrayLike,
    labels_test: npt.ArrayLike,
    param_grid: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    verbose: int = 0,
    max_iter: int = -1,
) -> Scores:
    """Of a support vector machine whose options are chosen by threefold cross-validation.

    Parameters
    ----------
    param_grid
        Options to choose from; None: linear kernels, and radial ones of two widths, with C from 1 to 1000.
    verbose, max_iter
        Of `sklearn.model_selection.GridSearchCV` and `sklearn.svm.SVC`.
    """
    from sklearn.svm import SVC

    if param_grid is None:
        penalties = [1, 10, 100, 1000]
        param_grid = [
            {"C": penalties, "kernel": ["linear"]},
            {"C": penalties, "gamma": [1e-3, 1e-4], "kernel": ["rbf"]},
        ]
    return _of_best(SVC(max_iter=max_iter), param_grid, verbose, data_train, labels_train, data_test, labels_test)


def compute_accuracy_rf(
    data_train: npt.ArrayLike,
    labels_train: npt.ArrayLike,
    data_test: npt.ArrayLike,
    labels_test: npt.ArrayLike,
    param_grid: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    verbose: int = 0,
) -> Scores:
    """Of a random forest whose depth (3 to 9) and size (10 to 200) are chosen by threefold cross-validation."""
    from sklearn.ensemble import RandomForestClassifier

    if param_grid is None:
        param_grid = {"max_depth": np.arange(3, 10).tolist(), "n_estimators": [10, 50, 100, 200]}
    forest = RandomForestClassifier(max_depth=2, random_state=0)
    return _of_best(forest, param_grid, verbose, data_train, labels_train, data_test, labels_test)


def _of_best(clf: BaseEstimator, param_grid: Any, verbose: int, *cells: npt.ArrayLike) -> Scores:
    """Of a classifier with the options that are best in threefold cross-validation."""
    from sklearn.model_selection import GridSearchCV

    return compute_accuracy_classifier(GridSearchCV(clf, param_grid, cv=3, verbose=verbose), *cells)
