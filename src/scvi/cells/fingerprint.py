"""What tells the cells, genes and counts that a model was set up for from others."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
from anndata import AnnData

from scvi.cells.checks import stored_counts
from scvi.cells.on_disk import is_on_disk
from scvi.cells.proteins import read_proteins
from scvi.cells.schema import Schema
from scvi.cells.storage import counts_hash


def fingerprint(adata: AnnData, schema: Schema) -> str:
    """Changes with the names of the cells, the names of the genes and all counts that `schema` reads.

    How the counts are stored (layout, number type, order of sparse indices) does not matter.
    """
    counts = stored_counts(adata, schema.layer)
    digest = hashlib.blake2b(digest_size=16)
    for names in (adata.obs_names, adata.var_names):
        digest.update("\n".join(map(str, names)).encode() + b"\0")
    digest.update(f"{counts.shape} {counts_hash(counts)}".encode())
    return digest.hexdigest() + _of_proteins(adata, schema)


def _of_proteins(adata: AnnData, schema: Schema) -> str:
    """The part of the fingerprint that the proteins make; empty where there are none."""
    if schema.proteins is None:
        return ""
    values, names = read_proteins(adata, schema.proteins)
    missing = np.isnan(values)
    missing_hash = f".{counts_hash(missing):x}" if missing.any() else ""
    return f"+{counts_hash(np.where(missing, 0, values)):x}.{zlib.crc32(repr(names).encode()):x}{missing_hash}"


def in_a_file(adata: AnnData, schema: Schema) -> bool:
    """Whether the counts that `schema` reads are those of an open file, a part of it included."""
    return (adata.isbacked and schema.layer is None) or is_on_disk(stored_counts(adata, schema.layer))
