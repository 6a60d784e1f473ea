"""Exported files run in the programs that users run them with: onnxruntime and torch.export.load."""

import copy
import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.contract import pairs_of_parts, settle, tiny_composite
from support.versions import onnx_of_any_size

import segzoo
from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.auto import BACKBONES, NECKS
from segzoo.backbones import (
    InternImageConfig,
    InternViTConfig,
    MiTConfig,
    PVTConfig,
    ResNetConfig,
    SwinConfig,
    TwinsConfig,
    UniPerceiverConfig,
)
from segzoo.commands import cli
from segzoo.errors import SegZooError
from segzoo.export.export import METADATA_FILE, ExportOptions, export_model
from segzoo.heads import FCNHeadConfig, PSPHeadConfig, UPerHeadConfig

NAMES = ["sky", "road", "wäll", "tree"]
# For tests that do not ask for a size: any size takes several times as long to trace.
ONE_SIZE = {"size": (64, 96), "batch": 1}


def build(backbone, *heads, **options):
    config = SegZooConfig(
        backbone_config=backbone,
        decode_head_configs=heads,
        auxiliary_head_configs=[FCNHeadConfig(in_index=[0], channels=8)],
        id2label=dict(enumerate(NAMES)),
        **options,
    )
    return settle(SegZooForSemanticSegmentation(config)).eval()


def internimage():
    config = InternImageConfig(
        channels=8,
        depths=[1],
        groups=[2],
        offset_scale=2.0,
        center_feature_scale=True,
        out_features=["stem", "stage1"],
    )
    return build(config, UPerHeadConfig(channels=16, pool_scales=[1, 6]), palette=[[i, i, i] for i in range(4)])


def resnet(head=None, **options):
    return build(ResNetConfig.tiny(), head or FCNHeadConfig(channels=16), **options)


def run_onnx(path, image):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])


@torch.no_grad()
def largest_difference(found, model, image):
    expected = model(image).logits
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


@onnx_of_any_size
def test_command_writes_a_file_of_standard_operators(tmp_path, capsys):
    """InternImage-UPerNet at any size, from a folder, with what one needs to use it."""
    model, file = internimage(), tmp_path / "model.onnx"
    model.save_pretrained(tmp_path / "folder")
    SegZooImageProcessor(image_mean=[0.5, 0.4, 0.3]).save_pretrained(tmp_path / "folder")
    assert cli.main(["export", str(tmp_path / "folder"), "--output", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "pixel_values: float32 (batch, 3, height, width)" in printed
    assert printed.count("largest difference") == 2 and f"{file}: " in printed

    for shape in ((1, 3, 64, 64), (3, 3, 75, 109), (2, 3, 33, 161)):
        image = torch.randn(shape)
        assert largest_difference(run_onnx(file, image), model, image) < 1e-4

    graph = onnx.load(file)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 20)]
    assert sum(node.op_type == "GridSample" for node in graph.graph.node) == 1
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.input]
    assert dims == [["batch", 3, "height", "width"]]
    metadata = {p.key: p.value for p in graph.metadata_props}
    assert json.loads(metadata["class_names"]) == NAMES and metadata["model"] == "folder"
    assert json.loads(metadata["palette"])[3] == [3, 3, 3]
    assert json.loads(metadata["preprocessing"])["mean"] == [0.5, 0.4, 0.3]
    assert "before softmax" in metadata["output"]
    assert str(segzoo.__path__[0]).encode() not in file.read_bytes()  # no paths of this machine
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "model.onnx"]


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_pictures_in_labels_out(order, tmp_path):
    """The file alone does what image processor, model and post-processing do."""
    model, file = resnet(PSPHeadConfig(channels=16)), tmp_path / "model.onnx"
    processor = SegZooImageProcessor(
        do_resize=False, channel_order=order, image_mean=[0.5, 0.4, 0.3], image_std=[0.1, 0.2, 0.3]
    )
    free = {} if order == "rgb" else {"size": (66, 98), "batch": 1}
    report = export_model(model, file, ExportOptions(labels=True, uint8=True, **free), processor=processor)
    assert len(report.checks) == (2 if order == "rgb" else 1) and report.difference < 1e-4
    for size in ((66, 98), (64, 80)) if order == "rgb" else ((66, 98),):
        picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        inputs = processor(picture, return_tensors="pt")
        with torch.no_grad():
            expected = processor.post_process_semantic_segmentation(model(**inputs), target_sizes=[size])[0]
        found = run_onnx(file, torch.from_numpy(picture[None]))
        assert found.dtype == torch.int64 and found.shape == (1, *size)
        assert (found[0] == expected).float().mean() > 0.999 and len(found.unique()) > 1
    with pytest.raises(Exception, match="[Ii]nvalid|[Gg]ot"):
        run_onnx(file, torch.zeros(1, 3, 66, 98, dtype=torch.uint8))


