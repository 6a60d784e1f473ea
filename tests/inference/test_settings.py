"""Test protocols: errors, a model's own protocol, words and command-line options."""

import argparse
from types import SimpleNamespace

import pytest

from segzoo import SegZooConfig, SegZooError, SegZooImageProcessor
from segzoo.inference import InferenceSettings
from segzoo.inference.options import add_protocol_options, check_protocol_options, settings_from_options

WINDOWS = {"window_size": (64, 80), "window_stride": (43, 53)}


def model_with(**values):
    config = SegZooConfig.tiny()
    for name, value in values.items():
        setattr(config, name, value)
    return SimpleNamespace(config=config)


def test_lists_become_tuples_and_the_stride_is_the_window_by_default():
    settings = InferenceSettings(window_size=[64, 32], scales=[1, 2])
    assert settings.window_size == settings.window_stride == (64, 32)
    assert settings.scales == (1.0, 2.0) and hash(settings) == hash(InferenceSettings((64, 32), (64, 32), (1.0, 2.0)))
    assert settings.num_views == 2 and InferenceSettings(scales=(1, 2), flip=True).num_views == 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"window_size": (64,)}, "window_size is"),
        ({"window_size": (64, 0)}, "window_size is"),
        ({"window_stride": (64, 64)}, "window_stride needs a window_size"),
        ({"window_size": (64, 64), "window_stride": (64, 65)}, "leaves pixels without a prediction"),
        ({"scales": ()}, "scales are"),
        ({"scales": (1.0, -1.0)}, "scales are"),
        ({"scales": (float("nan"),)}, "scales are"),
        ({"average": "votes"}, "average is 'votes'; use one of probabilities, logits"),
        ({"windows_per_pass": 0}, "windows_per_pass is 0"),
    ],
)
def test_refused(values, words):
    with pytest.raises(SegZooError, match=words):
        InferenceSettings(**values)


def test_of_model():
    own, other = SegZooImageProcessor(**WINDOWS), SegZooImageProcessor()
    plain, windowed = model_with(), model_with(window_size=[32, 32], window_stride=[16, 16])
    assert InferenceSettings.of_model(plain) == InferenceSettings.of_model(plain, other) == InferenceSettings()
    assert InferenceSettings.of_model(plain, own) == InferenceSettings(**WINDOWS)
    assert InferenceSettings.of_model(windowed, own) == InferenceSettings((32, 32), (16, 16))
    assert InferenceSettings.of_model(windowed, flip=True) == InferenceSettings((32, 32), (16, 16), flip=True)
    assert InferenceSettings.of_model(windowed, window_size=None) == InferenceSettings()
    assert InferenceSettings.of_model(windowed, window_size=(8, 8)) == InferenceSettings((8, 8), (8, 8))
    # Swin's config has a window_size of another kind, and no stride.
    assert (
        InferenceSettings.of_model(SimpleNamespace(config=SimpleNamespace(model_type="swin", window_size=7)))
        == InferenceSettings()
    )


@pytest.mark.parametrize(
    ("settings", "processor", "words"),
    [
        ({}, {"do_resize": False}, "single scale, images at their own size; whole image; no flip"),
        (
            {"flip": True},
            {"size": {"shortest_edge": 512, "longest_edge": 2048}},
            "single scale, shorter side 512, longer side at most 2048; whole image; with horizontal flip; probabilities "
            "averaged over 2 views",
        ),
        (
            {**WINDOWS, "scales": (0.5, 1, 1.25), "average": "logits"},
            {"size": {"height": 320, "width": 480}},
            "scales 0.5, 1, 1.25 of: images resized to 320x480 (height x width); windows of 64x80 with step 43x53, logits "
            "averaged; no flip; logits averaged over 3 views",
        ),
        ({}, {"size": {"shortest_edge": 640}}, "single scale, shorter side 640; whole image; no flip"),
        (
            {"short_sides": (300, 450)},
            {"size": {"shortest_edge": 450, "longest_edge": 1000}},
            "shorter sides 300, 450, longer side at most 1000; whole image; no flip; probabilities averaged over 2 views",
        ),
    ],
)
def test_in_words(settings, processor, words):
    assert InferenceSettings(**settings).describe(SegZooImageProcessor(**processor)) == words


def options(*arguments):
    parser = argparse.ArgumentParser()
    add_protocol_options(parser)
    return vars(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"window_size": (60, 60), "window_stride": (40, 40)}),
        (["--no-slide"], {}),
        (["--slide"], {"window_size": (60, 60), "window_stride": (40, 40)}),
        (["--stride", "20"], {"window_size": (60, 60), "window_stride": (20, 20)}),
        (["--window", "90", "61"], {"window_size": (90, 61), "window_stride": (60, 40)}),
        (["--window", "90", "--stride", "5", "6"], {"window_size": (90, 90), "window_stride": (5, 6)}),
        (
            ["--no-slide", "--scales", "0.5", "1", "--flip", "--average", "logits"],
            {"scales": (0.5, 1.0), "flip": True, "average": "logits"},
        ),
        (["--no-slide", "--short_sides", "300", "450"], {"short_sides": (300, 450)}),
    ],
)
def test_options(arguments, expected):
    model = model_with(window_size=[60, 60], window_stride=[40, 40])
    assert settings_from_options(model, **options(*arguments)) == InferenceSettings(**expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no-slide", "--stride", "3"], "--no-slide takes whole images"),
        (["--window", "1", "2", "3"], "--window 1 2 3: give height and width"),
        (["--stride", "0"], "--stride 0: give height and width"),
        (["--scales", "1", "-2"], "factors are above 0"),
        (["--short_sides", "300", "0"], "at least 1"),
        (["--short_sides", "300", "--scales", "1"], "exclude each other"),
    ],
)
def test_refused_options(arguments, words):
    given = options(*arguments)
    with pytest.raises(SegZooError, match=words):
        check_protocol_options(
            **{name: given[name] for name in ("slide", "window", "stride", "scales", "short_sides")}
        )


def test_windows_of_nobody():
    with pytest.raises(SegZooError, match="no windows of its own; give their size as --window"):
        settings_from_options(model_with(), **options("--slide"))
