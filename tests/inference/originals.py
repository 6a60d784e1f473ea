"""Three published networks as plain functions of a state dict, for records of what their original systems predicted.

segzoo has no heads or backbones for them yet; what is under test is how windows, sizes and views are put together.
Weights are looked up by the original's keys: the code is as long as a forward pass.
"""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from segzoo import SegZooConfig


class Network(nn.Module):
    """The parts that the networks share, and the outside of a segmentation model."""

    def __init__(self, weights: dict[str, torch.Tensor], num_labels: int, align_corners: bool = False):
        super().__init__()
        self.weights = weights
        self.config = SegZooConfig.tiny()
        self.config.num_labels = num_labels
        self.config.decode_head_configs[-1].align_corners = align_corners
        self.device, self.dtype = torch.device("cpu"), next(iter(weights.values())).dtype

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits(pixel_values))

    def conv(self, name, x, **options):
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), **options)

    def linear(self, name, x):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def batch_norm(self, name, x):
        mean, variance, weight, bias = (
            self.weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

    def layer_norm(self, name, x, eps):
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def block(self, name, x, **options):
        return self.batch_norm(f"{name}.bn", self.conv(f"{name}.conv", x, **options)).relu()

    def mlp(self, first, second, x):
        return self.linear(second, F.gelu(self.linear(first, x)))


def resize(x, size, align_corners=False):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


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


class DeepLabV3Plus(Network):
    """ResNet-18 with a 7x7 stem and stride 8, DeepLabV3+ head (mmsegmentation)."""

    def logits(self, x):
        x = self.batch_norm("backbone.bn1", self.conv("backbone.conv1", x, stride=2, padding=3)).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        stages = []
        for number, (stride, first, second) in enumerate([(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)], start=1):
            x = self.residual(f"backbone.layer{number}.0", x, stride, first)
            x = self.residual(f"backbone.layer{number}.1", x, 1, second)
            stages.append(x)
        pooled = self.block("decode_head.image_pool.1", x.mean((2, 3), keepdim=True))
        branches = [resize(pooled, x.shape[2:], True), self.block("decode_head.aspp_modules.0", x)]
        for number, dilation in enumerate((12, 24, 36), start=1):
            branches.append(self.separable(f"decode_head.aspp_modules.{number}", x, dilation))
        x = self.block("decode_head.bottleneck", torch.cat(branches, 1), padding=1)
        fine = self.block("decode_head.c1_bottleneck", stages[0])
        x = torch.cat([resize(x, fine.shape[2:], True), fine], 1)
        for number in range(2):
            x = self.separable(f"decode_head.sep_bottleneck.{number}", x, 1)
        return self.conv("decode_head.conv_seg", x)

    def residual(self, name, x, stride, dilation):
        y = self.conv(f"{name}.conv1", x, stride=stride, padding=dilation, dilation=dilation)
        y = self.conv(f"{name}.conv2", self.batch_norm(f"{name}.bn1", y).relu(), padding=1)
        if f"{name}.downsample.0.weight" in self.weights:
            x = self.batch_norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x, stride=stride))
        return (x + self.batch_norm(f"{name}.bn2", y)).relu()

    def separable(self, name, x, dilation):
        x = self.block(f"{name}.depthwise_conv", x, padding=dilation, dilation=dilation, groups=x.shape[1])
        return self.block(f"{name}.pointwise_conv", x)


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


