"""Label pictures with a model: label maps, overlays with a legend, class areas."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.errors import SegZooError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedConfig

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
RESULTS = (".png", "_overlay.png", ".json")
QUICK_PIXELS = 4_000_000
"""Up to this number of pixels speed matters more than memory, and freed memory is kept for the next picture."""
OVERLAY_SIDE = 4096
"""Longest side of an overlay in pixels; those of larger pictures are shrunk, since drawing takes much memory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo predict``."""
    from segzoo.inference.options import add_model_options, add_protocol_options

    parser.add_argument("images", metavar="IMAGE", nargs="+", help="picture, or folder of pictures")
    parser.add_argument("--model", metavar="DIR", required=True, help="model folder, or its name on the Hub")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for the results; made if it is missing")
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda (default: cpu)")
    parser.add_argument("--alpha", type=float, default=0.55, help="share of the colours in the overlay, 0 to 1")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    add_protocol_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write a label PNG, an overlay and a JSON with class areas for each picture; returns 0.

    Raises:
        SegZooError: options, pictures, output folder or model cannot be used.
    """
    if not 0 <= args.alpha <= 1:
        raise SegZooError(f"--alpha {args.alpha} is not between 0 and 1")
    from segzoo.inference.options import check_protocol_options, load_from_options, settings_from_options

    checked = ("slide", "window", "stride", "scales", "short_sides")
    check_protocol_options(**{name: getattr(args, name) for name in checked})
    pictures = find_pictures(args.images)
    output = Path(args.output)
    check_results_are_free(pictures, output, overwrite=args.overwrite)

    from segzoo.images.reading import in_colour, open_picture, read_header

    # Files that are not pictures are reported before any work is done. The first file is read whole, and not read
    # again.
    first = open_picture(pictures[0])
    sizes = [first.stored_size, *(read_header(path).size for path in pictures[1:])]

    from segzoo.configuration_segzoo import input_channels
    from segzoo.inference import Predictor
    from segzoo.memory import keep_freed_memory

    if args.device == "cpu" and max(height * width for height, width in sizes) <= QUICK_PIXELS:
        keep_freed_memory()
    model, processor = load_from_options(args, args.device)
    num_channels = input_channels(model.config)
    options = {name: getattr(args, name) for name in (*checked, "flip", "average")}
    settings = settings_from_options(model, processor, **options)
    predictor = Predictor(model, processor, settings, device=args.device)
    protocol = settings.describe(processor)
    print(f"protocol: {protocol}", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    names, palette = class_names(model.config), class_colours(model.config)
    for index, path in enumerate(pictures):
        start = time.perf_counter()
        image = (first if index == 0 else open_picture(path)).grey_levels(num_channels)
        first = None
        label_map = predictor.label_map(image, image.shape[:2]).cpu()
        facts = {"image": str(path), "model": args.model, "protocol": protocol}
        shown = in_colour(image)
        areas = write_results(output / path.stem, shown, label_map, names, palette, alpha=args.alpha, facts=facts)
        largest = ", ".join(f"{area['name']} {area['fraction']:.1%}" for area in areas[:3])
        print(f"{path}: {largest} ({time.perf_counter() - start:.2f} s)", flush=True)
    print(f"{len(pictures)} pictures -> {output}")
    return 0


def find_pictures(arguments: list[str]) -> list[Path]:
    """The files of pictures; folders are replaced by the pictures in them, sorted.

    Raises:
        SegZooError: a path does not exist, a folder has no pictures, or two pictures would have results of the same
            name.
    """
    pictures = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            if not found:
                raise SegZooError(f"{path}: the folder holds no pictures ({', '.join(SUFFIXES)})")
            pictures += found
        elif path.is_file():
            pictures.append(path)
        else:
            raise SegZooError(f"{path}: there is no such picture; check the path")
    writers = defaultdict(set)
    for path in pictures:
        for suffix in RESULTS:
            writers[path.stem + suffix].add(path.resolve())
    for name, paths in writers.items():
        if len(paths) > 1:
            listed = " and ".join(sorted(str(p) for p in paths))
            raise SegZooError(f"{listed} would both write {name}; rename one, or use one --output folder for each")
    return list(dict.fromkeys(pictures))


def check_results_are_free(pictures: list[Path], output: Path, *, overwrite: bool) -> None:
    """Check that the results replace no picture and, without ``overwrite``, no file.

    Raises:
        SegZooError: a file is in the way; the message names the first one.
    """
    if output.exists() and not output.is_dir():
        raise SegZooError(f"{output}: this is a file; give a folder for the results")
    targets = [output / (path.stem + suffix) for path in pictures for suffix in RESULTS]
    inputs = {path.resolve() for path in pictures}
    for target in targets:
        if target.resolve() in inputs:
            raise SegZooError(f"{target}: the result would replace the picture itself; choose another --output folder")
    taken = [target for target in targets if target.exists()]
    if taken and not overwrite:
        raise SegZooError(f"{taken[0]}: {len(taken)} results exist already; add --overwrite, or choose another folder")


def class_names(config: PreTrainedConfig) -> list[str]:
    """Names of a model's classes, in the order of their ids."""
    return [config.id2label[i] for i in range(config.num_labels)]


def class_colours(config: PreTrainedConfig) -> list[list[int]]:
    """The config's palette, RGB colours by class id; `default_palette` if it has none."""
    from segzoo.images.drawing import default_palette

    return getattr(config, "palette", None) or default_palette(config.num_labels)


def write_results(
    stem: Path,
    image: np.ndarray,
    label_map: torch.Tensor,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    alpha: float,
    facts: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Write the three files of one picture, each whole or not at all.

    Args:
        stem: path of the files without their endings.
        image: uint8 array (height, width, 3).
        label_map: class ids (height, width).
        names, palette: name and RGB colour of each class, by id.
        alpha: share of the colours in the overlay, 0 to 1.
        facts: further entries of the JSON.

    Returns:
        ``id``, ``name``, ``pixels`` and ``fraction`` of each class that occurs, largest first.
    """
    from PIL import Image

    from segzoo.files import json_text, write_whole
    from segzoo.images.drawing import class_areas, label_image, overlay_with_legend

    height, width = label_map.shape
    step = -(-max(height, width) // OVERLAY_SIDE)
    small = Image.fromarray(image) if step == 1 else Image.fromarray(image).reduce(step)
    areas = [{"id": a["id"], "name": names[a["id"]], **a} for a in class_areas(label_map, len(names))]
    facts = {**facts, "width": width, "height": height, "classes": areas}
    pictures = {
        ".png": label_image(label_map, palette),
        "_overlay.png": overlay_with_legend(small, label_map[::step, ::step], palette, names, alpha=alpha),
    }
    for suffix, picture in pictures.items():
        write_whole(stem.with_name(stem.name + suffix), lambda file, p=picture: p.save(file, format="PNG"))
    write_whole(stem.with_name(stem.name + ".json"), json_text(facts, indent=1))
    return areas
