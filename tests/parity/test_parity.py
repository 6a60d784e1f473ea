"""Converted models compute the same numbers as the original code.

Each record holds config, state-dict keys and outputs of one original model on synthesised weights; here the
same weights go through the conversion, and the logits and losses must be the original's within float64 noise. The keys
of released models are those of `support.key_lists`.
"""

import json
from pathlib import Path

import pytest
import torch
from parity import synthesis
from safetensors.torch import load_file
from support.key_lists import key_list

from segzoo import SegZooForSemanticSegmentation
from segzoo.conversion.translate import translate_config
from segzoo.conversion.weights import match_weights, original_state_dict

RECORDS = sorted((Path(__file__).parent / "records").glob("*.json"), key=lambda path: path.name)

SLOW = (
    "fastfcn_r50-d32_jpu_aspp_512x512_160k_ade20k",  # its neck is that of fastfcn with PSP
    "fcn_hr18s_512x512_160k_ade20k",  # its backbone is that of ocrnet_hr18 with fewer blocks
    "fcn_s101-d8_512x512_160k_ade20k",
    "dpt_vit-b16_512x512_160k_ade20k",
    "fcn_unet_s5-d16_4x4_512x1024_160k_cityscapes",  # its backbone is that of pspnet_unet
    "apcnet_r50-d8_512x512_160k_ade20k",
    "daformer_mitb5_gta2cs_dacs",
    "dlv2_r101v1c-d8_gta2cs_dacs",
    "dmnet_r50-d8_512x512_160k_ade20k",
    "original_segnext.tiny.512x512.ade.160k",  # the parts of segnext_mscan-t with other names
    "segnext_mscan-b_1xb16-adamw-160k_ade20k-512x512",  # its parts are those of segnext_mscan-t
    "knet_s3_upernet_swin-t_8x2_512x512_adamw_80k_ade20k",  # its head is that of knet_s3_fcn, its other parts those of upernet_swin
    "linear_intern_vit_6b_504_80k_ade20k_bs16_lr4e-5_frozen",
    "original_fpn_poolformer_s12_ade20k_40k",  # the same network as mmpretrain's
    "original_upernet_van_b0_512x512_160k_ade20k",
    "pidnet-l_2xb6-120k_1024x1024-cityscapes",
    "pspnet_r50-d8_512x512_160k_ade20k",  # its head is that of pspnet_r18, its backbone that of fcn_r50
    "setr_mla_512x512_160k_b8_ade20k",
    "setr_naive_512x512_160k_b16_ade20k",
    "setr_pup_512x512_160k_b16_ade20k",
    "upernet_intern_vit_6b_504_80k_ade20k_bs16_lr4e-5",
    "upernet_mae-base_fp16_8x2_512x512_160k_ade20k",
    "upernet_r50_512x512_160k_ade20k",  # its head is that of upernet_swin, its backbone that of fcn_r50
)
# Cross-entropies of logits that are compared themselves: they are computed in every run for these two records, with an auxiliary head
# and without one, and for all records by the slow tests. All other losses are computed in every run.
CROSS_ENTROPIES = {"decode.loss_ce", "aux.loss_ce", "__total__"}
ALWAYS_WITH_LOSSES = ("fcn_r50-d8_512x512_160k_ade20k", "erfnet_fcn_4x4_512x1024_160k_cityscapes")
# The original's names -> ours.
HEADS = {"decode": "decode", "aux": "auxiliary"}
LOSSES = {
    "loss_ce": "cross_entropy",
    "loss_seg": "cross_entropy",
    "pointloss_ce": "cross_entropy",
    "loss_se": "presence",
    "loss_dice": "dice",
    "loss_context": "cross_entropy",
    "loss_spatial": "details.cross_entropy",
    "loss_sem_i": "cross_entropy",
    "loss_sem_p": "details.cross_entropy",
    "loss_sem_bd": "boundaries.cross_entropy",
    "loss_bd": "boundary",
}
BRANCHES = {"pam_cam": "", "pam": "position.", "cam": "channel."}  # of DANet's head
STAGES = {"s0": "stage_0.", "s1": "stage_1.", "s2": "stage_2.", "s3": ""}  # of K-Net's head, behind the loss


