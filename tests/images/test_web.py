"""Files on the web: limits of time and size."""

import pytest
from support.file_server import FileServer, breaks_off, status
from support.silent_server import SilentServer

from segzoo.images.reading import CorruptImageError, open_picture
from segzoo.images.web import is_web_address, read_web


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def test_addresses():
    assert is_web_address("http://a/b.png") and is_web_address("HTTPS://a/b.png")
    assert not is_web_address("hf://a/b.png") and not is_web_address("/http://a")


def test_a_file_and_its_limit():
    with FileServer() as server:
        server.files["/a.png"] = bytes(1000)
        assert read_web(f"{server.url}/a.png", most_bytes=1000) == bytes(1000)
        with pytest.raises(OSError, match="larger than"):
            read_web(f"{server.url}/a.png", most_bytes=999)
        server.misbehave(status(403), breaks_off(500))
        with pytest.raises(OSError, match="the server answered 403: it does not let you"):
            read_web(f"{server.url}/a.png")
        with pytest.raises(OSError, match="the transfer broke off"):
            read_web(f"{server.url}/a.png")
        with pytest.raises(CorruptImageError, match=r"/b.png: the image cannot be read \(the server answered 404"):
            open_picture(f"{server.url}/b.png")


def test_addresses_as_people_write_them():
    with FileServer() as server:
        server.files["/stra%C3%9Fe%201.png?a=%C3%B6%26+%2F~'()"] = b"here"
        for name in (
            "straße 1.png?a=ö%26+%2F~'()#top",
            "stra%C3%9Fe%201.png?a=%C3%B6%26+%2F~'()",
            "straße%201.png?a=ö%26+%2F~'()",
        ):
            assert read_web(f"{server.url}/{name}") == b"here"
            # NFKC makes plain letters of wide ones, as IDNA wants it.
            assert read_web(f"{server.url}/{name}".replace("127.0.0.1", "ｌｏｃａｌｈｏｓｔ")) == b"here"


@pytest.mark.parametrize(
    "url", ["http://localhost:port/a.png", "http://[::1/a.png", "http://ö..b/a.png", "http://a..b/a.png"]
)
def test_what_is_no_address(url):
    with pytest.raises(OSError, match="it is no address of the web: ."):
        read_web(url)


def test_a_silent_server():
    with SilentServer() as server, pytest.raises(OSError, match="sent nothing for 0.2 s"):
        read_web(f"{server.url}/a.png", timeout=0.2)
