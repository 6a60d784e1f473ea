"""How an original training and its test change pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segzoo.conversion.options import Options, type_name
from segzoo.conversion.translation import Translation
from segzoo.training.recipes.original.findings import Findings, part_of, swapped

_NO_CHANGES = (
    "LoadImageFromFile", "LoadAnnotations", "Normalize", "DefaultFormatBundle", "Collect", "ImageToTensor", "ToTensor", "Pad",
    "PackSegInputs", "LoadSingleRSImageFromFile", "SegRescale",
)  # fmt: skip
_DISTORTION = {
    "brightness_delta": 32, "contrast_range": (0.5, 1.5), "saturation_range": (0.5, 1.5), "hue_delta": 18
}  # fmt: skip


def train_fields(config: Mapping[str, Any], findings: Findings) -> None:
    """Take the random changes to training pictures; a step that a recipe does not have is left out."""
    steps, place = _train_pipeline(config, findings)
    if steps is None:
        crop = config.get("crop_size")
        findings.leave(
            "train_pipeline", "it is not in the config; factors of 0.5 to 2, flips and distortion are assumed"
        )
        findings.take("crop_size", crop_size=list(crop) if isinstance(crop, (list, tuple)) else crop)
        return
    findings.take(
        place,
        scale_range=[1.0, 1.0],
        crop_size=None,
        flip_probability=0.0,
        photometric_distortion=False,
        cat_max_ratio=1.0,
    )
    for number, step in enumerate(steps):
        where = f"{place}[{number}]"
        with findings.reading(where):
            _step(Options(step, where), type_name(step, where), findings)


def _train_pipeline(config: Mapping[str, Any], findings: Findings) -> tuple[Sequence[Any] | None, str]:
    for keys in (("train_dataloader", "dataset"), ("data", "train")):
        found, place = part_of(config, *keys), ".".join(keys)
        while found is not None:
            if isinstance(found.get("pipeline"), (list, tuple)):
                return found["pipeline"], f"{place}.pipeline"
            if "times" in found:
                findings.leave(
                    f"{place}.times", "a pass over the data is one pass here; only lengths in epochs depend on it"
                )
            inner = found.get("dataset") or found.get("datasets")
            found = inner[0] if isinstance(inner, (list, tuple)) and inner else inner
            found = found if isinstance(found, Mapping) else None
    steps = config.get("train_pipeline")
    return (steps, "train_pipeline") if isinstance(steps, (list, tuple)) else (None, "")


def _step(options: Options, kind: str, findings: Findings) -> None:
    place = options.where
    if kind in _NO_CHANGES:
        return
    if kind in ("Resize", "RandomResize"):
        _resize(options, findings)
    elif kind in ("RandomChoiceResize", "ResizeShortestEdge"):
        _shortest_edges(options, findings)
    elif kind == "ResizeToMultiple":
        findings.take(place, size_divisor=options.take("size_divisor", 32))
    elif kind == "RandomCrop":
        size = options.take("crop_size")
        size = [size, size] if isinstance(size, int) else list(size)
        findings.take(place, crop_size=size, cat_max_ratio=options.take("cat_max_ratio", 1.0))
        options.ignore("ignore_index")
    elif kind == "RandomFlip":
        options.ignore("direction")
        chance = options.take("prob", None)
        chance = options.take("flip_ratio", None) if chance is None else chance
        findings.take(place, flip_probability=0.0 if chance is None else chance)
    elif kind == "PhotoMetricDistortion":
        findings.take(place, photometric_distortion=True)
        for name, usual in _DISTORTION.items():
            value = options.take(name, usual)
            if (tuple(value) if isinstance(value, (list, tuple)) else value) != usual:
                findings.leave(f"{place}.{name}", f"{value!r} becomes {usual!r}, that of every recipe")
    else:
        findings.leave(place, f"a recipe has no step {kind}")
        return
    findings.leave_rest(options)


def _resize(options: Options, findings: Findings) -> None:
    place = options.where
    # By default 0.x keeps a picture's shape, and 1.x does not.
    keep, ratios = options.take("keep_ratio", "img_scale" in options), options.take("ratio_range", None)
    scale = options.take("scale", None)
    scale = options.take("img_scale", None) if scale is None else scale
    mode = options.take("multiscale_mode", "range")
    options.ignore("interpolation", "backend", "resize_type", "override")
    low, high = ratios or (1.0, 1.0)
    findings.take(place, scale_range=[low, high])
    scales = [scale] if scale is not None and not isinstance(scale[0], (list, tuple)) else list(scale or ())
    if len(scales) > 1:
        if mode == "value" and keep and len({max(one) for one in scales}) == 1:
            edges = [min(one) for one in scales]
            findings.take(place, scale_edges=edges, scale_size=[min(edges), max(scales[0])])
        else:
            findings.leave(place, "it draws from several scales that have no common long edge; the first one is taken")
            scales = scales[:1]
    if len(scales) == 1:
        findings.take(place, scale_size=_size(scales[0], keep), keep_ratio=bool(keep))


def _size(scale: Sequence[int], keep_ratio: bool) -> list[int]:
    return sorted(scale) if keep_ratio else list(swapped(scale))


def _shortest_edges(options: Options, findings: Findings) -> None:
    place = options.where
    edges = options.take("scales", None)
    edges = options.take("scale") if edges is None else edges
    edges = [edges] if isinstance(edges, int) else list(edges)
    limit = options.take("max_size", None)
    options.ignore("resize_type", "keep_ratio")
    if any(not isinstance(edge, int) for edge in edges):
        pairs = edges
        edges = [min(pair) for pair in pairs]
        limits = {max(pair) for pair in pairs}
        limit = limits.pop() if len(limits) == 1 else None
    size = [min(edges)] if limit is None else [min(edges), limit]
    if len(edges) > 1:
        findings.take(place, scale_edges=edges)
    findings.take(place, scale_size=size, scale_range=[1.0, 1.0])


def test_fields(config: Mapping[str, Any], translation: Translation, findings: Findings) -> None:
    """Take size, windows and views of the test."""
    processor = translation.processor
    size = processor.get("size") or {}
    if processor.get("do_resize", True):
        if "height" in size:
            found, keep = [size["height"], size["width"]], False
        else:
            found, keep = [size[name] for name in ("shortest_edge", "longest_edge") if size.get(name)], True
        edges, before = findings.fields.get("scale_edges"), findings.fields.get("scale_size")
        if edges and keep and before is not None and before[1:] == found[1:]:
            findings.take("test pipeline", scale_size=found)  # training draws from the edges
        if keep == findings.fields.get("keep_ratio", True) and found and found != findings.fields.get("scale_size"):
            given = findings.fields.get("scale_size") is None
            findings.take("test pipeline", **{"scale_size" if given else "eval_scale_size": found})
        elif keep != findings.fields.get("keep_ratio", True):
            findings.leave("test pipeline", f"tests resize to {found} and training otherwise; a recipe has one way")
    if processor.get("size_multiple_mode") == "stretch" and processor.get("size_multiple"):
        findings.take("test pipeline", size_divisor=processor["size_multiple"])
    if window := translation.config.window_size:
        findings.take("model.test_cfg", window_size=list(window), window_stride=list(translation.config.window_stride))
    for steps in (config.get("test_pipeline"), (part_of(config, "data", "test") or {}).get("pipeline")):
        for step in steps if isinstance(steps, (list, tuple)) else ():
            if isinstance(step, Mapping) and str(step.get("type")).endswith("MultiScaleFlipAug"):
                ratios = step.get("img_ratios")
                if isinstance(ratios, (list, tuple)) and ratios:
                    findings.take("MultiScaleFlipAug.img_ratios", eval_scales=list(ratios))
                if step.get("flip"):
                    findings.take("MultiScaleFlipAug.flip", eval_flip=True)
