"""The composite model: what a user of transformers, Trainer, peft and torch.compile relies on."""

import copy
import json

import pytest
import torch
import transformers
from support.contract import assert_close, assert_gradients, assert_same_state, settle
from support.versions import whole_graph
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    ConvNextConfig,
    Dinov2Config,
    DINOv3ViTConfig,
    HieraConfig,
    PvtV2Config,
    SwinConfig,
    TimmBackboneConfig,
)

from segzoo import SegZooConfig, SegZooForSemanticSegmentation
from segzoo.auto import HEADS
from segzoo.backbones import InternImageConfig, ResNetConfig
from segzoo.errors import SegZooError
from segzoo.heads import (
    FCNHeadConfig,
    FPNHeadConfig,
    Mask2FormerHeadConfig,
    PSPHeadConfig,
    SegmenterHeadConfig,
    SETRMLAHeadConfig,
    SETRUPHeadConfig,
    UPerHeadConfig,
)
from segzoo.losses import CrossEntropyLoss, DiceLoss, FocalLoss, LovaszLoss
from segzoo.necks import FPNNeck, MLANeckConfig, PyramidNeckConfig

LABELS = 5
FOREIGN = {
    "swin": SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1]),
    "dinov2": Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=56),
    "dinov3_vit": DINOv3ViTConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32),
    "hiera": HieraConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], image_size=[64, 64]),
    "resnet": transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1] * 4, layer_type="basic"
    ),
}


def build(config=None, **changes) -> SegZooForSemanticSegmentation:
    config = SegZooConfig.tiny() if config is None else config
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return settle(SegZooForSemanticSegmentation(config)).eval()


def batch(size=(64, 96), count=2, labels=LABELS):
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, 3, *size, generator=generator)
    targets = torch.randint(0, labels, (count, *size), generator=generator)
    targets[:, :4] = 255
    return images, targets


# --- heads and backbones -----------------------------------------------------------------------------------------------


def decode_heads(model_type):
    """The configs of a model with this head, and with an FCN head of the same map where it cannot be alone."""
    config = HEADS[model_type].config.tiny()
    config.in_channels = None
    if config.own_outputs is not None:  # it cannot be the last one
        return [config, FCNHeadConfig(channels=8, in_index=config.in_index)]
    return [FCNHeadConfig(channels=8, in_index=config.in_index), config] if config.reads_previous else [config]


