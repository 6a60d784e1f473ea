"""Twins in its authors' spelling, pre-training files in both, and the parameter groups of the recipes."""

import pytest
import timm
import torch

from segzoo import AutoBackbone, SegZooForSemanticSegmentation, zoo
from segzoo.backbones.twins import VARIANTS
from segzoo.conversion import convert_checkpoint
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.pretrained.twins import translate_twins
from segzoo.conversion.rules.twins import ORIGINALS
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import find_native, original_state_dict
from segzoo.training import parameter_groups
from segzoo.training.recipes.recipe import load_recipe

SVT = "twins_svt-s_uperhead_8x2_512x512_160k_ade20k"


def config_of(kind, **options):
    """A config with a backbone in the authors' spelling, and UPerNet's head."""
    config = zoo.original_config(SVT)
    widths = VARIANTS[ORIGINALS.get(kind, "twins_svt_small")].get("channels", [64, 128, 320, 512])
    config["model"]["backbone"] = {"type": kind, "style": "pytorch", **options}
    config["model"]["decode_head"]["in_channels"] = widths
    config["model"]["auxiliary_head"]["in_channels"] = widths[2]
    return config


@pytest.mark.parametrize("kind", ["pcpvt_small_v0", "pcpvt_base", "alt_gvt_small", "alt_gvt_large"])
def test_keys_of_the_authors_types(kind):
    """Those of timm's models, which have the authors' names, and the norms after the stages of SVT."""
    translation = translate_config(config_of(kind))
    config = translation.config.backbone_config
    assert (config.norm_eps, config.patch_norm_eps) == (1e-6, 1e-5)
    assert not (config.pad_patches or config.mask_padding or config.drop_path_twice)
    with torch.device("meta"):
        theirs = timm.create_model(ORIGINALS[kind]).state_dict()
    state = build_without_weights(translation.config).state_dict()
    found = {
        key.removeprefix("backbone."): tensor.shape
        for key, tensor in original_state_dict(state, translation.components).items()
        if key.startswith("backbone.")
    }
    wanted = {key: tensor.shape for key, tensor in theirs.items() if not key.startswith(("norm.", "head."))}
    for stage, width in enumerate(config.channels if kind.startswith("alt") else ()):
        wanted |= {f"norm_list.{stage}.{name}": (width,) for name in ("weight", "bias")}
    assert found == wanted
    for unused in ("backbone.head.weight", "backbone.norm.bias"):  # in the file, and never run
        rule, native = find_native(unused, translation.components)
        assert rule is not None and native is None


def test_options_of_the_authors_types():
    assert (
        translate_config(config_of("alt_gvt_small", drop_path_rate=0.4)).config.backbone_config.drop_path_rate == 0.2
    )
    with pytest.raises(ConversionError, match="unknown option extra_norm=False"):
        translate_config(config_of("alt_gvt_small", extra_norm=False))
    with pytest.raises(ConversionError, match="alt_gvt_smal.* did you mean alt_gvt_small"):
        translate_config(config_of("alt_gvt_smal"))


def classifier(kind):
    """A small ImageNet classifier in the authors' layout."""
    options = {"embed_dims": (64,) * 4, "num_heads": (1,) * 4} if kind == "pcpvt" else {}
    options = options or {"embed_dims": (32,) * 4, "num_heads": (1,) * 4, "wss": (7,) * 4}
    options |= {"depths": (2, 1, 2, 2), "mlp_ratios": (2, 2, 1, 1), "num_classes": 3}
    return timm.models.twins.Twins(**options).state_dict()


