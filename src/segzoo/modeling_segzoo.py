"""The composite model: backbone, neck, decode heads and auxiliary heads as one Hugging Face model."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BackboneOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from segzoo.auto import AutoHead, AutoNeck
from segzoo.backbones import Backbone
from segzoo.base import SegZooPreTrainedModel, first_convolution
from segzoo.cards.model_card import ModelCardFacts, base_model_of, build_model_card, facts_of_model
from segzoo.configuration_segzoo import SegZooConfig
from segzoo.errors import SegZooError
from segzoo.fusing import fuse_blocks
from segzoo.heads import Head, HeadConfig, HeadOutput
from segzoo.hub import WritesHashes, WritesShim
from segzoo.inference.sliding_window import sliding_window_logits
from segzoo.losses import Loss
from segzoo.losses.labels import check_labels


@dataclass
class SegZooOutput(ModelOutput):
    """Output of ``SegZooForSemanticSegmentation``.

    Args:
        loss: sum of ``losses``, when labels were given.
        losses: the weighted losses of every head by name, such as ``"decode_0.cross_entropy"`` and
            ``"auxiliary_0.cross_entropy"``; of a head with queries ``"decode_0.query_mask"``, and
            ``"decode_0.layer_2.query_mask"`` for its earlier predictions.
        logits: scores before softmax, (batch, num_labels, height / stride, width / stride); with windows, and of heads
            that resize masks first, at the input's size. Heads with queries give sums of probabilities instead.
        hidden_states: all maps of the backbone, with ``output_hidden_states``.
        attentions: attention weights of the backbone's blocks, with ``output_attentions``; of segzoo's backbones plain ViTs
            (ViT, BEiT, InternViT, UniPerceiver) give them, and None all others.
        class_queries_logits: class scores of the queries before softmax, "no object" last, (batch, num_queries,
            num_labels + 1); only of heads with queries, without windows.
        masks_queries_logits: masks of the queries before the sigmoid, (batch, num_queries, height / stride, width /
            stride); only of heads with queries, without windows.
    """

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    class_queries_logits: torch.FloatTensor | None = None
    masks_queries_logits: torch.FloatTensor | None = None


# What the last head's output has under these names becomes part of the model's output.
_OUTPUT_FIELDS = tuple(field.name for field in fields(SegZooOutput))


class SegZooForSemanticSegmentation(WritesShim, WritesHashes, SegZooPreTrainedModel):
    """Any backbone with any decode head, for ``AutoModelForSemanticSegmentation``, ``pipeline`` and ``Trainer``.

    Example:
        ```python
        model = AutoModelForSemanticSegmentation.from_pretrained(folder)
        logits = model(pixel_values).logits
        ```
    """

    config: SegZooConfig
    base_model_prefix = "segzoo"
    fused = False
    """Whether `fuse` has prepared the model for inference."""
    backbone_frozen = False
    """Whether `freeze_backbone` has frozen the backbone."""

    def __init__(self, config: SegZooConfig):
        super().__init__(config)
        config.share_num_labels()
        # from_pretrained sets options after the config was made and checked
        config.check()
        # transformers' own AutoBackbone: from_config never asks the Hub.
        self.backbone = transformers.AutoBackbone.from_config(config.backbone_config)
        channels = list(self.backbone.channels)
        self.neck = None
        if config.neck_config is not None:
            if config.neck_config.in_channels is None:
                config.neck_config.in_channels = channels
                config.neck_config.check()
            self.neck = AutoNeck.from_config(config.neck_config)
            channels = list(self.neck.out_channels)
        self.decode_heads = nn.ModuleList(_build_head(c, channels) for c in config.decode_head_configs)
        self.auxiliary_heads = nn.ModuleList(_build_head(c, channels) for c in config.auxiliary_head_configs)
        if isinstance(self.backbone, Backbone) and self.backbone.heads_in_float32:
            self._keep_in_fp32_modules_strict = ["decode_heads", "auxiliary_heads"]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module | None:
        """The layer that reads the images, as of the backbone."""
        return first_convolution(self.backbone)

    def forward_maps(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None
    ) -> tuple[Sequence[Tensor], tuple[Tensor, ...] | None]:
        """The feature maps that the heads read, after the neck, and the backbone's hidden states or None.

        Args:
            pixel_values: normalised images (B, num_channels, H, W).
            output_hidden_states: return the backbone's hidden states.
        """
        maps, output = self._run_backbone(pixel_values, output_hidden_states=output_hidden_states)
        return maps, output.hidden_states if output_hidden_states else None

    def _run_backbone(self, pixel_values: Tensor, **options: bool | None) -> tuple[Sequence[Tensor], BackboneOutput]:
        with torch.no_grad() if self.backbone_frozen else contextlib.nullcontext():
            output = self.backbone.forward_with_filtered_kwargs(pixel_values, **options)
        maps = output.feature_maps
        if self.neck is not None:
            maps = self.neck(self._in_dtype_of(self.neck, maps))
        return self._in_dtype_of(self.decode_heads[-1], maps), output

    def _in_dtype_of(self, part: nn.Module, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        """Maps in the dtype of the part that reads them, which differs where the backbone keeps heads in float32."""
        if not (isinstance(self.backbone, Backbone) and self.backbone.heads_in_float32):
            return maps
        weight = next((p for p in part.parameters() if p.is_floating_point()), None)
        return maps if weight is None else [x.to(weight.dtype) for x in maps]

    def decode(self, feature_maps: Sequence[Tensor]) -> list[HeadOutput]:
        """The outputs of the decode heads in cascade; the last one's logits are the model's.

        In training a head that another one follows runs twice, as mmsegmentation's do: once for its own loss, and
        once, dropping other channels, for the next head, whose loss reaches it too.

        Args:
            feature_maps: what `forward_maps` returned, each (B, C, H, W).
        """
        outputs: list[HeadOutput] = []
        previous = None
        for head in self.decode_heads:
            if outputs:
                before = self.decode_heads[len(outputs) - 1]
                previous = before(feature_maps, previous=previous) if self.training else outputs[-1]
            outputs.append(head(feature_maps, previous=previous))
        return outputs

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        window_size: tuple[int, int] | None = None,
        window_stride: tuple[int, int] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SegZooOutput:
        """Score every pixel, and compute the loss when labels are given.

        Args:
            pixel_values: normalised images (B, num_channels, H, W).
            labels: class ids (B, H, W), int64; pixels of ``config.semantic_loss_ignore_index`` do not count. That all
                others are classes is checked on CPUs, and on GPUs with the environment variable
                ``SEGZOO_CHECK_LABELS=1``.
            window_size: (height, width) of sliding windows, in pixels; None for one pass over the whole images.
            window_stride: (vertical, horizontal) step between windows, in pixels; None is the window's size.
            output_hidden_states: return the backbone's hidden states; None follows the config. Windows have none.
            output_attentions: return the attention weights of the backbone's blocks; None follows the config. Windows
                have none.
            return_dict: False returns a tuple.

        Raises:
            SegZooError: the inputs' dimensions, channels, sizes or dtype do not fit, a label is no class, there are
                labels together with windows, or the backbone's attention is of a kind that gives no weights.
        """
        self._check_inputs(pixel_values, labels, window_size)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if window_size is not None:
            logits = sliding_window_logits(
                lambda window: self._logits(self.decode(self.forward_maps(window)[0]), window),
                pixel_values,
                window_size=window_size,
                window_stride=window_size if window_stride is None else window_stride,
                num_labels=self.config.num_labels,
                align_corners=self.config.decode_head_configs[-1].align_corners,
            )
            return SegZooOutput(logits=logits)
        feature_maps, backbone = self._run_backbone(
            pixel_values, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        outputs = self.decode(feature_maps)
        loss, losses = None, None
        if labels is not None:
            losses = self._losses(feature_maps, outputs, labels)
            loss = sum(losses.values())
        found = {name: outputs[-1][name] for name in _OUTPUT_FIELDS if name in outputs[-1]}
        found["logits"] = self._logits(outputs, pixel_values)
        return SegZooOutput(
            loss=loss,
            losses=losses,
            hidden_states=backbone.hidden_states if output_hidden_states else None,
            attentions=backbone.attentions if output_attentions else None,
            **found,
        )

    def fuse(self) -> Self:
        """Make the model faster for inference: batch norms become part of the convolutions before them.

        Results stay the same up to rounding. The model is changed in place, for good: it can neither be trained nor
        saved afterwards; the folder that it was loaded from stays as it is.

        Returns:
            The model itself.

        Raises:
            SegZooError: the model is in training mode.
        """
        if self.training:
            raise SegZooError("fuse() is for inference, and the model is in training mode; call model.eval() first")
        fuse_blocks(self)
        self.fused = True
        return self

    def freeze_backbone(self) -> Self:
        """Let training change neck and heads only.

        The backbone stays in evaluation mode: nothing is dropped in it, and batch norms use their running statistics.
        It keeps no activations for a backward pass, so that no gradient reaches the images either.

        Returns:
            The model itself.
        """
        self.backbone_frozen = True
        self.backbone.requires_grad_(False)
        self.backbone.eval()
        return self

    def train(self, mode: bool = True) -> Self:
        """As of every module; a frozen backbone stays in evaluation mode.

        Raises:
            SegZooError: training is asked of a model that `fuse` has changed.
        """
        if mode and self.fused:
            raise SegZooError("a model cannot be trained after fuse(), which took its batch norms away; load it again")
        super().train(mode)
        if self.backbone_frozen:
            self.backbone.eval()
        return self

    def set_losses(
        self,
        losses: Sequence[Loss | Mapping[str, Any]] | None = None,
        auxiliary_losses: Sequence[Loss | Mapping[str, Any]] | None = None,
    ) -> None:
        """Replace the losses of the heads, in the config too; heads with ``own_outputs`` keep theirs.

        Args:
            losses: losses, or their dicts such as ``{"type": "cross_entropy", "weight": 0.4}``, for every decode head;
                None keeps the present ones.
            auxiliary_losses: losses or their dicts for every auxiliary head; None keeps the present ones.

        Raises:
            SegZooError: a loss is not known, does not fit a head, or is made for another number of classes.
        """
        for heads, chosen in ((self.decode_heads, losses), (self.auxiliary_heads, auxiliary_losses)):
            for head in heads if chosen is not None else ():
                if head.config.own_outputs is None:
                    head.set_losses(chosen)  # its config is the one inside the model's

    def _logits(self, outputs: Sequence[HeadOutput], pixel_values: Tensor) -> Tensor:
        return self.decode_heads[-1].image_logits(outputs[-1], pixel_values.shape[-2:])

    def _losses(
        self, feature_maps: Sequence[Tensor], outputs: Sequence[HeadOutput], labels: Tensor
    ) -> dict[str, Tensor]:
        ignore_index = self.config.semantic_loss_ignore_index
        parts = {}
        for i, (head, output) in enumerate(zip(self.decode_heads, outputs, strict=True)):
            for name, value in head.compute_loss(output, labels, ignore_index).items():
                parts[f"decode_{i}.{name}"] = value
        for i, head in enumerate(self.auxiliary_heads):
            if not head.has_loss:
                continue
            for name, value in head.compute_loss(head(feature_maps), labels, ignore_index).items():
                parts[f"auxiliary_{i}.{name}"] = value
        return parts

    def _check_inputs(self, pixel_values: Tensor, labels: Tensor | None, window_size: tuple[int, int] | None) -> None:
        if pixel_values.ndim != 4:
            raise SegZooError(
                f"pixel_values must be (batch, channels, height, width), got {tuple(pixel_values.shape)}"
            )
        channels = getattr(self.config.backbone_config, "num_channels", None)
        if channels is not None and pixel_values.shape[1] != channels:
            raise SegZooError(
                f"pixel_values has {pixel_values.shape[1]} channels, the backbone takes {channels}; "
                "convert the images, or build the model with num_channels in the backbone config"
            )
        if labels is None:
            return
        self.config.check_trainable()
        if window_size is not None:
            raise SegZooError(
                "labels and window_size exclude each other: the loss needs one pass; leave one of them out"
            )
        if labels.shape != (pixel_values.shape[0], *pixel_values.shape[-2:]):
            raise SegZooError(
                f"labels are {tuple(labels.shape)} for images {tuple(pixel_values.shape)}; "
                "they must be (batch, height, width) of the same images"
            )
        if labels.dtype != torch.int64:
            raise SegZooError(f"labels are {labels.dtype}; class ids must be int64 (use labels.long())")
        check_labels(labels, self.config.num_labels, self.config.semantic_loss_ignore_index)

    def hub_card(self, repo_id: str) -> str:
        """The card that ``push_to_hub`` writes where the repository has none: what config and weights tell.

        Args:
            repo_id: name of the repository on the Hub, ``"namespace/name"``.
        """
        facts = facts_of_model(self) | {"base_model": base_model_of(self, repo_id)}
        return build_model_card(ModelCardFacts(title=repo_id.rpartition("/")[2], repo_id=repo_id, **facts))

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save weights, their hashes, config, and the shim that lets the folder load with ``trust_remote_code=True``.

        Raises:
            SegZooError: `fuse` has changed the model.
        """
        if self.fused:
            raise SegZooError("a model cannot be saved after fuse(), which took its batch norms away; load it again")
        # Always native keys, else transformers would write the original format where one is registered.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)


def _build_head(config: HeadConfig, channels: list[int]) -> Head:
    """Build a head, with ``in_channels`` from the maps that it reads where its config leaves them open."""
    if config.in_channels is None:
        index = range(len(channels)) if config.in_index is None else config.in_index
        if any(not -len(channels) <= i < len(channels) for i in index):
            raise SegZooError(
                f"{type(config).__name__}.in_index={list(index)} names a map that does not exist: there are {len(channels)}; "
                "set in_index, or the backbone's out_indices, to fit"
            )
        config.in_channels = [channels[i] for i in index]
    return AutoHead.from_config(config)
