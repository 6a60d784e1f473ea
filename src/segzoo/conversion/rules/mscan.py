"""MSCAN of SegNeXt's authors and of mmsegmentation 1.x, which name one layer differently."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.mscan import MSCANConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options

AUTHORS_DEPTHWISE, MMSEG_DEPTHWISE = "mlp.dwconv.dwconv", "mlp.dwconv"


def _translate(original: Mapping[str, Any], context: Context) -> tuple[MSCANConfig, Iterable[KeyRule]]:
    options = Options(original, context.where)
    options.ignore("init_cfg", "pretrained")
    options.activation(default="GELU", only="GELU")
    options.expect("in_chans", 3)  # whatever it says, the originals' stem reads three channels
    options.expect("in_channels", 3)  # the same in 1.x
    channels = list(options.take("embed_dims", (64, 128, 256, 512)))
    stages = options.take("num_stages", 4)
    lists = {
        "channels": channels,
        "depths": list(options.take("depths", (3, 4, 6, 3))),
        "mlp_ratios": list(options.take("mlp_ratios", (4, 4, 4, 4))),
    }
    if any(len(entries) != stages for entries in lists.values()):
        raise options.error(f"num_stages={stages} differs from the number of entries of a list")
    norm = options.norm(default={"type": "SyncBN"})
    if norm["norm"] is None:
        raise options.error("a network without normalisation (norm_cfg=None) is not supported here")
    config = MSCANConfig(
        **lists,
        **norm,
        kernel_sizes=_kernel_sizes(options),
        dropout=float(options.take("drop_rate", 0.0)),
        drop_path_rate=float(options.take("drop_path_rate", 0.0)),
    )
    options.finish()
    return config, mscan_depthwise_keys(config, mmseg=context.original.is_1x)


def _kernel_sizes(options: Options) -> list[int]:
    """The square's side and the strips' lengths, each padded by its half.

    Raises:
        ConversionError: the kernels or their padding have another form.
    """
    kernels = options.take("attention_kernel_sizes", (5, (1, 7), (1, 11), (1, 21)))
    padding = options.take("attention_kernel_paddings", (2, (0, 3), (0, 5), (0, 10)))
    side, *strips = kernels
    side = side[0] if isinstance(side, (list, tuple)) and len(side) == 1 else side
    sizes = [side, *(strip[1] for strip in strips)]
    if (
        len(sizes) != 4
        or not all(isinstance(size, int) and size % 2 == 1 for size in sizes)
        or [list(strip) for strip in strips] != [[1, size] for size in sizes[1:]]
        or [list(p) if isinstance(p, tuple) else p for p in padding] != [side // 2, *([0, n // 2] for n in sizes[1:])]
    ):
        raise options.error(
            f"attention_kernel_sizes={kernels!r} with attention_kernel_paddings={padding!r} are not supported (only a "
            "square and three strips (1, n), of odd sizes, each padded by its half)"
        )
    return sizes


def mscan_depthwise_keys(config: MSCANConfig, *, mmseg: bool) -> Iterable[KeyRule]:
    """Key rules of the convolution that is named differently; both names are known, and one is written back.

    Args:
        config: the backbone's config.
        mmseg: whether mmsegmentation's name comes first.
    """
    names = [MMSEG_DEPTHWISE, AUTHORS_DEPTHWISE] if mmseg else [AUTHORS_DEPTHWISE, MMSEG_DEPTHWISE]
    for stage in range(config.num_stages):
        for name in names:
            for kind in ("weight", "bias"):
                yield KeyRule(
                    f"block{stage + 1}.{{}}.{name}.{kind}", f"stages.{stage}.blocks.{{}}.mlp.depthwise_conv.{kind}"
                )


def mscan_keys(config: MSCANConfig) -> Iterable[KeyRule]:
    """The other key rules."""
    for stage in range(config.num_stages):
        number, new = stage + 1, f"stages.{stage}"
        old, block = f"block{number}.{{}}", f"{new}.blocks.{{}}"
        if stage:
            yield KeyRule(f"patch_embed{number}.proj.{{}}", f"{new}.embedding.0.conv.{{}}")
            yield KeyRule(f"patch_embed{number}.norm.{{}}", f"{new}.embedding.0.norm.{{}}")
        else:
            for i, place in ((0, "0.conv"), (1, "0.norm"), (3, "1.conv"), (4, "1.norm")):
                yield KeyRule(f"patch_embed1.proj.{i}.{{}}", f"{new}.embedding.{place}.{{}}")
        gate, theirs = f"{block}.attention.gate", f"{old}.attn.spatial_gating_unit"
        yield KeyRule(f"{theirs}.conv0.{{}}", f"{gate}.square.{{}}")
        for i in range(len(config.kernel_sizes) - 1):
            for step in (0, 1):
                yield KeyRule(f"{theirs}.conv{i}_{step + 1}.{{}}", f"{gate}.strips.{i}.{step}.{{}}")
        yield KeyRule(f"{theirs}.conv3.{{}}", f"{gate}.mix.{{}}")
        for i in (1, 2):
            yield KeyRule(f"{old}.attn.proj_{i}.{{}}", f"{block}.attention.proj{i}.{{}}")
            yield KeyRule(f"{old}.norm{i}.{{}}", f"{block}.norm{i}.{{}}")
            yield KeyRule(f"{old}.mlp.fc{i}.{{}}", f"{block}.mlp.fc{i}.{{}}")
            yield KeyRule(f"{old}.layer_scale_{i}", f"{block}.scale{i}")
        yield KeyRule(f"norm{number}.{{}}", f"{new}.norm.{{}}")


register(BackboneRule(types=("MSCAN",), translate=_translate, keys=mscan_keys))
