"""The released checkpoints as data: their names, origins, published scores and configs.

``rows/<system>.json`` has one line for each released checkpoint; ``configs/<system>.json`` has what a bare state dict
lacks, the original model config and test pipeline. Both hold facts from the publishers' pages and configs; nothing is
computed.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from segzoo.errors import SegZooError
from segzoo.zoo.names import name_in_1x


@dataclass(frozen=True, kw_only=True)
class System:
    """The origin of a family of checkpoints.

    Args:
        title: name for people.
        url: source repository.
        licence_code: SPDX name of the repository's licence; None if it has none. ``LicenseRef-...`` is a licence of the
            publisher's own, at ``url``.
        licence_weights: SPDX name of the weights' licence; None if the publisher states none.
    """

    title: str
    url: str
    licence_code: str | None
    licence_weights: str | None = None


SYSTEMS = {
    "InternImage": System(
        title="InternImage",
        url="https://github.com/OpenGVLab/InternImage",
        licence_code="MIT",
        licence_weights="MIT",
    ),
    "mmsegmentation": System(
        title="mmsegmentation", url="https://github.com/open-mmlab/mmsegmentation", licence_code="Apache-2.0"
    ),
    "ViT-Adapter": System(
        title="ViT-Adapter",
        url="https://github.com/czczup/ViT-Adapter",
        licence_code="Apache-2.0",
        licence_weights="Apache-2.0",
    ),
    "InternViT-6B": System(
        title="InternViT-6B",
        url="https://github.com/OpenGVLab/InternVL",
        licence_code="MIT",
        licence_weights="MIT",
    ),
    "CSAIL": System(
        title="MIT scene parsing",
        url="https://github.com/CSAILVision/semantic-segmentation-pytorch",
        licence_code="BSD-3-Clause",
    ),
    "mmsegmentation-1.x": System(
        title="mmsegmentation 1.x", url="https://github.com/open-mmlab/mmsegmentation", licence_code="Apache-2.0"
    ),
    "SegFormer": System(  # for research and evaluation only
        title="SegFormer",
        url="https://github.com/NVlabs/SegFormer",
        licence_code="LicenseRef-NVIDIA-Source-Code-License-SegFormer",
        licence_weights="LicenseRef-NVIDIA-Source-Code-License-SegFormer",
    ),
    "SegNeXt": System(
        title="SegNeXt", url="https://github.com/Visual-Attention-Network/SegNeXt", licence_code="Apache-2.0"
    ),
    "Swin": System(
        title="Swin Transformer",
        url="https://github.com/SwinTransformer/Swin-Transformer-Semantic-Segmentation",
        licence_code="Apache-2.0",
    ),
    "ConvNeXt": System(title="ConvNeXt", url="https://github.com/facebookresearch/ConvNeXt", licence_code="MIT"),
    "PoolFormer": System(title="PoolFormer", url="https://github.com/sail-sg/poolformer", licence_code="Apache-2.0"),
    "PVT": System(title="PVT", url="https://github.com/whai362/PVT", licence_code="Apache-2.0"),
    "VAN": System(
        title="VAN", url="https://github.com/Visual-Attention-Network/VAN-Segmentation", licence_code="Apache-2.0"
    ),
    "DINOv2": System(
        title="DINOv2",
        url="https://github.com/facebookresearch/dinov2",
        licence_code="Apache-2.0",
        licence_weights="Apache-2.0",
    ),
    "DINOv3": System(
        title="DINOv3",
        url="https://github.com/facebookresearch/dinov3",
        licence_code="LicenseRef-DINOv3-License",
        licence_weights="LicenseRef-DINOv3-License",
    ),
    "DAFormer": System(title="DAFormer", url="https://github.com/lhoyer/DAFormer", licence_code="Apache-2.0"),
    "BEiT": System(title="BEiT", url="https://github.com/microsoft/unilm", licence_code="MIT"),
    "MAE": System(title="MAE", url="https://github.com/implus/mae_segmentation", licence_code=None),
}
"""The systems by name, in the order in which their checkpoints are listed. The names are those of the JSON files."""


@dataclass(frozen=True, kw_only=True)
class ZooRow:
    """One released checkpoint.

    Args:
        name: name in the zoo.
        system: key of `SYSTEMS`.
        method, backbone, dataset: the publisher's names of the architecture's parts and of the data.
        aliases: original file names without their endings, if they differ from ``name``.
        crop: (height, width) of the training crops, in pixels.
        iterations: length of the training, in steps.
        miou, pixel_accuracy, score: published mean IoU, pixel accuracy and their mean in percent, tested on one scale.
        miou_ms, pixel_accuracy_ms, score_ms: the same scores, tested on several scales.
        dice: published Dice of the vessels alone, in percent, tested on one scale, of the rows that publish no mean
            IoU; the mean of vessels and background, mDice, is 8 to 10 points higher.
        test_flip: whether the test on one scale averages each picture with its mirror image.
        test_scales: the scales of the test on several scales, as factors on the size of the test on one scale.
        test_short_sides: the scales of that test as short sides in pixels, if the publisher gives those instead.
        test_flip_ms: whether the test on several scales has mirror images too; None if it is not known.
        parameters: number of weights, including auxiliary heads; published figures are rounded.
        flops: published floating-point operations of one forward pass, one for each multiply-add.
        flops_size: (height, width) of the picture for ``flops``, in pixels.
        images_per_second, images_per_second_ms: published speed of the two tests.
        speed_device: the device on which the speed was measured.
        recipe: name of the training recipe in `segzoo.training.recipes.recipe`; None if it is not known.
        url: address of the checkpoint; None if it was published without weights.
        size_bytes, sha256: size and hash of that file, if the publisher states them.
        decoder_url, decoder_size_bytes, decoder_sha256: the same for the second file of a model published in two
            files.
        pretrained: whether it is a backbone alone, before any training for segmentation; it has no original config.
        note: anything else that a reader of the row must know.
    """

    name: str
    system: str
    method: str
    backbone: str
    dataset: str
    aliases: tuple[str, ...] = ()
    crop: tuple[int, int] | None = None
    iterations: int | None = None
    miou: float | None = None
    miou_ms: float | None = None
    pixel_accuracy: float | None = None
    pixel_accuracy_ms: float | None = None
    score: float | None = None
    score_ms: float | None = None
    dice: float | None = None
    test_flip: bool = False
    test_scales: tuple[float, ...] = ()
    test_short_sides: tuple[int, ...] = ()
    test_flip_ms: bool | None = None
    parameters: int | None = None
    flops: int | None = None
    flops_size: tuple[int, int] | None = None
    images_per_second: float | None = None
    images_per_second_ms: float | None = None
    speed_device: str | None = None
    recipe: str | None = None
    url: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    decoder_url: str | None = None
    decoder_size_bytes: int | None = None
    decoder_sha256: str | None = None
    pretrained: bool = False
    note: str | None = None

    @property
    def licence_code(self) -> str | None:
        """SPDX name of the licence of the original code; None if it has none."""
        return SYSTEMS[self.system].licence_code

    @property
    def licence_weights(self) -> str | None:
        """SPDX name of the licence of the weights; None if the publisher states none."""
        return SYSTEMS[self.system].licence_weights

    @property
    def name_in_1x(self) -> str | None:
        """Name of the model's config in mmsegmentation 1.x; None if it is not one of mmsegmentation."""
        return name_in_1x(self.name) if self.system == "mmsegmentation" else None

    @property
    def sha256_start(self) -> str | None:
        """Leading digits of the file's SHA-256: all 64, or the eight in OpenMMLab's file names; None if unknown."""
        named = (
            re.search(r"-([0-9a-f]{8})\.pth$", self.url or "") if self.system.startswith("mmsegmentation") else None
        )
        return self.sha256 or (named[1] if named else None)


