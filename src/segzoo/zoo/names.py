"""The names that mmsegmentation 1.x gives the models of 0.x, by rule.

0.x:  fcn_r50-d8_512x1024_40k_cityscapes             model, crop, schedule, data set
1.x:  fcn_r50-d8_4xb2-40k_cityscapes-512x1024        model, GPUs x batch - options - schedule, data set - crop
"""

from __future__ import annotations

import re

_NAME = re.compile(
    r"(?P<model>.+?)_(?:(?P<batch>\dx\d+)_)?(?P<crop>\d{2,}x\d{2,})_(?:(?P<late_batch>\dx\d+)_)?"
    r"(?P<options>.*?)_?(?P<schedule>\d+k)_(?:b(?P<total>\d+)_)?(?P<data>[a-z].*)"
)
_SWIN = re.compile(
    r"upernet_swin_(?P<size>\w+)_(?P<patch>patch4)_(?P<window>window\d+)_512x512_(?:160k_ade20k_)?"
    r"pretrain_(?P<side>\d+x\d+)_(?P<images>\d+)K(?:_160k_ade20k)?"
)
_OPTION = re.compile(r"(.+?)_(fp16|ohem|lr5e-3|ce-1\.0-dice-3\.0)")  # 0.x writes some behind the model
# Models that 1.x calls otherwise: mostly it writes the backbone first.
_MODELS = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"fcn_d6_(.+)", r"fcn-d6_\1"),
        (r"(.+)_m-v2-d8", r"mobilenet-v2-d8_\1"),
        (r"lraspp_m-v3-d8", "mobilenet-v3-d8_lraspp"),
        (r"lraspp_m-v3s-d8", "mobilenet-v3-d8-s_lraspp"),
        (r"lraspp_m-v3-d8_scratch", "mobilenet-v3-d8-scratch_lraspp"),
        (r"lraspp_m-v3s-d8_scratch", "mobilenet-v3-d8-scratch-s_lraspp"),
        (r"(.+)_s101-d8", r"resnest_s101-d8_\1"),
        (r"(.+)_unet_s5-d16", r"unet-s5-d16_\1"),
        (r"knet_s3_(.+?)_(.+)", r"knet-s3_\2_\1"),
        (r"upernet_((?:vit|deit)-.16)_ln_mln", r"vit_\1-ln_mln_upernet"),
        (r"upernet_((?:vit|deit)-.16(?:_mln)?)", r"vit_\1_upernet"),
        (r"upernet_((?:beit|mae)-.+)", r"\1_upernet"),
        (r"upernet_convnext_(.+)", r"convnext-\1_upernet"),
        (r"setr_(?:vit-large_)?(.+)", r"setr_vit-l_\1"),
        (r"(segmenter_.+)_linear", r"\1_fcn"),
        (r"cgnet", "cgnet_fcn"),
        (r"(bisenet.*|icnet.*)_in1k-pre", r"\1-in1k-pre"),
        (r"(pspnet_r50-d8)_rsb-pretrain", r"\1-rsb"),
        (r"(pspnet_.+)_rsb-pretrain", r"\1_rsb"),
    )
]
# GPUs and batch where the name of 0.x does not say them.
_BATCHES = [
    (re.compile(pattern), batch)
    for pattern, batch in (
        (r"stdc.*", "4x12"),
        (r"cgnet_fcn", "4x4"),
        (r"mobilenet-v3.*", "4x4"),
        (r"segformer.*|dpt.*|convnext.*|vit_.*", "8x2"),
    )
]


def name_in_1x(name: str) -> str | None:
    """The name in mmsegmentation 1.x of a model of 0.x; None if its name is not of the usual form.

    >>> name_in_1x("deeplabv3_r101-d8_fp16_512x1024_80k_cityscapes")
    'deeplabv3_r101-d8_4xb2-amp-80k_cityscapes-512x1024'

    Args:
        name: the name in 0.x, that of the config file without its ending.
    """
    if swin := _SWIN.fullmatch(name):
        side = "" if swin["side"] == "224x224" else f"-{swin['side']}"
        backbone = f"swin-{swin['size']}-{swin['patch']}-{swin['window']}-in{swin['images']}k{side}-pre"
        return f"{backbone}_upernet_8xb2-160k_ade20k-512x512"
    parts = _NAME.fullmatch(name)
    if parts is None:
        return None
    model, options = parts["model"], [option for option in parts["options"].split("_") if option]
    if found := _OPTION.fullmatch(model):
        model = found[1]
        options += [] if found[2] == "lr5e-3" else [found[2]]
    model = next((found.expand(new) for pattern, new in _MODELS if (found := pattern.fullmatch(model))), model)
    data = parts["data"].replace("_", "-")
    batch = parts["batch"] or parts["late_batch"] or _batch(model, data, parts["crop"], parts["total"])
    training = [batch.replace("x", "xb"), *("amp" if option == "fp16" else option for option in options)]
    return f"{model}_{'-'.join([*training, parts['schedule']])}_{data}-{parts['crop']}"


def _batch(model: str, data: str, crop: str, total: str | None) -> str:
    if total is not None:
        return f"8x{int(total) // 8}" if model.startswith("setr") else f"{int(total) // 2}x2"
    if (model, crop) == ("cgnet_fcn", "512x1024"):
        return "4x8"
    usual = "4x2" if data == "cityscapes" else "4x4"
    return next((batch for pattern, batch in _BATCHES if pattern.fullmatch(model)), usual)