@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_head_with_a_resnet(head, tmp_path):
    """Every backbone with one head is in `backbones/test_contract.py`."""
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), num_labels=LABELS)
    config.decode_head_configs = decode_heads(head)
    model = build(config)
    images, labels = batch()
    output = model(images, labels=labels)
    assert output.logits.shape[:2] == (2, LABELS)
    assert torch.isclose(output.loss, sum(output.losses.values()))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path).eval()
    assert_same_state(model, loaded)
    assert_close(loaded(images).logits, output.logits)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_head_trains_two_steps(head):
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), num_labels=LABELS)
    config.decode_head_configs = decode_heads(head)
    model = build(config).train()
    model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = batch()
    before = {name: parameter.clone() for name, parameter in model.decode_heads.named_parameters()}
    losses = []
    for _ in range(3):
        torch.manual_seed(0)  # the same channels dropped, the same points drawn
        loss = model(images, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    for name, parameter in model.decode_heads.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_backbones_of_transformers(name, tmp_path):
    config = SegZooConfig.from_backbone(FOREIGN[name], UPerHeadConfig(channels=8), num_labels=LABELS)
    assert (config.neck_config is not None) == name.startswith("dino")
    model = build(config)
    images, labels = batch((56, 56) if name == "dinov2" else (64, 64))
    output = model(images, labels=labels)
    assert output.logits.shape[-2:] == (16, 16)
    model.train()(images, labels=labels).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert_same_state(model, loaded)


def test_backbone_of_timm(tmp_path):
    pytest.importorskip("timm")
    backbone = TimmBackboneConfig(backbone="resnet18", out_indices=[1, 2, 3, 4], use_pretrained_backbone=False)
    model = build(SegZooConfig.from_backbone(backbone, UPerHeadConfig(channels=8), num_labels=LABELS))
    images, labels = batch((64, 64))
    assert model(images, labels=labels).logits.shape == (2, LABELS, 16, 16)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert_same_state(model, loaded)


def test_other_input_channels():
    backbone = ResNetConfig.tiny()
    backbone.num_channels = 7
    model = build(SegZooConfig.from_backbone(backbone, FCNHeadConfig(channels=8), num_labels=LABELS))
    assert model(torch.randn(1, 7, 64, 64)).logits.shape[1] == LABELS
    with pytest.raises(SegZooError, match="3 channels, the backbone takes 7"):
        model(torch.randn(1, 3, 64, 64))


def test_heads_in_cascade_see_the_one_before():
    config = SegZooConfig.tiny()
    config.decode_head_configs.append(FCNHeadConfig(channels=8, num_labels=LABELS))
    model = build(config)
    seen = []
    model.decode_heads[1].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["previous"]), with_kwargs=True
    )
    images, labels = batch()
    output = model(images, labels=labels)
    assert seen[0].logits.shape == (2, LABELS, 16, 24)
    assert output.logits.shape == (2, LABELS, 2, 3)
    assert set(output.losses) == {"decode_0.cross_entropy", "decode_1.cross_entropy", "auxiliary_0.cross_entropy"}


def test_the_chosen_maps_of_a_segzoo_backbone_stay():
    config = SegZooConfig.from_backbone(ResNetConfig(depth=18, out_features=["stage3"]), FCNHeadConfig(channels=8))
    assert config.backbone_config.out_features == ["stage3"]
    assert config.auxiliary_head_configs[0].in_index == [-1], "the only map there is"


def test_all_stages_of_a_backbone_without_a_stem():
    backbone = PvtV2Config(depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4)
    assert backbone.stage_names == ["stage1", "stage2", "stage3", "stage4"]
    config = SegZooConfig.from_backbone(backbone)
    assert config.backbone_config.out_features == backbone.stage_names and config.neck_config is None


def test_semantic_fpn_is_a_head_behind_a_neck():
    config = SegZooConfig.from_backbone(FOREIGN["convnext"], FPNHeadConfig(channels=8), num_labels=LABELS)
    model = settle(SegZooForSemanticSegmentation(config)).eval()
    assert isinstance(model.neck, FPNNeck) and model.neck.config.in_channels == [8, 16, 16, 32]
    assert model(torch.randn(2, 3, 64, 96)).logits.shape == (2, LABELS, 16, 24)
    plain = SegZooConfig.from_backbone(FOREIGN["dinov2"], FPNHeadConfig(channels=8))
    assert isinstance(plain.neck_config, PyramidNeckConfig)
    assert SegZooConfig.from_backbone(ResNetConfig.tiny(), UPerHeadConfig()).neck_config is None


@pytest.mark.parametrize(
    ("head", "neck"),
    [(SETRUPHeadConfig(), None), (SegmenterHeadConfig(), None), (SETRMLAHeadConfig(channels=16), MLANeckConfig)],
)
def test_heads_for_the_maps_of_plain_vits_get_them_unscaled(head, neck):
    head.channels = 16
    if isinstance(head, SegmenterHeadConfig):
        head.num_heads = 2
    config = SegZooConfig.from_backbone(FOREIGN["dinov2"], head, num_labels=LABELS)
    assert config.neck_config is None if neck is None else isinstance(config.neck_config, neck)
    model = settle(SegZooForSemanticSegmentation(config)).eval()
    assert model(torch.randn(1, 3, 56, 84)).logits.shape[:2] == (1, LABELS)
    assert model.auxiliary_heads[0](model.forward_maps(torch.randn(1, 3, 56, 84))[0]).logits.shape[1] == LABELS


