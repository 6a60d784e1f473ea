"""FIFOs, devices, sockets and folders among pictures, masks and lists are named in one line and never opened."""

import os
import shutil
import signal
import socket

import pytest

from segzoo.commands import cli
from segzoo.data import load_segmentation_dataset
from segzoo.errors import SegZooError
from segzoo.images.reading import CorruptImageError, open_picture, read_bytes, read_header

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")


@pytest.fixture(autouse=True)
def no_hang():
    """An error after 20 seconds instead of waiting for a writer that never comes."""

    def end(*_):
        raise TimeoutError("something was opened that should not be")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path):
    os.mkfifo(path)
    return "a FIFO (named pipe)"


def unix_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may only be short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)
    return "a socket"


def device(path):
    path.symlink_to("/dev/zero")
    return "a device"


def folder(path):
    path.mkdir()
    return "a folder"


SPECIAL = [fifo, unix_socket, device, folder]


@pytest.mark.parametrize("make", SPECIAL)
def test_the_reader_of_pictures_refuses_them(tmp_path, make):
    path = tmp_path / "a.png"
    words = make(path)
    for read in (open_picture, read_header, read_bytes):
        with pytest.raises(CorruptImageError) as error:
            read(path)
        assert str(path) in str(error.value) and f"it is {words}, not a file" in str(error.value)


def test_links_to_files_are_read(tmp_path, scenes):
    picture = sorted((scenes / "images" / "train").iterdir())[0]
    (tmp_path / "link.png").symlink_to(picture)
    assert open_picture(tmp_path / "link.png").stored_size == (48, 64)


def test_data_check_names_them(tmp_path, scenes, capsys):
    data = shutil.copytree(scenes, tmp_path / "data")
    names = []
    for kind, make, index in (("images", fifo, 0), ("annotations", fifo, 1), ("images", device, 2)):
        path = sorted((data / kind / "train").iterdir())[index]
        path.unlink()
        names.append((path.name, make(path)))
    assert cli.main(["data", "check", str(data), "--num_workers", "0"]) == 1
    printed = capsys.readouterr().out
    for name, words in names:
        assert any(name in line and f"it is {words}" in line for line in printed.splitlines()), printed


@pytest.mark.parametrize("make", SPECIAL[:3])
def test_predict_refuses_them(tmp_path, scenes, tiny, capsys, make):
    pictures = shutil.copytree(scenes / "images" / "validation", tmp_path / "pictures")
    words = make(pictures / "zz.png")
    for argument in (pictures, pictures / "zz.png"):
        assert cli.main(["predict", str(argument), "--model", str(tiny), "--output", str(tmp_path / "out")]) == 1
        assert (
            capsys.readouterr().err
            == f"segzoo: error: {pictures / 'zz.png'}: it is {words}, not a file; take it out\n"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["data.zip", "train.odgt", "folder/id2label.json"])
def test_archives_lists_and_class_names(tmp_path, scenes, name):
    path = tmp_path / name
    if path.parent != tmp_path:
        shutil.copytree(scenes, path.parent)
        path.unlink(missing_ok=True)
    fifo(path)
    from segzoo.data import load_id2label

    with pytest.raises(SegZooError, match="it is a FIFO"):
        if path.suffix == ".json":
            load_id2label(path.parent)
        else:
            load_segmentation_dataset(path)


@pytest.mark.slow
def test_a_training_ends_with_its_name(start, scenes, tmp_path):
    data = shutil.copytree(scenes, tmp_path / "data")
    for path in sorted((data / "images" / "train").iterdir())[:7]:
        path.unlink()
        fifo(path)
    signal.alarm(0)  # starting may take long
    run = start(dataset_name=data, dataloader_num_workers=1)
    assert run.wait() == 1
    assert "it is a FIFO (named pipe), not a file" in run.stderr and run.stderr.count("\n") == 1, run.stderr
