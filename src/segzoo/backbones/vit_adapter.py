"""ViT-Adapter: a convolutional branch beside a plain vision transformer, and the exchange of features between the two.

"Vision Transformer Adapter for Dense Predictions" (Chen et al., 2023), https://arxiv.org/abs/2205.08534; the numbers
are those of https://github.com/czczup/ViT-Adapter. One adapter serves every ViT that `segzoo.backbones.vit_interface`
knows. Without injectors it only reads from the ViT, as the adapter over a frozen DINOv3 does
(https://arxiv.org/abs/2508.10104).
"""

import os
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones import beit, internvit, vit
from segzoo.backbones.base import Backbone, BackboneConfig, evenly_spaced_layers
from segzoo.backbones.plain_vit import whole_patches
from segzoo.backbones.vit_interface import PlainViT, patch_size_of, plain_vit_of
from segzoo.base import Ints, check_depth, nested_dict, strict
from segzoo.compat import SubConfigSpec
from segzoo.errors import SegZooError, first_line
from segzoo.layers import BatchNorm2d, ConvNormAct, DropPath, PointwiseLinear, resize, to_map, to_tokens
from segzoo.layers.deformable_attention import DeformableAttention, cell_centres
from segzoo.layers.initial import reset_by_group

Size = tuple[int, int]


def _variant(vit_options: dict[str, Any], heads: int, ratio: float, **options: Any) -> dict[str, Any]:
    return {"vit_config": vit_options, "deform_num_heads": heads, "deform_ratio": ratio} | options


_VIT = {"model_type": "segzoo_vit", "class_token": False, "layer_scale": 1.0}
# The published one was trained on crops of 512, with kernels of 14 resized to patches of 16; the rest is not published.
_INTERNVIT = {"model_type": "segzoo_internvit", "image_size": 512, "patch_size": 16}
_BEIT = {"model_type": "segzoo_beit", "image_size": 640, "layer_scale": 1e-6}

# Keyword arguments of ViTAdapterConfig.
VARIANTS = {
    "vit-adapter-t": _variant(vit.VARIANTS["vit-t"] | _VIT, 6, 1.0, drop_path_rate=0.1),
    "vit-adapter-s": _variant(vit.VARIANTS["vit-s"] | _VIT, 6, 1.0, drop_path_rate=0.2),
    "vit-adapter-b": _variant(vit.VARIANTS["vit-b"] | _VIT, 12, 0.5, drop_path_rate=0.3),
    "vit-adapter-l": _variant(vit.VARIANTS["vit-l"] | _VIT | {"image_size": 384}, 16, 0.5, drop_path_rate=0.4),
    "internvit-adapter-6b": _variant(_INTERNVIT, 25, 0.5, drop_path_rate=0.4, injector_scale=0.1),
    "beit-adapter-b": _variant(beit.VARIANTS["beit-b"] | _BEIT, 12, 0.5, drop_path_rate=0.2, injector_scale=1e-6),
    "beit-adapter-l": _variant(beit.VARIANTS["beit-l"] | _BEIT, 16, 0.5, drop_path_rate=0.3, injector_scale=1e-6),
}


