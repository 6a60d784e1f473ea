"""Mask classification: matching, points and losses are the original's, and shortcuts give the same numbers."""

import socket
from pathlib import Path

import pytest
import torch
from parity import synthesis
from safetensors.torch import load_file
from torch import multiprocessing
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig
from segzoo.layers.points import sample_maps, uncertain_points
from segzoo.losses import MaskClassificationLoss, QueryPredictions, build_loss
from segzoo.losses.matching import cheapest_pairs, matching_costs, sample_label_masks

RECORD = load_file(Path(__file__).parent / "records" / "mask2former.safetensors")


def relative_error(found, expected):
    return float((found - expected).detach().abs().max() / expected.abs().max())


def drawing(label):
    """Random numbers as the records have them: the k-th is that of a name with k."""
    count = iter(range(1000))
    return lambda shape: torch.from_numpy(synthesis.random_source(f"{label}:{next(count)}").random(shape)).float()


def test_costs_and_pairs_are_the_originals():
    costs = matching_costs(
        RECORD["assign.cls"],
        RECORD["assign.mask"],
        RECORD["assign.gt_labels"],
        RECORD["assign.gt_masks"],
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
    )
    expected = sum(RECORD[f"assign.cost_{part}"] for part in ("cls", "mask", "dice"))
    assert relative_error(costs, expected) < 1e-12
    ((queries, classes),) = cheapest_pairs([costs])
    assigned = torch.zeros(12, dtype=torch.int64)
    assigned[queries] = classes + 1
    assert torch.equal(assigned, RECORD["assign.assigned_gt_inds"])
    assert torch.equal(queries, queries.sort().values)


def nearest_to_zero(logits):
    return logits[:, 0].abs()


def test_points_are_the_originals():
    options = {"certainty": nearest_to_zero, "oversample_ratio": 3.0, "importance_ratio": 0.75}
    points = uncertain_points(RECORD["points.mask_pred"], 40, **options, draw=drawing("m2f/rand"))
    assert relative_error(points, RECORD["points.coords"]) < 1e-12


def test_losses_are_the_originals():
    loss = MaskClassificationLoss()
    logits, masks = (RECORD[f"losses.{name}"].clone().requires_grad_() for name in ("cls_logits", "pred"))
    class_loss = loss.class_loss_weight * loss.query_class_loss(logits, RECORD["losses.cls_labels"])
    mask_loss, dice_loss = loss.mask_losses(masks, RECORD["losses.target"])
    mask_loss, dice_loss = loss.mask_loss_weight * mask_loss / 3, loss.dice_loss_weight * dice_loss / 3
    for found, name in ((class_loss, "cls"), (mask_loss, "mask"), (dice_loss, "dice")):
        assert found.item() == pytest.approx(RECORD[f"losses.{name}"].item(), rel=1e-8)
    (class_loss + mask_loss + dice_loss).backward()
    assert relative_error(logits.grad, RECORD["losses.grad_cls"]) < 1e-8  # its factor 0.1 is float32's
    assert relative_error(masks.grad, RECORD["losses.grad_pred"]) < 1e-12


