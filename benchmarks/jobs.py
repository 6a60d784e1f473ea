"""Whole jobs: ``segzoo evaluate`` and ``segzoo predict`` against a plain loop with transformers, start included.

    python benchmarks/jobs.py                                   # 200 pictures of 512x683, SegFormer-B0, two rounds
    python benchmarks/jobs.py --pictures 40 --rounds 1 --json jobs.json
    python benchmarks/jobs.py --threads 1 --clock cpu          # where other programs use the machine
    python benchmarks/jobs.py --fitted                          # label maps of areas, not of noise
    python benchmarks/jobs.py --model upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K

Both sides run the same random weights with 150 classes on the same JPEG pictures, one at a time, each in a fresh
process and in turns. The loop does what transformers' documentation shows: Pillow, image processor, model,
``post_process_semantic_segmentation`` at the picture's size, then ``np.bincount`` for the scores or a PNG of the labels.
``segzoo evaluate`` scores and writes its results, ``segzoo predict`` writes labels, class table and overlay.

Random weights label every pixel otherwise than its neighbours, which is the worst case of everything that comes after the
model. With ``--fitted`` the pictures are drawn scenes, and the last layer is fitted to others of them by least squares, so
that the label maps are made of areas with borders. How much of them is border is printed.

A second job of few pictures tells the start, which depends on no number of pictures, from what each further picture costs;
that is compared with the model alone. Below: where the time goes, measured stage by stage in one process on the same
pictures.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from options import at_least

if TYPE_CHECKING:
    import numpy as np

    from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor

SEGFORMER = "segformer_mit-b0_512x512_160k_ade20k"
NUM_LABELS = 150
SIZE = (512, 683)
SIDES = ("transformers", "segzoo")
JOBS = ("evaluate", "predict")
FEW = ", few pictures"  # how the names of the jobs end that tell the start
SPREAD = 16  # the classes of the scenes are every so many of the model's
FITTED_TO, FIRST_FITTED = 12, 10_000  # scenes that no job sees


def main() -> None:
    """Run all jobs in turns, and print ratios and shares."""
    args = parse()
    if args.peer:
        peer(args)
        return
    few = min(args.few, args.pictures)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["HF_HOME"] = str(folder / "home")  # where the commands keep which memory format is the faster one
        parts = {
            "": write_pictures(folder / "data", args.pictures, scenes=args.fitted),
            FEW: write_pictures(folder / "few", few, scenes=args.fitted),
        }
        theirs, ours = write_models(folder, args.model, fitted=args.fitted)
        seconds: dict[str, list[float]] = {}
        for job in JOBS:
            words = words_of(job, "segzoo", ours, parts[FEW], folder / f"{job}-first", args)
            seconds[f"{job} segzoo, few pictures, first job"] = [timed(words, args.threads, args.clock)]
        for number in range(args.rounds):
            for job in JOBS:
                for side in SIDES:
                    for name, part in parts.items():
                        output = folder / f"{job}-{side}-{number}{name}"
                        words = words_of(job, side, theirs if side == "transformers" else ours, part, output, args)
                        seconds.setdefault(f"{job} {side}{name}", []).append(timed(words, args.threads, args.clock))
        same = same_labels(*(folder / f"predict-{side}-0" for side in SIDES))
        stages, borders = stage_seconds(ours, parts[""], args.threads, args.clock)
    figures = {
        "model": args.model,
        "fitted": args.fitted,
        "pictures": args.pictures,
        "few": few,
        "threads": args.threads,
        "clock": args.clock,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "stages": stages,
        "same_labels": same,
        "borders": borders,
    }
    report(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SEGFORMER, metavar="ROW", help="row of the zoo that transformers has too")
    parser.add_argument("--fitted", action="store_true", help="fit the last layer to drawn scenes, and label such")
    parser.add_argument("--pictures", type=at_least(1), default=200)
    parser.add_argument(
        "--few", type=at_least(1), default=8, help="pictures of the jobs that tell the start (default: 8)"
    )
    parser.add_argument("--rounds", type=at_least(1), default=2)
    parser.add_argument("--threads", type=at_least(1), default=2)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the processes' own seconds, of all their threads",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--peer", nargs=4, metavar=("JOB", "MODEL", "DATA", "OUTPUT"), help=argparse.SUPPRESS)
    return parser.parse_args()


# What the jobs work on


def write_pictures(folder: Path, count: int, *, scenes: bool) -> Path:
    """JPEG pictures with masks, a data set with the one split ``validation``: blurred blocks, or drawn scenes."""
    from PIL import Image

    for part in ("images", "annotations"):
        (folder / part / "validation").mkdir(parents=True)
    for number, (picture, mask) in enumerate(drawn(count) if scenes else blocks(count)):
        Image.fromarray(picture).save(folder / "images" / "validation" / f"{number:04d}.jpg", quality=90)
        Image.fromarray(mask).save(folder / "annotations" / "validation" / f"{number:04d}.png")
    return folder


def blocks(count: int) -> "Iterator[tuple[np.ndarray, np.ndarray]]":
    """Pictures of blurred random blocks, and masks of others."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for _ in range(count):
        coarse = rng.integers(0, 256, (16, 22, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC)
        mask = rng.integers(0, NUM_LABELS, (16, 22), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
        yield np.asarray(picture), mask[: SIZE[0], : SIZE[1]]


def drawn(count: int, first: int = 0) -> "Iterator[tuple[np.ndarray, np.ndarray]]":
    """Scenes of `segzoo.data.scenes` whose classes are spread over the model's."""
    import numpy as np

    from segzoo.data.scenes import draw_scene

    for number in range(first, first + count):
        picture, mask = draw_scene(number, size=SIZE)
        yield picture, np.where(mask == 255, 255, mask * SPREAD).astype(np.uint8)


def write_models(folder: Path, name: str, *, fitted: bool) -> tuple[Path, Path]:
    """A model with random weights as a folder of transformers and one of segzoo, neither of which resizes pictures."""
    import torch

    from segzoo import SegZooForSemanticSegmentation, SegZooImageProcessor
    from segzoo.conversion.transformers_folders import write_transformers_folder
    from segzoo.hub import save_model_folder

    torch.manual_seed(0)
    model = SegZooForSemanticSegmentation(config_of(name)).eval()
    processor = SegZooImageProcessor(do_resize=False)
    if fitted:
        fit(model, processor)
    theirs, ours = folder / "transformers", folder / "segzoo"
    write_transformers_folder(model, processor, theirs)
    return theirs, save_model_folder(model, processor, ours)


def config_of(name: str) -> "SegZooConfig":
    """The config of a row without auxiliary heads; of SegFormer-B0 the authors' head, as transformers has it."""
    from segzoo import SegZooConfig, zoo
    from segzoo.auto import backbone_variants
    from segzoo.conversion.translate import translate_config
    from segzoo.heads import SegFormerHeadConfig

    if name != SEGFORMER:
        config = translate_config(zoo.original_config(zoo.find(name).name)).config
        config.auxiliary_head_configs = []
        return config
    backbone = backbone_variants()["mit_b0"].variant_config("mit_b0", norm_eps=1e-5, patch_norm_eps=1e-5)
    head = SegFormerHeadConfig(channels=256, linear_projections=True)
    return SegZooConfig(
        backbone_config=backbone, decode_head_configs=[head], auxiliary_head_configs=[], num_labels=NUM_LABELS
    )


def fit(model: "SegZooForSemanticSegmentation", processor: "SegZooImageProcessor") -> None:
    """Fit the last layer to scenes by least squares: 1 for the class of a pixel, 0 for all others."""
    import torch
    from torch.nn import functional as F

    classifier = model.decode_heads[-1].classifier
    channels = classifier.weight.shape[1]
    squares = torch.zeros(channels + 1, channels + 1, dtype=torch.float64)
    wanted = torch.zeros(channels + 1, NUM_LABELS, dtype=torch.float64)
    taken: list[Any] = []
    hook = classifier.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0][0].double()))
    with torch.no_grad():
        for picture, mask in drawn(FITTED_TO, FIRST_FITTED):
            model(processor(picture, return_tensors="pt")["pixel_values"])
            found = taken.pop()
            labels = F.interpolate(torch.from_numpy(mask)[None, None].float(), found.shape[1:])[0, 0].long().flatten()
            found = F.pad(found.flatten(1), (0, 0, 0, 1), value=1.0)[:, labels != 255]
            squares += found @ found.t()
            wanted += found @ F.one_hot(labels[labels != 255], NUM_LABELS).double()
        squares.diagonal().add_(1e-6 * squares.diagonal().mean())
        weights = torch.linalg.solve(squares, wanted).float()
        classifier.weight.copy_(weights[:-1].t()[..., None, None])
        classifier.bias.copy_(weights[-1])
    hook.remove()


