import json
from types import SimpleNamespace

import pytest
import torch
from support.contract import assert_close, settle

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import MobileNetV3Config
from segzoo.errors import SegZooError
from segzoo.heads import LRASPPHeadConfig
from segzoo.inference import timing
from segzoo.inference.faster import faster_on_cpu, in_memory_format


@pytest.fixture
def model():
    torch.manual_seed(0)
    return settle(SegZooForSemanticSegmentation(SegZooConfig.tiny())).eval()


def is_channels_last(model):
    weights = [p for p in model.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    found = {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}
    assert len(found) == 1
    return found.pop()


def test_the_faster_format_is_measured_kept_and_taken(model, tmp_path, monkeypatch):
    image = torch.randn(1, 3, 64, 96)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model(image).logits
        faster = faster_on_cpu(model)
        line = in_memory_format(faster, "auto", (96, 160), bfloat16=True, folder=tmp_path)
        assert_close(faster(image).logits, expected)
        (file,) = tmp_path.iterdir()
        content = json.loads(file.read_text())
        seconds = content["seconds"]
        assert seconds.keys() == {"contiguous", "channels_last", "bfloat16"} and min(seconds.values()) > 0
        chosen = timing.faster_format(seconds)
        assert line.startswith(f"memory format: {chosen} (") and is_channels_last(faster) == (
            chosen == "channels_last"
        )
        # What is in the file decides from now on, and nothing is measured.
        for chosen, own in (("contiguous", (1e-9, 1.0)), ("channels_last", (1.0, 1e-9))):
            content["seconds"] = dict(zip(("contiguous", "channels_last"), own, strict=True)) | {"bfloat16": 1e-10}
            file.write_text(json.dumps(content))
            line = in_memory_format(faster, "auto", (96, 160), bfloat16=True, folder=tmp_path)
            assert line.startswith(f"memory format: {chosen} (0.000 s") and line.endswith(
                "; bfloat16 would take 0.000 s"
            )
            assert is_channels_last(faster) == (chosen == "channels_last")
            assert_close(faster(image).logits, expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    # Another size, precision, model or version is measured for itself.
    in_memory_format(faster, "auto", (96, 128), folder=tmp_path)
    in_memory_format(faster, "auto", (96, 128), autocast=True, folder=tmp_path)
    in_memory_format(model, "auto", (96, 128), folder=tmp_path)
    in_memory_format(model.bfloat16(), "auto", (96, 128), folder=tmp_path)
    monkeypatch.setattr(timing, "__version__", "0.0.0")
    in_memory_format(model, "auto", (96, 128), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"seconds": {"contiguous": 1}}', '{"seconds": {"contiguous": "x"}}']
)
def test_broken_files_are_measured_again(model, tmp_path, content):
    in_memory_format(model, "auto", (64, 64), folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    in_memory_format(model, "auto", (64, 64), folder=tmp_path)
    assert json.loads(file.read_text())["seconds"].keys() == {"contiguous", "channels_last"}


def test_a_folder_that_cannot_be_made_is_no_error(model, tmp_path):
    (tmp_path / "file").write_text("")
    assert in_memory_format(model, "auto", (64, 64), folder=tmp_path / "file" / "timing")


def test_asked_for(model, tmp_path):
    for name in ("channels_last", "contiguous"):
        assert in_memory_format(model, name, (64, 64), folder=tmp_path) == f"memory format: {name}, as asked for"
        assert is_channels_last(model) == (name == "channels_last")
    model.backbone.register_forward_hook(lambda *_: None)
    assert in_memory_format(model, "auto", (64, 64), folder=tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_measurements_end_in_time(monkeypatch):
    shapes, now = [], [0.0]

    def slow(pixel_values):
        shapes.append(tuple(pixel_values.shape[-2:]))
        now[0] += 0.02 * pixel_values.shape[-1] / 64

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = timing.measure({"a": slow, "b": slow}, torch.zeros(1, 3, 256, 256), limit_s=0.3)
    assert now[0] < 0.3 and found == pytest.approx({"a": 0.02, "b": 0.02})
    assert shapes[0] == (64, 64) and (256, 256) not in shapes
    shapes.clear()
    timing.measure({"a": lambda x: shapes.append(tuple(x.shape[-2:]))}, torch.zeros(1, 3, 256, 512))
    assert shapes == [(64, 128)] * 4 + [(128, 256)] * 3 + [(256, 512)] * 3


def test_parts_that_are_asked_for_are_measured_however_long_they_take():
    shapes = []
    picture = torch.zeros(1, 3, 512, 512)
    timing.measure({"a": lambda x: shapes.append(x.shape[-1])}, picture, limit_s=0.0, at_least=256 * 256)
    assert shapes == [128, 128, 256]


def test_bfloat16_is_known_from_the_processor(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not timing.has_bfloat16()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert timing.has_bfloat16()


def test_parts_that_the_model_refuses_are_not_measured(tmp_path):
    """LR-ASPP's pooling windows of 49x49, at stride 8, need sides of 385 pixels."""
    config = SegZooConfig(
        backbone_config=MobileNetV3Config(arch="small", out_indices=[0, 1, 12]),
        decode_head_configs=[LRASPPHeadConfig(channels=8, in_index=[0, 1, 2])],
        auxiliary_head_configs=[],
    )
    model = SegZooForSemanticSegmentation(config).eval()
    assert in_memory_format(model, "auto", (400, 512), folder=tmp_path).startswith("memory format: ")
    assert in_memory_format(model, "auto", (96, 128), folder=tmp_path) is None
    with torch.no_grad(), pytest.raises(SegZooError, match="do not fit into the last map"):
        model(torch.zeros(1, 3, 96, 128))
