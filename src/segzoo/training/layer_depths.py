"""The depth of each parameter in a model, on which layer-wise learning rates depend.

Depth 0 is the stem, and each block of the backbone is one deeper than the block before it; everything after the
backbone has the depth ``num_depths``. For backbones of segzoo, transformers and timm the layers follow from the names
of the parameters; a backbone whose original's optimizer groups them differently defines ``num_depths`` and
``parameter_depth`` (see `segzoo.base.SegZooPreTrainedModel`).
"""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import nn
from transformers import PreTrainedConfig

from segzoo.base import SegZooPreTrainedModel
from segzoo.errors import SegZooError

HEADS = ("decode_head", "auxiliary_head")  # how names of heads begin in segzoo and most models of transformers
# EoMT, whose queries join the last layers of its backbone, has it beside its heads.
_OPEN_BACKBONE = ("embeddings.", "layers.", "layernorm.")
_BEHIND = re.compile(r"(neck|(?:decode|auxiliary)_heads\.\d+)\.(.+)")
# "encoder.layers.2.blocks.5.", "stages.2.layers.5.", "block.2.5.", timm's "stages_2.blocks.5." and "layer2.5.", and
# HRNet's "stages.2.exchanges.5."
_BLOCK = re.compile(
    r"(?:^|\.)(?:layers?[._]?|(?:blocks?|stages?)[._])(\d+)(?:\.(?:(?:layers?|blocks?|exchanges)\.)?(\d+)(?=\.))?"
)
# Blocks between the stem and the first stage.
_FIRST_BLOCK = re.compile(r"^stem_blocks()\.(\d+)(?=\.)")
_STEM = re.compile(r"embed|token|stem|^(?:_backbone\.)?(?:conv1|bn1|conv_stem)\.")


def layer_depths(model: nn.Module) -> tuple[dict[str, int], int]:
    """The depth of every parameter of a segmentation model.

    Args:
        model: a segzoo model, or one of transformers.

    Returns:
        (depth by parameter name, number of depths): depths of the backbone are below the number, those of heads and
        necks equal it, unless a head or neck defines its own.

    Raises:
        SegZooError: the backbone is not found, or neither defines its depths nor names its parameters in a known way.
    """
    names = [name for name, _ in model.named_parameters()]
    if not isinstance(model, SegZooPreTrainedModel):
        places = ("backbone.", "model.pixel_level_module.encoder.", f"{getattr(model, 'base_model_prefix', '')}.")
        prefix = next((place for place in places if any(name.startswith(place) for name in names)), "")
        inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix or _OPEN_BACKBONE)]
        backbone = model.get_submodule(prefix.removesuffix("."))
        depths, count = depths_from_names(inside, type(model).__name__, getattr(backbone, "config", None))
        return {name: depths.get(name.removeprefix(prefix), count) for name in names}, count
    backbone = dict(model.named_children()).get("backbone", model)
    prefix = "" if backbone is model else "backbone."
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    if isinstance(backbone, SegZooPreTrainedModel) and backbone.num_depths is not None:
        count, found = backbone.num_depths, {name: backbone.parameter_depth(name) for name in inside}
    else:
        found, count = depths_from_names(inside, type(backbone).__name__, backbone.config)
    depths = {prefix + name: depth for name, depth in found.items()}
    for name in names:
        if match := _BEHIND.fullmatch(name):
            depths[name] = model.get_submodule(match[1]).parameter_depth(match[2])
    return {name: count if depths.get(name) is None else depths[name] for name in names}, count


def depths_from_names(
    names: list[str], owner: str, config: PreTrainedConfig | None = None
) -> tuple[dict[str, int], int]:
    """The depths of a backbone's parameters, from their names.

    In plain transformers the depth counts the layers. In hierarchical backbones it counts the blocks of all stages; a
    part before a stage's blocks has the depth of the first of them, a part after them has that of the next stage's
    first block. Embeddings have depth 0; norms and other parts after all blocks train at the full rate. ConvNeXt
    counts its stages, as in mmsegmentation's recipes.

    Args:
        names: names of the backbone's parameters, in their order.
        owner: name of the backbone's class, for the error.
        config: the backbone's config; its ``model_type`` selects a family's own rule, if there is one.

    Returns:
        (depth by parameter name, number of depths).

    Raises:
        SegZooError: no name contains a numbered layer, block or stage.
    """
    rule = _FAMILIES.get(getattr(config, "model_type", None))
    if rule is not None:
        return rule(names, config)
    blocks = {name: match for name in names if (match := _FIRST_BLOCK.search(name) or _BLOCK.search(name))}
    if not blocks:
        raise SegZooError(
            f"the layers of {owner} cannot be told from the names of its parameters, so layer_decay has no meaning; leave it out, "
            "or give the backbone num_depths and parameter_depth"
        )
    if any(match[2] is not None for match in blocks.values()):
        return _staged(names, blocks)
    count = max(int(match[1]) for match in blocks.values()) + 2
    depths = {name: 0 if _STEM.search(name) else count for name in names}
    return depths | {name: int(match[1]) + 1 for name, match in blocks.items()}, count


def _staged(names: Iterable[str], blocks: Mapping[str, re.Match]) -> tuple[dict[str, int], int]:
    lengths: dict[int, int] = {}
    for match in blocks.values():
        stage = int(match[1] or -1)
        lengths[stage] = max(lengths.get(stage, 0), 0 if match[2] is None else int(match[2]) + 1)
    first, count = {}, 1
    for stage in sorted(lengths):
        first[stage] = count
        count += lengths[stage]
    behind = {stage: first.get(stage + 1, count) for stage in lengths}
    entered: set[int] = set()  # stages whose blocks have begun
    depths = {}
    for name in names:
        match = blocks.get(name)
        if match is None:
            depths[name] = 0 if _STEM.search(name) else count
            continue
        stage = int(match[1] or -1)
        if match[2] is not None:
            depths[name] = first[stage] + int(match[2])
            entered.add(stage)
        elif stage in entered:
            depths[name] = behind[stage]
        else:
            depths[name] = 0 if stage == min(lengths) and _STEM.search(name) else first[stage]
    return depths, count


def _convnext(names: Iterable[str], config: PreTrainedConfig) -> tuple[dict[str, int], int]:
    """0 for stem and downsampling, 1 to 4 for stages; for heads 4 plus a third of the third stage's blocks."""
    count = config.depths[2] // 3 + 4
    depths = {}
    for name in names:
        match = _BLOCK.search(name)
        if match and match[2] is not None:
            depths[name] = int(match[1]) + 1
        else:
            depths[name] = count if "hidden_states_norms" in name else 0
    return depths, count


_FAMILIES: dict[str | None, Callable] = {"convnext": _convnext, "convnextv2": _convnext}
