"""Write a model as one file that runs without segzoo: ONNX or torch.export."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.errors import SegZooError
from segzoo.prediction.inputs import Input, named_pictures
from segzoo.progress import print_text
from segzoo.sizes import SizeAction
from segzoo.text import line_text

if TYPE_CHECKING:
    import numpy as np
    from transformers import BaseImageProcessor

    from segzoo.export.export import ExportOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo export``."""
    from segzoo.inference.options import add_model_options

    parser.add_argument("model", metavar="MODEL", help="model folder, or its name on the Hub")
    parser.add_argument(
        "--output", metavar="FILE", required=True, help="file to write: .onnx, or .pt2 for torch.export"
    )
    parser.add_argument(
        "--size", action=SizeAction, help="fix the input's size in pixels, as 512x1024 or 512 1024 (default: any)"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="fix the number of pictures at once (default: any)")
    parser.add_argument("--labels", action="store_true", help="return class ids at the input's size instead of logits")
    parser.add_argument(
        "--uint8", action="store_true", help="take RGB pictures of 0..255 (batch, height, width, 3), normalised inside"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of weights and computation (default: float32)",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators, 17 to 23 (default: 20)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest accepted difference from the model (default: 1e-4; float16: 2e-2)",
    )
    parser.add_argument(
        "--int8",
        nargs="+",
        metavar="PICTURE",
        help="compute in 8 bits, in ranges that are taken from these pictures or folders of pictures; 32 are enough, and "
        "further ones are not read",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file of this name")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write and check the file, and print its input, output and checks; returns 0.

    Raises:
        SegZooError: the model cannot be loaded; or see `segzoo.export.export.export_model`.
    """
    from segzoo.configuration_segzoo import SegZooConfig
    from segzoo.export.export import ExportOptions, check_target, export_model

    output = Path(args.output)
    check_target(output, opset=args.opset, overwrite=args.overwrite)
    if args.int8 and (output.suffix != ".onnx" or args.uint8 or args.dtype != "float32"):
        raise SegZooError("--int8 is for .onnx files, without --uint8 and --dtype; leave them out")
    options = ExportOptions(
        size=args.size,
        batch=args.batch,
        labels=args.labels,
        uint8=args.uint8,
        dtype=args.dtype,
        opset=args.opset,
        tolerance=args.tolerance,
    )

    from segzoo.inference.options import load_from_options

    pictures = named_pictures(args.int8) if args.int8 else []
    _say(f"loading {args.model}")
    model, processor = load_from_options(args)
    name = Path(args.model).name if Path(args.model).is_dir() else args.model
    exported = {"processor": processor, "name": name, "on_step": _say}
    if not pictures:
        report = export_model(model.float(), output, options, overwrite=args.overwrite, **exported)
    else:
        with tempfile.TemporaryDirectory() as folder:
            report = export_model(model.float(), Path(folder) / output.name, options, **exported)
            _quantize(report.path, output, _inputs(pictures, processor, report.options, Path(folder)), args.overwrite)
        report = replace(report, path=output, files=(output,))
    print_text(f"input   {line_text(report.input)}\noutput  {line_text(report.output)}")
    for check in report.checks:
        height, width = check.size
        print_text(f"checked {check.batch} of {height}x{width}: largest difference {check.difference:.1e}")
    if isinstance(model.config, SegZooConfig) and model.config.window_size is not None:
        height, width = model.config.window_size
        print_text(
            f"note    the model was made for windows of {height}x{width}, which are left to whoever runs the file"
        )
    for path in report.files:
        print_text(f"{line_text(path)}: {path.stat().st_size / 2**20:.1f} MiB")
    return 0


def _inputs(
    pictures: list[Input], processor: BaseImageProcessor, options: ExportOptions, folder: Path
) -> list[np.ndarray]:
    """The file's inputs for the first pictures, each (1, C, H, W), or as large and as many as the file takes."""
    from segzoo.export.quantization import CALIBRATION_PICTURES
    from segzoo.images.reading import open_picture
    from segzoo.layers import resize

    inputs = []
    for picture in pictures[:CALIBRATION_PICTURES]:
        picture = picture.fetched(folder)
        image = open_picture(picture.path, name=picture.name).grey_levels(processor.num_channels)
        values = processor(image, return_tensors="pt")["pixel_values"]
        if options.size is not None:
            values = resize(values, options.size)
        inputs.append(values.expand(options.batch or 1, -1, -1, -1).numpy())
    return inputs


def _quantize(source: Path, output: Path, inputs: list[np.ndarray], overwrite: bool) -> None:
    from segzoo.export.quantization import agreement, quantize_onnx

    _say(f"quantising with {len(inputs)} pictures")
    quantize_onnx(source, output, inputs, overwrite=overwrite)
    share = agreement(source, output, inputs)
    print_text(f"int8    the same class as in float32 at {share:.1%} of the pixels of {len(inputs)} pictures")


def _say(line: str) -> None:
    print_text(line, stream=sys.stderr)
