"""The deformable operators, forward and backward: segzoo's, eager and compiled, against grid_sample.

grid_sample is used as the formulas of DCNv3 and of multi-scale deformable attention suggest. All ways run in turns in
one process on the same tensors. Times are medians; memory is the peak that a fresh process adds in a forward and
backward. DCNv3 has the sizes of the four stages of InternImage-T, attention those of ViT-Adapter-B (in injectors the
ViT's queries read the pyramid, in extractors the reverse) and of Mask2Former's pixel decoder. Outputs and gradients
are compared with grid_sample in float64.

    python benchmarks/deformable.py
    python benchmarks/deformable.py --cases stage3 --image 640 --channels 160 --groups 10 --dtype bfloat16
"""

import argparse
import ctypes
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from options import at_least, device
from rounds import rounds
from torch import Tensor
from torch.nn import functional as F

from segzoo.memory import keep_freed_memory
from segzoo.ops import dcnv3, ms_deform_attn

KERNEL = 3
POINTS = KERNEL**2
ATTENTION_POINTS = 4


def dcnv3_reference(input: Tensor, offset: Tensor, mask: Tensor, groups: int, scale: float) -> Tensor:
    """Softmax, sampling grid, one grid_sample with every group as an image of its own, weighted sum."""
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


def attention_reference(value: Tensor, locations: Tensor, weights: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
    """One grid_sample per level with every head as an image of its own, all samples side by side, weighted sum."""
    batch, _, heads, depth = value.shape
    dtype = torch.promote_types(value.dtype, torch.float32)
    grids = (2 * locations.to(dtype) - 1).transpose(1, 2).flatten(0, 1)  # N * heads, Q, levels, points, 2
    maps = value.to(dtype).split([height * width for height, width in shapes], dim=1)
    samples = []
    for level, (height, width) in enumerate(shapes):
        map = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, depth, height, width)
        grid = grids[:, :, level]
        samples.append(F.grid_sample(map, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = weights.to(dtype).transpose(1, 2).flatten(3).flatten(0, 1).unsqueeze(1)
    total = (torch.cat(samples, dim=-1) * weights).sum(-1)
    return total.view(batch, heads * depth, -1).transpose(1, 2).contiguous().to(value.dtype)


@dataclass(frozen=True)
class Case:
    """An operator at one size. Its functions take the same three tensors."""

    label: str
    tensors: list[Tensor]  # sampled, positions, weights; gradient of the output
    reference: Callable[..., Tensor]
    ours: Callable[..., Tensor]


def dcnv3_case(stage: int, side: int, arguments: argparse.Namespace) -> Case:
    factor = 2 ** (stage - 1)
    groups, channels, scale = arguments.groups * factor, arguments.channels * factor, arguments.offset_scale
    generator = torch.Generator().manual_seed(0)
    last = (channels, groups * POINTS * 2, groups * POINTS, channels)
    tensors = [torch.randn(arguments.batch, side, side, n, generator=generator) for n in last]
    tensors[1] = off_pixels(tensors[1])  # of about a pixel, as trained models have them
    return Case(
        f"dcnv3 stage {stage}: {side}x{side}x{channels}, {groups} groups",
        ready(tensors, arguments),
        lambda *t: dcnv3_reference(*t, groups, scale),
        lambda *t: dcnv3(*t, groups=groups, offset_scale=scale, softmax=True),
    )


def attention_case(
    name: str, queries: list[int], levels: list[int], heads: int, depth: int, arguments: argparse.Namespace
) -> Case:
    """Squares of these sides; the points lie a few pixels around the centre of each query's own pixel."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(arguments.batch, *shape, generator=generator)

    number = sum(side**2 for side in queries)
    centers = [torch.cartesian_prod(*[(torch.arange(side) + 0.5) / side] * 2).flip(-1) for side in queries]
    offsets = off_pixels(draw(number, heads, len(levels), ATTENTION_POINTS, 2) * 2)
    pixels = torch.cat(centers).view(number, 1, 1, 1, 2) * torch.tensor(levels).view(-1, 1, 1) + offsets
    # In pixels, an odd multiple of 1/512 from the grid: see off_pixels.
    locations = ((pixels * 256).floor() / 256 + 1 / 512) / torch.tensor(levels).view(-1, 1, 1)
    weights = draw(number, heads, len(levels) * ATTENTION_POINTS).softmax(-1).unflatten(-1, (len(levels), -1))
    tensors = [draw(sum(side**2 for side in levels), heads, depth), locations, weights, draw(number, heads * depth)]
    shapes = [(side, side) for side in levels]
    return Case(
        f"attention {name}: {number} queries, {len(levels)} levels, {heads}x{depth}",
        ready(tensors, arguments),
        lambda *t: attention_reference(*t, shapes),
        lambda v, s, a: ms_deform_attn(v, shapes, s, a),
    )


def off_pixels(offsets: Tensor) -> Tensor:
    """Round to odd multiples of 1/128: no sample lies on a pixel, where rounding would choose one of two gradients."""
    return (offsets * 64).floor() / 64 + 1 / 128


def ready(tensors: list[Tensor], arguments: argparse.Namespace) -> list[Tensor]:
    dtype = getattr(torch, arguments.dtype)
    return [t.to(arguments.device, dtype).requires_grad_(i < 3) for i, t in enumerate(tensors)]


STAGES = {f"stage{number}": number for number in (1, 2, 3, 4)}
CASES = (*STAGES, "injector", "extractor", "pixel-decoder")


def make_case(name: str, arguments: argparse.Namespace) -> Case:
    image = arguments.image
    if name in STAGES:
        return dcnv3_case(STAGES[name], image // (2 * 2 ** STAGES[name]), arguments)
    pyramid, vit = [image // 8, image // 16, image // 32], [image // 16]
    if name == "injector":
        return attention_case(name, vit, pyramid, 12, 32, arguments)
    if name == "extractor":
        return attention_case(name, pyramid, vit, 12, 32, arguments)
    return attention_case(name, pyramid[::-1], pyramid[::-1], 8, 32, arguments)


def ways(case: Case) -> dict[str, Callable[..., Tensor]]:
    torch._dynamo.reset()
    return {"grid_sample": case.reference, "eager": case.ours, "compiled": torch.compile(case.ours, fullgraph=True)}


WAYS = ("grid_sample", "eager", "compiled")


def forward(way: Callable, tensors: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return way(*tensors[:3])


def forward_backward(way: Callable, tensors: list[Tensor]) -> list[Tensor]:
    output = way(*tensors[:3])
    return [output.detach(), *torch.autograd.grad(output, tensors[:3], tensors[3])]


RUNS = {"forward": forward, "forward + backward": forward_backward}


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def times(
    functions: dict[str, Callable[..., Tensor]], case: Case, arguments: argparse.Namespace
) -> dict[tuple[str, str], float]:
    """Median seconds of each (run, way), measured in turns."""
    seconds = {(run, way): [] for run in RUNS for way in WAYS}
    for counts in rounds(arguments.rounds, arguments.minutes, warm_up=2):
        for run, way in seconds:
            synchronize(arguments.device)
            start = time.perf_counter()
            RUNS[run](functions[way], case.tensors)
            synchronize(arguments.device)
            if counts:  # the first rounds compile and warm up
                seconds[run, way].append(time.perf_counter() - start)
    return {key: statistics.median(values) for key, values in seconds.items()}


def errors(functions: dict[str, Callable[..., Tensor]], case: Case) -> dict[str, float]:
    """Each way's largest difference from grid_sample in float64, in outputs and gradients, relative to the largest."""
    exact = [t.detach().double().requires_grad_(i < 3) for i, t in enumerate(case.tensors)]
    expected = forward_backward(case.reference, exact)
    worst = {}
    for name, way in functions.items():
        pairs = zip(forward_backward(way, case.tensors), expected, strict=True)
        worst[name] = max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in pairs)
    return worst


def added_memory(way: str, name: str, arguments: argparse.Namespace) -> float:
    """MiB that a forward and backward adds, at its peak, to what a process held; on a CPU, a fresh process."""
    case = make_case(name, arguments)
    function = ways(case)[way]
    forward_backward(function, case.tensors)  # a compiler and lazy imports are not what is measured
    if arguments.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward_backward(function, case.tensors)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # returns what the first run has freed to the system (Linux)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (Linux)
    before = high_water()
    forward_backward(function, case.tensors)
    return high_water() - before


def high_water() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10


def memory_in_fresh_process(way: str, name: str, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", way, "--cases", name]
    for option in ("image", "channels", "groups", "offset_scale", "batch", "dtype", "threads", "device"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def report(run: str, numbers: dict[str, float], unit: str) -> None:
    cells = []
    for way, number in numbers.items():
        known = way != "grid_sample" and "grid_sample" in numbers
        ratio = f" ({numbers['grid_sample'] / max(number, 1e-9):.1f}x)" if known else ""
        cells.append(f"{number:.1f} {unit}{ratio}")
    print(f"  {run:19s}" + "".join(f"{cell:>22s}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--image", type=at_least(32), default=512, help="side of the picture")
    parser.add_argument("--channels", type=at_least(1), default=64, help="of DCNv3's stage 1; doubled in every stage")
    parser.add_argument("--groups", type=at_least(1), default=4, help="of DCNv3's stage 1; doubled in every stage")
    parser.add_argument("--offset-scale", type=float, default=1.0, help="of DCNv3")
    parser.add_argument("--batch", type=at_least(1), default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "float64"])
    parser.add_argument("--rounds", type=at_least(1), default=9, help="at most, of each case")
    parser.add_argument("--minutes", type=float, default=math.inf, help="for the rounds of a case, compiling included")
    parser.add_argument("--threads", type=at_least(1), default=2)
    parser.add_argument("--device", type=device, default="cpu")
    parser.add_argument(
        "--keep-freed-memory", action="store_true", help="while times are taken, as segzoo's commands do"
    )
    parser.add_argument(
        "--memory",
        nargs="*",
        choices=WAYS,
        default=WAYS,
        help="of which ways fresh processes measure it (default: all)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)  # the fresh process
    arguments = parser.parse_args()
    if arguments.channels % arguments.groups:
        parser.error(f"--channels {arguments.channels} do not divide into --groups {arguments.groups}")
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(added_memory(arguments.memory_of, arguments.cases[0], arguments))
        return

    if arguments.keep_freed_memory:
        keep_freed_memory()
    print(f"batch {arguments.batch}, {arguments.dtype}, {arguments.device}, {arguments.threads} threads")
    print(" " * 21 + "".join(f"{way:>22s}" for way in WAYS))
    figures = []
    for name in arguments.cases:
        case = make_case(name, arguments)
        print(case.label, flush=True)
        functions = ways(case)
        seconds = times(functions, case, arguments)
        for run in RUNS:
            report(run, {way: seconds[run, way] * 1e3 for way in WAYS}, "ms")
        found = {"case": name, "label": case.label}
        found["seconds"] = {run: {way: seconds[run, way] for way in WAYS} for run in RUNS}
        if arguments.memory:
            found["mib"] = {way: memory_in_fresh_process(way, name, arguments) for way in arguments.memory}
            report("peak memory", found["mib"], "MiB")
        worst = found["errors"] = errors(functions, case)
        figures.append(found)
        print(f"  {'error':19s}" + "".join(f"{worst[way]:>22.1e}" for way in WAYS), flush=True)
        if arguments.json:  # after each case, for a run that is broken off
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
