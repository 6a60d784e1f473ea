"""Command-line options for the model, where it comes from, and for the protocol: windows, scales, flips."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segzoo.errors import SegZooError
from segzoo.inference.settings import MEMORY_FORMATS, InferenceSettings

if TYPE_CHECKING:
    from torch import nn
    from transformers import BaseImageProcessor

    from segzoo.inference.loading import LoadedModel


def add_model_options(parser: argparse.ArgumentParser, *, cache_dir: bool = True) -> None:
    """Add ``--model_revision``, ``--token``, ``--trust_remote_code``, ``--no_verify`` and ``--cache_dir``.

    Args:
        parser: the command's parser.
        cache_dir: False where the command has this option already.
    """
    group = parser.add_argument_group("model on the Hub")
    group.add_argument("--model_revision", metavar="NAME", help="branch, tag or commit (default: its main branch)")
    group.add_argument("--token", metavar="TOKEN", help="access token (default: that of `hf auth login`)")
    group.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run code from the repository, which segzoo's models do not need",
    )
    group.add_argument(
        "--no_verify",
        action="store_true",
        help="do not compare the weights with the hashes that were saved with them, for those that were changed since",
    )
    if cache_dir:
        group.add_argument("--cache_dir", metavar="DIR", help="where downloads are kept")


def load_from_options(args: argparse.Namespace, device: str = "cpu") -> LoadedModel:
    """Load ``args.model`` as the options of `add_model_options` say.

    Args:
        args: the parsed options.
        device: torch device for the weights.

    Raises:
        SegZooError: see `segzoo.inference.loading.load`.
    """
    from segzoo.inference.loading import load

    return load(
        args.model,
        device=device,
        revision=args.model_revision,
        token=args.token,
        cache_dir=args.cache_dir,
        trust_remote_code=args.trust_remote_code or None,
        verify=not args.no_verify,
    )


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--no_fuse`` and ``--memory_format``, for `segzoo.inference.faster`, and ``--num_streams``."""
    parser.add_argument(
        "--no_fuse",
        action="store_true",
        help="on a CPU: run the model as it was saved, without folding batch norms into convolutions",
    )
    parser.add_argument(
        "--memory_format",
        choices=MEMORY_FORMATS,
        default="auto",
        help="of weights and pictures (default: on a CPU the faster one, which is measured once and kept; elsewhere as "
        "the model is)",
    )
    parser.add_argument(
        "--num_streams",
        type=int,
        metavar="N",
        help="on a CPU: batches that go through the model at the same time, each on its share of the threads (default: 2 "
        "if they are small and memory is free)",
    )


def add_protocol_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--slide``, ``--window``, ``--stride``, ``--scales``, ``--short_sides``, ``--flip`` and ``--average``."""
    group = parser.add_argument_group("protocol")
    group.add_argument(
        "--slide",
        action=argparse.BooleanOptionalAction,
        help="sliding windows, or whole images (default: as the model says)",
    )
    group.add_argument(
        "--window", type=int, nargs="+", metavar="N", help="height and width of the windows (or one number)"
    )
    group.add_argument(
        "--stride", type=int, nargs="+", metavar="N", help="step of the windows (default: two thirds of the window)"
    )
    group.add_argument(
        "--scales", type=float, nargs="+", metavar="F", help="factors on the image size, such as 0.75 1 1.25"
    )
    group.add_argument(
        "--short_sides",
        type=int,
        nargs="+",
        metavar="N",
        help="instead of --scales: lengths of the shorter side, such as 300 450 600",
    )
    group.add_argument("--flip", action="store_true", help="also predict the mirrored image")
    group.add_argument("--average", choices=("probabilities", "logits"), help="what is averaged over scales and flips")


def check_protocol_options(
    *,
    slide: bool | None = None,
    window: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    scales: Sequence[float] | None = None,
    short_sides: Sequence[int] | None = None,
) -> None:
    """Check the options before a model is loaded; arguments as in `settings_from_options`.

    Raises:
        SegZooError: windows for whole images, a window or stride that is not one or two positive numbers, scales or
            short sides that are not above 0, or both scales and short sides.
    """
    if slide is False and (window or stride):
        raise SegZooError("--no-slide takes whole images; leave out --window and --stride")
    for name, values in (("window", window), ("stride", stride)):
        if values is not None and (len(values) > 2 or min(values) < 1):
            given = " ".join(map(str, values))
            raise SegZooError(f"--{name} {given}: give height and width in pixels, or one number for both")
    if scales is not None and min(scales) <= 0:
        raise SegZooError(f"--scales {' '.join(map(str, scales))}: factors are above 0")
    if short_sides is not None and min(short_sides) < 1:
        raise SegZooError(f"--short_sides {' '.join(map(str, short_sides))}: lengths in pixels are at least 1")
    if short_sides is not None and scales is not None:
        raise SegZooError("--short_sides and --scales exclude each other; give one of them")


def settings_from_options(
    model: nn.Module,
    image_processor: BaseImageProcessor | None = None,
    *,
    slide: bool | None = None,
    window: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    scales: Sequence[float] | None = None,
    short_sides: Sequence[int] | None = None,
    flip: bool = False,
    average: str | None = None,
) -> InferenceSettings:
    """The protocol that a model comes with, changed by the options.

    Args:
        model: its config may name windows.
        image_processor: it may name windows if the model's config does not.
        slide: windows (True) or whole images (False); None: windows if ``window`` or ``stride`` is given or the model
            has some.
        window: (height, width) of the windows in pixels, or one number for both; None: the model's.
        stride: (vertical, horizontal) step in pixels, or one number for both; None: two thirds of a given ``window``,
            else the model's.
        scales, short_sides, flip, average: as in `InferenceSettings`; None: its defaults.

    Raises:
        SegZooError: windows are asked for but have no size, or values that `check_protocol_options` or
            `InferenceSettings` does not accept.
    """
    check_protocol_options(slide=slide, window=window, stride=stride, scales=scales, short_sides=short_sides)
    own = InferenceSettings.of_model(model, image_processor)
    changes = {}
    if slide is False:
        changes |= {"window_size": None, "window_stride": None}
    elif slide or window or stride:
        size = (window[0], window[-1]) if window else own.window_size
        if size is None:
            raise SegZooError("the model has no windows of its own; give their size as --window HEIGHT WIDTH")
        if stride:
            step = (stride[0], stride[-1])
        else:
            step = tuple(max(1, 2 * side // 3) for side in size) if window else own.window_stride
        changes |= {"window_size": size, "window_stride": step}
    given = {"scales": scales, "short_sides": short_sides, "flip": flip or None, "average": average}
    changes |= {name: value for name, value in given.items() if value is not None}
    return InferenceSettings.of_model(model, image_processor, **changes)
