"""The two spellings of SwinTransformer: which is which, and where each has the numbers of a tensor."""

import pytest
import torch
from conversion import tiny

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Context, find_rule
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights, original_state_dict

SHARED = {"depths": (1, 2), "num_heads": (1, 2), "window_size": 3, "mlp_ratio": 2, "out_indices": (0, 1)}
MMSEG = {"type": "SwinTransformer", "embed_dims": 8, "use_abs_pos_embed": True, "strides": (4, 2), **SHARED}
AUTHORS = {"type": "SwinTransformer", "embed_dim": 8, "ape": True, "use_checkpoint": False, **SHARED}
RENAMED = {
    "stages.": "layers.", "attn.w_msa": "attn", "ffn.layers.0.0": "mlp.fc1", "ffn.layers.1": "mlp.fc2",
    "patch_embed.projection": "patch_embed.proj",
}  # fmt: skip


def config(backbone):
    head = tiny.MODEL["decode_head"] | {"in_channels": 16, "in_index": 1}
    return tiny.config(model__backbone=backbone | {"pretrain_img_size": (32, 48)}, model__decode_head=head)


def in_the_authors_order(tensor):
    """Columns of a merging: the four places of each channel side by side -> all channels of the four places."""
    channels = tensor.shape[-1] // 4
    places = [0, 2, 1, 3]  # of y, x: first the left ones, from above
    return torch.cat([tensor[..., [4 * c + place for c in range(channels)]] for place in places], dim=-1)


def test_both_spellings_are_one_model():
    values = config(MMSEG)
    state = tiny.state_dict(values)
    index = "backbone.stages.1.blocks.1.attn.w_msa.relative_position_index"
    state[index] = torch.zeros(9, 9, dtype=torch.long)
    other = {}
    for key, value in state.items():
        name = key
        for old, new in RENAMED.items():
            name = name.replace(old, new) if key.startswith("backbone.") else name
        if ".downsample." in key:
            value = in_the_authors_order(value)
        if key.endswith("absolute_pos_embed"):
            value = value.transpose(1, 2).reshape(1, 8, 8, 12)
        other[name] = value
    natives = []
    for original, weights in ((values, state), (config(AUTHORS), other)):
        translation = translate_config(original)
        with torch.device("meta"):
            expected = SegZooForSemanticSegmentation(translation.config).state_dict()
        native, match = match_weights(weights, translation.components, expected)
        match.raise_for_problems("x")
        assert [key.rpartition(".")[2] for key in match.left_out] == ["relative_position_index"]
        back = original_state_dict(native, translation.components)
        assert back.keys() == weights.keys() - set(match.left_out)
        assert all(torch.equal(back[key], weights[key]) for key in back)
        natives.append(native)
    assert natives[0].keys() == natives[1].keys()
    assert all(torch.equal(value, natives[1][key]) for key, value in natives[0].items())
    merged = natives[0]["backbone.stages.0.downsample.norm.weight"]
    assert merged[8] == state["backbone.stages.0.downsample.norm.weight"][2]


def translated(**original):
    original = {"type": "SwinTransformer"} | original
    return find_rule("backbone", original, "here").translate(original, Context("here"))


def test_defaults_are_those_of_each_class():
    mmseg, authors = translated(embed_dims=96), translated(embed_dim=96)
    assert mmseg.to_dict() == authors.to_dict() | {"drop_path_rate": 0.1} and authors.drop_path_rate == 0.2
    assert (mmseg.image_size, mmseg.norm_eps, mmseg.window_size) == (None, 1e-5, 7)
    assert translated(ape=True).image_size == translated(use_abs_pos_embed=True).image_size == 224
    assert translated(norm_cfg={"type": "LN", "eps": 1e-6}).norm_eps == 1e-6
    assert translated(embed_dims=96, pretrain_img_size=(384,), use_abs_pos_embed=True).image_size == [384, 384]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"embed_dim": 96, "qk_scale": 0.5}, "qk_scale=0.5"),
        ({"embed_dims": 96, "strides": (4, 2, 2, 1)}, "strides="),
        ({"embed_dims": 96, "ape": True}, "unknown option ape=True"),
        ({"embed_dim": 96, "norm_layer": "RMSNorm"}, "norm_layer"),
        ({"embed_dims": 96, "act_cfg": {"type": "ReLU"}}, "activation"),
    ],
)
def test_what_would_change_the_numbers_is_refused(options, words):
    with pytest.raises(ConversionError, match=words):
        translated(**options)