class ViTAdapter(Network):
    """ViT-T/16 with ViT-Adapter's three-scale branch, UPerNet head (ViT-Adapter's repository)."""

    HEADS, POINTS, EPS = 6, 4, 1e-6

    def logits(self, x):
        features = self.features(x)
        size = features[3].shape[2:]
        pooled = [
            resize(self.block(f"decode_head.psp_modules.{i}.1", F.adaptive_avg_pool2d(features[3], side)), size)
            for i, side in enumerate((1, 2, 3, 6))
        ]
        levels = [self.block(f"decode_head.lateral_convs.{i}", features[i]) for i in range(3)]
        levels.append(self.block("decode_head.bottleneck", torch.cat([features[3], *pooled], 1), padding=1))
        for i in (2, 1, 0):
            levels[i] = levels[i] + resize(levels[i + 1], levels[i].shape[2:])
        levels[:3] = [self.block(f"decode_head.fpn_convs.{i}", levels[i], padding=1) for i in range(3)]
        fused = torch.cat([resize(level, levels[0].shape[2:]) for level in levels], 1)
        return self.conv("decode_head.conv_seg", self.block("decode_head.fpn_bottleneck", fused, padding=1))

    def features(self, x):
        fine, *branch = self.pyramid(x)
        levels = self.weights["backbone.level_embed"]
        sizes = [tuple(m.shape[2:]) for m in branch]
        c = torch.cat([tokens(m) + level for m, level in zip(branch, levels, strict=True)], 1)
        x = self.conv("backbone.patch_embed.proj", x, stride=16)
        grid = tuple(x.shape[2:])
        x = tokens(x) + positions(self.weights["backbone.pos_embed"][:, 1:], grid)
        own, all_points = centres([grid], x), centres(sizes, x)
        outputs = []
        for number in range(4):
            name = f"backbone.interactions.{number}"
            sampled = self.sample(f"{name}.injector", x, own, c, sizes)
            x = x + self.weights[f"{name}.injector.gamma"] * sampled
            for block in range(3 * number, 3 * number + 3):
                x = self.vit_block(f"backbone.blocks.{block}", x)
            extra = [f"{name}.extra_extractors.{i}" for i in range(2)] if number == 3 else []
            for extractor in (f"{name}.extractor", *extra):
                c = c + self.sample(extractor, c, all_points, x, [grid])
                c = c + self.mixing_mlp(
                    f"{extractor}.ffn", self.layer_norm(f"{extractor}.ffn_norm", c, self.EPS), sizes
                )
            outputs.append(maps(x, grid))
        branch = [maps(part, size) for part, size in zip(c.split([h * w for h, w in sizes], 1), sizes, strict=True)]
        up = F.conv_transpose2d(
            branch[0], self.weights["backbone.up.weight"], self.weights["backbone.up.bias"], stride=2
        )
        features = []
        for number, (m, output, factor) in enumerate(
            zip([up + fine, *branch], outputs, (4.0, 2.0, 1.0, 0.5), strict=True), start=1
        ):
            output = F.interpolate(output, scale_factor=factor, mode="bilinear", align_corners=False)
            features.append(self.batch_norm(f"backbone.norm{number}", m + output))
        return features

    def pyramid(self, x):
        """Convolutional maps at strides 4, 8, 16 and 32."""
        for number, stride in ((0, 2), (3, 1), (6, 1)):
            x = self.conv(f"backbone.spm.stem.{number}", x, stride=stride, padding=1)
            x = self.batch_norm(f"backbone.spm.stem.{number + 1}", x).relu()
        levels = [F.max_pool2d(x, 3, 2, 1)]
        for number in (2, 3, 4):
            x = self.conv(f"backbone.spm.conv{number}.0", levels[-1], stride=2, padding=1)
            levels.append(self.batch_norm(f"backbone.spm.conv{number}.1", x).relu())
        return [self.conv(f"backbone.spm.fc{number}", level) for number, level in enumerate(levels, start=1)]

    def vit_block(self, name, x):
        parts = self.linear(f"{name}.attn.qkv", self.layer_norm(f"{name}.norm1", x, self.EPS)).chunk(3, -1)
        x = x + self.weights[f"{name}.gamma1"] * self.linear(f"{name}.attn.proj", attention(*parts, heads=3))
        hidden = self.mlp(f"{name}.mlp.fc1", f"{name}.mlp.fc2", self.layer_norm(f"{name}.norm2", x, self.EPS))
        return x + self.weights[f"{name}.gamma2"] * hidden

    def mixing_mlp(self, name, c, sizes):
        hidden = self.linear(f"{name}.fc1", c).split([h * w for h, w in sizes], 1)
        mixed = [
            tokens(self.conv(f"{name}.dwconv.dwconv", maps(part, size), padding=1, groups=part.shape[2]))
            for part, size in zip(hidden, sizes, strict=True)
        ]
        return self.linear(f"{name}.fc2", F.gelu(torch.cat(mixed, 1)))

    def sample(self, name, queries, reference, features, sizes):
        """Multi-scale deformable attention: ``queries`` at the points ``reference`` (n, 2) read from ``features``."""
        queries = self.layer_norm(f"{name}.query_norm", queries, self.EPS)
        values = self.linear(f"{name}.attn.value_proj", self.layer_norm(f"{name}.feat_norm", features, self.EPS))
        shape = (self.HEADS, len(sizes), self.POINTS)
        offsets = self.linear(f"{name}.attn.sampling_offsets", queries).unflatten(-1, (*shape, 2))
        weights = self.linear(f"{name}.attn.attention_weights", queries).unflatten(-1, (self.HEADS, -1)).softmax(-1)
        weights = (
            weights.unflatten(-1, shape[1:]).permute(3, 0, 2, 1, 4).flatten(1, 2)
        )  # level, batch x head, query, point
        total = 0
        for level, (part, (height, width)) in enumerate(
            zip(values.split([h * w for h, w in sizes], 1), sizes, strict=True)
        ):
            heads = maps(part, (height, width)).unflatten(1, (self.HEADS, -1)).flatten(0, 1)
            points = reference[:, None, None] + offsets[:, :, :, level] / offsets.new_tensor([width, height])
            points = (2 * points - 1).transpose(1, 2).flatten(0, 1)
            read = F.grid_sample(heads, points, mode="bilinear", padding_mode="zeros", align_corners=False)
            total = total + (read * weights[level][:, None]).sum(-1)
        total = total.unflatten(0, (-1, self.HEADS)).flatten(1, 2).transpose(1, 2)
        return self.linear(f"{name}.attn.output_proj", total)


def centres(sizes, like):
    """Centres of the cells of several grids as (x, y) in 0..1, one after the other."""
    grids = []
    for size in sizes:
        y, x = (((torch.arange(side) + 0.5) / side).to(like) for side in size)
        grids.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1))
    return torch.cat(grids)
