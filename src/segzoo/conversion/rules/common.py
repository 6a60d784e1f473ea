"""What several rule modules share: the keys of mmcv's ConvModule, and the options that all decode heads have."""

from typing import Any

from segzoo.conversion.keys import Context, KeyRule, Options, type_name
from segzoo.conversion.losses import DEFAULT_LOSS, translate_losses

MAX_CLASSES = 65536  # as many as 16-bit label files tell apart


def conv_module(original: str, native: str | None = None) -> tuple[KeyRule, ...]:
    """Rules for a ConvModule with batch norm (``conv``, ``bn``) that is our ConvNormAct (``conv``, ``norm``).

    Args:
        original: name of the module in the original; each ``{}`` stands for an index.
        native: its name here, if it is another one.
    """
    native = original if native is None else native
    return (
        KeyRule(f"{original}.conv.{{}}", f"{native}.conv.{{}}"),
        KeyRule(f"{original}.bn.{{}}", f"{native}.norm.{{}}"),
    )


CLASSIFIER = (KeyRule("conv_seg.{}", "classifier.{}"),)


def plain_convolutions(options: Options) -> None:
    """Accounts for ``conv_cfg``, which must ask for ordinary convolutions."""
    conv_cfg = options.take("conv_cfg", None)
    if conv_cfg is not None and type_name(conv_cfg, f"{options.where}.conv_cfg") not in ("Conv", "Conv2d"):
        raise options.error(f"convolutions {conv_cfg!r} are not supported (only ordinary ones)")


def head_options(options: Options, context: Context, *, several_maps: bool = False) -> dict[str, Any]:
    """Takes the options that every mmsegmentation decode head has, and returns the fields of our HeadConfig.

    Args:
        options: the head's options.
        context: where the head stands, and where notes go.
        several_maps: the head always reads several maps (UPerHead); otherwise one, unless ``input_transform`` says so.

    Raises:
        ConversionError: an option has a value that would change the numbers and is not supported.
    """
    num_classes = options.take("num_classes")
    out_channels = options.take("out_channels", None)
    options.ignore("threshold", "init_cfg", "_scope_")
    if not isinstance(num_classes, int) or not 1 <= num_classes <= MAX_CLASSES:
        raise options.error(f"num_classes={num_classes!r} must be an integer, {MAX_CLASSES} at most")
    if num_classes == 1 or out_channels == 1:
        raise options.error(
            "one output channel for two classes (a sigmoid and a threshold) is not supported; "
            "models need one channel per class"
        )
    if out_channels not in (None, num_classes):
        raise options.error(f"out_channels={out_channels} and num_classes={num_classes} disagree")
    plain_convolutions(options)
    eps = options.norm_eps("norm_cfg", None)
    if eps is None:
        raise options.error("heads without normalisation (norm_cfg=None) are not supported")
    options.expect_relu("act_cfg")

    transform = options.take("input_transform", "multiple_select" if several_maps else None)
    if several_maps and transform != "multiple_select":
        raise options.error(f"input_transform={transform!r} does not fit this head, which reads several maps")
    if not several_maps and transform not in (None, "resize_concat"):
        raise options.error(f"input_transform={transform!r} does not fit this head (only None or 'resize_concat')")
    in_channels, in_index = options.take("in_channels"), options.take("in_index", -1)
    if transform is None:
        if not isinstance(in_channels, int) or not isinstance(in_index, int):
            raise options.error(f"in_channels={in_channels!r} and in_index={in_index!r} must be integers here")
        in_channels, in_index = [in_channels], [in_index]
    elif not isinstance(in_channels, (list, tuple)) or not isinstance(in_index, (list, tuple)):
        raise options.error(f"in_channels={in_channels!r} and in_index={in_index!r} must be lists here")
    if len(in_channels) != len(in_index):
        raise options.error(f"in_channels={in_channels!r} and in_index={in_index!r} differ in length")

    fields = {
        "num_labels": num_classes,
        "in_channels": list(in_channels),
        "in_index": list(in_index),
        "channels": options.take("channels"),
        "dropout": max(float(options.take("dropout_ratio", 0.1)), 0.0),
        "align_corners": bool(options.take("align_corners", False)),
        "norm_eps": eps,
    }
    context.ignore_index.add(options.take("ignore_index", 255))
    fields["losses"] = translate_losses(
        options.take("loss_decode", DEFAULT_LOSS), options.take("sampler", None), context.at(options.where)
    )
    return fields
