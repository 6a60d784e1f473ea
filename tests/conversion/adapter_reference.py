"""ViT-Adapter's branch and what it is made of, in float64, with the original's names of weights.

Written from "Vision Transformer Adapter for Dense Predictions" (Chen et al., 2023) and from DINOv3's segmentation code,
one function for each part; segzoo's code is not used.
"""

import math

import torch
from torch.nn import functional as F


class Reference:
    def __init__(self, state):
        self.state = {key: x.double() for key, x in state.items()}

    def linear(self, x, name):
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def conv(self, x, name, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **options)

    def norm(self, x, name, eps=1e-6):
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def group_norm(self, x, name):
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def batch_norm(self, x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{part}"] for part in parts))

    def attention(self, name, query, key, value, heads, hidden=None):
        """Attention of PyTorch's module, whose three projections are one tensor; ``hidden`` is what is not looked at."""
        weights, biases = (self.state[f"{name}.in_proj_{part}"].chunk(3) for part in ("weight", "bias"))
        query, key, value = (
            F.linear(x, *pair).unflatten(-1, (heads, -1)).transpose(1, 2)
            for x, pair in zip((query, key, value), zip(weights, biases, strict=True), strict=True)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None], -math.inf)
        return self.linear((scores.softmax(-1) @ value).transpose(1, 2).flatten(2), f"{name}.out_proj")

    def deformable(self, name, query, places, values, sizes, heads=16, points=4):
        """Each head reads ``points`` places of each map near the query's own, and weighs what it reads."""
        batch, count = query.shape[:2]
        values = self.linear(values, f"{name}.value_proj")
        offsets = self.linear(query, f"{name}.sampling_offsets").view(batch, count, heads, len(sizes), points, 2)
        weights = self.linear(query, f"{name}.attention_weights").view(batch, count, heads, -1).softmax(-1)
        read = []
        for level, ((height, width), part) in enumerate(
            zip(sizes, values.split([h * w for h, w in sizes], dim=1), strict=True)
        ):
            part = part.transpose(1, 2).reshape(batch * heads, -1, height, width)
            at = places[None, :, None, None] + offsets[:, :, :, level] / torch.tensor([width, height])
            at = 2 * at.transpose(1, 2).flatten(0, 1) - 1
            read.append(F.grid_sample(part, at, align_corners=False).view(batch, heads, -1, count, points))
        weights = weights.permute(0, 2, 1, 3)[:, :, None]
        found = (torch.cat(read, dim=-1) * weights).sum(-1)  # B, heads, channels, queries
        return self.linear(found.flatten(1, 2).transpose(1, 2), f"{name}.output_proj")


def centres(sizes):
    """The (x, y) of the cells of maps, in shares of their sides."""
    found = []
    for height, width in sizes:
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        found.append(torch.stack([x.double() / width, y.double() / height], dim=-1).flatten(0, 1))
    return torch.cat(found)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def as_map(x, size):
    return x.transpose(1, 2).unflatten(2, size)


def resized(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def adapter_maps(ref, pixels, grid, interact):
    """Four maps of strides 4 to 32 of an image.

    Args:
        ref: the adapter's weights.
        pixels: the image (B, 3, H, W).
        grid: (height, width) of the ViT's patches.
        interact: ``interact(i, c, sizes)``, the ViT's patches after the i-th quarter of its blocks, from the branch's tokens
            before it, map after map of these sizes.
    """
    x = pixels
    for i, stride in ((0, 2), (3, 1), (6, 1)):
        x = ref.conv(x, f"spm.stem.{i}", stride=stride, padding=1)
        x = ref.batch_norm(x, f"spm.stem.{i + 1}").relu()
    maps = [F.max_pool2d(x, 3, stride=2, padding=1)]
    for i in (2, 3, 4):
        x = ref.conv(maps[-1], f"spm.conv{i}.0", stride=2, padding=1)
        maps.append(ref.batch_norm(x, f"spm.conv{i}.1").relu())
    finest, *maps = (ref.conv(x, f"spm.fc{i}") for i, x in enumerate(maps, start=1))
    sizes, vit = [tuple(x.shape[2:]) for x in maps], []
    counts, places = [h * w for h, w in sizes], centres(sizes)
    c = torch.cat([tokens(x) + ref.state["level_embed"][i] for i, x in enumerate(maps)], dim=1)
    for i in range(4):
        patches = interact(i, c, sizes)
        vit.append(patches)
        names = ["extractor"] + ["extra_extractors.0", "extra_extractors.1"] * (i == 3)
        for name in (f"interactions.{i}.{name}" for name in names):
            read = ref.norm(patches, f"{name}.feat_norm")
            c = c + ref.deformable(f"{name}.attn", ref.norm(c, f"{name}.query_norm"), places, read, [grid])
            hidden = ref.linear(ref.norm(c, f"{name}.ffn_norm"), f"{name}.ffn.fc1")
            parts = zip(hidden.split(counts, dim=1), sizes, strict=True)
            depthwise = {"padding": 1, "groups": hidden.shape[2]}
            mixed = [tokens(ref.conv(as_map(x, size), f"{name}.ffn.dwconv.dwconv", **depthwise)) for x, size in parts]
            c = c + ref.linear(F.gelu(torch.cat(mixed, dim=1)), f"{name}.ffn.fc2")
    maps = [as_map(x, size) for x, size in zip(c.split(counts, dim=1), sizes, strict=True)]
    up = F.conv_transpose2d(maps[0], ref.state["up.weight"], ref.state["up.bias"], stride=2)
    maps = [x + resized(as_map(v, grid), x.shape[2:]) for x, v in zip([up + finest, *maps], vit, strict=True)]
    return [ref.batch_norm(x, f"norm{i}") for i, x in enumerate(maps, start=1)]
