"""Augmentation from a file: a pipeline of torchvision v2 or albumentations, on picture and mask together.

A file of torchvision is a YAML or JSON list of transforms with their arguments; one of albumentations is what its
``A.save`` writes. Nothing in a file is executed: it holds the names of the two libraries' transforms, and plain values.

    - RandomResizedCrop: {size: [512, 512], scale: [0.25, 1.0]}
    - RandomApply: {p: 0.3, transforms: [{ColorJitter: {brightness: 0.4, hue: 0.1}}]}
    - RandomHorizontalFlip
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from segzoo.data.augmentation import ALBUMENTATIONS, CLASS_NAME, TORCHVISION, check_pipeline, pipeline_names
from segzoo.errors import SegZooError, first_line, one_line
from segzoo.options import nearest

_FILL = 255  # while a pipeline works on a mask; it becomes the ignored id afterwards
# They change the type or number of the pictures, which segzoo does afterwards, or need more than a picture and its mask.
_REFUSED = {
    TORCHVISION: """
        ClampBoundingBoxes ClampKeyPoints ConvertBoundingBoxFormat ConvertImageDtype CutMix FiveCrop Lambda
        LinearTransformation MixUp Normalize PILToTensor RandomIoUCrop SanitizeBoundingBoxes SanitizeKeyPoints
        SetClampingMode TenCrop ToDtype ToImage ToPILImage ToPureTensor ToTensor Transform UniformTemporalSubsample
    """.split(),  # noqa: SIM905
    ALBUMENTATIONS: """
        BaseCompose BasicTransform DualTransform FDA FromFloat HistogramMatching ImageOnlyTransform Lambda Mosaic
        Normalize OverlayElements PixelDistributionAdaptation ReplayCompose TemplateTransform TextImage ToFloat
        ToTensor3D ToTensorV2 Transform3D
    """.split(),  # noqa: SIM905
}


def read_pipeline(path: str | os.PathLike) -> dict[str, Any]:
    """Read a file of transforms, and check that it can be built.

    Returns:
        ``{"torchvision": [...]}`` or ``{"albumentations": {...}}``, the ``pipeline`` of an `Augmentation`.

    Raises:
        SegZooError: the file cannot be read, names an unknown transform or argument (the message has the nearest one),
            or a library is missing.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        loaded = json.loads(text) if path.suffix.casefold() == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SegZooError(f"--augmentation {path}: cannot be read ({reason})") from error
    except (ValueError, yaml.YAMLError) as error:
        raise SegZooError(f"--augmentation {path}: is neither YAML nor JSON: {one_line(error)[:200]}") from error
    if isinstance(loaded, list):
        pipeline = {TORCHVISION: loaded}
    elif isinstance(loaded, dict) and "transform" in loaded:
        pipeline = {ALBUMENTATIONS: loaded["transform"]}
    else:
        pipeline = loaded
    try:
        build_pipeline(pipeline)
    except SegZooError as error:
        raise SegZooError(f"--augmentation {path}: {error}") from error
    return pipeline


