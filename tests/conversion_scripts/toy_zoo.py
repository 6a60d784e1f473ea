"""A zoo of five small checkpoints, one of each system, in the files that the originals write."""

import copy
import dataclasses

import torch
from conversion import test_scene_parsing as scene_parsing
from conversion import tiny
from conversion.pretrained import test_internvit as internvit

from segzoo import zoo

ROWS = {
    "mmsegmentation": "toy-fcn",
    "InternImage": "toy-internimage",
    "ViT-Adapter": "toy-vit-adapter",
    "InternViT-6B": "toy-internvit",
    "CSAIL": "ade20k-mobilenetv2dilated-c1_deepsup",
}


def configs() -> dict[str, dict]:
    """The original configs by name, of the two forks those of their smallest models made smaller."""
    internimage = zoo.original_config("upernet_internimage_t_512_160k_ade20k")
    internimage["model"]["backbone"] |= {"channels": 16, "depths": [1] * 4, "groups": [1, 2, 4, 8]}
    adapter = zoo.original_config("upernet_augreg_adapter_tiny_512_160k_ade20k")
    adapter["model"]["backbone"] |= {"embed_dim": 32, "depth": 4, "num_heads": 2, "deform_num_heads": 2}
    adapter["model"]["backbone"] |= {"conv_inplane": 8, "interaction_indexes": [[i, i] for i in range(4)]}
    adapter["model"]["backbone"] |= {"window_attn": [False] * 4, "window_size": [None] * 4}
    for config, widths in ((internimage, [16, 32, 64, 128]), (adapter, [32] * 4)):
        config["model"]["decode_head"] |= {"in_channels": widths, "channels": 16}
        config["model"]["auxiliary_head"] |= {"in_channels": widths[2], "channels": 8}
    ade20k = {"model__decode_head__num_classes": 150}
    return {
        "toy-fcn": tiny.config(**ade20k) | {"dataset_type": "ADE20KDataset", "reduce_zero_label": True},
        "toy-internimage": internimage,
        "toy-vit-adapter": adapter,
    }


def write(folder) -> dict[str, list]:
    """Write all files; returns those of each name."""
    files = {}
    for name, values in configs().items():
        files[name] = [tiny.save(folder / f"{name}.pth", values, config=None, CLASSES=None)]
    torch.save(internvit.weights(), folder / "intern_vit.pth")
    files["toy-internvit"] = [folder / "intern_vit.pth"]
    keys = scene_parsing.original_keys("mobilenetv2dilated", "c1_deepsup")
    files[ROWS["CSAIL"]] = scene_parsing.save(folder, keys)
    return files


def install(files, address: str, patch) -> None:
    """Make these the rows of the zoo, at addresses below ``address``; ``patch`` sets attributes of modules."""
    rows, original = {}, copy.copy(zoo.rows())
    of_toys = configs() | {ROWS["CSAIL"]: scene_parsing.config("mobilenetv2dilated", "c1_deepsup")}
    for system, name in ROWS.items():
        urls = [f"{address}/{file.name}" for file in files[name]]
        example = original.get(name) or next(row for row in original.values() if row.system == system)
        changes = {"name": name, "url": urls[0], "aliases": (), "pretrained": system == "InternViT-6B"}
        if len(urls) == 2:
            changes["decoder_url"] = urls[1]
        nothing = {"sha256": None, "size_bytes": None, "decoder_sha256": None, "decoder_size_bytes": None}
        rows[name] = dataclasses.replace(example, **(nothing | changes))
    patch(zoo, "rows", lambda: rows)
    patch(zoo, "_aliases", lambda: {name: name for name in rows})
    patch(zoo, "original_config", lambda name: copy.deepcopy(of_toys.get(name)))
