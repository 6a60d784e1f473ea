"""The predictor against plain computation at full resolution, its memory, and agreement with the pipeline."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor, pipeline

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.errors import SegZooError
from segzoo.inference import InferenceSettings, Predictor, ViewMaker, evaluation_mode, label_maps
from segzoo.inference.views import ViewReader

SIZE = (45, 61)
WINDOWS = {"window_size": (40, 32), "window_stride": (24, 20)}
PROCESSORS = {
    "own size": {"do_resize": False},
    "padded, in two steps": {
        "size": {"shortest_edge": 50},
        "size_multiple": 32,
        "size_multiple_mode": "pad",
        "pad_value": [0.1, 0.2, 0.3],
        "resize_logits_to_input": True,
    },
}


def make_model(num_labels=5, **options):
    torch.manual_seed(0)
    config = SegZooConfig.tiny()
    config.num_labels = num_labels
    for name, value in options.items():
        setattr(config, name, value)
    model = SegZooForSemanticSegmentation(config).eval()
    torch.nn.init.normal_(model.decode_heads[-1].classifier.weight, std=2.0)  # labels that are not all alike
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@torch.no_grad()
def plain(model, processor, settings, picture, target):
    """Scores (num_labels, height, width) as mmsegmentation computes them: every view whole, at full resolution."""
    windows = {"window_size": settings.window_size, "window_stride": settings.window_stride}
    total = 0
    for view in ViewMaker(processor, settings)(picture):
        for mirrored in (False, True) if settings.flip else (False,):
            resized = view.flip(-1) if mirrored else view
            options = {"do_resize": False, "channel_order": "rgb", "input_data_format": "channels_first"}
            inputs = processor(resized, return_tensors="pt", **options)["pixel_values"]
            logits = model(inputs.to(model.dtype), **windows).logits
            if processor.resize_logits_to_input or inputs.shape[-2:] != view.shape[-2:]:
                logits = F.interpolate(logits, size=inputs.shape[-2:], mode="bilinear")
                logits = logits[..., : view.shape[-2], : view.shape[-1]].contiguous()
            scores = F.interpolate(logits, size=target, mode="bilinear")[0]
            if settings.average == "probabilities" and settings.num_views > 1:
                scores = scores.softmax(0)
            total = total + (scores.flip(-1) if mirrored else scores)
    return total / settings.num_views


@pytest.mark.parametrize("target", [SIZE, (97, 50)])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("views", [{}, {"flip": True}, {"scales": (0.6, 1.0, 1.4), "flip": True}])
@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["whole", "windows"])
@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
def test_equals_the_plain_computation(model, picture, processor, windows, views, average, target):
    processor = SegZooImageProcessor(**processor)
    settings = InferenceSettings(**windows, **views, average=average, windows_per_pass=1)
    predictor = Predictor(model, processor, settings)
    expected = plain(model, processor, settings, picture, target)
    labels = predictor.label_map(picture, target)
    assert labels.dtype == torch.uint8 and labels.unique().numel() > 1
    assert torch.equal(labels.long(), expected.argmax(0))
    if average == "logits" or settings.num_views == 1:
        expected = expected.softmax(0)
    probabilities = predictor.probabilities(picture, target)
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-4)  # logits of 100 have errors of 1e-5


def test_the_order_of_softmax_and_average_matters(model, picture):
    processor = SegZooImageProcessor(do_resize=False)
    settings = [InferenceSettings(scales=(0.6, 1.0, 1.4), average=average) for average in ("probabilities", "logits")]
    first, second = (Predictor(model, processor, own).label_map(picture, SIZE) for own in settings)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("strip", [1, 7])
def test_strips_of_any_height(model, picture, strip, monkeypatch):
    settings = InferenceSettings(**WINDOWS, scales=(1.0, 0.7), flip=True)
    predictor = Predictor(model, SegZooImageProcessor(do_resize=False), settings)
    expected = predictor.label_map(picture, (100, 80)), predictor.probabilities(picture, (100, 80))
    monkeypatch.setattr(label_maps, "_STRIP_VALUES", strip * 80 * 5)
    assert torch.equal(predictor.label_map(picture, (100, 80)), expected[0])
    assert torch.equal(predictor.probabilities(picture, (100, 80)), expected[1])


@pytest.mark.parametrize(
    "settings", [{}, {"flip": True, "scales": (0.8, 1.0)}, WINDOWS], ids=["whole", "views", "windows"]
)
def test_batches_and_views_made_elsewhere(settings):
    processor = SegZooImageProcessor(do_resize=False)
    predictor = Predictor(make_model().double(), processor, InferenceSettings(**settings))
    rng = np.random.default_rng(1)
    sizes = [(45, 61), (40, 61), (45, 61), (61, 45)]
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    together = predictor.label_maps([predictor.views(picture) for picture in pictures], sizes)
    for found, picture, size in zip(together, pictures, sizes, strict=True):
        assert torch.equal(found, predictor.label_map(picture, size))


@pytest.mark.parametrize(
    ("processor", "settings", "pixels"),
    [
        (PROCESSORS["own size"], {}, 60 * 80),
        (PROCESSORS["own size"], {"scales": (0.5, 2.0)}, 4 * 60 * 80),
        (PROCESSORS["own size"], {"window_size": (40, 32), "windows_per_pass": 3}, 3 * 40 * 32),
        ({"size": {"shortest_edge": 30}}, {}, 30 * 40),
        ({"size": {"shortest_edge": 30}}, {"short_sides": (15, 60)}, 4 * 30 * 40),
        (PROCESSORS["padded, in two steps"], {}, 64 * 96),
    ],
)
def test_pixels_that_go_through_the_model_at_once(model, processor, settings, pixels):
    seen = []
    processor, settings = SegZooImageProcessor(**processor), InferenceSettings(**settings)
    predictor = Predictor(model, processor, settings)
    assert predictor.pixels_at_once([(60, 80)]) == pixels
    # Windows go through the model picture by picture.
    assert predictor.pixels_at_once([(60, 80)] * 3) == (pixels if settings.window_size else 3 * pixels)
    handle = model.register_forward_pre_hook(
        lambda _, __, given: seen.append(math.prod(given["pixel_values"].shape[-2:]) * len(given["pixel_values"])),
        with_kwargs=True,
    )
    predictor.label_map(np.zeros((60, 80, 3), np.uint8), (60, 80))
    handle.remove()
    assert max(seen) == pytest.approx(pixels, rel=0.02)


def test_small_batches_have_a_megapixel_at_most(model):
    own_size = SegZooImageProcessor(do_resize=False)
    predictor = Predictor(model, own_size)
    assert predictor.is_small([(1024, 1024)]) and predictor.is_small([(512, 1024), (1024, 512)])
    assert not predictor.is_small([(1024, 1025)]) and not predictor.is_small([(1024, 1024), (1, 1)])
    in_windows = {size: InferenceSettings(window_size=(size, size), windows_per_pass=4) for size in (512, 513)}
    assert Predictor(model, own_size, in_windows[512]).is_small([(4000, 6000)])
    assert not Predictor(model, own_size, in_windows[513]).is_small([(60, 80)])
    assert not Predictor(model, SegformerImageProcessor()).is_small([(60, 80)])


def test_many_classes_take_wider_integers(picture):
    model = make_model(num_labels=300)
    predictor = Predictor(model, SegZooImageProcessor(do_resize=False), InferenceSettings(flip=True))
    labels = predictor.label_map(picture, SIZE)
    assert labels.dtype == torch.int16 and labels.max() > 255
    assert predictor.probabilities(picture, SIZE).argmax(0).equal(labels.long())


def test_windows_of_config_and_processor_are_the_default():
    processor = SegZooImageProcessor(**WINDOWS)
    own = make_model(window_size=[32, 32], window_stride=[16, 16])
    assert Predictor(own, processor).settings == InferenceSettings((32, 32), (16, 16))
    assert Predictor(make_model(), processor).settings == InferenceSettings(**WINDOWS)
    assert Predictor(make_model(), SegZooImageProcessor()).settings == InferenceSettings()


def test_the_mode_of_every_module_is_put_back(picture):
    model = make_model()
    predictor = Predictor(model, SegZooImageProcessor(do_resize=False), InferenceSettings(**WINDOWS))
    expected = predictor.label_map(picture, SIZE)
    model.train()
    model.backbone.eval()
    before = [module.training for module in model.modules()]
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    assert torch.equal(predictor.label_map(picture, SIZE), expected)
    assert [module.training for module in model.modules()] == before
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())
    with pytest.raises(RuntimeError), evaluation_mode(model):
        raise RuntimeError
    assert [module.training for module in model.modules()] == before


def test_half_precision_is_averaged_in_single(picture):
    model = make_model().to(torch.bfloat16)
    processor = SegZooImageProcessor(do_resize=False)
    for options in ({}, WINDOWS, {"flip": True}):
        predictor = Predictor(model, processor, InferenceSettings(**options, windows_per_pass=1))
        assert predictor.probabilities(picture, SIZE).dtype == torch.float32
    found = Predictor(make_model(), processor, InferenceSettings(**WINDOWS), autocast=lambda: torch.autocast("cpu"))
    assert found.probabilities(picture, SIZE).dtype == torch.float32
    settings = InferenceSettings(**WINDOWS, windows_per_pass=1)
    expected = plain(model, processor, settings, picture, SIZE)  # through forward
    assert expected.dtype == torch.float32
    assert torch.equal(Predictor(model, processor, settings).label_map(picture, SIZE).long(), expected.argmax(0))


def test_channels_last(model, picture):
    processor, settings = SegZooImageProcessor(do_resize=False), InferenceSettings(**WINDOWS)
    expected = Predictor(model, processor, settings).probabilities(picture, SIZE)
    other = make_model().to(memory_format=torch.channels_last)
    found = Predictor(other, processor, settings, channels_last=True).probabilities(picture, SIZE)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_models_of_transformers(picture):
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 16, 25, 32], "decoder_hidden_size": 16}
    config = SegformerConfig(**sizes, depths=[1] * 4, num_labels=4)
    model = SegformerForSemanticSegmentation(config).eval()
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=3.0)
    processor = SegformerImageProcessor(size={"height": 64, "width": 96})
    with torch.no_grad():
        outputs = model(**processor(picture, return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[SIZE])
    assert torch.equal(Predictor(model, processor).label_map(picture, SIZE).long(), expected)
    settings = InferenceSettings((48, 48), (32, 32), scales=(1.0, 1.5), flip=True)
    probabilities = Predictor(model, processor, settings).probabilities(picture, SIZE)
    assert probabilities.shape == (4, *SIZE)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(SIZE))


def test_inputs_below_the_smallest_of_a_model_of_transformers(picture):
    model = SegformerForSemanticSegmentation(SegformerConfig(depths=[1] * 4, num_labels=4)).eval()
    predictor = Predictor(model, SegformerImageProcessor(do_resize=False))
    with pytest.raises(SegZooError, match="takes no input of 20x24 pixels.*do_resize"):
        predictor.label_map(picture[:20, :24], (20, 24))


@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["whole", "windows"])
def test_the_pipeline_gives_the_same_labels(picture, windows):
    """Windows reach the pipeline through the image processor: ``forward`` averages all logits at once."""
    model = make_model(**{name: list(value) for name, value in windows.items()})
    processor = SegZooImageProcessor(size={"shortest_edge": 50}, **windows)
    segments = pipeline("image-segmentation", model=model, image_processor=processor)(PIL.Image.fromarray(picture))
    found = torch.full(SIZE, -1)
    for segment in segments:
        found[torch.from_numpy(np.array(segment["mask"])) > 0] = model.config.label2id[segment["label"]]
    settings = InferenceSettings(**windows, windows_per_pass=1)
    assert torch.equal(Predictor(model, processor, settings).label_map(picture, SIZE).long(), found)
    # More windows at once round differently: a pixel whose best two classes are equal to seven digits may flip.
    assert (Predictor(model, processor).label_map(picture, SIZE).long() != found).sum() <= 2


MEMORY = """
import sys
from pathlib import Path
import numpy, torch
sys.path.insert(0, sys.argv[1])
from inference.test_predictor import make_model
from segzoo import SegZooImageProcessor
from segzoo.inference import InferenceSettings, Predictor

