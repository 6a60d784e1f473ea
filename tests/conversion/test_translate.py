"""Original configs -> typed configs, processor settings, class names."""

import json

import pytest
from conversion import tiny
from support.zoo_translations import translations

from segzoo import SegZooImageProcessor, zoo
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import refusal, supports, translate_config
from segzoo.data.facts import DATASETS
from segzoo.errors import SegZooError


def translate(**changes):
    return translate_config(tiny.config(**changes))


class TestBackbone:
    def test_fields(self):
        backbone = translate().config.backbone_config
        assert (backbone.depth, backbone.stem, backbone.base_channels, backbone.stem_channels) == (18, "deep", 8, 8)
        assert list(backbone.strides) == [1, 2, 1, 1] and list(backbone.dilations) == [1, 1, 2, 4]
        assert backbone.contract_dilation and not backbone.average_downsample
        assert backbone.out_features == ["stage1", "stage2", "stage3", "stage4"]

    @pytest.mark.parametrize(
        ("kind", "stem", "average"),
        [("ResNet", "plain", False), ("ResNetV1c", "deep", False), ("mmseg.ResNetV1d", "deep", True)],
    )
    def test_variants(self, kind, stem, average):
        backbone = translate(model__backbone__type=kind).config.backbone_config
        assert (backbone.stem, backbone.average_downsample) == (stem, average)

    def test_resnext(self):
        changes = {"type": "ResNeXt", "depth": 50, "groups": 32, "base_width": 4}
        backbone = translate(model__backbone=changes, model__decode_head__in_channels=2048).config.backbone_config
        assert (backbone.groups, backbone.base_width, backbone.stem) == (32, 4, "plain")

    def test_multi_grid_caffe_style_and_channels(self):
        backbone = translate(
            model__backbone__depth=50,
            model__backbone__multi_grid=(1, 2, 4),
            model__backbone__style="caffe",
            model__backbone__in_channels=5,
            model__backbone__norm_cfg={"type": "BN", "eps": 1e-3, "momentum": 0.01, "requires_grad": True},
            model__decode_head__in_channels=256,
        ).config.backbone_config
        assert list(backbone.multi_grid) == [1, 2, 4]
        assert backbone.downsample_in_bottleneck and backbone.num_channels == 5 and backbone.norm_eps == 1e-3

    def test_fewer_outputs(self):
        translation = translate(model__backbone__out_indices=(2, 3), model__decode_head__in_index=1)
        assert translation.config.backbone_config.out_features == ["stage3", "stage4"]

    def test_training_options_do_not_matter(self):
        plain = translate().config.to_dict()
        for name, value in {
            "frozen_stages": 1,
            "norm_eval": True,
            "with_cp": True,
            "zero_init_residual": False,
        }.items():
            assert translate(**{f"model__backbone__{name}": value}).config.to_dict() == plain

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("dcn", {"type": "DCNv2"}, "dcn="),
            ("plugins", [{"cfg": {"type": "ContextBlock"}}], "plugins="),
            ("style", "tensorflow", "style='tensorflow'"),
            ("depth", 20, "depth=20"),
            ("norm_cfg", {"type": "GN", "num_groups": 8}, "norm type 'GN'"),
            ("norm_cfg", None, "without normalisation"),
            ("conv_cfg", {"type": "DCNv2"}, "convolutions"),
            ("shiny_new_option", 7, "unknown option shiny_new_option=7"),
        ],
    )
    def test_what_would_change_the_numbers_is_named(self, name, value, message):
        with pytest.raises(ConversionError, match="model.backbone.*" + message):
            translate(**{f"model__backbone__{name}": value})


