"""What 2020's trainers have in common: posteriors, metrics and hooks around the training loop."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scvi._checks import check_integer, check_number
from scvi.dataset import GeneExpressionDataset
from scvi.fit.loop import Loop, progress
from scvi.inference.early_stopping import EarlyStopping
from scvi.inference.loaders import check_metrics, check_trainable, side_by_side, split_sizes
from scvi.inference.posterior import Posterior, SequentialSubsetSampler
from scvi.queries import evaluating

__all__ = ["EarlyStopping", "SequentialSubsetSampler", "Trainer"]

logger = logging.getLogger(__name__)

MIN_CELLS_TO_MONITOR = 5  # smaller posteriors are left out of the history


def _of_loop(name: str) -> Any:
    """An attribute of a trainer that is kept by its loop."""
    return property(lambda self: getattr(self.loop, name), lambda self, value: setattr(self.loop, name, value))


class Trainer(ABC):
    """Fits a model to the posteriors (subsets of cells) registered with it.

    A subclass says what one step minimises: `loss` and `posteriors_loop`, or any of the hooks that `train` calls:
    `make_optimizer`, `training_extras_init`, `on_training_begin`, `progress`, `on_epoch_begin`, `data_loaders_loop`,
    `on_iteration_begin`, `on_training_loop`, `on_iteration_end`, `on_epoch_end`, `training_extras_end`,
    `on_training_end`.

    A `Posterior` assigned to any attribute is registered under that name, without its outer underscores, and is
    monitored from then on.

    Parameters
    ----------
    model
        The network to fit.
    gene_dataset
        The data; None for a subclass that brings its own minibatches.
    use_cuda
        Train on a GPU if there is one.
    metrics_to_monitor
        Names of metrics computed on each registered posterior.
    benchmark
        Keep no history, whatever `frequency` is; only what early stopping follows is computed while training.
    frequency
        Metrics are computed every so many epochs, and before the first and after the last; None for never.
    weight_decay
        L2 penalty of the optimiser.
    early_stopping_kwargs
        Arguments of `EarlyStopping`.
    data_loader_kwargs
        Arguments of `torch.utils.data.DataLoader`, among them `batch_size`, which wins over the argument below.
    show_progbar
        Show a progress bar on standard output, if that is a terminal or a notebook.
    batch_size
        Cells in a minibatch. A last minibatch shorter than half of it joins the one before.
    seed
        Seed of the split into training, test and validation cells.
    max_nans
        Consecutive non-finite losses after which training is given up. The steps with such losses are not taken.
    device
        Where to train, in place of `use_cuda`.

    Attributes
    ----------
    history
        Lists of metric values by "<metric>_<posterior>", such as "elbo_train_set".
    epoch, n_iter
        Number of the current epoch from 0 in each call of `train`, and of steps taken since construction.
    interrupted
        Whether the last call of `train` was stopped with Ctrl-C.
    """

    default_metrics_to_monitor: ClassVar[Sequence[str]] = ()

    @property
    def loop(self) -> Loop:
        """Made when it is first asked for: a subclass may set what it keeps before it calls this constructor."""
        return self.__dict__.setdefault("_loop", Loop())

    epoch, first_epoch, n_epochs = _of_loop("epoch"), _of_loop("first_epoch"), _of_loop("n_epochs")
    n_iter, interrupted = _of_loop("n_iter"), _of_loop("interrupted")

    loss: Callable[..., Tensor]  # the scalar to minimise, from one minibatch of each posterior of `posteriors_loop`

    def __init__(
        self,
        model: nn.Module,
        gene_dataset: GeneExpressionDataset | None,
        use_cuda: bool = True,
        metrics_to_monitor: Iterable[str] | None = None,
        benchmark: bool = False,
        frequency: int | None = None,
        weight_decay: float = 1e-6,
        early_stopping_kwargs: Mapping[str, Any] | None = None,
        data_loader_kwargs: Mapping[str, Any] | None = None,
        show_progbar: bool = True,
        batch_size: int = 128,
        seed: int = 0,
        max_nans: int = 10,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        if device is None:
            device = "cuda" if use_cuda and torch.cuda.is_available() else "cpu"
        self._posteriors: dict[str, Posterior] = {}
        self.device = torch.device(device)
        self.use_cuda = self.device.type == "cuda"
        self.model: Any = model.to(self.device)
        self.gene_dataset = gene_dataset
        self.batch_size = batch_size
        self.data_loader_kwargs = {"batch_size": batch_size, "pin_memory": use_cuda, **(data_loader_kwargs or {})}
        self.benchmark = benchmark
        self.frequency = None if benchmark else frequency
        self.weight_decay = weight_decay
        self.show_progbar = show_progbar
        self.seed = seed
        self.max_nans = max_nans

        self.early_stopping = EarlyStopping(**(early_stopping_kwargs or {}))
        monitored = list(self.default_metrics_to_monitor if metrics_to_monitor is None else metrics_to_monitor)
        check_metrics(monitored)
        self.metrics_to_monitor = set(monitored)
        if self.early_stopping.early_stopping_metric is not None:
            self.metrics_to_monitor.add(self.early_stopping.early_stopping_metric)

        self.history: defaultdict[str, list[Any]] = defaultdict(list)
        self._fresh_metrics: dict[str, float] = {}  # of this epoch
        self.optimizer: torch.optim.Optimizer | None = None
        self.training_time = 0.0
        self.compute_metrics_time: float | None = None
        self.current_loss: Tensor | None = None
        self.previous_loss_was_nan = False
        self.nan_counter = 0
        self.best_state_dict: dict[str, Tensor] | None = None
        self.best_epoch: int | None = None

    # Training -----------------------------------------------------------------------------------------------------

    def train(
        self,
        n_epochs: int = 400,
        lr: float = 1e-3,
        eps: float = 0.01,
        params: Iterable[nn.Parameter] | None = None,
        **extras_kwargs: Any,
    ) -> None:
        """Fits the model, which is in evaluation mode afterwards.

        A further call goes on from the current weights with a new optimiser and with patience restored: `history`
        and `n_iter` continue, `epoch` counts from 0 again (and with it a warm-up counted in epochs).

        Ctrl-C ends training after the current minibatch and leaves a usable model; a second Ctrl-C raises
        KeyboardInterrupt at once.

        Parameters
        ----------
        n_epochs
            Passes over the first posterior of `posteriors_loop`.
        lr, eps
            Learning rate and epsilon of Adam.
        params
            Parameters to fit; None for all that require a gradient.
        **extras_kwargs
            Passed on to `training_extras_init`.
        """
        check_integer("n_epochs", n_epochs, 0, wanted="a number of epochs, an integer from 0 on")
        check_number("lr", lr, "a positive number", above=0)
        check_number("eps", eps, "a positive number", above=0)
        self._check_posteriors()
        begin = time.perf_counter()
        self.compute_metrics_time = 0.0
        self.early_stopping.wait = self.early_stopping.wait_lr = 0
        trained = [p for p in self.model.parameters() if p.requires_grad] if params is None else list(params)
        with self.loop.training(self.model, n_epochs) as epochs:
            self.optimizer = self.make_optimizer(trained, lr, eps)
            self.training_extras_init(**extras_kwargs)
            self.compute_metrics()
            self._check_followed()
            self.on_training_begin()
            self.loop.run(self, self.progress(epochs))
        if self.early_stopping.save_best_state_metric is not None and self.best_state_dict is not None:
            self.model.load_state_dict(self.best_state_dict)
            self.compute_metrics()
        self.training_extras_end()
        self.training_time += time.perf_counter() - begin - self.compute_metrics_time
        self.on_training_end()

    def make_optimizer(self, params: list[Any], lr: float, eps: float) -> torch.optim.Optimizer:
        """The optimiser of one call of `train`: Adam in one pass over all parameters (fused), where torch has it."""
        fused = all(isinstance(p, Tensor) and p.device.type in ("cpu", "cuda") for p in params)
        return torch.optim.Adam(params, lr=lr, eps=eps, weight_decay=self.weight_decay, fused=fused or None)

    def progress(self, epochs: range) -> Generator[int]:
        """Yields the epochs to run while showing a progress bar. What follows the yield runs after the epoch."""
        return progress(epochs, self.progress_values, self.show_progbar)

    def progress_values(self) -> dict[str, str]:
        """What the progress bar shows beside the epoch."""
        return {}

    def training_extras_init(self, **extras_kwargs: Any) -> None:
        """Prepares what a subclass trains beside the model, from the extra arguments of `train`."""
        if extras_kwargs:
            unknown = ", ".join(map(repr, extras_kwargs))
            raise TypeError(f"{type(self).__name__}.train has no argument {unknown}")

    def training_extras_end(self) -> None:
        """Ends what `training_extras_init` began."""

    def on_training_begin(self) -> None:
        """Runs before the first epoch of a call of `train`."""

    def on_training_end(self) -> None:
        """Runs when `train` is done and the model is in evaluation mode."""

    def on_epoch_begin(self) -> None:
        """Runs before each epoch."""

    def on_epoch_end(self) -> bool:
        """Computes metrics, keeps the best weights, and says whether to go on."""
        self.compute_metrics()
        stopping = self.early_stopping
        if stopping.save_best_state_metric is not None and stopping.update_state(
            self._value(stopping.save_best_state_metric, stopping.on)
        ):
            self.best_state_dict = deepcopy(self.model.state_dict())
            self.best_epoch = self.epoch
        if stopping.early_stopping_metric is None:
            return True
        go_on, reduce_lr = stopping.update(self._value(stopping.early_stopping_metric, stopping.on))
        if reduce_lr and self.optimizer is not None:
            logger.info("Reducing LR on epoch %d.", self.epoch)
            for group in self.optimizer.param_groups:
                group["lr"] *= stopping.lr_factor
        return go_on

    def on_iteration_begin(self) -> None:
        """Runs before each step."""

    def on_iteration_end(self) -> None:
        """Runs after each step: looks at the loss and counts."""
        self.check_training_status()
        self.n_iter += 1

    def on_training_loop(self, tensors_list: Sequence[Any]) -> None:
        """One step: loss of one minibatch of each posterior of `posteriors_loop`, gradient, new weights."""
        loss = self.loss(*tensors_list)
        self.current_loss = loss.detach()
        self.step(self.optimizer, loss)

    @staticmethod
    def step(optimizer: torch.optim.Optimizer | None, loss: Tensor) -> None:
        """One step of an optimiser, unless the loss is not finite: there is none towards NaN weights."""
        if optimizer is not None and torch.isfinite(loss.detach()):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check_training_status(self) -> None:
        """Gives up after `max_nans` non-finite losses in a row."""
        self.previous_loss_was_nan = self.current_loss is not None and not math.isfinite(self.current_loss)
        if not self.previous_loss_was_nan:
            self.nan_counter = 0
            return
        logger.warning("Model training loss was NaN")
        self.nan_counter += 1
        if self.nan_counter >= self.max_nans:
            raise ValueError(
                f"Loss was NaN {self.nan_counter} consecutive times: the model is not training properly. "
                "Consider using a lower learning rate."
            )

    @property
    @abstractmethod
    def posteriors_loop(self) -> Sequence[str]:
        """Names of the posteriors of which each step gets one minibatch; the first one defines an epoch."""

    def data_loaders_loop(self) -> Iterator[Sequence[Any]]:
        """One epoch of minibatches: a pass over the first posterior, beside it the others again and again."""
        return side_by_side([self._posteriors[name] for name in self.posteriors_loop])

    # Metrics ------------------------------------------------------------------------------------------------------

    def compute_metrics(self) -> None:
        """Adds the metrics of each registered posterior of at least 5 cells to `history`, if this epoch is due."""
        self._fresh_metrics = {}
        epoch = self.loop.epoch + 1
        if not self.frequency or (epoch not in (0, self.loop.n_epochs) and epoch % self.frequency):
            return
        for name, posterior in self._posteriors.items():
            if posterior.nb_cells < MIN_CELLS_TO_MONITOR:
                logger.debug("%s has %d cells, too few to be monitored", name, posterior.nb_cells)
                continue
            own = [metric for metric in posterior.to_monitor if metric not in self.metrics_to_monitor]
            for metric in own + sorted(self.metrics_to_monitor):
                self.history[f"{metric}_{name}"].append(self._value(metric, name))

    def _value(self, metric: str, name: str) -> Any:
        """A metric of this epoch, computed once, also where `frequency` leaves the epoch out."""
        key = f"{metric}_{name}"
        if key not in self._fresh_metrics:
            begin = time.perf_counter()
            with evaluating(self.model):
                self._fresh_metrics[key] = getattr(self._posteriors[name], metric)()
            self.compute_metrics_time = (self.compute_metrics_time or 0.0) + time.perf_counter() - begin
        return self._fresh_metrics[key]

    # Posteriors ---------------------------------------------------------------------------------------------------

    def register_posterior(self, name: str, value: Posterior) -> None:
        """Monitors a posterior under this name, without its outer underscores."""
        self.__dict__.pop(name, None)
        self._posteriors[name.strip("_")] = value

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Posterior):
            self.register_posterior(name, value)
        else:
            self.__dict__.get("_posteriors", {}).pop(name.strip("_"), None)
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        # a trainer that is being copied or unpickled has no registry yet
        posteriors = self.__dict__.get("_posteriors", {})
        if name.strip("_") in posteriors:
            return posteriors[name.strip("_")]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        if self._posteriors.pop(name.strip("_"), None) is None:
            super().__delattr__(name)

    def create_posterior(
        self,
        model: nn.Module | None = None,
        gene_dataset: GeneExpressionDataset | None = None,
        shuffle: bool = False,
        indices: npt.ArrayLike | None = None,
        type_class: type[Posterior] = Posterior,
    ) -> Posterior:
        """A posterior of this trainer's model and data set, unless others are given; see `Posterior` for the order."""
        return type_class(
            self.model if model is None else model,
            self._data_set() if gene_dataset is None else gene_dataset,
            shuffle=shuffle,
            indices=indices,
            use_cuda=self.use_cuda,
            data_loader_kwargs=self.data_loader_kwargs,
        )

    def train_test_validation(
        self,
        model: nn.Module | None = None,
        gene_dataset: GeneExpressionDataset | None = None,
        train_size: float | None = 0.1,
        test_size: float | None = None,
        type_class: type[Posterior] = Posterior,
    ) -> tuple[Posterior, Posterior, Posterior]:
        """Splits the cells at random, by `seed`, into posteriors for training, test and validation.

        Parameters
        ----------
        train_size, test_size
            A float is a share of the cells, an integer a number of cells, None the rest. What neither takes is left
            for validation. ``train_size=1.0`` trains on all cells.
        """
        n_cells = len(self._data_set() if gene_dataset is None else gene_dataset)
        n_train, n_test = split_sizes(n_cells, train_size, test_size)
        order = np.random.RandomState(self.seed).permutation(n_cells)
        parts = np.split(order, [n_test, n_test + n_train])
        test, train, validation = (
            self.create_posterior(model, gene_dataset, indices=part, type_class=type_class) for part in parts
        )
        return train, test, validation

    def corrupt_posteriors(
        self, rate: float = 0.1, corruption: str = "uniform", update_corruption: bool = True
    ) -> None:
        """Corrupts the counts and lets every registered posterior read the corrupted ones.

        Parameters
        ----------
        rate, corruption
            As in `GeneExpressionDataset.corrupt`.
        update_corruption
            Whether counts that are corrupted already are drawn anew.
        """
        data_set = self._data_set()
        if update_corruption or data_set.corrupted_X is None:
            data_set.corrupt(rate=rate, corruption=corruption)
        for name, posterior in list(self._posteriors.items()):
            self.register_posterior(name, posterior.corrupted())

    def uncorrupt_posteriors(self) -> None:
        """Lets every registered posterior read the true counts again."""
        for name, posterior in list(self._posteriors.items()):
            self.register_posterior(name, posterior.uncorrupted())

    def _data_set(self) -> GeneExpressionDataset:
        if self.gene_dataset is None:
            raise ValueError(f"this {type(self).__name__} has no gene_dataset; pass one")
        return self.gene_dataset

    def _check_posteriors(self) -> None:
        """Refuses what would fail in the middle of training."""
        for name in self.posteriors_loop:
            check_trainable(name, self._posteriors[name])
        stopping = self.early_stopping
        followed = stopping.early_stopping_metric or stopping.save_best_state_metric
        if followed and not (stopping.on in self._posteriors and self._posteriors[stopping.on].nb_cells):
            filled = [name for name, posterior in self._posteriors.items() if posterior.nb_cells]
            raise ValueError(
                f"early stopping looks at on={stopping.on!r}, which has no cells; posteriors with cells: "
                f"{', '.join(filled) or 'none'}"
            )

    def _check_followed(self) -> None:
        """Refuses to follow a metric that has no value on its posterior."""
        stopping = self.early_stopping
        for metric in (stopping.early_stopping_metric, stopping.save_best_state_metric):
            if metric is not None and self._value(metric, stopping.on) is None:
                raise ValueError(
                    f"early stopping follows {metric!r} on {stopping.on!r}, where it has no value (None): "
                    "name another metric in early_stopping_kwargs, or another posterior by `on`"
                )
