"""Universal segmentation models of transformers as semantic-segmentation models with dense logits.

Mask2Former, MaskFormer, OneFormer and EoMT predict a set of queries, each with a class and a mask, and learn from masks.
Here each of their classes gets a subclass whose ``forward`` takes maps of labels and returns dense ``logits`` too, so
that everything that works with semantic-segmentation models works with them. Weights, config and files stay those of
transformers: a folder that was saved here loads with ``AutoModelForUniversalSegmentation``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForSemanticSegmentation, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from segzoo.compat import ONEFORMER_LEARNS_WITHOUT_TEXTS
from segzoo.errors import SegZooError, first_line
from segzoo.heads.queries import combined_logits
from segzoo.hub import WritesHashes
from segzoo.inference.settings import fixed_input_size

UNIVERSAL_TYPES = ("mask2former", "maskformer", "oneformer", "eomt", "eomt_dinov3")
"""The ``model_type`` of the models that are adapted."""

IGNORE_INDEX = 255
_TASK = "the task is semantic"


@dataclass
class UniversalOutput(ModelOutput):
    """Output of the adapted models; ``post_process_semantic_segmentation`` of their own processors takes it too.

    Args:
        loss: the model's own loss, when labels were given.
        logits: for each class the sum over queries of class probability times mask probability, (batch, num_labels,
            height, width) at the input's size; None in training with labels, where nothing reads it.
        class_queries_logits: class scores of the queries before softmax, "no object" last, (batch, num_queries,
            num_labels + 1).
        masks_queries_logits: masks of the queries before the sigmoid, (batch, num_queries, height / 4, width / 4).
        patch_offsets: where EoMT's pictures lie in the pictures that they were cut from, as given.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    class_queries_logits: torch.FloatTensor | None = None
    masks_queries_logits: torch.FloatTensor | None = None
    patch_offsets: list[torch.Tensor] | None = None


