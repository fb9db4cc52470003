"""Models of cells of which some have a label: what VAEC and scANVI share."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scvi._checks import check_integer
from scvi.minibatch import Minibatch
from scvi.models.methods_2020 import decodable, encodable, three_terms
from scvi.models.one_hot import one_hot
from scvi.models.vae import VAE

_NEGLIGIBLE = math.log(1e-6)


@dataclass(frozen=True)
class LabelPairs:
    """The pairs of a cell and a label that it may have: one for a cell with a known label, else one for every label.

    An expectation over the unknown labels is a weighted sum over pairs, so that labelled and unlabelled cells go
    through the same formulas in one minibatch. Labels less probable than 1e-6 are left out: what they would add is
    below the rounding of the sum, and they are most labels of a fitted model. m pairs of n cells and c labels.
    """

    cell: Tensor  # (m,) positions of the cells, in order
    label: Tensor  # (m,) codes of the labels
    weight: Tensor  # (m,) 1 where the label is known, else q(y | cell)
    n_cells: int
    n_labels: int

    @classmethod
    def of(cls, labels: Tensor, log_q_y: Tensor) -> LabelPairs:
        """From codes (n, 1), where -1 is not known, and log q(y | cell), (n, c)."""
        n, c = log_q_y.shape
        known = labels >= 0
        possible = torch.where(known, labels == torch.arange(c, device=labels.device), log_q_y > _NEGLIGIBLE)  # (n, c)
        cell, label = possible.nonzero(as_tuple=True)
        weight = torch.where(known, 1.0, log_q_y.exp())[cell, label]
        return cls(cell, label, weight, n, c)

    @property
    def one_hot(self) -> Tensor:
        """(m, c)"""
        return one_hot(self.label[:, None], self.n_labels)

    def mean(self, values: Tensor) -> Tensor:
        """E_q(y) of one value a pair: (m,) -> (n,)."""
        total = torch.zeros(self.n_cells, dtype=values.dtype, device=values.device)
        return total.index_add(0, self.cell, self.weight * values)


class LabelledVAE(VAE):
    """A VAE with labels y ~ Cat(y_prior), and q(y | x) for the cells whose label is not known.

    The label code -1, or no labels at all, stands for not known. Such a cell trains the marginal over labels; a cell
    with a label trains log p(x | y), so that the label is used where it was observed and nowhere else.
    """

    y_prior: nn.Parameter  # (1, c), not trained

    def add_labels(self, n_labels: int, y_prior: Any) -> None:
        """Checks the number of labels and keeps their prior; None is uniform."""
        check_integer("n_labels", n_labels, 1)
        self.y_prior = nn.Parameter(_prior(y_prior, n_labels), requires_grad=False)

    @abstractmethod
    def log_probabilities(self, mb: Minibatch) -> Tensor:
        """(n, c) log q(y | x), whether the labels are known or not."""

    def classify(self, x: Tensor) -> Tensor:
        """Counts (n, g) -> (n, c) probabilities of the labels."""
        return self.log_probabilities(encodable(self, "classify", x)).exp()

    def cross_entropy(self, mb: Minibatch) -> Tensor:
        """(n,) -log q(y | x) of cells whose label is known."""
        return -self.log_probabilities(mb).gather(1, mb.labels)[:, 0]

    def kl_y(self, labels: Tensor, log_q_y: Tensor) -> Tensor:
        """(n,) KL(q(y | x) || y_prior) of cells without a label, 0 for the others."""
        kl = (log_q_y.exp() * (log_q_y - self.y_prior.log())).sum(-1)
        return torch.where(labels[:, 0] >= 0, 0.0, kl)

    def forward(
        self,
        x: Tensor,
        local_l_mean: Tensor,
        local_l_var: Tensor,
        batch_index: Tensor | None = None,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """(terms that are not annealed, annealed KL, 0.0), the first two (n,).

        `y` holds codes (n, 1), or one-hot rows (n, c). None: no label is known; the code -1 in it: that label is not.
        """
        labels = None if y is None else self._codes(y, len(x))
        return three_terms(self.loss(decodable(self, "forward", x, batch_index, labels, local_l_mean, local_l_var)))

    def _codes(self, y: Tensor, n_cells: int) -> Tensor:
        """Codes (n, 1) of labels that a user gives as such or as one-hot rows."""
        if y.shape == (n_cells, self.n_labels) and self.n_labels > 1:
            return y.argmax(dim=1, keepdim=True)
        if y.shape != (n_cells, 1):
            raise ValueError(f"y has the shape {tuple(y.shape)}: give one code of a label a cell, ({n_cells}, 1)")
        if bool((y >= self.n_labels).any()):
            raise ValueError(f"y has the code {int(y.max())}, of n_labels={self.n_labels} labels, numbered from 0")
        return y

    def has_parameters_by(self, category: str) -> bool:
        return category == "label" or super().has_parameters_by(category)


def known_labels(mb: Minibatch) -> Tensor:
    """(n, 1) codes, -1 where a label is not known."""
    return torch.full((len(mb), 1), -1, device=mb.device) if mb.labels is None else mb.labels


def _prior(y_prior: Any, n_labels: int) -> Tensor:
    """(1, c) probabilities."""
    if y_prior is None:
        return torch.full((1, n_labels), 1 / n_labels)
    given = torch.as_tensor(y_prior, dtype=torch.float32).reshape(1, -1)
    if given.shape[1] != n_labels or not bool((given > 0).all()) or abs(float(given.sum()) - 1) > 1e-3:
        raise ValueError(
            f"y_prior={y_prior!r} is not a distribution of {n_labels} labels: give one positive number a label, "
            "which add up to 1"
        )
    return given / given.sum()
