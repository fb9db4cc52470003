"""What a fitted model is judged by, on cells that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scvi._checks import check_choice, is_number
from scvi.cells.schema import Schema
from scvi.queries import calibration, clustering

Score = Callable[[Any, np.ndarray, int], float]
Mode = Literal["min", "max"]

_DRAWS = 100  # of the posterior, for a marginal likelihood
_HIDDEN = 0.1  # share of a cell's counts that are hidden, to be imputed


@dataclass(frozen=True)
class Metric:
    """A name, a number of a model, cells (positions) and a seed, and whether low or high ones are good."""

    name: str
    score: Score
    mode: Mode


def metric_of(given: str | Mapping[str, float] | Callable[..., float], mode: Mode | None = None) -> Metric:
    """A metric by its name, a weighted sum of several, or a user's own.

    Raises
    ------
    ValueError
        If a name is not known, or a callable comes without `mode`.
    """
    if callable(given):
        if mode is None:
            raise ValueError("mode must be 'min' or 'max' where metric is a function: whether low values are good")
        check_choice("mode", mode, ("min", "max"))
        return Metric(f"{given.__module__}.{getattr(given, '__qualname__', type(given).__name__)}", _Own(given), mode)
    if mode is not None:
        raise ValueError(f"mode={mode!r} is for a metric that is a function; metric={given!r} has its own")
    if isinstance(given, Mapping):
        return _sum_of(given)
    check_choice("metric", given, list(METRICS))
    return METRICS[given]


def _sum_of(weights: Mapping[str, float]) -> Metric:
    for name, weight in weights.items():
        check_choice("metric", name, list(METRICS))
        if not is_number(weight) or weight < 0:
            raise ValueError(f"metric[{name!r}]={weight!r} is not a weight, a number of at least 0")
    if not any(weights.values()):
        raise ValueError(f"metric={dict(weights)!r} has no weight above 0")
    parts = tuple((name, float(weight)) for name, weight in weights.items() if weight)
    return Metric(" + ".join(f"{weight:g} {name}" for name, weight in parts), _Sum(parts), "max")


@dataclass(frozen=True)
class _Own:
    """A user's function of a model and positions of cells."""

    function: Callable[..., float]

    def __call__(self, model: Any, cells: np.ndarray, seed: int) -> float:
        return float(self.function(model, cells))


@dataclass(frozen=True)
class _Sum:
    """A weighted sum, in which what is good if low counts negative."""

    parts: tuple[tuple[str, float], ...]

    def __call__(self, model: Any, cells: np.ndarray, seed: int) -> float:
        signed = {name: METRICS[name] for name, _ in self.parts}
        values = {name: (m.score(model, cells, seed), 1 if m.mode == "max" else -1) for name, m in signed.items()}
        return sum(weight * values[name][0] * values[name][1] for name, weight in self.parts)


def elbo(model: Any, cells: np.ndarray, seed: int) -> float:
    """Evidence lower bound, nats a cell."""
    return float(model.get_elbo(indices=cells, seed=seed))


def marginal_ll(model: Any, cells: np.ndarray, seed: int) -> float:
    """Log-likelihood by importance sampling, nats a cell."""
    return float(model.get_marginal_ll(indices=cells, n_mc_samples=_DRAWS, seed=seed))


def imputation(model: Any, cells: np.ndarray, seed: int) -> float:
    """Median absolute error of counts that are hidden, a tenth of those that are not 0, as the others suggest them."""
    schema = model.schema
    part = model.adata[cells].to_memory() if model.adata.isbacked else model.adata[cells].copy()
    counts = part.layers[schema.layer] if schema.layer else part.X
    hidden, rows, columns, true = _with_some_hidden(counts, seed)
    if schema.layer:
        part.layers[schema.layer] = hidden
    else:
        part.X = hidden
    genes = {name: i for i, name in enumerate(model.get_var_names())}
    place = np.array([genes.get(name, -1) for name in part.var_names])[columns]
    expected = model.get_normalized_expression(part, library_size="latent", return_numpy=True, seed=seed)
    if isinstance(expected, tuple):  # of genes and proteins
        expected = expected[0]
    known = place >= 0
    return float(np.median(np.abs(true[known] - expected[rows[known], place[known]])))


