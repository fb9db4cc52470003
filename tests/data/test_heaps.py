"""Texts of any length are in heaps of an HDF5 file; one that is damaged in one way would be gone over for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import formats
from scvi.data import heaps, read_h5ad, read_loom, to_store

X = formats.counts()
N, G = X.shape
CELLS, GENES = formats.barcodes(N), formats.names(G)[1]
SIGNATURE = b"GCOL\1\0\0\0"


def loom(path: Path) -> Path:
    """As loompy writes names: texts of any length."""
    with h5py.File(path, "w") as file:
        file["matrix"] = X.toarray().T
        for name, values in (("col_attrs/obs_names", CELLS), ("row_attrs/var_names", GENES)):
            file.create_dataset(name, data=np.array(values, dtype=object), dtype=h5py.string_dtype())
    return path


def h5ad(path: Path) -> Path:
    AnnData(X, obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=GENES)).write_h5ad(path)
    return path


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "f.loom": (loom, read_loom),
    "f.h5ad": (h5ad, read_h5ad),
    "to_store.loom": (loom, lambda path: to_store(path, path.with_suffix(".store.h5ad"), progress=False)),
    "to_store.h5ad": (h5ad, lambda path: to_store(path, path.with_suffix(".store.h5ad"), progress=False)),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("objects", [0, 1, 3])
def test_a_heap_without_an_end_is_refused(name: str, objects: int, tmp_path: Path) -> None:
    write, read = READERS[name]
    path = write(tmp_path / name)
    content = bytearray(path.read_bytes())
    start = place = content.index(SIGNATURE)
    place += 16
    for _ in range(objects):
        place += 16 + (int.from_bytes(content[place + 8 : place + 16], "little") + 7) // 8 * 8
    content[place : place + 16] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"heap of its texts at byte {start} is damaged") as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", READERS)
def test_good_heaps_are_read(name: str, tmp_path: Path) -> None:
    write, read = READERS[name]
    found = read(write(tmp_path / name))
    assert found.obs_names.tolist() == CELLS if isinstance(found, AnnData) else found.exists()


@pytest.mark.parametrize(
    "what",
    [SIGNATURE, SIGNATURE + bytes(8), SIGNATURE + (2**40).to_bytes(8, "little"), SIGNATURE + b"\x10" + bytes(30)],
)
def test_counts_that_look_like_a_heap_are_counts(what: bytes, tmp_path: Path) -> None:
    values = np.frombuffer(what.ljust(G * 8, b"\0"), np.uint8)[: G * 8].astype(np.uint8)
    with h5py.File(tmp_path / "f.loom", "w") as file:
        file["matrix"] = values.reshape(G, 8)
        file["col_attrs/CellID"] = np.array(CELLS[:8], dtype="S")
        file["row_attrs/Gene"] = np.array(GENES, dtype="S")
    assert read_loom(tmp_path / "f.loom").X.toarray().T.ravel().tolist() == values.tolist()


def test_large_files_are_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = loom(tmp_path / "f.loom")
    searched = []
    monkeypatch.setattr(heaps, "_heaps", lambda content: searched.append(len(content)) or iter(()))
    read_loom(path)
    assert searched == [path.stat().st_size]
    monkeypatch.setattr(heaps, "_LARGEST_FILE", path.stat().st_size - 1)
    read_loom(path)
    assert len(searched) == 1
