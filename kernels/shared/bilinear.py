"""What the Triton kernels for deformable operators share: bilinear corners, block shapes and launching.

Each kernel has a copy, because a published kernel has to stand alone; build.py makes the copies from kernels/shared.
"""

import contextlib
import functools

import torch
import triton
import triton.language as tl

TRITON_DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def autocast(sampled: torch.Tensor) -> torch.Tensor:
    """The tensor that is sampled, in autocast's dtype where autocast is on; positions and weights stay as they are."""
    device = sampled.device.type
    if torch.is_autocast_enabled(device) and sampled.dtype != torch.float64:
        return sampled.to(torch.get_autocast_dtype(device))
    return sampled


def refuse_determinism(name: str) -> None:
    """Raise an error where PyTorch is set to be deterministic: the backward kernels add in any order."""
    if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(f"{name}: the backward is not deterministic; do not kernelize the model for this training")


@triton.jit
def _corners(x, y, alive, height, width):
    """The four pixels around (x, y) in a map of height * width.

    Returns the number of the upper left pixel (row by row); whether the upper left, upper right, lower left and lower
    right pixels lie in the map; and the shares of the right and of the lower pixels. No pixel lies in the map where
    ``alive`` is false or the position is NaN, infinite or far off.
    """
    inside = alive & (x > -1) & (x < width) & (y > -1) & (y < height)
    x = tl.where(inside, x, 0.0)
    y = tl.where(inside, y, 0.0)
    left = tl.floor(x)
    upper = tl.floor(y)
    column = left.to(tl.int32)
    row = upper.to(tl.int32)
    has_left = inside & (column >= 0)
    has_right = inside & (column < width - 1)
    has_upper = row >= 0
    has_lower = row < height - 1
    return (
        row * width + column,
        has_left & has_upper,
        has_right & has_upper,
        has_left & has_lower,
        has_right & has_lower,
        x - left,
        y - upper,
    )


@triton.jit
def row_mask(rows, LANES: tl.constexpr, D: tl.constexpr):
    """(BLOCK, LANES) mask of the first D lanes of each row in ``rows`` (BLOCK,)."""
    if LANES == D:
        mask = rows[:, None]
    else:
        mask = rows[:, None] & (tl.arange(0, LANES) < D)[None, :]
    return mask


@triton.jit
def _gather(base, pixel, rows, STEP: tl.constexpr, LANES: tl.constexpr, D: tl.constexpr, COMPUTE: tl.constexpr):
    at = (pixel * STEP)[:, None] + tl.arange(0, LANES)[None, :]
    return tl.load(base + at, mask=row_mask(rows, LANES, D), other=0.0).to(COMPUTE)


@triton.jit
def _scatter(base, pixel, rows, values, STEP: tl.constexpr, LANES: tl.constexpr, D: tl.constexpr):
    at = (pixel * STEP)[:, None] + tl.arange(0, LANES)[None, :]
    tl.atomic_add(base + at, values, mask=row_mask(rows, LANES, D), sem="relaxed")


@triton.jit
def _bfloats(words):
    """The two bfloat16 numbers in 32 bits each, as float32, which begins with the bits of a bfloat16.

    That takes an instruction for each number, of which the compiler's own way from bfloat16 takes two for every other one.
    """
    return (words << 16).to(tl.float32, bitcast=True), (words & -65536).to(tl.float32, bitcast=True)


@triton.jit
def pair(base, number, alive, PAIRED: tl.constexpr, COMPUTE: tl.constexpr):
    """Two neighbours in memory for each row: 2 * ``number`` and 2 * ``number`` + 1 numbers after its pointer in ``base``.

    With ``PAIRED`` one instruction loads both, for which ``base`` must be aligned to two numbers; not for float64.
    """
    if PAIRED:
        KIND: tl.constexpr = base.dtype.element_ty
        BITS: tl.constexpr = KIND.primitive_bitwidth
        HALF: tl.constexpr = tl.int16 if BITS == 16 else tl.int32
        WHOLE: tl.constexpr = tl.int32 if BITS == 16 else tl.int64
        both = tl.load(base.to(tl.pointer_type(WHOLE), bitcast=True) + number, mask=alive, other=0)
        if KIND.is_bf16():
            first, second = _bfloats(both)
        else:
            first = both.to(HALF).to(KIND, bitcast=True)
            second = (both >> BITS).to(HALF).to(KIND, bitcast=True)
    else:
        first = tl.load(base + 2 * number, mask=alive, other=0.0)
        second = tl.load(base + 2 * number + 1, mask=alive, other=0.0)
    return first.to(COMPUTE), second.to(COMPUTE)


@triton.jit
def _neighbours(at, size, COMPUTE: tl.constexpr):
    """The first of the two neighbouring pixels of an axis that a position is read from, and the shares of both.

    A pixel's share falls from 1 to 0 at a distance of one pixel, so that outside the map, and for NaN, both are 0. The
    two lie in the map always; on an axis of one pixel the second is to be taken for the first, with a share of 0.
    """
    first = tl.minimum(tl.maximum(tl.floor(at), 0.0), tl.maximum(size - 2, 0).to(COMPUTE))
    beyond = at - first
    highest = tl.minimum(size - 1, 1).to(COMPUTE)
    # No share is above 1. As minimum of a maximum the two bounds are part of the addition's instruction.
    return (
        first.to(tl.int32),
        tl.minimum(tl.maximum(1.0 - tl.abs(beyond), 0.0), 1.0),
        tl.minimum(tl.maximum(highest - tl.abs(beyond - 1.0), 0.0), 1.0),
    )


