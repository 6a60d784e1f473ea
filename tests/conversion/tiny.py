"""A small original checkpoint: config text, keys of mmsegmentation, and a network of a few thousand weights."""

import copy

import torch
from parity import synthesis

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import original_state_dict

NORM = {"type": "SyncBN", "requires_grad": True}
LOSS = {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0}

MODEL = {
    "type": "EncoderDecoder",
    "pretrained": "open-mmlab://resnet18_v1c",
    "backbone": {
        "type": "ResNetV1c",
        "depth": 18,
        "stem_channels": 8,
        "base_channels": 8,
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "strides": (1, 2, 1, 1),
        "dilations": (1, 1, 2, 4),
        "norm_cfg": NORM,
        "norm_eval": False,
        "style": "pytorch",
        "contract_dilation": True,
    },
    "decode_head": {
        "type": "FCNHead",
        "in_channels": 64,
        "in_index": 3,
        "channels": 8,
        "num_convs": 1,
        "dropout_ratio": 0.1,
        "num_classes": 4,
        "norm_cfg": NORM,
        "align_corners": False,
        "loss_decode": LOSS,
    },
    "auxiliary_head": None,
    "train_cfg": {},
    "test_cfg": {"mode": "whole"},
}
NORMALISE = {
    "type": "Normalize",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "to_rgb": True,
}
TEST_PIPELINE = [
    {"type": "LoadImageFromFile"},
    {
        "type": "MultiScaleFlipAug",
        "img_scale": (64, 32),
        "flip": False,
        "transforms": [
            {"type": "Resize", "keep_ratio": True},
            {"type": "RandomFlip"},
            NORMALISE,
            {"type": "ImageToTensor", "keys": ["img"]},
            {"type": "Collect", "keys": ["img"]},
        ],
    },
]


def config(**changes):
    """The training config as values; ``changes`` are paths into it, such as ``model__test_cfg``."""
    values = copy.deepcopy({"model": MODEL, "dataset_type": "CustomDataset", "test_pipeline": TEST_PIPELINE})
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = values
        for name in parents:
            place = place[name]
        place[last] = value
    return values


def config_text(values):
    """The config as mmcv writes it into a checkpoint, its range of GPUs included."""
    return "".join(f"{name} = {value!r}\n" for name, value in values.items()) + "gpu_ids = range(0, 8)\n"


def state_dict(values):
    """An original state dict for a config, with values that depend on the key names."""
    translation = translate_config(values)
    with torch.device("meta"):
        expected = SegZooForSemanticSegmentation(translation.config).state_dict()
    names = original_state_dict(expected, translation.components)
    return {key: synthesis.tensor(key, tuple(tensor.shape)) for key, tensor in names.items()}


def save(path, values=None, *, state=None, **meta):
    """Writes a checkpoint as mmcv does; ``meta`` entries are added to the config's, None removes the config."""
    values = config() if values is None else values
    state = state_dict(values) if state is None else state
    entries = {
        "config": config_text(values),
        "mmseg_version": "0.27.0",
        "CLASSES": ("sky", "road", "car", "tree"),
    } | meta
    torch.save({"meta": {k: v for k, v in entries.items() if v is not None}, "state_dict": state}, path)
    return path
