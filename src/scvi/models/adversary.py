"""A classifier that tells from which data set a latent state is, and encoders that are to deceive it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from scvi.minibatch import Minibatch
from scvi.models.base import Elbo, mean_of
from scvi.models.classifier import Classifier
from scvi.models.jvae import JVAE
from scvi.models.one_hot import one_hot


class Adversaries(nn.Module):
    """A model of several data sets and its discriminator as one module, so that one optimiser trains both.

    Parameters
    ----------
    model
        The model.
    discriminator
        From latent states (n, d) to logits (n, number of data sets).
    """

    def __init__(self, model: JVAE, discriminator: nn.Module) -> None:
        super().__init__()
        self.model, self.discriminator = model, discriminator

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        """The negative ELBO of cells of one data set."""
        return self.model.loss(mb, generator)

    def shared_posterior(self) -> list[nn.Parameter]:
        """See :meth:`Model.shared_posterior`."""
        return self.model.shared_posterior()

    def told_apart(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """What the discriminator says, see :func:`class_log_probabilities`; gradients reach it alone."""
        return class_log_probabilities(self.discriminator, [z.detach() for z in latents])

    def deception(self, latents: Sequence[Tensor], n_cells: Sequence[int | None] | None = None) -> Tensor:
        """How far the discriminator is from being deceived; gradients reach the encoders alone."""
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        said = class_log_probabilities(lambda z: functional_call(self.discriminator, fixed, (z,)), latents)
        return torch.stack(adversarial_losses(said, False, n_cells)).sum()


def check_discriminator(discriminator: nn.Module) -> None:
    """Refuses a classifier that returns probabilities: its answer is taken for logits."""
    if isinstance(discriminator, Classifier) and not discriminator.logits:
        raise ValueError("the discriminator returns probabilities: make it with logits=True")


def class_log_probabilities(classifier: Callable[[Tensor], Tensor], latents: Sequence[Tensor]) -> list[Tensor]:
    """Log of the probability that a cell is of each data set, (n_i, k), from the logits of a classifier.

    Cells of all data sets go through it in one pass: batch norm over the cells of one data set alone would hide by how
    much the data sets differ.
    """
    logits = classifier(torch.cat(list(latents)))
    return list(torch.log_softmax(logits, dim=-1).split([len(z) for z in latents]))


def cross_entropy(logits: Tensor, codes: Tensor, predict_true_class: bool) -> Tensor:
    """Mean over cells of all classes together, which have the codes (n, 1); else as :func:`adversarial_losses`."""
    log_p = torch.log_softmax(logits, dim=-1)
    own = one_hot(codes, log_p.shape[1])
    wanted = own if predict_true_class else (1 - own) / (log_p.shape[1] - 1)
    return -(wanted * log_p).sum(-1).mean()


def adversarial_losses(
    log_probabilities: Sequence[Tensor], predict_true_class: bool, n_cells: Sequence[int | None] | None = None
) -> list[Tensor]:
    """Mean cross-entropy of the cells of each data set, one scalar each.

    Against their data set, which a classifier minimises; or else against each of the others with the same probability,
    which the encoders minimise to deceive it. `n_cells` are as for :func:`scvi.models.base.mean_of`.
    """
    owns = [log_p[:, i] for i, log_p in enumerate(log_probabilities)]
    counts = [None] * len(owns) if n_cells is None else n_cells
    if predict_true_class:
        return [-mean_of(own, n) for own, n in zip(owns, counts, strict=True)]
    n_others = max(len(owns) - 1, 1)
    others = [(log_p.sum(-1) - own) / n_others for log_p, own in zip(log_probabilities, owns, strict=True)]
    return [-mean_of(other, n) for other, n in zip(others, counts, strict=True)]
