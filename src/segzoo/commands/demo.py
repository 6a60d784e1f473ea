"""Show a page in the browser on which a model labels the pictures that are dropped there."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo demo``."""
    from segzoo.inference.options import add_model_options

    parser.add_argument("model", metavar="MODEL", help="model folder, or its name on the Hub")
    parser.add_argument(
        "--port", type=int, metavar="N", help="port of the page (default: the first free one from 7860 on)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at; 0.0.0.0 lets other machines in (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="make a public link, through servers of gradio that everybody with the link reaches",
    )
    parser.add_argument("--device", help="torch device, such as cpu or cuda:1 (default: the GPU if there is one)")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; returns 0.

    Raises:
        SegZooError: gradio is not installed, the model cannot be loaded, or the address or port cannot be listened at.
    """
    from segzoo import zoo
    from segzoo.demo import Demo, build_page, check_address, serve
    from segzoo.errors import SegZooError
    from segzoo.inference.faster import faster_on_cpu
    from segzoo.inference.options import load_from_options
    from segzoo.measuring import default_device

    if not Path(args.model).is_dir() and zoo.lookup(args.model) is not None:
        raise SegZooError(
            f"{args.model} is a released checkpoint, whose weights are no model folder yet: "
            f"segzoo convert {args.model} --output DIR, then segzoo demo DIR"
        )
    check_address(args.host, args.port)
    device = args.device or default_device()
    model, processor = load_from_options(args, device)
    name = Path(args.model).resolve().name if Path(args.model).is_dir() else args.model
    serve(build_page(Demo(faster_on_cpu(model), processor, name)), host=args.host, port=args.port, share=args.share)
    return 0
