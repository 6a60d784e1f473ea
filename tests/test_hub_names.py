"""What can be a name on the Hub, and how long one waits for a Hub that does not answer."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants
from PIL import Image
from support.hub_server import HubServer, hub_of_this_process
from support.silent_server import SilentServer

import segzoo
from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation, SegZooImageProcessor, hub_names
from segzoo.commands.cli import main
from segzoo.data import load_segmentation_dataset
from segzoo.hub import push_folder, reserve_repository, save_model_folder
from segzoo.hub_names import hub_or_cache, no_hub_name

SOURCE = Path(segzoo.__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gpt2", None),
        ("nvidia/segformer-b0.finetuned_512x512", None),
        ("/data/camvid", "it is a path"),
        ("./camvid", "it is a path"),
        ("../camvid", "it is a path"),
        ("~/camvid", "it is a path"),
        ("C:\\data\\camvid", "it is a path"),
        ("data/camvid/train", "one slash at most"),
        ("data/camvid.zip", "it ends in .zip"),
        ("model.safetensors", "it ends in .safetensors"),
        ("my data/camvid", "names there are of letters"),
        ("data/camvid/", "names there are of letters"),
    ],
)
def test_names(name, reason):
    found = no_hub_name(name)
    assert found is None if reason is None else reason in found


@pytest.fixture
def online(tmp_path, monkeypatch):
    """This process uses a Hub at the address that is given to it."""

    monkeypatch.setattr(hub_names, "_unreachable", {})
    with contextlib.ExitStack() as used:
        yield lambda endpoint: used.enter_context(hub_of_this_process(monkeypatch, endpoint, tmp_path))


@pytest.fixture(params=["socks5", "socks4"])
def odd_proxy(request, monkeypatch):
    """The environment names a proxy that needs a package which is not there, or that no package knows."""
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("ALL_PROXY", f"{request.param}://user:secret@127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()
    yield
    close_session()


@pytest.mark.parametrize(
    "words",
    [
        "convert http://10.0.0.1/x.pth --output out",
        "convert upernet_internimage_t_512_160k_ade20k --output out",
        "convert none.pth --output out --push_to_hub me/x",
        "info me/model",
        "predict street.png --model me/model --output out",
        "evaluate me/model me/data",
    ],
)
def test_a_proxy_that_cannot_be_used(odd_proxy, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("street.png")
    assert main(words.split()) == 1
    assert "ALL_PROXY: this proxy cannot be used" in (line := capsys.readouterr().err.splitlines()[-1])
    assert "pip install socksio" in line and "secret" not in line and not (tmp_path / "out").exists()


def test_a_proxy_that_cannot_be_used_for_a_push(odd_proxy, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for push in (lambda: push_folder(tmp_path, "me/x"), lambda: reserve_repository("me/x")):
        with pytest.raises(SegZooError, match="ALL_PROXY: this proxy cannot be used"):
            push()


def test_offline_mode_needs_no_proxy(odd_proxy, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SegZooError, match="offline mode is on"), hub_or_cache("me/model"):
        raise OSError


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_cannot_be_a_name_is_not_asked_for(kind, online, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with HubServer() as hub:
        online(hub.endpoint)
        for name in ("./folders", "a/b/c", str(tmp_path / "none"), "data.zip"):
            with pytest.raises(SegZooError, match="no name on the Hub"), hub_or_cache(name, kind):
                pytest.fail("loads nothing")
        with hub_or_cache("folder", kind):
            pass
        assert hub.requests == []


def test_a_model_in_the_home_folder(online, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_model_folder(SegZooForSemanticSegmentation(SegZooConfig.tiny()), SegZooImageProcessor(), tmp_path / "tiny")
    with HubServer() as hub:
        online(hub.endpoint)
        with pytest.raises(
            SegZooError, match=f"~/tiny: .*~ does not stand for the home folder; give {tmp_path}/tiny$"
        ):
            segzoo.load("~/tiny")
        with pytest.raises(SegZooError, match="no such model folder, and it is no name on the Hub"):
            segzoo.load("~/none")
        assert hub.requests == []


def test_the_hub_says_no(online):
    with HubServer() as hub:
        online(hub.endpoint)
        hub.publish("tester/there", {"config.json": b"{}"})
        with hub_or_cache("tester/there"):
            assert not constants.HF_HUB_OFFLINE
        with (
            pytest.raises(SegZooError, match=f"{hub.endpoint} has no model of this name"),
            hub_or_cache("tester/none"),
        ):
            pass
        with pytest.raises(SegZooError, match="no revision 'v9'"), hub_or_cache("tester/there", revision="v9"):
            pass
        hub.answer_with(500, "GET", "/api/models", times=2)
        with hub_or_cache("tester/there"):
            assert constants.HF_HUB_OFFLINE, "a faulty Hub leaves the cache"
        assert not constants.HF_HUB_OFFLINE
        assert hub.count("GET", "/api/models/tester/there$") == 3


def test_a_hub_that_does_not_answer(online, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    with SilentServer() as server:
        online(server.url)
        with pytest.raises(SegZooError, match="did not answer.*asked twice.*the cache of earlier downloads"):
            load_segmentation_dataset("tester/data")
        with pytest.raises(SegZooError, match=r"tester/model: there is no such model folder here.*did not answer"):
            segzoo.load("tester/model")
        assert server.connections == 2, "it is not asked again at once"


def test_a_cached_model_loads_without_a_hub(online, tmp_path):
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    folder = save_model_folder(model, SegZooImageProcessor(do_resize=False), tmp_path / "model")
    with HubServer() as hub:
        online(hub.endpoint)
        hub.publish("tester/model", {path.name: path.read_bytes() for path in folder.iterdir()})
        segzoo.load("tester/model")
    online("http://127.0.0.1:1")
    loaded = segzoo.load("tester/model")
    assert loaded.model.config.num_labels == model.config.num_labels


def test_the_command_line_does_not_wait(tmp_path):
    """In a process of its own: a mistyped name costs two attempts of two seconds."""
    with SilentServer() as server:
        environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
        environment |= {
            "HF_ENDPOINT": server.url,
            "HF_HUB_ETAG_TIMEOUT": "2",
            "HF_HOME": str(tmp_path / "home"),
            "NO_PROXY": "127.0.0.1",
        }
        environment |= {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "segzoo", "data", "check", "data/camvdi"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and "did not answer" in done.stderr and "asked twice" in done.stderr
        assert done.stderr.count("\n") == 1 and server.connections == 2


@pytest.mark.parametrize("command", ["predict", "evaluate", "export"])
def test_commands_take_names(command, online, tmp_path, capsys, monkeypatch):
    import numpy as np
    from PIL import Image

    config = SegZooConfig.tiny()
    config.num_labels = 2
    folder = save_model_folder(
        SegZooForSemanticSegmentation(config), SegZooImageProcessor(do_resize=False), tmp_path / "model"
    )
    picture, mask = np.zeros((32, 40, 3), np.uint8), np.zeros((32, 40), np.uint8)
    for part, values in (("images", picture), ("annotations", mask)):
        (tmp_path / "data" / part / "validation").mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "data" / part / "validation" / "a.png")
    with HubServer() as hub:
        online(hub.endpoint)
        hub.publish("tester/model", {path.name: path.read_bytes() for path in folder.iterdir()})
        words = {
            "predict": [
                tmp_path / "data/images/validation/a.png",
                "--model",
                "tester/model",
                "--output",
                tmp_path / "o",
            ],
            "evaluate": ["tester/model", tmp_path / "data", "--num_labels", "2", "--device", "cpu"],
            "export": ["tester/model", "--output", tmp_path / "model.pt2", "--size", "32x40"],
        }[command]
        assert main([command, *map(str, words)]) == 0
        wrong = [word if word != "tester/model" else "tester/modle" for word in map(str, words)]
        monkeypatch.chdir(tmp_path)
        assert main([command, *wrong, *(["--overwrite"] if command != "evaluate" else [])]) == 1
        assert "has no model of this name" in capsys.readouterr().err
        old = [*map(str, words), "--model_revision", "v9", *(["--overwrite"] if command != "evaluate" else [])]
        assert main([command, *old]) == 1
        assert "no revision 'v9'" in capsys.readouterr().err