torch.set_num_threads(1)
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

settings = InferenceSettings(**eval(sys.argv[2]))
predictor = Predictor(make_model(num_labels=150), SegZooImageProcessor(do_resize=False), settings)
predictor.label_map(numpy.zeros((64, 64, 3), numpy.uint8), (64, 64))
Path("/proc/self/clear_refs").write_text("5")
before = peak()
predictor.label_map(numpy.zeros((1500, 1000, 3), numpy.uint8), (1500, 1000))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"window_size": (256, 256), "window_stride": (170, 170), "flip": True}, 300),
        pytest.param({"flip": True}, 500, marks=pytest.mark.slow),
    ],
    ids=["windows", "whole"],
)
def test_memory_is_bounded(settings, limit):
    """150 classes at 1500x1000 are 858 MiB for every view, before any sum or softmax."""
    command = [sys.executable, "-c", MEMORY, str(Path(__file__).parents[1]), repr(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < limit


@pytest.mark.gpu
@pytest.mark.parametrize("views", [{}, {"scales": (0.6, 1.4), "flip": True}], ids=["one view", "four views"])
@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["whole", "windows"])
def test_cuda(picture, windows, views):
    processor, settings = SegZooImageProcessor(do_resize=False), InferenceSettings(**windows, **views)
    expected = Predictor(make_model().double(), processor, settings).label_map(picture, SIZE)
    predictor = Predictor(make_model().double().cuda(), processor, settings)
    found = predictor.label_map(picture, SIZE)
    assert found.device.type == "cuda" and torch.equal(found.cpu(), expected)
    assert predictor.probabilities(picture, SIZE).device.type == "cuda"


def test_a_reader_of_padding_alone():
    """A window may lie beyond the picture, in its padding."""
    processor = SegZooImageProcessor(do_resize=False, pad_size={"height": 64, "width": 64}, pad_value=7.0)
    reader = ViewReader(processor, torch.zeros(3, 20, 20, dtype=torch.uint8))
    assert torch.equal(reader(32, 32, 32, 32), torch.full((3, 32, 32), 7.0))


@pytest.mark.parametrize("settings", [InferenceSettings(), InferenceSettings(**WINDOWS, flip=True)])
def test_outputs_that_are_no_numbers_are_an_error_and_no_class(picture, settings):
    model = make_model()
    predictor = Predictor(model, SegZooImageProcessor(do_resize=False), settings)
    assert 3 in predictor.label_map(picture, SIZE)
    model.decode_heads[-1].classifier.bias.data[3] = float("nan")
    with pytest.raises(SegZooError, match="outputs are NaN or infinite: in fp16 large values overflow"):
        predictor.label_map(picture, SIZE)
    model.decode_heads[-1].classifier.bias.data[3] = -float("inf")  # a class that is switched off
    labels, shares = predictor.label_maps_and_probabilities([picture], [SIZE])[0]
    assert (
        3 not in labels and torch.equal(labels, predictor.label_map(picture, SIZE)) and bool(shares.isfinite().all())
    )
