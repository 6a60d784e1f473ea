"""Configs of backbones that hold another backbone: its maps are their input, beside the image."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from segzoo.backbones.base import BackboneConfig
from segzoo.base import check_depth, strict
from segzoo.errors import SegZooError


@strict
class WrapperConfig(BackboneConfig):
    """Base of the configs of networks around an encoder, which is a backbone of segzoo.

    A family sets ``sub_configs_defaults``, the encoder's kind where a dict names none, and ``least_maps``.

    Args:
        encoder_config: config of the encoder, or its dict; ``out_features`` of it are the maps that the network reads.

    Raises:
        SegZooError: the encoder is no backbone of segzoo, is deeper than any model, takes other channels than the
            network, or returns too few maps.
    """

    least_maps: ClassVar[int] = 1
    """How many of the encoder's maps the network reads, the last ones."""

    encoder_config: PreTrainedConfig | dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder_config, dict):  # which need not repeat the channels
            self.encoder_config = {"num_channels": self.num_channels, **self.encoder_config}
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """The encoder is a backbone of segzoo, takes the same channels, and returns enough maps."""
        super().check()
        encoder = self.encoder_config
        if not isinstance(encoder, BackboneConfig):
            raise SegZooError(
                f"{type(self).__name__}: encoder_config is a {type(encoder).__name__}; give the config of a backbone of segzoo"
            )
        check_depth(encoder)
        if encoder.num_channels != self.num_channels:
            raise SegZooError(
                f"{type(self).__name__}: num_channels={self.num_channels}, but the encoder's is {encoder.num_channels}; "
                "give both the same"
            )
        if len(encoder.out_features) < self.least_maps:
            raise SegZooError(
                f"{type(self).__name__} reads {self.least_maps} maps of its encoder, which returns {encoder.out_features}; "
                "choose more out_features"
            )

    def to_dict(self) -> dict[str, Any]:
        """The config as a dict ready for JSON, the encoder's without what equals transformers' defaults."""
        output = super().to_dict()
        if isinstance(self.encoder_config, PreTrainedConfig):
            inner = self.encoder_config.to_diff_dict()
            output["encoder_config"] = {
                k: v for k, v in inner.items() if k not in ("transformers_version", "num_labels")
            }
        return output


@strict
class ContextPathConfig(WrapperConfig):
    """Base of the configs of BiSeNet and its like: a context path over the encoder's last three maps, and a fusion.

    Args:
        context_channels: width of the context path.
        fused_channels: width of the map in which details and context are fused.
    """

    least_maps: ClassVar[int] = 3

    context_channels: int = 128
    fused_channels: int = 256
