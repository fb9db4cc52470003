"""The one thing that is written to the user's AnnData: an entry of ``adata.uns["_scvi"]`` for each class."""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from typing import Any

import numpy as np
from anndata import AnnData, ImplicitModificationWarning

from scvi.cells.checks import named, refuse_other_types, stored_counts
from scvi.cells.on_disk import is_on_disk
from scvi.cells.proteins import read_proteins
from scvi.cells.schema import Schema
from scvi.cells.storage import counts_hash

__all__ = ["fingerprint", "fingerprint_of_proteins", "in_a_file", "register", "registered", "schema_of"]

_UNS_KEY = "_scvi"


def fingerprint(adata: AnnData, schema: Schema) -> str:
    """Changes with the names of the cells, the names of the genes and all counts that `schema` reads.

    How the counts are stored (layout, number type, order of sparse indices) does not matter.
    """
    counts = stored_counts(adata, schema.layer)
    digest = hashlib.blake2b(digest_size=16)
    for names in (adata.obs_names, adata.var_names):
        digest.update("\n".join(map(str, names)).encode())
        digest.update(b"\0")
    digest.update(f"{counts.shape} {counts_hash(counts)}".encode())
    return digest.hexdigest() + fingerprint_of_proteins(adata, schema)


def fingerprint_of_proteins(adata: AnnData, schema: Schema) -> str:
    """The part of the fingerprint that the proteins make; empty where there are none."""
    if schema.proteins is None:
        return ""
    values, names = read_proteins(adata, schema.proteins.obsm_key, schema.proteins.names_uns_key)
    missing = np.isnan(values)
    missing_hash = f".{counts_hash(missing):x}" if missing.any() else ""
    return f"+{counts_hash(np.where(missing, 0, values)):x}.{zlib.crc32(repr(names).encode()):x}{missing_hash}"


def in_a_file(adata: AnnData, schema: Schema) -> bool:
    """Whether the counts that `schema` reads are those of an open file, a part of it included."""
    return (adata.isbacked and schema.layer is None) or is_on_disk(stored_counts(adata, schema.layer))


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
    entry = json.dumps({"fingerprint": fingerprint, "schema": schema.to_json()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        adata.uns[_UNS_KEY] = {**_entries(adata), class_name: entry}


def registered(adata: AnnData, class_name: str) -> Schema:
    """The schema that was registered for a class.

    Raises
    ------
    ValueError
        If there is none, or if the cells, genes or counts of `adata` have changed since.
    """
    refuse_other_types(adata)
    schema, expected = _entry(adata, class_name)
    if fingerprint(adata, schema) != expected:
        raise ValueError(
            f"adata has changed since it was set up for {class_name}: its cells, genes or counts are not the same; "
            f"call {class_name}.setup_anndata(adata, ...) again"
        )
    return schema


def schema_of(data: Any, class_name: str) -> Schema:
    """The schema that was registered for a class in ``data.uns``, whether the data have changed since or not."""
    return _entry(data, class_name)[0]


def _entry(data: Any, class_name: str) -> tuple[Schema, str]:
    """Schema and fingerprint."""
    again = f"call {class_name}.setup_anndata(adata, ...)"
    entries = _entries(data)
    if class_name not in entries:
        others = f" (it was for {named(entries)})" if entries else ""
        raise ValueError(f"adata was not set up for {class_name}{others}; {again} first")
    try:
        entry = json.loads(entries[class_name])
        return Schema.from_json(entry["schema"]), entry["fingerprint"]
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"adata.uns[{_UNS_KEY!r}][{class_name!r}] cannot be read ({error}); {again} again") from error


def _entries(adata: Any) -> dict[str, Any]:
    entries = adata.uns.get(_UNS_KEY, {})
    if not hasattr(entries, "keys"):
        raise ValueError(
            f"adata.uns[{_UNS_KEY!r}] holds a {type(entries).__name__} that scvi did not write; "
            f"remove it: del adata.uns[{_UNS_KEY!r}]"
        )
    return dict(entries)
