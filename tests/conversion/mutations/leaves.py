"""Options of original configs with other values: which there are, and which of them act in training alone.

A path leads from the config to an option; its parts are names, and numbers of list entries.
"""

import copy
import math
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

from segzoo import zoo

Path = tuple[str | int, ...]

# What acts in training, in initialisation, on memory or on speed; nothing below such an option is looked at either.
TRAINING = {
    "train_cfg", "init_cfg", "pretrained", "init_std", "kernel_init",
    "loss_decode", "loss_cls", "loss_mask", "loss_dice", "loss_se_decode", "sampler", "ignore_index",
    "dropout", "dropout_ratio", "dropout_layer", "drop_rate", "drop_path_rate", "attn_drop_rate", "attn_drop", "proj_drop", "ffn_drop",
    "requires_grad", "norm_eval", "frozen_stages", "freeze_vit", "momentum", "with_cp", "use_checkpoint", "inplace", "im2col_step",
    "layerscale_force_fp32", "use_flash_attn",
}  # fmt: skip

# First values of learned scales, which are there unless the option says otherwise.
SCALES = {"init_values", "layer_scale", "layer_scale_init_value"}
# Options that the original class takes and never reads, or reads only beside others, by the type of their dict.
UNREAD = {
    "BNHead": {"norm_cfg"},  # its norm is always the same
    "BiSeNetV1": {"align_corners", "norm_cfg", "act_cfg", "conv_cfg"},
    "DATASET": {"imgSizes"},  # of which one is taken, where the original averages over all
    "DAFormerHead": {"norm_cfg"},  # its parts have their own
    "DPTHead": {"in_channels"},  # of which it reads the number alone
    "DetrTransformerDecoder": {"return_intermediate"},
    # Of biases that this ViT does not have, of its pre-training, and of training.
    "DinoVisionTransformer": {"mask_k_bias", "untie_global_and_local_cls_norm", "pos_embed_rope_rescale_coords"},
    "ERFNet": {"enc_non_bottleneck_channels", "dec_upsample_channels"},  # as above
    "InternViT6B": {"pretrain_size"},  # of the file of its pre-training
    "KernelUpdateHead": {"num_classes"},
    "Mask2FormerHead": {"strides"},  # which scale the reference points, and these are divided by them again
    "SegFormerHead": {"feature_strides", "norm_cfg", "channels"},
    "SegmenterMaskTransformerHead": {"channels"},
    "SwinTransformer": {"pretrain_img_size"},  # unless it has absolute positions, which are refused
    "ViTAdapter": {"window_size"},  # where window_attn says so, which is another option
    "ffn_cfgs": {"feedforward_channels"},  # which the layer's own replaces
    "ham_kwargs": {"inv_t"},
    "transformer_decoder": {"return_intermediate"},
    "mlp": {"norm_cfg", "act_cfg"},
    # Training batches are padded to a size; zeros around a picture at test time come from the test's own settings.
    "data_preprocessor": {"size", "pad_val", "seg_pad_val"},
    "SegDataPreProcessor": {"size", "pad_val", "seg_pad_val"},
}
# Functions that pass over all options; their configs are ResNet's with another type.
NAMED_BACKBONES = ("pvt_", "poolformer_", "mit_")
# Those that are read only where another one is given too.
BESIDE_OTHERS = {"InternImage": {"level2_post_norm", "level2_post_norm_block_ids"}}
# Settings that are read with sliding windows alone, and of a detector's results.
WINDOWS, DETECTOR = {"crop_size", "stride"}, {"panoptic_on", "semantic_on", "instance_on", "max_per_image", "iou_thr", "filter_low_score"}  # fmt: skip
# The originals ask whether a number is among the first; those that read them in order are tested by hand. Of the second one side is
# as good as two.
UNORDERED, SIDES = {"out_indices"}, {"img_size"}
# Sections in which settings of training stand too, so that unknown ones are passed over.
MIXED = {"MODEL", "DATASET"}


@cache
def rows() -> dict[str, dict[str, Any]]:
    """The original configs of all rows that have one, by name."""
    configs = {name: zoo.original_config(name) for name in zoo.rows()}
    return {name: config for name, config in configs.items() if config is not None}


