"""ViT-Adapter and its plain ViTs against recorded numbers of the original, and the adapter over every known ViT."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from parity import synthesis
from safetensors.torch import load_file
from transformers import AutoBackbone as TransformersAutoBackbone
from transformers import AutoConfig, AutoModel

from segzoo import AutoBackbone, SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import BeitConfig, UniPerceiverConfig, ViTAdapterBackbone, ViTAdapterConfig, ViTConfig
from segzoo.backbones.beit import BeitAttention, resize_bias_table
from segzoo.backbones.plain_vit import resize_positions
from segzoo.backbones.vit import ViTBackbone
from segzoo.backbones.vit_adapter import VARIANTS, Extractor, Injector, SpatialPrior
from segzoo.conversion.rules.vit_adapter import VIT_ADAPTER
from segzoo.errors import SegZooError
from segzoo.heads import Mask2FormerHeadConfig
from segzoo.layers.deformable_attention import DeformableAttention, cell_centres
from segzoo.layers.vit import Attention, ViTBlock

RECORD = Path(__file__).parent / "records" / "vit_adapter"
CASES = json.loads(RECORD.with_suffix(".json").read_text())
TENSORS = load_file(f"{RECORD}.safetensors")
# Which entries of the flattened outputs and input gradients were kept. Of each weight's gradient: the sum, the sum of
# magnitudes, the first and the last entry.
OUTPUT_STEP, GRADIENT_STEP = 3, 5

GRID, SIZES = (4, 6), [(8, 12), (4, 6), (2, 3)]  # of a picture of 64 x 96
# Where the recorded parts sit in the original backbone and in ours.
PLACES = {
    "spm": ("spm.", "spatial_prior."),
    "injector": ("interactions.0.injector.", "interactions.0.injector."),
    "extractor": ("interactions.0.extractor.", "interactions.0.extractors.0."),
    "vit_block": ("blocks.0.", "vit.layers.0."),
    "beit_block": ("blocks.0.", "vit.layers.0."),
}


def block(attention):
    return ViTBlock(attention, 16, 64, norm_eps=1e-6, layer_scale=1.0)


def build(kind: str, variant: str):
    """Our module of a record, the config it is named after, and further arguments of its forward."""
    vit = ViTConfig(hidden_size=16, num_attention_heads=4, num_hidden_layers=4, layer_scale=1.0, class_token=False)
    if kind == "beit_block":
        vit = BeitConfig(hidden_size=16, num_attention_heads=4, num_hidden_layers=4, image_size=[64, 96])
    ratio = float(variant.removeprefix("ratio")) if variant.startswith("ratio") else 0.5
    config = ViTAdapterConfig(vit_config=vit, branch_channels=8, deform_num_heads=4, deform_ratio=ratio)
    if kind == "spm":
        return SpatialPrior(3, 8, 16), config, ()
    if kind == "injector":
        return Injector(config, 16), config, (GRID, SIZES)
    if kind == "extractor":
        return Extractor(config, 16), config, (GRID, SIZES)
    window = 5 if variant == "windowed" else 0
    attention = BeitAttention(vit) if kind == "beit_block" else Attention(vit, 16, 4, window=window)
    return block(attention), config, (GRID,)


MODULES = [name for name, case in CASES.items() if "keys" in case]


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(name, "sdpa") for name in MODULES] + [(name, "eager") for name in MODULES if "block" in name],
)
def test_recorded_numbers_of_the_original(name, implementation):
    kind, _, variant = name.partition(".")
    module, config, arguments = build(kind, variant)
    config.vit_config._attn_implementation = implementation
    table, (old, new) = VIT_ADAPTER.key_table(config), PLACES[kind]
    original = synthesis.state_dict([line for line in CASES[name]["keys"] if "relative_position_index" not in line])
    renamed = {key: table.to_native(old + key).removeprefix(new) for key in original}
    module.load_state_dict({renamed[key]: value for key, value in original.items()})
    module.double().eval()

    record = {k.removeprefix(f"{name}."): v.double() for k, v in TENSORS.items() if k.startswith(f"{name}.")}
    inputs = [record[f"in.{part}"].requires_grad_() for part in ("x", "query", "feat") if f"in.{part}" in record]
    outputs = module(*inputs, *arguments)
    if kind == "spm":  # the original gives the coarser maps as tokens
        outputs = [outputs[0], *(x.flatten(2).transpose(1, 2) for x in outputs[1:])]
    outputs = outputs if isinstance(outputs, list) else [outputs]
    torch.autograd.backward(outputs, [record[f"gradout{i}"] for i in range(len(outputs))])

    for i, output in enumerate(outputs):
        assert torch.allclose(output.reshape(-1)[::OUTPUT_STEP], record[f"out{i}"], rtol=1e-9, atol=1e-9)
    for part, tensor in zip(("x",) if len(inputs) == 1 else ("query", "feat"), inputs, strict=True):
        gradient = tensor.grad.reshape(-1)[::GRADIENT_STEP]
        assert torch.allclose(gradient, record[f"gradin.{part}"], rtol=1e-9, atol=1e-9)
    parameters = dict(module.named_parameters())
    compared = 0
    for key in original:
        if (expected := record.get(f"gradparam.{key}")) is not None:
            flat = parameters[renamed[key]].grad.reshape(-1)
            found = torch.stack([flat.sum(), flat.abs().sum(), flat[0], flat[-1]])
            assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8), key
            compared += 1
    assert compared >= 5


def test_reference_points():
    like = torch.empty(0, dtype=torch.float64)
    assert torch.allclose(cell_centres([GRID], like)[::7], TENSORS["deform_inputs1.reference_points"])
    assert torch.allclose(cell_centres(SIZES, like)[::7], TENSORS["deform_inputs2.reference_points"])
    assert cell_centres([GRID], torch.empty(0, dtype=torch.bfloat16)).dtype == torch.float32


def test_positions_are_resized_as_in_the_original():
    case = "pos_embed.14x14_to_8x10"
    positions = TENSORS[f"{case}.in.pos"].double().requires_grad_()
    output = resize_positions(positions, (14, 14), (8, 10))
    output.backward(TENSORS[f"{case}.gradout0"].double())
    assert torch.allclose(output.reshape(-1)[::OUTPUT_STEP], TENSORS[f"{case}.out0"], rtol=1e-12)
    gradient = positions.grad.reshape(-1)[::GRADIENT_STEP]
    assert torch.allclose(gradient, TENSORS[f"{case}.gradin.pos"], rtol=1e-9, atol=1e-12)
    assert resize_positions(positions, (14, 14), (14, 14)) is positions


@pytest.mark.parametrize("size", [79, 111])
def test_tables_are_resized_as_in_the_original(size):
    """scipy's interp2d over a geometric sequence, as BEiT's loader has it, from 14 x 14 patches."""
    side = (size + 1) // 2
    table = resize_bias_table(TENSORS["beit_rel_interp.in"], (14, 14), (side, side))
    assert list(table.shape) == CASES[f"beit_rel_interp_{size}"]["info"]["shape"]
    flat = table.reshape(-1)
    sample = flat[[(k * 2654435761 + 12345) % flat.numel() for k in range(512)]]
    assert torch.allclose(sample, TENSORS[f"beit_rel_interp.out_{size}.val"], rtol=1e-12, atol=1e-12)
    assert torch.equal(table[-3:], TENSORS["beit_rel_interp.in"][-3:])


SMALL = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
VITS = {
    "segzoo_vit": ViTConfig.tiny,
    "segzoo_beit": BeitConfig.tiny,
    "segzoo_uniperceiver": UniPerceiverConfig.tiny,
    "vit": lambda: AutoConfig.for_model("vit", **SMALL, intermediate_size=32, image_size=64, patch_size=16),
    "dinov2": lambda: AutoConfig.for_model("dinov2", **SMALL, mlp_ratio=2, image_size=56, patch_size=14),
    "dinov2_with_registers": lambda: AutoConfig.for_model(
        "dinov2_with_registers", **SMALL, mlp_ratio=2, image_size=56, patch_size=14
    ),
    "dinov3_vit": lambda: AutoConfig.for_model(
        "dinov3_vit", **SMALL, intermediate_size=32, image_size=64, patch_size=16, num_register_tokens=2
    ),
}


def adapter(kind: str, **options) -> ViTAdapterConfig:
    return ViTAdapterConfig(vit_config=VITS[kind](), branch_channels=8, deform_num_heads=2, **options)


@pytest.mark.parametrize("kind", VITS)
def test_without_exchange_the_vit_is_itself(kind):
    """With injectors at zero, the maps that the adapter takes from a ViT are those that the ViT gives alone."""
    config = adapter(kind, extra_extractors=0)
    model = ViTAdapterBackbone(config).eval()
    seen = []
    for interaction in model.interactions:
        interaction.extractors[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    patch = config.vit_config.patch_size
    pixels = torch.randn(2, 3, 3 * patch, 5 * patch)
    with torch.no_grad():
        model(pixels)
        if kind == "vit":
            states = model.vit(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[1:]
            alone = [state[:, 1:] for state in states[:3]]  # the last one comes through the last norm
        else:
            vit = TransformersAutoBackbone.from_config(config.vit_config).eval()
            vit.load_state_dict(model.vit.state_dict())
            vit.config.apply_layernorm = False
            vit.out_indices = [1, 2, 3]
            alone = [x.flatten(2).transpose(1, 2) for x in vit(pixels).feature_maps]
    assert len(seen) == 4
    for found, expected in zip(seen, alone, strict=False):
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", VITS)
def test_training_reaches_what_it_should_and_survives_saving(kind, frozen, tmp_path):
    config = adapter(
        kind, freeze_vit=frozen, injectors=not frozen, injector_scale=0.1, read_normalized=kind == "dinov3_vit"
    )
    ViTAdapterBackbone(config).save_pretrained(tmp_path)
    model = AutoBackbone.from_pretrained(tmp_path).train()
    for size in ((64, 96), (75, 109)):
        maps = model(torch.randn(2, 3, *size)).feature_maps
        assert [x.shape[2] for x in maps] == [-(-size[0] // stride) for stride in (4, 8, 16, 32)]
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}
    assert any(name.startswith("vit.") for name in trained) is not frozen
    assert model.vit.training is not frozen and model.spatial_prior.training
    assert not any("mask_token" in name for name in trained)


@pytest.mark.parametrize("kind", ["vit", "dinov3_vit", "segzoo_beit"])
def test_an_adapter_over_a_trained_vit(kind, tmp_path):
    config = VITS[kind]()
    trained = (AutoModel if kind == "vit" else TransformersAutoBackbone).from_config(config)
    trained.save_pretrained(tmp_path)
    model = ViTAdapterBackbone.from_vit(tmp_path, deform_num_heads=2, freeze_vit=True, injectors=False)
    weights = trained.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.vit.state_dict().items())
    assert not any(p.requires_grad for p in model.vit.parameters())
    with pytest.raises(SegZooError, match="no option 'no_such'"):
        ViTAdapterBackbone.from_vit(tmp_path, no_such=1)


@pytest.mark.parametrize(
    ("kind", "duplicate"),
    [
        ("dinov3_vit", copy.deepcopy),
        ("segzoo_beit", copy.deepcopy),
        ("segzoo_beit", lambda model: pickle.loads(pickle.dumps(model))),  # transformers' DINOv3 cannot be pickled
    ],
)
def test_copies_have_a_vit_of_their_own(kind, duplicate):
    model = ViTAdapterBackbone(adapter(kind)).eval()
    copied, x = duplicate(model), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x).feature_maps[0]
        assert torch.equal(copied(x).feature_maps[0], expected)
        for parameter in copied.vit.parameters():
            parameter.add_(1)
        assert torch.equal(model(x).feature_maps[0], expected) and not torch.equal(copied(x).feature_maps[0], expected)


@pytest.mark.parametrize("ratio", [0, 0.0])
def test_a_branch_without_feed_forward_parts(ratio):
    config = adapter("segzoo_vit", mlp_ratio=ratio)
    assert type(config).from_dict(config.to_dict()).mlp_ratio == 0
    model = ViTAdapterBackbone(config).eval()
    extractors = [extractor for interaction in model.interactions for extractor in interaction.extractors]
    assert extractors and all(extractor.mlp is None for extractor in extractors)
    assert len(model(torch.randn(1, 3, 64, 64)).feature_maps) == 4


def test_a_vit_that_is_not_there(tmp_path):
    with pytest.raises(SegZooError, match="cannot load the ViT"):
        ViTAdapterBackbone.from_vit(tmp_path / "nothing")


def test_tables_of_a_trained_beit_are_resized_once(tmp_path):
    config = BeitConfig.tiny()
    config.resize_tables = False
    vit = TransformersAutoBackbone.from_config(config)
    for layer in vit.layers:
        torch.nn.init.normal_(layer.attention.relative_position_bias_table)
    vit.save_pretrained(tmp_path)
    model = ViTAdapterBackbone.from_vit(tmp_path, vit_options={"image_size": 128}, deform_num_heads=2)
    assert model.config.vit_config.grid == (8, 8)
    for old, new in zip(vit.layers, model.vit.layers, strict=True):
        expected = resize_bias_table(old.attention.relative_position_bias_table, (4, 6), (8, 8))
        assert torch.equal(new.attention.relative_position_bias_table, expected)
    assert len(model(torch.randn(2, 3, 128, 128)).feature_maps) == 4


def test_trained_scales_are_not_dropped(tmp_path):
    vit = ViTBackbone(ViTConfig(**ViTConfig.tiny().to_dict() | {"layer_scale": 0.5}))
    vit.save_pretrained(tmp_path)
    with pytest.raises(SegZooError, match="do not fit"):
        ViTAdapterBackbone.from_vit(tmp_path, vit_options={"layer_scale": None}, deform_num_heads=2)


def test_frozen_dinov3_with_mask2former_trains_from_a_config():
    head = Mask2FormerHeadConfig.tiny()
    head.in_channels = None  # those of the backbone
    config = SegZooConfig(
        backbone_config=adapter(
            "dinov3_vit", freeze_vit=True, injectors=False, read_normalized=True, drop_path_rate=0.1
        ),
        decode_head_configs=[head],
        num_labels=5,
    )
    config = type(config).from_dict(config.to_dict())
    torch.manual_seed(0)
    model = SegZooForSemanticSegmentation(config).train()
    assert not any(p.requires_grad for p in model.backbone.vit.parameters())
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    pixels, labels = (
        torch.randn(2, 3, 64, 64),
        torch.randint(0, 5, (2, 2, 2)).repeat_interleave(32, 1).repeat_interleave(32, 2),
    )
    losses = []
    for _ in range(12):
        torch.manual_seed(1)  # the same random points of the masks
        loss = model(pixel_values=pixels, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and not any(name.startswith("backbone.vit.") for name in moved)


@pytest.mark.parametrize("kind", VITS)
def test_depths(kind):
    """The ViT's blocks count; the branch, and the norm behind the blocks, learn at the full rate."""
    model = ViTAdapterBackbone(adapter(kind))
    depths = {name: model.parameter_depth(name) for name, _ in model.named_parameters()}
    assert model.num_depths == 5
    inside = {name: depth for name, depth in depths.items() if name.startswith("vit.")}
    assert set(inside.values()) - {None} == {0, 1, 2, 3, 4}
    assert all(depth is None for name, depth in depths.items() if name not in inside)
    behind = {name for name, depth in inside.items() if depth is None}
    assert behind in (set(), {"vit.norm.weight", "vit.norm.bias"}, {"vit.layernorm.weight", "vit.layernorm.bias"})


