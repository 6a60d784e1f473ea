"""Turn a training config of mmsegmentation into a recipe for segzoo train."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from segzoo.progress import print_text
from segzoo.text import line_text, shorten

EPILOG = """
The config may be of mmsegmentation 0.x or 1.x, or of any repository that builds on one: a .py file with its base files, or the resolved
config that the original's print_config prints. It is read as data; what it imports is not run, and need not be installed.
"""
_MOST = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo recipe``."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", metavar="CONFIG", help="the training config, a .py, .yaml or .json file")
    parser.add_argument(
        "--output", metavar="FILE", help="recipe file to write, .yaml or .json (default: it is printed, as YAML)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file of this name")
    parser.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="GPUs that the config is made for, which its batch follows from (default: as its name says, such as 4xb2 or 8x2, or 4)",
    )


def run(args: argparse.Namespace) -> int:
    """Write or print the recipe, what was taken and left out, and how the training is started; returns 0.

    Raises:
        SegZooError: the config cannot be read, has no optimizer, or its settings fit no recipe; or the file is there already.
    """
    from segzoo.errors import SegZooError
    from segzoo.files import write_whole
    from segzoo.files.outputs import check_file_place
    from segzoo.training.recipes.original.derive import derive_recipe, read_training_config

    if args.gpus is not None and args.gpus < 1:
        raise SegZooError(f"--gpus {args.gpus}: give a number of at least 1")
    output = None if args.output is None else Path(args.output)
    if output is not None:
        if output.suffix not in (".yaml", ".yml", ".json"):
            raise SegZooError(f"{output}: a recipe file ends in .yaml or .json")
        check_file_place(output, option="--output", overwrite=args.overwrite)
    name = Path(args.config).stem
    derived = derive_recipe(read_training_config(args.config), name=name, gpus=args.gpus)
    if output is None:
        print_text(yaml_text(derived.recipe.to_dict(), args.config), end="")
    elif output.suffix == ".json":
        derived.recipe.write_recipe(output)
    else:
        write_whole(output, yaml_text(derived.recipe.to_dict(), args.config))
    stream = sys.stdout if output is not None else sys.stderr  # a recipe that is printed stands alone
    values = derived.recipe.to_dict()
    wide = max(map(len, derived.places))
    print_text("taken:", stream=stream)
    for field, place in derived.places.items():
        value = shorten(str(values[field]), 60)
        print_text(line_text(f"  {field:<{wide}}  {value}  ({place})"), stream=stream)
    if derived.left_out:
        print_text("left out:", stream=stream)
        for place, why in derived.left_out:
            print_text(line_text(f"  {place}: {shorten(why, _MOST)}"), stream=stream)
    words = ["segzoo", "train", *derived.flags, "--recipe", args.output or "recipe.yaml", "--output_dir", "OUT"]
    print_text(line_text(f"start: {shlex.join(words)}"), stream=stream)
    return 0


def yaml_text(values: dict[str, object], config: str) -> str:
    """The recipe as YAML, in the order of its fields, with a line that says where it comes from."""
    import yaml

    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    return line_text(f"# of {Path(config).name}, by segzoo recipe; for segzoo train --recipe") + "\n" + text
