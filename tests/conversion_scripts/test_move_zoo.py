"""Checkpoints of all systems on their way from a real server to a real Hub, both on loopback, with faults on the way."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support import file_server
from support.file_server import FileServer
from support.hub_server import READ_TOKEN, WRITE_TOKEN, HubServer, hub_of_this_process

import segzoo
from conversion_scripts import toy_zoo
from segzoo.zoo import download as downloads

SCRIPT = Path(segzoo.__file__).parents[2] / "conversion_scripts" / "move_zoo.py"
LICENCES = {"mmsegmentation": "Apache-2.0", "CSAIL": "BSD-3-Clause", "InternImage": "MIT", "InternViT-6B": "MIT"}
LICENCES["ViT-Adapter"] = "Apache-2.0"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script that it runs
    spec = importlib.util.spec_from_file_location("move_zoo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["move_zoo"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["move_zoo"], sys.modules["moving"]
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return toy_zoo.write(tmp_path_factory.mktemp("originals"))


@pytest.fixture
def server(files, monkeypatch):
    with FileServer() as running:
        running.files |= {f"/{path.name}": path.read_bytes() for paths in files.values() for path in paths}
        toy_zoo.install(files, running.url, monkeypatch.setattr)
        monkeypatch.setattr(downloads, "PAUSES", (0.0,))
        yield running


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    with HubServer() as running, hub_of_this_process(monkeypatch, running.endpoint, tmp_path):
        yield running


def arguments(work, *names, licences=LICENCES, **options):
    given = {"namespace": "tester", "work": work, "pause": 0.0} | options
    words = [f"--{key}={value}" for key, value in given.items()]
    return [*names, *words, *(f"--licence={system}={licence}" for system, licence in licences.items())]


def lines(work):
    return [json.loads(line) for line in (work / "moved.jsonl").read_text().splitlines()]


def left(work):
    """What a run has left in its folder, besides the log."""
    return sorted(path.name for path in work.iterdir() if path.name not in ("moved.jsonl", ".lock"))


def test_all_systems_arrive(script, server, hub, files, tmp_path, capsys):
    work = tmp_path / "work"
    assert script.main(arguments(work)) == 0
    moved = {line["name"]: line for line in lines(work)}
    assert moved.keys() == set(toy_zoo.ROWS.values()) and {line["status"] for line in moved.values()} == {"moved"}
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == list(moved.values())
    assert left(work) == [], "downloads and conversions are deleted"
    for system, name in toy_zoo.ROWS.items():
        line, folder = moved[name], hub.files(f"tester/{name}")
        assert line["sha256"] == hashlib.sha256(files[name][0].read_bytes()).hexdigest()
        assert line["bytes"] == sum(path.stat().st_size for path in files[name])
        assert {"config.json", "model.safetensors", "README.md"} <= folder.keys()
        assert ModelCard(folder["README.md"].decode()).data["license"] == LICENCES[system].lower()
        assert line["seconds"].keys() == {"download", "convert", "forward", "upload"}
        assert list(hub.collections[line["collection"]]) == [f"tester/{name}"]
    assert moved["toy-fcn"]["forward"]["classes"] == 150 and moved["toy-internvit"]["forward"]["maps"]
    requests = len(server.requests)
    assert script.main(arguments(work)) == 0 and len(lines(work)) == 5, "what has been moved is left out"
    assert len(server.requests) == requests


def test_faults_of_server_and_hub(script, server, hub, tmp_path, capsys):
    """A connection that is cut, status 500 on both sides, another file than the published one."""
    work = tmp_path / "work"
    names = ("toy-fcn", "toy-internimage")
    server.misbehave(file_server.breaks_off(1000), file_server.status(500))
    hub.answer_with(500, "POST", "/commit/", times=1)
    hub.answer_with(500, "POST", "/items", times=1)
    assert script.main(arguments(work, *names)) == 0
    assert {line["status"] for line in lines(work)} == {"moved"}
    assert "once more" in capsys.readouterr().err

    script.zoo.rows()["toy-vit-adapter"].__dict__["sha256"] = "0" * 64
    server.files[f"/{'intern_vit.pth'}"] = b"no weights"
    assert script.main(arguments(work, "toy-vit-adapter", "toy-internvit")) == 1
    errors = {line["name"]: line["error"] for line in lines(work) if line["status"] == "failed"}
    assert "not the published file" in errors["toy-vit-adapter"] and "intern_vit.pth" in errors["toy-internvit"]
    assert left(work) == [] and not any("adapter" in name or "vit" in name for name in hub.repositories)


def test_a_hub_that_refuses(script, server, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    work = tmp_path / "work"
    assert script.main(arguments(work, "toy-fcn", attempts=2)) == 1
    (line,) = lines(work)
    assert line["status"] == "failed" and "token" in line["error"]
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    assert script.main(arguments(work, "toy-fcn")) == 0, "what failed is tried again"
    assert [line["status"] for line in lines(work)] == ["failed", "moved"] and "tester/toy-fcn" in hub.repositories


def test_room(script, server, hub, files, tmp_path):
    """What does not fit at all is an error of its own; the others wait for each other."""
    work = tmp_path / "work"
    sizes = {name: sum(path.stat().st_size for path in paths) for name, paths in files.items()}
    small = [name for name in sizes if name != max(sizes, key=sizes.get)]
    room = 2 * max(sizes[name] for name in small)
    assert script.main(arguments(work, disk=room)) == 1
    failed = [line for line in lines(work) if line["status"] == "failed"]
    assert [line["name"] for line in failed] == [max(sizes, key=sizes.get)] and "--disk" in failed[0]["error"]

    disk = script.Disk(100)
    disk.take(60)
    disk.close()
    with pytest.raises(segzoo.SegZooError, match="stopped"):
        disk.take(60)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["toy-fcn", "--namespace=tester"], "Give --licence mmsegmentation=SPDX"),
        (["toy-internimage", "--namespace=tester", "--licence=InternImage=GPL-3.0"], "the publisher states MIT"),
        (["toy-fcn", "--namespace=tester", "--licence=mmseg"], "give SYSTEM=SPDX"),
        (["toy-fcn"], "Give --namespace"),
        (["toy-fnc"], "toy-fcn"),
    ],
)
def test_refused_before_any_work(words, message, script, server, tmp_path, capsys):
    work = tmp_path / "work"
    assert script.main([*words, f"--work={work}"]) == 2
    assert message in capsys.readouterr().err and not work.exists() and not server.requests


def test_dry_run(script, server, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert script.main(["--dry_run", "*fcn", "CSAIL", "toy-internvit"]) == 0
    told = {line["name"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {line["status"] for line in told.values()} == {"converts"} and len(told) == 3
    assert told["toy-fcn"]["classes"] == 150
    broken = script.zoo.original_config("toy-fcn")
    broken["model"]["decode_head"]["type"] = "NoHead"
    monkeypatch.setattr(script.zoo, "original_config", lambda name: broken)
    assert script.main(["--dry_run", "toy-fcn"]) == 1 and "NoHead" in capsys.readouterr().out
    assert not server.requests and not list(tmp_path.iterdir())


DRIVER = """
import os, runpy, sys
from pathlib import Path
from conversion_scripts import toy_zoo
originals, address = Path(sys.argv[1]), sys.argv[2]
names = {"toy-fcn": ["toy-fcn.pth"], "toy-internimage": ["toy-internimage.pth"], "toy-vit-adapter": ["toy-vit-adapter.pth"],
    "toy-internvit": ["intern_vit.pth"], toy_zoo.ROWS["CSAIL"]: ["encoder_epoch_20.pth", "decoder_epoch_20.pth"]}