def kept_pipeline(
    file: str | None, now: Mapping[str, Any] | None, kept: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """The transforms of a training that goes on.

    Args:
        file: what ``--augmentation`` names.
        now: the transforms that are given; None without that option, or if its file is gone.
        kept: those that the training began with.

    Raises:
        SegZooError: both are given and differ, or the file is gone and nothing was kept.
    """
    if now is None:
        return kept if kept is not None or file is None else read_pipeline(file)
    texts = [json.dumps(pipeline, sort_keys=True) for pipeline in (kept, now)]
    if kept is not None and texts[0] != texts[1]:
        raise SegZooError(
            f"--augmentation{'' if file is None else f' {file}'}: the training began with {texts[0]}, and these are "
            f"{texts[1]}; leave the option out to go on with the first, or begin a training in another folder"
        )
    return now


def build_pipeline(pipeline: Mapping[str, Any]) -> Callable[..., Any]:
    """The transform of a library that a pipeline describes.

    Raises:
        SegZooError: an unknown transform or argument, a wrong value, or albumentations is not installed.
    """
    library = check_pipeline(pipeline)
    if library == TORCHVISION:
        from torchvision.transforms import v2

        return v2.Compose([_torchvision(entry) for entry in pipeline[library]])
    return _albumentations_pipeline(pipeline[library])


@dataclass(frozen=True)
class PipelineStep:
    """A pipeline as a step of a `JointTransform`, whose generator decides all of its random numbers.

    Masks are moved by nearest pixels, and where a transform shows what lies outside the picture, they do not count.

    Attributes:
        pipeline: the result of `read_pipeline`.
        ignore_index: id that does not count.

    Raises:
        SegZooError: the pipeline cannot be built; while training, it cannot be applied to a picture, returns no picture
            of the same type, or a mask has ids above 254.
    """

    pipeline: Mapping[str, Any]
    ignore_index: int = 255

    def __post_init__(self) -> None:
        object.__setattr__(self, "_transform", build_pipeline(self.pipeline))

    def __call__(
        self, image: tv_tensors.Image, mask: tv_tensors.Mask | None, rng: np.random.Generator
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask | None]:
        ids = None if mask is None else self._filled(mask.as_subclass(torch.Tensor))
        apply = self._by_torchvision if TORCHVISION in self.pipeline else self._by_albumentations
        try:
            picture, moved = apply(image, ids, rng)
        except Exception as error:  # each library's own
            raise SegZooError(
                f"--augmentation: {', '.join(pipeline_names(self.pipeline))} cannot be applied to a picture of "
                f"{image.shape[-1]}x{image.shape[-2]} (width x height): {type(error).__name__}: {first_line(error)}"
            ) from error
        if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] != image.shape[0]:
            raise SegZooError(
                f"--augmentation: makes {picture.dtype} {tuple(picture.shape)} of a picture, which must stay uint8 with "
                f"{image.shape[0]} channel(s); leave out what changes its type: segzoo normalises afterwards"
            )
        if moved is None:
            return tv_tensors.Image(picture), None
        if self.ignore_index != _FILL:
            moved = torch.where(moved == _FILL, self.ignore_index, moved.to(torch.int32))
        return tv_tensors.Image(picture), tv_tensors.Mask(moved)

    def _filled(self, ids: torch.Tensor) -> torch.Tensor:
        """A mask as uint8 with 255 where it does not count."""
        ids = ids.to(torch.int32)  # torch would compare a byte with -1 as with 255
        counted = ids != self.ignore_index
        if (ids[counted] >= _FILL).any() or (ids[counted] < 0).any():
            raise SegZooError(f"--augmentation works with the ids 0 to {_FILL - 1}; a mask here has others")
        return torch.where(counted, ids, _FILL).to(torch.uint8)

    def _by_torchvision(
        self, image: tv_tensors.Image, ids: torch.Tensor | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(0, 2**63 - 1)))
            if ids is None:
                return self._transform(image).as_subclass(torch.Tensor), None
            picture, moved = self._transform(image, tv_tensors.Mask(ids))
        return picture.as_subclass(torch.Tensor), moved.as_subclass(torch.Tensor)

    def _by_albumentations(
        self, image: tv_tensors.Image, ids: torch.Tensor | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        _seed(self._transform, rng)
        given = {"image": np.ascontiguousarray(image.as_subclass(torch.Tensor).permute(1, 2, 0).numpy())}
        if ids is not None:
            given["mask"] = np.ascontiguousarray(ids.numpy())
        done = self._transform(**given)
        picture = done["image"] if done["image"].ndim == 3 else done["image"][..., None]
        moved = None if ids is None else torch.from_numpy(np.ascontiguousarray(done["mask"]))
        return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1), moved


def _seed(node: Any, rng: np.random.Generator) -> None:
    """Seed a transform and those that it holds, each with numbers of its own: one seed for all makes them agree."""
    node.set_random_seed(int(rng.integers(2**32)))
    for part in getattr(node, "transforms", ()):
        _seed(part, rng)


def _known(library: str, module: Any, bases: tuple[type, ...]) -> dict[str, type]:
    """The transforms of a library that a file may name."""
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return {
        name: cls
        for name, cls in found.items()
        if isinstance(cls, type)
        and issubclass(cls, bases)
        and name not in _REFUSED[library]
        and not name.endswith("3D")
    }


