"""segzoo's plain ViTs: windows, positions, and a BEiT whose tables are made for one image size."""

import weakref

import pytest
import torch
import transformers
from support.contract import assert_close, settle
from torch.nn import functional as F
from transformers import AutoModelForSemanticSegmentation, pipeline

from segzoo import (
    AutoBackbone,
    SegZooConfig,
    SegZooForSemanticSegmentation,
    SegZooImageProcessor,
)
from segzoo.backbones import (
    BeitBackbone,
    BeitConfig,
    ViTAdapterConfig,
    ViTBackbone,
    ViTConfig,
    beit,
    vit,
)
from segzoo.backbones.beit import geometric_places, position_bias, resize_bias_table
from segzoo.compat import VIT_BLOCKS
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig, UPerHeadConfig
from segzoo.layers.vit import from_windows, into_windows

# Counted in timm's models without their classifiers.
PARAMETERS = {"vit-t": 5524416, "vit-s": 21665664, "vit-b": 85798656, "vit-l": 303301632}


def test_maps_that_are_not_read_are_freed_on_the_way():
    model = settle(ViTBackbone(ViTConfig.tiny())).eval()
    seen, alive = [], []
    model.layers[0].register_forward_hook(lambda module, args, out: seen.append(weakref.ref(out)))
    model.layers[-1].register_forward_pre_hook(lambda module, args: alive.append(seen[-1]() is not None))
    model.out_features = ["stage2", "stage4"]
    with torch.no_grad():
        chosen = model(torch.randn(1, 3, 64, 64)).feature_maps
        model(torch.randn(1, 3, 64, 64), output_hidden_states=True)
    assert len(chosen) == 2 and alive == [False, True]


@pytest.mark.parametrize("name", vit.VARIANTS)
def test_published_sizes(name):
    with torch.device("meta"):
        model = ViTBackbone(ViTConfig(**vit.VARIANTS[name], final_norm=True))
        maps = model(torch.empty(1, 3, 224, 224)).feature_maps
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert [tuple(x.shape[1:]) for x in maps] == [(model.config.hidden_size, 14, 14)] * 4


@pytest.mark.parametrize("drops", [True, False])
def test_branches_that_are_dropped(drops):
    config = ViTConfig.tiny()
    config.drop_path_rate, config.drop_attention = 0.3, drops
    layers = ViTBackbone(config).layers
    rates = pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert [layer.drop_path.p for layer in layers] == rates
    assert [layer.attention_drop_path.p for layer in layers] == (rates if drops else [0.0] * 4)


@pytest.mark.parametrize("name", beit.VARIANTS)
def test_published_sizes_of_beit(name):
    config = BeitConfig(**beit.VARIANTS[name])
    with torch.device("meta"):
        model = BeitBackbone(config)
    width, table = config.hidden_size, (27 * 27 + 3) * config.num_attention_heads
    block = (
        12 * width**2 + 12 * width + 2 * width + table
    )  # as a ViT's without the bias on keys; two scales, one table
    embeddings = (3 * 16 * 16 + 1) * width + width
    if name.startswith("mae"):
        block, embeddings = block + width, embeddings + 197 * width  # the bias on keys, absolute positions
    assert sum(p.numel() for p in model.parameters()) == embeddings + config.num_hidden_layers * block


def test_windows_are_cut_and_put_together():
    x = torch.arange(2 * 5 * 7 * 3).view(2, 35, 3)
    windows = into_windows(x, (5, 7), 3)
    assert windows.shape == (2 * 2 * 3, 9, 3)
    assert torch.equal(windows[0].view(3, 3, 3), x.view(2, 5, 7, 3)[0, :3, :3])
    assert torch.equal(windows[5].view(3, 3, 3)[:2, :1], x.view(2, 5, 7, 3)[0, 3:, 6:]), "the rest is fill"
    assert not windows[5].view(3, 3, 3)[2:].any() and not windows[5].view(3, 3, 3)[:, 1:].any()
    assert torch.equal(from_windows(windows, (5, 7), 3), x)


def test_a_window_sees_nothing_outside():
    model = ViTBackbone(
        ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, class_token=False, windows=[2]
        )
    ).eval()
    x = torch.randn(1, 3, 64, 64)
    y = x.clone()
    y[..., 32:] = 0
    with torch.no_grad():
        a, b = model(x).feature_maps[0], model(y).feature_maps[0]
    assert torch.equal(a[..., :2], b[..., :2]) and not torch.equal(a[..., 2:], b[..., 2:])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"windows": [1, 2]}, "one entry for each of 12 blocks"),
        ({"windows": [2] * 12}, "no place in windows"),
        ({"num_attention_heads": 7}, "does not divide"),
    ],
)
def test_options_of_a_vit_that_do_not_fit(options, words):
    with pytest.raises(SegZooError, match=words):
        ViTConfig(**options)


