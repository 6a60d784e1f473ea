"""Original test pipelines -> settings of SegZooImageProcessor.

Pipelines of mmsegmentation 0.x (``MultiScaleFlipAug`` around ``Resize``, ``Normalize``, ``Pad``), of its research
forks (``ResizeToMultiple``, ``AlignResize``, ``SETR_Resize``, ``PadShortSide``), and of 1.x (flat, normalised by
``data_preprocessor``) are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from segzoo.conversion.keys import Context
from segzoo.conversion.options import Options, type_name
from segzoo.inference.soundness import check_preparation
from segzoo.sizes import MAX_SIZE

# Steps that load, pack or name things, and do not change the pixels in a pass without augmentation.
_NEUTRAL = (
    "LoadAnnotations", "ImageToTensor", "DefaultFormatBundle", "Collect", "PackSegInputs", "RandomFlip", "ToTensor",
    "DefaultFormatBundleSemantic", "ToMask",
)  # fmt: skip
# Steps that have an effect here, which forks register under packages of their own.
_STEPS = (
    *_NEUTRAL, "LoadImageFromFile", "LoadImageFromNDArray", "MultiScaleFlipAug", "Resize", "SETR_Resize", "ResizeShortestEdge",
    "SegResizeShortestEdge", "ResizeToMultiple", "AlignResize", "AlignedResize", "Normalize", "Pad", "PadShortSide",
)  # fmt: skip
# Loaders of TIFF, NumPy and medical files, in mmsegmentation 1.x and in forks. Pairs of images are another task.
_LOADER = re.compile(
    r"Load(?!Multiple|Depth).*(?:tif|npy|numpy|rsimage|biomedical|raster|geo|spectral|gdal|band).*", re.I
)
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # numbers of PIL.Image.Resampling


def translate_processor(context: Context, num_channels: int = 3) -> dict[str, Any]:
    """Keyword arguments of SegZooImageProcessor that prepare images as the original does in testing.

    Args:
        context: the context with the original config, which takes notes about what was not carried over (test-time
            augmentation).
        num_channels: number of channels that the model reads.

    Raises:
        ConversionError: the pipeline has an unknown step, or a step an unknown option; the message names it.
        SegZooError: a deviation is 0, or another number is out of range.
    """
    original = context.original
    fields: dict[str, Any] = {
        "do_resize": False,
        "antialias": False,
        "rounding": "nearest",
        "resize_logits_to_input": True,
        "num_channels": num_channels,
    }
    if original.test_pipeline is None:
        context.note("config", "it has no test pipeline; images are normalised, and not resized")
        fields.update(_normalisation(original.normalisation, "img_norm_cfg"))
    else:
        fields.update(_steps(original.test_pipeline, original.pipeline_place, context))
    if isinstance(original.preprocessor, Mapping):
        fields.update(_preprocessor(original.preprocessor))
    fields.setdefault("do_normalize", False)
    fields.setdefault("do_rescale", fields["do_normalize"])
    # mmcv reads images as BGR, and they remain so unless a normalisation reverses the channels.
    fields.setdefault("channel_order", "bgr")
    blue_first = fields.pop("blue_first", False)
    if fields.pop("loads_arrays", False) and num_channels == 3:  # in another order than mmcv's, which is then reversed
        fields["channel_order"] = "bgr" if fields["channel_order"] == "rgb" else "rgb"
    if num_channels != 3:  # such images are in the order of the model's channels, unless mmcv has read blue first
        fields["channel_order"] = "bgr" if num_channels == 4 and blue_first else "rgb"
    check_preparation(fields, "the test pipeline")
    if (raw := fields.pop("raw_pad_value", None)) is not None:  # padded before the normalisation
        fields["pad_value"] = raw
        if fields["do_normalize"]:
            pairs = zip(fields["image_mean"], fields["image_std"], strict=True)
            fields["pad_value"] = [(raw / 255 - mean) / std for mean, std in pairs]
    return fields


def _steps(
    steps: Sequence[Any], where: str, context: Context, *, scale: Any = None, enclosed: bool = False
) -> dict[str, Any]:
    """The settings for a list of steps; ``scale`` is what a MultiScaleFlipAug, if it encloses them, hands to Resize."""
    fields: dict[str, Any] = {}
    for number, step in enumerate(steps):
        place = f"{where}[{number}]"
        kind, options = type_name(step, place, _STEPS), Options(step, place)
        if kind in _NEUTRAL:
            continue
        if kind in ("LoadImageFromFile", "LoadImageFromNDArray"):
            options.ignore("to_float32", "backend_args", "file_client_args", "ignore_empty")
            unchanged = options.expect("color_type", "color", "unchanged", "grayscale") == "unchanged"
            if options.take("imdecode_backend", None) == "tifffile":  # the one that leaves the file's order
                fields["loads_arrays"] = True
            elif kind == "LoadImageFromFile" and unchanged:
                fields["blue_first"] = True  # of images with a fourth channel no normalisation reverses the others
            options.finish()
        elif kind == "MultiScaleFlipAug":
            inner = options.take("transforms")
            given = _test_scale(options, context)
            fields.update(_steps(inner, f"{place}.transforms", context, scale=given, enclosed=True))
        elif kind in ("AlignResize", "AlignedResize"):  # two resizes, the second up to multiples
            fields.update(_multiple(options.take("size_divisor", 32), "stretch", options))
            fields.update(_resize(options, scale, enclosed=enclosed))
            if not fields["do_resize"]:
                raise options.error("the scale of the test images is missing")
        elif kind in ("Resize", "SETR_Resize"):
            fields.update(_resize(options, scale, enclosed=enclosed, min_size=_crop_side(options)))
        elif kind in ("ResizeShortestEdge", "SegResizeShortestEdge"):
            fields.update(_resize_shortest_edge(options))
        elif kind == "ResizeToMultiple":
            options.expect("interpolation", None, "bilinear")
            fields.update(_multiple(options.take("size_divisor", 32), "stretch", options))
            options.finish()
        elif kind == "Normalize":
            fields.update(_normalisation(step, place))
        elif kind == "PadShortSide":
            size = options.take("size")
            options.ignore("seg_pad_val")
            height, width = (size, size) if isinstance(size, int) else size
            fields["pad_size"] = {"height": int(height), "width": int(width)}
            fields["pad_value" if "do_normalize" in fields else "raw_pad_value"] = options.take("pad_val", 0)
            options.finish()
        elif kind == "Pad":
            fields.update(_pad(options, normalised="do_normalize" in fields, width_first=context.original.is_1x))
        elif _LOADER.fullmatch(kind):
            fields["loads_arrays"] = True
            context.note(
                place,
                f"the original reads files with {kind}({options.rest()}); the processor takes what it returns, as float32 "
                "arrays with the channels in the same order",
            )
        else:
            raise options.error(
                f"the step {kind!r} of the test pipeline is not known, and it may change the pixels that the model sees; "
                "if it does not, give a config file without this step with --config"
            )
    return fields


def _crop_side(options: Options) -> int | None:
    """The least short side by SETR's options: that of the crop, with ``setr_multi_scale``; None without."""
    crop = options.take("crop_size", None)
    if not options.take("setr_multi_scale", False):
        return None
    if crop is None:
        raise options.error("setr_multi_scale=True needs a crop_size")
    return crop if isinstance(crop, int) else min(crop)


