"""DCNv3 and multi-scale deformable attention on a GPU: times, traffic and errors, compared with other implementations.

A run measures, for the four stages of InternImage-T and -L, for the shapes in DCNv4's paper and for ViT-Adapter's
attention:

- device time: the median of CUDA graph replays, and in brackets of Triton's do_bench, which clears the caches between
  calls;
- end to end: the median wall-clock time of one call from Python until the device is done;
- floor: the time to move all data once, at the bandwidth that copying reaches on the GPU, as a share of the device
  time;
- error: the difference of output and gradients from grid_sample in float64, for the batch's last image, in the same
  run.

segzoo's kernels are compared with grid_sample, with --compiled also compiled (half a minute a case), and with the original CUDA operators if ``DCNv3``,
``DCNv4`` (with masks after the softmax) or ``MultiScaleDeformableAttention`` can be imported.

Without a GPU the kernels are compiled ahead of time and their instructions are counted, as in kernel_code.py.

    python benchmarks/triton_kernels.py --output times.json         # some minutes, most of them Triton's compiler
    python benchmarks/triton_kernels.py --models T L --images 512 640 --batches 1 4 16 --dtypes float16 bfloat16 --compiled
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import kernel_code
import torch
from options import at_least
from torch import Tensor
from torch.nn import functional as F

from segzoo.backbones.internimage import VARIANTS
from segzoo.ops import dcnv3, ms_deform_attn

Operator = Callable[..., Tensor]


@dataclasses.dataclass
class Case:
    """An operator on tensors: the first is sampled, the others hold positions and weights."""

    name: str
    tensors: list[Tensor]
    ours: Operator
    formula: Operator
    others: dict[str, Operator]

    def last_image(self) -> list[Tensor]:
        return [tensor[-1:].double() for tensor in self.tensors]


def dcnv3_case(name: str, batch: int, height: int, width: int, groups: int, channels: int, dtype: torch.dtype) -> Case:
    random = torch.Generator("cuda").manual_seed(0)
    shapes = (groups * channels, groups * 18, groups * 9)
    tensors = [torch.randn(batch, height, width, last, generator=random, device="cuda") for last in shapes]
    # Odd eighths of a pixel: no sample lies on a pixel, where rounding would decide between two gradients.
    tensors[1] = ((4 * tensors[1]).round() * 2 + 1) / 8
    tensors = [tensor.to(dtype) for tensor in tensors]

    def ours(input, offset, mask):
        return dcnv3(input, offset, mask, groups=groups, softmax=True)

    def formula(input, offset, mask):
        weight = mask.unflatten(-1, (groups, 9)).softmax(-1)
        steps = torch.arange(3, dtype=input.dtype, device=input.device) - 1
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).view(9, 2)
        column = torch.arange(width, dtype=input.dtype, device=input.device)
        row = torch.arange(height, dtype=input.dtype, device=input.device)
        center = torch.stack(torch.meshgrid(column, row, indexing="xy"), dim=-1).view(height, width, 1, 1, 2)
        position = center + grid + offset.unflatten(-1, (groups, 9, 2))
        position = (2 * position + 1) / position.new_tensor([width, height]) - 1
        position = position.permute(0, 3, 1, 2, 4, 5).reshape(-1, height * width, 9, 2)
        maps = input.unflatten(-1, (groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        samples = F.grid_sample(maps, position, padding_mode="zeros", align_corners=False)
        weight = weight.permute(0, 3, 1, 2, 4).reshape(-1, 1, height * width, 9)
        return (samples * weight).sum(-1).view(len(input), -1, height, width).permute(0, 2, 3, 1).contiguous()

    others = {}
    window = (3, 3, 1, 1, 1, 1, 1, 1, groups, channels, 1.0, 256)
    if find_spec("DCNv3") and dtype != torch.bfloat16:
        import DCNv3

        def original(input, offset, mask):
            weight = mask.unflatten(-1, (groups, 9)).softmax(-1).flatten(-2)
            try:
                return DCNv3.dcnv3_forward(input, offset, weight, *window, False)
            except TypeError:  # a release before it could leave out the centre
                return DCNv3.dcnv3_forward(input, offset, weight, *window)

        others["DCNv3 CUDA"] = original
    if find_spec("DCNv4"):
        from DCNv4.functions import DCNv4Function

        # The operator takes offsets and weights of a group together, in rows of a multiple of 8 numbers.
        weight = tensors[2].unflatten(-1, (groups, 9)).softmax(-1)
        together = torch.cat([tensors[1].unflatten(-1, (groups, 18)), weight], dim=-1).flatten(-2)
        together = F.pad(together, (0, -together.shape[-1] % 8)).contiguous()
        others["DCNv4 CUDA"] = lambda input, *_: DCNv4Function.apply(input, together, *window, False)
    return Case(name, tensors, ours, formula, others)


def attention_case(name: str, batch: int, queries: int, shapes: list[tuple[int, int]], dtype: torch.dtype) -> Case:
    heads, channels, points = 8, 32, 4
    random = torch.Generator("cuda").manual_seed(0)
    sizes = [height * width for height, width in shapes]
    sampling = (batch, queries, heads, len(shapes), points)
    tensors = [
        torch.randn(batch, sum(sizes), heads, channels, generator=random, device="cuda").to(dtype),
        torch.rand(*sampling, 2, generator=random, device="cuda"),
        torch.randn(sampling, generator=random, device="cuda").flatten(-2).softmax(-1).view(sampling),
    ]

    def ours(value, locations, weights):
        return ms_deform_attn(value, shapes, locations, weights)

    def formula(value, locations, weights):
        samples = []
        for level, maps in enumerate(value.split(sizes, dim=1)):
            maps = maps.permute(0, 2, 3, 1).reshape(-1, channels, *shapes[level])
            grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1).to(value.dtype)
            samples.append(F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False))
        weights = weights.transpose(1, 2).reshape(-1, 1, queries, len(shapes) * points).to(value.dtype)
        total = (torch.cat(samples, dim=-1) * weights).sum(-1)
        return total.view(-1, heads * channels, queries).transpose(1, 2).contiguous()

    others = {}
    if find_spec("MultiScaleDeformableAttention") and dtype == torch.float32:
        import MultiScaleDeformableAttention as original

        levels = torch.tensor(shapes, device="cuda")
        starts = levels.prod(1).cumsum(0) - levels.prod(1)
        others["original CUDA"] = lambda value, *where: original.ms_deform_attn_forward(
            value, levels, starts, *where, 64
        )
    return Case(name, tensors, ours, formula, others)


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    for dtype in (getattr(torch, name) for name in arguments.dtypes):
        label = str(dtype).removeprefix("torch.")
        for side, groups in ((56, 4), (28, 8), (14, 16), (7, 32)):
            name = f"DCNv3, DCNv4's paper {side}x{side}x{32 * groups}, batch 64, {label}"
            yield dcnv3_case(name, 64, side, side, groups, 32, dtype)
        for batch in arguments.batches:
            for image in arguments.images:
                for model in arguments.models:
                    variant = VARIANTS[f"internimage-{model.lower()}"]
                    for stage, groups in enumerate(variant["groups"]):
                        side, width = image // (4 << stage), variant["channels"] << stage
                        name = f"DCNv3, {model} {image} stage {stage + 1}, batch {batch}, {label}"
                        yield dcnv3_case(name, batch, side, side, groups, width // groups, dtype)
                shapes = [(image // stride, image // stride) for stride in (8, 16, 32)]
                every = sum(height * width for height, width in shapes)
                middle = (image // 16) ** 2
                yield attention_case(
                    f"attention, injector {image}, batch {batch}, {label}", batch, middle, shapes, dtype
                )
                name = f"attention, extractor {image}, batch {batch}, {label}"
                yield attention_case(name, batch, every, shapes[1:2], dtype)
                yield attention_case(
                    f"attention, pixel decoder {image}, batch {batch}, {label}", batch, every, shapes, dtype
                )


# Measuring


def replayed(call: Callable[[], object], repeats: int = 20) -> float:
    """Device time of a call in milliseconds: the median of CUDA graph replays.

    It is recorded on the current stream, which must not be the default one: a backward runs on its forward's stream.
    """
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for _ in range(repeats):
            call()
    graph.replay()
    times = []
    for _ in range(10):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / repeats)
    return statistics.median(times)


def end_to_end(call: Callable[[], object]) -> float:
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes per millisecond, read and written, that copying 1 GiB reaches."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / replayed(lambda: target.copy_(source), repeats=4)


def calls(operator: Operator, tensors: list[Tensor]) -> dict[str, Callable[[], object]]:
    """The functions that are timed: forward, backward and both; only forward for an operator without a gradient."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    found = {"forward": lambda: operator(*tensors)}
    output = operator(*leaves)
    if output.requires_grad:
        needed = [
            leaf
            for leaf in leaves
            if torch.autograd.grad(output.sum(), leaf, retain_graph=True, allow_unused=True)[0] is not None
        ]
        given = torch.randn_like(output)
        found["backward"] = lambda: torch.autograd.grad(output, needed, given, retain_graph=True)
        found["both"] = lambda: torch.autograd.grad(operator(*leaves), needed, given)
    return found


