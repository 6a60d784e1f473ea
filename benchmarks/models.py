"""Whole models, side by side in one run: seconds per image, and the memory of a training step.

    python benchmarks/models.py                              # InternImage-T UPerNet, its grid_sample form, and peers
    python benchmarks/models.py --groups mit --json mit.json # another group of the table below
    python benchmarks/models.py --groups convnext            # UPerNet-ConvNeXt-T, beside transformers'
    python benchmarks/models.py --groups uper psp deeplabv3 deeplabv3plus  # ResNet-50, beside segmentation_models.pytorch
    python benchmarks/models.py --groups attention           # one model of each of twelve methods on ResNet-50
    python benchmarks/models.py --cases segzoo grid_sample --precisions float32 --rounds 15 --size 640 640

Speed: one picture (batch 1) through models with random weights in inference, in float32 and under bfloat16 autocast.
All cases of a group are built in one process and run in turns; times are medians of the rounds. "times as fast"
compares with the group's first case in float32. Cases of one model share their weights: "differs" is the difference of
their logits from those of the first case, relative to its largest. All models have channels-last weights and inputs,
but for the cases named "contiguous"; compiled ones come from torch.compile. Freed memory stays with the process, as
it does in segzoo's commands. Groups beside segmentation_models.pytorch end with a summary: each side in its better
memory format, as fast as the peer in the same precision, and the same ratio per multiply-add, since the heads of the
peer are smaller (1x1 convolutions where the papers' code has 3x3). On a machine that others use too, ``--threads 1
--clock cpu`` measures the process's own seconds.

Memory: what a forward and backward on one picture with labels adds, at its peak, to what a fresh process holds with
the model built, with and without gradient checkpointing, and the time that this costs. This reads /proc (Linux).

Steps (``--parts steps``): the same forward and backward, all cases of a group in turns as for speed, compiled ones too,
against the first case in the same precision.

The cases stand in ``model_cases.py``. Published figures are those of the zoo's rows, measured on other devices at other
sizes: they give context, and are not a comparison.
"""

