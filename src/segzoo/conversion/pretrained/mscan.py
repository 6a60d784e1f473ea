"""ImageNet classifiers of MSCAN -> backbones: their authors' ``mscan_t.pth`` to ``mscan_l.pth``, and mmsegmentation's
copies of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segzoo.backbones.mscan import VARIANTS, MSCANConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.mscan import AUTHORS_DEPTHWISE, mscan_depthwise_keys, mscan_keys

_GATE = "attn.spatial_gating_unit"
_LEFT_OUT = ("head.{}",)


def is_mscan(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of an MSCAN alone, or of a classifier with one."""
    return {"patch_embed1.proj.0.weight", f"block1.0.{_GATE}.conv0.weight"} <= state.keys()


def translate_mscan(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing.
    """
    stages = 0
    while f"block{stages + 1}.0.norm1.weight" in state:
        stages += 1
    blocks = [f"block{stage + 1}." for stage in range(stages)]
    strips = 0
    while f"block1.0.{_GATE}.conv{strips}_1.weight" in state:
        strips += 1
    try:
        channels = [state[f"{block}0.norm1.weight"].shape[0] for block in blocks]
        hidden = [state[f"{block}0.mlp.fc1.weight"].shape[0] for block in blocks]
        lengths = [state[f"block1.0.{_GATE}.conv{i}_1.weight"].shape[-1] for i in range(strips)]
        side = state[f"block1.0.{_GATE}.conv0.weight"].shape[-1]
        num_channels = state["patch_embed1.proj.0.weight"].shape[1]
    except KeyError as error:
        raise ConversionError(f"{source}: the weights do not make an MSCAN: {error.args[0]} is missing") from error
    sizes = list(zip(hidden, channels, strict=True))
    published = {"channels": channels, "depths": [count_entries(state, block) for block in blocks]}
    rate = next(
        (v["drop_path_rate"] for v in VARIANTS.values() if MSCANConfig(**v).to_dict().items() >= published.items()),
        0.0,
    )
    config = MSCANConfig(
        num_channels=num_channels,
        **published,
        mlp_ratios=[size // width if size % width == 0 else size / width for size, width in sizes],
        kernel_sizes=[side, *lengths],
        drop_path_rate=rate,
    )
    rules = (
        *(KeyRule(name, None) for name in _LEFT_OUT),
        *mscan_depthwise_keys(config, mmseg=f"block1.0.{AUTHORS_DEPTHWISE}.weight" not in state),
        *mscan_keys(config),
    )
    return PretrainedBackbone(config, dict(state), KeyTable(rules))


KIND = PretrainedKind("MSCAN classifier", is_mscan, translate_mscan)