@triton.jit
def words(base, PACKED: tl.constexpr):
    """``base`` as a pointer to what is loaded as one: with ``PACKED`` two bfloat16 numbers, as 32 bits."""
    if PACKED:
        base = base.to(tl.pointer_type(tl.int32), bitcast=True)
    return base


@triton.jit
def cell(
    base,
    first,
    x,
    y,
    weight,
    height,
    width,
    STEP: tl.constexpr,
    NARROW: tl.constexpr,
    INDEX: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The four pixels around each row's position (x, y) in its map, and their shares of the sample.

    Args:
        base: pointers to each row's channels at pixel 0, (BLOCK, words).
        first: number of the map's first pixel.
        x, y, weight: (BLOCK,); the shares are multiplied by the weight. All four are 0 outside the map.
        height, width: size of the map.
        STEP: distance in memory from one pixel to the next, in words.
        NARROW: whether the map may be one pixel wide.
        INDEX, COMPUTE: types of indices and of the arithmetic.

    Returns:
        Pointers to the upper left pixel, the distances from there to the right and lower ones, and the shares of the
        upper left, upper right, lower left and lower right ones. All pixels lie in the map.
    """
    column, left, right = _neighbours(x, width, COMPUTE)
    row, upper, lower = _neighbours(y, height, COMPUTE)
    upper *= weight
    lower *= weight
    at = base + ((first + row * width + column).to(INDEX) * STEP)[:, None]
    # A distance that is a constant is part of the load's instruction.
    across = tl.minimum(width - 1, 1) * STEP if NARROW else STEP
    down = tl.where(height > 1, width, 0) * STEP
    return at, across, down, upper * left, upper * right, lower * left, lower * right


@triton.jit
def blend(sums, seconds, four, WORDS: tl.constexpr, USED: tl.constexpr, PACKED: tl.constexpr):
    """The sums (BLOCK, WORDS) and the four pixels of a `cell`, each times its share.

    Of each row the first ``USED`` words are loaded. With ``PACKED``, ``sums`` are those of the first numbers of all
    words and ``seconds`` those of the second ones, else ``seconds`` are left alone.
    """
    at, across, down, upper_left, upper_right, lower_left, lower_right = four
    below = at + down
    sums, seconds = _added(sums, seconds, at, upper_left, WORDS, USED, PACKED)
    sums, seconds = _added(sums, seconds, at + across, upper_right, WORDS, USED, PACKED)
    sums, seconds = _added(sums, seconds, below, lower_left, WORDS, USED, PACKED)
    sums, seconds = _added(sums, seconds, below + across, lower_right, WORDS, USED, PACKED)
    return sums, seconds


@triton.jit
def _added(sums, seconds, at, share, WORDS: tl.constexpr, USED: tl.constexpr, PACKED: tl.constexpr):
    # A mask costs an instruction for each word, to set what is not loaded to zero.
    if WORDS == USED:
        pixels = tl.load(at)
    else:
        pixels = tl.load(at, mask=(tl.arange(0, WORDS) < USED)[None, :], other=0)
    if (
        PACKED
    ):  # a float32 begins with the bits of a bfloat16: one instruction for each, the compiler's own way has up to two
        seconds += (pixels & -65536).to(tl.float32, bitcast=True).to(sums.dtype) * share[:, None]
        pixels = (pixels << 16).to(tl.float32, bitcast=True)
    sums += pixels.to(sums.dtype) * share[:, None]
    return sums, seconds


@triton.jit
def store_sums(
    output,
    row,
    alive,
    sums,
    seconds,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    D: tl.constexpr,
    PACKED: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Write the sums of `blend` to the rows that are alive, D numbers each."""
    if PACKED:
        sums = tl.reshape(tl.join(sums, seconds), (BLOCK, LANES))
    to = output + (row.to(INDEX) * D)[:, None] + tl.arange(0, LANES)[None, :]
    tl.store(to, sums.to(output.dtype.element_ty), mask=row_mask(alive, LANES, D))


@triton.jit
def sample_backward(
    given,
    base,
    base_gradient,
    first,
    x,
    y,
    weight,
    alive,
    height,
    width,
    STEP: tl.constexpr,
    LANES: tl.constexpr,
    D: tl.constexpr,
    INDEX: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The gradients (BLOCK,) of weight, x and y, given that of `sample`'s result; adds the map's to memory."""
    pixel, ul, ur, ll, lr, across, down = _corners(x, y, alive, height, width)
    pixel = (pixel + first).to(INDEX)
    below = pixel + width
    # The dot product of each corner's channels with the given gradient.
    dot_ul = tl.sum(_gather(base, pixel, ul, STEP, LANES, D, COMPUTE) * given, 1)
    dot_ur = tl.sum(_gather(base, pixel + 1, ur, STEP, LANES, D, COMPUTE) * given, 1)
    dot_ll = tl.sum(_gather(base, below, ll, STEP, LANES, D, COMPUTE) * given, 1)
    dot_lr = tl.sum(_gather(base, below + 1, lr, STEP, LANES, D, COMPUTE) * given, 1)
    step_upper = dot_ur - dot_ul
    step_lower = dot_lr - dot_ll
    upper = dot_ul + step_upper * across
    lower = dot_ll + step_lower * across
    slope_x = (step_upper + (step_lower - step_upper) * down) * weight
    slope_y = (lower - upper) * weight

    share = weight * down
    rest = weight - share
    _scatter(base_gradient, pixel, ul, given * (rest - rest * across)[:, None], STEP, LANES, D)
    _scatter(base_gradient, pixel + 1, ur, given * (rest * across)[:, None], STEP, LANES, D)
    _scatter(base_gradient, below, ll, given * (share - share * across)[:, None], STEP, LANES, D)
    _scatter(base_gradient, below + 1, lr, given * (share * across)[:, None], STEP, LANES, D)
    return upper + (lower - upper) * down, slope_x, slope_y


def forward_constants(dtype: torch.dtype, channels: int, narrow: bool) -> dict:
    """The compile-time constants of the forward kernels alone.

    Args:
        dtype: dtype of what is sampled.
        channels: number of channels of a row.
        narrow: whether a map is one pixel wide.
    """
    return {"PACKED": dtype == torch.bfloat16 and channels % 2 == 0, "NARROW": narrow}


def lanes(channels: int) -> int:
    """Number of channels of a block: the next power of two."""
    return triton.next_power_of_2(channels)


def vector(dtype: torch.dtype, atomics: bool, capability: "tuple[int, int]") -> int:
    """Number of channels that a thread holds: 16 bytes, which is what one instruction loads or adds to memory.

    Atomic additions take single numbers before compute capability 9, and of float64 always. A thread then holds one
    channel, and the additions of neighbouring threads are neighbours in memory.
    """
    if atomics and (capability < (9, 0) or dtype == torch.float64):
        return 1
    return 16 // dtype.itemsize


def block_shape(channels: int, vector: int) -> "tuple[int, int]":
    """(rows, warps) of a block: one warp whose threads hold a vector each, or as many warps as a row needs, up to 8.

    A row's position and weight are then computed by the threads that hold the row, and nothing waits at a barrier. On
    an H200 more warps were as fast for large maps and slower for small ones; more vectors of a row in a thread were
    slower everywhere, since each load then reaches into more rows.
    """
    row = lanes(channels)
    warps = min(max(row // (32 * vector), 1), 8)
    return max(32 * warps * vector // row, 1), warps


def launch(
    kernel,
    arguments: dict,
    *,
    rows: int,
    images: int,
    channels: int,
    dtype: torch.dtype,
    device: torch.device,
    atomics: bool = False,
) -> None:
    """Run ``kernel`` over the ``rows`` of every image.

    Args:
        kernel: a jitted or interpreted kernel.
        arguments: its arguments, except those that follow from the others.
        rows: number of rows of an image.
        images: number of images.
        channels: number of channels of a row.
        dtype: dtype of what the kernel gathers, or adds to memory.
        device: device of the tensors.
        atomics: whether the kernel adds to memory by atomic operations.
    """
    on_gpu = isinstance(kernel, triton.runtime.JITFunction)  # else interpreted
    capability = torch.cuda.get_device_capability(device) if on_gpu else (9, 0)
    block, warps = block_shape(channels, vector(dtype, atomics, capability))
    if not on_gpu:
        block = 128  # the interpreter has no threads to arrange
    arguments = {**arguments, "D": channels, "LANES": lanes(channels), "BLOCK": block}
    with torch.cuda.device(device) if on_gpu else contextlib.nullcontext():
        grid = (triton.cdiv(rows, block) * images,)
        kernel[grid](**arguments, num_warps=warps, num_stages=1, enable_fp_fusion=True)


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, contiguous and where two of its numbers can be loaded at once; a view may begin between two."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % (2 * tensor.itemsize) else tensor


def compute_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The dtype of positions, weights and sums: float32, or float64 if it is one of ``dtypes``."""
    return functools.reduce(torch.promote_types, dtypes, torch.float32)


def check(name: str, tensors: "dict[str, tuple[torch.Tensor, tuple[int, ...]]]") -> None:
    """Check that tensors have their shapes, are floating-point, and are on one device that Triton can use.

    Args:
        name: name of the function, for messages.
        tensors: each tensor with the shape that it must have, by argument.

    Raises:
        ValueError: a tensor does not fit; the message names it.
    """
    device = next(iter(tensors.values()))[0].device
    if not device.type == "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(f"{name}: the Triton kernel needs tensors on a GPU, got {device}")
    for argument, (tensor, shape) in tensors.items():
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name}: {argument} must be {tuple(shape)}, got {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name}: {argument} must be floating-point, got {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(f"{name}: {argument} is on {tensor.device}, others are on {device}")