def test_program_of_torch_export(tmp_path):
    model, file = internimage(), tmp_path / "model.pt2"
    export_model(model, file, processor=SegZooImageProcessor(), name="a name")
    extra = {METADATA_FILE: ""}
    program = torch.export.load(file, extra_files=extra)
    for shape in ((1, 3, 64, 64), (3, 3, 75, 109)):
        image = torch.randn(shape)
        assert largest_difference(program.module()(image), model, image) < 1e-4
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("grid_sampler" in name for name in operators) and not any("segzoo" in name for name in operators)
    assert json.loads(extra[METADATA_FILE])["model"] == "a name"
    assert str(segzoo.__path__[0]).encode() not in file.read_bytes()


@onnx_of_any_size
@pytest.mark.parametrize("opset", [17, pytest.param(23, marks=pytest.mark.slow)])
def test_half_precision_and_other_opsets(opset, tmp_path):
    model, file = resnet(), tmp_path / "model.onnx"
    report = export_model(model, file, ExportOptions(dtype="float16", opset=opset))
    assert 1e-6 < report.difference < 2e-2 and model.dtype == torch.float32
    graph = onnx.load(file)
    assert graph.opset_import[0].version == opset
    weights = [t for t in graph.graph.initializer if len(t.dims) == 4]
    assert weights and all(t.data_type == onnx.TensorProto.FLOAT16 for t in weights)
    image = torch.randn(1, 3, 64, 96)
    assert largest_difference(run_onnx(file, image), model, image) < 2e-2


@pytest.mark.slow
def test_weights_beside_a_graph_that_is_too_large(tmp_path, monkeypatch):
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)
    model, file = resnet(), tmp_path / "model.onnx"
    file.write_text("an old file")
    report = export_model(model, file, overwrite=True)
    assert sorted(tmp_path.iterdir()) == sorted(report.files) and report.files[0] == file and len(report.files) == 2
    image = torch.randn(1, 3, 64, 96)
    assert largest_difference(run_onnx(file, image), model, image) < 1e-4
    monkeypatch.undo()
    export_model(model, file, overwrite=True)
    assert list(tmp_path.iterdir()) == [file], "the weights of a graph go with it"


def test_files_of_others_beside_an_export_stay(tmp_path):
    mine = tmp_path / "model.onnx.data", tmp_path / "model.pt2.data", tmp_path / "model.pt2"
    for path in mine:
        path.write_text("mine")
    export_model(resnet(), tmp_path / "model.onnx", ExportOptions(**ONE_SIZE))
    export_model(resnet(), tmp_path / "model.pt2", ExportOptions(**ONE_SIZE), overwrite=True)
    assert mine[0].read_text() == mine[1].read_text() == "mine" and mine[2].read_bytes() != b"mine"


def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_text("the old file")
    with pytest.raises(SegZooError, match=r"differs from the model by .*e.*tolerance"):
        export_model(resnet(), file, ExportOptions(tolerance=0.0, **ONE_SIZE), overwrite=True)
    assert file.read_text() == "the old file" and list(tmp_path.iterdir()) == [file]


