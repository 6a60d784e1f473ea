"""Models that were published in two files: MIT's encoders and decoders, and the heads over DINOv2's and DINOv3's ViTs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.pretrained.dinov2 import is_dinov2
from segzoo.conversion.reading.checkpoints import OriginalCheckpoint, read_checkpoint
from segzoo.conversion.scene_parsing import join_encoder_and_decoder

_HEAD, _BACKBONE = "decode_head.", "backbone."
# DINOv3's segmentation model is a list of an adapter, whose ViT has a file of its own, and a head.
_DINOV3 = {"segmentation_model.0.": _BACKBONE, "segmentation_model.1.": _HEAD}


def read_two_files(first: str | Path, second: str | Path, *, prefer_ema: bool = False) -> OriginalCheckpoint:
    """Reads a model in two files, the backbone's or encoder's first.

    Args:
        first, second: paths of the files.
        prefer_ema: take the averaged weights of both files, as in `read_checkpoint`.

    Returns:
        the weights of both. ``sha256`` is the first file's; the second's is in ``meta["decoder"]``.

    Raises:
        ConversionError: a file cannot be read, the files are swapped, or they are not such a pair.
    """
    backbone, head = (read_checkpoint(part, prefer_ema=prefer_ema) for part in (first, second))
    are_heads = [any(key.startswith((_HEAD, *_DINOV3)) for key in part.state_dict) for part in (backbone, head)]
    if are_heads == [True, False]:
        raise ConversionError(f"{first}: this is a head; the two files are swapped, give the backbone first")
    if not are_heads[1]:
        return join_encoder_and_decoder(backbone, head)
    if any(key.startswith(tuple(_DINOV3)) for key in head.state_dict):
        title, fits, prefix = "DINOv3", is_dinov3, f"{_BACKBONE}backbone."
    else:
        title, fits, prefix = "DINOv2", is_dinov2, _BACKBONE
    if are_heads[0] or not fits(backbone.state_dict):
        raise ConversionError(
            f"{first}: a head in a file of its own belongs to a ViT of {title}, and this is none of them; give the ViT's file "
            f"({title.lower()}_*_pretrain*.pth) and then the head's"
        )
    state = {prefix + key: tensor for key, tensor in backbone.state_dict.items()}
    state |= {_inside_model(key): tensor for key, tensor in head.state_dict.items()}
    return replace(
        head, state_dict=state, source=backbone.source, sha256=backbone.sha256, meta={"decoder": head.sha256}
    )


def is_dinov3(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a ViT with DINOv3's names."""
    return {"patch_embed.proj.weight", "storage_tokens", "rope_embed.periods", "blocks.0.ls1.gamma"} <= state.keys()


def _inside_model(key: str) -> str:
    """The name of a head's tensor inside the whole model."""
    for prefix, name in _DINOV3.items():
        if key.startswith(prefix):
            return name + key.removeprefix(prefix)
    return key
