"""Flags made from options, and what a parser says about unknown flags."""

import argparse
from dataclasses import dataclass

import pytest

from segzoo.options import Flag, Options, option
from segzoo.training.flags import add_flags, explain_unknown_flags


@dataclass(frozen=True, kw_only=True)
class Few(Options):
    crop_size: tuple[int, ...] = option((1, 1), "100% of it")
    use_cpu: bool = option(False, "off", flag=Flag(aliases=("no_cuda",)))
    resume_from: str | None = option(None, "where", flag=Flag(const="latest"))
    optim: str = option("sgd", "which", choices=("sgd", "adam"))
    hidden: int = option(0, "no flag", flag=None)


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(prog="few")
    explain_unknown_flags(parser)
    add_flags(parser.add_argument_group("few"), Few)
    return parser


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {}),
        ("--crop_size 3 4", {"crop_size": ["3", "4"]}),
        ("--crop-size=3", {"crop_size": ["3"]}),
        ("--use_cpu", {"use_cpu": True}),
        ("--use-cpu False", {"use_cpu": False}),
        ("--no_use_cpu", {"use_cpu": False}),
        ("--no-use_cpu", {"use_cpu": False}),
        ("--no-use-cpu no", {"use_cpu": True}),
        ("--no_cuda", {"use_cpu": True}),
        ("--resume_from", {"resume_from": "latest"}),
        ("--resume_from step_7", {"resume_from": "step_7"}),
    ],
)
def test_spellings(parser, words, expected):
    assert vars(parser.parse_args(words.split())) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--crop-siz 3", "few: error: there is no flag --crop-siz; did you mean --crop_size?"),
        ("--crop 3", "few: error: there is no flag --crop; did you mean --crop_size"),  # no guess from a beginning
        ("--xyzzy=3", "few: error: there is no flag --xyzzy; --help lists them all"),
        ("--hidden 3", "few: error: there is no flag --hidden; --help lists them all"),
        ("lost", "few: error: what is 'lost'? Values follow a flag, such as --output_dir lost"),
        ("--crop_size", "few: error: argument --crop_size: expected at least one argument"),
        ("--use_cpu maybe", "'maybe' is neither true nor false"),
    ],
)
def test_what_is_not_understood(parser, words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words.split())
    assert stop.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_help_shows_one_spelling_and_the_choices(parser):
    text = " ".join(parser.format_help().split())
    assert "--crop_size INT [INT ...] 100% of it" in text and "--crop-size" not in text
    assert "which (sgd, adam)" in text and "hidden" not in text
