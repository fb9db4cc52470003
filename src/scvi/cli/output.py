"""The folder that `scvi train` writes into: what in it is ours, and whether a run may begin or go on there."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import scvi
from scvi._files import replacing
from scvi._job import is_first

# Patterns of all that a run leaves in its folders; what begins with a dot is left by a process that was killed.
MODEL_FILES = ("model.json", "weights.safetensors", "adata.h5ad")
CHECKPOINT_FILES = ("checkpoint.safetensors", ".checkpoint.*.safetensors")
OPTIONS_FILE = "options.json"
_OPTIONS_OF_INPUTS = ("file", "spatial")  # the names of the inputs in it
_PACKED = (".gz", ".bz2", ".xz", ".zip", ".tar", ".tgz")


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

    def __init__(self, folder: Path, *inputs: Path) -> None:
        self.folder, self.inputs = folder, inputs
        self.copies = tuple(folder / copy_name(input.name) for input in inputs)
        self.model, self.checkpoint = folder / "model", folder / "checkpoint"
        self.history, self.picture = folder / "history.csv", folder / "umap.png"
        self.report = folder / "report.html"
        self.options = folder / OPTIONS_FILE
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
        for input in self.inputs:
            if not input.exists():
                raise Refused(f"there is no file {str(input)!r}")
        if len(set(self.copies)) < len(self.copies):
            raise Refused(f"both inputs would be copied to {self.copies[0].name!r}; rename one")
        if not is_first():  # who writes looks where; others of a job might find that it has begun
            return
        check_folder(self.folder)
        self._refuse_inputs(self.copies)
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return
        if not (resume or overwrite):
            raise Refused(f"{self._named} is not empty; add --resume, --overwrite, or name another folder")
        record = self._record()
        self._refuse_obstacles(replaced=overwrite)
        if overwrite:
            self._refuse_foreign_copies(record)
        else:
            self._refuse_changes(record, options)

    def refuse_model(self, model: Path) -> None:
        """Refuses to write over a model that the run begins with."""
        if self.model.exists() and self.model.samefile(model):
            raise Refused(f"{self._named} holds the model {str(model)!r}, which would be replaced; name another folder")

    def clear(self) -> None:
        """Removes what an earlier run wrote, and nothing else. Its options stay until others take their place."""
        if not is_first():
            return
        earlier = copies_of(self.folder, self._record()) if self.options.exists() else []
        _remove_files(self.model, MODEL_FILES)
        _remove_files(self.checkpoint, CHECKPOINT_FILES)
        for file in (*earlier, self.history, self.picture, self.report):
            file.unlink(missing_ok=True)

    def begin(self, options: Mapping[str, Any]) -> None:
        """Makes the folder and records which run it is of."""
        if not is_first():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"file": self.inputs[0].name, **options, "scvi_version": scvi.__version__}
        with replacing(self.options) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def begun(self, options: Mapping[str, Any]) -> Iterator[None]:
        """While a run goes on; one that is refused before its first checkpoint leaves nothing behind."""
        self.begin(options)
        try:
            yield
        except Exception:
            if is_first() and not (self.has_checkpoint or self.model.exists()):
                self.options.unlink(missing_ok=True)
                with suppress(OSError):  # other files are in it
                    self.folder.rmdir()
            raise

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

    def _refuse_inputs(self, files: Iterable[Path]) -> None:
        for file in files:
            if file.exists() and any(file.samefile(input) for input in self.inputs):
                raise Refused(f"{self._named} holds the input, which would be overwritten; name another folder")

    def _refuse_obstacles(self, replaced: bool) -> None:
        """Refuses what a run could neither remove nor write over. `replaced`: the model that is there is removed."""
        files, folders = (*self.copies, self.history, self.picture, self.report), (self.model, self.checkpoint)
        wrong = [f"{str(file)!r} is a folder" for file in files if file.is_dir()]
        wrong += [f"{str(folder)!r} is a file" for folder in folders if folder.exists() and not folder.is_dir()]
        if self.model.is_dir() and (replaced or not (self.model / MODEL_FILES[0]).exists()):
            foreign = sorted(set(self.model.iterdir()) - set(_files(self.model, MODEL_FILES)))
            wrong += [f"{str(path)!r} was not written by scvi" for path in foreign]
        if wrong:
            raise Refused(f"{wrong[0]}; move it away or name another --output")

    def _refuse_foreign_copies(self, record: Mapping[str, Any]) -> None:
        earlier = copies_of(self.folder, record)
        self._refuse_inputs(earlier)
        for copy in self.copies:
            if copy.exists() and copy not in earlier:
                raise Refused(f"{str(copy)!r} is not of the earlier run; move it away or name another --output")

    def _refuse_changes(self, record: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        if record.get("file") != self.inputs[0].name:
            raise Refused(
                f"--resume needs the input that the run began with, {record.get('file')!r}; got {self.inputs[0].name!r}"
            )
        changed = [_as_typed(name, record.get(name)) for name in options if options[name] != record.get(name)]
        if changed:
            raise Refused(f"--resume needs the options that the run began with: {', '.join(changed)}")


def copy_name(name: str) -> str:
    """What the copy of an input is called: an .h5ad, or of an .h5mu another."""
    path = Path(name)
    while path.suffix in _PACKED and path.stem:
        path = Path(path.stem)
    return name if path.suffix == ".h5mu" else f"{path.stem}.h5ad"


def copies_of(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """The copies of inputs that the recorded run writes into its folder."""
    names = [record.get(option) for option in _OPTIONS_OF_INPUTS]
    return [folder / copy_name(name) for name in names if isinstance(name, str) and name and Path(name).name == name]


def _as_typed(name: str, value: object) -> str:
    option = "--from" if name == "start" else f"--{name.replace('_', '-')}"
    if value is None:
        return f"without {option}"
    if value is True:
        return option
    return " ".join(f"{option} {shlex.quote(str(entry))}" for entry in (value if isinstance(value, list) else [value]))


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [file for pattern in patterns for file in folder.glob(pattern)]


def _remove_files(folder: Path, patterns: tuple[str, ...]) -> None:
    """Removes our files from a folder, and the folder if it is empty then."""
    for file in _files(folder, patterns):
        file.unlink()
    with suppress(OSError):  # it is not there, or holds files of the user
        folder.rmdir()
