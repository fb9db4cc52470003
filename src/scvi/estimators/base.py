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

from scvi._checks import check_flag
from scvi._random import generator_of, seeded
from scvi.cells.cell_data import CellData
from scvi.cells.missing_genes import become, with_genes, with_these_genes
from scvi.cells.new_categories import extended
from scvi.cells.schema import Schema
from scvi.cells.setup import declare
from scvi.cells.uns import register, registered
from scvi.estimators import files, query, training
from scvi.estimators.cells import Cells, Indices, setup_table
from scvi.fit.fit import Fit
from scvi.fit.plan import Plan, Precision, Schedule
from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.models.freezing import Freeze, Scope

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

    def _make(self, adata: AnnData, options: Mapping[str, Any], seed: int | None) -> None:
        """What the constructor of a subclass does with its arguments."""
        schema = registered(adata, type(self).__name__)
        with seeded(seed):
            module = self._make_module(schema, options)
        self._assemble(options, module, self._make_cells(schema, options, adata, validate=False))

    @classmethod
    @abstractmethod
    def _make_module(cls, schema: Schema, options: Mapping[str, Any]) -> Model:
        """The network of a model with these options."""

    @classmethod
    def _as_anndata(cls, data: Any, schema: Schema) -> AnnData:
        """What a user gives as cells, as the AnnData that is read; more kinds of it are up to subclasses."""
        return data

    @classmethod
    def _reads_labels(cls, options: Mapping[str, Any]) -> bool:
        """Whether a model with these options has a use for labels."""
        return True

    @classmethod
    def _make_cells(
        cls, schema: Schema, options: Mapping[str, Any], adata: AnnData | None, validate: bool = True
    ) -> Cells:
        return Cells(schema, adata, labels=cls._reads_labels(options), owner=cls.__name__, validate=validate)

    def _assemble(self, options: Mapping[str, Any], module: Any, cells: Cells) -> None:
        self.options = {name: plain(value) for name, value in options.items()}
        self.module, self._cells = module.eval(), cells
        self.schema, self.adata = cells.schema, cells.adata
        self.history: dict[str, pd.DataFrame] = {}
        self.is_trained = self.was_interrupted = False
        self._is_initialised = False  # whether the weights are a start already, of another model
        self.train_indices: np.ndarray | None = None
        self.validation_indices: np.ndarray | None = None
        self._scope: Scope | None = None  # the part of a mapped model that trains
        query.check_kept(None if cells.data is None else cells.data.kept, self.module)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        state = "trained" if self.is_trained else "not trained"
        return f"{type(self).__name__}({self.schema.n_genes} genes, {self.schema.n_batch} batches, {options}; {state})"

    def view_anndata_setup(self) -> pd.DataFrame:
        """What the model reads: one row for each input, with its place in the AnnData and a summary."""
        return setup_table(self.schema)

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
        if self._scope is not None and not self._scope.trained:
            raise ValueError(
                "there is nothing to train: the query brought no batch and no category that the reference did not "
                "know; ask the model as it is, or pass unfrozen=True to load_query_data"
            )
        device = training.resolve_device(accelerator, devices)
        seed = training.seed_of_fit(seed, checkpoint_dir, resume)
        held_out = None if validation_indices is None else data.positions(validation_indices, "validation_indices")
        train_cells, validation_cells = training.split_cells(
            len(data), train_size, validation_size, held_out, seed, self._strata(data)
        )
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
        fit = self._make_fit(
            data,
            train_cells,
            validation_cells,
            plan,
            seed=seed,
            device=device,
            show_progbar=enable_progress_bar,
            checkpoint_dir=checkpoint_dir,
            scope=self._scope,
        )
        fit.prepare(resume, training.past_epochs(self.history), self.options, self.is_trained)
        if not (self.is_trained or self._is_initialised):
            self._initialise(data, train_cells)
        try:
            fit.run()
        finally:
            self._keep(fit)

    def _make_fit(self, *arguments: Any, **options: Any) -> Fit:
        """The trainer, from the arguments of :class:`scvi.fit.fit.Fit` after the model."""
        return Fit(self.module, *arguments, **options)

    def _strata(self, data: CellData) -> np.ndarray | None:
        """(n,) codes of groups of which training and validation cells get like shares; None: it is left to chance."""
        return None

    def _initialise(self, data: CellData, train_cells: np.ndarray) -> None:
        """Starts the network where the training cells say."""
        training.initialise(self.module, data, train_cells)

    def _keep(self, fit: Fit) -> None:
        """Takes over what a fit has reached, also an interrupted one."""
        self.was_interrupted = fit.loop.interrupted
        if fit.steps_kept == 0:
            return
        self.history = training.continued(self.history, fit)
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
            (self.schema,),
            self.history,
            self.is_trained,
            self.module.state_dict(),
            self.train_indices,
            self.validation_indices,
            self._scope,
            self._is_initialised,
        )
        files.write(dir_path, stored, {files.ADATA: self.adata} if save_anndata else {}, overwrite)

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
        stored, module = cls._read(dir_path)
        return cls._restored(stored, module, files.read_adata(dir_path) if adata is None else adata)

    @classmethod
    def _read(cls, dir_path: str | os.PathLike[str]) -> tuple[files.StoredModel, Model]:
        """The files of a model, and its network."""
        options = set(inspect.signature(cls).parameters) - {"adata", "seed"}
        stored = files.read(dir_path, cls.__name__, options)
        return stored, files.rebuild(dir_path, stored, lambda: cls._make_module(stored.schema, stored.options))

    @classmethod
    def _restored(cls, stored: files.StoredModel, module: Model, adata: AnnData | None) -> Self:
        model = cls.__new__(cls)
        model._assemble(stored.options, module, cls._make_cells(stored.schema, stored.options, adata))
        model.history, model.is_trained = stored.history, stored.is_trained
        model.train_indices, model.validation_indices = stored.train_indices, stored.validation_indices
        model._scope, model._is_initialised = stored.scope, stored.is_initialised
        return model

    # ---- cells of new batches, cells without counts ------------------------------------------------------------------

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: Self | str | os.PathLike[str],
        freeze_dropout: bool = False,
        unfrozen: bool = False,
        *,
        freeze_expression: bool = True,
        freeze_decoder_first_layer: bool = True,
        freeze_batchnorm_encoder: bool = True,
        freeze_batchnorm_decoder: bool = True,
        freeze_classifier: bool = True,
        min_genes_found: float = 0.5,
    ) -> Self:
        """A model that knows the cells of `adata` beside those of a fitted reference (Lotfollahi et al. 2022).

        Batches, and categories of categorical covariates, that are new get weights of their own; by default
        :meth:`train` fits these alone, to the cells of `adata`. Everything else stays as it is, bit for bit, and with
        it what the model says of cells of the reference. A new batch starts as the average of the old ones, so that
        the model answers questions before it is trained, too.

        Neither `adata` nor the reference is changed. The new model's ``adata`` is the given one, or where genes or
        proteins are missing a copy as :meth:`prepare_query_anndata` makes it.

        Parameters
        ----------
        adata
            Raw counts, with the columns of ``obs`` (and the layer) that the reference reads; no set-up is needed. Genes
            and proteins may come in any order; further ones are ignored. Missing proteins, or all of them, are taken as
            not measured.
        reference_model
            A fitted model of this class, or the directory of a saved one.
        freeze_dropout
            No dropout in training.
        unfrozen
            Train all weights, from where they are: the reference's answers change with them.
        freeze_expression, freeze_decoder_first_layer
            False trains the whole first layers of the encoders or the decoders, not their new columns alone.
        freeze_batchnorm_encoder, freeze_batchnorm_decoder
            False trains batch norm, whose moments then follow the query's.
        freeze_classifier
            False trains the classifier of a model that has one, from the labelled cells of the query.
        min_genes_found
            Share of the reference's genes that `adata` has to have. Missing ones are read as zeros.

        Raises
        ------
        ValueError, TypeError
            If the reference is not fitted or of another class; if too few genes are found; for labels that the
            reference does not know, where it reads them; for whatever else cannot be read.

        Warns
        -----
        UserWarning
            If genes or proteins are missing; if training will not move the query in the latent space, because the
            reference's encoder sees no batch (``encode_covariates=False``); if there is nothing to train.
        """
        freeze = Freeze(
            dropout=freeze_dropout,
            expression=freeze_expression,
            decoder_first_layer=freeze_decoder_first_layer,
            batchnorm_encoder=freeze_batchnorm_encoder,
            batchnorm_decoder=freeze_batchnorm_decoder,
            classifier=freeze_classifier,
            nothing=unfrozen,
        )
        reference = cls._reference(reference_model)
        reference._require_trained()
        adata = with_genes(cls._as_anndata(adata, reference.schema), reference.schema, min_genes_found)
        options = reference.options
        schema = extended(reference.schema, adata, cls._reads_labels(options))
        module, scope = query.widened(reference.module, lambda: cls._make_module(schema, options), freeze)
        query.report(query.new_categories(reference.schema, schema), scope)
        model = cls.__new__(cls)
        model._assemble(options, module, cls._make_cells(schema, options, adata, validate=False))
        model.is_trained, model._scope = True, scope
        return model

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData,
        reference_model: Self | str | os.PathLike[str],
        return_reference_var_names: bool = False,
        inplace: bool = False,
        *,
        min_genes_found: float = 0.5,
    ) -> AnnData | pd.Index | None:
        """Cells with exactly the genes of a reference, in its order; missing genes are zero, missing proteins NaN.

        :meth:`load_query_data` does it by itself. This is for looking at the result, and for writing or joining it.

        Parameters
        ----------
        adata
            Cells to map.
        reference_model
            A model of this class, or the directory of a saved one.
        return_reference_var_names
            Return the names of the reference's genes, and do nothing.
        inplace
            Change `adata` itself and return None.
        min_genes_found
            As in :meth:`load_query_data`, with the same errors and warnings.

        Returns
        -------
        A new AnnData with the cells' annotations, counts and layers; names of genes; or None
        """
        check_flag("inplace", inplace)
        reference = cls._reference(reference_model)
        if check_flag("return_reference_var_names", return_reference_var_names):
            return pd.Index(reference.schema.genes)
        read = cls._as_anndata(adata, reference.schema)
        if inplace and read is not adata:
            raise TypeError(f"a {type(adata).__name__} cannot become an AnnData in place: pass inplace=False")
        prepared = with_these_genes(read, reference.schema, min_genes_found)
        if not inplace:
            return prepared
        become(adata, prepared)
        return None

    @classmethod
    def _reference(cls, reference_model: Self | str | os.PathLike[str]) -> Self:
        if isinstance(reference_model, (str, os.PathLike)):
            return cls._restored(*cls._read(reference_model), None)
        if type(reference_model) is not cls:
            raise TypeError(
                f"reference_model is a {type(reference_model).__name__}; pass a {cls.__name__} model or the directory "
                "of a saved one"
            )
        return reference_model

    def minify_adata(self) -> None:
        """Puts an AnnData without counts in the place of the model's ``adata``.

        The new one keeps ``obs``, ``var``, ``obsm``, ``obsp`` and ``uns``, and in ``obsm`` the posterior of each cell:
        mean and variance of the latent variable ("scvi_qz_mean", "scvi_qz_var") and the log library size. From these
        the model answers as before what it answers without counts: latent representation, library size, normalised
        expression, parameters of the likelihood. Scores and training need counts, and are refused. The AnnData with
        counts is not changed; the model lets go of it.

        ``save(..., save_anndata=True)`` writes the minified cells beside the model, and :meth:`load` reads them again.
        """
        self._require_trained()
        data = self._cells.own("minify")
        minibatches = self._minibatches(data, data.positions(), None)
        proteins = self.schema.proteins
        with_counts = () if proteins is None else (proteins.obsm_key,)
        adata = query.minify(self.module, self.adata, minibatches, with_counts)
        self._cells = self._make_cells(self.schema, self.options, adata)
        self.adata = adata

    # ---- what questions need -----------------------------------------------------------------------------------------

    def _require_trained(self) -> None:
        if not self.is_trained:
            raise RuntimeError(f"this {type(self).__name__} model is not trained: call train() first")

    def _choose(
        self, adata: AnnData | None, indices: Indices, needs_counts: bool = True
    ) -> tuple[CellData, np.ndarray]:
        """The cells of a question: the data they are part of, and their positions.

        Parameters
        ----------
        needs_counts
            False for a question that the posterior of the cells answers: it may be asked about minified cells.
        """
        self._require_trained()
        data, positions = self._cells.choose(adata, indices, needs_counts)
        query.check_kept(data.kept, self.module)
        return data, positions

    def _minibatches(self, data: CellData, positions: np.ndarray, batch_size: int | None) -> Iterator[Minibatch]:
        return self._cells.minibatches(data, positions, batch_size, self.device)

    def _ask(
        self, adata: AnnData | None, indices: Indices, batch_size: int | None, needs_counts: bool = True
    ) -> Iterator[Minibatch]:
        """The cells of a question as minibatches."""
        return self._minibatches(*self._choose(adata, indices, needs_counts), batch_size)

    def _generator(self, seed: int | None) -> torch.Generator:
        return generator_of(seed, self.device)


def plain(value: Any) -> Any:
    """Numbers of numpy as those of Python, which can be written as JSON."""
    return value.item() if isinstance(value, np.generic) else value
