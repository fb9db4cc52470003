"""A MuData made of the parts of another, and its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem

from scvi._writing import as_written, check_writable, padded, writable

_ALIGNED = ("obsm", "varm", "obsp", "varp")


def mudata_package() -> Any:
    """The package mudata; ImportError with the remedy where it is not installed."""
    try:
        return import_module("mudata")
    except ImportError as error:
        raise ImportError('a MuData needs the package mudata: pip install "scvi[mudata]"') from error


@contextmanager
def _as_it_will_be() -> Iterator[Any]:
    """The package as it will be, which copies no columns of modalities, and does not warn of that."""
    package = mudata_package()
    with package.set_options(pull_on_update=False):
        yield package


def made_of(mdata: Any, modalities: Mapping[str, AnnData]) -> Any:
    """A MuData of these modalities, in whose place others may stand, with what `mdata` has beside its own.

    Its cells have the order of `mdata`; what it says of cells and features is copied.
    """
    with _as_it_will_be() as package:
        made = package.MuData(dict(modalities), **_cells_of(mdata), axis=mdata.axis)
    _take_tables(made, mdata.obs, mdata.var)
    _add_aligned(made, mdata, _ALIGNED)
    return made


def with_features(mdata: Any, modalities: Mapping[str, AnnData], made: Any = None) -> Any:
    """As :func:`made_of` where modalities have other features; `varm` and `varp` of `mdata` are left out.

    Parameters
    ----------
    made
        A MuData to change into this one; None: a new one.
    """
    parts = ("obs", "var", "mod", "obsm", "obsp", "varmap", "uns")
    given = SimpleNamespace(**{name: getattr(mdata, name) for name in parts})
    ordered = {name: modalities.get(name, modality) for name, modality in mdata.mod.items()}
    var = pd.concat([_var_of(given, name, modality.var_names) for name, modality in ordered.items()])
    with _as_it_will_be() as package:
        made = package.MuData.__new__(package.MuData) if made is None else made
        package.MuData.__init__(made, ordered, **_cells_of(given), axis=0)
    _take_tables(made, given.obs, var)
    _add_aligned(made, given, ("obsm", "obsp"))
    return made


def _cells_of(mdata: Any) -> dict[str, Any]:
    """What tells a new MuData the order of the cells, which names that repeat cannot tell."""
    return {"obs": mdata.obs.copy()} if mdata.obs.index.is_unique else {}


def _take_tables(made: Any, obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Gives a MuData these tables where they are of its cells and features."""
    for name, table in (("obs", obs), ("var", var)):
        if getattr(made, name).index.equals(table.index):
            setattr(made, name, table.copy())


def _var_of(mdata: Any, name: str, features: pd.Index) -> pd.DataFrame:
    """What `mdata` says of features of one modality, with gaps for those that it did not have."""
    return padded(mdata.var[np.ravel(mdata.varmap[name]) > 0], features)


def _add_aligned(made: Any, mdata: Any, parts: tuple[str, ...]) -> None:
    """Gives one MuData what another one has, but for the masks of modalities, which each makes itself."""
    for part in parts:
        for name, values in getattr(mdata, part).items():
            if name not in mdata.mod:
                getattr(made, part)[name] = values.copy()
    made.uns.update(mdata.uns)


def writable_mudata(mdata: Any, name: str) -> Any:
    """A MuData for :func:`write_h5mu` that shares its arrays with `mdata`, which stays as it is.

    Parameters
    ----------
    name
        What the user calls it, for messages.

    Raises
    ------
    ValueError
        If something cannot be written: names it, with the remedy.
    """
    nested = [key for key, modality in mdata.mod.items() if not isinstance(modality, AnnData)]
    if nested:
        raise ValueError(
            f"{name}.mod[{nested[0]!r}] is a {type(mdata.mod[nested[0]]).__name__}; modalities that are AnnData can be "
            "written: delete it first"
        )
    parts = {part: as_written(getattr(mdata, part)) for part in ("obs", "var")}
    whole = parts | {part: dict(getattr(mdata, part)) for part in (*_ALIGNED, "uns")}
    check_writable({f"{name}.{part}": value for part, value in whole.items()})
    shared = {key: AnnData(**writable(modality, f"{name}.mod[{key!r}]")) for key, modality in mdata.mod.items()}
    made = made_of(mdata, shared)
    made.obs, made.var = parts["obs"], parts["var"]
    return made


def write_h5mu(path: Path, mdata: Any) -> None:
    """Writes what :func:`writable_mudata` gave."""
    with _as_it_will_be():
        mdata.write_h5mu(path)


def read_h5mu(path: Path) -> Any:
    """A MuData from its file. (What the package reads itself may have no integers in `obsm`, such as pixels.)"""
    with h5py.File(path) as file:
        modalities = {name: read_elem(group) for name, group in file["mod"].items()}
        order = [str(name) for name in file["mod"].attrs.get("mod-order", ())]
        parts = {part: read_elem(file[part]) if part in file else {} for part in (*_ALIGNED, "uns")}
        tables = {part: read_elem(file[part]) for part in ("obs", "var")}
        axis = int(file.attrs.get("axis", 0))
    if set(order) == set(modalities):
        modalities = {name: modalities[name] for name in order}
    return made_of(SimpleNamespace(**tables, **parts, mod=modalities, axis=axis), modalities)
