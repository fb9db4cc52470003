"""The models by the names that are typed, and saved ones with their cells."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scvi.cli.output import OPTIONS_FILE, Refused, copies_of
from scvi.cli.reading import read_cells


@dataclass(frozen=True)
class Named:
    """A model: the name of its class, and where its latent space goes in `obsm`."""

    estimator: str
    latent: str


MODELS = {
    "scvi": Named("SCVI", "X_scVI"),
    "linearscvi": Named("LinearSCVI", "X_scVI"),
    "ldvae": Named("LinearSCVI", "X_scVI"),
    "scanvi": Named("SCANVI", "X_scANVI"),
    "condscvi": Named("CondSCVI", "X_CondSCVI"),
    "autozi": Named("AUTOZI", "X_AutoZI"),
    "totalvi": Named("TOTALVI", "X_totalVI"),
    "gimvi": Named("GIMVI", "X_gimVI"),
}
LATENT = {named.estimator: named.latent for named in MODELS.values()}


def estimator_named(name: str) -> Any:
    """The class of a model, by its name."""
    from scvi import estimators

    return getattr(estimators, name)


def model_folder(folder: Path) -> Path:
    """The folder with the files of a model: the one that was typed, or `model` within what `scvi train` wrote."""
    from scvi.estimators.folder import DESCRIPTION
    from scvi.estimators.foreign_models import FILE

    for place in (folder, folder / "model"):
        if any((place / name).is_file() for name in (DESCRIPTION, FILE)):
            return place
    if not folder.exists():
        raise Refused(f"there is no folder {str(folder)!r}")
    raise Refused(f"{str(folder)!r} holds no model: name what `scvi train` or `model.save` wrote")


def class_of(folder: Path) -> str:
    """The name of the class of a saved model; nothing of it but this is read."""
    from scvi.estimators.folder import DESCRIPTION
    from scvi.estimators.foreign_models import FILE, is_foreign, kind_of

    if is_foreign(folder):
        return kind_of(folder / FILE)
    try:
        name = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["estimator"]
    except (OSError, KeyError, TypeError, RecursionError, ValueError) as error:
        raise ValueError(f"{str(folder / DESCRIPTION)!r} is damaged, or no description of a model ({error})") from error
    if name not in LATENT:
        raise ValueError(f"{str(folder)!r} holds a model of the class {name!r}, which is none of {', '.join(LATENT)}")
    return str(name)


def require_class(arguments: argparse.Namespace, *names: str) -> tuple[Path, str]:
    """The folder and the class of the model that was named, one of these classes; all if none is given."""
    folder = model_folder(arguments.model)
    name = class_of(folder)
    if names and name not in names:
        raise ValueError(f"{str(arguments.model)!r} holds a model of {name}; this is a question to {', '.join(names)}")
    return folder, name


def files_of_cells(arguments: argparse.Namespace) -> list[Path]:
    """The files with the cells to ask about: those that were typed, or what `scvi train` wrote beside the model.

    Empty where there is neither: the cells may have been saved with the model.
    """
    given = [file for file in (arguments.file, getattr(arguments, "spatial", None)) if file is not None]
    if given:
        return given
    record = model_folder(arguments.model).parent / OPTIONS_FILE
    try:
        options = json.loads(record.read_text(encoding="utf-8"))
        found, has_no_counts = copies_of(record.parent, options), options.get("on_disk")
    except (OSError, RecursionError, ValueError, AttributeError):
        return []
    if has_no_counts:
        raise Refused(f"the cells beside {str(arguments.model)!r} have no counts: name the file with them behind it")
    return found if all(file.exists() for file in found) else []


def load(arguments: argparse.Namespace, folder: Path, name: str, cells: list[Any]) -> Any:
    """A model with cells, those that were saved with it where there are none."""
    where = arguments.device
    if name == "GIMVI":
        seq, spatial = [*cells, None, None][:2] if len(cells) != 1 else (False, cells[0])
        return estimator_named(name).load(folder, seq, spatial, where["accelerator"], where["device"])
    adata = cells[0] if cells else None
    return estimator_named(name).load(folder, adata, where["accelerator"], where["device"])


def load_with_cells(arguments: argparse.Namespace, *names: str) -> Any:
    """The model and the cells that were named on the command line; the model is of one of these classes, if any."""
    folder, name = require_class(arguments, *names)
    cells = [read_cells(file, arguments.on_disk, arguments.genes_in_rows) for file in files_of_cells(arguments)]
    model = load(arguments, folder, name, cells)
    if not cells and all(own.given is None for own in model._data_sets):
        raise Refused(f"{str(arguments.model)!r} was saved without its cells: name their file behind it")
    return model
