"""The cases of models.py: what is built, what is swapped while it runs, and whether it is compiled."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from unittest import mock

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from segzoo import SegZooForSemanticSegmentation
    from segzoo.heads import HeadConfig

NUM_LABELS = 150
OCRNET = "ocrnet_hr18_512x512_160k_ade20k"
CONVNEXT = "upernet_convnext_tiny_fp16_512x512_160k_ade20k"
# Rows of the zoo on ResNet-50 at stride 8: FCN, and heads of attention, encoding and context beside it. EMANet's is for
# Cityscapes, and so has fewer classes.
ATTENTION = {
    "FCN": "fcn_r50-d8_512x512_160k_ade20k",
    "ANN": "ann_r50-d8_512x512_160k_ade20k",
    "APCNet": "apcnet_r50-d8_512x512_160k_ade20k",
    "CCNet": "ccnet_r50-d8_512x512_160k_ade20k",
    "DANet": "danet_r50-d8_512x512_160k_ade20k",
    "DMNet": "dmnet_r50-d8_512x512_160k_ade20k",
    "DNLNet": "dnl_r50-d8_512x512_160k_ade20k",
    "EMANet": "emanet_r50-d8_512x1024_80k_cityscapes",
    "EncNet": "encnet_r50-d8_512x512_160k_ade20k",
    "GCNet": "gcnet_r50-d8_512x512_160k_ade20k",
    "ISANet": "isanet_r50-d8_512x512_160k_ade20k",
    "NonLocal": "nonlocal_r50-d8_512x512_160k_ade20k",
    "PSANet": "psanet_r50-d8_512x512_160k_ade20k",
}


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Args:
        group, name: names for printing and choosing the case; a group's cases are compared with its first one.
        build: builds the model; cases with equal ``model`` share it.
        model: what ``build`` builds, in words.
        swap: a context that changes what the model runs, such as its operator, while it is measured.
        compiled: whether it runs under torch.compile.
        layout: memory format of weights and inputs.
        trains: whether its training memory is measured.
        package: package that must be installed besides segzoo's own requirements.
        published: published figures, in words.
        side: whose model it is, in groups that end with a summary of each side.
    """

    group: str
    name: str
    build: Callable[[], nn.Module]
    model: str
    swap: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    compiled: bool = False
    layout: torch.memory_format = torch.channels_last
    trains: bool = False
    package: str | None = None
    published: str = ""
    side: str = ""


def cases() -> list[Case]:
    """All cases, by group."""
    internimage = {
        "build": partial(zoo_model, "upernet_internimage_t_512_160k_ade20k"),
        "model": "InternImage-T UPerNet",
    }
    adapter = {
        "build": partial(zoo_model, "upernet_deit_adapter_base_512_160k_ade20k"),
        "model": "ViT-Adapter-B UPerNet",
    }
    return [
        Case("internimage", "grid_sample", swap=grid_sample_dcnv3, trains=True, **internimage),
        *in_plain_form("internimage", grid_sample_dcnv3, **internimage),
        Case("internimage", "segzoo", trains=True, **internimage),
        Case("internimage", "segzoo compiled", compiled=True, **internimage),
        Case("internimage", "transformers Swin-T", transformers_swin, "transformers' UPerNet-Swin-T", trains=True),
        Case(
            "internimage",
            "smp ResNet-50",
            smp_resnet,
            "segmentation_models.pytorch's UPerNet-R50 (256 channels; logits at full size)",
            trains=True,
            package="segmentation_models_pytorch",
        ),
        Case("adapter", "grid_sample", swap=grid_sample_attention, trains=True, **adapter),
        *in_plain_form("adapter", grid_sample_attention, **adapter),
        Case("adapter", "segzoo", trains=True, **adapter),
        Case("adapter", "segzoo compiled", compiled=True, **adapter),
        *mit_cases(),
        *beside_segformer("b0", (2, 2, 2, 2), (32, 64, 160, 256), 256),
        *beside_segformer("b2", (3, 4, 6, 3), (64, 128, 320, 512), 768),
        *beside_transformers("convnext", "UPerNet-ConvNeXt-T", transformers_convnext, CONVNEXT),
        *beside_transformers_swin(),
        *beside_smp("uper", "UPerNet-R50", smp_upernet, our_upernet),
        *beside_smp("psp", "PSPNet-R50, cut at stride 8", smp_pspnet, our_pspnet),
        *beside_smp("deeplabv3", "DeepLabV3-R50-D8", smp_deeplabv3, our_deeplabv3),
        *beside_smp("deeplabv3plus", "DeepLabV3+-R50-D16", smp_deeplabv3plus, our_deeplabv3plus),
        Case("ocr", "FCN", partial(zoo_model, "fcn_hr18_512x512_160k_ade20k"), "FCN HRNet-W18", trains=True),
        Case("ocr", "OCRNet", partial(zoo_model, OCRNET), "OCRNet HRNet-W18", trains=True),
        Case("ocr", "OCRNet compiled", partial(zoo_model, OCRNET), "OCRNet HRNet-W18", compiled=True),
        *(
            Case("attention", method, partial(zoo_model, name), f"{method} ResNet-50", trains=True)
            for method, name in ATTENTION.items()
        ),
    ]