def _read(folder: str, system: str) -> Any:
    return json.loads(resources.files(__name__).joinpath(folder, f"{system}.json").read_text(encoding="utf-8"))


@cache
def rows() -> dict[str, ZooRow]:
    """All rows, by their names in the zoo."""
    table = {}
    for system in SYSTEMS:
        for entry in _read("rows", system):
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
            table[entry["name"]] = ZooRow(system=system, **values)
    return table


@cache
def _aliases() -> dict[str, str]:
    own = {key: row.name for row in rows().values() for key in (row.name, *row.aliases)}
    return {row.name_in_1x: row.name for row in rows().values() if row.name_in_1x is not None} | own


def lookup(name: str) -> ZooRow | None:
    """The row with this zoo name, alias or name in mmsegmentation 1.x, or None."""
    found = _aliases().get(name)
    return None if found is None else rows()[found]


def find(name: str) -> ZooRow:
    """The row with this zoo name, alias or name in mmsegmentation 1.x.

    Raises:
        SegZooError: there is no such row; the message suggests similar names.
    """
    row = lookup(name)
    if row is None:
        plain = {key.lower(): key for key in _aliases()}
        near = difflib.get_close_matches(name.lower(), plain, n=3, cutoff=0.5)
        if not near:
            near = sorted(key for key in plain if name.lower() in key)[:3]
        hint = f"; the nearest are {', '.join(dict.fromkeys(_aliases()[plain[key]] for key in near))}" if near else ""
        raise SegZooError(f"the zoo has no checkpoint named {name!r}{hint} (segzoo list shows all names)")
    return row


@cache
def _configs(system: str) -> dict[str, Any]:
    return _read("configs", system)


def converts(row: ZooRow) -> bool:
    """Whether this version converts a row: a backbone, or a model whose config the zoo has (a test translates them all)."""
    return row.pretrained or row.name in _configs(row.system)["configs"]


def original_config(name: str) -> dict[str, Any] | None:
    """The original config of a row, as a copy; None if the zoo has none.

    Configs of the mmsegmentation family have ``model``, ``dataset_type``, ``reduce_zero_label`` and ``test_pipeline``,
    in the form of 1.x where the checkpoint is of it; those of MIT's scene parsing ``MODEL`` and ``DATASET``.

    Args:
        name: name in the zoo, not an alias.
    """
    if name not in rows():
        return None
    of_system = _configs(rows()[name].system)
    stored = of_system["configs"].get(name)
    if stored is None or "MODEL" in stored:
        return copy.deepcopy(stored)
    parts = of_system["parts"]
    model = dict(stored["model"])
    for kind in ("backbone", "neck", "decode_head", "auxiliary_head", "data_preprocessor", "train_cfg"):
        if kind in stored:
            model[kind] = parts[kind][stored[kind]]
    config = {
        "model": model,
        "dataset_type": stored["dataset_type"],
        "reduce_zero_label": stored.get("reduce_zero_label", False),
        "test_pipeline": parts["test_pipeline"][stored["test_pipeline"]],
    }
    return copy.deepcopy(config)
