"""Attention of all pixels of a map to all of them, as in NonLocal networks and in their disentangled form."""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from segzoo.compat import is_exporting
from segzoo.errors import SegZooError
from segzoo.layers.conv import Conv2d, ConvNormAct
from segzoo.layers.initial import reset_as_torch
from segzoo.layers.tokens import to_map, to_tokens

PairFunction = Literal["gaussian", "embedded_gaussian", "dot_product", "concatenation"]


class NonLocalBlock(nn.Module):
    """``x + out(mean of the values of all pixels, weighted for each pixel)``, at first ``x`` itself.

    From "Non-local Neural Networks" (Wang et al., 2018), https://arxiv.org/abs/1711.07971. No mode holds a matrix of all
    pairs of pixels, where PyTorch's attention does not, but "concatenation".

    Args:
        channels: channels of the map.
        reduction: how many times narrower queries, keys and values are.
        mode: how the weight of a pair of pixels comes from its query and its key. "embedded_gaussian" and "gaussian",
            whose queries and keys are the map itself: the softmax of their products; "dot_product": their product,
            "concatenation": the rectified projection of both, each divided by the number of pixels.
        use_scale: the products of "embedded_gaussian" are divided by the root of the number of channels.
        sub_sample: keys and values are the largest ones of squares of 2x2 pixels.
        options: norm of the output, as in `ConvNormAct`.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 2,
        mode: PairFunction = "embedded_gaussian",
        use_scale: bool = True,
        sub_sample: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        width = max(channels // reduction, 1)
        self.mode = mode
        self.scale = width**-0.5 if use_scale and mode == "embedded_gaussian" else 1.0
        self.value = Conv2d(channels, width, 1)
        self.query = self.key = self.pair = None
        if mode != "gaussian":
            self.query, self.key = Conv2d(channels, width, 1), Conv2d(channels, width, 1)
        if mode == "concatenation":
            self.pair = Conv2d(2 * width, 1, 1, bias=False)
        self.pool = nn.MaxPool2d(2) if sub_sample else nn.Identity()
        self.out = ConvNormAct(width, channels, 1, **options | {"activation": None})

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H, W)."""
        mixed = self.mix(*self.project(x))
        return x + self.out(to_map(mixed, x.shape[-2:]))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map (B, channels, H, W), each (B, C, H', W').

        Raises:
            SegZooError: with ``sub_sample`` the map has no square of 2x2 pixels.
        """
        if isinstance(self.pool, nn.MaxPool2d) and not is_exporting() and min(x.shape[-2:]) < 2:
            raise SegZooError(
                f"a non-local block with sub_sample takes maps of 2x2 pixels at least, and got one of {x.shape[-2]}x{x.shape[-1]}; "
                "use larger images"
            )
        query = x if self.query is None else self.query(x)
        key = x if self.key is None else self.key(x)
        return query, self.pool(key), self.pool(self.value(x))

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The weighted means of the values for each query, (B, H * W, C); all three are maps."""
        value = to_tokens(value)
        if self.mode == "dot_product":  # whose sums may be taken in the order that makes no matrix of all pairs
            return to_tokens(query) @ (key.flatten(2) @ (value / value.shape[1]))
        if self.pair is not None:
            width = query.shape[1]  # the projection of a pair is that of the query and that of the key
            of_query = self.pair(F.pad(query, (0, 0, 0, 0, 0, width))).flatten(2)
            of_key = self.pair(F.pad(key, (0, 0, 0, 0, width, 0))).flatten(2)
            return F.relu(of_query.mT + of_key) @ (value / value.shape[1])
        return _attention(to_tokens(query), to_tokens(key), value, self.scale)

    def reset(self) -> None:
        """Initialise the block as the original does: narrow projections, and an output of 0."""
        for conv in (self.query, self.key, self.value):
            if conv is not None:
                init.normal_(conv.weight, std=0.01)
                init.zeros_(conv.bias)
        last = self.out.conv if isinstance(self.out.norm, nn.Identity) else self.out.norm
        init.zeros_(last.weight)
        init.zeros_(last.bias)


class DisentangledNonLocalBlock(NonLocalBlock):
    """`NonLocalBlock` whose weights of pairs tell from what both pixels differ in, beside weights of single pixels.

    From "Disentangled Non-Local Neural Networks" (Yin et al., 2020), https://arxiv.org/abs/2006.06668. The means of
    queries and keys over the map are taken from them; a second mean of the values, with weights that do not depend on
    the query, is added to the first.

    Args:
        channels: channels of the map.
        temperature: by which the products of "embedded_gaussian" are divided.
        options: of `NonLocalBlock`, whose ``sub_sample`` and whose mode "gaussian" do not go with this.
    """

    def __init__(self, channels: int, *, temperature: float, **options: Any) -> None:
        super().__init__(channels, **options)
        if self.mode == "embedded_gaussian":
            self.scale /= temperature
        self.mask = Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x)
        query, key = (part - part.mean((2, 3), keepdim=True) for part in (query, key))
        shares = self.mask(x).flatten(2).softmax(dim=-1)
        mixed = self.mix(query, key, value) + shares @ to_tokens(value)
        return x + self.out(to_map(mixed, x.shape[-2:]))

    def reset(self) -> None:
        super().reset()
        reset_as_torch(self.mask)


def _attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention of queries (B, N, C) to keys (B, M, C) and values (B, M, D), (B, N, D).

    PyTorch's implementations without a matrix of all pairs need equal widths and tokens that are contiguous.
    """
    width = value.shape[2]
    value = F.pad(value, (0, query.shape[2] - width)) if query.shape[2] > width else value
    query, key, value = (x.contiguous().unsqueeze(1) for x in (query, key, value))  # one head, which exports ask for
    return F.scaled_dot_product_attention(query, key, value, scale=scale).squeeze(1)[..., :width]
