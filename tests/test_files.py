"""Files and folders are there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scvi._files import replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_older_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with replacing(tmp_path / "a.csv") as temporary:
            assert temporary.suffix == ".csv"
            assert temporary.parent == tmp_path
            temporary.write_text(text)
    assert (tmp_path / "a.csv").read_text() == "new"
    assert names(tmp_path) == ["a.csv"]


def filled(folder: Path, **texts: str) -> None:
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)


def test_a_folder_takes_the_place_of_the_older_one(tmp_path: Path) -> None:
    with replacing(tmp_path / "model") as temporary:
        filled(temporary, weights="old", description="old")
    with replacing(tmp_path / "model") as temporary:
        filled(temporary, weights="new")
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["weights"]
    assert (tmp_path / "model" / "weights").read_text() == "new"


def half_written(path: Path, write: Callable[[Path], object], error: type[BaseException]) -> None:
    with replacing(path) as temporary:
        write(temporary)
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there_and_nothing_else(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("old")
    filled(tmp_path / "model", weights="old")
    writers = {"a.csv": lambda path: path.write_text("half"), "model": lambda path: filled(path, weights="half")}
    for name, write in {**writers, "nothing": lambda path: None}.items():
        with pytest.raises(error):
            half_written(tmp_path / name, write, error)
    assert names(tmp_path) == ["a.csv", "model"]
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "model" / "weights").read_text() == "old"


def test_the_old_folder_comes_back_where_the_new_one_cannot_be_moved(tmp_path: Path, monkeypatch) -> None:
    filled(tmp_path / "model", weights="old")
    rename = Path.rename

    def fails_once_aside(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "model" and not self.name.endswith(".old"):
            raise OSError("no room")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_once_aside)
    with pytest.raises(OSError, match="no room"), replacing(tmp_path / "model") as temporary:
        filled(temporary, weights="new")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "old"
