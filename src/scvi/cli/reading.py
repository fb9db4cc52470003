"""Reads the files that are named on the command line: whatever `scvi.data` reads, told apart by name and contents."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from anndata import AnnData

Kind = Literal["h5ad", "h5mu", "zarr", "loom", "10x", "text"]
CALLED = {
    "h5ad": "an .h5ad file",
    "h5mu": "an .h5mu file",
    "zarr": "a zarr store",
    "loom": "a loom file",
    "10x": "a matrix of 10x",
    "text": "a table of text",
}
_BY_SUFFIX: dict[str, Kind] = {".h5ad": "h5ad", ".h5mu": "h5mu", ".zarr": "zarr", ".loom": "loom"}


def kind_of(file: Path) -> Kind:
    """What is in a file or folder."""
    import h5py

    from scvi.data.archives import is_archive
    from scvi.data.files import existing

    existing(file)
    if file.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[file.suffix]
    if file.is_dir():
        return "zarr" if any((file / name).exists() for name in ("zarr.json", ".zgroup")) else "10x"
    if is_archive(file):
        return "10x"
    if not h5py.is_hdf5(file):
        return "text"
    with h5py.File(file) as opened:
        if "mod" in opened:
            return "h5mu"
        if "obs" in opened and "var" in opened:
            return "h5ad"
        return "loom" if isinstance(opened.get("matrix"), h5py.Dataset) else "10x"


def read_cells(file: Path, on_disk: bool = False, genes_in_rows: bool = False) -> Any:
    """The cells of a file, an AnnData or a MuData.

    Parameters
    ----------
    on_disk
        Leave the counts where they are.
    genes_in_rows
        How a table of text lies.

    Raises
    ------
    ValueError
        If the file cannot be read; if its counts cannot be left in it.
    """
    from scvi import data

    kind = kind_of(file)
    if on_disk:
        return _opened(file, kind)
    readers: dict[Kind, Callable[[Path], Any]] = {
        "h5ad": _read_h5ad,
        "h5mu": _read_h5mu,
        "zarr": _read_zarr,
        "loom": data.read_loom,
        "10x": data.read_10x,
        "text": lambda path: _read_text(path, genes_in_rows),
    }
    return readers[kind](file)


def _read_h5ad(file: Path) -> AnnData:
    import anndata

    from scvi._links import check_links

    try:
        check_links(file)
        return anndata.read_h5ad(file)
    except Exception as error:  # a broken file fails in as many ways as HDF5 and anndata have
        raise ValueError(f"{str(file)!r} is no readable .h5ad file: {error}") from error


def _read_h5mu(file: Path) -> Any:
    from scvi._links import check_links
    from scvi.cells.mudata_parts import read_h5mu

    try:
        check_links(file)
        return read_h5mu(file)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{str(file)!r} is no readable .h5mu file: {error}") from error


def _read_zarr(file: Path) -> AnnData:
    import anndata

    try:
        return anndata.read_zarr(file)
    except Exception as error:
        raise ValueError(f"{str(file)!r} is no readable zarr store: {error}") from error


def _read_text(file: Path, genes_in_rows: bool) -> AnnData:
    from scvi import data

    name = file.name.lower()
    if ".csv" in name:
        return data.read_csv(file, genes_in_rows=genes_in_rows)
    if ".tsv" in name or ".tab" in name:
        return data.read_csv(file, sep="\t", genes_in_rows=genes_in_rows)
    if ".txt" in name:
        return data.read_text(file, genes_in_rows=genes_in_rows)
    raise ValueError(
        f"{str(file)!r} is none of what is read here: .h5ad, .h5mu, .zarr, .loom, an .h5, a folder or an archive of "
        "10x, a .csv, .tsv or .txt"
    )


# ---- without the counts ----------------------------------------------------------------------------------------------


def _opened(file: Path, kind: Kind) -> AnnData:
    """An AnnData whose counts stay on disk, open for as long as the program runs."""
    import h5py
    from anndata import AnnData
    from anndata.io import read_elem

    from scvi._links import check_links

    if kind not in ("h5ad", "zarr"):
        raise ValueError(f"--on-disk is for .h5ad files and .zarr stores; `scvi convert {file}` makes one of this")
    try:
        check_links(file)
        store = _zarr_of(file) if kind == "zarr" else h5py.File(file)
        parts = {part: read_elem(store[part]) for part in ("obs", "var", "obsm", "uns") if part in store}
        layers = {name: _left_there(store["layers"][name]) for name in store["layers"]} if "layers" in store else {}
        return AnnData(_left_there(store["X"]) if "X" in store else None, **parts, layers=layers)
    except Exception as error:
        raise ValueError(f"{str(file)!r} cannot be opened: {error}") from error


def _left_there(stored: Any) -> Any:
    """A matrix of an open store, dense or sparse."""
    from anndata.io import sparse_dataset

    return stored if hasattr(stored, "shape") else sparse_dataset(stored)


def _zarr_of(file: Path) -> Any:
    import zarr

    return zarr.open_group(file, mode="r")


@dataclass(frozen=True)
class Glance:
    """What a file says of its cells without its counts.

    Attributes
    ----------
    cells
        Names and columns, without counts; None where only reading the file tells.
    layers, obsm
        What else there is, by name.
    """

    file: Path
    kind: Kind
    cells: AnnData | None
    layers: tuple[str, ...] = ()
    obsm: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """For :func:`scvi.cli.answers.plan`."""
        what = f"{self.file}: {CALLED[self.kind]}, {_size(self.file) / 2**20:.1f} MiB"
        if self.cells is None:
            return {"file": self.file, "kind": self.kind, "says": f"{what}; its cells are counted when it is read"}
        n, g = self.cells.shape
        columns = [str(name) for name in self.cells.obs.columns]
        says = f"{what}, {n} cells x {g} genes; columns: {', '.join(columns) or 'none'}"
        return {
            "file": self.file, "kind": self.kind, "cells": n, "genes": g, "columns": columns,
            "layers": self.layers, "obsm": self.obsm, "says": says,
        }  # fmt: skip


def glance(file: Path) -> Glance:
    """Reads names and columns of a file, and no counts."""
    import h5py
    from anndata import AnnData

    from scvi.data.files import readable_as
    from scvi.data.sources import open_source

    kind = kind_of(file)
    if kind == "text":
        return Glance(file, kind, None)
    with readable_as(file, CALLED[kind]), ExitStack() as stack:
        if kind in ("loom", "10x"):
            source = open_source(file, None, "protein_expression", stack)
            obsm = ("protein_expression",) if len(source.proteins) else ()
            return Glance(file, kind, AnnData(obs=source.obs, var=source.var), (), obsm)
        store = _zarr_of(file) if kind == "zarr" else stack.enter_context(h5py.File(file))
        return _glance_at(file, kind, store)


def _glance_at(file: Path, kind: Kind, store: Any) -> Glance:
    """What the groups of an AnnData or a MuData say."""
    from anndata import AnnData
    from anndata.io import read_elem

    if kind == "h5mu":
        first = store["mod/rna" if "rna" in store["mod"] else f"mod/{next(iter(store['mod']))}"]
        var, modalities = read_elem(first["var"]), tuple(store["mod"])
        return Glance(
            file, kind, AnnData(obs=read_elem(first["obs"]), var=var), tuple(first.get("layers", ())), modalities
        )
    cells = AnnData(obs=read_elem(store["obs"]), var=read_elem(store["var"]))
    return Glance(file, kind, cells, *(tuple(store[name]) if name in store else () for name in ("layers", "obsm")))


def _size(file: Path) -> int:
    files = [inner for inner in file.rglob("*") if inner.is_file()] if file.is_dir() else [file]
    return sum(inner.stat().st_size for inner in files)
