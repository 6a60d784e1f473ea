"""What a test pipeline does to a picture, in the order in which the image processor does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segzoo.conversion.options import Options

# What the processor does to a picture, in its order, each at most once. It normalises after stretching; normalisations one
# after the other are one, and padding before them is padding after them with another colour.
_ORDER = ("load", "resize", "stretch", "pad to a size", "pad to a multiple")

# Mean and deviation of a normalisation, of one number or one for each channel.
_Moments = tuple[Sequence[float], Sequence[float]]


class Preparation:
    """The processor's settings, collected from the steps of a pipeline in their order.

    Args:
        num_channels: number of channels that the model reads.

    Attributes:
        reversed: whether the channels are in another order than the picture's.
        loads_arrays: whether a loader leaves the channels in the file's order.
        blue_first: whether pictures with a fourth channel are read blue first.
    """

    def __init__(self, num_channels: int = 3) -> None:
        self.num_channels = num_channels
        # Settings for sizes; ``pad_value`` is the colour, of one number or one for each channel, and how many normalisations
        # come before it.
        self._fields: dict[str, Any] = {}
        self.reversed = self.loads_arrays = self.blue_first = False
        self._moments: list[_Moments] = []
        self._rank, self._last = -1, ""

    def add(self, what: str, options: Options, kind: str, **fields: Any) -> None:
        """Does one thing more.

        Args:
            what: the thing, of `_ORDER`.
            options: of the original step, for the error.
            kind: type of that step.
            fields: the settings for it.

        Raises:
            ConversionError: the processor does it before what the steps so far do, or once, or has one setting for both.
        """
        rank = _ORDER.index(what)
        if rank <= self._rank or any(self._fields.get(name, value) != value for name, value in fields.items()):
            raise options.error(
                f"{kind!r} cannot follow {self._last!r} as it does: the image processor reads a picture, resizes it, stretches "
                "it to a multiple, normalises and pads it, each once, in this order, and with one filter and one colour; if the "
                "step changes none of your pictures, give a config file without it with --config"
            )
        self._fields |= fields
        self._rank, self._last = rank, kind

    def pad(
        self,
        options: Options,
        kind: str,
        value: float,
        *,
        size: Sequence[int] | None = None,
        multiple: int | None = None,
        first_channel_only: bool = False,
    ) -> bool:
        """Pads, unless an earlier step has made pictures at least as large; returns whether it does.

        Args:
            options, kind: as of `add`.
            value: of the padded pixels.
            size: least (height, width).
            multiple: what the sides become multiples of.
            first_channel_only: whether the value is that of the channel that is the first at this step, and 0 of all others.

        Raises:
            ConversionError: as `add`.
        """
        own, least = self._fields.get("size_multiple"), self._fields.get("pad_size")
        padded = self._fields.get("size_multiple_mode") == "pad"
        if multiple and own and own % multiple == 0 and (padded or not least):
            multiple = None
        if size is not None and least and size[0] <= least["height"] and size[1] <= least["width"]:
            size = None
        others = self.num_channels - 1 if first_channel_only and value != 0 else 0
        colour = {"pad_value": ([value, *[0] * others], len(self._moments))}
        if size is not None:
            least = {"height": int(size[0]), "width": int(size[1])}
            self.add("pad to a size", options, kind, pad_size=least, **colour)
        if multiple is not None:
            self.add("pad to a multiple", options, kind, size_multiple=multiple, size_multiple_mode="pad", **colour)
        return size is not None or multiple is not None

    def reverse(self) -> None:
        """Reverses the order of three channels."""
        self.reversed = not self.reversed
        self._moments = [
            (mean[::-1], std[::-1]) if len(mean) == len(std) == 3 else (mean, std) for mean, std in self._moments
        ]
        if "pad_value" in self._fields:
            colour, before = self._fields["pad_value"]
            self._fields["pad_value"] = (colour[::-1] if len(colour) == 3 else colour, before)

    def normalise(self, kind: str, mean: Sequence[float], std: Sequence[float]) -> None:
        """Subtracts a mean and divides by a deviation of one number or one for each channel, in units of the values."""
        self._moments.append((mean, std))
        if self._rank < _ORDER.index("stretch"):
            self._rank, self._last = _ORDER.index("stretch"), kind

    def settings(self) -> dict[str, Any]:
        """All settings, without the colour of the padding."""
        fields = {name: value for name, value in self._fields.items() if name != "pad_value"}
        fields["do_rescale"] = fields["do_normalize"] = bool(self._moments)
        if self._moments:  # ours are in 0..1, after a rescale
            mean, std = _composed(self._moments)
            fields["image_mean"] = [round(value / 255, 12) for value in mean]
            fields["image_std"] = [round(value / 255, 12) for value in std]
        return fields

    def padding(self) -> dict[str, Any]:
        """The colour of the padding, which passes through the normalisations after it."""
        if "pad_value" not in self._fields:
            return {}
        colour, before = self._fields["pad_value"]
        if before < len(self._moments):
            mean, std = _composed(self._moments[before:])
            colour, mean, std = _same_length(colour, mean, std)
            return {"pad_value": [(value - m) / s for value, m, s in zip(colour, mean, std, strict=True)]}
        return {"pad_value": colour if len(colour) > 1 else colour[0]}


def _composed(moments: Sequence[_Moments]) -> _Moments:
    """Mean and deviation of several normalisations one after the other."""
    mean, std = moments[0]
    for next_mean, next_std in moments[1:]:
        mean, std, next_mean, next_std = _same_length(mean, std, next_mean, next_std)
        mean = [m + s * n for m, s, n in zip(mean, std, next_mean, strict=True)]
        std = [s * n for s, n in zip(std, next_std, strict=True)]
    return mean, std


def _same_length(*lists: Sequence[float]) -> list[Sequence[float]]:
    """The lists, those of one number for all channels as long as the others."""
    channels = max(map(len, lists))
    return [[*values] * channels if len(values) == 1 else values for values in lists]
