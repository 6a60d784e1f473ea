"""Real-time models side by side: images per second, latency at the 99th percentile and peak memory, beside published mIoU.

    python benchmarks/realtime.py --table realtime.md --plot realtime.png       # all models, in all ways of this machine
    python benchmarks/realtime.py --models Fast-SCNN STDC1 --ways float32 onnxruntime int8 --rounds 30
    python benchmarks/realtime.py --threads 1 --clock cpu                       # on a machine that others use too
    python benchmarks/realtime.py --device cuda                                 # the ways of a GPU

One picture (batch 1, by default 1024x2048) through each model of `MODELS`, rows of the zoo with random weights, from
the normalised picture to the logits at the head's resolution. The ways to run a model are those of `WAYS`; one whose
package is not installed is left out with a message, and so is a row that does not convert. All ways of a model are
built in one process and run in turns, the models one after another, until the rounds are made or the model's time is
over; images per second follow from the median, and with fewer than 100 rounds the 99th percentile lies close to the
slowest. Where a CPU emulates bfloat16, it is measured only if --ways names it. "fuse()" is how many times as fast folding the batch
norms makes the model, both in the channels-last format. Memory is what a fresh process, or the GPU, adds at its peak to
what it held with the model built; a CUDA graph holds its memory from the recording on, and adds none.

int8 is quantised with the measured picture alone, which is enough for its speed, and is not in the picture. The
published mIoU is that of the zoo's
row on Cityscapes, at the same size.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from options import at_least
from rounds import rounds
from torch import Tensor, nn

from segzoo import SegZooForSemanticSegmentation, zoo
from segzoo.conversion.translate import refusal
from segzoo.inference.timing import has_bfloat16
from segzoo.measuring import (
    Run,
    Way,
    added_memory,
    eager,
    onnx_runtime,
    openvino,
    percentile,
    pictures,
    released_model,
    seconds_of,
)
from segzoo.memory import keep_freed_memory

# Rows of the zoo by a short name; the last two are references that are not made for speed.
MODELS = {
    "ICNet R18": "icnet_r18-d8_in1k-pre_832x832_160k_cityscapes",
    "ICNet R50": "icnet_r50-d8_in1k-pre_832x832_160k_cityscapes",
    "ICNet R101": "icnet_r101-d8_in1k-pre_832x832_160k_cityscapes",
    "BiSeNetV1 R18": "bisenetv1_r18-d32_in1k-pre_4x8_1024x1024_160k_cityscapes",
    "BiSeNetV1 R50": "bisenetv1_r50-d32_in1k-pre_4x4_1024x1024_160k_cityscapes",
    "BiSeNetV2": "bisenetv2_fcn_4x8_1024x1024_160k_cityscapes",
    "STDC1": "stdc1_in1k-pre_512x1024_80k_cityscapes",
    "STDC2": "stdc2_in1k-pre_512x1024_80k_cityscapes",
    "CGNet": "cgnet_512x1024_60k_cityscapes",
    "ERFNet": "erfnet_fcn_4x4_512x1024_160k_cityscapes",
    "Fast-SCNN": "fast_scnn_lr0.12_8x4_160k_cityscapes",
    "PIDNet-S": "pidnet-s_2xb6-120k_1024x1024-cityscapes",
    "PIDNet-M": "pidnet-m_2xb6-120k_1024x1024-cityscapes",
    "PIDNet-L": "pidnet-l_2xb6-120k_1024x1024-cityscapes",
    "DDRNet23-slim": "ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024",
    "DDRNet23": "ddrnet_23_in1k-pre_2xb6-120k_cityscapes-1024x1024",
    "PSPNet R50": "pspnet_r50-d8_512x1024_80k_cityscapes",
    "SegFormer B0": "segformer_mit-b0_8x1_1024x1024_160k_cityscapes",
}
REFERENCES = ("PSPNet R50", "SegFormer B0")
LEAST_ROUNDS = 3
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def cuda_graph(model: SegZooForSemanticSegmentation, picture: Tensor) -> Run:
    """In half precision, its kernels recorded once and replayed."""
    call = eager(model, picture, fuse=True, half=True)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # libraries choose their algorithms before the recording
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def tensorrt(model: SegZooForSemanticSegmentation, picture: Tensor) -> Run:
    """In half precision, by Torch-TensorRT."""
    import torch_tensorrt

    model, picture = Logits(model.fuse().half()), picture.half()
    engine = torch_tensorrt.compile(model, ir="dynamo", inputs=[picture], enabled_precisions={torch.half})
    return lambda: engine(picture)


class Logits(nn.Module):
    """A model with a tensor as output."""

    def __init__(self, model: SegZooForSemanticSegmentation) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The logits (batch, num_labels, height, width), at the head's resolution."""
        return self.model(pixel_values).logits


