"""HDF5 files whose values are in other files: refused by every reader, and read where that is allowed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import formats
import scvi
from grids import each_of
from scvi._links import refuse_links
from scvi.cli import main
from scvi.data import read_10x, read_h5ad, read_loom, to_store
from scvi.dataset import BrainLargeDataset, DownloadableAnnDataset, LoomDataset
from scvi.inference import UnsupervisedTrainer, load_posterior
from scvi.models import VAE
from small_cells import TINY, make_adata

X = formats.counts()
N, G = X.shape
CELLS, (IDS, SYMBOLS) = formats.barcodes(N), formats.names(G)


def h5ad(path: Path) -> Path:
    obs = pd.DataFrame({"depth": np.arange(N)}, index=CELLS)
    AnnData(X, obs=obs, var=pd.DataFrame(index=IDS)).write_h5ad(path)
    return path


def loom(path: Path) -> Path:
    return formats.write_loom(path, X, {"CellID": CELLS, "depth": np.arange(N)}, {"Gene": IDS})


def tenx(path: Path) -> Path:
    return formats.write_10x_h5(path, X)


READERS: dict[str, tuple[Callable[[Path], Path], Callable[..., AnnData], list[str]]] = {
    "h5ad": (h5ad, read_h5ad, ["X/data", "obs/depth", "X", "obs"]),
    "loom": (loom, read_loom, ["matrix", "col_attrs/depth", "col_attrs"]),
    "10x": (tenx, read_10x, ["matrix/data", "matrix/features/id", "matrix"]),
}


def move(path: Path, place: str, kind: str) -> Path:
    """Puts what is at a place of a file into another one, and leaves behind what leads to it."""
    other = path.with_name("secrets.h5")
    with h5py.File(path, "r+") as file, h5py.File(other, "w") as there:
        attributes = dict(file[place].attrs)
        if kind == "raw":
            values, dtype = file[place][()], file[place].dtype
            path.with_name("secrets.h5").unlink()
            path.with_name("secrets.h5").write_bytes(values.tobytes())
            del file[place]
            file.create_dataset(place, values.shape, dtype, external=[(str(other), 0, values.nbytes)])
        else:
            file.copy(place, there, "inner")
            shape, dtype = (file[place].shape, file[place].dtype) if kind == "virtual" else ((), None)
            del file[place]
            if kind == "virtual":
                layout = h5py.VirtualLayout(shape, dtype)
                layout[...] = h5py.VirtualSource("secrets.h5", "inner", shape)
                file.create_virtual_dataset(place, layout)
            else:
                out = {"X": "uns/out", "obs": "uns/out", "X/data": "X/out", "obs/depth": "obs/out"}.get(place, "out")
                file[out if kind == "soft" else place] = h5py.ExternalLink("secrets.h5", "/inner")
                if kind == "soft":  # a link within the file, to one that leads out of it
                    file[place] = h5py.SoftLink(f"/{out}")
        if kind in ("virtual", "raw"):
            file[place].attrs.update(attributes)
    return path


def contents(adata: AnnData) -> tuple[Any, ...]:
    return adata.X.toarray().tolist(), adata.obs.to_dict(), adata.var_names.tolist()


def is_possible(reader: str, place: str, kind: str) -> bool:
    """Groups are no values, and text of any length is stored in the file itself."""
    group = place in ("X", "obs", "col_attrs") or (reader, place) == ("10x", "matrix")
    return kind in ("external", "soft") or not (group or (kind == "raw" and place.endswith("id")))


KINDS = ("external", "soft", "virtual", "raw")
CASES = [
    (reader, place, kind)
    for reader, (_, _, places) in READERS.items()
    for place in places
    for kind in KINDS
    if is_possible(reader, place, kind)
]


@pytest.mark.parametrize(("reader", "place", "kind"), CASES)
def test_what_is_in_another_file_is_refused_unless_allowed(reader: str, place: str, kind: str, tmp_path: Path) -> None:
    write, read, _ = READERS[reader]
    suffix = {"10x": "h5"}.get(reader, reader)
    expected = contents(read(write(tmp_path / f"plain.{suffix}")))
    path = move(write(tmp_path / f"f.{suffix}"), place, kind)
    says = rf"f\.{suffix} cannot be read as .* another file, '.*secrets\.h5', .* allow_links=True"
    with pytest.raises(ValueError, match=says):
        read(path)
    assert contents(read(path, allow_links=True)) == expected
    with pytest.raises(ValueError, match=r"another file, '.*secrets\.h5'"):
        to_store(path, tmp_path / "s.h5ad")
    assert sorted(file.name for file in tmp_path.iterdir() if "s.h5ad" in file.name) == []
    store = to_store(path, tmp_path / "s.h5ad", allow_links=True)
    assert (anndata.read_h5ad(store).X != X).nnz == 0


@pytest.mark.parametrize(("reader", "kind"), [(reader, kind) for reader in READERS for kind in KINDS])
def test_a_link_that_leads_nowhere_is_no_row_of_zeros(reader: str, kind: str, tmp_path: Path) -> None:
    write, read, (place, *_) = READERS[reader]
    path = move(write(tmp_path / "f"), place, kind)
    (tmp_path / "secrets.h5").unlink()
    with pytest.raises(ValueError, match=r"f cannot be read as .*secrets\.h5.* not there"):
        read(path, allow_links=True)
    if kind == "raw":
        (tmp_path / "secrets.h5").write_bytes(b"short")
        with pytest.raises(ValueError, match=r"secrets\.h5' and others, which are too short"):
            read(path, allow_links=True)
    elif kind == "virtual":
        h5py.File(tmp_path / "secrets.h5", "w").close()
        with pytest.raises(ValueError, match=r"secrets\.h5', which is not there or has none"):
            read(path, allow_links=True)


@pytest.mark.parametrize("reader", READERS)
@each_of(wrong=[1, "yes", None])
def test_the_option_is_a_flag(reader: str, tmp_path_factory: pytest.TempPathFactory, wrong: Any) -> None:
    write, read, _ = READERS[reader]
    path = write(tmp_path_factory.mktemp("f") / "f")
    for call in (lambda: read(path, allow_links=wrong), lambda: to_store(path, "s.h5ad", allow_links=wrong)):
        with pytest.raises(ValueError, match=r"allow_links=.* is not True or False"):
            call()


# ---- links within a file ---------------------------------------------------------------------------------------------


def test_links_within_a_file_are_followed(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "f.h5ad")
    with h5py.File(path, "r+") as file:
        file.move("X/data", "X/values")
        file["X/data"] = h5py.SoftLink("/X/values")
        file["uns/again"] = file["obs"]
        file["uns/nowhere"] = h5py.SoftLink("/nothing")
        file["obs/all"] = file["obs"]  # a group within itself
        layout = h5py.VirtualLayout((N,), int)
        layout[:] = h5py.VirtualSource(file["obs/depth"])
        file.create_virtual_dataset("obs/same", layout)
        refuse_links(file)
        del file["uns/nowhere"], file["obs/all"]
    assert contents(read_h5ad(path))[0] == X.toarray().tolist()


def virtual(file: h5py.File, place: str, source: str) -> None:
    """A dataset of rows of three values, each of which is of a source of the same file; %b in its name is a number."""
    rows, form = (h5py.h5s.UNLIMITED if "%" in source else 1), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    space = h5py.h5s.create_simple((1, 3), (rows, 3))
    space.select_hyperslab((0, 0), (rows, 1), block=(1, 3))
    form.set_virtual(space, b".", source.encode(), h5py.h5s.create_simple((3,)))
    h5py.h5d.create(file.id, place.encode(), h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((1, 3), (rows, 3)), form)


def test_parts_of_the_same_file_that_are_not_there(tmp_path: Path) -> None:
    """HDF5 would read zeros, and die of two datasets that are put together of each other."""
    for sources in ([("a", "nothing")], [("a", "b"), ("b", "a")], [("a", "a")], [("a", "p%b")], [("a", "group")]):
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file.create_group("group")
            file["p%b"] = np.ones(3)
            for place, source in sources:
                virtual(file, place, source)
        for allow in (False, True):
            with (
                h5py.File(tmp_path / "f.h5") as file,
                pytest.raises(ValueError, match=r"/a has its values in '.* of the same file', which is not there or"),
            ):
                refuse_links(file, allow)


def test_parts_of_the_same_file_that_claim_more_than_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.loom", "w") as file:
        file["little"] = np.ones((1, 1), np.float32)
        layout = h5py.VirtualLayout((10**6, 10**6), np.float32)
        layout[:1, :1] = h5py.VirtualSource(file["little"])
        file.create_virtual_dataset("matrix", layout)
    with pytest.raises(ValueError, match=r"/matrix claims 1000000 x 1000000 values"):
        read_loom(tmp_path / "f.loom")


def test_groups_without_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        group = file
        for _ in range(1000):
            group = group.create_group("a")
        with pytest.raises(ValueError, match="nested more than 200 deep"):
            refuse_links(file)


# ---- files that other packages read, and classes of 2020 -------------------------------------------------------------


def test_the_cells_beside_a_model(tmp_path: Path) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    scvi.SCVI(adata, **TINY).save(tmp_path / "model", save_anndata=True)
    move(tmp_path / "model" / "adata.h5ad", "X/data", "external")
    with pytest.raises(ValueError, match=r"adata\.h5ad is .*another file, 'secrets\.h5'.*pass adata to load without"):
        scvi.SCVI.load(tmp_path / "model")
    assert scvi.SCVI.load(tmp_path / "model", adata).adata is adata


def test_the_cells_of_a_posterior(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "f.h5ad")
    data_set = DownloadableAnnDataset("f.h5ad", save_path=str(tmp_path))
    model = VAE(G, n_hidden=4)
    UnsupervisedTrainer(model, data_set).create_posterior(model, data_set).save_posterior(str(tmp_path / "posterior"))
    move(tmp_path / "posterior" / "anndata_dataset.h5ad", "X", "external")
    with pytest.raises(ValueError, match=r"posterior' is no complete directory.*another file, 'secrets\.h5'"):
        load_posterior(tmp_path / "posterior", model, use_cuda=False)
    assert path.exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = move(h5ad(tmp_path / "f.h5ad"), "obs/depth", "external")
    assert main(["train", str(path), "--output", str(tmp_path / "out")]) != 0
    assert "another file, 'secrets.h5'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reader", READERS)
def test_data_sets_of_2020(reader: str, tmp_path: Path) -> None:
    write, _, (place, *_) = READERS[reader]
    move(write(tmp_path / "f"), place, "external")
    make: dict[str, Callable[[], Any]] = {
        "h5ad": lambda: DownloadableAnnDataset("f", save_path=str(tmp_path)),
        "loom": lambda: LoomDataset("f", save_path=str(tmp_path)),
        "10x": lambda: BrainLargeDataset("f", save_path=str(tmp_path)),
    }
    with pytest.raises(ValueError, match=r"another file, 'secrets\.h5'"):
        make[reader]()


def test_a_target_beside_the_file_or_by_its_full_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = move(loom(tmp_path / "f.loom"), "matrix", "virtual")
    monkeypatch.chdir(os.sep)
    assert (read_loom(path, allow_links=True).X != X).nnz == 0
