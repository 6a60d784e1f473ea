"""A model of the zoo that is made small, with other values for its options; and what several of them share."""

import copy
from dataclasses import dataclass, field
from typing import Any

NORM = {"type": "SyncBN", "requires_grad": True}
RESNET = {"backbone.base_channels": 4, "backbone.stem_channels": 8}
RESNET_OPTIONS = {
    "backbone.depth": [18, 34],
    "backbone.dilations": [(1, 1, 1, 1), (1, 1, 1, 2)],
    "backbone.strides": [(1, 2, 2, 1), (2, 2, 1, 1)],
    "backbone.contract_dilation": [False],
    "backbone.multi_grid": [(1, 2)],
    "backbone.norm_cfg": [{**NORM, "eps": 1e-3}, None],
    "backbone.style": ["caffe"],
    "backbone.deep_stem": [False],
    "backbone.avg_down": [True],
    "backbone.type": ["ResNet", "ResNetV1d"],
    "backbone.in_channels": [4],
    "backbone.out_indices": [(0, 1, 2)],
    "backbone.dcn": [{"type": "DCN"}],
    "backbone.plugins": [[{"cfg": {"type": "ContextBlock"}}]],
    "backbone.conv_cfg": [{"type": "ConvWS"}],
}
ONE_MAP = {
    "decode_head.align_corners": [True],
    "decode_head.in_index": [2],
    "decode_head.input_transform": ["multiple_select"],
}
"""Options of such a head."""


@dataclass(frozen=True)
class Mutated:
    """A model of the zoo.

    Args:
        small: changes that make it small, by path; the numbers of a list stand in the path.
        options: other values by path, each of which must change the output or the shapes of the tensors.
        harmless: values by path that change nothing, and so show that the comparison is not blind.
        size: height and width of the picture.
    """

    small: dict[str, Any]
    options: dict[str, list[Any]]
    harmless: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (49, 65)


def head_options(place: str, channels: int) -> dict[str, list[Any]]:
    """What every decode head has, for a head at ``place`` with this many channels."""
    return {
        f"{place}.channels": [channels // 2],
        f"{place}.num_classes": [7],
        f"{place}.norm_cfg": [{**NORM, "eps": 1e-2}, None, {"type": "GN", "num_groups": 32}, {"type": "IN"}],
        f"{place}.act_cfg": [{"type": "LeakyReLU"}, {"type": "GELU"}, {"type": "Mish"}, None],
        f"{place}.conv_cfg": [{"type": "ConvWS"}],
        f"{place}.no_such_option": [1],
    }


def altered(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of an original config with changes to its model by path."""
    config = copy.deepcopy(config)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = config["model"]
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place[name]
        place[last] = value
    return config
