"""Downloads from a server of this machine: whole, cut, damaged, refused, and without one."""

from __future__ import annotations

import ftplib
import hashlib
import logging
import socket
from pathlib import Path

import numpy as np
import pytest

import scvi.data.download
from scvi.data.download import cache_folder, download_file
from scvi.data.published import FILES, PublishedFile, known_file, tenx_file
from web import serving

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = {"wait": 0.001, "timeout": 5.0, "progress": False}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_once(tmp_path, caplog, capfd):
    with serving(files={"/a/cells.bin": CONTENT}) as web, caplog.at_level(logging.INFO, "scvi"):
        path = download_file(f"{web.url}/a/cells.bin", save_path=tmp_path / "new", **QUICK)
        again = download_file(f"{web.url}/a/cells.bin", save_path=tmp_path / "new", **QUICK)
    assert path == again == tmp_path / "new" / "cells.bin"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["cells.bin"]
    assert len(web.requests) == 1
    assert f"Downloading file at {path}" in caplog.text
    assert f"File {path} already downloaded" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_it_goes_to_the_cache_unless_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SCVI_CACHE", str(tmp_path / "cache"))
    with serving(files={"/cells.bin": CONTENT}) as web:
        path = download_file(f"{web.url}/cells.bin", **QUICK)
    assert path == tmp_path / "cache" / "cells.bin"
    monkeypatch.delenv("SCVI_CACHE")
    assert cache_folder().name == "scvi"


def test_a_cut_connection_is_resumed_where_it_broke(tmp_path):
    with serving(files={"/f": CONTENT}, cuts=[100_000, 80_000]) as web:
        path = download_file(f"{web.url}/f", save_path=tmp_path, sha256=SHA256, **QUICK)
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in web.requests] == [None, "bytes=65536-", "bytes=131072-"]
    assert names(tmp_path) == ["f"]


def test_a_later_call_goes_on(tmp_path):
    with serving(files={"/f": CONTENT}, cuts=[100_000, 0, 0]) as web:
        with pytest.raises(ConnectionError):
            download_file(f"{web.url}/f", save_path=tmp_path, attempts=2, **QUICK)
        assert names(tmp_path) == [".f.part", ".f.part.version"]
        web.cuts.clear()
        assert download_file(f"{web.url}/f", save_path=tmp_path, **QUICK).read_bytes() == CONTENT
    assert web.requests[-1] == ("/f", "bytes=65536-")


@pytest.mark.parametrize("change", ["another version", "no ranges", "no version"])
def test_what_cannot_be_resumed_is_fetched_anew(tmp_path, change):
    new = CONTENT[::-1]
    with serving(files={"/f": CONTENT}, cuts=[100_000], etag=None if change == "no version" else '"v1"') as web:
        with pytest.raises(ConnectionError):
            download_file(f"{web.url}/f", save_path=tmp_path, attempts=1, **QUICK)
        web.files["/f"] = new
        web.etag, web.ranges = ('"v2"', True) if change == "another version" else (web.etag, change != "no ranges")
        assert download_file(f"{web.url}/f", save_path=tmp_path, **QUICK).read_bytes() == new


def test_a_part_that_is_longer_than_the_file_is_fetched_anew(tmp_path):
    (tmp_path / ".f.part").write_bytes(CONTENT * 2)
    (tmp_path / ".f.part.version").write_text('"v1"')
    with serving(files={"/f": CONTENT}) as web:
        assert download_file(f"{web.url}/f", save_path=tmp_path, **QUICK).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(tmp_path):
    with serving(files={"/f": CONTENT}, statuses=[503, 429]) as web:
        assert download_file(f"{web.url}/f", save_path=tmp_path, **QUICK).read_bytes() == CONTENT
    assert len(web.requests) == 3