def of_eager(device: str, **options: bool) -> Way:
    return Way(lambda model, picture: eager(model, picture, **options), device)


WAYS = {
    "float32": of_eager("cpu", channels_last=False),
    "channels-last": of_eager("cpu"),
    "fused": of_eager("cpu", fuse=True),
    "bfloat16": of_eager("cpu", autocast=True),
    "compiled": of_eager("cpu", fuse=True, compile=True),
    "onnxruntime": Way(onnx_runtime, "cpu", "onnxruntime"),
    "int8": Way(partial(onnx_runtime, int8=True), "cpu", "onnxruntime"),
    "openvino": Way(openvino, "cpu", "openvino"),
    "cuda float32": of_eager("cuda", channels_last=False),
    "cuda channels-last": of_eager("cuda"),
    "cuda fused": of_eager("cuda", fuse=True),
    "cuda float16": of_eager("cuda", fuse=True, half=True),
    "cuda compiled": of_eager("cuda", fuse=True, half=True, compile=True),
    "cuda graph": Way(cuda_graph, "cuda"),
    "tensorrt": Way(tensorrt, "cuda", "torch_tensorrt"),
}
FROM_FILE = ("onnxruntime", "int8", "openvino")
"""Ways that share an exported file."""
FOLDED = {"fused": "channels-last", "cuda fused": "cuda channels-last"}
"""Ways after ``fuse()``, and the same without it."""


def main() -> None:
    """Measure the chosen models, and write a table, a picture and JSON where they are asked for."""
    args = parse()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps(memory_of(args)))
        return
    if args.read:
        results = json.loads(args.read.read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            args.exports = Path(folder)
            results = measured(args)
    text = table(results)
    print(text)
    if args.table:
        args.table.write_text(text, encoding="utf-8")
    if args.plot:
        plot(results, args.plot)


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--ways", nargs="+", choices=WAYS, metavar="WAY", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--size", type=at_least(1), nargs=2, default=[1024, 2048], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=at_least(1), default=100, help="at most, of each model")
    parser.add_argument(
        "--minutes", type=float, default=2, help="for the rounds of a model; three are made in any case"
    )
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: the process's own seconds, on one thread"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="whose ways are run without --ways")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out memory, which on a CPU takes a process a model"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table to this Markdown file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw mIoU against latency (needs matplotlib)")
    parser.add_argument("--read", type=Path, metavar="FILE", help="show the figures of --json again")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # the fresh process
    parser.add_argument("--exports", type=Path, help=argparse.SUPPRESS)  # where its files lie
    args = parser.parse_args()
    if args.ways is None:
        args.ways = [name for name, way in WAYS.items() if way.device == args.device]
        if args.device == "cpu" and not has_bfloat16():
            args.ways.remove("bfloat16")
            print("bfloat16 is left out: this CPU emulates it, at a tenth of the speed of float32")
    devices = {WAYS[name].device for name in args.ways}
    if args.clock == "cpu" and (args.threads != 1 or devices != {"cpu"}):
        parser.error("--clock cpu needs --threads 1 and no GPU: several threads' seconds would be added")
    if "cuda" in devices and not torch.cuda.is_available():
        parser.error("there is no GPU that PyTorch can use")
    return args