def test_default_maps_are_evenly_spaced():
    assert ViTConfig().out_indices == [3, 6, 9, 12]
    assert ViTConfig(num_hidden_layers=3).out_indices == [3]
    assert ViTConfig(out_indices=[1, 2]).out_features == ["stage1", "stage2"]
    model = SegZooConfig.from_backbone(ViTConfig.tiny())
    assert model.neck_config is not None, "a plain ViT gets a pyramid"


@pytest.mark.parametrize("config_class", [ViTConfig, BeitConfig])
def test_class_tokens_are_maps_of_one_pixel(config_class):
    options = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64}
    config = config_class(**options, final_norm=True, out_features=["stage2", "stage3", "token2", "token3"])
    model, x = AutoBackbone.from_config(config).eval(), torch.randn(2, 3, 64, 64)
    assert model.stage_names == ["stem", "stage1", "stage2", "stage3", "token1", "token2", "token3"]
    with torch.no_grad():
        *maps, second, third = model(x).feature_maps
        tokens, grid = model.embed(x)
        for layer in model.layers:
            tokens = layer(tokens, grid)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 4, 4)] * 2
    assert tuple(second.shape) == tuple(third.shape) == (2, 16, 1, 1)
    assert torch.equal(third[:, :, 0, 0], model.norm(tokens[:, 0]))


def test_a_vit_without_class_token_has_none():
    assert ViTConfig.tiny().stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]
    with pytest.raises(ValueError, match="token4"):
        ViTConfig(class_token=False, out_features=["stage4", "token4"])


def test_heads_read_class_tokens_by_their_index(tmp_path):
    backbone = BeitConfig.tiny()
    backbone.out_features = ["stage3", "stage4", "token3", "token4"]
    head = FCNHeadConfig(in_index=[1, 3], resize_concat=True, channels=8)
    config = SegZooConfig.from_backbone(backbone, head, num_labels=3)
    assert config.neck_config is None, "a pyramid has no place for tokens"
    assert config.auxiliary_head_configs[0].in_index == [-4], "the last map but one"
    model = SegZooForSemanticSegmentation(config).eval()
    assert model.config.decode_head_configs[0].in_channels == [16, 16]
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        logits = model(x).logits
        model.save_pretrained(tmp_path)
        again = SegZooForSemanticSegmentation.from_pretrained(tmp_path)(x).logits
    assert logits.shape == (2, 3, 4, 6) and torch.equal(again, logits)


def test_tokens_alone_are_maps_too():
    backbone = BeitConfig.tiny()
    backbone.out_features = ["token4"]
    config = SegZooConfig.from_backbone(backbone, FCNHeadConfig(channels=8), num_labels=3)
    assert config.auxiliary_head_configs[0].in_index == [-1]
    model = SegZooForSemanticSegmentation(config).eval()
    assert model(torch.randn(1, 3, 64, 96)).logits.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_of_the_whole_model_is_chosen_by_name(implementation, tmp_path):
    config = SegZooConfig.from_backbone(ViTAdapterConfig.tiny(), UPerHeadConfig(channels=8), num_labels=3)
    SegZooForSemanticSegmentation(config).save_pretrained(tmp_path)
    model = SegZooForSemanticSegmentation.from_pretrained(tmp_path, attn_implementation=implementation)
    assert model.backbone.vit.layers[0].attention.config._attn_implementation == implementation
    assert model.backbone.vit.config._attn_implementation == implementation


def test_attention_that_takes_no_bias_is_refused_where_there_is_one():
    with pytest.raises((ValueError, ImportError), match="(?i)flash"):
        AutoBackbone.from_config(BeitConfig.tiny(), attn_implementation="flash_attention_2")


def fixed(**options) -> BeitConfig:
    config = BeitConfig.tiny().to_dict() | {"image_size": 64, "resize_tables": False} | options
    return BeitConfig.from_dict(config)


def filled(config: BeitConfig) -> BeitBackbone:
    model = BeitBackbone(config)
    for layer in model.layers:
        torch.nn.init.normal_(layer.attention.relative_position_bias_table, generator=torch.Generator().manual_seed(2))
    return model


