"""Videos: each frame is labelled, and drawn into a video of the same size and speed. PyAV reads and writes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from segzoo.errors import SegZooError, first_line
from segzoo.files import json_text, write_whole
from segzoo.images.drawing import overlay
from segzoo.images.reading import Picture, in_colour
from segzoo.prediction.labeller import Labeller, Prediction
from segzoo.text import without_secrets

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

_BEHIND = 4  # frames that wait for being drawn


@dataclass(frozen=True)
class VideoFacts:
    """What a video's file says about it.

    Attributes:
        size: (height, width) of the upright frames in pixels.
        rate: frames per second.
        frames: how many there are, about; 0 if the file does not say so.
    """

    size: tuple[int, int]
    rate: Fraction
    frames: int


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        levels: uint8 array (height, width, 3), upright.
        ticks: when it is shown, counted in ``unit`` from the first frame.
        unit: seconds of a tick.
    """

    levels: np.ndarray
    ticks: int
    unit: Fraction


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
        return VideoFacts(first.levels.shape[:2], rate, stream.frames or round(seconds * rate))


def read_frames(path: Path, name: str) -> Iterator[Frame]:
    """The frames of a video, one after the other; arguments and errors as in `read_facts`."""
    with _opened(path, name) as (container, stream):
        yield from _frames(container, stream)


def label_video(
    labeller: Labeller,
    path: Path,
    name: str,
    targets: tuple[Path, Path],
    *,
    alpha: float = 0.55,
    batch_size: int = 1,
    facts: dict[str, Any] | None = None,
    on_frame: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Draw the classes into a video, without its sound, and write the areas of the classes over all frames.

    A few frames are held at once, however long the video is. Both files are written whole, the second one last.

    Args:
        labeller: the model.
        path: the video.
        name: its name in messages.
        targets: the overlay (MP4), and a JSON.
        alpha: share of the colours, 0 to 1.
        batch_size: how many frames go through the model together.
        facts: further entries of the JSON.
        on_frame: called after each frame.

    Returns:
        ``id``, ``name``, ``pixels`` and ``fraction`` of each class that occurs, largest first.

    Raises:
        SegZooError: as in `read_facts`, or a frame that is damaged.
    """
    about = read_facts(path, name)
    counts = np.zeros(len(labeller.names), dtype=np.int64)
    num_frames = num_pixels = 0

    def write(file: BinaryIO) -> None:
        nonlocal num_frames, num_pixels
        with _Drawing(file, about, alpha) as drawing:
            for frame, found in _labelled(labeller, read_frames(path, name), name, batch_size):
                labels = found.label_map
                counts[:] += np.bincount(labels.ravel(), minlength=len(counts))[: len(counts)]
                num_frames, num_pixels = num_frames + 1, num_pixels + labels.size
                drawing.add(frame, found)
                on_frame()

    video, summary = targets
    write_whole(video, write)
    order = np.argsort(-counts, kind="stable")
    areas = [
        {"id": int(i), "name": labeller.names[i], "pixels": int(counts[i]), "fraction": float(counts[i] / num_pixels)}
        for i in order
        if counts[i]
    ]
    entries = {"video": without_secrets(name), **(facts or {}), "protocol": labeller.protocol}
    entries |= {"width": about.size[1], "height": about.size[0], "frames": num_frames}
    entries |= {"frames_per_second": float(about.rate), "classes": areas}
    write_whole(summary, json_text(entries, indent=1))
    return areas


def _labelled(
    labeller: Labeller, frames: Iterator[Frame], name: str, batch_size: int
) -> Iterator[tuple[Frame, Prediction]]:
    """The frames with what was found; the next ones are read in a thread while the model runs."""

    def read() -> list[Frame]:
        return list(islice(frames, batch_size))

    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(read)
        while batch := upcoming.result():
            upcoming = reader.submit(read)
            levels = [Picture(frame.levels, name).grey_levels(labeller.num_channels) for frame in batch]
            yield from zip(batch, labeller.label(levels), strict=True)


class _Drawing:
    """A video of overlays that is written into an open file, by a thread.

    Args:
        file: the file.
        about: size and speed.
        alpha: share of the colours, 0 to 1.
    """

    def __init__(self, file: BinaryIO, about: VideoFacts, alpha: float):
        import av

        self.alpha = alpha
        self.last = -1
        self.container: OutputContainer = av.open(file, "w", format="mp4")
        has_h264 = "libx264" in av.codecs_available
        self.stream = self.container.add_stream("libx264" if has_h264 else "mpeg4", rate=about.rate)
        # Both codecs halve the resolution of colours, and so take even sizes.
        self.stream.height, self.stream.width = (side + side % 2 for side in about.size)
        self.stream.pix_fmt = "yuv420p"
        self.stream.options = {"crf": "18"} if has_h264 else {"qscale": "2"}
        self.writer = ThreadPoolExecutor(1)
        self.waiting: deque[Future[None]] = deque()

    def __enter__(self) -> _Drawing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            while self.waiting:
                future = self.waiting.popleft()
                if kind is None:
                    future.result()
        finally:
            self.writer.shutdown()
            if kind is None:
                self.container.mux(self.stream.encode(None))
            self.container.close()

    def add(self, frame: Frame, found: Prediction) -> None:
        """Draw one more frame; it waits while too many are being drawn."""
        while len(self.waiting) >= _BEHIND:
            self.waiting.popleft().result()
        self.waiting.append(self.writer.submit(self._write, frame, found))

    def _write(self, frame: Frame, found: Prediction) -> None:
        import av

        drawn = np.asarray(overlay(in_colour(found.image), found.label_map, found.labeller.palette, self.alpha))
        height, width = drawn.shape[:2]
        if (height, width) != (self.stream.height, self.stream.width):
            drawn = np.pad(drawn, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn), format="rgb24")
        if self.last < 0:
            self.stream.codec_context.time_base = frame.unit
        self.last = max(self.last + 1, frame.ticks)
        picture.pts, picture.time_base = self.last, frame.unit
        self.container.mux(self.stream.encode(picture))


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


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[Frame]:
    unit = stream.time_base
    tick = max(1, round(1 / (stream.average_rate or Fraction(25)) / unit))
    start = None
    following = 0
    for frame in container.decode(stream):
        turns = round(frame.rotation / 90)
        levels = np.rot90(frame.to_ndarray(format="rgb24"), turns) if turns else frame.to_ndarray(format="rgb24")
        if start is None:
            start = frame.pts or 0
        ticks = following if frame.pts is None else frame.pts - start
        following = ticks + tick
        yield Frame(np.ascontiguousarray(levels), ticks, unit)
