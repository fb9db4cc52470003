"""gimVI for two AnnData: dissociated cells and spatial ones."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
import torch

from scvi._checks import check_flag, check_number
from scvi._random import generator_of, seeded
from scvi.cells.setup import declare
from scvi.cells.uns import register, registered
from scvi.estimators import files, training
from scvi.estimators.base import plain
from scvi.estimators.cells import Indices, setup_table
from scvi.estimators.sides import NAMES, Sides
from scvi.fit.joint import JointFit
from scvi.fit.plan import Plan, Precision, Schedule
from scvi.minibatch import Minibatch
from scvi.models.adversary import Adversaries
from scvi.models.classifier import Classifier
from scvi.models.jvae import JVAE
from scvi.queries import imputation, latent, likelihood

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["GIMVI"]

_DISCRIMINATOR = {"n_hidden": 32, "n_layers": 3, "logits": True}


class GIMVI:
    """Imputes genes that a spatial measurement lacks from dissociated cells (Lopez, Nazaret et al. 2019).

    >>> scvi.GIMVI.setup_anndata(adata_seq)
    >>> scvi.GIMVI.setup_anndata(adata_spatial)
    >>> model = scvi.GIMVI(adata_seq, adata_spatial)
    >>> model.train()
    >>> _, imputed = model.get_imputed_values()
    >>> adata_spatial.obsm["imputed"] = imputed  # columns: model.gene_names

    The two need not have the same genes, only some in common, which are found by name. The model's genes are those of
    `adata_seq`, then those that `adata_spatial` alone has. Neither AnnData is changed.

    Every question returns a list, an entry for `adata_seq` and one for `adata_spatial`. `adatas` is a list of two
    AnnData to ask about in place of the two that the model was made with; None stands for the model's own.

    Parameters
    ----------
    adata_seq, adata_spatial
        Raw counts of dissociated cells and of spatial ones, both declared with :meth:`setup_anndata`.
    generative_distributions
        'zinb', 'nb' or 'poisson' for each of the two; None: zinb and nb.
    model_library_size
        For each of the two whether to infer the library sizes in place of taking total counts; None: True and False.
    n_latent, n_hidden
        Dimension of the latent space, width of the hidden layers.
    n_layers_decoder
        Hidden layers of the decoder; with none it is linear, as in the paper.
    dropout_rate
        Dropout of the hidden layers.
    dispersion
        The inverse dispersion is one number for each 'gene', 'gene-batch' (and so for each data set), 'gene-label' or
        'gene-cell'.
    seed
        Seed of the initial weights.

    Attributes
    ----------
    module, discriminator
        The network, and the one that tells cells of the two data sets apart by their latent states.
    adata_seq, adata_spatial
        The cells the model was made with, or None.
    gene_names
        Names of the model's genes, in the order of imputed values.
    history
        One-column tables by epoch, as of any estimator, and ``discriminator_loss_*`` and ``discriminator_accuracy_*``:
        near 0.69 and 0.5 where the data sets are mixed, near 0 and 1 where they are told apart.
    is_trained, was_interrupted
        Whether the model was fitted, and whether the last fit was ended early with Ctrl-C.
    train_indices, validation_indices
        Positions of the cells of the last fit, for each data set.
    """

    # ---- making a model ----------------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        batch_key: str | None = None,
        labels_key: str | None = None,
        layer: str | None = None,
        mask_var: str | Sequence[str] | np.ndarray | None = None,
    ) -> None:
        """Declares which parts of `adata` the model reads, and checks them.

        One entry is written to ``adata.uns["_scvi"]``; nothing else of `adata` is changed.

        Parameters
        ----------
        batch_key
            Column of ``adata.obs`` with the experimental batch.
        labels_key
            Column with the cell type (used by ``dispersion='gene-label'``).
        layer
            Key of ``adata.layers`` with the raw counts; None: ``adata.X``.
        mask_var
            Genes to model: a boolean column of ``adata.var``, a list of names or a mask. None: all.
        """
        declared = declare(adata, layer=layer, batch_key=batch_key, labels_key=labels_key, mask_var=mask_var)
        register(adata, cls.__name__, *declared)

    def __init__(
        self,
        adata_seq: AnnData,
        adata_spatial: AnnData,
        generative_distributions: Sequence[Literal["zinb", "nb", "poisson"]] | None = None,
        model_library_size: Sequence[bool] | None = None,
        n_latent: int = 10,
        *,
        n_hidden: int = 128,
        n_layers_decoder: int = 0,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene-batch",
        seed: int | None = None,
    ) -> None:
        options = {
            "generative_distributions": _two("generative_distributions", generative_distributions, ["zinb", "nb"]),
            "model_library_size": _two("model_library_size", model_library_size, [True, False]),
            "n_latent": n_latent,
            "n_hidden": n_hidden,
            "n_layers_decoder": n_layers_decoder,
            "dropout_rate": dropout_rate,
            "dispersion": dispersion,
        }
        pair = (adata_seq, adata_spatial)
        schemas = [registered(adata, type(self).__name__) for adata in pair]
        sides = Sides(schemas, pair, labels=dispersion == "gene-label", owner=type(self).__name__, validate=False)
        with seeded(seed):
            networks = _make_networks(sides, options)
        self._assemble(options, networks, sides)

    def _assemble(self, options: Mapping[str, Any], networks: Adversaries, sides: Sides) -> None:
        self.options = {
            name: [plain(v) for v in value] if isinstance(value, list) else plain(value)
            for name, value in options.items()
        }
        self._networks, self._sides = networks.eval(), sides
        self.module, self.discriminator = networks.model, networks.discriminator
        self.adata_seq, self.adata_spatial = sides.adatas
        self.gene_names = sides.gene_names
        self.history: dict[str, pd.DataFrame] = {}
        self.is_trained = self.was_interrupted = False
        self.train_indices: list[np.ndarray] | None = None
        self.validation_indices: list[np.ndarray] | None = None

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        state = "trained" if self.is_trained else "not trained"
        return (
            f"{type(self).__name__}({len(self.gene_names)} genes, {self._sides.n_shared} of them in both data sets, "
            f"{options}; {state})"
        )

    def view_anndata_setup(self) -> pd.DataFrame:
        """What the model reads: one row for each data set and input, with its place in the AnnData and a summary."""
        return pd.concat([setup_table(schema) for schema in self._sides.schemas], keys=NAMES, names=["data set"])

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self._networks.parameters()).device

    def to_device(self, device: str | int | torch.device) -> None:
        """Moves the networks to a device of this machine, such as 'cpu' or 'cuda:0'; a number means that GPU."""
        self._networks.to(training.checked_device(device))

    # ---- fitting -----------------------------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        kappa: float = 5.0,
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
        validation_indices: Sequence[Indices] | None = None,
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
        """Fits the model; see :meth:`scvi.SCVI.train` for what is not listed here.

        A step sees a minibatch of each data set. An epoch is a pass over the larger one.

        Parameters
        ----------
        max_epochs
            Passes over the training cells of the larger data set; None: 50, fewer for more than 50,000 cells.
        kappa
            Weight of deceiving the discriminator, in nats per cell. Raise it if ``discriminator_accuracy_validation``
            stays near 1; 0 trains without an adversary.
        train_size, validation_size
            Shares of the cells of each data set.
        batch_size
            Cells of each data set in a step; None: as in :meth:`scvi.SCVI.train`, by the larger data set.
        validation_indices
            A list of two: positions of the validation cells in each data set.
        """
        data = self._sides.own("train")
        device = training.resolve_device(accelerator, devices)
        check_number("kappa", kappa, "a number of at least 0", least=0)
        seed = training.seed_of_fit(seed, checkpoint_dir, resume)
        given = _two("validation_indices", validation_indices, [None, None])
        train_parts, validation_parts = self._sides.train_and_validation(data, train_size, validation_size, given, seed)
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
        plan = training.make_plan(options, plan_kwargs, max(map(len, train_parts)), min(map(len, validation_parts)))
        training.check_precision(plan.precision, device)
        fit = JointFit(
            self._networks,
            data,
            data.joined(train_parts),
            data.joined(validation_parts),
            plan,
            kappa=float(kappa),
            seed=seed,
            device=device,
            show_progbar=enable_progress_bar,
            checkpoint_dir=checkpoint_dir,
        )
        identity = {**self.options, "kappa": float(kappa)}
        fit.prepare(resume, training.past_epochs(self.history), identity, self.is_trained)
        if not self.is_trained:
            self._sides.initialise(self.module, train_parts)
        try:
            fit.run()
        finally:
            self._keep(fit)

    def _keep(self, fit: JointFit) -> None:
        """Takes over what a fit has reached, also an interrupted one."""
        self.was_interrupted = fit.loop.interrupted
        if fit.steps_kept == 0:
            return
        self.history = training.continued(self.history, fit)
        self.train_indices = fit.data.split(fit.train_indices)
        self.validation_indices = fit.data.split(fit.validation_indices)
        self.is_trained = True

    # ---- questions ---------------------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adatas: Sequence[AnnData | None] | None = None,
        deterministic: bool = True,
        batch_size: int | None = None,
        *,
        seed: int | None = None,
    ) -> list[np.ndarray]:
        """Where the cells lie in the latent space that the two data sets share.

        Parameters
        ----------
        deterministic
            Posterior means; otherwise one posterior draw a cell.

        Returns
        -------
        Two arrays (n, d)
        """
        check_flag("deterministic", deterministic)
        generator = generator_of(seed, self.device)
        return [latent.latent(self.module, cells, deterministic, generator) for cells in self._ask(adatas, batch_size)]

    def get_imputed_values(
        self,
        adatas: Sequence[AnnData | None] | None = None,
        deterministic: bool = True,
        normalized: bool = True,
        decode_mode: Literal[0, 1] | None = None,
        gene_list: Sequence[str] | None = None,
        batch_size: int | None = None,
        *,
        seed: int | None = None,
    ) -> list[np.ndarray]:
        """Expected expression of every gene of the model in every cell, whether it was measured there or not.

        Parameters
        ----------
        deterministic
            Decode the posterior mean of a cell; otherwise a posterior draw.
        normalized
            Expected frequencies, which sum to 1 over the genes that the data set measures (and so to more over all);
            otherwise times the cell's library size: expected counts before dropout.
        decode_mode
            As which data set to decode all cells, 0 for `adata_seq` and 1 for `adata_spatial`, in its batches, over
            which the result is averaged. None: each as its own, in its own batch.
        gene_list
            Names of genes, in the order wanted; None: all, in the order of `gene_names`.

        Returns
        -------
        Two arrays (n, number of genes)
        """
        check_flag("deterministic", deterministic)
        check_flag("normalized", normalized)
        if decode_mode not in (None, 0, 1):
            raise ValueError(f"decode_mode={decode_mode!r} is not one of 0 (adata_seq), 1 (adata_spatial) or None")
        batches = [None if decode_mode in (None, i) else self._sides.batch_codes(decode_mode) for i in range(2)]
        genes = None if gene_list is None else self._sides.gene_positions(gene_list)
        generator = generator_of(seed, self.device)
        return [
            imputation.imputed(
                self.module,
                cells,
                deterministic=deterministic,
                normalized=normalized,
                decode_mode=decode_mode,
                transform_batch=codes,
                genes=genes,
                generator=generator,
            )
            for cells, codes in zip(self._ask(adatas, batch_size), batches, strict=True)
        ]

    def get_elbo(
        self,
        adatas: Sequence[AnnData | None] | None = None,
        batch_size: int | None = None,
        *,
        return_mean: bool = True,
        seed: int | None = None,
    ) -> list[float] | list[np.ndarray]:
        """Evidence lower bound in nats over the measured genes: means over cells, or one a cell. Higher is better."""
        generator = generator_of(seed, self.device)
        bounds = [likelihood.elbo(self.module, cells, generator) for cells in self._ask(adatas, batch_size)]
        return [float(bound.mean(dtype=np.float64)) for bound in bounds] if return_mean else bounds

    def get_discriminator_confusion(
        self, adatas: Sequence[AnnData | None] | None = None, batch_size: int | None = None
    ) -> pd.DataFrame:
        """How the discriminator takes cells of each data set (rows) for cells of each (columns), on average.

        All entries near 0.5 mean well mixed data sets. A diagonal near 1 means that they are apart in the latent space
        and that imputation cannot be trusted: raise `kappa`.
        """
        pairs = self._ask(adatas, batch_size)
        rows = [imputation.data_set_probabilities(self.module, self.discriminator, cells).mean(0) for cells in pairs]
        return pd.DataFrame(np.stack(rows), index=list(NAMES), columns=list(NAMES))

    def _ask(self, adatas: Sequence[AnnData | None] | None, batch_size: int | None) -> list[Iterator[Minibatch]]:
        """The cells of a question as minibatches, for each data set."""
        if not self.is_trained:
            raise RuntimeError(f"this {type(self).__name__} model is not trained: call train() first")
        return self._sides.minibatches(_two("adatas", adatas, [None, None]), batch_size, self.device)

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, dir_path: str | os.PathLike[str], overwrite: bool = False, save_anndata: bool = False) -> None:
        """Writes the model to a directory: ``weights.safetensors`` and ``model.json``, whole or not at all.

        Parameters
        ----------
        overwrite
            Replace a model that is there.
        save_anndata
            Write the two AnnData beside it, as ``adata_seq.h5ad`` and ``adata_spatial.h5ad``.
        """
        cells = {files.ADATA_SEQ: self.adata_seq, files.ADATA_SPATIAL: self.adata_spatial}
        if save_anndata and any(adata is None for adata in cells.values()):
            raise ValueError("save_anndata=True, but this model was loaded without its AnnData")
        stored = files.StoredModel(
            type(self).__name__,
            self.options,
            tuple(self._sides.schemas),
            self.history,
            self.is_trained,
            self._networks.state_dict(),
            self.train_indices,
            self.validation_indices,
        )
        files.write(dir_path, stored, cells if save_anndata else {}, overwrite)

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike[str],
        adata_seq: AnnData | None = None,
        adata_spatial: AnnData | None = None,
    ) -> Self:
        """Reads a model from a directory. Nothing in the files is run.

        Parameters
        ----------
        adata_seq, adata_spatial
            Cells to work with; they need no set-up. None: those that were saved with the model, if any; without them
            every question needs its `adatas`.

        Raises
        ------
        FileNotFoundError
            If there is no model.
        ValueError
            If its files are truncated, foreign or of another estimator, or the cells do not fit the model.
        """
        known = set(inspect.signature(cls).parameters) - {"adata_seq", "adata_spatial", "seed"}
        stored = files.read(dir_path, cls.__name__, known, n_data_sets=2)
        options = {"labels": stored.options["dispersion"] == "gene-label", "owner": cls.__name__}
        bare = Sides(stored.schemas, (None, None), **options)
        networks = files.rebuild(dir_path, stored, lambda: _make_networks(bare, stored.options))
        names = (files.ADATA_SEQ, files.ADATA_SPATIAL)
        cells = [
            files.read_adata(dir_path, name) if adata is None else adata
            for adata, name in zip((adata_seq, adata_spatial), names, strict=True)
        ]
        model = cls.__new__(cls)
        model._assemble(stored.options, networks, Sides(stored.schemas, cells, **options))
        model.history, model.is_trained = stored.history, stored.is_trained
        model.train_indices, model.validation_indices = stored.train_indices, stored.validation_indices
        return model


def _make_networks(sides: Sides, options: Mapping[str, Any]) -> Adversaries:
    """The model of two data sets with these options, and its discriminator."""
    model = JVAE(
        [schema.n_genes for schema in sides.schemas],
        len(sides.gene_names),
        sides.mappings,
        options["generative_distributions"],
        options["model_library_size"],
        n_latent=options["n_latent"],
        dim_hidden_encoder=options["n_hidden"],
        n_layers_decoder_shared=options["n_layers_decoder"],
        dim_hidden_decoder_shared=options["n_hidden"],
        dropout_rate_encoder=options["dropout_rate"],
        dropout_rate_decoder=options["dropout_rate"],
        n_batch=sides.n_batch,
        n_labels=sides.n_labels,
        dispersion=options["dispersion"],
    )
    return Adversaries(model, Classifier(options["n_latent"], n_labels=2, **_DISCRIMINATOR))  # type: ignore[arg-type]


def _two(name: str, values: Any, default: list[Any]) -> list[Any]:
    """A list of one entry for each data set."""
    if values is None:
        return default
    if not isinstance(values, (list, tuple)) or len(values) != 2:
        what = f"a {type(values).__name__} of {len(values)}" if isinstance(values, (list, tuple)) else repr(values)
        raise ValueError(f"{name} is {what}; it must be a list of two, for adata_seq and for adata_spatial")
    return list(values)
