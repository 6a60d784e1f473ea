"""Whole jobs: ``segzoo evaluate`` and ``segzoo predict`` against a plain loop with transformers, start included.

    python benchmarks/jobs.py                                   # 200 pictures of 512x683, SegFormer-B0, two rounds
    python benchmarks/jobs.py --pictures 40 --rounds 1 --json jobs.json
    python benchmarks/jobs.py --threads 1 --clock cpu          # where other programs use the machine

Both sides run the same random weights of SegFormer-B0 with 150 classes on the same JPEG pictures, one at a time, each
in a fresh process and in turns. The loop does what transformers' documentation shows: Pillow, image processor, model,
``post_process_semantic_segmentation`` at the picture's size, then ``np.bincount`` for the scores or a PNG of the labels.
``segzoo evaluate`` scores and writes its results, ``segzoo predict`` writes labels, class table and overlay.

Below: where the time goes, measured stage by stage in one process on the same pictures, how long a job takes
compared with its model alone, and how long one of a single picture takes, which is the start. For the record, mmsegmentation's published test speed of this model (its own device and
size) stands in the zoo's row.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = "segformer_mit-b0_512x512_160k_ade20k"
NUM_LABELS = 150


def main() -> None:
    """Run all jobs in turns, and print ratios and shares."""
    args = parse()
    if args.peer:
        peer(args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, single = (write_pictures(folder / name, count) for name, count in (("data", args.pictures), ("one", 1)))
        theirs, ours = write_models(folder)
        seconds: dict[str, list[float]] = {}
        for number in range(args.rounds):
            for job in ("evaluate", "predict"):
                for side in ("transformers", "segzoo"):
                    for name, part in (("", data), (", one picture", single)):
                        output = folder / f"{job}-{side}-{number}{name}"
                        if side == "transformers":
                            words = [__file__, "--peer", job, theirs, part, output, "--threads", args.threads]
                        elif job == "evaluate":
                            words = [
                                "-m",
                                "segzoo",
                                "evaluate",
                                ours,
                                part,
                                "--num_labels",
                                NUM_LABELS,
                                "--output",
                                output,
                            ]
                        else:
                            pictures = part / "images" / "validation"
                            words = ["-m", "segzoo", "predict", pictures, "--model", ours, "--output", output]
                        seconds.setdefault(f"{job} {side}{name}", []).append(timed(words, args.threads, args.clock))
        stages = stage_seconds(ours, data, args.threads, args.clock)
    report(args, {name: statistics.median(values) for name, values in seconds.items()}, stages)


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the processes' own seconds, of all their threads",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--peer", nargs=4, metavar=("JOB", "MODEL", "DATA", "OUTPUT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def write_pictures(folder: Path, count: int) -> Path:
    """JPEG pictures of 512x683 with masks of blocks: a data set with the one split ``validation``."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("images", "annotations"):
        (folder / part / "validation").mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(0, 256, (16, 22, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((683, 512), Image.Resampling.BICUBIC)
        picture.save(folder / "images" / "validation" / f"{number:04d}.jpg", quality=90)
        mask = rng.integers(0, NUM_LABELS, (16, 22), dtype=np.uint8).repeat(32, 0).repeat(32, 1)[:512, :683]
        Image.fromarray(mask).save(folder / "annotations" / "validation" / f"{number:04d}.png")
    return folder


def write_models(folder: Path) -> tuple[Path, Path]:
    """SegFormer-B0 with random weights, as transformers' folder and converted to ours."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    theirs, ours = folder / "transformers", folder / "segzoo"
    SegformerForSemanticSegmentation(SegformerConfig(num_labels=NUM_LABELS)).save_pretrained(theirs)
    SegformerImageProcessor(do_resize=False).save_pretrained(theirs)
    timed(["-m", "segzoo", "convert", theirs, "--output", ours], threads=2)
    return theirs, ours


def timed(words: list, threads: int, clock: str = "wall") -> float:
    """Seconds of a Python command, from start to end, or those that it computed.

    Raises:
        SystemExit: it failed; its messages are shown.
    """
    import os
    import resource

    def computed() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    now = computed if clock == "cpu" else time.perf_counter
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    start = now()
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout}")
    return now() - start


def peer(args: argparse.Namespace) -> None:
    """A plain loop with transformers: scores, or label maps as PNG."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    job, model_folder, data, output = args.peer
    torch.set_num_threads(args.threads)
    processor = AutoImageProcessor.from_pretrained(model_folder)
    model = AutoModelForSemanticSegmentation.from_pretrained(model_folder).eval()
    confusion = np.zeros(NUM_LABELS**2, np.int64)
    Path(output).mkdir()
    for path in sorted((Path(data) / "images" / "validation").iterdir()):
        picture = Image.open(path).convert("RGB")
        inputs = processor(images=picture, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        (labels,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[picture.size[::-1]])
        if job == "predict":
            Image.fromarray(labels.numpy().astype(np.uint8)).save(Path(output) / f"{path.stem}.png")
            continue
        mask = np.array(Image.open(Path(data) / "annotations" / "validation" / f"{path.stem}.png")).astype(np.int64)
        keep = mask != 255
        pairs = mask[keep] * NUM_LABELS + labels.numpy()[keep]
        confusion += np.bincount(pairs, minlength=NUM_LABELS**2)
    if job == "evaluate":
        counts = confusion.reshape(NUM_LABELS, NUM_LABELS)
        hits = np.diag(counts)
        union = counts.sum(0) + counts.sum(1) - hits
        print(f"mIoU {np.nanmean(hits / np.where(union, union, np.nan)):.4f}")


def stage_seconds(folder: Path, data: Path, threads: int, clock: str = "wall") -> dict[str, float]:
    """Seconds of each stage over all pictures, one picture at a time, after one to warm up."""
    import numpy as np
    import torch
    from PIL import Image

    import segzoo
    from segzoo.inference.label_maps import label_map_from_logits
    from segzoo.memory import keep_freed_memory
    from segzoo.metrics import ConfusionMatrix

    now = time.process_time if clock == "cpu" else time.perf_counter
    torch.set_num_threads(threads)
    keep_freed_memory()
    model, processor = segzoo.load(folder)
    model.fuse()
    matrix = ConfusionMatrix(NUM_LABELS)
    seconds = dict.fromkeys(("decoding", "model", "argmax", "scoring", "writing"), 0.0)
    paths = sorted((data / "images" / "validation").iterdir())
    output = data / "written"
    output.mkdir()
    for number, path in enumerate([paths[0], *paths]):
        marks = [now()]
        values = processor(Image.open(path), return_tensors="pt")["pixel_values"]
        mask = np.array(Image.open(data / "annotations" / "validation" / f"{path.stem}.png"))
        marks.append(now())
        with torch.no_grad():
            logits = model(values).logits[0]
        marks.append(now())
        labels = label_map_from_logits(logits, mask.shape)
        marks.append(now())
        matrix.update(labels, mask)
        marks.append(now())
        Image.fromarray(labels.numpy().astype(np.uint8)).save(output / f"{path.stem}.png")
        marks.append(now())
        if number:
            for name, start, end in zip(seconds, marks, marks[1:], strict=False):
                seconds[name] += end - start
    return seconds


def report(args: argparse.Namespace, seconds: dict[str, float], stages: dict[str, float]) -> None:
    """Print what was measured, and write it as JSON if that is asked for."""
    seen = "seconds of all threads" if args.clock == "cpu" else "seconds"
    print(f"SegFormer-B0, {NUM_LABELS} classes, {args.pictures} pictures of 512x683, {args.threads} threads, {seen}")
    for job in ("evaluate", "predict"):
        theirs, ours = seconds[f"{job} transformers"], seconds[f"{job} segzoo"]
        print(
            f"segzoo {job:9s}{ours:7.1f} s, the loop {theirs:7.1f} s: {theirs / ours:.2f} times as fast; "
            f"{ours / stages['model']:.2f} times the model's own {stages['model']:.1f} s; of one picture "
            f"{seconds[f'{job} segzoo, one picture']:.1f} and {seconds[f'{job} transformers, one picture']:.1f} s"
        )
    whole = sum(stages.values())
    print("stages: " + ", ".join(f"{name} {value / whole:.0%} ({value:.1f} s)" for name, value in stages.items()))
    if args.json:
        figures = {
            "pictures": args.pictures,
            "threads": args.threads,
            "clock": args.clock,
            "seconds": seconds,
            "stages": stages,
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
