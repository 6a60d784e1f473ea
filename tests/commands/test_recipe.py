"""`segzoo recipe`: the file is a recipe, and the lines say what was taken, left out and how to go on."""

from pathlib import Path

import pytest

from segzoo.commands.cli import main
from segzoo.training import resolve_recipe

CONFIG = Path(__file__).parents[1] / "conversion/printed/internimage_mmcv.txt"


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_the_file_is_a_recipe(suffix, tmp_path, capsys):
    output = tmp_path / f"recipe{suffix}"
    assert main(["recipe", str(CONFIG), "--output", str(output), "--gpus", "3"]) == 0
    recipe = resolve_recipe(file=output)
    assert (recipe.name, recipe.learning_rate, recipe.total_train_batch_size) == (CONFIG.stem, 6e-5, 6)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["learning_rate", "6e-05"] and "(optimizer.lr)" in line for line in lines)
    assert lines[-1].startswith(
        "start: segzoo train --dataset_name DATA --classes ade20k --backbone BACKBONE --head uper "
    )
    assert lines[-1].endswith(f"--recipe {output} --output_dir OUT")
    assert main(["recipe", str(CONFIG), "--output", str(output)]) == 1, "the file is there"
    assert "exists already" in capsys.readouterr().err


def test_without_a_file_the_recipe_alone_is_on_standard_output(tmp_path, capsys):
    assert main(["recipe", str(CONFIG)]) == 0
    printed = capsys.readouterr()
    (tmp_path / "recipe.yaml").write_text(printed.out)
    assert resolve_recipe(file=tmp_path / "recipe.yaml").max_train_steps == 160_000
    assert "taken:" in printed.err and "left out:" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.py"], "there is no such file"),
        ([str(CONFIG), "--gpus", "0"], "at least 1"),
        ([str(CONFIG), "--output", "recipe.txt"], ".yaml or .json"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(["recipe", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
