"""Groups of cells that are compared, as users name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from scvi._checks import NotThereError
from scvi.cells.cell_data import CellData
from scvi.cells.checks import as_text, found, named, nearest
from scvi.queries.groups import Comparison, Groups

Chosen: TypeAlias = Sequence[int] | Sequence[bool] | Sequence[str] | np.ndarray | pd.Series | str | None
"""Cells as a mask, positions, names or a query of ``obs``."""

REST = "Rest"


def compared(
    data: CellData,
    obs: pd.DataFrame,
    groupby: str | None,
    group1: str | Sequence[str] | None,
    group2: str | None,
    idx1: Chosen,
    idx2: Chosen,
) -> Groups:
    """The groups that a question names, each once, and what is compared.

    Parameters
    ----------
    obs
        What is known of the cells of `data`, in their order.
    groupby, group1, group2, idx1, idx2
        As of :func:`scvi.estimators.differential.differential_expression`.
    """
    if idx1 is not None:
        if any(given is not None for given in (groupby, group1, group2)):
            raise ValueError("idx1 says which cells are compared: leave groupby, group1 and group2 out")
        return _of_cells(data, obs, idx1, idx2)
    if idx2 is not None:
        raise ValueError("idx2 is compared with idx1: pass idx1")
    if groupby is None:
        raise ValueError(
            "say which cells are compared: groupby='...', a column of adata.obs, and perhaps group1 and group2 of its "
            "categories, or idx1 and perhaps idx2, masks, positions, names or queries of adata.obs"
        )
    return _of_column(found(obs, "groupby", groupby, "a column of adata.obs"), groupby, group1, group2)


def _of_column(column: pd.Series, groupby: str, group1: str | Sequence[str] | None, group2: str | None) -> Groups:
    """Categories of a column against another or the rest; cells without a category are of the rest."""
    categories = pd.Categorical(column)
    categories = categories.remove_unused_categories()
    names = as_text("groupby", groupby, categories.categories)
    second = None if group2 is None else _place("group2", group2, names, groupby)
    if group1 is None:
        firsts = [place for place in range(len(names)) if place != second]
    else:
        given = [group1] if isinstance(group1, str) or not isinstance(group1, Sequence | np.ndarray) else group1
        firsts = list(dict.fromkeys(_place("group1", name, names, groupby) for name in given))
        if not firsts:
            raise ValueError(f"group1={group1!r} names no category of {groupby!r}; None compares each")
    if second in firsts:
        raise ValueError(f"group2={group2!r} is in group1 as well: a group is not compared with itself")
    codes = categories.codes.astype(np.int64)
    if second is None and (codes < 0).any():  # in the rest
        codes = np.where(codes < 0, len(names), codes)
    pools = range(int(codes.max(initial=-1)) + 1)
    if len(pools) < 2:
        raise ValueError(f"groupby={groupby!r} has no two groups of cells to compare, only {named(names)}")
    comparisons = []
    for first in firsts:
        others = tuple(pool for pool in pools if pool != first) if second is None else (second,)
        comparisons.append(Comparison(names[first], REST if second is None else names[second], (first,), others))
    return _of_pools(codes, comparisons)


def _of_pools(codes: np.ndarray, comparisons: Sequence[Comparison]) -> Groups:
    """Groups without the pools that are in no comparison."""
    used = sorted({pool for one in comparisons for pool in one.pools1 + one.pools2})
    number = {pool: i for i, pool in enumerate(used)}
    table = np.full(max(int(codes.max()), used[-1]) + 2, -1)  # the last is that of cells in no pool
    table[used] = np.arange(len(used))
    return Groups(
        table[codes],
        tuple(
            Comparison(
                one.group1, one.group2, *(tuple(number[pool] for pool in side) for side in (one.pools1, one.pools2))
            )
            for one in comparisons
        ),
    )


def _place(argument: str, name: Any, names: Sequence[str], groupby: str) -> int:
    """The number of a category."""
    if str(name) not in names:
        raise NotThereError(f"{argument}={name!r} is not a category of {groupby!r}{nearest(name, names)}")
    return names.index(str(name))


def _of_cells(data: CellData, obs: pd.DataFrame, idx1: Chosen, idx2: Chosen) -> Groups:
    """Chosen cells against others, or the rest."""
    first = _mask(data, obs, "idx1", idx1)
    if idx2 is None and first.all():
        raise ValueError("idx1 chooses all cells, and without idx2 they are compared with the others: pass idx2")
    second = ~first if idx2 is None else _mask(data, obs, "idx2", idx2)
    return Groups.of_masks([("one", first, REST if idx2 is None else "two", second)])


def _mask(data: CellData, obs: pd.DataFrame, argument: str, chosen: Chosen) -> np.ndarray:
    """(n,) which cells are meant."""
    if isinstance(chosen, str):
        return _queried(obs, argument, chosen)
    given = np.asarray(chosen)
    if given.ndim == 1 and given.size and all(isinstance(name, str) for name in given.tolist()):
        places = pd.Index(data.cell_names).get_indexer_for(given.tolist())
        if (places < 0).any():
            names = [str(name) for name in given if name not in set(data.cell_names)]
            raise NotThereError(f"{argument} has names of cells that are not there: {named(names)}")
    else:
        places = data.positions(chosen, argument)
    if len(places) == 0:
        raise ValueError(f"{argument} chooses no cell")
    mask = np.zeros(len(data), dtype=bool)
    mask[places] = True
    return mask


def _queried(obs: pd.DataFrame, argument: str, query: str) -> np.ndarray:
    """(n,) of which cells an expression about columns of ``obs`` is true."""
    try:
        answer = np.asarray(obs.eval(query))
    except Exception as error:  # whatever pandas makes of a string
        raise ValueError(
            f"{argument}={query!r} is no query of adata.obs ({type(error).__name__}: {error}): write one like "
            "\"cell_type == 'B'\", or pass a list of names"
        ) from error
    if answer.dtype == bool and not answer.any():
        raise ValueError(f"{argument}={query!r} is true of no cell")
    if answer.dtype != bool or answer.shape != (len(obs),):
        raise ValueError(f"{argument}={query!r} is not true or false of each cell: write one like \"cell_type == 'B'\"")
    return answer
