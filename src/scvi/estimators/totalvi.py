"""totalVI for AnnData and MuData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from scvi._checks import check_flag, check_integer, check_number
from scvi._random import resolve_seed
from scvi.cells.cell_data import CellData
from scvi.cells.checks import nearest
from scvi.cells.fingerprint import fingerprint, fingerprint_of_proteins
from scvi.cells.mudata import OBSM_KEY, is_multimodal, joined_modalities
from scvi.cells.protein_background import background_moments
from scvi.cells.proteins import declare_proteins
from scvi.cells.schema import Schema
from scvi.cells.setup import declare
from scvi.cells.uns import register, schema_of
from scvi.estimators.cells import Cells, Indices
from scvi.estimators.counts import CountEstimator, check_library, checked_library_size, drawn_cells
from scvi.models.totalvae import TOTALVAE
from scvi.models.utils import check_choice
from scvi.queries import proteins as queries
from scvi.queries.proteins import Part, ProteinValue

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["TOTALVI"]

Names = Sequence[str] | None
Batches = str | int | Sequence[str | int] | None


class TOTALVI(CountEstimator):
    """Genes and surface proteins of the same cells (CITE-seq; Gayoso et al., Nature Methods 2021).

    >>> scvi.TOTALVI.setup_anndata(adata, batch_key="batch", protein_expression_obsm_key="protein_counts")
    >>> model = scvi.TOTALVI(adata)
    >>> model.train()
    >>> rna, protein = model.get_normalized_expression(n_samples=25)

    A protein without any count in a batch is taken as not measured there: it is left out of the likelihood of these
    cells, and can be imputed with `transform_batch`.

    Parameters
    ----------
    adata
        Raw counts, declared with :meth:`setup_anndata`, or a MuData declared with :meth:`setup_mudata`.
    n_latent
        Dimension of the latent space.
    gene_dispersion, protein_dispersion
        The inverse dispersion is one number for each 'gene' ('protein'), 'gene-batch' or 'gene-label'.
    gene_likelihood
        'nb' or 'zinb'.
    latent_distribution
        'normal', or 'ln' for a logistic-normal one on the simplex.
    empirical_protein_background_prior
        Start the background of each protein where the lower of two Gaussians fits its log counts. None: True.
    override_missing_proteins
        Take proteins without any count in a batch as measured zeros.
    n_hidden, n_layers_encoder, n_layers_decoder, dropout_rate_encoder, dropout_rate_decoder
        Width, depths and dropout rates of the networks.
    use_observed_lib_size
        Take each cell's total count of RNA as its library size instead of inferring it.
    encode_covariates
        Show batch and covariates to the encoder as well as to the decoder.
    seed
        Seed of the initial weights.
    """

    _mdata: Any = None

    def __init__(
        self,
        adata: AnnData,
        n_latent: int = 20,
        gene_dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene",
        protein_dispersion: Literal["protein", "protein-batch", "protein-label"] = "protein",
        gene_likelihood: Literal["nb", "zinb"] = "nb",
        latent_distribution: Literal["normal", "ln"] = "normal",
        empirical_protein_background_prior: bool | None = None,
        override_missing_proteins: bool = False,
        *,
        n_hidden: int = 256,
        n_layers_encoder: int = 1,
        n_layers_decoder: int = 1,
        dropout_rate_encoder: float = 0.2,
        dropout_rate_decoder: float = 0.2,
        use_observed_lib_size: bool = True,
        encode_covariates: bool = True,
        seed: int | None = None,
    ) -> None:
        check_choice("gene_likelihood", gene_likelihood, ("nb", "zinb"))
        if empirical_protein_background_prior is not None:
            check_flag("empirical_protein_background_prior", empirical_protein_background_prior)
        options = {
            "n_latent": n_latent,
            "gene_dispersion": gene_dispersion,
            "protein_dispersion": protein_dispersion,
            "gene_likelihood": gene_likelihood,
            "latent_distribution": latent_distribution,
            "empirical_protein_background_prior": empirical_protein_background_prior,
            "override_missing_proteins": check_flag("override_missing_proteins", override_missing_proteins),
            "n_hidden": n_hidden,
            "n_layers_encoder": n_layers_encoder,
            "n_layers_decoder": n_layers_decoder,
            "dropout_rate_encoder": dropout_rate_encoder,
            "dropout_rate_decoder": dropout_rate_decoder,
            "use_observed_lib_size": use_observed_lib_size,
            "encode_covariates": encode_covariates,
        }
        if is_multimodal(adata):
            self._mdata = adata
            adata = self._as_anndata(adata, schema_of(adata, type(self).__name__))
        self._make(adata, options, seed)

    # ---- making a model ----------------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(  # type: ignore[override]  # proteins come first, as scripts have it
        cls,
        adata: AnnData,
        protein_expression_obsm_key: str,
        protein_names_uns_key: str | None = None,
        batch_key: str | None = None,
        layer: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        labels_key: str | None = None,
        mask_var: str | Sequence[str] | np.ndarray | None = None,
    ) -> None:
        """Declares which parts of `adata` the model reads, and checks them.

        One entry is written to ``adata.uns["_scvi"]``; nothing else of `adata` is changed.

        Parameters
        ----------
        protein_expression_obsm_key
            Key of ``adata.obsm`` with the raw counts of proteins: a table whose columns are their names, or an array.
        protein_names_uns_key
            Key of ``adata.uns`` with the names, for an array; None numbers them.
        batch_key, layer, size_factor_key, categorical_covariate_keys, continuous_covariate_keys, labels_key, mask_var
            As in :meth:`scvi.SCVI.setup_anndata`; labels serve label-wise dispersions.
        """
        schema, print_of_genes = declare(
            adata,
            layer=layer,
            batch_key=batch_key,
            labels_key=labels_key,
            size_factor_key=size_factor_key,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            mask_var=mask_var,
        )
        schema = declare_proteins(adata, schema, protein_expression_obsm_key, protein_names_uns_key)
        register(adata, cls.__name__, schema, print_of_genes + fingerprint_of_proteins(adata, schema))

    @classmethod
    def setup_mudata(
        cls,
        mdata: Any,
        rna_layer: str | None = None,
        protein_layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        labels_key: str | None = None,
        modalities: Mapping[str, str] | None = None,
    ) -> None:
        """As :meth:`setup_anndata` for a MuData, whose RNA and proteins are modalities of their own.

        Parameters
        ----------
        rna_layer, protein_layer
            Layers of the two modalities with the raw counts; None: their X.
        batch_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys, labels_key
            Columns of the `obs` of a modality: of the RNA unless `modalities` says otherwise, and where it has none of
            that name, of ``mdata.obs``.
        modalities
            Names of the modalities for 'rna_layer' and 'protein_layer' (by default 'rna' and 'protein'), and for each
            of the arguments above whose columns are in another one.
        """
        if not is_multimodal(mdata):
            raise TypeError(f"mdata is a {type(mdata).__name__}; pass a MuData, or an AnnData to setup_anndata")
        keys: dict[str, Any] = {
            "batch_key": batch_key,
            "size_factor_key": size_factor_key,
            "categorical_covariate_keys": categorical_covariate_keys,
            "continuous_covariate_keys": continuous_covariate_keys,
            "labels_key": labels_key,
        }
        places = _places(modalities or {}, keys)
        adata = joined_modalities(mdata, places, protein_layer)
        cls.setup_anndata(adata, OBSM_KEY, layer=rna_layer, **keys)
        schema = schema_of(adata, cls.__name__)
        proteins = replace(schema.proteins, modalities=places, layer=protein_layer)  # type: ignore[type-var]
        schema = replace(schema, proteins=proteins)
        register(mdata, cls.__name__, schema, fingerprint(adata, schema))

    @classmethod
    def _make_module(cls, schema: Schema, options: Mapping[str, Any]) -> TOTALVAE:
        check_library(schema, options)
        named = dict(options)
        for name in ("empirical_protein_background_prior", "override_missing_proteins"):
            del named[name]
        named["reconstruction_loss_gene"] = named.pop("gene_likelihood")
        named["encoder_batch"] = named.pop("encode_covariates")
        proteins = _proteins_of(schema, options)
        return TOTALVAE(
            schema.n_genes,
            len(proteins.names),
            n_batch=schema.n_batch,
            n_labels=schema.n_labels,
            protein_batch_mask=None if np.all(proteins.measured) else [np.array(row) for row in proteins.measured],
            n_continuous_cov=schema.n_continuous,
            n_cats_per_cov=list(schema.n_cats_per_cov),
            **named,
        )

    @classmethod
    def _make_cells(
        cls, schema: Schema, options: Mapping[str, Any], adata: AnnData | None, validate: bool = True
    ) -> Cells:
        schema = replace(schema, proteins=_proteins_of(schema, options))
        if adata is not None:
            adata = cls._as_anndata(adata, schema)
        return super()._make_cells(schema, options, adata, validate)

    @classmethod
    def _reads_labels(cls, options: Mapping[str, Any]) -> bool:
        return options["gene_dispersion"] == "gene-label" or options["protein_dispersion"] == "protein-label"

    def _initialise(self, data: CellData, train_cells: np.ndarray) -> None:
        super()._initialise(data, train_cells)
        if self.options["empirical_protein_background_prior"] is False:
            return
        measured = np.array(self.schema.proteins.measured)  # type: ignore[union-attr]
        moments = background_moments(data.proteins[train_cells], data.batch[train_cells], measured)  # type: ignore[index]
        self.module.initialise_background(*(torch.tensor(m, dtype=torch.float32, device=self.device) for m in moments))

    @classmethod
    def _as_anndata(cls, data: Any, schema: Schema) -> AnnData:
        """A MuData as the AnnData that is read."""
        if not is_multimodal(data):
            return data
        if schema.proteins is None or not schema.proteins.modalities:
            raise TypeError(
                "a MuData came, but the model was set up with an AnnData: pass one, with its proteins in obsm"
            )
        return joined_modalities(data, schema.proteins.modalities, schema.proteins.layer)

    def _choose(self, adata: Any, indices: Indices, needs_counts: bool = True) -> tuple[CellData, np.ndarray]:
        adata = self.adata if adata is self._mdata else self._as_anndata(adata, self.schema)
        return super()._choose(adata, indices, needs_counts)

    @property
    def mdata(self) -> Any:
        """The MuData the model was made with, or None; `adata` is what it reads of it."""
        return self._mdata

    # ---- questions ---------------------------------------------------------------------------------------------------

    def get_normalized_expression(  # type: ignore[override]  # of two kinds, here
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        transform_batch: Batches = None,
        gene_list: Names = None,
        protein_list: Names = None,
        library_size: float | Literal["latent"] = 1,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool = False,
        *,
        sample_protein_mixing: bool = False,
        scale_protein: bool = False,
        include_protein_background: bool = False,
        seed: int | None = None,
    ) -> tuple[pd.DataFrame, pd.DataFrame] | tuple[np.ndarray, np.ndarray]:
        """Denoised expression of genes, and of proteins without their background.

        Genes as in :meth:`scvi.SCVI.get_normalized_expression`: shares of the cell's molecules. Proteins in counts: the
        mean of the foreground times its probability. NaN stands for a protein that the batch in which a cell is decoded
        did not measure, or in its own batch the cell itself (NaN in a query that lacks the protein); give a batch that
        did as `transform_batch` to impute it.

        Parameters
        ----------
        transform_batch
            Name of the batch to decode every cell in, or several, over which the result is averaged; None: its own.
        gene_list, protein_list
            Names in the order wanted; None: all.
        library_size
            Of the genes: a number, or 'latent' for each cell's own library size.
        n_samples
            Posterior draws a cell.
        n_samples_overall
            Draw so many cells with replacement, and one sample of each.
        return_mean
            Average over the draws; otherwise the draws are the first axis.
        return_numpy
            Return arrays; draws that are not averaged always come as arrays.
        sample_protein_mixing
            Draw whether a count is background instead of weighing by the probability.
        scale_protein
            Divide proteins by their sum in the cell.
        include_protein_background
            Add the background, weighed by its probability: the expected count.

        Returns
        -------
        (n, g) and (n, p) tables, or arrays (n, .) or (s, n, .)
        """
        data, positions = self._choose(adata, indices, needs_counts=False)
        seed = resolve_seed(seed)
        positions = drawn_cells(positions, n_samples_overall, seed)
        value = ProteinValue(
            include_background=check_flag("include_protein_background", include_protein_background),
            sample_mixing=check_flag("sample_protein_mixing", sample_protein_mixing),
            scale=check_flag("scale_protein", scale_protein),
            hide_missing=True,
        )
        part = self._part(transform_batch, gene_list, protein_list, n_samples, return_mean)
        rna, protein = queries.normalized(
            self.module,
            self._minibatches(data, positions, batch_size),
            part,
            value,
            checked_library_size(library_size),
            self._generator(seed),
        )
        if return_numpy or rna.ndim == 3:
            return rna, protein
        cells, (genes, proteins) = data.cell_names[positions], self._names(part)
        return _table(rna, cells, genes), _table(protein, cells, proteins)

    def get_protein_foreground_probability(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        transform_batch: Batches = None,
        protein_list: Names = None,
        n_samples: int = 1,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool = False,
        *,
        seed: int | None = None,
    ) -> pd.DataFrame | np.ndarray:
        """Probability that the count of a protein is more than background; arguments and NaN as for the expression.

        Returns
        -------
        (n, p) table, or an array (n, p) or (s, n, p)
        """
        data, positions = self._choose(adata, indices, needs_counts=False)
        part = self._part(transform_batch, None, protein_list, n_samples, return_mean)
        minibatches = self._minibatches(data, positions, batch_size)
        values = queries.foreground_probability(self.module, minibatches, part, True, self._generator(seed))
        if return_numpy or values.ndim == 3:
            return values
        return _table(values, data.cell_names[positions], self._names(part)[1])

    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        n_samples: int = 1,
        transform_batch: str | int | None = None,
        gene_list: Names = None,
        protein_list: Names = None,
        batch_size: int | None = None,
        *,
        seed: int | None = None,
    ) -> tuple[sparse.csr_matrix | list[sparse.csr_matrix], np.ndarray]:
        """Counts as the model would measure them again in the same cells.

        Nothing was learnt about a protein in a batch that did not measure it: its counts there are to be disregarded.
        With `transform_batch` all cells are decoded in a batch that did.

        Returns
        -------
        Counts of genes, one sparse (n, g) matrix for each draw (for one draw the matrix, not a list of one); counts of
        proteins, (n, p) or (s, n, p).
        """
        data, positions = self._choose(adata, indices, needs_counts=False)
        part = self._part(transform_batch, gene_list, protein_list, n_samples, True)
        rows: list[list[sparse.csr_matrix]] = [[] for _ in range(n_samples)]
        blocks = []
        code = None if part.transform_batch is None else self._one_batch(part.transform_batch)
        minibatches = self._minibatches(data, positions, batch_size)
        for x, y in queries.predictive_draws(self.module, minibatches, n_samples, code, self._generator(seed)):
            for kept, draw in zip(rows, x, strict=True):
                kept.append(sparse.csr_matrix(draw if part.genes is None else draw[:, part.genes]))
            blocks.append(y if part.proteins is None else y[..., part.proteins])
        genes = [sparse.vstack(kept, format="csr") for kept in rows]
        proteins = np.concatenate(blocks, axis=1)
        return (genes, proteins) if n_samples > 1 else (genes[0], proteins[0])

    def get_feature_correlation_matrix(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        n_samples: int = 10,
        batch_size: int | None = None,
        rna_size_factor: float = 1000,
        transform_batch: Batches = None,
        correlation_type: Literal["spearman", "pearson"] = "spearman",
        *,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """Correlation of genes and proteins over cells, free of counting noise and protein background.

        It is that of draws from the model at the posterior of each cell, genes scaled to `rna_size_factor` molecules;
        over several batches of `transform_batch` it is averaged. All draws are held in memory, n x s rows. Where a
        batch did not measure a protein, ask about the cells of others, or name a batch that did as `transform_batch`.

        Returns
        -------
        (g + p, g + p) table, genes first
        """
        check_choice("correlation_type", correlation_type, ("spearman", "pearson"))
        check_number("rna_size_factor", rna_size_factor, "a positive number", above=0)
        data, positions = self._choose(adata, indices, needs_counts=False)
        part = self._part(transform_batch, None, None, n_samples, True)
        generator = self._generator(seed)
        codes: list[int | None] = [None] if part.transform_batch is None else [*part.transform_batch]
        matrices = [
            queries.correlation(
                queries.denoised_draws(
                    self.module,
                    self._minibatches(data, positions, batch_size),
                    n_samples,
                    rna_size_factor,
                    code,
                    generator,
                ),
                correlation_type,
            )
            for code in codes
        ]
        names = np.concatenate(self._names(part))
        return pd.DataFrame(np.mean(matrices, axis=0), index=pd.Index(names), columns=pd.Index(names))

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
        """Parameters of the distributions of all counts, at posterior draws.

        Returns
        -------
        dict
            For genes 'mean' (expected counts before dropout), 'dispersions' (inverse) and with 'zinb' 'dropout'
            (logits); for proteins 'protein_background' and 'protein_foreground' (expected counts), 'protein_mixing'
            (logits of the background) and 'protein_dispersions' (inverse). Each (n, .), or (s, n, .) for several draws
            that are not averaged.
        """
        minibatches = self._ask(adata, indices, batch_size, needs_counts=False)
        n_samples = check_integer("n_samples", n_samples, 1)
        return queries.mixed_parameters(
            self.module, minibatches, n_samples=n_samples, give_mean=give_mean, generator=self._generator(seed)
        )

    def _part(
        self, transform_batch: Batches, gene_list: Names, protein_list: Names, n_samples: int, return_mean: bool
    ) -> Part:
        return Part(
            genes=None if gene_list is None else self._cells.gene_positions(gene_list),
            proteins=None if protein_list is None else self._protein_positions(protein_list),
            transform_batch=self._cells.batch_codes(transform_batch),
            n_samples=check_integer("n_samples", n_samples, 1),
            return_mean=check_flag("return_mean", return_mean),
        )

    def _protein_positions(self, names: Sequence[str]) -> np.ndarray:
        names = [names] if isinstance(names, str) else names
        known = {name: position for position, name in enumerate(self.schema.proteins.names)}  # type: ignore[union-attr]
        for name in names:
            if name not in known:
                raise ValueError(
                    f"protein_list has {name!r}, which is not a protein of the model{nearest(name, known)}"
                )
        return np.array([known[name] for name in names], dtype=np.int64)

    def _names(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Of the genes and of the proteins that are wanted."""
        genes = np.array(self.schema.genes, dtype=object)
        proteins = np.array(self.schema.proteins.names, dtype=object)  # type: ignore[union-attr]
        return (
            genes if part.genes is None else genes[part.genes],
            proteins if part.proteins is None else proteins[part.proteins],
        )

    def _one_batch(self, codes: Sequence[int]) -> int:
        if len(codes) > 1:
            raise ValueError("transform_batch names several batches; counts are drawn in one, or in each cell's own")
        return codes[0]


