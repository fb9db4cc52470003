"""A subset of the cells of a data set, seen through a model."""

from __future__ import annotations

import operator
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, Sampler, SequentialSampler, SubsetRandomSampler

from scvi._checks import check_draws, superseded
from scvi.dataset import GeneExpressionDataset
from scvi.inference import group_questions, posterior_files, posterior_predictive
from scvi.inference import posterior_differential as differential
from scvi.inference import posterior_imputation as imputing
from scvi.inference import posterior_scores as scores
from scvi.inference.posterior_utils import unsupervised_clustering_accuracy
from scvi.minibatch import Minibatch
from scvi.models.autozivae import AutoZIVAE
from scvi.models.base import Model
from scvi.models.log_likelihood import (
    compute_elbo,
    compute_marginal_log_likelihood_autozi,
    compute_reconstruction_error,
)
from scvi.queries import evaluating
from scvi.queries.expression import Wanted, normalized
from scvi.queries.latent import latent, library
from scvi.queries.likelihood import marginal

__all__ = ["Collate", "Posterior", "SequentialSubsetSampler", "unsupervised_clustering_accuracy"]

Method = TypeVar("Method", bound=Callable[..., Any])
Self = TypeVar("Self", bound="Posterior")


def metric(mode: Literal["min", "max"]) -> Callable[[Method], Method]:
    """Marks a method of a posterior as one to monitor: are low ('min') or high ('max') values good?"""

    def mark(method: Method) -> Method:
        method.mode = mode  # type: ignore[attr-defined]
        return method

    return mark


