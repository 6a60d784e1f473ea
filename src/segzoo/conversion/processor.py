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
from segzoo.conversion.original_config import OriginalConfig
from segzoo.conversion.preparation import Preparation
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
_BILINEAR = {"resample": _RESAMPLE["bilinear"], "antialias": False}


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
    preparation = Preparation(num_channels)
    if original.test_pipeline is None:
        context.note("config", "it has no test pipeline; images are normalised, and not resized")
        if original.normalisation is not None:
            _normalise(preparation, original.normalisation, "img_norm_cfg")
    else:
        _steps(preparation, original.test_pipeline, original.pipeline_place, context)
    if isinstance(original.preprocessor, Mapping):
        _preprocessor(preparation, original.preprocessor)
    fields = {
        "do_resize": False,
        "antialias": False,
        "rounding": "nearest",
        "resize_logits_to_input": True,
        "num_channels": num_channels,
        **preparation.settings(),
    }
    # mmcv reads images as BGR, other loaders in the file's order; a normalisation may reverse the channels.
    red_first = preparation.reversed != preparation.loads_arrays
    if num_channels != 3:  # such images are in the order of the model's channels, unless mmcv has read blue first
        red_first = not (num_channels == 4 and preparation.blue_first)
    fields["channel_order"] = "rgb" if red_first else "bgr"
    check_preparation(fields, "the test pipeline")
    return fields | preparation.padding()


def _steps(
    preparation: Preparation,
    steps: Sequence[Any],
    where: str,
    context: Context,
    *,
    scale: Any = None,
    enclosed: bool = False,
) -> None:
    """Does a list of steps; ``scale`` is what a MultiScaleFlipAug, if it encloses them, hands to Resize."""
    for number, step in enumerate(steps):
        place = f"{where}[{number}]"
        kind, options = type_name(step, place, _STEPS), Options(step, place)
        if kind == "RandomFlip" and not enclosed and step.get("prob", step.get("flip_ratio")):
            context.note(place, "the original flips pictures at random in testing too; here they stay as they are")
        if kind in _NEUTRAL:
            continue
        if kind in ("LoadImageFromFile", "LoadImageFromNDArray"):
            options.ignore("backend_args", "file_client_args", "ignore_empty")
            if options.take("to_float32", False):
                context.note(
                    place, "the original resizes floats; here resized pictures are rounded to whole grey levels"
                )
            unchanged = options.expect("color_type", "color", "unchanged", "grayscale") == "unchanged"
            if options.take("imdecode_backend", None) == "tifffile":  # the one that leaves the file's order
                preparation.loads_arrays = True
            elif kind == "LoadImageFromFile" and unchanged:
                preparation.blue_first = True  # of images with a fourth channel no normalisation reverses the others
            options.finish()
            preparation.add("load", options, kind)
        elif kind == "MultiScaleFlipAug":
            inner = options.take("transforms")
            given = _test_scale(options, context)
            _steps(preparation, inner, f"{place}.transforms", context, scale=given, enclosed=True)
        elif kind in ("AlignResize", "AlignedResize"):  # two resizes, the second up to multiples
            multiple = _multiple(options.take("size_divisor", 32), options)
            resize = _resize(options, scale, enclosed=enclosed)
            if resize is None:
                raise options.error("the scale of the test images is missing")
            preparation.add("resize", options, kind, **resize)
            preparation.add("stretch", options, kind, size_multiple=multiple, size_multiple_mode="stretch")
        elif kind in ("Resize", "SETR_Resize"):
            resize = _resize(options, scale, enclosed=enclosed, min_size=_crop_side(options))
            if resize is not None:
                preparation.add("resize", options, kind, **resize)
        elif kind in ("ResizeShortestEdge", "SegResizeShortestEdge"):
            preparation.add("resize", options, kind, **_resize_shortest_edge(options))
        elif kind == "ResizeToMultiple":
            options.expect("interpolation", None, "bilinear")
            multiple = _multiple(options.take("size_divisor", 32), options)
            options.finish()
            preparation.add(
                "stretch", options, kind, **_BILINEAR, size_multiple=multiple, size_multiple_mode="stretch"
            )
        elif kind == "Normalize":
            _normalise(preparation, step, place)
        elif kind in ("Pad", "PadShortSide"):
            pad = _pad_short_side if kind == "PadShortSide" else _pad
            is_1x = context.original.is_1x
            # OpenCV, to which mmcv 1 hands the number, takes it for the first channel of a colour.
            pads = preparation.pad(options, kind, **pad(options, width_first=is_1x), first_channel_only=not is_1x)
            if pads and (they := _who_leave_padding(context.original)) is not None:
                context.note(
                    place,
                    f"{they} not cut the padding of this step off: where it pads, it stretches the labels of the padded picture "
                    "over the picture; here the padding is cut off, and labels lie where they belong",
                )
        elif _LOADER.fullmatch(kind):
            preparation.loads_arrays = True
            preparation.add("load", options, kind)
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


