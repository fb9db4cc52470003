"""The benchmark for a GPU runs to its end with the CPU in its place, so that it does where there is one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALLEST = ["--device", "cpu", "--here", "--genes", "20", "--cells", "8", "--steps", "2"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, beside its neighbours."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("common", "train_step"):  # as they were before, whatever had these names
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location("gpu", BENCHMARKS / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


def test_its_smallest_form_runs(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([*SMALLEST, "--parts", "losses", "speed", "waits", "graph"])
    printed = capsys.readouterr().out
    assert "failed" not in printed
    assert "NO" not in printed
    assert printed.count(" yes") == len(gpu.PLANS)
    assert printed.count("counted on CUDA devices only") == len(gpu.PLANS)
    speeds = [line.split() for line in printed.splitlines() if line.endswith("not known")]
    assert [line[0].strip(",") for line in speeds] == ["SCVI", "SCVI", "SCANVI", "TOTALVI"]


def test_losses_that_differ_are_seen(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = gpu.run_as_on_a_gpu

    def worse(taken: object) -> None:
        fit(taken)
        taken.losses[-1] *= 1.001  # type: ignore[attr-defined]

    monkeypatch.setattr(gpu, "run_as_on_a_gpu", worse)
    gpu.main([*SMALLEST, "--parts", "losses"])
    assert capsys.readouterr().out.count(" NO") == len(gpu.PLANS)


def test_what_fails_or_finds_no_time_is_a_row(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([*SMALLEST, "--parts", "losses", "--until", "1"])
    assert capsys.readouterr().out.count("left out: no time") == len(gpu.PLANS)
    gpu.main([*SMALLEST[:-4], "--cells", "0", "--parts", "speed"])
    assert capsys.readouterr().out.count("failed: ") == len(gpu.PLANS) + 1