def _class_of(name: Any, library: str, known: Mapping[str, type]) -> type:
    if name in _REFUSED[library]:
        raise SegZooError(
            f"{name} cannot be used here: it needs or makes something else than a picture and its mask; segzoo itself "
            "converts and normalises afterwards"
        )
    if not isinstance(name, str) or name not in known:
        raise SegZooError(f"{library} has no transform {name!r:.60}{nearest(str(name), known)}")
    return known[name]


def _made(cls: type, arguments: Mapping[str, Any]) -> Any:
    """An object of a transform's class; its arguments are checked first."""
    parameters = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
    for name in arguments:
        if name not in parameters:
            raise SegZooError(
                f"{cls.__name__} has no argument {name!r}"
                f"{nearest(str(name), parameters) or '; it has ' + ', '.join(parameters)}"
            )
    try:
        return cls(**arguments)
    except Exception as error:  # each library's own
        reason = one_line(error)[:200]
        raise SegZooError(f"{cls.__name__} cannot be made with {dict(arguments)!r:.200}: {reason}") from error


@cache
def _torchvision_classes() -> dict[str, type]:
    from torchvision.transforms import v2

    return _known(TORCHVISION, v2, (v2.Transform,))


def _torchvision(entry: Any) -> Any:
    if isinstance(entry, Mapping) and len(entry) == 1:
        name, arguments = next(iter(entry.items()))
    else:
        name, arguments = entry, {}
    arguments = {} if arguments is None else arguments
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise SegZooError(f"{entry!r:.80} is no transform; write its name, or {{RandomRotation: {{degrees: 10}}}}")
    cls, arguments = _class_of(name, TORCHVISION, _torchvision_classes()), dict(arguments)
    if isinstance(arguments.get("transforms"), Sequence) and not isinstance(arguments["transforms"], str):
        arguments["transforms"] = [_torchvision(part) for part in arguments["transforms"]]
    if "interpolation" in arguments:
        arguments["interpolation"] = _interpolation(arguments["interpolation"], name)
    if "fill" in inspect.signature(cls.__init__).parameters:
        arguments["fill"] = {tv_tensors.Image: arguments.get("fill", 0), tv_tensors.Mask: _FILL}
    return _made(cls, arguments)


def _interpolation(value: Any, name: str) -> Any:
    from torchvision.transforms import InterpolationMode

    known = {mode.value: mode for mode in InterpolationMode}
    if value not in known:
        raise SegZooError(
            f"{name}: interpolation is {value!r}; it is one of {', '.join(known)}{nearest(str(value), known)}"
        )
    return known[value]


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise its import asks the network for newer versions
    try:
        import albumentations
    except ImportError as error:
        raise SegZooError(
            f'a pipeline of albumentations needs that library ({first_line(error)}): pip install "segzoo[augment]"'
        ) from error
    return albumentations


@cache
def _albumentations_classes() -> dict[str, type]:
    library = _albumentations()
    return _known(ALBUMENTATIONS, library, (library.BasicTransform, library.BaseCompose))


def _albumentations_pipeline(node: Any) -> Any:
    library = _albumentations()
    transform = _albumentation(node)
    return transform if isinstance(transform, library.Compose) else library.Compose([transform])


def _albumentation(node: Any) -> Any:
    if not isinstance(node, Mapping) or not isinstance(node.get(CLASS_NAME), str):
        raise SegZooError(f"{node!r:.80} is no transform that albumentations.save has written: it has no {CLASS_NAME}")
    full, arguments = node[CLASS_NAME], {name: value for name, value in node.items() if name != CLASS_NAME}
    name = full.rpartition(".")[2] if full.startswith("albumentations.") else full
    cls = _class_of(name, ALBUMENTATIONS, _albumentations_classes())
    if "transforms" in arguments:
        if not isinstance(arguments["transforms"], list):
            raise SegZooError(f"{name}: transforms is {arguments['transforms']!r:.60}; it must be a list")
        arguments["transforms"] = [_albumentation(part) for part in arguments["transforms"]]
    parameters = inspect.signature(cls.__init__).parameters
    if "fill_mask" in parameters and arguments.get("fill_mask", parameters["fill_mask"].default) is not None:
        arguments["fill_mask"] = _FILL
    if "mask_interpolation" in parameters:
        arguments["mask_interpolation"] = 0  # nearest
    return _made(cls, arguments)