def _who_leave_padding(original: OriginalConfig) -> str | None:
    """The versions that stretch labels of a padded picture, with their verb, if the original is or may be one; or None."""
    old = original.is_before(0, 26)
    if original.is_1x:
        return "mmsegmentation 1.x does"
    if old is None:
        return "mmsegmentation before 0.26, and the version of the checkpoint is not known, does"
    return "mmsegmentation before 0.26, of which the checkpoint is, does" if old else None


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
    scales = [scale]
    if scale and isinstance(scale[0], (list, tuple)):  # the original reads ratios beside one scale alone
        scales, ratios = scale, None
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
) -> dict[str, Any] | None:
    """The settings of a resize; None if pictures keep their own size."""
    old = "scale" not in options  # 1.x calls it scale, and by default does not keep the ratio
    own = options.take("img_scale", None) if old else options.take("scale")
    if not enclosed:  # the original does not look at its own where it is handed one
        scale = _one_scale(own, options)
    keep_ratio = options.take("keep_ratio", old)
    resample = _RESAMPLE[options.expect("interpolation", "bilinear", "bicubic")]
    antialias = options.expect("backend", "cv2", "pillow", None) == "pillow"  # whose filters widen where they shrink
    options.ignore("multiscale_mode", "clip_object_border", "bbox_clip_border")
    options.expect("ratio_range", None)
    options.expect("scale_factor", None, 1.0, 1)
    min_size = options.take("min_size", min_size)
    options.finish()
    if scale is None and min_size is not None:
        raise options.error(f"a least short side ({min_size}) without a scale is not supported")
    if scale is None:
        return None
    if not keep_ratio:
        size = {"height": int(scale[1]), "width": int(scale[0])}
    elif min_size is not None:  # only the short side has a limit
        size = {"shortest_edge": max(int(min_size), int(min(scale)))}
    else:
        size = _edges(min(scale), max(scale))
    return {"do_resize": True, "size": size, "resample": resample, "antialias": antialias}


def _one_scale(scale: Any, options: Options) -> Any:
    """The (width, height) of a resize; an int is both; None if there is none."""
    if isinstance(scale, (list, tuple)) and scale and isinstance(scale[0], (list, tuple)):
        if len(scale) > 1:
            raise options.error(f"several scales {scale!r} are not supported in testing")
        scale = scale[0]
    return _pair(scale)


def _edges(shortest: float, longest: float | None) -> dict[str, int]:
    """Bounds of the two sides; some configs write "no limit" as a limit of many digits."""
    size = {"shortest_edge": int(shortest)}
    if longest is not None and int(longest) <= MAX_SIZE:
        size["longest_edge"] = int(longest)
    return size


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


def _resize_shortest_edge(options: Options) -> dict[str, Any]:
    scale, longest = options.take("scale"), options.take("max_size", None)
    if isinstance(scale, (list, tuple)):
        if len(scale) != 1:
            raise options.error(f"several scales {scale!r} are not supported in testing")
        scale = scale[0]
    options.expect("interpolation", "bilinear")
    options.finish()
    size = _edges(scale if longest is None else min(scale, longest), longest)
    # Without a limit the second rounding changes nothing.
    rounding = "nearest_twice" if "longest_edge" in size else "nearest"
    return {"do_resize": True, "size": size, "rounding": rounding, **_BILINEAR}


def _pad(options: Options, *, width_first: bool) -> dict[str, Any]:
    """What a ``Pad`` does, as keyword arguments of `Preparation.pad`.

    Args:
        options: of the step.
        width_first: whether its size is (width, height), as of mmcv 2, or (height, width), as of mmcv 1.
    """
    size, divisor = _pair(options.take("size", None)), options.take("size_divisor", None)
    options.expect("pad_to_square", False)
    options.expect("padding_mode", "constant")
    options.ignore("seg_pad_val")
    value = options.take("pad_val", 0)
    if isinstance(value, Mapping):
        value = value.get("img", 0)
    if not isinstance(value, (int, float)):
        raise options.error(f"pad_val={value!r} is not supported (only a number)")
    options.finish()
    return {
        "value": value,
        "size": size[::-1] if size is not None and width_first else size,
        "multiple": None if divisor is None else _multiple(divisor, options),
    }


def _pad_short_side(options: Options, **_: Any) -> dict[str, Any]:
    size, value = _pair(options.take("size")), options.take("pad_val", 0)
    options.ignore("seg_pad_val")
    options.finish()
    return {"value": value, "size": size}


def _multiple(divisor: Any, options: Options) -> int:
    if isinstance(divisor, (list, tuple)):
        if len(set(divisor)) != 1:
            raise options.error(f"size_divisor={divisor!r} with different sides is not supported")
        divisor = divisor[0]
    return int(divisor)


def _normalise(preparation: Preparation, original: Mapping[str, Any], where: str) -> None:
    """Does mmcv's ``Normalize``."""
    options = Options(original, where)
    mean, std = options.take("mean"), options.take("std")
    if options.take("to_rgb", True):
        preparation.reverse()
    options.finish()
    preparation.normalise("Normalize", mean, std)


def _preprocessor(preparation: Preparation, original: Mapping[str, Any]) -> None:
    """Does 1.x's SegDataPreProcessor, which reverses channels, normalises, and may pad in testing, after all steps."""
    where = "model.data_preprocessor"
    options = Options(original, where)
    if (kind := type_name(original, where)) != "SegDataPreProcessor":
        raise options.error(f"the type {kind!r} is not supported (only SegDataPreProcessor)")
    options.ignore("size", "size_divisor", "seg_pad_val", "batch_augments", "non_blocking")
    pad_value = options.take("pad_val", 0)
    mean, std = options.take("mean", None), options.take("std", None)
    to_rgb, to_bgr = options.take("bgr_to_rgb", False), options.take("rgb_to_bgr", False)
    test = Options(options.take("test_cfg", None) or {}, f"{where}.test_cfg")
    divisor, size = test.take("size_divisor", None), _pair(test.take("size", None))
    options.finish()
    test.finish()
    if to_rgb or to_bgr:
        preparation.reverse()
    if mean is not None and std is not None:
        preparation.normalise(kind, mean, std)
    multiple = None if divisor is None else _multiple(divisor, test)
    preparation.pad(test, kind, pad_value, size=size, multiple=multiple)
