"""A published network as a plain function of a state dict, for a record of what its original system predicted.

segzoo has no head or backbone for it yet; what is under test is how windows, sizes and views are put together.
Weights are looked up by the original's keys: the code is as long as a forward pass.
"""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from segzoo import SegZooConfig


class Network(nn.Module):
    """What a network is made of, and the outside of a segmentation model."""

    def __init__(self, weights: dict[str, torch.Tensor], num_labels: int):
        super().__init__()
        self.weights = weights
        self.config = SegZooConfig.tiny()
        self.config.num_labels = num_labels
        self.device, self.dtype = torch.device("cpu"), next(iter(weights.values())).dtype

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits(pixel_values))

    def conv(self, name, x, **options):
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), **options)

    def linear(self, name, x):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def layer_norm(self, name, x, eps):
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def mlp(self, first, second, x):
        return self.linear(second, F.gelu(self.linear(first, x)))


def attention(queries, keys, values, heads):
    queries, keys, values = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def maps(x, size):
    return x.transpose(1, 2).unflatten(2, size)


def positions(embedding, size):
    """Learnt positions of a square grid, resized to another grid, as tokens."""
    side = int(embedding.shape[1] ** 0.5)
    return tokens(F.interpolate(maps(embedding, (side, side)), size=size, mode="bicubic", align_corners=False))


class Segmenter(Network):
    """ViT-T/16 with Segmenter's mask transformer (mmsegmentation)."""

    def logits(self, x):
        x = F.pad(x, (0, -x.shape[3] % 16, 0, -x.shape[2] % 16))
        x = self.conv("backbone.patch_embed.projection", x, stride=16)
        size, table = x.shape[2:], self.weights["backbone.pos_embed"]
        token = self.weights["backbone.cls_token"] + table[:, :1]
        x = torch.cat([token.expand(len(x), -1, -1), tokens(x) + positions(table[:, 1:], size)], 1)
        for number in range(12):
            x = self.layer(f"backbone.layers.{number}", x, 1e-6)
        x = self.linear("decode_head.dec_proj", self.layer_norm("backbone.ln1", x, 1e-6)[:, 1:])
        patches = x.shape[1]
        x = torch.cat([x, self.weights["decode_head.cls_emb"].expand(len(x), -1, -1)], 1)
        for number in range(2):
            x = self.layer(f"decode_head.layers.{number}", x, 1e-5)
        x = self.layer_norm("decode_head.decoder_norm", x, 1e-5)
        pixels = F.normalize(self.linear("decode_head.patch_proj", x[:, :patches]), dim=2)
        classes = F.normalize(self.linear("decode_head.classes_proj", x[:, patches:]), dim=2)
        return maps(self.layer_norm("decode_head.mask_norm", pixels @ classes.transpose(1, 2), 1e-5), size)

    def layer(self, name, x, eps):
        projection = [self.weights[f"{name}.attn.attn.in_proj_{part}"] for part in ("weight", "bias")]
        mixed = attention(*F.linear(self.layer_norm(f"{name}.ln1", x, eps), *projection).chunk(3, -1), heads=3)
        x = x + self.linear(f"{name}.attn.attn.out_proj", mixed)
        return x + self.mlp(f"{name}.ffn.layers.0.0", f"{name}.ffn.layers.1", self.layer_norm(f"{name}.ln2", x, eps))
