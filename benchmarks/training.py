"""Images per second and memory of training UPerNet-R50: ``segzoo train`` against the loop of transformers' script.

    python benchmarks/training.py                       # 512x512, float32 and bfloat16 (where a CPU has it), two rounds
    python benchmarks/training.py --crop_size 256 --steps 4 --rounds 1
    python benchmarks/training.py --peer_model segzoo   # the loop trains segzoo's model, not transformers' own
    python benchmarks/training.py --frozen              # instead of the peer: a frozen backbone against a trained one

Both train UPerNet-R50 (512 channels, with the auxiliary head) on the same synthetic pictures with AdamW, each in its own
process, in turns; the peer transformers' own, or segzoo's, which shows what the loop alone costs. The peer does what
transformers' run_semantic_segmentation_no_trainer.py does in a step (random crop, flip and normalisation of NumPy
arrays in the process that its DataLoader uses by default, forward, backward, optimizer, schedule), as `peer_loop`
writes it. The first steps of each process do not count. On CPUs ``segzoo train`` measures the memory format for trainings of
a hundred steps alone: ``--memory_format`` names the one that it would take.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from options import at_least

if TYPE_CHECKING:
    from transformers import UperNetForSemanticSegmentation

WARM_UP = 2


def main() -> None:
    """Measure, print a table, and write JSON with ``--json``."""
    args = parse()
    if args.peer is not None:
        peer_loop(args)
        return
    from segzoo.data import write_scenes

    names = ("full", "frozen") if args.frozen else ("peer", "segzoo")
    titles = {"full": "all trained", "frozen": "frozen backbone", "peer": "upstream loop", "segzoo": "segzoo train"}
    if "peer" in names:
        print(f"upstream's loop trains the model of {args.peer_model}")
    with tempfile.TemporaryDirectory() as scratch:
        data = write_scenes(Path(scratch) / "data", num_train=32, num_validation=1, size=(args.height, args.width))
        rows = []
        for precision in args.precisions:
            measured = {name: [] for name in names}
            for number in range(args.rounds):
                for name in names:
                    output = Path(scratch) / f"{precision}{number}{name}"
                    measured[name].append(
                        run_peer(args, data, precision)
                        if name == "peer"
                        else run_script(args, data, precision, output, frozen=name == "frozen")
                    )
            rows.append({"precision": precision} | {who: summarise(values) for who, values in measured.items()})
    print(
        f"UPerNet on ResNet-50, crops of {args.crop_size}, batch {args.batch_size}, {args.steps} steps, {os.cpu_count()} cores"
    )
    print(f"{'':10}{titles[names[0]]:>16}{titles[names[1]]:>16}{'ratio':>8}{'memory':>22}{'waits for data':>18}")
    for row in rows:
        peer, own = (row[name] for name in names)
        print(
            f"{row['precision']:10}{peer['images_per_second']:>12.2f} im/s{own['images_per_second']:>12.2f} im/s"
            f"{own['images_per_second'] / peer['images_per_second']:>8.2f}"
            f"{peer['peak_mib']:>10.0f} ->{own['peak_mib']:>5.0f} MiB{peer['waiting']:>8.1%} ->{own['waiting']:>6.1%}"
        )
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """The options of the command line."""
    import torch

    from segzoo.inference.timing import has_bfloat16

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop_size", type=at_least(1), default=512)
    parser.add_argument("--height", type=at_least(1), default=640, help="of the pictures")
    parser.add_argument("--width", type=at_least(1), default=800, help="of the pictures")
    parser.add_argument("--batch_size", type=at_least(1), default=2)
    parser.add_argument("--steps", type=at_least(1), default=8, help="that count, in each round")
    parser.add_argument("--rounds", type=at_least(1), default=2)
    parser.add_argument(
        "--precisions",
        nargs="+",
        default=["no", "bf16"] if torch.cuda.is_available() or has_bfloat16() else ["no"],
        choices=["no", "bf16", "fp16"],
        help="float32 and bf16, or float32 alone where a CPU emulates bf16",
    )
    parser.add_argument("--backbone", default="resnet50_v1c", help="of segzoo's model")
    parser.add_argument("--peer_model", choices=["transformers", "segzoo"], default="transformers")
    parser.add_argument("--memory_format", choices=["auto", "contiguous", "channels_last"], default="auto")
    parser.add_argument("--num_workers", type=at_least(0), default=1, help="loading processes of segzoo train")
    parser.add_argument("--frozen", action="store_true", help="compare a frozen backbone with a trained one")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--peer", metavar="DATA", help=argparse.SUPPRESS)
    return parser.parse_args()


def summarise(runs: list[dict]) -> dict:
    """The median speed and the largest memory of several rounds."""
    return {
        "images_per_second": statistics.median(run["images_per_second"] for run in runs),
        "peak_mib": max(run["peak_mib"] for run in runs),
        "waiting": statistics.median(run["waiting"] for run in runs),
    }


def run_peer(args: argparse.Namespace, data: Path, precision: str) -> dict:
    """Run the peer in a fresh process; returns its figures."""
    words = [sys.executable, __file__, "--peer", data, "--precisions", precision]
    for name in ("crop_size", "batch_size", "steps", "backbone", "peer_model"):
        words += [f"--{name}", getattr(args, name)]
    output, peak = call(words)
    return json.loads(output.splitlines()[-1]) | {"peak_mib": peak}


def run_script(args: argparse.Namespace, data: Path, precision: str, output: Path, *, frozen: bool = False) -> dict:
    """Run ``segzoo train`` in a fresh process; returns the figures in its log."""
    options = {
        "dataset_name": data,
        "backbone": args.backbone,
        "output_dir": output,
        "crop_size": args.crop_size,
        "per_device_train_batch_size": args.batch_size,
        "max_train_steps": args.steps + WARM_UP,
        "logging_steps": 1,
        "mixed_precision": precision,
        "dataloader_num_workers": args.num_workers,
        "memory_format": args.memory_format,
    }
    words = [sys.executable, "-m", "segzoo", "train", "--do_train", "--random_backbone"]
    words += ["--no_photometric_distortion"]
    words += ["--scale_range", 1, 1, "--cat_max_ratio", 1]  # as the peer has it
    words += ["--freeze_backbone"] * frozen
    for name, value in options.items():
        words += [f"--{name}", value]
    _, peak = call(words)
    entries = [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]
    entries = [entry for entry in entries if entry["step"] > WARM_UP]
    seconds = sum(args.batch_size / entry["images_per_second"] for entry in entries)
    waited = sum(entry["waiting_for_data"] * args.batch_size / entry["images_per_second"] for entry in entries)
    return {
        "images_per_second": args.batch_size * len(entries) / seconds,
        "waiting": waited / seconds,
        "peak_mib": peak,
    }


def call(words: list) -> tuple[str, float]:
    """Run a command; returns its standard output and its largest resident memory in MiB."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([str(word) for word in words], stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0), errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, words))}\n{errors.read()}")
        return output.read(), usage.ru_maxrss / 1024


