"""Label pictures with a model: label maps, overlays with a legend, class areas."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.errors import SegZooError
from segzoo.progress import print_text
from segzoo.text import MOST_IN_NAME, line_text, shorten, without_secrets

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedConfig

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
PROTOCOL = ("slide", "window", "stride", "scales", "short_sides")
RESULTS = (".png", "_overlay.png", ".json")
QUICK_PIXELS = 4_000_000
"""Up to this number of pixels speed matters more than memory, and freed memory is kept for the next picture."""
OVERLAY_SIDE = 4096
"""Longest side of an overlay in pixels; those of larger pictures are shrunk, since drawing takes much memory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``segzoo predict``."""
    from segzoo.inference.options import add_model_options, add_protocol_options, add_speed_options

    parser.add_argument("images", metavar="IMAGE", nargs="+", help="picture, its web address, or folder of pictures")
    parser.add_argument("--model", metavar="DIR", required=True, help="model folder, or its name on the Hub")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for the results; made if it is missing")
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda (default: cpu)")
    parser.add_argument("--alpha", type=float, default=0.55, help="share of the colours in the overlay, 0 to 1")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "auto"),
        default="float32",
        help="of weights and computation; auto: bfloat16 on CPUs that have it in hardware (default: float32)",
    )
    add_speed_options(parser)
    add_protocol_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write a label PNG, an overlay and a JSON with class areas for each picture; returns 0.

    Raises:
        SegZooError: options, pictures, output folder or model cannot be used.
    """
    if not 0 <= args.alpha <= 1:
        raise SegZooError(f"--alpha {args.alpha} is not between 0 and 1")
    from segzoo.inference.options import check_protocol_options

    check_protocol_options(**{name: getattr(args, name) for name in PROTOCOL})
    pictures = find_pictures(args.images)
    output = Path(args.output)
    check_results_are_free(pictures, output, overwrite=args.overwrite)
    with tempfile.TemporaryDirectory() as folder:
        label_pictures(args, [picture.fetched(Path(folder)) for picture in pictures], output)
    return 0


def label_pictures(args: argparse.Namespace, pictures: Sequence[Input], output: Path) -> None:
    """Write the results of all pictures into ``output``; see `run`."""
    from segzoo.images.reading import in_colour, open_picture, read_header

    # Files that are not pictures are reported before any work is done. The first file is read whole, and not read
    # again.
    first = open_picture(pictures[0].path, name=pictures[0].name)
    sizes = [first.stored_size, *(read_header(image.path, name=image.name).size for image in pictures[1:])]

    from segzoo.configuration_segzoo import input_channels
    from segzoo.inference import Predictor
    from segzoo.inference.faster import faster_on_cpu, in_memory_format, input_size
    from segzoo.inference.options import load_from_options, settings_from_options
    from segzoo.inference.timing import has_bfloat16
    from segzoo.memory import keep_freed_memory

    if args.device == "cpu" and max(height * width for height, width in sizes) <= QUICK_PIXELS:
        keep_freed_memory()
    model, processor = load_from_options(args, args.device)
    num_channels = input_channels(model.config)
    options = {name: getattr(args, name) for name in (*PROTOCOL, "flip", "average")}
    settings = settings_from_options(model, processor, **options)
    if not args.no_fuse:
        model = faster_on_cpu(model)
    dtype = args.dtype
    if dtype == "auto":
        dtype = "bfloat16" if args.device == "cpu" and has_bfloat16() else "float32"
        print_text(f"computing in {dtype}", stream=sys.stderr)
    if dtype == "bfloat16":
        model.bfloat16()
    if not args.no_fuse or args.memory_format != "auto":
        chosen = in_memory_format(model, args.memory_format, input_size(settings, sizes[0]))
        if chosen is not None:
            print_text(chosen, stream=sys.stderr)
    predictor = Predictor(model, processor, settings, device=args.device)
    protocol = settings.describe(processor)
    print_text(f"protocol: {protocol}")
    output.mkdir(parents=True, exist_ok=True)
    names, palette = class_names(model.config), class_colours(model.config)
    for index, picture in enumerate(pictures):
        start = time.perf_counter()
        opened = first if index == 0 else open_picture(picture.path, name=picture.name)
        image = opened.grey_levels(num_channels)
        first = opened = None
        label_map = predictor.label_map(image, image.shape[:2]).cpu()
        facts = {"image": without_secrets(picture.name), "model": args.model, "protocol": protocol}
        shown = in_colour(image)
        areas = write_results(output / picture.stem, shown, label_map, names, palette, alpha=args.alpha, facts=facts)
        largest = ", ".join(f"{shorten(area['name'], MOST_IN_NAME)} {area['fraction']:.1%}" for area in areas[:3])
        print_text(line_text(f"{picture.name}: {largest} ({time.perf_counter() - start:.2f} s)"))
    print_text(line_text(f"{len(pictures)} pictures -> {output}"))