@strict
class ViTAdapterConfig(BackboneConfig):
    """Options of ``ViTAdapterBackbone``; the defaults are those of ViT-Adapter-B over a ViT-B/16.

    Args:
        vit_config: config of the plain ViT, or its dict: segzoo's ``ViTConfig``, ``BeitConfig``,
            ``InternViTConfig`` or ``UniPerceiverConfig``, or a ``vit``, ``dinov2``, ``dinov2_with_registers`` or ``dinov3_vit`` of transformers. None: a default ``ViTConfig``.
        freeze_vit: the ViT's weights are not trained, and it stays in evaluation mode, in which gradient checkpointing
            does not reach its blocks.
        interaction_layers: number of the ViT's blocks that have run at the end of each interaction; an empty list gives
            each of four interactions a quarter of them.
        injectors: the ViT reads from the branch before each interaction; False leaves the ViT's features as they are.
        read_normalized: the branch reads the ViT's tokens through the ViT's last norm.
        add_vit_features: the ViT's map after each of four interactions is added to one of the returned maps, resized.
        branch_channels: width of the convolutional branch's stem.
        deform_num_heads: number of heads of the deformable attention.
        deform_num_points: number of points that each head reads from each level.
        deform_ratio: width of what deformable attention reads, relative to the ViT's.
        mlp_ratio: hidden width of the branch's feed-forward parts, relative to the ViT's width; 0 for no such parts.
        extra_extractors: number of further extractors in the last interaction.
        injector_scale: initial value of the learned factor on what injectors add.
        drop_path_rate: probability of dropping the feed-forward parts of the branch, and the residual branches of the
            ViT's last block; None takes the ViT's own.
        norm_eps: epsilon of the adapter's layer norms.

    Raises:
        SegZooError: the ViT is not one of those above, its channels differ, interactions do not fit its blocks, or the
            width does not divide into the heads.
    """

    model_type = "segzoo_vit_adapter"
    sub_configs_defaults = {"vit_config": SubConfigSpec(config_class=AutoConfig, model_type="segzoo_vit")}

    vit_config: PreTrainedConfig | dict | None = None
    freeze_vit: bool = False
    interaction_layers: Ints = ()
    injectors: bool = True
    read_normalized: bool = False
    add_vit_features: bool = True
    branch_channels: int = 64
    deform_num_heads: int = 12
    deform_num_points: int = 4
    deform_ratio: float = 0.5
    mlp_ratio: float = 0.25
    extra_extractors: int = 2
    injector_scale: float = 0.0
    drop_path_rate: float | None = None
    norm_eps: float = 1e-6

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.vit_config, dict):  # which need not repeat the channels
            self.vit_config = {"num_channels": self.num_channels, **self.vit_config}
        self.mlp_ratio = float(self.mlp_ratio)  # a 0 is no count, of which there must be one
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """The ViT is known and takes the same channels, interactions fit its blocks, and heads divide the width."""
        super().check()
        check_depth(self.vit_config)
        plain_vit_of(self.vit_config)
        patch_size_of(self.vit_config)
        if self.vit_config.num_channels != self.num_channels:
            raise SegZooError(
                f"ViT-Adapter: num_channels={self.num_channels}, but the ViT's is {self.vit_config.num_channels}; "
                "give both the same"
            )
        width, layers = self.vit_config.hidden_size, self.vit_config.num_hidden_layers
        ends = self.interactions
        rising = list(ends) == sorted(set(ends)) and ends[0] >= 1 and ends[-1] <= layers
        if not rising or (self.add_vit_features and len(ends) != 4):
            raise SegZooError(
                f"ViT-Adapter: interaction_layers={list(ends)} must be {'four ' if self.add_vit_features else ''}rising "
                f"numbers of the ViT's {layers} blocks"
            )
        if int(width * self.deform_ratio) % self.deform_num_heads:
            raise SegZooError(
                f"ViT-Adapter: {int(width * self.deform_ratio)} channels (hidden_size {width} x deform_ratio "
                f"{self.deform_ratio:g}) do not divide into deform_num_heads={self.deform_num_heads}"
            )

    @property
    def interactions(self) -> list[int]:
        """Number of the ViT's blocks that have run at the end of each interaction."""
        return list(self.interaction_layers) or evenly_spaced_layers(self.vit_config.num_hidden_layers)

    @property
    def rate(self) -> float:
        """The drop path rate: this config's, else the ViT's, else 0."""
        if self.drop_path_rate is not None:
            return self.drop_path_rate
        return float(self.vit_config.to_dict().get("drop_path_rate", 0.0))

    def to_dict(self) -> dict[str, Any]:
        """The config as a dict ready for JSON, the ViT's without what equals transformers' defaults."""
        output = super().to_dict()
        if isinstance(self.vit_config, PreTrainedConfig):
            output["vit_config"] = nested_dict(self.vit_config)
        return output

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            vit_config=beit.BeitConfig.tiny(),
            branch_channels=8,
            deform_num_heads=2,
            deform_num_points=2,
            extra_extractors=1,
            injector_scale=0.1,
            drop_path_rate=0.1,
        )


