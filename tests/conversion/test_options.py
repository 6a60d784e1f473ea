"""Every option of an original config must be taken, expected or ignored."""

import pytest

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.reading.configs import read_config_text


@pytest.mark.parametrize("value", [None, [], {"depth": 50}, {"type": 3}])
def test_a_component_needs_a_type(value):
    with pytest.raises(ConversionError, match="model.backbone"):
        type_name(value, "model.backbone")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("ResNetV1c", "ResNetV1c"),
        ("mmseg.FCNHead", "FCNHead"),
        ("mmseg.models.backbones.resnet.ResNetV1c", "ResNetV1c"),
        ("mmcv.transforms.LoadImageFromFile", "LoadImageFromFile"),
        ("torch.nn.SyncBatchNorm", "SyncBN"),
        ("torch.nn.modules.batchnorm.BatchNorm2d", "BN"),
        ("LayerNorm", "LN"),
        ("torch.nn.modules.activation.GELU", "GELU"),
        ("models.EncoderDecoder", "EncoderDecoder"),
        ("models.MyDecoder", "models.MyDecoder"),
        ("torchvision.MyDecoder", "torchvision.MyDecoder"),
    ],
)
def test_packages_before_a_type(written, name):
    assert type_name({"type": written}, "model", ("EncoderDecoder",)) == name


class TestOptions:
    def options(self, **entries):
        return Options({"type": "X", **entries}, "model.x")

    def test_everything_must_be_accounted_for(self):
        options = self.options(a=1, b=2, odd=3, other=[4])
        assert options.take("a") == 1
        options.ignore("b", "absent")
        with pytest.raises(ConversionError, match=r"model.x: unknown options odd=3, other=\[4\]"):
            options.finish()

    def test_defaults_and_missing_options(self):
        assert self.options().take("a", 5) == 5
        with pytest.raises(ConversionError, match="model.x: the option 'a' is missing"):
            self.options().take("a")

    def test_expect(self):
        assert self.options(style="caffe").expect("style", "pytorch", "caffe") == "caffe"
        assert self.options().expect("style", "pytorch") == "pytorch"
        assert self.options(pair=(1, 2)).expect("pair", [1, 2]) == [1, 2]
        with pytest.raises(ConversionError, match="style='odd' is not supported"):
            self.options(style="odd").expect("style", "pytorch")

    def test_norms(self):
        assert self.options(norm_cfg={"type": "SyncBN", "eps": 1e-3}).norm() == {
            "norm": "batch_norm",
            "norm_eps": 1e-3,
        }
        group = {"type": "GN", "num_groups": 32, "requires_grad": True}
        assert self.options(norm_cfg=group).norm() == {"norm": "group_norm", "norm_eps": 1e-5}
        assert self.options(norm_cfg=None).norm() == self.options().norm() == {"norm": None}
        assert self.options().norm(default={"type": "BN"}) == {"norm": "batch_norm", "norm_eps": 1e-5}
        with pytest.raises(ConversionError, match=r"model.x.norm_cfg: norm type 'IN'"):
            self.options(norm_cfg={"type": "IN"}).norm()
        with pytest.raises(ConversionError, match=r"model.x.norm_cfg: the option 'num_groups' is missing"):
            self.options(norm_cfg={"type": "GN"}).norm()
        with pytest.raises(ConversionError, match=r"model.x.norm_cfg: unknown option odd=1"):
            self.options(norm_cfg={"type": "BN", "odd": 1}).norm()

    def test_norms_that_must_be_batch_norms(self):
        assert self.options(norm_cfg={"type": "SyncBN", "eps": 1e-3}).batch_norm() == {"norm_eps": 1e-3}
        assert self.options().batch_norm() == {"norm_eps": 1e-5}
        momentum = self.options(norm_cfg={"type": "BN", "momentum": 0.01}).batch_norm()
        assert momentum == {"norm_eps": 1e-5, "norm_momentum": 0.01}
        with pytest.raises(ConversionError, match=r"model.x.norm_cfg: norm type 'GN'.*BN"):
            self.options(norm_cfg={"type": "GN", "num_groups": 32}).batch_norm()
        with pytest.raises(ConversionError, match=r"model.x: .*without normalisation"):
            self.options(norm_cfg=None).batch_norm()

    @pytest.mark.parametrize(
        ("original", "name"),
        [
            ({"type": "ReLU", "inplace": True}, "relu"),
            ({"type": "mmcv.HSwish"}, "hardswish"),
            ({"type": "LeakyReLU", "negative_slope": 0.01}, "leaky_relu"),
            (None, None),
        ],
    )
    def test_activations(self, original, name):
        assert self.options(act_cfg=original).activation() == name

    def test_the_activation_where_the_config_names_none(self):
        assert self.options().activation() == "relu"
        assert self.options().activation(default="ReLU6", only="ReLU6") == "relu6"

    def test_activations_that_are_not_supported(self):
        with pytest.raises(ConversionError, match="model.x.act_cfg: activation .*only ReLU, ReLU6"):
            self.options(act_cfg={"type": "Sigmoid"}).activation()
        for odd in (None, {"type": "ReLU"}):
            with pytest.raises(ConversionError, match="only ReLU6"):
                self.options(act_cfg=odd).activation(only="ReLU6")

    @pytest.mark.parametrize("text", ["f()", "dict(a=f())", "[1, f()]"])
    def test_what_cannot_be_read_is_named_with_its_option(self, text):
        value = read_config_text(f"\nx = {text}", filename="a.py")["x"]
        with pytest.raises(
            ConversionError, match=r"model.x: unknown options a=1, odd=.*a.py, line 2: the call of 'f'"
        ):
            self.options(a=1, odd=value).finish()
        with pytest.raises(ConversionError, match=r"model.x: odd cannot be read .*a.py, line 2"):
            self.options(odd=value).expect("odd", 3)
