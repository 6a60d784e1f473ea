"""Static int8 of an exported ONNX file, by ONNX Runtime's quantiser."""

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from segzoo.errors import SegZooError, first_line
from segzoo.files import moved_together

CALIBRATION_PICTURES = 32
"""How many pictures are enough for the ranges of a model's maps."""


def quantize_onnx(source: Path, output: Path, pictures: Iterable[np.ndarray], *, overwrite: bool = False) -> Path:
    """Write a file that computes in 8 bits what an exported one computes in float32.

    Weights get one scale for each output channel. Each map gets one scale and one zero point, from the smallest and the
    largest value that it takes for the pictures. Input, output and metadata stay as they are.

    Args:
        source: file that `segzoo.export.export.export_model` wrote, in float32.
        output: the new file.
        pictures: inputs of the file, such as ``pixel_values`` (B, C, H, W), one batch after the other: about
            `CALIBRATION_PICTURES` that the model will meet, and one at least.
        overwrite: replace an existing file.

    Returns:
        ``output``.

    Raises:
        SegZooError: packages are missing, there are no pictures, the source cannot be quantised, or the output cannot
            be written. No file is left behind, and an old one is unchanged.
    """
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise SegZooError(
            f"quantising needs the packages onnx and onnxruntime ({error}); pip install 'segzoo[onnx]'"
        ) from error
    graph = onnx.load(source, load_external_data=False)
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        raise SegZooError(
            f"{output.name}: int8 needs pictures, from which the ranges of the maps are taken; give some"
        )
    reader = _Pictures(graph.graph.input[0].name, chain([first], pictures))
    with moved_together(output, overwrite=overwrite) as folder, tempfile.TemporaryDirectory() as work, _quiet():
        folded, partial = Path(work) / "folded.onnx", folder / output.name
        try:
            # Norms become part of the convolutions first, which are quantised then.
            quant_pre_process(source, folded, skip_symbolic_shape=True)
            quantization.quantize_static(
                folded,
                partial,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
            )
        except Exception as error:  # ONNX Runtime has many kinds
            raise SegZooError(
                f"{output.name}: the file {source.name} cannot be quantised ({first_line(error)})"
            ) from error
        written = onnx.load(partial)
        del written.metadata_props[:]
        written.metadata_props.extend(graph.metadata_props)
        onnx.save(written, partial)
    return output


def agreement(first: Path, second: Path, pictures: Iterable[np.ndarray]) -> float:
    """The share of pixels of which two files, with logits or labels, choose the same class.

    Args:
        first, second: ONNX files with the same input and output.
        pictures: inputs, one at least.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in (first, second)
    ]
    (given,) = sessions[0].get_inputs()
    same = total = 0
    for picture in pictures:
        found, other = (session.run(None, {given.name: picture})[0] for session in sessions)
        if found.ndim == 4:
            found, other = found.argmax(1), other.argmax(1)
        same, total = same + int((found == other).sum()), total + found.size
    return same / total


class _Pictures:
    """Hands out inputs one by one, as ONNX Runtime's calibration asks for them."""

    def __init__(self, name: str, pictures: Iterator[np.ndarray]):
        self.name, self.pictures = name, pictures

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input by its name; None after the last."""
        picture = next(self.pictures, None)
        return None if picture is None else {self.name: picture}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without advice to prepare the file, which has been prepared."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
