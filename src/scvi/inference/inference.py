"""Trainers of models that learn from counts alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from scvi._checks import check_integer
from scvi.dataset import GeneExpressionDataset
from scvi.fit.scope import frozen
from scvi.inference.loaders import n_steps
from scvi.inference.posterior import Posterior
from scvi.inference.trainer import MIN_CELLS_TO_MONITOR, Trainer

__all__ = ["AdapterTrainer", "UnsupervisedTrainer"]

logger = logging.getLogger(__name__)


class UnsupervisedTrainer(Trainer):
    """Minimises the negative evidence lower bound, the KL divergence of the latent space warming up from 0 to 1.

    Splits the cells into the posteriors `train_set`, `test_set` and `validation_set`, whose "elbo" is monitored (a
    subclass makes its own). With the default warm-up of 400 epochs a shorter training never reaches the full
    objective; pass ``n_epochs_kl_warmup=None`` to do without one.

    Parameters
    ----------
    model
        A network that returns (reconstruction loss (n,), annealed KL (n,), global KL) from counts, mean and variance of
        the log library size, batch and label.
    gene_dataset
        The data.
    train_size, test_size
        See `Trainer.train_test_validation`.
    n_iter_kl_warmup
        Steps since construction until the KL weight is 1; read if `n_epochs_kl_warmup` is None.
    n_epochs_kl_warmup
        Epochs until the KL weight is 1.
    normalize_loss
        Divide the objective of all cells by their number; None does, unless the likelihood is "autozinb".
    **kwargs
        See `Trainer`.
    """

    default_metrics_to_monitor = ("elbo",)

    train_set: Posterior
    test_set: Posterior
    validation_set: Posterior

    def __init__(
        self,
        model: nn.Module,
        gene_dataset: GeneExpressionDataset,
        train_size: float | None = 0.8,
        test_size: float | None = None,
        n_iter_kl_warmup: int | None = None,
        n_epochs_kl_warmup: int | None = 400,
        normalize_loss: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, gene_dataset, **kwargs)
        for name, value in (("n_iter_kl_warmup", n_iter_kl_warmup), ("n_epochs_kl_warmup", n_epochs_kl_warmup)):
            if value is not None and value < 0:
                raise ValueError(f"{name}={value!r} is negative: pass a length, or None for no warm-up")
        self.n_iter_kl_warmup = n_iter_kl_warmup
        self.n_epochs_kl_warmup = n_epochs_kl_warmup
        by_default = getattr(model, "reconstruction_loss", None) != "autozinb"
        self.normalize_loss = by_default if normalize_loss is None else normalize_loss
        self.n_samples = 1.0
        if type(self) is UnsupervisedTrainer:
            self.train_set, self.test_set, self.validation_set = self.train_test_validation(
                train_size=train_size, test_size=test_size
            )
            for posterior in (self.train_set, self.test_set, self.validation_set):
                posterior.to_monitor = ["elbo"]
            self.n_samples = float(self.train_set.nb_cells)

    @property
    def posteriors_loop(self) -> Sequence[str]:
        return ["train_set"]

    def loss(self, tensors: Sequence[Tensor]) -> Tensor:
        """The objective for one minibatch, scaled to all cells and then, with `normalize_loss`, to one cell."""
        x, local_l_mean, local_l_var, batch_index, y = tensors
        reconstruction, kl_local, kl_global = self.model(x, local_l_mean, local_l_var, batch_index, y)
        per_cell = torch.mean(reconstruction + self.kl_weight * kl_local)
        if self.normalize_loss:
            # n (1 / n) may not be 1 in float32, and likelihood kernels expect the gradient of a mean
            return per_cell + kl_global / self.n_samples
        return self.n_samples * per_cell + kl_global

    @property
    def kl_weight(self) -> float:
        """Weight of the annealed KL terms now, from 0 to 1."""
        _, done, length = self._warmup()
        return min(1.0, max(done, 0) / length) if length else 1.0

    def _warmup(self) -> tuple[str, int, int | None]:
        """In what the KL warm-up is counted, how far training is, and the length; None for no warm-up."""
        if self.n_epochs_kl_warmup is not None:
            return "epochs", self.epoch, self.n_epochs_kl_warmup
        return "iterations", self.n_iter, self.n_iter_kl_warmup

    def on_training_begin(self) -> None:
        unit, done, length = self._warmup()
        if length is None:
            logger.info("Training without KL warmup")
            return
        planned = self.n_epochs or 0
        if unit == "iterations":
            planned = done + planned * n_steps(self._posteriors[self.posteriors_loop[0]])
        logger.info("KL warmup for %d %s", length, unit)
        if length > planned:
            logger.info(
                "KL warmup phase exceeds overall training phase: %d %s of warmup, %d of training. "
                "If your applications rely on the posterior quality, consider a shorter warmup or a longer training.",
                length,
                unit,
                planned,
            )

    def on_training_end(self) -> None:
        if self.kl_weight < 0.99:
            logger.info(
                "Training is still in warming up phase (KL weight %.2f). If your applications rely on the posterior "
                "quality, consider training for more epochs or reducing the kl warmup.",
                self.kl_weight,
            )


class AdapterTrainer(UnsupervisedTrainer):
    """Fits the encoders alone to held-out cells, to tell how good the decoder is from how quickly they adapt.

    The decoder stays as it is, its batch norm statistics too. The encoders are left as the last path fitted them.

    Parameters
    ----------
    model
        A fitted network with a `z_encoder`, and an `l_encoder` unless its library size is observed.
    gene_dataset
        The data.
    posterior_test
        The held-out cells, at least 5; monitored as "elbo_test_set".
    frequency
        Epochs between two values of the history.
    """

    def __init__(
        self, model: nn.Module, gene_dataset: GeneExpressionDataset, posterior_test: Posterior, frequency: int = 5
    ) -> None:
        super().__init__(model, gene_dataset, frequency=frequency, device=next(model.parameters()).device)
        if posterior_test.nb_cells < MIN_CELLS_TO_MONITOR:
            raise ValueError(
                f"posterior_test has {posterior_test.nb_cells} cells, at least {MIN_CELLS_TO_MONITOR} are needed"
            )
        self.test_set = posterior_test
        self.test_set.to_monitor = ["elbo"]
        self._encoders = [part for name, part in model.named_children() if name in ("z_encoder", "l_encoder")]
        self.params = [parameter for encoder in self._encoders for parameter in encoder.parameters()]
        self._encoder_states = [deepcopy(encoder.state_dict()) for encoder in self._encoders]

    @property
    def posteriors_loop(self) -> Sequence[str]:
        return ["test_set"]

    def on_epoch_begin(self) -> None:
        self.model.eval()
        for encoder in self._encoders:
            encoder.train()

    def train(self, n_path: int = 10, n_epochs: int = 50, **kwargs: Any) -> float:  # type: ignore[override]
        """Fits the encoders `n_path` times from where they were; returns the lowest negative ELBO of the history.

        The history begins before any adaptation, and includes all paths and earlier calls.
        """
        check_integer("n_path", n_path, 1, wanted="a number of paths, an integer from 1 on")
        fitted = set(self.params)
        with frozen(p for p in self.model.parameters() if p not in fitted):
            for _ in range(n_path):
                for encoder, state in zip(self._encoders, self._encoder_states, strict=True):
                    encoder.load_state_dict(state)
                super().train(n_epochs, params=self.params, **kwargs)
                if self.interrupted:
                    break
        return min(self.history["elbo_test_set"])
