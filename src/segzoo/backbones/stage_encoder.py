"""Encoders of transformers that give one map a stage and that transformers has no backbone for, as backbones.

SegFormer's MiT, "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers" (Xie et al.,
2021), https://arxiv.org/abs/2105.15203, and PoolFormer, "MetaFormer is Actually What You Need for Vision" (Yu et al.,
2021), https://arxiv.org/abs/2111.11418.
"""

from typing import Any, Self

from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, SegformerConfig

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import check_depth, nested_dict, strict
from segzoo.compat import SubConfigSpec
from segzoo.errors import SegZooError

# ``model_type`` of the encoders, whose hidden states are the maps of their stages.
ENCODERS = ("segformer", "poolformer")


@strict
class StageEncoderConfig(BackboneConfig):
    """Options of ``StageEncoderBackbone``.

    Args:
        encoder_config: config of the encoder, or its dict; its type is one of `ENCODERS`. None: SegFormer's MiT-B0.

    Raises:
        SegZooError: the encoder is of another type, or takes other channels.
    """

    model_type = "segzoo_stage_encoder"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="segformer")}

    encoder_config: PreTrainedConfig | dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder_config, dict):  # which need not repeat the channels
            self.encoder_config = {"num_channels": self.num_channels, **self.encoder_config}
        super().__post_init__(**kwargs)

    @property
    def stage_names(self) -> list[str]:
        return [f"stage{i}" for i in range(1, len(self.encoder_config.hidden_sizes) + 1)]

    def check(self) -> None:
        """The encoder is of a known type, is not deeper than any model, and takes the same channels."""
        super().check()
        if self.encoder_config.model_type not in ENCODERS:
            raise SegZooError(
                f"encoder_config is of the type {self.encoder_config.model_type}; give one of {', '.join(ENCODERS)}"
            )
        check_depth(self.encoder_config)
        if self.encoder_config.num_channels != self.num_channels:
            raise SegZooError(
                f"num_channels={self.num_channels}, but the encoder's is {self.encoder_config.num_channels}; give both the same"
            )

    def to_dict(self) -> dict[str, Any]:
        """The config as a dict ready for JSON, the encoder's without what equals transformers' defaults."""
        output = super().to_dict()
        if isinstance(self.encoder_config, PreTrainedConfig):
            output["encoder_config"] = nested_dict(self.encoder_config)
        return output

    @classmethod
    def of(cls, encoder_config: PreTrainedConfig) -> Self:
        """The config around an encoder's."""
        return cls(encoder_config=encoder_config, num_channels=encoder_config.num_channels)

    @classmethod
    def tiny(cls) -> Self:
        return cls.of(
            SegformerConfig(
                depths=[1, 1, 1, 1],
                hidden_sizes=[8, 8, 16, 16],
                num_attention_heads=[1, 1, 2, 2],
                mlp_ratios=[2, 2, 2, 2],
            )
        )


class StageEncoderBackbone(Backbone):
    """Returns the maps of the stages that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W); the first map has stride 4, and each further one twice that of the one
    before it.
    """

    config: StageEncoderConfig

    def __init__(self, config: StageEncoderConfig):
        super().__init__(config)
        config.encoder_config.num_channels = config.num_channels
        self.encoder = AutoModel.from_config(config.encoder_config)
        self.num_features = list(config.encoder_config.hidden_sizes)
        self.post_init()

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return self.encoder(pixel_values, output_hidden_states=True).hidden_states


register_backbone(StageEncoderConfig, StageEncoderBackbone)
