"""Numbers that tell a good fit from a broken one, each beside what chance or a simple method would give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.queries import clustering
from scvi.queries.evaluation import evaluating
from scvi.queries.predictive_checks import mean_counts

_SHUFFLES, _SHUFFLES_OF_LABEL = 20, 3
_NEIGHBOURS, FEWEST_OF_BATCH = (5, 50), 10  # of the cells of one label
_CLUSTERS = 8
_GENES = 1000  # of the largest means, or at once: as dense arrays they stay small
_LEAST_MEAN = 1e-6
_EPOCHS_OF_NORMS = (
    10  # before, moments of batch norm lag behind, and losses of validation cells rise and fall with them
)
_THINNED, _KEPT = 0.1, 2 / 3  # share of genes, and of their counts, that a batch loses to see whether it would be seen
Z_SEEN, GENES_SEEN = 5.0, 3
"""Batches differ if they explain so many standard deviations more than shuffled ones, or so many genes by more than the
most that any gene has by chance."""


@dataclass(frozen=True)
class Convergence:
    """How a fit ended.

    Attributes
    ----------
    epochs
        Of all fits.
    fall
        Nats per cell by which the training loss fell since the first epoch.
    last_fall
        By how much it fell in the last fifth of the epochs, or that of validation cells below its lowest before, if
        that is less: where only the training loss falls, the fit learns its cells by heart.
    last_loss
        Where it ended.
    """

    epochs: int
    fall: float
    last_fall: float
    last_loss: float

    @property
    def last_share(self) -> float:
        """Of the whole fall, the share of the last fifth of the epochs."""
        return max(0.0, self.last_fall / self.fall) if self.fall > 0 else 0.0


def convergence(history: Mapping[str, pd.DataFrame], loss: str = "elbo") -> Convergence | None:
    """What the training losses say: of the negative ELBO at full weights, or another; None where they were not kept."""
    losses, validation = _curve(history, f"{loss}_train"), _curve(history, f"{loss}_validation")
    if losses is None:
        return None
    end, last_fall = _last_fall(losses)
    if validation is not None and len(losses) >= _EPOCHS_OF_NORMS:
        before = validation[: len(validation) - max(1, round(len(validation) / 5))]
        last_fall = min(last_fall, float(before.min(initial=np.inf)) - _last_fall(validation)[0])
    return Convergence(len(losses), float(losses[0] - end), last_fall, end)


def _last_fall(losses: np.ndarray) -> tuple[float, float]:
    """Where losses end, and how far they fell in the last fifth of the epochs; ends are means of a twentieth."""
    last, before = max(1, len(losses) // 20), max(1, round(len(losses) / 5))
    end, start = losses[-last:], losses[: len(losses) - before][-last:]
    return float(end.mean()), float(start.mean() - end.mean()) if len(start) else 0.0


@dataclass(frozen=True)
class Classifier:
    """How the fit of a classifier ended.

    Attributes
    ----------
    loss
        The course of the cross-entropy of labelled cells.
    accuracy, gain
        Of labelled validation cells at the end, and by how much it rose in the last fifth of the epochs; None where
        there are none.
    """

    loss: Convergence
    accuracy: float | None
    gain: float | None


def classifier(history: Mapping[str, pd.DataFrame]) -> Classifier | None:
    """What the losses of a classifier say; None where there was none to fit."""
    loss, accuracies = convergence(history, "classification_loss"), _curve(history, "accuracy_validation")
    if loss is None:
        return None
    end, fall = (None, None) if accuracies is None else _last_fall(accuracies)
    return Classifier(loss, end, None if fall is None else -fall)


@dataclass(frozen=True)
class HeldOut:
    """What validation cells say.

    Attributes
    ----------
    best, best_epoch
        Lowest negative ELBO of the history, nats per cell, and when.
    now
        That of the weights as they are.
    train
        That of the training cells at the end.
    first_train
        That of the training cells in the first epoch.
    """

    best: float
    best_epoch: int
    now: float
    train: float
    first_train: float

    @property
    def rise(self) -> float:
        """How far the loss is above its best, as a share of what the training cells gained."""
        return max(0.0, self.now - self.best) / max(self.first_train - self.train, 1e-9)


def held_out(history: Mapping[str, pd.DataFrame], now: float | None = None) -> HeldOut | None:
    """Of the validation cells, `now` if it is known, else the last loss; None where there were none."""
    validation, train = _curve(history, "elbo_validation"), _curve(history, "elbo_train")
    if validation is None or train is None:
        return None
    best = int(validation.argmin())
    epoch = int(history["elbo_validation"].index[best]) + 1
    now = float(validation[-1]) if now is None else now
    return HeldOut(float(validation[best]), epoch, now, float(train[-1]), float(train[0]))


def kl_weight(history: Mapping[str, pd.DataFrame]) -> float | None:
    """The weight of the KL divergence that a fit ended with; None where it is not known."""
    weights = _curve(history, "kl_weight")
    return None if weights is None else float(weights[-1])


def _curve(history: Mapping[str, pd.DataFrame], name: str) -> np.ndarray | None:
    table = history.get(name)
    if table is None or len(table) == 0:
        return None
    values = table.iloc[:, 0].to_numpy(dtype=np.float64)
    return values if np.isfinite(values).all() else None


def as_csr(minibatches: Iterable[Minibatch]) -> sparse.csr_array:
    """(n, g) counts of the cells."""
    return sparse.vstack([sparse.csr_array(mb.x.cpu().numpy()) for mb in minibatches], format="csr")


def clear_genes(counts: sparse.csr_array) -> np.ndarray:
    """Positions of the genes with the largest mean counts."""
    return np.sort(np.argsort(-counts.mean(axis=0), kind="stable")[:_GENES])


# ---- does the model explain as much as it could? ---------------------------------------------------------------------


@dataclass(frozen=True)
class Explained:
    """Share of the Poisson deviance of a gene, beyond library size and batch, that is explained: medians over genes.

    Attributes
    ----------
    model
        By the model's expectations.
    clusters
        By the means of the other cells of the same of eight clusters of principal components.
    """

    model: float
    clusters: float


def explained(
    model: Model,
    minibatches: Iterable[Minibatch],
    counts: sparse.csr_array,
    genes: np.ndarray,
    batch: np.ndarray,
    components: np.ndarray,
) -> Explained:
    """How much of the differences between cells the model explains, and how much a coarse clustering does.

    Parameters
    ----------
    counts
        (n, g) of the cells of `minibatches`.
    genes
        Positions of those to look at.
    batch
        (n,) codes.
    components
        (n, d) principal components of the cells, without the means of the batches.
    """
    from sklearn.cluster import KMeans

    x = counts[:, genes].toarray().astype(np.float64)
    alone = _from_batches(x, counts.sum(axis=1), batch)
    n_clusters = min(_CLUSTERS, len(x) // 2)
    clusters = KMeans(n_clusters, n_init=3, random_state=0).fit_predict(components)
    unexplained = _deviance(x, alone)
    seen = unexplained > 0
    of_model = _deviance(x, _expected(model, minibatches, genes))
    of_clusters = _deviance(x, _from_clusters(x, alone, clusters))
    shares = [1 - found[seen] / unexplained[seen] for found in (of_model, of_clusters)]
    return Explained(*(float(np.median(share)) if seen.any() else 0.0 for share in shares))


def _expected(model: Model, minibatches: Iterable[Minibatch], genes: np.ndarray) -> np.ndarray:
    """(n, k) expected counts at the posterior means of the latent variables."""
    parts = []
    with evaluating(model):
        for mb in minibatches:
            q = model.latent(mb)
            decoded = model.generative(q.z.loc[None], q.mean_size(mb)[None], mb)
            parts.append(mean_counts(decoded.genes)[0].cpu().numpy()[:, genes].astype(np.float64))
    return np.concatenate(parts)


def _from_batches(x: np.ndarray, totals: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """(n, g) counts if cells of a batch had the same frequencies."""
    is_in = (batch == np.unique(batch)[:, None]).astype(np.float64)  # (k, n)
    frequencies = (is_in @ x) / np.maximum(is_in @ totals, 1)[:, None]
    return totals[:, None] * frequencies[is_in.argmax(0)]


def _from_clusters(x: np.ndarray, alone: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """(n, g) the same, times how much more the *other* cells of the cell's cluster have; one count of prior."""
    is_in = (clusters == np.arange(clusters.max() + 1)[:, None]).astype(np.float64)
    others, expected = (is_in @ x)[clusters] - x, (is_in @ alone)[clusters] - alone
    return alone * (others + 1) / (expected + 1)