def test_label_masks_are_sampled_as_masks_would_be():
    labels = synthesis.labels("sampled", [2, 7, 11], 4, 2)
    points = torch.rand(3, 50, 2, dtype=torch.float64)
    points[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    images, classes = torch.tensor([0, 1, 1]), torch.tensor([[0, 3], [1, 2], [2, 0]])
    found = sample_label_masks(labels, images, points, classes)
    masks = (labels[images][:, None] == classes[:, :, None, None]).double()
    assert relative_error(found, sample_maps(masks, points)) < 1e-12


def predictions(layers=2, batch=2, queries=6, classes=4, channels=5, size=(8, 12), dtype=torch.float64):
    made = [
        QueryPredictions(
            torch.randn(batch, queries, classes + 1, dtype=dtype, requires_grad=True),
            torch.randn(batch, queries, channels, dtype=dtype, requires_grad=True),
        )
        for _ in range(layers)
    ]
    return made, torch.randn(batch, channels, *size, dtype=dtype, requires_grad=True)


def plain_parts(loss, layers, features, labels, draw):
    """The same from whole masks, image by image, as the paper tells it."""
    found, num_labels = {}, layers[0].class_logits.shape[2] - 1
    targets = []
    for image in labels:
        classes = [i for i in image.unique().tolist() if i != 255]
        targets.append((torch.tensor(classes, dtype=torch.int64), torch.stack([image == c for c in classes]).double()))
    for number, layer in enumerate(layers):
        masks = torch.einsum("bqc,bchw->bqhw", layer.mask_embeddings, features)
        chosen, wanted_masks = [], []
        wanted = torch.full(layer.class_logits.shape[:2], num_labels)
        for i, (classes, whole) in enumerate(targets):
            points = draw((1, loss.num_points, 2)).double()
            sampled = sample_maps(masks[i][None], points)[0]
            truth = sample_maps(whole[None], points)[0]
            costs = torch.zeros(len(sampled), len(truth), dtype=torch.float64)
            for q, x in enumerate(sampled):
                for m, y in enumerate(truth):
                    p = x.sigmoid()
                    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
                    bce = F.binary_cross_entropy_with_logits(x, y)
                    costs[q, m] = -2 * layer.class_logits[i, q].softmax(0)[classes[m]] + 5 * bce + 5 * dice
            ((queries, order),) = cheapest_pairs([costs.detach()])
            wanted[i, queries] = classes[order]
            chosen.append(masks[i, queries])
            wanted_masks.append(whole[order])
        chosen, wanted_masks = torch.cat(chosen), torch.cat(wanted_masks)
        weights = torch.tensor([1.0] * num_labels + [0.1], dtype=torch.float64)
        class_loss = F.cross_entropy(layer.class_logits.flatten(0, 1), wanted.flatten(), weights)
        options = {"certainty": nearest_to_zero, "oversample_ratio": 3.0, "importance_ratio": 0.75, "draw": draw}
        points = uncertain_points(chosen.detach()[:, None], loss.num_points, **options)
        x, y = sample_maps(chosen[:, None], points)[:, 0], sample_maps(wanted_masks[:, None], points)[:, 0]
        p = x.sigmoid()
        dice = 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)
        prefix = "" if number == len(layers) - 1 else f"layer_{number}."
        found[prefix + "query_class"] = 2 * class_loss
        found[prefix + "query_mask"] = 5 * F.binary_cross_entropy_with_logits(x, y)
        found[prefix + "query_dice"] = 5 * dice.mean()
    return found


def test_no_whole_masks_are_needed():
    loss = MaskClassificationLoss(num_points=64)
    layers, features = predictions()
    labels = synthesis.labels("parts", [2, 30, 50], 4, 10)
    leaves = [features, *(x for layer in layers for x in (layer.class_logits, layer.mask_embeddings))]
    expected = plain_parts(loss, layers, features, labels, drawing("parts"))
    wanted = torch.autograd.grad(sum(expected.values()), leaves)
    found = loss.parts(layers, features, labels, draw=drawing("parts"))
    assert list(found) == list(expected)
    for name, value in found.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-10), name
    gradients = torch.autograd.grad(sum(found.values()), leaves)
    assert all(relative_error(a, b) < 1e-9 for a, b in zip(gradients, wanted, strict=True))


def test_weight_and_seed():
    layers, features = predictions(dtype=torch.float32)
    labels = synthesis.labels("seeded", [2, 30, 50], 4, 10)
    runs = []
    for weight in (1.0, 1.0, 3.0):
        torch.manual_seed(7)
        runs.append(MaskClassificationLoss(weight=weight, num_points=64).parts(layers, features, labels))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert all(torch.allclose(3 * runs[0][name], runs[2][name]) for name in runs[0])


