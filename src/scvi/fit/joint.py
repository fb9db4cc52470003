"""Fitting a model of several data sets against a discriminator, by a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scvi.cells.joint import JointCells, JointMinibatch
from scvi.fit import checkpoint
from scvi.fit.fit import Fit, terms_of
from scvi.fit.plan import Plan
from scvi.fit.recovery import describe_fault
from scvi.kernels import bf16_products
from scvi.models.adversary import Adversaries, adversarial_losses
from scvi.queries import evaluating
from scvi.queries.imputation import data_set_probabilities

__all__ = ["JointFit"]


class JointFit(Fit):
    """A :class:`Fit` whose steps see a minibatch of each data set.

    One step minimises the negative ELBO of all of its cells, plus `kappa` times how far the encoders are from deceiving
    the discriminator, plus the discriminator's own loss. Gradients of the last reach the discriminator alone, those of
    the one before the encoders alone, so a single optimiser does for both sides.

    The history has ``discriminator_loss_*``, the cross-entropy of the discriminator in nats, and
    ``discriminator_accuracy_*``, the share of cells that it takes to be of their own data set, both averaged over data
    sets. With k mixed data sets they are near log k and 1 / k.

    Parameters
    ----------
    networks
        The model and its discriminator.
    data
        All cells.
    train_indices, validation_indices, plan, options
        As in :class:`Fit`.
    kappa
        Weight of the deception in nats per cell; 0 leaves the discriminator an onlooker.
    """

    data: JointCells  # type: ignore[assignment]

    def __init__(
        self,
        networks: Adversaries,
        data: JointCells,
        train_indices: np.ndarray,
        validation_indices: np.ndarray,
        plan: Plan,
        *,
        kappa: float,
        **options: Any,
    ) -> None:
        # The two have what a fit asks of a model and of its cells.
        super().__init__(networks, data, train_indices, validation_indices, plan, **options)  # type: ignore[arg-type]
        self.kappa = kappa

    def loss(self, joint: JointMinibatch) -> Tensor:  # type: ignore[override]
        """What a step minimises."""
        with bf16_products(self.plan.precision == "bf16"):
            pairs = [self.model.model.draw_with_loss(mb, n_cells=len(joint)) for mb in joint.parts]
        latents = [z for z, _ in pairs]
        said = self.model.told_apart(latents)
        own = torch.stack(adversarial_losses(said, predict_true_class=True)).sum()
        negative_elbo = torch.stack(
            [(elbo.fixed() + self.kl_weight * elbo.warmed()).sum() / len(joint) for _, elbo in pairs]
        ).sum()
        loss = negative_elbo + own
        if self.kappa > 0:
            loss = loss + self.kappa * self.model.deception(latents)
        parts = [terms_of(elbo) for _, elbo in pairs]
        self._terms = {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
        self._terms["train_loss_epoch"] = loss.detach() * len(joint)
        with torch.no_grad():
            for name, value in _judgement([log_p.exp() for log_p in said]).items():
                self._terms[name] = value * len(joint)
        return loss

    def _validate(self) -> dict[str, float]:
        """Also how well the discriminator does on the validation cells."""
        minibatches = self._here.minibatches(self.validation_indices, self.plan.batch_size)
        said = data_set_probabilities(self.model.model, self.model.discriminator, map(self._placed, minibatches))
        ends = np.cumsum([len(cells) for cells in self.data.split(self.validation_indices)])
        by_data_set = [torch.from_numpy(part) for part in np.split(said, ends[:-1])]
        return {**super()._validate(), **{name: float(value) for name, value in _judgement(by_data_set).items()}}

    def _recover_from(self, joint: JointMinibatch) -> None:  # type: ignore[override]
        """Names the cells at fault in the data set with the largest loss."""
        with evaluating(self.model):
            losses = [float(self.model.loss(mb).per_cell().sum()) for mb in joint.parts]
        worst = int(np.argmax(np.nan_to_num(losses, nan=np.inf)))
        part = self.data.parts[worst]
        fault = describe_fault(self.model, joint.parts[worst], part.cell_names, part.gene_names)
        self._recover(f"a non-finite loss in epoch {self.loop.epoch + 1} (data set {worst + 1}: {fault})")

    def _data_digest(self) -> str:
        return " ".join(map(checkpoint.digest_of_data, self.data.parts))


def _judgement(probabilities: Sequence[Tensor]) -> dict[str, Tensor]:
    """Cross-entropy and accuracy of a discriminator, from its (n_i, k) of the cells of each data set."""
    pairs = [(i, p) for i, p in enumerate(probabilities) if len(p)]
    accuracy = torch.stack([(p.argmax(-1) == i).float().mean() for i, p in pairs]).mean()
    loss = torch.stack([-p[:, i].clamp(min=1e-30).log().mean() for i, p in pairs]).mean()
    return {"discriminator_loss": loss, "discriminator_accuracy": accuracy}
