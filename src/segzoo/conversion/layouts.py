"""Layout operations: tensors that an original stores in another form than our models, beside the renaming of keys.

`Reshape`, `Permute` and `Reorder` change one tensor, as the ``change`` of a `KeyRule`; `join` and `split` make the rules
of tensors that the original stores in several parts, or several of which it stores as one. All of them can be undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

import torch
from torch import Tensor

from segzoo.conversion.keys import KeyRule, Part, TensorChange


@dataclass(frozen=True)
class Reshape(TensorChange):
    """The same values in another shape.

    Args:
        original, native: the two shapes. 0 is the size of the same axis in the other one; one entry may be -1, which is
            whatever is left.
    """

    original: tuple[int, ...]
    native: tuple[int, ...]

    def to_native(self, tensor: Tensor) -> Tensor:
        return _shaped(tensor, self.original, self.native)

    def to_original(self, tensor: Tensor) -> Tensor:
        return _shaped(tensor, self.native, self.original)


def _shaped(tensor: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """The tensor in the shape ``new``; unchanged if it does not have the shape ``old``, which the caller's check finds."""
    if tensor.ndim != len(old) or any(want > 0 and want != size for want, size in zip(old, tensor.shape, strict=True)):
        return tensor
    sizes = [tensor.shape[axis] if size == 0 else size for axis, size in enumerate(new)]
    known = prod(size for size in sizes if size >= 0)
    fits = tensor.numel() % max(known, 1) == 0 if -1 in sizes else tensor.numel() == known
    return tensor.reshape(sizes) if fits else tensor


POINTWISE = Reshape(original=(0, 0, 1, 1), native=(0, 0))
"""The original has a 1x1 convolution where ours has a linear layer."""
LINEAR = Reshape(original=(0, 0), native=(0, 0, 1, 1))
"""The original has a linear layer where ours has a 1x1 convolution."""


@dataclass(frozen=True)
class Permute(TensorChange):
    """Other orders of axes, or of the factors of axes.

    Args:
        axes: the axes of the original's tensor in the order in which ours has them, as in ``Tensor.permute``.
        view: shape in which the original's tensor is seen for it, as of `Reshape`; the result has the original's shape
            again. None permutes the tensor's own axes.
    """

    axes: tuple[int, ...]
    view: tuple[int, ...] | None = None

    def to_native(self, tensor: Tensor) -> Tensor:
        if self.view is None:
            return tensor.permute(self.axes) if tensor.ndim == len(self.axes) else tensor
        seen = _seen(tensor, self.view)
        return tensor if seen is None else seen.permute(self.axes).reshape(tensor.shape)

    def to_original(self, tensor: Tensor) -> Tensor:
        back = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        if self.view is None:
            return tensor.permute(back) if tensor.ndim == len(back) else tensor
        seen = _seen(tensor, self.view)
        if seen is None:
            return tensor
        return tensor.reshape([seen.shape[axis] for axis in self.axes]).permute(back).reshape(tensor.shape)


def _seen(tensor: Tensor, view: tuple[int, ...]) -> Tensor | None:
    """The tensor in the shape of a view; None if its values do not fill it, or if it is a scalar."""
    if not tensor.ndim:
        return None
    sizes = [tensor.shape[axis] if size == 0 else size for axis, size in enumerate(view)]
    known = prod(size for size in sizes if size >= 0)
    fits = tensor.numel() % known == 0 if -1 in sizes else tensor.numel() == known
    return tensor.reshape(sizes) if fits else None


@dataclass(frozen=True)
class Reorder(TensorChange):
    """Equal blocks of an axis in another order.

    Args:
        order: for each block of ours, the number of the original's block.
        axis: the axis.
    """

    order: tuple[int, ...]
    axis: int = 0

    def to_native(self, tensor: Tensor) -> Tensor:
        return self._ordered(tensor, self.order)

    def to_original(self, tensor: Tensor) -> Tensor:
        return self._ordered(tensor, tuple(self.order.index(block) for block in range(len(self.order))))

    def _ordered(self, tensor: Tensor, order: tuple[int, ...]) -> Tensor:
        if tensor.ndim <= self.axis or tensor.shape[self.axis] % len(order):
            return tensor
        blocks = tensor.unflatten(self.axis, (len(order), -1))
        return torch.cat([blocks.select(self.axis, block) for block in order], dim=self.axis)


@dataclass(frozen=True)
class Steps(TensorChange):
    """Several changes of the original's tensor, one after another."""

    changes: tuple[TensorChange, ...]

    def to_native(self, tensor: Tensor) -> Tensor:
        for change in self.changes:
            tensor = change.to_native(tensor)
        return tensor

    def to_original(self, tensor: Tensor) -> Tensor:
        for change in reversed(self.changes):
            tensor = change.to_original(tensor)
        return tensor


def join(
    originals: Sequence[str],
    native: str,
    shares: Sequence[int] | None = None,
    change: TensorChange | None = None,
) -> tuple[KeyRule, ...]:
    """Rules for several tensors of the original that are one of ours, one behind the other along the first axis.

    Args:
        originals: their names, in this order; each with as many ``{}`` as ``native``.
        native: our name.
        shares: their sizes in relation to each other, (1, 2) for queries and fused keys and values; None: equal.
        change: what becomes of each of them before.
    """
    parts = _parts(len(originals), shares)
    return tuple(
        KeyRule(name, native, change=change, native_part=part) for name, part in zip(originals, parts, strict=True)
    )


def split(
    original: str,
    natives: Sequence[str],
    shares: Sequence[int] | None = None,
    change: TensorChange | None = None,
) -> tuple[KeyRule, ...]:
    """Rules for one tensor of the original that is several of ours, one behind the other along the first axis.

    Args:
        original: its name.
        natives: our names, in this order; each with as many ``{}`` as ``original``.
        shares: their sizes in relation to each other; None: equal.
        change: what becomes of each of them afterwards.
    """
    parts = _parts(len(natives), shares)
    return tuple(
        KeyRule(original, name, change=change, original_part=part) for name, part in zip(natives, parts, strict=True)
    )


def _parts(count: int, shares: Sequence[int] | None) -> list[Part]:
    ends = [0, *accumulate([1] * count if shares is None else shares)]
    return [Part(begin, end, ends[-1]) for begin, end in pairwise(ends)]
