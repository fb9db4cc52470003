"""Published files on this machine: downloaded once, resumed after a cut, verified, and there whole or not at all."""

from __future__ import annotations

import ftplib
import hashlib
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from scvi.data.published import FILES, known_file

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 2**16  # what is lost when a connection breaks is less than this
_AGENT = "Mozilla/5.0 (compatible; scvi)"  # some hosts of data refuse the names of libraries
_LATER = {408, 425, 429, 500, 502, 503, 504}  # statuses of a server that may answer another time


def cache_folder() -> Path:
    """Where files go if no folder is named: the user's cache, or the folder that SCVI_CACHE names."""
    import pooch

    return Path(os.environ.get("SCVI_CACHE") or pooch.os_cache("scvi"))


def fetched(name: str, folder: str | os.PathLike[str]) -> Path:
    """A file of the table of published ones, in a folder under any of its names, or downloaded to it."""
    file = FILES[name]
    return download_file(file.url, file.name_in(folder), folder)


def download_file(
    url: str,
    filename: str | None = None,
    save_path: str | os.PathLike[str] | None = None,
    *,
    sha256: str | None = None,
    size: int | None = None,
    attempts: int = 4,
    wait: float = 1.0,
    timeout: float = 30.0,
    progress: bool = True,
) -> Path:
    """Downloads a file, unless it is there already.

    What has arrived is kept in ``.{filename}.part`` when a connection breaks, and the next attempt, in this call or in
    a later one, asks for the rest. A file that is there under its own name is complete.

    Parameters
    ----------
    url
        An http, https or ftp address. FTP transfers are repeated, not resumed.
    filename
        Name of the file; the last part of the URL by default.
    save_path
        Folder, made if need be; :func:`cache_folder` by default.
    sha256, size
        Hexadecimal checksum and bytes that the file must have; by default what is recorded of this URL in
        :mod:`scvi.data.published`, if anything is.
    attempts
        How many in a row may bring nothing.
    wait
        Seconds before the second attempt; doubled for each further one.
    timeout
        Seconds without an answer after which an attempt has failed.
    progress
        Show a bar, on a terminal.

    Returns
    -------
    Path of the file.

    Raises
    ------
    ConnectionError
        If the file cannot be had; names URL and path, so that the file can be placed by hand.
    ValueError
        If size or checksum are wrong, or the URL is none.
    """
    if urlsplit(url).scheme not in ("http", "https", "ftp"):
        raise ValueError(f"url={url!r} does not begin with http://, https:// or ftp://")
    folder = cache_folder() if save_path is None else Path(save_path)
    path = (folder / (filename or _name_in(url))).absolute()
    recorded = known_file(url)
    if recorded is not None:
        sha256, size = sha256 or recorded.sha256, recorded.size if size is None else size
    if path.exists():
        _verify(path, str(path), sha256, size, "remove it to download it again")
        logger.info("File %s already downloaded", path)
        return path
    logger.info("Downloading file at %s", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(url, path, attempts, wait, timeout, None if progress else True)
    transfer.run()
    try:
        _verify(transfer.part, url, sha256, size, "it was changed or damaged on its way; nothing is kept")
        os.replace(transfer.part, path)
    finally:
        transfer.part.unlink(missing_ok=True)
    return path


def _name_in(url: str) -> str:
    """The last part of the URL, which names no folder."""
    name = re.split(r"[/\\]", unquote(urlsplit(url).path))[-1]
    return "download" if name in ("", ".", "..") else name


def _verify(file: Path, named: str, sha256: str | None, size: int | None, then: str) -> None:
    if size is not None and file.stat().st_size != size:
        raise ValueError(f"{named} has {file.stat().st_size} bytes, not the recorded {size}; {then}")
    if sha256 is None:
        return
    with file.open("rb") as contents:
        if hashlib.file_digest(contents, "sha256").hexdigest() != sha256.lower():
            raise ValueError(f"{named} has not the recorded sha256 {sha256}; {then}")


@dataclass
class _Transfer:
    """The way of a file to its part, which outlives a failure."""

    url: str
    path: Path
    attempts: int
    wait: float
    timeout: float
    disable_bar: bool | None  # None: tqdm shows itself on a terminal only

    def run(self) -> None:
        """Attempt after attempt, until the part is whole."""
        failures, before = 0, self._arrived()
        while True:
            try:
                self._attempt()
                break
            except ftplib.all_errors as error:  # with OSError, which those of requests are
                failures = 1 if self._arrived() > before else failures + 1
                before = self._arrived()
                if failures >= self.attempts or _is_final(error):
                    raise ConnectionError(
                        f"{self.url} could not be downloaded ({_in_short(error)}); call again to go on, or get the "
                        f"file by other means and place it at {self.path}"
                    ) from error
                logger.info("%s: %s; trying again", self.url, _in_short(error))
                time.sleep(self.wait * 2 ** (failures - 1))
        self._validator.unlink(missing_ok=True)

    @property
    def part(self) -> Path:
        """What has arrived."""
        return self.path.with_name(f".{self.path.name}.part")

    @property
    def _validator(self) -> Path:
        """Which version of the remote file the part is of."""
        return self.path.with_name(f".{self.path.name}.part.version")

    def _arrived(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self) -> None:
        """One request: for the rest if a part of the same version is there, for all of it otherwise."""
        import requests

        if urlsplit(self.url).scheme == "ftp":
            from pooch import FTPDownloader

            FTPDownloader(timeout=self.timeout)(self.url, str(self.part), None)
            return
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        offset = self._arrived()
        if offset and self._validator.exists():
            headers |= {"Range": f"bytes={offset}-", "If-Range": self._validator.read_text(encoding="utf-8")}
        with requests.get(self.url, headers=headers, stream=True, timeout=self.timeout) as response:
            if response.status_code == 416:  # the part is longer than the file: begin anew
                self.part.unlink()
                raise requests.ConnectionError("the part that was there did not fit; it is fetched anew")
            response.raise_for_status()
            offset = offset if response.status_code == 206 else 0
            self._note_version(response)
            total = offset + int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
            self._write(response, offset, total)
        if total is not None and self._arrived() != total:
            raise requests.ConnectionError(f"{self._arrived()} of {total} bytes came")

    def _note_version(self, response: requests.Response) -> None:
        """A weak ETag does not promise the same bytes."""
        etag = response.headers.get("ETag", "")
        version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        if version:
            self._validator.write_text(version, encoding="utf-8")
        else:
            self._validator.unlink(missing_ok=True)

    def _write(self, response: requests.Response, offset: int, total: int | None) -> None:
        bar = tqdm(
            total=total, initial=offset, desc=self.path.name, unit="B", unit_scale=True, disable=self.disable_bar
        )
        with bar, self.part.open("ab" if offset else "wb") as file:
            for block in response.iter_content(_BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))


def _is_final(error: Exception) -> bool:
    """Whether asking again is of no use."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code not in _LATER
    return isinstance(
        error, (ValueError, ftplib.error_perm, PermissionError, IsADirectoryError)
    )  # ValueError: a bad URL


def _in_short(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
