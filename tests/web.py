"""A web server of this machine whose manners a test can choose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """Files by their paths, and what goes wrong with them."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    statuses: list[int] = field(default_factory=list)  # of the next answers, before anything is sent
    etag: str | None = '"v1"'
    ranges: bool = True  # whether parts of a file can be had
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range of each request


class _Handler(BaseHTTPRequestHandler):
    web: Web

    def do_GET(self) -> None:
        web = self.web
        wanted = self.headers.get("Range")
        web.requests.append((self.path, wanted))
        status = web.statuses.pop(0) if web.statuses else 200
        content = web.files.get(self.path)
        if status != 200 or content is None:
            self.send_error(status if status != 200 else 404)
            return
        start = 0
        if wanted and web.ranges and self.headers.get("If-Range") in (None, web.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if web.etag is not None:
            self.send_header("ETag", web.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = web.cuts.pop(0) if web.cuts else None
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(**manners: object) -> Iterator[Web]:
    """A server for the length of the block."""
    web = Web(**manners)  # type: ignore[arg-type]
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
