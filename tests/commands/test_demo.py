"""`segzoo demo`: what is wrong is one line; the page itself is in tests/test_demo.py."""

import socket
import sys

import pytest
import torch

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.commands.cli import main
from segzoo.hub import save_model_folder


def test_a_port_that_is_none_is_told_before_the_model_is_loaded(capsys):
    assert main(["demo", "no/model", "--port", "70000"]) == 1
    assert "--port 70000: ports are 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["no.such.machine.invalid", "a..b", "192.0.2.1"])
def test_an_address_of_no_use_is_told_before_the_model_is_loaded(host, capsys):
    assert main(["demo", "no/model", "--host", host, "--port", "7861"]) == 1
    error = capsys.readouterr().err
    assert f"--host {host}: this machine cannot listen there" in error and error.count("\n") == 1


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "no/model", "--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert f"--port {port}: it cannot be opened" in error and error.count("\n") == 1


def test_a_released_checkpoint_is_converted_first(capsys):
    assert main(["demo", "fast_scnn_lr0.12_8x4_160k_cityscapes"]) == 1
    assert "segzoo convert fast_scnn_lr0.12_8x4_160k_cityscapes --output DIR" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    folder = save_model_folder(model, SegZooImageProcessor(), tmp_path / "tiny")
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", str(folder), "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert 'pip install "segzoo[demo]"' in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["demo", "benchmark", "recipe"])
def test_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0 and f"segzoo {name}" in capsys.readouterr().out