class TestHeads:
    def test_fields(self):
        head = translate(model__decode_head__align_corners=True, model__decode_head__dropout_ratio=-1)
        head = head.config.decode_head_configs[0]
        assert (head.in_channels, head.in_index, head.channels, head.num_convs) == ([64], [3], 8, 1)
        assert head.align_corners and head.dropout == 0.0 and head.concat_input and head.num_labels == 4

    def test_resize_concat(self):
        head = translate(
            model__decode_head__input_transform="resize_concat",
            model__decode_head__in_channels=(8, 16, 32, 64),
            model__decode_head__in_index=(0, 1, 2, 3),
            model__decode_head__kernel_size=1,
        ).config.decode_head_configs[0]
        assert head.resize_concat and head.in_channels == [8, 16, 32, 64] and head.kernel_size == 1

    def test_cascade_and_several_auxiliary_heads(self):
        head = tiny.MODEL["decode_head"]
        second = head | {"type": "PSPHead"}
        del second["num_convs"]
        translation = translate(
            model__type="CascadeEncoderDecoder",
            model__num_stages=2,
            model__decode_head=[head, second],
            model__auxiliary_head=[head, head],
        )
        assert [c.model_type for c in translation.config.decode_head_configs] == ["segzoo_fcn_head", "segzoo_psp_head"]
        prefixes = {c.original_prefix: c.native_prefix for c in translation.components}
        assert prefixes["decode_head.1."] == "decode_heads.1."
        assert prefixes["auxiliary_head.1."] == "auxiliary_heads.1."

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("type", "PSPHeed", "head type 'PSPHeed'.*did you mean PSPHead"),
            ("out_channels", 1, "out_channels=1 and num_classes=4 disagree"),
            ("out_channels", 7, "disagree"),
            ("norm_cfg", {"type": "LN"}, "norm type 'LN'"),
            ("norm_cfg", {"type": "GN", "num_groups": 16}, "norm_cfg: num_groups=16 is not supported .only 32"),
            ("norm_cfg", {"type": "BN", "affine": False}, "norm_cfg: affine=False"),
            ("act_cfg", {"type": "Tanh"}, "act_cfg: activation {'type': 'Tanh'} is not supported"),
            ("act_cfg", {"type": "LeakyReLU", "negative_slope": 0.2}, "act_cfg: negative_slope=0.2"),
            ("act_cfg", {"type": "GELU", "approximate": "tanh"}, "act_cfg: approximate='tanh'"),
            ("input_transform", "multiple_select", "input_transform"),
            ("in_channels", [64], "must be integers"),
            ("odd", 1, "unknown option odd=1"),
        ],
    )
    def test_what_would_change_the_numbers_is_named(self, name, value, message):
        with pytest.raises(ConversionError, match="model.decode_head.*" + message):
            translate(**{f"model__decode_head__{name}": value})

    def test_ignored_label(self):
        assert translate(model__decode_head__ignore_index=0).config.semantic_loss_ignore_index == 0

    def test_the_dropout_s_old_name(self):
        values = tiny.config(model__decode_head__drop_out_ratio=0.25, train_cfg={})
        del values["model"]["decode_head"]["dropout_ratio"], values["model"]["train_cfg"]
        assert translate_config(values).config.decode_head_configs[0].dropout == 0.25

    def test_no_ignored_label_is_the_one_of_pytorch(self):
        assert translate(model__decode_head__ignore_index=None).config.semantic_loss_ignore_index == -100
        with pytest.raises(ConversionError, match="ignore_index='255' must be an integer"):
            translate(model__decode_head__ignore_index="255")

    def test_heads_that_ignore_different_labels(self):
        auxiliary = tiny.MODEL["decode_head"] | {"ignore_index": 7}
        translation = translate(model__decode_head__ignore_index=0, model__auxiliary_head=auxiliary)
        assert translation.config.semantic_loss_ignore_index == translation.processor["ignore_index"] == 0
        assert any("auxiliary_head: it ignored label 7" in note for note in translation.notes)