def errors(case: Case) -> dict[str, float]:
    """Largest difference from float64 over the largest number, for the output and each gradient of the last image."""
    exact = [tensor.requires_grad_() for tensor in case.last_image()]
    expected = case.formula(*exact)
    given = torch.randn_like(expected).to(case.tensors[0].dtype)
    gradients = torch.autograd.grad(expected, exact, given.double())
    leaves = [tensor.detach().requires_grad_() for tensor in case.tensors]
    output = case.ours(*leaves)
    everywhere = torch.zeros_like(output)
    everywhere[-1:] = given
    results = [output, *torch.autograd.grad(output, leaves, everywhere)]
    names = ("output", "sampled", "positions", "weights")
    pairs = zip(names, results, (expected.detach(), *gradients), strict=True)
    return {n: float((got[-1:].double() - want).abs().max() / want.abs().max()) for n, got, want in pairs}


def floors(case: Case, bandwidth: float) -> dict[str, float]:
    """Milliseconds to move every number once, in forward, backward and both."""
    size = sum(tensor.nbytes for tensor in case.tensors)
    output = case.ours(*case.tensors).nbytes
    forward, backward = size + output, 2 * size + output
    return {
        name: count / bandwidth
        for name, count in zip(("forward", "backward", "both"), (forward, backward, forward + backward), strict=True)
    }


