"""Models as files that run without segzoo: ONNX, and the programs of ``torch.export``.

Such a file contains standard operators only (DCNv3 becomes GridSample), and its metadata describe input and output. It
gets its name only after it has been run and compared with the model.
"""

import contextlib
import copy
import functools
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING

from segzoo import registration  # noqa: F401  transformers' table of models knows segzoo's
from segzoo.backbones import TwinsConfig
from segzoo.configuration_segzoo import SegZooConfig, input_channels
from segzoo.errors import SegZooError, first_line
from segzoo.export.archive import write_program
from segzoo.export.exported_model import ExportedModel
from segzoo.export.metadata import describe
from segzoo.export.tracing import LEAST_SIDES, first_cause, least_side, trace_model
from segzoo.files import check_file_place, check_room, moved_together
from segzoo.image_processing_segzoo import SegZooImageProcessor
from segzoo.inference.faster import fused_copy
from segzoo.inference.settings import fixed_input_size
from segzoo.layers import resize
from segzoo.universal import DenseUniversalModel

SUFFIXES = (".onnx", ".pt2")
OPSETS = range(17, 24)
"""Opsets of ONNX that can be written: the first has LayerNormalization, the last is the newest that PyTorch writes."""
DEFAULT_OPSET = 20

TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2}
"""Largest accepted difference of a logit from the model's, relative to the largest logit if that is above 1."""

ROUNDINGS = 4
"""A file in float32 may also differ by so many times what rounding does to the model's own result: both round, in other
orders."""

METADATA_FILE = "segzoo.json"
"""Name of the metadata inside a ``.pt2`` file (``torch.export.load(..., extra_files={METADATA_FILE: ""})``)."""

# Sizes of the check if the input's size is free. The first is also traced, so it must not be a special case (1, equal
# sides).
_CHECK_SIZES = ((256, 320), (347, 225))


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What a file takes and returns, and how it is written.

    Args:
        size: (height, width) of the input in pixels; None leaves both free.
        batch: number of pictures per batch; None leaves it free.
        labels: the output is a map of class ids at the input's size, int64 (B, H, W), instead of logits at the head's
            resolution, float32 (B, num_labels, H / stride, W / stride).
        uint8: the input is RGB pictures of 0..255, uint8 (B, H, W, 3), which the file normalises, instead of the image
            processor's output, float32 (B, C, H, W).
        dtype: type of the weights and of the computation between input and output.
        opset: version of ONNX's operators, one of ``OPSETS``; None is ``DEFAULT_OPSET``.
        tolerance: largest accepted difference from the model; None takes that of the dtype in ``TOLERANCES``, or in
            float32 ``ROUNDINGS`` times the difference of the model's result from its result in float64, norms folded or
            not, if that is more.

    Raises:
        SegZooError: a size, batch or dtype that cannot be.
    """

    size: tuple[int, int] | None = None
    batch: int | None = None
    labels: bool = False
    uint8: bool = False
    dtype: Literal["float32", "float16"] = "float32"
    opset: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float16"):
            raise SegZooError(f"dtype {self.dtype!r} cannot be exported; use float32 or float16")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise SegZooError(f"size is {self.size}; give (height, width) in pixels")
        if self.batch is not None and self.batch < 1:
            raise SegZooError(f"batch is {self.batch}; give the number of pictures at once")

    @property
    def precision(self) -> torch.dtype:
        """``dtype`` as PyTorch's."""
        return getattr(torch, self.dtype)


@dataclass(frozen=True)
class Check:
    """One comparison of the file with the model on generated pictures.

    Args:
        size: height and width of the pictures.
        batch: number of pictures.
        difference: largest difference of a logit, relative to the largest logit if that is above 1. For label maps it
            is the distance from the chosen class's logit to the best one's.
    """

    size: tuple[int, int]
    batch: int
    difference: float


@dataclass(frozen=True)
class ExportReport:
    """The file that was written, and the checks that it passed.

    Args:
        path: the file.
        files: all files, ``path`` first; models above 2 GB have their weights in a second one.
        input: name, dtype and shape of the input, as text.
        output: name, dtype, shape and meaning of the output, as text.
        checks: the comparisons that the file has passed.
        options: what the file takes and returns, with the size that had to be fixed.
    """

    path: Path
    files: tuple[Path, ...]
    input: str
    output: str
    checks: tuple[Check, ...]
    options: ExportOptions

    @property
    def difference(self) -> float:
        """The largest ``difference`` of all checks."""
        return max(check.difference for check in self.checks)


