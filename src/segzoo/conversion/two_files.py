"""Models that were published in two files: MIT's encoders and decoders, and the heads over DINO's ViTs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from segzoo.conversion.errors import ConversionError
from segzoo.conversion.pretrained.dinov2 import is_dinov2
from segzoo.conversion.reading.checkpoints import OriginalCheckpoint, read_checkpoint
from segzoo.conversion.scene_parsing import join_encoder_and_decoder

_HEAD, _BACKBONE = "decode_head.", "backbone."


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
    are_heads = [any(key.startswith(_HEAD) for key in part.state_dict) for part in (backbone, head)]
    if are_heads == [True, False]:
        raise ConversionError(f"{first}: this is a head; the two files are swapped, give the backbone first")
    if not are_heads[1]:
        return join_encoder_and_decoder(backbone, head)
    if are_heads[0] or not is_dinov2(backbone.state_dict):
        raise ConversionError(
            f"{first}: a head in a file of its own belongs to a ViT of DINOv2, and this is none of them; give the ViT's file "
            "(dinov2_*_pretrain.pth) and then the head's"
        )
    state = {_BACKBONE + key: tensor for key, tensor in backbone.state_dict.items()} | head.state_dict
    return replace(
        head, state_dict=state, source=backbone.source, sha256=backbone.sha256, meta={"decoder": head.sha256}
    )