class DenseUniversalModel(WritesHashes, PreTrainedModel):
    """First base class of the adapted models; the second is the class of transformers."""

    task_inputs: Tensor | None = None
    tokenizer: Any = None

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        mask_labels: list[Tensor] | None = None,
        class_labels: list[Tensor] | None = None,
        patch_offsets: list[Tensor] | None = None,
        **kwargs: Any,
    ) -> UniversalOutput:
        """Score every pixel, and compute the model's own loss when labels are given.

        Args:
            pixel_values: normalised images (B, 3, H, W).
            labels: class ids (B, H, W), int64; pixels of ``config.semantic_loss_ignore_index`` (255 without one) belong
                to no mask. The alternative is ``mask_labels`` and ``class_labels``.
            mask_labels, class_labels: the model's own form of labels: for each image masks (N, H, W) and classes (N,).
            patch_offsets: passed through to the output, for EoMT's processor.
            kwargs: further arguments of the model of transformers.
        """
        size = fixed_input_size(self.config)
        if size is not None and tuple(pixel_values.shape[-2:]) != size:
            raise SegZooError(
                f"pixel_values are {pixel_values.shape[-2]}x{pixel_values.shape[-1]}, and this {self.config.model_type} "
                f"takes {size[0]}x{size[1]} only; give crops or windows of that size"
            )
        if labels is not None or mask_labels is not None:
            check_learns(self.config)
        if labels is not None:
            mask_labels, class_labels = self._masks(labels)
        if self.config.model_type == "oneformer" and kwargs.get("task_inputs") is None:
            kwargs["task_inputs"] = self._task_inputs(len(pixel_values), pixel_values.device)
        output = super().forward(pixel_values, mask_labels=mask_labels, class_labels=class_labels, **kwargs)
        logits = None
        if not (self.training and mask_labels is not None):
            logits = combined_logits(output.class_queries_logits, output.masks_queries_logits, pixel_values.shape[-2:])
        return UniversalOutput(
            loss=None if output.loss is None else output.loss.sum(),  # OneFormer's has the shape (1,)
            logits=logits,
            class_queries_logits=output.class_queries_logits,
            masks_queries_logits=output.masks_queries_logits,
            patch_offsets=patch_offsets,
        )

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does, with hashes and OneFormer's tokenizer beside the weights."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True) and self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)

    def _masks(self, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """For each image a mask (N, H, W) for each class that it shows, and the classes (N,)."""
        ignore_index = getattr(self.config, "semantic_loss_ignore_index", IGNORE_INDEX)
        masks, classes = [], []
        for one in labels:
            found = one.unique()
            found = found[found != ignore_index]
            if len(found) and not 0 <= int(found[0]) <= int(found[-1]) < self.config.num_labels:
                raise SegZooError(
                    f"labels have the ids {found.tolist()[:20]}, and the model has {self.config.num_labels} classes; "
                    f"give ids from 0 to {self.config.num_labels - 1}, and {ignore_index} for pixels that do not count"
                )
            masks.append((one == found[:, None, None]).to(self.dtype))
            classes.append(found)
        return masks, classes

    def _task_inputs(self, batch: int, device: torch.device) -> Tensor:
        """The tokens of OneFormer's task, (batch, length)."""
        tokens = getattr(self.config, "semantic_task_tokens", None)
        if tokens is None:
            raise SegZooError(
                "OneFormer needs the tokens of its task: load it with segzoo.load, or pass task_inputs of its processor"
            )
        return torch.tensor(tokens, device=device).expand(batch, -1)


def is_universal(config: PreTrainedConfig) -> bool:
    """Whether a config is that of a universal model that is adapted."""
    return config.model_type in UNIVERSAL_TYPES


def check_learns(config: PreTrainedConfig) -> None:
    """Refuse a model that cannot be trained with this version of transformers.

    The loss of OneFormer compares queries with texts, of which there are none here; before transformers 5.23 it cannot
    do without.

    Raises:
        SegZooError: it is such a model; the message names the version and the fix.
    """
    if config.model_type == "oneformer" and not (config.is_training or ONEFORMER_LEARNS_WITHOUT_TEXTS):
        raise SegZooError(
            f"OneFormer learns without texts from transformers 5.23 on, and this is {transformers.__version__}: "
            "pip install -U 'transformers>=5.23', or train a Mask2Former"
        )


@contextmanager
def constant_mask_probabilities(model: torch.nn.Module) -> Iterator[None]:
    """A context in which EoMT can be traced: the probabilities of its masked attention are numbers, not a tensor.

    Its blocks ask whether a probability is above 0, which no traced program can do.
    """
    probabilities = getattr(model, "attn_mask_probs", None)
    if probabilities is None:
        yield
        return
    del model.attn_mask_probs
    model.attn_mask_probs = probabilities.tolist()
    try:
        yield
    finally:
        del model.attn_mask_probs
        model.register_buffer("attn_mask_probs", probabilities)


def segmentation_class(config: PreTrainedConfig) -> type:
    """The class with ``from_pretrained`` for a config: of a universal model the adapted one.

    Args:
        config: of any model for segmentation. Other kinds of models get `AutoModelForSemanticSegmentation`, which
            refuses them.
    """
    if not is_universal(config):
        return AutoModelForSemanticSegmentation
    return _dense_class(MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING[type(config)])


def model_from_config(config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """A model for segmentation with random weights.

    Args:
        config: of any model for segmentation.
        options: keyword arguments of ``from_config``, for models that are not universal.
    """
    kind = segmentation_class(config)
    return kind(config) if is_universal(config) else kind.from_config(config, **options)


def load_segmentation_model(
    source: str, config: PreTrainedConfig, hub_options: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """What ``from_pretrained`` returns for a model with dense logits.

    Args:
        source: folder or Hub name.
        config: its config, perhaps with other classes.
        hub_options: ``token``, ``revision``, ``cache_dir``, ``trust_remote_code``.
        options: further keyword arguments of ``from_pretrained``.

    Raises:
        SegZooError: OneFormer without its tokenizer, or one in its training form, which needs texts.
        OSError, ValueError: as ``from_pretrained``.
    """
    tokenizer = None
    if config.model_type == "oneformer":
        tokenizer = _prepare_oneformer(source, config, dict(hub_options or {}))
    loaded = segmentation_class(config).from_pretrained(source, config=config, **dict(hub_options or {}), **options)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    if is_universal(config):
        model.tokenizer = tokenizer
        _reset_class_weights(model)
    return loaded


def _prepare_oneformer(source: str, config: PreTrainedConfig, hub_options: Mapping[str, Any]) -> Any:
    """Put the tokens of the semantic task into the config; returns the tokenizer, or None where there is none."""
    if config.is_training:
        raise SegZooError(
            f"{source}: this OneFormer is in its training form (is_training in config.json), which needs a text for "
            "each query; set is_training to false to use it or to train it without texts"
        )
    tokenizer, reason = None, "it has no vocabulary"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **hub_options)
    except (OSError, ValueError) as error:
        reason = first_line(error)
    # Where there are no files, transformers makes a tokenizer of nothing but its special tokens.
    if tokenizer is None or len(tokenizer) == len(tokenizer.all_special_ids):
        if getattr(config, "semantic_task_tokens", None) is not None:
            return None
        raise SegZooError(
            f"{source}: OneFormer needs its tokenizer ({reason}); save it into the folder with "
            "OneFormerProcessor.save_pretrained"
        )
    text = tokenizer(_TASK, padding="max_length", max_length=config.task_seq_len, truncation=True)
    config.semantic_task_tokens = [
        token * mask for token, mask in zip(text["input_ids"], text["attention_mask"], strict=True)
    ]
    return tokenizer


def _reset_class_weights(model: PreTrainedModel) -> None:
    """The loss's weights of the classes: 1, and that of "no object".

    They are a buffer, which keeps the wrong length or arbitrary values where a model gets another number of classes.
    """
    weights = model.criterion.empty_weight
    fresh = torch.ones(model.config.num_labels + 1, dtype=weights.dtype, device=weights.device)
    fresh[-1] = model.criterion.eos_coef
    model.criterion.empty_weight = fresh


@cache
def _dense_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The subclass of a universal model with dense logits; it has the same name, which ``save_pretrained`` writes."""
    return type(base.__name__, (DenseUniversalModel, base), {"__module__": base.__module__, "__doc__": base.__doc__})
