"""A model that is ready to label pictures, and what it says about one picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from segzoo.configuration_segzoo import class_names, input_channels
from segzoo.errors import SegZooError
from segzoo.images.drawing import class_areas, default_palette, overlay_with_legend
from segzoo.images.reading import in_colour
from segzoo.inference.faster import faster_on_cpu, in_memory_format, input_size
from segzoo.inference.loading import LoadedModel, load
from segzoo.inference.predictor import Predictor
from segzoo.inference.settings import InferenceSettings, MemoryFormat
from segzoo.inference.streams import check_num_streams, in_streams, number_of_streams
from segzoo.inference.timing import has_bfloat16
from segzoo.memory import free_memory

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OVERLAY_SIDE = 4096
"""Longest side of an overlay in pixels; those of larger pictures are shrunk, since drawing takes much memory."""
IGNORED = 255
"""The id of pixels that have no class, because no class is likely enough."""


def chosen_device(device: str | torch.device = "auto") -> str:
    """The device that is meant: of ``"auto"``, a GPU of CUDA or of Apple if there is one, else the CPU."""
    if str(device) != "auto":
        return str(device)
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def class_colours(config: PreTrainedConfig) -> list[list[int]]:
    """The config's palette, RGB colours by class id; `default_palette` if it has none."""
    return getattr(config, "palette", None) or default_palette(config.num_labels)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How a model computes.

    Args:
        dtype: of weights and computation; ``"auto"``: bfloat16 on CPUs that have it in hardware, else float32.
        fuse: on a CPU, fold batch norms into convolutions.
        memory_format: of weights and pictures; ``"auto"``: on a CPU the faster one, which is measured once and kept.
        num_streams: number of batches that go through the model at the same time on a CPU, each on its share of the
            threads; None: two, if they are small.

    Raises:
        SegZooError: ``num_streams`` is below 1.
    """

    dtype: str = "float32"
    fuse: bool = True
    memory_format: MemoryFormat = "auto"
    num_streams: int | None = None

    def __post_init__(self) -> None:
        check_num_streams(self.num_streams)

    def dtype_on(self, device: str | torch.device) -> str:
        """The type that is computed in on a device: ``"float32"`` or ``"bfloat16"``."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if torch.device(device).type == "cpu" and has_bfloat16() else "float32"


class Labeller:
    """A model that labels pictures.

    Args:
        model: the model, in eval mode.
        processor: its image processor.
        settings: the protocol; None: the one that the model comes with.
        ignore_below: pixels whose most likely class is less likely than this (0 to 1) get the id 255; None: none do.
        num_streams: number of small batches that go through the model at the same time; see
            `segzoo.inference.streams.number_of_streams`.

    Raises:
        SegZooError: ``ignore_below`` is not between 0 and 1, or the model has a class 255.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor: Any,
        settings: InferenceSettings | None = None,
        *,
        ignore_below: float | None = None,
        num_streams: int = 1,
    ):
        if ignore_below is not None and not 0 <= ignore_below <= 1:
            raise SegZooError(f"ignore_below is {ignore_below}; it lies between 0 and 1")
        self.predictor = Predictor(model, processor, settings)
        self.ignore_below, self.num_streams = ignore_below, num_streams
        self.num_channels = input_channels(model.config)
        self.names, self.palette = class_names(model.config), class_colours(model.config)
        self.protocol = self.predictor.settings.describe(processor)
        """The protocol in words."""
        if ignore_below is not None and len(self.names) > IGNORED:
            raise SegZooError(
                f"ignore_below marks pixels with the id {IGNORED}, which is a class of a model of {len(self.names)} "
                "classes; leave it out"
            )

    @classmethod
    def loaded(
        cls,
        loaded: LoadedModel,
        size: tuple[int, int],
        *,
        settings: InferenceSettings | None = None,
        speed: Speed | None = None,
        ignore_below: float | None = None,
    ) -> tuple[Labeller, list[str]]:
        """A labeller whose model has been made faster; the loaded model is changed by that.

        Args:
            loaded: model and image processor.
            size: height and width of the pictures, or of the first of them; speed is measured with it.
            settings, ignore_below: as for the class.
            speed: None: the defaults.

        Returns:
            The labeller, and lines for people that say what was chosen.
        """
        speed = Speed() if speed is None else speed
        model, processor = loaded
        settings = InferenceSettings.of_model(model, processor) if settings is None else settings
        lines = []
        if speed.fuse:
            model = faster_on_cpu(model)
        dtype = speed.dtype_on(model.device)
        if speed.dtype == "auto":
            lines.append(f"computing in {dtype}")
        if dtype == "bfloat16":
            model.bfloat16()
        if speed.fuse or speed.memory_format != "auto":
            chosen = in_memory_format(model, speed.memory_format, input_size(settings, size))
            lines += [] if chosen is None else [chosen]
        num_streams = number_of_streams(model, speed.num_streams)
        return cls(model, processor, settings, ignore_below=ignore_below, num_streams=num_streams), lines

    def label_batches(self, batches: Iterable[Sequence[np.ndarray]]) -> Iterator[list[Prediction]]:
        """What `label` finds for each of many batches, of which small ones are labelled several at a time."""
        return in_streams(self.label, batches, count=self.num_streams, is_small=self.is_small)

    def is_small(self, images: Sequence[np.ndarray]) -> bool:
        """Whether a batch may be labelled beside another one, as memory goes."""
        return self.predictor.is_small([image.shape[:2] for image in images])

    def label(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Label pictures; those that are together here go through the model together if they have one size.

        Args:
            images: uint8 arrays (height, width, channels) with the channels that the model takes.
        """
        sizes = [image.shape[:2] for image in images]
        if self.ignore_below is None:
            maps = self.predictor.label_maps(images, sizes)
        else:
            maps = []
            for found, shares in self.predictor.label_maps_and_probabilities(images, sizes):
                found[shares < self.ignore_below] = IGNORED
                maps.append(found)
        return [Prediction(image, found.cpu().numpy(), self) for image, found in zip(images, maps, strict=True)]