def test_a_fixed_beit_refuses_other_sizes_in_training():
    model = filled(fixed()).train()
    model(torch.randn(1, 3, 64, 64))
    for size in ((48, 64), (80, 64)):
        words = r"made for images of 64x64, .* train on crops of 64x64 \(crop_size\), or set resize_tables=True"
        with pytest.raises(SegZooError, match=words):
            model(torch.randn(1, 3, *size))
    filled(fixed(resize_tables=True)).train()(torch.randn(1, 3, 80, 48))


def test_a_fixed_beit_reads_the_middle_of_its_tables_for_smaller_images():
    model = filled(fixed()).eval()
    table = model.layers[0].attention.relative_position_bias_table
    whole = position_bias(table, (4, 4), (4, 4))
    part = position_bias(table, (4, 4), (2, 3))
    rows = [0] + [1 + 4 * y + x for y in range(2) for x in range(3)]
    assert torch.equal(part, whole[..., rows, :][..., rows])
    assert model(torch.randn(1, 3, 32, 40)).feature_maps[0].shape[2:] == (2, 3)
    with pytest.raises(SegZooError, match=r"given 64x80; give window_size=\(64, 64\) for sliding windows"):
        model(torch.randn(1, 3, 64, 80))


def test_resizing_once_equals_resizing_with_every_image():
    each, once = filled(fixed(resize_tables=True)).eval(), filled(fixed()).eval()
    once.load_state_dict(each.state_dict())
    once.resize_image((96, 80))
    x = torch.randn(1, 3, 96, 80)
    with torch.no_grad():
        for a, b in zip(each(x).feature_maps, once(x).feature_maps, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_tables_of_oblong_images_are_resized_along_each_side():
    """Two sides are independent: a table that is a product of a column and a row stays one."""
    column, row = torch.randn(7, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    table = torch.cat([torch.outer(column, row).reshape(-1, 1), torch.zeros(3, 1, dtype=torch.float64)])
    new = resize_bias_table(table, (4, 3), (6, 8))[:-3].view(11, 15)
    assert torch.linalg.matrix_rank(new) == 1
    assert new[5, 7] == pytest.approx(table[:-3].view(7, 5)[3, 2].item()), "distance 0 is kept"
    assert geometric_places(7, 7)[3] == 0


def test_tables_are_resized_in_compiled_models():
    """Those of all blocks, on both sides: a graph holds one constant of a name."""

    class Tables(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tables = torch.nn.ParameterList(torch.randn(7 * 9 + 3, 2) for _ in range(2))

        def forward(self):
            return sum(resize_bias_table(table, (4, 5), (6, 8)) for table in self.tables)

    torch.compiler.reset()
    model = Tables()
    torch.export.export(model, ())  # whose tensors are not kept
    assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(), model())


def test_sliding_windows_serve_any_photo(tmp_path):
    """A fixed BEiT in the pipeline: photos larger than its size, smaller, and oblong."""
    from PIL import Image

    config = SegZooConfig.from_backbone(
        fixed(), UPerHeadConfig(channels=8), num_labels=3, window_size=[64, 64], window_stride=[43, 43]
    )
    SegZooForSemanticSegmentation(config).save_pretrained(tmp_path)
    SegZooImageProcessor(do_resize=False, window_size=[64, 64], window_stride=[43, 43]).save_pretrained(tmp_path)
    segment = pipeline("image-segmentation", model=str(tmp_path))
    for size in ((150, 90), (64, 64), (40, 30), (30, 170)):
        photo = Image.new("RGB", size, (120, 60, 30))
        masks = segment(photo)
        assert masks and all(entry["mask"].size == size for entry in masks)


def test_resize_image_is_saved(tmp_path):
    model = filled(fixed())
    model.resize_image(96)
    model.save_pretrained(tmp_path)
    loaded = AutoBackbone.from_pretrained(tmp_path)
    assert loaded.config.grid == (6, 6)
    table = loaded.layers[0].attention.relative_position_bias_table
    assert torch.equal(table, model.layers[0].attention.relative_position_bias_table) and len(table) == 11 * 11 + 3


@pytest.mark.parametrize("size", [8, [64], [64, 8]])
def test_image_sizes_of_a_beit_that_do_not_fit(size):
    with pytest.raises(SegZooError, match="image_size"):
        BeitConfig(image_size=size)


@pytest.mark.parametrize("config", [ViTConfig.tiny(), BeitConfig.tiny()], ids=lambda config: config.model_type)
def test_attention_weights(config):
    model = AutoBackbone.from_config(config, attn_implementation="eager").eval()
    x = torch.randn(2, 3, 64, 96)
    output = model(x, output_attentions=True)
    assert [w.shape[1] for w in output.attentions] == [config.num_attention_heads] * config.num_hidden_layers
    for weights, window in zip(output.attentions, getattr(config, "windows", [0] * 4), strict=True):
        tokens = window**2 or 24 + config.num_prefix_tokens
        assert weights.shape[2:] == (tokens, tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))
    assert all(map(torch.equal, output.feature_maps, model(x).feature_maps))
    assert model(x).attentions is None
    assert len(model(x, output_attentions=True, return_dict=False)) == 2
    model.config.output_attentions = True
    assert len(model(x).attentions) == config.num_hidden_layers
    composite = SegZooConfig.from_backbone(config, FCNHeadConfig(channels=8), num_labels=5)
    composite = AutoModelForSemanticSegmentation.from_config(composite, attn_implementation="eager").eval()
    with torch.no_grad():
        assert len(composite(x, output_attentions=True).attentions) == config.num_hidden_layers
        assert composite(x).attentions is None


def test_attention_weights_need_attention_that_gives_them():
    model = AutoBackbone.from_config(ViTConfig.tiny(), attn_implementation="sdpa").eval()
    with pytest.raises(SegZooError, match="attn_implementation='eager'"):
        model(torch.randn(1, 3, 64, 64), output_attentions=True)
    convolutional = SegZooForSemanticSegmentation(SegZooConfig.tiny()).eval()
    assert convolutional(torch.randn(1, 3, 64, 64), output_attentions=True).attentions is None


def test_the_last_map_alone_is_normed_where_that_is_asked():
    options = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}
    options["out_features"] = ["stage1", "stage2", "token1", "token2"]
    raw = ViTBackbone(ViTConfig(**options)).eval()
    normed = ViTBackbone(ViTConfig(**options, final_norm=True, normed_maps="last")).eval()
    normed.load_state_dict(raw.state_dict(), strict=False)
    torch.nn.init.normal_(normed.norm.weight)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for name, a, b in zip(raw.out_features, raw(x).feature_maps, normed(x).feature_maps, strict=True):
            wanted = normed.norm(a.movedim(1, -1)).movedim(-1, 1) if name.endswith("2") else a
            assert torch.allclose(b, wanted, atol=1e-6)


