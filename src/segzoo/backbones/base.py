"""What all backbones share: they turn an image into named maps."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin, filter_output_hidden_states
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple

from segzoo.base import Ints, SegZooPreTrainedModel, SegZooSubConfig, first_convolution, strict
from segzoo.compat import is_exporting
from segzoo.errors import SegZooError
from segzoo.layers.initial import reset_by_group


@strict
class BackboneConfig(BackboneConfigMixin, SegZooSubConfig):
    """Base of the configs of backbones.

    Args:
        num_channels: number of channels of the images.
        out_features: names of the maps that are returned, some of ``stage_names`` in their order;
            ``default_out_features`` where neither this nor ``out_indices`` is given.
        out_indices: the same maps as positions in ``stage_names``.
    """

    num_channels: int = 3

    def __post_init__(self, **kwargs: Any) -> None:
        out_features, out_indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        super().__post_init__(**kwargs)
        if out_features is None and out_indices is None:
            out_features = self.default_out_features
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)

    @property
    def stage_names(self) -> list[str]:
        """Names of all maps: ``"stem"``, then ``"stage1"``, ``"stage2"`` and so on, unless a family overrides this.

        There may be any number of maps, of any resolutions and in any order. A map of one pixel that holds a class
        token is called ``"token1"``, ``"token2"``, ...
        """
        return ["stem", *(f"stage{i}" for i in range(1, self.num_stages + 1))]

    @property
    def num_stages(self) -> int:
        """Number of stages after the stem; 4 unless a family overrides this."""
        return 4

    @property
    def size_multiple(self) -> int:
        """What both sides of the images must be multiples of, in pixels; 1 unless a family overrides this."""
        return 1

    @property
    def default_out_features(self) -> list[str]:
        """Names of the maps that are returned unless a user chooses: all but the stem and class tokens."""
        return [name for name in self.stage_names if name != "stem" and not is_token(name)]


@strict
class PatchPyramidConfig(BackboneConfig):
    """Base of the configs of families whose every stage begins with patches: there is no stem.

    The fields of a family's stages are lists with one entry for each stage, ``channels`` the widths of the stages.

    Raises:
        SegZooError: lists differ in length.
    """

    family: ClassVar[str]
    """The family's name in messages."""
    per_stage: ClassVar[tuple[str, ...]] = ("depths", "mlp_ratios")
    """Names of the lists besides ``channels``."""

    channels: Ints = ()

    def check(self) -> None:
        """Every list has an entry for each stage."""
        super().check()
        for name in self.per_stage:
            values = getattr(self, name)
            if values is not None and len(values) != len(self.channels):
                raise SegZooError(
                    f"{self.family}: {name}={values} needs one entry for each stage, as channels={self.channels} has"
                )

    def check_heads(self, num_heads: Ints) -> None:
        """Check that the widths of the stages are multiples of their numbers of heads."""
        if any(width % heads for width, heads in zip(self.channels, num_heads, strict=True)):
            raise SegZooError(f"{self.family}: channels={self.channels} do not divide into num_heads={num_heads}")

    @property
    def num_stages(self) -> int:
        return len(self.channels)

    @property
    def stage_names(self) -> list[str]:
        """``"stage1"``, ``"stage2"`` and so on."""
        return super().stage_names[1:]


def is_token(name: str) -> bool:
    """Whether the map of this name holds a class token, and so is one pixel large."""
    return name.startswith("token")


def evenly_spaced_layers(layers: int) -> list[int]:
    """The blocks of a plain ViT that are read unless a user chooses, counted from 1: the last of each quarter, or of
    fewer than four blocks the last one alone.
    """
    return [layers * i // 4 for i in (1, 2, 3, 4)] if layers >= 4 else [layers]


class Backbone(BackboneMixin, SegZooPreTrainedModel):
    """Base of the backbones.

    A backbone writes its constructor and `features`. The constructor sets ``num_features``, the channels of the maps
    in the order of ``config.stage_names``, and ends with ``post_init()``.
    """

    config: BackboneConfig
    base_model_prefix = "backbone"
    has_attentions = False
    heads_in_float32: ClassVar[bool] = False
    """Whether a model with this backbone that is loaded in half precision keeps its heads in float32."""

    def get_input_embeddings(self) -> nn.Module | None:
        """The layer that reads the images."""
        return first_convolution(self)

    def features(self, pixel_values: Tensor) -> Sequence[Tensor]:
        """All maps (B, C, height, width) of images (B, num_channels, H, W), in the order of ``stage_names``."""
        raise NotImplementedError(f"{type(self).__name__} has no `features`")

    def fit_images(self, size: tuple[int, int]) -> None:
        """Fit the backbone of a new model to its training crops, of (height, width) in pixels.

        Does nothing unless a family has weights for one image size, which its original resizes on loading.
        """

    def finish(self, feature_map: Tensor, name: str) -> Tensor:
        """The last step of the map ``name``, one of ``out_features``; does nothing unless a family has last norms."""
        return feature_map

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs: Any) -> BackboneOutput:
        """The maps that ``config.out_features`` names.

        Args:
            pixel_values: normalised images (B, num_channels, H, W).
            output_hidden_states: return all maps as well, in the order of ``config.stage_names``, as
                ``hidden_states``.
            kwargs: ``return_dict=False`` returns a tuple; ``output_attentions`` has no effect but on plain ViTs
                (ViT, BEiT, InternViT, UniPerceiver).

        Raises:
            SegZooError: a side of the images is no multiple of ``config.size_multiple``.
        """
        self._check_size(pixel_values)
        states = tuple(self.features(pixel_values))
        maps = [
            self.finish(x, name) for name, x in zip(self.stage_names, states, strict=True) if name in self.out_features
        ]
        return BackboneOutput(feature_maps=tuple(maps), hidden_states=states)

    def _check_size(self, pixel_values: Tensor) -> None:
        multiple = self.config.size_multiple
        if multiple == 1 or is_exporting():  # an exported graph would be tied to the sizes that it was traced with
            return
        height, width = pixel_values.shape[-2:]
        if height % multiple or width % multiple:
            usable = " x ".join(str(-(-side // multiple) * multiple) for side in (height, width))
            raise SegZooError(
                f"{type(self).__name__}: images of {height} x {width} pixels (height x width) cannot be used, because both "
                f"sides must be multiples of {multiple}; pad or resize them, for example to {usable} (a SegZooImageProcessor "
                f"with size_multiple={multiple} and size_multiple_mode='pad_pass' pads them, and cuts the result)"
            )


class PatchPyramidBackbone(Backbone):
    """Base of backbones that run ``stages`` one after another, each of which begins with patches and has a map as its result.

    Their originals draw convolutions by the outputs of one group.
    """

    config: PatchPyramidConfig
    stages: nn.ModuleList

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        # Tokens are channels-last; of images in this order the first convolution's map is too, and nothing is copied.
        x, maps = pixel_values.contiguous(memory_format=torch.channels_last), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            reset_by_group(module)
        else:
            super()._init_weights(module)