# --- configs ---------------------------------------------------------------------------------------------------------


def test_config_json_round_trip(tmp_path):
    config = SegZooConfig.from_backbone(
        ResNetConfig.tiny(),
        PSPHeadConfig(channels=8, losses=[CrossEntropyLoss(class_weights=(1, 2, 3)), DiceLoss(weight=3)]),
        id2label={0: "sky", 1: "road", 2: "car"},
        palette=[[0, 0, 0], [1, 2, 3], [4, 5, 6]],
        window_size=(64, 64),
        window_stride=(32, 48),
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, SegZooConfig)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.label2id == {"sky": 0, "road": 1, "car": 2}
    assert [c.num_labels for c in loaded.decode_head_configs + loaded.auxiliary_head_configs] == [3, 3]
    text = (tmp_path / "config.json").read_text()
    assert text.count("sky") == 2, "class names stand in id2label and label2id alone"
    assert "num_labels" not in json.loads(text)["decode_head_configs"][0]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"decode_head_configs": []}, "at least one decode head"),
        ({"decode_head_configs": [{"channels": 8}]}, "model_type"),
        ({"decode_head_configs": [ResNetConfig.tiny()]}, "no head config"),
        ({"neck_config": ResNetConfig.tiny()}, "neck_config"),
        ({"window_size": [64, 64]}, "go together"),
        ({"window_size": [64, 64], "window_stride": [65, 64]}, "no longer than the window"),
        ({"palette": [[0, 0, 0]]}, "1 colours for 2 classes"),
        ({"id2label": {0: "road", 2: "sky"}}, "2 classes, and none of them has the id 1"),
        ({"ignore_index": 0}, "no option 'ignore_index'"),
    ],
)
def test_wrong_configs(options, words):
    with pytest.raises(SegZooError, match=words):
        SegZooConfig(**options)


def test_head_that_reads_a_map_that_is_not_there():
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), FCNHeadConfig(in_index=[4], channels=8))
    with pytest.raises(SegZooError, match="there are 4"):
        SegZooForSemanticSegmentation(config)


# --- inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x, y: (x[0], None), "must be"),
        (lambda x, y: (x, y[:, :-1]), "of the same images"),
        (lambda x, y: (x, y.float()), "int64"),
    ],
)
def test_wrong_inputs(change, words):
    images, labels = change(*batch())
    with pytest.raises(SegZooError, match=words):
        build()(images, labels=labels)


def test_one_class_is_not_trained_on_in_silence():
    one = SegZooConfig.from_backbone(ResNetConfig.tiny(), FCNHeadConfig(channels=8), num_labels=1)
    images = torch.randn(1, 3, 64, 64)
    assert build(one)(images).logits.shape[1] == 1
    with pytest.raises(SegZooError, match="a model of one class learns nothing.*two classes"):
        build(one)(images, labels=torch.zeros(1, 64, 64, dtype=torch.int64))
    queries = SegZooConfig.from_backbone(
        ResNetConfig.tiny(), HEADS["segzoo_mask2former_head"].config.tiny(), num_labels=1
    )
    queries.decode_head_configs[0].in_channels, queries.auxiliary_head_configs = None, []
    assert (
        build(queries)(images, labels=torch.zeros(1, 64, 64, dtype=torch.int64)).loss > 0
    )  # "no object" is its other class


def test_labels_and_windows_exclude_each_other():
    images, labels = batch()
    with pytest.raises(SegZooError, match="exclude each other"):
        build()(images, labels=labels, window_size=(32, 32))


# --- training --------------------------------------------------------------------------------------------------------


def test_gradients_reach_every_parameter():
    model = build().train()
    images, labels = batch()
    model(images, labels=labels).loss.backward()
    assert_gradients(model)


