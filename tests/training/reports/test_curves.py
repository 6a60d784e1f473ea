"""Curves of a training: any history gives a picture, and the picture shows what the history holds."""

import numpy as np
import pytest
from PIL import Image

from segzoo.training.reports.curves import _NORM, _SCORE, _series, _smoothed, plot_curves

pytest.importorskip("matplotlib")
LONG = [{"step": i, "loss": 2.0 / i, "learning_rate": 0.1} for i in range(1, 40)]
SCORES = [{"step": 20, "eval_mean_iou": 0.3}, {"step": 40, "eval_mean_iou": 0.25}]


def has_colour(path, name):
    wanted = np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)])
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width > 500
        return (np.asarray(image.convert("RGB")) == wanted).all(axis=-1).any()


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"step": 1, "loss": 2.0}],
        LONG + SCORES,
        [{"step": 1, "loss": float("nan"), "grad_norm": None}, {"step": 2, "eval_mean_iou": 0.0}],
        [{"step": 1, "loss": -1.0, "grad_norm": 0.0}],
    ],
)
@pytest.mark.filterwarnings("error::UserWarning")
def test_any_history(history, tmp_path):
    path = plot_curves(history, tmp_path / "curves.png", title="run")
    assert has_colour(path, _SCORE) == any(entry.get("eval_mean_iou") is not None for entry in history)


def test_gradient_norm_has_a_panel_of_its_own(tmp_path):
    plain = plot_curves(LONG, tmp_path / "plain.png")
    norms = plot_curves([entry | {"grad_norm": 3.0 + i % 2} for i, entry in enumerate(LONG)], tmp_path / "norms.png")
    assert has_colour(norms, _NORM) and not has_colour(plain, _NORM)
    with Image.open(plain) as one, Image.open(norms) as two:
        assert two.height > 1.5 * one.height


def test_series_leave_out_what_is_not_finite():
    history = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("inf")}, {"step": 3}, {"step": 4, "loss": 0.5}]
    steps, values = _series(history, "loss")
    assert steps.tolist() == [1, 4] and values.tolist() == [1.0, 0.5]


def test_smoothing_keeps_a_line():
    values = np.arange(100.0)
    assert np.allclose(_smoothed(values)[10:-10], values[10:-10])
