"""The fit of a model with a classifier, behind the AnnData door."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scvi._checks import check_integer, check_number
from scvi.fit.fit import Fit
from scvi.minibatch import Minibatch
from scvi.queries import evaluating

__all__ = ["AnnotationFit"]


class AnnotationFit(Fit):
    """Fits a :class:`scvi.models.labels.LabelledVAE`: beside each minibatch of all cells, one of labelled cells.

    The loss is the negative ELBO per cell, in which unlabelled cells train the marginal over labels, plus
    `classification_ratio` times the cross-entropy of the labelled ones. Fewer than two of them, from which batch norm
    cannot learn, are left out of the second term.

    Parameters
    ----------
    *arguments, **options
        As for :class:`Fit`.
    classification_ratio
        Weight of the cross-entropy, in nats per nat.
    n_samples_per_label
        Labelled cells drawn for each label in an epoch, all where a label has fewer; None: all of every label. At
        least two are drawn, from which batch norm can learn.

    Attributes
    ----------
    labelled, labelled_validation
        Positions of the training and the validation cells that have a label.
    """

    def __init__(
        self,
        *arguments: Any,
        classification_ratio: float,
        n_samples_per_label: int | None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.classification_ratio = check_number(
            "classification_ratio", classification_ratio, "a number of at least 0", least=0
        )
        if n_samples_per_label is not None:
            check_integer("n_samples_per_label", n_samples_per_label, 1)
        self.n_samples_per_label = n_samples_per_label
        self.labelled = self.train_indices[self.data.labels[self.train_indices] >= 0]
        self.labelled_validation = self.validation_indices[self.data.labels[self.validation_indices] >= 0]
        self._labelled_minibatches: Iterator[Minibatch] = iter(())

    def on_epoch_begin(self) -> None:
        """Chooses the labelled cells of the epoch, and their order."""
        super().on_epoch_begin()
        self._labelled_minibatches = self._passes(self._chosen())

    def _chosen(self) -> np.ndarray:
        """Positions of the labelled cells of an epoch."""
        if self.n_samples_per_label is None or len(self.labelled) == 0:
            return self.labelled
        order = np.random.default_rng([self.seed, self.loop.epoch, 1]).permutation(self.labelled)
        labels = self.data.labels[order]
        chosen = np.concatenate([order[labels == code][: self.n_samples_per_label] for code in np.unique(labels)])
        return chosen if len(chosen) > 1 else order[:2]

    def _passes(self, cells: np.ndarray) -> Iterator[Minibatch]:
        """Pass after pass over labelled cells, each in an order that the seed, the epoch and its number decide."""
        for number in count():
            rng = np.random.default_rng([self.seed, self.loop.epoch, 2, number])
            yield from map(self._placed, self._here.epoch(cells, self.plan.batch_size, rng))

    def loss(self, mb: Minibatch) -> Tensor:
        """The negative ELBO per cell, and the cross-entropy of labelled cells."""
        loss = super().loss(mb)
        if len(self.labelled) < 2:
            return loss
        cross_entropy = self.model.cross_entropy(next(self._labelled_minibatches)).mean()
        total = loss + self.classification_ratio * cross_entropy
        self._terms |= {
            "classification_loss": cross_entropy.detach() * len(mb),
            "train_loss_epoch": total.detach() * len(mb),
        }
        return total

    def _validate(self) -> dict[str, float]:
        """Also the cross-entropy and the accuracy over the labelled validation cells, where there are any."""
        values = super()._validate()
        if len(self.labelled_validation):
            with evaluating(self.model):
                cells = self._here.minibatches(self.labelled_validation, self.plan.batch_size)
                pairs = [(self.model.log_probabilities(mb), mb.labels) for mb in map(self._placed, cells)]
            log_q, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            values["classification_loss"] = -float(log_q.gather(1, labels).mean())
            values["accuracy"] = float((log_q.argmax(1) == labels[:, 0]).float().mean())
        return values

    def _describe(self, options: Mapping[str, Any]) -> dict[str, Any]:
        own = {"classification_ratio": self.classification_ratio, "n_samples_per_label": self.n_samples_per_label}
        return {**super()._describe(options), **own}
