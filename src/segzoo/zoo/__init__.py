"""The released checkpoints as data: what each is called, where it came from, what it scored, and its config.

``rows.json`` has one line for each released checkpoint, ``configs.json`` what a bare state dict lacks: the original
model config and test pipeline.  Both hold facts of the publishers' pages and configs; nothing here is computed.
"""

from __future__ import annotations

import copy
import difflib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from segzoo.errors import SegZooError


@dataclass(frozen=True, kw_only=True)
class System:
    """Where a family of checkpoints comes from.

    Args:
        title: its name for people.
        url: its source repository.
        licence_code: SPDX name of the repository's licence.
        licence_weights: SPDX name where the weights are published under one of their own, else None.
    """

    title: str
    url: str
    licence_code: str
    licence_weights: str | None = None


SYSTEMS = {
    "mmsegmentation": System(
        title="mmsegmentation", url="https://github.com/open-mmlab/mmsegmentation", licence_code="Apache-2.0"
    ),
    "InternImage": System(
        title="InternImage",
        url="https://github.com/OpenGVLab/InternImage",
        licence_code="MIT",
        licence_weights="MIT",
    ),
}


@dataclass(frozen=True, kw_only=True)
class ZooRow:
    """One released checkpoint.

    Args:
        name: the zoo name.
        system: key of :data:`SYSTEMS`.
        method, backbone, dataset: as the publisher names them.
        aliases: the original file names without their endings, where they differ from ``name``.
        crop: [height, width] of the training crops, in pixels.
        iterations: length of the training.
        miou, miou_ms: published mean IoU in percent, on one scale, and with several scales and flips.
        parameters: number of weights, auxiliary heads included; published figures are rounded.
        flops: published multiply-adds x 2 at the publisher's input size, or None.
        recipe: name of the training recipe in `segzoo.training.recipes`, or None where it is not known.
        url: where the checkpoint is, or None.
    """

    name: str
    system: str
    method: str
    backbone: str
    dataset: str
    aliases: tuple[str, ...] = ()
    crop: tuple[int, int] | None = None
    iterations: int | None = None
    miou: float | None = None
    miou_ms: float | None = None
    parameters: int | None = None
    flops: int | None = None
    recipe: str | None = None
    url: str | None = None

    @property
    def licence_code(self) -> str:
        """SPDX name of the licence of the original code."""
        return SYSTEMS[self.system].licence_code

    @property
    def licence_weights(self) -> str | None:
        """SPDX name of the licence of the weights, or None where the publisher states none."""
        return SYSTEMS[self.system].licence_weights


def _read(name: str) -> Any:
    return json.loads(resources.files(__name__).joinpath(name).read_text(encoding="utf-8"))


@cache
def rows() -> dict[str, ZooRow]:
    """All rows by zoo name."""
    table = {}
    for entry in _read("rows.json"):
        crop = entry.get("crop")
        entry |= {"aliases": tuple(entry.get("aliases", ())), "crop": None if crop is None else tuple(crop)}
        table[entry["name"]] = ZooRow(**entry)
    return table


@cache
def _aliases() -> dict[str, str]:
    return {key: row.name for row in rows().values() for key in (row.name, *row.aliases)}


def lookup(name: str) -> ZooRow | None:
    """The row with this zoo name or alias, or None."""
    found = _aliases().get(name)
    return None if found is None else rows()[found]


def find(name: str) -> ZooRow:
    """The row with this zoo name or alias.

    Raises:
        SegZooError: there is none; the message suggests the nearest names.
    """
    row = lookup(name)
    if row is None:
        plain = {key.lower(): key for key in _aliases()}
        near = difflib.get_close_matches(name.lower(), plain, n=3, cutoff=0.5)
        if not near:
            near = sorted(key for key in plain if name.lower() in key)[:3]
        hint = f"; the nearest are {', '.join(_aliases()[plain[key]] for key in near)}" if near else ""
        raise SegZooError(f"the zoo has no checkpoint named {name!r}{hint} (segzoo list shows all names)")
    return row


@cache
def _configs() -> dict[str, Any]:
    return _read("configs.json")


def original_config(name: str) -> dict[str, Any] | None:
    """The original config of a row: ``model``, ``dataset_type``, ``test_pipeline``; None where the zoo has none.

    Args:
        name: the zoo name, not an alias.
    """
    stored = _configs()["configs"].get(name)
    if stored is None:
        return None
    parts = _configs()["parts"]
    model = dict(stored["model"])
    for kind in ("backbone", "neck", "decode_head", "auxiliary_head"):
        if kind in stored:
            model[kind] = parts[kind][stored[kind]]
    config = {
        "model": model,
        "dataset_type": stored["dataset_type"],
        "reduce_zero_label": stored.get("reduce_zero_label", False),
        "test_pipeline": parts["test_pipeline"][stored["test_pipeline"]],
    }
    return copy.deepcopy(config)
