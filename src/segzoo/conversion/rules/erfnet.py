"""ERFNet of mmsegmentation."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.erfnet import ERFNetConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options

# Places of convolutions and norms in the original's list of a block's layers -> their names here.
_LAYERS = {0: "0.conv", 2: "1.conv", 3: "1.norm", 5: "2.conv", 7: "3.conv", 8: "3.norm"}


def translate(original: Mapping[str, Any], context: Context) -> ERFNetConfig:
    """Translates ``dict(type="ERFNet", enc_downsample_channels=(16, 64, 128), ...)``."""
    options = Options(original, context.where)
    options.ignore("pretrained", "init_cfg")  # initialisation only
    # The original takes these and does not hand them on: its convolutions, norms and activations are always the same.
    options.ignore("conv_cfg", "norm_cfg", "act_cfg")
    channels = list(options.take("enc_downsample_channels", (16, 64, 128)))
    decoder_channels = list(options.take("dec_non_bottleneck_channels", (64, 16)))
    # Of these the original uses the lengths alone.
    for name, widths in (("enc_non_bottleneck_channels", channels[1:]), ("dec_upsample_channels", decoder_channels)):
        if len(options.take(name, widths)) != len(widths):
            raise options.error(f"{name} needs {len(widths)} entries, one for each stage")
    config = ERFNetConfig(
        num_channels=options.take("in_channels", 3),
        channels=channels,
        blocks=list(options.take("enc_stage_non_bottlenecks", (5, 8))),
        dilations=list(options.take("enc_non_bottleneck_dilations", (2, 4, 8, 16))),
        decoder_channels=decoder_channels,
        decoder_blocks=list(options.take("dec_stages_non_bottleneck", (2, 2))),
        dropout=options.take("dropout_ratio", 0.1),
    )
    if config.blocks[-1] % len(config.dilations):
        raise options.error(
            f"enc_stage_non_bottlenecks={config.blocks} must end in a multiple of the {len(config.dilations)} "
            "enc_non_bottleneck_dilations"
        )
    options.finish()
    return config


def keys(config: ERFNetConfig) -> Iterable[KeyRule]:
    """The key rules: the original's encoder and decoder are lists of all blocks."""
    yield from _rescaling("encoder.0", "stem")
    encoder, decoder = 1, 0
    for stage, blocks in enumerate((*config.blocks, *config.decoder_blocks)):
        if stage < len(config.blocks):
            names = [f"encoder.{encoder + i}" for i in range(blocks + 1)]
            encoder += blocks + 1
        else:
            names = [f"decoder.{decoder + i}" for i in range(blocks + 1)]
            decoder += blocks + 1
        yield from _rescaling(names[0], f"stages.{stage}.0")
        for block, name in enumerate(names[1:], start=1):
            for place, layer in _LAYERS.items():
                yield KeyRule(f"{name}.convs_layers.{place}.{{}}", f"stages.{stage}.{block}.convs.{layer}.{{}}")


def _rescaling(original: str, native: str) -> Iterable[KeyRule]:
    yield KeyRule(f"{original}.conv.{{}}", f"{native}.conv.{{}}")
    yield KeyRule(f"{original}.bn.{{}}", f"{native}.norm.{{}}")


ERFNET = register(BackboneRule(types=("ERFNet",), translate=translate, keys=keys))
