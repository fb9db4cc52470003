"""Unpacking of archives that nobody vouches for: nothing lands outside of the folder, and not more than a limit."""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from scvi.data.files import Unreadable, existing, readable_as

LARGEST_ARCHIVE = 2**36
"""Bytes that an archive may unpack to, if nothing else is said: 64 GiB."""
_BLOCK_BYTES = 2**20


def is_archive(path: Path) -> bool:
    """Whether the name is that of a tar or zip archive."""
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"))


def extract(path: str | os.PathLike[str], folder: str | os.PathLike[str], largest: int = LARGEST_ARCHIVE) -> list[Path]:
    """Unpacks a tar (gz, bz2, xz) or zip archive into a folder, all of it or nothing.

    Parameters
    ----------
    folder
        Made if need be. Files of the same names are replaced.
    largest
        Most bytes that it may unpack to.

    Returns
    -------
    The files.

    Raises
    ------
    ValueError
        If it is damaged or no archive, unpacks to more than `largest`, or holds links, devices, or names that lead out
        of the folder.
    """
    path, folder = existing(path), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=folder) as temporary:
        with readable_as(path, "an archive"):
            names = _unpack(path, Path(temporary), largest)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(temporary, name), folder / name)
    return [folder / name for name in names]


def _unpack(path: Path, folder: Path, largest: int) -> list[PurePosixPath]:
    left, names = largest, []
    for name, opened in _members(path):
        target = _inside(path, name)
        if opened is None:
            continue
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        with opened() as file, (folder / target).open("wb") as out:
            while block := file.read(min(_BLOCK_BYTES, left + 1)):
                left -= len(block)
                if left < 0:
                    raise Unreadable(f"{path} unpacks to more than {largest} bytes; nothing of it is kept")
                out.write(block)
        names.append(target)
    return names


def _members(path: Path) -> Iterator[tuple[str, Callable[[], Any] | None]]:
    """Names in turn, and what opens those that are files and no folders."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise Unreadable(f"{path} holds a link, {info.filename!r}; links are not unpacked")
                yield info.filename, None if info.is_dir() else partial(archive.open, info)
        return
    with tarfile.open(path, "r:*") as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise Unreadable(f"{path} holds a link or device, {member.name!r}; only files are unpacked")
            yield member.name, partial(tar.extractfile, member) if member.isfile() else None
        _check_end(path, tar)


def _check_end(path: Path, tar: tarfile.TarFile) -> None:
    """Files in an archive end where a header is damaged or missing, silently, unless its end is looked at."""
    file: Any = tar.fileobj
    file.seek(tar.offset)
    rest = file.read(_BLOCK_BYTES)  # a checksum of compressed files comes after the last block
    if len(rest) < tarfile.BLOCKSIZE or rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise Unreadable(f"{path} does not end as an archive does; it was cut short or is damaged")


def _inside(path: Path, name: str) -> PurePosixPath:
    """The name, if it stays in the folder on every system."""
    inner = PurePosixPath(name)
    if inner.is_absolute() or ".." in inner.parts or "\\" in name or ":" in name or "\0" in name:
        raise Unreadable(f"{path} holds the name {name!r}, which leads out of the folder; nothing of it is kept")
    return inner
