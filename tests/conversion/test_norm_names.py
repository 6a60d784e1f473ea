"""Norms of stages, blocks and attention have names that end alike; written back, each gets its own original's."""

import pytest

from segzoo import AutoBackbone
from segzoo.backbones import ConvNeXtConfig, InternImageConfig, MiTConfig, SwinConfig, TwinsConfig
from segzoo.conversion.keys import KeyTable
from segzoo.conversion.rules import convnext, internimage, mit, swin, twins

MIT, BLOCK = MiTConfig.tiny(), "stages.2.blocks.1"
TWINS = TwinsConfig.tiny()


@pytest.mark.parametrize(
    ("config", "rules", "names"),
    [
        pytest.param(
            MIT,
            mit.mmseg_mit_keys(MIT),
            {
                "stages.2.norm": "layers.2.2",
                "stages.2.patch_norm": "layers.2.0.norm",
                f"{BLOCK}.norm1": "layers.2.1.1.norm1",
                f"{BLOCK}.attention.norm": "layers.2.1.1.attn.norm",
            },
            id="mit-mmseg",
        ),
        pytest.param(
            MIT,
            mit.original_mit_keys(MIT),
            {
                "stages.2.norm": "norm3",
                "stages.2.patch_norm": "patch_embed3.norm",
                f"{BLOCK}.norm2": "block3.1.norm2",
                f"{BLOCK}.attention.norm": "block3.1.attn.norm",
            },
            id="mit-authors",
        ),
        pytest.param(
            MIT,
            mit.transformers_mit_keys(MIT),
            {
                "stages.2.norm": "segformer.encoder.layer_norm.2",
                "stages.2.patch_norm": "segformer.encoder.patch_embeddings.2.layer_norm",
                f"{BLOCK}.norm1": "segformer.encoder.block.2.1.layer_norm_1",
                f"{BLOCK}.attention.norm": "segformer.encoder.block.2.1.attention.self.layer_norm",
            },
            id="mit-transformers",
        ),
        pytest.param(
            TWINS,
            twins.mmseg_keys(TWINS),
            {
                "stages.2.norm": "norm_list.2",
                "stages.2.patch_norm": "patch_embeds.2.norm",
                f"{BLOCK}.norm1": "layers.2.1.norm1",
                f"{BLOCK}.attention.norm": "layers.2.1.attn.norm",
            },
            id="twins-mmseg",
        ),
        pytest.param(
            TWINS,
            twins.original_keys(),
            {
                "stages.2.norm": "norm_list.2",
                "stages.2.patch_norm": "patch_embeds.2.norm",
                f"{BLOCK}.norm2": "blocks.2.1.norm2",
                f"{BLOCK}.attention.norm": "blocks.2.1.attn.norm",
            },
            id="twins-authors",
        ),
        pytest.param(
            SwinConfig.tiny(),
            swin.mmseg_swin_keys(SwinConfig.tiny()),
            {
                "norms.stage2": "norm1",
                "embedding_norm": "patch_embed.norm",
                "stages.0.layers.1.norm1": "stages.0.blocks.1.norm1",
                "stages.0.downsample.norm": "stages.0.downsample.norm",
            },
            id="swin-mmseg",
        ),
        pytest.param(
            SwinConfig.tiny(),
            swin.original_swin_keys(SwinConfig.tiny()),
            {
                "norms.stage2": "norm1",
                "embedding_norm": "patch_embed.norm",
                "stages.0.layers.1.norm2": "layers.0.blocks.1.norm2",
                "stages.0.downsample.norm": "layers.0.downsample.norm",
            },
            id="swin-authors",
        ),
        pytest.param(
            ConvNeXtConfig.tiny(),
            convnext.AUTHORS.keys(ConvNeXtConfig.tiny()),
            {
                "norms.stage2": "norm1",
                "embedding_norm": "downsample_layers.0.1",
                "stages.1.layers.0.norm": "stages.1.0.norm",
                "stages.1.downsample.norm": "downsample_layers.1.0",
            },
            id="convnext-authors",
        ),
        pytest.param(
            InternImageConfig(channels=8, depths=[1, 1], groups=[1, 2]),
            internimage.keys(InternImageConfig(channels=8, depths=[1, 1], groups=[1, 2])),
            {
                "stages.1.norm": "levels.1.norm.0",
                "stages.1.layers.0.norm1": "levels.1.blocks.0.norm1.0",
                "stages.0.downsample.norm": "levels.0.downsample.norm.1",
                "stages.1.layers.0.dcn.depthwise_norm": "levels.1.blocks.0.dcn.dw_conv.1.1",
            },
            id="internimage",
        ),
    ],
)
def test_norms_are_written_back(config, rules, names):
    table, keys = KeyTable(rules), AutoBackbone.from_config(config).state_dict()
    for native, original in names.items():
        assert f"{native}.weight" in keys, "the backbone has no such norm"
        assert table.to_original(f"{native}.weight") == f"{original}.weight"
        assert table.to_native(f"{original}.weight") == f"{native}.weight"
    written = [name for key in keys for name in table.to_originals(key) if "norm" in key]
    assert written and len(written) == len(set(written))
