"""Archives that nobody vouches for."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest

import formats
from scvi.data.archives import extract

FILES = {"a/one.txt": b"1" * 1000, "a/b/two.txt": b"2" * 1000}


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["w:gz", "w", "w:bz2", "w:xz", "zip"])
def test_files_and_folders(kind, tmp_path):
    path = tmp_path / "archive"
    formats.zipped(path, FILES) if kind == "zip" else formats.tar(path, FILES, kind)
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "one.txt").write_text("old")
    files = extract(path, tmp_path / "out")
    assert sorted(files) == sorted(tmp_path / "out" / name for name in FILES)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == FILES
    assert everything(tmp_path / "out") == ["a", "a/b", "a/b/two.txt", "a/one.txt"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:evil", "a/../evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_out(name, kind, tmp_path):
    path = tmp_path / "in" / "archive"
    path.parent.mkdir()
    members = {**FILES, name: b"!"}
    formats.zipped(path, members) if kind == "zip" else formats.tar(path, members)
    with pytest.raises(ValueError, match="leads out of the folder") as error:
        extract(path, tmp_path / "in" / "out")
    assert "\n" not in str(error.value)
    assert everything(tmp_path) == ["in", "in/archive", "in/out"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar(kind, tmp_path):
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
        for name in ("link/inner",):
            inner = tarfile.TarInfo(name)
            inner.size = 1
            archive.addfile(inner, io.BytesIO(b"!"))
    with pytest.raises(ValueError, match="link or device, 'link'"):
        extract(path, tmp_path / "out")
    assert everything(tmp_path / "out") == []


def test_links_in_a_zip(tmp_path):
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="holds a link, 'link'"):
        extract(path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_more_than_the_limit(kind, tmp_path):
    path = tmp_path / "archive"
    members = {"small": b"1", "large": b"\0" * 100_000}  # compresses to almost nothing
    formats.zipped(path, members) if kind == "zip" else formats.tar(path, members)
    assert path.stat().st_size < 2000
    with pytest.raises(ValueError, match="more than 50000 bytes"):
        extract(path, tmp_path / "out", largest=50_000)
    assert everything(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_cut_short(kind, tmp_path):
    path = tmp_path / "archive"
    noise = {"a": bytes(range(256)) * 500}
    formats.zipped(path, noise) if kind == "zip" else formats.tar(path, noise)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(ValueError, match="cannot be read as an archive") as error:
        extract(path, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert everything(tmp_path / "out") == []


@pytest.mark.parametrize("damage", ["between files", "in a header", "a header that is none", "no end"])
def test_a_tar_whose_last_files_are_lost(damage, tmp_path):
    path = formats.tar(tmp_path / "a.tar", {"one": b"1", "two": b"2"}, "w")
    content = bytearray(path.read_bytes())
    at = content.find(b"two")
    if damage == "a header that is none":
        content[at] = ord("x")
    cut = {"between files": at, "in a header": at + 100, "no end": at + 1024}
    path.write_bytes(content[: cut.get(damage)])
    with pytest.raises(ValueError, match=r"a.tar does not end as an archive does"):
        extract(path, tmp_path / "out")
    assert everything(tmp_path / "out") == []


@pytest.mark.parametrize("lost", [1, 8, 15])
def test_a_compressed_tar_without_its_checksum(lost, tmp_path):
    path = formats.tar(tmp_path / "a.tar.gz", FILES)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=r"a.tar.gz cannot be read as an archive: it ends too early"):
        extract(path, tmp_path / "out")
    assert everything(tmp_path / "out") == []


def test_no_archive_at_all(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"<html>404 Not Found</html>")
    with pytest.raises(ValueError, match="cannot be read as an archive"):
        extract(tmp_path / "a.tar.gz", tmp_path / "out")
    (tmp_path / "b.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        extract(tmp_path / "b.tar.gz", tmp_path / "out")
