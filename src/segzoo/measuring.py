"""How fast a model runs on this machine, in several ways, and how much memory that takes.

A way prepares a model and a batch of pictures, and gives a function that runs the one through the other, from the normalised pixels to the
logits at the head's resolution. `measured` times such a function.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segzoo.errors import SegZooError
from segzoo.inference.faster import faster_on_cpu, in_memory_format
from segzoo.modeling_segzoo import SegZooForSemanticSegmentation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Run = Callable[[], object]

LEAST_ROUNDS, MOST_ROUNDS = 5, 1000


@dataclass(frozen=True)
class Way:
    """A way to run a model.

    Args:
        prepare: ``prepare(model, pixel_values)`` makes the function that runs the pictures through the model, which may change both.
        device: kind of device that it is for, "cpu" or "cuda"; None: any.
        package: package that must be installed besides segzoo's own requirements.
        bfloat16: whether it also runs a model with weights in bfloat16.
        compiles: whether the first run makes the program, so that it says nothing about time and memory.
        own_models: whether it does something for the models of segzoo alone.
    """

    prepare: Callable[[PreTrainedModel, Tensor], Run]
    device: str | None = None
    package: str | None = None
    bfloat16: bool = True
    compiles: bool = False
    own_models: bool = False

    def why_not(self, device: str, *, bfloat16: bool = False, own: bool = True) -> str | None:
        """Why this way cannot be measured, in words; None if it can.

        Args:
            device: kind of device, such as "cuda".
            bfloat16: whether the model is in bfloat16.
            own: whether the model is one of segzoo's.
        """
        if self.device not in (None, device):
            return f"it runs on {self.device} alone"
        if bfloat16 and not self.bfloat16:
            return "it runs in float32 alone"
        if self.own_models and not own:
            return "it changes models of segzoo alone"
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed (pip install {self.package})"
        return None


@dataclass(frozen=True)
class Measured:
    """What was found.

    Args:
        median: seconds of a run that half of the runs stay below.
        p99: seconds that 99 % of the runs stay below; with fewer than 100 runs it lies close to the slowest.
        rounds: number of runs that were timed.
        memory: bytes that a run adds, at its peak, to what is held with the model prepared; None where that cannot be read.
    """

    median: float
    p99: float
    rounds: int
    memory: int | None


def default_device() -> str:
    """The kind of the accelerator that PyTorch finds on this machine, such as "cuda"; "cpu" without one."""
    return torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"


def eager(
    model: PreTrainedModel,
    pixel_values: Tensor,
    *,
    channels_last: bool = True,
    fuse: bool = False,
    autocast: bool = False,
    half: bool = False,
    compile: bool = False,
) -> Run:
    """In PyTorch.

    Args:
        model, pixel_values: the model and its input (batch, channels, height, width).
        channels_last: the memory format; False for the usual one.
        fuse: fold batch norms into convolutions (`SegZooForSemanticSegmentation.fuse`).
        autocast: compute in bfloat16 from weights in float32.
        half: weights and computation in float16.
        compile: by ``torch.compile``.
    """
    if fuse:
        model.fuse()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if half:
        model, pixel_values = model.half(), pixel_values.half()
    model, pixel_values = model.to(memory_format=layout), pixel_values.to(memory_format=layout)
    call = torch.compile(model) if compile else model

    def run() -> Tensor:
        with torch.autocast(pixel_values.device.type, torch.bfloat16, enabled=autocast):
            return call(pixel_values=pixel_values).logits

    return run


def as_commands_run_it(model: PreTrainedModel, pixel_values: Tensor, *, compile: bool = False) -> Run:
    """As ``segzoo predict`` does: batch norms folded, and on a CPU the faster of two memory formats, which is measured.

    Args:
        model, pixel_values: as in `eager`, in float32 or bfloat16.
        compile: by ``torch.compile`` besides.
    """
    own = isinstance(model, SegZooForSemanticSegmentation)
    if pixel_values.device.type != "cpu":
        return eager(model, pixel_values, fuse=own, channels_last=own, compile=compile)
    dtype = pixel_values.dtype
    model = faster_on_cpu(model.float()).to(dtype)
    in_memory_format(model, "auto", tuple(pixel_values.shape[-2:]))
    four = [weight for weight in model.parameters() if weight.ndim == 4]
    channels_last = any(
        weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous() for weight in four
    )
    return eager(model, pixel_values, channels_last=channels_last, compile=compile)


def onnx_runtime(
    model: PreTrainedModel, pixel_values: Tensor, *, int8: bool = False, folder: Path | None = None
) -> Run:
    """An exported file in ONNX Runtime on the CPU, which folds the batch norms itself.

    Args:
        model, pixel_values: as in `eager`, in float32.
        int8: compute in 8 bits, in ranges that are taken from the pictures themselves: enough for the speed, not for good results.
        folder: where the file stays, and is taken from if it is there; None: it is made anew, and removed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    with _kept(folder) as place:
        path = exported(model, pixel_values, place)
        if int8:
            from segzoo.export.quantization import quantize_onnx

            path, source = place / "int8.onnx", path
            if not path.exists():
                quantize_onnx(source, path, [pixel_values.numpy()])
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    values = {session.get_inputs()[0].name: pixel_values.numpy()}
    return lambda: session.run(None, values)


