"""The protocol of an inference: whole pictures or windows, one view or several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from segzoo.errors import SegZooError

if TYPE_CHECKING:
    from torch import nn
    from transformers import BaseImageProcessor, PreTrainedConfig

Average = Literal["probabilities", "logits"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
MEMORY_FORMATS: tuple[str, ...] = get_args(MemoryFormat)


def fixed_input_size(config: PreTrainedConfig) -> tuple[int, int] | None:
    """(height, width) of the pictures that a model takes if it takes no others, as EoMT does; else None."""
    return (config.image_size, config.image_size) if config.model_type in ("eomt", "eomt_dinov3") else None


@dataclass(frozen=True)
class InferenceSettings:
    """How a picture goes through a model.

    Args:
        window_size: (height, width) of sliding windows in pixels of the resized picture; None: the whole picture at
            once.
        window_stride: (vertical, horizontal) step between windows in pixels; None: the window's size.
        scales: factors on the size that the image processor resizes to, or on the picture's own size if it does not
            resize; one view each.
        short_sides: instead of ``scales``, lengths of the shorter side in pixels, one view each; the image processor's
            bound of the longer side applies to all of them (MIT scene parsing: 300, 375, 450, 525, 600).
        flip: add a view mirrored left to right for every view.
        average: what is averaged over the views, at the target size: ``"probabilities"`` averages each view's softmax,
            as mmsegmentation does; ``"logits"`` is for heads whose maps are not meant for a softmax.
        windows_per_pass: how many windows go through the model at once.

    Raises:
        SegZooError: sizes or factors that are not positive, a stride larger than the window, both scales and short
            sides, or an unknown average.
    """

    window_size: tuple[int, int] | None = None
    window_stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    short_sides: tuple[int, ...] = ()
    flip: bool = False
    average: Average = "probabilities"
    windows_per_pass: int = 4

    def __post_init__(self) -> None:
        for name in ("window_size", "window_stride"):
            value = getattr(self, name)
            if value is not None:
                pair = tuple(int(side) for side in value)
                if len(pair) != 2 or min(pair) < 1:
                    raise SegZooError(f"{name} is {value!r}; give (height, width) in pixels, both at least 1")
                object.__setattr__(self, name, pair)
        if self.window_stride is not None and self.window_size is None:
            raise SegZooError("window_stride needs a window_size; set both, or neither")
        if self.window_size is not None and self.window_stride is None:
            object.__setattr__(self, "window_stride", self.window_size)
        if self.window_size is not None and any(
            step > side for step, side in zip(self.window_stride, self.window_size, strict=True)
        ):
            raise SegZooError(
                f"window_stride {self.window_stride} is larger than window_size {self.window_size}, which leaves pixels "
                "without a prediction; make the stride at most the window"
            )
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        if not self.scales or not all(0 < scale < float("inf") for scale in self.scales):
            raise SegZooError(f"scales are {self.scales}; give at least one factor above 0, such as 1.0")
        object.__setattr__(self, "short_sides", tuple(int(side) for side in self.short_sides))
        if any(side < 1 for side in self.short_sides):
            raise SegZooError(f"short_sides are {self.short_sides}; give lengths in pixels, all at least 1")
        if self.short_sides and self.scales != (1.0,):
            raise SegZooError(
                f"short_sides {self.short_sides} and scales {self.scales} exclude each other; give one of them"
            )
        if self.average not in get_args(Average):
            raise SegZooError(f"average is {self.average!r}; use one of {', '.join(get_args(Average))}")
        if self.windows_per_pass < 1:
            raise SegZooError(f"windows_per_pass is {self.windows_per_pass}; it must be at least 1")

    @classmethod
    def of_model(
        cls, model: nn.Module, image_processor: BaseImageProcessor | None = None, **changes: Any
    ) -> InferenceSettings:
        """The protocol that a model comes with: its windows, or whole pictures if it has none.

        A model that takes one size only, as EoMT, gets windows of that size side by side. Its own processor lays them
        evenly where there are three or more, which differs a little for pictures more than twice as wide as high.

        Args:
            model: its config may name windows.
            image_processor: it may name windows if the config does not; the pipeline takes them from there.
            changes: fields with other values; a ``window_size`` without a ``window_stride`` replaces both.
        """
        own = {}
        if (size := fixed_input_size(model.config)) is not None:
            own = {"window_size": size, "window_stride": size}
        for source in (image_processor, model.config):
            if getattr(source, "window_stride", None) is not None:
                own = {"window_size": source.window_size, "window_stride": source.window_stride}
        return cls(**({} if "window_size" in changes else own) | changes)

    @property
    def num_sizes(self) -> int:
        """Number of sizes that a picture is resized to."""
        return len(self.short_sides or self.scales)

    @property
    def num_views(self) -> int:
        """Number of views of a picture: its sizes, twice as many with flips."""
        return self.num_sizes * (2 if self.flip else 1)

    def describe(self, image_processor: BaseImageProcessor) -> str:
        """The protocol in words, for cards and logs; the sizes are those that ``image_processor`` resizes to."""
        return "; ".join([self._sizes(image_processor), self._windows(), self._flips()])

    def _sizes(self, processor: BaseImageProcessor) -> str:
        size = dict(processor.size) if getattr(processor, "do_resize", False) and processor.size else {}
        if self.short_sides:
            limit = f", longer side at most {size['longest_edge']}" if size.get("longest_edge") else ""
            return f"shorter sides {', '.join(map(str, self.short_sides))}{limit}"
        if size.get("shortest_edge") is not None or size.get("longest_edge") is not None:
            parts = [f"shorter side {size['shortest_edge']}"] if size.get("shortest_edge") else []
            parts += [f"longer side at most {size['longest_edge']}"] if size.get("longest_edge") else []
            text = ", ".join(parts)
        elif size:
            text = f"images resized to {size['height']}x{size['width']} (height x width)"
        else:
            text = "images at their own size"
        if self.scales == (1.0,):
            return f"single scale, {text}"
        return f"scales {', '.join(f'{scale:g}' for scale in self.scales)} of: {text}"

    def _windows(self) -> str:
        if self.window_size is None:
            return "whole image"
        (height, width), (down, right) = self.window_size, self.window_stride
        return f"windows of {height}x{width} with step {down}x{right}, logits averaged"

    def _flips(self) -> str:
        flip = "with horizontal flip" if self.flip else "no flip"
        return flip if self.num_views == 1 else f"{flip}; {self.average} averaged over {self.num_views} views"
