"""Models for inference: batch norms folded into the convolutions before them."""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segzoo.backbones.resnet import ResNetBlock
from segzoo.layers.conv import Conv2d, ConvNormAct
from segzoo.layers.transposed_conv import TransposedConvNormAct

_IN_PLACE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.Hardswish)


def fuse_blocks(model: nn.Module) -> None:
    """Fold the batch norm of every `ConvNormAct` and `TransposedConvNormAct` into its convolution, and activate in place.

    Other norms stay as they are, and so do backbones that are not made of these blocks, such as transformers' own.

    Args:
        model: changed in place; in eval mode.
    """
    for module in model.modules():
        if isinstance(module, ConvNormAct):
            _fuse(module, Conv2d)
        elif isinstance(module, TransposedConvNormAct):
            _fuse(module, nn.ConvTranspose2d)
        elif isinstance(module, ResNetBlock):
            _activate_in_place(module.activation)


def _fuse(block: ConvNormAct | TransposedConvNormAct, convolution: type[Conv2d | nn.ConvTranspose2d]) -> None:
    if not isinstance(block.conv, convolution):
        return  # an adapter or a quantiser has replaced it
    if isinstance(block.norm, nn.BatchNorm2d):
        block.conv = fuse_conv_bn_eval(block.conv, block.norm, transpose=convolution is nn.ConvTranspose2d)
        block.norm = nn.Identity()
    _activate_in_place(block.activation)


def _activate_in_place(activation: nn.Module) -> None:
    """A convolution's result and a sum are nobody else's."""
    if isinstance(activation, _IN_PLACE):
        activation.inplace = True