def openvino(model: PreTrainedModel, pixel_values: Tensor, *, folder: Path | None = None) -> Run:
    """The same file in OpenVINO on the CPU, made for short latency; arguments as in `onnx_runtime`."""
    from openvino import Core

    core = Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    options["INFERENCE_PRECISION_HINT"] = "f32"
    with _kept(folder) as place:
        compiled = core.compile_model(core.read_model(exported(model, pixel_values, place)), "CPU", options)
    request, values = compiled.create_infer_request(), pixel_values.numpy()
    return lambda: request.infer([values])


@contextlib.contextmanager
def _kept(folder: Path | None) -> Iterator[Path]:
    """The folder, or one that is removed in the end."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def exported(model: PreTrainedModel, pixel_values: Tensor, folder: Path) -> Path:
    """An ONNX file of the model for pictures of this size and number: that of the folder, or a new one there.

    Raises:
        SegZooError: the model cannot be exported.
    """
    from segzoo.export.export import ExportOptions, export_model

    batch, _, height, width = pixel_values.shape
    if (path := folder / "model.onnx").exists():
        return path
    return export_model(model, folder / "model.onnx", ExportOptions(size=(height, width), batch=batch)).path


USUAL_WAYS = {
    "eager": Way(lambda model, pixels: eager(model, pixels, channels_last=False)),
    "fused": Way(as_commands_run_it, own_models=True),
    "compiled": Way(lambda model, pixels: as_commands_run_it(model, pixels, compile=True), compiles=True),
    "onnxruntime": Way(onnx_runtime, "cpu", "onnxruntime", bfloat16=False),
    "openvino": Way(openvino, "cpu", "openvino", bfloat16=False),
}
"""What ``segzoo benchmark`` measures, by name."""

WHAT_THEY_ARE = {
    "eager": "PyTorch, the model as it is loaded",
    "fused": "PyTorch as segzoo predict runs it: batch norms folded, the faster memory format",
    "compiled": "the same through torch.compile",
    "onnxruntime": "exported to ONNX, in ONNX Runtime",
    "openvino": "exported to ONNX, in OpenVINO",
}
"""The ways of `USUAL_WAYS` in words."""


def pictures(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Noise that stands for normalised pictures, (batch, channels, height, width), the same in every call."""
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def measured(run: Run, device: str, *, seconds: float, compiles: bool = False) -> Measured:
    """Time a function that a way has prepared, and look at its memory.

    Args:
        run: the function.
        device: kind of device that it runs on.
        seconds: how long to go on; `LEAST_ROUNDS` runs are made in any case, and `MOST_ROUNDS` at most.
        compiles: the first run says nothing about memory.
    """
    if compiles or device != "cpu":
        run()
    memory = added_memory(run, device)
    run()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < LEAST_ROUNDS or (len(times) < MOST_ROUNDS and time.perf_counter() - begin < seconds):
        times.append(seconds_of(run, device))
    return Measured(statistics.median(times), percentile(times, 0.99), len(times), memory)


def seconds_of(run: Run, device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one run, by a clock."""
    synchronize(device)
    start = clock()
    run()
    synchronize(device)
    return clock() - start


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of the values stays below."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(share))


def synchronize(device: str) -> None:
    """Wait until an accelerator is done; does nothing for a CPU."""
    if device != "cpu":
        torch.accelerator.synchronize()


@torch.no_grad()
def added_memory(run: Run, device: str) -> int | None:
    """Bytes that two runs add, at their peak, to what the process, or the GPU, holds before them; None where that cannot be read.

    It can be read on CUDA GPUs, and for CPUs on Linux.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if device != "cpu":
        return None
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)  # what was taken and given back before
    try:
        # The process's own high-water mark, reset first (Linux). ru_maxrss would start at the parent's.
        Path("/proc/self/clear_refs").write_text("5")
        before = _high_water()
        for _ in range(2):
            run()
        return _high_water() - before
    except (OSError, StopIteration):
        return None


def _high_water() -> int:
    """Peak resident memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 2**10 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def released_model(name: str) -> PreTrainedModel:
    """The model of a released checkpoint with random weights, without its auxiliary heads, in eval mode.

    Args:
        name: its name in the zoo.

    Raises:
        SegZooError: it is a backbone alone, has no config in the zoo, or does not convert.
    """
    from segzoo import zoo
    from segzoo.conversion.translate import translate_config

    row = zoo.find(name)
    config = None if row.pretrained else zoo.original_config(row.name)
    if config is None:
        reason = "is a backbone alone" if row.pretrained else "has no config in the zoo"
        raise SegZooError(f"{row.name} {reason}, and only whole models are measured; segzoo list names others")
    torch.manual_seed(0)
    native = translate_config(config).config
    native.auxiliary_head_configs = []
    return SegZooForSemanticSegmentation(native).eval()
