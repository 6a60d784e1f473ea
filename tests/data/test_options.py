"""The command-line options that describe data."""

import argparse
from dataclasses import fields
from pathlib import Path

import pytest

from segzoo.data.data_source import DataSource
from segzoo.data.options import add_data_options, check_data_options, source_from_options
from segzoo.errors import SegZooError

OPTIONS = (
    "data --dataset_config_name small --image_column i --label_column l --image_suffix _i --label_suffix _l "
    "--data_root root --cache_dir cache --palette p.csv --tile 64 --tile_stride 32"
)


def parse(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    add_data_options(parser.add_argument_group("data"))
    return parser.parse_args(words.split())


def test_every_option_reaches_the_source():
    source = source_from_options(parse(OPTIONS))
    assert source == DataSource(
        "data",
        config_name="small",
        image_column="i",
        label_column="l",
        image_suffix="_i",
        label_suffix="_l",
        data_root="root",
        cache_dir="cache",
        palette="p.csv",
        tile=64,
        tile_stride=32,
    )
    defaults = {field.name for field in fields(DataSource) if getattr(source, field.name) == field.default}
    assert defaults == {"streaming", "revision", "token"}  # for which a command has no option, or one of its own
    assert source_from_options(parse("data")) == DataSource("data")


@pytest.mark.parametrize(
    "words, message", [("--num_labels 0", "--num_labels is 0"), ("--classes a --num_labels 2", "leave out")]
)
def test_classes_are_given_once(words, message):
    with pytest.raises(SegZooError, match=message):
        check_data_options(parse(f"data {words}"))
    check_data_options(parse("data --classes camvid"))


def test_a_mere_name_is_a_source(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DataSource.of("~/scenes") == DataSource("~/scenes")
    source = DataSource(tmp_path, streaming=True)
    assert DataSource.of(source) is source and str(source) == str(tmp_path)
    assert DataSource("~/scenes").path == Path(tmp_path, "scenes")
