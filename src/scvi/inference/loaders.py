"""How cells are split, how minibatches follow one another in training, and what cannot be trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral

import torch
from torch import Tensor

from scvi.cells.epoch_order import count_minibatches
from scvi.inference.posterior import Posterior
from scvi.inference.posterior_files import with_subclasses


def fold_tail(posterior: Posterior) -> Iterator[Sequence[Tensor]]:
    """The minibatches of a posterior, the last joined to the one before if it is one cell or shorter than half.

    So no step of training sees a single cell, from which batch norm cannot learn, and no cell is left out.
    """
    batch_size = posterior.data_loader.batch_size or 0
    held: Sequence[Tensor] | None = None
    for tensors in posterior:
        n = len(tensors[0])
        if held is None:
            held = tensors
        elif n == 1 or 2 * n < batch_size:
            held = [torch.cat(pair) for pair in zip(held, tensors, strict=True)]
        else:
            yield held
            held = tensors
    if held is not None:
        yield held


def n_steps(posterior: Posterior) -> int:
    """How many minibatches `fold_tail` makes."""
    loader = posterior.data_loader
    if loader.drop_last or loader.batch_size is None:
        return len(loader)
    return count_minibatches(posterior.nb_cells, loader.batch_size)


def endless(posterior: Posterior) -> Iterator[Sequence[Tensor]]:
    """Pass after pass over the minibatches of a posterior, in a new order if its order is random."""
    while True:
        yield from fold_tail(posterior)


def side_by_side(posteriors: Sequence[Posterior], leader: int = 0) -> Iterator[tuple[Sequence[Tensor], ...]]:
    """One minibatch of each: a pass over the leader, beside it pass after pass over the others."""
    return zip(*(fold_tail(p) if i == leader else endless(p) for i, p in enumerate(posteriors)), strict=False)


def split_sizes(n_cells: int, train_size: float | None, test_size: float | None) -> tuple[int, int]:
    """Numbers of training and of test cells.

    A float is a share of the cells (rounded down for training, up for test), an integer a number of cells, None what
    the other leaves. ``train_size=1.0`` takes all cells whatever `test_size` is.
    """
    try:
        if train_size is None:
            n_test = _count(n_cells, test_size, math.ceil)
            n_train = n_cells - n_test
        else:
            n_train = _count(n_cells, train_size, math.floor)
            n_test = n_cells - n_train if test_size is None else _count(n_cells, test_size, math.ceil)
        if n_train < 1:
            raise ValueError(f"no cell of {n_cells} is left for training")
        if n_train + n_test > n_cells:
            raise ValueError(f"{n_train} + {n_test} cells were asked for, the data set has {n_cells}")
    except ValueError as error:
        if train_size == 1.0:
            return n_cells, 0
        raise ValueError(
            f"Choice of train_size={train_size!r} and test_size={test_size!r} not understood: {error}. Each is a share "
            "between 0 and 1 (a float), a number of cells (an int) or None; train_size=1.0 takes all cells"
        ) from None
    return n_train, n_test


def _count(n_cells: int, size: float | None, rounded: Callable[[float], int]) -> int:
    if size is None:
        raise ValueError("both are None")
    if isinstance(size, Integral) and 0 < size < n_cells:
        return int(size)
    if not isinstance(size, Integral) and 0 < size < 1:
        return rounded(size * n_cells)
    raise ValueError(f"{size!r} is out of range for {n_cells} cells")


def check_metrics(names: Iterable[str]) -> None:
    """Refuses names of metrics that no class of posteriors has."""
    kinds = list(with_subclasses(Posterior))
    unknown = [name for name in names if not any(callable(getattr(kind, name, None)) for kind in kinds)]
    if unknown:
        known = {name for kind in kinds for name in dir(kind) if hasattr(getattr(kind, name), "mode")}
        raise ValueError(
            f"metrics_to_monitor: {', '.join(map(repr, unknown))} is not among {', '.join(map(repr, sorted(known)))}"
        )


def check_trainable(name: str, posterior: Posterior) -> None:
    """Refuses a posterior that cannot be trained on: batch norm cannot learn from a single cell."""
    posterior.check_model()
    loader = posterior.data_loader
    if posterior.nb_cells < 2:
        raise ValueError(
            f"{name} has {posterior.nb_cells} cell{'s' * (posterior.nb_cells != 1)}, training needs at least 2: "
            "train on more cells (train_size=1.0 takes all of them, train_size=1 takes one)"
        )
    if loader.batch_size == 1:
        raise ValueError(f"batch_size=1 for {name}, training needs minibatches of at least 2 cells")
    if len(loader) == 0:
        raise ValueError(
            f"drop_last drops all {posterior.nb_cells} cells of {name}, fewer than batch_size={loader.batch_size}"
        )
