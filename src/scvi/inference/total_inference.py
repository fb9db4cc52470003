"""Fitting totalVI and asking it questions, under the names of 2020."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scvi._checks import check_choice, check_flag, check_number, superseded
from scvi.cells.checks import named
from scvi.cells.protein_background import background_moments
from scvi.cells.storage import as_dense
from scvi.dataset import GeneExpressionDataset
from scvi.dataset.arrays import check_nonnegative_integers
from scvi.inference.early_stopping import EarlyStopping
from scvi.inference.inference import UnsupervisedTrainer
from scvi.inference.posterior import Posterior
from scvi.inference.total_posterior import MEASUREMENT, TotalPosterior
from scvi.models.adversary import check_discriminator, cross_entropy
from scvi.models.classifier import Classifier

__all__ = ["TotalPosterior", "TotalTrainer", "default_early_stopping_kwargs"]

logger = logging.getLogger(__name__)

default_early_stopping_kwargs: dict[str, Any] = {
    "early_stopping_metric": "elbo",
    "save_best_state_metric": "elbo",
    "patience": 45,
    "threshold": 0,
    "reduce_lr_on_plateau": True,
    "lr_patience": 30,
    "lr_factor": 0.6,
    "posterior_class": TotalPosterior,
}
"""What `TotalTrainer` does unless it is told otherwise."""


class TotalTrainer(UnsupervisedTrainer):
    """Fits totalVI; with an adversary, if wanted, that keeps the batch out of the latent space.

    Parameters
    ----------
    model
        A :class:`scvi.models.TOTALVI`. Give it ``protein_batch_mask=dataset.get_batch_mask_cell_measurement(
        "protein_expression")`` where batches lack proteins.
    dataset
        Data with the measurement "protein_expression".
    train_size, test_size
        See `Trainer.train_test_validation`.
    pro_recons_weight
        Weight of the reconstruction of proteins.
    n_epochs_kl_warmup, n_iter_kl_warmup
        Epochs, or else steps, until the KL weight of z and of the background is 1; 'auto' is 0.75 steps a cell.
    discriminator
        A network from z to logits of the batch; None makes one if it is needed.
    use_adversarial_loss
        Train a discriminator of batches, and the model to fool it. Without effect on a single batch.
    kappa
        Weight of the adversary; None is 1 - KL weight, so that it fades.
    early_stopping_kwargs
        See `EarlyStopping`; 'auto' looks at the ELBO of the test cells with a patience of 45 epochs and lowers the
        learning rate after 30, None never stops.
    empirical_protein_background_prior
        Start the background where the lower of two Gaussians fits the log counts of a protein in a batch.
    **kwargs
        See `Trainer`.
    """

    @superseded(n_epochs_back_kl_warmup="n_epochs_kl_warmup is the warm-up of the background's divergence, too")
    def __init__(
        self,
        model: nn.Module,
        dataset: GeneExpressionDataset,
        train_size: float | None = 0.90,
        test_size: float | None = 0.10,
        pro_recons_weight: float = 1.0,
        n_epochs_kl_warmup: int | None = None,
        n_iter_kl_warmup: int | float | Literal["auto"] | None = "auto",
        discriminator: nn.Module | None = None,
        use_adversarial_loss: bool = False,
        kappa: float | None = None,
        early_stopping_kwargs: Mapping[str, Any] | Literal["auto"] | None = "auto",
        *,
        empirical_protein_background_prior: bool = False,
        **kwargs: Any,
    ) -> None:
        is_auto = isinstance(early_stopping_kwargs, str)
        if is_auto:
            check_choice("early_stopping_kwargs", early_stopping_kwargs, ("auto",))
            early_stopping_kwargs = default_early_stopping_kwargs
            kwargs.setdefault("frequency", 1)
        if isinstance(n_iter_kl_warmup, str):
            check_choice("n_iter_kl_warmup", n_iter_kl_warmup, ("auto",))
            n_iter_kl_warmup = 0.75 * len(dataset)
        check_number("pro_recons_weight", pro_recons_weight, "a number of at least 0", least=0)
        if kappa is not None:
            check_number("kappa", kappa, "None or a number of at least 0", least=0)
        check_flag("use_adversarial_loss", use_adversarial_loss)
        check_flag("empirical_protein_background_prior", empirical_protein_background_prior)
        if discriminator is not None:
            check_discriminator(discriminator)
        super().__init__(
            model,
            dataset,
            n_epochs_kl_warmup=n_epochs_kl_warmup,
            n_iter_kl_warmup=n_iter_kl_warmup,  # type: ignore[arg-type]
            early_stopping_kwargs=early_stopping_kwargs,
            **kwargs,
        )
        self.pro_recons_weight, self.kappa = pro_recons_weight, kappa
        self.empirical_protein_background_prior = empirical_protein_background_prior
        self.use_adversarial_loss = use_adversarial_loss and (dataset.n_batches or 0) > 1
        if self.use_adversarial_loss and discriminator is None:
            discriminator = Classifier(model.n_latent, n_hidden=32, n_labels=dataset.n_batches, n_layers=2, logits=True)  # type: ignore[arg-type]
        self.discriminator = None if discriminator is None else discriminator.to(self.device)
        self.d_optimizer: torch.optim.Optimizer | None = None
        self.train_set, self.test_set, self.validation_set = self.train_test_validation(
            train_size=train_size, test_size=test_size
        )
        self.test_set.to_monitor = self.validation_set.to_monitor = ["elbo"]
        self.n_samples = float(self.train_set.nb_cells)
        if is_auto and self.test_set.nb_cells == 0:
            self.early_stopping = EarlyStopping()
        if not check_nonnegative_integers(getattr(dataset, MEASUREMENT)):
            logger.warning("%s holds values that are no counts, which the likelihood takes for counts", MEASUREMENT)
        self._warn_of_missing_proteins(dataset)

    def create_posterior(
        self,
        model: nn.Module | None = None,
        gene_dataset: GeneExpressionDataset | None = None,
        shuffle: bool = False,
        indices: npt.ArrayLike | None = None,
        type_class: type[Posterior] = TotalPosterior,
    ) -> Any:
        """As `Trainer.create_posterior`; a `TotalPosterior` unless another class is asked for."""
        return super().create_posterior(model, gene_dataset, shuffle, indices, type_class)

    def train_test_validation(
        self,
        model: nn.Module | None = None,
        gene_dataset: GeneExpressionDataset | None = None,
        train_size: float | None = 0.1,
        test_size: float | None = None,
        type_class: type[Posterior] = TotalPosterior,
    ) -> tuple[Posterior, Posterior, Posterior]:
        """As `Trainer.train_test_validation`, for `TotalPosterior`."""
        return super().train_test_validation(model, gene_dataset, train_size, test_size, type_class)

    def loss(self, tensors: Sequence[Tensor]) -> Tensor:
        """The objective per cell of one minibatch; KL(z) and KL(background) are annealed, KL(l) is not."""
        x, local_l_mean, local_l_var, batch_index, label, y = tensors
        genes, of_proteins, kl_z, kl_l, kl_back = self.model(x, y, local_l_mean, local_l_var, batch_index, label)
        annealed = self.kl_weight * (kl_z + kl_back)
        return torch.mean(genes + self.pro_recons_weight * of_proteins + kl_l + annealed)

    def loss_discriminator(
        self, z: Tensor, batch_index: Tensor, predict_true_class: bool = True, return_details: bool = True
    ) -> Tensor:
        """Mean cross-entropy, in nats, of the discriminator's answer.

        Parameters
        ----------
        z, batch_index
            (n, d) and (n, 1).
        predict_true_class
            Compare with the true batch; otherwise with the uniform distribution over the others.
        return_details
            Kept for old code: there are no details beside the one number.
        """
        return cross_entropy(self.discriminator(z), batch_index, predict_true_class)  # type: ignore[misc]

    def train(  # type: ignore[override]  # the 2020 class has no further arguments
        self, n_epochs: int = 500, lr: float = 4e-3, eps: float = 0.01, params: Any = None
    ) -> None:
        """As `Trainer.train`, with the learning rate of the paper."""
        super().train(n_epochs, lr, eps, params)

    def training_extras_init(self, lr_d: float = 1e-3, eps: float = 0.01) -> None:  # type: ignore[override]
        """The optimiser of the discriminator."""
        if self.use_adversarial_loss:
            self.discriminator.train()  # type: ignore[union-attr]
            self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=lr_d, eps=eps)  # type: ignore[union-attr]

    def training_extras_end(self) -> None:
        if self.discriminator is not None:
            self.discriminator.eval()

    def on_training_begin(self) -> None:
        super().on_training_begin()
        if self.empirical_protein_background_prior and self.n_iter == 0:
            cells, codes = self.train_set.indices, self._data_set().batch_indices.ravel()
            values = as_dense(getattr(self._data_set(), MEASUREMENT)[cells])
            mask = self.model.protein_batch_mask
            k = max(self.model.n_batch, 1)
            codes = np.minimum(codes, k - 1)  # a model without batches takes all cells for those of one
            measured = np.ones((k, values.shape[1]), bool) if mask is None else mask.cpu().numpy()
            moments = background_moments(values, codes[cells], measured)
            self.model.start_background(*(torch.as_tensor(m).float().to(self.device) for m in moments))

    def on_training_loop(self, tensors_list: Sequence[Any]) -> None:
        """One step of the discriminator, if there is one, then one of the model, which has to fool it."""
        kappa = 1 - self.kl_weight if self.kappa is None else self.kappa
        if not self.use_adversarial_loss or kappa <= 0:
            super().on_training_loop(tensors_list)
            return
        (tensors,) = tensors_list
        x, _, _, batch_index, _, y = tensors
        loss = self.loss(tensors)
        z = self.model.sample_from_posterior_z(x, y, batch_index, give_mean=False)
        self.step(self.d_optimizer, kappa * self.loss_discriminator(z.detach(), batch_index, True))
        loss = loss + kappa * self.loss_discriminator(z, batch_index, False)
        self.current_loss = loss.detach()
        self.step(self.optimizer, loss)

    def _warn_of_missing_proteins(self, dataset: GeneExpressionDataset) -> None:
        if self.model.protein_batch_mask is not None:
            return
        names = np.asarray(getattr(dataset, dataset.cell_measurements_col_mappings[MEASUREMENT])).astype(str)
        for code, seen in enumerate(dataset.get_batch_mask_cell_measurement(MEASUREMENT)):
            if not seen.all():
                logger.warning(
                    "Batch %d has no count of the proteins %s, which are fitted as zeros: if it did not measure them, "
                    "make the model with protein_batch_mask=dataset.get_batch_mask_cell_measurement(%r).",
                    code,
                    named(names[~seen]),
                    MEASUREMENT,
                )