class SpatialPrior(nn.Module):
    """The convolutional branch: maps of an image at strides 4, 8, 16 and 32, of the ViT's width.

    Args:
        in_channels: channels of the images.
        branch_channels: width of the stem; deeper stages are twice and four times as wide.
        channels: channels of the maps.
    """

    def __init__(self, in_channels: int, branch_channels: int, channels: int):
        super().__init__()
        widths = [branch_channels, 2 * branch_channels, 4 * branch_channels, 4 * branch_channels]
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, branch_channels, 3, stride=2, padding=1),
            ConvNormAct(branch_channels, branch_channels, 3, padding=1),
            ConvNormAct(branch_channels, branch_channels, 3, padding=1),
        )
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stages = nn.ModuleList(
            ConvNormAct(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(len(widths) - 1)
        )
        self.projections = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """Images (B, in_channels, H, W) -> four maps (B, channels, H', W'), from fine to coarse."""
        maps = [self.pool(self.stem(pixel_values))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [project(x) for project, x in zip(self.projections, maps, strict=True)]


class Injector(GradientCheckpointingLayer):
    """Lets the ViT's patch tokens read from the branch's three coarser maps, and adds what they read, scaled.

    ``forward`` takes the patches (B, height * width, C) of ``grid`` (height, width) and the branch's tokens, map after
    map of ``sizes``, (B, sum of height * width, C); it returns patches.
    """

    def __init__(self, config: ViTAdapterConfig, channels: int):
        super().__init__()
        self.initial_scale = config.injector_scale
        self.query_norm = nn.LayerNorm(channels, eps=config.norm_eps)
        self.feature_norm = nn.LayerNorm(channels, eps=config.norm_eps)
        self.attention = DeformableAttention(
            channels, config.deform_num_heads, 3, config.deform_num_points, ratio=config.deform_ratio
        )
        self.scale = nn.Parameter(torch.full((channels,), config.injector_scale))

    def forward(self, patches: Tensor, branch: Tensor, grid: Size, sizes: list[Size]) -> Tensor:
        centres = cell_centres([grid], patches)[None, :, None]
        read = self.attention(self.query_norm(patches), centres, self.feature_norm(branch), sizes)
        return patches + self.scale * read


class BranchFeedForward(nn.Module):
    """Two linear layers with a depthwise convolution, shared by all maps, and GELU between them."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = PointwiseLinear(channels, hidden)
        self.depthwise_conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = nn.GELU()
        self.fc2 = PointwiseLinear(hidden, channels)

    def forward(self, x: Tensor, sizes: list[Size]) -> Tensor:
        parts = self.fc1(x).split([height * width for height, width in sizes], dim=1)
        mixed = [to_tokens(self.depthwise_conv(to_map(part, size))) for part, size in zip(parts, sizes, strict=True)]
        return self.fc2(self.activation(torch.cat(mixed, dim=1)))


class Extractor(GradientCheckpointingLayer):
    """Adds to the branch's tokens what they read from the ViT's patch tokens, then a feed-forward part, if there is one.

    ``forward`` takes tokens as `Injector` does, and returns the branch's.
    """

    def __init__(self, config: ViTAdapterConfig, channels: int):
        super().__init__()
        self.query_norm = nn.LayerNorm(channels, eps=config.norm_eps)
        self.feature_norm = nn.LayerNorm(channels, eps=config.norm_eps)
        self.attention = DeformableAttention(
            channels, config.deform_num_heads, 1, config.deform_num_points, ratio=config.deform_ratio
        )
        if config.mlp_ratio:
            self.mlp_norm = nn.LayerNorm(channels, eps=config.norm_eps)
            self.mlp = BranchFeedForward(channels, int(channels * config.mlp_ratio))
            self.drop_path = DropPath(config.rate)
        else:
            self.mlp = None

    def forward(self, branch: Tensor, patches: Tensor, grid: Size, sizes: list[Size]) -> Tensor:
        centres = cell_centres(sizes, branch)[None, :, None]
        branch = branch + self.attention(self.query_norm(branch), centres, self.feature_norm(patches), [grid])
        return branch if self.mlp is None else branch + self.drop_path(self.mlp(self.mlp_norm(branch), sizes))


class Interaction(nn.Module):
    """What surrounds some blocks of the ViT: an injector before them, if the config has any, and extractors after."""

    def __init__(self, config: ViTAdapterConfig, channels: int, extractors: int):
        super().__init__()
        self.injector = Injector(config, channels) if config.injectors else None
        self.extractors = nn.ModuleList(Extractor(config, channels) for _ in range(extractors))


class ViTAdapterBackbone(Backbone):
    """Returns maps of strides 4, 8, 16 and 32, all of the ViT's width.

    ``pixel_values`` is (B, num_channels, H, W), of any size that the ViT takes: the ViT sees images padded with zeros,
    on the right and at the bottom, to whole patches, or with ``pad=False`` of its config the whole patches alone. ``hidden_states`` are the branch's finest map and the four maps.
    """

    config: ViTAdapterConfig
    _no_split_modules = ["ViTBlock", "Injector", "Extractor"]

    def __init__(self, config: ViTAdapterConfig):
        super().__init__(config)
        vit_config = config.vit_config
        vit_config.num_channels = config.num_channels
        if config.drop_path_rate is not None and "drop_path_rate" in vit_config.to_dict():
            vit_config.drop_path_rate = config.drop_path_rate
        self.vit = self._plain_vit.build(vit_config)
        channels = vit_config.hidden_size
        self.spatial_prior = SpatialPrior(config.num_channels, config.branch_channels, channels)
        self.level_embeddings = nn.Parameter(torch.zeros(3, channels))
        extractors = [1] * (len(config.interactions) - 1) + [1 + config.extra_extractors]
        self.interactions = nn.ModuleList(Interaction(config, channels, n) for n in extractors)
        self.upsample = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        self.norms = nn.ModuleList(BatchNorm2d(channels) for _ in range(4))
        self.num_features = [channels] * 5
        self.post_init()
        self._freeze()

    @property
    def _plain_vit(self) -> PlainViT:
        return plain_vit_of(self.config.vit_config)

    @classmethod
    def from_vit(
        cls,
        name_or_path: str | os.PathLike,
        *,
        vit_options: dict[str, Any] | None = None,
        hub_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> "ViTAdapterBackbone":
        """An adapter with random weights over a trained ViT.

        Args:
            name_or_path: Hub name or local folder of the ViT.
            vit_options: fields of the ViT's config to change. The tables of a segzoo BEiT are resized to a new
                ``image_size``, and so are the position embeddings of an InternViT, and its kernels to a new
                ``patch_size``; a segzoo ViT loses its class token with ``class_token=False`` and gets scales with
                ``layer_scale=1.0``, as in ViT-Adapter.
            hub_options: ``revision``, ``token``, ``cache_dir`` and the like for loading.
            options: further fields of ``ViTAdapterConfig``, such as ``freeze_vit``.

        Raises:
            SegZooError: the ViT cannot be loaded or used, or its weights do not fit the changed options.
        """
        hub_options, vit_options = hub_options or {}, vit_options or {}
        try:
            plain_vit = plain_vit_of(AutoConfig.from_pretrained(name_or_path, **hub_options))
            trained = plain_vit.load(name_or_path, **hub_options)
        except SegZooError:
            raise
        except (OSError, ValueError) as error:
            raise SegZooError(f"cannot load the ViT {name_or_path}: {first_line(error)}") from error
        if "image_size" in vit_options and isinstance(trained, beit.BeitBackbone):
            trained.resize_image(vit_options["image_size"])
        elif isinstance(trained, internvit.InternViTBackbone):
            trained.resize_image(
                vit_options.get("image_size", trained.config.image_size), vit_options.get("patch_size")
            )
        vit_config = type(trained.config)(**(trained.config.to_dict() | vit_options))
        config = ViTAdapterConfig(vit_config=vit_config, num_channels=vit_config.num_channels, **options)
        model = cls(config)
        fresh, state = model.vit.state_dict(), trained.state_dict()
        # A class token may be dropped, and scales may be added.
        spare = {name for name in state.keys() - fresh.keys() if name.endswith("class_token")}
        extra = {name for name in fresh.keys() - state.keys() if name.endswith((".scale1", ".scale2"))}
        wrong = (fresh.keys() ^ state.keys()) - spare - extra
        wrong |= {name for name in fresh.keys() & state.keys() if fresh[name].shape != state[name].shape}
        if wrong:
            raise SegZooError(
                f"{name_or_path}: its weights do not fit vit_options={vit_options} ({len(wrong)} differ, such as {min(wrong)})"
            )
        model.vit.load_state_dict(fresh | {name: value for name, value in state.items() if name in fresh})
        return model

    def _freeze(self) -> None:
        """Exclude from training what the config freezes and what no map depends on."""
        config, plain_vit = self.config, self._plain_vit
        for name, parameter in self.vit.named_parameters():
            depth = plain_vit.depth(name)
            idle = name in plain_vit.idle or (depth or 0) > config.interactions[-1]
            idle |= depth is None and not config.read_normalized
            if idle or config.freeze_vit:
                parameter.requires_grad = False

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; a frozen ViT stays in evaluation mode."""
        super().train(mode)
        self._freeze()  # again, because loading weights makes all parameters trainable
        if self.config.freeze_vit:
            self.vit.eval()
        return self

    @property
    def num_depths(self) -> int:
        """Number of depths for layer-wise learning rates: the ViT's embeddings and its blocks."""
        return 1 + self.config.vit_config.num_hidden_layers

    def parameter_depth(self, name: str) -> int | None:
        """Depth of a parameter: 0 for the ViT's embeddings, 1 for its first block; None for the branch."""
        return self._plain_vit.depth(name.removeprefix("vit.")) if name.startswith("vit.") else None

    def fit_images(self, size: tuple[int, int]) -> None:
        """Fit the ViT to training crops of this (height, width) in pixels."""
        if isinstance(self.vit, Backbone):
            self.vit.fit_images(size)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DeformableAttention):
            module.reset()
        elif isinstance(module, Injector):
            init.constant_(module.scale, module.initial_scale)
        elif isinstance(module, BranchFeedForward):
            reset_by_group(module.depthwise_conv)
        elif isinstance(module, ViTAdapterBackbone):
            init.normal_(module.level_embeddings)

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        stem, *coarser = self.spatial_prior(pixel_values)
        sizes = [(x.shape[2], x.shape[3]) for x in coarser]
        levels = zip(coarser, self.level_embeddings, strict=True)
        branch = torch.cat([to_tokens(x) + embedding for x, embedding in levels], dim=1)
        branch, outputs = self._interact(pixel_values, branch, sizes)
        parts = branch.split([height * width for height, width in sizes], dim=1)
        maps = [to_map(part, size) for part, size in zip(parts, sizes, strict=True)]
        maps.insert(0, self.upsample(maps[0])[..., : stem.shape[2], : stem.shape[3]] + stem)
        if self.config.add_vit_features:
            maps = [x + resize(output, x.shape[-2:]) for x, output in zip(maps, outputs, strict=True)]
        return [stem, *(norm(x) for norm, x in zip(self.norms, maps, strict=True))]

    def _interact(self, pixel_values: Tensor, branch: Tensor, sizes: list[Size]) -> tuple[Tensor, list[Tensor]]:
        """The branch's tokens after all interactions, and the ViT's map after each."""
        config, plain_vit = self.config, self._plain_vit
        patch_size, prefix = patch_size_of(config.vit_config), plain_vit.prefix(config.vit_config)
        if plain_vit.pads(config.vit_config):
            pixel_values = whole_patches(pixel_values, patch_size)
        grid = (pixel_values.shape[2] // patch_size, pixel_values.shape[3] // patch_size)
        blocks, norm = plain_vit.blocks_of(self.vit), plain_vit.norm_of(self.vit)
        trains = torch.is_grad_enabled() and (config.injectors or not config.freeze_vit)
        with torch.set_grad_enabled(trains):
            tokens, options = plain_vit.embed(self.vit, pixel_values)
        start, outputs = 0, []
        for interaction, end in zip(self.interactions, config.interactions, strict=True):
            if interaction.injector is not None:
                patches = interaction.injector(tokens[:, prefix:], branch, grid, sizes)
                tokens = torch.cat([tokens[:, :prefix], patches], dim=1) if prefix else patches
            with torch.set_grad_enabled(trains):
                for block in blocks[start:end]:
                    tokens = block(tokens, **options)
            start = end
            patches = (norm(tokens) if config.read_normalized else tokens)[:, prefix:]
            for extractor in interaction.extractors:
                branch = extractor(branch, patches, grid, sizes)
            outputs.append(to_map(patches, grid))
        return branch, outputs


register_backbone(ViTAdapterConfig, ViTAdapterBackbone, variants=VARIANTS)