def test_only_ignored_labels():
    model = build().train()
    images, labels = batch()
    loss = model(images, labels=torch.full_like(labels, 255)).loss
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_losses_are_weighted():
    model = build()
    images, labels = batch()
    losses = model(images, labels=labels).losses
    model.set_losses(auxiliary_losses=[CrossEntropyLoss()])
    again = model(images, labels=labels).losses
    assert_close(losses["auxiliary_0.cross_entropy"], 0.4 * again["auxiliary_0.cross_entropy"])
    assert torch.equal(losses["decode_0.cross_entropy"], again["decode_0.cross_entropy"])


def test_other_losses(tmp_path):
    model = build().train()
    images, labels = batch()
    model.set_losses([{"type": "focal"}, {"type": "lovasz", "weight": 0.5}], [{"type": "dice"}])
    output = model(images, labels=labels)
    assert set(output.losses) == {"decode_0.focal", "decode_0.lovasz", "auxiliary_0.dice"}
    assert_close(output.loss, sum(output.losses.values()))
    output.loss.backward()
    assert_gradients(model)
    model.save_pretrained(tmp_path)
    loaded = SegZooForSemanticSegmentation.from_pretrained(tmp_path)
    assert loaded.decode_heads[0].losses == (FocalLoss(), LovaszLoss(weight=0.5))
    assert loaded.auxiliary_heads[0].losses == (DiceLoss(),)


def test_losses_of_other_classes():
    with pytest.raises(SegZooError, match="class_weights has 2 entries for 5 classes"):
        build().set_losses([{"type": "cross_entropy", "class_weights": [1, 2]}])
    head = UPerHeadConfig(channels=8, losses=[CrossEntropyLoss(class_weights=(1, 2))])
    with pytest.raises(SegZooError, match="class_weights has 2 entries for 3 classes"):
        SegZooConfig.from_backbone(ResNetConfig.tiny(), head, num_labels=3)


@pytest.mark.parametrize("classes", [{"num_labels": 3}, {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}])
def test_class_weights_do_not_follow_to_other_classes(classes, tmp_path):
    model = build()
    model.set_losses([CrossEntropyLoss(weight=2.0, class_weights=(1, 2, 3, 4, 5))])
    model.save_pretrained(tmp_path)
    same = SegZooForSemanticSegmentation.from_pretrained(tmp_path)
    assert same.decode_heads[0].losses[0].class_weights == (1.0, 2.0, 3.0, 4.0, 5.0)
    other = SegZooForSemanticSegmentation.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **classes)
    assert other.decode_heads[0].losses == (CrossEntropyLoss(weight=2.0),)
    assert other.config.decode_head_configs[0].losses == [{"type": "cross_entropy", "weight": 2.0}]
    assert other.auxiliary_heads[0].losses == (CrossEntropyLoss(weight=0.4),)


def test_bfloat16_autocast_trains():
    model = build().train()
    images, labels = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, labels=labels)
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    assert_gradients(model)


def test_activation_checkpointing_gives_equal_losses_and_statistics():
    images, labels = batch()
    results = []
    for checkpointing in (False, True):
        model = build().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        torch.manual_seed(2)
        loss = model(images, labels=labels).loss
        loss.backward()
        results.append((loss, [p.grad for p in model.parameters()], list(model.buffers())))
    assert_close(results[1][0], results[0][0])
    for part in (1, 2):
        for a, b in zip(results[1][part], results[0][part], strict=True):
            assert_close(a.double(), b.double())


def test_batch_equals_single():
    model = build()
    images, _ = batch((75, 109), 3)
    with torch.no_grad():
        together = model(images).logits
        for i in range(3):
            assert_close(together[i : i + 1], model(images[i : i + 1]).logits)