# The jobs


def words_of(job: str, side: str, model: Path, data: Path, output: Path, args: argparse.Namespace) -> list[object]:
    """The words after ``python`` that run a job."""
    if side == "transformers":
        return [__file__, "--peer", job, model, data, output, "--threads", args.threads]
    if job == "evaluate":
        return ["-m", "segzoo", "evaluate", model, data, "--num_labels", NUM_LABELS, "--output", output]
    return ["-m", "segzoo", "predict", data / "images" / "validation", "--model", model, "--output", output]


def timed(words: list, threads: int, clock: str = "wall") -> float:
    """Seconds of a Python command, from start to end, or those that it computed.

    Raises:
        SystemExit: it failed; its messages are shown.
    """

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


def same_labels(theirs: Path, ours: Path) -> float:
    """Share of the pixels to which both sides gave the same class, 0 to 1."""
    import numpy as np
    from PIL import Image

    return statistics.fmean(
        float((np.asarray(Image.open(path)) == np.asarray(Image.open(ours / path.name))).mean())
        for path in theirs.glob("*.png")
    )


def stage_seconds(folder: Path, data: Path, threads: int, clock: str = "wall") -> tuple[dict[str, float], float]:
    """Seconds of each stage over all pictures, one picture at a time, after one to warm up.

    The model is prepared as the commands prepare it.

    Returns:
        The seconds, and the share of neighbouring pixels of the label maps that have different classes.
    """
    import numpy as np
    import torch
    from PIL import Image

    import segzoo
    from segzoo.images.reading import open_picture
    from segzoo.images.writing import write_jpeg, write_png
    from segzoo.inference.label_maps import label_map_from_logits
    from segzoo.inference.views import ViewReader
    from segzoo.memory import keep_freed_memory
    from segzoo.metrics import ConfusionMatrix
    from segzoo.prediction.labeller import Labeller, Prediction

    now = time.process_time if clock == "cpu" else time.perf_counter
    torch.set_num_threads(threads)
    keep_freed_memory()
    labeller, _ = Labeller.loaded(segzoo.load(folder), SIZE)
    predictor = labeller.predictor
    layout = {"memory_format": torch.channels_last} if is_channels_last(predictor.model) else {}
    matrix = ConfusionMatrix(NUM_LABELS)
    seconds = dict.fromkeys(("decoding", "model", "argmax", "scoring", "writing", "overlay"), 0.0)
    paths = sorted((data / "images" / "validation").iterdir())
    borders = []
    output = data / "written"
    output.mkdir()
    for number, path in enumerate([paths[0], *paths]):
        marks = [now()]
        image = open_picture(path).grey_levels(3)
        (view,) = predictor.views(image)
        reader = ViewReader(predictor.image_processor, view)
        values = reader.whole()[None].contiguous(**layout)
        mask = np.array(Image.open(data / "annotations" / "validation" / f"{path.stem}.png"))
        marks.append(now())
        with torch.no_grad():
            logits = predictor.model(values).logits[0]
        marks.append(now())
        labels = label_map_from_logits(logits, **reader.plan(mask.shape), dtype=torch.uint8)
        marks.append(now())
        matrix.update(labels, mask)
        marks.append(now())
        found = Prediction(image, labels.numpy(), labeller)
        write_png(output / f"{path.stem}.png", Image.fromarray(found.label_map))
        marks.append(now())
        write_jpeg(output / f"{path.stem}_overlay.jpg", found.overlay)
        marks.append(now())
        if number:
            borders += [labels.diff(dim=axis).ne(0).float().mean().item() for axis in range(2)]
            for name, start, end in zip(seconds, marks, marks[1:], strict=False):
                seconds[name] += end - start
    return seconds, statistics.fmean(borders)


