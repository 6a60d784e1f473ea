"""A real web server on loopback that serves files and misbehaves on demand: sockets, headers, ranges."""

import contextlib
import gzip
import re
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    if_range: str | None


class FileServer(contextlib.AbstractContextManager):
    """Serves ``files`` (path -> bytes); ``requests`` are for tests to look at.

    ``misbehave(fault, ...)`` puts faults in a queue; each GET takes one, and is answered well where none is left.

    Args:
        validator: the header that tells one version of a file from another, "ETag" or "Last-Modified"; None: it has neither.
    """

    def __init__(self, *, validator: str | None = "ETag"):
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.validator = validator
        self.faults: list[Callable] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FileServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.shutdown()
        self._server.server_close()

    def misbehave(self, *faults: Callable) -> None:
        self.faults += faults


def breaks_off(after: int) -> Callable:
    """Announces the whole, sends that many bytes and closes the connection."""

    def answer(handler, content):
        status, part, headers = handler.part(content)
        handler.answer(status, part[:after], headers | {"Content-Length": str(len(part))})

    return answer


def truncates(size: int) -> Callable:
    """Sends the first bytes as if they were all, without saying how many there should be."""
    return lambda handler, content: handler.answer(200, content[:size], {})


def ignores_ranges(handler, content) -> None:
    """Sends everything, whatever was asked for."""
    handler.answer(200, content, {"Content-Length": str(len(content))})


def another_part(handler, content) -> None:
    """Answers a range with the beginning."""
    headers = {"Content-Length": "10", "Content-Range": f"bytes 0-9/{len(content)}"}
    handler.answer(206, content[:10], headers)


def page(content_type: str = "text/html; charset=utf-8") -> Callable:
    """A web page, with status 200."""
    text = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"
    return lambda handler, content: handler.answer(
        200, text, {"Content-Type": content_type, "Content-Length": str(len(text))}
    )


def passes_over_if_range(handler, content) -> None:
    """Sends the rest of the file that is there now, whichever version was asked for."""
    del handler.headers["If-Range"]
    status, part, headers = handler.part(content)
    handler.answer(status, part, headers | {"Content-Length": str(len(part))})


def compresses(after: int | None = None) -> Callable:
    """Sends the file compressed, or the part of that which was asked for; closes the connection after a number of bytes."""

    def answer(handler, content):
        status, part, headers = handler.part(gzip.compress(content, 1, mtime=0))
        handler.answer(status, part[:after], headers | {"Content-Encoding": "gzip", "Content-Length": str(len(part))})

    return answer


def status(code: int) -> Callable:
    """No file, but a status."""
    return lambda handler, content: handler.answer(code, b"sorry", {"Content-Length": "5"})


class _Handler(BaseHTTPRequestHandler):
    owner: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        owner = self.owner
        owner.requests.append(Request("GET", self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        fault = owner.faults.pop(0) if owner.faults else None
        content = owner.files.get(self.path)
        if fault is not None:
            fault(self, content or b"")
        elif content is None:
            status(404)(self, b"")
        else:
            code, part, headers = self.part(content)
            self.answer(code, part, headers | {"Content-Length": str(len(part))})

    def do_HEAD(self) -> None:  # noqa: N802
        content = self.owner.files.get(self.path)
        self.answer(404 if content is None else 200, b"", {"Content-Length": str(len(content or b""))})

    def part(self, content: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Status, bytes and headers of what was asked for."""
        seconds = zlib.crc32(content)
        versions = {"ETag": f'"{seconds}"', "Last-Modified": formatdate(seconds, usegmt=True)}
        tag = versions.get(self.owner.validator)
        headers = {} if tag is None else {self.owner.validator: tag}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None or self.headers.get("If-Range", tag) != tag:
            return 200, content, headers
        start = int(wanted[1])
        if start >= len(content):
            return 416, b"", headers | {"Content-Range": f"bytes */{len(content)}"}
        return 206, content[start:], headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}

    def answer(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in ({"Content-Type": "application/octet-stream", "Connection": "close"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(ConnectionError):  # a client that has seen enough hangs up
            self.wfile.write(content)
