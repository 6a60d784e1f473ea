"""`segzoo.predict`: the labels of pictures in a line of Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import PIL.Image
import torch

from segzoo.errors import SegZooError
from segzoo.images.reading import Picture, open_picture
from segzoo.images.web import is_web_address
from segzoo.inference.settings import InferenceSettings
from segzoo.prediction.labeller import Labeller, Prediction, Speed, load_labeller

Source = str | os.PathLike | bytes | np.ndarray | PIL.Image.Image
Model = str | os.PathLike | tuple[torch.nn.Module, Any] | Labeller


@overload
def predict(
    model: Model,
    pictures: Source,
    *,
    device: str | torch.device = ...,
    batch_size: int = ...,
    settings: InferenceSettings | None = ...,
    speed: Speed | None = ...,
) -> Prediction: ...


@overload
def predict(
    model: Model,
    pictures: Sequence[Source],
    *,
    device: str | torch.device = ...,
    batch_size: int = ...,
    settings: InferenceSettings | None = ...,
    speed: Speed | None = ...,
) -> list[Prediction]: ...


def predict(
    model: Model,
    pictures: Source | Sequence[Source],
    *,
    device: str | torch.device = "auto",
    batch_size: int = 1,
    settings: InferenceSettings | None = None,
    speed: Speed | None = None,
) -> Prediction | list[Prediction]:
    """Label pictures with a model.

    Args:
        model: model folder, name on the Hub, what `segzoo.load` returned, or a `segzoo.prediction.Labeller`, with which
            further calls load nothing.
        pictures: a picture, or a list of pictures: path, web address, bytes of a file, PIL picture, or array
            (height, width) or (height, width, channels) of uint8, uint16, or floats from 0 to 1.
        device: torch device of a model that is loaded here; ``"auto"``: a GPU if there is one.
        batch_size: how many pictures of one size, which follow each other, go through the model together.
        settings: windows, scales and flips; None: the protocol that the model comes with.
        speed: type and memory format of a model that is loaded here; None: the defaults of `Speed`.

    Returns:
        The result for one picture, or a list of results. They hold the pictures and the label maps; overlays and
        probabilities are computed when they are asked for.

    Raises:
        SegZooError: a picture or the model cannot be read, or ``batch_size`` is below 1.

    Example:
        ```python
        result = segzoo.predict("models/segformer-b0", "street.jpg")
        result.overlay.save("overlay.png")
        ```
    """
    if batch_size < 1:
        raise SegZooError(f"batch_size is {batch_size}; it is at least 1")
    single = not isinstance(pictures, list | tuple)
    sources = [pictures] if single else list(pictures)
    if not sources:
        return []
    first = _opened(sources[0], 0)
    labeller = load_labeller(model, first.stored_size, device=device, settings=settings, speed=speed)
    results = []
    images = _images(sources, first, labeller.num_channels)
    for batch in _batches(images, batch_size):
        results += labeller.label(batch)
    return results[0] if single else results


def _opened(source: Source, index: int) -> Picture:
    if isinstance(source, str) and is_web_address(source):
        from segzoo.images.web import read_web

        try:
            return open_picture(read_web(source), name=source)
        except OSError as error:
            raise SegZooError(f"{source}: the picture cannot be fetched ({error}); check the address") from error
    in_memory = isinstance(source, np.ndarray | PIL.Image.Image | bytes)
    return open_picture(source, name=f"picture {index}" if in_memory else None)


def _images(sources: Sequence[Source], first: Picture, num_channels: int) -> Iterator[np.ndarray]:
    for index, source in enumerate(sources):
        picture = first if index == 0 else _opened(source, index)
        yield picture.grey_levels(num_channels)


def _batches(images: Iterator[np.ndarray], batch_size: int) -> Iterator[list[np.ndarray]]:
    """The pictures in their order, as lists of at most ``batch_size`` pictures of one size."""
    batch: list[np.ndarray] = []
    for image in images:
        if batch and (len(batch) == batch_size or batch[0].shape != image.shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch
