"""Accuracy in 8 bits: mean IoU of a trained model as it is, as an ONNX file in float32, and as one in static int8.

    python benchmarks/int8.py MODEL_FOLDER path/to/camvid [--split validation] [--calibration 32]

The ranges of the maps are taken from pictures of the split `train`, spread evenly; the scores are those of the whole
split, every picture at its own size and scored there. Both files take pictures of any size. The speed of int8 is in
``benchmarks/realtime.py``.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from options import at_least

import segzoo
from segzoo.data.decoding import decode_example
from segzoo.data.rows import undecoded
from segzoo.evaluation.job import load_split
from segzoo.export.export import ExportOptions, export_model
from segzoo.export.quantization import quantize_onnx
from segzoo.inference.label_maps import label_map_from_logits
from segzoo.metrics import ConfusionMatrix


def main() -> None:
    """Export, quantise, score, and print one line for each form of the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("data", help="data set, as for segzoo evaluate")
    parser.add_argument("--split", default="validation", help="pictures to score (default: validation)")
    parser.add_argument("--calibration", type=at_least(1), default=32, help="pictures for the ranges (default: 32)")
    args = parser.parse_args()
    model, processor = segzoo.load(args.model)
    ranges = undecoded(load_split(args.data, "train", max_samples=args.calibration).rows)
    rows = undecoded(load_split(args.data, args.split).rows)
    with tempfile.TemporaryDirectory() as folder:
        exact = export_model(model, Path(folder) / "float32.onnx", ExportOptions(), processor=processor).path
        inputs = [pixel_values(decode_example(row)[0], processor) for row in ranges]
        int8 = quantize_onnx(exact, Path(folder) / "int8.onnx", inputs)
        sizes = {path.name: path.stat().st_size / 2**20 for path in (exact, int8)}
        forms = {
            "PyTorch float32": lambda values: model(torch.from_numpy(values)).logits[0],
            "ONNX float32": session(exact),
            "ONNX int8": session(int8),
        }
        counts = {name: ConfusionMatrix(model.config.num_labels, ignore_index=255) for name in forms}
        same = total = 0
        for row in rows:
            image, mask = decode_example(row)
            values, maps = pixel_values(image, processor), {}
            for name, run in forms.items():
                with torch.no_grad():
                    maps[name] = label_map_from_logits(run(values), mask.shape)
                counts[name].update(maps[name], mask)
            same += int((maps["ONNX int8"] == maps["ONNX float32"]).sum())
            total += mask.size
    print(f"{args.model}: {len(rows)} pictures of {args.split}, ranges from {len(ranges)} of train")
    for name, count in counts.items():
        scores = count.compute()
        print(f"{name:16s} mIoU {scores['mean_iou']:.2%}, pixel accuracy {scores['overall_accuracy']:.2%}")
    print(f"the same class in int8 and float32 at {same / total:.2%} of the pixels")
    print(", ".join(f"{name} {size:.1f} MiB" for name, size in sizes.items()))


def pixel_values(image: np.ndarray, processor: segzoo.SegZooImageProcessor) -> np.ndarray:
    """The file's input for one picture, (1, channels, height, width)."""
    return processor(image, return_tensors="pt")["pixel_values"].numpy()


def session(path: Path):
    """A function from pixel values to logits (classes, height, width) on ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    found = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = found.get_inputs()[0].name
    return lambda values: torch.from_numpy(found.run(None, {name: values})[0][0])


if __name__ == "__main__":
    main()
