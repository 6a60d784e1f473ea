"""Videos: each frame is labelled, and drawn into a video of the same size and speed. PyAV reads and writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from segzoo.errors import SegZooError, first_line
from segzoo.files import json_text
from segzoo.images.drawing import label_image, overlay
from segzoo.images.reading import Picture, in_colour
from segzoo.images.writing import write_png
from segzoo.inference.streams import in_streams
from segzoo.prediction.labeller import Labeller, Prediction
from segzoo.prediction.segments import Encoding, Parts, Segment, behind
from segzoo.text import without_secrets

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class VideoFacts:
    """What a video's file says about it.

    Attributes:
        size: (height, width) of the upright frames in pixels.
        rate: frames per second.
        frames: how many there are, about; 0 if the file does not say so.
        pixel_aspect: width of a pixel, in its heights.
    """

    size: tuple[int, int]
    rate: Fraction
    frames: int
    pixel_aspect: Fraction


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        levels: uint8 array (height, width, 3), upright.
        ticks: when it is shown, counted in ``unit`` from the first frame.
        unit: seconds of a tick.
        pixel_aspect: width of a pixel, in its heights.
    """

    levels: np.ndarray
    ticks: int
    unit: Fraction
    pixel_aspect: Fraction


def read_facts(path: Path, name: str) -> VideoFacts:
    """Size, speed and length of a video; its first frame is decoded.

    Args:
        path: the file.
        name: its name in messages.

    Raises:
        SegZooError: PyAV is missing, or the file holds no video that it reads.
    """
    with _opened(path, name) as (container, stream):
        first = next(_frames(container, stream), None)
        if first is None:
            raise SegZooError(f"{name}: the video has no frames")
        rate = stream.average_rate or Fraction(25)
        seconds = 0 if container.duration is None else container.duration / 1e6
        frames = stream.frames or round(seconds * rate)
        return VideoFacts(first.levels.shape[:2], rate, frames, first.pixel_aspect)


def read_frames(path: Path, name: str, *, first: int = 0) -> Iterator[Frame]:
    """The frames of a video, one after the other.

    Args:
        path, name: as in `read_facts`; its errors are raised here too.
        first: how many frames at the beginning are left out.
    """
    with _opened(path, name) as (container, stream):
        yield from _frames(container, stream, first)


