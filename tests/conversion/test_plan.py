"""What a plan compares before anything is written: the maps that the parts of a model read, and whose the config is."""

import copy

import pytest
from conversion import tiny

from segzoo.conversion import convert_checkpoint, describe_conversion
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import build_translated
from segzoo.conversion.translate import translate_config

MAPS = [8, 16, 32, 64]
NECK = {"type": "FPN", "in_channels": MAPS, "out_channels": 8, "num_outs": 4}


def with_head(**options):
    return tiny.config(model__decode_head=tiny.MODEL["decode_head"] | options)


def joining(in_channels, in_index=(0, 1, 2, 3)):
    return with_head(in_channels=in_channels, in_index=list(in_index), input_transform="resize_concat")


def with_neck(**options):
    values = with_head(in_channels=8, in_index=0)
    values["model"]["neck"] = NECK | options
    return values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (with_head(in_channels=512, in_index=0), r"model.decode_head: FCNHead reads maps \[0\] of \[512\] channels"),
        (with_head(in_index=4), r"model.decode_head: FCNHead reads maps \[4\] of \[64\] channels, but the backbone gives"),
        (joining([64, 32, 16, 9]), r"reads maps \[0, 1, 2, 3\] of \[64, 32, 16, 9\] channels.*correct in_channels and in_index"),
        (with_neck(in_channels=[8, 16, 32, 63]), r"model.neck: FPN reads maps of .*correct in_channels here"),
        (with_neck(in_channels=[8, 16, 32], num_outs=3), r"model.neck: FPN reads maps of .*the backbone gives maps of \[8, 16, 32, 64\]"),
        (with_neck(out_channels=12), r"model.decode_head: .* but the neck gives maps of \[12, 12, 12, 12\] channels"),
        (
            tiny.config(model__auxiliary_head=[tiny.MODEL["decode_head"], tiny.MODEL["decode_head"] | {"in_index": 2}]),
            r"model.auxiliary_head.1: FCNHead reads maps \[2\] of \[64\]",
        ),
    ],
)  # fmt: skip
def test_parts_that_read_other_maps_than_there_are(values, words):
    with pytest.raises(ConversionError, match=words):
        build_translated(translate_config(values))
    with pytest.raises(ConversionError, match=words):
        describe_conversion(values)


def test_nothing_is_written_of_parts_that_do_not_fit(tmp_path):
    state = tiny.state_dict(tiny.config())
    path = tiny.save(tmp_path / "a.pth", with_head(in_channels=64, in_index=0), state=state)
    with pytest.raises(ConversionError, match="out_indices of the backbone"):
        convert_checkpoint(path, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("in_channels", "in_index", "own"),
    [
        ([64, 32, 16, 8], (0, 1, 2, 3), MAPS),
        ([8, 64], (-1, 0), [64, 8]),
        ([20, 28], (1, 2), [16, 32]),
        ([16, 32], (1, 2), [16, 32]),
    ],
)
def test_of_joined_maps_the_sum_of_channels_counts(in_channels, in_index, own):
    """As in the original, whose convolutions read all of them together."""
    model = build_translated(translate_config(joining(in_channels, in_index)))
    assert model.decode_heads[0].config.in_channels == own == model.config.decode_head_configs[0].in_channels


def test_a_neck_does_not_compare_maps_that_it_does_not_use():
    values = with_neck(in_channels=[9, 16, 32, 64], start_level=1)
    assert build_translated(translate_config(copy.deepcopy(values))).neck.fits(MAPS)


def test_of_the_checkpoints_own_config_no_other_is_asked(tmp_path):
    """Nor of one that fits in everything but a name, such as that of a new option."""
    state = tiny.state_dict(tiny.config())
    state["backbone.new.weight"] = state.pop("backbone.stem.0.weight")
    path = tiny.save(tmp_path / "a.pth", state=state)
    with pytest.raises(ConversionError, match="checkpoint's own config .*it is not known to convert") as caught:
        convert_checkpoint(path, output=tmp_path / "out")
    assert "give the config" not in str(caught.value)
    (tmp_path / "own.py").write_text(tiny.config_text(tiny.config()))
    with pytest.raises(ConversionError, match="give the config that they were trained with"):
        convert_checkpoint(path, output=tmp_path / "out", config=tmp_path / "own.py")
