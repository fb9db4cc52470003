"""Kernels on disk, see `compiled_kernels`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import compiled_kernels


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two compiled kernels and the mark that these are all; written at second 10, and their source at second 5."""
    compiled = tmp_path / "__pycache__"
    compiled.mkdir()
    files = [compiled / "sparse.rows.1.nbc", compiled / "sparse.rows.nbi", compiled / "all.compiled"]
    write(tmp_path / "sparse.py", 5, "from numba import njit")
    for file in files:
        write(file, 10)
    monkeypatch.setattr(compiled_kernels, "KERNELS", tmp_path)
    monkeypatch.setattr(compiled_kernels, "COMPILED", compiled)
    monkeypatch.setattr(compiled_kernels, "ALL", files[-1])
    return files


def write(file: Path, second: int, text: str = "") -> None:
    file.write_text(text, encoding="utf-8")
    os.utime(file, (second, second))


def test_compiled_kernels_stay_as_long_as_no_kernel_changes(stored: list[Path], tmp_path: Path) -> None:
    write(tmp_path / "twin.py", 20)  # torch operations only
    compiled_kernels.remove_stale()
    assert all(file.exists() for file in stored)


def test_a_changed_kernel_removes_all_of_them(stored: list[Path], tmp_path: Path) -> None:
    """The function that changed may have become part of the others."""
    write(tmp_path / "elementary.py", 20, "from numba import njit")
    compiled_kernels.remove_stale()
    assert not any(file.exists() for file in stored)
