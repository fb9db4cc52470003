"""Trainer and posteriors of JVAE, the model of several data sets, under their names of 2020."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scvi._checks import batch_code, check_integer, check_number, superseded
from scvi.dataset import GeneExpressionDataset
from scvi.inference.loaders import side_by_side
from scvi.inference.posterior import Posterior, metric
from scvi.inference.trainer import Trainer
from scvi.minibatch import Minibatch
from scvi.models.adversary import adversarial_losses, check_discriminator, class_log_probabilities
from scvi.models.jvae import JVAE
from scvi.models.log_likelihood import compute_elbo
from scvi.queries import evaluating
from scvi.queries.imputation import data_set_probabilities, imputed
from scvi.queries.latent import latent
from scvi.queries.likelihood import reconstruction

__all__ = ["JPosterior", "JVAETrainer"]


class JPosterior(Posterior):
    """Cells of one of the data sets of a `JVAE`. Expression and imputation are those of the genes of this data set.

    Parameters
    ----------
    *args, **kwargs
        As for `Posterior`.
    mode
        Number of the data set in the model.
    """

    def __init__(self, *args: Any, mode: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mode = check_integer("mode", mode, 0)

    def own_options(self) -> dict[str, Any]:
        return {"mode": self.mode}

    def minibatches(self) -> Iterator[Minibatch]:
        return (replace(mb, dataset=self.mode) for mb in super().minibatches())

    @metric("min")
    def elbo(self) -> float:
        """Negative evidence lower bound, mean over cells, in nats; lower is better."""
        return self._score(partial(compute_elbo, mode=self.mode))

    @metric("min")
    def reconstruction_error(self) -> float:
        """Negative log-likelihood of the counts given a draw of the latent variables, mean over cells, in nats."""
        return -float(reconstruction(self.model, self._asked().minibatches())["genes"].mean(dtype=np.float64))


class JVAETrainer(Trainer):
    """Fits a `JVAE` to several data sets, while a discriminator learns to tell them apart and is to be deceived.

    Each step takes one minibatch of every data set; an epoch is one pass over the largest. The posteriors `train_0`,
    `train_1`, ... and `test_0`, ... are registered and their "elbo" monitored. `all_dataset`, `all_train`, `all_test`
    and `all_validation` hold one posterior a data set.

    With `frequency`, `history` has "discriminator_loss" (cross-entropy in nats, mean over data sets) and
    "discriminator_accuracy", over the training cells since the entry before: near log k and 1 / k where k data sets are
    mixed.

    Parameters
    ----------
    model
        The model.
    discriminator
        From z (n, d) to logits (n, number of data sets), such as ``Classifier(n_latent, 32, 2, 3, logits=True)``.
    gene_dataset_list
        The data sets, in the order of the model. Their batch codes are to be counted through: add the number of batches
        of the data sets before to those of the later ones.
    train_size
        See `Trainer.train_test_validation`.
    use_cuda
        Train on a GPU if there is one.
    kappa
        Weight of the two adversarial losses; 0 trains without a discriminator.
    n_epochs_kl_warmup
        Epochs until the KL weight is 1; None for no warm-up.
    **kwargs
        See `Trainer`.
    """

    default_metrics_to_monitor = ("elbo",)

    def __init__(
        self,
        model: JVAE,
        discriminator: nn.Module,
        gene_dataset_list: Sequence[GeneExpressionDataset],
        train_size: float | None = 0.8,
        use_cuda: bool = True,
        kappa: float = 1.0,
        n_epochs_kl_warmup: int | None = 400,
        **kwargs: Any,
    ) -> None:
        data_sets = list(gene_dataset_list)
        if len(data_sets) != model.n_datasets:
            raise ValueError(
                f"gene_dataset_list has {len(data_sets)} data sets, the model was made for {model.n_datasets}"
            )
        check_discriminator(discriminator)
        if n_epochs_kl_warmup is not None and n_epochs_kl_warmup < 0:
            raise ValueError(f"n_epochs_kl_warmup={n_epochs_kl_warmup!r} is negative: pass a length, or None")
        super().__init__(model, data_sets[0], use_cuda=use_cuda, **kwargs)
        self.kappa = check_number("kappa", kappa, "a number of at least 0", least=0)
        self.n_epochs_kl_warmup = n_epochs_kl_warmup
        self.kl_weight = 1.0
        self.discriminator = discriminator.to(self.device)
        self.d_optimizer: torch.optim.Optimizer | None = None
        self.train_discriminator = len(data_sets) > 1 and self.kappa > 0
        kinds: list[Any] = [partial(JPosterior, mode=i) for i in range(len(data_sets))]
        self.all_dataset = [
            self.create_posterior(model, data, type_class=kind) for data, kind in zip(data_sets, kinds, strict=True)
        ]
        splits = [
            self.train_test_validation(model, data, train_size, type_class=kind)
            for data, kind in zip(data_sets, kinds, strict=True)
        ]
        self.all_train, self.all_test, self.all_validation = zip(*splits, strict=True)
        for name, posteriors in (("train", self.all_train), ("test", self.all_test)):
            for i, posterior in enumerate(posteriors):
                posterior.to_monitor = ["elbo"]
                self.register_posterior(f"{name}_{i}", posterior)
        self._told: list[tuple[float, float]] = []  # loss and accuracy of the discriminator since the last metrics

    # Training -----------------------------------------------------------------------------------------------------

    @property
    def posteriors_loop(self) -> Sequence[str]:
        return [f"train_{i}" for i in range(len(self.all_train))]

    def data_loaders_loop(self) -> Iterator[Sequence[Any]]:
        """One epoch: a pass over the largest data set, beside it the others again and again."""
        posteriors = [self._posteriors[name] for name in self.posteriors_loop]
        return side_by_side(posteriors, leader=int(np.argmax([posterior.nb_cells for posterior in posteriors])))

    @superseded(lr_g="the learning rate of the model is lr")
    def training_extras_init(self, lr_d: float = 1e-3, eps: float = 0.01) -> None:  # type: ignore[override]
        """A new optimiser of the discriminator."""
        check_number("lr_d", lr_d, "a positive number", above=0)
        self.discriminator.train()
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=lr_d, eps=eps)

    def training_extras_end(self) -> None:
        self.discriminator.eval()

    def on_epoch_begin(self) -> None:
        length = self.n_epochs_kl_warmup
        self.kl_weight = min(1.0, self.epoch / length) if length else 1.0

    def on_training_loop(self, tensors_list: Sequence[Sequence[Tensor]]) -> None:
        """A step of the discriminator, one of the encoders against it, and one of the model."""
        if self.train_discriminator:
            latents = [self.model.sample_from_posterior_z(tensors[0], mode=i) for i, tensors in enumerate(tensors_list)]
            self.step(self.d_optimizer, self.kappa * self._told_apart(latents))
            self.step(self.optimizer, self.kappa * self.loss_discriminator(latents, False))
        loss = self.loss(tensors_list)
        self.current_loss = loss.detach()
        self.step(self.optimizer, loss)

    def _told_apart(self, latents: Sequence[Tensor]) -> Tensor:
        """The discriminator's own loss, of which no gradient reaches the encoders; notes how it does for `history`."""
        said = class_log_probabilities(self.discriminator, [z.detach() for z in latents])
        losses = torch.stack(adversarial_losses(said, predict_true_class=True))
        if self.frequency:
            right = np.mean([float((log_p.argmax(-1) == i).float().mean()) for i, log_p in enumerate(said)])
            self._told.append((float(losses.detach().mean()), float(right)))
        return losses.sum()

    def loss_discriminator(
        self, latent_tensors: Sequence[Tensor], predict_true_class: bool = True, return_details: bool = False
    ) -> Any:
        """Cross-entropy of the discriminator: mean over the cells of a data set, summed over data sets.

        Parameters
        ----------
        latent_tensors
            z (n_i, d) of cells of each data set.
        predict_true_class
            Against the cells' own data set; otherwise against the others, each with the same probability.
        return_details
            A list with one loss a data set instead of their sum.
        """
        losses = adversarial_losses(class_log_probabilities(self.discriminator, latent_tensors), predict_true_class)
        return losses if return_details else torch.stack(losses).sum()

    def loss(self, tensors: Sequence[Sequence[Tensor]], return_details: bool = False) -> Any:
        """The negative ELBO with the KL weight of the epoch, mean over all cells of one minibatch of each data set.

        With `return_details` two lists: mean reconstruction loss and mean KL divergence in each data set.
        """
        cells = [replace(Minibatch.from_tensors(given), dataset=i) for i, given in enumerate(tensors)]
        n_cells = sum(map(len, cells))
        elbos = [self.model.draw_with_loss(mb, n_cells=n_cells)[1] for mb in cells]
        if return_details:
            return [elbo.fixed().mean() for elbo in elbos], [elbo.warmed().mean() for elbo in elbos]
        return torch.stack([elbo.objective(self.kl_weight, n_cells) for elbo in elbos]).sum()

    def compute_metrics(self) -> None:
        """Also adds what the discriminator did since the last time."""
        super().compute_metrics()
        if self._fresh_metrics and self._told:
            for name, value in zip(("loss", "accuracy"), np.mean(self._told, axis=0), strict=True):
                self.history[f"discriminator_{name}"].append(float(value))
            self._told = []

    # Questions ----------------------------------------------------------------------------------------------------

    def get_discriminator_confusion(self) -> npt.NDArray[np.float32]:
        """(k, k): how the discriminator takes cells of data set i (row) for cells of each, on average.

        Uniform rows mean good mixing. If it is diagonal, raise `kappa`.
        """
        return np.stack(
            [
                data_set_probabilities(self.model, self.discriminator, posterior.minibatches()).mean(axis=0)
                for posterior in self._in_order()
            ]
        )

    def get_loss_magnitude(
        self, one_sample: bool = False
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Reconstruction loss, KL divergence and discriminator's loss of each data set, (k,) each.

        Means of minibatches, summed over those of an epoch, or of one step with `one_sample`.
        """
        total = np.zeros((3, len(self.all_train)))
        with evaluating(self.model), evaluating(self.discriminator):
            for tensors_list in self.data_loaders_loop():
                latents = [self.model.sample_from_posterior_z(t[0], mode=i) for i, t in enumerate(tensors_list)]
                reconstructions, divergences = self.loss(tensors_list, return_details=True)
                told = self.loss_discriminator(latents, return_details=True)
                total += [[float(value) for value in row] for row in (reconstructions, divergences, told)]
                if one_sample:
                    break
        return total[0], total[1], total[2]

    def get_latent(self, deterministic: bool = True) -> list[npt.NDArray[np.float32]]:
        """z (n_i, d) of all cells of each data set, in its order: posterior means, or draws."""
        return [latent(self.model, posterior.minibatches(), deterministic) for posterior in self._in_order()]

    def get_imputed_values(
        self,
        deterministic: bool = True,
        normalized: bool = True,
        decode_mode: int | None = None,
        *,
        transform_batch: int | None = None,
    ) -> list[npt.NDArray[np.float32]]:
        """(n_i, all genes) expected expression in all cells of each data set, in its order.

        Parameters
        ----------
        deterministic
            Decode means of the latent variables, not draws.
        normalized
            Frequencies, see `JVAE.sample_scale`; or else expected counts.
        decode_mode
            Number of the data set as which to decode all cells; None: each its own.
        transform_batch
            Code of the batch to decode in; None: each cell's own.
        """
        code = batch_code("transform_batch", transform_batch, self.model.n_batch)
        return [
            imputed(
                self.model,
                posterior.minibatches(),
                deterministic=deterministic,
                normalized=normalized,
                decode_mode=decode_mode,
                transform_batch=None if code is None else [code],
            )
            for posterior in self._in_order()
        ]

    def _in_order(self) -> list[Posterior]:
        return [posterior.sequential() for posterior in self.all_dataset]
