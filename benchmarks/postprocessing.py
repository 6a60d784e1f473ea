"""Label maps from logits: segzoo's bounded memory against upsampling every class and argmax.

Both run in one process on the same logits, taking turns; times are medians, memory is the peak that a fresh process
adds. Labels are compared pixel by pixel.

    python benchmarks/postprocessing.py
    python benchmarks/postprocessing.py --sizes 1024x2048 --classes 19 --threads 4 --device cuda
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from segzoo.inference import label_map_from_logits


def reference(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The usual way: all classes at full resolution."""
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)


WAYS = {"interpolate, argmax": reference, "segzoo": label_map_from_logits}


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def times(logits: torch.Tensor, size: tuple[int, int], rounds: int) -> dict[str, float]:
    """Median seconds of each way, measured in turns."""
    seconds = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name, way in WAYS.items():
            synchronize(logits.device.type)
            start = time.perf_counter()
            way(logits, size)
            synchronize(logits.device.type)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def added_memory(name: str, logits: torch.Tensor, size: tuple[int, int]) -> float:
    """MiB above what the process held before, at the peak of one call. Needs a fresh process on a CPU."""
    small = torch.randn(logits.shape[0], 8, 8, device=logits.device)
    WAYS[name](small, (16, 16))
    if logits.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        WAYS[name](logits, size)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # The process's own high-water mark, set back first (Linux). ru_maxrss would start at the parent's.
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    WAYS[name](logits, size)
    return high_water() - before


def high_water() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10


def parse_size(text: str) -> tuple[int, int]:
    height, width = text.lower().split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=parse_size, nargs="+", default=[(512, 512), (512, 2048)], metavar="HxW")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--stride", type=int, default=4, help="how much smaller the logits are")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)  # the fresh process
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    for size in arguments.sizes:
        shape = (arguments.classes, -(-size[0] // arguments.stride), -(-size[1] // arguments.stride))
        logits = torch.randn(shape, device=arguments.device)
        if arguments.memory_of:
            print(added_memory(arguments.memory_of, logits, size))
            continue
        equal = torch.equal(reference(logits, size), label_map_from_logits(logits, size))
        seconds = times(logits, size, arguments.rounds)
        memory = {}
        for name in WAYS:
            command = [sys.executable, __file__, "--sizes", f"{size[0]}x{size[1]}", "--memory-of", name]
            for option in ("classes", "stride", "threads", "device"):
                command += [f"--{option}", str(getattr(arguments, option))]
            memory[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{size[0]} x {size[1]}, {arguments.classes} classes, from {shape[1]} x {shape[2]}, {arguments.device}:")
        for name in WAYS:
            print(f"  {name:20s} {seconds[name] * 1e3:8.1f} ms {memory[name]:8.1f} MiB")
        usual, ours = WAYS
        print(
            f"  {seconds[usual] / seconds[ours]:.1f} times as fast, {memory[ours] / max(memory[usual], 1e-9):.3f} of "
            f"the memory, labels {'identical' if equal else 'DIFFERENT'}"
        )


if __name__ == "__main__":
    main()
