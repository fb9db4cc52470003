"""The folder that `scvi train` writes into: what in it is ours, and whether a run may begin or go on there."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import scvi
from scvi._files import replacing

# Patterns of all that a run leaves in its folders; what begins with a dot is left by a process that was killed.
MODEL_FILES = ("model.json", "weights.safetensors", "adata.h5ad")
CHECKPOINT_FILES = ("checkpoint.safetensors", ".checkpoint.*.safetensors")


class Refused(Exception):
    """A place cannot be used as the user wishes; the message says why, and what to do."""


def check_folder(folder: Path) -> None:
    """Refuses a folder in which nothing can be written; it need not exist."""
    if folder.exists() and not folder.is_dir():
        raise Refused(f"--output {str(folder)!r} is a file; name a folder")
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise Refused(f"--output {str(folder)!r} lies below {str(place)!r}, which is a file; name another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise Refused(f"--output: you may not write into {str(place)!r}; name another folder")


class Output:
    """Where `scvi train` writes.

    The options come first and stay. The checkpoint goes last: a folder with a model and without a checkpoint is whole.
    """

    def __init__(self, folder: Path, input: Path) -> None:
        self.folder, self.input = folder, input
        self.adata = folder / f"{input.stem}.h5ad"
        self.model, self.checkpoint = folder / "model", folder / "checkpoint"
        self.history, self.picture = folder / "history.csv", folder / "umap.png"
        self.options = folder / "options.json"
        self._named = f"--output {str(folder)!r}"

    @property
    def has_checkpoint(self) -> bool:
        return (self.checkpoint / CHECKPOINT_FILES[0]).exists()

    @property
    def is_complete(self) -> bool:
        return (self.model / MODEL_FILES[0]).exists() and not self.has_checkpoint

    def check(self, options: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Refuses what the files that are there already tell to be wrong.

        Parameters
        ----------
        options
            What the user chose for this run; an interrupted one is resumed with the same.
        """
        if not self.input.is_file():
            raise Refused(f"there is no file {str(self.input)!r}")
        check_folder(self.folder)
        self._refuse_input(self.adata)
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return
        if not (resume or overwrite):
            raise Refused(f"{self._named} is not empty; add --resume, --overwrite, or name another folder")
        record = self._record()
        self._refuse_obstacles(replaced=overwrite)
        if overwrite:
            self._refuse_foreign_copy(record)
        else:
            self._refuse_changes(record, options)

    def clear(self) -> None:
        """Removes what an earlier run wrote, and nothing else. Its options stay until others take their place."""
        earlier = self._copy_of(self._record()) if self.options.exists() else None
        _remove_files(self.model, MODEL_FILES)
        _remove_files(self.checkpoint, CHECKPOINT_FILES)
        for file in filter(None, (earlier, self.history, self.picture)):
            file.unlink(missing_ok=True)

    def begin(self, options: Mapping[str, Any]) -> None:
        """Makes the folder and records which run it is of."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"file": self.input.name, **options, "scvi_version": scvi.__version__}
        with replacing(self.options) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def end(self) -> None:
        """Removes the checkpoint, by which the run is complete."""
        _remove_files(self.checkpoint, CHECKPOINT_FILES)

    def _record(self) -> dict[str, Any]:
        """The options of the run that wrote into the folder."""
        if not self.options.exists():
            raise Refused(f"{self._named} holds no run of `scvi train` to go on with or replace; name another folder")
        try:
            record = json.loads(self.options.read_text(encoding="utf-8"))
            if not isinstance(record, dict) or not isinstance(record.get("scvi_version"), str):
                raise ValueError("no scvi_version in it")
        except (OSError, RecursionError, ValueError) as error:
            raise Refused(
                f"{str(self.options)!r} is not what `scvi train` writes ({error}); name another folder, or remove what "
                "is in this one yourself"
            ) from error
        return record

    def _copy_of(self, record: Mapping[str, Any]) -> Path | None:
        """The copy of the input that the recorded run writes."""
        name = record.get("file")
        if not isinstance(name, str) or not name or Path(name).name != name:
            return None
        return self.folder / f"{Path(name).stem}.h5ad"

    def _refuse_input(self, file: Path) -> None:
        if file.exists() and file.samefile(self.input):
            raise Refused(f"{self._named} holds the input, which would be overwritten; name another folder")

    def _refuse_obstacles(self, replaced: bool) -> None:
        """Refuses what a run could neither remove nor write over. `replaced`: the model that is there is removed."""
        files, folders = (self.adata, self.history, self.picture), (self.model, self.checkpoint)
        wrong = [f"{str(file)!r} is a folder" for file in files if file.is_dir()]
        wrong += [f"{str(folder)!r} is a file" for folder in folders if folder.exists() and not folder.is_dir()]
        if self.model.is_dir() and (replaced or not (self.model / MODEL_FILES[0]).exists()):
            foreign = sorted(set(self.model.iterdir()) - set(_files(self.model, MODEL_FILES)))
            wrong += [f"{str(path)!r} was not written by scvi" for path in foreign]
        if wrong:
            raise Refused(f"{wrong[0]}; move it away or name another --output")

    def _refuse_foreign_copy(self, record: Mapping[str, Any]) -> None:
        earlier = self._copy_of(record)
        if earlier is not None:
            self._refuse_input(earlier)
        if self.adata.exists() and self.adata != earlier:
            raise Refused(f"{str(self.adata)!r} is not of the earlier run; move it away or name another --output")

    def _refuse_changes(self, record: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        if record.get("file") != self.input.name:
            raise Refused(
                f"--resume needs the input that the run began with, {record.get('file')!r}; got {self.input.name!r}"
            )
        changed = [_as_typed(name, record.get(name)) for name in options if options[name] != record.get(name)]
        if changed:
            raise Refused(f"--resume needs the options that the run began with: {', '.join(changed)}")


def _as_typed(name: str, value: object) -> str:
    option = f"--{name.replace('_', '-')}"
    return f"without {option}" if value is None else f"{option} {shlex.quote(str(value))}"


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [file for pattern in patterns for file in folder.glob(pattern)]


def _remove_files(folder: Path, patterns: tuple[str, ...]) -> None:
    """Removes our files from a folder, and the folder if it is empty then."""
    for file in _files(folder, patterns):
        file.unlink()
    with suppress(OSError):  # it is not there, or holds files of the user
        folder.rmdir()
