"""Label maps at full resolution without holding the logits of every class there.

The logits of 150 classes for a 512 x 2048 picture take 600 MiB as float32, and argmax before upsampling gives other
labels. So in each block of pixels only those classes are computed that can be the largest there; most blocks have one,
and are filled. Where most classes have to be computed, that is done strip by strip on a CPU, and a few classes at a time
on other devices, as for small maps. The labels equal those of ``F.interpolate(logits, mode="bilinear").argmax(1)``.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.inference.label_blocks import Blocks, adds_like_interpolate
from segzoo.inference.rows import MapRows, Rows, Size, Stage, resized

SWITCHED_OFF = -1e30
"""What stands for the -inf of a class that is switched off: far below all logits, while sums and products stay finite."""

# Number of upsampled values held at once: a strip of rows that stays in a CPU's cache; a few classes or rows on a GPU.
# Maps of at most _SMALL_VALUES (16 MiB of float32) are upsampled whole.
_STRIP_VALUES = 2**20
_CHUNK_VALUES = 2**26
_SMALL_VALUES = 2**22
# Logits that are searched at once for the classes of blocks, and upsampled values of mixed blocks held at once, on a CPU:
# they are passed over several times, and stay in its cache.
_SEARCHED_VALUES = 2**20
_CONTEST_VALUES = 2**18
# Results whose height and width are together no more are summed in another order by F.interpolate on a CPU.
_OTHER_WAY = 128
# Most threads with which NumPy's argmax, of one thread, is used.
_NUMPY_THREADS = 4
# Where rounding decides at more than one pixel in so many, as for constant logits, everything is interpolated.
_DOUBTS = 16


def label_map_from_logits(
    logits: torch.Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    crop: tuple[int, int] | None = None,
    input_size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.int64,
) -> torch.Tensor:
    """The class with the largest bilinearly upsampled logit at every pixel, in bounded memory.

    Args:
        logits: (num_labels, height, width), any device; half precision is computed in float32.
        size: height and width of the result in pixels.
        align_corners: as in ``F.interpolate``.
        crop: height and width of the picture inside a padded input: the logits are first resized to ``input_size``,
            then cropped to ``crop`` at the right and the bottom, and then resized to ``size``. It needs
            ``input_size``.
        input_size: height and width of the padded input. Without ``crop`` it is an intermediate size.
        dtype: integer type of the result.

    Returns:
        Class ids (height, width) on the device of the logits. Of classes with equal logits the first wins.

    Raises:
        SegZooError: logits that are not 3-D, a ``crop`` without ``input_size``, or one that is larger than the input.
    """
    stages = resize_stages(tuple(logits.shape), size, crop, input_size)
    logits = logits.detach()
    pixels = max(height * width for _, (height, width) in stages)
    if pixels * logits.shape[0] > (_SMALL_VALUES if logits.device.type == "cpu" else _CHUNK_VALUES):
        return _by_blocks(logits, stages, align_corners, dtype)
    return _by_classes(logits.to(_wide_dtype(logits)), stages, align_corners).to(dtype)


def upsampled_logits(
    logits: torch.Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    crop: tuple[int, int] | None = None,
    input_size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The upsampled logits, (num_labels, height, width) floats, which may share memory with the given ones.

    The arguments are those of `label_map_from_logits`.
    """
    stages = resize_stages(tuple(logits.shape), size, crop, input_size)
    logits = logits.detach()
    return _resize(logits.to(_wide_dtype(logits)), stages, align_corners)


