"""Downloads from a real server on loopback that breaks off, truncates, sends wrong data and refuses."""

import hashlib
import re

import pytest
import torch
from conversion import tiny
from huggingface_hub import constants
from support import file_server
from support.file_server import FileServer
from support.hub_server import HubServer

from segzoo import zoo
from segzoo.commands.cli import main
from segzoo.errors import SegZooError
from segzoo.images.web import is_web_address
from segzoo.zoo import download as module
from segzoo.zoo.download import download

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several pieces
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/models/toy-weights.pth"


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """Loopback may be asked, and nothing waits."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module, "PAUSES", (0.0,))


@pytest.fixture(params=["ETag", "Last-Modified", None])
def server(request):
    with FileServer(validator=request.param) as running:
        running.files[PATH] = CONTENT
        yield running


@pytest.fixture
def fetch(server, tmp_path):
    return lambda **known: download(server.url + PATH, folder=tmp_path / "cache", **known)


def fails(fetch, *texts, **known):
    with pytest.raises(SegZooError) as raised:
        fetch(**known)
    message = str(raised.value)
    assert "\n" not in message and PATH in message
    for text in texts:
        assert re.search(text, message), message


def leftovers(tmp_path):
    return sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_it_is_downloaded_once(server, fetch, tmp_path):
    path = fetch(size_bytes=len(CONTENT), sha256=SHA256)
    assert path.name == "toy-weights.pth" and path.read_bytes() == CONTENT
    assert fetch() == path and len(server.requests) == 1
    assert leftovers(tmp_path) == ["toy-weights.pth"]


def test_addresses_with_one_file_name_do_not_meet(server, tmp_path):
    server.files["/other/toy-weights.pth"] = b"another"
    first = download(server.url + PATH, folder=tmp_path)
    second = download(server.url + "/other/toy-weights.pth", folder=tmp_path)
    assert first != second and second.read_bytes() == b"another"


def test_a_connection_that_breaks_is_taken_up_again(server, fetch):
    server.misbehave(file_server.breaks_off(1_500_000), file_server.breaks_off(2_000_000))
    assert fetch(sha256=SHA256).read_bytes() == CONTENT
    assert [r.range for r in server.requests][0] is None and all(r.range for r in server.requests[1:])


def test_the_next_call_goes_on(server, fetch, tmp_path):
    server.misbehave(file_server.breaks_off(3_000_000), *[file_server.status(503)] * 2)
    fails(
        fetch, r"broke off after (3.0|2.\d) MB of 5.1 MB \(.*503.*run the same command again", size_bytes=len(CONTENT)
    )
    assert "toy-weights.pth.incomplete" in leftovers(tmp_path)
    have = next(tmp_path.rglob("*.incomplete")).stat().st_size
    assert 1_000_000 < have < len(CONTENT)
    assert fetch(size_bytes=len(CONTENT), sha256=SHA256).read_bytes() == CONTENT
    assert server.requests[-1].range == f"bytes={have}-"
    assert leftovers(tmp_path) == ["toy-weights.pth"]


@pytest.mark.parametrize("answer", [None, file_server.passes_over_if_range])
@pytest.mark.parametrize("known", [False, True])
def test_a_file_that_was_replaced_meanwhile_is_not_mixed(server, fetch, answer, known):
    server.misbehave(file_server.breaks_off(3_000_000), *[file_server.status(503)] * 2)
    fails(fetch, "broke off.*run the same command again" + (": it goes on" if server.validator else "$"))
    server.files[PATH] = new = CONTENT[::-1]
    server.misbehave(*[answer] * (answer is not None))
    facts = {"sha256": hashlib.sha256(new).hexdigest()} if known else {}
    if known and not server.validator:  # only the hash can tell
        fails(fetch, "not the published file.*was deleted", **facts)
    assert fetch(**facts).read_bytes() == new
    assert server.validator is None or any(request.if_range for request in server.requests)


def test_a_server_without_versions_sends_the_whole_file_again(server, fetch):
    server.misbehave(file_server.breaks_off(3_000_000), *[file_server.status(503)] * 2)
    fails(fetch, "broke off")
    assert fetch().read_bytes() == CONTENT
    assert (server.requests[-1].range is None) == (server.validator is None)


def test_a_download_that_begins_anew_without_end_is_given_up(server, fetch):
    """Two servers of one name have two files, each of which breaks off."""

    def other(handler, content):
        file_server.breaks_off(3_000_000)(handler, content[::-1])

    for _ in range(10):
        server.misbehave(file_server.breaks_off(2_000_000), other)
    fails(fetch, "broke off")


@pytest.mark.parametrize("known", [{}, {"size_bytes": len(CONTENT), "sha256": SHA256}], ids=["unknown", "known"])
def test_a_server_that_compresses_unasked(server, fetch, known):
    """Its ranges count the bytes of the compressed file, and ours those of the file."""
    server.misbehave(*[file_server.compresses(after=5_000)] * 3)
    fails(fetch, "broke off", **known)
    server.misbehave(*[file_server.compresses()] * 2)
    assert fetch(**known).read_bytes() == CONTENT


@pytest.mark.parametrize("size", ["\u00b2", "9" * 5000, "-1", "*"])
def test_sizes_that_are_none(server, fetch, size):
    def answer(handler, content):
        status, part, headers = handler.part(content)
        headers["Content-Range"] = headers.get("Content-Range", "").rpartition("/")[0] + f"/{size}"
        handler.answer(status, part, headers)

    server.misbehave(file_server.breaks_off(3_000_000), answer)
    assert fetch(sha256=SHA256).read_bytes() == CONTENT


def test_a_server_that_ignores_ranges(server, fetch):
    server.misbehave(file_server.breaks_off(3_000_000), file_server.ignores_ranges)
    assert fetch(sha256=SHA256).read_bytes() == CONTENT


def test_a_server_that_sends_another_part(server, fetch):
    server.misbehave(file_server.breaks_off(3_000_000), file_server.another_part)
    assert fetch(sha256=SHA256).read_bytes() == CONTENT


def test_a_file_that_became_shorter(server, fetch):
    server.misbehave(file_server.breaks_off(3_000_000), *[file_server.status(503)] * 2)
    fails(fetch, "broke off")
    server.files[PATH] = b"short"
    assert fetch().read_bytes() == b"short"


@pytest.mark.parametrize("known", [{}, {"size_bytes": len(CONTENT), "sha256": SHA256}], ids=["unknown", "known"])
def test_a_whole_file_that_was_not_renamed_is_kept(server, fetch, tmp_path, known, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.os, "replace", stop)
        fetch()
    server.requests.clear()
    assert fetch(**known).read_bytes() == CONTENT
    asked = f"bytes={len(CONTENT)}-" if server.validator else None
    assert [r.range for r in server.requests] == ([] if known else [asked])
    assert leftovers(tmp_path) == ["toy-weights.pth"]


def test_a_kept_file_that_was_damaged_is_replaced(server, fetch):
    path = fetch()
    path.write_bytes(b"rot" + CONTENT[3:])
    assert fetch(size_bytes=len(CONTENT), sha256=SHA256[:8]).read_bytes() == CONTENT


def test_truncated(server, fetch, tmp_path):
    server.misbehave(*[file_server.truncates(0)] * 2)
    fails(fetch, "ended the file early", size_bytes=len(CONTENT))
    server.misbehave(file_server.truncates(1_000_000))
    assert fetch(size_bytes=len(CONTENT)).read_bytes() == CONTENT


def test_another_size_than_published(server, fetch, tmp_path):
    fails(fetch, f"{len(CONTENT)} bytes there, the published one has 77; it was replaced", size_bytes=77)
    server.misbehave(file_server.truncates(len(CONTENT)))  # without a length in the headers
    fails(fetch, f"has {len(CONTENT)} bytes, the published file 77.*deleted", size_bytes=77)
    assert leftovers(tmp_path) == []


def test_a_wrong_hash_deletes_the_file(server, fetch, tmp_path):
    fails(fetch, f"SHA-256 begins with {SHA256[:8]}, the published file's with 00000000.*deleted", sha256="00000000")
    assert leftovers(tmp_path) == []
    assert fetch(sha256=SHA256[:8]).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_refused(server, fetch, tmp_path, kind):
    server.misbehave(file_server.page(kind))
    fails(fetch, "web page instead of the file.*browser")
    assert leftovers(tmp_path) == []


def test_a_web_page_does_not_spoil_what_is_there(server, fetch):
    server.misbehave(file_server.breaks_off(3_000_000), file_server.page())
    fails(fetch, "web page")
    assert fetch(sha256=SHA256).read_bytes() == CONTENT and server.requests[-1].range


@pytest.mark.parametrize(
    ("code", "text"),
    [(404, "no such file any more"), (403, "log in"), (418, "status 418"), (503, "status 503.*later")],
)
def test_refusals(server, fetch, tmp_path, code, text):
    attempts = 2 if code == 503 else 1
    server.misbehave(*[file_server.status(code)] * attempts)
    fails(fetch, text)
    assert leftovers(tmp_path) == [] and len(server.requests) == attempts
    assert fetch().read_bytes() == CONTENT


def test_nobody_answers(tmp_path):
    with FileServer() as server:
        url = server.url + PATH
    with pytest.raises(SegZooError, match="cannot be downloaded .*check the connection"):
        download(url, folder=tmp_path)


def test_offline(server, fetch, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails(fetch, "offline mode is on; unset HF_HUB_OFFLINE")
    assert server.requests == []


def test_no_room(server, fetch, monkeypatch):
    usage = module.shutil.disk_usage(".")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    fails(fetch, "needs 5.1 MB in .*1000 bytes are free.*--cache_dir")


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SegZooError, match="cannot be written"):
        download(server.url + PATH, folder=tmp_path / "file")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a.pth",
        "https://example.org/",
        "a.pth",
        "https:///a.pth",
        "http://[::1/a.pth",
        "http://host:port/a.pth",
        "http://host:99999/a.pth",
        "http://1.2.3.999/a.pth",
        "http://a b/a.pth",
        "http://ho\x00st/a.pth",
        "http://\udcff.com/a.pth",
        "http://host/\udcff.pth",
        "http://.com/a.pth",
        f"http://{'a' * 70}.com/a.pth",
    ],
)
def test_no_address_of_a_file(url, tmp_path, capsys):
    with pytest.raises(SegZooError, match="is not the address of a file"):
        download(url, folder=tmp_path)
    if url != "https://example.org/":
        with pytest.raises(SegZooError, match="is not the address of a file"):
            module.remote_size(url)
    if is_web_address(url):
        assert main(["convert", url, "--output", str(tmp_path / "out")]) == 1
        assert "is not the address of a file" in capsys.readouterr().err


def test_addresses_as_people_write_them(server, tmp_path):
    server.files["/stra%C3%9Fe%201.pth?a=%2F"] = b"here"
    for name in ("straße 1.pth?a=%2F#top", "stra%C3%9Fe%201.pth?a=%2F"):
        for host in ("127.0.0.1", "ｌｏｃａｌｈｏｓｔ"):
            url = f"{server.url}/{name}".replace("127.0.0.1", host).replace("http", "HTTP")
            assert download(url, folder=tmp_path).read_bytes() == b"here" and module.remote_size(url) == 4


class TestHub:
    """Addresses on the Hugging Face Hub: size and SHA-256 come from the Hub itself."""

    URL = "https://huggingface.co/OpenGVLab/InternImage/resolve/main/toy.pth"

    @pytest.fixture
    def hub(self, monkeypatch, tmp_path):
        with HubServer() as running:
            running.publish("OpenGVLab/InternImage", {"toy.pth": CONTENT})
            monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
            yield running

    def test_resume(self, hub, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "TIMEOUT", 0.5)  # this server breaks off without a word
        hub.break_connection("GET", "toy.pth", after_bytes=2_000_000)
        assert download(self.URL, folder=tmp_path).read_bytes() == CONTENT
        assert hub.count("GET", "toy.pth") == 2

    def test_what_arrives_is_compared_with_the_hash_of_the_hub(self, hub, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "get_hf_file_metadata", wrong_hash(module.get_hf_file_metadata))
        with pytest.raises(SegZooError, match="not the published file.*deleted"):
            download(self.URL, folder=tmp_path)

    def test_the_published_file_was_replaced(self, hub, tmp_path):
        with pytest.raises(SegZooError, match="another file there now.*history"):
            download(self.URL, folder=tmp_path, sha256="0" * 64)
        assert hub.count("GET", "toy.pth") == 0

    def test_missing(self, hub, tmp_path):
        with pytest.raises(SegZooError, match="nothing.pth: there is no such file any more"):
            download(self.URL.replace("toy", "nothing"), folder=tmp_path)


def wrong_hash(ask):
    def changed(*arguments, **options):
        facts = ask(*arguments, **options)
        return type(facts)(**(vars(facts) | {"etag": "f" * 64}))

    return changed


class TestConvert:
    """``segzoo convert`` with a zoo name or an address."""

    @pytest.fixture
    def row(self, server, tmp_path, monkeypatch):
        path = tiny.save(tmp_path / "original.pth")
        content = path.read_bytes()
        name = f"tiny_fcn_20200101_000000-{hashlib.sha256(content).hexdigest()[:8]}"
        server.files[f"/{name}.pth"] = content
        row = zoo.ZooRow(
            name="tiny_fcn",
            aliases=(name,),
            system="mmsegmentation",
            method="FCN",
            backbone="R-18",
            dataset="Toys",
            url=f"{server.url}/{name}.pth",
        )
        monkeypatch.setattr(zoo, "rows", lambda: {row.name: row})
        monkeypatch.setattr(zoo, "_aliases", lambda: dict.fromkeys((row.name, *row.aliases), row.name))
        monkeypatch.setattr(zoo, "original_config", lambda name: tiny.config())
        return row

    def run(self, tmp_path, *arguments):
        return main(["convert", *arguments, "--output", str(tmp_path / "out"), "--cache_dir", str(tmp_path / "cache")])

    def test_by_name(self, row, server, tmp_path, capsys):
        assert self.run(tmp_path, "tiny_fcn") == 0
        assert row.url in (tmp_path / "out/README.md").read_text()
        assert f"tiny_fcn: from {row.url}" in capsys.readouterr().err
        assert row.sha256_start == row.aliases[0][-8:]

    def test_by_address(self, row, server, tmp_path):
        assert self.run(tmp_path, row.url) == 0
        assert (tmp_path / "out/model.safetensors").is_file()

    def test_the_hash_in_the_name_is_checked(self, row, server, tmp_path, capsys):
        server.files[row.url.removeprefix(server.url)] += b"rot"
        assert self.run(tmp_path, "tiny_fcn") == 1
        assert "not the published file (its SHA-256 begins with" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_a_full_output_is_found_before_the_download(self, row, server, tmp_path, capsys):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine.txt").write_text("mine")
        assert self.run(tmp_path, "tiny_fcn") == 1 and server.requests == []
        assert "not empty" in capsys.readouterr().err

    def test_what_cannot_be_converted_is_not_downloaded(self, row, server, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(zoo, "original_config", lambda name: tiny.config(model__backbone__type="Unheard"))
        assert self.run(tmp_path, "tiny_fcn") == 1 and server.requests == []
        assert "is not supported (known:" in capsys.readouterr().err

    def test_misspelt(self, row, tmp_path, capsys):
        assert self.run(tmp_path, "tiny_fcm") == 1
        assert "tiny_fcm: there is no such file, and the zoo has no" in (error := capsys.readouterr().err)
        assert "nearest are tiny_fcn" in error
        assert self.run(tmp_path, "tiny_fcn.pth") == 1
        assert "'segzoo convert tiny_fcn' downloads it" in capsys.readouterr().err

    def test_a_file_of_that_name_comes_first(self, row, server, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "tiny_fcn").write_bytes((tmp_path / "original.pth").read_bytes())
        assert self.run(tmp_path, "tiny_fcn") == 0 and server.requests == []

    def test_a_folder_of_that_name_does_not_matter(self, row, server, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "unheard").mkdir()
        assert self.run(tmp_path, "unheard") == 1
        assert "this is a folder" in capsys.readouterr().err
        (tmp_path / "tiny_fcn").mkdir()
        assert self.run(tmp_path, "tiny_fcn") == 0
        (tmp_path / "tiny_fcn.pth").mkdir()
        (tmp_path / "out").rename(tmp_path / "earlier")
        assert self.run(tmp_path, "tiny_fcn.pth") == 1
        assert "'segzoo convert tiny_fcn' downloads it" in capsys.readouterr().err

    def test_a_damaged_download_is_named(self, row, server, tmp_path, capsys):
        server.files["/mine.pth"] = (tmp_path / "original.pth").read_bytes()[:5000]
        assert self.run(tmp_path, f"{server.url}/mine.pth") == 1
        error = capsys.readouterr().err
        kept = next((tmp_path / "cache").rglob("mine.pth"))
        assert f"{kept}: " in error and "delete it and run the same command again" in error
        assert self.run(tmp_path, str(kept)) == 1  # the user's own file
        assert "delete it" not in capsys.readouterr().err

    def test_without_weights(self, tmp_path, monkeypatch, capsys):
        row = zoo.ZooRow(
            name="tiny", system="InternImage", method="a", backbone="b", dataset="c", note="never released"
        )
        monkeypatch.setattr(zoo, "lookup", lambda name: row)
        monkeypatch.setattr(zoo, "original_config", lambda name: None)
        assert self.run(tmp_path, "tiny") == 1
        assert "no address of its weights is known (never released)" in capsys.readouterr().err


def test_two_files(tmp_path):
    with FileServer() as server:
        server.files |= {"/encoder.pth": b"first", "/decoder.pth": b"second"}
        row = zoo.ZooRow(
            name="two",
            system="InternImage",
            method="a",
            backbone="b",
            dataset="c",
            url=f"{server.url}/encoder.pth",
            decoder_url=f"{server.url}/decoder.pth",
            decoder_size_bytes=6,
        )
        encoder, decoder = module.download_checkpoint(row, folder=tmp_path)
    assert encoder.read_bytes() == b"first" and decoder.read_bytes() == b"second"


def test_a_real_checkpoint_survives_the_way(tmp_path):
    """What was broken off three times is the same model."""
    path = tiny.save(tmp_path / "original.pth")
    with FileServer() as server:
        server.files["/a.pth"] = content = path.read_bytes()
        server.misbehave(*(file_server.breaks_off(len(content) // 5) for _ in range(3)))
        got = download(f"{server.url}/a.pth", folder=tmp_path / "cache")
    loaded, original = torch.load(got)["state_dict"], torch.load(path)["state_dict"]
    assert all(torch.equal(loaded[key], original[key]) for key in original)
