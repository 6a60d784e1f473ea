"""Measure pictures per second, latency and memory of a model on this machine."""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.errors import SegZooError, first_line
from segzoo.progress import print_text
from segzoo.sizes import Size, SizesAction, usual_size
from segzoo.text import line_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WAYS = ("eager", "fused", "compiled", "onnxruntime", "openvino")
DTYPES = ("float32", "bfloat16")

EPILOG = """
The model is given as to segzoo info: a released checkpoint's name (its architecture, with random weights: nothing is downloaded), a model
folder, or a name on the Hub. Close other programs first: they share the machine, and the numbers with it.
"""

EXPLANATION = """
images/s: batch divided by the median. median, 99 %: time from the normalised pictures in memory to the logits at the head's resolution, which
half, or 99 %, of the runs stay below; decoding, resizing, normalising and writing of pictures come on top. memory: what a run adds, at its peak, to
what is held with the model prepared. Which ways there are:"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo benchmark``."""
    from segzoo.inference.options import add_model_options

    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", metavar="MODEL", help="name of a released checkpoint, model folder, or Hub name")
    parser.add_argument(
        "--size",
        action=SizesAction,
        help="sizes of the pictures, such as 512x1024 (default: what the model is used at)",
    )
    parser.add_argument(
        "--batch", type=_positive, nargs="+", default=[1], metavar="N", help="pictures at once (default: 1)"
    )
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, metavar="WAY", help=f"some of {', '.join(WAYS)} (default: all)"
    )
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        help="of weights and computation: float32, bfloat16 (default: float32, and bfloat16 where the hardware has it)",
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        nargs="+",
        metavar="N",
        help="threads of a CPU (default: as many as PyTorch takes)",
    )
    parser.add_argument("--device", help="torch device, such as cpu or cuda:1 (default: the GPU if there is one)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="how long each line is measured, after warming up (default: 5)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line for each way, size, batch and number of threads; returns 0.

    Raises:
        SegZooError: there is no such model, the device cannot be used, or nothing could be measured.
    """
    import torch

    from segzoo.files import json_text
    from segzoo.inference.timing import has_bfloat16, machine
    from segzoo.measuring import WHAT_THEY_ARE, default_device
    from segzoo.memory import keep_freed_memory

    if args.seconds <= 0:
        raise SegZooError(f"--seconds {args.seconds:g} is not above 0")
    device = args.device or default_device()
    kind = _kind(device)
    if kind != "cpu" and (index := torch.device(device).index) is not None:
        # What is waited for, and whose memory is read, is the current device.
        torch.accelerator.set_device_index(index)
    keep_freed_memory()  # as segzoo predict does
    model, size, released = _model(args, device)
    dtypes = args.dtype or ["float32", *(["bfloat16"] if kind == "cuda" or (kind == "cpu" and has_bfloat16()) else [])]
    threads = args.threads or [torch.get_num_threads()]
    weights = [*model.parameters(), *model.buffers()]
    facts: dict[str, Any] = {
        "model": args.model,
        "device": device if kind == "cpu" else f"{device} ({_gpu_name(device)})",
        "machine": machine(),
        "random_weights": released,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "weight_bytes": sum(weight.numel() * weight.element_size() for weight in weights),
        "results": [],
    }
    before = torch.get_num_threads()
    table = _Table(len(threads) > 1)
    try:
        if not args.json:
            print_text(line_text(f"{args.model} on {facts['device']}: {facts['machine']}"))
            print_text(
                f"{facts['parameters'] / 1e6:.1f} M parameters, {facts['weight_bytes'] / 1e6:.0f} MB{', random' if released else ''}"
            )
            print_text(table.head())
        for count, pixels, batch in itertools.product(threads, args.size or [size], args.batch):
            torch.set_num_threads(count)
            for way, dtype in itertools.product(args.ways or WAYS, dtypes):
                setting = {"way": way, "dtype": dtype, "size": list(pixels), "batch": batch, "threads": count}
                asked_for = bool(args.ways) and (dtype == "float32" or args.dtype is not None)
                if (found := _measured(model, setting, device, args.seconds, asked_for)) is None:
                    continue
                facts["results"].append(setting | found)
                if not args.json:
                    print_text(table.line(facts["results"][-1]))
    finally:
        torch.set_num_threads(before)
    if not any("images_per_second" in result for result in facts["results"]):
        reasons = "; ".join(dict.fromkeys(result["why_not"] for result in facts["results"]))
        raise SegZooError(f"{args.model}: nothing could be measured ({reasons})")
    if args.json:
        print_text(json_text(facts, indent=1), end="")
    else:
        shown = dict.fromkeys(result["way"] for result in facts["results"])
        print_text("\n".join([EXPLANATION, *(f"  {way:<12} {WHAT_THEY_ARE[way]}" for way in shown)]))
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 4096")
    return int(text)


def _kind(device: str) -> str:
    import torch

    try:
        torch.zeros(1, device=device)
        return torch.device(device).type
    except (RuntimeError, AssertionError) as error:
        raise SegZooError(f"device {device} cannot be used here ({first_line(error)}); try cpu") from error


def _gpu_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "accelerator"


def _model(args: argparse.Namespace, device: str) -> tuple[PreTrainedModel, Size, bool]:
    """The model in float32 on a device, the size that it is used at, and whether its weights are random."""
    from segzoo import zoo
    from segzoo.inference.options import load_from_options
    from segzoo.inference.settings import fixed_input_size
    from segzoo.measuring import released_model

    if Path(args.model).is_dir() or (zoo.lookup(args.model) is None and "/" in args.model):
        model, processor = load_from_options(args, device)
        settings = processor.to_dict()
        if window := getattr(model.config, "window_size", None):
            settings["window_size"] = window
        return model.float(), fixed_input_size(model.config) or usual_size(settings), False
    row = zoo.find(args.model)
    model = released_model(row.name)
    size = tuple(model.config.window_size or row.crop or (512, 512))
    return model.to(device), size, True


def _measured(
    model: PreTrainedModel, setting: dict[str, Any], device: str, seconds: float, asked_for: bool
) -> dict[str, Any] | None:
    """The numbers of a line, or ``why_not``; None for a way that is not asked for and does not go here.

    Args:
        model: stays as it is.
        setting: ``way``, ``dtype``, ``size``, ``batch``.
        device: torch device.
        seconds: how long it is measured.
        asked_for: whether the way was named, and its type too, unless that is float32.
    """
    import torch

    from segzoo.configuration_segzoo import input_channels
    from segzoo.measuring import USUAL_WAYS, measured, pictures
    from segzoo.modeling_segzoo import SegZooForSemanticSegmentation

    way, kind, dtype = USUAL_WAYS[setting["way"]], torch.device(device).type, getattr(torch, setting["dtype"])
    own = isinstance(model, SegZooForSemanticSegmentation)
    reason = way.why_not(kind, bfloat16=dtype != torch.float32, own=own)
    if reason is not None:
        return {"why_not": reason} if asked_for else None
    pixels = pictures(setting["batch"], input_channels(model.config), setting["size"]).to(device, dtype)
    try:
        call = way.prepare(copy.deepcopy(model).to(dtype), pixels)
        found = measured(call, kind, seconds=seconds, compiles=way.compiles)
    except Exception as error:  # onnxruntime's have no class in common, and the other lines go on in any case
        return {"why_not": first_line(error)}
    finally:
        call = None
        gc.collect()
        if way.compiles:
            torch.compiler.reset()
    return {
        "images_per_second": setting["batch"] / found.median,
        "median_ms": 1e3 * found.median,
        "p99_ms": 1e3 * found.p99,
        "rounds": found.rounds,
        "memory_bytes": found.memory,
    }


class _Table:
    """The lines of the table; the threads are a column where there are several numbers of them."""

    def __init__(self, with_threads: bool):
        self.with_threads = with_threads

    def head(self) -> str:
        """The names of the columns."""
        return self._joined("way", "dtype", "size", "batch", "threads", ["images/s", "median", "99 %", "memory"])

    def line(self, result: dict[str, Any]) -> str:
        """The line of a result."""
        if "why_not" in result:
            numbers = [f"  not measured: {line_text(result['why_not'])}"]
        else:
            memory = result["memory_bytes"]
            numbers = [
                f"{result['images_per_second']:.2f}",
                f"{result['median_ms']:.1f} ms",
                f"{result['p99_ms']:.1f} ms",
                "not known" if memory is None else f"{memory / 1e6:.0f} MB",
            ]
        size = "x".join(map(str, result["size"]))
        return self._joined(result["way"], result["dtype"], size, result["batch"], result["threads"], numbers)

    def _joined(self, way: str, dtype: str, size: str, batch: object, threads: object, numbers: Sequence[str]) -> str:
        start = f"{way:<12} {dtype:<9} {size:>11} {batch:>5}" + (f" {threads:>7}" if self.with_threads else "")
        if len(numbers) == 1:
            return start + numbers[0]
        return start + "".join(f" {number:>11}" for number in numbers)
