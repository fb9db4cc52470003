"""Kernels on disk, see `compiled_kernels`."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from numba import njit
from numba.core import typed_passes, untyped_passes
from numba.core.compiler import CompilerBase
from numba.core.errors import TypingError
from numba.core.registry import CPUDispatcher

import compiled_kernels
from scvi.kernels.compiler import OPTIONS, UNUSED_PASSES

# Prints what the likelihood answers, to the last bit.
ANSWER = """
import torch
from scvi import kernels
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
x = torch.poisson(torch.full((64, 300), 0.3), generator=draw)
given = [torch.randn(64, 300, generator=draw, requires_grad=True) for _ in range(2)]
nll = kernels.nll_zinb(x, given[0], torch.full((64, 1), 5.0), torch.randn(300, generator=draw), given[1])
nll.sum().backward()
print([t.view(torch.int32).sum().item() for t in (nll.detach(), *(g.grad for g in given))])
"""


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


def test_a_kernel_has_its_helpers_in_it() -> None:
    """A helper that stays a function of its own is called in one form by a kernel that has just been compiled, and in
    another by the same kernel from the disk, which brings its own: the last bits of a fit would differ.
    """
    checked = 0
    for path in compiled_kernels.KERNELS.glob("*.py"):
        module = vars(importlib.import_module(f"scvi.kernels.{path.stem}"))
        for kernel in [value for value in module.values() if isinstance(value, CPUDispatcher)]:
            for name in kernel.py_func.__code__.co_names:
                helper = kernel.py_func.__globals__.get(name)
                if isinstance(helper, CPUDispatcher):
                    assert helper.targetoptions.get("forceinline"), (kernel, helper)
                    checked += 1
    assert checked > 50


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_collector_of_garbage_rests_while_a_kernel_is_compiled(
    collects: bool, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is as it was."""
    compile_extra, seen = CompilerBase.compile_extra, []

    def noted(self: CompilerBase, func: object) -> object:
        seen.append(gc.isenabled())
        return compile_extra(self, func)

    monkeypatch.setattr(CompilerBase, "compile_extra", noted)
    kernel = njit(**{**OPTIONS, "cache": False})((lambda x: x.imagined) if fails else (lambda x: x))
    try:
        if not collects:
            gc.disable()
        with pytest.raises(TypingError) if fails else nullcontext():
            kernel(1)
        assert gc.isenabled() == collects
    finally:
        gc.enable()
    assert seen
    assert not any(seen)


def test_what_is_left_out_of_the_compiler_is_a_step_of_it() -> None:
    known = {**vars(untyped_passes), **vars(typed_passes)}
    assert known.keys() >= UNUSED_PASSES


@pytest.mark.slow
def test_a_kernel_answers_the_same_before_and_after_it_was_kept(tmp_path: Path) -> None:
    def answer() -> bytes:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", ANSWER], env=environment, check=True, capture_output=True).stdout

    compiled = answer()
    assert list(tmp_path.rglob("*.nbc"))
    assert answer() == compiled