def _test_scale(options: Options, context: Context) -> Sequence[int] | None:
    """The image scale (width, height) of a MultiScaleFlipAug without augmentation; None for the images' own size."""
    scale, ratios = options.take("img_scale", None), options.take("img_ratios", None)
    flip = options.take("flip", False)
    options.ignore("flip_direction")
    options.finish()
    if isinstance(ratios, (int, float)):
        ratios = [ratios]
    scales = scale if scale and isinstance(scale[0], (list, tuple)) else [scale]
    if flip or len(scales) > 1 or len(ratios or [1]) > 1:
        context.note(options.where, "test-time augmentation (scales, flips) is not part of the processor")
    scale, ratio = scales[0], 1.0
    if ratios and 1.0 not in ratios:
        ratio = ratios[0]
    if scale is None:
        if ratio != 1.0:
            raise options.error(f"img_ratios={ratios!r} without img_scale is not supported")
        return None
    return [int(side * ratio) for side in scale]


def _resize(
    options: Options, scale: Sequence[int] | None, *, enclosed: bool, min_size: int | None = None
) -> dict[str, Any]:
    old = "scale" not in options  # 1.x calls it scale, and by default does not keep the ratio
    own = options.take("img_scale", None) if old else options.take("scale")
    if own is not None and isinstance(own[0], (list, tuple)):
        own = own[0] if len(own) == 1 else None
    scale = scale if enclosed else own  # the original does not look at its own where it is handed one
    keep_ratio = options.take("keep_ratio", old)
    resample = _RESAMPLE[options.expect("interpolation", "bilinear", "bicubic")]
    options.ignore("multiscale_mode", "clip_object_border", "backend", "bbox_clip_border")
    options.expect("ratio_range", None)
    options.expect("scale_factor", None, 1.0, 1)
    min_size = options.take("min_size", min_size)
    options.finish()
    if scale is None and min_size is not None:
        raise options.error(f"a least short side ({min_size}) without a scale is not supported")
    if scale is None:  # the image's own size
        return {"do_resize": False}
    if not keep_ratio:
        size = {"height": int(scale[1]), "width": int(scale[0])}
    elif min_size is not None:  # only the short side has a limit
        size = {"shortest_edge": max(int(min_size), int(min(scale)))}
    else:
        size = {"shortest_edge": int(min(scale)), "longest_edge": int(max(scale))}
        if size["longest_edge"] > MAX_SIZE:  # some configs write "no limit" as a limit of many digits
            del size["longest_edge"]
    return {"do_resize": True, "size": size, "resample": resample}