def probabilities_from_logits(
    logits: torch.Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    crop: tuple[int, int] | None = None,
    input_size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Softmax of the upsampled logits, (num_labels, height, width) floats; arguments as in `label_map_from_logits`."""
    upsampled = upsampled_logits(logits, size, align_corners, crop, input_size)
    if upsampled.data_ptr() == logits.data_ptr():
        upsampled = upsampled.clone()
    # In place: at full resolution a second copy may be too much.
    upsampled.sub_(upsampled.amax(0, keepdim=True)).exp_()
    return upsampled.div_(upsampled.sum(0, keepdim=True))


def switched_off(logits: torch.Tensor) -> torch.Tensor:
    """Logits with `SWITCHED_OFF` in place of -inf, for resizing them: 0 * -inf is NaN, which would be the largest.

    Args:
        logits: floats of any shape.

    Returns:
        The logits themselves if none is -inf; else others, in float32 at least. NaN stays.
    """
    if not logits.numel() or logits.amin() > -torch.inf:
        return logits
    return logits.to(_wide_dtype(logits)).clamp(min=SWITCHED_OFF)


def label_map_from_rows(rows: Rows, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """The class with the largest value at every pixel, (height, width); the rows are read strip by strip."""
    labels = torch.empty(rows.size, dtype=dtype, device=rows.device)
    for first, strip in strips(rows):
        labels[first : first + len(strip)] = largest_class(strip)
    return labels


def largest_class(values: torch.Tensor) -> torch.Tensor:
    """``values.argmax(-1)`` of floats (..., classes), int64.

    NumPy's takes a sixth of the time of PyTorch's on a CPU's core, but uses no other core.
    """
    numpy_is_faster = values.device.type == "cpu" and torch.get_num_threads() <= _NUMPY_THREADS
    if numpy_is_faster and values.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.asarray(values.detach().numpy().argmax(-1)))
    return values.argmax(-1)


def strips(rows: Rows, start: int = 0, end: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
    """A map in pieces from top to bottom, as (index of the first row, values (rows, width, classes)).

    The pieces share their memory: use each one before asking for the next.

    Args:
        rows: the map.
        start, end: first row, and the one after the last; None for all rows to the bottom.
    """
    end = rows.size[0] if end is None else end
    values = _STRIP_VALUES if rows.device.type == "cpu" else _CHUNK_VALUES
    strip = rows.empty(min(end - start, max(1, values // (rows.size[1] * rows.classes))))
    for first in range(start, end, len(strip)):
        piece = strip[: end - first]
        rows.fill(first, piece)
        yield first, piece


def resize_stages(
    shape: Sequence[int], size: Size, crop: Size | None = None, input_size: Size | None = None
) -> list[Stage]:
    """The resizing steps of `label_map_from_logits` for logits of a shape; the other arguments are the same."""
    if len(shape) != 3:
        raise SegZooError(f"logits have the shape {tuple(shape)}, expected (num_labels, height, width).")
    if crop is not None and input_size is None:
        raise SegZooError("crop needs input_size, the size of the padded input that the crop is a part of.")
    current = (int(shape[1]), int(shape[2]))
    stages = []
    if input_size is not None:
        input_size = (int(input_size[0]), int(input_size[1]))
        crop = input_size if crop is None else (int(crop[0]), int(crop[1]))
        if crop[0] > input_size[0] or crop[1] > input_size[1]:
            raise SegZooError(
                f"the crop {crop} is larger than the input {input_size}; the crop lies inside the input."
            )
        stages.append((current, input_size))
        current = crop
    stages.append((current, (int(size[0]), int(size[1]))))
    return stages


def _wide_dtype(logits: torch.Tensor) -> torch.dtype:
    """The type that logits are summed in."""
    return torch.promote_types(logits.dtype, torch.float32)


def _resize(maps: torch.Tensor, stages: Sequence[Stage], align_corners: bool) -> torch.Tensor:
    """Apply all resizing steps to whole maps (channels, height, width); the result is contiguous."""
    for (height, width), size in stages:
        maps = maps[:, :height, :width]
        if (height, width) != size:
            maps = F.interpolate(maps[None].contiguous(), size=size, mode="bilinear", align_corners=align_corners)[0]
    return maps.contiguous()


def _by_all_classes(
    logits: torch.Tensor, stages: Sequence[Stage], align_corners: bool, dtype: torch.dtype
) -> torch.Tensor:
    """The label map, computed from all classes at every pixel: in strips on a CPU whose rounding is known, else a few classes
    at a time.
    """
    logits = logits.to(_wide_dtype(logits))
    if _rounding_is_known(logits, stages):
        return label_map_from_rows(resized(MapRows(logits), stages, align_corners), dtype)
    return _by_classes(logits, stages, align_corners).to(dtype)


def _rounding_is_known(logits: torch.Tensor, stages: Sequence[Stage]) -> bool:
    """Whether values that are interpolated here have exactly the bits of F.interpolate's."""
    if logits.device.type != "cpu" or any(part != size and sum(size) <= _OTHER_WAY for part, size in stages):
        return False
    return adds_like_interpolate(_wide_dtype(logits), len(logits), torch.get_num_threads())


def _by_classes(logits: torch.Tensor, stages: Sequence[Stage], align_corners: bool) -> torch.Tensor:
    """The label map, computed from a few classes at a time with exactly F.interpolate's values on any device."""
    largest = max(height * width for _, (height, width) in stages)
    step = max(1, _CHUNK_VALUES // largest)
    best = labels = None
    for first in range(0, logits.shape[0], step):
        values, indices = _resize(logits[first : first + step], stages, align_corners).max(0)
        if best is None:
            best, labels = values, indices
        else:
            better = values > best
            labels = torch.where(better, indices + first, labels)
            best = torch.where(better, values, best)
    return labels


def _by_blocks(
    logits: torch.Tensor, stages: Sequence[Stage], align_corners: bool, dtype: torch.dtype = torch.int64
) -> torch.Tensor:
    """The label map, of which each block is computed for the classes alone that can be the largest there."""
    on_cpu = logits.device.type == "cpu"
    blocks = Blocks(logits, stages, align_corners, _wide_dtype(logits))
    search_values, contest_values = (_SEARCHED_VALUES, _CONTEST_VALUES) if on_cpu else (_CHUNK_VALUES, _CHUNK_VALUES)
    if not 0 < blocks.largest <= _CHUNK_VALUES // (64 if on_cpu else 1):
        return _by_all_classes(logits, stages, align_corners, dtype)
    exact = _rounding_is_known(logits, stages)
    rivals = blocks.search(search_values)
    if all(rivals.whole) or (any(rivals.whole) and not exact):
        return _by_all_classes(logits, stages, align_corners, dtype)
    labels = torch.empty(blocks.size, dtype=dtype, device=logits.device)
    blocks.fill(rivals.labels, labels)
    flat = labels.view(-1)
    doubts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for contest in blocks.contests(rivals, contest_values, doubts=not exact):
        flat[contest.places] = contest.labels.to(dtype)
        if contest.doubtful is not None:
            pixels = contest.doubtful.nonzero(as_tuple=True)
            doubts.append((contest.places[pixels], contest.mixed[pixels[-1]]))
    if doubts:
        places, mixed = (torch.cat(parts) for parts in zip(*doubts, strict=True))
        if len(places) * _DOUBTS > flat.numel():
            return _by_all_classes(logits, stages, align_corners, dtype)
        flat[places] = _best_of(logits, stages, align_corners, places, rivals.candidates(mixed, len(logits))).to(dtype)
    if any(rivals.whole):
        rows = resized(MapRows(logits.to(blocks.dtype)), stages, align_corners)
        for top, bottom in blocks.spans(rivals.whole):
            for first, strip in strips(rows, top, bottom):
                labels[first : first + len(strip)] = largest_class(strip)
    return labels


def _best_of(
    logits: torch.Tensor,
    stages: Sequence[Stage],
    align_corners: bool,
    places: torch.Tensor,
    candidates: torch.Tensor,
) -> torch.Tensor:
    """The class with the largest of F.interpolate's own values at some pixels, (pixels,) int64.

    Args:
        logits: (classes, height, width).
        stages, align_corners: as in `_resize`.
        places: (pixels,) positions in the flattened map.
        candidates: (classes, pixels) booleans: the classes to choose from at each pixel.
    """
    dtype = _wide_dtype(logits)
    best = torch.full(places.shape, -torch.inf, dtype=dtype, device=logits.device)
    labels = torch.zeros_like(places)
    for label in candidates.any(1).nonzero()[:, 0].tolist():
        # The kernels take another way for a single map, which could as well be stored with its classes last, and for three.
        maps = logits[label : label + 1].to(dtype).expand(3 if len(logits) == 3 else 2, -1, -1)
        values = _resize(maps, stages, align_corners)[0].view(-1)[places]
        better = candidates[label] & (values > best)
        labels = labels.masked_fill(better, label)
        best = torch.where(better, values, best)
    return labels
