"""The loader alone: pictures per second of segzoo's, of transformers' script's, and of a plain loop with torchvision.

    python benchmarks/data.py                               # 96 pictures of 512x683, crops of 512, three rounds
    python benchmarks/data.py --json data.json --rounds 2 --num_workers 4
    python benchmarks/data.py --cpu_seconds                 # on a machine that others use, too

All read the same JPEG pictures and PNG masks, in turns, in batches of 8 and by default by one loading process, so that
the figures are work, not cores. ``script`` is the loader of transformers' run_semantic_segmentation_no_trainer.py: PadIfNeeded,
RandomCrop, HorizontalFlip, Normalize and ToTensorV2 of albumentations in `Dataset.set_transform`, default_data_collator.
segzoo does the same steps against it ("crops", in both memory formats of a training). ``torchvision`` is a data set that opens files with Pillow and calls
torchvision v2: random scale of 0.5 to 2, crop, flip, photometric distortion, normalisation; segzoo's default training
transform is set against it ("whole augmentation"). Zip, parquet and webdataset are read by segzoo alone, and --reduced_decoding
is compared with none on pictures of three times the size whose short edge is trained at 256 to 1024. With --cpu_seconds all
load in this process, and the processor time that it takes is counted instead of the clock's.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from options import at_least

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import datasets
import numpy as np
import PIL.Image
import torch

from segzoo.data import (
    Augmentation,
    SegmentationDataset,
    build_train_transform,
    load_segmentation_dataset,
)
from segzoo.data.levels import LevelsTransform
from segzoo.data.loader import Loader
from segzoo.data.scenes import draw_scene
from segzoo.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from segzoo.memory import keep_freed_memory

CROP, BATCH, CLASSES = 512, 8, 9
# In one of four, which are made large, the loaders have a second batch: the first one is not counted.
FEWEST = 4 * BATCH + 1
FORMATS = ("folders", "zip", "parquet", "webdataset")


def main() -> None:
    """Measure all loaders in turns, and print pictures per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=at_least(FEWEST), default=96)
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--num_workers", type=at_least(0), default=1)
    parser.add_argument("--size", type=at_least(1), nargs=2, default=(512, 683), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--cpu_seconds", action="store_true", help="count this process's own processor time")
    args = parser.parse_args()
    clock = time.perf_counter
    if args.cpu_seconds:
        args.num_workers, clock = 0, time.process_time
        torch.set_num_threads(1)
        keep_freed_memory()  # as in loading processes
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        datasets.config.HF_DATASETS_CACHE = Path(scratch) / "cache"
        places = write_data(Path(scratch), args.pictures, tuple(args.size))
        cases = make_cases(places, args.num_workers)
        rates: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(args.rounds):
            for name, batches in cases.items():
                rates[name].append(rate(batches(), clock))
    best = {name: max(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:40} {best[name]:7.1f} pictures/s (median {statistics.median(values):.1f})")
    ratios = {
        "crops": best["segzoo crops, folders"] / best["script crops, folders"],
        "crops, channels-last": best["segzoo crops, channels-last"] / best["script crops, folders"],
        "whole augmentation": best["segzoo whole, folders"] / best["torchvision whole, folders"],
        "reduced decoding": best["segzoo large reduced, folders"] / best["segzoo large, folders"],
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times")
    if args.json:
        figures = {"pictures": args.pictures, "size": list(args.size), "num_workers": args.num_workers}
        figures["clock"] = clock.__name__
        args.json.write_text(json.dumps(figures | {"pictures_per_second": rates, "ratios": ratios}, indent=2) + "\n")


def rate(batches: Iterable[Any], clock: Callable[[], float]) -> float:
    """Pictures per second, from the first batch on: loading processes have started by then."""
    iterator = iter(batches)
    next(iterator)
    start, count = clock(), 0
    for batch in iterator:
        count += len(batch["pixel_values"])
    return count / (clock() - start)


def write_data(folder: Path, count: int, size: tuple[int, int]) -> dict[str, Path]:
    """The same pairs in all formats; returns their places."""
    import tarfile
    import zipfile

    tree = folder / "tree"
    for kind in ("images", "annotations"):
        (tree / kind / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        image, mask = draw_scene(number, size=size)
        noisy = np.clip(image.astype(np.int16) + rng.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(noisy).save(tree / f"images/train/{number:04}.jpg", quality=90)
        PIL.Image.fromarray(mask).save(tree / f"annotations/train/{number:04}.png")
        if number % 4 == 0:
            for kind, name, resample in (("images", f"{number:04}.jpg", 3), ("annotations", f"{number:04}.png", 0)):
                (folder / "large" / kind / "train").mkdir(parents=True, exist_ok=True)
                with PIL.Image.open(tree / kind / "train" / name) as small:
                    small.resize((3 * size[1], 3 * size[0]), resample).save(folder / "large" / kind / "train" / name)
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    with zipfile.ZipFile(folder / "tree.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(tree))
    pictures, masks = (sorted(path for path in files if path.suffix == suffix) for suffix in (".jpg", ".png"))
    table = {
        name: [{"path": path.name, "bytes": path.read_bytes()} for path in paths]
        for name, paths in (("image", pictures), ("label", masks))
    }
    features = datasets.Features({name: datasets.Image() for name in table})
    datasets.Dataset.from_dict(table, features=features).to_parquet(folder / "train.parquet")
    with tarfile.open(folder / "train.tar", "w") as shard:
        for picture, mask in zip(pictures, masks, strict=True):
            shard.add(picture, f"{picture.stem}.jpg")
            shard.add(mask, f"{mask.stem}.png")
    places = (tree, folder / "tree.zip", folder / "train.parquet", folder / "train.tar")
    return {"large": folder / "large", **dict(zip(FORMATS, places, strict=True))}


def make_cases(places: dict[str, Path], num_workers: int) -> dict[str, Callable[[], Iterable[Any]]]:
    """Functions that return the batches of an epoch, by name."""
    plain = {"scale_range": (1.0, 1.0), "cat_max_ratio": 1.0, "photometric_distortion": False}
    folders = load_segmentation_dataset(places["folders"])["train"]
    cases = {
        "script crops, folders": script(folders, num_workers),
        "segzoo crops, folders": ours(folders, num_workers, **plain),
        "segzoo crops, channels-last": ours(folders, num_workers, memory_format=torch.channels_last, **plain),
        "torchvision whole, folders": plain_loop(places["folders"], num_workers),
        "segzoo whole, folders": ours(folders, num_workers),
    }
    large = load_segmentation_dataset(places["large"])["train"]
    for name, reduced in (("large", False), ("large reduced", True)):
        cases[f"segzoo {name}, folders"] = ours(large, num_workers, scale_size=(CROP,), reduced_decoding=reduced)
    for name in FORMATS[1:]:
        rows = load_segmentation_dataset(places[name])["train"]
        cases[f"segzoo crops, {name}"] = ours(rows, num_workers, **plain)
    return cases


def ours(
    rows: datasets.Dataset,
    num_workers: int,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
    **augmentation: Any,
) -> Callable[[], Iterable[Any]]:
    """Segzoo's loader, as a training on the CPU makes it; on a GPU, that normalises."""
    transform = LevelsTransform(build_train_transform(Augmentation(crop_size=(CROP, CROP), **augmentation)))
    data = SegmentationDataset(rows, transform, num_labels=CLASSES)
    batches = [range(first, min(first + BATCH, len(data))) for first in range(0, len(data), BATCH)]

    def epoch() -> Iterable[Any]:
        for batch in Loader(data, batches, collate=transform.collate, num_workers=num_workers):
            finished = transform.finish(batch, memory_format=memory_format)
            yield finished | {"labels": finished["labels"].long()}

    return epoch


def script(rows: datasets.Dataset, num_workers: int) -> Callable[[], Iterable[Any]]:
    """The loader of transformers' script, written anew."""
    import albumentations
    from albumentations.pytorch import ToTensorV2
    from transformers import default_data_collator

    transforms = albumentations.Compose(
        [
            albumentations.PadIfNeeded(min_height=CROP, min_width=CROP, border_mode=0, fill_mask=255, p=1.0),
            albumentations.RandomCrop(height=CROP, width=CROP, p=1.0),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD, max_pixel_value=255.0, p=1.0),
            ToTensorV2(p=1.0),
        ]
    )

    def prepare(batch: dict[str, list]) -> dict[str, torch.Tensor]:
        pictures, labels = [], []
        for image, label in zip(batch["image"], batch["label"], strict=True):
            done = transforms(image=np.array(image.convert("RGB")), mask=np.array(label))
            pictures.append(done["image"])
            labels.append(done["mask"])
        return {"pixel_values": torch.stack(pictures), "labels": torch.stack(labels).long()}

    table = rows.select_columns(["image", "label"])
    table.set_transform(prepare)
    return lambda: torch.utils.data.DataLoader(
        table, batch_size=BATCH, shuffle=True, collate_fn=default_data_collator, num_workers=num_workers
    )


class Files(torch.utils.data.Dataset):
    """Pictures and masks of a folder, opened with Pillow, and torchvision's transforms."""

    def __init__(self, folder: Path):
        from torchvision.transforms import v2

        self.pictures = sorted((folder / "images" / "train").iterdir())
        self.masks = sorted((folder / "annotations" / "train").iterdir())
        self.transforms = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomResize(CROP // 2, CROP * 2, antialias=False),
                v2.RandomCrop(CROP, pad_if_needed=True),
                v2.RandomHorizontalFlip(),
                v2.RandomPhotometricDistort(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        from torchvision import tv_tensors

        mask = tv_tensors.Mask(torch.from_numpy(np.array(PIL.Image.open(self.masks[index]))))
        picture, mask = self.transforms(PIL.Image.open(self.pictures[index]).convert("RGB"), mask)
        return {"pixel_values": picture.as_subclass(torch.Tensor), "labels": mask.as_subclass(torch.Tensor).long()}


def plain_loop(folder: Path, num_workers: int) -> Callable[[], Iterable[Any]]:
    """A DataLoader over `Files`."""
    data = Files(folder)
    return lambda: torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=num_workers)


if __name__ == "__main__":
    main()