import argparse
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from model_cases import NUM_LABELS, Case, cases
from options import at_least
from rounds import rounds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from segzoo.inference.timing import has_bfloat16
from segzoo.memory import keep_freed_memory

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Measure the chosen groups, print tables, and write JSON with ``--json``."""
    args = parse()
    torch.set_num_threads(args.threads)
    chosen = [case for case in cases() if case.group in args.groups and (not args.cases or case.name in args.cases)]
    if args.memory_of:
        case = next(case for case in chosen if case.name == args.memory_of)
        print(json.dumps(training_step(case, args)))
        return
    keep_freed_memory()
    missing = {case.package for case in chosen if case.package and importlib.util.find_spec(case.package) is None}
    for package in sorted(missing):
        print(f"{package} is not installed: its line is left out (pip install {package})")
    chosen = [case for case in chosen if case.package not in missing]
    results = {"torch": torch.__version__, "threads": args.threads, "size": args.size}
    for group in dict.fromkeys(case.group for case in chosen):
        members = [case for case in chosen if case.group == group]
        results[group] = {}
        if "speed" in args.parts:
            results[group]["speed"] = speed(members, args)
        if "steps" in args.parts:
            results[group]["steps"] = steps([case for case in members if case.trains or case.compiled], args)
        if "memory" in args.parts:
            results[group]["memory"] = memory([case for case in members if case.trains], args)
        if args.json:  # after each group, for a run that is broken off
            args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """The options of the command line."""
    groups = list(dict.fromkeys(case.group for case in cases()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=groups, default=["internimage"])
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="only these cases of the groups")
    parser.add_argument("--parts", nargs="+", choices=["speed", "steps", "memory"], default=["speed", "memory"])
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=list(PRECISIONS) if has_bfloat16() else ["float32"],
        help="both, or float32 alone where the CPU emulates bfloat16",
    )
    parser.add_argument("--size", type=at_least(1), nargs=2, default=[512, 512], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=at_least(1), default=9, help="at most, of each group")
    parser.add_argument("--minutes", type=float, default=math.inf, help="for the rounds of a group")
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: the process's own seconds, on one thread"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # the fresh process
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock cpu needs --threads 1: several threads' seconds would be added")
    return args


def speed(members: list[Case], args: argparse.Namespace) -> list[dict]:
    """Time all cases of a group in turns, and print them."""
    models: dict[str, nn.Module] = {}
    runs = {}
    for case in members:
        if case.model not in models:
            torch.manual_seed(0)
            models[case.model] = case.build().eval().to(memory_format=case.layout)
        model = models[case.model]
        runs[case.name] = torch.compile(model) if case.compiled else model
    images = {layout: picture(args, layout) for layout in {case.layout for case in members}}
    entries = [(case, precision) for precision in args.precisions for case in members]
    seconds: dict[tuple[str, str], list[float]] = {(case.name, precision): [] for case, precision in entries}
    outputs: dict[tuple[str, str], Tensor] = {}
    clock = CLOCKS[args.clock]
    made = 0
    for counts in rounds(args.rounds, args.minutes):
        made += counts
        for case, precision in entries:
            with torch.no_grad(), case.swap(), autocast(precision):
                start = clock()
                output = logits(runs[case.name](images[case.layout]))
                elapsed = clock() - start
            if counts:  # the first round warms up and compiles
                seconds[case.name, precision].append(elapsed)
            else:
                outputs[case.name, precision] = output.float()

    first, precision = members[0], args.precisions[0]
    exact, usual = outputs[first.name, precision], statistics.median(seconds[first.name, precision])
    print(f"\n{first.group}: {args.size[0]}x{args.size[1]}, batch 1, {args.threads} threads, {made} rounds in turns")
    print(
        f"{'':44s} {'precision':>9s} {'s/image':>8s} {'images/s':>9s} {'times as fast':>14s} {'differs':>9s}  published"
    )
    lines = []
    for case, precision in entries:
        median = statistics.median(seconds[case.name, precision])
        line = {"case": case.name, "model": case.model, "precision": precision, "seconds": median}
        line |= {"images_per_second": 1 / median, "times_as_fast": usual / median, "published": case.published}
        if case.model == first.model:
            line["differs"] = float((outputs[case.name, precision] - exact).abs().max() / exact.abs().max())
        lines.append(line)
        differs = f"{line['differs']:.1e}" if "differs" in line else ""
        print(
            f"{case.name:44s} {precision:>9s} {median:8.3f} {1 / median:9.2f} {usual / median:14.2f} {differs:>9s}"
            f"  {case.published}",
            flush=True,
        )
    for model in dict.fromkeys(case.model for case in members):
        count = sum(p.numel() for p in models[model].parameters())
        print(f"  {model}: {count / 1e6:.1f}M weights")
    if first.side:
        lines += by_side(members, seconds, args)
    return lines


def by_side(members: list[Case], seconds: dict[tuple[str, str], list[float]], args: argparse.Namespace) -> list[dict]:
    """Compare the sides of a group with the first one, each in its better memory format, and print that."""
    sides = {case.side: [other for other in members if other.side == case.side] for case in members}
    work = {side: multiply_adds(cases[0], args) for side, cases in sides.items()}
    print(
        f"{'':44s} {'precision':>9s} {'s/image':>8s} {'times as fast':>14s} {'G multiply-adds':>16s} {'the same for each':>18s}"
    )
    lines = []
    for precision in args.precisions:
        best = {
            side: min(statistics.median(seconds[case.name, precision]) for case in cases)
            for side, cases in sides.items()
        }
        peer = members[0].side
        for side, median in best.items():
            ratio, each = best[peer] / median, best[peer] / median * work[side] / work[peer]
            lines.append({"side": side, "precision": precision, "seconds": median, "times_as_fast": ratio})
            lines[-1] |= {"multiply_adds": work[side], "times_as_fast_for_each": each}
            print(f"{side:44s} {precision:>9s} {median:8.3f} {ratio:14.2f} {work[side] / 1e9:16.1f} {each:18.2f}")
    return lines


def multiply_adds(case: Case, args: argparse.Namespace) -> int:
    """Pairs of a multiplication and an addition in one forward pass, as the model's layers define it."""
    with torch.device("meta"):
        model = case.build().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, *args.size, device="meta"))
    return counter.get_total_flops() // 2


def picture(args: argparse.Namespace, layout: torch.memory_format) -> Tensor:
    """A normalised picture of noise, (1, 3, height, width)."""
    image = torch.randn(1, 3, *args.size, generator=torch.Generator().manual_seed(1))
    return image.to(memory_format=layout)


def logits(output) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", PRECISIONS[precision], enabled=precision != "float32")


# Memory


