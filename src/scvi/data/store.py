"""One store on disk from many files of cells, for training larger than memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from tqdm import tqdm

from scvi._checks import check_flag, check_integer
from scvi._files import replacing
from scvi._writing import as_written, check_writable, write_without_counts
from scvi.cells.checks import named
from scvi.cells.storage import buffer_cells
from scvi.data.files import shared_names
from scvi.data.joining import joined_obs
from scvi.data.sources import Source, open_source

logger = logging.getLogger(__name__)

_CHUNK = 100_000
"""Counts in a chunk of the store: what is read for a few cells is not much more than they need."""
_VERSION = 2

PathLike = str | os.PathLike[str]


def to_store(
    inputs: PathLike | Sequence[PathLike] | Mapping[str, PathLike],
    path: PathLike,
    *,
    batch_key: str | None = "sample",
    layer: str | None = None,
    protein_key: str | None = "protein_expression",
    cells_at_once: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    allow_links: bool = False,
) -> Path:
    """Writes the cells of one or many files into one store, from which models are trained without reading it whole.

    What is in memory is a part of the cells, and their names. Parts are kept in a folder beside the store until it is
    whole: a call that was interrupted is repeated with the same arguments, and goes on where it was.

    Parameters
    ----------
    inputs
        Files: .h5ad, loom, .h5 of Cell Ranger, or folders and archives of its matrices (each of which is read whole). A
        mapping gives them names; otherwise they are named after the files.
    path
        An .h5ad or .zarr to write. Open it with ``anndata.read_h5ad(path, backed="r")``.
    batch_key
        Column of `obs` for the name of the input that a cell is from; None for no column.
    layer
        Read these counts of .h5ad files in place of `X`.
    protein_key
        Key of `obsm` for counts of proteins: antibodies of 10x, and what .h5ad files have under this key, a table or an
        array with names in ``uns["protein_names"]``. They are in memory when the store is put together. None leaves
        them out.
    cells_at_once
        Most cells of a part. By default 16,384, fewer where these take more than 128 MiB.
    overwrite
        Replace a store that is there.
    progress
        Show a bar, on a terminal.
    allow_links
        Follow the links of HDF5 files to others, which are refused otherwise: the maker of a file could name any that
        you may read.

    Returns
    -------
    `path`. Genes are those that all inputs have, in the order of the first, with its columns of `var`; columns of `obs`
    and proteins are those that all have. Columns of `obs` whose types differ become text. Names of cells that occur
    twice get the name of their input behind them.

    Raises
    ------
    FileExistsError
        If the store is there.
    ValueError
        If inputs are damaged, have no gene in common, or names repeat; or, before anything is, if a column cannot be
        written.
    """
    path = Path(path)
    if path.suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"path={str(path)!r} does not end with .h5ad or .zarr")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already; pass overwrite=True to replace it")
    if cells_at_once is not None:
        check_integer("cells_at_once", cells_at_once, 1)
    check_flag("allow_links", allow_links)
    files = _named(inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = path.with_name(f".{path.name}.parts")
    with ExitStack() as stack:
        sources = {name: open_source(file, layer, protein_key, stack, allow_links) for name, file in files.items()}
        genes, proteins = _shared_genes(sources), _shared_proteins(sources)
        frame = _frame(sources, genes, batch_key, path.suffix)
        blocks = list(_blocks(sources, cells_at_once))
        _prepare(parts, _plan(files, genes, proteins, blocks, [layer, protein_key]))
        _write_parts(parts, sources, (genes, proteins), blocks, progress)
    if len(proteins):
        frame.obsm[protein_key] = np.concatenate([_loaded(file, "proteins")[0] for file in _files(parts).values()])
        frame.uns["protein_names"] = proteins.to_numpy().astype(str)
    _assemble(parts, path, frame, progress)
    shutil.rmtree(parts)
    return path


_Block = tuple[str, int, int]
"""Some neighbouring cells: name of the input, first, end."""


def _named(inputs: PathLike | Sequence[PathLike] | Mapping[str, PathLike]) -> dict[str, Path]:
    if isinstance(inputs, Mapping):
        named = {str(name): Path(file) for name, file in inputs.items()}
    else:
        files = [Path(inputs)] if isinstance(inputs, (str, os.PathLike)) else [Path(file) for file in inputs]
        named = {file.name.partition(".")[0] or file.name: file for file in files}
        if len(named) < len(files):
            raise ValueError(
                f"inputs have repeated names, {[file.name for file in files]}; pass a mapping from names to files"
            )
    if not named:
        raise ValueError("inputs is empty; pass one file or more")
    return named


def _shared_genes(sources: Mapping[str, Source]) -> pd.Index:
    each = [source.var.index for source in sources.values()]
    shared = shared_names(each)
    if not len(shared):
        raise ValueError(f"inputs {list(sources)} have no gene in common; are the names of one kind, and in one case?")
    if any(len(names) > len(shared) for names in each):
        logger.info("Keeping %d genes that all inputs have", len(shared))
    return shared


def _shared_proteins(sources: Mapping[str, Source]) -> pd.Index:
    each = [source.proteins for source in sources.values()]
    shared = shared_names(each)
    lost = sorted({str(name) for names in each for name in names} - set(shared))
    if lost:
        logger.warning("%d proteins that not all inputs have are left out: %s", len(lost), named(lost))
    return shared


def _frame(sources: Mapping[str, Source], genes: pd.Index, batch_key: str | None, suffix: str) -> AnnData:
    """Names and annotations, of which it is made sure that a store of this kind holds them."""
    obs = joined_obs({name: source.obs for name, source in sources.items()}, batch_key)
    tables = {"obs": as_written(obs), "var": as_written(next(iter(sources.values())).var.loc[genes])}
    if suffix == ".h5ad":
        check_writable(tables)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in _assemble
            check_writable(tables, _new_zarr)
    return AnnData(**tables)


def _blocks(sources: Mapping[str, Source], cells_at_once: int | None) -> Iterator[_Block]:
    for name, source in sources.items():
        n, step = len(source.obs), cells_at_once or buffer_cells(source.row_bytes)
        yield from ((name, start, min(start + step, n)) for start in range(0, n, step))


def _plan(
    inputs: Mapping[str, Path], genes: pd.Index, proteins: pd.Index, blocks: list[_Block], keys: list[str | None]
) -> str:
    """What parts are made of; those of another plan are of no use."""
    return json.dumps(
        {
            "version": _VERSION,
            "inputs": {name: _stamp(file) for name, file in inputs.items()},
            "genes": hashlib.blake2b("\n".join(map(str, genes)).encode(), digest_size=16).hexdigest(),
            "proteins": proteins.tolist(),
            "keys": keys,
            "blocks": blocks,
        },
        sort_keys=True,
    )


def _stamp(file: Path) -> list[Any]:
    """Where a file is and when it changed; of a folder, its files."""
    files = sorted(inner for inner in file.rglob("*") if inner.is_file()) if file.is_dir() else [file]
    return [[str(inner.absolute()), inner.stat().st_size, inner.stat().st_mtime_ns] for inner in files]


def _prepare(parts: Path, plan: str) -> None:
    """The folder of the parts, with those that an earlier call with the same plan has left."""
    record = parts / "plan.json"
    if record.exists() and record.read_text(encoding="utf-8") == plan:
        logger.info("going on with the %d parts in %s", len(_files(parts)), parts)
        return
    if parts.exists():
        logger.info("%s is of other inputs and is made anew", parts)
        shutil.rmtree(parts)
    parts.mkdir()
    with replacing(record) as temporary:
        temporary.write_text(plan, encoding="utf-8")


def _files(parts: Path) -> dict[int, Path]:
    """The parts that are whole, by their numbers, in order."""
    return {int(file.name[:8]): file for file in sorted(parts.glob("[0-9]*-*.npz"))}


def _write_parts(
    parts: Path, sources: Mapping[str, Source], shared: tuple[pd.Index, pd.Index], blocks: list[_Block], progress: bool
) -> None:
    columns = {name: _positions(source, *shared) for name, source in sources.items()}
    there = _files(parts)
    total = sum(stop - start for _, start, stop in blocks)
    with tqdm(total=total, desc="reading", unit=" cells", disable=None if progress else True) as bar:
        for number, (name, start, stop) in enumerate(blocks):
            if number not in there:
                rows, proteins = sources[name].rows(start, stop)
                genes, of_proteins = columns[name]
                if genes is not None:
                    rows = rows[:, genes]
                    rows.sort_indices()
                with replacing(parts / f"{number:08d}-{rows.dtype}.npz") as temporary:  # the type is known unopened
                    proteins = proteins[:, of_proteins]
                    np.savez(temporary, data=rows.data, indices=rows.indices, indptr=rows.indptr, proteins=proteins)
            bar.update(stop - start)


def _positions(source: Source, genes: pd.Index, proteins: pd.Index) -> tuple[np.ndarray | None, np.ndarray]:
    """Where the genes are (None if they are all, in this order), and the proteins."""
    names = source.var.index
    return None if names.equals(genes) else names.get_indexer(genes), source.proteins.get_indexer(proteins)


def _assemble(parts: Path, path: Path, frame: AnnData, progress: bool) -> None:
    """Writes the store under another name, and gives it its own when it is whole."""
    with replacing(path) as temporary:
        if path.suffix == ".h5ad":
            with h5py.File(temporary, "w") as file:
                _fill(file, parts, frame, progress)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata announces that it will write zarr version 3
            _fill(_new_zarr(temporary), parts, frame, progress)


def _new_zarr(path: Path | None = None) -> Any:
    """An empty group, in memory without a path."""
    try:
        import zarr
    except ImportError as error:
        raise ImportError("writing a .zarr store needs zarr: pip install zarr; or write an .h5ad") from error
    return zarr.group() if path is None else zarr.open_group(path, mode="w")


def _fill(store: Any, parts: Path, frame: AnnData, progress: bool) -> None:
    """Writes names and annotations, and the counts part after part."""
    files = list(_files(parts).values())
    dtype = np.result_type(*{file.stem.partition("-")[2] for file in files}) if files else np.dtype(np.int32)
    if dtype.kind == "f":
        dtype = np.dtype(np.float32)
    write_without_counts(store, frame)
    empty = sp.csr_matrix((0, frame.n_vars), dtype=dtype)
    empty.indptr = empty.indptr.astype(np.int64)  # the ends of rows may be beyond 32 bits
    write_elem(store, "X", empty, dataset_kwargs={"chunks": (_CHUNK,)})
    X = sparse_dataset(store["X"])
    for file in tqdm(files, desc="writing", unit=" parts", disable=None if progress else True):
        data, indices, indptr = _loaded(file, "data", "indices", "indptr")
        rows = data.astype(dtype, copy=False), indices, indptr
        X.append(sp.csr_matrix(rows, shape=(len(indptr) - 1, frame.n_vars)))


def _loaded(file: Path, *names: str) -> list[np.ndarray]:
    with np.load(file, allow_pickle=False) as part:
        return [part[name] for name in names]
