"""ImageNet classifiers of MiT -> backbones: their authors' ``mit_b*.pth``, mmsegmentation's and transformers' copies.

Those of PVT v2 (``pvt_v2_b*.pth``) have the same layers, and other widths inside them; ``b2_li`` attends to averages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from segzoo.backbones.mit import VARIANTS, MiTConfig
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import KeyRule, KeyTable
from segzoo.conversion.pretrained.base import PretrainedBackbone, PretrainedKind, count_entries
from segzoo.conversion.rules.mit import mmseg_mit_keys, original_mit_keys, transformers_mit_keys

_LEFT_OUT = ("head.{}", "classifier.{}")


@dataclass(frozen=True)
class _Spelling:
    """How files of one origin name the weights.

    Args:
        embedding: name of a stage's patch embedding, with the stage's number, from ``first`` on.
        blocks: beginning of the names of a stage's blocks.
        reduction, hidden: names of the convolution of keys and values, and of the first linear layer, in a block.
        attention, depthwise: names of the queries and of the depthwise convolution in a block, by which relatives with
            other blocks are told apart.
        keys: the key rules.
        eps: fields of the config that the file does not tell.
        first: number of the first stage.
    """

    embedding: str
    blocks: str
    reduction: str
    hidden: str
    attention: str
    depthwise: str
    keys: Callable[[MiTConfig], Iterable[KeyRule]]
    eps: Mapping[str, float]
    first: int = 0

    def embeds(self, stage: int) -> str:
        """Name of the kernels of a stage's patches; stages are counted from 0."""
        return self.embedding.format(stage + self.first)

    def prefix(self, stage: int) -> str:
        """Beginning of the names of a stage's blocks."""
        return self.blocks.format(stage + self.first)


_SPELLINGS = (
    _Spelling(
        "patch_embed{}.proj.weight",
        "block{}.",
        "attn.sr.weight",
        "mlp.fc1.weight",
        "attn.q.weight",
        "mlp.dwconv.dwconv.weight",
        original_mit_keys,
        {},
        first=1,
    ),
    _Spelling(
        "layers.{}.0.projection.weight",
        "layers.{}.1.",
        "attn.sr.weight",
        "ffn.layers.0.weight",
        "attn.attn.in_proj_weight",
        "ffn.layers.1.weight",
        mmseg_mit_keys,
        {"norm_eps": 1e-6, "patch_norm_eps": 1e-6},
    ),
    _Spelling(
        "segformer.encoder.patch_embeddings.{}.proj.weight",
        "segformer.encoder.block.{}.",
        "attention.self.sr.weight",
        "mlp.dense1.weight",
        "attention.self.query.weight",
        "mlp.dwconv.dwconv.weight",
        transformers_mit_keys,
        {"norm_eps": 1e-5},
    ),
)


def _spelling(state: Mapping[str, Tensor]) -> _Spelling | None:
    for spelling in _SPELLINGS:
        block = f"{spelling.prefix(0)}0."
        layers = (spelling.hidden, spelling.attention, spelling.depthwise)
        if {spelling.embeds(0), *(block + layer for layer in layers)} <= state.keys():
            return spelling
    return None


def is_mit(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a MiT alone, or of a classifier with one."""
    return _spelling(state) is not None


def translate_mit(state: Mapping[str, Tensor], source: str) -> PretrainedBackbone:
    """Translates a classifier to its backbone.

    Args:
        state: its weights, without the prefixes of wrappers.
        source: name of the file, for messages.

    Raises:
        ConversionError: weights that reveal the shape are missing, or shapes are no MiT's.
    """
    spelling = _spelling(state)
    if spelling is None:
        raise ConversionError(f"{source}: these are no weights of a MiT")
    stages = 0
    while spelling.embeds(stages) in state:
        stages += 1
    kernels = [state[spelling.embeds(stage)] for stage in range(stages)]
    channels = [kernel.shape[0] for kernel in kernels]
    if any(kernel.ndim != 4 or kernel.shape[0] % channels[0] for kernel in kernels):
        raise ConversionError(f"{source}: stages of {channels} channels are no MiT's, whose heads are all as wide")
    blocks = [f"{spelling.prefix(stage)}0." for stage in range(stages)]
    try:
        reductions = [
            state[f"{b}{spelling.reduction}"].shape[-1] if f"{b}{spelling.reduction}" in state else 1 for b in blocks
        ]
        ratios = [state[f"{b}{spelling.hidden}"].shape[0] / width for b, width in zip(blocks, channels, strict=True)]
    except KeyError as error:
        raise ConversionError(f"{source}: the weights do not make a MiT: {error.args[0]} is missing") from error
    # A convolution of one pixel reads averages: nothing would be coarser for it.
    pooled = all(f"{b}{spelling.reduction}" in state for b in blocks) and set(reductions) == {1}
    depths = [count_entries(state, spelling.prefix(stage)) for stage in range(stages)]
    published = {"channels": channels, "depths": depths}
    rate = next(
        (v["drop_path_rate"] for v in VARIANTS.values() if MiTConfig(**v).to_dict().items() >= published.items()), 0.0
    )
    config = MiTConfig(
        num_channels=kernels[0].shape[1],
        num_heads=[width // channels[0] for width in channels],
        patch_sizes=[kernel.shape[-1] for kernel in kernels],
        strides=[4, *[2] * (stages - 1)],
        reductions=reductions,
        pooled_grid=7 if pooled else None,
        mlp_ratios=[int(ratio) if ratio == int(ratio) else ratio for ratio in ratios],
        qkv_bias=any(key.endswith(("attn.q.bias", "in_proj_bias", "self.query.bias")) for key in state),
        drop_path_rate=rate,
        **published,
        **spelling.eps,
    )
    rules = [*(KeyRule(name, None) for name in _LEFT_OUT), *spelling.keys(config)]
    return PretrainedBackbone(config, dict(state), KeyTable(rules))


KIND = PretrainedKind("MiT classifier", is_mit, translate_mit)
