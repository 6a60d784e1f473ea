"""From a picture to the inputs of a model, in two steps: resized pictures, and normalised parts of them.

What passes between the two steps is small: pictures of integers, one for every scale. They are made where pictures are
decoded, possibly in other processes; mirroring, normalisation and padding happen on the model's device, window by
window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import ImageInput

from segzoo.errors import SegZooError
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.images.loading import image_to_tensor, list_of_images
from segzoo.images.resizing import pad_image, padded_size, per_channel
from segzoo.inference.settings import InferenceSettings


@dataclass(frozen=True)
class ViewMaker:
    """Resizes a picture once for every scale; it holds no model, so it can work in data-loading processes.

    Args:
        image_processor: any image processor of transformers.
        settings: the scales or short sides; the window size bounds how far a scale may shrink a picture.
    """

    image_processor: BaseImageProcessor
    settings: InferenceSettings

    def __call__(self, image: ImageInput) -> list[torch.Tensor]:
        """The views of a picture.

        Args:
            image: uint8 (height, width, channels) with the channels of the model, or any other picture that the
                processor accepts.

        Returns:
            A tensor (channels, height, width) for each scale or short side. With a `SegZooImageProcessor` it has the
            picture's own values; with any other image processor it is ready for the model.

        Raises:
            SegZooError: the processor cannot use the picture, or a scale makes it smaller than one pixel.
        """
        processor, options = self.image_processor, {"return_tensors": "pt"}
        if isinstance(processor, SegZooImageProcessor):
            (image,) = list_of_images(image)
            image = image_to_tensor(
                image,
                num_channels=processor.num_channels,
                convert_rgb=processor.do_convert_rgb,
                rescale_factor=processor.rescale_factor if processor.do_rescale else None,
            )
            return [processor.resize_picture(image, **size) for size in self._sizes(image)]
        if getattr(processor, "do_split_image", False):
            options["do_split_image"] = False  # EoMT's processor; windows do it
        elif getattr(processor, "do_pad", False) and hasattr(processor, "do_split_image"):
            raise SegZooError(
                "this image processor of EoMT is set for panoptic pictures (do_pad), whose padding would be taken for "
                "the picture; set do_pad to false and do_split_image to true in preprocessor_config.json"
            )
        elif isinstance(image, np.ndarray) and image.ndim == 3 and not {1, 3, 4} & {image.shape[0], image.shape[-1]}:
            options["input_data_format"] = "channels_last"  # transformers finds 1, 3 and 4 channels, and no others
        return [processor(images=image, **options, **size)["pixel_values"][0] for size in self._sizes(image)]

    def _sizes(self, image: ImageInput) -> list[dict[str, Any]]:
        """The processor's options for each scale or short side."""
        if not self.settings.short_sides:
            return [self._scaled(scale, image) for scale in self.settings.scales]
        own = {name: edge for name, edge in dict(self.image_processor.size or {}).items() if edge is not None}
        if self.image_processor.do_resize and "height" in own:
            raise SegZooError(
                f"short_sides are for image processors that keep a picture's shape, and this one makes all {own['height']} x "
                f"{own['width']} pixels; give scales"
            )
        limit = (
            {"longest_edge": own["longest_edge"]} if self.image_processor.do_resize and "longest_edge" in own else {}
        )
        if limit and max(self.settings.short_sides) > limit["longest_edge"]:
            raise SegZooError(
                f"short_sides {self.settings.short_sides}: the image processor bounds the longer side to {limit['longest_edge']} pixels; "
                "give smaller ones"
            )
        return [{"do_resize": True, "size": {"shortest_edge": side} | limit} for side in self.settings.short_sides]

    def _scaled(self, scale: float, image: ImageInput) -> dict[str, Any]:
        """Options that make the processor's result larger by a factor, as in mmsegmentation's ``MultiScaleFlipAug``.

        The bounds of the size are multiplied and cut to whole pixels; if the processor does not resize, they are the
        picture's own sides. A shorter side without a bound of the longer one never becomes shorter than the windows,
        as in ``SETR_Resize``.
        """
        if scale == 1.0:
            return {}
        size = self._bounds(image)
        scaled = {name: int(edge * scale) for name, edge in size.items()}
        if min(scaled.values()) < 1:
            raise SegZooError(f"the scale {scale:g} makes {scaled} pixels of {size}; give larger scales")
        if scaled.keys() == {"shortest_edge"} and self.settings.window_size is not None:
            scaled["shortest_edge"] = max(scaled["shortest_edge"], min(self.settings.window_size))
        return {"do_resize": True, "size": scaled}

    def _bounds(self, image: ImageInput) -> dict[str, int]:
        """The entries of ``size`` that a scale multiplies."""
        processor = self.image_processor
        if processor.do_resize and processor.size:
            return {name: edge for name, edge in dict(processor.size).items() if edge is not None}
        if not isinstance(processor, SegZooImageProcessor):
            raise SegZooError(f"{type(processor).__name__} does not resize; scales other than 1 need a size to scale")
        return {"shortest_edge": min(image.shape[-2:]), "longest_edge": max(image.shape[-2:])}