def in_plain_form(group: str, operator: Callable, build: Callable[[], nn.Module], model: str) -> list[Case]:
    """The layers computed as in the original, in both memory formats; training is faster in the usual one."""
    swap = partial(plain_form, operator)
    contiguous = {"layout": torch.contiguous_format, "trains": True, "swap": swap}
    return [
        Case(group, "grid_sample, plain layers", build, model, swap=swap),
        Case(group, "grid_sample, plain layers contiguous", build, f"{model}, contiguous", **contiguous),
    ]


def beside_smp(group: str, model: str, theirs: Callable[[], nn.Module], ours: Callable[[], nn.Module]) -> list[Case]:
    """A model of segmentation_models.pytorch and ours with the same channels and strides, each in both memory formats.

    All return logits at the picture's size, and train with what they return; but for ours after ``fuse()``.
    """
    package = "segmentation_models_pytorch"
    return [
        Case(
            group,
            f"{who}{name}",
            build,
            f"{who} {model}{name}",
            layout=layout,
            trains=trains,
            package=package,
            side=who,
        )
        for who, build, trains in (
            ("smp", theirs, True),
            ("segzoo", ours, True),
            ("segzoo fused", partial(fused, ours), False),
        )
        for name, layout in (("", torch.channels_last), (" contiguous", torch.contiguous_format))
    ]


def beside_segformer(size: str, depths: Sequence[int], channels: Sequence[int], width: int) -> list[Case]:
    """transformers' SegFormer and ours of the same sizes, each in both memory formats; both return the small logits.

    Ours is the same model (linear projections), beside it mmsegmentation's (projections with norms).
    """
    group, title = f"segformer-{size}", f"SegFormer-{size.upper()}"
    theirs = partial(transformers_segformer, depths, channels, width)
    ours, mmseg = (partial(our_segformer, size, width, linear) for linear in (True, False))
    return [
        Case(group, f"{who}{name}", build, f"{who} {title}{name}", layout=layout, trains=True, compiled=compiled)
        for who, build, compiled in (
            ("transformers", theirs, False),
            ("segzoo", ours, False),
            ("segzoo mmsegmentation's", mmseg, False),
            ("transformers compiled", theirs, True),
            ("segzoo compiled", ours, True),
        )
        for name, layout in (("", torch.channels_last), (" contiguous", torch.contiguous_format))
        if not (compiled and name)
    ]


def beside_transformers(group: str, model: str, theirs: Callable[[], nn.Module], ours: str) -> list[Case]:
    """A model of transformers and ours of the same sizes, a row of the zoo: theirs in both memory formats first."""
    own = {"build": partial(zoo_model, ours), "model": f"segzoo {model}"}
    peer = {"build": theirs, "model": f"transformers {model}"}
    contiguous = {"build": theirs, "model": f"transformers {model}, contiguous", "layout": torch.contiguous_format}
    return [
        Case(group, "transformers contiguous", trains=True, **contiguous),
        Case(group, "transformers", trains=True, **peer),
        Case(group, "transformers compiled", compiled=True, **peer),
        Case(group, "segzoo", trains=True, **own),
        Case(group, "segzoo fused", partial(fused, own["build"]), f"segzoo {model} fused"),
        Case(group, "segzoo compiled", compiled=True, **own),
    ]


