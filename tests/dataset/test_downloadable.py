from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scvi.dataset import DownloadableDataset


class Table(DownloadableDataset):
    """Counts from text files, one below the other; the last line may be left out."""

    def __init__(self, *arguments: Any, lines: int | None = None, **more: Any) -> None:
        self.lines = lines
        super().__init__(*arguments, **more)

    def populate(self) -> None:
        paths = [Path(self.save_path) / name for name in self.filenames]
        self.populate_from_per_batch_list([np.loadtxt(path, ndmin=2, max_rows=self.lines) for path in paths])


def test_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2\n3 4\n")
    dataset = Table(filenames="a.txt", save_path=tmp_path, lines=1)
    assert dataset.X.tolist() == [[1, 2]]
    assert dataset.lines == 1  # what a subclass has set stays
    assert (dataset.urls, dataset.filenames, dataset.save_path) == ([], ["a.txt"], str(tmp_path))


def test_the_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Table(delayed_populating=True).save_path == str(tmp_path / "data")


def test_populating_later(tmp_path: Path) -> None:
    dataset = Table(filenames=["a.txt"], save_path=tmp_path, delayed_populating=True)
    assert repr(dataset) == "GeneExpressionDataset object (unpopulated)"
    (tmp_path / "a.txt").write_text("1 2\n")
    dataset.populate()
    assert dataset.nb_cells == 1


def test_each_url_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download_file(url: str, filename: str, save_path: str) -> None:
        asked.append((url, filename, save_path))
        (Path(save_path) / filename).write_text("1 2\n")

    monkeypatch.setattr("scvi.dataset.dataset.download_file", download_file)
    dataset = Table(["http://a", "http://b"], save_path=tmp_path)
    assert asked == [("http://a", "dataset_0", str(tmp_path)), ("http://b", "dataset_1", str(tmp_path))]
    assert dataset.batch_indices.ravel().tolist() == [0, 1]
    asked.clear()
    Table("http://c", ["c.txt", "dataset_0"], tmp_path)  # the second has no URL
    assert asked == [("http://c", "c.txt", str(tmp_path))]


def test_files_need_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are 2 urls and 1 filenames; name each file"):
        Table(["http://a", "http://b"], "a", tmp_path)


def test_the_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        DownloadableDataset()  # type: ignore[abstract]