def _proteins_of(schema: Schema, options: Mapping[str, Any]) -> Any:
    """The proteins of a schema, all taken as measured where the options say so."""
    proteins = schema.proteins
    if proteins is None:
        raise ValueError("this set-up has no proteins: call TOTALVI.setup_anndata with protein_expression_obsm_key")
    if not options["override_missing_proteins"]:
        return proteins
    return replace(proteins, measured=tuple(tuple(True for _ in row) for row in proteins.measured))


def _places(modalities: Mapping[str, str], keys: Mapping[str, Any]) -> dict[str, str]:
    """Modalities of the two counts by argument, and of columns that are elsewhere by name of the column."""
    known = ("rna_layer", "protein_layer", *keys)
    unknown = [name for name in modalities if name not in known]
    if unknown:
        raise ValueError(
            f"modalities has {unknown[0]!r}, which is no argument with a modality{nearest(unknown[0], known)}"
        )
    places = {"rna_layer": "rna", "protein_layer": "protein"}
    places |= {name: modalities[name] for name in places if name in modalities}
    for argument, value in keys.items():
        place = modalities.get(argument, places["rna_layer"])
        if value is not None and place != places["rna_layer"]:
            places |= dict.fromkeys([value] if isinstance(value, str) else value, place)
    return places


def _table(values: np.ndarray, cells: np.ndarray, names: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, index=pd.Index(cells), columns=pd.Index(names))
