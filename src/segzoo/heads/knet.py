"""K-Net's head: another head's classifier gives one kernel a class, which rounds of attention fit to the picture.

From "K-Net: Towards Unified Image Segmentation" (Zhang et al., 2021), https://arxiv.org/abs/2106.14855, as
mmsegmentation's ``IterativeDecodeHead`` and ``KernelUpdateHead`` train it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import HEADS, AutoHead, Registration, register_head
from segzoo.base import MAX_LAYERS, strict
from segzoo.errors import SegZooError
from segzoo.heads.base import Head, HeadConfig, HeadOutput
from segzoo.layers import Float32LayerNorm, Float32Linear, in_float32, to_tokens, without_autocast
from segzoo.layers.conv import Conv2d
from segzoo.layers.initial import reset_as_torch
from segzoo.layers.masked_attention import Attention
from segzoo.layers.pixel_decoder import FeedForward

# A power of two: beside weights times this, a bias that is added and taken away again costs half precision no digits.
_UNIT = 256

_SHARED = {field.name for field in fields(HeadConfig)} - {field.name for field in fields(PreTrainedConfig)}


@strict
class KNetHeadConfig(HeadConfig):
    """Options of ``KNetHead``, besides those of ``HeadConfig``.

    Args:
        in_index: positions of the maps to read; None is the default of the generator.
        channels: width of the features and of the kernels, a multiple of ``num_heads`` and ``update_channels``.
        generator: ``model_type`` and own options of the head that makes the features, such as
            ``{"model_type": "segzoo_fcn_head", "num_convs": 2}``; of those that every head has it takes this config's.
        num_stages: how often the kernels are updated.
        update_channels: width of the parts into which an update cuts a kernel.
        num_heads: heads of the attention between kernels.
        feed_forward_channels: inner width of the feed-forward nets after the attention; None for none.
        num_mask_layers: number of layers between a kernel and the one that is convolved with the features.
        transform_features: whether each stage projects the features first.
        update_dropout: probability of dropping attention weights and values of the feed-forward nets, while training.

    Raises:
        SegZooError: the generator is no head that makes features of maps alone, or has options of every head; or the
            widths do not divide.
    """

    model_type = "segzoo_knet_head"

    channels: int = 512
    generator: dict | None = None
    num_stages: int = 3
    update_channels: int = 256
    num_heads: int = 8
    feed_forward_channels: int | None = 2048
    num_mask_layers: int = 1
    transform_features: bool = True
    update_dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        self.generator = {"model_type": "segzoo_uper_head"} if self.generator is None else dict(self.generator)
        if self.in_index is None:
            self.in_index = self._generator_kind.config.in_index
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """The generator can be built, the widths divide, and there are no more layers than any model has."""
        super().check()
        _ = self.generator_config
        for name in ("num_heads", "update_channels"):
            if self.channels % getattr(self, name):
                raise SegZooError(
                    f"KNetHeadConfig: channels={self.channels} must be a multiple of {name}={getattr(self, name)}"
                )
        if not 0.0 <= self.update_dropout < 1.0:
            raise SegZooError(f"KNetHeadConfig: update_dropout={self.update_dropout} is no probability below 1")
        if self.num_stages * self.num_mask_layers > MAX_LAYERS:
            raise SegZooError(
                f"KNetHeadConfig: {self.num_stages} stages of num_mask_layers={self.num_mask_layers} are more than "
                f"{MAX_LAYERS} layers, and no model has as many"
            )

    @property
    def _generator_kind(self) -> Registration:
        """The generator's classes."""
        name = self.generator.get("model_type")
        kind = HEADS.get(name) if isinstance(name, str) else None
        if kind is None or kind.model.forward is not Head.forward:
            plain = sorted(name for name, head in HEADS.items() if head.model.forward is Head.forward)
            raise SegZooError(
                f"KNetHeadConfig: generator has the model_type {name!r:.60}; give one of a head that makes features of maps "
                f"alone: {', '.join(plain)}"
            )
        return kind

    @property
    def generator_config(self) -> HeadConfig:
        """The config of the head that makes the features, with this one's options of every head.

        Raises:
            SegZooError: ``generator`` has such an option itself, or one that does not fit.
        """
        kind = self._generator_kind
        if twice := sorted(_SHARED & self.generator.keys()):
            raise SegZooError(
                f"KNetHeadConfig: generator has {', '.join(twice)}, which every head has; give it to KNetHeadConfig itself"
            )
        own = {name: value for name, value in self.generator.items() if name != "model_type"}
        shared = {name: getattr(self, name) for name in _SHARED - {"losses", "own_outputs"}}
        return kind.config(**shared, **own)

    @classmethod
    def of(cls, generator: HeadConfig, **options: Any) -> Self:
        """The config around a generator's, from which it takes what every head has, the number of classes included.

        Args:
            generator: config of a head that makes features of maps alone.
            options: further options.
        """
        own = {field.name for field in fields(generator)} - {field.name for field in fields(HeadConfig)}
        kept = {name: getattr(generator, name) for name in own}
        shared = {name: getattr(generator, name) for name in _SHARED}
        kept["model_type"] = generator.model_type
        return cls(generator=kept, **shared, num_labels=generator.num_labels, **options)

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            in_channels=[32],
            in_index=[2],
            channels=16,
            generator={"model_type": "segzoo_fcn_head", "num_convs": 1, "concat_input": False},
            num_stages=2,
            update_channels=8,
            num_heads=2,
            feed_forward_channels=32,
            num_labels=5,
        )


