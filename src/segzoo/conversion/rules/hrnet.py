"""HRNet of mmsegmentation; MIT's ``hrnetv2`` has the same keys."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.backbones.hrnet import HRNetConfig
from segzoo.conversion.keys import BackboneRule, Context, KeyRule, register
from segzoo.conversion.options import Options
from segzoo.conversion.rules.common import plain_convolutions, refuse_namesakes


def translate(original: Mapping[str, Any], context: Context) -> HRNetConfig:
    """Translates ``dict(type="HRNet", extra=dict(stage1=..., ...))``."""
    options = Options(original, context.where)
    refuse_namesakes(options, context, "enlarges maps between its branches by nearest neighbours")
    # memory and initialisation only
    options.ignore("pretrained", "init_cfg", "with_cp", "zero_init_residual")
    options.in_training("frozen_stages", -1)
    options.in_training("norm_eval", False)
    options.expect("multiscale_output", True)
    plain_convolutions(options)
    extra = Options(options.take("extra"), f"{context.where}.extra")
    stages = [_stage(extra, number) for number in (1, 2, 3, 4)]
    extra.finish()
    (stem, *branched), width = stages, stages[1]["num_channels"][0]
    for number, stage in enumerate(branched, start=2):
        if stage["num_channels"] != [width * 2**branch for branch in range(number)]:
            raise extra.error(f"stage{number}: num_channels={stage['num_channels']} do not double from {width} on")
    config = HRNetConfig(
        num_channels=options.take("in_channels", 3),
        width=width,
        stem_channels=stem["num_channels"][0],
        stem_blocks=stem["num_blocks"][0],
        modules=[stage["num_modules"] for stage in branched],
        blocks=[stage["num_blocks"][0] for stage in branched],
        **options.batch_norm(),
    )
    if config.stem_channels != 64:
        raise extra.error(f"stage1: num_channels={stem['num_channels']} is not supported (only 64)")
    options.finish()
    return config


def _stage(extra: Options, number: int) -> dict[str, Any]:
    """The numbers of modules, blocks and channels of a stage, checked against its number of branches."""
    options = Options(extra.take(f"stage{number}"), f"{extra.where}.stage{number}")
    options.expect("num_branches", number)
    options.expect("block", "BOTTLENECK" if number == 1 else "BASIC")
    found = {"num_modules": options.take("num_modules")}
    for name in ("num_blocks", "num_channels"):
        found[name] = list(options.take(name))
        if len(found[name]) != number:
            raise options.error(f"{name}={found[name]} needs one entry for each of {number} branches")
    if len(set(found["num_blocks"])) != 1:
        raise options.error(f"num_blocks={found['num_blocks']}: branches of different depths are not supported")
    if number == 1 and found["num_modules"] != 1:
        raise options.error(f"num_modules={found['num_modules']} is not supported here (only 1)")
    options.finish()
    return found


def keys(config: HRNetConfig) -> Iterable[KeyRule]:
    """The key rules: a new branch has a list of convolutions, and every exchange its paths."""
    for i in (1, 2):
        yield from _conv(f"conv{i}", f"bn{i}", f"stem.{i - 1}")
    yield from _block("layer1.{}", "stem_blocks.{}")
    for stage in range(3):
        branches = stage + 2
        for branch in range(branches):
            # the new branch is reached by a list of convolutions
            old = f"transition{stage + 1}.{branch}" + (".0" if branch == branches - 1 else "")
            yield from _conv(f"{old}.0", f"{old}.1", f"stages.{stage}.transitions.{branch}")
        old, new = f"stage{stage + 2}.{{}}", f"stages.{stage}.exchanges.{{}}"
        yield from _block(f"{old}.branches.{{}}.{{}}", f"{new}.branches.{{}}.{{}}")
        for target in range(branches):
            for source in range(branches):
                a, b = f"{old}.fuse_layers.{target}.{source}", f"{new}.exchange.paths.{target}.{source}"
                if source > target:
                    yield from _conv(f"{a}.0", f"{a}.1", b)
                for step in range(target - source):
                    yield from _conv(f"{a}.{step}.0", f"{a}.{step}.1", f"{b}.{step}")


def _conv(conv: str, norm: str, native: str) -> Iterable[KeyRule]:
    yield KeyRule(f"{conv}.{{}}", f"{native}.conv.{{}}")
    yield KeyRule(f"{norm}.{{}}", f"{native}.norm.{{}}")


def _block(original: str, native: str) -> Iterable[KeyRule]:
    for i in (1, 2, 3):
        yield from _conv(f"{original}.conv{i}", f"{original}.bn{i}", f"{native}.conv{i}")
    yield from _conv(f"{original}.downsample.0", f"{original}.downsample.1", f"{native}.shortcut")


HRNET = register(BackboneRule(types=("HRNet",), translate=translate, keys=keys))