def measured(args: argparse.Namespace) -> dict:
    """The figures of all chosen models and ways."""
    keep_freed_memory()
    ways = []
    for name in args.ways:
        reason = WAYS[name].why_not(WAYS[name].device)
        if reason is not None:
            print(f"{name} is left out: {reason}")
        else:
            ways.append(name)
    rows = zoo.rows()
    results = {"size": args.size, "threads": args.threads, "clock": args.clock}
    results |= {"torch": torch.__version__, "ways": ways, "models": {}}
    for title in args.models:
        name = MODELS[title]
        if (reason := refusal(zoo.original_config(name))) is not None:
            print(f"{title} is left out: {name} does not convert ({reason})")
            continue
        found, made = seconds_of_ways(name, ways, args)
        on_cpu = [way for way in ways if WAYS[way].device == "cpu" and not args.no_memory]
        for way, memory in in_fresh_process(name, on_cpu, args).items() if on_cpu else ():
            found[way]["mib"] = memory
        for way, figures in found.items():
            print(f"{title:16s} {way:20s} {cell(figures)}", flush=True)
        results["models"][title] = {"name": name, "miou": rows[name].miou, "rounds": made, "ways": found}
        if args.json:  # after each model, for a run that is broken off
            args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def prepared(name: str, way: str, args: argparse.Namespace) -> Run:
    """A function that runs a picture of noise through the model of a row, which has random weights."""
    device = WAYS[way].device
    options = {"folder": args.exports / name} if way in FROM_FILE else {}
    return WAYS[way].prepare(released_model(name).to(device), pictures(1, 3, args.size).to(device), **options)


