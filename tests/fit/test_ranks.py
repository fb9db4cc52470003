"""Several processes fit a model as one does: jobs of torchrun on this machine, beside the same work in this process."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch

import ranks_work
import scvi
from ranks_work import WORK, Answer
from scvi._settings import Settings
from scvi.cli import main
from scvi.cli.output import Output, Refused
from scvi.fit import ranks

TESTS = Path(ranks_work.__file__).parent
ALIKE = [name for name in WORK if name not in ("killed", "SIGTERM", "no seed", "silence", "different")]
"""Work whose answers are those of one process."""


def job(folder: Path, *arguments: str | Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Runs a script or a module under torchrun."""
    path = os.pathsep.join([str(Path(scvi.__file__).parents[1]), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=folder, timeout=600
    )


def work_of_job(folder: Path, *names: str) -> list[Answer]:
    """What each of two processes answers."""
    done = job(folder, ranks_work.__file__, folder, *names)
    assert done.returncode == 0, done.stderr
    return [dict(np.load(folder / f"process{rank}.npz")) for rank in range(2)]


def work_here(folder: Path, *names: str) -> Answer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {f"{name}/{key}": value for name in names for key, value in WORK[name](folder).items()}


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Largest difference, in units of the largest number."""
    assert first.shape == second.shape
    scale = max(float(np.nanmax(np.abs(first), initial=0)), 1e-30)
    return float(np.nanmax(np.abs(first - second), initial=0)) / scale


@pytest.mark.slow
def test_two_processes_fit_as_one_does(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    for folder in (together, alone):
        folder.mkdir()
    whole = work_here(alone, *ALIKE)
    says = job(together, ranks_work.__file__, together, "killed")
    shutil.copytree(together / "long", alone / "killed" / "long")
    first, second = work_of_job(together, *(name for name in WORK if name != "killed"))

    # ---- each step
    steps = [name for name in whole if name.endswith(("/first", "/second"))]
    assert len(steps) == 2 * len([name for name in WORK if name.startswith("gradients")])
    assert {name: d for name in steps if (d := distance(first[name], whole[name])) > 1e-5} == {}

    # ---- whole fits, with the noise of one process: what the issue of a fit is, and all of its history and weights
    for name in ("SCVI", "SCANVI", "TOTALVI"):
        ours, theirs = (answers[f"{name}/elbo_validation"] for answers in (first, whole))
        assert abs(ours[-1] / theirs[-1] - 1) < 0.002
        assert ours[-1] < 0.98 * ours[0]  # it has learned something
    compared = [name for name in whole if not name.endswith("/rows")]
    assert {name: d for name in compared if (d := distance(first[name], whole[name])) > 1e-3} == {}
    different = [name for name, value in first.items() if value.tobytes() != second[name].tobytes()]
    assert different == ["silence/messages"]

    # ---- what is decided is decided together
    assert whole["not finite/lr"][-1] < 0.6 * whole["few cells/lr"][0]
    assert 20 < whole["early stopping/epochs"] < 60
    assert first["callback/epochs"] == first["SIGTERM/epochs"] == 3
    assert first["SIGTERM/interrupted"]
    differ = {"validation": "training and validation cells", "cells": "cells", "options": "model"}
    for name, what in {**differ, "checkpoint": "checkpoint_dir"}.items():
        assert f"told to fit different things, by their {what}:" in str(first[f"different/{name}"])
    assert not np.array_equal(first["no seed/weights"], whole["few cells/weights"])

    # ---- what is read, written and used
    assert whole["on disk/rows"] > 3 * 540
    assert abs(first["on disk/rows"] / whole["on disk/rows"] - 0.5) < 0.01
    assert first["silence/messages"] > 0 == second["silence/messages"]
    assert first["silence/threads"] == max(1, len(os.sched_getaffinity(0)) // 2)
    loaded = scvi.SCVI.load(together / "saved", adata=ranks_work.make_adata())
    assert np.array_equal(ranks_work.weights(loaded), first["no seed/weights"])

    # ---- a job that lost a process, whose checkpoint another number of processes goes on from
    assert says.returncode != 0
    assert "process 0 of 2 lost the others" in says.stderr
    assert "resume=True" in says.stderr
    assert "exitcode  : -9" in says.stderr
    resumed = work_here(alone / "killed", "long")
    for name, value in resumed.items():
        assert distance(value, whole[name]) < 1e-4, name
        assert distance(first[name], whole[name]) < 1e-4, name


@pytest.mark.parametrize(("chosen", "share"), [(None, 4), (1, 1)])
def test_processes_share_cores_unless_the_threads_were_chosen(
    monkeypatch: pytest.MonkeyPatch, chosen: int | None, share: int
) -> None:
    """Also where one thread was chosen, which is what torchrun gives where nobody says how many."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(ranks, "settings", Settings())
    try:
        torch.set_num_threads(1)
        if chosen is not None:
            ranks.settings.num_threads = chosen
        ranks._share_threads()
        assert torch.get_num_threads() == share
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_the_command_line_is_a_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process alone prints and writes what one process does; without the picture, which takes a while."""
    monkeypatch.setenv("MPLBACKEND", "none that there is")
    ranks_work.make_adata(300).write_h5ad(tmp_path / "cells.h5ad")
    typed = ["train", "cells.h5ad", "--batch-key", "batch", "--max-epochs", "3", "--on-disk", "--set", "n_hidden=8"]
    done = job(tmp_path, "-m", "scvi", *typed, "--output", "together")
    assert done.returncode == 0, done.stderr
    with contextlib.chdir(tmp_path), patch("scvi.plots.available", return_value=False):
        assert main([*typed, "--output", "alone"]) == 0
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if "no picture" not in line]
    assert done.stdout.replace("together", "alone").splitlines() == lines
    assert done.stderr.count("300 cells x 40 genes") == said.err.count("300 cells x 40 genes") == 1
    files = [
        sorted(path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*"))
        for name in ("together", "alone")
    ]
    assert files[0] == files[1]
    together, alone = (pd.read_csv(tmp_path / name / "history.csv", index_col=0) for name in ("together", "alone"))
    pd.testing.assert_frame_equal(together, alone, rtol=1e-3)


def test_of_a_job_the_first_process_alone_looks_where_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time that others look it may have begun; what is wrong with the input each finds before it waits."""
    (tmp_path / "cells.h5ad").touch()
    output, absent = (Output(tmp_path / "fit", tmp_path / name) for name in ("cells.h5ad", "other.h5ad"))
    output.begin({})
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    with pytest.raises(Refused, match="is not empty"):
        output.check({}, resume=False, overwrite=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    output.check({}, resume=False, overwrite=False)
    with pytest.raises(Refused, match="there is no file"):
        absent.check({}, resume=False, overwrite=False)
    output.begin({"seed": 1})
    output.clear()
    assert "seed" not in output.options.read_text()
    ranks_work.small(scvi.SCVI).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