def _with_some_hidden(counts: Any, seed: int) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """Counts of which some are 0 now, with the rows, columns and former values of these."""
    from scipy import sparse

    entries = sparse.coo_matrix(counts)
    rows, columns, values = entries.row, entries.col, np.asarray(entries.data, dtype=np.float64)
    rng = np.random.default_rng(seed)
    chosen = (rng.random(len(values)) < _HIDDEN) & (values > 0)
    left = sparse.csr_matrix((np.where(chosen, 0, entries.data), (rows, columns)), shape=entries.shape)
    left.eliminate_zeros()
    return left, rows[chosen], columns[chosen], values[chosen]


def batch_mixing(model: Any, cells: np.ndarray, seed: int) -> float:
    """Entropy of the batch among neighbours in the latent space, over that of the batches: 1 is mixed as by chance."""
    batches = np.asarray(model.adata.obs[_column(model, "batch_key", "batch_mixing")])[cells]
    most = clustering.max_batch_entropy(batches)
    if most == 0:
        raise ValueError("metric='batch_mixing' needs cells of several batches among those that are scored")
    return clustering.batch_entropy(model.get_latent_representation(indices=cells), batches) / most


def accuracy(model: Any, cells: np.ndarray, seed: int) -> float:
    """Share of labelled cells that are given their label."""
    codes, probabilities = _labelled(model, cells, "accuracy")
    return float(np.mean(probabilities.argmax(axis=1) == codes))


def calibration_error(model: Any, cells: np.ndarray, seed: int) -> float:
    """How far the share of right labels is from the probability that they are given."""
    codes, probabilities = _labelled(model, cells, "calibration")
    return float(calibration.calibration_error(probabilities, codes))


def _labelled(model: Any, cells: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes and probabilities (n, c) of those cells whose label is known to the model."""
    labels = np.asarray(model.adata.obs[_column(model, "labels_key", metric)])[cells]
    table = model.predict(indices=cells, soft=True)
    places = {name: i for i, name in enumerate(table.columns)}
    codes = np.array([places.get(label, -1) for label in labels])
    if not (codes >= 0).any():
        raise ValueError(f"metric={metric!r} needs labelled cells among those that are scored, and there are none")
    return codes[codes >= 0], table.to_numpy()[codes >= 0]


def _column(model: Any, key: str, metric: str) -> str:
    column = getattr(model.schema, key)
    if column is None:
        raise ValueError(f"metric={metric!r} needs {key}: say it to {type(model).__name__}.setup_anndata")
    return column


METRICS: dict[str, Metric] = {
    "elbo": Metric("elbo", elbo, "max"),
    "marginal_ll": Metric("marginal_ll", marginal_ll, "max"),
    "imputation": Metric("imputation", imputation, "min"),
    "batch_mixing": Metric("batch_mixing", batch_mixing, "max"),
    "accuracy": Metric("accuracy", accuracy, "max"),
    "calibration": Metric("calibration", calibration_error, "min"),
}


def check_answers(metric: Metric, model_class: type[Any], schema: Schema) -> None:
    """Refuses a metric that a class of models cannot answer of cells that were set up so, before anything is fitted."""
    names = [name for name, _ in metric.score.parts] if isinstance(metric.score, _Sum) else [metric.name]
    needs = {
        "elbo": "get_elbo",
        "marginal_ll": "get_marginal_ll",
        "imputation": "get_normalized_expression",
        "batch_mixing": "get_latent_representation",
        "accuracy": "predict",
        "calibration": "predict",
    }
    for name in names:
        if name in needs and not callable(getattr(model_class, needs[name], None)):
            raise ValueError(
                f"metric={name!r} asks a model to {needs[name]}, which {model_class.__name__} does not answer"
            )
    if "batch_mixing" in names and schema.n_batch < 2:
        raise ValueError(
            "metric='batch_mixing' needs cells of several batches: say batch_key to "
            f"{model_class.__name__}.setup_anndata"
        )
