"""The one thing that is written to the user's AnnData: an entry of ``adata.uns["_scvi"]`` for each class."""

from __future__ import annotations

import json
from typing import Any

from anndata import AnnData

from scvi._formats import in_format
from scvi.cells.checks import named, refuse_other_types
from scvi.cells.fingerprint import fingerprint
from scvi.cells.mudata import as_anndata, is_multimodal
from scvi.cells.schema import Schema

_UNS_KEY = "_scvi"
_FORMAT = 2  # in the first one, an entry had no number


def register(adata: Any, class_name: str, schema: Schema, fingerprint: str) -> None:
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
    entry = json.dumps({"format": _FORMAT, "fingerprint": fingerprint, "schema": schema.to_json()})
    if getattr(adata, "is_view", False):  # what has only the modalities of a MuData is none
        adata.uns = adata.uns.copy()  # as it would become by itself, with a warning
    adata.uns[_UNS_KEY] = {**_entries(adata), class_name: entry}


def registered(data: Any, class_name: str) -> Schema:
    """The schema that was registered for a class in the `uns` of an AnnData or a MuData.

    Raises
    ------
    TypeError
        If `data` is neither.
    ValueError
        If there is none, or if the cells, genes or counts have changed since.
    """
    if not is_multimodal(data):
        refuse_other_types(data)
    again = f"call {class_name}.setup_anndata(adata, ...)"
    entries = _entries(data)
    if class_name not in entries:
        others = f" (it was for {named(entries)})" if entries else ""
        raise ValueError(f"adata was not set up for {class_name}{others}; {again} first")
    try:
        entry = in_format(_FORMAT, "the entry", json.loads(entries[class_name]))
        schema, expected = Schema.from_json(entry["schema"]), entry["fingerprint"]
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"adata.uns[{_UNS_KEY!r}][{class_name!r}] cannot be read ({error}); {again} again") from error
    if fingerprint(as_anndata(data, schema), schema) != expected:
        raise ValueError(
            f"adata has changed since it was set up for {class_name}: its cells, genes or counts are not the same; "
            f"{again} again"
        )
    return schema


def _entries(adata: Any) -> dict[str, Any]:
    entries = adata.uns.get(_UNS_KEY, {})
    if not hasattr(entries, "keys"):
        raise ValueError(
            f"adata.uns[{_UNS_KEY!r}] holds a {type(entries).__name__} that scvi did not write; "
            f"remove it: del adata.uns[{_UNS_KEY!r}]"
        )
    return dict(entries)