def tenth(seed: int) -> list[str]:
    """A tenth of each system's rows, one at least; the same for the same seed."""
    source, systems = random.Random(seed), {}
    for name in sorted(rows()):
        systems.setdefault(zoo.rows()[name].system, []).append(name)
    return [name for names in systems.values() for name in source.sample(names, math.ceil(len(names) / 10))]


def changed(config: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy of a config with another value at a path."""
    config = copy.deepcopy(config)
    place = config
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return config


def dicts(value: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All dicts at and below a path of a config that act beyond training, with their paths."""
    if isinstance(value, dict):
        yield path, value
        inner = [
            (name, value[name])
            for name in value
            if counts(path, value, name) or name in ("test_cfg", "data_preprocessor")
        ]
    else:
        inner = list(enumerate(value)) if isinstance(value, list) else []
    for part, one in inner:
        yield from dicts(one, (*path, part))


def model_dicts(config: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The dicts of a config's model; MIT's scene parsing has two sections of settings instead."""
    for root in ("model", "MODEL", "DATASET"):
        if root in config:
            yield from dicts(config[root], (root,))


def kind(path: Path, options: dict[str, Any]) -> str:
    """What a dict is: its type, or its name."""
    return options.get("type", str(path[-1]))


def counts(path: Path, options: dict[str, Any], name: str) -> bool:
    """Whether an option of a dict changes numbers."""
    if name in TRAINING or name in UNREAD.get(kind(path, options), ()):
        return False
    if kind(path, options).startswith(NAMED_BACKBONES) and name != "type":
        return False
    if name in ("num_things_classes", "num_stuff_classes") and "num_classes" in options:
        return False
    if name in ("test_cfg", "data_preprocessor"):
        return False  # its options are altered one by one
    if path[-1] == "test_cfg":
        return name not in DETECTOR and (name not in WINDOWS or options.get("mode") == "slide")
    return True


def others(name: str, value: Any) -> list[Any]:
    """Other values for an option, each of which changes numbers or cannot be."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        if name in SCALES:
            return [None]
        return [2 * value] if value else [type(value)(1)]
    if isinstance(value, str):
        return ["no_such_value"]
    if value is None:
        return ["no_such_value", {"type": "NoSuchType"}]
    if isinstance(value, dict):
        return [{"type": "NoSuchType"} if name == "conv_cfg" else None]  # ordinary convolutions need not be named
    if not value:
        return []
    if any(isinstance(entry, (dict, list)) for entry in value):
        return [value[:-1]]
    last = [[*value[:-1], other] for other in others(name, value[-1])]
    reversed_too = [value[::-1]] if value[::-1] != value and name not in UNORDERED else []
    return [*([] if name in SIDES else [value[:-1]]), *last, *reversed_too]


@cache
def known() -> dict[tuple[str, str], list[Any]]:
    """The values of each option in the whole zoo, by the kind of its dict and its name."""
    found: dict[tuple[str, str], list[Any]] = {}
    for config in rows().values():
        for path, options in model_dicts(config):
            for name, value in options.items():
                values = found.setdefault((kind(path, options), name), [])
                if value not in values:
                    values.append(value)
    return found


def alterations(config: dict[str, Any]) -> list[tuple[Path, list[Any]]]:
    """All options of a model with other values, one of which at least changes the numbers or cannot be.

    An option that a dict has is given one other value; one that it lacks, while the zoo has it in dicts of the same type, two
    different ones, since one may be the default.
    """
    found = []
    for path, options in model_dicts(config):
        for name, value in options.items():
            if counts(path, options, name):
                found += [((*path, name), [other]) for other in others(name, value)]
        for (of, name), values in known().items():
            absent = of == options.get("type") and name not in options and name not in BESIDE_OTHERS.get(of, ())
            if absent and counts(path, options, name):
                found += [
                    ((*path, name), [value, *others(name, value)]) for value in values[:1] if others(name, value)
                ]
        if path[-1] not in MIXED:
            found.append(((*path, "no_such_option"), [1]))
    return found
