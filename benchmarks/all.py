"""One table of what is fast on this machine, and by how much: all CPU benchmarks one after the other, in half an hour.

    python benchmarks/all.py --output speed                 # writes speed/speed.md and speed/*.json
    python benchmarks/all.py --output speed --only jobs deformable
    python benchmarks/all.py --output speed --read          # the table again, from the files of an earlier run

Nothing else should run meanwhile. Each benchmark is a process of its own; it makes fewer rounds on a slow machine, and is
stopped at a limit of time. One that fails or is stopped is named below the table, with the lines that it wrote until
then, and the others go on. A table of one machine can be put beside that of another:
ratios compare two ways on the same machine, in one run, in turns.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from options import at_least

HERE = Path(__file__).resolve().parent
Row = tuple[str, str, str]
"""What was measured, against what, and the result."""


@dataclass(frozen=True)
class Benchmark:
    """A script with its arguments.

    Args:
        script: its name in this folder.
        arguments: its options but ``--json FILE``, which all of them have.
        minutes: limit of its time.
        rows: makes lines of the table from what it wrote.
    """

    script: str
    arguments: tuple[str, ...]
    minutes: float
    rows: Callable[[dict | list], Iterable[Row]]


def of_deformable(cases: list) -> Iterable[Row]:
    for case in cases:
        for run, seconds in case["seconds"].items():
            eager, compiled = (seconds["grid_sample"] / seconds[way] for way in ("eager", "compiled"))
            memory = f"; {case['mib']['eager']:.0f} MiB instead of {case['mib']['grid_sample']:.0f}"
            result = f"eager {eager:.1f}, compiled {compiled:.1f} times{memory if run != 'forward' else ''}"
            yield f"{case['label']}, {run}", "`grid_sample`", result


def of_inference(figures: dict) -> Iterable[Row]:
    for row in figures["upsampling"]:
        (height, width), mib = row["size"], (row["segzoo"]["mib"], row["usual"]["mib"])
        title = f"logits to labels, {height}x{width}, {row['classes']} classes"
        if "logits" in row:
            title += f", {row['logits']}"
        yield title, "interpolate, argmax", f"{row['speed']:.1f} times; {mib[0]:.0f} MiB instead of {mib[1]:.0f}"


def of_models(figures: dict) -> Iterable[Row]:
    """Each of our cases against the fastest of the others in the same precision, and against the layers of the original."""
    for group, parts in figures.items():
        for part in ("speed", "steps"):
            lines = [line for line in parts.get(part, ()) if "case" in line] if isinstance(parts, dict) else []
            for line in lines:
                others = [
                    other
                    for other in lines
                    if other["precision"] == line["precision"] and not other["case"].startswith("segzoo")
                ]
                if line["case"].startswith("segzoo") and others:
                    fastest = min(others, key=lambda other: other["seconds"])
                    original = [other for other in others if other["case"].startswith(PLAIN) and other is not fastest]
                    for other in (fastest, *sorted(original, key=lambda other: other["seconds"])[:1]):
                        what = f"{group}: {line['case']}, {line['precision']}, {WHAT[part]}"
                        ratio = other["seconds"] / line["seconds"]
                        yield what, other["case"], f"{ratio:.2f} times ({line['seconds']:.3f} s)"


def of_training(rows: list) -> Iterable[Row]:
    for row in rows:
        ratio = row["segzoo"]["images_per_second"] / row["peer"]["images_per_second"]
        memory = f"{row['segzoo']['peak_mib'] / 1024:.1f} GiB instead of {row['peer']['peak_mib'] / 1024:.1f}"
        yield (
            f"training UPerNet-R50, crops of 512, {row['precision']}",
            "loop of transformers' script, its UPerNet-R50",
            f"{ratio:.2f} times; {memory}",
        )


def of_jobs(figures: dict) -> Iterable[Row]:
    seconds = figures["seconds"]
    for job in ("evaluate", "predict"):
        theirs, ours = seconds[f"{job} transformers"], seconds[f"{job} segzoo"]
        result = f"{theirs / ours:.2f} times; {ours / figures['stages']['model']:.2f} times the model alone"
        yield f"`segzoo {job}`, {figures['pictures']} drawn scenes, SegFormer-B0", "plain loop of transformers", result


def of_data(figures: dict) -> Iterable[Row]:
    peers = {
        "crops": "loader of transformers' script",
        "whole augmentation": "plain loop of torchvision",
        "reduced decoding": "whole decoding",
    }
    rates = {name: max(values) for name, values in figures["pictures_per_second"].items()}
    for name, ratio in figures["ratios"].items():
        yield f"the loader alone, {name}", peers[name.partition(",")[0]], f"{ratio:.2f} times"
    for name, rate in rates.items():
        if name.startswith("segzoo crops"):
            yield f"the loader alone, {name.removeprefix('segzoo crops, ')}", "", f"{rate:.0f} pictures/s"


PLAIN = "grid_sample, plain layers"  # computed as the original does
ENDING = 10
"""Seconds for what comes before and after the benchmarks."""
WHAT = {"speed": "inference", "steps": "training step"}
GROUPS = ("uper", "segformer-b0", "swin", "convnext", "internimage", "adapter")
STEPS = ("segformer-b0", "convnext", "internimage")  # others take minutes a round on slow machines
SIDES = ("transformers", "transformers sdpa", "smp", "segzoo")
CASES = (
    *SIDES,
    *(f"{side} contiguous" for side in SIDES),
    "segzoo fused",
    "grid_sample",
    PLAIN,
    f"{PLAIN} contiguous",
)
BENCHMARKS = {
    "inference": Benchmark("inference.py", ("--part", "upsampling", "--minutes", "0.3"), 4, of_inference),
    "deformable": Benchmark(
        "deformable.py",
        ("--rounds", "3", "--minutes", "0.4", "--memory", "grid_sample", "eager"),
        7,
        of_deformable,
    ),
    "models": Benchmark(
        "models.py",
        ("--groups", *GROUPS, "--parts", "speed", "--rounds", "4", "--minutes", "0.6", "--cases", *CASES),
        6,
        of_models,
    ),
    "steps": Benchmark(
        "models.py",
        ("--groups", *STEPS, "--parts", "steps", "--rounds", "4", "--minutes", "1.5", "--cases", *CASES),
        7,
        of_models,
    ),
    "training": Benchmark("training.py", ("--steps", "2", "--rounds", "1"), 5, of_training),
    "data": Benchmark("data.py", ("--rounds", "3"), 2, of_data),
    "jobs": Benchmark("jobs.py", ("--pictures", "24", "--few", "6", "--rounds", "1", "--fitted"), 5, of_jobs),
}


def main() -> None:
    """Run the chosen benchmarks, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the table and the figures")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads())
    parser.add_argument("--minutes", type=float, default=30, help="for all of it; what does not fit is left out")
    parser.add_argument("--read", action="store_true", help="measure nothing: the table of the figures in the folder")
    args = parser.parse_args()
    if args.read and not (args.output / "machine.json").is_file():
        parser.error(f"{args.output} holds no figures of an earlier run; leave out --read to measure them")
    args.output.mkdir(parents=True, exist_ok=True)
    missing = {}
    if not args.read:
        (args.output / "machine.json").write_text(json.dumps(machine(args.threads), indent=2) + "\n", encoding="utf-8")
        end = time.perf_counter() + 60 * args.minutes - ENDING
        for name in args.only:
            limit = min(60 * BENCHMARKS[name].minutes, end - time.perf_counter())
            if reason := run(BENCHMARKS[name], args.output / f"{name}.json", args.threads, limit):
                missing[name] = reason
    text = table(args.output, missing)
    (args.output / "speed.md").write_text(text, encoding="utf-8")
    print(text)