def _resize_shortest_edge(options: Options) -> dict[str, Any]:
    scale, longest = options.take("scale"), options.take("max_size", None)
    if isinstance(scale, (list, tuple)):
        if len(scale) != 1:
            raise options.error(f"several scales {scale!r} are not supported in testing")
        scale = scale[0]
    options.expect("interpolation", "bilinear")
    options.finish()
    size = {"shortest_edge": int(scale)} | ({} if longest is None else {"longest_edge": int(longest)})
    return {"do_resize": True, "size": size, "resample": _RESAMPLE["bilinear"]}


def _pad(options: Options, *, normalised: bool, width_first: bool) -> dict[str, Any]:
    """Padding at the right and the bottom.

    Args:
        options: of the step.
        normalised: whether pixels have been normalised before it.
        width_first: whether its size is (width, height), as of mmcv 2, or (height, width), as of mmcv 1.
    """
    size, divisor = options.take("size", None), options.take("size_divisor", None)
    options.expect("pad_to_square", False)
    options.expect("padding_mode", "constant")
    options.ignore("seg_pad_val")
    value = options.take("pad_val", 0)
    if isinstance(value, Mapping):
        value = value.get("img", 0)
    if not isinstance(value, (int, float)):
        raise options.error(f"pad_val={value!r} is not supported (only a number)")
    options.finish()
    fields: dict[str, Any] = {"pad_value" if normalised else "raw_pad_value": value}
    if divisor is not None:
        fields.update(_multiple(divisor, "pad", options))
    if size is not None:
        height, width = reversed(size) if width_first else size
        fields["pad_size"] = {"height": int(height), "width": int(width)}
    return fields


def _multiple(divisor: Any, mode: str, options: Options) -> dict[str, Any]:
    if isinstance(divisor, (list, tuple)):
        if len(set(divisor)) != 1:
            raise options.error(f"size_divisor={divisor!r} with different sides is not supported")
        divisor = divisor[0]
    return {"size_multiple": int(divisor), "size_multiple_mode": mode}


def _normalisation(original: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """The settings for mean and deviation in units of 0..255; ours are in 0..1, after a rescale."""
    if original is None:
        return {}
    options = Options(original, where)
    fields = _moments(options.take("mean"), options.take("std"))
    fields["channel_order"] = "rgb" if options.take("to_rgb", True) else "bgr"
    options.finish()
    return fields


def _moments(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    return {
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [round(value / 255, 12) for value in mean],
        "image_std": [round(value / 255, 12) for value in std],
    }


def _preprocessor(original: Mapping[str, Any]) -> dict[str, Any]:
    """The settings for 1.x's SegDataPreProcessor, which reverses channels, normalises, and may pad in testing."""
    where = "model.data_preprocessor"
    options = Options(original, where)
    if (kind := type_name(original, where)) != "SegDataPreProcessor":
        raise options.error(f"the type {kind!r} is not supported (only SegDataPreProcessor)")
    options.ignore("size", "size_divisor", "seg_pad_val", "batch_augments", "non_blocking")
    pad_value = options.take("pad_val", 0)
    fields: dict[str, Any] = {}
    mean, std = options.take("mean", None), options.take("std", None)
    if mean is not None and std is not None:
        fields.update(_moments(mean, std))
    to_rgb = options.take("bgr_to_rgb", False)
    fields["channel_order"] = "rgb" if to_rgb or options.take("rgb_to_bgr", False) else "bgr"
    test = Options(options.take("test_cfg", None) or {}, f"{where}.test_cfg")
    options.ignore("rgb_to_bgr")
    options.finish()
    if (divisor := test.take("size_divisor", None)) is not None:
        fields |= _multiple(divisor, "pad", test) | {"pad_value": pad_value}
    if (size := test.take("size", None)) is not None:
        fields |= {"pad_size": {"height": int(size[0]), "width": int(size[1])}, "pad_value": pad_value}
    test.finish()
    return fields
