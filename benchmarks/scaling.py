"""What several processes make of a fit: measured with one and two of them, and reckoned for more.

    python benchmarks/scaling.py --data FOLDER

Cells of pbmc_cite_10k_5k, drawn with replacement, with the genes of highest total; the default model of SCVI.

Measured, in jobs of torchrun with one thread a process:

* a step: processor seconds of a process, by the number of its cells, in a job of one process (`alone`) and of two (`of
  two`, which share a minibatch of twice as many cells): the difference is what a step pays for not being alone. Jobs
  alternate; medians over rounds;
* loading: processor seconds a cell, of minibatches from memory and from an .h5ad, without training;
* set-up: processor seconds a cell of one look at all counts;
* the end of a backward pass: processor seconds from when the gradients of the decoder's heads, most of the bucket, are
  there until all are: this much of a message could go on behind computing, if it were sent in two;
* a message: seconds of an all-reduce of so many numbers between two processes of this machine, the least and the median
  of many.

Reckoned from these, for workers with one core for training, one for reading, and a network between them as given by
--latency and --bandwidth: minutes of an epoch by the number of workers. See docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata
import numpy as np
import torch
from common import DEFAULT_DATA, load_average, machine, median, most_counted, read, resampled, table

SOURCE = "pbmc_cite_10k_5k"
OF_A_PROCESS = (16, 32, 64, 128, 256)  # cells in a step
MESSAGES = (1_024, 65_536, 800_000, 4_000_000)  # numbers of 4 bytes
WARM_UP = 10  # steps, which are not timed


# ---- in a job ------------------------------------------------------------------------------------------------------


def steps(path: Path, n_steps: int) -> dict[str, float]:
    """Processor seconds of a step of this process, by the number of its cells."""
    from scvi import SCVI
    from scvi.fit.fit import Fit

    size, found, counted = int(os.environ["WORLD_SIZE"]), {}, Fit.on_iteration_end
    adata = anndata.read_h5ad(path)
    SCVI.setup_anndata(adata, batch_key="batch")
    plan = {"max_steps": n_steps + WARM_UP, "train_size": 1.0, "seed": 0, "enable_progress_bar": False}
    for cells in OF_A_PROCESS:
        ticks: list[float] = []

        def noting(self: Fit, ticks: list[float] = ticks) -> None:
            ticks.append(time.process_time())
            counted(self)

        with patch.object(Fit, "on_iteration_end", noting):
            SCVI(adata, seed=0).train(20, batch_size=cells * size, **plan)
        found[str(cells)] = median(np.diff(ticks[WARM_UP:]).tolist())
    return found


def end_of_backward(path: Path, n_steps: int, cells: int = 128) -> tuple[float, int]:
    """Processor seconds after the gradients of the decoder's heads, and how many numbers a gradient has."""
    from scvi import SCVI
    from scvi.fit.optimizer import ClippedAdam

    adata, ends, heads = anndata.read_h5ad(path), [], [0.0]
    SCVI.setup_anndata(adata, batch_key="batch")
    model, step = SCVI(adata, seed=0), ClippedAdam.clipped_step

    def noting(self: ClippedAdam, loss: torch.Tensor) -> torch.Tensor:
        ends.append(time.process_time() - heads[0])
        return step(self, loss)

    def there(_: torch.Tensor) -> None:
        heads[0] = time.process_time()

    for name, p in model.module.decoder.named_parameters():
        if name.startswith(("px_scale", "px_dropout")):
            p.register_post_accumulate_grad_hook(there)
    with patch.object(ClippedAdam, "clipped_step", noting):
        model.train(20, batch_size=cells, max_steps=n_steps + WARM_UP, seed=0, enable_progress_bar=False)
    return median(ends[WARM_UP:]), sum(p.numel() for p in model.module.parameters())


