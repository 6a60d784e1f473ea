"""What segzoo's plain vision transformers share: one width and one resolution throughout, patches in, tokens out."""

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple

from segzoo.base import SegZooBackboneConfig, SegZooPreTrainedModel
from segzoo.errors import SegZooError
from segzoo.layers import to_map
from segzoo.layers.vit import ViTBlock


@strict
class PlainViTConfig(SegZooBackboneConfig):
    """Options of every plain ViT of segzoo. The returned maps are by default four evenly spaced layers.

    Args:
        hidden_size: width of the tokens.
        num_hidden_layers: number of blocks; ``"stage3"`` in ``out_features`` is the third.
        num_attention_heads: heads.
        mlp_ratio: hidden width of the feed-forward part, relative to ``hidden_size``.
        patch_size: side of the patches, in pixels.
        norm_eps: epsilon of the norms.
        dropout: behind attention and in the feed-forward parts.
        attention_dropout: of the attention weights.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0.
        final_norm: a norm on the returned maps.

    Raises:
        SegZooError: a width that does not divide into the heads.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4.0
    patch_size: int = 16
    norm_eps: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    final_norm: bool = False

    def __post_init__(self, **kwargs):
        if kwargs.get("out_features") is None and kwargs.get("out_indices") is None:
            layers = self.num_hidden_layers
            kwargs["out_indices"] = [layers * i // 4 for i in (1, 2, 3, 4)] if layers >= 4 else [layers]
        super().__post_init__(**kwargs)

    def check(self):
        """Refuse a width that does not divide into the heads."""
        super().check()
        if self.hidden_size % self.num_attention_heads:
            raise SegZooError(
                f"{type(self).__name__}: hidden_size={self.hidden_size} does not divide into "
                f"num_attention_heads={self.num_attention_heads}"
            )

    @property
    def num_stages(self) -> int:
        """Number of blocks."""
        return self.num_hidden_layers


class PlainViTBackbone(BackboneMixin, SegZooPreTrainedModel):
    """Base of segzoo's plain ViTs: subclasses have ``layers`` and ``norm``, and say how an image becomes tokens.

    ``pixel_values`` is (B, num_channels, H, W); the maps are (B, hidden_size, H / patch_size, W / patch_size), rounded up: images
    are filled up with zeros on the right and at the bottom to whole patches.
    """

    config: PlainViTConfig
    base_model_prefix = "backbone"
    has_attentions = False
    _no_split_modules = ["ViTBlock"]

    layers: nn.ModuleList
    norm: nn.Module

    def __init__(self, config: PlainViTConfig):
        super().__init__(config)
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps) if config.final_norm else nn.Identity()
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches."""
        raise NotImplementedError

    def embed(self, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, prefix + patches, hidden_size) that enter the first block, and the (height, width) of the patches.

        The sides of ``pixel_values`` are multiples of the patch size.
        """
        raise NotImplementedError

    @property
    def num_depths(self) -> int:
        """The embeddings and every block."""
        return 1 + self.config.num_hidden_layers

    def parameter_depth(self, name: str) -> int | None:
        """Blocks in their order, behind the embeddings; a final norm learns at the full rate."""
        part, _, rest = name.partition(".")
        if part == "layers":
            return 1 + int(rest.partition(".")[0])
        return None if part == "norm" else 0

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ViTBlock) and module.scale1 is not None:
            init.constant_(module.scale1, module.layer_scale)
            init.constant_(module.scale2, module.layer_scale)

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs) -> BackboneOutput:
        """Feature maps of an image batch (B, num_channels, H, W)."""
        tokens, grid = self.embed(whole_patches(pixel_values, self.config.patch_size))
        hidden_states = [tokens]
        for layer in self.layers:
            hidden_states.append(layer(hidden_states[-1], grid))
        states = [to_map(h[:, self.num_prefix_tokens :], grid) for h in hidden_states]
        maps = [
            to_map(self.norm(h[:, self.num_prefix_tokens :]), grid)
            for name, h in zip(self.stage_names, hidden_states, strict=True)
            if name in self.out_features
        ]
        return BackboneOutput(feature_maps=tuple(maps), hidden_states=tuple(states))


def whole_patches(pixel_values: Tensor, patch_size: int) -> Tensor:
    """Images (B, C, H, W) filled up with zeros, on the right and at the bottom, to multiples of the patch size."""
    height, width = pixel_values.shape[-2:]
    if height % patch_size == 0 and width % patch_size == 0:
        return pixel_values
    return F.pad(pixel_values, (0, -width % patch_size, 0, -height % patch_size))