def export_model(
    model: PreTrainedModel,
    output: str | os.PathLike,
    options: ExportOptions | None = None,
    *,
    processor: BaseImageProcessor | None = None,
    overwrite: bool = False,
    name: str | None = None,
    on_step: Callable[[str], object] | None = None,
) -> ExportReport:
    """Write a model as one file, run it, compare it with the model, and only then give it its name.

    A model whose backbone takes windows of its maps in ways that depend on the size (`why_fixed`) gets a fixed size
    where ``options`` leave it free: the size that it is used at.

    Args:
        model: a model for semantic segmentation, segzoo's or transformers', in eval mode, float32, on the CPU.
        output: a name that ends in ``.onnx`` (needs the packages of ``segzoo[onnx]``) or ``.pt2``
            (``torch.export.load``).
        options: input, output and precision of the file; None: `ExportOptions()`.
        processor: the model's image processor; the metadata describe what it does to pictures.
        overwrite: replace an existing file of this name.
        name: name of the model in the metadata.
        on_step: called with a line about each step before it begins, and about a size that had to be fixed.

    Raises:
        SegZooError: packages are missing, the model is for another task, an option does not fit it, the disk has no
            room for the file, it cannot be traced, or the file cannot be written, cannot be loaded or gives other results than the model. No new
            file is left behind, and an old one is unchanged.
    """
    output, options = Path(output), options or ExportOptions()
    check_target(output, opset=options.opset, overwrite=overwrite)
    _check_model(model, processor, options.uint8)
    check_room(output, _least_size(model, options.precision))  # tracing takes minutes
    say = on_step or (lambda line: None)
    reason = why_fixed(model.config)
    if options.size is None and reason is not None:
        options = replace(options, size=_usual_size(model.config, processor))
        height, width = options.size
        say(f"note: the file takes pictures of {height}x{width} alone: {reason}")
    folded = fused_copy(model)
    exported = ExportedModel(
        copy.deepcopy(folded).to(options.precision) if options.precision != model.dtype else folded,
        processor,
        labels=options.labels,
        uint8=options.uint8,
    )
    example = _picture(exported, options.batch or 2, options.size or _CHECK_SIZES[0])
    shown = "any size" if options.size is None else "x".join(map(str, options.size))
    say(f"tracing the model for pictures of {shown}; large models take minutes")
    program = trace_model(exported, example, free_batch=options.batch is None, free_size=options.size is None)
    least = None
    if options.size is None and output.suffix == ".pt2":
        pictures = functools.partial(_picture, exported, len(example))
        least = least_side(program, pictures, multiple=_size_multiple(model.config, processor))
        if least > LEAST_SIDES.start:
            say(
                f"note: the file takes pictures of {least} pixels a side and more; of smaller ones it may say Guard failed"
            )
    metadata = describe(exported, processor, size=options.size, least_side=least, name=name)
    stale = []
    if output.suffix == ".onnx" and output.is_file():
        stale = [output.with_name(f"{output.name}.data")]  # the weights of the overwritten graph, if it was large
    with moved_together(output, overwrite=overwrite, stale=stale) as folder:
        partial = folder / output.name
        say(f"writing {output.name}")
        run = _write(program, exported, partial, metadata, options)
        say("comparing the file with the model")
        checks = _compare(run, exported, model, processor, options, output)
        del run  # before its file is moved, for Windows
        files = tuple(sorted((output.with_name(path.name) for path in folder.iterdir()), key=lambda p: p != output))
    shape = "(batch, {}, {}, 3)" if options.uint8 else f"(batch, {example.shape[1]}, {{}}, {{}})"
    sides = options.size or ("height", "width")
    return ExportReport(
        path=output,
        files=files,
        input=f"{exported.input_name}: {'uint8' if options.uint8 else 'float32'} {shape.format(*sides)}",
        output=f"{exported.output_name}: {metadata['output']}",
        checks=checks,
        options=options,
    )


# Before any work


def why_fixed(config: PreTrainedConfig) -> str | None:
    """Why a model can be exported for one size alone, in words; None if it can be for any.

    EoMT takes one size only. Swin and its like, as transformers and timm have them, and segzoo's Twins-SVT pad maps to
    whole windows, and branch on whether a size needs it: a traced program holds one of the branches, for the sizes that
    need the same. Finding that out takes PyTorch half a minute for each of their blocks.
    """
    if fixed_input_size(config) is not None:
        return f"{config.model_type} takes no others, so cut larger pictures into windows"
    backbone = getattr(config, "backbone_config", None) or config
    kind = backbone.model_type
    if kind.startswith("segzoo"):
        windowed = isinstance(backbone, TwinsConfig) and backbone.windows is not None
    elif kind == "timm_backbone":
        kind = str(backbone.backbone)
        windowed = any(word in kind for word in ("swin", "maxvit", "coatnet", "sam", "hiera"))
    else:
        windowed = getattr(backbone, "window_size", None) is not None
    if not windowed:
        return None
    return f"its backbone {kind} pads maps to whole windows, in another way for each size; choose another with --size"