class ViewReader:
    """Reads the inputs of a model off one view.

    Args:
        image_processor: the model's image processor.
        view: a view (channels, height, width) from `ViewMaker`, on the model's device.
        mirrored: read the mirror image instead.
        window_size: (height, width) of the windows that will be read; None for the whole input.
    """

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        view: torch.Tensor,
        mirrored: bool = False,
        window_size: Sequence[int] | None = None,
    ):
        self.view, self.mirrored = view, mirrored
        self.picture_size = tuple(view.shape[-2:])
        self.processor = image_processor if isinstance(image_processor, SegZooImageProcessor) else None
        self.size = self.picture_size
        """(height, width) of the model's input, including the padding at the right and the bottom."""
        if self.processor is not None and self.processor.do_pad:
            self.size = padded_size(
                self.picture_size,
                size_multiple=self.processor.size_multiple,
                size_multiple_mode=self.processor.size_multiple_mode,
                pad_size=self.processor.pad_size,
                window_size=window_size,
            )

    def __call__(self, top: int, left: int, height: int, width: int) -> torch.Tensor:
        """A part of the input, (channels, height, width) floats; beyond the picture it is padded."""
        rows, columns = self.picture_size
        bottom, right = min(top + height, rows), min(left + width, columns)
        top, left = min(top, bottom), min(left, right)
        if self.mirrored:
            part = self.view[:, top:bottom, columns - right : columns - left].flip(-1)
        else:
            part = self.view[:, top:bottom, left:right]
        if self.processor is None:
            return part
        part = self._normalised(part)
        return pad_image(part, (height, width), self.processor.pad_value)

    def whole(self) -> torch.Tensor:
        """The whole input, (channels, height, width) floats."""
        return self(0, 0, *self.size)

    def plan(self, target_size: tuple[int, int]) -> dict[str, Any]:
        """Keyword arguments of `label_map_from_logits` for a map of ``target_size`` (height, width)."""
        by_input = self.processor is not None and self.processor.resize_logits_to_input
        if self.size == self.picture_size and not by_input:
            return {"size": target_size}
        return {"size": target_size, "input_size": self.size, "crop": self.picture_size}

    def _normalised(self, part: torch.Tensor) -> torch.Tensor:
        processor = self.processor
        if processor.do_rescale or processor.do_normalize:
            channels = part.shape[0]
            part = processor.rescale_and_normalize(
                part.contiguous(),
                do_rescale=processor.do_rescale,
                rescale_factor=processor.rescale_factor,
                do_normalize=processor.do_normalize,
                image_mean=per_channel(processor.image_mean, channels, "image_mean")
                if processor.do_normalize
                else None,
                image_std=per_channel(processor.image_std, channels, "image_std") if processor.do_normalize else None,
            )
        return part if part.is_floating_point() else part.float()
