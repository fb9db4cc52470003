"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: str | os.PathLike[str], own: Container[str] | None = None) -> Iterator[Path]:
    """Gives the name of a temporary file or folder to write, which becomes `path` at the end and vanishes on an error.

    Parameters
    ----------
    path
        What is there is replaced. The temporary name, in the same folder, has its suffix, by which some writers choose
        the format.
    own
        Names of files: what else is in a folder that is replaced moves into the new one. None keeps nothing.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir():
            _move(temporary, path, own)
        else:
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def _move(folder: Path, path: Path, own: Container[str] | None) -> None:
    """A folder cannot be replaced in one step: the old one is put aside first, and back on failure."""
    if not path.exists():
        folder.rename(path)
        return
    aside = folder.with_name(f"{folder.name}.old")
    path.rename(aside)
    try:
        folder.rename(path)
    except OSError:
        aside.rename(path)
        raise
    for other in [] if own is None else [file for file in aside.iterdir() if file.name not in own]:
        other.rename(path / other.name)
    shutil.rmtree(aside)
