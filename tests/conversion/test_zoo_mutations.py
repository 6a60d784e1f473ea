"""An option of any released model's config that changes the numbers changes the converted model's too, or is refused.

A tenth of the rows and some options of each are drawn with a fixed seed. Which options act in training alone, or are never read
by the original, is a rule by their names and types (`mutations.leaves`), never by rows. `test_mutations` has other values by hand,
and looks at the numbers themselves.
"""

import json
import random

import pytest
from conversion.mutations import leaves
from conversion.mutations.graphs import graph

from segzoo.conversion.translate import translate_config
from segzoo.errors import SegZooError

SEED = 20


def drawn(name, count):
    """Some alterations of a row's config, the same in every run."""
    found = leaves.alterations(leaves.rows()[name])
    return random.Random(f"{SEED} {name}").sample(found, min(count, len(found)))


def as_written(translation):
    """What a model folder would hold of the configs."""
    return json.dumps([translation.config.to_dict(), translation.processor], sort_keys=True)


def translated(config, path, value):
    """The translation of a config with another value at a path, or None if it is refused."""
    try:
        return translate_config(leaves.changed(config, path, value))
    except SegZooError as error:
        assert error.args[0].count("\n") == 0
        return None


def test_options_that_are_altered_show_in_the_config():
    unseen = []
    for name in leaves.tenth(SEED):
        config = leaves.rows()[name]
        before = as_written(translate_config(config))
        for path, values in drawn(name, 4):
            others = [translated(config, path, value) for value in values]
            if all(other is not None and as_written(other) == before for other in others):
                unseen.append((name, path, values))
    assert not unseen


@pytest.mark.slow
@pytest.mark.parametrize("name", leaves.tenth(SEED))
def test_options_that_are_altered_show_in_what_is_computed(name):
    """All options of a config show in its translation, and some of them are followed into the model."""
    config = leaves.rows()[name]
    translation = translate_config(config)
    before, computed = as_written(translation), graph(translation.config)
    unseen = []
    for path, values in leaves.alterations(config):
        others = [translated(config, path, value) for value in values]
        if all(other is not None and as_written(other) == before for other in others):
            unseen.append((path, values))
    for path, values in drawn(name, 12):
        others = [translated(config, path, value) for value in values]
        if all(other is not None and same(other, translation, computed) for other in others):
            unseen.append((path, values, "is not computed with"))
    assert not unseen


def same(other, translation, computed):
    """Whether a translation prepares pictures and computes as another one, whose graph is given."""
    settings = [(one.processor, one.config.window_size, one.config.window_stride) for one in (other, translation)]
    if settings[0] != settings[1]:
        return False
    try:
        return graph(other.config) == computed
    except (SegZooError, RuntimeError):
        return False  # a model that cannot be built or run gives no wrong numbers


M2F = "mask2former_internimage_h_896_80k_cocostuff2ade20k"
UNET = "deeplabv3_unet_s5-d16_128x128_40k_stare"
KNET = "knet_s3_fcn_r50-d8_8x2_512x512_adamw_80k_ade20k"


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        (M2F, "model.decode_head.transformer_decoder.transformerlayers.feedforward_channels", 2048),
        (M2F, "model.decode_head.transformer_decoder.transformerlayers.attn_cfgs.batch_first", True),
        (M2F, "model.decode_head.pixel_decoder.encoder.transformerlayers.attn_cfgs.batch_first", True),
        (UNET, "model.backbone.num_stages", 6),
        (UNET, "model.backbone.dec_num_convs", [2, 2, 2]),
        (KNET, "model.decode_head.kernel_generate_head.conv_cfg", {"type": "Conv2d", "padding_mode": "reflect"}),
        ("upernet_augreg_adapter_base_512_160k_ade20k", "model.backbone.img_size", 224),
        ("ade20k-resnet50dilated-ppm_deepsup", "MODEL.fc_dim", 512),
    ],
)
def test_options_that_are_read_beside_others(name, path, value):
    config = leaves.rows()[name]
    other = translated(config, tuple(path.split(".")), value)
    assert other is None or as_written(other) != as_written(translate_config(config))
    if path.endswith("feedforward_channels"):
        assert other.config.decode_head_configs[0].decoder_hidden_channels == value
