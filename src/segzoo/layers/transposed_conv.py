"""Transposed convolution, norm and activation in one block."""

from torch import Tensor, nn

from segzoo.layers.conv import ACTIVATIONS, build_norm


class TransposedConvNormAct(nn.Module):
    """``activation(norm(conv(x)))`` with a transposed convolution that makes a map twice as large; it has a bias.

    Args:
        in_channels, out_channels: as in ``nn.ConvTranspose2d``.
        kernel_size: side of the kernel, 2 at least. The border that it reaches beyond the doubled map is cut off.
        norm: a key of ``NORMS``, or None for no norm.
        norm_eps: epsilon of the norm.
        norm_momentum: share of the new batch in the running statistics of a batch norm.
        activation: a key of ``ACTIVATIONS``, or None for no activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: str | None = "batch_norm",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        activation: str | None = "relu",
    ):
        super().__init__()
        odd = kernel_size % 2
        padding = (kernel_size - 2 + odd) // 2
        self.conv = nn.ConvTranspose2d(
            in_channels, out_channels, kernel_size, stride=2, padding=padding, output_padding=odd
        )
        self.norm = build_norm(norm, out_channels, eps=norm_eps, momentum=norm_momentum)
        self.activation = nn.Identity() if activation is None else ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))
