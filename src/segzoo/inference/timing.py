"""Which way of running a model is the fastest on this machine: measured with one picture, and kept for the next time."""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import constants
from torch import nn

from segzoo import __version__
from segzoo.errors import SegZooError
from segzoo.files import json_text, write_whole

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
"""The memory formats by the names that options and files have for them."""

LIMIT_S = 2.0
"""Seconds that all measurements of a model take at most, unless its smallest picture takes longer."""

_LARGEST_PIXELS = 512 * 512
_TRAINED_PIXELS = 256 * 256
_REPEATS = 3


def seconds_of_formats(
    model: nn.Module,
    pixel_values: torch.Tensor,
    *,
    autocast: bool = False,
    bfloat16: bool = False,
    training: bool = False,
    folder: Path | None = None,
) -> dict[str, float]:
    """How long a model takes for one picture in each memory format; from an earlier run where there is one.

    Afterwards the model is in an arbitrary one of the two formats.

    Args:
        model: in eval mode, on a CPU.
        pixel_values: a picture (1, channels, height, width); of large ones a part is taken.
        autocast: whether the model runs under bfloat16 autocast.
        bfloat16: also the seconds under bfloat16 autocast and channels-last, as ``"bfloat16"``.
        training: measure the loss and its gradients, not the output alone; weights and random numbers stay as they are.
            Small pictures say little of large ones then: at least 256x256 pixels are measured, however long they take.
        folder: where results are kept; None: ``segzoo/timing`` in the Hugging Face home folder (``HF_HOME``).

    Returns:
        Seconds by ``"contiguous"`` and ``"channels_last"``.
    """
    one_way = _learn if training else _run
    ways = {name: partial(one_way, model, layout, bfloat16=autocast) for name, layout in FORMATS.items()}
    if bfloat16:
        ways["bfloat16"] = partial(_run, model, torch.channels_last, bfloat16=True)
    shape = tuple(pixel_values.shape)
    file = (Path(constants.HF_HOME) / "segzoo" / "timing" if folder is None else folder) / (
        _key(model, shape, autocast, [*sorted(ways), *["training"] * training]) + ".json"
    )
    found = _read(file, ways)
    if found is None:
        found = measure(ways, pixel_values, at_least=_TRAINED_PIXELS if training else 0)
        _keep(file, {"seconds": found, "machine": machine(), "input": shape})
    return found


def measure(
    ways: Mapping[str, Callable[[torch.Tensor], object]],
    pixel_values: torch.Tensor,
    *,
    limit_s: float = LIMIT_S,
    at_least: int = 0,
) -> dict[str, float]:
    """Seconds that each of several functions takes for a picture, or for the largest part of it that time allows.

    Args:
        ways: the functions, by their names.
        pixel_values: the picture (1, channels, height, width).
        limit_s: seconds that all of it may take; one run for the smallest part is always made.
        at_least: parts of so many pixels are measured once even if the time is over.

    Raises:
        SegZooError: the model refuses even the picture.
    """
    begin = time.perf_counter()
    parts = _parts(pixel_values)
    while True:  # the first run prepares weights and operators, and does not count
        try:
            fastest = _once(ways, parts[0])
            break
        except SegZooError:  # some models do not take pictures below a size
            if len(parts) == 1:
                raise
            del parts[0]
    measured = parts[0].numel()
    for part in parts:
        for repeat in range(_REPEATS):
            left = limit_s - (time.perf_counter() - begin)
            expected = part.numel() / measured * sum(fastest.values())
            asked_for = repeat == 0 and part.shape[-2] * part.shape[-1] <= at_least
            if 1.5 * expected > left and not asked_for:
                break
            found = _once(ways, part)
            fastest = {name: found[name] if repeat == 0 else min(fastest[name], found[name]) for name in ways}
            measured = part.numel()
    return fastest


def faster_format(seconds: Mapping[str, float]) -> str:
    """The name of the faster memory format of `seconds_of_formats`."""
    return min(FORMATS, key=lambda name: seconds[name])


def has_bfloat16() -> bool:
    """Whether this machine's CPU computes in bfloat16 in hardware, by AMX or AVX-512."""
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # of torch 2.8 and later, on x86
    return any(check() for check in (getattr(torch.cpu, name, None) for name in names) if check is not None)


def machine() -> str:
    """What the speed of a model depends on: processor, its instructions, threads, and the version of torch."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{_processor()}, {capability}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _run(model: nn.Module, layout: torch.memory_format, pixel_values: torch.Tensor, *, bfloat16: bool = False) -> None:
    model.to(memory_format=layout)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        model(pixel_values=pixel_values.contiguous(memory_format=layout))


def _learn(
    model: nn.Module, layout: torch.memory_format, pixel_values: torch.Tensor, *, bfloat16: bool = False
) -> None:
    model.to(memory_format=layout)
    classes = torch.arange(pixel_values.shape[-1]) % model.config.num_labels
    labels = classes.expand(len(pixel_values), *pixel_values.shape[-2:]).contiguous()
    pixel_values = pixel_values.contiguous(memory_format=layout)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(pixel_values=pixel_values, labels=labels).loss
        loss.backward()
    model.zero_grad(set_to_none=True)


def _once(ways: Mapping[str, Callable[[torch.Tensor], object]], pixel_values: torch.Tensor) -> dict[str, float]:
    seconds = {}
    for name, way in ways.items():
        start = time.perf_counter()
        way(pixel_values)
        seconds[name] = time.perf_counter() - start
    return seconds


def _parts(pixel_values: torch.Tensor) -> list[torch.Tensor]:
    """Upper left parts of a picture: about a quarter of its sides, half, and all, in multiples of 64 pixels."""
    parts = [pixel_values]
    while len(parts) < 3 and min(parts[0].shape[-2:]) >= 128:
        height, width = (max(64, side // 2 // 64 * 64) for side in parts[0].shape[-2:])
        parts.insert(0, pixel_values[..., :height, :width])
    small = [part for part in parts if part.shape[-1] * part.shape[-2] <= _LARGEST_PIXELS]
    return small or parts[:1]


def _key(model: nn.Module, shape: tuple[int, ...], autocast: bool, ways: list[str]) -> str:
    config = {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")}
    dtype = str(next(model.parameters()).dtype)
    parts = [
        __version__,
        machine(),
        type(model).__name__,
        config,
        dtype,
        getattr(model, "fused", False),
        shape,
        autocast,
        ways,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(file: Path, ways: Mapping[str, object]) -> dict[str, float] | None:
    """The seconds in a file; None if there is none, or not such a one."""
    try:
        seconds = json.loads(file.read_text(encoding="utf-8"))["seconds"]
        found = {name: float(seconds[name]) for name in ways}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if all(0 < value < float("inf") for value in found.values()) else None


def _keep(file: Path, content: Mapping[str, object]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json_text(content, indent=1))
    except OSError:
        pass  # a folder that cannot be written to: measured again the next time


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
