"""The curves of a training as one picture, drawn with matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segzoo.errors import SegZooError
from segzoo.images.archives import legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History = Sequence[Mapping[str, Any]]

_LOSS, _RATE, _NORM, _SCORE = "#1f5fa8", "#b8791a", "#7a4fa3", "#2c8a4b"


def plot_curves(history: History, path: str | Path, title: str | None = None) -> Path:
    """Draw loss, learning rate, gradient norm (if it was logged) and validation mIoU over the steps, as one PNG.

    Args:
        history: dicts with ``step`` and any of ``loss``, ``learning_rate``, ``grad_norm``, ``eval_mean_iou`` (0 to 1).
        path: the PNG; its folder exists.
        title: text above the curves.

    Returns:
        The path.

    Raises:
        SegZooError: matplotlib is missing; the message says how to install it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SegZooError("Drawing curves needs matplotlib: pip install 'segzoo[plot]'.") from error

    panels = [_draw_loss, _draw_rate, _draw_score]
    if any(entry.get("grad_norm") is not None for entry in history):
        panels.insert(2, _draw_norm)
    columns = 2 if len(panels) == 4 else 3
    rows = len(panels) // columns
    figure = Figure(figsize=(9 if columns == 2 else 11.5, 3.3 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    last_step = max((entry["step"] for entry in history), default=1)
    for axis, draw in zip(figure.subplots(rows, columns).flat, panels, strict=True):
        draw(axis, history)
        axis.set_xlabel("step")
        axis.set_xlim(0, last_step * 1.02)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(legible(title))
    path = Path(path)
    figure.savefig(path, format="png")
    return path


def _series(history: History, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values (float64, of equal length) of the entries in which ``key`` is a finite number."""
    points = [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]
    table = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    table = table[np.isfinite(table[:, 1])]
    return table[:, 0], table[:, 1]


def _draw_smoothed(axis: "Axes", steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    smooth = len(values) >= 10
    axis.plot(steps, values, color=colour, linewidth=0.9 if smooth else 1.5, alpha=0.4 if smooth else 1)
    if smooth:
        axis.plot(steps, _smoothed(values), color=colour, linewidth=2)


def _draw_loss(axis: "Axes", history: History) -> None:
    steps, values = _series(history, "loss")
    _draw_smoothed(axis, steps, values, _LOSS)
    if len(values):  # a few high losses at the start would flatten the rest of the curve
        axis.set_ylim(min(0, values.min()), float(np.percentile(values, 98)) * 1.15 + 1e-9)
    axis.set_title("training loss", fontsize=10)


def _draw_rate(axis: "Axes", history: History) -> None:
    axis.plot(*_series(history, "learning_rate"), color=_RATE, linewidth=1.8)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axis.set_ylim(bottom=0)
    axis.set_title("learning rate", fontsize=10)


def _draw_norm(axis: "Axes", history: History) -> None:
    steps, values = _series(history, "grad_norm")
    _draw_smoothed(axis, steps[values > 0], values[values > 0], _NORM)
    if (values > 0).any():
        axis.set_yscale("log")
    axis.set_title("gradient norm", fontsize=10)


def _draw_score(axis: "Axes", history: History) -> None:
    steps, values = _series(history, "eval_mean_iou")
    values = 100 * values
    axis.plot(steps, values, color=_SCORE, linewidth=2, marker="o", markersize=4 if len(values) < 40 else 0)
    if len(values):
        best = int(np.argmax(values))
        for index in {best, len(values) - 1}:
            axis.plot(steps[index], values[index], marker="o", markersize=7, color=_SCORE)
            left = steps[index] > 0.3 * steps[-1]
            axis.annotate(
                f"{values[index]:.1f}",
                (steps[index], values[index]),
                xytext=(-2 if left else 2, 8),
                textcoords="offset points",
                ha="right" if left else "left",
            )
    axis.set_ylim(0, max(10.0, *(1.15 * values), 0.0))
    axis.set_title("validation mIoU, %", fontsize=10)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a tenth of the values; at the ends over fewer."""
    half = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
