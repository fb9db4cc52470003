"""What all AnnData-first estimators share: set up, train, ask, save and load."""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch

from scvi._random import generator_of, seeded
from scvi.dataset.cell_data import CellData, Schema, declare, register, registered
from scvi.estimators import files, training
from scvi.estimators.cells import Cells, Indices
from scvi.inference.fitting import Fit
from scvi.inference.plan import Plan, Precision, Schedule
from scvi.minibatch import Minibatch
from scvi.models.vae import VAE

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Estimator"]


class Estimator(ABC):
    """A model of the cells of an AnnData: set up, made, fitted, saved and loaded. Questions are up to subclasses.

    Every method that reads cells takes `adata` (None: the one the model was made with; another must have the model's
    genes, in any order, and no category that the model does not know), `indices` (positions or a mask; the order is
    kept) and `batch_size` (cells at a time, None: ``scvi.settings.batch_size``).

    Attributes
    ----------
    module
        The network, a torch module.
    adata
        The AnnData the model was made with, or None.
    history
        One-column tables of losses by epoch, in nats per cell; `elbo_*` and `train_loss_epoch` fall.
    is_trained
        Whether the model was fitted, by one step at least.
    was_interrupted
        Whether the last fit was ended early with Ctrl-C.
    train_indices, validation_indices
        Positions of the cells of the last fit.
    """

    # ---- making a model ----------------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        mask_var: str | Sequence[str] | np.ndarray | None = None,
    ) -> None:
        """Declares which parts of `adata` the model reads, and checks them.

        One entry is written to ``adata.uns["_scvi"]``; nothing else of `adata` is changed.

        Parameters
        ----------
        layer
            Key of ``adata.layers`` with the raw counts; None: ``adata.X``.
        batch_key
            Column of ``adata.obs`` with the experimental batch, whose effect is removed from the latent space.
        labels_key
            Column with the cell type (used by label-wise dispersions; other models do not look at it later on).
        size_factor_key
            Column with size factors, in place of each cell's total count. They are relative: their mean is scaled to
            the mean total count.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns whose effect is removed like the batch's. Continuous ones enter standardised, by mean and
            standard deviation of the cells of this `adata`, also those of other cells later on.
        mask_var
            Genes to model: a boolean column of ``adata.var``, a list of names or a mask. None: all.
        """
        schema, print_of_adata = declare(
            adata,
            layer=layer,
            batch_key=batch_key,
            labels_key=labels_key,
            size_factor_key=size_factor_key,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            mask_var=mask_var,
        )
        register(adata, cls.__name__, schema, print_of_adata)

    def __init__(self, adata: AnnData, options: Mapping[str, Any], seed: int | None) -> None:
        schema = registered(adata, type(self).__name__)
        with seeded(seed):
            module = self._make_module(schema, options)
        self._assemble(options, module, self._make_cells(schema, options, adata, validate=False))

    @classmethod
    @abstractmethod
    def _make_module(cls, schema: Schema, options: Mapping[str, Any]) -> VAE:
        """The network of a model with these options."""

    @classmethod
    def _reads_labels(cls, options: Mapping[str, Any]) -> bool:
        """Whether a model with these options has a use for labels."""
        return True

    @classmethod
    def _make_cells(
        cls, schema: Schema, options: Mapping[str, Any], adata: AnnData | None, validate: bool = True
    ) -> Cells:
        return Cells(schema, adata, labels=cls._reads_labels(options), owner=cls.__name__, validate=validate)

    def _assemble(self, options: Mapping[str, Any], module: VAE, cells: Cells) -> None:
        self.options = {name: _plain(value) for name, value in options.items()}
        self.module, self._cells = module.eval(), cells
        self.schema, self.adata = cells.schema, cells.adata
        self.history: dict[str, pd.DataFrame] = {}
        self.is_trained = self.was_interrupted = False
        self.train_indices: np.ndarray | None = None
        self.validation_indices: np.ndarray | None = None

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        state = "trained" if self.is_trained else "not trained"
        return f"{type(self).__name__}({self.schema.n_genes} genes, {self.schema.n_batch} batches, {options}; {state})"

    def view_anndata_setup(self) -> pd.DataFrame:
        """What the model reads: one row for each input, with its place in the AnnData and a summary."""
        s = self.schema
        rows = [("counts", s.counts_name, f"{s.n_genes} genes" + (" (mask_var)" if s.mask_var else ""))]
        named = [("batch", s.batch_key), ("labels", s.labels_key)]
        named += [("categorical covariate", key) for key in s.categorical_covariate_keys]
        rows += [(what, f"adata.obs[{key!r}]", ", ".join(s.categories[key])) for what, key in named if key]
        others = [("size factor", s.size_factor_key)]
        others += [("continuous covariate", key) for key in s.continuous_covariate_keys]
        rows += [(what, f"adata.obs[{key!r}]", "") for what, key in others if key]
        return pd.DataFrame(rows, columns=["input", "source", "summary"]).set_index("input")

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    def to_device(self, device: str | int | torch.device) -> None:
        """Moves the network to a device of this machine, such as 'cpu' or 'cuda:0'; a number means that GPU."""
        self.module.to(training.checked_device(device))

    # ---- fitting -----------------------------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: str | int | Sequence[int] = "auto",
        train_size: float = 0.9,
        validation_size: float | None = None,
        batch_size: int | None = None,
        early_stopping: bool = False,
        lr: float = Plan.lr,
        *,
        lr_schedule: Schedule = Plan.lr_schedule,
        weight_decay: float = Plan.weight_decay,
        gradient_clip: float | None = Plan.gradient_clip,
        kl_warmup: float = Plan.kl_warmup,
        validation_indices: Indices = None,
        check_val_every_n_epoch: int = Plan.check_val_every_n_epoch,
        early_stopping_monitor: str = Plan.early_stopping_monitor,
        early_stopping_patience: int | None = Plan.early_stopping_patience,
        early_stopping_min_delta: float = Plan.early_stopping_min_delta,
        precision: Precision = Plan.precision,
        enable_progress_bar: bool = True,
        plan_kwargs: Mapping[str, Any] | None = None,
        seed: int | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> None:
        """Fits the model.

        A further call goes on from the current weights, with a plan of its own: the learning rate and the KL weight
        rise anew, and the cells are split anew (as before if the seed is the same). `history` goes on.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; None: 50, fewer for more than 50,000 cells.
        accelerator, devices
            'auto' (a CUDA GPU if there is one), 'cpu', 'gpu' or 'mps'; one device.
        train_size, validation_size
            Shares of the cells to fit and to look at only (None: the rest).
        batch_size
            Cells in a step; None: ``scvi.settings.batch_size`` if it was set, else 128, and 64 for fewer than 5,000
            training cells.
        early_stopping
            Stop when `early_stopping_monitor` (a ``*_validation`` entry of the history) has not fallen by
            `early_stopping_min_delta` in `early_stopping_patience` epochs (None: a fifth of `max_epochs`, at least 5),
            and go back to the best weights. The patience starts when the KL weight is full.
        lr, lr_schedule
            Peak learning rate, and 'one-cycle' (up, then down to 0 over the planned steps), 'constant' or 'plateau'.
        weight_decay, gradient_clip
            L2 penalty, and the largest norm of a gradient (None: no limit).
        kl_warmup
            Share of the planned steps over which the KL weight rises from 0 to 1.
        validation_indices
            Positions of the validation cells, in place of the two sizes.
        check_val_every_n_epoch
            Epochs between two validations.
        precision
            'bf16' computes large matrix products in bfloat16, on a CPU or GPU that has instructions for it; the
            likelihood, its sums and the weights stay in float32.
        enable_progress_bar
            Show a progress bar.
        plan_kwargs
            Options under the names of scripts that exist: lr, weight_decay, eps, n_epochs_kl_warmup, n_steps_kl_warmup,
            max_kl_weight, min_kl_weight, reduce_lr_on_plateau, lr_patience, lr_factor. They win over the arguments
            above; ``n_epochs_kl_warmup=None`` means no warm-up.
        seed
            Seed of split, order, dropout and draws.
        checkpoint_dir
            Write checkpoints there.
        resume
            Go on from the checkpoint in `checkpoint_dir`, exactly as if training had not been interrupted.

        Raises
        ------
        ValueError
            If an argument is out of range, before anything is trained.
        RuntimeError
            If losses are not finite again and again; `is_trained` says whether the weights are those of a fit.

        Warns
        -----
        UserWarning
            If a loss was not finite, with the cells and genes at fault; if training ended below the full KL weight.
        """
        data = self._cells.own("train")
        device = training.resolve_device(accelerator, devices)
        seed = training.seed_of_fit(seed, checkpoint_dir, resume)
        held_out = None if validation_indices is None else data.positions(validation_indices, "validation_indices")
        train_cells, validation_cells = training.split_cells(len(data), train_size, validation_size, held_out, seed)
        options: dict[str, Any] = {
            "max_epochs": max_epochs,
            "batch_size": batch_size,
            "early_stopping": early_stopping,
            "lr": lr,
            "lr_schedule": lr_schedule,
            "weight_decay": weight_decay,
            "gradient_clip": gradient_clip,
            "kl_warmup": kl_warmup,
            "check_val_every_n_epoch": check_val_every_n_epoch,
            "early_stopping_monitor": early_stopping_monitor,
            "early_stopping_patience": early_stopping_patience,
            "early_stopping_min_delta": early_stopping_min_delta,
            "precision": precision,
        }
        plan = training.make_plan(options, plan_kwargs, len(train_cells), len(validation_cells))
        training.check_precision(plan.precision, device)
        fit = Fit(
            self.module,
            data,
            train_cells,
            validation_cells,
            plan,
            seed=seed,
            device=device,
            show_progbar=enable_progress_bar,
            checkpoint_dir=checkpoint_dir,
        )
        past = max((int(table.index[-1]) + 1 for table in self.history.values()), default=0)
        fit.prepare(resume, past, self.options, self.is_trained)
        if not self.is_trained:
            training.initialise(self.module, data, train_cells)
        try:
            fit.run()
        finally:
            self._keep(fit)

    def _keep(self, fit: Fit) -> None:
        """Takes over what a fit has reached, also an interrupted one."""
        self.was_interrupted = fit.interrupted
        if fit.steps_kept == 0:
            return
        earlier = {name: table[table.index < fit.epochs_before] for name, table in self.history.items()}
        frames = fit.frames()
        names = dict.fromkeys([*earlier, *frames])
        self.history = {name: pd.concat([h[name] for h in (earlier, frames) if name in h]) for name in names}
        self.train_indices, self.validation_indices = fit.train_indices, fit.validation_indices
        self.is_trained = True

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, dir_path: str | os.PathLike[str], overwrite: bool = False, save_anndata: bool = False) -> None:
        """Writes the model to a directory: ``weights.safetensors`` and ``model.json``, whole or not at all.

        Parameters
        ----------
        overwrite
            Replace a model that is there.
        save_anndata
            Write the AnnData beside it, as ``adata.h5ad``.
        """
        if save_anndata and self.adata is None:
            raise ValueError("save_anndata=True, but this model was loaded without an AnnData")
        stored = files.StoredModel(
            type(self).__name__,
            self.options,
            self.schema,
            self.history,
            self.is_trained,
            self.module.state_dict(),
            self.train_indices,
            self.validation_indices,
        )
        files.write(dir_path, stored, self.adata if save_anndata else None, overwrite)

    @classmethod
    def load(cls, dir_path: str | os.PathLike[str], adata: AnnData | None = None) -> Self:
        """Reads a model from a directory. Nothing in the files is run.

        Parameters
        ----------
        adata
            Cells to work with; it needs no set-up. None: the AnnData that was saved with the model, if any; without one
            every question needs its `adata`.

        Raises
        ------
        FileNotFoundError
            If there is no model.
        ValueError
            If its files are truncated, foreign or of another estimator, or `adata` does not fit the model.
        """
        options = set(inspect.signature(cls).parameters) - {"adata", "seed"}
        stored = files.read(dir_path, cls.__name__, options)
        module = files.rebuild(dir_path, stored, lambda: cls._make_module(stored.schema, stored.options))
        adata = files.read_adata(dir_path) if adata is None else adata
        model = cls.__new__(cls)
        model._assemble(stored.options, module, cls._make_cells(stored.schema, stored.options, adata))
        model.history, model.is_trained = stored.history, stored.is_trained
        model.train_indices, model.validation_indices = stored.train_indices, stored.validation_indices
        return model

    # ---- what questions need -----------------------------------------------------------------------------------------

    def _require_trained(self) -> None:
        if not self.is_trained:
            raise RuntimeError(f"this {type(self).__name__} model is not trained: call train() first")

    def _choose(self, adata: AnnData | None, indices: Indices) -> tuple[CellData, np.ndarray]:
        """The cells of a question: the data they are part of, and their positions."""
        self._require_trained()
        return self._cells.choose(adata, indices)

    def _minibatches(self, data: CellData, positions: np.ndarray, batch_size: int | None) -> Iterator[Minibatch]:
        return self._cells.minibatches(data, positions, batch_size, self.device)

    def _ask(self, adata: AnnData | None, indices: Indices, batch_size: int | None) -> Iterator[Minibatch]:
        """The cells of a question as minibatches."""
        return self._minibatches(*self._choose(adata, indices), batch_size)

    def _generator(self, seed: int | None) -> torch.Generator:
        return generator_of(seed, self.device)


def _plain(value: Any) -> Any:
    """Numbers of numpy as those of Python, which can be written as JSON."""
    return value.item() if isinstance(value, np.generic) else value