def label_video(
    labeller: Labeller,
    path: Path,
    name: str,
    parts: Parts,
    *,
    alpha: float = 0.55,
    batch_size: int = 1,
    facts: dict[str, Any] | None = None,
    on_frame: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Draw the classes into a video, without its sound, and write the areas of the classes over all frames.

    A few frames are held at once, however long the video is. It is written in segments; those that are whole already
    are kept. Every result is whole or not there, the JSON comes last.

    Args:
        labeller: the model.
        path: the video.
        name: its name in messages.
        parts: its segments, and where the results go.
        alpha: share of the colours, 0 to 1.
        batch_size: how many frames go through the model together.
        facts: further entries of the JSON.
        on_frame: called after each frame that is labelled now.

    Returns:
        ``id``, ``name``, ``pixels`` and ``fraction`` of each class that occurs, largest first.

    Raises:
        SegZooError: as in `read_facts`, or a frame that is damaged.
    """
    about = read_facts(path, name)
    frames = _labelled(labeller, read_frames(path, name, first=parts.frames), name, batch_size, parts.length)
    for frame, found in frames:
        first = parts.frames  # of the segment
        last = parts.whole[-1].last if parts.whole else -1
        drawing = _Drawing(alpha, last, len(labeller.names), on_frame)
        segment = chain([(frame, found)], islice(frames, parts.length - 1))
        labels = (parts.label_path(first + number) for number in count())
        parts.write(partial(drawing.write, about=about, segment=segment, labels=labels))
    counts = np.sum([segment.counts for segment in parts.whole], axis=0)
    pixels = sum(segment.pixels for segment in parts.whole)
    areas = [
        {"id": int(i), "name": labeller.names[i], "pixels": int(counts[i]), "fraction": float(counts[i] / pixels)}
        for i in np.argsort(-counts, kind="stable")
        if counts[i]
    ]
    entries = {"video": without_secrets(name), **(facts or {}), "protocol": labeller.protocol}
    entries |= {"width": about.size[1], "height": about.size[0], "frames": parts.frames}
    entries |= {"frames_per_second": float(about.rate), "classes": areas}
    parts.finish(json_text(entries, indent=1))
    return areas


def _labelled(
    labeller: Labeller, frames: Iterator[Frame], name: str, batch_size: int, length: int
) -> Iterator[tuple[Frame, Prediction]]:
    """The frames with what was found; the next ones are read in a thread while the model runs, in streams.

    No batch holds frames of two segments of ``length`` frames: whoever goes on at a segment gets the same batches.
    """
    position = 0

    def read() -> list[Frame]:
        nonlocal position
        batch = list(islice(frames, min(batch_size, length - position % length)))
        position += len(batch)
        return batch

    def batches() -> Iterator[list[Frame]]:
        with ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(read)
            while batch := upcoming.result():
                upcoming = reader.submit(read)
                yield batch

    def labelled(batch: list[Frame]) -> list[tuple[Frame, Prediction]]:
        levels = [Picture(frame.levels, name).grey_levels(labeller.num_channels) for frame in batch]
        return list(zip(batch, labeller.label(levels), strict=True))

    def is_small(batch: list[Frame]) -> bool:
        return labeller.is_small([frame.levels for frame in batch])

    yield from chain.from_iterable(in_streams(labelled, batches(), count=labeller.num_streams, is_small=is_small))


@dataclass
class _Drawing:
    """Draws the frames of a segment.

    Args:
        alpha: share of the colours, 0 to 1.
        last: ticks of the last frame before it; each frame comes after the one before.
        num_classes: of the model.
        on_frame: called after each frame.
    """

    alpha: float
    last: int
    num_classes: int
    on_frame: Callable[[], object]

    def write(
        self,
        file: BinaryIO,
        *,
        about: VideoFacts,
        segment: Iterator[tuple[Frame, Prediction]],
        labels: Iterator[Path | None],
    ) -> Segment:
        """Write the frames into an open file, and their label maps into files of their own."""
        counts = np.zeros(self.num_classes, dtype=np.int64)
        frame, found = next(segment)
        start, unit = max(self.last + 1, frame.ticks), frame.unit
        num_frames = num_pixels = 0

        def work(encoding: Encoding) -> Iterator[Callable[[], None]]:
            nonlocal num_frames, num_pixels
            for shown, prediction in chain([(frame, found)], segment):
                found_ids = prediction.label_map
                counts[:] += np.bincount(found_ids.ravel(), minlength=len(counts))[: len(counts)]
                num_frames, num_pixels = num_frames + 1, num_pixels + found_ids.size
                self.last = max(self.last + 1, shown.ticks)
                yield partial(self._draw, encoding, prediction, self.last - start, next(labels))
                self.on_frame()

        with Encoding.into(file, about.size, about.rate, unit, about.pixel_aspect) as encoding:
            behind(work(encoding))
        return Segment(num_frames, start, self.last, str(unit), counts.tolist(), num_pixels)

    def _draw(self, encoding: Encoding, found: Prediction, ticks: int, labels: Path | None) -> None:
        palette = found.labeller.palette
        if labels is not None:
            write_png(labels, label_image(found.label_map, palette))
        encoding.add(np.asarray(overlay(in_colour(found.image), found.label_map, palette, self.alpha)), ticks)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        import av
    except ImportError:
        raise SegZooError(f'{name}: reading videos needs PyAV: pip install "segzoo[video]"') from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise SegZooError(f"{name}: the file holds no video; give a video or a picture")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.FFmpegError as error:
        raise SegZooError(
            f"{name}: the video cannot be read ({error.strerror or first_line(error)}); check the file"
        ) from error


def _frames(container: InputContainer, stream: VideoStream, first: int = 0) -> Iterator[Frame]:
    unit, aspect = stream.time_base, stream.sample_aspect_ratio or Fraction(1)
    tick = max(1, round(1 / (stream.average_rate or Fraction(25)) / unit))
    start = None
    following = 0
    for index, frame in enumerate(container.decode(stream)):
        if start is None:
            start = frame.pts or 0
        ticks = following if frame.pts is None else frame.pts - start
        following = ticks + tick
        if index < first:
            continue
        levels = frame.to_ndarray(format="rgb24", threads=1)  # the same values each time
        mirrored, turns = _mirror_and_turns(frame)
        levels = np.rot90(levels[:, ::-1] if mirrored else levels, turns)
        yield Frame(np.ascontiguousarray(levels), ticks, unit, 1 / aspect if turns % 2 else aspect)


def _mirror_and_turns(frame: VideoFrame) -> tuple[bool, int]:
    """What makes a frame upright: whether left and right change places, and then the quarter turns to the left."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 0
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3).tolist()
    # FFmpeg's angle is that of the first axis, which a mirror turns round.
    mirrored = a * d < b * c
    return mirrored, round(frame.rotation / 90) + 2 * mirrored
