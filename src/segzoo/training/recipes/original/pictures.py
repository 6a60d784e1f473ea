"""How an original training and its test change pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segzoo.conversion.options import Options, type_name
from segzoo.conversion.translation import Translation
from segzoo.training.recipes.original.findings import Findings, part_of, swapped

_NO_CHANGES = (
    "LoadImageFromFile", "LoadAnnotations", "Normalize", "DefaultFormatBundle", "Collect", "ImageToTensor", "ToTensor",
    "PackSegInputs", "LoadSingleRSImageFromFile", "SegRescale",
)  # fmt: skip
_RESIZES = ("Resize", "RandomResize", "RandomChoiceResize", "ResizeShortestEdge")
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
    with findings.reading("data_preprocessor"):
        found = part_of(config, "model", "data_preprocessor") or part_of(config, "data_preprocessor") or {}
        _expect({"seg_pad_val": 255}, Options(found, "data_preprocessor"), findings)
    findings.take(
        place,
        scale_range=[1.0, 1.0],
        crop_size=None,
        flip_probability=0.0,
        photometric_distortion=False,
        cat_max_ratio=1.0,
    )
    for number, step in enumerate(steps):
        where, before = f"{place}[{number}]", dict(findings.places)
        with findings.reading(where):
            _step(Options(step, where), type_name(step, where), findings)
        taken = [name for name, source in findings.places.items() if source == where]
        for earlier in sorted({before[name] for name in taken if before.get(name, place) != place}):
            findings.leave(earlier, f"a recipe has one such step; {where} stands in its place")
        if "scale_range" in taken and before["crop_size"] != place:
            findings.leave(
                where, f"it follows the crop of {before['crop_size']} there, and comes before it in a recipe"
            )


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
    if kind in _RESIZES:
        _resize(options, kind, findings)
    elif kind == "ResizeToMultiple":
        findings.take(place, size_divisor=options.take("size_divisor", 32))
    elif kind == "RandomCrop":
        size = options.take("crop_size")
        size = [size, size] if isinstance(size, int) else list(size)
        findings.take(place, crop_size=size, cat_max_ratio=options.take("cat_max_ratio", 1.0))
        _expect({"ignore_index": 255}, options, findings)
    elif kind == "RandomFlip":
        _flip(options, findings)
    elif kind == "Pad":
        _padding(options, findings)
        return
    elif kind == "PhotoMetricDistortion":
        findings.take(place, photometric_distortion=True)
        _expect(_DISTORTION, options, findings)
    else:
        findings.leave(place, f"a recipe has no step {kind}")
        return
    findings.leave_rest(options)


def _expect(usual: Mapping[str, Any], options: Options, findings: Findings) -> None:
    """Leave out the values of options for which every recipe has the same."""
    for name, only in usual.items():
        value = options.take(name, only)
        if (tuple(value) if isinstance(value, (list, tuple)) else value) != only:
            findings.leave(f"{options.where}.{name}", f"{value!r} becomes {only!r}, that of every recipe")


def _padding(options: Options, findings: Findings) -> None:
    """Say where pixels that are added would count as those of a class."""
    value = options.take("pad_val", 0)
    if isinstance(value, Mapping):
        _expect({"seg": 255}, Options(value, f"{options.where}.pad_val"), findings)
    _expect({"seg_pad_val": 255}, options, findings)


def _flip(options: Options, findings: Findings) -> None:
    chance = options.take("prob", None)
    chance = options.take("flip_ratio", None) if chance is None else chance
    directions = options.take("direction", "horizontal")
    directions = [directions] if isinstance(directions, str) else list(directions)
    if not isinstance(chance, (list, tuple)):
        chance = [(chance or 0.0) / len(directions)] * len(directions)
    pairs = list(zip(directions, chance, strict=True))
    if found := [one for direction, one in pairs if direction == "horizontal"]:
        findings.take(options.where, flip_probability=sum(found))
    if others := [f"{direction} ({one:g})" for direction, one in pairs if direction != "horizontal"]:
        findings.leave(f"{options.where}.direction", f"{', '.join(others)}: a recipe mirrors left and right")


def _resize(options: Options, kind: str, findings: Findings) -> None:
    """Take a resize to one size, or to one of several short edges."""
    place, draws = options.where, kind == "RandomChoiceResize"
    # By default 0.x keeps a picture's shape, and 1.x does not.
    keep = options.take("keep_ratio", "img_scale" in options)
    given = [options.take(name, None) for name in ("scales", "scale", "img_scale")]
    scales = _several(next((value for value in given if value is not None), ()), draws)
    inner = options.expect("resize_type", "Resize", *(["ResizeShortestEdge"] if draws else []))
    if "ResizeShortestEdge" in (kind, inner):
        keep, limit = True, options.take("max_size", None)
        edges = [edge if isinstance(edge, int) else min(edge) for edge in scales]
        sizes = [[edge] if limit is None else [edge, limit] for edge in edges]
    else:
        sizes = [sorted(scale) if keep else list(swapped(scale)) for scale in scales]
    low, high = options.take("ratio_range", None) or (1.0, 1.0)
    mode = options.take("multiscale_mode", "value" if draws else "range")
    _expect({"interpolation": "bilinear"}, options, findings)
    options.ignore("backend", "override")
    findings.take(place, scale_range=[low, high])
    # An earlier resize may have drawn from several.
    findings.fields.pop("scale_edges", None)
    findings.places.pop("scale_edges", None)
    if not sizes:
        return
    size = sizes[0]
    if len(sizes) > 1 and keep and mode == "value" and len({tuple(one[1:]) for one in sizes}) == 1:
        findings.take(place, scale_edges=[one[0] for one in sizes])
        size = min(sizes)
    elif len(sizes) > 1:
        findings.leave(
            place, "a recipe draws from short edges with one limit of the long edge; its first scale is taken"
        )
    findings.take(place, scale_size=size, keep_ratio=bool(keep))


def _several(scales: Any, draws: bool) -> list[Any]:
    """The scales of a resize, each of them an int or a (width, height); with ``draws`` a list of ints is one of ints."""
    if isinstance(scales, int):
        return [scales]
    pair = bool(scales) and isinstance(scales[0], int) and not (draws and isinstance(scales, list))
    return [scales] if pair else list(scales)


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
