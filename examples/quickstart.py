"""From data to predictions in a few minutes on two CPU cores: training, evaluation, saving, loading, predicting.

    python examples/quickstart.py --output_dir outputs/quickstart

The pictures are synthetic street scenes that `segzoo.data.scenes` draws, so nothing is downloaded and the scores say
nothing about photographs. Use ``segzoo train`` for real data; it runs the same training.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline
from transformers.utils import logging

import segzoo  # noqa: F401  registers the models with the Auto classes
from segzoo.data import load_segmentation_dataset
from segzoo.data.scenes import SCENES, write_scenes
from segzoo.errors import SegZooError
from segzoo.training import RunOptions, resolve_recipe, train

# Each covers 1 to 2 % of the pixels: in a short training cross-entropy alone finds none of them.
SMALL_CLASSES = {"person": 4, "pole": 6}


def main(argv: list[str] | None = None) -> int:
    """Run the example with command-line arguments; returns the exit status, 1 after an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="outputs/quickstart", help="where everything goes")
    parser.add_argument("--steps", type=int, default=280, help="optimizer steps of the fine-tuning")
    parser.add_argument("--num_train", type=int, default=160, help="training scenes")
    parser.add_argument("--num_validation", type=int, default=40, help="validation scenes")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    try:
        run(Path(args.output_dir), args.steps, args.num_train, args.num_validation)
    except SegZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(output_dir: Path, steps: int, num_train: int, num_validation: int) -> None:
    """Draw scenes, train on them, load the model in two ways, and compare what these predict."""
    start = time.perf_counter()
    scenes_dir, model_dir = output_dir / "scenes", output_dir / "model"

    print(f"1. Synthetic street scenes: {num_train} to train on, {num_validation} to evaluate")
    if (scenes_dir / "scenes.json").is_file():  # of an earlier run, perhaps with other numbers
        shutil.rmtree(scenes_dir)
    write_scenes(scenes_dir, num_train=num_train, num_validation=num_validation)

    print("\n2. Fine-tuning UPerNet on ResNet-18, from random weights")
    options = RunOptions(
        dataset_name=str(scenes_dir),
        output_dir=str(model_dir),
        overwrite_output_dir=True,
        backbone="resnet18_v1c",
        head="uper",
        head_channels=64,
        eval_steps=max(1, steps // 4),
        logging_steps=max(1, steps // 40),
    )
    changes = {
        "crop_size": (160, 192),
        "scale_range": (0.75, 1.25),
        "num_warmup_steps": steps // 20,
        "max_train_steps": steps,
        "learning_rate": 2e-3,
        "losses": [{"type": "cross_entropy"}, {"type": "dice"}],
        "class_weights": [SMALL_CLASSES.get(name, 1) for name in SCENES.classes],
    }
    results = train(options, resolve_recipe("quick", overrides=changes))

    print("\n3. Loading it again, through AutoModelForSemanticSegmentation and through the pipeline")
    row = load_segmentation_dataset(scenes_dir)["validation"][0]
    image = row["image"].convert("RGB")
    processor = AutoImageProcessor.from_pretrained(model_dir)
    model = AutoModelForSemanticSegmentation.from_pretrained(model_dir).eval()
    with torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
    label_map = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0].numpy()

    found = pipeline("image-segmentation", model=str(model_dir))(image)
    from_pipeline = np.full(label_map.shape, -1)
    for part in found:
        from_pipeline[np.asarray(part["mask"]) > 0] = model.config.label2id[part["label"]]
    if not np.array_equal(label_map, from_pipeline):
        raise SegZooError(
            f"model and pipeline differ in {(label_map != from_pipeline).sum()} pixels; please report this"
        )
    truth = np.asarray(row["label"])
    correct = (label_map == truth)[truth != 255].mean()
    print(
        f"both label every pixel alike; {100 * correct:.1f} % of the pixels of {Path(row['label_path']).name} are right"
    )
    Image.fromarray(label_map.astype(np.uint8)).save(output_dir / "label_map.png")

    print(
        f"\nmIoU {100 * results['eval_mean_iou']:.1f} % on synthetic scenes, {time.perf_counter() - start:.0f} s in all"
    )
    for path, what in (
        (model_dir, "the model: from_pretrained(...) or pipeline('image-segmentation', ...)"),
        (model_dir / "report.html", "the report: scores, curves, samples, recipe"),
        (model_dir / "README.md", "its model card"),
        (model_dir / "all_results.json", "all scores"),
        (model_dir / "figures" / "curves.png", "loss, learning rate and mIoU over the steps"),
        (model_dir / "figures" / "samples.png", "pictures, truth and predictions (overlay_*.png: larger)"),
        (output_dir / "label_map.png", "class ids of one picture"),
        (scenes_dir, "the data, in the layout that --dataset_name takes"),
    ):
        if path.exists():
            print(f"  {path}  {what}")


if __name__ == "__main__":
    sys.exit(main())