@pytest.mark.parametrize("wanted", [{"sha256": "0" * 64}, {"size": 5}])
def test_a_wrong_checksum_or_size_leaves_nothing(tmp_path, wanted):
    with serving(files={"/f": CONTENT}) as web:
        with pytest.raises(ValueError, match=r"/f has .* recorded .*nothing is kept") as error:
            download_file(f"{web.url}/f", save_path=tmp_path, **wanted, **QUICK)
        assert "\n" not in str(error.value)
    assert names(tmp_path) == []
    (tmp_path / "f").write_bytes(CONTENT)
    with pytest.raises(ValueError, match=r"f has .* recorded .*remove it to download it again"):
        download_file(f"{web.url}/f", save_path=tmp_path, **wanted, **QUICK)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_what_is_recorded_of_an_address_is_checked(tmp_path, monkeypatch):
    with serving(files={"/f": CONTENT}) as web:
        record = PublishedFile(f"{web.url}/f", "f", len(CONTENT), "1" * 64)
        monkeypatch.setattr(scvi.data.download, "known_file", {record.url: record}.get)
        with pytest.raises(ValueError, match="recorded sha256 1111"):
            download_file(f"{web.url}/f", save_path=tmp_path, **QUICK)


def test_a_missing_page_is_not_asked_for_again(tmp_path):
    with serving() as web, pytest.raises(ConnectionError, match="404") as error:
        download_file(f"{web.url}/none.h5", save_path=tmp_path, **QUICK)
    assert len(web.requests) == 1
    assert f"{web.url}/none.h5" in str(error.value)
    assert f"place it at {tmp_path / 'none.h5'}" in str(error.value)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_without_a_network_the_error_says_where_to_place_the_file(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/cells.h5"
        with pytest.raises(ConnectionError) as error:
            download_file(url, "brain.h5", tmp_path, attempts=2, **QUICK)
    assert url in str(error.value)
    assert f"place it at {tmp_path / 'brain.h5'}" in str(error.value)
    assert names(tmp_path) == []


def test_an_address_that_is_none(tmp_path):
    for url in ("file:///etc/passwd", "cells.h5", "doi:10.1/2"):
        with pytest.raises(ValueError, match="does not begin with http"):
            download_file(url, save_path=tmp_path)


def test_the_name_in_an_address_leads_to_no_other_folder(tmp_path):
    with serving(files={"/a%2F..%2F..%2Fevil": CONTENT, "/..%5Cbad": CONTENT, "/": CONTENT}) as web:
        paths = [download_file(web.url + path, save_path=tmp_path, **QUICK) for path in web.files]
    assert paths == [tmp_path / "evil", tmp_path / "bad", tmp_path / "download"]


def test_ftp_is_repeated(tmp_path, monkeypatch):
    errors = [ftplib.error_temp("421 busy"), EOFError(), None]

    class Downloader:
        def __init__(self, timeout):
            assert timeout == 5.0

        def __call__(self, url, output_file, pooch):
            if (error := errors.pop(0)) is not None:
                raise error
            Path(output_file).write_bytes(CONTENT)

    monkeypatch.setattr("pooch.FTPDownloader", Downloader)
    path = download_file("ftp://ftp.example.org/pub/f.gz", save_path=tmp_path, sha256=SHA256, **QUICK)
    assert path.read_bytes() == CONTENT
    errors[:] = [ftplib.error_perm("550 no such file")]
    with pytest.raises(ConnectionError, match=r"550 no such file.*place it at"):
        download_file("ftp://ftp.example.org/pub/none.gz", save_path=tmp_path, **QUICK)
    assert names(tmp_path) == ["f.gz"]


def test_the_table_of_published_files():
    assert known_file(FILES["retina"].url) is FILES["retina"]
    assert all(file.url.startswith(("http://", "https://", "ftp://")) for file in FILES.values())
    assert len({file.url for file in FILES.values()}) == len(FILES)
    assert tenx_file("pbmc8k").url.endswith("/2.1.0/pbmc8k/pbmc8k_filtered_gene_bc_matrices.tar.gz")
    assert tenx_file("5k_pbmc_protein_v3", "raw").filename == "raw_feature_bc_matrix.tar.gz"
    with pytest.raises(KeyError, match="pbmc9k"):
        tenx_file("pbmc9k")
    with pytest.raises(ValueError, match="'filtered', 'raw'"):
        tenx_file("pbmc8k", "rough")  # type: ignore[arg-type]