def messages(rounds: int) -> dict[str, tuple[float, float, float]]:
    """Seconds of an all-reduce by its length: least, median, and of the processor."""
    import torch.distributed as dist

    if int(os.environ["WORLD_SIZE"]) == 1:
        return {}
    dist.init_process_group("gloo")
    found = {}
    for length in MESSAGES:
        values, times = torch.ones(length), []
        dist.all_reduce(values)
        of_processor = time.process_time()
        for _ in range(rounds):
            dist.barrier()
            begin = time.perf_counter()
            dist.all_reduce(values)
            times.append(time.perf_counter() - begin)
        of_processor = (time.process_time() - of_processor) / rounds
        found[str(length)] = min(times), median(times), of_processor
    dist.destroy_process_group()
    return found


def work(arguments: argparse.Namespace) -> None:
    """What a process of a job does; the first one writes what it found."""
    torch.set_num_threads(1)
    if arguments.job == "messages":
        found: Any = messages(arguments.messages)
    else:
        found = steps(arguments.cells_file, arguments.steps)
    if os.environ["RANK"] == "0":
        arguments.out.write_text(json.dumps(found))


def run_job(kind: str, processes: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Starts this file under torchrun."""
    out = folder / f"{kind}-{processes}.json"
    options = ["--job", kind, "--out", out, "--cells-file", folder / "cells.h5ad"]
    options += ["--steps", arguments.steps, "--messages", arguments.messages]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([*map(str, [*command, *options])], check=True, env=environment)
    return json.loads(out.read_text())


# ---- here ----------------------------------------------------------------------------------------------------------


def processor_time(call: Callable[[], object]) -> float:
    """Of this process, in seconds."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def loading(path: Path) -> dict[str, float]:
    """Processor seconds a cell: of minibatches from memory and a file, and of a look at all counts."""
    from scvi.cells.encode import encode
    from scvi.cells.setup import declare

    torch.set_num_threads(1)
    stored, in_memory = anndata.read_h5ad(path, backed="r"), anndata.read_h5ad(path)
    n, found = in_memory.n_obs, {}
    for name, adata in {"memory": in_memory, "file": stored}.items():
        declare(adata[:100].to_memory(), batch_key="batch")  # compiles
        found[f"set-up, {name}"] = processor_time(lambda adata=adata: declare(adata, batch_key="batch")) / n
        schema, *_ = declare(adata, batch_key="batch")
        data = encode(adata, schema, validate=False)

        def epoch(data: Any = data) -> Iterator[Any]:
            return data.epoch(np.arange(n), 128, np.random.default_rng(0))

        for _ in range(2):
            found[f"minibatches, {name}"] = processor_time(lambda epoch=epoch: [len(mb) for mb in epoch()]) / n
    return found


class Costs:
    """Seconds of what a fit does, by straight lines through what was measured."""

    def __init__(
        self,
        alone: dict[str, float],
        of_two: dict[str, float],
        of_loading: dict[str, float],
        n_parameters: int,
        latency: float,
        bandwidth: float,
    ) -> None:
        cells = np.array(OF_A_PROCESS, dtype=float)
        self.a_cell, self.a_step = np.polyfit(cells, [alone[str(n)] for n in OF_A_PROCESS], 1)
        self.together = max(0.0, float(np.median([of_two[str(n)] - alone[str(n)] for n in OF_A_PROCESS])))
        self.load, self.set_up = of_loading["minibatches, file"], of_loading["set-up, file"]
        self.n_bytes, self.latency, self.bandwidth = 4 * n_parameters, latency, bandwidth

    def step(self, workers: int, batch_size: int) -> dict[str, float]:
        """Of a step: computing, and messages between machines."""
        computing = self.a_step + self.a_cell * batch_size / workers
        if workers == 1:
            return {"computing": computing, "messages": 0.0}
        rounds = 2 * np.ceil(np.log2(workers))
        of_gradient = 2 * (workers - 1) / workers * self.n_bytes / self.bandwidth
        return {"computing": computing + self.together, "messages": 5 * rounds * self.latency + of_gradient}

    def epoch(self, n_cells: float, workers: int, batch_size: int) -> dict[str, float]:
        """Of all steps of an epoch; reading goes on beside them."""
        parts = {name: value * n_cells / batch_size for name, value in self.step(workers, batch_size).items()}
        parts["reading"] = self.load * n_cells / workers
        parts["all"] = max(parts["computing"] + parts["messages"], parts["reading"])
        return parts


def reckoned(costs: Costs) -> str:
    """Minutes of an epoch by cells, workers and minibatch."""
    rows = []
    for n_cells in (1e6, 1e7, 1e8):
        for of_a_worker in (None, 128):
            row = [f"{n_cells:,.0f}", "128" if of_a_worker is None else "128 a worker"]
            for workers in (1, 2, 4, 8, 16, 32, 64):
                parts = costs.epoch(n_cells, workers, of_a_worker * workers if of_a_worker else 128)
                most = max(("computing", "messages", "reading"), key=lambda name, parts=parts: parts[name])
                row.append(f"{parts['all'] / 60:,.1f} {most[0]}")
            rows.append(row)
    return table(["cells", "minibatch", *(f"{w} workers" for w in (1, 2, 4, 8, 16, 32, 64))], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each size")
    parser.add_argument("--rounds", type=int, default=3, help="jobs of one and of two processes, in turn")
    parser.add_argument("--messages", type=int, default=100, help="messages of each length")
    parser.add_argument("--latency", type=float, default=5e-5, help="seconds of a message between machines")
    parser.add_argument("--bandwidth", type=float, default=1.25e9, help="bytes a second between machines (10 Gbit/s)")
    for name in ("--job", "--out", "--cells-file"):  # of a process of a job
        parser.add_argument(name, type=str if name == "--job" else Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        work(arguments)
        return

    print(f"{machine()}\nload average {load_average()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resampled(most_counted(read(arguments.data, SOURCE), arguments.genes), arguments.cells).write_h5ad(
            folder / "cells.h5ad"
        )
        rounds = [[run_job("steps", n, arguments, folder) for n in (1, 2)] for _ in range(arguments.rounds)]
        of_messages = run_job("messages", 2, arguments, folder)
        of_loading = loading(folder / "cells.h5ad")
        end, n_parameters = end_of_backward(folder / "cells.h5ad", arguments.steps)
    alone, of_two = ({n: median([one[i][n] for one in rounds]) for n in map(str, OF_A_PROCESS)} for i in range(2))
    rows = [[n, f"{1e3 * alone[n]:.2f}", f"{1e3 * of_two[n]:.2f}", f"{of_two[n] / alone[n]:.2f}"] for n in alone]
    print(f"\n{arguments.cells:,} cells of {SOURCE}, {arguments.genes:,} genes; processor ms of a step, one thread")
    print(table(["cells of a process", "alone", "of two", "ratio"], rows))
    print(f"end of the backward pass of 128 cells, after the decoder's heads: {1e3 * end:.2f} ms")
    print(table(["processor µs a cell", ""], [[name, f"{1e6 * value:.1f}"] for name, value in of_loading.items()]))
    rows = [[f"{int(n):,}", *(f"{1e3 * value:.2f}" for value in values)] for n, values in of_messages.items()]
    print(table(["numbers in a message", "least ms", "median ms", "processor ms"], rows))
    costs = Costs(alone, of_two, of_loading, n_parameters, arguments.latency, arguments.bandwidth)
    print(
        f"\na step: {1e3 * costs.a_step:.2f} ms, {1e6 * costs.a_cell:.1f} µs a cell, {1e3 * costs.together:.2f} ms "
        f"where others share it\nminutes of an epoch; c: computing takes most, m: messages, r: reading"
    )
    print(reckoned(costs))


if __name__ == "__main__":
    main()