def beside_transformers_swin() -> list[Case]:
    """UPerNet-Swin-T of transformers, with either of its implementations of attention, and ours with the same widths.

    Each is there in both memory formats, and compiled in one; all return logits at a quarter of the picture's size.
    """
    eager, sdpa = (partial(transformers_swin, attention) for attention in ("eager", "sdpa"))
    cases = [
        Case("swin", f"{who}{name}", build, f"{who} UPerNet-Swin-T{name}", layout=layout, trains=True)
        for who, build in (("transformers eager", eager), ("transformers sdpa", sdpa), ("segzoo", our_swin))
        for name, layout in (("", torch.channels_last), (" contiguous", torch.contiguous_format))
    ]
    compiled = (("transformers sdpa", sdpa), ("segzoo", our_swin))
    return cases + [
        Case("swin", f"{who} compiled", build, f"{who} UPerNet-Swin-T", compiled=True) for who, build in compiled
    ]


def mit_cases() -> list[Case]:
    """The released models of MIT's scene parsing, with the speeds that their authors publish."""
    from segzoo import zoo

    rows = [row for row in zoo.rows().values() if row.system == "CSAIL" and zoo.original_config(row.name)]
    return [
        Case(
            "mit",
            row.name,
            partial(zoo_model, row.name),
            row.name,
            published=f"{row.images_per_second:g} images/s on {row.speed_device}" if row.images_per_second else "",
        )
        for row in rows
    ]


# What is built


def zoo_model(name: str) -> "SegZooForSemanticSegmentation":
    """The model of a zoo row, without its weights."""
    from segzoo import SegZooForSemanticSegmentation, zoo
    from segzoo.conversion.translate import translate_config

    config = translate_config(zoo.original_config(name)).config
    config.auxiliary_head_configs = []
    return SegZooForSemanticSegmentation(config)


