"""Options of the random changes to training pictures; `segzoo.data.build_train_transform` makes the steps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from segzoo.errors import SegZooError
from segzoo.options import Options, option
from segzoo.sizes import MAX_SIZE

TORCHVISION, ALBUMENTATIONS = "torchvision", "albumentations"
CLASS_NAME = "__class_fullname__"  # the key of a transform's name in files of albumentations

REPLACED = ("scale_size", "scale_edges", "scale_range", "keep_ratio", "flip_probability", "photometric_distortion")
"""Options that a ``pipeline`` takes the place of."""


@dataclass(frozen=True, kw_only=True)
class Augmentation(Options):
    """Random scale, crop, flip and colours of training pictures; sizes are (height, width) in pixels.

    mmseg's ``img_scale=(2048, 512)`` with ``keep_ratio`` is the ``scale_size`` (512, 2048).

    A ``pipeline`` takes the place of scale, flip and photometric distortion; its result is then cut to ``crop_size``, or
    padded to it.

    Raises:
        SegZooError: a size or range cannot be used, or options do not fit each other.
    """

    prefix = "augmentation: "

    crop_size: tuple[int, ...] | None = option(
        (512, 512),
        "height and width of training crops; none: whole pictures",
        at_least=1,
        at_most=MAX_SIZE,
        lengths=(2,),
    )
    scale_size: tuple[int, ...] | None = option(
        None,
        "short edge, and limit of the long edge, that pictures are resized to; without keep_ratio height and width; "
        "none: as the model's image processor does",
        at_least=1,
        at_most=MAX_SIZE,
        lengths=(1, 2),
    )
    scale_edges: tuple[int, ...] = option(
        (),
        "short edges to choose from at random in training, instead of the one of scale_size",
        at_least=1,
        at_most=MAX_SIZE,
    )
    scale_range: tuple[float, ...] = option(
        (0.5, 2.0), "random factor on the scale of training pictures", above=0, at_most=100, lengths=(2,)
    )
    keep_ratio: bool = option(True, "resizing keeps a picture's shape")
    size_divisor: int | None = option(
        None,
        "whole pictures, tested or trained on without a crop, are stretched to multiples of it",
        at_least=1,
        at_most=MAX_SIZE,
    )
    cat_max_ratio: float = option(0.75, "largest share of one class in a crop, if it can be had", above=0, at_most=1)
    flip_probability: float = option(0.5, "chance that a training picture is mirrored", at_least=0, at_most=1)
    photometric_distortion: bool = option(
        True, "vary brightness, contrast, saturation and hue of RGB training pictures"
    )

    reduced_decoding: bool = option(
        False,
        "decode JPEG pictures at 1/2, 1/4 or 1/8 of their size where the random scale needs no more; faster, other pixels",
    )
    pipeline: dict[str, Any] | None = option(
        None, "transforms of torchvision or albumentations, which --augmentation reads from a file", flag=None
    )

    def for_channels(self, num_channels: int) -> Self:
        """These options for pictures with ``num_channels`` channels: without photometric distortion unless it is 3."""
        return self if num_channels == 3 else replace(self, photometric_distortion=False)

    def check(self) -> None:
        """``scale_range`` rises, ``scale_size`` fits ``keep_ratio``, ``scale_edges`` have ``keep_ratio``, a pipeline is one."""
        super().check()
        low, high = self.scale_range
        if low > high:
            self.refuse(f"scale_range is {low:g} to {high:g}; the first number is the smaller one")
        if not self.keep_ratio and (self.scale_size is None or len(self.scale_size) != 2):
            self.refuse("without keep_ratio, scale_size is the height and width to resize to")
        if self.keep_ratio and self.scale_size is not None and list(self.scale_size) != sorted(self.scale_size):
            self.refuse(
                f"scale_size is {self.scale_size}; with keep_ratio the short edge comes first, then the long edge's "
                "limit"
            )
        if self.pipeline is not None:
            check_pipeline(self.pipeline)
        if self.pipeline is not None and self.reduced_decoding:
            self.refuse(
                "reduced_decoding follows from the random scale, which a pipeline of transforms replaces; leave it out"
            )
        if self.scale_edges and not self.keep_ratio:
            self.refuse("scale_edges choose a short edge, which needs keep_ratio")


def check_pipeline(pipeline: Any) -> str:
    """The library of a pipeline; neither is imported.

    Raises:
        SegZooError: it is not of the form that `read_pipeline` returns.
    """
    if isinstance(pipeline, Mapping) and len(pipeline) == 1:
        library, content = next(iter(pipeline.items()))
        if (library, type(content)) in ((TORCHVISION, list), (ALBUMENTATIONS, dict)) and content:
            return library
    raise SegZooError(
        "the transforms are neither a list of torchvision's, such as [{RandomRotation: {degrees: 10}}], nor what "
        "albumentations.save writes"
    )


def pipeline_names(pipeline: Mapping[str, Any]) -> list[str]:
    """The names of a pipeline's transforms in order, without those that only hold others of albumentations."""
    library = check_pipeline(pipeline)
    if library == TORCHVISION:
        return [entry if isinstance(entry, str) else next(iter(entry), "?") for entry in pipeline[library]]

    def walk(node: Any) -> Iterable[str]:
        parts = node.get("transforms")
        if parts is None:
            yield str(node.get(CLASS_NAME)).rpartition(".")[2]
        for part in parts or ():
            yield from walk(part)

    return list(walk(pipeline[library]))