def is_channels_last(model: Any) -> bool:
    """Whether the weights of a model's convolutions are stored with their channels last."""
    import torch

    wide = [weight for weight in model.parameters() if weight.ndim == 4 and min(weight.shape[1:]) > 1]
    return bool(wide) and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in wide)


def report(figures: dict[str, Any]) -> None:
    """Print what was measured."""
    seconds, stages, pictures, few = (figures[name] for name in ("seconds", "stages", "pictures", "few"))
    seen = "seconds of all threads" if figures["clock"] == "cpu" else "seconds"
    print(
        f"{figures['model']}{', fitted' * figures['fitted']}, {NUM_LABELS} classes, {pictures} pictures of "
        f"{SIZE[0]}x{SIZE[1]}, {figures['threads']} threads, {seen}"
    )
    print(
        f"{figures['same_labels']:.2%} of the labels are the same on both sides; {figures['borders']:.1%} of the "
        "neighbouring pixels have different labels"
    )
    for job in JOBS:
        theirs, ours = seconds[f"{job} transformers"], seconds[f"{job} segzoo"]
        print(
            f"segzoo {job:9s}{ours:7.1f} s, the loop {theirs:7.1f} s: {theirs / ours:.2f} times as fast; "
            f"{ours / stages['model']:.2f} times the model's own {stages['model']:.1f} s"
        )
        if few == pictures:
            continue
        model = stages["model"] / pictures
        for side in SIDES:
            whole, part = seconds[f"{job} {side}"], seconds[f"{job} {side}{FEW}"]
            each = (whole - part) / (pictures - few)
            print(
                f"    {side}: start {part - few * each:.1f} s, each picture {each:.3f} s, {each / model:.2f} times "
                f"the model's own {model:.3f} s"
            )
    whole = sum(stages.values())
    print("stages: " + ", ".join(f"{name} {value / whole:.0%} ({value:.1f} s)" for name, value in stages.items()))


if __name__ == "__main__":
    main()
