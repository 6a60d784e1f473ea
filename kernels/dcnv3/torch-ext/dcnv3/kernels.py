"""The Triton kernels of DCNv3.

A row is one group of one output position. Rows are numbered as they lie in memory, so that a block reads and writes
one stretch of offsets, weights and sums. ``D`` is the number of channels of a group.
"""

import math

import triton
import triton.language as tl

from .bilinear import blend, cell, pair, row_mask, sample_backward, store_sums, words

_LOG2_E = tl.constexpr(math.log2(math.e))
_SIZES = ["height", "width", "columns", "rows"]


@triton.jit
def _anchors(row, columns, G: tl.constexpr, STRIDE: tl.constexpr, COMPUTE: tl.constexpr):
    """(x, y) in the input of each row's output position, to which the kernel's grid is added."""
    position = row // G
    x = (position % columns * STRIDE).to(COMPUTE)
    y = (position // columns * STRIDE).to(COMPUTE)
    return x, y


@triton.jit
def _point(
    offset,
    alive,
    x,
    y,
    point,
    KERNEL: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    SCALE: tl.constexpr,
    REMOVE_CENTER: tl.constexpr,
    PAIRED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """(x, y) in the input of sampling point number ``point`` of each row, given pointers to the rows' offsets."""
    cell = point
    if REMOVE_CENTER:
        cell += point // (KERNEL * KERNEL // 2)  # 1 from the center on
    reach: tl.constexpr = DILATION * (KERNEL - 1) // 2
    base_x = (cell // KERNEL * DILATION - reach).to(COMPUTE) * SCALE + (reach - PADDING)
    base_y = (cell % KERNEL * DILATION - reach).to(COMPUTE) * SCALE + (reach - PADDING)
    offset_x, offset_y = pair(offset, point, alive, PAIRED, COMPUTE)
    return x + base_x + offset_x * SCALE, y + base_y + offset_y * SCALE


@triton.jit
def _largest_logit(
    mask, alive, BLOCK: tl.constexpr, POINTS: tl.constexpr, UNROLL: tl.constexpr, COMPUTE: tl.constexpr
):
    largest = tl.full([BLOCK], float("-inf"), COMPUTE)
    for point in tl.range(0, POINTS, loop_unroll_factor=UNROLL):
        largest = tl.maximum(largest, tl.load(mask + point, mask=alive, other=0.0).to(COMPUTE))
    return largest


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    input,
    offset,
    mask,
    output,
    height,
    width,
    columns,
    rows,
    G: tl.constexpr,
    D: tl.constexpr,
    LANES: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    SCALE: tl.constexpr,
    REMOVE_CENTER: tl.constexpr,
    SOFTMAX: tl.constexpr,
    PAIRED: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    PACKED: tl.constexpr,
    NARROW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    POINTS: tl.constexpr = KERNEL * KERNEL - REMOVE_CENTER
    UNROLL: tl.constexpr = POINTS if POINTS <= 16 else 4  # more takes minutes to compile
    tiles = tl.cdiv(rows, BLOCK)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    alive = row < rows
    x, y = _anchors(row, columns, G, STRIDE, COMPUTE)
    input += image * height * width * (G * D)
    offset += image * rows * (2 * POINTS)
    mask += image * rows * POINTS
    output += image * rows * D
    at = row.to(INDEX) * POINTS
    offset += 2 * at
    mask += at
    WORDS: tl.constexpr = LANES // 2 if PACKED else LANES
    USED: tl.constexpr = D // 2 if PACKED else D
    base = words(input, PACKED) + ((row % G * USED)[:, None] + tl.arange(0, WORDS)[None, :])

    if SOFTMAX:
        largest = _largest_logit(mask, alive, BLOCK, POINTS, UNROLL, COMPUTE)
        total = tl.zeros([BLOCK], COMPUTE)
    sums = tl.zeros([BLOCK, WORDS], COMPUTE)
    seconds = tl.zeros([BLOCK, WORDS], COMPUTE)
    for point in tl.range(0, POINTS, loop_unroll_factor=UNROLL):
        point_x, point_y = _point(
            offset, alive, x, y, point, KERNEL, PADDING, DILATION, SCALE, REMOVE_CENTER, PAIRED, COMPUTE
        )
        weight = tl.load(mask + point, mask=alive, other=0.0).to(COMPUTE)
        if SOFTMAX:
            weight = tl.exp2((weight - largest) * _LOG2_E)  # two instructions less than exp
            total += weight
        four = cell(base, 0, point_x, point_y, weight, height, width, G * USED, NARROW, INDEX, COMPUTE)
        sums, seconds = blend(sums, seconds, four, WORDS, USED, PACKED)
    if SOFTMAX:
        share = (1.0 / total)[:, None]
        sums *= share
        seconds *= share
    store_sums(output, row, alive, sums, seconds, BLOCK, LANES, D, PACKED, INDEX)


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    output_gradient,
    input,
    offset,
    mask,
    input_gradient,
    offset_gradient,
    mask_gradient,
    height,
    width,
    columns,
    rows,
    G: tl.constexpr,
    D: tl.constexpr,
    LANES: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    SCALE: tl.constexpr,
    REMOVE_CENTER: tl.constexpr,
    SOFTMAX: tl.constexpr,
    PAIRED: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    POINTS: tl.constexpr = KERNEL * KERNEL - REMOVE_CENTER
    UNROLL: tl.constexpr = POINTS if POINTS <= 16 else 4  # more takes minutes to compile
    tiles = tl.cdiv(rows, BLOCK)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    alive = row < rows
    x, y = _anchors(row, columns, G, STRIDE, COMPUTE)
    input += image * height * width * (G * D)
    input_gradient += image * height * width * (G * D)
    offset += image * rows * (2 * POINTS)
    offset_gradient += image * rows * (2 * POINTS)
    mask += image * rows * POINTS
    mask_gradient += image * rows * POINTS
    output_gradient += image * rows * D
    at = row.to(INDEX) * POINTS
    offset += 2 * at
    mask += at
    channel = (row % G * D)[:, None]

    largest = tl.zeros([BLOCK], COMPUTE)
    total = tl.full([BLOCK], 1.0, COMPUTE)
    if SOFTMAX:
        largest = _largest_logit(mask, alive, BLOCK, POINTS, UNROLL, COMPUTE)
        total = tl.zeros([BLOCK], COMPUTE)
        for point in tl.range(0, POINTS, loop_unroll_factor=UNROLL):
            total += tl.exp(tl.load(mask + point, mask=alive, other=0.0).to(COMPUTE) - largest)
    share = 1.0 / total
    given = output_gradient + (row.to(INDEX) * D)[:, None] + tl.arange(0, LANES)[None, :]
    given = tl.load(given, mask=row_mask(alive, LANES, D), other=0.0).to(COMPUTE)

    # Results of all points side by side, as they lie in memory, to be written at once.
    PADDED: tl.constexpr = triton.next_power_of_2(POINTS)
    lane = tl.arange(0, PADDED)[None, :]
    pair = tl.arange(0, 2 * PADDED)[None, :]
    weights = tl.zeros([BLOCK, PADDED], COMPUTE)
    gains = tl.zeros([BLOCK, PADDED], COMPUTE)
    slopes = tl.zeros([BLOCK, 2 * PADDED], COMPUTE)
    expected = tl.zeros([BLOCK], COMPUTE)
    for point in tl.range(0, POINTS, loop_unroll_factor=UNROLL):
        point_x, point_y = _point(
            offset, alive, x, y, point, KERNEL, PADDING, DILATION, SCALE, REMOVE_CENTER, PAIRED, COMPUTE
        )
        weight = tl.load(mask + point, mask=alive, other=0.0).to(COMPUTE)
        if SOFTMAX:
            weight = tl.exp(weight - largest) * share
        gain, slope_x, slope_y = sample_backward(
            given,
            input + channel,
            input_gradient + channel,
            0,
            point_x,
            point_y,
            weight,
            alive,
            height,
            width,
            G * D,
            LANES,
            D,
            INDEX,
            COMPUTE,
        )
        gains = tl.where(lane == point, gain[:, None], gains)
        if SOFTMAX:
            weights = tl.where(lane == point, weight[:, None], weights)
            expected += weight * gain
        slopes = tl.where(pair == 2 * point, (slope_x * SCALE)[:, None], slopes)
        slopes = tl.where(pair == 2 * point + 1, (slope_y * SCALE)[:, None], slopes)
    if SOFTMAX:
        gains = weights * (gains - expected[:, None])
    to = mask_gradient + at[:, None] + lane
    tl.store(to, gains.to(mask_gradient.dtype.element_ty), mask=row_mask(alive, PADDED, POINTS))
    to = offset_gradient + 2 * at[:, None] + pair
    tl.store(to, slopes.to(offset_gradient.dtype.element_ty), mask=row_mask(alive, 2 * PADDED, 2 * POINTS))