def test_rounding_that_the_model_multiplies_itself_is_accepted(tmp_path, monkeypatch):
    """Small differences of large values: the file's are as good as the model's, unless it computes something else."""
    model, file = resnet(), tmp_path / "model.pt2"
    head = model.decode_heads[0]
    *_, norm = (module for module in head.modules() if isinstance(module, torch.nn.BatchNorm2d))
    with torch.no_grad():
        norm.bias.fill_(3e5)
        head.classifier.weight.copy_((head.classifier.weight - head.classifier.weight.mean(1, keepdim=True)) * 100)
    assert 1e-4 < export_model(model, file, ExportOptions(**ONE_SIZE)).difference < 0.1
    with pytest.raises(SegZooError, match="more than 0.0001;"):
        export_model(model, file, ExportOptions(tolerance=1e-4, **ONE_SIZE), overwrite=True)

    def another(model):
        model = copy.deepcopy(model)
        model.decode_heads[0].classifier.weight.mul_(1.2)
        return model

    monkeypatch.setattr("segzoo.export.export.fused_copy", torch.no_grad()(another))
    with pytest.raises(SegZooError, match="the file differs"):
        export_model(model, file, ExportOptions(**ONE_SIZE), overwrite=True)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_packages_that_are_not_installed(missing, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli.main(["export", "no-model", "--output", str(tmp_path / "model.onnx")]) == 1
    error = capsys.readouterr().err
    assert missing in error and "pip install 'segzoo[onnx]'" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.bin", {}, "must end in .onnx or .pt2"),
        ("taken.onnx", {}, "exists already"),
        ("no/model.onnx", {}, "there is no folder .*no "),
        ("taken.onnx/model.onnx", {}, "taken.onnx is a file, and nothing can be made below"),
        ("folder.onnx", {}, "this is a folder"),
        ("model.onnx", {"opset": 9}, "from 17 to 23"),
        ("model.pt2", {"opset": 20}, "belongs to ONNX"),
        ("model.pt2", {"uint8": True}, "image processor"),
        ("model.pt2", {"size": (0, 64)}, "size is"),
        ("model.pt2", {"batch": 0}, "batch is 0"),
        ("model.pt2", {"dtype": "int8"}, "int8"),
    ],
)
def test_mistakes(name, options, message, tmp_path):
    (tmp_path / "taken.onnx").write_text("")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(SegZooError, match=message):
        export_model(resnet(), tmp_path / name, ExportOptions(**options))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.onnx", "taken.onnx"]


def test_models_that_are_not_ready(tmp_path):
    with pytest.raises(SegZooError, match="training mode"):
        export_model(resnet().train(), tmp_path / "model.pt2")
    with pytest.raises(SegZooError, match="float64"):
        export_model(resnet().double(), tmp_path / "model.pt2")
    processor = SegZooImageProcessor(num_channels=4, image_mean=0.5, image_std=0.5)
    with pytest.raises(SegZooError, match="4 channels"):
        export_model(resnet(), tmp_path / "model.pt2", ExportOptions(uint8=True), processor=processor)


def test_models_of_others(tmp_path):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    config = SegformerConfig(
        num_encoder_blocks=1,
        depths=[1],
        sr_ratios=[1],
        hidden_sizes=[8],
        num_attention_heads=[1],
        decoder_hidden_size=8,
    )
    model, processor = (
        SegformerForSemanticSegmentation(config).eval(),
        SegformerImageProcessor(size={"height": 64, "width": 96}),
    )
    report = export_model(model, tmp_path / "model.pt2", ExportOptions(labels=True), processor=processor)
    assert [check.size for check in report.checks] == [(256, 320), (347, 225)]
    extra = {METADATA_FILE: ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(json.loads(extra[METADATA_FILE])["image_processor"])["size"] == {"height": 64, "width": 96}
    with pytest.raises(SegZooError, match="uint8 input needs an image processor of segzoo's"):
        export_model(model, tmp_path / "other.pt2", ExportOptions(uint8=True), processor=processor)
    with pytest.raises(SegZooError, match="SegformerModel is no model for semantic segmentation with dense logits"):
        export_model(model.segformer, tmp_path / "other.pt2")


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({}, r"with a free size and batch \(.+\); give --size HEIGHT WIDTH and --batch 1$"),
        ({"batch": 1}, r"with a free size \(.+\); give --size HEIGHT WIDTH$"),
        ({"size": (64, 64)}, r"with a free batch \(.+\); give --batch 1$"),
        ({"size": (64, 64), "batch": 1}, r"for the input \(1, 3, 64, 64\) \(.+\); try another --size"),
    ],
)
def test_models_that_cannot_be_traced(fixed, message, tmp_path):
    """The fix names what was left free, and no error of PyTorch's reaches the user."""

    class Undecided(SegZooForSemanticSegmentation):
        def forward(self, pixel_values, **options):  # which way it goes is known only with the picture
            return super().forward(pixel_values if pixel_values.sum() > 0 else -pixel_values, **options)

    model = Undecided(resnet().config).eval()
    with pytest.raises(SegZooError, match=message):
        export_model(model, tmp_path / "model.pt2", ExportOptions(**fixed))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".pt2", pytest.param(".onnx", marks=pytest.mark.slow)])
