"""The Triton kernels of multi-scale deformable attention.

A row is one head of one query. Rows are numbered as they lie in memory, so that a block reads and writes one stretch
of locations, weights and sums. ``D`` is the number of channels of a head.
"""

import triton
import triton.language as tl

from .bilinear import blend, cell, pair, row_mask, sample_backward, store_sums, words

_SIZES = ["positions", "rows"]


@triton.jit
def _side(codes, number: tl.constexpr):
    """The height (2 * level) or width (2 * level + 1) of a level.

    They are passed as odd numbers, because Triton compiles anew for an integer in a tuple that is 1 or a multiple of
    16.
    """
    return codes[number] >> 1


@triton.jit
def _point(locations, alive, point, height, width, PAIRED: tl.constexpr, COMPUTE: tl.constexpr):
    """(x, y), in pixels of the level, of sampling point number ``point`` of each row, given pointers to their locations."""
    x, y = pair(locations, point, alive, PAIRED, COMPUTE)
    return x * width - 0.5, y * height - 0.5


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    value,
    locations,
    weights,
    output,
    codes,
    positions,
    rows,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    LANES: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    PAIRED: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    PACKED: tl.constexpr,
    NARROW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    ALL: tl.constexpr = LEVELS * POINTS
    UNROLL: tl.constexpr = POINTS if ALL <= 16 else 4  # more takes minutes to compile
    tiles = tl.cdiv(rows, BLOCK)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    alive = row < rows
    value += image * positions * (HEADS * D)
    locations += image * rows * (2 * ALL)
    weights += image * rows * ALL
    output += image * rows * D
    at = row.to(INDEX) * ALL
    locations += 2 * at
    weights += at
    WORDS: tl.constexpr = LANES // 2 if PACKED else LANES
    USED: tl.constexpr = D // 2 if PACKED else D
    base = words(value, PACKED) + ((row % HEADS * USED)[:, None] + tl.arange(0, WORDS)[None, :])

    sums = tl.zeros([BLOCK, WORDS], COMPUTE)
    seconds = tl.zeros([BLOCK, WORDS], COMPUTE)
    first = 0
    for level in tl.static_range(LEVELS):
        height = _side(codes, 2 * level)
        width = _side(codes, 2 * level + 1)
        for step in tl.range(0, POINTS, loop_unroll_factor=UNROLL):
            point = level * POINTS + step
            x, y = _point(locations, alive, point, height, width, PAIRED, COMPUTE)
            weight = tl.load(weights + point, mask=alive, other=0.0).to(COMPUTE)
            four = cell(base, first, x, y, weight, height, width, HEADS * USED, NARROW, INDEX, COMPUTE)
            sums, seconds = blend(sums, seconds, four, WORDS, USED, PACKED)
        first += height * width
    store_sums(output, row, alive, sums, seconds, BLOCK, LANES, D, PACKED, INDEX)


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    output_gradient,
    value,
    locations,
    weights,
    value_gradient,
    locations_gradient,
    weights_gradient,
    codes,
    positions,
    rows,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    LANES: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    PAIRED: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    ALL: tl.constexpr = LEVELS * POINTS
    UNROLL: tl.constexpr = POINTS if ALL <= 16 else 4
    tiles = tl.cdiv(rows, BLOCK)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    alive = row < rows
    value += image * positions * (HEADS * D)
    value_gradient += image * positions * (HEADS * D)
    locations += image * rows * (2 * ALL)
    locations_gradient += image * rows * (2 * ALL)
    weights += image * rows * ALL
    weights_gradient += image * rows * ALL
    output_gradient += image * rows * D
    at = row.to(INDEX) * ALL
    locations += 2 * at
    weights += at
    channel = (row % HEADS * D)[:, None]
    given = output_gradient + (row.to(INDEX) * D)[:, None] + tl.arange(0, LANES)[None, :]
    given = tl.load(given, mask=row_mask(alive, LANES, D), other=0.0).to(COMPUTE)

    # Results of a level's points side by side, as they lie in memory, to be written at once.
    PADDED: tl.constexpr = triton.next_power_of_2(POINTS)
    lane = tl.arange(0, PADDED)[None, :]
    pair = tl.arange(0, 2 * PADDED)[None, :]
    first = 0
    for level in tl.static_range(LEVELS):
        height = _side(codes, 2 * level)
        width = _side(codes, 2 * level + 1)
        gains = tl.zeros([BLOCK, PADDED], COMPUTE)
        slopes = tl.zeros([BLOCK, 2 * PADDED], COMPUTE)
        for step in tl.range(0, POINTS, loop_unroll_factor=UNROLL):
            point = level * POINTS + step
            x, y = _point(locations, alive, point, height, width, PAIRED, COMPUTE)
            weight = tl.load(weights + point, mask=alive, other=0.0).to(COMPUTE)
            gain, slope_x, slope_y = sample_backward(
                given,
                value + channel,
                value_gradient + channel,
                first,
                x,
                y,
                weight,
                alive,
                height,
                width,
                HEADS * D,
                LANES,
                D,
                INDEX,
                COMPUTE,
            )
            gains = tl.where(lane == step, gain[:, None], gains)
            slopes = tl.where(pair == 2 * step, (slope_x * width)[:, None], slopes)
            slopes = tl.where(pair == 2 * step + 1, (slope_y * height)[:, None], slopes)
        to = weights_gradient + at[:, None] + (level * POINTS + lane)
        tl.store(to, gains.to(weights_gradient.dtype.element_ty), mask=row_mask(alive, PADDED, POINTS))
        to = locations_gradient + 2 * at[:, None] + (2 * level * POINTS + pair)
        tl.store(to, slopes.to(locations_gradient.dtype.element_ty), mask=row_mask(alive, 2 * PADDED, 2 * POINTS))
        first += height * width
