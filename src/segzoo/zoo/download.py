"""Downloads of original checkpoints: resumed after an interruption, checked, and kept for the next time."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import InvalidURL
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants, get_hf_file_metadata, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, tqdm

from segzoo.errors import SegZooError, one_line
from segzoo.files import lock, sha256_of
from segzoo.hub_names import hub_session
from segzoo.images.web import ascii_address, is_web_address
from segzoo.zoo import ZooRow

PAUSES = (1.0, 4.0, 10.0)
"""Seconds to wait before each further attempt, after attempts that brought no data; then the download is given up."""

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""

# Of httpx, or of what a later huggingface_hub has in its place; it is no HTTPError.
_InvalidURL = importlib.import_module(HTTPError.__module__.partition(".")[0]).InvalidURL
_HUB = "https://huggingface.co"
_HUB_PATH = re.compile(r"/(?P<repo>[^/]+/[^/]+)/(?:resolve|blob|raw)/(?P<revision>[^/]+)/(?P<file>.+)")
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml")
_VALIDATORS = frozenset(("ETag", "Last-Modified"))


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

    An interrupted download leaves a file ``*.incomplete``, from which the next call goes on, if the hash is known or the
    server tells one version of a file from another (by ETag or Last-Modified); otherwise it begins anew. Files on the Hugging Face
    Hub are also checked against the size and SHA-256 that the Hub states.

    Args:
        url: address of the file, http or https.
        size_bytes: size of the file, if it is known.
        sha256: leading hexadecimal digits of its SHA-256, at most 64, if they are known.
        folder: folder to keep the file in; None: `cache_folder`.

    Returns:
        The path of the file; its name is that in the address.

    Raises:
        SegZooError: no address of a file, no connection, an answer that is not the file (a web page, status 404 or 503 and so on), a file of
            another size or hash, which is deleted, or no space on the disk. The message says which, and what to do.
    """
    address = _sent(url)
    name = re.sub(r"[^\w.+-]", "_", unquote(urlsplit(url).path).rsplit("/", 1)[-1]).lstrip(".")
    if not name:
        raise _no_address(url)
    target = Path(folder or cache_folder()) / hashlib.sha256(url.encode()).hexdigest()[:12] / name
    if _is_whole(target, size_bytes, sha256):
        return target
    headers: dict[str, str] = {"Accept-Encoding": "identity"}  # ranges count bytes as they are sent
    if url.startswith((f"{_HUB}/", f"{constants.ENDPOINT}/")):
        cached, size_bytes, sha256 = _ask_hub(url, size_bytes, sha256)
        if cached is not None:
            return cached
        headers |= build_hf_headers()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with lock(target.parent, wait=math.inf):  # two processes must not append to one file
            if not _is_whole(target, size_bytes, sha256):
                part = target.with_name(f"{name}.incomplete")
                _Source(url, address, headers, size_bytes, sha256).fetch(part)
                os.replace(part, target)
                _note(part).unlink(missing_ok=True)
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
        SegZooError: no address of a file, no connection, or the server says that it does not give the file out.
    """
    on_hub = url.startswith((f"{_HUB}/", f"{constants.ENDPOINT}/"))
    headers = {"Accept-Encoding": "identity"} | (build_hf_headers() if on_hub else {})
    try:
        response = hub_session().head(_sent(url), headers=headers, timeout=TIMEOUT, follow_redirects=True)
    except _InvalidURL as error:
        raise _no_address(url) from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise SegZooError(_unreachable(url, error)) from error
    if response.status_code != 200:
        raise SegZooError(f"{url}: {_refusal(response.status_code)}")
    return _total(response.headers, response.status_code)


def _sent(url: str) -> str:
    """An address as it is requested: in ASCII, and at the Hub that is in use.

    Raises:
        SegZooError: it is no address of the web.
    """
    try:
        if is_web_address(url):
            return ascii_address(url.replace(_HUB, constants.ENDPOINT, 1))
    except InvalidURL as error:
        raise _no_address(url) from error
    raise _no_address(url)


def _no_address(url: str) -> SegZooError:
    return SegZooError(f"{url}: is not the address of a file; it must look like https://HOST/PATH/FILE")


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
        hub_session()
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
        most = _size(part)
        while self.size_bytes is None or _size(part) != self.size_bytes:  # an earlier call may have received all of it
            try:
                self._receive(part)
                break
            except OfflineModeIsEnabled as error:
                raise SegZooError(_unreachable(self.url, error)) from error
            except _InvalidURL as error:
                raise _no_address(self.url) from error
            except (_BrokenOff, HTTPError) as error:
                if _size(part) > most:  # than ever before: what begins anew may do so again and again
                    most, pauses = _size(part), iter(PAUSES)
                    continue
                pause = next(pauses, None)
                if pause is None:
                    raise SegZooError(self._given_up(part, error)) from error
                time.sleep(pause)
        self._check(part)

    def _receive(self, part: Path) -> None:
        """Send one request, and append the data that arrive to ``part``, if they are known to be of the same file.

        Raises:
            _BrokenOff, HTTPError: another attempt may succeed.
            SegZooError: another attempt would fail in the same way.
        """
        earlier = _read_version(part)
        have = _size(part) if self._can_go_on(earlier) else 0
        headers = dict(self.headers)
        if have:
            headers["Range"] = f"bytes={have}-"
            tag = earlier.get("ETag", "")
            if (
                validator := tag if tag.startswith('"') else earlier.get("Last-Modified")
            ):  # no weak tag may stand there
                headers["If-Range"] = validator
        with hub_session().stream("GET", self.address, headers=headers, timeout=TIMEOUT) as response:
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
            total, version = _total(response.headers, status), _version(response.headers, status)
            if status == 206:
                _check_part(response.headers, have, part, earlier, version)
            else:
                have = 0
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
            if not have:
                part.unlink(missing_ok=True)  # before the note says that it is of this version
            _note(part).write_text(json.dumps({**earlier, **version} if have else version), encoding="ascii")
            bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem[:40], disable=None)
            with part.open("ab" if have else "wb") as file, bar:
                while first:
                    file.write(first)
                    bar.update(len(first))
                    first = next(chunks, b"")
        expected = total or self.size_bytes
        if expected and _size(part) < expected:
            raise _BrokenOff("the server ended the file early")

    def _can_go_on(self, version: Mapping[str, str]) -> bool:
        """Whether a partial file of this version may be continued: nothing else would tell that the file was replaced."""
        return self.sha256 is not None or not _VALIDATORS.isdisjoint(version)

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
        if problem:
            part.unlink()
            _note(part).unlink(missing_ok=True)
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
        goes_on = ": it goes on from there" if self._can_go_on(_read_version(part)) else ""
        return (
            f"{self.url}: the download broke off after {_human(have)}{whole} ({_reason(error)}); "
            f"run the same command again{goes_on}"
        )


class _BrokenOff(Exception):
    """An attempt that ended before the file was whole; it can be repeated."""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_part(
    headers: Mapping[str, str], have: int, part: Path, earlier: Mapping[str, str], version: Mapping[str, str]
) -> None:
    """Remove a partial file that an answer to a request for its rest (status 206) does not continue.

    Args:
        headers: the answer's headers.
        have: number of bytes that are there.
        part: the partial file.
        earlier, version: `_version` of the answers that it came from, and of this one.

    Raises:
        _BrokenOff: it was removed.
    """
    if not headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        problem = "the server sent another part than was asked for"
    elif _is_encoded(headers):
        problem = "the server sent a part of a compressed file"
    elif any(earlier.get(name, value) != value for name, value in version.items()):
        problem = "the file on the server was replaced"  # by a server that passes over If-Range
    else:
        return
    part.unlink(missing_ok=True)
    raise _BrokenOff(f"{problem}; it begins anew")


def _total(headers: Mapping[str, str], status: int) -> int | None:
    """The size of the whole file by the headers of a response; None if they do not state it."""
    if _is_encoded(headers):
        return None
    if status in (206, 416):
        return _number(headers.get("Content-Range", "").rpartition("/")[2])
    return _number(headers.get("Content-Length", ""))


def _number(text: str) -> int | None:
    """The size in a header; None if it is none."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _is_encoded(headers: Mapping[str, str]) -> bool:
    """Whether an answer is compressed, though nobody asked for it: its sizes and ranges count other bytes than ours."""
    return headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")


def _version(headers: Mapping[str, str], status: int) -> dict[str, str]:
    """What an answer says of the version of the file that it is of: its validators and its size."""
    if _is_encoded(headers):
        return {}
    found = {name: headers.get(name, "") for name in _VALIDATORS} | {"size": str(_total(headers, status) or "")}
    return {name: value for name, value in found.items() if value and value.isascii() and value.isprintable()}


def _note(part: Path) -> Path:
    """Where the `_version` of a partial file is kept."""
    return part.with_suffix(".version")


def _read_version(part: Path) -> dict[str, str]:
    """The `_version` of the answers that a partial file came from; empty if it is not known."""
    try:
        return dict(json.loads(_note(part).read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError):
        return {}


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
