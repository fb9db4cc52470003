"""Questions to gimVI: each is about two data sets, or one of them, and answers with a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_flag
from scvi.cells.cell_data import CellData
from scvi.estimators.cells import NO_GENE, positions_of
from scvi.estimators.questions import mean_of, table
from scvi.minibatch import Minibatch
from scvi.queries import imputation, latent, likelihood

if TYPE_CHECKING:
    from scvi.estimators.gimvi import GIMVI

NAMES = ("seq", "spatial")


def get_latent_representation(
    self: GIMVI,
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
    Two arrays (n, d), or one for each of `adatas`
    """
    check_flag("deterministic", deterministic)
    generator, asked = self._generator(seed), _ask_each(self, adatas, batch_size)
    return [latent.latent(self.module, cells, deterministic, generator) for cells in asked.values()]


def get_imputed_values(
    self: GIMVI,
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
    Two arrays (n, number of genes), or one for each of `adatas`
    """
    check_flag("deterministic", deterministic)
    check_flag("normalized", normalized)
    if decode_mode not in (None, 0, 1):
        raise ValueError(f"decode_mode={decode_mode!r} is not one of 0 (adata_seq), 1 (adata_spatial) or None")
    batches = [None if decode_mode in (None, i) else [*self._data_sets[decode_mode].batches] for i in range(2)]
    genes = None if gene_list is None else positions_of(gene_list, self.gene_names, NO_GENE)
    generator = self._generator(seed)
    return [
        imputation.imputed(
            self.module,
            cells,
            deterministic=deterministic,
            normalized=normalized,
            decode_mode=decode_mode,
            transform_batch=batches[number],
            genes=genes,
            generator=generator,
        )
        for number, cells in _ask_each(self, adatas, batch_size).items()
    ]


def get_elbo(
    self: GIMVI,
    adatas: Sequence[AnnData | None] | None = None,
    batch_size: int | None = None,
    *,
    return_mean: bool = True,
    seed: int | None = None,
) -> list[float] | list[np.ndarray]:
    """Evidence lower bound in nats over the measured genes: means over cells, or one a cell. Higher is better."""
    generator = self._generator(seed)
    asked = _ask_each(self, adatas, batch_size).values()
    bounds = [likelihood.elbo(self.module, cells, generator) for cells in asked]
    return [mean_of(bound, return_mean) for bound in bounds]  # type: ignore[return-value]


def get_discriminator_confusion(
    self: GIMVI, adatas: Sequence[AnnData | None] | None = None, batch_size: int | None = None
) -> pd.DataFrame:
    """How the discriminator takes cells of each data set (rows) for cells of each (columns), on average.

    All entries near 0.5 mean well mixed data sets. A diagonal near 1 means that they are apart in the latent space
    and that imputation cannot be trusted: raise `kappa`.
    """
    asked = _ask_each(self, adatas, batch_size)
    rows = [
        imputation.data_set_probabilities(self.module, self.discriminator, cells).mean(0) for cells in asked.values()
    ]
    return table(np.stack(rows), [NAMES[number] for number in asked], NAMES)


def _ask_each(
    self: GIMVI, adatas: Sequence[AnnData | None] | None, batch_size: int | None
) -> dict[int, Iterator[Minibatch]]:
    """The cells of a question as minibatches, by the number of the data set."""
    self._require_trained()
    if isinstance(adatas, (list, tuple)) and len(adatas) == 1:
        given = {_number_of(self, adatas[0]): adatas[0]}
    else:
        given = dict(enumerate(two("adatas", adatas, [None, None])))
    chosen = {number: self._data_sets[number].choose(adata, None) for number, adata in given.items()}

    def of(number: int, data: CellData, positions: np.ndarray) -> Iterator[Minibatch]:
        return (replace(mb, dataset=number) for mb in self._minibatches(data, positions, batch_size))

    return {number: of(number, *cells) for number, cells in chosen.items()}


def _number_of(self: GIMVI, adata: AnnData | None) -> int:
    """Which data set an AnnData that comes alone is read as: the one whose genes it has, else the first."""
    if not isinstance(adata, AnnData):
        return 0
    first, second = self._data_sets
    if adata is first.adata or adata is second.adata:
        return 0 if adata is first.adata else 1
    lacks = [not set(cells.schema.genes) <= set(adata.var_names) for cells in (first, second)]
    return 1 if lacks[0] and not lacks[1] else 0


def two(name: str, values: Any, default: list[Any]) -> list[Any]:
    """A list of one entry for each data set."""
    if values is None:
        return default
    if not isinstance(values, (list, tuple)) or len(values) != 2:
        what = f"a {type(values).__name__} of {len(values)}" if isinstance(values, (list, tuple)) else repr(values)
        raise ValueError(f"{name} is {what}; it must be a list of two, for adata_seq and for adata_spatial")
    return list(values)