def _deviance(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(g,) half of the Poisson deviance."""
    from scipy.special import kl_div

    return kl_div(x, np.maximum(mean, _LEAST_MEAN)).sum(0)


# ---- batches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BatchInformation:
    """How much of the counts the batch explains: mean share of a gene's variance, after library size.

    Attributes
    ----------
    explained, shuffled
        By the batches as they are, and by shuffled ones on average.
    z
        Their distance in standard deviations of the shuffled ones.
    n_genes
        Genes of which it explains more than of any gene in any shuffle.
    z_of_thinned
        `z` where shuffled batches were made to differ: each lost a third of the counts of a tenth of the genes.
    """

    explained: float
    shuffled: float
    z: float
    n_genes: int
    z_of_thinned: float

    @property
    def differ(self) -> bool:
        """Whether the batches differ at all."""
        return self.z > Z_SEEN or self.n_genes >= GENES_SEEN

    @property
    def would_be_seen(self) -> bool:
        """Whether these cells suffice to see a difference."""
        return self.z_of_thinned > Z_SEEN


def batch_information(counts: sparse.csr_array, batch: np.ndarray, rng: np.random.Generator) -> BatchInformation:
    """How much a batch (n,) of codes says about counts (n, g)."""
    found, by_chance = _shares(counts, batch, rng)
    shuffled = by_chance.mean(1)
    z = (found.mean() - shuffled.mean()) / max(shuffled.std(ddof=1), 1e-12)
    other = rng.permutation(batch)
    thinned, by_chance_thinned = _shares(_thinned(counts, other, rng), other, rng)
    means = by_chance_thinned.mean(1)
    return BatchInformation(
        float(found.mean()),
        float(shuffled.mean()),
        float(z),
        int((found > by_chance.max()).sum()),
        float((thinned.mean() - means.mean()) / max(means.std(ddof=1), 1e-12)),
    )


def _thinned(counts: sparse.csr_array, batch: np.ndarray, rng: np.random.Generator) -> sparse.csr_array:
    loses = rng.random((batch.max() + 1, counts.shape[1])) < _THINNED
    fewer = counts.tocoo()
    kept = np.where(loses[batch[fewer.row], fewer.col], _KEPT, 1.0)
    values = rng.binomial(np.round(fewer.data).astype(np.int64), kept)
    return sparse.csr_array((values, (fewer.row, fewer.col)), shape=counts.shape)


def _shares(counts: sparse.csr_array, batch: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the variance of each gene, and of the log total, that the batch explains: (g,), and (s, g) shuffled."""
    totals = np.maximum(counts.sum(axis=1), 1)
    values = sparse.hstack([clustering.scaled_logs(counts), np.log(totals)[:, None]], format="csc")
    n, n_batches = len(batch), batch.max() + 1
    codes = np.stack([batch, *(rng.permutation(batch) for _ in range(_SHUFFLES))])  # (1 + s, n)
    rows = (codes + n_batches * np.arange(len(codes))[:, None]).ravel()
    is_in = sparse.csr_array((np.ones(rows.size), (rows, np.tile(np.arange(n), len(codes)))))  # ((1 + s) k, n)
    sizes = np.maximum(np.bincount(batch, minlength=n_batches), 1)
    parts = []
    for start in range(0, values.shape[1], _GENES):
        block = values[:, start : start + _GENES].toarray()
        block -= block.mean(0)
        sums = (is_in @ block).reshape(len(codes), n_batches, -1)
        variation = (block**2).sum(0)
        varies = variation > 1e-9
        parts.append(((sums**2 / sizes[:, None]).sum(1) / np.where(varies, variation, 1))[:, varies])
    shares = np.concatenate(parts, axis=1)
    return shares[0], shares[1:]


@dataclass(frozen=True)
class Mixing:
    """Entropy of the batch in neighbourhoods, as a share of what shuffled batches give.

    Attributes
    ----------
    latent, components
        In the latent space, and among the principal components of the counts; None: there are none.
    """

    latent: float
    components: float | None


def mixing(latent: np.ndarray, components: np.ndarray | None, batch: np.ndarray, rng: np.random.Generator) -> Mixing:
    """How mixed batches (n,) are in a latent space (n, d) and among principal components (n, d)."""
    by_chance = max(clustering.batch_entropy(latent, rng.permutation(batch)), 1e-9)
    of_latent = clustering.batch_entropy(latent, batch) / by_chance
    return Mixing(of_latent, None if components is None else clustering.batch_entropy(components, batch) / by_chance)


def mixing_within(
    spaces: Mapping[str, np.ndarray], batch: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """How mixed batches (n,) are among the cells of each label (n,) alone, in spaces (n, d), as `Mixing` has it.

    Batches with fewer than ten cells of a label say nothing of it.

    Returns
    -------
    A row for each label: 'cells'; 'batch', where most of them are; 'elsewhere', how many are not; and by space the
    share of what shuffled batches give, NaN where no two batches have enough cells.
    """
    rows = {}
    for label in pd.unique(labels):
        of_label = np.flatnonzero(labels == label)
        sizes = pd.Series(batch[of_label]).value_counts()
        enough = sizes.index[sizes >= FEWEST_OF_BATCH]
        kept = of_label[np.isin(batch[of_label], enough)]
        scores = dict.fromkeys(spaces, np.nan)
        if len(enough) > 1:
            k = int(np.clip(sizes[enough].min() // 3, *_NEIGHBOURS))  # fewer than a batch has, or all is mixed
            shuffled = [rng.permutation(batch[kept]) for _ in range(_SHUFFLES_OF_LABEL)]
            for name, space in spaces.items():
                by_chance = np.mean([clustering.batch_entropy(space[kept], other, k) for other in shuffled])
                scores[name] = clustering.batch_entropy(space[kept], batch[kept], k) / max(float(by_chance), 1e-9)
        rows[label] = {
            "cells": len(of_label),
            "batch": sizes.index[0],
            "elsewhere": int(sizes.iloc[1:].sum()),
            **scores,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def principal_components(counts: sparse.csr_array, genes: np.ndarray) -> np.ndarray:
    """(n, d) principal components of some genes, ten at most."""
    return clustering.pca(counts[:, genes], min(10, len(genes), counts.shape[0]))


def within_batches(components: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """The same (n, d), without the means of the batches."""
    is_in = (batch == np.unique(batch)[:, None]).astype(np.float64)
    means = (is_in @ components) / is_in.sum(1)[:, None]
    return components - means[is_in.argmax(0)]


def spread_of_totals(counts: sparse.csr_array) -> float:
    """Standard deviation of the log totals of the cells."""
    return float(np.log(np.maximum(counts.sum(axis=1), 1)).std())