@torch.no_grad()
def seconds_of_ways(name: str, ways: Sequence[str], args: argparse.Namespace) -> tuple[dict[str, dict], int]:
    """Run all ways of a model in turns: the median of their seconds and the 99th percentile, and the number of rounds."""
    runs = {way: prepared(name, way, args) for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    clock = CLOCKS[args.clock]
    for way, run in runs.items():  # to warm up and compile
        seconds_of(run, WAYS[way].device, clock)
    made = 0
    for _ in rounds(args.rounds, args.minutes, warm_up=0, least=LEAST_ROUNDS):
        made += 1
        for way, run in runs.items():
            seconds[way].append(seconds_of(run, WAYS[way].device, clock))
    found = {
        way: {"seconds": statistics.median(values), "p99": percentile(values, 0.99)} for way, values in seconds.items()
    }
    for way, run in runs.items():
        # Of a GPU the peak can be read beside whatever else it holds; of a process only when it is a fresh one.
        if not args.no_memory and WAYS[way].device == "cuda":
            found[way]["mib"] = mib(run, "cuda")
    return found, made


def in_fresh_process(name: str, ways: Sequence[str], args: argparse.Namespace) -> dict[str, float | None]:
    """What `memory_of` finds, in a process that has run nothing else."""
    command = [sys.executable, __file__, "--memory-of", name, "--ways", *ways, "--threads", str(args.threads)]
    command += ["--exports", str(args.exports), "--size", *map(str, args.size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the process for the memory of {name} broke off; its message stands above")
    return json.loads(done.stdout.splitlines()[-1])


def memory_of(args: argparse.Namespace) -> dict[str, float | None]:
    """MiB that a picture adds, at its peak, to what this process holds with a way's model built, one way after the
    other: each gives back what it held; None where that cannot be read.
    """
    return {way: mib(prepared(args.memory_of, way, args), WAYS[way].device) for way in args.ways}


def mib(run: Run, device: str) -> float | None:
    with torch.no_grad():
        found = added_memory(run, device)
    return None if found is None else found / 2**20


def cell(figures: dict) -> str:
    """Images per second, the 99th percentile in ms, and MiB if they were measured."""
    text = f"{1 / figures['seconds']:.2f} / {figures['p99'] * 1e3:.0f} ms"
    return text if figures.get("mib") is None else f"{text} / {figures['mib']:.0f} MiB"


def table(results: dict) -> str:
    """The figures as a Markdown table: a model a line, a way a column."""
    ways, models = results["ways"], results["models"]
    folded = [way for way in FOLDED if way in ways and FOLDED[way] in ways]
    columns = [
        "model",
        "mIoU",
        "rounds",
        *ways,
        *(f"fuse() on {'GPU' if way.startswith('cuda') else 'CPU'}" for way in folded),
    ]
    height, width = results["size"]
    lines = [
        f"Images per second / latency at the 99th percentile / peak memory; batch 1, {height}x{width}, "
        f"{results['threads']} threads, {'process' if results['clock'] == 'cpu' else 'wall'} clock, PyTorch "
        f"{results['torch']}; mIoU as published, on Cityscapes.\n",
        f"| {' | '.join(columns)} |",
        f"| --- |{' ---: |' * (len(columns) - 1)}",
    ]
    for title, model in models.items():
        found = model["ways"]
        gains = [f"{found[FOLDED[way]]['seconds'] / found[way]['seconds']:.2f} times" for way in folded]
        cells = [title, f"{model['miou']:.2f}", str(model["rounds"]), *(cell(found[way]) for way in ways), *gains]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """Draw published mIoU against latency: each model as it is loaded, and in its fastest way."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 7), layout="constrained")
    usual = next(way for way in results["ways"] if way != "int8")
    ordered = sorted(results["models"].items(), key=lambda item: -item[1]["miou"])
    # Without int8, whose mIoU is not the published one.
    latencies = {
        title: {way: 1e3 * figures["seconds"] for way, figures in model["ways"].items() if way != "int8"}
        for title, model in ordered
    }
    common = {min(latency, key=latency.get) for latency in latencies.values()}
    names = []
    for title, model in ordered:
        latency, miou = latencies[title], model["miou"]
        fastest = min(latency, key=latency.get)
        colour = "grey" if title in REFERENCES else "tab:blue"
        axes.plot([latency[usual], latency[fastest]], [miou] * 2, color=colour, linewidth=1, alpha=0.5)
        axes.plot(latency[usual], miou, "o", markerfacecolor="white", color=colour)
        axes.plot(latency[fastest], miou, "o", color=colour)
        text = title if len(common) == 1 else f"{title} ({fastest})"
        names.append((text, sorted((latency[usual], latency[fastest])), miou, colour))
    axes.set_xscale("log")
    axes.set_xlabel(
        f"median latency in ms, batch 1, {results['size'][0]}x{results['size'][1]}, {results['threads']} threads"
    )
    axes.set_ylabel("published mIoU on Cityscapes")
    filled = f"the fastest way but int8{f', {fastest}' if len(common) == 1 else ''}"
    axes.set_title(f"hollow: {usual}; filled: {filled}; grey: not made for speed", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.margins(x=0.25, y=0.1)
    taken: list = []
    for text, ends, miou, colour in names:  # once the axes are as they stay
        taken.append(write_beside(axes, text, ends, miou, colour, taken))
    figure.savefig(path, dpi=120)


def write_beside(axes, text: str, ends: Sequence[float], height: float, colour: str, taken: Sequence):
    """Write a text to the left or the right of a line, where it covers none of the boxes that are taken; returns its own."""
    style = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": colour}
    sides = (("right", ends[0], -7), ("left", ends[1], 7))
    for shift in (0, 9, -9, 18, -18):
        for side, place, space in sides:
            label = axes.annotate(text, (place, height), xytext=(space, shift), ha=side, **style)
            box = label.get_window_extent(axes.figure.canvas.get_renderer())
            if not any(box.overlaps(other) for other in taken) or (side, shift) == ("left", -18):  # the last place
                return box
            label.remove()


if __name__ == "__main__":
    main()
