"""Counts that live on a device; here the device is the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from scvi.cells import cell_data
from scvi.cells.cell_data import CellData
from scvi.cells.encode import encode
from scvi.cells.setup import declare

CPU = torch.device("cpu")


@pytest.mark.parametrize("layout", [sparse.csr_matrix, np.asarray], ids=["sparse", "dense"])
@pytest.mark.parametrize("mask", [None, "chosen"])
def test_minibatches_are_the_same(
    cells: AnnData, layout: type, mask: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells.X = layout(cells.X.toarray())
    schema, *_ = declare(cells, batch_key="batch", mask_var=mask)
    data = encode(cells, schema)
    assert data.on(CPU) is data
    monkeypatch.setattr(cell_data, "fits", lambda counts, device: True)
    resident = data.on(CPU)
    assert resident is not data
    assert resident.on(CPU) is resident
    chosen = np.array([5, 0, 149, 5])
    for a, b in [(data.minibatch(chosen), resident.minibatch(chosen)), *epochs(data, resident)]:
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.totals, b.totals)
        assert torch.equal(a.batch, b.batch)
        assert torch.equal(a.indices, b.indices)


def epochs(data: CellData, resident: CellData) -> list:
    order = [list(d.epoch(np.arange(len(d)), 32, np.random.default_rng(0))) for d in (data, resident)]
    return list(zip(*order, strict=True))


def test_cells_in_memory_fit_on_a_gpu_only_if_there_is_room(cells: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    schema, *_ = declare(cells)
    data = encode(cells, schema)
    gpu = torch.device("cuda", 0)
    for free, expected in ((0, False), (2**40, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 2**40))
        assert cell_data.fits(data.counts, gpu) is expected
        assert cell_data.fits(replace(data, counts=cells.X.toarray()).counts, gpu) is expected
