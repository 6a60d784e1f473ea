import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from support.contract import settle

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.backbones import FastSCNNConfig, TwinsConfig
from segzoo.commands import cli
from segzoo.errors import SegZooError
from segzoo.export.quantization import agreement, quantize_onnx
from segzoo.heads import SeparableFCNHeadConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model that chooses between classes clearly, and pictures."""
    torch.manual_seed(0)
    config = SegZooConfig.from_backbone(
        FastSCNNConfig.tiny(), SeparableFCNHeadConfig(channels=16), auxiliary=False, num_labels=3
    )
    folder = tmp_path_factory.mktemp("int8")
    settle(SegZooForSemanticSegmentation(config)).save_pretrained(folder / "model")
    SegZooImageProcessor(do_resize=False).save_pretrained(folder / "model")
    (folder / "pictures").mkdir()
    noise = np.random.default_rng(0)
    for i in range(3):
        coarse = Image.fromarray(noise.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((128, 96), Image.Resampling.BICUBIC).save(folder / "pictures" / f"{i}.png")
    return folder


@pytest.mark.slow
def test_command(folder, capsys):
    file = folder / "int8.onnx"
    command = ["export", str(folder / "model"), "--output", str(file), "--int8", str(folder / "pictures")]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    share = float(printed.split("float32 at ")[1].split("%")[0])
    assert share > 80 and "of the pixels of 3 pictures" in printed
    graph = onnx.load(file)
    kinds = [node.op_type for node in graph.graph.node]
    assert "QuantizeLinear" in kinds and "BatchNormalization" not in kinds
    weights = [i for i in graph.graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4]
    assert len(weights) == kinds.count("Conv")
    assert {"model", "class_names"} <= {entry.key for entry in graph.metadata_props}
    dims = [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    assert cli.main(command) == 1 and "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--uint8"], ["--dtype", "float16"], ["--output", "x.pt2"]])
def test_what_does_not_go_with_it(options, folder, capsys):
    command = ["export", str(folder / "model"), "--output", "x.onnx", *options, "--int8", str(folder / "pictures")]
    assert cli.main(command) == 1
    assert "--int8 is for .onnx files" in capsys.readouterr().err


def test_a_file_needs_pictures_and_is_written_whole(tmp_path):
    shape = ["batch", 3, "height", "width"]
    logits, pixels = (
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("logits", "pixels")
    )
    weight = onnx.numpy_helper.from_array(
        np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32), "weight"
    )
    conv = onnx.helper.make_node("Conv", ["pixels", "weight"], ["logits"])
    graph = onnx.helper.make_graph([conv], "graph", [pixels], [logits], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    onnx.helper.set_model_props(model, {"model": "one convolution"})
    source, output = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    onnx.save(model, source)
    with pytest.raises(SegZooError, match="give some"):
        quantize_onnx(source, output, [])
    with pytest.raises(SegZooError, match="cannot be quantised"):
        quantize_onnx(source, output, [np.zeros((1, 5, 8, 8), np.float32)])
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    pictures = [np.random.default_rng(i).normal(size=(1, 3, 32, 24)).astype(np.float32) for i in range(3)]
    assert quantize_onnx(source, output, pictures) == output
    written = onnx.load(output)
    assert {"QuantizeLinear", "Conv"} <= {node.op_type for node in written.graph.node}
    assert [(entry.key, entry.value) for entry in written.metadata_props] == [("model", "one convolution")]
    assert 0.95 < agreement(source, output, pictures) < 1.0 == agreement(source, source, pictures)
    with pytest.raises(SegZooError, match="exists already"):
        quantize_onnx(source, output, pictures)


@pytest.mark.slow
def test_a_model_of_one_size_is_calibrated_at_it(folder, tmp_path, capsys):
    torch.manual_seed(0)
    head = SeparableFCNHeadConfig(channels=16)
    config = SegZooConfig.from_backbone(TwinsConfig.tiny(), head, auxiliary=False, num_labels=3)
    settle(SegZooForSemanticSegmentation(config)).save_pretrained(tmp_path / "model")
    SegZooImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path / "model")
    file = tmp_path / "int8.onnx"
    command = ["export", str(tmp_path / "model"), "--output", str(file), "--int8", str(folder / "pictures")]
    assert cli.main(command) == 0, capsys.readouterr().err
    dims = onnx.load(file).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, 64, 64]