def _usual_size(config: PreTrainedConfig, processor: BaseImageProcessor | None) -> tuple[int, int]:
    """(height, width) that a model is used at: its windows, its processor's size, or 512x512."""
    own = isinstance(config, SegZooConfig)
    windows = config.window_size if own else fixed_input_size(config)
    if windows is not None:
        return tuple(windows)
    size = dict(processor.size) if processor is not None and processor.do_resize and processor.size else {}
    if size.get("height"):
        return size["height"], size["width"]
    side = size.get("shortest_edge") or 512
    multiple = _size_multiple(config, processor)
    side = -(-side // multiple) * multiple
    return side, side


def _size_multiple(config: PreTrainedConfig, processor: BaseImageProcessor | None) -> int:
    """What sides are multiples of, as the processor makes them and as the model needs them."""
    made = processor.size_multiple if isinstance(processor, SegZooImageProcessor) else None
    return math.lcm(made or 1, config.size_multiple if isinstance(config, SegZooConfig) else 1)


def check_target(output: Path, *, opset: int | None = None, overwrite: bool = False) -> None:
    """Check that a file can be written; call this before loading a model.

    Raises:
        SegZooError: another suffix than those of ``SUFFIXES``, a file that exists although ``overwrite`` is False, a
            missing folder or one that cannot be written to, an opset that cannot be written, or missing packages.
    """
    if output.suffix not in SUFFIXES:
        raise SegZooError(f"{output}: the name must end in {' or '.join(SUFFIXES)}, which says what to write")
    check_file_place(output, overwrite=overwrite)
    if output.suffix == ".pt2":
        if opset is not None:
            raise SegZooError(f"{output}: an opset belongs to ONNX; leave it out, or name the file .onnx")
        return
    if opset is not None and opset not in OPSETS:
        raise SegZooError(f"opset {opset} cannot be written; choose one from {OPSETS[0]} to {OPSETS[-1]}")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SegZooError(
            f"exports to ONNX need the packages onnx, onnxscript and onnxruntime ({error}); pip install 'segzoo[onnx]'"
        ) from error


def _check_model(model: PreTrainedModel, processor: BaseImageProcessor | None, uint8: bool) -> None:
    dense = MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING.get(type(getattr(model, "config", None)), DenseUniversalModel)
    if not isinstance(model, dense):
        raise SegZooError(
            f"{type(model).__name__} is no model for semantic segmentation with dense logits; load the model with "
            "segzoo.load, or use another exporter, such as optimum"
        )
    if model.training:
        raise SegZooError("the model is in training mode, in which it drops features; call model.eval() first")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise SegZooError(
            f"the model is {model.dtype} on {model.device}, but is compared with the file in float32 on the CPU; "
            "load it so, and choose the file's precision with dtype"
        )
    if uint8 and not isinstance(processor, SegZooImageProcessor):
        raise SegZooError(
            "uint8 input needs an image processor of segzoo's, whose mean and standard deviation go into the file"
        )
    if uint8 and processor.num_channels != 3:
        raise SegZooError(
            f"uint8 input is RGB, but the model reads {processor.num_channels} channels; leave uint8 out"
        )


# Writing


def _write(
    program: torch.export.ExportedProgram,
    exported: ExportedModel,
    path: Path,
    metadata: Mapping[str, str],
    options: ExportOptions,
) -> Callable[[Tensor], Tensor]:
    """Write the file and load it again; returns a function from input to output that runs it."""
    try:
        if path.suffix == ".onnx":
            _write_onnx(program, exported, path, metadata, options)
            return _onnx_runner(path)
        write_program(program, path, {METADATA_FILE: json.dumps(metadata, indent=1)})
        return torch.export.load(path).module()
    except (SegZooError, OSError):
        raise
    except Exception as error:  # PyTorch and onnxruntime have many kinds
        fix = "another --opset, a newer onnxruntime or a .pt2 file" if path.suffix == ".onnx" else "an .onnx file"
        raise SegZooError(
            f"{path.name}: could not be written and loaded again ({first_line(first_cause(error))}); try {fix}, or free "
            "space on the disk"
        ) from error


def _least_size(model: nn.Module, dtype: torch.dtype) -> int:
    """Size in bytes of a model's weights in a file, with a little for the graph."""
    weights = [*model.parameters(), *model.buffers()]
    return 2**20 + sum(w.numel() * (dtype.itemsize if w.is_floating_point() else w.itemsize) for w in weights)


def _write_onnx(
    program: torch.export.ExportedProgram,
    exported: ExportedModel,
    path: Path,
    metadata: Mapping[str, str],
    options: ExportOptions,
) -> None:
    opset = options.opset or DEFAULT_OPSET
    sides = (1, 2) if exported.uint8 else (2, 3)
    names = {} if options.batch is not None else {0: "batch"}
    if options.size is None:
        names |= dict(zip(sides, ("height", "width"), strict=True))
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            written = torch.onnx.export(
                program,
                input_names=[exported.input_name],
                output_names=[exported.output_name],
                dynamic_shapes=(names,),
                opset_version=opset,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise SegZooError(
            f"{path.name}: this model has no form in ONNX ({first_line(first_cause(error))}); write a .pt2 file instead"
        ) from error
    if written.model.opset_imports[""] != opset:
        raise SegZooError(f"{path.name}: this model has no form in opset {opset}; use {DEFAULT_OPSET}")
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()  # places in the source code, which take more space than a small graph itself
    written.model.metadata_props.update(metadata)
    written.save(path, external_data=False)  # above 2 GB there is a second file nevertheless


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without the exporter's own messages below errors, which tell a user nothing."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


# Checking


def _onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda image: torch.from_numpy(session.run(None, {given.name: image.numpy()})[0])


@torch.no_grad()
def _compare(
    run: Callable[[Tensor], Tensor],
    exported: ExportedModel,
    model: PreTrainedModel,
    processor: BaseImageProcessor | None,
    options: ExportOptions,
    path: Path,
) -> tuple[Check, ...]:
    """Run the file and the float32 model on generated pictures; an error if they differ by more than the tolerance."""
    multiple = _size_multiple(model.config, processor)
    sizes = [tuple(-(-side // multiple) * multiple for side in size) for size in _CHECK_SIZES]
    if options.size is not None:
        sizes = [options.size]
    tolerance = TOLERANCES[options.precision] if options.tolerance is None else options.tolerance
    reference = ExportedModel(model, processor, uint8=exported.uint8)
    checks = []
    for number, checked in enumerate(sizes):
        image = _picture(exported, options.batch or 1 + number, checked)
        try:
            found = run(image)
        except Exception as error:  # from onnxruntime, or from a guard of the traced program
            fix = "" if options.size is not None else "; give --size HEIGHT WIDTH"
            raise SegZooError(
                f"{path}: the file does not run at {checked[0]}x{checked[1]} ({first_line(first_cause(error))}){fix}; it "
                "was not written"
            ) from error
        logits = reference(image)
        if exported.labels:
            scores = resize(logits, checked, align_corners=exported.align_corners)
            error = (scores.amax(1) - scores.gather(1, found.unsqueeze(1)).squeeze(1)).max()
        else:
            error = (found - logits).abs().max()
        difference = float(error / logits.abs().max().clamp(min=1))
        accepted = tolerance
        if not difference <= accepted and options.tolerance is None and options.precision == torch.float32:
            folded = ExportedModel(exported.model, processor, uint8=exported.uint8)
            accepted = max(accepted, ROUNDINGS * max(_rounding(way, image) for way in (reference, folded)))
        if not difference <= accepted:
            raise SegZooError(
                f"{path}: at {checked[0]}x{checked[1]} the file differs from the model by {difference:.1e} of the "
                f"largest logit, more than {accepted:.2g}; it was not written (a larger --tolerance accepts it)"
            )
        checks.append(Check(checked, len(image), difference))
    return tuple(checks)


def _rounding(run: ExportedModel, image: Tensor) -> float:
    """Difference of a model's logits in float32 from its own in float64, relative to the largest if that is above 1.

    Networks whose gates are steep multiply what rounding does, and folded norms round elsewhere than the model's. 0 for
    a model that does not run in float64.
    """
    logits = run(image)
    try:
        exact = copy.deepcopy(run).double()(image)
    except Exception:  # PyTorch and transformers have many kinds
        return 0.0
    return float((exact - logits).abs().max() / exact.abs().max().clamp(min=1))


def _picture(exported: ExportedModel, batch: int, size: tuple[int, int]) -> Tensor:
    """Pictures for the comparison: smooth surfaces with noise, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    channels = 3 if exported.uint8 else input_channels(exported.model.config)
    smooth = F.interpolate(torch.randn(batch, channels, 5, 7, generator=generator), size=size, mode="bicubic")
    image = smooth + 0.3 * torch.randn(batch, channels, *size, generator=generator)
    return (image * 50 + 120).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous() if exported.uint8 else image
