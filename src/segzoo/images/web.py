"""Pictures at web addresses, read with a limit of time and of size."""

from __future__ import annotations

import http.client
import re
import string
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT = 20.0
"""Seconds without a byte after which a server counts as silent."""

MOST_BYTES = 512 * 2**20
"""Size of the largest file that is read."""

_WORDS = {
    401: "it wants a login",
    403: "it does not let you",
    404: "there is nothing at this address",
    410: "it is gone",
}


def is_web_address(path: str) -> bool:
    """Whether a path is an address of http or https."""
    return path.lower().startswith(("http://", "https://"))


def read_web(url: str, *, most_bytes: int | None = None, timeout: float | None = None) -> bytes:
    """The content of a file on a web server.

    Args:
        url: its address, http or https, as people or as servers write it; redirections are followed.
        most_bytes: size of the largest file that is read; None: `MOST_BYTES`.
        timeout: seconds without a byte after which the attempt ends; None: `TIMEOUT`.

    Raises:
        OSError: no address, no connection, a silent server, an answer other than the file, or a file that is too large; the
            message is the cause in words, without the address.
    """
    most_bytes = MOST_BYTES if most_bytes is None else most_bytes
    timeout = TIMEOUT if timeout is None else timeout
    too_large = f"the file is larger than {most_bytes / 2**20:.3g} MiB; download it yourself"
    try:
        # Some servers refuse the name that urllib gives itself.
        headers = {"User-Agent": "segzoo", "Accept": "image/*, */*;q=0.5"}
        request = urllib.request.Request(ascii_address(url), headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            announced = int(answer.headers.get("Content-Length") or 0)
            if announced > most_bytes:
                raise OSError(too_large)
            content = answer.read(most_bytes + 1)
    except urllib.error.HTTPError as error:
        words = _WORDS.get(error.code, error.reason)
        raise OSError(f"the server answered {error.code}: {words}") from None
    except TimeoutError:
        raise OSError(f"the server has sent nothing for {timeout:g} s") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise OSError(f"the server has sent nothing for {timeout:g} s") from None
        raise OSError(f"no connection: {error.reason}") from None
    except (http.client.InvalidURL, UnicodeError) as error:
        raise OSError(f"it is no address of the web: {error}") from None
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"the transfer broke off: {type(error).__name__} {error}".rstrip()) from None
    if len(content) > most_bytes:
        raise OSError(too_large)
    if len(content) < announced:
        raise OSError(f"the transfer broke off after {len(content)} of {announced} bytes")
    return content


def ascii_address(url: str) -> str:
    """A web address as it is sent: its host in IDNA; other letters and spaces become percent signs, which stay.

    Raises:
        http.client.InvalidURL: it is none: its host or port cannot be one, or it has bytes that are no UTF-8.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()  # raises for labels that are empty or too long
        if not host or parts.port == 0 or re.search(r"[\x00-\x20\x7f]", host):
            raise ValueError("its host or port cannot be one")
        if not parts.netloc.isascii():
            user, at, place = parts.netloc.rpartition("@")
            parts = parts._replace(netloc=f"{user}{at}{host}{place[len(place.partition(':')[0]) :]}")
        return urllib.parse.quote(parts.geturl(), safe=string.punctuation)
    except ValueError as error:
        raise http.client.InvalidURL(str(error)) from None
