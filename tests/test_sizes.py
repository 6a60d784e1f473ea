"""Sizes on the command line."""

import argparse

import pytest

from segzoo.sizes import SizeAction, SizesAction, read_sizes


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("512", [(512, 512)]),
        ("512x1024", [(512, 1024)]),
        ("512X1024", [(512, 1024)]),
        ("512 1024", [(512, 1024)]),
        ("512x1024 64", [(512, 1024), (64, 64)]),
        ("64 512x1024 96 128", [(64, 64), (512, 1024), (96, 128)]),
    ],
)
def test_sizes(text, sizes):
    assert read_sizes(text.split()) == sizes


@pytest.mark.parametrize("text", ["1 2 3", "1x2x3", "0", "4x-1", "a", "5x", "1.5"])
def test_no_sizes(text):
    with pytest.raises(ValueError):
        read_sizes(text.split())


def test_options(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", action=SizesAction)
    parser.add_argument("--size", action=SizeAction)
    args = parser.parse_args(["--sizes", "8", "9x7", "--size", "5", "6"])
    assert args.sizes == [(8, 8), (9, 7)] and args.size == (5, 6)
    assert vars(parser.parse_args([])) == {"sizes": None, "size": None}
    for wrong in (["--size", "8x8", "9x9"], ["--sizes", "no"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
        assert "is no HEIGHTxWIDTH in pixels" in capsys.readouterr().err
