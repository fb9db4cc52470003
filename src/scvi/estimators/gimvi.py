"""gimVI for two AnnData: dissociated cells and spatial ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Never, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi.cells.cell_data import CellData
from scvi.cells.estimates import NonInteger
from scvi.cells.far import warn_of_few_shared
from scvi.cells.other_names import likely_cause
from scvi.cells.schema import Schema
from scvi.estimators import about, checks, gimvi_questions, reporting, saving
from scvi.estimators.base import Estimator
from scvi.estimators.cells import NO_GENE, Cells, all_labels, positions_of
from scvi.estimators.folder import ADATA_SEQ, ADATA_SPATIAL
from scvi.estimators.gimvi_questions import NAMES, two
from scvi.estimators.train import train_by
from scvi.fit.plan import AdversarialPlan
from scvi.fit.ranks import Ranks
from scvi.fit.starting_values import initialise_joint
from scvi.models.adversary import Adversaries
from scvi.models.classifier import Classifier
from scvi.models.jvae import JVAE
from scvi.models.likelihood import LikelihoodName

_TWO_DATA_SETS = "a GIMVI model has two data sets: adata_seq and adata_spatial"
_DISCRIMINATOR = {"n_hidden": 32, "n_layers": 3, "logits": True}


class GIMVI(Estimator):
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
    AnnData to ask about in place of the two that the model was made with; None stands for the model's own. A list of
    one gets a list of one: it is read as spatial cells if it is `adata_spatial`, or has its genes and lacks some of
    `adata_seq`, and as dissociated ones otherwise.

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

    _network = JVAE
    _plan = AdversarialPlan
    _files_of_cells = (ADATA_SEQ, ADATA_SPATIAL)

    # ---- making a model ----------------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        batch_key: str | None = None,
        labels_key: str | None = None,
        layer: str | None = None,
        mask_var: str | Sequence[str] | np.ndarray | None = None,
        non_integer: NonInteger = "warn",
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
        non_integer
            What to do with counts that are estimates: 'warn', 'refuse' or 'round', as in
            :meth:`scvi.SCVI.setup_anndata`.
        """
        cls._set_up(
            adata,
            layer=layer,
            batch_key=batch_key,
            labels_key=labels_key,
            mask_var=mask_var,
            non_integer=non_integer,
        )

    def __init__(
        self,
        adata_seq: AnnData,
        adata_spatial: AnnData,
        generative_distributions: Sequence[LikelihoodName] | None = None,
        model_library_size: Sequence[bool] | None = None,
        n_latent: int = 10,
        *,
        n_hidden: int = 128,
        n_layers_decoder: int = 0,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene-batch",
        seed: int | None = None,
    ) -> None:
        distributions = two("generative_distributions", generative_distributions, ["zinb", "nb"])
        libraries = two("model_library_size", model_library_size, [True, False])
        given = {**locals(), "generative_distributions": distributions, "model_library_size": libraries}
        self._make((adata_seq, adata_spatial), seed, given)
        first, second = (cells.schema.genes for cells in self._data_sets)
        warn_of_few_shared("adata_seq and adata_spatial", first, second)

    @classmethod
    def _make_networks(cls, schemas: Sequence[Schema], options: Mapping[str, Any]) -> Adversaries:
        genes = _all_genes(schemas)
        model = cls._network(
            [schema.n_genes for schema in schemas],
            len(genes),
            [positions_of(schema.genes, genes, NO_GENE) for schema in schemas],
            options["generative_distributions"],
            options["model_library_size"],
            n_latent=options["n_latent"],
            dim_hidden_encoder=options["n_hidden"],
            n_layers_decoder_shared=options["n_layers_decoder"],
            dim_hidden_decoder_shared=options["n_hidden"],
            dropout_rate_encoder=options["dropout_rate"],
            dropout_rate_decoder=options["dropout_rate"],
            n_batch=sum(schema.n_batch for schema in schemas),
            n_labels=len(all_labels(schemas)) if cls._reads_labels(options) else 1,
            dispersion=options["dispersion"],
        )
        return Adversaries(model, Classifier(options["n_latent"], n_labels=2, **_DISCRIMINATOR))  # type: ignore[arg-type]

    def _take_networks(self, networks: Adversaries) -> None:
        self._networks, self.module, self.discriminator = networks, networks.model, networks.discriminator

    def _take_cells(self, data_sets: Sequence[Cells]) -> None:
        self._data_sets = data_sets
        self.gene_names = np.array(_all_genes([cells.schema for cells in data_sets]), dtype=object)

    @property
    def adata(self) -> Never:
        """Of two data sets: `adata_seq` and `adata_spatial`."""
        raise AttributeError(_TWO_DATA_SETS)

    @adata.setter
    def adata(self, adata: AnnData) -> Never:
        raise AttributeError(f"{_TWO_DATA_SETS}; assign to one of these")

    @property
    def adata_seq(self) -> AnnData | None:
        """The dissociated cells the model was made with, or None; others may be assigned, which are checked then."""
        return self._data_sets[0].adata

    @adata_seq.setter
    def adata_seq(self, adata: AnnData) -> None:
        self._give(0, adata)

    @property
    def adata_spatial(self) -> AnnData | None:
        """The spatial cells, as `adata_seq`."""
        return self._data_sets[1].adata

    @adata_spatial.setter
    def adata_spatial(self, adata: AnnData) -> None:
        self._give(1, adata)

    @property
    def adatas(self) -> list[AnnData | None]:
        """`adata_seq` and `adata_spatial`."""
        return [cells.adata for cells in self._data_sets]

    def _sizes(self) -> str:
        n_shared = sum(cells.schema.n_genes for cells in self._data_sets) - len(self.gene_names)
        return f"{len(self.gene_names)} genes, {n_shared} of them in both data sets"

    def view_anndata_setup(self, adata: AnnData | None = None, hide_state_registries: bool = False) -> pd.DataFrame:
        """What the model reads: one row for each data set and input, with its place in the AnnData and a summary.

        Arguments are those of :meth:`scvi.SCVI.view_anndata_setup`.
        """
        if adata is not None:
            return about.view_anndata_setup(self, adata, hide_state_registries)
        tables = [about.table_of(cells.schema, hide_state_registries) for cells in self._data_sets]
        return pd.concat(tables, keys=NAMES, names=["data set"])

    def get_var_names(self) -> np.ndarray:
        """Names of the model's genes, as `gene_names`."""
        return self.gene_names.copy()

    # ---- fitting -----------------------------------------------------------------------------------------------------

    train = train_by(
        AdversarialPlan,
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
        """,
        second="kappa",
    )

    @classmethod
    def _of_each(cls, argument: str, value: Any) -> dict[str, Any]:
        return {f"{argument}[{i}]": entry for i, entry in enumerate(two(argument, value, [None, None]))}

    def _start(self, data_sets: Sequence[CellData], train_cells: Sequence[np.ndarray], ranks: Ranks) -> None:
        n_batches = [cells.schema.n_batch for cells in self._data_sets]
        initialise_joint(self.module, data_sets, train_cells, n_batches, ranks)

    # ---- questions ---------------------------------------------------------------------------------------------------

    get_latent_representation = gimvi_questions.get_latent_representation
    get_imputed_values = gimvi_questions.get_imputed_values
    get_elbo = gimvi_questions.get_elbo
    get_discriminator_confusion = gimvi_questions.get_discriminator_confusion
    check = checks.check_of_two
    report = reporting.report_of_two

    # ---- files -------------------------------------------------------------------------------------------------------

    @classmethod
    def load(  # type: ignore[override]  # it has two sets of cells
        cls,
        dir_path: str | os.PathLike[str],
        adata_seq: AnnData | Literal[False] | None = None,
        adata_spatial: AnnData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: str | int | Sequence[int] = "auto",
        prefix: str | None = None,
    ) -> Self:
        """Reads a model from a directory. Nothing in the files is run.

        Parameters
        ----------
        adata_seq, adata_spatial
            Cells to work with; they need no set-up. None: those that were saved with the model, if any; without them
            every question needs its `adatas`. So it does with False.
        accelerator, device, prefix
            As of :meth:`scvi.SCVI.load`.

        Raises
        ------
        FileNotFoundError
            If there is no model.
        ValueError
            If its files are truncated, foreign or of another estimator, or the cells do not fit the model.
        """
        return saving.with_cells(cls, dir_path, (adata_seq, adata_spatial), accelerator, device, prefix)


def _all_genes(schemas: Sequence[Schema]) -> list[str]:
    """The genes of the first, then those that the second alone has."""
    genes = list(dict.fromkeys(name for schema in schemas for name in schema.genes))
    if len(genes) == sum(schema.n_genes for schema in schemas):
        first, second = (schema.genes[0] for schema in schemas)
        cause = likely_cause(*sorted((schema.genes for schema in schemas), key=len))
        raise ValueError(
            "adata_seq and adata_spatial have no gene in common, such as would tie them together; their genes are "
            f"called like {first!r} and {second!r}: are these names of the same kind?{cause}"
        )
    return genes
