"""Biases of attention that depend on the offset between two places of a grid."""

from torch import Tensor


def offset_pairs(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """The bias of every pair of places, (heads, places, places), queries first, for a grid (height, width).

    Args:
        table: (heads, 2 * height - 1, 2 * width - 1), one entry for each offset of the query from the key; the first
            is the one where the query is furthest above and to the left of the key.
        grid: (height, width).
    """
    height, width = grid
    # Of the offsets from the largest down, the row of a query is a slice of them; a table of indices takes longer.
    pairs = table.flip(1, 2).unfold(1, height, 1).unfold(2, width, 1).flip(1, 2)
    return pairs.flatten(3).flatten(1, 2)