def convert(path):
    """(record, its tensors, the converted model in float64)."""
    record = json.loads(path.read_text())
    translation = translate_config(record["config"])
    with torch.device("meta"):
        model = SegZooForSemanticSegmentation(translation.config)
    expected = model.state_dict()
    state = synthesis.state_dict(record["keys"] if "keys" in record else key_list(record["name"]))
    prefix = record.get("prefix", "")  # of one of several models in a file
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    if record.get("in_two_files"):  # the backbone's own has no prefix
        state = {key if key.startswith("decode_head.") else f"backbone.{key}": value for key, value in state.items()}
    for *others, last in record.get("shared", []):  # names of one tensor, which the last to be loaded fills
        state |= dict.fromkeys(others, state[last])
    native, match = match_weights(state, translation.components, expected)
    match.raise_for_problems(record["name"])
    assert len(match.renamed) + len(match.left_out) == len(state)
    back = original_state_dict(native, translation.components)
    assert back.keys() == state.keys() - set(match.left_out)
    assert all(torch.equal(back[key], state[key]) for key in back)
    model.load_state_dict(native, assign=True)
    return record, load_file(path.with_suffix(".safetensors")), model.double().eval()


def relative_error(logits, out, tensors):
    assert list(logits.shape) == out["shape"]
    sample = logits[:, :, out["rows"]][..., out["cols"]]
    worst = float((sample - tensors[out["tensor"]].double()).abs().max())
    return max(worst, abs(float(logits.mean()) - out["mean"])) / out["absmax"]


def case_of(path):
    marks = pytest.mark.slow if path.stem in SLOW else ()
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", [case_of(path) for path in RECORDS])
def test_numbers(path):
    record, tensors, model = convert(path)
    for case in record["cases"]:
        pixels = synthesis.image(case["input"], case["shape"]).double()
        with torch.no_grad(), synthesis.draws(case.get("draws")):
            maps, _ = model.forward_maps(pixels)
            logits = model.decode(maps)[-1].logits
            auxiliary = [head(maps).logits for head in model.auxiliary_heads]
        assert relative_error(logits, case["logits"], tensors) < record["tolerance"]
        if "auxiliary" in case:
            assert relative_error(auxiliary[0], case["auxiliary"], tensors) < record["tolerance"]

    if "losses" in record and (path.stem in ALWAYS_WITH_LOSSES or not follows_from_logits(record)):
        check_losses(model, record["losses"])
    if half := [case for case in record["cases"] if "bfloat16" in case]:
        check_bfloat16(model, half, tensors)


@pytest.mark.slow
@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_losses(path):
    record, _, model = convert(path)
    check_losses(model, record["losses"])


def follows_from_logits(record):
    """Whether the losses of a record are plain cross-entropies of logits of which the record has numbers too."""
    losses = record["losses"]
    if losses["values"].keys() - CROSS_ENTROPIES or {"draws", "ignored_become"} & losses.keys():
        return False
    return "aux.loss_ce" not in losses["values"] or any("auxiliary" in case for case in record["cases"])


def check_bfloat16(model, cases, tensors):
    """With the backbone in bfloat16 and the heads in float32 the logits are at most twice as far off as the original's."""
    model.float()
    model.backbone.to(torch.bfloat16)
    if model.neck is not None:
        model.neck.to(torch.bfloat16)
    for case in cases:
        out, allowed = case["logits"], case["bfloat16"]
        with torch.no_grad():
            logits = model(synthesis.image(case["input"], case["shape"])).logits
        assert logits.dtype == torch.float32
        wanted = tensors[out["tensor"]].double()
        wrong = logits[:, :, out["rows"]][..., out["cols"]].double() - wanted
        assert 0 < float(wrong.square().mean().sqrt() / wanted.square().mean().sqrt()) < 2 * allowed["rms"]
        assert float(wrong.abs().max()) / out["absmax"] < 2 * allowed["max"]


def native_loss(name):
    """Our name of a loss: mmsegmentation numbers the heads of a list only, and calls a loss by its option in a config."""
    head, *parts = name.split(".")
    *branch, loss = parts if parts[-1] not in STAGES else parts[::-1]
    kind, _, number = head.partition("_")
    return f"{HEADS[kind]}_{number or 0}.{''.join((BRANCHES | STAGES)[part] for part in branch)}{LOSSES[loss]}"


def check_losses(model, losses):
    batch, _, height, width = losses["input_shape"]
    pixels = synthesis.image(losses["input"], losses["input_shape"]).double()
    labels = synthesis.labels(
        losses["labels"], [batch, height, width], model.config.num_labels, losses["block"], ignore_index=255
    )
    if "draws" in losses:  # of the last head, in training
        model.decode_heads[-1].train().dropout.eval()
    if "ignored_become" in losses:  # where the original cannot train with pixels that do not count
        labels[labels == 255] = losses["ignored_become"]
    with torch.no_grad(), synthesis.draws(losses.get("draws")):
        found = model(pixel_values=pixels, labels=labels)
    wanted = {native_loss(name): value for name, value in losses["values"].items() if name != "__total__"}
    assert {name: float(value) for name, value in found.losses.items()} == pytest.approx(wanted, rel=1e-6)
    assert float(found.loss) == pytest.approx(losses["values"].get("__total__", sum(wanted.values())), rel=1e-6)
