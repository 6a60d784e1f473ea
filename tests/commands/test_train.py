"""``segzoo train`` before it trains: help and mistakes. Trainings are in `tests/examples`."""

import subprocess
import sys
from pathlib import Path

import pytest

import segzoo
from segzoo.commands.cli import main


def test_the_command_line_is_read_without_torch():
    """What answers --help and a mistyped flag; segzoo's own __init__ is left out, which is not this command's."""
    program = f"""
import argparse, sys, types
package = types.ModuleType("segzoo")
package.__path__ = [{str(Path(segzoo.__file__).parent)!r}]
sys.modules["segzoo"] = package
from segzoo.commands import train
train.add_arguments(argparse.ArgumentParser())
print([name for name in ("torch", "transformers", "datasets", "accelerate", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_help_has_a_flag_for_every_kind_of_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for flag in ("--backbone", "--dataset_name", "--recipe", "--crop_size", "--output_dir", "--eval_strategy"):
        assert flag in text
    assert "accelerate launch -m segzoo train" in text


def test_a_mistyped_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--output-dir", "out", "--learning_rat", "1"])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("segzoo train: error: there is no flag --learning_rat; did you mean --learning_rate")


def test_a_wrong_value_is_one_line(capsys):
    assert main(["train", "--output_dir", "out", "--seed", "many"]) == 1
    assert capsys.readouterr().err == "error: --seed is 'many'; it must be a whole number\n"