@dataclass(frozen=True)
class Prediction:
    """What a model says about one picture.

    Attributes:
        image: the picture as the model got it, a uint8 array (height, width, channels).
        label_map: class ids (height, width) in the smallest integer type that holds them.
        labeller: the model that made it.
    """

    image: np.ndarray = field(repr=False)
    label_map: np.ndarray = field(repr=False)
    labeller: Labeller = field(repr=False)

    @cached_property
    def areas(self) -> list[dict[str, Any]]:
        """``id``, ``name``, ``pixels`` and ``fraction`` (0 to 1) of each class that occurs, largest first."""
        names = self.labeller.names
        return [{"id": a["id"], "name": names[a["id"]], **a} for a in class_areas(self.label_map, len(names))]

    @property
    def overlay(self) -> Image.Image:
        """The picture with the classes' colours, beside a legend; see `drawn`."""
        return self.drawn()

    @property
    def probabilities(self) -> np.ndarray:
        """The probability of every class, float32 (classes, height, width).

        It is computed again each time, and not kept: it takes four bytes for each class and pixel.

        Raises:
            SegZooError: that is more than the memory that is free.
        """
        (height, width), classes = self.image.shape[:2], len(self.labeller.names)
        device = self.labeller.predictor.device
        needed, free = 4 * classes * height * width, free_memory_of(device)
        if free is not None and needed > free:
            raise SegZooError(
                f"the probabilities of {classes} classes for {width}x{height} pixels take {needed / 2**30:.1f} GiB of "
                f"memory, and {free / 2**30:.1f} GiB are free; take parts of the picture, or `confidence`, which holds "
                "the probability of the label only"
            )
        found = self.labeller.predictor.probabilities(self.image, self.image.shape[:2])
        return found.float().cpu().numpy()

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the most likely class at every pixel, float32 (height, width); computed each time."""
        sizes = [self.image.shape[:2]]
        ((_, shares),) = self.labeller.predictor.label_maps_and_probabilities([self.image], sizes)
        return shares.float().cpu().numpy()

    def drawn(self, alpha: float = 0.55) -> Image.Image:
        """The picture with the classes' colours, beside a legend; pictures of more than 4096 pixels are shrunk.

        Args:
            alpha: share of the colours, 0 to 1.
        """
        labeller, labels = self.labeller, self.label_map
        step = -(-max(labels.shape) // OVERLAY_SIDE)
        shown = Image.fromarray(in_colour(self.image))
        small = shown if step == 1 else shown.reduce(step)
        return overlay_with_legend(small, labels[::step, ::step], labeller.palette, labeller.names, alpha=alpha)


def free_memory_of(device: torch.device) -> int | None:
    """Bytes that an array may take which is made on a device and copied to main memory; None if nobody knows."""
    found = [free_memory()]
    if device.type == "cuda":
        # What torch holds without using it is free too.
        found.append(
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    return min((size for size in found if size is not None), default=None)


def load_labeller(
    model: str | os.PathLike | tuple[torch.nn.Module, Any] | Labeller,
    size: tuple[int, int],
    *,
    device: str | torch.device = "auto",
    settings: InferenceSettings | None = None,
    speed: Speed | None = None,
) -> Labeller:
    """A labeller from a folder, a name on the Hub, a model with its image processor, or a labeller itself.

    Args:
        model: which model; one that is loaded already stays as it is, and where it is.
        size: height and width of the first picture.
        device, settings, speed: as in `segzoo.predict`.
    """
    if isinstance(model, Labeller):
        return model
    if isinstance(model, tuple):
        return Labeller(*model, settings)
    labeller, _ = Labeller.loaded(load(model, device=chosen_device(device)), size, settings=settings, speed=speed)
    return labeller
