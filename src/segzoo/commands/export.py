"""Write a model as one file that runs without segzoo: ONNX or torch.export."""

import argparse
import sys
from pathlib import Path

from segzoo.progress import print_text
from segzoo.sizes import SizeAction
from segzoo.text import line_text


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

    _say(f"loading {args.model}")
    model, processor = load_from_options(args)
    report = export_model(
        model.float(),
        output,
        options,
        processor=processor,
        overwrite=args.overwrite,
        name=Path(args.model).name if Path(args.model).is_dir() else args.model,
        on_step=_say,
    )
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


def _say(line: str) -> None:
    print_text(line, stream=sys.stderr)