def test_positions_of_oblong_images_and_how_they_are_resized():
    model = ViTBackbone(
        ViTConfig(**ViTConfig.tiny().to_dict() | {"image_size": [64, 96], "interpolation": "bilinear"})
    )
    x, old = torch.randn(1, 3, 80, 70), model.position_embeddings.detach().clone()
    assert old.shape == (1, 25, 16)
    new = F.interpolate(old[:, 1:].transpose(1, 2).reshape(1, 16, 4, 6), (5, 5), mode="bilinear").flatten(2)
    with torch.no_grad():
        before = model.eval()(x).feature_maps[-1]
        model.resize_image(80)
        assert torch.equal(model.position_embeddings[:, 1:], new.transpose(1, 2)) and model.config.grid == (5, 5)
        assert torch.equal(model.position_embeddings[:, :1], old[:, :1])
        assert torch.allclose(model(x).feature_maps[-1], before, atol=1e-6)


def test_a_norm_before_the_blocks_and_patches_without_bias():
    options = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64}
    model = ViTBackbone(ViTConfig(**options, pre_norm=True, patch_bias=False, out_features=["stem"]))
    torch.nn.init.constant_(model.pre_norm.bias, 3.0)
    assert model.patch_embedding.bias is None
    (stem,) = model(torch.randn(1, 3, 64, 64)).feature_maps
    torch.testing.assert_close(stem.mean(dim=1), torch.full((1, 4, 4), 3.0))


def mae(**options) -> BeitBackbone:
    config = fixed(absolute_positions=True, key_bias=True, drop_path_rate=0.0, **options)
    model = filled(config)
    torch.nn.init.normal_(model.position_embeddings, generator=torch.Generator().manual_seed(3))
    return model.eval()


