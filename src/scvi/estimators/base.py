"""What all AnnData-first estimators share: set up, train, ask, save and load."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
import torch

from scvi._random import generator_of, resolve_seed, seeded
from scvi._settings import settings
from scvi.dataset.cell_data import CellData, Schema, declare, encode, fingerprint, register, registered
from scvi.dataset.checks import nearest
from scvi.estimators import files, training
from scvi.inference.fitting import Fit
from scvi.inference.plan import Schedule
from scvi.minibatch import Minibatch
from scvi.models.vae import VAE
from scvi.queries import expression, latent, likelihood

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Estimator"]

Indices = Sequence[int] | np.ndarray | None


class Estimator(ABC):
    """A model of the cells of an AnnData.

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
        Whether the model was fitted.
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
            Column with the cell type (used by label-wise dispersions).
        size_factor_key
            Column with size factors, in place of each cell's total count. They are relative: their mean is scaled to
            the mean total count.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns whose effect is removed like the batch's.
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
        self._assemble(schema, options, module, adata, encode(adata, schema, validate=False))

    @classmethod
    @abstractmethod
    def _make_module(cls, schema: Schema, options: Mapping[str, Any]) -> VAE:
        """The network of a model with these options."""

    def _assemble(
        self, schema: Schema, options: Mapping[str, Any], module: VAE, adata: AnnData | None, data: CellData | None
    ) -> None:
        self.options = {name: _plain(value) for name, value in options.items()}
        self.schema, self.module = schema, module.eval()
        self.adata, self._data = adata, data
        self._fingerprint = None if adata is None or adata.isbacked else fingerprint(adata, schema)
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
        """Moves the network."""
        self.module.to(torch.device("cuda", device) if isinstance(device, int) else torch.device(device))

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
        lr: float | None = None,
        *,
        lr_schedule: Schedule | None = None,
        weight_decay: float | None = None,
        gradient_clip: float | None = None,
        kl_warmup: float | None = None,
        validation_indices: Indices = None,
        check_val_every_n_epoch: int | None = None,
        early_stopping_monitor: str | None = None,
        early_stopping_patience: int | None = None,
        early_stopping_min_delta: float | None = None,
        enable_progress_bar: bool = True,
        plan_kwargs: Mapping[str, Any] | None = None,
        seed: int | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> None:
        """Fits the model. A further call goes on from the current weights.

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
            `early_stopping_min_delta` in `early_stopping_patience` epochs, and go back to the best weights.
        lr, lr_schedule
            Peak learning rate, and 'one-cycle' (up, then down to 0 over the planned steps), 'constant' or 'plateau'.
        weight_decay, gradient_clip
            L2 penalty, and the largest norm of a gradient.
        kl_warmup
            Share of the planned steps over which the KL weight rises from 0 to 1.
        validation_indices
            Positions of the validation cells, in place of the two sizes.
        check_val_every_n_epoch
            Epochs between two validations.
        enable_progress_bar
            Show a progress bar.
        plan_kwargs
            Options under the names of scripts that exist: lr, weight_decay, eps, n_epochs_kl_warmup, n_steps_kl_warmup,
            max_kl_weight, min_kl_weight, reduce_lr_on_plateau, lr_patience, lr_factor.
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
        """
        data = self._own_data("train")
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
        }
        plan = training.make_plan(options, plan_kwargs, len(train_cells), len(validation_cells))
        if not self.is_trained:
            training.initialise(self.module, data, train_cells)
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
        try:
            fit.fit(resume, past, self.options)
        finally:
            self._keep(fit)

    def _keep(self, fit: Fit) -> None:
        """Takes over what a fit has reached, also an interrupted one."""
        self.was_interrupted = fit.interrupted
        if fit.n_iter == 0:
            return
        earlier = {name: table[table.index < fit.epochs_before] for name, table in self.history.items()}
        frames = fit.frames()
        names = dict.fromkeys([*earlier, *frames])
        self.history = {name: pd.concat([h[name] for h in (earlier, frames) if name in h]) for name in names}
        self.train_indices, self.validation_indices = fit.train_indices, fit.validation_indices
        self.is_trained = True

    # ---- asking ------------------------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        give_mean: bool = True,
        batch_size: int | None = None,
        return_dist: bool = False,
        *,
        mc_samples: int = 5000,
        seed: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Where the cells lie in the latent space, with the batch effect removed.

        Parameters
        ----------
        give_mean
            Posterior means; otherwise one posterior draw a cell.
        return_dist
            Return mean and variance of the Gaussian posterior instead (before the softmax of a logistic-normal one).
        mc_samples
            Draws behind the mean of a logistic-normal latent variable.

        Returns
        -------
        (n, d), or a pair of such arrays
        """
        _, minibatches = self._ask(adata, indices, batch_size)
        if return_dist:
            return latent.latent_distribution(self.module, minibatches)
        mc_samples = _positive("mc_samples", mc_samples)
        return latent.latent(self.module, minibatches, give_mean, self._generator(seed), mc_samples)

    def get_latent_library_size(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        give_mean: bool = True,
        batch_size: int | None = None,
        *,
        seed: int | None = None,
    ) -> np.ndarray:
        """(n, 1) library sizes in counts, as observed; where they are latent, the median of the posterior or a draw."""
        _, minibatches = self._ask(adata, indices, batch_size)
        return np.exp(latent.library(self.module, minibatches, give_mean, self._generator(seed)))

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        transform_batch: str | int | Sequence[str | int] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool = False,
        *,
        seed: int | None = None,
    ) -> pd.DataFrame | np.ndarray:
        """Denoised expression: the share of each gene among the cell's molecules, as the model sees it.

        It is the decoder's expected frequency at posterior draws of the cell's latent state: free of sampling noise,
        dropout and library size. The shares of all genes of the model sum to 1 in each cell; times
        ``library_size=1e4`` they read as counts per ten thousand.

        Parameters
        ----------
        transform_batch
            Name of the batch to decode every cell in, or several, over which the result is averaged; None: its own.
        gene_list
            Names of genes, in the order wanted; None: all.
        library_size
            A number, or 'latent' for each cell's own library size, which gives expected counts.
        n_samples
            Posterior draws a cell.
        n_samples_overall
            Draw so many cells with replacement, and one sample of each.
        return_mean
            Average over the draws; otherwise the draws are the first axis.
        return_numpy
            Return an array; draws that are not averaged always come as an array.

        Returns
        -------
        (n, g) table of cells and genes, or an array (n, g) or (s, n, g)
        """
        data, positions = self._cells(adata, indices)
        seed = resolve_seed(seed)
        if n_samples_overall is not None:
            _positive("n_samples_overall", n_samples_overall)
            positions = np.random.default_rng([seed, 2]).choice(positions, n_samples_overall)
        genes = None if gene_list is None else self._gene_positions(gene_list)
        values = expression.normalized(
            self.module,
            self._minibatches(data, positions, batch_size),
            transform_batch=self._batch_codes(transform_batch),
            genes=genes,
            library_size=_library_size(library_size),
            n_samples=_positive("n_samples", n_samples),
            return_mean=return_mean,
            generator=self._generator(seed),
        )
        if return_numpy or values.ndim == 3:
            return values
        names = data.gene_names if genes is None else data.gene_names[genes]
        return pd.DataFrame(values, index=pd.Index(data.cell_names[positions]), columns=pd.Index(names))

    def get_likelihood_parameters(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        n_samples: int = 1,
        give_mean: bool = False,
        batch_size: int | None = None,
        *,
        seed: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Parameters of the count distribution of every gene in every cell, at posterior draws.

        Returns
        -------
        dict
            'mean' (expected counts before dropout), 'dispersions' (inverse dispersion; not for Poisson) and 'dropout'
            (logits of the dropout probability; zero-inflated likelihoods only). Each (n, g), or (s, n, g) for several
            draws that are not averaged.
        """
        _, minibatches = self._ask(adata, indices, batch_size)
        return expression.likelihood_parameters(
            self.module,
            minibatches,
            n_samples=_positive("n_samples", n_samples),
            give_mean=give_mean,
            generator=self._generator(seed),
        )

    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        batch_size: int | None = None,
        *,
        return_mean: bool = True,
        seed: int | None = None,
    ) -> float | np.ndarray:
        """Evidence lower bound on the log-likelihood in nats: mean over cells, or one a cell. Higher is better."""
        _, minibatches = self._ask(adata, indices, batch_size)
        return _mean(likelihood.elbo(self.module, minibatches, self._generator(seed)), return_mean)

    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        batch_size: int | None = None,
        *,
        return_mean: bool = True,
        seed: int | None = None,
    ) -> float | np.ndarray:
        """Log-likelihood of the counts at a posterior draw, nats: mean over cells, or one a cell. Higher is better."""
        _, minibatches = self._ask(adata, indices, batch_size)
        terms = likelihood.reconstruction(self.module, minibatches, self._generator(seed))
        return _mean(sum(terms.values()), return_mean)  # type: ignore[arg-type]

    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        n_mc_samples: int = 1000,
        batch_size: int | None = None,
        *,
        return_mean: bool = True,
        seed: int | None = None,
    ) -> float | np.ndarray:
        """Log-likelihood in nats by importance sampling with `n_mc_samples` posterior draws (Burda et al. 2016).

        A lower bound that tightens with the number of draws: mean over cells, or one a cell. Higher is better.
        """
        _, minibatches = self._ask(adata, indices, batch_size)
        _positive("n_mc_samples", n_mc_samples)
        return _mean(likelihood.marginal(self.module, minibatches, n_mc_samples, self._generator(seed)), return_mean)

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
        from scvi import __version__

        tensors = {f"model/{name}": t for name, t in self.module.state_dict().items()}
        for name in ("train_indices", "validation_indices"):
            if (cells := getattr(self, name)) is not None:
                tensors[name] = torch.as_tensor(cells, dtype=torch.int64)
        description = {
            "scvi_version": __version__,
            "estimator": type(self).__name__,
            "options": self.options,
            "schema": self.schema.to_json(),
            "is_trained": self.is_trained,
            "history": files.history_to_json(self.history),
        }
        files.write(dir_path, files.StoredModel(tensors, description), self.adata if save_anndata else None, overwrite)

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
        stored = files.read(dir_path, cls.__name__)
        options = stored.description["options"]
        try:
            schema = Schema.from_json(stored.description["schema"])
            history = files.history_from_json(stored.description["history"])
            with seeded(0):
                module = cls._make_module(schema, options)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{Path(dir_path) / files.DESCRIPTION} does not describe a {cls.__name__} model ({error})"
            ) from error
        files.load_weights(module, files.under("model/", stored.tensors), str(dir_path))
        adata = files.read_adata(dir_path) if adata is None else adata
        model = cls.__new__(cls)
        model._assemble(schema, options, module, adata, None if adata is None else encode(adata, schema))
        model.history = history
        model.is_trained = bool(stored.description["is_trained"])
        for name in ("train_indices", "validation_indices"):
            if name in stored.tensors:
                setattr(model, name, stored.tensors[name].numpy())
        return model

    # ---- cells -------------------------------------------------------------------------------------------------------

    def _own_data(self, wish: str) -> CellData:
        if self._data is None:
            raise ValueError(
                f"this model was loaded without cells and cannot {wish}: pass adata to {type(self).__name__}.load"
            )
        if self._fingerprint is not None and fingerprint(self.adata, self.schema) != self._fingerprint:
            raise ValueError(
                "the cells, genes or counts of the model's adata have changed since the model was made "
                f"({self.schema.counts_name} was normalised or subset in place, perhaps): "
                "put the raw counts back, or pass other cells as adata"
            )
        return self._data

    def _cells(self, adata: AnnData | None, indices: Indices) -> tuple[CellData, np.ndarray]:
        if not self.is_trained:
            raise RuntimeError(f"this {type(self).__name__} model is not trained: call train() first")
        if adata is None or adata is self.adata:
            data = self._own_data("answer without adata")
        else:
            data = encode(adata, self.schema)
        positions = data.positions(indices)
        if len(positions) == 0:
            raise ValueError("indices choose no cell")
        return data, positions

    def _minibatches(self, data: CellData, positions: np.ndarray, batch_size: int | None) -> Iterator[Minibatch]:
        batch_size = settings.batch_size if batch_size is None else _positive("batch_size", batch_size)
        device = self.device
        minibatches = data.minibatches(positions, batch_size)
        return minibatches if device.type == "cpu" else (mb.to(device) for mb in minibatches)

    def _ask(
        self, adata: AnnData | None, indices: Indices, batch_size: int | None
    ) -> tuple[CellData, Iterator[Minibatch]]:
        data, positions = self._cells(adata, indices)
        return data, self._minibatches(data, positions, batch_size)

    def _generator(self, seed: int | None) -> torch.Generator:
        return generator_of(seed, self.device)

    def _gene_positions(self, names: Sequence[str]) -> np.ndarray:
        if isinstance(names, str):
            names = [names]
        known = {gene: position for position, gene in enumerate(self.schema.genes)}
        for name in names:
            if name not in known:
                raise ValueError(f"gene_list has {name!r}, which is not a gene of the model{nearest(name, known)}")
        return np.array([known[name] for name in names], dtype=np.int64)

    def _batch_codes(self, names: str | int | Sequence[str | int] | None) -> list[int] | None:
        if names is None:
            return None
        wanted = list(names) if np.ndim(names) else [names]  # type: ignore[arg-type]
        if not wanted:
            raise ValueError("transform_batch is an empty list; None decodes each cell in its own batch")
        known = {name: code for code, name in enumerate(self.schema.batch_names)}
        for name in wanted:
            if str(name) not in known:
                raise ValueError(f"transform_batch={name!r} is not a batch of the model{nearest(name, known)}")
        return [known[str(name)] for name in wanted]


def _plain(value: Any) -> Any:
    """Numbers of numpy as those of Python, which can be written as JSON."""
    return value.item() if isinstance(value, np.generic) else value


def _mean(values: np.ndarray, return_mean: bool) -> float | np.ndarray:
    return float(values.mean(dtype=np.float64)) if return_mean else values


def _positive(name: str, value: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} is not a positive integer")
    return int(value)


def _library_size(value: float | str) -> float | str:
    if isinstance(value, Real) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    if isinstance(value, str) and value == "latent":
        return value
    raise ValueError(f"library_size={value!r} is neither 'latent' nor a positive number")
