"""Ways in which masks on disk encode class ids other than by holding them: as other ids or as colours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from segzoo.data.palettes import read_palette
from segzoo.errors import SegZooError

Color = tuple[int, int, int]


@dataclass(frozen=True)
class LabelEncoding:
    """How the pixels of a mask become class ids, by either `ids` or `colors`.

    Attributes:
        name: name in the column `label_encoding` of tables.
        ids: class ids by stored id.
        colors: class ids by colour (red, green, blue), each 0..255. Every colour of a mask must be in it, except
            black.
        other: class id of stored ids that are not in `ids`; None leaves them unchanged.
    """

    name: str
    ids: Mapping[int, int] | None = None
    colors: Mapping[Color, int] | None = None
    other: int | None = None

    def decode_ids(self, mask: np.ndarray) -> np.ndarray:
        """Translates stored ids to class ids, by `ids`.

        Args:
            mask: stored ids, uint8 or int32 array (height, width).

        Returns:
            class ids of the same shape and dtype.
        """
        if mask.dtype == np.uint8:
            table = np.arange(256) if self.other is None else np.full(256, self.other)
            for stored, label in self.ids.items():
                table[stored] = label
            return table.astype(np.uint8)[mask]
        result = mask.copy() if self.other is None else np.full_like(mask, self.other)
        for stored, label in self.ids.items():
            result[mask == stored] = label
        return result


# The 19 classes by the data set's own ids (labels.py of the data set's scripts); all other ids do not count.
CITYSCAPES_LABEL_IDS = LabelEncoding(
    "cityscapes_label_ids",
    ids={
        stored: label
        for label, stored in enumerate((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33))
    },
    other=255,
)

# In SegNet's copy of CamVid, pixels without a class have the id after the last class.
CAMVID_SEGNET_IDS = LabelEncoding("camvid_segnet_ids", ids={11: 255})

_CAMVID_GROUPS = {  # the 32 names in label_colors.txt, as SegNet (https://arxiv.org/abs/1511.00561) groups them
    0: "808080",  # Sky
    1: "c00080 008040 800000 400040 40c000",  # Archway, Bridge, Building, Tunnel, Wall
    2: "c0c080 000040",  # Column_Pole, TrafficCone
    3: "804080 8000c0 c00040",  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    4: "0000c0 40c080 8080c0",  # Sidewalk, ParkingBlock, RoadShoulder
    5: "808000 c0c000",  # Tree, VegetationMisc
    6: "c08080 808040 004040",  # SignSymbol, Misc_Text, TrafficLight
    7: "404080",  # Fence
    8: "400080 4080c0 c080c0 c04080 804040",  # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    9: "404000 c08040 4000c0 408040",  # Pedestrian, Child, CartLuggagePram, Animal
    10: "0080c0 c000c0",  # Bicyclist, MotorcycleScooter
    255: "000000",  # Void
}
CAMVID_COLORS = LabelEncoding(
    "camvid_colors",
    colors={tuple(bytes.fromhex(code)): label for label, codes in _CAMVID_GROUPS.items() for code in codes.split()},
)

LABEL_ENCODINGS = {e.name: e for e in (CITYSCAPES_LABEL_IDS, CAMVID_SEGNET_IDS, CAMVID_COLORS)}


PALETTE = "palette:"
"""How the names of encodings by the colours of a file begin; the file's path follows."""


def palette_encoding(file: str | os.PathLike) -> LabelEncoding:
    """The encoding by the colours of a file, whose name leads `label_encoding` to the same file.

    Raises:
        SegZooError: the file is no palette; see `segzoo.data.palettes.read_palette`.
    """
    return label_encoding(PALETTE + os.path.abspath(os.path.expanduser(file)))


@lru_cache(maxsize=8)
def _read_encoding(name: str) -> LabelEncoding:
    return LabelEncoding(name, colors=read_palette(name.removeprefix(PALETTE)).colors)


def label_encoding(name: str) -> LabelEncoding:
    """The encoding that the column `label_encoding` names.

    Raises:
        SegZooError: there is no encoding of that name, or it is a palette whose file is gone.
    """
    if name.startswith(PALETTE):
        return _read_encoding(name)
    if name not in LABEL_ENCODINGS:
        raise SegZooError(
            f"Masks are said to be written as {name!r} (column label_encoding); known are {', '.join(LABEL_ENCODINGS)}."
        )
    return LABEL_ENCODINGS[name]
