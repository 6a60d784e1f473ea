"""The segments that a video of overlays is written in: each is a whole file, so that a killed run goes on behind the last."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from segzoo.files import json_text, remove_abandoned, remove_folder, write_whole

if TYPE_CHECKING:
    from av.container import OutputContainer

SEGMENT_FRAMES = 100
"""Frames of a segment: what a killed run loses at most, and the distance of key frames."""

_ABOUT, _BEHIND = "about.json", 4  # frames that wait for being drawn
_FRAME_NAME = re.compile(r"\d{6,}\.png")


@dataclass(frozen=True)
class VideoTargets:
    """Where the results of a video go.

    Args:
        overlay: the video of overlays (MP4).
        summary: the JSON, which is written last.
        frames: folder for a label PNG of every frame; None: they are not written.
    """

    overlay: Path
    summary: Path
    frames: Path | None = None

    @property
    def parts(self) -> Path:
        """The hidden folder that holds the segments while the video is being made."""
        return self.overlay.with_name(f".{self.overlay.name}.parts")

    @property
    def have_frames(self) -> bool:
        """Whether the folder for frames holds some."""
        return self.frames is not None and any(map(_is_frame, _entries(self.frames)))


@dataclass(frozen=True)
class Segment:
    """What is known about a segment that is on the disk.

    Args:
        frames: how many it has.
        start: ticks of its first frame.
        last: ticks of its last frame.
        unit: seconds of a tick, as a fraction in words.
        counts: pixels of each class.
        pixels: pixels of all classes, and of none.
    """

    frames: int
    start: int
    last: int
    unit: str
    counts: list[int]
    pixels: int


class Parts:
    """The segments of a video that is being made.

    Args:
        targets: where the results go.
        source: the video that is labelled; if it changes, its segments are made anew.
        go_on: keep the segments that an earlier run wrote; False begins anew.
        made_with: what decides about the results, in words; segments that were made otherwise are not kept.
    """

    def __init__(self, targets: VideoTargets, source: Path, *, go_on: bool, made_with: str):
        self.targets, self.folder, self.length = targets, targets.parts, SEGMENT_FRAMES
        state = source.stat()
        about: dict[str, Any] = {
            "size": state.st_size,
            "mtime_ns": state.st_mtime_ns,
            "length": self.length,
            **_encoder(),
        }
        about |= {"labels": targets.frames is not None, "made_with": made_with}
        if self.folder.is_dir() and not (go_on and _read(self.folder / _ABOUT) == about):
            remove_folder(self.folder)
        self.folder.mkdir(exist_ok=True)
        remove_abandoned(self.folder)
        write_whole(self.folder / _ABOUT, json_text(about))
        if targets.frames is not None and not self.folder.joinpath("frames").is_dir():
            (self.folder / "frames").mkdir()
        self.whole: list[Segment] = []
        """The segments on the disk."""
        while (entries := _read(self._path(len(self.whole), "json"))) is not None:
            self.whole.append(Segment(**entries))

    @property
    def frames(self) -> int:
        """How many frames the whole segments have."""
        return sum(segment.frames for segment in self.whole)

    def write(self, write: Callable[[BinaryIO], Segment]) -> None:
        """Write one more segment; it counts once it is whole on the disk.

        Args:
            write: writes the video into an open file, and returns what is known about it.
        """
        made: list[Segment] = []
        index = len(self.whole)
        write_whole(self._path(index, "mp4"), lambda file: made.append(write(file)))
        write_whole(self._path(index, "json"), json_text(asdict(made[0])))
        self.whole += made

    def label_path(self, index: int) -> Path | None:
        """Where the label PNG of a frame is kept for now; None if none is wanted."""
        return None if self.targets.frames is None else self.folder / "frames" / f"{index:06}.png"

    def finish(self, summary: str) -> None:
        """Join the segments, bring all results to their places, the summary last, and remove the segments."""
        if self.targets.frames is not None:
            self._move_frames(self.targets.frames)
        write_whole(self.targets.overlay, self._join)
        write_whole(self.targets.summary, summary)
        remove_parts(self.targets)

    def _move_frames(self, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((self.folder / "frames").iterdir()):
            if _is_frame(path):
                os.replace(path, target / path.name)
        for path in filter(_is_frame, _entries(target)):
            if int(path.stem) >= self.frames:  # of a longer video that was here before
                path.unlink()

    def _join(self, file: BinaryIO) -> None:
        """Copy the packets of all segments into one file; nothing is encoded again."""
        import av

        stream = None
        with av.open(file, "w", format="mp4") as joined:
            for index, segment in enumerate(self.whole):
                with av.open(str(self._path(index, "mp4"))) as container:
                    source = container.streams.video[0]
                    if stream is None:
                        stream = joined.add_stream_from_template(source)
                        stream.time_base = source.time_base
                    for packet in container.demux(source):
                        if packet.dts is None:  # the empty one at the end
                            continue
                        offset = round(segment.start * Fraction(segment.unit) / packet.time_base)
                        packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                        packet.stream = stream
                        joined.mux(packet)

    def _path(self, index: int, kind: str) -> Path:
        return self.folder / f"{index:05}.{kind}"


class Encoding:
    """A segment that is being drawn and encoded, by a thread.

    Args:
        container: the open file.
        size: (height, width) of the frames in pixels.
        rate: frames per second.
        unit: seconds of a tick.
        pixel_aspect: width of a pixel, in its heights.
    """

    def __init__(
        self, container: OutputContainer, size: tuple[int, int], rate: Fraction, unit: Fraction, pixel_aspect: Fraction
    ):
        codec = _encoder()["codec"]
        self.container, self.unit = container, unit
        self.stream: Any = container.add_stream(codec, rate=rate)
        # Both codecs halve the resolution of colours, and so take even sizes.
        self.stream.height, self.stream.width = (side + side % 2 for side in size)
        self.stream.pix_fmt = "yuv420p"
        # Without frames that look ahead, packets have the order of the frames, and segments are joined by copying.
        self.stream.options = {"crf": "18", "bf": "0"} if codec == "libx264" else {"qscale": "2"}
        self.stream.codec_context.time_base = unit
        self.stream.codec_context.sample_aspect_ratio = pixel_aspect

    def add(self, drawn: np.ndarray, ticks: int) -> None:
        """Encode a frame, uint8 (height, width, 3), that is shown ``ticks`` after the segment's first."""
        import av

        height, width = drawn.shape[:2]
        if (height, width) != (self.stream.height, self.stream.width):
            drawn = np.pad(drawn, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn), format="rgb24")
        # With several threads the conversion of colours is not the same each time.
        picture = picture.reformat(format="yuv420p", threads=1)
        picture.pts, picture.time_base = ticks, self.unit
        self.container.mux(self.stream.encode(picture))

    @classmethod
    @contextmanager
    def into(
        cls, file: BinaryIO, size: tuple[int, int], rate: Fraction, unit: Fraction, pixel_aspect: Fraction
    ) -> Iterator[Encoding]:
        """An encoding into an open file, which is finished unless the block fails; arguments as for the class."""
        import av

        with av.open(file, "w", format="mp4") as container:
            encoding = cls(container, size, rate, unit, pixel_aspect)
            yield encoding
            container.mux(encoding.stream.encode(None))


def behind(work: Iterable[Callable[[], None]]) -> None:
    """Call functions one after the other in a thread, while the next ones are being made; a few wait at most."""
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as writer:
        for function in work:
            while len(waiting) >= _BEHIND:
                waiting.popleft().result()
            waiting.append(writer.submit(function))
        for future in waiting:
            future.result()


def remove_parts(targets: VideoTargets) -> None:
    """Remove the segments of a video, if there are any."""
    if targets.parts.is_dir():
        shutil.rmtree(targets.parts)


def _encoder() -> dict[str, str]:
    import av

    return {"codec": "libx264" if "libx264" in av.codecs_available else "mpeg4", "pyav": av.__version__}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_frame(path: Path) -> bool:
    return _FRAME_NAME.fullmatch(path.name) is not None