def test_trainer_with_accumulation_keeps_the_loss(tmp_path):
    """One step over four images equals two accumulated steps over two, and evaluation returns logits alone."""
    images, labels = batch((64, 64), 4)
    rows = [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    weights = []
    for per_device, accumulation in ((4, 1), (2, 2)):
        model = build()
        for module in model.modules():
            if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Dropout2d)):
                module.train = lambda mode=True: None  # batch statistics would differ between the two
        arguments = transformers.TrainingArguments(
            output_dir=tmp_path / str(accumulation),
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=0.1,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            remove_unused_columns=False,
        )
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
        trainer.train()
        weights.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*weights, strict=True):
        assert_close(a, b, 1e-4)
    prediction = trainer.predict(rows)
    assert prediction.predictions.shape == (4, LABELS, 16, 16)


# --- loading ---------------------------------------------------------------------------------------------------------


def test_new_classes_replace_the_classifiers_alone(tmp_path):
    config = SegZooConfig.tiny()
    config.palette = [[i, i, i] for i in range(LABELS)]
    model = build(config)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(
        tmp_path, num_labels=3, ignore_mismatched_sizes=True
    ).eval()
    assert loaded.config.num_labels == 3 and loaded.config.palette is None
    assert loaded(batch()[0]).logits.shape[1] == 3
    old = model.state_dict()
    changed = [k for k, v in loaded.state_dict().items() if old[k].shape != v.shape]
    assert changed and all("classifier" in k for k in changed)
    assert all(torch.equal(v, old[k]) for k, v in loaded.state_dict().items() if k not in changed)
    loaded.save_pretrained(tmp_path / "again")
    assert AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "again").config.num_labels == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id2label": {1: "road", 2: "car", 3: "sky"}}, "none of them has the id 0, .* from 0 to 2 in id2label"),
        ({"id2label": {0: "road", 2: "sky"}}, "none of them has the id 1"),
        ({"id2label": {0: "road", 1: 7}}, "the name of class 1 is no text"),
        ({"id2label": {"road": 0, "sky": 1}}, "must give each class's id its name"),
        ({"id2label": ["road", "sky"]}, "must give each class's id its name"),
        ({"window_size": [64, 64]}, "go together"),
    ],
)
def test_options_that_from_pretrained_sets_are_checked(options, words, tmp_path):
    build().save_pretrained(tmp_path)
    with pytest.raises(SegZooError, match=words):
        SegZooForSemanticSegmentation.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **options)


def test_a_config_whose_classes_were_changed_is_saved_for_them(tmp_path):
    head = UPerHeadConfig(channels=8, losses=[CrossEntropyLoss(class_weights=(1, 2, 3))])
    config = SegZooConfig.from_backbone(ResNetConfig.tiny(), head, num_labels=3, palette=[[i] * 3 for i in range(3)])
    config.id2label = {0: "road", 1: "sky"}
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.id2label == config.id2label and loaded.palette is None
    assert loaded.decode_head_configs[0].losses == [{"type": "cross_entropy"}]


def test_missing_weights_are_initialised(tmp_path):
    """A checkpoint without its heads: transformers builds on the meta device, and nothing may stay uninitialised."""
    model = build()
    state = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert all(torch.isfinite(p).all() for p in loaded.parameters())
    assert 0.005 < loaded.decode_heads[0].classifier.weight.std() < 0.02
    assert loaded.decode_heads[0].fusion_conv.norm.weight.eq(1).all()


def test_tuple_output_and_hidden_states():
    model = build()
    images, labels = batch()
    assert torch.equal(model(images, return_dict=False)[0], model(images).logits)
    assert len(model(images, output_hidden_states=True).hidden_states) == 5
    assert model(images).hidden_states is None
    everything = model(images, labels=labels, output_hidden_states=True)
    assert list(everything) == ["loss", "losses", "logits", "hidden_states"]


def test_the_config_of_a_caller_is_not_shared_between_models():
    heads = [UPerHeadConfig(channels=8)]
    SegZooForSemanticSegmentation(SegZooConfig(backbone_config=ResNetConfig.tiny(), decode_head_configs=heads))
    assert heads[0].in_channels is None