def machine(threads: int) -> dict:
    """The processor, what it can do, and the versions."""
    names = [line.split(":", 1)[1].strip() for line in cpu_lines() if line.startswith("model name")]
    flags = next((line.split() for line in cpu_lines() if line.startswith("flags")), [])
    sets = [
        name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16") if name in flags
    ]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "instruction_sets": sets,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
    }


def cpu_lines() -> list[str]:
    """What Linux says about the processor; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def run(benchmark: Benchmark, output: Path, threads: int, limit: float) -> str | None:
    """Run a script for at most ``limit`` seconds; returns why it has not all figures, or None."""
    command = [sys.executable, str(HERE / benchmark.script), *benchmark.arguments, "--json", str(output)]
    output.unlink(missing_ok=True)
    if limit <= 0:
        return "no time was left"
    print(f"\n{' '.join(command[1:])}", flush=True)
    start = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    # A session of its own, so that the processes that it starts end with it.
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            status = process.wait(limit)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return f"stopped after {limit / 60:.1f} minutes"
            raise
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return f"exit status {status}" if status else None


def table(folder: Path, missing: dict[str, str]) -> str:
    """The Markdown table of all figures in the folder."""
    facts = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
    lines = [
        f"{facts['processor']} ({', '.join(facts['instruction_sets'])}), {facts['threads']} threads on "
        f"{facts['cores']} cores, PyTorch {facts['torch']}\n",
        "| what | against | result |",
        "|---|---|---|",
    ]
    for name, benchmark in BENCHMARKS.items():
        path = folder / f"{name}.json"
        if path.exists():
            rows = benchmark.rows(json.loads(path.read_text(encoding="utf-8")))
            lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += [f"\n{name}: {reason}" for name, reason in missing.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
