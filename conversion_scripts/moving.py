"""What a move of checkpoints is given: its settings, the room on the disk that its steps share, and the licences."""

from __future__ import annotations

import argparse
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segzoo import zoo
from segzoo.errors import SegZooError
from segzoo.progress import say

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Settings:
    """What the arguments say.

    Args:
        work: folder for downloads, conversions and the log.
        namespace: user or organisation on the Hub.
        licences: SPDX name of the weights' licence by system.
        private: whether new repositories and collections are private.
        collections: whether each system gets a collection.
        attempts: how often an upload is tried.
        pause: seconds before the second attempt, doubled before each further one.
    """

    work: Path
    namespace: str
    licences: dict[str, str]
    private: bool
    collections: bool
    attempts: int
    pause: float


@dataclass
class Disk:
    """Bytes that downloads and conversions may use together; `take` waits until its part is free.

    Args:
        limit: number of bytes.
    """

    limit: int
    used: int = 0
    closed: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, size: int) -> None:
        """Wait for ``size`` bytes, and count them as used.

        Raises:
            SegZooError: the limit is smaller than that.
        """
        if size > self.limit:
            raise SegZooError(
                f"needs {size / 1e9:.2f} GB, of its download and its conversion, and --disk is {self.limit / 1e9:.2f} GB; "
                "give more"
            )
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self.used + size <= self.limit)
            if self.closed:
                raise SegZooError("the move was stopped")
            self.used += size

    def close(self) -> None:
        """Let nobody wait any longer: `take` fails from now on."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def give_back(self, size: int) -> None:
        """Count ``size`` bytes as free again."""
        with self._changed:
            self.used -= size
            self._changed.notify_all()


def agreed_licences(rows: Sequence[zoo.ZooRow], given: Sequence[str]) -> dict[str, str]:
    """The licences of ``--licence SYSTEM=SPDX``, after they were compared with the publishers'.

    Raises:
        SegZooError: one is missing, is for no system, or is not what the publisher states.
    """
    licences = {}
    for text in given:
        system, _, licence = text.partition("=")
        if system not in zoo.SYSTEMS or not licence:
            raise SegZooError(f"--licence {text}: give SYSTEM=SPDX, with one of {', '.join(zoo.SYSTEMS)}")
        licences[system] = licence
    for name in dict.fromkeys(row.system for row in rows):
        system = zoo.SYSTEMS[name]
        stated = system.licence_weights or "not stated by the publisher"
        say(f"{name}: code {system.licence_code or 'not stated'}, weights {stated} ({system.url})", stream=sys.stderr)
        if name not in licences:
            raise SegZooError(
                f"under which licence are the weights of {name} passed on? Give --licence {name}=SPDX; "
                f"its code is {system.licence_code or 'without a licence'}, the licence of its weights is {stated}"
            )
        if system.licence_weights is not None and licences[name].lower() != system.licence_weights.lower():
            raise SegZooError(f"--licence {name}={licences[name]}: the publisher states {system.licence_weights}")
    return licences


def state_licence(card: Path, licence: str) -> None:
    """Write the licence of the weights into the metadata of a model card."""
    from huggingface_hub import ModelCard

    from segzoo.files import write_whole

    content = ModelCard.load(card)
    content.data["license"] = licence.lower()
    write_whole(card, str(content))


def size_in_bytes(text: str) -> int:
    """``"50GB"`` as a number of bytes; KB, MB, GB and TB are powers of 1000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B)?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 50GB")
    return int(float(match[1]) * UNITS[match[2] or ""])