# --- compile, windows, peft ------------------------------------------------------------------------------------------


@whole_graph
def test_compiles_as_one_graph_forward_and_loss():
    model = build()
    images, labels = batch()
    compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)  # what follows lowers the graph
    assert_close(compiled(images).logits, model(images).logits)
    model.train()
    torch.manual_seed(1)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(images, labels=labels).loss.backward()
    assert_gradients(model)


@whole_graph
@pytest.mark.slow  # an InternImage is compiled, and trained, in each run: tests/ops/test_forms.py
@pytest.mark.parametrize(
    "backbone",
    [ResNetConfig.tiny(), InternImageConfig(channels=8, depths=[1, 1], groups=[1, 2])],
    ids=lambda config: config.model_type,
)
def test_inductor(backbone):
    config = SegZooConfig.from_backbone(backbone, UPerHeadConfig(channels=8), num_labels=LABELS)
    model, images = build(config), batch((64, 64))[0]
    with torch.no_grad():
        assert_close(torch.compile(model, fullgraph=True)(images).logits, model(images).logits, 1e-4)


def test_labels_that_are_no_classes_are_named():
    model = build()
    images, labels = batch()
    labels[0, 10, :3] = LABELS
    with pytest.raises(SegZooError, match=rf"outside 0\.\.{LABELS - 1} .*: {LABELS} \(3 pixels\)"):
        model(images, labels=labels)


def test_windows_cover_the_image():
    model = build()
    images, _ = batch((70, 101))
    with torch.no_grad():
        windows = model(images, window_size=(64, 64), window_stride=(40, 40)).logits
        whole = model(images, window_size=(70, 101), window_stride=(70, 101)).logits
        plain = torch.nn.functional.interpolate(model(images).logits, size=(70, 101), mode="bilinear")
    assert windows.shape == whole.shape == (2, LABELS, 70, 101)
    assert_close(whole, plain)
    assert (windows - whole).abs().max() > 1e-3


def test_the_layer_that_reads_the_images_is_found():
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    first = model.get_input_embeddings()
    assert isinstance(first, torch.nn.Conv2d) and first.in_channels == 3
    assert model.backbone.get_input_embeddings() is first
    assert model.decode_heads[0].get_input_embeddings() is None
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert model(torch.randn(2, 3, 64, 64)).logits.requires_grad


def test_lora_with_the_head_trained_in_full(tmp_path):
    peft = pytest.importorskip("peft")
    config = SegZooConfig.from_backbone(FOREIGN["dinov2"], UPerHeadConfig(channels=8), num_labels=LABELS)
    model = build(config)
    images, labels = batch((56, 56))
    lora = peft.LoraConfig(
        r=2,
        target_modules=["q_proj", "v_proj", "query", "value"],
        modules_to_save=["neck", "decode_heads.0", "auxiliary_heads.0"],
    )
    tuned = peft.get_peft_model(copy.deepcopy(model), lora).train()
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        tuned(pixel_values=images, labels=labels).loss.backward()
        optimizer.step()
    tuned.eval()
    tuned.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).eval()
    with torch.no_grad():
        assert_close(loaded(pixel_values=images).logits, tuned(pixel_values=images).logits)
        assert (model(images).logits - tuned(pixel_values=images).logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (FCNHeadConfig(in_index=None), "reads 4 maps"),
        (FCNHeadConfig(num_convs=0, concat_input=False, channels=7), "must equal the input's"),
        (Mask2FormerHeadConfig(num_levels=5), "num_levels=5, but the head reads 4 maps"),
    ],
    ids=["maps", "channels", "levels"],
)
def test_heads_that_do_not_fit_the_backbone_are_refused_when_built(head, message):
    config = SegZooConfig(backbone_config=ResNetConfig.tiny(), decode_head_configs=[head])
    with pytest.raises(SegZooError, match=message):
        SegZooForSemanticSegmentation(config)
