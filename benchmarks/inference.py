"""Time and memory of inference: label maps from logits, and a large picture by sliding windows.

    python benchmarks/inference.py
    python benchmarks/inference.py --part upsampling --sizes 1024x2048 --classes 19 --device cuda
    python benchmarks/inference.py --part windows --picture 2048x2048 --json results.json

Upsampling: labels from logits at a quarter of the size, by segzoo in bounded memory and by interpolating all classes
and argmax. Both run in turns in one process on the same logits; times are medians, and labels are compared pixel by
pixel. The logits are smooth, with about as many cells between different classes (a tenth) as those of trained models,
or noise, the worst case.

Windows: a picture of noise through a small model (ResNet-18, UPerNet of 64 channels, random weights) by windows of 512
with step 341. The usual way sums all windows' logits at the size of the picture; it is run on a smaller picture
(--check), for which labels are compared, and its memory for the large one is computed from its tensors.

Memory is what a fresh process adds, at its peak, to what it held before the picture or the logits. The model and the
libraries, warmed up on tiny input, do not count; activations do. On a CPU this reads /proc (Linux).
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from options import at_least, device
from rounds import rounds
from torch.nn import functional as F

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import ResNetConfig
from segzoo.heads import UPerHeadConfig
from segzoo.inference import InferenceSettings, Predictor, label_map_from_logits, sliding_window_logits
from segzoo.inference.sliding_window import window_starts

AIM_SPEED, AIM_SHARE, AIM_WINDOWS_MIB = {"smooth": 10.0, "noise": 3.0}, 0.1, 2048
SMOOTH = 56
"""Distance of the independent values of smooth logits, in positions."""
WINDOW, STRIDE = 512, 341
OPTIONS = ("classes", "stride", "threads", "device", "windows_per_pass")


def main() -> None:
    """Measure the chosen parts, print tables, and write JSON with ``--json``."""
    args = parse()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(CHILDREN[args.child](args)))
        return
    results = {"torch": torch.__version__, "threads": args.threads, "device": args.device}
    if "upsampling" in args.part:
        results["upsampling"] = rows = []
        for target in args.sizes:
            for kind in args.logits:
                rows.append(upsampling(args, target, kind))
                write(results, args.json)  # after each, for a run that is broken off
    if "windows" in args.part:
        results["windows"] = windows(args)
        write(results, args.json)


def write(results: dict, path: Path | None) -> None:
    """Write what was measured so far."""
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=("upsampling", "windows"), default=["upsampling", "windows"])
    parser.add_argument("--sizes", type=size, nargs="+", default=[(512, 512), (512, 2048)], metavar="HxW")
    parser.add_argument("--picture", type=size, default=(8192, 8192), metavar="HxW", help="the large picture")
    parser.add_argument("--check", type=size, default=(1024, 1280), metavar="HxW", help="where labels are compared")
    parser.add_argument("--classes", type=at_least(1), default=150)
    parser.add_argument(
        "--stride", type=at_least(1), default=4, help="how much smaller the logits to be upsampled are"
    )
    parser.add_argument("--logits", nargs="+", choices=AIM_SPEED, default=list(AIM_SPEED), help="kinds of logits")
    parser.add_argument("--windows_per_pass", type=at_least(1), default=4)
    parser.add_argument("--rounds", type=at_least(1), default=7, help="at most, of upsampling")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="for the rounds of each size and kind of logits"
    )
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads())
    parser.add_argument("--device", type=device, default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)  # what a fresh process measures
    return parser.parse_args()


def size(text: str) -> tuple[int, int]:
    """``512x2048`` as (height, width)."""
    height, width = map(at_least(1), text.lower().split("x"))
    return height, width


# Label maps from logits


def usual_label_map(logits: torch.Tensor, target: tuple[int, int]) -> torch.Tensor:
    """Interpolate all classes to full resolution and take the largest: (height, width) class ids."""
    return F.interpolate(logits[None], size=target, mode="bilinear", align_corners=False)[0].argmax(0)


def upsampling(args: argparse.Namespace, target: tuple[int, int], kind: str) -> dict:
    """Time both ways in turns on the same logits, and compare their labels."""
    logits = make_logits(args, target, kind)
    ways = {"usual": usual_label_map, "segzoo": label_map_from_logits}
    seconds = {name: [] for name in ways}
    for counts in rounds(args.rounds, args.minutes):
        for name, way in ways.items():
            spent = timed(lambda way=way: way(logits, target), args.device)[0]
            if counts:
                seconds[name].append(spent)
    row = {"size": target, "classes": args.classes, "from": list(logits.shape[1:]), "logits": kind}
    row["mixed"] = mixed_share(logits)
    row |= {name: {"seconds": statistics.median(values)} for name, values in seconds.items()}
    for name in ways:
        row[name]["mib"] = child(args, f"upsampling_{name}", sizes=target, logits=kind)["mib"]
    row["identical"] = torch.equal(usual_label_map(logits, target), label_map_from_logits(logits, target))
    row["speed"] = row["usual"]["seconds"] / row["segzoo"]["seconds"]
    row["share_of_memory"] = row["segzoo"]["mib"] / row["usual"]["mib"]
    print(
        f"{shown(target)}, {args.classes} classes, from {kind} logits of {shown(logits.shape[1:])}, {row['mixed']:.1%} of "
        f"the cells mixed, {args.device}:"
    )
    for name, title in (("usual", "interpolate, argmax"), ("segzoo", "segzoo")):
        print(f"  {title:20}{row[name]['seconds'] * 1e3:9.1f} ms{row[name]['mib']:10.1f} MiB")
    print(
        f"  {row['speed']:.1f} times as fast (aim {AIM_SPEED[kind]:g}), {row['share_of_memory']:.3f} of the memory "
        f"(aim {AIM_SHARE:g}), labels {'identical' if row['identical'] else 'DIFFER'}"
    )
    return row


def upsampling_memory(way: Callable) -> Callable:
    """A function that measures the memory of one way of upsampling, in a fresh process."""

    def measure(args: argparse.Namespace) -> dict:
        (target,) = args.sizes
        (kind,) = args.logits
        logits = make_logits(args, target, kind)
        way(torch.randn(args.classes, 8, 8, device=args.device), (16, 16))
        return {"mib": added_memory(lambda: way(logits, target), args.device)}

    return measure


def make_logits(args: argparse.Namespace, target: tuple[int, int], kind: str) -> torch.Tensor:
    """Noise or smooth maps (classes, height / 4, width / 4), as a head's logits of a picture of this size."""
    torch.manual_seed(0)
    height, width = (-(-side // args.stride) for side in target)
    if kind == "noise":
        return torch.randn(args.classes, height, width, device=args.device)
    coarse = torch.randn(1, args.classes, *(-(-side // SMOOTH) + 1 for side in (height, width)), device=args.device)
    return F.interpolate(4 * coarse, size=(height, width), mode="bicubic")[0].contiguous()


def mixed_share(logits: torch.Tensor) -> float:
    """Share of the cells between four positions that have not the same largest class."""
    labels = logits.argmax(0)
    corners = labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]
    return 1 - torch.stack([corner == corners[0] for corner in corners]).all(0).float().mean().item()


# A large picture by windows


def windows(args: argparse.Namespace) -> dict:
    """Measure the large picture in bounded memory, and compare the labels of both ways on a smaller one."""
    large = child(args, "windows_segzoo", picture=args.picture)
    checked = {name: child(args, f"windows_{name}", picture=args.check) for name in ("usual", "segzoo")}
    height, width = args.picture
    usual_mib = 4 * args.classes * height * width / 2**20
    result = {
        "picture": args.picture,
        "classes": args.classes,
        **large,
        "usual_mib_computed": usual_mib,
        "check": {"picture": args.check, **checked},
        "identical": checked["usual"]["labels"] == checked["segzoo"]["labels"],
    }
    print(
        f"by windows of {WINDOW} with step {STRIDE}, {args.classes} classes, a model of {large['parameters'] / 1e6:.1f} "
        f"million parameters, {args.device}:"
    )
    for name, title in (("usual", "sum, argmax"), ("segzoo", "segzoo")):
        print(f"  {shown(args.check):12}{title:18}{line(checked[name])}")
    print(f"  {shown(args.picture):12}{'sum, argmax':18}{'':42}{usual_mib:11.0f} MiB for the sum of logits alone")
    print(f"  {shown(args.picture):12}{'segzoo':18}{line(large)}")
    print(
        f"  {large['mib']:.0f} MiB above the model (aim {AIM_WINDOWS_MIB}), labels of {shown(args.check)} "
        f"{'identical' if result['identical'] else 'DIFFER'}"
    )
    return result


def line(row: dict) -> str:
    """A line of the table: seconds, windows per second, the model's share of the time, memory."""
    share = row["model_seconds"] / row["seconds"]
    speed = row["windows"] / row["seconds"]
    return f"{row['seconds']:9.1f} s {speed:8.2f} windows/s, model {share:4.0%}{row['mib']:11.0f} MiB"


def windows_measurement(bounded: bool) -> Callable:
    """A function that measures time and memory of one way of sliding windows, in a fresh process."""

    def measure(args: argparse.Namespace) -> dict:
        torch.manual_seed(0)
        config = SegZooConfig.from_backbone(
            ResNetConfig(depth=18, stem="deep"),
            UPerHeadConfig(channels=64),
            auxiliary=False,
            num_labels=args.classes,
        )
        model = SegZooForSemanticSegmentation(config).eval().to(args.device)
        processor = SegZooImageProcessor(do_resize=False)
        settings = InferenceSettings((WINDOW, WINDOW), (STRIDE, STRIDE), windows_per_pass=args.windows_per_pass)
        predictor = Predictor(model, processor, settings)
        spent = []

        def before(*_):
            synchronize(args.device)
            spent.append(-time.perf_counter())

        def after(*_):
            synchronize(args.device)
            spent[-1] += time.perf_counter()

        def usual(picture: np.ndarray) -> torch.Tensor:
            with torch.no_grad():
                pixel_values = processor(picture, return_tensors="pt")["pixel_values"].to(args.device)
                logits = sliding_window_logits(
                    lambda pixels: model(pixels).logits,
                    pixel_values,
                    (WINDOW, WINDOW),
                    (STRIDE, STRIDE),
                    num_labels=args.classes,
                    windows_per_pass=args.windows_per_pass,  # batches of another size would round differently
                )
            return logits[0].argmax(0)

        def ours(picture: np.ndarray) -> torch.Tensor:
            return predictor.label_map(picture, picture.shape[:2])

        way = ours if bounded else usual
        way(np.zeros((64, 64, 3), np.uint8))
        model.register_forward_pre_hook(before)
        model.register_forward_hook(after)
        labels, seconds = [], []

        def work() -> None:
            picture = np.random.default_rng(0).integers(0, 256, (*args.picture, 3), dtype=np.uint8)
            took, found = timed(lambda: way(picture), args.device)
            labels.append(found)
            seconds.append(took)

        mib = added_memory(work, args.device)
        return {
            "seconds": seconds[0],
            "model_seconds": sum(spent),
            "windows": math.prod(len(window_starts(side, WINDOW, STRIDE)) for side in args.picture),
            "mib": mib,
            "labels": fingerprint(labels[0]),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }

    return measure


def fingerprint(labels: torch.Tensor) -> int:
    """A checksum of label maps, which differs for different labels."""
    return zlib.crc32(labels.to(torch.uint8).cpu().numpy().tobytes())


# Time and memory


CHILDREN = {
    "upsampling_usual": upsampling_memory(usual_label_map),
    "upsampling_segzoo": upsampling_memory(label_map_from_logits),
    "windows_usual": windows_measurement(bounded=False),
    "windows_segzoo": windows_measurement(bounded=True),
}


def child(args: argparse.Namespace, name: str, **own: tuple[int, int] | str) -> dict:
    """Run one of ``CHILDREN`` in a fresh process with the same options; returns the JSON that it prints."""
    command = [sys.executable, __file__, "--child", name]
    for option, value in {**{option: getattr(args, option) for option in OPTIONS}, **own}.items():
        command += [
            f"--{option}",
            value if isinstance(value, str) else shown(value) if isinstance(value, tuple) else str(value),
        ]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def synchronize(device: str) -> None:
    """Wait until the GPU is done; does nothing on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(work: Callable, device: str) -> tuple[float, object]:
    """The seconds that a function takes, and its result."""
    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - start, result


def added_memory(work: Callable, device: str) -> float:
    """MiB that a function adds, at its peak, to what the process held before."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # The process's own high-water mark, reset first (Linux). ru_maxrss would start at the parent's.
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    work()
    return high_water() - before


def high_water() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10


def shown(target: tuple[int, int]) -> str:
    """(512, 2048) as ``512x2048``."""
    return f"{target[0]}x{target[1]}"


if __name__ == "__main__":
    main()
