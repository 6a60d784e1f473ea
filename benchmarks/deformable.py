"""DCNv3 forward and backward: segzoo's operator against grid_sample, written straight from the formula.

Both run in one process on the same tensors, taking turns; times are medians, memory is the peak that a fresh process adds
on a forward and backward. The sizes are the four stages of InternImage-T on a picture of 512 x 512. Outputs and gradients
are compared with grid_sample in float64.

    python benchmarks/deformable.py
    python benchmarks/deformable.py --image 640 --channels 160 --groups 10 --offset-scale 2 --batch 2 --dtype bfloat16
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.ops import dcnv3

KERNEL = 3
POINTS = KERNEL**2


def reference(input: Tensor, offset: Tensor, mask: Tensor, groups: int, scale: float) -> Tensor:
    """The usual way: softmax, sampling grid, one grid_sample with every group as an image of its own, weighted sum."""
    batch, height, width, channels = input.shape
    dtype = torch.promote_types(input.dtype, torch.float32)
    weight = mask.to(dtype).view(batch, height, width, groups, POINTS).softmax(-1)
    steps = torch.arange(KERNEL, dtype=dtype, device=input.device) - KERNEL // 2
    kernel = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).view(POINTS, 2)  # (x, y), x outermost
    rows = torch.arange(height, dtype=dtype, device=input.device)
    columns = torch.arange(width, dtype=dtype, device=input.device)
    center = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).view(height, width, 1, 1, 2)
    position = center + scale * (kernel + offset.to(dtype).view(batch, height, width, groups, POINTS, 2))
    size = torch.tensor([width, height], dtype=dtype, device=input.device)
    grid = ((2 * position + 1) / size - 1).permute(0, 3, 1, 2, 4, 5).reshape(batch * groups, -1, POINTS, 2)
    maps = input.to(dtype).view(batch, height, width, groups, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weight = weight.permute(0, 3, 1, 2, 4).reshape(batch * groups, 1, -1, POINTS)
    total = (sampled * weight).sum(-1).view(batch, channels, height, width)
    return total.permute(0, 2, 3, 1).contiguous().to(input.dtype)


def ours(input: Tensor, offset: Tensor, mask: Tensor, groups: int, scale: float) -> Tensor:
    return dcnv3(input, offset, mask, groups=groups, offset_scale=scale, softmax=True)


WAYS = {"grid_sample": reference, "segzoo": ours}


def make_tensors(side: int, groups: int, channels: int, arguments: argparse.Namespace) -> list[Tensor]:
    """(input, offset, mask, gradient of the output); offsets of about a pixel, as trained models have them.

    They are odd multiples of 1/128: no sample lies on a pixel, where rounding would decide between two gradients.
    """
    generator = torch.Generator().manual_seed(0)
    last = (channels, groups * POINTS * 2, groups * POINTS, channels)
    tensors = [torch.randn(arguments.batch, side, side, n, generator=generator) for n in last]
    tensors[1] = (tensors[1] * 64).floor() / 64 + 1 / 128
    dtype = getattr(torch, arguments.dtype)
    return [t.to(arguments.device, dtype).requires_grad_(i < 3) for i, t in enumerate(tensors)]


def forward(way: Callable, tensors: list[Tensor], groups: int, scale: float) -> Tensor:
    with torch.no_grad():
        return way(*tensors[:3], groups, scale)


def forward_backward(way: Callable, tensors: list[Tensor], groups: int, scale: float) -> list[Tensor]:
    output = way(*tensors[:3], groups, scale)
    return [output.detach(), *torch.autograd.grad(output, tensors[:3], tensors[3])]


RUNS = {"forward": forward, "forward + backward": forward_backward}


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def times(tensors: list[Tensor], groups: int, arguments: argparse.Namespace) -> dict[tuple[str, str], float]:
    """Median seconds of each (run, way), measured in turns."""
    seconds = {(run, way): [] for run in RUNS for way in WAYS}
    for number in range(arguments.rounds + 1):
        for run, way in seconds:
            synchronize(arguments.device)
            start = time.perf_counter()
            RUNS[run](WAYS[way], tensors, groups, arguments.offset_scale)
            synchronize(arguments.device)
            if number:  # the first round warms up
                seconds[run, way].append(time.perf_counter() - start)
    return {key: statistics.median(values) for key, values in seconds.items()}


def errors(tensors: list[Tensor], groups: int, scale: float) -> dict[str, float]:
    """How far each way is from grid_sample in float64: the worst of output and gradients, relative to its largest value."""
    exact = [t.detach().double().requires_grad_(i < 3) for i, t in enumerate(tensors)]
    expected = forward_backward(reference, exact, groups, scale)
    worst = {}
    for name, way in WAYS.items():
        found = forward_backward(way, tensors, groups, scale)
        pairs = zip(found, expected, strict=True)
        worst[name] = max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in pairs)
    return worst


def added_memory(way: str, tensors: list[Tensor], groups: int, arguments: argparse.Namespace) -> float:
    """MiB above what the process held before, at the peak of a forward and backward. Needs a fresh process on a CPU."""
    small = make_tensors(8, groups, tensors[0].shape[-1], arguments)
    forward_backward(WAYS[way], small, groups, arguments.offset_scale)
    if arguments.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward_backward(WAYS[way], tensors, groups, arguments.offset_scale)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back (Linux)
    before = high_water()
    forward_backward(WAYS[way], tensors, groups, arguments.offset_scale)
    return high_water() - before


def high_water() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10


def memory_in_fresh_process(way: str, stage: int, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", way, "--stages", str(stage)]
    for option in ("image", "channels", "groups", "offset_scale", "batch", "dtype", "threads", "device"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image", type=int, default=512, help="side of the picture; stage 1 works on a quarter of it")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--channels", type=int, default=64, help="of stage 1; doubled in every stage")
    parser.add_argument("--groups", type=int, default=4, help="of stage 1; doubled in every stage")
    parser.add_argument("--offset-scale", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "float64"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)  # the fresh process
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    if not arguments.memory_of:
        print(f"batch {arguments.batch}, {arguments.dtype}, {arguments.device}, {arguments.threads} threads")
        print(f"{'stage':26s} {'run':19s} {'grid_sample':>12s} {'segzoo':>10s}   ratio", flush=True)
    for stage in arguments.stages:
        side, factor = arguments.image // (4 * 2 ** (stage - 1)), 2 ** (stage - 1)
        groups, channels = arguments.groups * factor, arguments.channels * factor
        tensors = make_tensors(side, groups, channels, arguments)
        if arguments.memory_of:
            print(added_memory(arguments.memory_of, tensors, groups, arguments))
            continue
        label = f"{stage}: {side}x{side}x{channels}, {groups} groups"
        seconds = times(tensors, groups, arguments)
        for run in RUNS:
            usual, mine = (seconds[run, way] * 1e3 for way in WAYS)
            print(f"{label:26s} {run:19s} {usual:9.1f} ms {mine:7.1f} ms {usual / mine:7.1f}", flush=True)
        usual, mine = (memory_in_fresh_process(way, stage, arguments) for way in WAYS)
        print(f"{label:26s} {'peak memory':19s} {usual:8.1f} MiB {mine:6.1f} MiB {usual / max(mine, 1e-9):7.1f}")
        worst = errors(tensors, groups, arguments.offset_scale)
        usual, mine = (worst[way] for way in WAYS)
        print(f"{label:26s} {'error':19s} {usual:12.1e} {mine:10.1e}", flush=True)


if __name__ == "__main__":
    main()
