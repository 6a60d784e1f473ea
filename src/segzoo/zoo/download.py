"""Downloads of original checkpoints: resumed after an interruption, checked, and kept for the next time."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants, get_hf_file_metadata, get_session, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, tqdm

from segzoo.errors import SegZooError, one_line
from segzoo.files import lock, sha256_of
from segzoo.zoo import ZooRow

PAUSES = (1.0, 4.0, 10.0)
"""Seconds to wait before each further attempt, after attempts that brought no data; then the download is given up."""

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""

_HUB = "https://huggingface.co"
_HUB_PATH = re.compile(r"/(?P<repo>[^/]+/[^/]+)/(?:resolve|blob|raw)/(?P<revision>[^/]+)/(?P<file>.+)")
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml")
_AGAIN = "run the same command again: it goes on from there"


def cache_folder() -> Path:
    """The default folder for downloads: ``segzoo`` in the Hugging Face home folder (``HF_HOME``)."""
    return Path(constants.HF_HOME) / "segzoo"


def download_checkpoint(row: ZooRow, *, folder: str | Path | None = None) -> tuple[Path, ...]:
    """Download a released checkpoint, or find it where an earlier call has put it.

    Args:
        row: the released checkpoint.
        folder: folder to keep the files in; None: `cache_folder`.

    Returns:
        Its files: one, or encoder and decoder.

    Raises:
        SegZooError: it was published without weights; or see `download`.
    """
    if row.url is None:
        note = f" ({row.note})" if row.note else ""
        raise SegZooError(f"{row.name}: no address of its weights is known{note}; give the file, if you have it")
    files = [download(row.url, size_bytes=row.size_bytes, sha256=row.sha256_start, folder=folder)]
    if row.decoder_url is not None:
        files.append(
            download(row.decoder_url, size_bytes=row.decoder_size_bytes, sha256=row.decoder_sha256, folder=folder)
        )
    return tuple(files)


def download(
    url: str, *, size_bytes: int | None = None, sha256: str | None = None, folder: str | Path | None = None
) -> Path:
    """Download a file, or find it where an earlier call has put it.

    An interrupted download leaves a file ``*.incomplete``, from which the next call goes on. Files on the Hugging Face
    Hub are also checked against the size and SHA-256 that the Hub states.

    Args:
        url: address of the file, http or https.
        size_bytes: size of the file, if it is known.
        sha256: leading hexadecimal digits of its SHA-256, at most 64, if they are known.
        folder: folder to keep the file in; None: `cache_folder`.

    Returns:
        The path of the file; its name is that in the address.

    Raises:
        SegZooError: no connection, an answer that is not the file (a web page, status 404 or 503 and so on), a file of
            another size or hash, which is deleted, or no space on the disk. The message says which, and what to do.
    """
    parts = urlsplit(url)
    name = re.sub(r"[^\w.+-]", "_", unquote(parts.path).rsplit("/", 1)[-1]).lstrip(".")
    if parts.scheme not in ("http", "https") or not parts.netloc or not name:
        raise SegZooError(f"{url}: is not the address of a file; it must look like https://HOST/PATH/FILE")
    target = Path(folder or cache_folder()) / hashlib.sha256(url.encode()).hexdigest()[:12] / name
    if _is_whole(target, size_bytes, sha256):
        return target
    headers: dict[str, str] = {"Accept-Encoding": "identity"}  # ranges count bytes as they are sent
    if url.startswith((f"{_HUB}/", f"{constants.ENDPOINT}/")):
        cached, size_bytes, sha256 = _ask_hub(url, size_bytes, sha256)
        if cached is not None:
            return cached
        address = url.replace(_HUB, constants.ENDPOINT, 1)
        headers |= build_hf_headers()
    else:
        address = url
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with lock(target.parent, wait=math.inf):  # two processes must not append to one file
            if not _is_whole(target, size_bytes, sha256):
                source = _Source(url, address, headers, size_bytes, sha256)
                source.fetch(target.with_name(f"{name}.incomplete"))
                os.replace(target.with_name(f"{name}.incomplete"), target)
    except OSError as error:
        raise SegZooError(
            f"{target}: cannot be written ({error.strerror or error}); make room, or choose another folder with --cache_dir"
        ) from error
    return target


def remote_size(url: str) -> int | None:
    """The size of a file in bytes, as its server states it without sending the file; None if it does not.

    Args:
        url: address of the file, http or https.

    Raises:
        SegZooError: no connection, or the server says that it does not give the file out.
    """
    on_hub = url.startswith((f"{_HUB}/", f"{constants.ENDPOINT}/"))
    headers = {"Accept-Encoding": "identity"} | (build_hf_headers() if on_hub else {})
    address = url.replace(_HUB, constants.ENDPOINT, 1)
    try:
        response = get_session().head(address, headers=headers, timeout=TIMEOUT, follow_redirects=True)
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise SegZooError(_unreachable(url, error)) from error
    if response.status_code != 200:
        raise SegZooError(f"{url}: {_refusal(response.status_code)}")
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _is_whole(path: Path, size_bytes: int | None, sha256: str | None) -> bool:
    """Whether the file exists with the known size and the known leading digits of its hash."""
    if not path.is_file() or size_bytes not in (None, path.stat().st_size):
        return False
    return sha256 is None or sha256_of(path).startswith(sha256)


def _ask_hub(url: str, size_bytes: int | None, sha256: str | None) -> tuple[Path | None, int | None, str | None]:
    """The file in huggingface_hub's own cache, or None; and its size and SHA-256, completed by what the Hub states."""
    path = _HUB_PATH.fullmatch(unquote(urlsplit(url).path))
    if path is not None:
        cached = try_to_load_from_cache(path["repo"], path["file"], revision=path["revision"])
        if isinstance(cached, str) and _is_whole(Path(cached), size_bytes, sha256):
            return Path(cached), size_bytes, sha256
    try:
        facts = get_hf_file_metadata(url.replace(_HUB, constants.ENDPOINT, 1), timeout=TIMEOUT)
    except HfHubHTTPError as error:
        raise SegZooError(f"{url}: {_refusal(error.response.status_code)}") from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise SegZooError(_unreachable(url, error)) from error
    # The ETag of a large file is its SHA-256, that of a small one git's SHA-1.
    known = facts.etag if facts.etag and re.fullmatch(r"[0-9a-f]{64}", facts.etag) else None
    if known and sha256 and not known.startswith(sha256):
        raise SegZooError(
            f"{url}: the Hub has another file there now (SHA-256 {known[:8]}..., published {sha256[:8]}...); "
            "look for the published one in the history of its repository"
        )
    return None, size_bytes or facts.size, known or sha256


