"""Mean IoU side by side: time and memory of segzoo's module, of its confusion matrix, and of another module.

    python benchmarks/metrics.py [--peer FOLDER_OF_EVALUATES_mean_iou] [--maps 20] [--size 512] [--labels 150]

The stock module is not part of evaluate's wheel; `--peer` takes a folder with its `mean_iou.py`. Each candidate has
its own process and the same maps; their runs alternate, and both the medians and the best times are compared. Memory
is the growth of the process's peak from before the first call, so that maps and imports do not count.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from options import at_least

DTYPES = ("uint8", "int16", "int32", "int64")


def make_maps(count, size, num_labels):
    """Blocky label maps with 5 % ignored pixels and predictions that are right on about 80 %."""
    import numpy as np

    rng = np.random.default_rng(0)
    predictions, references = [], []
    for _ in range(count):
        tiles = rng.integers(
            0, num_labels, (-(-size // 8), -(-size // 8)), dtype=np.uint8 if num_labels < 256 else np.int32
        )
        reference = tiles.repeat(8, 0).repeat(8, 1)[:size, :size].copy()
        wrong = rng.random(reference.shape) > 0.8
        prediction = reference.copy()
        prediction[wrong] = rng.integers(0, num_labels, int(wrong.sum()))
        reference[rng.random(reference.shape) < 0.05] = 255 if num_labels < 256 else -100
        predictions.append(prediction)
        references.append(reference)
    return predictions, references, 255 if num_labels < 256 else -100


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def candidate(what, dtype, count, size, num_labels, peer):
    """Runs once for each line on stdin, and prints the seconds and the scores."""
    import evaluate
    import numpy as np

    from segzoo.metrics import ConfusionMatrix, mean_iou_path

    predictions, references, ignore_index = make_maps(count, size, num_labels)
    predictions = [p.astype(dtype) for p in predictions]
    references = [r.astype(dtype) for r in references]
    metric = None if what == "matrix" else evaluate.load(mean_iou_path() if what == "module" else peer)
    before = peak_mib()
    for _ in sys.stdin:
        start = time.perf_counter()
        if what == "matrix":
            counted = ConfusionMatrix(num_labels, ignore_index)
            counted.update(predictions, references)
            result = counted.compute()
        else:
            result = metric.compute(
                predictions=predictions, references=references, num_labels=num_labels, ignore_index=ignore_index
            )
        seconds = time.perf_counter() - start
        scores = [float(result[key]) for key in ("mean_iou", "mean_accuracy", "overall_accuracy")]
        scores += np.asarray(result["per_category_iou"], dtype=float).tolist()
        print(json.dumps({"seconds": seconds, "scores": scores, "mib": peak_mib() - before}), flush=True)


def measure(arguments, dtype):
    """Alternates between the candidates; returns {name: (median and best seconds, peak growth in MiB, scores)}."""
    names = ["matrix", "module"] + (["peer"] if arguments.peer else [])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    running = {}
    for name in names:
        command = [sys.executable, __file__, "--candidate", name, "--dtype", dtype]
        for option in ("maps", "size", "labels", "peer"):
            if getattr(arguments, option) is not None:
                command += [f"--{option}", str(getattr(arguments, option))]
        running[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
    seconds = {name: [] for name in names}
    last = {}
    for repeat in range(arguments.repeats + 1):
        for name, process in running.items():
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{name} broke off; its message stands above.")
            last[name] = json.loads(line)
            if repeat:  # the first run warms up
                seconds[name].append(last[name]["seconds"])
    for process in running.values():
        process.stdin.close()
        process.wait()
    times = {name: (statistics.median(seconds[name]), min(seconds[name])) for name in names}
    return {name: (times[name], last[name]["mib"], last[name]["scores"]) for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="folder of another mean_iou module, such as evaluate's metrics/mean_iou")
    parser.add_argument("--maps", type=at_least(1), default=20)
    parser.add_argument("--size", type=at_least(1), default=512)
    parser.add_argument("--labels", type=at_least(1), default=150)
    parser.add_argument("--repeats", type=at_least(1), default=7)
    parser.add_argument("--dtype", choices=DTYPES, help="of the maps; default: uint8 and int64, one after the other")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.candidate:
        candidate(
            arguments.candidate, arguments.dtype, arguments.maps, arguments.size, arguments.labels, arguments.peer
        )
        return
    print(f"{arguments.maps} maps of {arguments.size}x{arguments.size}, {arguments.labels} classes")
    figures = {}
    for dtype in [arguments.dtype] if arguments.dtype else ["uint8", "int64"]:
        found = measure(arguments, dtype)
        figures[dtype] = {name: {"seconds": times[0], "mib": mib} for name, (times, mib, _) in found.items()}
        titles = {"matrix": "segzoo ConfusionMatrix", "module": "segzoo mean_iou module", "peer": "peer module"}
        header = f"{dtype} maps".ljust(26) + "median ms".rjust(11) + "best ms".rjust(11) + "peak MiB".rjust(11)
        print(f"\n{header}")
        for name, ((median, best), mib, scores) in found.items():
            print(f"{titles[name]:<26}{1000 * median:>11.1f}{1000 * best:>11.1f}{mib:>11.1f}")
            if name == "peer" or "peer" not in found:
                continue
            (peer_median, peer_best), peer_mib, peer_scores = found["peer"]
            worst = max(abs(a - b) for a, b in zip(scores, peer_scores, strict=True) if a == a)
            print(f"    {peer_median / median:.1f} times as fast as the peer (median; best {peer_best / best:.1f})")
            print(f"    {peer_mib / max(mib, 0.1):.0f} times less memory; largest difference of scores {worst:.1g}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
