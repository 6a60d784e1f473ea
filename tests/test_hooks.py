"""What the ecosystem hooks onto: every layer uses its weights in its own forward and nowhere else.

Forward hooks, LoRA, off-loading and quantisers replace a layer, or fill its weights in just before it runs. A weight
that another module reads is then old, empty or of another type, mostly without an error.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator

import accelerate
import pytest
import torch
from support.contract import assert_close, settle
from support.odd_backbones import ODD_BACKBONES
from support.versions import device_map_with_disk
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForSemanticSegmentation

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.auto import BACKBONES, HEADS, NECKS
from segzoo.heads import UPerHeadConfig

COMPONENTS = BACKBONES | ODD_BACKBONES | NECKS | HEADS
WITH_WEIGHTS = (nn.Linear, nn.Conv2d)

# Layers that read others' weights fail with every way that has such weights elsewhere: every component is off-loaded to the CPU
# each time, and these, which are built most differently, are off-loaded to files and sharded too.
ALWAYS = {
    "segzoo_internimage",
    "segzoo_mobilenetv3",
    "segzoo_resnet",
    "segzoo_stage_encoder",
    "segzoo_swin",
    "segzoo_vit_adapter",
    "segzoo_fpn_neck",
    "segzoo_mla_neck",
    "segzoo_knet_head",
    "segzoo_mask2former_head",
    "segzoo_uper_head",
}
assert COMPONENTS.keys() >= ALWAYS


def each(names: Iterable[str]) -> list:
    return [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in sorted(names)]


every_component = pytest.mark.parametrize("model_type", sorted(COMPONENTS))


def build(model_type: str) -> tuple[nn.Module, Callable[[], list[Tensor]]]:
    """A tiny component in evaluation mode, and a function that runs it on inputs that stay the same."""
    entry = COMPONENTS[model_type]
    model = settle(entry.model(entry.config.tiny())).eval()
    if model_type in HEADS:
        inputs = model.config.tiny_inputs()
        labels = torch.randint(0, model.config.num_labels, (2, 64, 96))

        def run() -> list[Tensor]:
            output = model(**inputs)
            torch.manual_seed(1)  # losses may choose points at random
            return [output.logits, *model.compute_loss(output, labels, 255).values()]

    elif model_type in NECKS:
        maps = [torch.randn(2, channels, 6, 8) for channels in model.config.in_channels]
        run = lambda: list(model(maps))  # noqa: E731
    else:
        images = torch.randn(2, 3, 64, 96)
        run = lambda: list(model(images).feature_maps)  # noqa: E731
    return model, run


def leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that have trained weights of their own and no layers inside."""
    for name, module in model.named_modules():
        if not any(module.children()) and any(p.requires_grad for p in module.parameters()):
            yield name, module


@every_component
def test_every_layer_with_weights_runs(model_type):
    model, run = build(model_type)
    layers, ran = dict(leaves(model)), set()
    for name, module in layers.items():
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
    run()
    assert ran == layers.keys()


@every_component
def test_linear_layers_read_tokens(model_type):
    """And no maps: the 8-bit layer of bitsandbytes fails on inputs of four dimensions."""
    model, run = build(model_type)
    dimensions = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, given, __, name=name: dimensions.update({name: given[0].ndim}))
    run()
    assert not {name for name, number in dimensions.items() if number > 3}


@every_component
def test_lora_reaches_the_gradient(model_type):
    peft = pytest.importorskip("peft")
    model, run = build(model_type)
    names = [
        name
        for name, module in leaves(model)
        # of depthwise convolutions and the like peft asks for a rank that their groups divide, and its own convolutions
        # beside dilated ones have no dilation
        if isinstance(module, WITH_WEIGHTS)
        and getattr(module, "groups", 1) == 1
        and getattr(module, "dilation", (1, 1)) == (1, 1)
    ]
    if not names:  # a neck of transposed convolutions
        return
    # not the usual start, at which the first matrix of each pair has no gradient; small, so that no sigmoid is flat
    model = peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, lora_alpha=1, target_modules=names, init_lora_weights=False), model
    ).eval()
    sum((x * torch.randn_like(x)).sum() for x in run()).backward()
    adapters = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * len(names)
    assert not [name for name, p in adapters.items() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize(
    ("place", "model_type"),
    [
        *(pytest.param("cpu", name) for name in sorted(COMPONENTS)),
        *(pytest.param("disk", *param.values, marks=param.marks) for param in each(COMPONENTS)),
    ],
)
def test_off_loaded_weights_change_nothing(model_type, place, tmp_path):
    model, run = build(model_type)
    with torch.no_grad():
        expected = run()
        if place == "cpu":
            accelerate.cpu_offload(model, execution_device="cpu")
        else:
            accelerate.disk_offload(model, tmp_path, execution_device="cpu")
        assert all(p.device.type == "meta" for p in model.parameters())
        found = run()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@every_component
def test_dynamic_int8_is_near(model_type):
    from torch.ao.quantization import quantize_dynamic

    model, run = build(model_type)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = run()
        quantize_dynamic(model, {nn.Linear}, inplace=True)
        found = run()
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 0.2)


@pytest.fixture(scope="module")
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("model_type", each(COMPONENTS))
def test_every_layer_may_be_sharded_alone(model_type, process_group):
    """Outside its layer's forward a sharded weight is a part, even where there is one process."""
    model, run = build(model_type)
    with torch.no_grad():
        expected = run()
        for _, layer in leaves(model):
            fully_shard(layer, mesh=process_group)
        found = run()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@device_map_with_disk
@pytest.mark.parametrize("model_type", each(BACKBONES | ODD_BACKBONES))
def test_device_map_with_disk(model_type, tmp_path):
    config = SegZooConfig.from_backbone(COMPONENTS[model_type].config.tiny(), UPerHeadConfig(channels=8), num_labels=5)
    model = settle(SegZooForSemanticSegmentation(config)).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForSemanticSegmentation.from_pretrained(
        tmp_path / "model", device_map={"": "disk"}, offload_folder=tmp_path / "disk"
    )
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert all(p.device.type == "meta" for p in loaded.parameters())
        # not exactly: weights lie in the file as they come, and sums of numbers that are not aligned are rounded otherwise
        assert_close(loaded(images).logits, model(images).logits)