def memory(members: list[Case], args: argparse.Namespace) -> list[dict]:
    """Measure memory and time of a training step of each case, each in a fresh process, and print them."""
    if not members:
        return []
    print(
        f"\ntraining step, batch 1, {args.size[0]}x{args.size[1]}: memory above the built model, at its peak, and seconds"
    )
    print(f"{'':44s} {'precision':>9s} {'plain':>20s} {'checkpointing':>20s}   memory   time")
    lines = []
    for precision in args.precisions:
        for case in members:
            plain, checkpointed = (in_fresh_process(case, precision, args, flag) for flag in (False, True))
            line = {"case": case.name, "precision": precision, "plain": plain, "checkpointing": checkpointed}
            lines.append(line)
            text = f"{case.name:44s} {precision:>9s} {plain['mib']:8.0f} MiB {plain['seconds']:6.2f} s"
            if checkpointed is None:
                print(f"{text} {'not supported':>20s}", flush=True)
                continue
            ratios = (checkpointed[key] / plain[key] for key in ("mib", "seconds"))
            text += f" {checkpointed['mib']:8.0f} MiB {checkpointed['seconds']:6.2f} s"
            print(text + " {:8.2f} {:6.2f}".format(*ratios), flush=True)
    return lines


def in_fresh_process(case: Case, precision: str, args: argparse.Namespace, checkpointing: bool) -> dict | None:
    command = [sys.executable, __file__, "--memory-of", case.name, "--groups", case.group, "--precisions", precision]
    command += ["--threads", str(args.threads), "--size", *map(str, args.size)]
    command += ["--checkpointing"] if checkpointing else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the process for {case.name} broke off; its message stands above")
    return json.loads(done.stdout.splitlines()[-1])


def training_step(case: Case, args: argparse.Namespace) -> dict | None:
    """Measure a forward and backward; None if checkpointing is wanted and the model does not support it."""
    model = in_training(case)
    if args.checkpointing:
        if not getattr(model, "supports_gradient_checkpointing", False):
            return None
        model.gradient_checkpointing_enable()
    image, labels = picture(args, case.layout), noise_labels(args)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before, start = high_water(), time.perf_counter()
    forward_and_backward(model, case, image, labels, args.precisions[0])
    return {"mib": high_water() - before, "seconds": time.perf_counter() - start}


def in_training(case: Case) -> nn.Module:
    """The case's model in training mode, but for batch norms: those of pooled grids have no statistics of one picture."""
    torch.manual_seed(0)
    model = case.build().train().to(memory_format=case.layout)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def noise_labels(args: argparse.Namespace) -> Tensor:
    """Labels of noise, (1, height, width)."""
    return torch.randint(0, NUM_LABELS, (1, *args.size), generator=torch.Generator().manual_seed(2))


def forward_and_backward(model: Callable, case: Case, image: Tensor, labels: Tensor, precision: str) -> None:
    """One training step without the optimizer's part: with the model's own loss, and for those that return scores alone, at
    the picture's size, with their cross-entropy.
    """
    has_loss = isinstance(getattr(model, "_orig_mod", model), PreTrainedModel)
    with case.swap():  # around the backward too, where checkpointing runs the layers again
        with autocast(precision):
            if has_loss:
                loss = model(image, labels=labels % model.config.num_labels).loss
            else:
                scores = logits(model(image)).float()
                loss = nn.functional.cross_entropy(scores, labels % scores.shape[1])
        loss.backward()


def steps(members: list[Case], args: argparse.Namespace) -> list[dict]:
    """Time training steps of all cases of a group in turns, and print them."""
    models: dict[str, nn.Module] = {}
    runs = {}
    for case in members:
        if case.model not in models:
            models[case.model] = in_training(case)
        runs[case.name] = torch.compile(models[case.model]) if case.compiled else models[case.model]
    entries = [(case, precision) for precision in args.precisions for case in members]
    seconds: dict[tuple[str, str], list[float]] = {(case.name, precision): [] for case, precision in entries}
    labels, clock = noise_labels(args), CLOCKS[args.clock]
    made = 0
    for counts in rounds(args.rounds, args.minutes):
        made += counts
        for case, precision in entries:
            image = picture(args, case.layout)
            start = clock()
            forward_and_backward(runs[case.name], case, image, labels, precision)
            elapsed = clock() - start
            models[case.model].zero_grad()
            if counts:  # the first round warms up and compiles
                seconds[case.name, precision].append(elapsed)
    print(f"\n{members[0].group}: training steps, {args.size[0]}x{args.size[1]}, batch 1, {made} rounds in turns")
    print(f"{'':44s} {'precision':>9s} {'s/step':>8s} {'times as fast':>14s}")
    lines = []
    for case, precision in entries:
        usual, median = (statistics.median(seconds[name, precision]) for name in (members[0].name, case.name))
        ratio = usual / median
        lines.append({"case": case.name, "precision": precision, "seconds": median, "times_as_fast": ratio})
        print(f"{case.name:44s} {precision:>9s} {median:8.3f} {ratio:14.2f}", flush=True)
    return lines


def high_water() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10


if __name__ == "__main__":
    main()
