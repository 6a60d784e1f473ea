"""3x3 convolutions with a quarter of the products, or with half of them in bfloat16, after Winograd.

"Fast Algorithms for Convolutional Neural Networks" (Lavin & Gray, 2015), https://arxiv.org/abs/1509.09308: F(4x4, 3x3).
The 16 outputs of a tile take 36 products for each pair of channels, in place of 144. Tiles and kernels are polynomials
here, which are multiplied by their values at six points. The usual points, 0, ±1, ±2 and infinity, would make float32's
error seven times that of the usual way; with these it is about twice, and in whole models no larger.

In bfloat16 products in both directions would lose two of 8 bits, so they are taken along columns only: F(4, 3). One
convolution's error is 2.4 times that of the usual way; that of the logits of UPerNet-Swin-T, most of which comes from
elsewhere, grows from 0.69 % to 0.72 %.

In training the gradient of the input is a convolution like it, and that of the kernels takes as few products: 36 for each
tile, between the tiles' values and those of the result's gradient, spread from 16 to 36.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.layers.resize import in_format_of

_INNER, _OUTER = 5 / 8, 3 / 2  # the points are 0, ± these and infinity
_SUM, _PRODUCT = _INNER**2 + _OUTER**2, _INNER**2 * _OUTER**2
_OF_TILES = (
    (_PRODUCT, 0.0, -_SUM, 0.0, 1.0, 0.0),
    *((0.0, -x * other**2, -(other**2), x, 1.0, 0.0) for x, other in ((_INNER, _OUTER), (-_INNER, _OUTER))),
    *((0.0, -x * other**2, -(other**2), x, 1.0, 0.0) for x, other in ((_OUTER, _INNER), (-_OUTER, _INNER))),
    (0.0, _PRODUCT, 0.0, -_SUM, 0.0, 1.0),
)
_POINTS = (0.0, _INNER, -_INNER, _OUTER, -_OUTER)
_OF_RESULTS = tuple((*(x**power for x in _POINTS), float(power == 3)) for power in range(4))
_SCALES = (_PRODUCT, *(2 * x**2 * (2 * x**2 - _SUM) for x in _POINTS[1:]))
_OF_KERNELS = (
    *((1 / scale, x / scale, x**2 / scale) for x, scale in zip(_POINTS, _SCALES, strict=True)),
    (0.0, 0.0, 1.0),
)

# Numbers that are worked on at a time, of the input and of the result.
_STRIP = 2**24


def winograd_share(x: torch.Size, weight: torch.Size, dilation: int) -> float:
    """Estimated time of `winograd_conv` in relation to the usual way's.

    Both are counted in products of the usual way. That takes 9 for each pixel and pair of channels, less the rows of a
    kernel that lie in the padding. The other way has 36 products for each tile, which are smaller matrices' and
    slower; the factors of its kernels and of its tiles take time too, as measured on one core with AVX-512.

    Args:
        x: shape of the input, (B, in, H, W).
        weight: shape of the weight, (out, in, 3, 3).
        dilation: of both sides; the padding is equal to it.
    """
    batch, _, height, width = x
    outputs, inputs = weight[:2]
    usual = batch * 3 * width * (3 * height - 2 * min(dilation, height)) * inputs * outputs
    if not usual:  # an empty batch
        return 1.0
    tiles = batch * _tiles(height, dilation) * _tiles(width, dilation) * dilation**2
    return 36 * ((1.3 * tiles + 45) * inputs * outputs + 100 * tiles * (inputs + outputs)) / usual


def winograd_rows_share(x: torch.Size, weight: torch.Size) -> float:
    """Estimated time of `winograd_rows_conv` in relation to the usual way's, as measured on one core with AVX-512 BF16.

    Args:
        x: shape of the input, (B, in, H, W).
        weight: shape of the weight, (out, in, 3, 3).
    """
    batch, _, height, width = x
    outputs, inputs = weight[:2]
    usual = batch * 3 * width * (3 * height - 2) * inputs * outputs
    if not usual:
        return 1.0
    places = batch * _tiles(height, 1) * width
    return ((19.5 * places + 2100) * inputs * outputs + 900 * places * (inputs + outputs)) / usual


def winograd_conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)``, up to rounding, without gradients.

    A dilated convolution is an undilated one of every phase, the pixels whose distances are multiples of the dilation.

    Args:
        x: map (B, in, H, W), best in the channels-last format.
        weight: (out, in, 3, 3).
        bias: (out,) or None.
        dilation: of both sides; the padding is equal to it.

    Returns:
        (B, out, H, W) in the channels-last format.
    """
    batch, _, height, width = x.shape
    outputs, inputs = weight.shape[:2]
    down, across = _tiles(height, dilation), _tiles(width, dilation)
    x = x.permute(0, 2, 3, 1)
    kernels = weight.permute(2, 3, 0, 1).reshape(9, outputs * inputs)
    result = x.new_empty(batch, down, 4, dilation, across, 4, dilation, outputs)
    for first, last in _strips(batch, down, across, dilation, max(inputs, outputs)):
        values = _convolved(_padded_tiles(x, first, last, dilation), kernels, dilation)
        values = values.view(4, 4, batch, last - first, dilation, across, dilation, outputs).permute(
            2, 3, 0, 4, 5, 1, 6, 7
        )
        if bias is None:
            result[:, first:last].copy_(values)
        else:
            torch.add(values, bias, out=result[:, first:last])
    result = result.view(batch, 4 * down * dilation, 4 * across * dilation, outputs)
    return result[:, :height, :width].permute(0, 3, 1, 2)


