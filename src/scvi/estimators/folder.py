"""The folder of a model, in which other files may lie: those of the model are replaced one by one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from uuid import uuid4

WEIGHTS, DESCRIPTION, ADATA, MDATA = "weights.safetensors", "model.json", "adata.h5ad", "mdata.h5mu"
ADATA_SEQ, ADATA_SPATIAL = "adata_seq.h5ad", "adata_spatial.h5ad"
_CELLS = (ADATA, MDATA, ADATA_SEQ, ADATA_SPATIAL)
OWN_FILES = (DESCRIPTION, WEIGHTS, ADATA, ADATA_SEQ, ADATA_SPATIAL)
"""Of models whose descriptions do not list them."""
_BEFORE = ".before"


def digest_of_file(path: Path) -> str:
    """Tells the contents of a file from others."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def checked_prefix(prefix: str | None) -> str:
    """What names of files begin with; ValueError for what is no part of a name."""
    if prefix is None:
        return ""
    if not isinstance(prefix, str) or Path(f"{prefix}{WEIGHTS}").name != f"{prefix}{WEIGHTS}" or "\\" in prefix:
        raise ValueError(f"prefix={prefix!r} is not what the name of a file could begin with, such as 'my_'")
    return prefix


class ModelFolder:
    """Files of one model by their names, each behind a prefix.

    While a model is replaced, those of the one before lie beside under other names, the weights first and until the
    end. The description is replaced last, and holds a digest of the weights: so it is known which model it is of, and a
    crash leaves the one before, or the new one.

    Parameters
    ----------
    directory
        Path of the folder.
    prefix
        What the names of the files begin with; None: nothing.
    """

    def __init__(self, directory: str | os.PathLike[str], prefix: str | None = None) -> None:
        self.directory, self.prefix = Path(directory), checked_prefix(prefix)

    def path(self, name: str) -> Path:
        """Where a file is written."""
        return self.directory / f"{self.prefix}{name}"

    def before(self, name: str) -> Path:
        """Where the one before is while it is replaced."""
        return self.directory / f"{self.prefix}{name}{_BEFORE}"

    def stored(self, name: str, digest: str | None) -> Path:
        """Where a file of the model is that the description is of.

        Parameters
        ----------
        digest
            Of its weights, as the description has it; None for one of an earlier version.
        """
        was_put_aside = self.before(name).exists() and self._is_half_replaced(digest)
        return self.before(name) if was_put_aside else self.path(name)

    def _is_half_replaced(self, digest: str | None) -> bool:
        """Whether the description is still that of the model before."""
        if not self.before(WEIGHTS).exists():
            return False
        weights = self.path(WEIGHTS)
        return digest is None or not weights.exists() or digest_of_file(weights) != digest

    def recover(self, digest: str | None) -> None:
        """Ends a replacement that was broken off: the model is the one that the description is of, and no other."""
        if self._is_half_replaced(digest):
            for name in (*_CELLS, WEIGHTS):  # the weights last: until then it is known
                if self.before(name).exists():
                    os.replace(self.before(name), self.path(name))
        for name in (*_CELLS, WEIGHTS):
            if self.before(name).exists():
                self.before(name).unlink()

    @contextmanager
    def replaced(self, own: Iterable[str]) -> Iterator[Path]:
        """Gives a folder to write the files of a model into, which then replace those of the model before, `own`.

        Those of them that have no successor vanish. On an error all is as it was.
        """
        temporary = self.directory / f".{uuid4().hex}"
        temporary.mkdir()
        try:
            yield temporary
            self._move_in(temporary, [name for name in (WEIGHTS, *_CELLS) if name in own and self.path(name).exists()])
        finally:
            rmtree(temporary, ignore_errors=True)

    def _move_in(self, temporary: Path, there: list[str]) -> None:
        moved: list[str] = []
        try:
            for name in there:
                os.replace(self.path(name), self.before(name))
            for file in temporary.iterdir():
                if file.name != DESCRIPTION:
                    os.replace(file, self.path(file.name))
                    moved.append(file.name)
            os.replace(temporary / DESCRIPTION, self.path(DESCRIPTION))
        except Exception:
            for name in moved:
                self.path(name).unlink(missing_ok=True)
            for name in reversed(there):
                if self.before(name).exists():
                    os.replace(self.before(name), self.path(name))
            raise
        for name in reversed(there):
            self.before(name).unlink()