def measure(case: Case, arguments: argparse.Namespace, bandwidth: float) -> Iterator[dict]:
    from triton.testing import do_bench

    operators = {"segzoo": case.ours, "grid_sample": case.formula, **case.others}
    if arguments.compiled:
        torch.compiler.reset()  # else it gives up on the function after eight shapes, without a word
        operators["grid_sample compiled"] = torch.compile(case.formula)
    floor, error = floors(case, bandwidth), errors(case)
    for name, operator in operators.items():
        if name in arguments.without:
            continue
        try:
            for direction, call in calls(operator, case.tensors).items():
                record = {
                    "case": case.name,
                    "operator": name,
                    "pass": direction,
                    "device_ms": replayed(call),
                    "do_bench_ms": do_bench(call, return_mode="median"),
                    "end_to_end_ms": end_to_end(call),
                    "floor_ms": floor[direction],
                }
                yield record | ({"errors": error} if name == "segzoo" else {})
        except (RuntimeError, torch.OutOfMemoryError) as failure:  # another implementation's limits end no run
            if name == "segzoo":
                raise
            yield {"case": case.name, "operator": name, "failed": str(failure).partition("\n")[0]}


def show(record: dict) -> None:
    start = f"| {record['case']} | {record['operator']} |"
    if "failed" in record:
        print(f"{start} | failed: {record['failed']} | | | |", flush=True)
        return
    error = ", ".join(f"{number:.0e}" for number in record.get("errors", {}).values())
    print(
        f"{start} {record['pass']} | {record['device_ms']:.4f} ({record['do_bench_ms']:.4f}) | {record['end_to_end_ms']:.4f} "
        f"| {record['floor_ms'] / record['device_ms']:.0%} | {error} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["T"], choices=[n.rpartition("-")[2].upper() for n in VARIANTS])
    parser.add_argument("--images", nargs="+", type=at_least(1), default=[512], help="side of the picture")
    parser.add_argument("--batches", nargs="+", type=at_least(1), default=[1, 16])
    parser.add_argument("--dtypes", nargs="+", default=["float16", "float32"], choices=kernel_code.DTYPES)
    parser.add_argument("--compiled", action="store_true", help="also grid_sample through torch.compile")
    parser.add_argument("--without", nargs="*", default=[], help="operators to leave out, such as grid_sample")
    parser.add_argument("--output", help="also write the records here, as JSON")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("No GPU: the kernels compiled ahead of time.\n")
        kernel_code.table(kernel_code.all_codes(kernel_code.parse([])))
        return
    with torch.cuda.stream(torch.cuda.Stream()):
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Measure all cases on the current stream, and print and write what was found."""
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copies {bandwidth / 1e9:.2f} TB/s\n")
    print("| case | operator | pass | device ms (do_bench) | end to end ms | floor | errors: output, gradients |")
    print("|---|---|---|---|---|---|---|")
    records = []
    for case in cases(arguments):
        for record in measure(case, arguments, bandwidth):
            records.append(record)
            show(record)
        if arguments.output:
            with open(arguments.output, "w") as file:
                json.dump(records, file, indent=1)


if __name__ == "__main__":
    main()