def winograd_weight_gradient(x: Tensor, gradient: Tensor, dilation: int) -> Tensor:
    """The gradient of `winograd_conv`'s weight, up to rounding.

    Args:
        x: map (B, in, H, W), best in the channels-last format.
        gradient: of the result, (B, out, H, W), best in the channels-last format.
        dilation: of both sides; the padding is equal to it.

    Returns:
        (out, in, 3, 3).
    """
    (batch, inputs, height, width), outputs = x.shape, gradient.shape[1]
    down, across = _tiles(height, dilation), _tiles(width, dilation)
    x, gradient = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    total = x.new_zeros(6, 6, outputs, inputs)
    for first, last in _strips(batch, down, across, dilation, max(inputs, outputs)):
        tiles = _tile_values(_padded_tiles(x, first, last, dilation), dilation)
        rows = gradient[:, 4 * first * dilation : 4 * last * dilation]
        padding = (0, 0, 0, 4 * across * dilation - width, 0, 4 * (last - first) * dilation - rows.shape[1])
        rows = F.pad(rows, padding).view(batch, last - first, 4, dilation, across, 4, dilation, outputs)
        for part, values, gradients in zip(total, tiles, _spread_values(rows), strict=True):
            part.baddbmm_(gradients.mT, values)
    of_kernels = x.new_tensor(_OF_KERNELS)
    of_kernels = torch.einsum("ya,xb->abyx", of_kernels, of_kernels).reshape(9, 36)
    weight = of_kernels @ total.view(36, -1)
    return weight.view(3, 3, outputs, inputs).permute(2, 3, 0, 1).contiguous()


