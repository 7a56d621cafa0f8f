"""A local HTTP server that serves files well or badly, as each is told, and remembers what it was asked."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One file and how it is served.

    statuses: answered before anything else, one per request, 0 meaning the file.
    cuts: bytes of the body after which the connection is cut, one per request, None meaning not.
    length: the Content-Length claimed. shift: by how many bytes Range answers start wrong.
    mind_if_range: send the whole file when If-Range names another one.
    """

    body: bytes
    etag: str | None = '"1"'
    ranges: bool = True
    mind_if_range: bool = True
    statuses: list[int] = field(default_factory=list)
    cuts: list[int | None] = field(default_factory=list)
    length: int | None = None
    chunked: bool = False
    shift: int = 0
    pause: float = 0.0  # seconds before the second half of the body
    redirect: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


class FileServer(ThreadingHTTPServer):
    """files: by path, `/a.pth`. asked: (method, path, Range or None) of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.asked: list[tuple[str, str, str | None]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, path: str, body: bytes, **how: object) -> str:
        """Serve a file; returns its URL."""
        self.files[path] = Served(body, **how)  # type: ignore[arg-type]
        return self.address + path

    def add_to_hub(self, repository: str, file: str, body: bytes, **how: object) -> Served:
        """Serve a file as the Hugging Face Hub does its large files."""
        digest = hashlib.sha256(body).hexdigest()
        headers = {"X-Repo-Commit": "c" * 40, "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body))}
        self.add(f"/{repository}/resolve/main/{file}", body, etag=f'"{digest}"', headers=headers, **how)
        return self.files[f"/{repository}/resolve/main/{file}"]

    @property
    def ranges(self) -> list[str | None]:
        """The Range of every GET."""
        return [wanted for method, _, wanted in self.asked if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' stderr clean."""

    def _answer(self, *, with_body: bool) -> None:
        self.close_connection = True
        wanted = self.headers.get("Range")
        self.server.asked.append((self.command, self.path, wanted))
        served = self.server.files.get(self.path)
        status = served.statuses.pop(0) if served and served.statuses else 0
        if served is None or status:
            self._head(status or 404, {"Content-Length": "0"})
            return
        if served.redirect:
            self._head(302, {"Location": served.redirect, "Content-Length": "0"})
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and served.ranges else 0
        if_range = self.headers.get("If-Range")
        if served.mind_if_range and if_range not in (None, served.etag):
            start = 0
        size = len(served.body)
        if start >= size > 0:
            self._head(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        begin = start + served.shift if start else 0
        body = served.body[begin:]
        headers = dict(served.headers)
        if served.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body) if served.length is None else served.length)
        if served.etag:
            headers["ETag"] = served.etag
        if start:
            headers["Content-Range"] = f"bytes {begin}-{size - 1}/{size}"
        self._head(206 if start else 200, headers)
        if with_body:
            self._body(served, body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, served: Served, body: bytes) -> None:
        cut = served.cuts.pop(0) if served.cuts else None
        body = body if cut is None else body[:cut]
        for piece in (body[: len(body) // 2], body[len(body) // 2 :]):
            if served.chunked:
                piece = f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if piece else b""
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(served.pause)
        if served.chunked and cut is None:
            self.wfile.write(b"0\r\n\r\n")


@contextmanager
def running() -> Iterator[FileServer]:
    """A server on a free port of this machine."""
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
