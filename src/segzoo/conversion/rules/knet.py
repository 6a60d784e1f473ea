"""IterativeDecodeHead of mmsegmentation with its KernelUpdateHeads: K-Net."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.conversion.keys import Context, HeadRule, KeyRule, nested, register
from segzoo.conversion.options import Options, type_name
from segzoo.conversion.rules.common import plain_convolutions
from segzoo.heads.knet import KNetHeadConfig

# Heads whose original makes features before its classifier in a method of its own; subclasses with another forward
# inherit it unchanged, so that their originals run without what they add.
_GENERATORS = ("FCNHead", "PSPHead", "ASPPHead", "UPerHead", "DepthwiseSeparableFCNHead")
_DEFAULT_UPDATOR = {"type": "DynamicConv"}
EPS = 1e-5  # of all layer norms


def translate(original: Mapping[str, Any], context: Context) -> tuple[KNetHeadConfig, tuple[KeyRule, ...]]:
    """Translates ``dict(type="IterativeDecodeHead", kernel_generate_head=..., kernel_update_head=[...])``."""
    options = Options(original, context.where)
    options.ignore("init_cfg")
    inside = context.at(f"{context.where}.kernel_generate_head")
    generator = options.take("kernel_generate_head")
    if (kind := type_name(generator, inside.where, _GENERATORS)) not in _GENERATORS:
        raise options.error(f"kernel_generate_head {kind} is not supported (only {', '.join(_GENERATORS)})")
    config, keys = nested("head", generator, inside, "kernel_generate_head.", "generator.")
    if inside.where in context.one_channel:
        raise options.error(
            "a kernel_generate_head with one output channel is not supported; its masks are 1 everywhere"
        )
    context.ignore_index[context.where] = context.ignore_index.pop(inside.where)
    updates, count = options.take("kernel_update_head"), options.take("num_stages")
    if not isinstance(updates, (list, tuple)) or len(updates) != count or not updates:
        raise options.error(f"kernel_update_head must be a list of num_stages={count!r} dicts, one at least")
    first, *others = (_update(update, f"{context.where}.kernel_update_head[{i}]") for i, update in enumerate(updates))
    if any(other != first for other in others):
        raise options.error("kernel_update_head has stages of different options, which is not supported")
    if first.pop("channels") != config.channels:
        raise options.error(f"kernel_update_head needs in_channels={config.channels}, those of kernel_generate_head")
    options.finish()
    classifier = KeyRule("kernel_generate_head.conv_seg.{}", "classifier.{}")
    return KNetHeadConfig.of(config, num_stages=count, **first), (classifier, *keys)


def _update(original: Any, where: str) -> dict[str, Any]:
    """Fields of our config for a ``dict(type="KernelUpdateHead", ...)``, and ``channels``, the width of its features."""
    if (kind := type_name(original, where, ("KernelUpdateHead",))) != "KernelUpdateHead":
        raise Options(original, where).error(f"{kind} is not supported (only KernelUpdateHead)")
    options = Options(original, where)
    options.ignore("num_classes", "kernel_init", "init_cfg")  # the first is never read
    options.activation(only="ReLU")
    options.activation("ffn_act_cfg", only="ReLU")
    channels = options.take("in_channels", 256)
    if (out_channels := options.take("out_channels", 256)) != channels:
        raise options.error(
            f"out_channels={out_channels!r} must be in_channels={channels!r}, as those of the features"
        )
    hidden, with_ffn = options.take("feedforward_channels", 2048), options.take("with_ffn", True)
    options.expect("num_ffn_fcs", 2)
    # With others the original's kernels do not fit its attention, or its masks the features.
    options.expect("conv_kernel_size", 1)
    options.expect("feat_gather_stride", 1)
    options.expect("mask_transform_stride", 1)
    fields = {
        "channels": channels,
        "num_heads": options.take("num_heads", 8),
        "feed_forward_channels": hidden if with_ffn else None,
        "num_mask_layers": options.take("num_mask_fcs", 3),
        "update_dropout": float(options.take("dropout", 0.0)),
        "transform_features": _transforms(options.take("feat_transform_cfg", None), f"{where}.feat_transform_cfg"),
        "update_channels": _updator(
            options.take("kernel_updator_cfg", _DEFAULT_UPDATOR), f"{where}.kernel_updator_cfg"
        ),
    }
    options.finish()
    return fields


def _transforms(original: Any, where: str) -> bool:
    """Whether the features are projected, by a pointwise convolution alone."""
    if original is None:
        return False
    options = Options(original, where)
    plain_convolutions(options)
    options.ignore("inplace")
    options.expect("kernel_size", 1)
    options.expect("bias", "auto", True)
    if options.take("act_cfg", {"type": "ReLU"}) is not None or options.take("norm_cfg", None) is not None:
        raise options.error(
            "an activation or norm after the projection is not supported (only act_cfg=None, norm_cfg=None)"
        )
    options.finish()
    return True


def _updator(original: Any, where: str) -> int:
    """The width of a ``dict(type="KernelUpdator", ...)``, whose three must be one."""
    options = Options(original, where)
    if (kind := type_name(original, where, ("KernelUpdator",))) != "KernelUpdator":
        raise options.error(f"{kind} is not supported (only KernelUpdator)")
    width = options.take("in_channels", 256)
    inner, out = options.take("feat_channels", 64), options.take("out_channels", None) or width
    if not width == inner == out:
        raise options.error(
            f"in_channels={width!r}, feat_channels={inner!r} and out_channels={out!r} must be the same"
        )
    options.activation(only="ReLU")
    if (eps := options.layer_norm_eps()) != EPS:
        raise options.error(f"layer norms with eps={eps!r} are not supported (only {EPS})")
    options.expect("gate_sigmoid", True)
    options.expect("gate_norm_act", False)
    options.expect("activate_out", False)
    options.finish()
    return width


_UPDATOR = {
    "dynamic_layer": "gathered",
    "input_layer": "kernel",
    "update_gate": "gathered_gate",
    "input_gate": "kernel_gate",
    "norm_in": "gathered_gate_norm",
    "input_norm_in": "kernel_gate_norm",
    "norm_out": "gathered_norm",
    "input_norm_out": "kernel_norm",
    "fc_layer": "output",
    "fc_norm": "output_norm",
}


def keys(config: KNetHeadConfig) -> Iterable[KeyRule]:
    """The key rules of the stages."""
    old, new = "kernel_update_head.{}", "stages.{}"
    for part in ("weight", "bias"):
        yield KeyRule(f"{old}.attention.attn.in_proj_{part}", f"{new}.attention.in_proj.{part}")
    yield KeyRule(f"{old}.attention.attn.out_proj.{{}}", f"{new}.attention.out_proj.{{}}")
    yield KeyRule(f"{old}.attention_norm.{{}}", f"{new}.attention_norm.{{}}")
    for original, native in _UPDATOR.items():
        yield KeyRule(f"{old}.kernel_update_conv.{original}.{{}}", f"{new}.updator.{native}.{{}}")
    yield KeyRule(f"{old}.feat_transform.conv.{{}}", f"{new}.transform.{{}}")
    yield KeyRule(f"{old}.ffn.layers.0.0.{{}}", f"{new}.feed_forward.0.linear1.{{}}")
    yield KeyRule(f"{old}.ffn.layers.1.{{}}", f"{new}.feed_forward.0.linear2.{{}}")
    yield KeyRule(f"{old}.ffn_norm.{{}}", f"{new}.feed_forward.1.{{}}")
    yield KeyRule(f"{old}.fc_mask.{{}}", f"{new}.mask_layers.{3 * config.num_mask_layers}.{{}}")
    yield KeyRule(f"{old}.mask_fcs.{{}}", f"{new}.mask_layers.{{}}")


KNET = register(HeadRule(types=("IterativeDecodeHead",), translate=translate, keys=keys))