@dataclass
class KNetHeadOutput(HeadOutput):
    """Output of ``KNetHead``.

    Args:
        stage_logits: scores of the classifier and of every stage but the last, each (batch, num_labels, height /
            stride, width / stride); ``compute_loss`` reads them.
    """

    stage_logits: tuple[torch.FloatTensor, ...] | None = None


class KernelUpdator(nn.Module):
    """Mixes what was gathered for each kernel with the kernel itself, by two gates; ``channels`` of it at a time.

    The sums over a picture's pixels exceed float16, so that everything before their norms is computed in float32.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.gathered = Float32Linear(channels, 2 * channels)
        self.kernel = nn.Linear(channels, 2 * channels)
        self.gathered_gate, self.kernel_gate = (Float32Linear(channels, channels) for _ in range(2))
        self.gathered_gate_norm, self.kernel_gate_norm = (Float32LayerNorm(channels) for _ in range(2))
        self.gathered_norm = Float32LayerNorm(channels)
        self.kernel_norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, channels)
        self.output_norm = nn.LayerNorm(channels)

    def forward(self, gathered: Tensor, kernels: Tensor) -> Tensor:
        """``gathered`` and ``kernels`` (B, classes, C) -> the next kernels, (B, classes, C)."""
        parts = (kernels.shape[0], -1, self.channels)
        gathered_in, gathered_out = self.gathered(gathered.reshape(parts)).chunk(2, dim=-1)
        kernel_in, kernel_out = self.kernel(kernels.reshape(parts)).chunk(2, dim=-1)
        both = kernel_in * gathered_in
        x = self.gathered_gate_norm(self.gathered_gate(both)).sigmoid() * self.gathered_norm(gathered_out)
        x = x + self.kernel_gate_norm(self.kernel_gate(both)).sigmoid() * self.kernel_norm(kernel_out)
        return self.output_norm(self.output(x.to(kernels.dtype))).relu().view_as(kernels)


class KernelUpdate(GradientCheckpointingLayer):
    """One stage: fits the kernels to what their masks show, lets them attend to each other, and draws new masks."""

    def __init__(self, config: KNetHeadConfig):
        super().__init__()
        width, dropout = config.channels, config.update_dropout
        self.transform = Conv2d(width, width, kernel_size=1) if config.transform_features else nn.Identity()
        self.updator = KernelUpdator(config.update_channels)
        self.attention = Attention(width, config.num_heads, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward: nn.Module = nn.Identity()
        if config.feed_forward_channels is not None:
            feed_forward = FeedForward(width, config.feed_forward_channels, dropout)
            self.feed_forward = nn.Sequential(feed_forward, nn.LayerNorm(width))
        mask_layers: list[nn.Module] = []
        for _ in range(config.num_mask_layers):
            mask_layers += [nn.Linear(width, width, bias=False), nn.LayerNorm(width), nn.ReLU(inplace=True)]
        self.mask_layers = nn.Sequential(*mask_layers, nn.Linear(width, width))

    def forward(self, features: Tensor, kernels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """The next masks and kernels.

        Args:
            features: the generator's, (B, C, H, W).
            kernels: (B, classes, C).
            masks: logits (B, classes, H, W).
        """
        features = self.transform(features)
        shares, pixels = in_float32(masks.flatten(2), to_tokens(features))
        with without_autocast(features.device):
            gathered = shares.softmax(dim=1) @ pixels  # each pixel counts once, shared by the classes
        kernels = self.updator(gathered, kernels)
        kernels = self.attention_norm(kernels + self.attention(kernels, kernels, kernels))
        kernels = self.feed_forward(kernels)
        masks = self.mask_layers(kernels) @ features.flatten(2)
        return masks.unflatten(2, features.shape[-2:]), kernels

    def reset(self) -> None:
        """Initialise the weights as the original does."""
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                reset_as_torch(module)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)
        for linear in (self.attention.in_proj, self.attention.out_proj):
            init.zeros_(linear.bias)


class KNetHead(Head):
    """Classifies the features of another head, and improves kernels and masks of the classes stage by stage.

    The kernels begin as the classifier's, one a class, and the masks as its logits. Every stage gathers the features
    under each mask, updates the kernels with them, and convolves the features with the new ones, which gives the next
    masks; the last stage's are the logits of the head. Labels train all of them.
    """

    config: KNetHeadConfig

    def __init__(self, config: KNetHeadConfig):
        super().__init__(config)
        self.generator = AutoHead.from_config(config.generator_config)
        self.generator.classifier = None  # this head's own is in its place
        self.stages = nn.ModuleList(KernelUpdate(config) for _ in range(config.num_stages))
        self.post_init()

    def select(self, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps that the generator reads, as `Head.select` gives them."""
        super().select(feature_maps)  # whose errors name this head
        return self.generator.select(feature_maps)

    def forward(self, feature_maps: Sequence[Tensor], previous: HeadOutput | None = None) -> KNetHeadOutput:
        """As `Head.forward`; the output has the logits before the last stage's too."""
        features = self.generator.features(*self.select(feature_maps))
        logits = self.classifier(self.dropout(features))
        kernels, stage_logits = self.kernels(features).expand(features.shape[0], -1, -1), [logits]
        for stage in self.stages:
            logits, kernels = stage(features, kernels, stage_logits[-1])
            stage_logits.append(logits)
        *earlier, last = stage_logits
        return KNetHeadOutput(logits=last, stage_logits=tuple(earlier))

    def kernels(self, features: Tensor) -> Tensor:
        """The classifier's kernels (classes, channels), in the type and on the device of its input.

        They are what the classifier makes of unit vectors, less what it makes of nothing: its weight is read in its own
        forward alone, wherever it lies, and an adapter's part belongs to it.
        """
        width = self.config.channels
        units = _UNIT * torch.eye(width, dtype=features.dtype, device=features.device)
        columns = torch.cat([units, units.new_zeros(width, 1)], dim=1)[None, :, :, None]
        found = self.classifier(columns)[0, :, :, 0]
        return (found[:, :-1] - found[:, -1:]) / _UNIT

    def compute_loss(self, output: KNetHeadOutput, labels: Tensor, ignore_index: int) -> dict[str, Tensor]:
        """The weighted losses of the head, by name; those of logits before the last stage's begin with ``stage_0.`` etc.

        Args:
            output: what ``forward`` returned.
            labels: class ids (B, H, W), int64, at any resolution.
            ignore_index: id of the pixels that do not count.
        """
        parts = super().compute_loss(output, labels, ignore_index)
        for i, logits in enumerate(output.stage_logits or () if parts else ()):
            found = super().compute_loss(HeadOutput(logits=logits), labels, ignore_index)
            parts |= {f"stage_{i}.{name}": value for name, value in found.items()}
        return parts

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, KernelUpdate):  # which comes after its layers
            module.reset()
        else:
            super()._init_weights(module)


register_head(KNetHeadConfig, KNetHead)