def renamed(state):
    """The same in the layout of mmsegmentation's files, by another way than the rules."""
    renamed = {}
    for key, tensor in state.items():
        if "attn.kv." in key or key.startswith("head."):
            continue
        if ".attn.q." in key:
            tensor = torch.cat([tensor, state[key.replace(".q.", ".kv.")]])
            key = key.replace("attn.q.", "attn.attn.in_proj_")
        elif ".attn.proj." in key and key.replace("proj", "q") in state:
            key = key.replace("attn.proj.", "attn.attn.out_proj.")
        elif key.startswith("patch_embeds"):
            key = key.replace("proj", "projection")
        key = key.replace("pos_block", "position_encodings").replace("proj.0.", "proj.").replace("blocks", "layers")
        renamed[key.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")] = tensor
    return renamed


@pytest.mark.parametrize("kind", ["pcpvt", "svt"])
def test_classifiers_become_backbones(kind, tmp_path):
    state, models = classifier(kind), {}
    for name, content in {"authors": {"model": state}, "mmseg": renamed(state)}.items():
        torch.save(content, tmp_path / f"{name}.pth")
        report = convert_checkpoint(tmp_path / f"{name}.pth", output=tmp_path / name).report
        assert any("norms after the stages" in note for note in report.notes) == (kind == "svt")
        models[name] = AutoBackbone.from_pretrained(tmp_path / name)
    config = models["authors"].config
    assert config.depths == [2, 1, 2, 2] and config.mlp_ratios == [2, 2, 1, 1] and config.reductions[0] == 8
    assert config.windows == ([7] * 4 if kind == "svt" else None) and config.stage_norm == (kind == "svt")
    assert (config.norm_eps, models["mmseg"].config.norm_eps) == (1e-6, 1e-5)
    weight = models["authors"].stages[2].blocks[1].attention.kv.weight
    assert torch.equal(weight, state["blocks.2.1.attn.kv.weight"])
    first, second = (model.state_dict() for model in models.values())
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_weights_that_no_twins_has():
    state = classifier("svt")
    state["patch_embeds.0.proj.weight"] = torch.zeros(40, 3, 4, 4)
    with pytest.raises(ConversionError, match=r"no published Twins has stages of the widths \[40, 32, 32, 32\]"):
        translate_twins(state, "a file")
    del state["patch_embeds.0.proj.weight"]
    with pytest.raises(ConversionError, match=r"patch_embeds.0.proj.weight is missing"):
        translate_twins(state, "a file")


def rates(name):
    """Learning rate and weight decay by original name, of the parameters of a row of the zoo."""
    translation, recipe = translate_config(zoo.original_config(name)), load_recipe(name)
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translation.config)
    options = recipe.optimizer_options.to_dict()
    chosen = ("learning_rate", "weight_decay", "no_decay", "layer_decay", "head_lr_multiplier", "parameter_rules")
    groups = parameter_groups(model, **{key: options[key] for key in chosen})
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            native = names[id(parameter)]
            part = next(part for part in translation.components if native.startswith(part.native_prefix))
            original = part.original_prefix + part.table.to_original(native.removeprefix(part.native_prefix))
            found[original] = (group["lr"], group["weight_decay"])
    return found


def test_groups_of_upernet():
    """The rule ``norm`` finds layer norms by their names, ``pos_block`` nothing, and batch norms are called ``bn``."""
    found = rates(SVT)
    by_hand = {
        "backbone.patch_embeds.0.projection.weight": 0.01,
        "backbone.patch_embeds.0.projection.bias": 0.01,
        "backbone.patch_embeds.3.norm.weight": 0.0,
        "backbone.layers.0.0.norm1.bias": 0.0,
        "backbone.layers.0.0.attn.qkv.bias": 0.01,
        "backbone.layers.0.0.attn.proj.weight": 0.01,
        "backbone.layers.0.1.attn.attn.in_proj_bias": 0.01,
        "backbone.layers.0.1.attn.sr.weight": 0.01,
        "backbone.layers.0.1.attn.norm.weight": 0.0,
        "backbone.layers.3.3.ffn.layers.1.bias": 0.01,
        "backbone.position_encodings.0.proj.weight": 0.01,
        "backbone.position_encodings.0.proj.bias": 0.01,
        "backbone.norm_list.3.weight": 0.0,
        "decode_head.conv_seg.bias": 0.01,
        "decode_head.fpn_bottleneck.bn.weight": 0.01,
        "auxiliary_head.convs.0.bn.bias": 0.01,
    }
    assert {name: found[name] for name in by_hand} == {name: (6e-5, decay) for name, decay in by_hand.items()}
    assert found == {name: (6e-5, 0.0 if "norm" in name else 0.01) for name in found}


def test_groups_of_semantic_fpn():
    found = rates("twins_pcpvt-s_fpn_fpnhead_8x4_512x512_80k_ade20k")
    assert set(found.values()) == {(1e-4, 1e-4)} and "backbone.layers.0.0.norm1.weight" in found


def test_groups_of_semantic_fpn_on_a_resnet():
    found = rates("fpn_r50_512x512_160k_ade20k")
    assert set(found.values()) == {(0.01, 0.0005)} and "neck.fpn_convs.3.conv.bias" in found