def test_absolute_positions_of_a_fixed_size():
    model = mae()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        patches = model.patch_embedding(x).flatten(2).transpose(1, 2)
        wanted = torch.cat([model.class_token, patches], dim=1) + model.position_embeddings
        assert torch.equal(model.embed(x)[0], wanted)
        part = model.embed(x[..., :32, :48])[0]
    rows = [0] + [1 + 4 * y + x for y in range(2) for x in range(3)]
    assert torch.equal(part, wanted[:, rows]), "a smaller image reads the first rows and columns"
    assert model.layers[0].attention.qkv.bias is not None and model.layers[0].attention.q_bias is None


def test_a_new_mae_is_fitted_to_its_crops():
    model, each = mae(), mae(resize_tables=True)
    each.load_state_dict(model.state_dict())
    model.fit_images((90, 80))  # up to whole patches
    each.fit_images((90, 80))
    assert model.config.image_size == [96, 80] and each.config.image_size == 64
    x = torch.randn(1, 3, 96, 80)
    with torch.no_grad():
        assert torch.allclose(model.train()(x).feature_maps[-1], each(x).feature_maps[-1], atol=1e-5)


def test_without_any_positions_every_size_fits():
    model = BeitBackbone(fixed(relative_positions=False))
    assert model.train()(torch.randn(1, 3, 32, 80)).feature_maps[0].shape[2:] == (2, 5)
    with pytest.raises(SegZooError, match="key_bias=True needs qkv_bias=True"):
        fixed(qkv_bias=False, key_bias=True)


# Where transformers' plain ViTs have what ours has: {our name inside a block: theirs}.
IN_BLOCKS = {
    "norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "attention.proj": "attention.o_proj",
}  # fmt: skip


def ours_from(theirs, model, prefix=""):
    """The state dict of our model with the weights of a model of transformers."""
    theirs = {name.removeprefix(prefix): value for name, value in theirs.state_dict().items()}
    state = {"class_token": theirs["embeddings.cls_token"]}
    for part in ("weight", "bias"):
        state[f"patch_embedding.{part}"] = theirs[f"embeddings.patch_embeddings.projection.{part}"]
    if "embeddings.position_embeddings" in theirs:
        state["position_embeddings"] = theirs["embeddings.position_embeddings"]
    for i in range(len(model.layers)):
        block = f"layers.{i}"
        for new, old in IN_BLOCKS.items():
            for part in ("weight", "bias"):
                state[f"{block}.{new}.{part}"] = theirs[f"{block}.{old}.{part}"]
        weights = [theirs[f"{block}.attention.{part}_proj.weight"] for part in "qkv"]
        state[f"{block}.attention.qkv.weight"] = torch.cat(weights)
        biases = {part: theirs.get(f"{block}.attention.{part}_proj.bias") for part in "qkv"}
        if biases["k"] is None:  # BEiT
            state |= {f"{block}.attention.{part}_bias": biases[part] for part in "qv"}
            state |= {f"{block}.scale{j}": theirs[f"{block}.lambda_{j}"] for j in (1, 2)}
            table = f"{block}.relative_position_bias.relative_position_bias_table"
            state[f"{block}.attention.relative_position_bias_table"] = theirs[table]
        else:
            state[f"{block}.attention.qkv.bias"] = torch.cat(list(biases.values()))
    return state


@pytest.mark.skipif(VIT_BLOCKS != "layers", reason="names of transformers before 5.9")
def test_the_maps_are_those_of_transformers():
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64}
    x = torch.randn(2, 3, 64, 64)
    theirs = transformers.ViTConfig(**sizes, intermediate_size=64, layer_norm_eps=1e-6)
    theirs = settle(transformers.ViTModel(theirs, add_pooling_layer=False)).eval()
    model = ViTBackbone(ViTConfig(**sizes, mlp_ratio=2.0)).eval()
    model.load_state_dict(ours_from(theirs, model))
    with torch.no_grad():
        states = theirs(x, output_hidden_states=True).hidden_states
        for found, tokens in zip(model(x).feature_maps, states[1:], strict=True):
            assert_close(found, tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))

    options = {"use_relative_position_bias": True, "layer_scale_init_value": 0.5, "out_indices": [1, 2, 3, 4]}
    theirs = transformers.BeitConfig(**sizes, intermediate_size=64, layer_norm_eps=1e-6, **options)
    theirs = settle(transformers.BeitBackbone(theirs)).eval()
    model = BeitBackbone(BeitConfig(**sizes, mlp_ratio=2.0)).eval()
    model.load_state_dict(ours_from(theirs, model, "beit."))
    with torch.no_grad():
        for found, wanted in zip(model(x).feature_maps, theirs(x).feature_maps, strict=True):
            assert_close(found, wanted)