def test_swin_of_transformers_gets_a_fixed_size(suffix, tmp_path):
    """Its windows depend on the size, so that a file for any size would take an hour and run for few sizes."""
    from transformers import SwinConfig as TheirSwinConfig

    names = ["stage1", "stage2"]
    backbone = TheirSwinConfig(embed_dim=12, depths=[1, 2], num_heads=[1, 2], window_size=3, out_features=names)
    model = build(backbone, FCNHeadConfig(channels=8))
    processor = SegZooImageProcessor(size={"height": 52, "width": 68})
    lines = []
    report = export_model(model, tmp_path / f"model{suffix}", processor=processor, on_step=lines.append)
    assert report.input == "pixel_values: float32 (batch, 3, 52, 68)" and report.difference < 1e-4
    assert [line.split()[0] for line in lines] == ["note:", "tracing", "writing", "comparing"]
    assert "52x68 alone: its backbone swin pads maps to whole windows" in lines[0]


@pytest.mark.parametrize("backbone", [UniPerceiverConfig, InternViTConfig])
def test_positions_that_are_resized_take_the_size_that_they_were_made_for(backbone, tmp_path):
    """At that size the model takes them as they are, and at any other it resizes them."""
    config = backbone.tiny()
    config.image_size = size = 8 * config.patch_size
    config.out_features = config.out_features[-1:]
    model, file = build(config, FCNHeadConfig(channels=8)), tmp_path / "model.pt2"
    assert "(batch, 3, height, width)" in export_model(model, file).input
    for shape in ((1, 3, size, size), (2, 3, size, 2 * size), (1, 3, 2 * size, 2 * size)):
        image = torch.randn(shape)
        assert largest_difference(torch.export.load(file).module()(image), model, image) < 1e-4


@onnx_of_any_size
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_our_swin_takes_any_size(suffix, tmp_path):
    """Its windows, padding and masks are computed from the picture's size inside the traced program."""
    model, file = build(SwinConfig.tiny(), UPerHeadConfig(channels=8, pool_scales=[1, 2])), tmp_path / f"model{suffix}"
    report = export_model(model, file)
    assert "(batch, 3, height, width)" in report.input
    for shape in (
        (1, 3, 64, 64),
        (3, 3, 75, 109),
        (2, 3, 33, 161),
        (1, 3, 33, 33),
    ):  # the last one's is a single window
        image = torch.randn(shape)
        found = run_onnx(file, image) if suffix == ".onnx" else torch.export.load(file).module()(image)
        assert largest_difference(found, model, image) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("mit", 33), ("twins", 33), ("pvt", 64)])
def test_attention_to_a_coarser_grid_takes_any_size(name, least, tmp_path):
    """From a single picture on, whatever rows and columns do not fill a patch of the coarser grid."""
    sizes = {"depths": [2, 1, 2, 1], "num_heads": [1, 1, 2, 2], "mlp_ratios": [2] * 4}
    backbone = {"mit": MiTConfig, "twins": TwinsConfig, "pvt": PVTConfig}[name](channels=[8, 8, 16, 16], **sizes)
    model, file = build(backbone, FCNHeadConfig(channels=8)), tmp_path / "model.pt2"
    assert "(batch, 3, height, width)" in export_model(model, file).input
    program = torch.export.load(file).module()
    for shape in ((1, 3, 64, 64), (3, 3, 75, 109), (2, 3, least, 161), (1, 3, max(least, 61), 300)):
        image = torch.randn(shape)
        assert largest_difference(program(image), model, image) < 1e-4


