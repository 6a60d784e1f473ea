"""SegFormer's head: the fusion before the resize gives the numbers of the fusion after it."""

import accelerate
import pytest
import torch
from support.contract import assert_close, settle
from support.versions import whole_graph
from torch import nn

from segzoo.heads import SegFormerHead, SegFormerHeadConfig
from segzoo.layers import concatenate


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_are_fused_before_they_are_resized(linear, align_corners):
    torch.manual_seed(0)
    config = SegFormerHeadConfig.tiny()
    config.linear_projections, config.align_corners = linear, align_corners
    head = settle(SegFormerHead(config)).double().eval()
    maps = [x.double() for x in config.tiny_inputs(2, 19, 27)["feature_maps"]]
    projected = [project(x) for project, x in zip(head.projections, maps, strict=True)]
    together = head.fusion_conv.conv(concatenate(projected, align_corners))
    expected = head.classifier(head.fusion_conv.activation(head.fusion_conv.norm(together)))
    assert torch.allclose(head(maps).logits, expected, atol=1e-12)
    assert (head.projections[0].conv.bias is not None) is linear


@pytest.mark.parametrize("activation", ["gelu", "leaky_relu", None])
def test_the_activation_is_that_of_the_projections_as_in_mmsegmentation(activation):
    config = SegFormerHeadConfig.tiny()
    config.activation = activation
    head = SegFormerHead(config)
    wanted = nn.Identity if activation is None else {"gelu": nn.GELU, "leaky_relu": nn.LeakyReLU}[activation]
    assert {type(project.activation) for project in head.projections} == {wanted}
    assert type(head.fusion_conv.activation) is nn.ReLU
    config.linear_projections = True
    head = SegFormerHead(config)
    assert {type(project.activation) for project in head.projections} == {nn.Identity}
    assert type(head.fusion_conv.activation) is wanted


def test_layers_that_an_adapter_replaced_are_called():
    class Doubled(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return 2 * self.layer(x)

    config = SegFormerHeadConfig.tiny()
    config.linear_projections = True
    head = settle(SegFormerHead(config)).eval()
    maps = config.tiny_inputs()["feature_maps"]
    before = head(maps).logits
    head.projections[1].conv = Doubled(head.projections[1].conv)
    changed = head(maps).logits
    assert not torch.allclose(changed, before)
    head.projections[1].conv = head.projections[1].conv.layer
    head.projections[1].conv.weight.data *= 2
    head.projections[1].conv.bias.data *= 2
    assert torch.allclose(head(maps).logits, changed, atol=1e-5)


@pytest.fixture
def linear_head():
    config = SegFormerHeadConfig.tiny()
    config.linear_projections = True
    return settle(SegFormerHead(config)).eval()


@torch.no_grad()
def test_off_loaded_weights_change_nothing(linear_head):
    """They are in their layers' calls alone."""
    inputs = linear_head.config.tiny_inputs()
    expected = linear_head(**inputs).logits
    accelerate.cpu_offload(linear_head, execution_device="cpu")
    assert_close(linear_head(**inputs).logits, expected)


@pytest.mark.parametrize("name", ["projections.1", "projections.1.conv", "fusion_conv", "fusion_conv.conv"])
@torch.no_grad()
def test_hooks_are_called(linear_head, name):
    inputs, layer, seen = linear_head.config.tiny_inputs(), linear_head.get_submodule(name), []
    expected = linear_head(**inputs).logits
    layer.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    assert_close(linear_head(**inputs).logits, expected)
    assert seen == [16]


@whole_graph
@torch.no_grad()
def test_one_step_compiles(linear_head):
    inputs = linear_head.config.tiny_inputs()
    torch.compiler.reset()
    compiled = torch.compile(linear_head, backend="aot_eager", fullgraph=True)
    assert_close(compiled(**inputs).logits, linear_head(**inputs).logits)
