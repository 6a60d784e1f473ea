"""Weights that are published on the Hub for backbones by their short names, and how they become ours.

``published.json`` holds three tables:

- ``published``: repositories with weights in the layout of timm or transformers, each with the variants of ours that
  they fit;
- ``originals``: files of authors that `segzoo convert` turns into a backbone, each with the variants that it is;
- ``elsewhere``: short names of backbones of transformers, each with its repository.

The weights of an HRNet were trained with nearest neighbours between its branches, where ours resizes bilinearly, as
mmsegmentation does with the same weights. BEiT's tables are resized to the variant's image size, Swin's to the side of
its windows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from segzoo.backbones import BeitConfig, SwinConfig, ViTAdapterBackbone, ViTConfig
from segzoo.backbones.beit import resize_bias_table
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Part
from segzoo.conversion.pretrained import find_kind
from segzoo.conversion.reading.checkpoints import read_checkpoint
from segzoo.conversion.weights import put_together, to_native
from segzoo.errors import SegZooError, first_line
from segzoo.layers.window_attention import resize_window_table

FILE, OLD_FILE = "model.safetensors", "pytorch_model.bin"  # the older of which some repositories have alone
_TABLE = ".relative_position_bias_table"
# What some ViTs have beyond others, and old files beyond their counters of batches.
_MAY_BE_MISSING = (".scale1", ".scale2", ".num_batches_tracked")
_MAY_BE_LEFT_OUT = ("class_token", "norm.weight", "norm.bias")


@cache
def _tables() -> dict[str, dict[str, str]]:
    tables = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    by_variant = ("published", "originals")
    turned = {kind: {name: place for place, names in tables[kind].items() for name in names} for kind in by_variant}
    return {**turned, "elsewhere": tables["elsewhere"]}


def published_weights() -> Mapping[str, str]:
    """The Hub repository, such as ``"timm/resnet50.tv_in1k"``, with weights for each of segzoo's variants that has one."""
    return _tables()["published"]


def original_files() -> Mapping[str, str]:
    """The address of an original file for `segzoo convert`, for variants without weights on the Hub that load."""
    return _tables()["originals"]


def backbones_of_transformers() -> Mapping[str, str]:
    """The Hub repository for each short name of a backbone of transformers, such as ``convnext_tiny``."""
    return _tables()["elsewhere"]


def download_published(variant: str, *, token: str | bool | None = None, cache_dir: str | None = None) -> Path:
    """Download the published weights of a variant, or find them in the cache.

    Args:
        variant: a name in `published_weights`.
        token, cache_dir: as in ``from_pretrained``.

    Raises:
        OSError, ValueError: the Hub cannot be reached, or does not have the file.
    """
    download = partial(hf_hub_download, published_weights()[variant], token=token, cache_dir=cache_dir)
    try:
        return Path(download(FILE))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise
        return Path(download(OLD_FILE))


def load_published(backbone: PreTrainedModel, file: Path, source: str) -> None:
    """Load downloaded weights into a backbone of segzoo; of a ViT-Adapter into its ViT, whose other parts stay as they are.

    Args:
        backbone: one of the variants that the weights belong to. With other channels than RGB, the kernels of its
            first convolution become those of the file in turn, scaled so that equal channels give the same features.
        file: the weights, in safetensors or as PyTorch pickles them.
        source: their name, for messages.

    Raises:
        SegZooError: the file cannot be read, or holds other weights than the backbone's.
    """
    try:
        state = load_file(file) if file.suffix == ".safetensors" else read_checkpoint(file).state_dict
    except (SafetensorError, OSError, ConversionError) as error:
        raise SegZooError(
            f"{source}: {file} cannot be read ({first_line(error)}); remove it, and it is loaded again"
        ) from error
    fill_backbone(backbone, state, source)


def fill_backbone(backbone: PreTrainedModel, state: Mapping[str, Tensor], source: str) -> None:
    """`load_published` for weights in memory.

    Raises:
        SegZooError: they are other weights than the backbone's.
    """
    kind = find_kind(state)
    if kind is None:
        raise SegZooError(f"{source}: these are no weights of a backbone that segzoo knows; take other weights")
    found = kind.translate(state, source)
    target = backbone.vit if isinstance(backbone, ViTAdapterBackbone) else backbone
    own, fitting, strange = target.state_dict(), {}, []
    parts: dict[str, dict[Part, Tensor]] = {}
    for original, whole in found.state_dict.items():
        rules = found.table.find_all(original)
        if not rules:
            strange.append(original)
        for rule, name in rules:
            if name is None:
                continue
            if name not in own:
                strange += [] if name in _MAY_BE_LEFT_OUT else [original]
                continue
            tensor = to_native(whole, rule)
            if rule.native_part is not None:
                parts.setdefault(name, {})[rule.native_part] = tensor
                continue
            if name.endswith(_TABLE) and isinstance(found.config, BeitConfig):
                tensor = resize_bias_table(tensor, found.config.grid, target.config.grid)
            if name.endswith(_TABLE) and isinstance(found.config, SwinConfig):
                tensor = resize_window_table(tensor, target.config.window_size)
            fitting[name] = _for_channels(tensor, own[name])
    for name, pieces in parts.items():
        try:
            fitting[name] = put_together(pieces)
        except (KeyError, RuntimeError):  # a part is missing, or they do not fit each other
            strange.append(name)
    # A fine-tuned MAE has tables, which begin at zero; its pre-training is a ViT's.
    missing = (*_MAY_BE_MISSING, _TABLE) if isinstance(found.config, ViTConfig) else _MAY_BE_MISSING
    strange += [name for name in own if name not in fitting and not name.endswith(missing)]
    strange += [name for name, tensor in fitting.items() if tensor.shape != own[name].shape]
    if strange:
        raise SegZooError(
            f"{source}: these weights are of another model than {type(backbone).__name__} here: {strange[0]} does not fit "
            f"({len(strange)} such tensors); take other weights"
        )
    target.load_state_dict(fitting, strict=False)


def _for_channels(kernel: Tensor, wanted: Tensor) -> Tensor:
    """A first convolution's kernels (out, in, height, width) for another number of channels; others as they are."""
    if kernel.ndim != 4 or kernel.shape == wanted.shape or kernel.shape[0] != wanted.shape[0]:
        return kernel
    old, new = kernel.shape[1], wanted.shape[1]
    in_turn = torch.arange(new) % old
    if new == 1:
        return kernel.sum(dim=1, keepdim=True)
    return kernel[:, in_turn] * (old / new)