def transformers_upernet(num_labels: int) -> "UperNetForSemanticSegmentation":
    """transformers' UPerNet on ResNet-50, with its auxiliary head on the third stage."""
    from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

    stages = [f"stage{number}" for number in range(1, 5)]
    config = UperNetConfig(
        backbone_config=ResNetConfig(out_features=stages), auxiliary_in_channels=1024, num_labels=num_labels
    )
    return UperNetForSemanticSegmentation(config)


def peer_loop(args: argparse.Namespace) -> None:
    """Train with the steps of upstream's script, and print the figures as JSON."""
    import numpy as np
    import torch
    from accelerate import Accelerator
    from torch.utils.data import DataLoader
    from transformers import default_data_collator, get_scheduler

    from segzoo.data import find_classes, load_segmentation_dataset
    from segzoo.training import NewModel, build_model

    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision=args.precisions[0], cpu=not torch.cuda.is_available())
    classes = find_classes(args.peer)
    if args.peer_model == "segzoo":
        model = build_model(classes, new=NewModel(args.backbone, random_backbone=True))
    else:
        model = transformers_upernet(len(classes.names))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    size, rng = args.crop_size, np.random.default_rng(0)

    def transform(batch):
        result = {"pixel_values": [], "labels": []}
        for picture, mask in zip(batch["image"], batch["label"], strict=True):
            picture, mask = np.array(picture.convert("RGB")), np.array(mask)
            top, left = (rng.integers(0, edge - size + 1) for edge in mask.shape)
            picture, mask = picture[top : top + size, left : left + size], mask[top : top + size, left : left + size]
            if rng.random() < 0.5:
                picture, mask = picture[:, ::-1], mask[:, ::-1]
            picture = ((picture.astype(np.float32) / 255.0 - mean) / std).astype(np.float32)
            result["pixel_values"].append(torch.from_numpy(picture.transpose(2, 0, 1).copy()))
            result["labels"].append(torch.from_numpy(mask.astype(np.int64)))
        return result

    rows = load_segmentation_dataset(args.peer)["train"].with_transform(transform)
    loader = DataLoader(rows, shuffle=True, collate_fn=default_data_collator, batch_size=args.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    schedule = get_scheduler("polynomial", optimizer, num_warmup_steps=0, num_training_steps=10_000)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    model.train()
    step, waited, start = 0, 0.0, time.perf_counter()
    while step < args.steps + WARM_UP:
        batches = iter(loader)
        while step < args.steps + WARM_UP:
            if step == WARM_UP:
                waited, start = 0.0, time.perf_counter()
            before = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - before
            if batch is None:
                break
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            step += 1
    float(loss)  # waits for a GPU
    seconds = time.perf_counter() - start
    figures = {
        "images_per_second": args.steps * args.batch_size / seconds,
        "waiting": waited / seconds,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