class SequentialSubsetSampler(SubsetRandomSampler):
    """Yields the indices in the order in which they were given."""

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class Posterior:
    """Cells of a data set as minibatches, and what a model says of them.

    .. warning::
       **The order of the cells is random**, and another one in every pass, when `indices` are given, even for
       ``indices=np.arange(n)``. Call `sequential` first wherever the result must line up with the data set::

           latent, batches, labels = posterior.sequential().get_latent()

       Without `indices` the order is that of the data set, or random with `shuffle`.

    The counts and codes are those that the data set has when they are read; its cells and genes are to be chosen before
    a posterior is made of it. Scores and queries see every cell, also where ``drop_last`` in `data_loader_kwargs` keeps
    some out of the iteration; they refuse a model that was made for data of other sizes.

    Iterating yields lists of tensors on the device of the model: counts (n, g), mean and variance of the log library
    size in the cell's batch (n, 1), batch codes (n, 1), label codes (n, 1).

    Parameters
    ----------
    model
        The fitted network.
    gene_dataset
        The data.
    shuffle
        Visit all cells in random order; not together with `indices`.
    indices
        Positions of the cells, or a boolean mask over all cells; None for all cells.
    use_cuda
        Pin memory for a GPU if there is one. Minibatches go to wherever the model is.
    data_loader_kwargs
        Arguments of `torch.utils.data.DataLoader`; ``batch_size`` is 128 unless given.

    Attributes
    ----------
    to_monitor
        Names of metrics that a trainer computes on this posterior beside its own.
    data_loader
        The torch DataLoader behind the iteration.
    reads_corrupted
        Whether the counts are the corrupted ones.
    """

    mode = 0  # number of the data set, of a model of several

    def __init__(
        self,
        model: nn.Module,
        gene_dataset: GeneExpressionDataset,
        shuffle: bool = False,
        indices: npt.ArrayLike | None = None,
        use_cuda: bool = True,
        data_loader_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if indices is not None and shuffle:
            raise ValueError("indices is mutually exclusive with shuffle: pass one of them")
        self.model: Any = model
        self.gene_dataset = gene_dataset
        self.use_cuda = use_cuda and torch.cuda.is_available()
        self.to_monitor: list[str] = []
        self.reads_corrupted = False
        sampler: Sampler[int] = RandomSampler(gene_dataset) if shuffle else SequentialSampler(gene_dataset)
        if indices is not None:
            sampler = SubsetRandomSampler(self._positions(indices))  # type: ignore[arg-type]
        self.data_loader_kwargs: dict[str, Any] = {"batch_size": 128, **(data_loader_kwargs or {})}
        self.data_loader = self._loader(sampler, self._collate())
        self.original_indices = self.indices

    # Cells --------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[list[Tensor]]:
        return (self.to_cuda(tensors) for tensors in self.data_loader)

    def minibatches(self) -> Iterator[Minibatch]:
        """The same cells in the same order as `Minibatch` records."""
        return (Minibatch.from_tensors(tensors) for tensors in self)

    def check_model(self) -> None:
        """ValueError if the model was made for other numbers of genes, batches or labels than these cells have."""
        data_set, cells = self.gene_dataset, self.indices
        if isinstance(self.model, Model) and len(cells):
            n_batches, n_labels = (int(codes[cells].max()) + 1 for codes in (data_set.batch_indices, data_set.labels))
            self.model.check_fits(data_set.nb_genes, n_batches, n_labels, self.mode)

    def to_cuda(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Moves tensors to the device of the model."""
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        return [tensor.to(device, non_blocking=self.use_cuda) for tensor in tensors]

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """Positions of the cells in the data set, (n,), in the order given (not that of the iteration)."""
        if isinstance(self.data_loader.sampler, SubsetRandomSampler):
            return np.asarray(self.data_loader.sampler.indices)
        return np.arange(len(self.gene_dataset))

    @property
    def nb_cells(self) -> int:
        """Number of cells."""
        return len(self.indices)

    @property
    def posterior_type(self) -> str:
        """Name of the class."""
        return type(self).__name__

    def own_options(self) -> dict[str, Any]:
        """Arguments of the class beyond those of `Posterior`, with which `load_posterior` makes it again."""
        return {}

    def update(self: Self, data_loader_kwargs: Mapping[str, Any]) -> Self:
        """The same cells with other arguments of the DataLoader; ``sampler`` and ``collate_fn`` may be among them."""
        options = dict(data_loader_kwargs)
        sampler = options.pop("sampler", self.data_loader.sampler)
        collate = options.pop("collate_fn", self.data_loader.collate_fn)
        posterior = copy(self)
        posterior.data_loader_kwargs = self.data_loader_kwargs | options
        posterior.data_loader = posterior._loader(sampler, collate)
        return posterior

    def sequential(self: Self, batch_size: int | None = None) -> Self:
        """The same cells in the order of `indices`, so that results line up with the data set.

        `batch_size` is that of this posterior unless given.
        """
        options = {} if batch_size is None else {"batch_size": batch_size}
        return self.update({"sampler": SequentialSubsetSampler(self.indices), **options})  # type: ignore[arg-type]

    def corrupted(self: Self) -> Self:
        """The same cells with the corrupted counts, see `GeneExpressionDataset.corrupt`."""
        return self._reading(corrupted=True)

    def uncorrupted(self: Self) -> Self:
        """The same cells with the true counts."""
        return self._reading(corrupted=False)

    def update_sampler_indices(self, idx: npt.ArrayLike) -> None:
        """Visits the cells `idx` (positions, duplicates allowed) in random order from now on, in place.

        Everything that depends on the cells is in `data_loader`: to undo this, put the former loader back.
        """
        sampler = SubsetRandomSampler(self._positions(idx))  # type: ignore[arg-type]
        self.data_loader = self._loader(sampler, self.data_loader.collate_fn)

    def raw_data(self) -> tuple[Any, npt.NDArray[np.uint16]]:
        """Counts (n, g), in the layout of the data set, and label codes (n,), in the order of `indices`."""
        counts: Any = self.gene_dataset.X
        return counts[self.indices], self.gene_dataset.labels[self.indices].ravel()

    # Scores -------------------------------------------------------------------------------------------------------

    @metric("min")
    def elbo(self) -> float:
        """Negative evidence lower bound, mean over cells, in nats; lower is better."""
        return self._score(compute_elbo)

    @metric("min")
    def reconstruction_error(self) -> float:
        """Negative log-likelihood of the counts given a draw of the latent variables, mean over cells, in nats."""
        return self._score(compute_reconstruction_error)

    @metric("min")
    def marginal_ll(self, n_mc_samples: int = 1000) -> float:
        """Negative log-likelihood of the counts by importance sampling, mean over cells, in nats.

        Parameters
        ----------
        n_mc_samples
            Draws from the variational posterior for each cell: the more, the tighter the bound.
        """
        check_draws("n_mc_samples", n_mc_samples)
        if isinstance(self.model, AutoZIVAE):
            return self._score(partial(compute_marginal_log_likelihood_autozi, n_samples_mc=n_mc_samples))
        return -float(marginal(self.model, self._asked().minibatches(), n_mc_samples=n_mc_samples).mean())

    @metric("max")
    def accuracy(self) -> float | None:
        """None: cells are labelled by an `AnnotationPosterior`, whose metric this is."""
        return None

    entropy_batch_mixing = metric("max")(scores.entropy_batch_mixing)
    knn_purity = metric("max")(scores.knn_purity)
    clustering_scores = scores.clustering_scores
    nn_overlap_score = scores.nn_overlap_score
    show_t_sne = scores.show_t_sne
    apply_t_sne = staticmethod(scores.apply_t_sne)

    imputation_list = imputing.imputation_list
    imputation_score = imputing.imputation_score
    imputation_benchmark = imputing.imputation_benchmark

    # Latent space and expression ----------------------------------------------------------------------------------

    @superseded(sample="pass give_mean, its opposite")
    def get_latent(
        self, give_mean: bool = True
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where the model places each cell.

        Parameters
        ----------
        give_mean
            Mean of the variational posterior; otherwise one draw.

        Returns
        -------
        latent (n, d), batch codes (n, 1), label codes (n,); in the order of the iteration, see the class.
        """
        codes: list[tuple[Tensor, Tensor]] = []

        def remembered() -> Iterator[Minibatch]:  # the next pass may be in another order
            for minibatch in self._asked().minibatches():
                codes.append((minibatch.batch, minibatch.labels))
                yield minibatch

        z = latent(self.model, remembered(), give_mean=give_mean)
        batch_indices, labels = (torch.cat(column).cpu().numpy() for column in zip(*codes, strict=True))
        return z, batch_indices, labels.ravel()

    def placed(
        self, give_mean: bool = True
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """As :meth:`get_latent`, in the order of `indices`, with batch codes (n,)."""
        z, batch_indices, labels = self.sequential().get_latent(give_mean)
        return z, batch_indices.ravel(), labels

    def get_stats(self) -> npt.NDArray[np.float32]:
        """One draw of the log library size of each cell, (n,), in the order of `indices`."""
        return library(self.model, self._asked().sequential().minibatches(), give_mean=False).ravel()

    def get_sample_scale(
        self,
        transform_batch: int | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float = 1,
        return_df: bool | None = None,
        n_samples: int = 1,
        return_mean: bool = True,
    ) -> npt.NDArray[np.float32] | pd.DataFrame:
        """Normalised expression: the share of each gene in a cell's counts, as the model explains them.

        Parameters
        ----------
        transform_batch
            Decode every cell as if it came from this batch; None for its own.
        gene_list
            Names of genes; None for all. Columns come in the order of the data set.
        library_size
            Total count to which the shares are scaled.
        return_df
            A DataFrame with gene names as columns; None for one when `gene_list` selects more than one gene.
        n_samples
            Draws from the variational posterior of each cell.
        return_mean
            Average the draws.

        Returns
        -------
        (n, g), or (s, n, g) for s > 1 draws that are not averaged; in the order of the iteration, see the class.
        """
        genes = None if gene_list is None else self._gene_positions(gene_list)
        wanted = self._wanted(n_samples, return_mean, transform_batch, genes)
        all_draws = n_samples > 1 and not return_mean
        if all_draws and return_df:
            raise ValueError("return_df=True needs return_mean=True: a table has no axis for the draws")
        scale = normalized(self.model, self._asked().minibatches(), wanted, library_size)
        as_table = genes is not None and len(genes) > 1 and not all_draws if return_df is None else return_df
        if not as_table:
            return scale
        names = self.gene_dataset.cell_data().gene_names
        return pd.DataFrame(scale, columns=names if genes is None else names[genes])

    def imputation(
        self, n_samples: int = 1, transform_batch: int | Sequence[int] | None = None
    ) -> npt.NDArray[np.float32]:
        """Expected counts of each gene in each cell, given draws of its latent variables.

        Parameters
        ----------
        n_samples
            Draws from the variational posterior of each cell.
        transform_batch
            Decode every cell as if it came from this batch, or the average over several; None for its own.

        Returns
        -------
        (n, g), or (s, n, g) for s > 1 draws; in the order of the iteration, see the class.
        """
        wanted = self._wanted(n_samples, False, transform_batch)
        return normalized(self.model, self._asked().minibatches(), wanted, "latent")

    # Differential expression ---------------------------------------------------------------------------------------

    scale_sampler = differential.scale_sampler
    get_bayes_factors = differential.get_bayes_factors
    differential_expression_score = differential.differential_expression_score
    differential_expression_stats = differential.differential_expression_stats
    one_vs_all_degenes = differential.one_vs_all_degenes
    within_cluster_degenes = differential.within_cluster_degenes
    _scale_values = group_questions.scale_values

    @property
    def _protein_names(self) -> npt.NDArray[Any]:
        """Of the proteins that are compared with one another beside the genes: none."""
        return np.array([], dtype=object)

    # Samples ------------------------------------------------------------------------------------------------------

    generate = posterior_predictive.generate
    generate_denoised_samples = posterior_predictive.generate_denoised_samples
    generate_feature_correlation_matrix = posterior_predictive.generate_feature_correlation_matrix
    generate_parameters = posterior_predictive.generate_parameters

    # Files --------------------------------------------------------------------------------------------------------

    def save_posterior(self, dir_path: str | Path) -> None:
        """Writes data, weights and cells to a new directory, from which `load_posterior` makes this posterior again.

        The directory appears only when complete. Nothing in it is code: h5ad, safetensors and JSON.

        Raises
        ------
        ValueError
            If the directory exists.
        """
        posterior_files.write_posterior(self, Path(dir_path))

    def _gene_positions(self, gene_list: Sequence[str]) -> npt.NDArray[np.int64]:
        names = self.gene_dataset.cell_data().gene_names
        unknown = sorted(set(gene_list).difference(names))
        if unknown:
            raise ValueError(
                f"gene_list has {len(unknown)} unknown genes, such as {', '.join(map(repr, unknown[:5]))}: "
                "pass names from gene_dataset.gene_names"
            )
        return np.flatnonzero(np.isin(names, list(gene_list)))

    def _batch_codes(self, transform_batch: int | Sequence[int] | None) -> list[int] | None:
        if transform_batch is None:
            return None
        try:
            codes = [operator.index(code) for code in np.ravel(transform_batch)]
        except TypeError:
            raise ValueError(f"transform_batch={transform_batch!r} is not the code of a batch, an integer") from None
        of_model = self.model.n_batch if isinstance(self.model, Model) else 0  # it may know batches that are not here
        n_batches = max(of_model, self.gene_dataset.n_batches or 0)
        if not codes or not all(0 <= code < n_batches for code in codes):
            raise ValueError(
                f"transform_batch={transform_batch!r} is not among the codes of the {n_batches} batches, "
                f"0 to {n_batches - 1}"
            )
        return codes

    def _wanted(
        self,
        n_samples: int,
        return_mean: bool,
        transform_batch: int | Sequence[int] | None = None,
        genes: npt.NDArray[np.int64] | None = None,
    ) -> Wanted:
        check_draws("n_samples", n_samples)
        return Wanted(genes, None, self._batch_codes(transform_batch), n_samples, return_mean)

    def _score(self, score: Callable[[Any, Posterior], float]) -> float:
        """What a function says of the model and these cells."""
        with evaluating(self.model):
            return score(self.model, self._asked())

    def _positions(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        return self.gene_dataset.cell_data().positions(np.ravel(indices))

    def _reading(self: Self, corrupted: bool) -> Self:
        posterior = self.update({"collate_fn": self._collate(corrupted)})
        posterior.reads_corrupted = corrupted
        return posterior

    def _collate(self, corrupted: bool = False) -> Callable[[list[int]], list[Tensor]]:
        """What makes the tensors of a minibatch from positions of cells."""
        return Collate(self.gene_dataset, corrupted)

    def _asked(self: Self) -> Self:
        """The cells that a query sees: all of them, without ``drop_last``.

        Refuses what no query can answer: no cells, or a model of other data.
        """
        if self.nb_cells == 0:
            raise ValueError("this posterior has no cells: a split with train_size=1.0 leaves none for the test set")
        self.check_model()
        return self.update({"drop_last": False}) if self.data_loader.drop_last else self

    def _loader(self, sampler: Sampler[int], collate: Callable[[list[int]], list[Tensor]]) -> DataLoader[int]:
        options = dict(self.data_loader_kwargs)
        # torch warns of pinned memory without a GPU
        options["pin_memory"] = bool(options.get("pin_memory")) and torch.cuda.is_available()
        if options.get("num_workers"):  # a trainer that is stopped with Ctrl-C ends its minibatch first
            options.setdefault("worker_init_fn", _ignore_ctrl_c)
        return DataLoader(self.gene_dataset, sampler=sampler, collate_fn=collate, **options)


def _ignore_ctrl_c(worker_id: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Collate:
    """Turns positions of cells into their tensors as the data set is now; a class, so that loaders can be pickled.

    Parameters
    ----------
    gene_dataset
        The data.
    corrupted
        Read the corrupted counts.
    with_proteins
        The counts of proteins are a sixth tensor.
    """

    def __init__(
        self, gene_dataset: GeneExpressionDataset, corrupted: bool = False, with_proteins: bool = False
    ) -> None:
        self.gene_dataset, self.corrupted, self.with_proteins = gene_dataset, corrupted, with_proteins
        gene_dataset.cell_data(corrupted)  # refuses now what it cannot give

    def __call__(self, positions: list[int]) -> list[Tensor]:
        cells = self.gene_dataset.cell_data(self.corrupted)
        mb = cells.minibatch(np.asarray(positions, dtype=np.int64))
        return [*mb.tensors(), mb.proteins] if self.with_proteins else mb.tensors()  # type: ignore[list-item]
