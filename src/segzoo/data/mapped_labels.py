"""Ids of one data set's masks as the ids of common classes, told in a column of the table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from segzoo.errors import SegZooError

_MARK = "mapped:"


@dataclass(frozen=True)
class MappedLabels:
    """How the ids in a mask become those of other classes.

    Attributes:
        encoding: name of the `segzoo.data.label_encodings.LabelEncoding` of the mask; None: it holds ids.
        targets: the new id, 0..255, by the old class; 255 does not count.
        reduced: whether the mask holds 0 for "no class" and 1 for the first class.
        ignored: id in the mask that does not count.
    """

    encoding: str | None
    targets: tuple[int, ...]
    reduced: bool = False
    ignored: int = 255

    def of(self, encoding: str | None) -> MappedLabels:
        """The same for masks that are written in another way."""
        return replace(self, encoding=encoding)

    @property
    def text(self) -> str:
        """The mapping as a text for the column ``label_encoding`` of a table, which `split_encoding` reads."""
        return f"{_MARK}{int(self.reduced)},{self.ignored},{bytes(self.targets).hex()},{self.encoding or ''}"

    def apply(self, ids: np.ndarray, name: str) -> np.ndarray:
        """The new ids of a mask.

        Args:
            ids: ids as the mask holds them, any integer type, (height, width).
            name: the mask's name in messages.

        Returns:
            uint8 array of the same shape; 255 does not count.

        Raises:
            SegZooError: an id is none of the old classes.
        """
        found, places = np.unique(ids, return_inverse=True) if ids.dtype != np.uint8 else (np.arange(256), ids)
        table = np.array([self._target(int(label)) for label in found])
        result = table[places].reshape(ids.shape)
        strays = np.unique(ids[result < 0])
        if len(strays):
            first = 1 if self.reduced else 0
            raise SegZooError(
                f"{name}: holds the ids {', '.join(map(str, strays[:8]))}, which are no classes of its data set "
                f"({first}..{first + len(self.targets) - 1}, ignored: {self.ignored}); see do_reduce_labels, ignore_index and "
                "classes of its source in the mixture"
            )
        return result.astype(np.uint8)

    def _target(self, label: int) -> int:
        if label == self.ignored or (self.reduced and label == 0):
            return 255
        index = label - int(self.reduced)
        return self.targets[index] if 0 <= index < len(self.targets) else -1


def split_encoding(text: str | None) -> tuple[str | None, MappedLabels | None]:
    """The encoding of a mask, and how its ids are mapped afterwards, from the column ``label_encoding``."""
    if text is None or not text.startswith(_MARK):
        return text, None
    reduced, ignored, targets, encoding = text.removeprefix(_MARK).split(",", 3)
    labels = MappedLabels(encoding or None, tuple(bytes.fromhex(targets)), reduced == "1", int(ignored))
    return labels.encoding, labels