class TestModel:
    def test_windows(self):
        test_cfg = {"mode": "slide", "crop_size": (48, 64), "stride": (32, 40)}
        translation = translate(model__test_cfg=test_cfg)
        assert (translation.config.window_size, translation.config.window_stride) == ([48, 64], [32, 40])
        assert translation.processor["window_size"] == [48, 64]

    def test_test_settings_beside_the_model(self):
        values = tiny.config(test_cfg={"mode": "slide", "crop_size": (48, 48), "stride": (32, 32)})
        del values["model"]["test_cfg"]
        assert translate_config(values).config.window_size == [48, 48]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model": None}, "no 'model'"),
            ({"model__type": "FasterRCNN", "model__roi_head": {}}, "detection"),
            ({"model": {"type": "ImageClassifier", "backbone": {}, "head": {}}}, "classification"),
            ({"model__type": "EncoderDecoder3D"}, "model type 'EncoderDecoder3D'"),
            ({"model__neck": {"type": "NoSuchNeck"}}, "neck type 'NoSuchNeck'"),
            ({"model__neck": [{"type": "FPN"}, {"type": "BFP"}]}, r"model.neck: several necks .*\(FPN, BFP\)"),
            ({"model__type": "models.SiamEncoderDecoder"}, "compares two images.*'models.SiamEncoderDecoder'"),
            ({"data_preprocessor": {"type": "DualInputSegDataPreProcessor"}}, "two images.*'DualInputSegDataPrePro"),
            ({"model__text_encoder": {"type": "CLIPTextEncoder"}}, "reads text.*model.text_encoder"),
            ({"model__type": "DepthEstimator"}, "estimates depth.*'DepthEstimator'"),
            ({"model__odd": 1}, "model: unknown option odd=1"),
            ({"model__test_cfg": {"mode": "tiles"}}, "mode='tiles'"),
            ({"model__test_cfg": {"mode": "slide", "crop_size": (1, 2, 3), "stride": 1}}, "crop_size"),
            ({"model__test_cfg": {"mode": "whole", "sigmoid": True}}, "model.test_cfg: unknown option sigmoid=True"),
            ({"model__test_cfg": {"multi_label": True}}, "model.test_cfg: unknown option multi_label=True"),
            ({"model__test_cfg": {"mode": "whole", "subdivision_steps": 2}}, "unknown option subdivision_steps=2"),
            ({"model__test_cfg": "whole"}, "model.test_cfg: expected a dict"),
        ],
    )
    def test_errors(self, changes, message):
        with pytest.raises(ConversionError, match=message):
            translate(**changes)

    def test_windows_that_whole_mode_does_not_use(self):
        test_cfg = {"mode": "whole", "crop_size": (48, 64), "stride": (32, 40), "panoptic_on": False}
        assert translate(model__test_cfg=test_cfg).config.window_size is None

    def test_the_loop_of_1x_is_no_test_setting_of_the_model(self):
        values = tiny.config(test_cfg={"type": "TestLoop", "fp16": True})
        del values["model"]["test_cfg"]
        assert translate_config(values).config.window_size is None

    def test_decode_heads_with_unequal_class_counts(self):
        head = tiny.MODEL["decode_head"]
        changes = {"model__type": "CascadeEncoderDecoder", "model__decode_head": [head | {"num_classes": 5}, head]}
        with pytest.raises(ConversionError, match="class counts disagree.* 4 classes, model.decode_head.0 has 5"):
            translate(**changes)


class TestClasses:
    def test_data_set_by_its_original_type(self):
        head = tiny.MODEL["decode_head"] | {"num_classes": 19}
        translation = translate(model__decode_head=head, dataset_type="mmseg.CityscapesDataset")
        facts = DATASETS["cityscapes"]
        assert translation.config.id2label == facts.id2label
        assert translation.config.palette == [list(color) for color in facts.palette]
        assert translation.classes.dataset is facts

    def test_the_checkpoints_own_names_come_first(self):
        names, palette = ("a", "b", "a", "d"), [[1, 2, 3]] * 4
        translation = translate_config(tiny.config(), class_names=names, palette=palette)
        assert list(translation.config.id2label.values()) == ["a", "b", "a (2)", "d"]
        assert translation.config.palette == palette

    @pytest.mark.parametrize(
        "changes",
        [
            {"data": {"test": {"type": "CustomDataset", "classes": ["a", "b", "c", "d"]}}},
            {"data": {"train": {"type": "RepeatDataset", "dataset": {"type": "X", "classes": ["a", "b", "c", "d"]}}}},
            {
                "test_dataloader": {
                    "dataset": {"type": "BaseSegDataset", "metainfo": {"classes": ("a", "b", "c", "d")}}
                }
            },
        ],
    )
    def test_names_in_the_config(self, changes):
        assert list(translate(**changes).config.id2label.values()) == ["a", "b", "c", "d"]

    def test_unknown_names(self):
        translation = translate()
        assert translation.config.id2label[3] == "LABEL_3"
        assert any("names" in note for note in translation.notes)

    def test_counts_that_disagree(self):
        with pytest.raises(ConversionError, match="the checkpoint names 3 classes, the model of the config has 4"):
            translate_config(tiny.config(), class_names=["a", "b", "c"])

    @pytest.mark.parametrize(
        ("changes", "reduced"),
        [
            ({"train_pipeline": [{"type": "LoadAnnotations", "reduce_zero_label": True}]}, True),
            ({"train_pipeline": [{"type": "LoadAnnotations"}]}, False),
            ({"data": {"test": {"type": "CustomDataset", "reduce_zero_label": True}}}, True),
            ({}, False),
        ],
    )
    def test_reduced_labels(self, changes, reduced):
        assert translate(**changes).processor["do_reduce_labels"] is reduced