@dataclass
class _Source:
    """One file on a server, and what is known about it.

    Args:
        url: the address in messages.
        address: the address that is requested.
        headers: headers of each request.
        size_bytes, sha256: as in `download`.
    """

    url: str
    address: str
    headers: dict[str, str]
    size_bytes: int | None
    sha256: str | None

    def fetch(self, part: Path) -> None:
        """Fill the file ``part`` until it is whole, and check it."""
        pauses: Iterator[float] = iter(PAUSES)
        while self.size_bytes is None or _size(part) != self.size_bytes:  # an earlier call may have received all of it
            before = _size(part)
            try:
                self._receive(part)
                break
            except OfflineModeIsEnabled as error:
                raise SegZooError(_unreachable(self.url, error)) from error
            except (_BrokenOff, HTTPError) as error:
                if _size(part) > before:
                    pauses = iter(PAUSES)
                    continue
                pause = next(pauses, None)
                if pause is None:
                    raise SegZooError(self._given_up(part, error)) from error
                time.sleep(pause)
        self._check(part)

    def _receive(self, part: Path) -> None:
        """Send one request, and append the data that arrive to ``part``.

        Raises:
            _BrokenOff, HTTPError: another attempt may succeed.
            SegZooError: another attempt would fail in the same way.
        """
        have, tag = _size(part), part.with_suffix(".etag")
        headers = dict(self.headers)
        if have:
            headers["Range"] = f"bytes={have}-"
            if tag.is_file():
                headers["If-Range"] = tag.read_text(encoding="ascii")
        with get_session().stream("GET", self.address, headers=headers, timeout=TIMEOUT) as response:
            status = response.status_code
            if status == 416 and have:
                if _total(response.headers, status) == have:
                    return  # an earlier call received all of it, and was stopped before renaming it
                part.unlink()
                raise _BrokenOff("the server has fewer bytes than an earlier download; it begins anew")
            if status in (408, 429) or status >= 500:
                raise _BrokenOff(f"the server answered with status {status}")
            if status not in (200, 206):
                raise SegZooError(f"{self.url}: {_refusal(status)}")
            if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() in _PAGE_TYPES:
                raise SegZooError(self._page())
            total = _total(response.headers, status)
            if status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink(missing_ok=True)
                raise _BrokenOff("the server sent another part than was asked for; it begins anew")
            have = have if status == 206 else 0
            if None not in (total, self.size_bytes) and total != self.size_bytes:
                raise SegZooError(
                    f"{self.url}: the server has a file of {total} bytes there, the published one has {self.size_bytes}; "
                    "it was replaced: look at the publisher's page"
                )
            self._check_room(part, (total or 0) - have)
            chunks = response.iter_bytes()  # as they arrive: buffered data are lost when the connection breaks
            first = next(chunks, b"")
            if not have and first.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGE_STARTS):
                raise SegZooError(self._page())
            strong = response.headers.get("ETag", "")
            if strong.startswith('"') and strong.isascii():
                tag.write_text(strong, encoding="ascii")
            else:
                tag.unlink(missing_ok=True)
            bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem[:40], disable=None)
            with part.open("ab" if have else "wb") as file, bar:
                while first:
                    file.write(first)
                    bar.update(len(first))
                    first = next(chunks, b"")
        expected = total or self.size_bytes
        if expected and _size(part) < expected:
            raise _BrokenOff("the server ended the file early")

    def _check_room(self, part: Path, needed: int) -> None:
        free = shutil.disk_usage(part.parent).free
        if needed > free:
            raise SegZooError(
                f"{self.url}: needs {_human(needed)} in {part.parent}, and {_human(free)} are free; "
                "make room, or choose another folder with --cache_dir"
            )

    def _check(self, part: Path) -> None:
        """Delete a file that is not the published one, and raise an error."""
        size, problem = _size(part), None
        if self.size_bytes not in (None, size):
            problem = f"has {size} bytes, the published file {self.size_bytes}"
        elif self.sha256 is not None:
            found = sha256_of(part)
            if not found.startswith(self.sha256):
                problem = f"its SHA-256 begins with {found[: len(self.sha256)][:16]}, the published file's with {self.sha256[:16]}"
        part.with_suffix(".etag").unlink(missing_ok=True)
        if problem:
            part.unlink()
            raise SegZooError(
                f"{self.url}: what was downloaded is not the published file ({problem}) and was deleted; run the same command "
                "again, and if it stays so, download the file by hand and convert that with --name"
            )

    def _page(self) -> str:
        return (
            f"{self.url}: the server answered with a web page instead of the file; open the address in a browser (a login, "
            "or a page that asks first), download the file itself and convert that"
        )

    def _given_up(self, part: Path, error: Exception) -> str:
        have = _size(part)
        if not have:
            return _unreachable(self.url, error)
        whole = f" of {_human(self.size_bytes)}" if self.size_bytes else ""
        return f"{self.url}: the download broke off after {_human(have)}{whole} ({_reason(error)}); {_AGAIN}"


class _BrokenOff(Exception):
    """An attempt that ended before the file was whole; it can be repeated."""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _total(headers: Mapping[str, str], status: int) -> int | None:
    """The size of the whole file by the headers of a response; None if they do not state it."""
    text = (
        headers.get("Content-Range", "").rpartition("/")[2]
        if status in (206, 416)
        else headers.get("Content-Length", "")
    )
    return int(text) if text.isdigit() else None


def _refusal(status: int) -> str:
    if status in (404, 410):
        return f"there is no such file any more (status {status}); look for it on the publisher's page and convert the file"
    if status in (401, 403):
        return (
            f"the server does not give the file out (status {status}); log in (for the Hugging Face Hub: hf auth login), or "
            "download it with a browser and convert the file"
        )
    return f"the server answered with status {status}; try again later, or download it with a browser"


def _unreachable(url: str, error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return f"{url}: offline mode is on; unset HF_HUB_OFFLINE, or give the file"
    return f"{url}: cannot be downloaded ({_reason(error)}); check the connection, or try again later"


def _reason(error: Exception) -> str:
    return one_line(error)[:200] or type(error).__name__


def _human(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size} bytes"
