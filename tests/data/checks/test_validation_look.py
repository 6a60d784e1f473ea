import multiprocessing
import os
import signal
import time

import numpy as np
import psutil
import pytest

from segzoo import SegZooError
from segzoo.data.checks import validation_look
from segzoo.data.checks.label_ids import LabelRule
from segzoo.data.checks.validation_look import ValidationLook


class Rows(list):
    """Rows of which each takes a while to be read."""

    seconds = 0.0

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return super().__getitem__(index)


def rows_of(count, bad=(), seconds=0.0):
    picture = np.zeros((4, 4, 3), np.uint8)
    masks = [np.full((4, 4), 9 if index in bad else 1, np.uint8) for index in range(count)]
    rows = Rows(
        {"image": picture, "label": mask, "image_path": f"{i}.png", "label_path": f"{i}-mask.png"}
        for i, mask in enumerate(masks)
    )
    rows.seconds = seconds
    return rows


RULE = LabelRule(3)


def wait_for(look):
    deadline = time.monotonic() + 120
    while (problem := look.problem()) is None and look._process is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return problem


def test_all_pairs_of_a_small_set_are_looked_at_first():
    look = ValidationLook(rows_of(5), RULE)
    assert look.first() == []
    with look:
        assert look._process is None and look.problem() is None
    with pytest.raises(
        SegZooError, match=r"^3-mask\.png: label ids outside 0..2.* \(1 more of the 5 validation pairs"
    ):
        ValidationLook(rows_of(5, bad=(3, 4)), RULE).first()
    assert ValidationLook(rows_of(5, bad=(3,)), RULE, enabled=False).first() == []


def test_the_rest_follows_in_a_process(monkeypatch):
    monkeypatch.setattr(validation_look, "FIRST_PAIRS", 4)
    look = ValidationLook(rows_of(20, bad=(17,)), RULE)
    assert look.first(pairs=4) == ["4 of 20 validation pairs are looked at; the others follow during training"]
    with look:
        assert wait_for(look).startswith("17-mask.png: label ids outside 0..2")
        assert look.problem() is not None and look._process is None
    look = ValidationLook(rows_of(20), RULE)
    look.first(pairs=4)
    with look:
        assert wait_for(look) is None and look._process is None


def test_it_keeps_to_the_time_and_ends_at_once():
    look = ValidationLook(rows_of(100, seconds=0.5), RULE)
    start = time.monotonic()
    assert look.first(seconds=0.2) and look.done < 50  # all of them take 50 seconds
    with look:
        assert look.problem() is None
        process = look._process
    assert time.monotonic() - start < 40 and not process.is_alive()


def test_it_ends_with_its_training():
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def training():
        look = ValidationLook(rows_of(600, seconds=0.1), RULE)
        with look:
            sender.send(look._process.pid)
            os.kill(os.getpid(), signal.SIGKILL)

    parent = context.Process(target=training)
    parent.start()
    number = receiver.recv()
    parent.join()
    deadline = time.monotonic() + 120
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)