class TestProcessor:
    def steps(self, *steps):
        transforms = [*steps, tiny.NORMALISE]
        aug = {"type": "MultiScaleFlipAug", "img_scale": (64, 32), "flip": False, "transforms": transforms}
        return translate(test_pipeline=[{"type": "LoadImageFromFile"}, aug]).processor

    def test_defaults(self):
        processor = translate().processor
        assert processor["size"] == {"shortest_edge": 32, "longest_edge": 64} and processor["do_resize"]
        assert processor["image_mean"] == [0.485, 0.456, 0.406] and processor["channel_order"] == "rgb"
        assert not processor["antialias"] and processor["rounding"] == "nearest"
        SegZooImageProcessor(**processor)

    @pytest.mark.parametrize(
        ("step", "fields"),
        [
            ({"type": "Resize", "keep_ratio": False}, {"size": {"height": 32, "width": 64}}),
            ({"type": "Resize", "keep_ratio": True, "min_size": 48}, {"size": {"shortest_edge": 48}}),
            (
                {"type": "SETR_Resize", "keep_ratio": True, "crop_size": (48, 48), "setr_multi_scale": True},
                {"size": {"shortest_edge": 48}},
            ),
            (
                {"type": "Resize", "keep_ratio": True, "crop_size": (48, 48), "setr_multi_scale": True},
                {"size": {"shortest_edge": 48}},
            ),
            (
                {"type": "AlignResize", "keep_ratio": True, "size_divisor": 16},
                {
                    "size": {"shortest_edge": 32, "longest_edge": 64},
                    "size_multiple": 16,
                    "size_multiple_mode": "stretch",
                },
            ),
            ({"type": "models.AlignedResize", "keep_ratio": True}, {"size_multiple": 32, "do_resize": True}),
            ({"type": "PadShortSide", "size": 48}, {"pad_size": {"height": 48, "width": 48}}),
            ({"type": "ResizeToMultiple", "size_divisor": 32}, {"size_multiple": 32, "size_multiple_mode": "stretch"}),
        ],
    )
    def test_steps(self, step, fields):
        processor = self.steps(step)
        assert fields.items() <= processor.items()
        SegZooImageProcessor(**processor)

    def test_padding_after_and_before_normalisation(self):
        pad = {"type": "Pad", "size_divisor": 16, "pad_val": 0}
        before = self.steps(pad)
        assert before["size_multiple"] == 16 and before["size_multiple_mode"] == "pad"
        assert before["pad_value"] == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
        after = translate(test_pipeline=[{"type": "LoadImageFromFile"}, tiny.NORMALISE, pad]).processor
        assert after["pad_value"] == 0

    def test_no_normalisation_means_bgr_as_opencv_reads(self):
        processor = translate(test_pipeline=[{"type": "LoadImageFromFile"}]).processor
        assert processor["channel_order"] == "bgr" and not processor["do_normalize"] and not processor["do_rescale"]

    @pytest.mark.parametrize(("to_rgb", "order"), [(True, "bgr"), (False, "rgb")])
    def test_loaders_of_other_files_keep_the_order_of_channels(self, to_rgb, order):
        steps = [{"type": "LoadTiffImageFromFile", "to_float32": True}, tiny.NORMALISE | {"to_rgb": to_rgb}]
        translation = translate(test_pipeline=steps)
        assert translation.processor["channel_order"] == order
        assert any("LoadTiffImageFromFile(to_float32=True); the processor takes" in n for n in translation.notes)

    def test_augmentation_in_testing_is_noted(self):
        aug = tiny.TEST_PIPELINE[1] | {"img_ratios": [0.5, 1.0, 1.5], "flip": True}
        translation = translate(test_pipeline=[tiny.TEST_PIPELINE[0], aug])
        assert translation.processor["size"] == {"shortest_edge": 32, "longest_edge": 64}
        assert any("augmentation" in note for note in translation.notes)

    @pytest.mark.parametrize(
        ("step", "message"),
        [
            ({"type": "CLAHE"}, r"test_pipeline\[1\].transforms\[0\]: the step 'CLAHE'"),
            ({"type": "Resize", "odd": 1}, "unknown option odd=1"),
            ({"type": "Resize", "interpolation": "lanczos"}, "interpolation='lanczos'"),
        ],
    )
    def test_unknown_steps_and_options_are_named(self, step, message):
        with pytest.raises(ConversionError, match=message):
            self.steps(step)

    def test_no_test_pipeline(self):
        values = tiny.config(img_norm_cfg={"mean": [1.0] * 3, "std": [2.0] * 3, "to_rgb": False})
        del values["test_pipeline"]
        translation = translate_config(values)
        assert not translation.processor["do_resize"] and translation.processor["channel_order"] == "bgr"
        assert any("no test pipeline" in note for note in translation.notes)


