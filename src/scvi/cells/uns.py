"""The one thing that is written to the user's AnnData: an entry of ``adata.uns["_scvi"]`` for each class.

An entry has the declaration as a text in JSON, and an array with a digest of the counts of each cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData

from scvi._formats import in_format
from scvi.cells.checks import named, refuse_other_types
from scvi.cells.fingerprint import fingerprint
from scvi.cells.mudata import as_anndata, is_multimodal
from scvi.cells.schema import ProteinPlace, Schema
from scvi.cells.setup import SetUp, declare

_UNS_KEY = "_scvi"
_FORMAT = 3  # in the second, an entry was the text alone, with one fingerprint of all; in the first, it had no number


def register(adata: Any, class_name: str, setup: SetUp) -> None:
    """Writes the entry of one class to the `uns` of an AnnData or a MuData, and leaves those of other classes alone.

    anndata turns a view into an actual copy when its `uns` is written to; the caller's variable stays the same object.

    Raises
    ------
    ValueError
        If `adata` is a view of an open file, which cannot hold an entry, or if other software has taken its place.
    """
    if isinstance(adata, AnnData) and adata.is_view and adata.isbacked:
        raise ValueError(
            "adata is a part of an AnnData that is open on disk, and cannot be set up by itself: "
            "pass the whole AnnData, or call adata.to_memory() first"
        )
    declared = {"format": _FORMAT, "fingerprint": setup.fingerprint, "schema": setup.schema.to_json()}
    entry = {"declared": json.dumps(declared), "digests": setup.digests}
    if getattr(adata, "is_view", False):  # what has only the modalities of a MuData is none
        adata.uns = adata.uns.copy()  # as it would become by itself, with a warning
    adata.uns[_UNS_KEY] = {**_entries(adata), class_name: entry}


def registered(data: Any, class_name: str) -> SetUp:
    """What was registered for a class in the `uns` of an AnnData or a MuData.

    An entry of an earlier version says what to read; the cells are declared anew by it.

    Raises
    ------
    TypeError
        If `data` is neither.
    ValueError
        If there is none, or if what is read of the cells, but for their counts, has changed since.
    """
    if not is_multimodal(data):
        refuse_other_types(data)
    again = f"call {class_name}.setup_anndata(adata, ...)"
    entries = _entries(data)
    if class_name not in entries:
        others = f" (it was for {named(entries)})" if entries else ""
        raise ValueError(f"adata was not set up for {class_name}{others}; {again} first")
    try:
        declared, digests = _read(entries[class_name])
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"adata.uns[{_UNS_KEY!r}][{class_name!r}] cannot be read ({error}); {again} again") from error
    schema, adata = declared["schema"], as_anndata(data, declared["schema"])
    if digests is None:
        return _declared_anew(adata, schema)
    changed = _changes(adata, schema, declared["fingerprint"])
    if not changed and digests.shape != (adata.n_obs,):
        changed = f"there are digests of {digests.size} cells, for {adata.n_obs}"
    if changed:
        raise ValueError(f"adata has changed since it was set up for {class_name}: {changed}; {again} again")
    return SetUp(schema, declared["fingerprint"], digests)


def _read(entry: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    """The declaration, and (n,) digests of counts; None of an earlier version."""
    is_old = isinstance(entry, str)
    declared = in_format(_FORMAT, "the entry", json.loads(entry if is_old else entry["declared"]))
    declared["schema"] = Schema.from_json(declared["schema"])
    if is_old:
        return declared, None
    if not isinstance(declared["fingerprint"], Mapping):
        raise ValueError("its fingerprint is no mapping")
    return declared, np.asarray(entry["digests"], dtype=np.uint64)


def _changes(adata: AnnData, schema: Schema, expected: Mapping[str, str]) -> str:
    """What has changed in words; empty if nothing has."""
    try:
        found = fingerprint(adata, schema)
    except ValueError as error:
        return str(error)
    changed = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    return f"{', '.join(changed)} (what was read then is not what is there now)" if changed else ""


def _declared_anew(adata: AnnData, schema: Schema) -> SetUp:
    proteins = schema.proteins
    return declare(
        adata,
        layer=schema.layer,
        batch_key=schema.batch_key,
        labels_key=schema.labels_key,
        size_factor_key=schema.size_factor_key,
        categorical_covariate_keys=schema.categorical_covariate_keys,
        continuous_covariate_keys=schema.continuous_covariate_keys,
        mask_var=schema.mask_var or schema.genes,
        unlabeled_category=schema.unlabeled_category,
        non_integer=schema.non_integer,
        proteins=proteins
        and ProteinPlace(proteins.obsm_key, proteins.names_uns_key, proteins.modalities, proteins.layer),
    )


def _entries(adata: Any) -> dict[str, Any]:
    entries = adata.uns.get(_UNS_KEY, {})
    if not hasattr(entries, "keys"):
        raise ValueError(
            f"adata.uns[{_UNS_KEY!r}] holds a {type(entries).__name__} that scvi did not write; "
            f"remove it: del adata.uns[{_UNS_KEY!r}]"
        )
    return dict(entries)
