"""Options of the random changes to training pictures; `segzoo.data.build_train_transform` makes the steps."""

from dataclasses import dataclass, replace
from typing import Self

from segzoo.options import Options, option
from segzoo.sizes import MAX_SIZE


@dataclass(frozen=True, kw_only=True)
class Augmentation(Options):
    """Random scale, crop, flip and colours of training pictures; sizes are (height, width) in pixels.

    mmseg's ``img_scale=(2048, 512)`` with ``keep_ratio`` is the ``scale_size`` (512, 2048).

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

    def for_channels(self, num_channels: int) -> Self:
        """These options for pictures with ``num_channels`` channels: without photometric distortion unless it is 3."""
        return self if num_channels == 3 else replace(self, photometric_distortion=False)

    def check(self) -> None:
        """``scale_range`` rises, ``scale_size`` fits ``keep_ratio``, and ``scale_edges`` have ``keep_ratio``."""
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
        if self.scale_edges and not self.keep_ratio:
            self.refuse("scale_edges choose a short edge, which needs keep_ratio")