def transformers_swin(attention: str = "sdpa") -> nn.Module:
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = SwinConfig(
        embed_dim=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(backbone_config=backbone, num_labels=NUM_LABELS, use_auxiliary_head=False)
    model = UperNetForSemanticSegmentation(config)
    model.backbone.set_attn_implementation(attention)
    return model


def our_swin() -> nn.Module:
    from segzoo import SegZooConfig, SegZooForSemanticSegmentation
    from segzoo.backbones import SwinConfig
    from segzoo.heads import UPerHeadConfig

    config = SegZooConfig(
        backbone_config=SwinConfig(),
        decode_head_configs=[UPerHeadConfig(channels=512)],
        auxiliary_head_configs=[],
        num_labels=NUM_LABELS,
    )
    return SegZooForSemanticSegmentation(config)


def transformers_convnext() -> nn.Module:
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ConvNextConfig(
        hidden_sizes=[96, 192, 384, 768],
        depths=[3, 3, 9, 3],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(backbone_config=backbone, num_labels=NUM_LABELS, use_auxiliary_head=False)
    return UperNetForSemanticSegmentation(config)


def transformers_segformer(depths: Sequence[int], channels: Sequence[int], width: int) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=list(depths),
        hidden_sizes=list(channels),
        num_attention_heads=[1, 2, 5, 8],
        decoder_hidden_size=width,
        num_labels=NUM_LABELS,
        attn_implementation="sdpa",
    )
    return SegformerForSemanticSegmentation(config)


def our_segformer(size: str, width: int, linear: bool) -> nn.Module:
    from segzoo import SegZooConfig, SegZooForSemanticSegmentation
    from segzoo.auto import backbone_variants
    from segzoo.heads import SegFormerHeadConfig

    name = f"mit_{size}"
    config = SegZooConfig(
        backbone_config=backbone_variants()[name].variant_config(name),
        decode_head_configs=[SegFormerHeadConfig(channels=width, linear_projections=linear)],
        auxiliary_head_configs=[],
        num_labels=NUM_LABELS,
    )
    return SegZooForSemanticSegmentation(config)


def smp_resnet() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.UPerNet("resnet50", encoder_weights=None, classes=NUM_LABELS)


SMP_CHANNELS = 256  # of its decoders


def smp_upernet() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.UPerNet("resnet50", encoder_weights=None, decoder_channels=SMP_CHANNELS, classes=NUM_LABELS)


def smp_pspnet() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.PSPNet("resnet50", encoder_weights=None, psp_out_channels=SMP_CHANNELS, classes=NUM_LABELS)


def smp_deeplabv3() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.DeepLabV3("resnet50", encoder_weights=None, decoder_channels=SMP_CHANNELS, classes=NUM_LABELS)


def smp_deeplabv3plus() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.DeepLabV3Plus("resnet50", encoder_weights=None, decoder_channels=SMP_CHANNELS, classes=NUM_LABELS)


class AtFullSize(nn.Module):
    """A segzoo model whose logits are resized to the picture, as segmentation_models.pytorch's are."""

    supports_gradient_checkpointing = True

    def __init__(self, backbone: str, head: "HeadConfig", **changes) -> None:
        from segzoo import SegZooConfig, SegZooForSemanticSegmentation
        from segzoo.auto import backbone_variants

        super().__init__()
        config = SegZooConfig(
            backbone_config=backbone_variants()[backbone].variant_config(backbone, **changes),
            decode_head_configs=[head],
            auxiliary_head_configs=[],
            num_labels=NUM_LABELS,
        )
        self.model = SegZooForSemanticSegmentation(config)

    def gradient_checkpointing_enable(self) -> None:
        self.model.activation_checkpointing_enable()

    def fuse(self) -> None:
        self.model.fuse()

    def forward(self, image: Tensor) -> Tensor:
        scores = self.model(image).logits
        return nn.functional.interpolate(scores, size=image.shape[-2:], mode="bilinear")


def fused(build: Callable[[], "AtFullSize | SegZooForSemanticSegmentation"]) -> nn.Module:
    """The model that ``build`` builds, after ``fuse()``."""
    model = build().eval()
    model.fuse()
    return model


def our_upernet() -> nn.Module:
    from segzoo.heads import UPerHeadConfig

    return AtFullSize("resnet50", UPerHeadConfig(channels=SMP_CHANNELS))


def our_pspnet() -> nn.Module:
    """As theirs reads it: ResNet-50 without its last two stages."""
    from segzoo.heads import PSPHeadConfig

    cut = {"num_stages": 2, "strides": [1, 2], "dilations": [1, 1], "out_features": ["stage2"]}
    return AtFullSize("resnet50", PSPHeadConfig(channels=SMP_CHANNELS), **cut)


def our_deeplabv3() -> nn.Module:
    from segzoo.heads import ASPPHeadConfig

    return AtFullSize("resnet50_d8", ASPPHeadConfig(channels=SMP_CHANNELS))


def our_deeplabv3plus() -> nn.Module:
    from segzoo.heads import SeparableASPPHeadConfig

    return AtFullSize("resnet50_d16", SeparableASPPHeadConfig(channels=SMP_CHANNELS, in_index=[-1, 0]))


# What is swapped


def grid_sample_dcnv3() -> contextlib.AbstractContextManager:
    """InternImage's operator by one grid_sample, as benchmarks/deformable.py writes it from the formula."""
    from deformable import dcnv3_reference

    from segzoo.ops import DCNv3

    def forward(
        self: DCNv3, input: Tensor, offset: Tensor, mask: Tensor, *, groups: int, offset_scale: float, **_
    ) -> Tensor:
        return dcnv3_reference(input, offset, mask, groups, offset_scale)

    return mock.patch.object(DCNv3, "forward", forward)


def grid_sample_attention() -> contextlib.AbstractContextManager:
    """Multi-scale deformable attention by one grid_sample per level."""
    from deformable import attention_reference

    from segzoo.ops import MSDeformAttn

    def forward(
        self: MSDeformAttn, value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
    ) -> Tensor:
        return attention_reference(value, locations, weights, shapes)

    return mock.patch.object(MSDeformAttn, "forward", forward)


@contextlib.contextmanager
def plain_form(operator: Callable[[], contextlib.AbstractContextManager]) -> Iterator[None]:
    """The operator's swap, and the plain forms of the layers that segzoo computes in another way on CPUs."""
    from segzoo.layers.conv import Conv2d
    from segzoo.layers.fusion_conv import ConvOfMaps
    from segzoo.layers.pointwise import PointwiseLinear

    def never(self: ConvOfMaps, *_: object) -> bool:
        return False

    def convolve(self: Conv2d, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, self.bias)

    def linear(self: PointwiseLinear, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias if bias is None else bias)

    with (
        operator(),
        mock.patch.object(ConvOfMaps, "_is_pointwise", never),
        mock.patch.object(ConvOfMaps, "_short_way", never),
        mock.patch.object(Conv2d, "convolve", convolve),
        mock.patch.object(PointwiseLinear, "forward", linear),
    ):
        yield
