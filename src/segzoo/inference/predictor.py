"""From a picture to a label map or probabilities: whole or by windows, in one or several views, in bounded memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import ImageInput

from segzoo.configuration_segzoo import SegZooConfig
from segzoo.errors import SegZooError
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.inference.label_maps import (
    SWITCHED_OFF,
    label_map_from_logits,
    label_map_from_rows,
    probabilities_from_logits,
    resize_stages,
    strips,
)
from segzoo.inference.rows import AveragedRows, MapRows, Rows, resized
from segzoo.inference.settings import InferenceSettings
from segzoo.inference.sliding_window import WindowRows
from segzoo.inference.views import ViewMaker, ViewReader

_SMALL_PIXELS = 2**20  # nobody asked for the memory that two larger batches would take


class Predictor:
    """Predicts label maps and probabilities with a model.

    For one view of a whole picture the result equals that of the model and ``post_process_semantic_segmentation`` (of
    transformers' Mask2Former and OneFormer, whose post-processing resizes masks twice, at about 99 % of the pixels). For
    windows and several views it equals that of mmsegmentation's ``slide_inference`` and ``aug_test``, but is computed
    strip by strip: the logits or probabilities of a whole picture never exist at its resolution. Memory holds the
    views of the picture in its own integers, the result, and for every view the logits of the whole picture at the
    resolution of the head, or those of two to three rows of windows.

    Args:
        model: any semantic-segmentation model of transformers with dense logits; it runs in eval mode, and its mode is
            restored afterwards.
        image_processor: the model's image processor.
        settings: the protocol; None: the windows that the model's config or the image processor names, else whole
            pictures.
        device: the device of the model; None: ``model.device``.
        autocast: makes the context that the model runs in, such as ``accelerator.autocast``.
        channels_last: whether the model is in the channels-last memory format.

    Example:
        ```python
        predictor = Predictor(model, processor, InferenceSettings(scales=(0.75, 1.0, 1.25), flip=True))
        labels = predictor.label_map(image, image.shape[:2])
        ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        image_processor: BaseImageProcessor,
        settings: InferenceSettings | None = None,
        *,
        device: torch.device | str | None = None,
        autocast: Callable[[], AbstractContextManager] | None = None,
        channels_last: bool = False,
    ):
        self.model, self.image_processor = model, image_processor
        self.settings = InferenceSettings.of_model(model, image_processor) if settings is None else settings
        self.views = ViewMaker(image_processor, self.settings)
        """Makes the views of a picture, for example in data-loading processes."""
        self.device = torch.device(model.device if device is None else device)
        self.autocast = nullcontext if autocast is None else autocast
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.num_labels = model.config.num_labels
        self.label_dtype = _smallest_integer(self.num_labels)
        # mmsegmentation has one setting for head and result; heads of other models have none.
        own = isinstance(model.config, SegZooConfig)
        self.head_align_corners = own and model.config.decode_head_configs[-1].align_corners
        self.align_corners = getattr(image_processor, "align_corners", False)

    def pixels_at_once(self, picture_sizes: Sequence[tuple[int, int]]) -> int | None:
        """Pixels that go through the model together for a batch of pictures of (height, width), in their largest view.

        None if only the image processor could say so, as those of other models.
        """
        if self.settings.window_size is not None:
            return math.prod(self.settings.window_size) * self.settings.windows_per_pass
        if not isinstance(self.image_processor, SegZooImageProcessor):
            return None
        sides, pixels = self.settings.short_sides, 0
        for picture_size in picture_sizes:
            _, size = self.image_processor.input_sizes([picture_size])
            factor = max(sides) / min(size) if sides else max(self.settings.scales)
            pixels += math.ceil(math.prod(size) * factor**2)
        return pixels

    def is_small(self, picture_sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether a batch of pictures of (height, width) takes so little memory that another one may be held beside it."""
        pixels = self.pixels_at_once(picture_sizes)
        return pixels is not None and pixels <= _SMALL_PIXELS

    def label_map(self, image: ImageInput | list[torch.Tensor], target_size: tuple[int, int]) -> torch.Tensor:
        """The class of every pixel.

        Args:
            image: uint8 (height, width, 3), RGB, or any other picture that the image processor accepts; or the list of
                its views that `views` made.
            target_size: (height, width) of the result: that of the picture, or any other.

        Returns:
            Class ids (height, width) on the model's device, in the smallest integer type that holds them all: uint8,
            int16 or int32. Of classes with equal scores the first wins.
        """
        return self.label_maps([image], [target_size])[0]

    @torch.no_grad()
    def label_maps(
        self, images: Sequence[ImageInput | list[torch.Tensor]], target_sizes: Sequence[tuple[int, int]]
    ) -> list[torch.Tensor]:
        """Label maps of several pictures; each equals that of the picture alone, up to the rounding of batches.

        Padding would change what a network sees near a border, so only inputs of one size go through the model
        together; with windows, each picture is processed on its own.

        Args:
            images: pictures, or the list of views of each, as in `label_map`.
            target_sizes: (height, width) of each result.
        """
        targets = [_pair(size) for size in target_sizes]
        results = []
        with evaluation_mode(self.model):
            for maps, target in zip(self._maps(images), targets, strict=True):
                if len(maps) == 1 and maps[0].logits is not None:
                    options = maps[0].reader.plan(target) | {"align_corners": self.align_corners}
                    results.append(label_map_from_logits(maps[0].logits, **options, dtype=self.label_dtype))
                else:
                    results.append(label_map_from_rows(self._average(maps, target), self.label_dtype))
        return results

    @torch.no_grad()
    def probabilities(self, image: ImageInput | list[torch.Tensor], target_size: tuple[int, int]) -> torch.Tensor:
        """Probability of every class, (num_labels, height, width) floats on the model's device.

        The arguments are those of `label_map`. If the settings average logits, it is the softmax of their mean. The
        result itself takes num_labels floats per pixel.
        """
        target = _pair(target_size)
        with evaluation_mode(self.model):
            (maps,) = self._maps([image])
            if len(maps) == 1 and maps[0].logits is not None:
                options = maps[0].reader.plan(target) | {"align_corners": self.align_corners}
                return probabilities_from_logits(maps[0].logits, **options)
            rows = self._average(maps, target)
            done = isinstance(rows, AveragedRows) and rows.probabilities
            result = torch.empty((rows.classes, *rows.size), dtype=rows.dtype, device=rows.device)
            for first, strip in strips(rows):
                values = strip if done else strip.softmax(-1)
                result[:, first : first + len(strip)] = values.permute(2, 0, 1)
        return result

    @torch.no_grad()
    def label_maps_and_probabilities(
        self, images: Sequence[ImageInput | list[torch.Tensor]], target_sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The label maps of `label_maps`, and the probability of that class at every pixel.

        The probabilities of the other classes exist for a few rows at a time only.

        Args:
            images, target_sizes: as in `label_maps`.

        Returns:
            For each picture class ids (height, width) as from `label_maps`, and floats (height, width) from 0 to 1, on
            the model's device.
        """
        targets = [_pair(size) for size in target_sizes]
        with evaluation_mode(self.model):
            return [
                self._labels_and_probabilities(maps, target)
                for maps, target in zip(self._maps(images), targets, strict=True)
            ]

    def _labels_and_probabilities(
        self, maps: Sequence["_Map"], target: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self._average(maps, target)
        done = isinstance(rows, AveragedRows) and rows.probabilities
        labels = torch.empty(rows.size, dtype=self.label_dtype, device=rows.device)
        shares = torch.empty(rows.size, dtype=rows.dtype, device=rows.device)
        for first, strip in strips(rows):
            values, classes = strip.max(-1)
            labels[first : first + len(strip)] = classes
            shares[first : first + len(strip)] = values if done else (values - strip.logsumexp(-1)).exp()
        return labels, shares

    def _maps(self, images: Sequence[ImageInput | list[torch.Tensor]]) -> Iterator[list["_Map"]]:
        """The maps of each picture: one for every view, mirrored views included."""
        pictures = [image if isinstance(image, list | tuple) else self.views(image) for image in images]
        for own in pictures:
            if len(own) != self.settings.num_sizes:
                raise ValueError(f"{len(own)} views for {self.settings.num_sizes} sizes")
        mirrors = (False, True) if self.settings.flip else (False,)
        readers = [
            [
                ViewReader(self.image_processor, view, mirrored, self.settings.window_size)
                for view in (view.to(self.device, non_blocking=True) for view in own)
                for mirrored in mirrors
            ]
            for own in pictures
        ]
        if self.settings.window_size is not None:
            for own in readers:
                yield [_Map(reader, None, self._by_windows(reader)) for reader in own]
            return
        logits: list[list[torch.Tensor | None]] = [[None] * len(own) for own in readers]
        groups: dict[tuple, list[tuple[int, int]]] = {}
        for number, own in enumerate(readers):
            for position, reader in enumerate(own):
                groups.setdefault((position, reader.size), []).append((number, position))
        for members in groups.values():
            batch = self._predict(torch.stack([readers[number][position].whole() for number, position in members]))
            for (number, position), one in zip(members, batch, strict=True):
                logits[number][position] = one
        for own, found in zip(readers, logits, strict=True):
            yield [_Map(reader, one, MapRows(one)) for reader, one in zip(own, found, strict=True)]

    def _by_windows(self, reader: ViewReader) -> WindowRows:
        return WindowRows(
            self._predict,
            reader,
            reader.size,
            window_size=self.settings.window_size,
            window_stride=self.settings.window_stride,
            num_labels=self.num_labels,
            align_corners=self.head_align_corners,
            windows_per_pass=self.settings.windows_per_pass,
        )

    def _predict(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits of a batch at the head's resolution, in float32 at least and finite.

        Raises:
            SegZooError: one is NaN, which would be taken for the largest, or infinite.
        """
        pixel_values = pixel_values.to(self.device, self.model.dtype).contiguous(memory_format=self.memory_format)
        with self.autocast():
            try:
                logits = self.model(pixel_values=pixel_values).logits
            except RuntimeError as error:
                if "can't be greater than actual input size" not in str(error):
                    raise
                height, width = pixel_values.shape[-2:]
                raise SegZooError(
                    f"the model takes no input of {height}x{width} pixels, which is smaller than its convolutions; take larger "
                    "pictures, or let the image processor resize them (do_resize)"
                ) from error
        logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
        lowest, highest = (float(value) for value in torch.aminmax(_in_memory_order(logits)))  # NaN if one of them is
        if not math.isfinite(highest):
            raise SegZooError(
                "the model's outputs are NaN or infinite: in fp16 large values overflow, so take bf16 or float32; if they are so in "
                "float32 too, the training that made the weights has diverged, or the picture holds such values"
            )
        if lowest == -math.inf:  # a class that is switched off; resized, 0 * -inf would be NaN, which wins
            logits = logits.clamp(min=SWITCHED_OFF)
        return logits

    def _average(self, maps: Sequence["_Map"], target_size: tuple[int, int]) -> Rows:
        """The mean over the maps of a picture at the target size, to be read row by row."""
        sources = []
        for one in maps:
            stages = resize_stages((one.rows.classes, *one.rows.size), **one.reader.plan(target_size))
            sources.append(resized(one.rows, stages, self.align_corners))
        if len(sources) == 1:
            return sources[0]
        mirrored = [one.reader.mirrored for one in maps]
        return AveragedRows(sources, mirrored, probabilities=self.settings.average == "probabilities")


class _Map:
    """The model's logits for one view: always row by row, and as one tensor unless windows are used."""

    def __init__(self, reader: ViewReader, logits: torch.Tensor | None, rows: Rows):
        self.reader, self.logits, self.rows = reader, logits, rows


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """A context in which the model is in eval mode; afterwards every module has its own mode again."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _smallest_integer(num_labels: int) -> torch.dtype:
    """The smallest integer type that holds the class ids 0 to ``num_labels - 1``."""
    return torch.uint8 if num_labels <= 2**8 else torch.int16 if num_labels <= 2**15 else torch.int32


def _in_memory_order(values: torch.Tensor) -> torch.Tensor:
    """The same values as neighbours in memory are neighbours, which takes a sixteenth of the time to go through."""
    return values.permute(sorted(range(values.ndim), key=values.stride, reverse=True))


def _pair(size: Sequence[int]) -> tuple[int, int]:
    height, width = (int(side) for side in size)
    return height, width
