"""DDRNet and DDRHead of mmsegmentation 1.x, and what its PIDNet shares with them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from segzoo.backbones.ddrnet import DDRNetConfig
from segzoo.conversion.keys import BackboneRule, Context, HeadRule, KeyRule, register
from segzoo.conversion.losses import DEFAULT_LOSS, translate_losses
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import conv_module, head_keys, head_options
from segzoo.heads.ddr import DDRHeadConfig

EPS = 1e-5  # of the norms that the original builds without its norm_cfg


def shared_options(options: Options) -> dict[str, Any]:
    """Takes what both backbones have: width, norms, activation and corners.

    Raises:
        ConversionError: some norms would have another epsilon than the others, or the activation is no ReLU.
    """
    options.ignore("init_cfg")
    options.activation(only="ReLU")
    norm = options.batch_norm()
    if (eps := norm.pop("norm_eps")) != EPS:
        raise options.error(f"batch norms with eps={eps!r} are not supported (only {EPS})")
    return {
        **norm,
        "num_channels": options.take("in_channels", 3),
        "align_corners": bool(options.take("align_corners", False)),
    }


def residual_keys(original: str, native: str, *, numbered: bool) -> Iterable[KeyRule]:
    """Key rules of residual blocks.

    Args:
        original, native: names of the blocks, in which ``{}`` stands for whole segments.
        numbered: the shortcut's layers have numbers in the original (DDRNet), and not names (PIDNet).
    """
    for layer in ("conv1", "conv2", "conv3"):
        yield from conv_module(f"{original}.{layer}", f"{native}.{layer}")
    if numbered:
        yield KeyRule(f"{original}.downsample.0.{{}}", f"{native}.shortcut.conv.{{}}")
        yield KeyRule(f"{original}.downsample.1.{{}}", f"{native}.shortcut.norm.{{}}")
    else:
        yield from conv_module(f"{original}.downsample", f"{native}.shortcut")


def stem_keys(*, numbered: bool) -> Iterable[KeyRule]:
    """Key rules of the stem, whose layers have the same numbers; ``numbered`` as in `residual_keys`."""
    for layer in (0, 1):
        yield from conv_module(f"stem.{layer}")
    for stage in (2, 4):
        yield from residual_keys(f"stem.{stage}.{{}}", f"stem.{stage}.{{}}", numbered=numbered)


def pooling_keys() -> Iterable[KeyRule]:
    """Key rules of the pyramid pooling: in a cascade the fusions are numbered, and in parallel there is one."""
    yield from conv_module("spp.scales.0", "pooling.scales.0")
    for i in range(1, 5):
        yield from conv_module(f"spp.scales.{i}.1", f"pooling.scales.{i}")
    for name in ("compression", "shortcut"):
        yield from conv_module(f"spp.{name}", f"pooling.{name}")


def _translate(original: Mapping[str, Any], context: Context) -> DDRNetConfig:
    options = Options(original, context.where)
    config = DDRNetConfig(
        channels=options.take("channels", 32),
        pooling_channels=options.take("ppm_channels", 128),
        **shared_options(options),
    )
    options.finish()
    return config


def _keys() -> Iterable[KeyRule]:
    yield from stem_keys(numbered=True)
    for theirs, ours in (("context", "context"), ("spatial", "details")):
        yield from residual_keys(f"{theirs}_branch_layers.{{}}", f"{ours}.{{}}", numbered=True)
    for i in (0, 1):
        yield from conv_module(f"compression_{i + 1}", f"up.{i}")
    yield from conv_module("down_1", "down.0.0")
    yield from conv_module("down_2.{}", "down.1.{}")
    yield from pooling_keys()
    yield from conv_module("spp.processes.{}", "pooling.fusions.{}")


def side_branch_options(
    original: Mapping[str, Any], context: Context, config: type[DDRHeadConfig], losses: Any, classifier: str
) -> tuple[dict[str, Any], tuple[KeyRule, ...]]:
    """As `head_options`, of a head that reads one map in inference and others beside it in training.

    Args:
        original: the head's dict.
        context: the context at its place.
        config: class of our config.
        losses: the losses of the model's logits, in the original's form.
        classifier: the original's name of the details' classifier.
    """
    own = Options(original, context.where)
    own.ignore("in_index")  # which the class does not read
    own.expect("input_transform", None)
    channels = own.take("in_channels")
    if type(channels) is not int:
        raise own.error(f"in_channels={channels!r} must be an integer")
    maps = [channels // 2] * (config.num_maps - 1) + [channels]
    left = {name: value for name, value in original.items() if name not in ("in_index", "input_transform")}
    options = Options(
        {**left, "in_channels": maps, "in_index": list(range(config.num_maps)), "loss_decode": losses}, context.where
    )
    fields, first_keys = head_options(options, context, config)
    options.finish()
    details = tuple(
        replace(rule, original=rule.original.replace("conv_seg", classifier), native=f"detail_{rule.native}")
        for rule in first_keys
    )
    return fields, first_keys + details


def losses_of_branches(original: Mapping[str, Any], context: Context, count: int) -> Sequence[Any] | None:
    """The ``count`` losses of ``loss_decode``, one for each branch; None, with a note, where there are others."""
    losses = original.get("loss_decode", DEFAULT_LOSS)
    if isinstance(losses, (list, tuple)) and len(losses) == count:
        return losses
    context.note(
        context.where,
        f"loss_decode is not a list of {count}, with which the original trains; the converted model trains with those of the "
        "published ones",
    )
    return None


def branch_keys(original: Sequence[str], native: str) -> tuple[KeyRule, ...]:
    """Key rules of a branch, whose block (normalise, activate, convolve) and last norm have these names."""
    block, norm = original
    return (
        KeyRule(f"{block}.conv.{{}}", f"{native}.block.conv.{{}}"),
        KeyRule(f"{block}.bn.{{}}", f"{native}.norm.{{}}"),
        KeyRule(f"{norm}.{{}}", f"{native}.block.norm.{{}}"),
    )


def _translate_head(original: Mapping[str, Any], context: Context) -> tuple[DDRHeadConfig, tuple[KeyRule, ...]]:
    losses = losses_of_branches(original, context, 2)
    main = losses[0] if losses else DEFAULT_LOSS
    fields, keys = side_branch_options(original, context, DDRHeadConfig, main, "aux_cls_seg")
    if losses is None:
        del fields["losses"]
    else:
        fields["detail_losses"] = translate_losses(losses[1], None, context, one_channel=bool(keys))
    return DDRHeadConfig(**fields), keys


def _head_keys(config: DDRHeadConfig) -> tuple[KeyRule, ...]:
    own = (
        *branch_keys(("head.0", "head.1"), "branch"),
        *branch_keys(("aux_head.0", "aux_head.1"), "detail_branch"),
        KeyRule("aux_cls_seg.{}", "detail_classifier.{}"),
    )
    return head_keys(own, config)


DDRNET = register(BackboneRule(types=("DDRNet",), translate=_translate, keys=tuple(_keys())))
DDR_HEAD = register(HeadRule(types=("DDRHead",), translate=_translate_head, keys=_head_keys))
