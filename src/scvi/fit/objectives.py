"""What a step of a fit minimises: the negative ELBO, alone or with what else its plan asks for.

The kind of plan decides: see :data:`OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial, reduce
from itertools import count
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scvi._random import generator_of
from scvi.cells.cell_data import CellData
from scvi.cells.joint import JointMinibatch
from scvi.fit.plan import AdversarialPlan, Plan, ProteinPlan, SemiSupervisedPlan
from scvi.fit.split import Split
from scvi.kernels import LowWeights, bf16_products, drawn_from_rows, drawn_rows, in_part
from scvi.minibatch import Minibatch
from scvi.models.adversary import adversarial_losses
from scvi.models.base import Elbo, Model, mean_of
from scvi.queries import evaluating
from scvi.queries.calibration import calibration_error
from scvi.queries.imputation import data_set_probabilities

_VALIDATION_DRAWS_SEED = 0x5C51  # the same noise every epoch, so that the validation curve moves with the weights only


class NegativeElbo:
    """The negative ELBO per cell.

    Parameters
    ----------
    model
        The network.
    split
        The cells it is fitted to.
    plan, seed
        Of the fit.

    Attributes
    ----------
    generator
        What all draws of the fit come from.
    low
        The weights in bfloat16 where the plan multiplies like that.
    """

    def __init__(self, model: Any, split: Split, plan: Any, seed: int) -> None:
        self.model, self.split, self.plan, self.seed = model, split, plan, seed
        self.generator = generator_of(seed, split.device)
        self.low = LowWeights() if plan.precision == "bf16" else None

    def begin_epoch(self, epoch: int) -> None:
        """Chooses what the steps of an epoch see beside their minibatches: here nothing."""

    def loss(self, mb: Any, kl_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """What a step minimises, and terms for the history, summed over the cells of the minibatch.

        Where processes share the minibatch, both are what the cells of this one add to those of all.
        """
        with self._products(), self._in_part(mb):
            elbo = self._elbo(mb)
        loss = elbo.objective(kl_weight, mb.n_shared)
        if isinstance(elbo.global_kl, Tensor):
            loss = loss + elbo.global_kl * (len(mb) / mb.n_whole) / len(self.split.train)
        return loss, {**self._terms(elbo, len(mb)), "train_loss_epoch": loss.detach() * mb.n_whole}

    def _elbo(self, mb: Any) -> Elbo:
        """The bound of a step."""
        return self.model.loss(mb, self.generator)

    @torch.no_grad()
    def _terms(self, elbo: Elbo, n_cells: int) -> dict[str, Any]:
        """Sums over cells of what the history shows, with their share of what all training cells have in common."""
        return {**terms_of(elbo), "kl_global": elbo.global_kl * (n_cells / len(self.split.train))}

    def _in_part(self, mb: Any) -> AbstractContextManager[None]:
        """Inside, networks know that other processes have cells of the same minibatch."""
        return in_part(mb.part, self.split.ranks)

    def _products(self) -> Any:
        """Inside, matrix products have the precision of the plan."""
        return bf16_products(self.low)

    def validate(self, kl_weight: float = 1.0) -> dict[str, float]:
        """Means of the terms over the validation cells, with the full KL weight; and the `loss`, with `kl_weight`."""
        generator = generator_of(_VALIDATION_DRAWS_SEED, self.split.device)
        sums: dict[str, float] = {}
        with evaluating(self.model):
            for mb in self.split.in_order(self.split.validation):
                with self._in_part(mb):
                    elbo = self.model.loss(mb, generator)
                terms = self._terms(elbo, len(mb))
                loss = elbo.objective(kl_weight, mb.n_shared) * mb.n_whole + terms["kl_global"]
                for name, value in {**terms, "loss": loss}.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        return {name: total / len(self.split.validation) for name, total in self.split.ranks.sums(sums).items()}

    def fault(self, mb: Any) -> str:
        """Which cells of a minibatch are to blame for a step that was not good."""
        with self._in_part(mb):
            own = self._fault(mb)
        return max(self.split.ranks.gather(own))[1]

    def _fault(self, mb: Any) -> tuple[float, str]:
        """How bad the cells of this process are, and which."""
        return find_fault(self.model, mb, self.split.data, self.generator)


class SemiSupervised(NegativeElbo):
    """The negative ELBO of a :class:`scvi.models.labels.LabelledVAE`, and the cross-entropy of labelled cells.

    Beside each minibatch of all cells, whose unlabelled ones train the marginal over labels, comes one of labelled
    cells. Fewer than two of them, from which batch norm cannot learn, are left out of the second term.

    Attributes
    ----------
    labelled, labelled_validation
        Positions of the training and the validation cells that have a label.
    """

    plan: SemiSupervisedPlan

    def __init__(self, model: Any, split: Split, plan: SemiSupervisedPlan, seed: int) -> None:
        super().__init__(model, split, plan, seed)
        has_label = split.data.labels >= 0
        self.labelled, self.labelled_validation = (some[has_label[some]] for some in (split.train, split.validation))
        self._minibatches: Iterator[Minibatch] = iter(())
        unseen = [name for name in plan.followed if name not in Plan.falling and "train" not in name]
        if unseen and len(self.labelled_validation) == 0:
            raise ValueError(
                f"{unseen[0]} is of labelled validation cells, of which there are none: label more cells, raise "
                "validation_size, or follow another value of the history"
            )

    def begin_epoch(self, epoch: int) -> None:
        """Chooses the labelled cells of the epoch, and their order."""
        self._minibatches = self._passes(self.chosen(epoch), epoch)

    def chosen(self, epoch: int) -> np.ndarray:
        """Positions of the labelled cells of an epoch."""
        n = self.plan.n_samples_per_label
        if n is None or len(self.labelled) == 0:
            return self.labelled
        order = np.random.default_rng([self.seed, epoch, 1]).permutation(self.labelled)
        labels = self.split.data.labels[order]
        chosen = np.concatenate([order[labels == code][:n] for code in np.unique(labels)])
        return chosen if len(chosen) > 1 else order[:2]

    def _passes(self, cells: np.ndarray, epoch: int) -> Iterator[Minibatch]:
        """Pass after pass over labelled cells, each in an order that the seed, the epoch and its number decide."""
        for number in count():
            yield from self.split.shuffled(cells, [self.seed, epoch, 2, number])

    def loss(self, mb: Minibatch, kl_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super().loss(mb, kl_weight)
        if len(self.labelled) < 2:
            return loss, terms
        labelled = next(self._minibatches)
        with self._in_part(labelled):
            cross_entropy = mean_of(self.model.cross_entropy(labelled), labelled.n_shared)
        loss = loss + self.plan.classification_ratio * cross_entropy
        terms["classification_loss"] = cross_entropy.detach() * mb.n_whole
        terms["train_loss_epoch"] = loss.detach() * mb.n_whole
        return loss, terms

    def validate(self, kl_weight: float = 1.0) -> dict[str, float]:
        """Also how the classifier does on the labelled validation cells, where there are any."""
        values = super().validate(kl_weight)
        if len(self.labelled_validation):
            with evaluating(self.model):
                cells = self.split.in_order(self.labelled_validation)
                pairs = [(self.model.log_probabilities(mb).cpu(), mb.labels.cpu()) for mb in cells]  # GPUs differ
            of_all = [pair for own in self.split.ranks.gather(pairs) for pair in own]
            log_q, labels = (torch.cat(parts) for parts in zip(*of_all, strict=True))
            values["classification_loss"] = -float(log_q.gather(1, labels).mean())
            values["accuracy"] = float((log_q.argmax(1) == labels[:, 0]).float().mean())
            values["f1_score"] = f1_score(log_q.argmax(1), labels[:, 0], log_q.shape[1])
            values["calibration_error"] = calibration_error(log_q.exp(), labels[:, 0])
            values["loss"] += self.plan.classification_ratio * values["classification_loss"]
        return values


class Adversarial(NegativeElbo):
    """The negative ELBO of several data sets, whose encoders are to deceive a discriminator, and its own loss.

    One step sees a minibatch of each data set. It minimises the negative ELBO of all of its cells, plus `kappa` times
    how far the encoders are from deceiving the discriminator, plus the discriminator's own loss. Gradients of the last
    reach the discriminator alone, those of the one before the encoders alone, so a single optimiser does for both
    sides. The model is :class:`scvi.models.adversary.Adversaries`, the cells are :class:`scvi.cells.joint.JointCells`.

    The history has ``discriminator_loss_*``, the cross-entropy of the discriminator in nats, and
    ``discriminator_accuracy_*``, the share of cells that it takes to be of their own data set, both averaged over data
    sets. With k mixed data sets they are near log k and 1 / k.
    """

    plan: AdversarialPlan

    def loss(self, joint: JointMinibatch, kl_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        n_cells, shared = joint.n_whole, [mb.n_shared for mb in joint.parts]
        pairs = [self._draw_with_loss(mb, n_cells) for mb in joint.parts]
        latents, elbos = [z for z, _ in pairs], [elbo for _, elbo in pairs]
        with self._in_part(joint):
            said = self.model.told_apart(latents)
            own = torch.stack(adversarial_losses(said, True, shared)).sum()
            loss = torch.stack([elbo.objective(kl_weight, n_cells) for elbo in elbos]).sum() + own
            if self.plan.kappa > 0:
                loss = loss + self.plan.kappa * self.model.deception(latents, shared)
        parts = [self._terms(elbo, len(mb)) for elbo, mb in zip(elbos, joint.parts, strict=True)]
        terms = {name: sum(part[name] for part in parts) for name in parts[0]}
        terms["train_loss_epoch"] = loss.detach() * n_cells
        with torch.no_grad():
            judged = _judgement([log_p.exp() for log_p in said], shared)
        return loss, terms | {name: value * n_cells for name, value in judged.items()}

    def _draw_with_loss(self, mb: Minibatch, n_cells: int) -> tuple[Tensor, Elbo]:
        """See :meth:`scvi.models.jvae.JVAE.draw_with_loss`."""
        with self._products(), self._in_part(mb):
            return self.model.model.draw_with_loss(mb, self.generator, n_cells)

    def validate(self, kl_weight: float = 1.0) -> dict[str, float]:
        """Also how well the discriminator does on the validation cells; `loss` is without it."""
        judged = _judgement(self._said_of_validation())
        return {**super().validate(kl_weight), **{name: float(value) for name, value in judged.items()}}

    def _said_of_validation(self) -> list[Tensor]:
        """What the discriminator says of the validation cells of each data set, (n_i, k), in all processes."""
        owners: list[np.ndarray] = []

        def noted() -> Iterator[Minibatch]:
            for mb in self.split.in_order(self.split.validation):
                owners.append(np.full(len(mb), mb.dataset))
                yield mb

        own = data_set_probabilities(self.model.model, self.model.discriminator, noted())
        pairs = self.split.ranks.gather((own, np.concatenate(owners)))
        said, owner = (np.concatenate(of) for of in zip(*pairs, strict=True))
        return [torch.from_numpy(said[owner == i]) for i in range(len(self.split.data.parts))]

    def fault(self, joint: JointMinibatch) -> str:
        """Names the cells at fault in the data set with the largest loss."""
        ranks = self.split.ranks
        with evaluating(self.model):
            losses = {str(i): self._loss_of(mb) for i, mb in enumerate(joint.parts)}
        losses = ranks.sums(losses)
        worst = int(np.argmax(np.nan_to_num([losses[str(i)] for i in range(len(losses))], nan=np.inf)))
        mb = joint.parts[worst]
        with self._in_part(mb):
            own = find_fault(self.model, mb, self.split.data.parts[worst], self.generator)
        return f"data set {worst + 1}: {max(ranks.gather(own))[1]}"

    def _loss_of(self, mb: Minibatch) -> float:
        """Summed over cells."""
        with self._in_part(mb):
            return float(self.model.loss(mb, self.generator).per_cell().sum())


def _judgement(probabilities: Sequence[Tensor], n_cells: Sequence[int | None] | None = None) -> dict[str, Tensor]:
    """Cross-entropy and accuracy of a discriminator, from its (n_i, k) of the cells of each data set.

    `n_cells` are as for :func:`scvi.models.base.mean_of`.
    """
    counts = [None] * len(probabilities) if n_cells is None else n_cells
    given = [(i, p, n) for i, (p, n) in enumerate(zip(probabilities, counts, strict=True)) if n or len(p)]
    accuracy = torch.stack([mean_of((p.argmax(-1) == i).float(), n) for i, p, n in given]).mean()
    loss = torch.stack([-mean_of(p[:, i].clamp(min=1e-30).log(), n) for i, p, n in given]).mean()
    return {"discriminator_loss": loss, "discriminator_accuracy": accuracy}


@torch.no_grad()
def terms_of(elbo: Elbo) -> dict[str, Tensor]:
    """Sums over cells of what the history shows."""
    reconstruction, kl = (reduce(add, [v.sum() for v in part.values()]) for part in (elbo.reconstruction, elbo.kl))
    terms = {"elbo": reconstruction + kl, "reconstruction_loss": reconstruction, "kl_local": kl}
    if len(elbo.reconstruction) > 1:
        terms |= {f"reconstruction_loss_{name}": value.sum() for name, value in elbo.reconstruction.items()}
    return terms


def f1_score(said: Tensor, labels: Tensor, n_labels: int) -> float:
    """Harmonic mean of precision and recall of each label, averaged over labels with their numbers of cells as weights.

    Parameters
    ----------
    said, labels
        (n,) codes.
    """
    right, guessed, given = (
        torch.bincount(codes, minlength=n_labels).double() for codes in (labels[said == labels], said, labels)
    )
    return float((2 * right / (guessed + given).clamp(min=1) * given).sum() / len(labels))


def find_fault(model: Model, mb: Minibatch, data: CellData, generator: torch.Generator) -> tuple[float, str]:
    """Which cells of a minibatch have a non-finite loss (or the largest), and the genes with their largest counts.

    Returns
    -------
    How bad they are, above 0 where losses are not finite, and what there is to say.
    """
    cells, genes = data.cell_names, data.gene_names
    with evaluating(model):
        per_cell = model.loss(mb, generator).per_cell()
    if len(mb) == 0:
        return -np.inf, "it has no cells"
    bad = (~torch.isfinite(per_cell)).nonzero()[:, 0]
    badness = len(bad) or -1 / float(per_cell.max().clamp(min=1))  # the larger a finite loss, the nearer to 0
    kind = f"{len(bad)} of {len(mb)} cells have a non-finite likelihood"
    if len(bad) == 0:
        bad, kind = per_cell.topk(min(3, len(mb))).indices, "the largest losses are of cells"
    elif len(bad) == len(mb):
        kind = f"it is so for all {len(mb)} cells; those with the most counts are"
        bad = mb.x.sum(1).topk(min(3, len(mb))).indices
    named = [str(cells[mb.indices[i]]) if mb.indices is not None else str(int(i)) for i in bad[:3]]
    counts = mb.x[bad].amax(0)
    top = counts.topk(min(3, counts.shape[0])).indices
    largest = ", ".join(f"{genes[j]} ({counts[j]:g})" for j in top.tolist())
    return badness, f"{kind}: {', '.join(named)}; largest counts in genes {largest}"


class HidingProteins(NegativeElbo):
    """The negative ELBO of a :class:`scvi.models.totalvae.TOTALVAE` whose encoder does not see all that was measured.

    Where a batch lacks proteins, z of its cells follows from the genes, and z of the others mostly from the proteins:
    what a place in the latent space says of proteins is learned from cells that are elsewhere. So a share of the cells
    is shown as if it came from a batch that lacks some of their proteins, while all of them stay in the likelihood.
    """

    plan: ProteinPlan

    @cached_property
    def lacks(self) -> Tensor:
        """(k, k) 1 where the second batch lacks a protein that the first has."""
        measured = self.model.protein_batch_mask.float()
        return (measured @ (1 - measured).T > 0).float()

    def _elbo(self, mb: Minibatch) -> Elbo:
        return self.model.loss(mb, self.generator, seen=self.shown(mb))

    def shown(self, mb: Minibatch) -> Minibatch:
        """The cells as the encoder sees them in this step."""
        measured = self.model.protein_batch_mask
        if self.plan.hide_proteins == 0 or measured is None or mb.proteins is None:
            return mb
        of_cells = self.lacks[mb.batch[:, 0]]
        can = of_cells.any(1, keepdim=True)
        other = drawn_from_rows(
            lambda rows: torch.multinomial(rows, 1, generator=self.generator), torch.where(can, of_cells, 1.0)
        )
        share = drawn_rows(partial(torch.rand, device=mb.device, generator=self.generator), (len(mb), 1))
        batch = torch.where(can & (share < self.plan.hide_proteins), other, mb.batch)
        return replace(mb, batch=batch, proteins=mb.proteins * measured[batch[:, 0]])


OBJECTIVES: dict[type[Plan], type[NegativeElbo]] = {
    Plan: NegativeElbo,
    SemiSupervisedPlan: SemiSupervised,
    AdversarialPlan: Adversarial,
    ProteinPlan: HidingProteins,
}
"""What a fit minimises, by the class of its plan."""
