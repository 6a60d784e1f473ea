"""The keys of plain ViTs, as timm and the repositories derived from it name them."""

from collections.abc import Iterable

from segzoo.conversion.keys import KeyRule


def timm_vit_keys(old: str = "", new: str = "", *, scale: str = "gamma") -> Iterable[KeyRule]:
    """Key rules for the embeddings and blocks of a ViT with timm's names.

    Args:
        old: prefix of its keys in the original, with the dot.
        new: prefix of its keys in our model, with the dot.
        scale: name of the learned scales, without their number: "gamma" or "gamma_".
    """
    yield KeyRule(f"{old}cls_token", f"{new}class_token")
    yield KeyRule(f"{old}pos_embed", f"{new}position_embeddings")
    yield KeyRule(f"{old}patch_embed.proj.{{}}", f"{new}patch_embedding.{{}}")
    for i in (1, 2):
        yield KeyRule(f"{old}blocks.{{}}.{scale}{i}", f"{new}layers.{{}}.scale{i}")
        yield KeyRule(f"{old}blocks.{{}}.norm{i}.{{}}", f"{new}layers.{{}}.norm{i}.{{}}")
    # This buffer is computed.
    yield KeyRule(f"{old}blocks.{{}}.attn.relative_position_index", None)
    yield KeyRule(f"{old}blocks.{{}}.attn.{{}}", f"{new}layers.{{}}.attention.{{}}")
    yield KeyRule(f"{old}blocks.{{}}.mlp.{{}}", f"{new}layers.{{}}.mlp.{{}}")
