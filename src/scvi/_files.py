"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives the name of a temporary file or folder to write, which becomes `path` at the end and vanishes on an error.

    Parameters
    ----------
    path
        What is there is replaced. The temporary name, in the same folder, has its suffix, by which some writers choose
        the format.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir():
            _move(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def _move(folder: Path, path: Path) -> None:
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
    shutil.rmtree(aside)