toy_zoo.install({name: [originals / file for file in files] for name, files in names.items()}, address, setattr)
script = sys.argv[3]
sys.argv = [script, *sys.argv[4:]]
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.slow
def test_killed_at_any_moment(script, files, server, tmp_path):
    """A process that is killed with -9 while it uploads, with half a line in its log, goes on where it was."""
    work = tmp_path / "work"
    words = arguments(work, "toy-fcn", "toy-internimage")
    originals = files["toy-fcn"][0].parent
    with HubServer() as hub:
        hub.answer_with(500, "POST", "/items", times=1000)  # it waits after the second attempt
        environment = os.environ | hub.environment(tmp_path / "home") | {"PYTHONPATH": os.pathsep.join(sys.path)}
        environment["HF_HUB_OFFLINE"] = "0"
        command = [sys.executable, "-c", DRIVER, str(originals), server.url, str(SCRIPT), *words]
        process = subprocess.Popen([*command, "--pause=600"], env=environment, stderr=subprocess.PIPE, text=True)
        while not hub.count("POST", "/items"):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert lines(work) == [] and left(work), "it was killed before the first one had been moved"
        uploads, requests = hub.count("PUT", "/lfs/"), len(server.requests)
        (work / "moved.jsonl").write_text('{"name": "toy-fcn", "sta')
        hub.heal()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        moved = [json.loads(line) for line in (work / "moved.jsonl").read_text().splitlines()[1:]]
        assert {line["name"] for line in moved if line["status"] == "moved"} == {"toy-fcn", "toy-internimage"}
        assert len(server.requests) == requests, "nothing is downloaded again"
        assert hub.count("PUT", "/lfs/") == uploads + 1, "weights that have arrived are not sent again"
        assert left(work) == []
