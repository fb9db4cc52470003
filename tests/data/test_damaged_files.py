"""Files of published data sets with bytes cut, changed, moved or put in: they are read, or refused in one line."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import formats
import published_files as files
from published_files import GENES, N, X
from scvi.data import (
    read_10x,
    read_brain_large,
    read_cite_seq,
    read_cortex,
    read_csv,
    read_hemato,
    read_loom,
    read_pbmc,
    read_seqfish,
    read_seqfishplus,
    read_smfish,
)
from scvi.data.archives import extract
from scvi.dataset import BrainLargeDataset, DownloadableDataset, LoomDataset

Read = Callable[[Path], Any]


@dataclass
class Kind:
    """A good file, what reads such a file, and other files that the error may name."""

    path: Path
    read: Read
    others: tuple[Path, ...] = ()


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    folder = tmp_path_factory.mktemp("good")
    for write in (
        files.cortex,
        files.looms,
        files.seqfish,
        files.seqfishplus,
        files.cite_seq,
        files.hemato,
        files.pbmc,
    ):
        write(folder)
    for archive in ("data.zip", "seqfishplus.zip"):
        extract(folder / archive, folder)
    nameless = formats.write_10x_h5(folder / "nameless.h5", X, version=2, genome="mm10")
    with h5py.File(nameless, "a") as file:
        del file["mm10/genes"], file["mm10/gene_names"], file["mm10/barcodes"]
    cells = {"obs_names": formats.barcodes(N), "ClusterID": np.arange(N) % 4 * 1.0, "BatchID": np.arange(N) % 2 * 1.0}
    loom = formats.write_loom(folder / "f.loom", X, cells, {"var_names": GENES}, {"CellTypes": list("abcd")})
    texts = folder / "texts.loom"
    with h5py.File(loom) as file, h5py.File(texts, "w") as copy:  # of any length, as loompy writes them
        copy["matrix"] = file["matrix"][()]
        for name in ("col_attrs/obs_names", "row_attrs/var_names"):
            copy.create_dataset(name, data=file[name][()].astype(object), dtype=h5py.string_dtype())
    counts, centroids = (folder / "sourcedata" / f"cortex_svz_{name}.csv" for name in ("counts", "cellcentroids"))
    raw, spring, genes = folder / "bBM.raw_umifm_counts.csv.gz", *sorted((folder / "data").iterdir(), reverse=True)
    tables = [folder / "cbmc" / f"cbmc_{part}.csv.gz" for part in ("rna", "adt", "adt_centered")]
    runs = [read_10x(folder / name / "filtered_gene_bc_matrices.tar.gz") for name in ("pbmc8k", "pbmc4k")]
    metadata, info = folder / "pbmc_metadata.pickle", folder / "gene_info_pbmc.csv"
    return {
        "cortex": Kind(folder / "expression.bin", read_cortex),
        "loom": Kind(loom, read_loom),
        "loom of texts": Kind(texts, read_loom),
        "loom data set": Kind(loom, lambda path: populated(LoomDataset, path)),
        "brain large": Kind(nameless, lambda path: read_brain_large(path, n_genes=5)),
        "brain large data set": Kind(nameless, lambda path: populated(BrainLargeDataset, path)),
        "smfish": Kind(folder / "osmFISH_SScortex_mouse_all_cell.loom", read_smfish),
        "seqfish": Kind(folder / "SeqFISH.xlsx", read_seqfish),
        "seqfish+": Kind(counts, lambda path: read_seqfishplus(path, centroids), (centroids,)),
        "centroids": Kind(centroids, lambda path: read_seqfishplus(counts, path), (counts,)),
        "spring": Kind(spring, lambda path: read_hemato(raw, path, genes), (raw,)),
        "list of genes": Kind(genes, lambda path: read_hemato(raw, spring, path), (raw,)),
        "ratios": Kind(tables[2], lambda path: read_cite_seq(tables[0], tables[1], path), (tables[1],)),
        "metadata": Kind(metadata, lambda path: read_pbmc(runs, path, info)),
        "table of genes": Kind(info, lambda path: read_pbmc(runs, metadata, path)),
    }


NAMES = (
    *(
        "cortex",
        "loom",
        "loom of texts",
        "loom data set",
        "brain large",
        "brain large data set",
        "smfish",
        "seqfish",
        "seqfish+",
    ),
    *("centroids", "spring", "list of genes", "ratios", "metadata", "table of genes"),
)


def populated(kind: type[DownloadableDataset], path: Path) -> DownloadableDataset:
    """A data set of a file; if it is refused, nothing of it is left behind."""
    dataset = kind(filename=path.name, save_path=str(path.parent), delayed_populating=True)  # type: ignore[call-arg]
    try:
        dataset.populate()
    except Exception:
        assert "unpopulated" in repr(dataset)
        raise
    return dataset


def read_or_refused(read: Read, path: Path) -> Any:
    """What comes of a file, or what is said of it."""
    try:
        return read(path)
    except ValueError as error:
        return str(error)


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Something that happens to the bytes of a file, anywhere in it."""
    kind = draw(st.sampled_from(["cut", "change", "empty", "put in", "take out", "move"]))
    at, to = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    length = draw(st.sampled_from([1, 2, 8, 64, 512]))
    what = draw(
        st.sampled_from([b"\t", b"\n", b",", b"(none)", b"nan", b"-1", b"e3000000000", b"\xff" * 8])
        | st.binary(max_size=8)
    )

    def damaged(content: bytes) -> bytes:
        i, j = int(at * len(content)), int(to * len(content))
        return {
            "cut": content[:i],
            "change": content[:i] + what + content[i + len(what) :],
            "empty": content[:i] + bytes(length) + content[i + length :],
            "put in": content[:i] + what + content[i:],
            "take out": content[:i] + content[i + length :],
            "move": content[:i] + content[j : j + length] + content[i + length :],
        }[kind]

    return damaged


