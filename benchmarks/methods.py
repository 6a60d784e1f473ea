"""One model of each method of the zoo: seconds for a picture on the CPU, in float32 and bfloat16.

    python benchmarks/methods.py --json docs/speed_of_methods.json       # and then python docs/model_table.py
    python benchmarks/methods.py --methods "mmsegmentation: PSPNet" --size 769 769
    python benchmarks/methods.py --threads 1 --clock cpu                 # on a machine that others use too

A method's model is the smallest that converts of its rows for ADE20K, or of all its rows where it has none for ADE20K.
Its backbone, which the table names, decides much of its speed; benchmarks/models.py compares heads on one backbone.
Models above ``--parameters`` are left out and named. Random weights, batch 1, from the normalised picture to the logits
at the head's resolution, prepared as segzoo predict does: norms folded, in the faster memory format. Times are medians
of the rounds, both precisions in turns.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from options import at_least
from rounds import rounds

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import translate_config
from segzoo.errors import SegZooError
from segzoo.flops import count_operations
from segzoo.measuring import as_commands_run_it, pictures, released_model, seconds_of
from segzoo.memory import keep_freed_memory

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Figures:
    """What was measured of a method's model.

    Args:
        name: its row.
        backbone: as the row calls it.
        size: height and width of the picture.
        parameters: weights without auxiliary heads.
        multiply_adds: of one picture of this size.
        float32, bfloat16: seconds for it.
    """

    name: str
    backbone: str
    size: tuple[int, int]
    parameters: int
    multiply_adds: int
    float32: float
    bfloat16: float


def smallest_models() -> dict[str, tuple[zoo.ZooRow, int]]:
    """Each method's model and its number of weights, by names like "mmsegmentation: PSPNet"."""
    known: dict[str, int | None] = {}  # by config: many rows have equal ones
    found: dict[str, list[tuple[zoo.ZooRow, int]]] = {}
    for row in zoo.rows().values():
        original = None if row.pretrained else zoo.original_config(row.name)
        if original is None:
            continue
        key = repr(original.get("model", original.get("MODEL")))
        if key not in known:
            known[key] = parameters_of(original)
        if (count := known[key]) is not None:
            found.setdefault(f"{row.system}: {row.method}", []).append((row, count))

    def order(model: tuple[zoo.ZooRow, int]) -> tuple[bool, int, str]:
        row, count = model
        return row.dataset != "ADE20K", count, row.name

    return {method: min(models, key=order) for method, models in sorted(found.items())}


def parameters_of(original: dict) -> int | None:
    """Weights of the model of a config, without auxiliary heads; None if it does not convert."""
    try:
        config = translate_config(original).config
    except SegZooError:
        return None
    return sum(weight.numel() for weight in on_meta(config).parameters())


def on_meta(config: SegZooConfig) -> SegZooForSemanticSegmentation:
    """The model without memory for its weights."""
    config.auxiliary_head_configs = []
    with torch.device("meta"):
        return SegZooForSemanticSegmentation(config).eval()


@torch.no_grad()
def figures_of(row: zoo.ZooRow, args: argparse.Namespace) -> Figures:
    """Measure one model."""
    model = on_meta(translate_config(zoo.original_config(row.name)).config)
    parameters = sum(weight.numel() for weight in model.parameters())
    size = tuple(args.size)
    operations = count_operations(model, size).multiply_adds
    runs = {
        dtype: as_commands_run_it(released_model(row.name), pictures(1, 3, size).to(getattr(torch, dtype)))
        for dtype in ("float32", "bfloat16")
    }
    clock, seconds = CLOCKS[args.clock], {dtype: [] for dtype in runs}
    for counts in rounds(args.rounds):
        for dtype, run in runs.items():
            elapsed = seconds_of(run, "cpu", clock)
            if counts:
                seconds[dtype].append(elapsed)
    medians = {dtype: round(statistics.median(times), 4) for dtype, times in seconds.items()}
    return Figures(row.name, row.backbone, size, parameters, operations, **medians)


def main() -> None:
    """Measure the chosen methods, print a table, and write JSON where it is asked for."""
    args = parse()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    chosen = smallest_models()
    if unknown := sorted(set(args.methods or ()) - set(chosen)):
        raise SystemExit(f"no method is called {unknown[0]!r}; there are {', '.join(map(repr, chosen))}")
    results = {"threads": args.threads, "clock": args.clock, "torch": torch.__version__, "methods": {}}
    print(f"{'method':40s} {'backbone':16s} {'M weights':>10s} {'G mult.-adds':>13s} {'float32':>9s} {'bfloat16':>9s}")
    for method, (row, count) in chosen.items():
        if args.methods and method not in args.methods:
            continue
        if count > args.parameters:
            print(f"{method:40s} {row.backbone:16s} {count / 1e6:10.1f} is left out: above --parameters", flush=True)
            continue
        figures = figures_of(row, args)
        results["methods"][method] = asdict(figures)
        print(line(method, figures), flush=True)
        if args.json:  # after each, for a run that is broken off
            args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def line(method: str, figures: Figures) -> str:
    """A line of the printed table."""
    counts = f"{figures.parameters / 1e6:10.1f} {figures.multiply_adds / 1e9:13.1f}"
    return f"{method:40s} {figures.backbone:16s} {counts} {figures.float32:7.3f} s {figures.bfloat16:7.3f} s"


def parse(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", metavar="NAME", help='only these, such as "mmsegmentation: PSPNet"')
    parser.add_argument("--size", type=at_least(1), nargs=2, default=[512, 512], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--parameters", type=float, default=1e9, help="leave out models with more weights")
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: the process's own seconds, on one thread"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    args = parser.parse_args(arguments)
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock cpu needs --threads 1: several threads' seconds would be added")
    return args


if __name__ == "__main__":
    main()