class TrainedWinograd(torch.autograd.Function):
    """`winograd_conv` with gradients; results and gradients have their inputs' memory formats."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        return in_format_of(x, winograd_conv(x, weight, bias, dilation))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, int], output: Tensor) -> None:
        x, weight, bias, ctx.dilation = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # for a gradient of gradients
            sides, needed = [ctx.dilation] * 2, [for_x, for_weight, for_bias]
            bias = [len(weight)] if for_bias else None
            return *torch.ops.aten.convolution_backward(
                gradient, x, weight, bias, [1, 1], sides, sides, False, [0, 0], 1, needed
            ), None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        x_gradient = weight_gradient = None
        with torch.autocast("cpu", enabled=False):  # in which the backward pass may be called, unlike the forward pass
            if for_x:
                turned = weight.flip(2, 3).transpose(0, 1)
                x_gradient = in_format_of(x, winograd_conv(gradient, turned, None, ctx.dilation))
            if for_weight:
                weight_gradient = winograd_weight_gradient(x, gradient, ctx.dilation)
        return x_gradient, weight_gradient, gradient.sum((0, 2, 3)) if for_bias else None, None


def winograd_rows_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)``, up to rounding in the type of ``x``, without gradients.

    Four rows of the result are sums of six maps with a quarter of the rows, each convolved with kernels of one row.

    Args:
        x: map (B, in, H, W), best in the channels-last format.
        weight: (out, in, 3, 3), of the same type or a more precise one.
        bias: (out,) or None.

    Returns:
        (B, out, H, W) of the type of ``x``, in the channels-last format.
    """
    batch, _, height, width = x.shape
    outputs, inputs = weight.shape[:2]
    precise = torch.promote_types(weight.dtype, torch.float32)
    of_kernels = torch.tensor(_OF_KERNELS, dtype=precise)
    kernels = (of_kernels @ weight.permute(2, 3, 0, 1).reshape(3, -1).to(precise)).to(x.dtype)
    kernels = kernels.view(6, 3, outputs, inputs).permute(0, 2, 3, 1).unsqueeze(3)  # (6, out, in, 1, 3)
    x, down = x.permute(0, 2, 3, 1), _tiles(height, 1)
    result = x.new_empty(batch, down, 4, width * outputs)
    strip = max(1, _STRIP // (6 * width * max(inputs, outputs)))
    for image, rows in zip(x, result, strict=True):
        for first in range(0, down, strip):
            last = min(first + strip, down)
            above, below = 4 * first - 1, 4 * last + 1  # four rows read one more on each side
            padded = F.pad(image[max(above, 0) : below], (0, 0, 0, 0, max(-above, 0), max(below - height, 0)))
            _convolve_rows(padded, kernels, rows[first:last])
    result = result.view(batch, 4 * down, width, outputs)[:, :height]
    if bias is not None:
        result = result + bias.to(x.dtype)
    return result.permute(0, 3, 1, 2)


def _convolve_rows(x: Tensor, kernels: Tensor, out: Tensor) -> None:
    """Rows of a map with one more on each side, (4 * tiles + 2, W, in), and kernels (6, out, in, 1, 3), into the tiles' four
    rows each, (tiles, 4, W * out).
    """
    # All of these numbers have 8 bits at most.
    of_tiles, of_results = x.new_tensor(_OF_TILES), x.new_tensor(_OF_RESULTS)
    (down, _, numbers), (_, width, inputs) = out.shape, x.shape
    values = x.new_empty(6, down, width * inputs)
    torch.bmm(of_tiles.expand(down, 6, 6), x.reshape(len(x), -1).unfold(0, 6, 4).mT, out=values.transpose(0, 1))
    products = x.new_empty(6, down, numbers)
    for value, kernel, product in zip(values, kernels, products, strict=True):
        value = value.view(down, 1, width, inputs).permute(0, 3, 1, 2)
        product.copy_(F.conv2d(value, kernel, padding=(0, 1)).permute(0, 2, 3, 1).reshape(down, numbers))
    torch.bmm(of_results.expand(down, 4, 6), products.transpose(0, 1), out=out)


def _convolved(x: Tensor, kernels: Tensor, dilation: int) -> Tensor:
    """Padded rows of a map, as `_padded_tiles` makes them, and kernels (9, out * in) -> (4, 4 * B * tiles * out): row and
    column of the output in its tile, and the tiles in the map's order.

    Most of the time goes into the 36 products of matrices. Six at a time, their factors stay in the cache.
    """
    inputs = x.shape[-1]
    outputs = kernels.shape[1] // inputs
    of_results, of_kernels = x.new_tensor(_OF_RESULTS), x.new_tensor(_OF_KERNELS)
    of_kernels = torch.einsum("ya,xb->yxab", of_kernels, of_kernels).view(6, 6, 9)
    kernel = kernels.new_empty(6, outputs * inputs)
    partial = None
    for i, values in enumerate(_tile_values(x, dilation)):
        torch.mm(of_kernels[i], kernels, out=kernel)
        products = torch.bmm(values, kernel.view(6, outputs, inputs).mT).view(6, -1)
        if partial is None:
            partial = products.new_empty(6, 4, products.shape[1])
        torch.mm(of_results, products, out=partial[i])
    return of_results @ partial.view(6, -1)


def _padded_tiles(x: Tensor, first: int, last: int, dilation: int) -> Tensor:
    """The rows that tiles read, one row and column of their phase more on each side: of a map (B, H, W, C) to (B, rows of a
    phase, dilation, columns, C).
    """
    batch, height, width, channels = x.shape
    above, below = (4 * first - 1) * dilation, (4 * last + 1) * dilation
    right = (4 * _tiles(width, dilation) + 1) * dilation - width
    borders = (0, 0, dilation, right, max(-above, 0), max(below - height, 0))
    return F.pad(x[:, max(above, 0) : below], borders).view(batch, 4 * (last - first) + 2, dilation, -1, channels)


def _tile_values(x: Tensor, dilation: int) -> Iterator[Tensor]:
    """The values of tiles of 6x6 at six points of their columns, (6, tiles, C), for each of the six of their rows.

    Args:
        x: padded rows, as `_padded_tiles` makes them.
        dilation: of both sides.
    """
    batch, rows, _, columns, channels = x.shape
    of_tiles, down = x.new_tensor(_OF_TILES), (rows - 2) // 4
    along = x.new_empty(6, batch, down, dilation * columns * channels)
    for image, combined in zip(x, along.unbind(1), strict=True):
        tiles = image.reshape(rows, -1).unfold(0, 6, 4).mT  # (down, 6, dilation * columns * C)
        torch.bmm(of_tiles.expand(down, 6, 6), tiles, out=combined.transpose(0, 1))
    for row in along:
        tiles = row.view(batch * down * dilation, columns // dilation, dilation * channels).unfold(1, 6, 4)
        yield (of_tiles @ tiles.permute(3, 0, 1, 2).reshape(6, -1)).view(6, -1, channels)


def _spread_values(x: Tensor) -> Iterator[Tensor]:
    """As `_tile_values`, of tiles of 4x4 whose numbers are spread over the six points: (B, down, 4, dilation, across, 4,
    dilation, C) to (6, tiles, C), six times.
    """
    batch, down, _, dilation, across, _, _, channels = x.shape
    spread = x.new_tensor(_OF_RESULTS).mT
    along = x.new_empty(6, batch * down, x[0, 0, 0].numel())
    torch.bmm(spread.expand(batch * down, 6, 4), x.reshape(batch * down, 4, -1), out=along.transpose(0, 1))
    for row in along:
        tiles = row.view(batch * down * dilation * across, 4, dilation * channels).transpose(0, 1)
        yield (spread @ tiles.reshape(4, -1)).view(6, -1, channels)


def _strips(batch: int, down: int, across: int, dilation: int, channels: int) -> Iterator[tuple[int, int]]:
    """First and last row of tiles, exclusive, of every strip that is worked on at a time."""
    strip = max(1, _STRIP // (16 * batch * across * dilation**2 * channels))
    for first in range(0, down, strip):
        yield first, min(first + strip, down)


def _tiles(length: int, dilation: int) -> int:
    """Number of tiles, of four outputs each, of every phase of a line."""
    return -(-length // (4 * dilation))