@pytest.mark.filterwarnings("ignore::UserWarning")  # names that are gone are said
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_read_or_refused_in_one_line(name: str, kinds: dict[str, Kind], tmp_path: Path) -> None:
    kind = kinds[name]
    content, path = kind.path.read_bytes(), tmp_path / kind.path.name

    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(damages())
    def check(damage: Callable[[bytes], bytes]) -> None:
        path.write_bytes(damage(content))
        found = read_or_refused(kind.read, path)
        if isinstance(found, str):
            assert "\n" not in found
            assert found == "no cell would be left" or any(str(p) in found for p in (path, *kind.others)), found
        elif isinstance(found, AnnData):
            assert found.obs_names.is_unique
            assert found.var_names.is_unique
            assert found.X.indices.max(initial=0) < found.n_vars

    check()


@pytest.mark.parametrize("name", NAMES)
def test_good_files_are_read(name: str, kinds: dict[str, Kind]) -> None:
    if name == "brain large":
        with pytest.warns(UserWarning, match="no names of genes"):
            assert kinds[name].read(kinds[name].path) is not None
    else:
        assert kinds[name].read(kinds[name].path) is not None


HUGE = "1e3000000000"
"""Ends the program in the parser of numbers of pandas 2.3."""


def test_an_exponent_of_ten_digits_is_no_number(kinds: dict[str, Kind], tmp_path: Path) -> None:
    for name, column in (("spring", 2), ("centroids", 3), ("seqfish+", 4), ("table of genes", 2)):
        kind = kinds[name]
        lines = [line.split(",") for line in kind.path.read_text().splitlines()]
        lines[3][column] = HUGE
        path = tmp_path / kind.path.name
        path.write_text("\n".join(map(",".join, lines)))
        if name == "table of genes":
            assert HUGE in kind.read(path).var["CD_logFC"].tolist()  # whose columns may be anything
        else:
            with pytest.raises(ValueError, match="no numbers"):
                kind.read(path)
    (tmp_path / "f.csv").write_text(f",a,b\nc,1,{HUGE}\nd,1,2\n")
    with pytest.raises(ValueError, match=f"column 'b' holds '{HUGE}' beside numbers"):
        read_csv(tmp_path / "f.csv")
    rows = [["'A'", 1, 2], ["'B'", HUGE, 4]]
    pd.DataFrame(rows).to_excel(tmp_path / "f.xlsx", sheet_name="Hippocampus Counts", header=False, index=False)
    with pytest.raises(ValueError, match="no numbers"):
        read_seqfish(tmp_path / "f.xlsx")


ODD: dict[str, Any] = {
    "records": np.zeros(N, [("a", "i4"), ("b", "S3")]),
    "complex numbers": np.zeros(N, complex),
    "three dimensions": np.zeros((N, 2, 2)),
    "large": np.full(N, 2**62),
    "larger": np.full(N, 2**64 - 1, np.uint64),
    "infinite": np.full(N, np.inf),
    "missing": np.full(N, np.nan),
    "empty text": np.array([b""] * N),
    "no UTF-8": np.array([b"\xe4"] * N),
    "a number": 3,
    "nothing": h5py.Empty("f4"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["CellID", "ClusterID", "ClusterName", "X", "BatchID", "CellTypes", "Gene", "matrix"])
def test_odd_attributes_of_loom_files(name: str, odd: str, tmp_path: Path) -> None:
    numbers = {"ClusterID": np.arange(N) % 3, "BatchID": np.arange(N) % 2, "X": np.arange(N), "Y": np.arange(N)}
    cells = {**numbers, "CellID": formats.barcodes(N), "ClusterName": ["a"] * N}
    path = formats.write_loom(tmp_path / "f.loom", X, cells, {"Gene": GENES}, {"CellTypes": list("abc")})
    with h5py.File(path, "a") as file:
        place = {"CellTypes": file.attrs, "Gene": file["row_attrs"], "matrix": file}.get(name, file["col_attrs"])
        del place[name]
        place[name] = ODD[odd][: len(GENES)] if name == "Gene" and isinstance(ODD[odd], np.ndarray) else ODD[odd]
    for read in (read_loom, read_smfish, lambda path: populated(LoomDataset, path)):
        found = read_or_refused(read, path)
        assert not isinstance(found, str) or ("\n" not in found and str(path) in found), found


def test_a_zip_that_holds_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "SeqFISH.xlsx", "w") as archive:
        archive.writestr("a.txt", "b")
    with pytest.raises(ValueError, match=r"SeqFISH\.xlsx cannot be read as an Excel workbook"):
        read_seqfish(tmp_path / "SeqFISH.xlsx")