@pytest.mark.parametrize(("head", "least"), [("lraspp", 64), ("isa", 128)])
def test_the_least_side_of_a_program_is_said(head, least, tmp_path):
    model, file = settle(tiny_composite("segzoo_resnet", f"segzoo_{head}_head")).eval(), tmp_path / "model.pt2"
    lines, extra = [], {METADATA_FILE: ""}
    export_model(model, file, on_step=lines.append)
    program = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra[METADATA_FILE])["least_side"] == str(least)
    assert sum(f"pictures of {least} pixels a side and more" in line for line in lines) == (least > 32)
    for shape in ((1, 3, least, least), (3, 3, least, 200), (2, 3, 200, least)):
        image = torch.randn(shape)
        assert largest_difference(program(image), model, image) < 1e-4


def test_models_of_any_size_have_no_reason_against_it():
    from transformers import Dinov2Config
    from transformers import SwinConfig as TheirSwinConfig

    from segzoo.export.export import why_fixed

    for backbone in (ResNetConfig.tiny(), Dinov2Config(out_features=["stage1"]), InternImageConfig.tiny()):
        assert why_fixed(SegZooConfig.from_backbone(backbone)) is None
    windowed = SegZooConfig.from_backbone(TheirSwinConfig(out_features=["stage1", "stage2"]))
    windowed.window_size = windowed.window_stride = [64, 64]
    assert "swin" in why_fixed(windowed)
    assert "segzoo_twins pads" in why_fixed(SegZooConfig.from_backbone(TwinsConfig.tiny()))
    assert why_fixed(SegZooConfig.from_backbone(TwinsConfig())) is None  # PCPVT, which has no windows


@pytest.mark.parametrize(("suffix", "fix"), [(".onnx", "another --opset"), (".pt2", "an .onnx file")])
def test_files_that_do_not_load(suffix, fix, tmp_path, monkeypatch):
    def damaged(program, *args, **options):
        for arg in args:
            if hasattr(arg, "write_bytes"):
                arg.write_bytes(b"not what was to be written")
            elif hasattr(arg, "write"):
                arg.write(b"not what was to be written")

    monkeypatch.setattr(torch.export, "save", damaged)
    monkeypatch.setattr("segzoo.export.export._write_onnx", damaged)
    with pytest.raises(SegZooError, match=rf"^model{suffix}: could not be written and loaded again \(.+\); try {fix}"):
        export_model(resnet(), tmp_path / f"model{suffix}", ExportOptions(**ONE_SIZE))
    assert list(tmp_path.iterdir()) == []


FIXED_SIZE = {"segzoo_beit", "segzoo_internvit", "segzoo_vit", "segzoo_vit_adapter"}
"""Backbones whose position tables belong to one size."""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize(("backbone", "head"), pairs_of_parts())
def test_every_registered_model(backbone, head, suffix, tmp_path):
    model = settle(tiny_composite(backbone, head)).eval()
    fixed = {"size": (64, 64), "batch": 1} if backbone in FIXED_SIZE else {}
    assert export_model(model, tmp_path / f"model{suffix}", ExportOptions(**fixed)).difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("name", sorted(NECKS))
def test_every_registered_neck(name, suffix, tmp_path):
    neck = NECKS[name].config.tiny()
    one_size = len(set(neck.in_channels)) == 1  # made for the maps of a plain transformer
    backbone = BACKBONES["segzoo_vit" if one_size else "segzoo_resnet"].config.tiny()
    backbone.out_features = backbone.stage_names[-len(neck.in_channels) :]
    neck.in_channels = None
    model = build(backbone, FCNHeadConfig(channels=8), neck_config=neck)
    fixed = {"size": (64, 64), "batch": 1} if one_size else {}
    assert export_model(model, tmp_path / f"model{suffix}", ExportOptions(**fixed)).difference < 1e-4


@pytest.mark.slow
def test_internimage_t_at_full_width(tmp_path):
    from segzoo.backbones.internimage import VARIANTS

    model = build(InternImageConfig(**VARIANTS["internimage-t"]), UPerHeadConfig(channels=512))
    assert export_model(model, tmp_path / "model.onnx").difference < 1e-4
