"""Config files with the base files that they build on, also those of mmsegmentation, which the zoo answers.

A config of another repository may build on one of mmsegmentation 1.x (``_base_ = 'mmseg::_base_/models/fcn_r50-d8.py'``
or ``'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'``), which is not there without that package. The zoo has
the configs of the released checkpoints, in the form of 0.x; here they are given in that of 1.x, with what conversion
reads of them: the model, the data set and the test pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from segzoo import zoo
from segzoo.conversion.reading.configs import merge, read_config_file

_PACKAGES = ("mmseg", "mmsegmentation")

_NINETEEN = {"num_classes": 19}
_BOTH_NINETEEN = {"decode_head": _NINETEEN, "auxiliary_head": _NINETEEN}
_WHOLE = {"test_cfg": {"_delete_": True, "mode": "whole"}}
_UNET = {"test_cfg": {"crop_size": 256, "stride": 170}}
# Files of _base_/models -> a released model that adds nothing to them but what stands behind it. Most files of this
# folder are not here: they are those of the model's first training on Cityscapes, whose name begins with theirs.
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bisenetv1_r18-d32": ("bisenetv1_r18-d32_4x4_1024x1024_160k_cityscapes", {}),
    "bisenetv2": ("bisenetv2_fcn_4x4_1024x1024_160k_cityscapes", {}),
    "cgnet": ("cgnet_680x680_60k_cityscapes", {}),
    "deeplabv3_unet_s5-d16": ("deeplabv3_unet_s5-d16_128x128_40k_chase_db1", _UNET),
    "dpt_vit-b16": ("dpt_vit-b16_512x512_160k_ade20k", _WHOLE),
    "erfnet_fcn": ("erfnet_fcn_4x4_512x1024_160k_cityscapes", {}),
    "fast_scnn": ("fast_scnn_lr0.12_8x4_160k_cityscapes", {}),
    "fcn_unet_s5-d16": ("fcn_unet_s5-d16_128x128_40k_chase_db1", _UNET),
    "icnet_r50-d8": ("icnet_r50-d8_832x832_80k_cityscapes", {}),
    "lraspp_m-v3-d8": ("lraspp_m-v3-d8_512x1024_320k_cityscapes", {}),
    "ocrnet_r50-d8": ("ocrnet_r101-d8_512x1024_40k_b8_cityscapes", {"backbone": {"depth": 50}}),
    "pspnet_unet_s5-d16": ("pspnet_unet_s5-d16_128x128_40k_chase_db1", _UNET),
    "segformer_mit-b0": ("segformer_mit-b0_8x1_1024x1024_160k_cityscapes", _WHOLE),
    "segmenter_vit-b16_mask": ("segmenter_vit-b_mask_8x1_512x512_160k_ade20k", {}),
    "stdc": ("stdc1_512x1024_80k_cityscapes", {}),
    "twins_pcpvt-s_fpn": ("twins_pcpvt-s_fpn_fpnhead_8x4_512x512_80k_ade20k", {}),
    "twins_pcpvt-s_upernet": ("twins_pcpvt-s_uperhead_8x4_512x512_160k_ade20k", {}),
    "upernet_beit": ("upernet_beit-base_8x2_640x640_160k_ade20k", _WHOLE),
    "upernet_convnext": (
        "upernet_convnext_base_fp16_512x512_160k_ade20k",
        {"decode_head": _NINETEEN, "auxiliary_head": {"num_classes": 19, "in_channels": 384}} | _WHOLE,
    ),
    "upernet_swin": (
        "upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K",
        _BOTH_NINETEEN,
    ),
    "upernet_vit-b16_ln_mln": ("upernet_vit-b16_mln_512x512_160k_ade20k", _BOTH_NINETEEN),
}
# Files of _base_/datasets -> a released model that is tested on the data set.
_DATASETS = {
    "ade20k": "fcn_r50-d8_512x512_80k_ade20k",
    "ade20k_640x640": "upernet_beit-base_8x2_640x640_160k_ade20k",
    "chase_db1": "fcn_unet_s5-d16_128x128_40k_chase_db1",
    "cityscapes": "fcn_r50-d8_512x1024_40k_cityscapes",
    "cityscapes_768x768": "setr_vit-large_naive_8x1_768x768_80k_cityscapes",
    "cityscapes_1024x1024": "bisenetv1_r18-d32_4x4_1024x1024_160k_cityscapes",
    "cityscapes_769x769": "fcn_r50-d8_769x769_40k_cityscapes",
    "cityscapes_832x832": "icnet_r50-d8_832x832_80k_cityscapes",
    "coco-stuff10k": "deeplabv3_r50-d8_512x512_4x4_20k_coco-stuff10k",
    "coco-stuff164k": "deeplabv3_r50-d8_512x512_4x4_80k_coco-stuff164k",
    "drive": "fcn_unet_s5-d16_64x64_40k_drive",
    "hrf": "fcn_unet_s5-d16_256x256_40k_hrf",
    "isaid": "deeplabv3plus_r50-d8_4x4_896x896_80k_isaid",
    "loveda": "deeplabv3plus_r50-d8_512x512_80k_loveda",
    "pascal_context": "deeplabv3_r101-d8_480x480_40k_pascal_context",
    "pascal_context_59": "deeplabv3_r101-d8_480x480_40k_pascal_context_59",
    "pascal_voc12": "fcn_r50-d8_512x512_20k_voc12aug",
    "pascal_voc12_aug": "fcn_r50-d8_512x512_20k_voc12aug",
    "potsdam": "deeplabv3plus_r50-d8_512x512_80k_potsdam",
    "stare": "fcn_unet_s5-d16_128x128_40k_stare",
    "vaihingen": "deeplabv3plus_r50-d8_4x4_512x512_80k_vaihingen",
}
_FIRST_TRAININGS = ("512x1024_40k_cityscapes", "512x1024_80k_cityscapes")


def load_config(path: str | Path) -> dict[str, Any]:
    """Reads a config file and its base files, as `read_config_file` does; those of mmsegmentation come from the zoo.

    Raises:
        ConfigReadError: as `read_config_file`.
    """
    return read_config_file(path, base_loader=zoo_base)


def zoo_base(reference: str) -> dict[str, Any] | None:
    """The values of a base file of mmsegmentation 1.x, as far as conversion reads them.

    Args:
        reference: package and path, "mmseg::_base_/models/fcn_r50-d8.py".

    Returns:
        the values in the form of 1.x, or None if the zoo has no such file.
    """
    package, _, path = reference.partition("::")
    if package not in _PACKAGES:
        return None
    stem, folder = PurePosixPath(path).stem, PurePosixPath(path).parent.as_posix()
    if folder.endswith("_base_/models"):
        return _model_file(stem)
    if folder.endswith("_base_/datasets"):
        row = zoo.lookup(_spelled(stem, _DATASETS) or "")
        return None if row is None else _dataset_part(row)
    row = zoo.lookup(stem)
    config = None if row is None else zoo.original_config(row.name)
    if row is None or config is None:
        return None
    if "data_preprocessor" in config["model"]:
        return config | _test_part(config["dataset_type"], config["test_pipeline"])
    return _model_part(config["model"], config) | _dataset_part(row)


def _spelled(stem: str, names: Mapping[str, Any]) -> Any:
    """The entry of a file; modules that are imported have underscores where files have hyphens."""
    return {name.replace("-", "_"): value for name, value in names.items()}.get(stem.replace("-", "_"))


def _model_file(stem: str) -> dict[str, Any] | None:
    name, changes = _spelled(stem, _MODELS) or (None, {})
    if name is None:
        firsts = {
            row.removesuffix(f"_{end}"): row
            for end in _FIRST_TRAININGS[::-1]
            for row in zoo.rows()
            if row.endswith(end)
        }
        name = _spelled(stem, firsts)
    config = None if name is None else zoo.original_config(name)
    return None if config is None else _model_part(merge(changes, config["model"], stem), config)


def _model_part(model: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """``norm_cfg``, ``data_preprocessor`` and ``model`` of 1.x, for a model and a whole config of 0.x."""
    normalise = next(step for step in _steps(config["test_pipeline"]) if step["type"] == "Normalize")
    preprocessor = {
        "type": "SegDataPreProcessor",
        "mean": normalise["mean"],
        "std": normalise["std"],
        "bgr_to_rgb": normalise["to_rgb"],
        "pad_val": 0,
        "seg_pad_val": 255,
    }
    return {
        "norm_cfg": {"type": "SyncBN", "requires_grad": True},
        "data_preprocessor": preprocessor,
        "model": {**model, "data_preprocessor": preprocessor},
    }


def _dataset_part(row: zoo.ZooRow) -> dict[str, Any]:
    """What a file of ``_base_/datasets`` sets, for the data set that a released model is tested on."""
    config = zoo.original_config(row.name) or {}
    reduce_zero_label = config["reduce_zero_label"]
    pipeline = [
        {"type": "LoadImageFromFile"},
        *(step for step in _steps(config["test_pipeline"]) if step["type"] == "Resize"),
        {"type": "LoadAnnotations", "reduce_zero_label": reduce_zero_label},
        {"type": "PackSegInputs"},
    ]
    return {"crop_size": row.crop, "test_pipeline": pipeline} | _test_part(config["dataset_type"], pipeline)


def _test_part(dataset_type: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    """The loaders of 1.x for a class of data sets and a test pipeline."""
    dataset = {"type": dataset_type}
    test = {"dataset": {**dataset, "pipeline": pipeline}}
    return {
        "dataset_type": dataset_type,
        "train_dataloader": {"dataset": dataset},
        "val_dataloader": test,
        "test_dataloader": test,
    }


def _steps(pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps inside a pipeline's ``MultiScaleFlipAug``, with its scale in that which resizes."""
    around = next(step for step in pipeline if step["type"] == "MultiScaleFlipAug")
    return [
        {**step, "scale": around["img_scale"]} if step["type"] == "Resize" else step for step in around["transforms"]
    ]
