"""What all AnnData-first estimators share: set up, make, train, save and load. Questions are listed by each class."""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import nn

from scvi._checks import check_integer
from scvi._random import generator_of, resolve_seed, seeded
from scvi._settings import settings
from scvi.cells.cell_data import CellData
from scvi.cells.schema import Schema
from scvi.cells.setup import declare
from scvi.cells.uns import register, registered
from scvi.estimators import about, saving
from scvi.estimators.cells import Cells, Indices, all_labels, one_or_all
from scvi.estimators.fitted_cells import FittedCells
from scvi.estimators.folder import ADATA
from scvi.estimators.network_options import network_options, plain, warn_of_sizes
from scvi.estimators.train import fit_as_told, split, train
from scvi.fit.checkpoint import digest
from scvi.fit.devices import checked_device
from scvi.fit.plan import Plan
from scvi.fit.ranks import Ranks
from scvi.fit.starting_values import initialise
from scvi.minibatch import Minibatch
from scvi.models.freezing import Scope


class Estimator(ABC):
    """A model of the cells of an AnnData: set up, made, fitted, saved and loaded. A class lists its questions.

    Every method that reads cells takes `adata` (None: the one the model was made with; another must have the model's
    genes, in any order, and no category that the model does not know), `indices` (positions, whose order is kept, or a
    mask; that of a Series goes by its index) and `batch_size` (cells at a time, None: ``scvi.settings.batch_size``).

    Attributes
    ----------
    module
        The network, a torch module.
    history
        One-column tables of losses by epoch, in nats per cell; `elbo_*` and `train_loss_epoch` fall.
    is_trained
        Whether the model was fitted, by one step at least.
    was_interrupted
        Whether the last fit was ended early with Ctrl-C.
    """

    _network: ClassVar[type[Any]]  # makes the network
    _plan: ClassVar[type[Plan]] = Plan  # its options beside those of Plan are arguments of `train`
    _adapts: ClassVar[tuple[str, ...]] = ()  # options of the plan that the cells decide where `train` is not told
    _files_of_cells: ClassVar[tuple[str, ...]] = (ADATA,)  # one for each data set that a model is made with
    _always_reads_labels: ClassVar[bool] = False

    _seed: int | None

    # ---- making a model ----------------------------------------------------------------------------------------------

    @classmethod
    def _set_up(cls, adata: AnnData, **keys: Any) -> None:
        """Writes down what the class reads of `adata`, see :func:`scvi.cells.setup.declare`."""
        register(adata, cls.__name__, declare(adata, **keys))

    def _make(self, adatas: Sequence[AnnData], seed: int | None, arguments: Mapping[str, Any]) -> None:
        """What a constructor does with its arguments, among which the options are found by name."""
        options = {name: arguments[name] for name in self._option_names()}
        setups = [registered(adata, type(self).__name__) for adata in adatas]
        schemas, digests = tuple(setup.schema for setup in setups), [setup.digests for setup in setups]
        warn_of_sizes(schemas, options)
        seed = resolve_seed(seed)
        with seeded(seed):
            networks = self._make_networks(schemas, options)
        self._assemble(options, networks, self._make_cells(schemas, options, adatas, digests))
        self._seed = seed

    @classmethod
    def _option_names(cls) -> list[str]:
        """Arguments of the constructor that are neither cells nor the seed."""
        return list(cls._defaults())

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Default values of these arguments.

        The constructor is that of the class which names the network: a user's subclass may have another, which calls
        this one.
        """
        owner = next(kind for kind in cls.__mro__ if "_network" in vars(kind))
        arguments = inspect.signature(owner).parameters
        return {
            name: argument.default
            for name, argument in arguments.items()
            if name != "seed" and not name.startswith("adata")
        }

    @classmethod
    def _make_networks(cls, schemas: Sequence[Schema], options: Mapping[str, Any]) -> Any:
        """All that is fitted and saved, for data sets that are read by these schemas."""
        (schema,) = schemas
        return cls._network(schema.n_genes, **network_options(schema, options))

    @classmethod
    def _make_cells(
        cls,
        schemas: Sequence[Schema],
        options: Mapping[str, Any],
        adatas: Sequence[AnnData | None],
        digests: Sequence[np.ndarray | None] | None = None,
    ) -> tuple[Cells, ...]:
        """The data sets as the model reads them; all counts are looked at of those without `digests` of them."""
        first_batches = np.cumsum([0, *(schema.n_batch for schema in schemas)]).tolist()
        return tuple(
            Cells(
                schema,
                adata,
                labels=all_labels(schemas) if cls._reads_labels(options) else None,
                owner=cls.__name__,
                digests=known,
                first_batch=first,
            )
            for schema, adata, known, first in zip(
                schemas, adatas, digests or [None] * len(adatas), first_batches[:-1], strict=True
            )
        )

    @classmethod
    def _reads_labels(cls, options: Mapping[str, Any]) -> bool:
        """Whether a model with these options has a use for labels."""
        return cls._always_reads_labels or any(str(value).endswith("-label") for value in options.values())

    @classmethod
    def _assembled(cls, options: Mapping[str, Any], networks: nn.Module, data_sets: Sequence[Cells]) -> Self:
        """A model of these parts."""
        model = cls.__new__(cls)
        model._assemble(options, networks, data_sets)
        return model

    def _assemble(self, options: Mapping[str, Any], networks: nn.Module, data_sets: Sequence[Cells]) -> None:
        self.options = {name: plain(value) for name, value in options.items()}
        self._take_networks(networks.eval())
        self._take_cells(data_sets)
        self.history: dict[str, pd.DataFrame] = {}
        self.is_trained = self.was_interrupted = False
        self._is_initialised = False  # whether the weights are a start already, of another model
        self._train_cells: list[FittedCells] | None = None  # of the last fit, in each data set
        self._validation_cells: list[FittedCells] | None = None
        self._scope: Scope | None = None  # the part of a mapped model that trains
        self._seed = None  # of the initial weights, unless they are of another model
        self._fits: list[dict[str, Any]] = []  # what `train` was told, call by call
        self._first: dict[str, Any] | None = None  # seed, fits and labels of the model that the weights are from
        for cells in data_sets:
            self._check_kept(cells.data)

    def _take_networks(self, networks: Any) -> None:
        """Keeps the networks under the names that users know."""
        self._networks = self.module = networks

    def _take_cells(self, data_sets: Sequence[Cells]) -> None:
        """Keeps the cells, and what is known of them, under the names that users know."""
        self._data_sets = data_sets
        self.schema = self._cells.schema

    @property
    def _cells(self) -> Cells:
        """Those of a model of one data set."""
        return self._data_sets[0]

    @property
    def adata(self) -> AnnData | None:
        """The AnnData the model was made with, or None; other cells may be assigned, which are checked then."""
        return self._cells.now()

    @adata.setter
    def adata(self, adata: AnnData) -> None:
        self._give(0, adata)

    def _give(self, number: int, adata: AnnData) -> None:
        """Puts other cells in the place of those of one data set, if they fit the model."""
        if adata is None:
            raise TypeError(
                "None came in the place of cells: pass an AnnData; for a model without cells save this one, and say "
                f"{type(self).__name__}.load(dir_path, adata=False)"
            )
        given: list[Any] = [cells.given for cells in self._data_sets]
        known = [cells.digests for cells in self._data_sets]
        given[number], known[number] = adata, None
        schemas = tuple(cells.schema for cells in self._data_sets)
        data_sets = self._make_cells(schemas, self.options, given, known)
        self._check_kept(data_sets[number].data)
        self._take_cells(data_sets)

    @property
    def train_indices(self) -> Any:
        """Positions in `adata` of the cells that were fitted; None before a fit, empty where `adata` has none of them.

        Cells are found by name. One whose name others share is found only among the same cells in the same order.
        """
        return self._positions_of(self._train_cells)

    @property
    def validation_indices(self) -> Any:
        """Positions in `adata` of the cells that were looked at only, as of `train_indices`."""
        return self._positions_of(self._validation_cells)

    def _positions_of(self, parts: Sequence[FittedCells] | None) -> Any:
        if parts is None:
            return None
        pairs = zip(parts, self._data_sets, strict=True)
        return one_or_all(
            [part.within(None if cells.given is None else cells.given.obs.index) for part, cells in pairs]
        )

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        state = "trained" if self.is_trained else "not trained"
        return f"{type(self).__name__}({self._sizes()}, {options}; {state})"

    def _sizes(self) -> str:
        return f"{self.schema.n_genes} genes, {self.schema.n_batch} batches"

    view_anndata_setup = about.view_anndata_setup
    summary_string = property(about.summary_string)
    get_var_names = about.get_var_names
    test_indices = property(about.test_indices)
    history_ = property(about.history_)
    is_trained_ = property(about.is_trained_)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self._networks.parameters()).device

    def to_device(self, device: str | int | torch.device) -> None:
        """Moves the network to a device of this machine, such as 'cpu' or 'cuda:0'; a number means that GPU."""
        self._networks.to(checked_device(device))

    # ---- fitting -----------------------------------------------------------------------------------------------------

    train = train
    _fit = fit_as_told
    _split = split

    @classmethod
    def _of_each(cls, argument: str, value: Any) -> dict[str, Any]:
        """What an argument says of each data set, by what a user calls it."""
        return {argument: value}

    def _strata(self, data: CellData) -> np.ndarray | None:
        """(n,) codes of groups of which training and validation cells get like shares; None: it is left to chance."""
        return None

    def _start(self, data_sets: Sequence[CellData], train_cells: Sequence[np.ndarray], ranks: Ranks) -> None:
        """Starts the network where the training cells say."""
        initialise(self.module, data_sets[0], train_cells[0], ranks=ranks)

    # ---- files -------------------------------------------------------------------------------------------------------

    save = saving.save
    load = saving.load
    view_setup_args = classmethod(saving.view_setup_args)

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
        self._check_kept(data)
        return data, positions

    def _check_kept(self, data: CellData | None) -> None:
        """Refuses what another model kept of its cells, or this one before it was trained on."""
        if data is not None and data.kept is not None and data.kept.model != self._digest():
            raise ValueError(
                "adata was minified by another model, or by this one before its last training, and what was kept is "
                "not true of this one: pass the AnnData with counts, or load the model that minified it"
            )

    def _digest(self) -> str:
        """Tells the weights of this model from others."""
        return digest(*(torch.as_tensor(t).cpu().numpy() for t in self.module.state_dict().values()))

    def _minibatches(self, data: CellData, positions: np.ndarray, batch_size: int | None) -> Iterator[Minibatch]:
        """Cells in the order of `positions`, on the device of the model; `batch_size` None is that of the session."""
        size = settings.batch_size if batch_size is None else check_integer("batch_size", batch_size, 1)
        on_cpu, device = data.minibatches(positions, size), self.device
        return on_cpu if device.type == "cpu" else (mb.to(device) for mb in on_cpu)

    def _ask(
        self, adata: AnnData | None, indices: Indices, batch_size: int | None, needs_counts: bool = True
    ) -> Iterator[Minibatch]:
        """The cells of a question as minibatches."""
        return self._minibatches(*self._choose(adata, indices, needs_counts), batch_size)

    def _generator(self, seed: int | None) -> torch.Generator:
        return generator_of(seed, self.device)
