"""K-Net's head: an update's formula, its generator, its losses, and half precision."""

import pytest
import torch
from support.contract import assert_close, settle

from segzoo import AutoHead, SegZooConfig, SegZooForSemanticSegmentation
from segzoo.backbones import ResNetConfig
from segzoo.errors import SegZooError
from segzoo.heads import ASPPHeadConfig, KNetHead, KNetHeadConfig, PSPHeadConfig, UPerHeadConfig

LABELS = torch.randint(0, 5, (2, 64, 96), generator=torch.Generator().manual_seed(1))


def build(**options):
    config = KNetHeadConfig.tiny()
    return settle(KNetHead(KNetHeadConfig(**{**config.to_diff_dict(), "num_labels": 5, **options}))).eval()


@torch.no_grad()
def test_a_stage_updates_kernels_by_what_their_masks_show():
    head = build(num_stages=1).double()
    x = torch.randn(2, 32, 6, 5).double()
    features = head.generator.features(x)
    weight, stage = head.classifier.weight.flatten(1), head.stages[0]
    masks = torch.einsum("kc,bchw->bkhw", weight, features) + head.classifier.bias[:, None, None]
    mapped = stage.transform(features)
    gathered = torch.einsum("bkhw,bchw->bkc", masks.softmax(1), mapped)
    updated = []
    for i in range(2):  # both parts of each kernel, 8 of 16 channels
        part, updator = slice(8 * i, 8 * i + 8), stage.updator
        g_in, g_out = updator.gathered(gathered[..., part]).split(8, -1)
        k_in, k_out = updator.kernel(weight[:, part]).split(8, -1)
        gates = (updator.gathered_gate, updator.gathered_gate_norm), (updator.kernel_gate, updator.kernel_gate_norm)
        of_gathered, of_kernel = (norm(linear(g_in * k_in)).sigmoid() for linear, norm in gates)
        mixed = of_gathered * updator.gathered_norm(g_out) + of_kernel * updator.kernel_norm(k_out)
        updated.append(updator.output_norm(updator.output(mixed)).relu())
    kernels = torch.cat(updated, -1)
    kernels = stage.attention_norm(kernels + stage.attention(kernels, kernels, kernels))
    kernels = stage.mask_layers(stage.feed_forward(kernels))
    output = head([x, x, x])
    assert_close(output.logits, torch.einsum("bkc,bchw->bkhw", kernels, mapped), 1e-12)
    assert_close(output.stage_logits[0], masks, 1e-12)


@pytest.mark.parametrize("generator", [PSPHeadConfig, ASPPHeadConfig, UPerHeadConfig])
def test_generators(generator, tmp_path):
    inner = generator.tiny()
    options = {"num_stages": 1, "update_channels": 8, "num_heads": 2, "feed_forward_channels": None}
    config = KNetHeadConfig.of(inner, **options)
    assert config.in_channels == inner.in_channels and config.num_labels == inner.num_labels
    assert config.generator_config.to_dict() == {**inner.to_dict(), "num_labels": 2}
    head = settle(KNetHead(config)).eval()
    head.save_pretrained(tmp_path)
    loaded = AutoHead.from_pretrained(tmp_path).eval()
    inputs = inner.tiny_inputs(2, 19, 27)
    assert_close(loaded(**inputs).logits, head(**inputs).logits)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"generator": {"model_type": "segzoo_da_head"}}, "model_type 'segzoo_da_head'.*segzoo_fcn_head"),
        ({"generator": {"model_type": "segzoo_knet_head"}}, "model_type"),
        ({"generator": {"model_type": ["x"]}}, "model_type"),
        ({"generator": {"model_type": "segzoo_fcn_head", "channels": 8}}, "channels, which every head has"),
        ({"generator": {"model_type": "segzoo_fcn_head", "kernel_size": 2}}, "kernel_size"),
        ({"num_heads": 3}, "multiple of num_heads=3"),
        ({"update_channels": 5}, "multiple of update_channels=5"),
        ({"update_dropout": 1.0}, "no probability"),
        ({"num_stages": 100, "num_mask_layers": 100}, "layers"),
    ],
)
def test_what_does_not_fit_is_refused(options, cause):
    with pytest.raises(SegZooError, match=cause):
        KNetHeadConfig(**{**KNetHeadConfig.tiny().to_diff_dict(), **options})


def test_every_stage_has_a_loss():
    head = build(dropout=0.0)
    output = head(**head.config.tiny_inputs())
    losses = head.compute_loss(output, LABELS, 255)
    assert list(losses) == ["cross_entropy", "stage_0.cross_entropy", "stage_1.cross_entropy"]
    output.logits = output.stage_logits[1]
    assert head.compute_loss(output, LABELS, 255)["cross_entropy"] == losses["stage_1.cross_entropy"]
    assert build(own_outputs=3).compute_loss(output, LABELS, 255) == {}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_over_pixels_do_not_overflow_in_half_precision(dtype):
    head = build(num_stages=1)
    head.classifier.weight.zero_()  # one class has all pixels
    head.classifier.bias.copy_(torch.tensor([20.0, 0.0, 0.0, 0.0, 0.0]))
    stage, features = head.stages[0], 60 + torch.rand(1, 16, 113, 97)
    masks, kernels = head.classifier(features), head.kernels(features)
    wanted = stage(features, kernels[None], masks)
    assert (features.sum((2, 3)) > torch.finfo(torch.float16).max).all()
    with torch.autocast("cpu", dtype=dtype):
        under_autocast = stage(features, kernels[None], masks)
    stage.to(dtype)
    found = stage(features.to(dtype), kernels[None].to(dtype), masks.to(dtype))
    for half in (under_autocast, found):
        for x, y in zip(half, wanted, strict=True):
            assert_close(x.float(), y, 0.05)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_do_not_lose_their_digits_to_the_bias(dtype):
    head = build()
    head.classifier.bias.fill_(3.0)
    weight, features = head.classifier.weight[..., 0, 0], torch.zeros(1, 16, 2, 2)
    with torch.autocast("cpu", dtype=dtype):
        assert_close(head.kernels(features).float(), weight, 2 * torch.finfo(dtype).eps)


def test_a_model_learns_at_any_size_and_with_checkpointing():
    torch.manual_seed(0)
    inner = UPerHeadConfig(channels=16, pool_scales=[1, 2], dropout=0.0)
    options = {"update_channels": 8, "num_heads": 2, "feed_forward_channels": 32}
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), KNetHeadConfig.of(inner, **options), num_labels=5)
    model = SegZooForSemanticSegmentation(config).double().train()  # norms of pooled grids amplify rounding
    pixels = torch.randn(2, 3, 113, 97).double()
    labels = (pixels.mean(1) > 0).long()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(1)  # of the auxiliary head's dropout
        model(pixels, labels=labels).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, 1e-6)
    ignored = model(pixels, labels=torch.full_like(labels, 255)).loss
    assert ignored.item() == 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model(pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
