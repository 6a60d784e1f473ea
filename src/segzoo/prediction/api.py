"""`segzoo.predict`: the labels of pictures in a line of Python."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, overload

import numpy as np
import PIL.Image
import torch

from segzoo.errors import SegZooError
from segzoo.images.reading import Picture, open_picture
from segzoo.images.web import is_web_address
from segzoo.inference.settings import InferenceSettings
from segzoo.prediction.labeller import Labeller, Prediction, Speed, load_labeller
from segzoo.prediction.run import FETCHERS

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
            (height, width) or (height, width, channels) of uint8, uint16, or floats from 0 to 1. Those on the web are
            fetched in threads, some ahead of the work.
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
    results = []
    with closing(_opened(sources)) as pictures:
        first = next(pictures)
        labeller = load_labeller(model, first.stored_size, device=device, settings=settings, speed=speed)
        images = _grey_levels(first, pictures, labeller.num_channels)
        del first  # not held while the others are labelled
        for found in labeller.label_batches(_batches(images, batch_size)):
            results += found
    return results[0] if single else results


def _opened(sources: Sequence[Source]) -> Generator[Picture, None, None]:
    """The pictures in their order; those on the web are fetched in threads, and few are ahead of the others."""
    threads = ThreadPoolExecutor(FETCHERS)
    begun: deque[Callable[[], Picture]] = deque()
    try:
        for index, source in enumerate(sources):
            begun.append(_begin(threads, source, index))
            if len(begun) == 2 * FETCHERS:
                yield begun.popleft()()
        while begun:
            yield begun.popleft()()
    finally:
        threads.shutdown(cancel_futures=True)


def _begin(threads: ThreadPoolExecutor, source: Source, index: int) -> Callable[[], Picture]:
    """Begin to fetch a picture if it is on the web; returns what opens it."""
    if isinstance(source, str) and is_web_address(source):
        from segzoo.images.web import read_web

        content = threads.submit(read_web, source)

        def fetched() -> Picture:
            try:
                return open_picture(content.result(), name=source)
            except OSError as error:
                raise SegZooError(f"{source}: the picture cannot be fetched ({error}); check the address") from error

        return fetched
    return partial(open_picture, source, name=None if isinstance(source, str | os.PathLike) else f"picture {index}")


def _grey_levels(first: Picture, others: Iterator[Picture], num_channels: int) -> Iterator[np.ndarray]:
    yield first.grey_levels(num_channels)
    del first
    for picture in others:
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