def test_drop_path():
    model = ViTAdapterBackbone(adapter("segzoo_vit", drop_path_rate=0.3))
    assert [layer.drop_path.p for layer in model.vit.layers] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert {e.drop_path.p for i in model.interactions for e in i.extractors} == {0.3}
    own = ViTAdapterBackbone(adapter("segzoo_vit"))  # the ViT's own rate
    assert {e.drop_path.p for i in own.interactions for e in i.extractors} == {0.1}


def test_a_fresh_adapter_leaves_the_vit_alone(tmp_path):
    model = ViTAdapterBackbone(adapter("segzoo_beit"))
    for module in model.modules():
        if isinstance(module, Injector):
            assert not module.scale.any()
        if isinstance(module, DeformableAttention):
            assert not module.sampling_offsets.weight.any() and not module.attention_weights.weight.any()
            star = module.sampling_offsets.bias.unflatten(0, (2, module.num_levels, 4, 2))
            assert torch.allclose(star[0, :, :, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(module.num_levels, 4))
            torch.nn.init.ones_(module.sampling_offsets.weight)
    model.save_pretrained(tmp_path)
    loaded = ViTAdapterBackbone.from_pretrained(tmp_path)
    assert all((m.sampling_offsets.weight == 1).all() for m in loaded.modules() if isinstance(m, DeformableAttention))


# Counted in the original's backbones; the largest has AugReg's positions for 384 x 384, BEiT tables for 640 x 640.
PARAMETERS = {
    "vit-adapter-t": 7966640,
    "vit-adapter-s": 27503888,
    "vit-adapter-b": 99495392,
    "vit-adapter-l": 326973632,
    "beit-adapter-l": 328756928,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_published_sizes(name):
    config = ViTAdapterConfig(**VARIANTS[name])
    with torch.device("meta"):
        model = ViTAdapterBackbone(config)
    if name in PARAMETERS:
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert config.vit_config.drop_path_rate == config.drop_path_rate > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vit_config": {"model_type": "swin"}}, "cannot use a 'swin'; its vit_config is one of segzoo_vit"),
        ({"interaction_layers": [1, 2, 3, 5]}, "four rising numbers of the ViT's 4 blocks"),
        ({"interaction_layers": [1, 2, 4]}, "four rising numbers"),
        ({"deform_num_heads": 3}, "do not divide into deform_num_heads=3"),
        ({"num_channels": 4}, "num_channels=4, but the ViT's is 3"),
    ],
)
def test_options_that_do_not_fit(options, words):
    options = {"vit_config": VITS["segzoo_vit"](), "deform_num_heads": 2} | options
    with pytest.raises(SegZooError, match=words):
        ViTAdapterConfig(**options)