def test_a_config_of_1x():
    preprocessor = {
        "type": "SegDataPreProcessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": 255,
        "size": (32, 32),
        "test_cfg": {"size_divisor": 32},
    }
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (64, 32), "keep_ratio": True},
        {"type": "LoadAnnotations", "reduce_zero_label": True},
        {"type": "PackSegInputs"},
    ]
    loader = {"dataset": {"type": "mmseg.ADE20KDataset", "pipeline": pipeline}}
    values = tiny.config(model__data_preprocessor=preprocessor, test_dataloader=loader)
    del values["dataset_type"], values["test_pipeline"]
    model = values["model"]
    model["type"], model["backbone"]["type"] = "mmseg.EncoderDecoder", "mmseg.ResNetV1c"
    model["decode_head"]["loss_decode"] = {"type": "mmseg.CrossEntropyLoss", "loss_weight": 1.0}
    model["decode_head"]["num_classes"] = 150
    translation = translate_config(values)
    fields = {
        "size": {"shortest_edge": 32, "longest_edge": 64},
        "channel_order": "rgb",
        "image_mean": [0.485, 0.456, 0.406],
        "size_multiple": 32,
        "size_multiple_mode": "pad",
        "do_reduce_labels": True,
    }
    assert fields.items() <= translation.processor.items()
    assert translation.config.id2label[0] == "wall" and translation.notes == []
    SegZooImageProcessor(**translation.processor)


def test_every_supported_zoo_config_translates():
    assert len(translations()) >= 600
    assert list(translations()) == [
        row.name for row in zoo.rows().values() if zoo.converts(row) and not row.pretrained
    ]
    for name, translation in translations().items():
        more_outputs = "its head has 150 outputs" in (zoo.rows()[name].note or "")
        assert (translation.classes.dataset is None) == more_outputs, name
        assert translation.config.id2label[0] != "LABEL_0", name
        told = ["augmentation"] * zoo.find(name).test_flip + ["sides that are multiples"] * ("unet" in name)
        told += ["draws the first bases"] * ("segnext" in name) + [
            "the original does not train",
            "the original trains no",
        ]
        told += ["the original's batch norms keep"]  # tests/conversion/test_training_options.py names these rows
        notes = [note for note in translation.notes if not any(words in note for words in told)]
        assert notes == [], name
        try:
            SegZooImageProcessor(**translation.processor)
        except SegZooError as error:
            raise AssertionError(name) from error


def test_what_is_supported_is_what_translates():
    values = tiny.config()
    assert supports(values) and refusal(values) is None
    values["model"]["decode_head"]["odd"] = 1  # the types alone would do
    assert not supports(values) and "unknown option odd=1" in refusal(values)


def paths(value, path=()):
    """Every place inside nested dicts and lists."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    )
    for key, inner in entries:
        yield (*path, key)
        yield from paths(inner, (*path, key))


@pytest.mark.parametrize("junk", [None, "odd", -1, [], {}, 10**9], ids=repr)
def test_values_of_the_wrong_kind_are_errors_of_ours_or_harmless(junk):
    lists = json.dumps(tiny.config())  # as lists, so that every place can be changed
    for path in paths(json.loads(lists)):
        values = json.loads(lists)
        place = values
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = junk
        try:
            translation = translate_config(values)
            SegZooImageProcessor(**translation.processor)
            if junk != 10**9:
                build_without_weights(translation.config)
        except SegZooError as error:
            assert str(error)