@dataclass(frozen=True)
class Input:
    """A picture to label.

    Args:
        name: path or web address, as the user calls it.
        stem: what the names of its results begin with.
        path: its file; None for a picture on the web that is not fetched yet.
    """

    name: str
    stem: str
    path: Path | None = None

    @classmethod
    def of(cls, path: Path) -> Input:
        """A file on this machine."""
        return cls(str(path), path.stem, path)

    @classmethod
    def on_the_web(cls, url: str) -> Input:
        """A picture at a web address; its results are named after the last part of the address's path."""
        last = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/").rpartition("/")[2]
        return cls(url, re.sub(r"[^\w.-]", "_", Path(last).stem).lstrip(".") or "picture")

    @property
    def key(self) -> str:
        """Equal for two names of one picture."""
        return self.name if self.path is None else str(self.path.resolve())

    def fetched(self, folder: Path) -> Input:
        """This picture with a file, which is put into ``folder`` if it is on the web.

        Raises:
            SegZooError: it cannot be fetched.
        """
        if self.path is not None:
            return self
        from segzoo.images.web import read_web

        print_text(line_text(f"fetching {self.name}"), stream=sys.stderr)
        try:
            content = read_web(self.name)
        except OSError as error:
            raise SegZooError(f"{self.name}: the picture cannot be fetched ({error}); check the address") from error
        from segzoo.files import write_errors_of

        path = folder / self.stem
        with write_errors_of(f"{self.name}: the copy in {folder}"):
            path.write_bytes(content)
        return replace(self, path=path)


def named_pictures(arguments: Sequence[str]) -> list[Input]:
    """The pictures that the arguments name; folders are replaced by the pictures in them, sorted.

    Raises:
        SegZooError: a path does not exist, or a folder has no pictures.
    """
    from segzoo.images.web import is_web_address
    from segzoo.regular_files import refuse_special

    pictures = []
    for argument in arguments:
        path = Path(argument)
        if is_web_address(argument):
            pictures.append(Input.on_the_web(argument))
        elif path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
            for file in found:
                refuse_special(file)
            if not found:
                raise SegZooError(f"{path}: the folder holds no pictures ({', '.join(SUFFIXES)})")
            pictures += map(Input.of, found)
        elif path.is_file():
            pictures.append(Input.of(path))
        else:
            refuse_special(path)
            raise SegZooError(f"{path}: there is no such picture; check the path")
    return list({picture.key: picture for picture in pictures}.values())


def find_pictures(arguments: Sequence[str]) -> list[Input]:
    """The pictures of `named_pictures`, whose results have names of their own.

    Raises:
        SegZooError: a path does not exist, a folder has no pictures, or two pictures would have results of the same
            name.
    """
    pictures = named_pictures(arguments)
    writers = defaultdict(dict)
    for picture in pictures:
        for suffix in RESULTS:
            writers[picture.stem + suffix][picture.key] = picture.name
    for name, sources in writers.items():
        if len(sources) > 1:
            listed = " and ".join(sorted(sources.values()))
            raise SegZooError(f"{listed} would both write {name}; rename one, or use one --output folder for each")
    return pictures


def check_results_are_free(pictures: Sequence[Input], output: Path, *, overwrite: bool) -> None:
    """Check that the results replace no picture and, without ``overwrite``, no file.

    Raises:
        SegZooError: a file is in the way; the message names the first one.
    """
    from segzoo.files import check_folder_place

    check_folder_place(output, option="--output")
    targets = [output / (picture.stem + suffix) for picture in pictures for suffix in RESULTS]
    inputs = {picture.path.resolve() for picture in pictures if picture.path is not None}
    for target in targets:
        if target.resolve() in inputs:
            raise SegZooError(f"{target}: the result would replace the picture itself; choose another --output folder")
        if target.is_dir():
            raise SegZooError(f"{target}: a folder has the name of a result; choose another --output folder")
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
