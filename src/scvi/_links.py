"""HDF5 files whose values are in other files: what looks like one file may read any that its maker could name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py

_NOT_FOLLOWED = (
    "which is not followed unasked, for the maker of a file could name any other: copy it into this file, or read it "
    "with allow_links=True, an option of the readers of scvi.data, if you trust this one"
)


_DEEPEST = 200
"""Groups within groups that are looked into; files of cells have a few."""


def refuse_links(file: h5py.File, allow: bool = False) -> None:
    """Refuses a file with links to others, and datasets whose values are in others; links within the file are its own.

    Parameters
    ----------
    allow
        Follow them, and refuse those alone that lead nowhere: HDF5 would read zeros there, without a word.

    Raises
    ------
    ValueError
        Names the place in the file, and what it leads to.
    """
    for place, dataset in _datasets(file, allow):
        for part in _parts(dataset):
            if not (allow or part.is_inner):
                raise ValueError(f"{place} has its values in another file, {part.name!r}, {_NOT_FOLLOWED}")
            if not part.is_there:
                raise ValueError(f"{place} has its values in {part.name!r}, which is not there or has none of its own")
        if dataset.external is not None and held_bytes(dataset) < dataset.nbytes:
            raise ValueError(f"{place} has its values in {dataset.external[0][0]!r} and others, which are too short")


def check_links(path: Any) -> None:
    """:func:`refuse_links` of a file that another package reads; what is no HDF5 file is left to that."""
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            refuse_links(file)


def held_bytes(dataset: h5py.Dataset) -> int:
    """How much there is on disk for a dataset: for one that is put together, the sizes of its files."""
    if dataset.external is not None:
        sizes = [(_size(dataset.file, name) - offset, size) for name, offset, size in dataset.external]
        return sum(max(0, min(there, size) if 0 <= size < 2**63 else there) for there, size in sizes)
    if dataset.is_virtual:
        return sum(_size(dataset.file, name) for name in {name for name, _ in _sources(dataset)})
    return int(dataset.id.get_storage_size())


def _datasets(file: h5py.File, follow: bool) -> Iterator[tuple[str, h5py.Dataset]]:
    """All datasets and their places; groups are looked into once, not by recursion, however they hang together."""
    pending, seen = [("", file["/"])], set()
    while pending:
        where, group = pending.pop()
        info = h5py.h5o.get_info(group.id)
        if (info.fileno, info.addr) in seen:
            continue
        seen.add((info.fileno, info.addr))
        if where.count("/") > _DEEPEST:
            raise ValueError(f"its groups are nested more than {_DEEPEST} deep")
        for name in group:
            place, link = f"{where}/{name}", group.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink):  # what it leads to is looked at where it is
                continue
            if isinstance(link, h5py.ExternalLink):
                target = f"{place} is a link to {link.path} in another file, {link.filename!r}"
                if not follow:
                    raise ValueError(f"{target}, {_NOT_FOLLOWED}")
                if group.get(name) is None:
                    raise ValueError(f"{target}, and it is not there")
            item = group[name]
            if isinstance(item, h5py.Group):
                pending.append((place, item))
            elif isinstance(item, h5py.Dataset):
                yield place, item


class _Part(NamedTuple):
    """Where some of the values of a dataset are."""

    name: str
    is_inner: bool  # in the same file, by its own account
    is_there: bool


def _parts(dataset: h5py.Dataset) -> Iterator[_Part]:
    for name, _, _ in dataset.external or ():
        yield _Part(name, False, _path(dataset.file, name) is not None)
    for name, inner in _sources(dataset):
        if name == ".":
            yield _Part(f"{inner} of the same file", True, "%" not in inner and _is_stored(dataset.file, inner))
        elif "%" in name + inner:  # a pattern, of which HDF5 takes the names that are there
            yield _Part(name, False, True)
        else:
            path = _path(dataset.file, name)
            yield _Part(name, False, path is not None and _has(path, inner))


def _sources(dataset: h5py.Dataset) -> set[tuple[str, str]]:
    """Files and places of the parts that a dataset is put together of."""
    return {(part.file_name, part.dset_name) for part in dataset.virtual_sources()} if dataset.is_virtual else set()


def _is_stored(file: h5py.File, place: str) -> bool:
    """Whether there is a dataset with values of its own; of those that are put together of each other HDF5 dies."""
    item = file.get(place)
    return isinstance(item, h5py.Dataset) and not item.is_virtual


def _has(path: Path, place: str) -> bool:
    with h5py.File(path, "r") as file:
        return place in file


def _path(file: h5py.File, name: str) -> Path | None:
    """Where another file is: beside this one, or by its name as it stands."""
    return next((path for path in (Path(file.filename).parent / name, Path(name)) if path.is_file()), None)


def _size(file: h5py.File, name: str) -> int:
    path = Path(file.filename) if name == "." else _path(file, name)
    return 0 if path is None else path.stat().st_size