def test_half_precision_is_taken_in_float32():
    layers, features = predictions(dtype=torch.bfloat16)
    labels = synthesis.labels("half", [2, 30, 50], 4, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = MaskClassificationLoss(num_points=64).parts(layers, features, labels, draw=drawing("half"))
    exact = [QueryPredictions(x.class_logits.double(), x.mask_embeddings.double()) for x in layers]
    expected = MaskClassificationLoss(num_points=64).parts(exact, features.double(), labels, draw=drawing("half"))
    for name, value in found.items():
        assert value.dtype == torch.float32 and value.item() == pytest.approx(expected[name].item(), rel=1e-4)


@pytest.mark.parametrize("ignored", [1, 2])
def test_images_without_labels_teach_no_object_alone(ignored):
    layers, features = predictions(dtype=torch.float32)
    labels = synthesis.labels("empty", [2, 30, 50], 4, 10)
    labels[:ignored] = 255
    found = MaskClassificationLoss(num_points=64).parts(layers, features, labels)
    sum(found.values()).backward()
    assert all(torch.isfinite(value) for value in found.values())
    assert (found["query_mask"].item() == 0.0) == (ignored == 2) and found["query_class"].item() > 0
    # Every parameter of a head has a gradient, or distributed training would wait for it.
    assert all(torch.isfinite(layer.mask_embeddings.grad).all() for layer in layers) and features.grad is not None


def test_more_classes_than_queries():
    layers, features = predictions(queries=3, classes=20)
    labels = torch.arange(20).repeat(2, 30, 2)
    found = MaskClassificationLoss(num_points=64).parts(layers, features, labels)
    assert all(torch.isfinite(value) for value in found.values())


def test_a_diverged_model_says_so_itself():
    layers, features = predictions()
    with torch.no_grad():
        layers[0].mask_embeddings.fill_(torch.nan)
    found = MaskClassificationLoss(num_points=64).parts(layers, features, synthesis.labels("nan", [2, 30, 50], 4, 10))
    assert found["layer_0.query_mask"].isnan()


def test_class_weights_count_by_wanted_class():
    logits, wanted = torch.randn(10, 4, dtype=torch.float64), torch.randint(0, 4, (10,))
    loss = MaskClassificationLoss(class_weights=[1.0, 2.0, 0.5], no_object_weight=0.3)
    weights = torch.tensor([1.0, 2.0, 0.5, 0.3], dtype=torch.float64)
    assert torch.allclose(loss.query_class_loss(logits, wanted), F.cross_entropy(logits, wanted, weights))
    layers, features = predictions()
    with pytest.raises(SegZooError, match="class_weights has 3 entries for 4 classes"):
        loss.parts(layers, features, synthesis.labels("weights", [2, 30, 50], 4, 10))
    assert loss.for_classes(4).class_weights is None and loss.for_classes(4).no_object_weight == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": 0}, "num_points=0 must be a whole number"),
        ({"num_points": 10**12}, "num_points=1000000000000 must be a whole number of at least 1 and at most 1048576"),
        ({"oversample_ratio": 1e9}, "oversample_ratio=1000000000.0 must be"),
        ({"mask_loss_weight": 1e12}, "mask_loss_weight=1000000000000.0 must be"),
        ({"no_object_weight": float("nan")}, "no_object_weight=nan must be"),
        ({"importance_ratio": 1.5}, "importance_ratio"),
        ({"oversample_ratio": 0.5}, "oversample_ratio"),
        ({"dice_cost_weight": -1}, "dice_cost_weight"),
        ({"no_object_weight": "much"}, "no_object_weight"),
        ({"mask_weigth": 2}, "no option 'mask_weigth'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(SegZooError, match=message):
        build_loss({"type": "mask_classification"} | options)


def test_needs_queries():
    with pytest.raises(SegZooError, match="reads queries and their masks, which FCNHeadConfig has not"):
        FCNHeadConfig(losses=[{"type": "mask_classification"}])
    with pytest.raises(SegZooError, match="needs a head with queries"):
        MaskClassificationLoss()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64))


def _process(rank, port, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    layers, features = predictions(layers=1)
    labels = torch.full((2, 30, 50), 255)
    labels[:, :10] = 0
    if rank == 0:
        labels[:, 10:20], labels[:, 20:] = 1, 2  # three masks an image here, one there
    loss = MaskClassificationLoss(num_points=64)
    together = loss.parts(layers, features, labels, draw=drawing("processes"))["query_mask"].item()
    with torch.no_grad():
        alone = loss.parts(layers, features, labels, draw=drawing("processes"))["query_mask"].item()
    results[rank] = torch.tensor([together, alone], dtype=torch.float64)
    torch.distributed.destroy_process_group()


def test_masks_count_against_their_mean_over_the_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = torch.zeros(2, 2, dtype=torch.float64).share_memory_()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_process, args=(rank, port, results)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for rank, masks in enumerate((6, 2)):
        together, alone = results[rank].tolist()
        assert together == pytest.approx(alone * masks / 4, rel=1e-9)
